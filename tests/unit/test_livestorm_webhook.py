"""From a raw body to the record of `received`."""

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.settings import Livestorm, Workspace
from stages.livestorm import room, webhook

ORGANIZATION = "0a1b"
WORKSPACE = Workspace(id="acme", org="acme-prod", livestorm=Livestorm(organization_id=ORGANIZATION, webhook_secret="x"))
SIGNED_MS, RECEIVED_MS = 1_793_000_000_000, 1_793_000_001_000


def person(event: str = "people.registered", **changes: Any) -> dict[str, Any]:
    attributes = {
        "role": "participant",
        "updated_at": 1_792_999_990,
        "first_name": "Ana",
        "last_name": "Núñez",
        "email": " Ana@Mill.Example ",
        "registrant_detail": {
            "event_id": "E1",
            "session_id": "S1",
            "updated_at": 1_792_999_995,
            "fields": [{"id": "email", "type": "text", "value": "ana@mill.example"}, {"id": "company", "value": "Acme"}],
            "password_key": "let-me-in",
            "connection_link": "https://app.livestorm.co/p/room?key=let-me-in",
        },
        **changes,
    }
    return {
        "data": {
            "id": "p1",
            "type": "people",
            "attributes": attributes,
            "meta": {"webhook": {"event": event, "organization_id": ORGANIZATION}},
        }
    }


def take(body: Any) -> webhook.Taken | webhook.Unknown | webhook.Unreadable:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return webhook.take(WORKSPACE, raw, signed_at=SIGNED_MS, received_at=RECEIVED_MS)


def taken(body: Any) -> webhook.Taken:
    result = take(body)
    assert isinstance(result, webhook.Taken), result
    return result


def refused(body: Any) -> webhook.Unreadable:
    result = take(body)
    assert isinstance(result, webhook.Unreadable), result
    return result


def test_a_registration_is_keyed_by_the_canonical_email() -> None:
    registration = taken(person())
    assert registration.key == "ana@mill.example"
    assert (registration.kind, registration.session, registration.event) == ("registration", "S1", "E1")
    assert registration.happened_at == 1_792_999_995_000
    received = registration.received
    assert (received.workspace, received.org, received.trigger) == ("acme", "acme-prod", "people.registered")
    assert (received.signed_at, received.received_at) == (SIGNED_MS, RECEIVED_MS)


def test_the_secrets_of_the_room_are_dropped_at_any_depth() -> None:
    body = person()
    body["data"]["attributes"]["deep"] = [{"password_key": "let-me-in", "kept": 1}]
    stored = bytes(taken(body).received.body)
    assert b"let-me-in" not in stored
    assert b"password_key" not in stored
    assert b"connection_link" not in stored
    assert msgspec.json.decode(stored)["data"]["attributes"]["deep"] == [{"kept": 1}]


def test_secrets_are_found_under_escaped_names() -> None:
    raw = msgspec.json.encode(person()).replace(b'"password_key"', b'"pass\\u0077ord_key"')
    assert b"let-me-in" not in bytes(taken(raw).received.body)


def test_a_body_without_secrets_is_kept_byte_by_byte() -> None:
    body = person()
    del body["data"]["attributes"]["registrant_detail"]["password_key"]
    del body["data"]["attributes"]["registrant_detail"]["connection_link"]
    raw = msgspec.json.format(msgspec.json.encode(body), indent=3).replace(b"Ana", b"An\\u0061")
    assert bytes(taken(raw).received.body) == raw


@pytest.mark.parametrize("value", [None, "", "   ", "n/a", 5, ["a@b.example"], "a@b", "@b.example", "a b@c.example"])
def test_without_an_address_the_key_is_the_person(value: object) -> None:
    body = person(email=value)
    body["data"]["attributes"]["registrant_detail"]["fields"] = []
    assert taken(body).key == "person:p1"


def test_without_the_key_email_the_key_is_the_person() -> None:
    body = person()
    del body["data"]["attributes"]["email"]
    body["data"]["attributes"]["registrant_detail"]["fields"] = None
    assert taken(body).key == "person:p1"


def test_an_address_that_is_only_in_the_answers_is_the_key() -> None:
    body = person(email=None)
    body["data"]["attributes"]["registrant_detail"]["fields"] = [{"id": "email", "value": "Only@Fields.Example"}]
    assert taken(body).key == "only@fields.example"


@pytest.mark.parametrize(
    "address", ["siobhan.o'keefe@harbour.example", "100%off@mill.example", "jörg..weiss@fluss.example", "a+b@c.d.example"]
)
def test_whether_an_odd_address_is_good_is_for_the_org_to_say(address: str) -> None:
    assert taken(person(email=address)).key == address


