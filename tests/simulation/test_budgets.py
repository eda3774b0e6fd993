"""Few large messages are as bounded as many small ones, and what is given back to the log is not begun anew: in simulated time, with production's bounds."""

import asyncio
import dataclasses
import itertools
from collections.abc import Sequence

import msgspec
import pytest

from pipeline.messages import Message
from pipeline.outcomes import Batch, Block, Emit, Out, Outcome, Retry, Row, Wait
from pipeline.records import Outgoing
from pipeline.stage import Limits
from schemas.messages import Cause
from tests.engine.place import told
from tests.simulation.room import Room, Running, each, simulated

LIMITS = Limits()
ABSENT = Cause(code="no_row", message="It is not there yet.")
LOCKED = Cause(code="row_locked", message="Somebody else holds it.")
REFUSED = Cause(code="refused", message="Not this one.")


def large(numbers: range, size: int) -> list[Outgoing]:
    """Messages of the org `big`, all with one body, so that only the worker counts their bytes."""
    body = b"x" * size
    return [msgspec.structs.replace(told(n, org="big"), value=body) for n in numbers]


def numbered(message: Message, *rows: Row) -> Outcome:
    return Emit((Out("out", message.id.encode()),), rows=rows)


def bytes_of(running: Running) -> int:
    return running.worker._dispatcher.held_bytes


@pytest.mark.parametrize(("count", "size"), [(400, 250_000), (6_000, 12_500)])
def test_large_messages_that_wait_keep_out_neither_another_org_nor_what_they_wait_for(count: int, size: int) -> None:
    """Rule 3: more than memory holds wait for a row that the last message of all brings."""

    async def test(room: Room) -> None:
        most = 0

        def decide(message: Message) -> Outcome:
            nonlocal most
            most = max(most, bytes_of(running))
            if message.kind == "company":
                return numbered(message, Row("rows", "account", b"made"))
            if message.org == "big" and running.tables["rows"].get("account") is None:
                return Wait("rows", "account", None, ABSENT)
            return numbered(message)

        running = await room.enter(each(decide), LIMITS)
        room.send(large(range(count), size))
        room.send([told(n, org="calm") for n in range(count, count + 50)])
        await room.until(lambda: len(room.numbers()) == 50, 60)
        # Messages that are read one by one, each after those before it: what waits has taken no place for good.
        for n in range(count + 50, count + 60):
            room.send([told(n, org="calm")])
            await room.until(lambda n=n: n in room.numbers(), 10)  # type: ignore[misc]
        assert running.worker._dispatcher._tally.resting_bytes < LIMITS.org_resting_bytes + 2 * size
        room.send([told(count + 60, org="big", kind="company", key="company:big")])
        await room.until(lambda: len(room.numbers()) == count + 61)
        assert sorted(room.numbers()) == list(range(count + 61)), "each once"
        assert most < LIMITS.total_bytes // 2

    simulated(test)


