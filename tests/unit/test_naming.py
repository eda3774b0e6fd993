"""How a session's Campaign is called, when it is, and how it stands."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.tables import EventRow, SessionRow
from stages import naming

STANDING = [naming.PLANNED, naming.IN_PROGRESS, naming.COMPLETED, naming.ABORTED]


def session(**changes: Any) -> SessionRow:
    told: dict[str, Any] = {
        "id": "S1",
        "workspace": "acme",
        "event": "E1",
        "status": "upcoming",
        "estimated_started_at": 1793507400,
    } | changes
    return SessionRow(**told)


def event(title: str = "Autumn review") -> EventRow:
    return EventRow(id="E1", title=title)


def test_the_date_is_the_sessions_own_whatever_the_clocks_do_in_between() -> None:
    """The session is made in summer time; on its day the offset is another one, and in UTC it is the next day already."""
    title = naming.title(session(timezone="America/Los_Angeles"), event())
    assert title.name == "Autumn review - 2026-10-31 21:30 America/Los_Angeles"
    assert title.date == "2026-10-31"


def test_a_session_on_demand_has_no_date_in_its_name() -> None:
    title = naming.title(session(status="on_demand", estimated_started_at=0), event())
    assert (title.name, title.date) == ("Autumn review - On demand", "")


def test_an_unknown_time_zone_is_told_as_utc() -> None:
    assert naming.title(session(timezone="Mars/Olympus"), event()).name == "Autumn review - 2026-11-01 04:30 UTC"
    assert naming.title(session(timezone="../etc/passwd"), event()).name.endswith(" UTC")


@given(st.text(max_size=300), st.sampled_from(["Europe/Paris", "America/Argentina/ComodRivadavia", "UTC"]), st.integers(1, 4_000_000_000))
def test_a_long_title_is_cut_and_the_date_never(title: str, zone: str, begins: int) -> None:
    name = naming.title(session(timezone=zone, estimated_started_at=begins), event(title)).name
    assert len(name) <= 80
    assert name.endswith(f" {zone}")
    assert " - " in name
    assert not name.startswith(" ")
    day = name.rpartition(" - ")[2].split()[0]
    assert len(day) == 10


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"status": "upcoming"}, "Planned"), ({"status": "live"}, "In Progress"), ({"started_at": 1793507400}, "In Progress"),
        ({"status": "past", "started_at": 1, "ended_at": 2}, "Completed"), ({"ended_at": 2}, "Completed"), ({"status": "canceled"}, "Aborted"),
        ({"canceled_at": 1, "ended_at": 2}, "Aborted"), ({"status": "on_demand"}, "In Progress"),
        ({"status": "on_demand", "started_at": 1, "ended_at": 2}, "In Progress"), ({"status": "past_not_started"}, "Planned"),
    ],
)  # fmt: skip
def test_the_status_follows_the_session(row: dict[str, Any], expected: str) -> None:
    assert naming.status(session(**row)) == expected


@given(st.lists(st.sampled_from(STANDING), max_size=12))
def test_a_campaigns_status_never_goes_back_for_any_order_of_events(wanted: list[str]) -> None:
    order = {naming.PLANNED: 0, naming.IN_PROGRESS: 1, naming.COMPLETED: 2, naming.ABORTED: 2}
    held, before = "", -1
    for status in wanted:
        if naming.advances(held, status):
            held = status
        assert order[held] >= before
        before = order[held]


def test_a_status_that_an_admin_made_is_left_alone() -> None:
    assert not naming.advances("Waiting for the boss", naming.COMPLETED)
    assert naming.advances("planned ", naming.COMPLETED)
    assert naming.advances(None, naming.PLANNED)


def test_the_mark_is_found_behind_what_people_wrote_before_it() -> None:
    assert naming.is_marked(f"Our best one.\n{naming.mark('S1')}\n", "S1")
    assert not naming.is_marked(naming.mark("S12"), "S1")
    assert not naming.is_marked(naming.mark("S1"), "S12")
    assert not naming.is_marked(None, "S1")


def test_the_digest_tells_names_and_dates_apart() -> None:
    title = naming.title(session(), event())
    assert title.digest() == naming.digest(title.name, title.date)
    assert title.digest() != naming.digest(title.name, "2026-01-01")
