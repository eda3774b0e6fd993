"""Facts about Salesforce ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.salesforce.ids import full_id, is_id

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
short_ids = st.text(alphabet=BASE62, min_size=15, max_size=15)


@pytest.mark.parametrize(
    ("short", "suffix"),
    [("0015500001QdQWa", "AAN"), ("0035500001H9cak", "AAB"), ("01YPn000007HnTJ", "MA0")],
)
def test_the_suffix_is_the_one_that_real_orgs_give(short: str, suffix: str) -> None:
    assert full_id(short) == short + suffix


@given(short_ids)
def test_both_forms_of_an_id_become_the_same(short: str) -> None:
    assert full_id(full_id(short)) == full_id(short)
    assert full_id(short)[:15] == short


@given(short_ids, short_ids)
def test_ids_that_differ_only_in_case_stay_apart_even_for_software_that_ignores_case(one: str, other: str) -> None:
    if one != other:
        assert full_id(one).lower() != full_id(other).lower()


@given(st.text(max_size=20))
def test_what_is_no_id_is_refused(text: str) -> None:
    if not is_id(text):
        with pytest.raises(ValueError):
            full_id(text)