@pytest.mark.parametrize(("count", "size"), [(400, 250_000), (6_000, 12_500)])
def test_large_messages_that_are_queued_for_a_slow_org_hold_up_neither_another_nor_their_company(count: int, size: int) -> None:
    """Rules 2 and 3: more than memory holds, while nothing of their org ends. The company message that came last is not passed over for them."""

    async def test(room: Room) -> None:
        shut = asyncio.Event()
        called: list[str] = []

        async def step(batch: Batch) -> Sequence[Outcome]:
            if batch.org == "big":
                await shut.wait()
            called.extend(message.id for message in batch.messages)
            return [numbered(message) for message in batch.messages]

        running = await room.enter(step, dataclasses.replace(LIMITS, step_seconds=3_600))
        room.send(large(range(count), size))
        room.send([told(n, org="calm") for n in range(count, count + 50)])
        room.send([told(count + 50, org="big", kind="company", key="company:big")])
        await room.until(lambda: len(room.numbers()) == 50, 60)
        await room.until(lambda: "org:big" in running.lanes())
        assert running.lanes()["org:big"].state == "busy"
        assert LIMITS.org_bytes // 2 < bytes_of(running) < LIMITS.org_bytes + 2 * size
        shut.set()
        await room.until(lambda: len(room.numbers()) == count + 51)
        assert sorted(room.numbers()) == list(range(count + 51)), "each once"
        assert called.index(str(count + 50)) <= 50 + (LIMITS.org_bytes // size) + 1
        large_ones = [int(id) for id in called if int(id) < count]
        assert large_ones == sorted(large_ones)

    simulated(test)


def test_a_company_message_that_comes_just_when_its_org_has_its_share_is_taken() -> None:
    """Rule 3: no lane lags by then, since nobody was passed over before."""

    async def test(room: Room) -> None:
        shut = asyncio.Event()

        async def step(batch: Batch) -> Sequence[Outcome]:
            await shut.wait()
            return [numbered(message) for message in batch.messages]

        running = await room.enter(step, LIMITS)
        room.send(large(range(2), LIMITS.org_bytes // 2))
        room.send([told(2, org="big", kind="company", key="company:big")])
        await room.pass_by(20)
        assert running.worker._dispatcher.held == 3
        assert running.lanes() == {}
        room.send(large(range(3, 4), 1))
        await room.until(lambda: "org:big" in running.lanes())
        shut.set()
        await room.until(lambda: len(room.numbers()) == 4)

    simulated(test)


def test_one_message_that_is_larger_than_any_orgs_share_goes_alone() -> None:
    """It is tried again and waits like any other."""

    async def test(room: Room) -> None:
        sides: list[int] = []
        tried: set[str] = set()

        async def step(batch: Batch) -> Sequence[Outcome]:
            sides.append(len(batch.messages))
            await room.pass_by(1)
            again = [message.id for message in batch.messages if message.id not in tried]
            tried.update(again)
            return [Retry(5.0, LOCKED) if message.id in again else numbered(message) for message in batch.messages]

        await room.enter(step, LIMITS)
        room.send(large(range(4), LIMITS.org_bytes + 1))
        await room.until(lambda: len(room.numbers()) == 4, 120)
        assert sorted(room.numbers()) == list(range(4))
        assert sides == [1] * 8

    simulated(test)


# -- what was given back --------------------------------------------------------------------------------

NO_REST = dataclasses.replace(LIMITS, resting_messages=1, org_resting_messages=0)
"""Whatever would rest is given back to the log."""


def test_tries_end_also_for_what_is_given_back_between_them() -> None:
    """Rule 1: a bounded number, then the dead letters; who comes behind it follows."""

    async def test(room: Room) -> None:
        runs: list[str] = []

        def decide(message: Message) -> Outcome:
            runs.append(message.id)
            return Retry(1.0, REFUSED) if message.id in ("3", "7") else numbered(message)

        running = await room.enter(each(decide), NO_REST)
        room.send([told(n, key="same@acme" if n in (3, 13) else "") for n in range(20)])
        await room.until(lambda: len(room.letters()) == 2 and len(room.numbers()) == 18, 120)
        assert {(letter.offset, letter.tries, letter.causes[0].code) for letter in room.letters()} == {(3, 6, "refused"), (7, 6, "refused")}
        assert (runs.count("3"), runs.count("7"), len(runs)) == (LIMITS.tries, LIMITS.tries, 18 + 2 * LIMITS.tries)
        assert room.numbers()[-1] == 13
        await room.until(lambda: room.committed() == 20 and not running.lanes())
        assert not running.worker._dispatcher._past, "nothing is kept of what is finished"

    simulated(test)


def test_tries_go_on_where_they_were_after_the_org_was_down() -> None:
    """Rule 1: what rested in memory is given back with its org, and remembers how often it was tried."""

    async def test(room: Room) -> None:
        down = False
        tries: list[int] = []

        def decide(message: Message) -> Outcome:
            if down:
                return Block("org:acme", REFUSED)
            if message.id != "0":
                return numbered(message)
            tries.append(message.tries)
            return Retry(10.0, REFUSED)

        await room.enter(each(decide), LIMITS)
        room.send([told(0)])
        await room.until(lambda: len(tries) == 3)
        down = True
        room.send([told(1)])
        await room.pass_by(60)
        assert len(tries) == 3
        down = False
        await room.until(lambda: len(room.letters()) == 1)
        assert tries == list(range(LIMITS.tries))
        assert room.numbers() == [1]

    simulated(test)


def test_a_wait_ends_at_its_longest_though_it_is_given_back_and_taken_again() -> None:
    """Rule 3: the row that it waits for changes every ten seconds and is never the right one, while an earlier message of another org hangs."""

    async def test(room: Room) -> None:
        shut = asyncio.Event()

        async def step(batch: Batch) -> Sequence[Outcome]:
            if batch.org == "hung":
                await shut.wait()
                return [numbered(message) for message in batch.messages]
            seen = running.tables["rows"].get("row")
            await room.pass_by(3)
            return [Wait("rows", "row", seen, ABSENT, longest_seconds=60.0) for _ in batch.messages]

        running = await room.enter(step, dataclasses.replace(NO_REST, step_seconds=3_600))
        room.send([told(0, org="hung"), told(1)])
        begun = room.now
        for turn in itertools.count():
            await room.pass_by(10)
            if room.letters():
                break
            assert room.now - begun < 90
            room.send([Outgoing("rows", b"row", b"%d" % turn)])
        assert [(letter.offset, letter.causes[0].code) for letter in room.letters()] == [(1, "no_row")]
        shut.set()
        await room.until(lambda: room.committed() == 2)

    simulated(test)


def test_tries_are_no_part_of_a_wait() -> None:
    """Rule 3: what was tried for longer than a wait may last, and waits then, waits for the whole of it."""

    async def test(room: Room) -> None:
        runs: list[float] = []

        def decide(message: Message) -> Outcome:
            runs.append(room.now)
            return Retry(30.0, LOCKED) if len(runs) < 4 else Wait("rows", "row", None, ABSENT, longest_seconds=60.0)

        await room.enter(each(decide), NO_REST)
        room.send([told(0)])
        await room.until(lambda: len(room.letters()) == 1)
        assert 60 <= room.now - runs[3] < 65

    simulated(test)


def test_who_blocks_its_own_lane_alone_is_tried_at_once_when_its_org_is_mended() -> None:
    """Rule 13: a check that succeeds, or settings that change, say so."""

    async def test(room: Room) -> None:
        mended = False
        decided = each(lambda message: numbered(message) if mended else Block(message.lanes[-1], REFUSED, 1_800.0))
        running = await room.enter(decided, NO_REST)
        room.send([told(0)])
        await room.until(lambda: len(running.lanes()) == 1)
        await room.pass_by(60)
        mended = True
        running.worker.nudge("org:bolt")
        await room.pass_by(60)
        assert room.numbers() == []
        running.worker.nudge("org:acme")
        await room.until(lambda: room.numbers() == [0], 5)

    simulated(test)


def test_who_blocks_its_own_lane_alone_is_tried_ever_more_seldom_and_is_no_dead_letter_for_it() -> None:
    """Rules 1 and 13: up to a minute apart; blocks are no tries."""

    async def test(room: Room) -> None:
        runs: list[float] = []
        mended = False

        def decide(message: Message) -> Outcome:
            runs.append(room.now)
            if mended:
                return Retry(1.0, LOCKED) if len(runs) < tries_end else numbered(message)
            return Block(message.lanes[-1], REFUSED)

        await room.enter(each(decide), LIMITS)
        room.send([told(0)])
        await room.pass_by(3_600)
        gaps = [after - before for before, after in itertools.pairwise(runs)]
        assert 60 <= len(runs) <= 130
        assert max(gaps) <= 61
        tries_end = len(runs) + LIMITS.tries
        mended = True
        await room.until(lambda: room.numbers() == [0], 300)
        assert room.letters() == []

    simulated(test)
