"""Reading a person: never a blank, never an exception, and every attribute is documented."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.livestorm import Person
from schemas.tables import EventRow, SessionRow
from stages.livestorm import attributes, sessions

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8) | st.just("id"), below, max_size=3),
    max_leaves=8,
)
DETAIL_KEYS = sorted(attributes.MAPPABLE | {"fields"})


@given(st.dictionaries(st.sampled_from(DETAIL_KEYS), JSON), st.dictionaries(st.sampled_from(DETAIL_KEYS), JSON), st.booleans())
def test_whatever_a_person_holds_reading_it_gives_values_or_says_what_was_left_out(
    told: dict[str, Any], detail: dict[str, Any], engaged: bool
) -> None:
    detail = {name: value for name, value in detail.items() if name not in ("session_id", "event_id")}
    person = msgspec.convert({**told, "registrant_detail": detail}, Person, strict=False)
    values, left_out = attributes.read(person, "p1", "ana@mill.example", engaged=engaged)
    assert values["email"] == "ana@mill.example"
    for value in values.values():
        assert value is not None
        assert not (isinstance(value, str) and not value.strip())
        assert all(isinstance(item, str) for item in (value if isinstance(value, list) else []))
    assert all(path.startswith("$.data.attributes.") and reason for path, reason in left_out.items())
    msgspec.json.encode(values)


@given(st.text())
def test_an_address_is_canonical_or_none(text: str) -> None:
    address = attributes.plausible_address(text)
    assert address is None or attributes.plausible_address(address) == address


@pytest.mark.parametrize("address", ["a@b.example", "A@B.Example ", "o'keefe@harbour.example", "üñï@dömäin.example", "a+b.c@x.y.z.example"])
def test_plausible_addresses(address: str) -> None:
    assert attributes.plausible_address(address) == address.strip().lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "n/a",
        "none",
        "@",
        "a@",
        "@b.example",
        "a@b",
        "a@@b.example",
        "a b@c.example",
        "a@b..example",
        "a@b.example.",
        "a\n@b.example",
        "x" * 400 + "@b.example",
    ],
)
def test_what_is_no_address(text: str) -> None:
    assert attributes.plausible_address(text) is None


@pytest.mark.parametrize(
    ("value", "kept"),
    [("x", "x"), ("", None), ("  ", None), (None, None), (0, 0), (True, True), (1.5, 1.5), ([], None), (["", "a", 2], ["a", "2"])],
)
def test_an_answer_is_kept_as_it_came_unless_it_is_blank(value: Any, kept: Any) -> None:
    person = msgspec.convert({"registrant_detail": {"fields": [{"id": "custom", "value": value}]}}, Person)
    values, left_out = attributes.read(person, "p1", "ana@mill.example", engaged=True)
    assert values.get("custom") == kept
    assert left_out == {}


def test_of_doubles_the_last_that_is_not_blank_counts() -> None:
    fields = [{"id": "city", "value": "Brest"}, {"id": "city", "value": "Lyon"}, {"id": "city", "value": " "}]
    values, _ = attributes.read(msgspec.convert({"registrant_detail": {"fields": fields}}, Person), "p1", "a@b.example", engaged=True)
    assert values["city"] == "Lyon"


def test_a_persons_own_name_wins_over_the_answers_and_answers_over_what_was_measured() -> None:
    fields = [{"id": "first_name", "value": "Answer"}, {"id": "last_name", "value": "Answer"}, {"id": "utm_source", "value": "asked"}]
    person = msgspec.convert({"first_name": "Own", "registrant_detail": {"fields": fields, "utm_source": "measured"}}, Person)
    values, _ = attributes.read(person, "p1", "a@b.example", engaged=True)
    assert (values["first_name"], values["last_name"], values["utm_source"]) == ("Own", "Answer", "asked")


@pytest.mark.parametrize(
    ("raw", "read"), [("yes", True), ("TRUE", True), (1, True), ("0", False), (False, False), (None, False), ("maybe", False), ([], False)]
)
def test_flags_are_read_leniently(raw: Any, read: bool) -> None:
    assert attributes.is_true(raw) is read


def test_every_attribute_that_turnout_gives_is_named_and_documented() -> None:
    detail = {
        **dict.fromkeys(("referrer", "utm_source", "utm_medium", "utm_term", "utm_content", "utm_campaign", "browser_name", "os_name"), "x"),
        **dict.fromkeys(("ip_city", "ip_country_code", "ip_country_name", "registration_type"), "x"),
        **dict.fromkeys(("attended", "has_viewed_replay", "is_highlighted"), True),
        "attendance_rate": 50, "attendance_duration": 90, "created_at": 5,
    }  # fmt: skip
    told = {
        **dict.fromkeys(("messages_count", "questions_count", "votes_count", "up_votes_count"), 1),
        "first_name": "A", "last_name": "B", "timezone": "UTC", "replay_view_detail": {"watched_at": 5}, "registrant_detail": detail,
    }  # fmt: skip
    values, _ = attributes.read(msgspec.convert(told, Person), "p1", "a@b.example", engaged=True)
    row = SessionRow(id="S1", workspace="w", event="E1", status="past", name="n", started_at=1, ended_at=2)
    given = set(values) | set(sessions.context(row, EventRow(id="E1", title="t", language="en")))
    assert given == attributes.MAPPABLE
    page = (Path(__file__).parents[2] / "docs" / "livestorm.md").read_text()
    assert {name for name in attributes.MAPPABLE if f"`{name}`" not in page} == set()
