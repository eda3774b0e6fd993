"""The flow, top to bottom: which topic each stage reads, what it runs, how its messages lie in lanes. Starts nothing."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Final

from pipeline.delivery import DEAD_LETTERS, SYNCED
from pipeline.kafka.settings import MIB
from pipeline.lanes import org_lane, session_lane, workspace_lane
from pipeline.messages import Message
from pipeline.outcomes import Step
from pipeline.replays import CONTROLS
from pipeline.stage import Gate, Limits, Stage
from pipeline.topics import TopicSpec
from pipeline.worker import LANES

RECEIVED: Final = "received"
NORMALIZED: Final = "normalized"
MATCHED: Final = "matched"
RESOLVED: Final = "resolved"
CHAIN: Final = (RECEIVED, NORMALIZED, MATCHED, RESOLVED, SYNCED)
TABLES: Final = ("orgs", "workspaces", "events", "sessions", "campaigns", "accounts", LANES, CONTROLS)

STAGES: Final = {
    # stage                 reads        looks up
    "normalize": (RECEIVED, ("orgs", "workspaces", "events", "sessions", LANES, CONTROLS)),
    "match": (NORMALIZED, ("orgs", "workspaces", LANES, CONTROLS)),
    "create": (MATCHED, ("orgs", "workspaces", "events", "sessions", "campaigns", "accounts", LANES, CONTROLS)),
    "campaign-membership": (RESOLVED, ("orgs", "workspaces", "events", "sessions", "campaigns", "accounts", LANES, CONTROLS)),
}
"""The steps of the flow, in its order."""

PARTS: Final = ("ingress", *STAGES, "console")
"""What `turnout run` takes."""

_BY_SESSION: Final = ("normalize", "campaign-membership")
"""Where messages wait for their session or its Campaign, the session is a lane: whoever waits holds up no other session of the person."""


def topics(*, partitions: int, replication: int, retention_hours: int) -> list[TopicSpec]:
    """All topics. Those of the chain and of the tables have one number of partitions, so that a key keeps its number all the way."""
    read = {topic for topic, _ in STAGES.values()}
    logs = [TopicSpec(name, partitions, replication, retention_hours=retention_hours, cursors=name in read) for name in CHAIN]
    # A dead letter holds a whole message, base64, so its topic takes larger records than any other.
    letters = TopicSpec(DEAD_LETTERS, partitions, replication, retention_hours=max(retention_hours, 24 * 90), max_message_bytes=4 * MIB)
    tables = [TopicSpec(name, partitions, replication, compacted=True) for name in TABLES]
    return [*logs, letters, *tables]


def stage(
    name: str,
    step: Step,
    gate: Gate,
    answers: Callable[[str], int] | None = None,
    *,
    batch_wait_ms: int | None = None,
    retention_hours: int = 336,
) -> Stage:
    """One stage of the flow with its lanes and bounds. `answers`: how many calls an org has answered; None: that is not counted."""
    last = name == "campaign-membership"
    by_session = name in _BY_SESSION
    limits = Limits(retention_seconds=retention_hours * 3600.0)
    if name == "normalize":
        # It calls no org, so that a fuller batch saves nothing: what is soon worked on and gone is still in the processor's caches.
        limits = dataclasses.replace(limits, wait_first_seconds=0.002, wait_longest_seconds=0.02, flowing_messages=500)
    if batch_wait_ms is not None:
        fixed = batch_wait_ms / 1000
        limits = dataclasses.replace(limits, wait_first_seconds=fixed, wait_fixed_seconds=fixed, wait_longest_seconds=max(fixed, 0.001))
    return Stage(
        name=name,
        reads=STAGES[name][0],
        step=step,
        shared_lanes=shared_lanes(name),
        urgent=lambda message: message.kind in ("session", "event", "company"),
        serial=(lambda message: message.session) if last else (lambda message: ""),
        waiting_lane=lambda message: message.shared_lanes[-1] if by_session and message.kind == "registration" else message.lanes[-1],
        gate=gate,
        limits=limits,
        answers=None if name == "normalize" else answers,
        last=last,
    )


def shared_lanes(stage: str) -> Callable[[Message], tuple[str, ...]]:
    """What gives the lanes that a message shares with others in this stage, wide to narrow."""
    return _lanes_to_session if stage in _BY_SESSION else _lanes_to_workspace


def _lanes_to_workspace(message: Message) -> tuple[str, ...]:
    if message.kind == "company":
        # Askers of other workspaces wait for it too.
        return _org_only(message.org)
    return _to_workspace(message.org, message.workspace)


def _lanes_to_session(message: Message) -> tuple[str, ...]:
    if message.kind != "registration":
        return _lanes_to_workspace(message)
    return _to_session(message.org, message.workspace, message.session)


class _Known(dict[tuple[str, ...], tuple[str, ...]]):
    """Lane names that were made before: one tuple for all messages that share them. Emptied when it grows too large."""

    MOST = 50_000

    def keep(self, place: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
        if len(self) >= self.MOST:
            self.clear()
        self[place] = names
        return names


_known = _Known()


def _org_only(org: str) -> tuple[str, ...]:
    return _known.get((org,)) or _known.keep((org,), (org_lane(org),))


def _to_workspace(org: str, workspace: str) -> tuple[str, ...]:
    place = (org, workspace)
    return _known.get(place) or _known.keep(place, (org_lane(org), workspace_lane(org, workspace)))


def _to_session(org: str, workspace: str, session: str) -> tuple[str, ...]:
    place = (org, workspace, session)
    return _known.get(place) or _known.keep(place, (*_to_workspace(org, workspace), session_lane(org, workspace, session)))


def tables_of(parts: Mapping[str, object] | list[str]) -> tuple[str, ...]:
    """The tables that these stages look up, each once."""
    return tuple(dict.fromkeys(name for part in parts if part in STAGES for name in STAGES[part][1]))
