"""Which lanes are blocked, and when each may be tried: pure, with a clock that the test moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.board import Board, Probing
from schemas.messages import Cause

DOWN = Cause(code="org_down", message="The org does not answer.")
ORG, WORKSPACE, SESSION = "org:acme", "org:acme/workspace:emea", "org:acme/workspace:emea/session:1"
LANES = (ORG, WORKSPACE, SESSION)
PROBING = Probing()


class Watch:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def board(watch: Watch) -> Board:
    return Board(watch, lambda: 0.999, PROBING)


def passed(board: Board, lanes: tuple[str, ...] = LANES, most: int = 1_000) -> int:
    """How many messages of these lanes go, one after the other, until one may not."""
    return next((count for count in range(most) if board.stops(lanes) is not None), most)


def test_what_is_not_blocked_stops_nobody(board: Board) -> None:
    board.block("org:other", DOWN, None)
    assert passed(board) == 1_000


def test_the_widest_that_stops_is_named(board: Board) -> None:
    board.block(SESSION, DOWN, None)
    board.block(ORG, DOWN, None)
    stopped = board.stops(LANES)
    assert stopped is not None
    assert stopped.lane == ORG


def test_a_lane_is_open_only_when_every_wider_one_is(board: Board, watch: Watch) -> None:
    board.block(WORKSPACE, DOWN, None)
    board.block(ORG, DOWN, 500.0)
    watch.now += 100
    assert board.is_open((WORKSPACE,))
    assert not board.is_open(LANES)
    watch.now += 400
    assert board.is_open(LANES)


def test_a_probe_is_one_batch_and_then_its_answer_is_awaited(board: Board, watch: Watch) -> None:
    """Whatever reader asks: the sweep, live reading and replays of all partitions draw on the same probe."""
    board.block(ORG, DOWN, None)
    assert passed(board) == 0
    watch.now += 2
    assert passed(board) == PROBING.messages
    watch.now += PROBING.answer_seconds - 1
    assert passed(board) == 0


def test_a_probe_whose_answer_never_comes_is_renewed(board: Board, watch: Watch) -> None:
    """Its partition went to another worker."""
    board.block(ORG, DOWN, None)
    watch.now += 2
    assert passed(board) == PROBING.messages
    assert passed(board) == 0
    watch.now += PROBING.answer_seconds
    assert passed(board) == PROBING.messages


def test_many_messages_of_one_batch_that_say_the_same_count_once(board: Board) -> None:
    assert board.block(ORG, DOWN, None)
    first = board.blocked[ORG].next_try
    assert not any(board.block(ORG, DOWN, None) for _ in range(200))
    assert (board.blocked[ORG].attempt, board.blocked[ORG].next_try) == (1, first)


def test_a_lane_that_blocks_again_soon_goes_on_with_its_back_off_and_one_that_stayed_well_begins_anew(board: Board, watch: Watch) -> None:
    """Hysteresis: one good probe is no recovery."""
    board.block(ORG, DOWN, None)
    for _ in range(4):
        watch.now = board.blocked[ORG].next_try
        assert passed(board) > 0
        board.block(ORG, DOWN, None)
    assert board.blocked[ORG].attempt == 5
    assert board.well(LANES) == [ORG]
    watch.now += PROBING.well_seconds - 1
    board.block(ORG, DOWN, None)
    assert board.blocked[ORG].attempt == 6
    board.well(LANES)
    watch.now += PROBING.well_seconds
    board.block(ORG, DOWN, None)
    assert board.blocked[ORG].attempt == 1


def test_a_mend_lets_what_lies_at_or_below_it_be_tried_at_once(board: Board) -> None:
    board.block(ORG, DOWN, 3_600.0)
    board.block("org:acme-2", DOWN, 3_600.0)
    board.block(SESSION, DOWN, 3_600.0)
    board.nudge(WORKSPACE)
    assert board.is_open((SESSION,))
    assert not board.is_open((ORG,))
    board.nudge(ORG)
    assert board.is_open(LANES)
    assert not board.is_open(("org:acme-2",)), "another org whose name begins alike"


@given(at_least=st.none() | st.integers(0, 900), draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40))
def test_a_blocked_lane_is_tried_at_least_once_a_minute_or_when_the_org_allows_it(at_least: int | None, draws: list[float]) -> None:
    """For any jitter and any number of failures in a row; never sooner than half the first wait."""
    watch, numbers = Watch(), iter(draws)
    board = Board(watch, lambda: next(numbers), PROBING)
    for _ in draws:
        began = watch.now
        board.block(ORG, DOWN, at_least)
        wait = board.blocked[ORG].next_try - began
        assert max(PROBING.first_seconds / 2, at_least or 0) - 1e-6 <= wait <= max(PROBING.longest_seconds, at_least or 0) + 1e-6
        watch.now = board.blocked[ORG].next_try
        assert passed(board) == PROBING.messages