@pytest.mark.parametrize(
    ("event", "kind", "key", "session", "event_id"),
    [
        ("session.created", "session", "session:x1", "x1", "E9"),
        ("session.started", "session", "session:x1", "x1", "E9"),
        ("session.ended", "session", "session:x1", "x1", "E9"),
        ("event.created", "event", "event:x1", "", "x1"),
        ("event.published", "event", "event:x1", "", "x1"),
    ],
)
def test_sessions_and_events_have_keys_of_their_own(event: str, kind: str, key: str, session: str, event_id: str) -> None:
    meta = {"webhook": {"event": event, "organization_id": ORGANIZATION}}
    result = taken({"data": {"id": "x1", "attributes": {"event_id": "E9", "status": "upcoming", "title": "T"}, "meta": meta}})
    assert (result.kind, result.key, result.session, result.event) == (kind, key, session, event_id)


def test_meta_is_taken_from_inside_data_and_from_the_top_level() -> None:
    inside = person()
    outside = copy.deepcopy(inside)
    outside["meta"] = outside["data"].pop("meta")
    both = copy.deepcopy(inside)
    both["meta"] = {"webhook": {"event": "people.attended", "organization_id": "other"}}
    assert {taken(body).received.trigger for body in (inside, outside, both)} == {"people.registered"}


def test_without_meta_it_is_a_dead_letter_that_says_so() -> None:
    body = person()
    del body["data"]["meta"]
    assert refused(body).cause.code == "no_event_named"
    body["data"]["meta"] = {"webhook": None}
    assert refused(body).cause.code == "no_event_named"


def test_another_workspaces_organization_is_a_dead_letter() -> None:
    body = person()
    body["data"]["meta"]["webhook"]["organization_id"] = "ffff"
    letter = refused(body)
    assert letter.cause.code == "other_workspace"
    assert b"let-me-in" not in letter.body


def test_an_event_that_nobody_knows_is_told_apart() -> None:
    result = take(person("people.sneezed"))
    assert isinstance(result, webhook.Unknown)
    assert result.trigger == "people.sneezed"
    assert result.key == "people:p1"


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"id": "p1", "attributes": None},
        {"id": 5, "type": "polls", "attributes": {}},
        {"id": None, "type": 7, "attributes": []},
        {"id": "p1", "type": "polls"},
    ],
)
@pytest.mark.parametrize("event", ["polls.closed", "people.unregistered"])
def test_of_an_event_that_nobody_knows_nothing_else_has_to_be_right(event: str, data: Any) -> None:
    meta = {"webhook": {"event": event, "organization_id": ORGANIZATION}}
    bodies = [{"data": data, "meta": meta}] + ([{"data": {**data, "meta": meta}}] if data is not None else [])
    for body in bodies:
        result = take(body)
        assert isinstance(result, webhook.Unknown), result
        assert (result.trigger, result.id != "", result.key != "") == (event, True, True)


def test_latin_1_is_a_dead_letter_that_names_the_position() -> None:
    raw = b'{"data":{"first_name":"J\xfcrgen","password_key":"let-me-in"}}'
    letter = refused(raw)
    assert letter.cause.code == "not_utf8"
    assert f"position {raw.index(0xFC)}" in letter.cause.message
    assert letter.body == b'{"data":{"first_name":"J\xfcrgen","password_key":"***"}}'


@pytest.mark.parametrize("raw", [b"", b"null!", b"{", b'{"data":', b"[" * 100_000, b'{"a":1e999}', b"\xef\xbb\xbf{"])
def test_what_is_not_json_is_a_dead_letter_with_the_bytes_as_they_came(raw: bytes) -> None:
    letter = refused(raw)
    assert letter.cause.code == "not_json"
    assert letter.body == raw


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"A\ud83d", "A\ufffd"),
        (r"\uD83D\ude00", "😀"),
        (r"\ud83d\ud83d\ude00", "\ufffd😀"),
        (r"\ude00A", "\ufffdA"),
        (r"\\ud83d", r"\ud83d"),
        (r"\\\ud83d", "\\\ufffd"),
        (r"\ud83d\\ude00", "\ufffd\\ude00"),
        (r"\ud83d\n\udbff", "\ufffd\n\ufffd"),
    ],
)
@pytest.mark.parametrize("secrets", [True, False])
def test_half_a_character_costs_that_character_and_not_the_person(written: str, read: str, secrets: bool) -> None:
    """JavaScript sends it of a text that was cut inside an emoji."""
    body = person(first_name="HALF")
    if not secrets:
        del body["data"]["attributes"]["registrant_detail"]["password_key"]
        del body["data"]["attributes"]["registrant_detail"]["connection_link"]
    told = taken(msgspec.json.encode(body).replace(b"HALF", written.encode()))
    assert told.key == "ana@mill.example"
    assert msgspec.json.decode(told.received.body)["data"]["attributes"]["first_name"] == read


def test_half_a_character_in_a_body_that_is_refused_is_kept_as_it_came() -> None:
    raw = rb'{"data":{"id":5,"attributes":{"x":"\ud83d"}}}'
    letter = refused(raw)
    assert (letter.cause.code, letter.body) == ("unexpected_shape", raw)
    broken = rb'{"data":{"first_name":"\ud83d"'
    letter = refused(broken)
    assert (letter.cause.code, letter.body) == ("not_json", broken)


