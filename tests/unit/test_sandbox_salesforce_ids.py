"""Record ids of the stand-in org: 15 and 18 characters, and the suffix that spells the case."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.sandbox.salesforce import ids

ID15 = st.text(alphabet=string.ascii_letters + string.digits, min_size=15, max_size=15)


@pytest.mark.parametrize(("id15", "suffix"), [("0015500001QdQWa", "AAN"), ("0035500001H9cak", "AAB"), ("01YPn000007HnTJ", "MA0")])
def test_the_suffix_is_that_of_real_ids(id15: str, suffix: str) -> None:
    assert ids.suffix(id15) == suffix
    assert ids.canonical(id15) == id15 + suffix


@given(ID15)
def test_eighteen_characters_survive_the_loss_of_their_case(id15: str) -> None:
    whole = ids.canonical(id15)
    assert whole is not None
    assert whole[:15] == id15
    assert ids.canonical(whole) == ids.canonical(whole.lower()) == ids.canonical(whole.upper()) == whole


@given(st.text(max_size=20))
def test_what_is_no_id_is_none_and_what_is_one_is_its_own_canonical_form(text: str) -> None:
    found = ids.canonical(text)
    assert found is None or (len(found) == 18 and ids.canonical(found) == found and found[:15].lower() == text[:15].lower())


@pytest.mark.parametrize("text", ["", "abc", "00Q", "00Q00000000000!", "00Q000000000000EA", "00Q000000000000EA9", "0" * 16])
def test_wrong_lengths_characters_and_suffixes_are_no_ids(text: str) -> None:
    assert ids.canonical(text) is None


@given(st.integers(0, 62**9 - 1), st.integers(0, 62**9 - 1))
def test_ids_are_ordered_like_their_numbers_and_never_meet(first: int, second: int) -> None:
    one, other = (ids.make("00Q", "S00", number) for number in (first, second))
    assert (one < other) == (first < second)
    assert (one == other) == (first == second)
    assert ids.canonical(one) == one


def test_a_number_too_large_for_its_place_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        ids.base62(62**9, 9)
    assert ids.base62(62**9 - 1, 9) == "z" * 9
