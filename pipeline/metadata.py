"""The text that a commit carries beside its offset: every lagging cursor. Pure; knows no Kafka.

Layout: `T1` + base85 of (flags, base offset, base time, cursors sorted by key with shared prefixes, CRC-32). Kafka refuses more than
`offset.metadata.max.bytes` characters (4,096 by default), so what does not fit in the limit is folded: the narrowest lanes into their
parents at the lowest offset, orgs into 256 buckets, and last of all everything into the committed offset itself. Folding only makes a
restart repeat more.
"""

import base64
import binascii
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final

from pipeline.errors import MetadataError
from pipeline.lanes import BUCKET_BYTES, ORG_BYTES, STEP_BYTES, LaneKey, parent

VERSION: Final = "T1"
LIMIT_CHARACTERS: Final = 3_072
"""Three quarters of Kafka's default."""
_LENGTHS: Final = (BUCKET_BYTES, *(ORG_BYTES + STEP_BYTES * step for step in range(5)))


@dataclasses.dataclass(frozen=True, slots=True)
class Cursor:
    """The first unfinished message of a lane: its offset, and its record's time in Unix ms (kept to the second)."""

    offset: int
    oldest_ms: int


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """What a restart must know of one partition beside the offset."""

    cursors: Mapping[LaneKey, Cursor]
    drained: bool
    """Nothing was in flight when this was committed, and nothing was started after."""
    controls_seen: int = 0
    """The next offset of the topic `controls` that was not yet looked at."""
    replays: tuple[int, ...] = ()
    """Short ids of the replays under way."""


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """What to commit."""

    text: str
    offset: int
    """The offset to commit: the one given, or a lower one where not even buckets fit."""
    folded: int
    """How many cursors were folded away: a restart repeats more."""


def encode(offset: int, progress: Progress, limit: int = LIMIT_CHARACTERS) -> Encoded:
    """The commit of `offset` with `progress`; the text is never longer than `limit` (at least 64) characters."""
    cursors = dict(progress.cursors)
    text = _encode(progress, cursors)
    for length in reversed(_LENGTHS[1:]):
        if len(text) <= limit:
            break
        cursors = fold(cursors, length)
        text = _encode(progress, cursors)
    if len(text) > limit:
        offset = min(offset, *(cursor.offset for cursor in cursors.values()))
        cursors = {}
        text = _encode(progress, cursors)
    return Encoded(text, offset, len(progress.cursors) - len(cursors))


def fold(cursors: Mapping[LaneKey, Cursor], length: int) -> dict[LaneKey, Cursor]:
    """Cursors of lanes whose keys have `length` bytes folded into their parents, at the lowest offset."""
    folded: dict[LaneKey, Cursor] = {}
    for key, cursor in cursors.items():
        above = parent(key) if len(key) == length else key
        target = key if above is None else above
        known = folded.get(target)
        folded[target] = cursor if known is None else Cursor(min(known.offset, cursor.offset), min(known.oldest_ms, cursor.oldest_ms))
    return folded


def decode(text: str) -> Progress:
    """Reads what `encode` wrote. Raises MetadataError for anything else, the empty text too."""
    if not text.startswith(VERSION):
        raise MetadataError("empty metadata" if not text else f"metadata of another kind or version: {text[:8]!r}")
    try:
        packed = base64.b85decode(text[len(VERSION) :])
    except ValueError as error:
        raise MetadataError("metadata is not base85") from error
    body, checksum = packed[:-4], packed[-4:]
    if len(packed) < 4 or binascii.crc32(body).to_bytes(4, "big") != checksum:
        raise MetadataError("metadata fails its checksum")
    return _unpack(body)


def _encode(progress: Progress, cursors: Mapping[LaneKey, Cursor]) -> str:
    body = _pack(progress, cursors)
    return VERSION + base64.b85encode(body + binascii.crc32(body).to_bytes(4, "big")).decode()


def _pack(progress: Progress, cursors: Mapping[LaneKey, Cursor]) -> bytes:
    base_offset = min((cursor.offset for cursor in cursors.values()), default=0)
    base_second = min((cursor.oldest_ms // 1000 for cursor in cursors.values()), default=0)
    out = bytearray([1 if progress.drained else 0])
    _put_all(out, [progress.controls_seen, len(progress.replays), *progress.replays, base_offset, base_second, len(cursors)])
    before: LaneKey = b""
    for key in sorted(cursors):
        shared = _shared_steps(before, key)
        # One byte says how much of the key is the last one's, and how long the key is.
        out.append(shared << 4 | _LENGTHS.index(len(key)))
        out += key[_LENGTHS[shared - 1] if shared else 0 :]
        _put_all(out, [cursors[key].offset - base_offset, cursors[key].oldest_ms // 1000 - base_second])
        before = key
    return bytes(out)


def _unpack(body: bytes) -> Progress:
    reader = _Varints(body, 1)
    controls_seen = reader.take()
    replays = tuple(reader.take() for _ in range(reader.take()))
    base_offset, base_second, count = reader.take(), reader.take(), reader.take()
    cursors: dict[LaneKey, Cursor] = {}
    before: LaneKey = b""
    for _ in range(count):
        tag = reader.byte()
        shared, length = tag >> 4, _LENGTHS[tag & 15]
        start = _LENGTHS[shared - 1] if shared else 0
        before = before[:start] + reader.bytes(length - start)
        cursors[before] = Cursor(base_offset + reader.take(), (base_second + reader.take()) * 1000)
    return Progress(cursors, bool(body[0] & 1), controls_seen, replays)


def _shared_steps(before: LaneKey, key: LaneKey) -> int:
    """How many levels of the key, from the widest, are those of the key before."""
    shared = 0
    for step, length in enumerate(_LENGTHS, start=1):
        if length > len(key) or length > len(before) or before[:length] != key[:length]:
            break
        shared = step
    return shared


def _put_all(out: bytearray, numbers: Iterable[int]) -> None:
    """Appends numbers >= 0 as LEB128."""
    for number in numbers:
        while number >= 0x80:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        out.append(number)


class _Varints:
    """Reads what `_put_all` wrote."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place

    def byte(self) -> int:
        self._place += 1
        return self._data[self._place - 1]

    def bytes(self, count: int) -> bytes:
        self._place += count
        return self._data[self._place - count : self._place]

    def take(self) -> int:
        number = shift = 0
        while True:
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
