"""What a refused record means: leave a field out, look again, reject it, or stop the lane."""

import pytest

from pipeline.messages import Message, headers
from pipeline.outcomes import Block, Retry
from pipeline.records import Record
from schemas.messages import SCHEMA
from stages import refusals
from stages.refusals import RUN, Runs
from stages.salesforce.causes import classify
from stages.salesforce.door import Trouble

SENT = {"LastName": "B", "MailingCountry": "Deutschland", "MailingState": "Hessen", "Region__c": "X"}
PICKLIST = classify("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", "Region: bad value for restricted picklist field: X", ("Region__c",))
COUNTRY = classify("FIELD_INTEGRITY_EXCEPTION", "There's a problem with this country", ("MailingCountry",))
RULE = classify("FIELD_CUSTOM_VALIDATION_EXCEPTION", "No competitors")
LAST_NAME = classify("REQUIRED_FIELD_MISSING", "Required fields are missing: [LastName]", ("LastName",))


def test_an_optional_field_that_is_refused_is_left_out_with_the_orgs_words() -> None:
    left = refusals.leave_out([PICKLIST], SENT)
    assert left == {"Region__c": "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST: Region: bad value for restricted picklist field: X"}


def test_a_state_is_left_out_with_its_country() -> None:
    assert set(refusals.leave_out([COUNTRY], SENT) or {}) == {"MailingCountry", "MailingState"}


def test_a_country_that_is_refused_without_naming_the_field_is_still_found() -> None:
    nameless = classify("FIELD_INTEGRITY_EXCEPTION", "There's a problem with this country")
    assert set(refusals.leave_out([nameless], SENT) or {}) == {"MailingCountry", "MailingState"}


@pytest.mark.parametrize("trouble", [RULE, LAST_NAME])
def test_a_rule_or_a_required_field_is_not_mended_by_leaving_out(trouble: Trouble) -> None:
    assert refusals.leave_out([trouble], SENT) is None
    assert refusals.leave_out([PICKLIST, trouble], SENT) is None


def test_a_field_that_was_not_sent_can_not_be_left_out() -> None:
    assert refusals.leave_out([PICKLIST], {"LastName": "B"}) is None


def test_of_several_reasons_the_one_that_waiting_does_not_mend_counts() -> None:
    gone = classify("ENTITY_IS_DELETED", "entity is deleted")
    locked = classify("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access")
    assert refusals.kind([gone]) == "look"
    assert refusals.kind([gone, locked]) == "transient"
    assert refusals.kind([gone, locked, RULE]) == "record"


LEADS = ("acme", "Lead", True)


def test_one_rule_that_refuses_nearly_all_of_a_run_stops_the_lane() -> None:
    runs, batch = Runs(), [(RULE,)] * RUN
    runs.note(LEADS, batch)
    assert runs.hits_nearly_all(LEADS, (RULE,), batch)


def test_a_rule_that_refuses_some_is_each_records_own() -> None:
    runs, batch = Runs(), [(RULE,), ()] * RUN
    runs.note(LEADS, batch)
    assert not runs.hits_nearly_all(LEADS, (RULE,), batch)


def test_few_refusals_are_no_run_yet() -> None:
    runs, batch = Runs(), [(RULE,)] * 5
    runs.note(LEADS, batch)
    assert not runs.hits_nearly_all(LEADS, (RULE,), batch)


def test_once_mended_a_batch_that_passes_ends_the_run() -> None:
    runs = Runs()
    runs.note(LEADS, [(RULE,)] * RUN)
    batch = [(), (), (), (RULE,)]
    runs.note(LEADS, batch)
    assert not runs.hits_nearly_all(LEADS, (RULE,), batch)


def test_addresses_that_are_refused_never_stop_a_lane() -> None:
    """Not the org's own rule: a list of bad addresses is a list of bad addresses."""
    bad = classify("INVALID_EMAIL_ADDRESS", "Email: invalid email address: x", ("Email",))
    runs, batch = Runs(), [(bad,)] * RUN
    runs.note(LEADS, batch)
    assert not runs.hits_nearly_all(LEADS, (bad,), batch)


@pytest.mark.parametrize("code", ["UNKNOWN_EXCEPTION", "REQUEST_RUNNING_TOO_LONG"])
def test_a_transient_trouble_that_hits_nearly_all_stops_the_lane_and_one_that_hits_some_is_a_try(code: str) -> None:
    trouble = (classify(code, "later"),)
    blocked = refusals.outcome(trouble, message(), "org:acme", hits_nearly_all=True)
    assert isinstance(blocked, Block)
    assert blocked.lane == "org:acme"
    tried = refusals.outcome(trouble, message(), "org:acme", hits_nearly_all=False)
    assert isinstance(tried, Retry)
    assert not tried.free


def test_a_lock_never_stops_a_lane_since_it_is_never_counted() -> None:
    locked = (classify("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access"),)
    tried = refusals.outcome(locked, message(), "org:acme", hits_nearly_all=True)
    assert isinstance(tried, Retry)
    assert tried.free


def test_a_records_own_fault_has_no_outcome_but_its_own() -> None:
    assert refusals.outcome((RULE,), message(), "org:acme", hits_nearly_all=False) is None


def message() -> Message:
    told = headers(
        id="m1", kind="registration", workspace="w", org="acme", session="s", event="e", happened_at=0, received_at=0, schema=SCHEMA
    )  # fmt: skip
    return Message(Record("resolved", 0, 0, 0, b"a@x.example", b"", told))
