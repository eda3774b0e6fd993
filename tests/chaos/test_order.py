"""The check of order: what it lets pass, and what not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.order import walk

taken_ids = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("given_ids", "found"),
    [
        ("abcd", "once"),
        ("ab" + "abcd", "whole runs"),
        ("abc" + "bc" + "abcd", "whole runs"),
        ("abcd" + "d", "whole runs"),
        ("abcd" + "b", "late repeat"),
        ("abc" + "a" + "d", "late repeat"),
        ("abd", "broken"),
        ("abdc", "broken"),
        ("abc", "broken"),
        ("bacd", "broken"),
        ("", "broken"),
        ("abcde", "broken"),
    ],
)
def test_what_came_out_against_what_went_in(given_ids: str, found: str) -> None:
    assert walk("abcd", given_ids) == found


def test_an_id_that_went_in_twice_has_to_come_out_twice() -> None:
    assert walk("abca", "abca") == "once"
    assert walk("abca", "abc") == "broken"


@given(taken_ids, st.data())
def test_every_reader_that_only_goes_back_passes(taken: list[str], data: st.DataObject) -> None:
    """From any place it may begin again at an earlier one, any number of times, if it reaches the end at last."""
    out: list[str] = []
    place = 0
    for _ in range(data.draw(st.integers(0, 4))):
        ends = data.draw(st.integers(place, len(taken)))
        out += taken[place:ends]
        place = data.draw(st.integers(0, ends))
    out += taken[place:]
    assert walk(taken, out) in ("once", "whole runs")


@given(st.lists(st.integers(), min_size=2, max_size=10, unique=True), st.data())
def test_one_that_leaves_something_out_never_passes(numbers: list[int], data: st.DataObject) -> None:
    taken = [str(number) for number in numbers]
    lost = data.draw(st.sampled_from(taken))
    assert walk(taken, [id for id in taken if id != lost]) == "broken"
