"""SOQL of the stand-in org: what its grammar reads, which escapes it knows, and how wide LIKE reaches."""

# Every SOQL here is put together from the test's own values.
# ruff: noqa: S608

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.sandbox.salesforce import soql
from stages.sandbox.salesforce.refusals import RefusalError

ESCAPES = {"\\": r"\\", "'": r"\'", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\b": r"\b", "\f": r"\f"}


def quoted(text: str) -> str:
    return "'" + "".join(ESCAPES.get(character, character) for character in text) + "'"


def parsed(condition: str) -> soql.Condition | None:
    return soql.parse(f"SELECT Id FROM Lead WHERE {condition}").where


@given(st.text(max_size=200))
def test_any_text_comes_through_its_escapes_unchanged(text: str) -> None:
    condition = parsed(f"Email = {quoted(text)}")
    assert isinstance(condition, soql.Comparison)
    assert condition.literal == soql.Literal("string", text)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=20))
def test_any_list_of_texts_comes_through_in_order(texts: list[str]) -> None:
    condition = parsed(f"Email IN ({' , '.join(map(quoted, texts))})")
    assert isinstance(condition, soql.Within)
    assert [literal.value for literal in condition.literals] == texts


@given(st.text(max_size=60), st.text(max_size=60))
def test_an_escaped_pattern_matches_its_own_text_regardless_of_case_and_nothing_else(text: str, other: str) -> None:
    escaped = quoted(text).replace("%", r"\%").replace("_", r"\_")
    condition = parsed(f"Email LIKE {escaped}")
    assert isinstance(condition, soql.Like)
    assert condition.pattern.fullmatch(text)
    if len(other) != len(text):
        assert not condition.pattern.fullmatch(other)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("a%", "abc", True),
        ("a%", "bac", False),
        ("a_c", "abc", True),
        ("a_c", "abbc", False),
        (r"a\_c", "abc", False),
        (r"a\_c", "A_C", True),
        (r"100\%%", "100% off", True),
        (r"100\%%", "1000 off", False),
        (r"a\\%", "a\\b", True),
        (r"a\\_", "a\\b", True),
        (r"a\'%", "a'b", True),
        ("%", "line\nbreak", True),
        ("", "", True),
        ("", "x", False),
    ],
)
def test_wildcards(pattern: str, text: str, matches: bool) -> None:
    assert bool(soql.like_pattern(f"'{pattern}'").fullmatch(text)) is matches


@pytest.mark.parametrize("escape", ["q", "x", "0", "_", "%", "a", "/"])
def test_an_unknown_escape_is_malformed(escape: str) -> None:
    for condition in (f"Email = 'a\\{escape}b'", f"Email IN ('a', 'a\\{escape}b')"):
        with pytest.raises(RefusalError, match="MALFORMED_QUERY"):
            parsed(condition)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT",
        "SELECT Id FROM Lead WHERE",
        "SELECT Id FROM Lead WHERE Email IN ()",
        "SELECT Id FROM Lead WHERE Email IN ('a',)",
        "SELECT Id FROM Lead WHERE Email == 'a'",
        "SELECT Id FROM Lead WHERE Email = a",
        "SELECT Id FROM Lead WHERE A = 'a' AND B = 'b' OR C = 'c'",
        "SELECT Id FROM Lead WHERE (A = 'a'",
        "SELECT Id FROM Lead ORDER Email",
        "SELECT Id FROM Lead LIMIT many",
        "SELECT Id FROM Lead LIMIT -1",
        "SELECT Id FROM Lead; DELETE",
        "SELECT Id FROM Lead WHERE CreatedDate = 2026-13-45T00:00:00Z",
        "SELECT * FROM Lead",
        "UPDATE Lead",
    ],
)
def test_what_is_no_soql_is_malformed(text: str) -> None:
    with pytest.raises(RefusalError, match="MALFORMED_QUERY"):
        soql.parse(text)


def test_names_may_begin_like_keywords() -> None:
    query = soql.parse(
        "SELECT Industry, Notes__c FROM Order__c WHERE Notes__c = 'x' AND Industry IN ('y') ORDER BY Limit__c, Nulls__c DESC"
    )
    assert [field.parts for field in query.fields] == [("Industry",), ("Notes__c",)]
    assert (query.object.parts, isinstance(query.where, soql.AllOf)) == (("Order__c",), True)
    assert [(ordering.path.parts[0], ordering.descending) for ordering in query.orderings] == [("Limit__c", False), ("Nulls__c", True)]


def test_keywords_are_read_in_any_case_and_nesting_is_kept() -> None:
    where = soql.parse("select Id from Lead where not (a = 1 or b = true) and c != null").where
    assert isinstance(where, soql.AllOf)
    negation, comparison = where.conditions
    assert isinstance(negation, soql.Negation)
    assert isinstance(negation.condition, soql.AnyOf)
    assert isinstance(comparison, soql.Comparison)
    assert comparison.literal == soql.Literal("null", None)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000+0000"),
        ("2026-01-02T03:04:05.678z", "2026-01-02T03:04:05.000+0000"),
        ("2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05.000+0000"),
        ("2026-01-02T03:04:05-0330", "2026-01-02T06:34:05.000+0000"),
    ],
)
def test_datetimes_are_brought_to_utc_and_whole_seconds(written: str, value: str) -> None:
    condition = parsed(f"CreatedDate >= {written}")
    assert isinstance(condition, soql.Comparison)
    assert condition.literal == soql.Literal("datetime", value)


def test_strings_and_queries_have_their_longest() -> None:
    assert parsed(f"Email = '{'x' * soql.LONGEST_STRING}'") is not None
    with pytest.raises(RefusalError, match="string literals"):
        parsed(f"Email = '{'x' * (soql.LONGEST_STRING + 1)}'")
    with pytest.raises(RefusalError, match="longer than 100000"):
        soql.parse("SELECT Id FROM Lead" + " " * soql.LONGEST_QUERY)


def test_a_refusal_points_at_row_and_column() -> None:
    with pytest.raises(RefusalError, match=r"Row:3:Column:7\nunexpected token: '='"):
        soql.parse("SELECT Id\nFROM Lead\nWHERE =")
