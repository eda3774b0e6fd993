"""A member's status only ever advances, whatever comes in which order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import Action
from schemas.settings import Statuses
from stages import ranking

ACTIONS: list[Action] = ["registered", "attended", "not_attended", "watched_replay"]
OURS = Statuses()


@given(st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=12))
def test_the_status_never_goes_back_and_ends_at_the_highest_for_any_order_of_events(actions: list[Action]) -> None:
    held: str | None = None
    ranks = []
    for action in actions:
        rank = ranking.rank_of(action)
        if rank > ranking.rank_held(held, False, OURS):
            held = ranking.label_of(rank, OURS)
        ranks.append(ranking.rank_held(held, False, OURS))
    assert ranks == sorted(ranks)
    assert ranks[-1] == max(ranking.rank_of(action) for action in actions)


@pytest.mark.parametrize(
    ("label", "responded", "rank"),
    [
        ("Registered", False, 0), (" did  not ATTEND", False, 1), ("Attended", True, 2), ("Sent", False, 0), ("Responded", True, ranking.FOREIGN),
        ("Met at the fair", True, ranking.FOREIGN), (None, False, -1), ("", False, -1),
    ],
)  # fmt: skip
def test_a_foreign_status_ranks_as_registered_unless_it_counts_as_responded(label: str | None, responded: bool, rank: int) -> None:
    assert ranking.rank_held(label, responded, OURS) == rank


def test_labels_are_trimmed_and_each_stands_once_and_only_attended_counts_as_responded() -> None:
    assert ranking.labels(Statuses(attended="attended ")) == {"Registered": False, "Did not attend": False, "attended": True}
    assert ranking.labels(Statuses(not_attended="registered")) == {"Registered": False, "Attended": True}
    assert ranking.labels(Statuses(registered="Came", attended="came")) == {"Came": True, "Did not attend": False}


def test_a_label_takes_no_more_characters_than_the_members_status() -> None:
    assert all(len(label) <= 40 for label in ranking.labels(Statuses(registered="r" * 60, attended="a" * 60)))
    assert ranking.label_of(ranking.ATTENDED, Statuses(attended="a" * 60)) == "a" * 40


def test_a_status_is_written_in_the_campaigns_own_spelling() -> None:
    assert ranking.spelled("attended", ("Sent", "Responded", "Attended")) == "Attended"
    assert ranking.spelled("attended", ("Sent", "Responded")) is None
