"""Livestorm's webhook signature: header `x-livestorm-signature: <unix seconds>,<hex>`; pure.

hex is the plain SHA-256 (no HMAC) of timestamp + secret + raw body, as public code that checks it has it.
"""

import dataclasses
import enum
import hashlib
import hmac
import re
from typing import Final

HEADER: Final = "x-livestorm-signature"
AHEAD_SECONDS: Final = 300
"""A timestamp further ahead of our clock than this is refused."""

_SHAPE: Final = re.compile(r"\s*([0-9]{1,12})\s*,\s*([0-9a-fA-F]{64})\s*", re.ASCII)


class Standing(enum.Enum):
    """What the signature is worth."""

    OK = "ok"
    MISSING = "missing_signature"
    BAD = "bad_signature"
    TOO_OLD = "too_old"
    """The signature is right and the timestamp is out of the tolerance: a late retry, or a replayed capture."""
    AHEAD = "ahead"
    """The signature is right and the timestamp lies in the future: somebody's clock is wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    standing: Standing
    signed_at: int = 0
    """Unix s; 0 where the header could not be read."""


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """The header's value for a body that is sent at `timestamp` (Unix s)."""
    return f"{timestamp},{_digest(secret, str(timestamp), body)}"


def verify(secret: str, header: str | None, body: bytes, *, now: float, tolerance_seconds: int) -> Verdict:
    """Over the raw bytes, in constant time. Age is looked at last, so that `too old` always means `signature right`."""
    if header is None or not header.strip():
        return Verdict(Standing.MISSING)
    shape = _SHAPE.fullmatch(header)
    if shape is None:
        return Verdict(Standing.BAD)
    timestamp, given = shape.groups()
    if not hmac.compare_digest(_digest(secret, timestamp, body), given.lower()):
        return Verdict(Standing.BAD, int(timestamp))
    return Verdict(_age(now - int(timestamp), tolerance_seconds), int(timestamp))


def _digest(secret: str, timestamp: str, body: bytes) -> str:
    hashed = hashlib.sha256(timestamp.encode() + secret.encode())
    hashed.update(body)
    return hashed.hexdigest()


def _age(age_seconds: float, tolerance_seconds: int) -> Standing:
    if age_seconds > tolerance_seconds:
        return Standing.TOO_OLD
    if age_seconds < -AHEAD_SECONDS:
        return Standing.AHEAD
    return Standing.OK
