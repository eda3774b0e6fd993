"""Single values as the stand-in org stores or refuses them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.sandbox.salesforce import values
from stages.sandbox.salesforce.objects import Field
from stages.sandbox.salesforce.refusals import RefusalError

TEXT = Field("Title", "Title", "string", 128)
EMAIL = Field("Email", "Email", "email", 80)


@given(st.text(max_size=300))
def test_a_text_is_trimmed_kept_whole_or_refused_but_never_cut(text: str) -> None:
    kept = text.strip(" \t\r\n\f\v\0")
    if len(kept) > TEXT.length:
        with pytest.raises(RefusalError, match="STRING_TOO_LONG"):
            values.stored(TEXT, text)
    else:
        assert values.stored(TEXT, text) == (kept or None)


@pytest.mark.parametrize("address", ["a@b.example", "a+b@mill.example", "100%off@mill.example", "o'keefe@x-y.example", "a_b.c@d.e.example"])
def test_addresses_that_are_taken(address: str) -> None:
    assert values.stored(EMAIL, address.upper()) == address


@pytest.mark.parametrize(
    "address",
    [
        "a",
        "a@b",
        "@b.example",
        "a@",
        "a..b@c.example",
        ".a@c.example",
        "a.@c.example",
        "a b@c.example",
        "é@c.example",
        "a@-c.example",
        "n/a",
    ],
)
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(RefusalError, match="INVALID_EMAIL_ADDRESS"):
        values.stored(EMAIL, address)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("string", 1),
        ("boolean", "true"),
        ("boolean", 1),
        ("int", 1.5),
        ("int", True),
        ("double", "x"),
        ("double", float("inf")),
        ("date", "2026-02-30"),
        ("date", 20260101),
        ("datetime", "yesterday"),
        ("reference", 5),
    ],
)
def test_a_wrong_json_type_names_the_field(kind: str, value: Any) -> None:
    with pytest.raises(RefusalError, match="JSON_PARSER_ERROR") as told:
        values.stored(Field("X__c", "X", kind, 255), value)
    assert told.value.fields == ["X__c"]


@pytest.mark.parametrize("kind", ["string", "email", "picklist", "date", "datetime", "double", "reference"])
def test_null_and_nothing_are_the_same(kind: str) -> None:
    assert values.stored(Field("X__c", "X", kind, 255), "") is None
    assert values.stored(Field("X__c", "X", kind, 255), None) is None


def test_a_restricted_multipicklist_checks_each_choice() -> None:
    field = Field("X__c", "X", "multipicklist", 255, restricted=True, values=("a", "b"))
    assert values.stored(field, "a;b") == "a;b"
    with pytest.raises(RefusalError, match="bad value for restricted picklist field: c"):
        values.stored(field, "a;c")
