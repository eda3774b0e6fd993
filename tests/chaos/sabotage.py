"""What goes wrong in one chaos run, and when: kills, stops and restarts of processes, faults of orgs. A plan from a seed; does nothing itself."""

import dataclasses
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, Literal

Kind = Literal["kill", "stop", "restart"]

BROKER: Final = "broker"
SESSION_SECONDS: Final = 30
"""How long the group waits for a worker that is silent: a longer stop loses it its partitions."""
LONG_RUN_SECONDS: Final = 150.0
BROKER_REST_SECONDS: Final = 25.0
REST_SECONDS: Final = 6.0


@dataclasses.dataclass(frozen=True, slots=True)
class Act:
    """`kill -9`, SIGSTOP until SIGCONT, or SIGTERM; `seconds` until it is started or continued."""

    at: float
    kind: Kind
    target: str
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """A fault as the stand-in org takes it, and what an admin does when it is over."""

    name: str
    fault: str
    resource: str = "*"
    object: str = ""
    message: str = ""
    share: float | None = None
    expires_tokens: bool = False
    checked: bool = False
    """`turnout check` is run when it is over: it tells waiting lanes to go on, which else are tried seldom."""


TROUBLES: Final = (
    Trouble("down", "http-503"),
    Trouble("no answer", "timeout", share=0.5),
    Trouble("slow", "slow:3000"),
    Trouble("very slow", "slow:12000", share=0.5),
    Trouble("daily limit", "REQUEST_LIMIT_EXCEEDED", message="TotalRequests Limit exceeded.", checked=True),
    Trouble(
        "concurrent limit", "REQUEST_LIMIT_EXCEEDED", message="ConcurrentRequests (Concurrent API Requests) Limit exceeded.", share=0.5
    ),
    Trouble("login refused", "invalid_grant", resource="token", message="expired access/refresh token", expires_tokens=True, checked=True),
    Trouble("answer lost", "drop-after-commit", share=0.4),
    Trouble("locked Lead", "UNABLE_TO_LOCK_ROW", object="Lead", share=0.3),
    Trouble("locked Contact", "UNABLE_TO_LOCK_ROW", object="Contact", share=0.3),
    Trouble("locked member", "UNABLE_TO_LOCK_ROW", object="CampaignMember", share=0.3),
    Trouble("locked Campaign", "UNABLE_TO_LOCK_ROW", object="Campaign", share=0.3),
)
"""None lasts longer in the org than the hold after a take-over (35 s): a call that is slower than that may end after it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Spell:
    """One org in one trouble for a while."""

    at: float
    org: str
    trouble: Trouble
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    acts: tuple[Act, ...]
    spells: tuple[Spell, ...]


def make(seed: int, seconds: float, parts: Sequence[str], orgs: Sequence[str], *, broker: bool) -> Plan:
    """The plan of that seed for `seconds`. Every target gets every kind, in an order of chance, before one comes again."""
    draw = random.Random(f"sabotage {seed}")
    acts = [*_acts(draw, seconds, parts), *(_of_broker(draw, seconds) if broker else ())]
    return Plan(tuple(sorted(acts, key=lambda act: act.at)), tuple(_spells(draw, seconds, orgs)))


def _acts(draw: random.Random, seconds: float, parts: Sequence[str]) -> Iterator[Act]:
    kinds: tuple[Kind, ...] = ("kill", "kill", "stop", "restart")
    deck: list[tuple[Kind, str]] = []
    busy_until: defaultdict[str, float] = defaultdict(float)
    at = draw.uniform(2, 5)
    while at < seconds:
        if not deck:
            deck = [(kind, part) for kind in kinds for part in parts]
            draw.shuffle(deck)
        place = next((place for place, (_, part) in enumerate(deck) if busy_until[part] <= at), None)
        if place is not None:
            kind, part = deck.pop(place)
            act = Act(round(at, 2), kind, part, round(_away(draw, kind, long=seconds >= LONG_RUN_SECONDS), 2))
            busy_until[part] = at + act.seconds + REST_SECONDS
            yield act
        at += draw.uniform(1.5, 7)


def _away(draw: random.Random, kind: Kind, *, long: bool) -> float:
    if kind == "stop":
        return draw.uniform(SESSION_SECONDS + 5, SESSION_SECONDS + 20) if long and draw.random() < 0.2 else draw.uniform(1, 10)
    return draw.uniform(0.1, 4) if kind == "kill" else draw.uniform(0, 1)


def _of_broker(draw: random.Random, seconds: float) -> Iterator[Act]:
    others: tuple[Kind, ...] = ("stop", "kill", "restart")
    kinds: list[Kind] = []
    at = draw.uniform(6, 12)
    while at < seconds:
        kinds = kinds or ["kill", *draw.sample(others, len(others))]
        kind = kinds.pop(0)
        act = Act(round(at, 2), kind, BROKER, round(draw.uniform(2, 8) if kind == "stop" else draw.uniform(0.1, 4), 2))
        yield act
        at += act.seconds + BROKER_REST_SECONDS * draw.uniform(1, 2)


def _spells(draw: random.Random, seconds: float, orgs: Sequence[str]) -> Iterator[Spell]:
    """Each org is in one trouble at a time."""
    deck: list[Trouble] = []
    busy_until: defaultdict[str, float] = defaultdict(float)
    at = draw.uniform(0, 3)
    while at < seconds:
        deck = deck or draw.sample(TROUBLES, len(TROUBLES))
        free = [org for org in orgs if busy_until[org] <= at]
        if free:
            org = draw.choice(free)
            spell = Spell(round(at, 2), org, deck.pop(), round(draw.uniform(3, min(40.0, max(6.0, seconds / 4))), 2))
            busy_until[org] = at + spell.seconds + 2
            yield spell
        at += draw.uniform(2, 8)
