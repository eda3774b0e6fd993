"""Facts about the text of queries."""

import datetime
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.salesforce import soql

ESCAPED = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "%": "%", "_": "_"}


def read_literal(written: str) -> str:
    """Reads a quoted text as Salesforce's page describes it; fails on an unknown escape or a quote that ends too early."""
    assert written[0] == written[-1] == "'"
    inside, read = iter(written[1:-1]), ""
    for letter in inside:
        assert letter not in "'\n\r"
        read += ESCAPED[next(inside)] if letter == "\\" else letter
    return read


@given(st.text(max_size=200))
def test_a_text_comes_out_of_its_literal_as_it_went_in(value: str) -> None:
    assert read_literal(soql.text(value)) == value


@given(st.text(max_size=100))
def test_a_pattern_takes_the_wildcards_of_the_value_as_they_stand(value: str) -> None:
    pattern = soql.starts_with(value)
    assert pattern.endswith("%'")
    assert read_literal(pattern[:-2] + "'") == value
    assert soql.contains(value) == "'%" + pattern[1:]


@given(st.text(max_size=200), st.booleans())
def test_a_form_decoder_reads_the_query_back_from_its_path(query: str, deleted: bool) -> None:
    """The `+` of an address above all: undecoded it would be a space."""
    path = soql.path_of_query(query, deleted=deleted)
    assert path.startswith("queryAll?q=" if deleted else "query?q=")
    assert "+" not in path
    assert parse_qs(urlsplit(path).query, keep_blank_values=True)["q"] == [query]


@given(st.sampled_from("x'\n"), st.integers(0, 10_000))
def test_a_text_is_never_longer_than_salesforce_takes(letter: str, count: int) -> None:
    """4,000 characters in quotes, escapes counted. What is cut is still far longer than any field that is searched."""
    written = soql.text(letter * count)
    assert len(written) - 2 <= 4_000
    assert read_literal(written) == letter * min(count, 2_000)


def test_an_empty_list_is_not_sent() -> None:
    with pytest.raises(ValueError):
        soql.in_list([])


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (12, "12"),
        (1.5, "1.5"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), "2026-01-02T03:04:05Z"),
        (datetime.datetime(2026, 1, 2, 4, 4, 5, tzinfo=datetime.timezone(datetime.timedelta(hours=1))), "2026-01-02T03:04:05Z"),
        ("O'Hara", r"'O\'Hara'"),
    ],
)
def test_each_kind_of_value_has_its_literal(value: soql.Literal, written: str) -> None:
    assert soql.literal(value) == written
    assert soql.in_list([value]) == f"({written})"


def test_a_datetime_without_a_zone_is_not_guessed_at() -> None:
    with pytest.raises(ValueError):
        soql.literal(datetime.datetime(2026, 1, 2))  # noqa: DTZ001


@given(st.lists(st.text(max_size=300), max_size=60), st.integers(2_200, 6_000), st.integers(1, 20))
def test_chunks_hold_every_value_in_order_and_fit_a_query(values: list[str], characters: int, count: int) -> None:
    made = list(soql.chunks(values, overhead=1_000, characters=characters, count=count))
    assert [value for chunk in made for value in chunk] == values
    for chunk in made:
        assert 1 <= len(chunk) <= count
        assert 1_000 + len(soql.in_list(chunk)) <= characters + 1


@given(st.lists(st.lists(st.text(max_size=300), max_size=3), max_size=30), st.integers(3_000, 6_000), st.integers(1, 20))
def test_groups_hold_every_item_in_order_and_all_their_texts_fit_a_query(items: list[list[str]], characters: int, count: int) -> None:
    made = list(soql.groups(items, lambda item: item, characters=characters, count=count))
    assert [item for group in made for item in group] == items
    for group in made:
        assert 1 <= len(group) <= count
        assert 1_000 + sum(len(soql.in_list([text])) - 1 for item in group for text in item) <= characters


def test_a_value_that_fits_no_query_is_refused() -> None:
    with pytest.raises(ValueError):
        list(soql.chunks(["x" * 200], overhead=100, characters=250))


@pytest.mark.parametrize("bad", ["", "Email FROM User", "a-b", "Name,Id", "1a", "a..b", "Straße"])
def test_only_names_get_into_a_query_unquoted(bad: str) -> None:
    with pytest.raises(ValueError):
        soql.name(bad)
    with pytest.raises(ValueError):
        soql.select([bad], "Lead")


def test_a_field_is_selected_once_whatever_its_case() -> None:
    query = soql.select(["Id", "Email", "email", "Account.Name"], "Contact", "Email IN ('a')", order=soql.OLDEST_FIRST, limit=5)
    assert query == "SELECT Id, Email, Account.Name FROM Contact WHERE Email IN ('a') ORDER BY CreatedDate ASC, Id ASC LIMIT 5"


def test_the_text_that_a_composite_takes_for_a_reference_is_known() -> None:
    assert soql.holds_reference("Acme @{x} Ltd")
    assert not soql.holds_reference("a@b.example {x}")
