"""Faults that a test asks for: which request or record one hits, and how often. Knows no HTTP and does not act on them."""

import dataclasses
import random
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from stages.sandbox.salesforce.refusals import RefusalError

RESOURCES = ("token", "query", "sobjects", "collections", "composite", "describe", "limits")
WITHOUT_RECORDS = ("token", "limits")
LONGEST_SLOW_MS = 24 * 3_600_000
_KINDS = (
    'an error code of Salesforce in capitals (of the token resource: an OAuth error like invalid_grant), "http-" and a status from 400 to 599, '
    f'"timeout", "drop-after-commit", or "slow:" and milliseconds up to {LONGEST_SLOW_MS}'
)
_CODE = re.compile(r"[A-Z][A-Z0-9_]*")
_OAUTH_ERROR = re.compile(r"[a-z][a-z_]*")
_STATUS = re.compile(r"http-([45][0-9]{2})")
_SLOW = re.compile(r"slow:([0-9]{1,9}(?:\.[0-9]{1,9})?)")


class FaultError(Exception):
    """The fault can't be taken; the text says what is wrong with it."""


@dataclasses.dataclass(slots=True)
class Fault:
    """`times` is how many hits are left, None for ever. `share` of the possible hits are hits."""

    id: str
    spec: Mapping[str, Any]
    resource: str
    object: str | None
    email: str | None
    kind: str
    message: str | None
    times: int | None
    share: float
    hits: int = 0

    @property
    def narrow(self) -> bool:
        """Whether it is about some records only."""
        return self.object is not None or self.email is not None

    @property
    def slow_ms(self) -> float | None:
        return _slow_ms(self.kind)

    @property
    def http_status(self) -> int | None:
        """Of a page that answers in place of the org."""
        return _http_status(self.kind)

    @property
    def of_connection(self) -> bool:
        """It befalls the whole call, also when what it matches is a subrequest."""
        return self.kind in ("timeout", "drop-after-commit") or self.http_status is not None

    @property
    def is_code(self) -> bool:
        return not self.of_connection and self.slow_ms is None

    def refusal(self) -> RefusalError:
        return RefusalError(self.kind, self.message, [])

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, **self.spec, "hits": self.hits, "left": self.times}


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """One record that a request is about: its object and its address in lower case. `text` is a query's, where addresses may stand."""

    object: str
    email: str | None = None
    text: str | None = None


def _slow_ms(kind: str) -> float | None:
    found = _SLOW.fullmatch(kind)
    return None if found is None else float(found[1])


def _http_status(kind: str) -> int | None:
    found = _STATUS.fullmatch(kind)
    return None if found is None else int(found[1])


def read(fault_id: str, spec: Any, objects: Container[str]) -> Fault:
    """Checks a posted fault; `objects` are the org's, in lower case. Raises FaultError."""
    if not isinstance(spec, dict):
        raise FaultError("a fault is a JSON object")
    unknown = set(spec) - {"match", "fault", "message", "times", "share"}
    match = spec.get("match", {"resource": "*"})
    if unknown or not isinstance(match, dict) or set(match) - {"resource", "object", "email"}:
        raise FaultError('a fault has "match" (resource, object, email), "fault", "message", "times" and "share"')
    resource, kind, times, share = match.get("resource", "*"), spec.get("fault"), spec.get("times"), spec.get("share", 1)
    if resource not in (*RESOURCES, "*"):
        raise FaultError(f"resource must be one of: {', '.join(RESOURCES)}, *")
    if not isinstance(kind, str) or not _known(kind, resource):
        raise FaultError(f"fault must be {_KINDS}")
    if times is not None and (not isinstance(times, int) or isinstance(times, bool) or not 0 <= times < 2**31):
        raise FaultError("times is a whole number, or null for ever")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise FaultError("share is a number from 0 to 1")
    for key, text in (("message", spec.get("message")), ("object", match.get("object")), ("email", match.get("email"))):
        if text is not None and not isinstance(text, str):
            raise FaultError(f"{key} is a text")
    object_, email = match.get("object"), match.get("email")
    if object_ is not None and object_.lower() not in objects:
        raise FaultError(f"object: no such object: {object_}")
    if email is not None and not email.strip():
        raise FaultError("email is empty")
    if resource in WITHOUT_RECORDS and (object_ is not None or email is not None):
        raise FaultError(f"object and email: resource {resource} is about no records")
    return Fault(fault_id, dict(spec), resource, object_, email and email.strip().lower(), kind, spec.get("message"), times, float(share))


def _known(kind: str, resource: str) -> bool:
    if _CODE.fullmatch(kind) or kind in ("timeout", "drop-after-commit") or _http_status(kind) is not None:
        return True
    if resource == "token" and _OAUTH_ERROR.fullmatch(kind):
        return True
    return (slow_ms := _slow_ms(kind)) is not None and slow_ms <= LONGEST_SLOW_MS


class Faults:
    """The standing faults of one org. Chance comes from a fixed seed, so that a test that repeats a run repeats its faults."""

    def __init__(self) -> None:
        self.standing: dict[str, Fault] = {}
        self._random = random.Random(0)

    def for_request(self, resource: str, targets: Sequence[Target], *, inside: bool) -> list[Fault]:
        """Faults that could befall this whole (sub)request; `inside` a composite, whose own faults are dealt with at its door."""
        return [
            fault
            for fault in self.standing.values()
            if self._about(fault, resource, inside=inside) and (not fault.narrow or any(_hits(fault, target) for target in targets))
        ]

    def hit(self, fault: Fault) -> bool:
        """Takes one hit if chance and `times` allow it."""
        if fault.times == 0 or (fault.share < 1 and self._random.random() >= fault.share):
            return False
        fault.hits += 1
        if fault.times is not None:
            fault.times -= 1
        return True

    def refused_records(self, faults: Iterable[Fault], targets: Sequence[Target]) -> dict[int, RefusalError]:
        """Position -> refusal, for faults about some records."""
        refused: dict[int, RefusalError] = {}
        for fault in faults:
            if fault.narrow and fault.is_code:
                for at, target in enumerate(targets):
                    if at not in refused and _hits(fault, target) and self.hit(fault):
                        refused[at] = fault.refusal()
        return refused

    @staticmethod
    def _about(fault: Fault, resource: str, *, inside: bool) -> bool:
        if fault.resource == resource:
            return True
        if fault.resource == "*":
            return resource != "token" and (fault.narrow or not inside)
        return inside and fault.resource == "composite" and fault.narrow


def _hits(fault: Fault, target: Target) -> bool:
    if fault.object is not None and fault.object.lower() != target.object.lower():
        return False
    if fault.email is None:
        return True
    return target.email == fault.email or (target.text is not None and fault.email in target.text)
