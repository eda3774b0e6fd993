"""Which event may overwrite: the later one; and what a worker remembers of what it did."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import Cause
from stages.recency import Recall, datetime_text, milliseconds, only_fills, retried

US, OTHER = "005000000000001AAA", "005000000000002AAA"
NOON = 1_780_000_000_000


def old(**changes: Any) -> bool:
    told: dict[str, Any] = {
        "happened_at": NOON, "replay": None, "remembered": False, "event_time_field": None,
        "record": {"LastModifiedById": US, "LastModifiedDate": datetime_text(NOON)},
    } | changes  # fmt: skip
    return only_fills(**({"edited_at": Recall().edited_at(KEY, told["record"], US)} | told))


def changed(by: str, ms: int, **more: Any) -> dict[str, Any]:
    return {"LastModifiedById": by, "LastModifiedDate": datetime_text(ms).replace("Z", ".000+0000"), **more}


@pytest.mark.parametrize("field", [None, "Event_Time__c"])
def test_what_someone_set_by_hand_since_stays(field: str | None) -> None:
    assert old(record=changed(OTHER, NOON + 60_000), event_time_field=field)
    assert not old(record=changed(OTHER, NOON - 60_000), event_time_field=field)


def test_a_change_of_our_own_does_not_count_as_made_by_hand() -> None:
    assert not old(record=changed(US, NOON + 60_000))


def test_a_change_by_hand_is_remembered_though_one_of_our_own_hides_it() -> None:
    recall = Recall()
    assert recall.edited_at(KEY, changed(US, NOON), US) == 0
    assert recall.edited_at(KEY, changed(OTHER, NOON + 60_000), US) == NOON + 60_000
    assert recall.edited_at(KEY, changed(US, NOON + 90_000), US) == NOON + 60_000
    assert old(record=changed(US, NOON + 90_000), edited_at=NOON + 60_000)


def test_without_a_time_field_a_replayed_event_only_fills() -> None:
    assert old(replay="r1")
    assert not old(replay="r1", event_time_field="Event_Time__c")


@pytest.mark.parametrize("by", [US, OTHER])
def test_what_was_refused_overwrites_only_where_nothing_changed_the_record_since(by: str) -> None:
    """A later event that came through meanwhile has set it, or someone by hand."""
    refused_at = NOON + 600_000
    assert not old(replay=retried(refused_at, refused_at + 1), happened_at=refused_at - 1000, record=changed(by, refused_at - 60_000))
    assert old(replay=retried(refused_at, refused_at + 1), record=changed(by, refused_at + 60_000))
    assert old(replay=retried(refused_at, refused_at + 1), record=changed(by, refused_at)), (
        "clocks differ, and Salesforce's knows whole seconds only"
    )


def test_letters_that_are_retried_together_follow_each_other() -> None:
    """What the one before has set just now does not stand in the way; what was set after that does."""
    refused_at = NOON + 600_000
    assert not old(replay=retried(refused_at, refused_at + 1), record=changed(US, NOON + 900_000), overwrote_at=NOON + 900_500)
    assert old(replay=retried(refused_at, refused_at + 1), record=changed(US, NOON + 960_000), overwrote_at=NOON + 900_500)


def test_what_an_event_only_filled_is_not_taken_for_its_own() -> None:
    recall = Recall()
    recall.applied(KEY, NOON, "one", overwrote_at=NOON + 5)
    assert recall.overwrote_at(KEY) == NOON + 5
    recall.applied(KEY, NOON + 1, "two")
    assert recall.overwrote_at(KEY) == 0


def test_with_a_time_field_only_a_later_event_overwrites() -> None:
    for ms, expected in ((NOON - 1000, False), (NOON, True), (NOON + 1000, True)):
        assert old(record=changed(US, NOON, Event_Time__c=datetime_text(ms)), event_time_field="Event_Time__c") is expected


def test_a_remembered_event_only_fills() -> None:
    assert old(remembered=True)


@given(st.integers(min_value=0, max_value=4_102_444_800_000))
def test_times_go_to_salesforce_and_back_in_whole_seconds(ms: int) -> None:
    assert milliseconds(datetime_text(ms)) == ms // 1000 * 1000


@pytest.mark.parametrize("text", [None, "", "soon", 12, "2026-13-01"])
def test_what_is_no_time_is_none(text: Any) -> None:
    assert milliseconds(text) is None


KEY = ("org", "a@b.example")


def test_repeats_and_older_events_are_known() -> None:
    recall = Recall()
    recall.applied(KEY, NOON, "one")
    assert recall.is_past(KEY, NOON, "one")
    assert recall.is_past(KEY, NOON - 1, "older")
    assert not recall.is_past(KEY, NOON, "another of the same moment")
    assert not recall.is_past(KEY, NOON + 1, "later")
    assert not recall.is_past(("other", "a@b.example"), NOON, "one")


def test_what_was_forgotten_counts_as_written_to() -> None:
    recall = Recall(size=2)
    recall.writes(KEY, 100)
    assert recall.wrote_since(KEY, 100)
    assert not recall.wrote_since(KEY, 101)
    for place in range(3):
        recall.writes(("org", str(place)), 10)
    assert recall.wrote_since(KEY, 100)
    assert not recall.wrote_since(KEY, 101)


def test_a_lost_answer_is_told_once() -> None:
    recall = Recall()
    recall.lost(KEY, Cause(code="timeout", message=""))
    assert recall.is_lost(KEY)
    assert [cause.code for cause in recall.found(KEY)] == ["timeout"]
    assert recall.found(KEY) == ()
    assert not recall.is_lost(KEY)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=40))
def test_no_event_counts_as_new_twice(events: list[tuple[int, int]]) -> None:
    """For any order of events, each is new at most once."""
    recall = Recall()
    new = []
    for moment, number in events:
        if not recall.is_past(KEY, moment, f"{moment}-{number}"):
            new.append((moment, number))
        recall.applied(KEY, moment, f"{moment}-{number}")
    assert len(new) == len(set(new))
    assert [moment for moment, _ in new] == sorted(moment for moment, _ in new)
