"""What of an attribute goes to a field: what fits, what differs, what is left out."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import Value
from schemas.settings import FieldRule
from stages import mapping
from stages.salesforce.door import Describe, Field


def field(name: str, kind: str = "string", length: int = 40, **changes: Any) -> Field:
    told: dict[str, Any] = {
        "createable": True, "updateable": True, "nillable": True, "filterable": True, "defaulted_on_create": False, "unique": False,
        "external_id": False, "case_sensitive": False, "restricted_picklist": False, "picklist_values": (),
    } | changes  # fmt: skip
    return Field(name=name, type=kind, length=length, **told)


def lead(*fields: Field) -> Describe:
    return Describe("Lead", True, True, {one.name.lower(): one for one in fields})


def rules(**sources: str) -> dict[str, FieldRule]:
    return {name: FieldRule(source=source) for name, source in sources.items()}


BLANKS: list[Value] = [None, "", "  ", "\t\n", [], ["", " "], "\x00", " \x1f\x7f ", ["\x00", " \x00 "]]


@pytest.mark.parametrize("blank", BLANKS)
def test_a_blank_never_overwrites_nor_is_sent(blank: Value) -> None:
    describe = lead(field("Title"))
    for draft in (
        mapping.for_new(rules(Title="job_title"), {"job_title": blank}, describe),
        mapping.for_existing(rules(Title="job_title"), {"job_title": blank}, describe, {"Title": "CTO"}, only_fill=False),
    ):
        assert draft.values == {}


def test_an_attribute_that_was_not_asked_for_changes_nothing() -> None:
    assert mapping.for_existing(rules(Title="job_title"), {}, lead(field("Title")), {"Title": "CTO"}, only_fill=False).values == {}


@pytest.mark.parametrize("held", ["jane@firma.example", "JANE@Firma.Example", "  jane@firma.example "])
def test_what_differs_by_case_or_outer_blanks_only_is_not_written(held: str) -> None:
    draft = mapping.for_existing(rules(X="x"), {"x": "Jane@firma.example"}, lead(field("X")), {"X": held}, only_fill=False)
    assert draft.values == {}


def test_a_value_that_differs_is_written() -> None:
    draft = mapping.for_existing(rules(Title="t"), {"t": "CEO"}, lead(field("Title")), {"Title": "CTO"}, only_fill=False)
    assert draft.values == {"Title": "CEO"}


def test_an_old_event_fills_what_is_empty_and_overwrites_nothing() -> None:
    draft = mapping.for_existing(
        rules(Title="t", City="c"),
        {"t": "CEO", "c": "Bern"},
        lead(field("Title"), field("City")),
        {"Title": "CTO", "City": None},
        only_fill=True,
    )
    assert draft.values == {"City": "Bern"}


@pytest.mark.parametrize(
    ("write", "held", "expected"),
    [("always", "old", {"F": "new"}), ("if-empty", "old", {}), ("if-empty", None, {"F": "new"}), ("on-create", None, {})],
)
def test_write_modes_on_a_record_that_is_there(write: Any, held: Value, expected: dict[str, Value]) -> None:
    rule = {"F": FieldRule(source="a", write=write)}
    assert mapping.for_existing(rule, {"a": "new"}, lead(field("F")), {"F": held}, only_fill=False).values == expected


@pytest.mark.parametrize("write", ["always", "if-empty", "on-create"])
def test_every_write_mode_writes_on_creation(write: Any) -> None:
    assert mapping.for_new({"F": FieldRule(source="a", write=write)}, {"a": "new"}, lead(field("F"))).values == {"F": "new"}


@pytest.mark.parametrize("kind", ["string", "textarea", "phone", "picklist"])
def test_control_characters_are_left_out_of_texts_and_line_breaks_are_not(kind: str) -> None:
    assert mapping.fit(field("F", kind), "\x00Ada\x08 \x1fBerg\r\nKiel\t2\x7f ") == ("Ada Berg\r\nKiel\t2", None)
    assert mapping.fit(field("F", "multipicklist"), ["\x00", "a\x00"]) == ("a", None)


def test_a_long_text_is_cut_to_the_orgs_length_and_the_trace_says_so() -> None:
    city = "Great Haverbury-upon-Lyne, Metropolitan County of Westmarsh"
    draft = mapping.for_new(rules(City="city"), {"city": city}, lead(field("City", length=40)))
    assert draft.values == {"City": city[:40].rstrip()}
    assert draft.left_out == {"City": "cut from 59 to 40 characters"}


@given(st.text(min_size=1, max_size=200), st.integers(min_value=1, max_value=80))
def test_a_cut_value_fits_and_is_not_written_a_second_time(text: str, length: int) -> None:
    describe = lead(field("F", length=length))
    first = mapping.for_new(rules(F="a"), {"a": text}, describe).values
    if first:
        assert 0 < len(str(first["F"])) <= length
    second = mapping.for_existing(rules(F="a"), {"a": text}, describe, {"F": first.get("F")}, only_fill=False)
    assert second.values == {}


def test_part_of_a_phone_number_or_address_is_worth_nothing() -> None:
    draft = mapping.for_new(rules(Phone="p"), {"p": "0" * 41}, lead(field("Phone", "phone", 40)))
    assert draft.values == {}
    assert draft.left_out == {"Phone": "41 characters, the field takes 40"}


def test_a_field_that_the_org_lacks_or_hides_is_left_out_and_told() -> None:
    draft = mapping.for_new(rules(Segment__c="s", Title="t"), {"s": "A", "t": "CEO"}, lead(field("Title")))
    assert draft.values == {"Title": "CEO"}
    assert draft.left_out == {"Segment__c": mapping.NO_FIELD}


def test_a_read_only_field_is_left_out_and_told() -> None:
    describe = lead(field("F", updateable=False))
    assert mapping.for_existing(rules(F="a"), {"a": "x"}, describe, {"F": None}, only_fill=False).left_out == {"F": mapping.READ_ONLY}
    assert mapping.for_new(rules(F="a"), {"a": "x"}, describe).values == {"F": "x"}


def test_on_an_object_that_may_not_be_written_at_all_its_fields_are_sent_so_that_the_org_answers() -> None:
    """Else a right that was forgotten would read as a record that is right already."""
    shut = dataclasses.replace(lead(field("F", createable=False, updateable=False)), createable=False, updateable=False)
    assert mapping.for_new(rules(F="a"), {"a": "x"}, shut).values == {"F": "x"}
    assert mapping.for_existing(rules(F="a"), {"a": "x"}, shut, {"F": None}, only_fill=False).values == {"F": "x"}


def test_field_names_are_found_without_regard_to_case_and_written_as_the_org_spells_them() -> None:
    assert mapping.for_new(rules(region__C="r"), {"r": "EMEA"}, lead(field("Region__c"))).values == {"Region__c": "EMEA"}


COUNTRIES = field("Country", "picklist", restricted_picklist=True, picklist_values=("Germany", "France"))


def test_a_restricted_picklist_takes_its_own_spelling_or_nothing() -> None:
    assert mapping.fit(COUNTRIES, "germany") == ("Germany", None)
    draft = mapping.for_new(rules(Country="c"), {"c": "Deutschland"}, lead(COUNTRIES))
    assert draft.values == {}
    assert "'Deutschland' is not a value of the picklist" in draft.left_out["Country"]


def test_an_open_picklist_takes_any_text() -> None:
    assert mapping.fit(field("Industry", "picklist", 255, picklist_values=("Energy",)), "Falconry") == ("Falconry", None)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("boolean", "Yes", True), ("boolean", False, False), ("double", "87.5", 87.5), ("double", "30", 30), ("int", "12.6", 13),
        ("percent", 50, 50), ("date", "2026-10-31", "2026-10-31"), ("date", 1793507400, "2026-11-01"),
        ("datetime", "2026-10-31T21:30:00-07:00", "2026-11-01T04:30:00Z"), ("datetime", 1793507400, "2026-11-01T04:30:00Z"),
        ("multipicklist", ["a", "b"], "a;b"), ("string", ["a", "b"], "a; b"), ("string", True, "true"), ("string", 12.0, "12"),
        ("string", "  x ", "x"),
    ],
)  # fmt: skip
def test_values_take_the_type_of_their_field(kind: str, value: Value, expected: Value) -> None:
    assert mapping.fit(field("F", kind), value) == (expected, None)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("boolean", "perhaps"),
        ("double", "many"),
        ("double", "nan"),
        ("int", "inf"),
        ("date", "soon"),
        ("datetime", 1e300),
        ("reference", "x"),
    ],
)
def test_a_value_that_is_not_of_the_fields_type_is_left_out(kind: str, value: Value) -> None:
    draft = mapping.for_new(rules(F="a"), {"a": value}, lead(field("F", kind)))
    assert draft.values == {}
    assert list(draft.left_out) == ["F"]


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.lists(st.text())), st.sampled_from(sorted(
    {"boolean", "double", "int", "date", "datetime", "multipicklist", "string", "textarea", "email", "phone", "url", "picklist", "reference"}
)))  # fmt: skip
def test_no_attribute_whatever_breaks_the_mapping_and_what_was_written_is_right_ever_after(value: Any, kind: str) -> None:
    describe = lead(field("F", kind))
    draft = mapping.for_new(rules(F="a"), {"a": value}, describe)
    assert set(draft.values) | set(draft.left_out) <= {"F"}
    if draft.values and not mapping.is_blank(draft.values["F"]):
        again = mapping.for_existing(rules(F="a"), {"a": value}, describe, draft.values, only_fill=False)
        assert again.values == {}


@pytest.mark.parametrize(
    ("kind", "held", "value", "same"),
    [
        ("double", 30, 30.0, True), ("double", 30, 31, False), ("boolean", False, True, False), ("boolean", True, True, True),
        ("datetime", "2026-11-01T04:30:00.000+0000", "2026-11-01T04:30:00Z", True), ("multipicklist", "a;b", "b;a", True),
        ("textarea", "a\r\nb", "a\nb", True), ("string", None, "x", False), ("string", "Strasse", "Straße", False),
    ],
)  # fmt: skip
def test_equality_is_that_of_the_fields_type(kind: str, held: Value, value: Value, same: bool) -> None:
    assert mapping.same(field("F", kind), held, value) is same


def test_a_record_read_without_a_mapped_field_must_be_read_again() -> None:
    describe = lead(field("Title"), field("City"))
    assert mapping.unread(rules(Title="t", City="c"), {"t": "CEO", "c": "Bern"}, describe, {"Title": None})
    assert not mapping.unread(rules(Title="t", City="c"), {"t": "CEO"}, describe, {"Title": None})
