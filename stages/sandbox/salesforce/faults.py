"""Faults that a test asks for: which request or record one hits, and how often. Knows no HTTP and does not act on them."""

import dataclasses
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stages.sandbox.salesforce.refusals import RefusalError

RESOURCES = ("token", "query", "sobjects", "collections", "composite", "describe", "limits")
CONNECTION_FAULTS = frozenset({"http-503", "timeout", "drop-after-commit"})
"""They befall the whole call, also when what they match is a subrequest."""


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
        return float(self.kind.removeprefix("slow:")) if self.kind.startswith("slow:") else None

    @property
    def of_connection(self) -> bool:
        return self.kind in CONNECTION_FAULTS

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


def read(fault_id: str, spec: Any) -> Fault:
    """Checks a posted fault. Raises FaultError."""
    if not isinstance(spec, dict):
        raise FaultError("a fault is a JSON object")
    unknown = set(spec) - {"match", "fault", "message", "times", "share"}
    match = spec.get("match", {"resource": "*"})
    if unknown or not isinstance(match, dict) or set(match) - {"resource", "object", "email"}:
        raise FaultError('a fault has "match" (resource, object, email), "fault", "message", "times" and "share"')
    resource, kind, times, share = match.get("resource", "*"), spec.get("fault"), spec.get("times"), spec.get("share", 1)
    if resource not in (*RESOURCES, "*"):
        raise FaultError(f"resource must be one of: {', '.join(RESOURCES)}, *")
    if not isinstance(kind, str) or not kind:
        raise FaultError('"fault" is an error code, "http-503", "timeout", "drop-after-commit" or "slow:<ms>"')
    if kind.startswith("slow:") and not kind.removeprefix("slow:").replace(".", "", 1).isdigit():
        raise FaultError("slow:<ms> needs a number of milliseconds")
    if times is not None and (not isinstance(times, int) or isinstance(times, bool) or times < 0):
        raise FaultError("times is a whole number or null")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise FaultError("share is a number from 0 to 1")
    for key in ("object", "email"):
        if match.get(key) is not None and not isinstance(match[key], str):
            raise FaultError(f"{key} is a text")
    email = match.get("email")
    return Fault(
        fault_id, dict(spec), resource, match.get("object"), email and email.lower(), kind, spec.get("message"), times, float(share)
    )


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
