"""Lane keys: a parent's key is a prefix of its children's, and no key or name tells an address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lanes import (
    BUCKET_BYTES,
    LaneKey,
    key_lane,
    key_of_name,
    lane_key,
    narrowest_key,
    org_lane,
    parent,
    prefix_length,
    session_lane,
    wider,
    workspace_lane,
)

names = st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=4).map(tuple)


@given(names)
def test_the_key_of_a_wider_lane_begins_the_key_of_every_narrower_one(lanes: tuple[str, ...]) -> None:
    keys = [lane_key(lanes[: depth + 1]) for depth in range(len(lanes))]
    for depth, key in enumerate(keys, start=1):
        assert len(key) == prefix_length(depth)
        assert keys[-1].startswith(key)


@given(names)
def test_going_wider_ends_at_the_bucket_and_passes_every_lane_on_the_way(lanes: tuple[str, ...]) -> None:
    chain = wider(lane_key(lanes))
    assert chain[:-1] == [lane_key(lanes[:depth]) for depth in range(len(lanes), 0, -1)]
    assert len(chain[-1]) == BUCKET_BYTES
    assert parent(chain[-1]) is None


@given(names, st.text(min_size=1, max_size=30))
def test_the_narrowest_key_is_that_of_the_record_key_below_the_shared_lanes(shared: tuple[str, ...], key: str) -> None:
    assert narrowest_key(shared, key) == lane_key((*shared, key))
    assert parent(narrowest_key(shared, key)) == lane_key(shared)


def test_different_names_have_different_keys_whatever_their_place() -> None:
    keys: set[LaneKey] = set()
    for org in range(40):
        for workspace in range(10):
            lanes = (org_lane(f"o{org}"), workspace_lane(f"o{org}", f"w{workspace}"))
            keys.add(lane_key(lanes))
            keys.update(lane_key((*lanes, session_lane(f"o{org}", f"w{workspace}", f"s{session}"))) for session in range(10))
    assert len(keys) == 40 * 10 * 11


def test_names_of_lanes_tell_where_they_are_and_hide_the_address() -> None:
    session = session_lane("acme", "emea", "s1")
    assert session == "org:acme/workspace:emea/session:s1"
    name = key_lane(session, "jane.doe@example.com")
    assert name.startswith(f"{session}/email:")
    assert "jane" not in name
    assert "example" not in name
    assert name == key_lane(session, "jane.doe@example.com") != key_lane(session, "john.doe@example.com")


ids = st.text(min_size=1, max_size=30).filter(lambda text: "/" not in text)


@given(ids, ids, ids, st.text(max_size=30), st.integers(min_value=1, max_value=3))
def test_a_full_name_tells_the_key_of_its_lane(org: str, workspace: str, session: str, record_key: str, depth: int) -> None:
    shared = (org_lane(org), workspace_lane(org, workspace), session_lane(org, workspace, session))[:depth]
    assert key_of_name(shared[-1]) == lane_key(shared)
    assert key_of_name(key_lane(shared[-1], record_key)) == narrowest_key(shared, record_key)


@pytest.mark.parametrize("name", ["", "partition", "replay:1", "org:acme/somewhere", "org:acme/email:jane", "workspace:emea"])
def test_what_is_no_lanes_name_has_no_key(name: str) -> None:
    with pytest.raises(ValueError, match="is no lane"):
        key_of_name(name)
