"""Livestorm's signature over the raw bytes."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from stages.livestorm.signature import Standing, sign, verify

SECRET = "whsec"
NOW = 1_793_000_000


def standing(header: str | None, body: bytes = b"{}", *, now: float = NOW, tolerance_seconds: int = 3600) -> Standing:
    return verify(SECRET, header, body, now=now, tolerance_seconds=tolerance_seconds).standing


@given(st.text(min_size=1), st.integers(0, 10**12 - 1), st.binary())
def test_what_is_signed_verifies(secret: str, timestamp: int, body: bytes) -> None:
    verdict = verify(secret, sign(secret, timestamp, body), body, now=timestamp, tolerance_seconds=1)
    assert verdict.standing is Standing.OK
    assert verdict.signed_at == timestamp


@given(st.binary(min_size=1), st.data())
def test_one_changed_byte_is_refused(body: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(body) - 1))
    changed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
    assert standing(sign(SECRET, NOW, body), changed) is Standing.BAD


def test_the_digest_is_plain_sha256_of_timestamp_secret_and_body() -> None:
    digest = hashlib.sha256(b"1793000000" + b"whsec" + b'{"a":1}').hexdigest()
    assert sign(SECRET, NOW, b'{"a":1}') == f"1793000000,{digest}"


def test_upper_case_hex_and_blanks_are_taken() -> None:
    timestamp, digest = sign(SECRET, NOW, b"{}").split(",")
    assert standing(f" {timestamp} , {digest.upper()} ") is Standing.OK


def test_age_is_counted_apart_only_where_the_signature_is_right() -> None:
    header = sign(SECRET, NOW, b"{}")
    assert standing(header, now=NOW + 3600) is Standing.OK
    assert standing(header, now=NOW + 3601) is Standing.TOO_OLD
    assert standing(header, now=NOW - 300) is Standing.OK
    assert standing(header, now=NOW - 301) is Standing.AHEAD
    assert standing(header, b"{ }", now=NOW + 3601) is Standing.BAD


def test_a_larger_tolerance_takes_an_older_one() -> None:
    header = sign(SECRET, NOW, b"{}")
    assert standing(header, now=NOW + 7000, tolerance_seconds=7200) is Standing.OK


def test_the_timestamp_is_part_of_what_is_signed() -> None:
    digest = sign(SECRET, NOW, b"{}").split(",")[1]
    assert standing(f"{NOW + 1},{digest}") is Standing.BAD


def test_headers_that_are_none() -> None:
    assert standing(None) is Standing.MISSING
    assert standing("  ") is Standing.MISSING
    digest = sign(SECRET, NOW, b"{}").split(",")[1]
    for header in ("x", digest, f"{NOW}", f"{NOW},", f"-{NOW},{digest}", f"{NOW},{digest}0", f"{NOW};{digest}", f"١٢,{digest}"):
        assert standing(header) is Standing.BAD
