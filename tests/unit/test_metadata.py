"""A commit's metadata: what is written is read back, it is never too long, folding only lowers, and nothing else is taken for it."""

import base64
import binascii
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import MetadataError
from pipeline.lanes import BUCKET_BYTES, ORG_BYTES, STEP_BYTES, LaneKey, wider
from pipeline.metadata import LIMIT_CHARACTERS, VERSION, Cursor, Progress, decode, encode, fold

KAFKA_DEFAULT_CHARACTERS = 4_096
step = st.sampled_from([b"aaaa", b"aaab", b"zzzz", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff"]) | st.binary(
    min_size=STEP_BYTES, max_size=STEP_BYTES
)
org = st.sampled_from([b"\x00aaaa", b"\x00bbbb", b"\xffaaaa"]) | st.binary(min_size=ORG_BYTES, max_size=ORG_BYTES)
lane = st.builds(lambda first, rest: first + b"".join(rest), org, st.lists(step, max_size=4)) | st.binary(
    min_size=BUCKET_BYTES, max_size=BUCKET_BYTES
)
cursor = st.builds(
    Cursor, st.integers(min_value=0, max_value=2**63 - 1), st.integers(min_value=0, max_value=2**33).map(lambda second: second * 1_000)
)
cursors = st.dictionaries(lane, cursor, max_size=30)
progress = st.builds(
    Progress,
    cursors,
    st.booleans(),
    st.integers(min_value=0, max_value=2**63 - 1),
    st.lists(st.integers(min_value=0, max_value=2**32 - 1), max_size=4).map(tuple),
)
offset = st.integers(min_value=0, max_value=2**63 - 1)
some = settings(max_examples=40)


def place(committed: int, known: dict[LaneKey, Cursor], key: LaneKey) -> int:
    """From where a message of this lane would be read again after a restart: its narrowest cursor's offset, else the committed one."""
    return next((known[above].offset for above in wider(key) if above in known), committed)


@some
@given(offset, progress)
def test_what_fits_is_read_back_as_it_was(at: int, given_: Progress) -> None:
    encoded = encode(at, given_, limit=100_000)
    assert encoded.offset == at
    assert encoded.repeats == 0
    assert decode(encoded.text) == given_


@some
@given(offset, progress, st.randoms(use_true_random=False))
def test_the_text_does_not_depend_on_the_order_of_the_cursors(at: int, given_: Progress, shuffled: random.Random) -> None:
    items = list(given_.cursors.items())
    shuffled.shuffle(items)
    assert encode(at, Progress(dict(items), given_.drained, given_.controls_seen, given_.replays)) == encode(at, given_)


@some
@given(offset, progress, st.integers(min_value=128, max_value=4_096), st.lists(lane, max_size=10))
def test_it_is_never_over_the_limit_and_a_restart_never_starts_above_a_cursor(
    at: int, given_: Progress, limit: int, others: list[LaneKey]
) -> None:
    """Also for lanes without a cursor: folding lets a parent cover them, at their own place or below."""
    encoded = encode(at, given_, limit)
    assert len(encoded.text) <= limit
    read = decode(encoded.text)
    assert (read.drained, read.controls_seen, read.replays) == (given_.drained, given_.controls_seen, given_.replays)
    before = dict(given_.cursors)
    for key in [*before, *others]:
        assert 0 <= place(at, before, key) - place(encoded.offset, dict(read.cursors), key) <= encoded.repeats
    for key in before.keys() & read.cursors.keys():
        assert read.cursors[key].oldest_ms <= before[key].oldest_ms


@some
@given(offset, cursors, st.integers(min_value=0, max_value=4), st.lists(lane, max_size=10))
def test_folding_one_level_only_lowers(at: int, known: dict[LaneKey, Cursor], level: int, others: list[LaneKey]) -> None:
    length = ORG_BYTES + STEP_BYTES * level
    folded = fold(known, length, at)
    assert not any(len(key) == length for key in folded)
    for key in [*known, *others]:
        assert place(at, folded, key) <= place(at, known, key)


@pytest.mark.parametrize("lanes", [1, 50, 1_000, 20_000])
def test_however_many_lanes_lag_buckets_fit_and_the_committed_offset_stays(lanes: int) -> None:
    """Offsets and times as far apart as they come: only their rounding pays for it."""
    draw = random.Random(lanes)
    known = {
        draw.randbytes(ORG_BYTES + STEP_BYTES * 3): Cursor(2**40 + draw.randrange(2**50), draw.randrange(2**32) * 1_000)
        for _ in range(lanes)
    }
    at = 2**52
    encoded = encode(at, Progress(known, drained=False, controls_seen=2**40, replays=(7, 2**32 - 1)))
    assert len(encoded.text) <= LIMIT_CHARACTERS < KAFKA_DEFAULT_CHARACTERS
    assert encoded.offset == at
    read = decode(encoded.text).cursors
    lost = max(place(at, known, key) - place(at, dict(read), key) for key in known) if lanes == 1 else 0
    assert lost == 0
    if lanes == 20_000:
        assert len(encoded.text) <= 2_000
        assert len(read) == 256


def test_lanes_are_folded_from_the_narrowest_up() -> None:
    """A thousand people of one org are folded; an org that lags beside them keeps its exact place as long as it can."""
    crowd = {b"\x01aaaa" + b"wwww" + b"ssss" + person.to_bytes(4, "big"): Cursor(1_000 + person, 0) for person in range(1_000)}
    beside = {b"\x02bbbb": Cursor(77, 5_000)}
    encoded = encode(900, Progress({**crowd, **beside}, drained=True))
    assert decode(encoded.text).cursors == {b"\x01aaaawwwwssss": Cursor(900, 0), b"\x02bbbb": Cursor(77, 5_000)}
    assert encoded.repeats == 1_999 - 900


def test_a_folded_lane_does_not_hide_what_its_siblings_have_unfinished() -> None:
    """Person one lags from 90; person two's message at 70 is only in memory. Folded into the session, the cursor must not be 90."""
    session = b"\x01aaaawwwwssss"
    folded = fold({session + b"one_": Cursor(90, 0)}, len(session) + STEP_BYTES, 70)
    assert folded == {session: Cursor(70, 0)}


def test_a_folded_lane_does_not_hide_what_a_wider_lane_has_unfinished() -> None:
    """The org lags from 20, person one for himself from 50: the session between them must stand at 20."""
    org_, session = b"\x01aaaa", b"\x01aaaawwwwssss"
    folded = fold({org_: Cursor(20, 0), session + b"one_": Cursor(50, 0)}, len(session) + STEP_BYTES, 100)
    assert folded[session].offset == 20


def test_where_not_even_buckets_fit_everything_goes_into_the_offset() -> None:
    known = {bytes([number]) + b"aaaa": Cursor(500 + number, 1_000) for number in range(200)}
    encoded = encode(700, Progress(known, drained=True), limit=64)
    assert (encoded.offset, encoded.repeats) == (500, 200)
    assert decode(encoded.text) == Progress({}, drained=True)


def test_more_replays_than_fit_are_refused_and_not_forgotten() -> None:
    with pytest.raises(MetadataError, match="replays"):
        encode(0, Progress({}, drained=True, replays=tuple(range(2**31, 2**31 + 100))), limit=64)


def sealed(body: bytes) -> str:
    return VERSION + base64.b85encode(body + binascii.crc32(body).to_bytes(4, "big")).decode()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("T2" + encode(5, Progress({}, drained=True)).text[2:], "another kind or version"),
        ("OffsetAndMetadata", "another kind or version"),
        ("T1", "checksum"),
        ("T1abc", "checksum"),
        ("T1 not base85 \x7f", "base85"),
        ("T1ünïcode", "base85"),
        (sealed(b""), "too early"),
        (sealed(b"\x01\x00\x00\x00\x00\x00\x00\x05"), "too early"),
    ],
)
def test_what_is_not_ours_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(MetadataError, match=says):
        decode(text)


@some
@given(offset, progress, st.data())
def test_a_changed_character_is_noticed(at: int, given_: Progress, data: st.DataObject) -> None:
    text = encode(at, given_).text
    where = data.draw(st.integers(min_value=0, max_value=len(text) - 1))
    other = data.draw(st.sampled_from("01AZaz!#~ é").filter(lambda character: character != text[where]))
    with pytest.raises(MetadataError):
        decode(text[:where] + other + text[where + 1 :])


@some
@given(offset, progress, st.data())
def test_a_cut_text_is_noticed(at: int, given_: Progress, data: st.DataObject) -> None:
    text = encode(at, given_).text
    with pytest.raises(MetadataError):
        decode(text[: data.draw(st.integers(min_value=0, max_value=len(text) - 1))])


@some
@given(st.text(max_size=200))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(MetadataError):
        decode(text)
