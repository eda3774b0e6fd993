"""What a soak does, and when: its stretches, which orgs never answer well and how, when each of the others is back. Pure, from a seed."""

import dataclasses
import random
from collections.abc import Iterator, Mapping
from typing import Final

FAILING_SHARE: Final = 0.05
LONGEST_OUTAGE_SECONDS: Final = 600.0
"""Ten minutes, from a soak of 50 minutes on; a shorter one is scaled down."""
WARM_SHARE, OUTAGE_SHARE, BACK_SHARE = 0.1, 0.2, 0.2
QUARTERS: Final = 4

WARM, FAILING, OUTAGE, BACK, CAUGHT_UP = "all well", "some fail for ever", "all are down", "one by one they are back", "caught up"


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """A fault as the stand-in org takes it."""

    name: str
    fault: str
    resource: str = "*"
    message: str = ""
    expires_tokens: bool = False


DOWN: Final = Trouble("down", "http-503")
FOREVER: Final = (
    Trouble("no answer", "timeout"),
    DOWN,
    Trouble("login refused", "invalid_grant", "token", "expired access/refresh token", expires_tokens=True),
    Trouble("daily limit", "REQUEST_LIMIT_EXCEEDED", message="TotalRequests Limit exceeded."),
)
"""Taken in turn. The first holds a place for a call until its deadline, each time: the dearest."""


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """A part of a stretch; seconds from the start."""

    stretch: str
    number: int
    start: float
    end: float


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Stretches follow each other: `warm` seconds, then `failing`, `outage`, `back`. `failing_orgs`: by number; `back_at`: seconds from
    the start, by number, of each of the others."""

    warm: float
    failing: float
    outage: float
    back: float
    failing_orgs: Mapping[int, Trouble]
    back_at: Mapping[int, float]

    @property
    def fails_at(self) -> float:
        return self.warm

    @property
    def down_at(self) -> float:
        return self.warm + self.failing

    @property
    def seconds(self) -> float:
        return self.warm + self.failing + self.outage + self.back

    def windows(self) -> Iterator[Window]:
        """The first stretch is one window, each other one four."""
        start = 0.0
        for stretch, seconds, parts in (
            (WARM, self.warm, 1), (FAILING, self.failing, QUARTERS), (OUTAGE, self.outage, QUARTERS), (BACK, self.back, QUARTERS),
        ):  # fmt: skip
            for number in range(parts):
                yield Window(stretch, number, start + seconds * number / parts, start + seconds * (number + 1) / parts)
            start += seconds


def make(seed: int, minutes: float, orgs: int) -> Plan:
    """The plan of that seed. At least one org fails for ever, and one does not."""
    draw = random.Random(f"soak {seed}")
    seconds = minutes * 60
    warm, outage = seconds * WARM_SHARE, min(LONGEST_OUTAGE_SECONDS, seconds * OUTAGE_SHARE)
    back = min(LONGEST_OUTAGE_SECONDS, seconds * BACK_SHARE)
    chosen = draw.sample(range(orgs), min(orgs - 1, max(1, round(orgs * FAILING_SHARE))))
    failing = {org: FOREVER[place % len(FOREVER)] for place, org in enumerate(chosen)}
    starts = seconds - back
    back_at = {org: starts + draw.uniform(0, back) for org in range(orgs) if org not in failing}
    return Plan(warm, seconds - warm - outage - back, outage, back, failing, back_at)
