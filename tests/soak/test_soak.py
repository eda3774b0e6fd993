"""The soak's own plan, truth and limits: that they see what they are there to see. The soak itself is `make soak`."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak import gauge, plan, truth
from tests.soak.gauge import Row, Sample
from tests.soak.plan import BACK, CAUGHT_UP, FAILING, OUTAGE, QUARTERS, WARM, Window
from tests.soak.truth import Passed


@given(st.integers(0, 1_000), st.floats(0.1, 600), st.integers(2, 200))
def test_one_org_in_twenty_fails_for_ever_and_each_other_is_back_within_its_stretch(seed: int, minutes: float, orgs: int) -> None:
    made = plan.make(seed, minutes, orgs)
    assert len(made.failing_orgs) == max(1, round(orgs * 0.05))
    assert made.back_at.keys() | made.failing_orgs.keys() == set(range(orgs))
    assert not made.back_at.keys() & made.failing_orgs.keys()
    assert all(made.seconds - made.back <= at <= made.seconds for at in made.back_at.values())
    assert made.seconds == pytest.approx(minutes * 60)


@given(st.floats(0.1, 600))
def test_windows_follow_each_other_without_a_gap(minutes: float) -> None:
    made = plan.make(1, minutes, 40)
    windows = list(made.windows())
    assert windows[0].start == 0
    assert windows[-1].end == pytest.approx(made.seconds)
    assert all(late.start == pytest.approx(early.end) for early, late in itertools.pairwise(windows))


def test_the_long_form_has_ten_minutes_of_outage() -> None:
    assert plan.make(1, 60, 40).outage == 600
    assert plan.make(1, 50, 40).outage == 600


def _passed(*ids: str, outcome: str = "") -> list[Passed]:
    return [Passed("w", "s", "ada@acme.example", id, outcome) for id in ids]


def test_what_passed_once_and_in_order_differs_in_nothing() -> None:
    assert truth.of_log({"w": 2}, _passed("1", "2"), _passed("1", "2", outcome="emitted"), 0) == []


@pytest.mark.parametrize("went", [("1",), ("2", "1"), ("1", "1", "2"), ("1", "2", "1", "2"), ("1", "2", "3"), ()])
def test_lost_twice_and_out_of_order_are_told(went: tuple[str, ...]) -> None:
    assert truth.of_log({"w": 2}, _passed("1", "2"), _passed(*went, outcome="emitted"), 0)


def test_lost_at_the_door_refused_and_dead_letters_are_told() -> None:
    (lost,) = truth.of_log({"w": 3}, _passed("1", "2"), _passed("1", "2", outcome="emitted"), 0)
    (refused,) = truth.of_log({"w": 1}, _passed("1"), _passed("1", outcome="rejected"), 0)
    (dead,) = truth.of_log({"w": 1}, _passed("1"), _passed("1", outcome="emitted"), 1)
    assert [lost.where, refused.where, dead.where] == ["received", "synced", "dead-letters"]


def _lead(*titles: str, id: str = "00Q1", email: str = "ada@acme.example") -> dict[str, Any]:
    return {"Id": id, "Email": email, "history": [{"changes": {"Title": [None, title]}} for title in titles]}


ADA = {"ada@acme.example": ["v1", "v2"]}
JOINED: Sequence[Mapping[str, Any]] = [{"LeadId": "00Q1"}]


def test_an_org_as_told_differs_in_nothing() -> None:
    assert truth.of_org("acme", ADA, [_lead("v1", "v2")], JOINED) == []
    assert truth.of_org("acme", ADA, [_lead("v2")], JOINED) == [], "two of a person's events may be written at once"


@pytest.mark.parametrize(
    ("leads", "members"),
    [
        ([], []),
        ([_lead("v1", "v2"), _lead("v1", "v2", id="00Q2")], JOINED),
        ([_lead("v1")], JOINED),
        ([_lead("v2", "v1")], JOINED),
        ([_lead("v1", "v2", "v1", "v2")], JOINED),
        ([_lead("v1", "v3", "v2")], JOINED),
        ([_lead("v1", "v2")], []),
        ([_lead("v1", "v2")], [*JOINED, *JOINED]),
        ([_lead("v1", "v2"), _lead("v9", id="00Q3", email="nobody@acme.example")], JOINED),
    ],
)
def test_what_an_org_should_not_hold_is_told(leads: list[dict[str, Any]], members: Sequence[Mapping[str, Any]]) -> None:
    assert truth.of_org("acme", ADA, leads, members)


def test_a_window_counts_what_lies_in_it() -> None:
    samples = [Sample(100.0 + at, {"match": 80.0 + at}, {"match": float(at)}, at * 1.5, at * 2.0) for at in range(21)]
    found = gauge.row(
        Window(FAILING, 0, 0.0, 10.0), 100.0, [99_999, 100_000, 109_999, 110_000], [(100_500, 0.5), (109_000, 1.5), (110_000, 9.0)], samples
    )
    assert (found.came, found.synced, found.delay_seconds) == (0.2, 0.2, 1.0)
    assert found.mib == {"match": 89.0}
    assert found.machine == 0.75
    assert found.cpu_ms == pytest.approx(1000 * 9 / (2 * 0.9))


def _rows(synced: float = 30.0, mib: float = 80.0) -> list[Row]:
    counts = {WARM: 1, FAILING: QUARTERS, OUTAGE: QUARTERS, BACK: QUARTERS, CAUGHT_UP: 1}
    return [
        Row(stretch, number, 10.0, 30.0, synced, 1.0, 5.0, {"match": mib}) for stretch, count in counts.items() for number in range(count)
    ]


def test_flat_keeps_every_limit() -> None:
    assert all(limit.met for limit in gauge.limits(_rows()))


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (QUARTERS, {"synced": 26.0}),
        (QUARTERS, {"mib": {"match": 105.0}}),
        (QUARTERS + 2, {"mib": {"match": 153.0}}),
        (-1, {"mib": {"match": 153.0}}),
        (2, {"mib": {"match": 201.0}}),
    ],
)
def test_what_is_not_flat_passes_a_limit(place: int, change: dict[str, Any]) -> None:
    """Less throughput, or more memory, beside failing orgs; more memory in the outage or when it is over; too much at any time."""
    rows = _rows()
    rows[place] = dataclasses.replace(rows[place], **change)
    assert not all(limit.met for limit in gauge.limits(rows))
