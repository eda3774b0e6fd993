"""The text that a commit carries beside its offset: every lagging cursor. Pure; knows no Kafka.

Layout: `T1` + base85 of (flags, base offset, base time, cursors sorted by key with shared prefixes, CRC-32). Kafka refuses more than
`offset.metadata.max.bytes` characters (4,096 by default), so what does not fit in the limit is folded: the narrowest lanes into their
parents at the lowest offset, orgs into 256 buckets with rounded offsets (never more than 2,000 characters), and last of all everything
into the committed offset itself. Folding only makes a restart repeat more.
"""

import base64
import binascii
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final

from pipeline.errors import MetadataError
from pipeline.lanes import BUCKET_BYTES, ORG_BYTES, STEP_BYTES, LaneKey, parent, wider

VERSION: Final = "T1"
LIMIT_CHARACTERS: Final = 3_072
"""Three quarters of Kafka's default."""
_LENGTHS: Final = (BUCKET_BYTES, *(ORG_BYTES + STEP_BYTES * step for step in range(5)))
_ROUNDED_BITS: Final = 14
"""Bits that are left of a distance to the base where it is rounded: two bytes on the wire."""


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
    repeats: int
    """How many finished messages at most a restart takes again, because cursors were folded or an org was set aside whole; 0: none."""


def encode(offset: int, progress: Progress, limit: int = LIMIT_CHARACTERS) -> Encoded:
    """The commit of `offset` with `progress`; the text is never longer than `limit` characters.

    Raises MetadataError where not even the replays fit: their number has a bound of its own.
    """
    cursors, committed = dict(progress.cursors), offset
    text = whole = _encode(progress, cursors)
    for length in reversed(_LENGTHS[1:]):
        if len(text) <= limit:
            break
        cursors = fold(cursors, length, offset)
        text = _encode(progress, cursors)
    if len(text) > limit:
        text = _encode(progress, cursors, _ROUNDED_BITS)
    if len(text) > limit:
        offset = min([offset, *(cursor.offset for cursor in cursors.values())])
        cursors = {}
        text = _encode(progress, cursors)
    if len(text) > limit:
        raise MetadataError(f"{len(progress.replays)} replays do not fit into {limit} characters of metadata")
    return Encoded(text, offset, 0 if text == whole else _repeats(progress.cursors, decode(text).cursors, committed, offset))


def _repeats(exact: Mapping[LaneKey, Cursor], kept: Mapping[LaneKey, Cursor], committed: int, lowered: int) -> int:
    """What is repeated lies between the lowest new place and the highest that a place was before."""
    gone = [cursor.offset for key, cursor in exact.items() if kept.get(key) != cursor]
    moved = [cursor.offset for key, cursor in kept.items() if exact.get(key) != cursor]
    return max([committed, *gone]) - min([lowered, *moved])


def fold(cursors: Mapping[LaneKey, Cursor], length: int, offset: int) -> dict[LaneKey, Cursor]:
    """Cursors of lanes whose keys have `length` bytes folded into their parents, at the lowest offset of all that the parent covers.

    That is not only the lanes that are folded: what the parent covers beside them has its place so far in the next wider cursor, or
    in the committed `offset`.
    """
    folded = {key: cursor for key, cursor in cursors.items() if len(key) != length}
    for key, cursor in cursors.items():
        if len(key) != length:
            continue
        above = parent(key)
        if above is None:
            folded[key] = cursor
            continue
        known = folded.get(above)
        place = known.offset if known else _place(cursors, above, offset)
        time = known.oldest_ms if known else cursor.oldest_ms
        folded[above] = Cursor(min(place, cursor.offset), min(time, cursor.oldest_ms))
    return folded


def _place(cursors: Mapping[LaneKey, Cursor], key: LaneKey, offset: int) -> int:
    """Where the messages of a lane without a cursor of its own have theirs."""
    return next((cursors[above].offset for above in wider(key) if above in cursors), offset)


def decode(text: str) -> Progress:
    """Reads what `encode` wrote. Raises MetadataError for anything else, the empty text too."""
    if not text.startswith(VERSION):
        raise MetadataError("empty metadata" if not text else f"metadata of another kind or version: {text[:8]!r}")
    try:
        packed = base64.b85decode(text[len(VERSION) :])
    except ValueError as error:
        raise MetadataError("metadata is not base85") from error
    body, checksum = packed[:-4], packed[-4:]
    # The last character has bits to spare, which no checksum covers: there is one text for each progress.
    is_ours = base64.b85encode(packed).decode() == text[len(VERSION) :]
    if len(packed) < 4 or not is_ours or binascii.crc32(body).to_bytes(4, "big") != checksum:
        raise MetadataError("metadata fails its checksum")
    try:
        return _unpack(body)
    except IndexError as error:
        raise MetadataError("metadata ends too early") from error


def _encode(progress: Progress, cursors: Mapping[LaneKey, Cursor], bits: int = 64) -> str:
    body = _pack(progress, cursors, bits)
    return VERSION + base64.b85encode(body + binascii.crc32(body).to_bytes(4, "big")).decode()


def _pack(progress: Progress, cursors: Mapping[LaneKey, Cursor], bits: int) -> bytes:
    """Distances to the base are rounded down to their `bits` highest bits: a cursor may only move down."""
    offsets = [cursor.offset for cursor in cursors.values()] or [0]
    seconds = [cursor.oldest_ms // 1000 for cursor in cursors.values()] or [0]
    base_offset, base_second = min(offsets), min(seconds)
    offset_shift = max(0, (max(offsets) - base_offset).bit_length() - bits)
    second_shift = max(0, (max(seconds) - base_second).bit_length() - bits)
    out = bytearray([1 if progress.drained else 0])
    _put_all(out, [progress.controls_seen, len(progress.replays), *progress.replays])
    _put_all(out, [base_offset, base_second, offset_shift, second_shift, len(cursors)])
    before: LaneKey = b""
    for key in sorted(cursors):
        shared = _shared_steps(before, key)
        # One byte says how much of the key is the last one's, and how long the key is.
        out.append(shared << 4 | _LENGTHS.index(len(key)))
        out += key[_LENGTHS[shared - 1] if shared else 0 :]
        cursor = cursors[key]
        _put_all(out, [(cursor.offset - base_offset) >> offset_shift, (cursor.oldest_ms // 1000 - base_second) >> second_shift])
        before = key
    return bytes(out)


def _unpack(body: bytes) -> Progress:
    reader = _Varints(body, 1)
    controls_seen = reader.take()
    replays = tuple(reader.take() for _ in range(reader.take()))
    base_offset, base_second, offset_shift, second_shift, count = (reader.take() for _ in range(5))
    cursors: dict[LaneKey, Cursor] = {}
    before: LaneKey = b""
    for _ in range(count):
        tag = reader.byte()
        shared, length = tag >> 4, _LENGTHS[tag & 15]
        start = _LENGTHS[shared - 1] if shared else 0
        before = before[:start] + reader.bytes(length - start)
        offset = base_offset + (reader.take() << offset_shift)
        cursors[before] = Cursor(offset, (base_second + (reader.take() << second_shift)) * 1000)
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