@given(st.text(st.characters(categories=["Cs", "Lu", "So"]) | st.sampled_from('\\"/ud83d'), max_size=12))
def test_whatever_javascript_escapes_is_read_as_it_was_but_for_halves_of_characters(text: str) -> None:
    told = taken(msgspec.json.encode(person(first_name="HALF")).replace(b'"HALF"', json.dumps(text).encode()))
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert msgspec.json.decode(told.received.body)["data"]["attributes"]["first_name"].replace("\ufffd", "") == whole.replace("\ufffd", "")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ([], "$"),
        ({}, "$"),
        ({"data": None}, "$.data"),
        ({"data": {"id": 5, "attributes": {}}}, "$.data.id"),
        ({"data": {"id": "p1", "attributes": []}}, "$.data.attributes"),
        ({"data": {"id": " \u0000", "attributes": {}, "meta": person("event.created")["data"]["meta"]}}, "$.data.id"),
        (person(registrant_detail=[]), "$.data.attributes.registrant_detail"),
        (person(registrant_detail={"session_id": 7}), "$.data.attributes.registrant_detail.session_id"),
    ],
)
def test_another_shape_is_a_dead_letter_with_the_path(body: Any, path: str) -> None:
    letter = refused(body)
    assert letter.cause.code == "unexpected_shape"
    assert letter.cause.fields == (path,)


def test_numbers_may_come_as_text_or_with_a_point() -> None:
    body = person(updated_at="1792507400", created_at=1792507400.0, extra={"new": [1]}, replay_view_detail={})
    body["data"]["attributes"]["registrant_detail"] |= {"updated_at": 1792507400.0, "attendance_duration": "1800", "is_new": None}
    assert taken(body).happened_at == 1_792_507_400_000


def test_a_byte_order_mark_is_passed_over() -> None:
    assert taken(b"\xef\xbb\xbf" + msgspec.json.encode(person())).key == "ana@mill.example"


def test_the_id_is_the_same_for_a_repeat_and_another_for_another_change() -> None:
    first, again = taken(person()).received.id, taken(person()).received.id
    later = person()
    later["data"]["attributes"]["registrant_detail"]["updated_at"] += 1
    other_session = person()
    other_session["data"]["attributes"]["registrant_detail"]["session_id"] = "S2"
    ids = {first, taken(later).received.id, taken(other_session).received.id, taken(person("people.attended")).received.id}
    assert first == again
    assert len(ids) == 4


def test_a_replay_happened_when_it_was_watched() -> None:
    assert taken(person("people.watched_replay", replay_view_detail={"watched_at": "1793000100"})).happened_at == 1_793_000_100_000
    assert taken(person("people.watched_replay", replay_view_detail=None)).happened_at == SIGNED_MS


@pytest.mark.parametrize(
    "odd",
    ["nan", "inf", "-inf", 1e300, -(10**15), SIGNED_MS, 9_999_999_999, SIGNED_MS // 1000 + 301, "", True, "2026-11-01T04:30:00Z", {}, []],
)
@pytest.mark.parametrize("event", webhook.HOOKS)
def test_a_time_that_is_no_moment_counts_as_not_told(event: str, odd: Any) -> None:
    """Milliseconds among them, and what lies after the webhook was signed. The body is taken all the same: it was signed rightly."""
    told = taken(
        person(event, updated_at=odd, registrant_detail={"session_id": "S1", "updated_at": odd}, replay_view_detail={"watched_at": odd})
    )
    assert told.happened_at == SIGNED_MS


@pytest.mark.parametrize(
    ("own", "registered", "then"), [(9_999_999_999, 1_792_999_990, 1_792_999_990), (SIGNED_MS // 1000 + 300, 5, SIGNED_MS // 1000 + 300)]
)
def test_of_a_time_that_lies_ahead_the_next_best_one_counts(own: int, registered: int, then: int) -> None:
    """As far ahead as a signature may be, a clock may be wrong."""
    assert taken(person(updated_at=registered, registrant_detail={"session_id": "S1", "updated_at": own})).happened_at == then * 1000


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text() | st.sampled_from(sorted(room.SECRETS)), below, max_size=4),
    max_leaves=20,
)


@given(JSON | st.binary())
def test_no_body_makes_it_raise_and_no_secret_gets_through(body: Any) -> None:
    result = take(body)
    assert isinstance(result, webhook.Unreadable)
    if not isinstance(body, bytes):
        assert not room.strip(msgspec.json.decode(result.body))


@given(JSON, st.sampled_from(webhook.HOOKS))
def test_no_attributes_make_it_raise(attributes: Any, event: str) -> None:
    result = take({"data": {"id": "p1", "attributes": attributes, "meta": {"webhook": {"event": event, "organization_id": ORGANIZATION}}}})
    assert not isinstance(result, webhook.Unknown)
