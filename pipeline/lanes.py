"""Lanes: the tree org › workspace › session › email, its names and its keys. A message's narrowest lane is its order key.

A lane's key is the chain of short hashes of its names, so that a parent's key is a prefix of its children's; it is what a commit
carries, and it never tells an address. Widest of all is the bucket (the first byte of the org's hash), which only folding uses.
"""

import hashlib
import re
from functools import lru_cache
from typing import Final

LaneKey = bytes

BUCKET_BYTES: Final = 1
ORG_BYTES: Final = 5
STEP_BYTES: Final = 4
WORKSPACE_BYTES: Final = ORG_BYTES + STEP_BYTES

_NAME: Final = re.compile(r"(org:[^/]*)(/workspace:[^/]*)?(/session:[^/]*)?(?:/email:([0-9a-f]{8}))?")


def _digest(name: str, size: int) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=size).digest()


@lru_cache(maxsize=65_536)
def _shared_key(names: tuple[str, ...]) -> LaneKey:
    """Key of a lane that many messages share."""
    if len(names) == 1:
        return _digest(names[0], ORG_BYTES)
    return _shared_key(names[:-1]) + _digest(names[-1], STEP_BYTES)


def lane_key(lanes: tuple[str, ...]) -> LaneKey:
    """Key of the narrowest of `lanes` (wide to narrow, full names)."""
    if len(lanes) < 2:
        return _shared_key(lanes)
    return _shared_key(lanes[:-1]) + _digest(lanes[-1], STEP_BYTES)


def narrowest_key(shared: tuple[str, ...], record_key: str) -> LaneKey:
    """Key of the narrowest lane of a message: that of its record key below the lanes that it shares with others."""
    return _shared_key(shared) + _digest(record_key, STEP_BYTES)


def parent(key: LaneKey) -> LaneKey | None:
    """The next wider lane; None above the bucket."""
    if len(key) > ORG_BYTES:
        return key[:-STEP_BYTES]
    return key[:BUCKET_BYTES] if len(key) == ORG_BYTES else None


def wider(key: LaneKey) -> list[LaneKey]:
    """The key itself and every wider one, narrow to wide."""
    keys = [key]
    while (above := parent(keys[-1])) is not None:
        keys.append(above)
    return keys


def prefix_length(depth: int) -> int:
    """Bytes of the key of the lane at `depth` (1: org) of a message's lanes."""
    return ORG_BYTES + STEP_BYTES * (depth - 1)


def key_of_org(org: str) -> LaneKey:
    """Key of an org's lane."""
    return _shared_key((org_lane(org),))


def org_lane(org: str) -> str:
    return f"org:{org}"


def workspace_lane(org: str, workspace: str) -> str:
    return f"org:{org}/workspace:{workspace}"


def session_lane(org: str, workspace: str, session: str) -> str:
    return f"org:{org}/workspace:{workspace}/session:{session}"


def key_lane(parent_lane: str, key: str) -> str:
    """The narrowest lane, of one record key; the key itself, which may be an address, is hashed, as in the lane's key."""
    return f"{parent_lane}/email:{_digest(key, STEP_BYTES).hex()}"


def key_of_name(name: str) -> LaneKey:
    """Key of a lane by its full name alone. Raises ValueError for what is no lane's name."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is no lane")
    shared = tuple(name[: found.end(level)] for level in (1, 2, 3) if found[level] is not None)
    return _shared_key(shared) + bytes.fromhex(found[4] or "")
