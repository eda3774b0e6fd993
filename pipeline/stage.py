"""What a stage is, as a value: where it reads, what it runs, how its messages lie in lanes, and its named bounds."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

from pipeline.board import Probing
from pipeline.messages import Message
from pipeline.outcomes import Step
from schemas.messages import Cause

MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of one stage in one worker."""

    batch_messages: int = 1_000
    """The most messages that one run of the step gets."""
    org_batches: int = 2
    """Batches of one org under way at once; one while the org is in doubt."""
    org_messages: int = 4_000
    """Messages of one org queued or in flight; beyond it the org's lane lags (busy)."""
    org_bytes: int = 10 * MIB
    """The same, in bytes."""
    total_messages: int = 20_000
    """Messages held in memory by the stage; beyond it reading pauses."""
    total_bytes: int = 48 * MIB
    flowing_messages: int = 5_000
    """Messages of orgs that are being worked off; beyond it reading lets them be worked off first."""
    resting_messages: int = 4_000
    """Messages that rest before a retry or wait for a row; beyond it their narrowest lanes lag."""
    resting_bytes: int = 10 * MIB
    """The same, in bytes."""
    org_resting_messages: int = 1_000
    org_resting_bytes: int = 3 * MIB
    fetch_messages: int = 1_000
    poll_seconds: float = 10.0
    """While memory is full, the group is polled so often, without reading; far below Kafka's `max.poll.interval.ms`."""
    tries: int = 6
    """How often one message is tried for a fault of its own."""
    retry_longest_seconds: float = 60.0
    step_seconds: float = 150.0
    """The longest that a run of the step may take: several calls of at most 30 s each."""
    wait_first_seconds: float = 0.02
    """How long a batch is filled when the stage is idle, for each message of the batch before …"""
    wait_longest_seconds: float = 1.0
    """… but no longer than this."""
    wait_fixed_seconds: float | None = None
    """A fixed wait instead."""
    slow_seconds: float = 10.0
    """A batch that took longer is halved the next time."""
    grace_seconds: float = 40.0
    """How long calls in flight are awaited when a partition is let go; shorter than the group's rebalance time."""
    stop_seconds: float = 60.0
    takeover_seconds: float = 35.0
    """After a take-over that wasn't clean: how long an owner before may still have a call under way (its deadline and a margin)."""
    commit_seconds: float = 1.0
    lanes_told: int = 500
    """Rows in the table `lanes` that one partition writes at the most."""
    finished_remembered: int = 200_000
    """Finished offsets that are remembered since a lane could come back to them; of one partition its share, or 2,000."""
    lagging_lanes: int = 4_000
    """Lanes of one order key each that may lag; of one org a quarter of what is left. Beyond it the next wider lane lags."""
    sweep_share: float = 0.2
    """The sweep's share of the time while live reading has work."""
    retention_seconds: float | None = None
    """How long the log keeps a message; None: for ever."""
    retention_warned: float = 0.5
    """Share of the retention at which a waiting lane is warned of …"""
    retention_rescued: float = 0.8
    """… and at which its messages go to the dead letters."""
    stuck_seconds: float = 120.0
    """With lag, and nothing finished for so long, the worker is no longer ready."""
    probing: Probing = Probing()


@dataclasses.dataclass(frozen=True, slots=True)
class Closed:
    """A lane that the product keeps closed: a workspace paused by hand, settings that can't be used."""

    lane: str
    state: str
    """paused or blocked."""
    cause: Cause


class Gate(Protocol):
    """The product's word on which lanes are closed for reasons that the engine doesn't know."""

    def closed(self, message: Message) -> Closed | None:
        """Asked for each message before it is worked on: must be quick."""

    def lane_closed(self, lane: str) -> bool:
        """Whether the lane of that name is closed now."""


class OpenGate:
    """Closes nothing."""

    def closed(self, message: Message) -> Closed | None:
        return None

    def lane_closed(self, lane: str) -> bool:
        return False


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a flow."""

    name: str
    """Its consumer group, too."""
    reads: str
    """The topic it reads."""
    step: Step
    shared_lanes: Callable[[Message], tuple[str, ...]]
    """Names of a message's lanes but for the narrowest, wide to narrow; at least the org's."""
    urgent: Callable[[Message], bool] = lambda message: False
    """Messages that others wait for: never passed over because their lane is busy."""
    serial: Callable[[Message], str] = lambda message: ""
    """Batches whose messages share a serial never run side by side in a worker; empty: none."""
    waiting_lane: Callable[[Message], str] = lambda message: message.lanes[-1]
    """What lags where more wait for a row than memory holds: a lane whose messages all wait for it."""
    gate: Gate = OpenGate()
    limits: Limits = Limits()
    answers: Callable[[str], int] | None = None
    """How many calls the org has answered so far: what gets through without a call says nothing of an org in doubt. None: nobody is called."""
    last: bool = False
    """Its Emit is the end of the way: what it delivers is timed from the door."""


class Observer(Protocol):
    """What the engine tells of itself. Must be quick and never raise."""

    def outcome(self, stage: str, org: str, outcome: str, reason: str, count: int) -> None: ...

    def delivered(self, seconds: float) -> None:
        """From the door to the end of the flow."""

    def lag(self, stage: str, messages: dict[str, int], seconds: dict[str, float]) -> None:
        """By org: unfinished messages known to this worker, and the age of the oldest."""

    def unread(self, stage: str, messages: int) -> None:
        """How many messages of its partitions this worker has not read yet: whose they are is not known."""

    def lanes(self, stage: str, counts: dict[tuple[str, str], int]) -> None:
        """By (state, cause)."""

    def committed(self, stage: str, partitions: int) -> None: ...

    def rebalanced(self, stage: str, partitions: int) -> None: ...

    def retention(self, stage: str, used: float) -> None:
        """Age of the oldest cursor over the retention."""

    def incident(self, stage: str, kind: str, count: int) -> None:
        """Something that must be looked at: lost offsets, foreign commits, a writer that was replaced …"""


class SilentObserver:
    """Tells nobody."""

    def outcome(self, stage: str, org: str, outcome: str, reason: str, count: int) -> None: ...

    def delivered(self, seconds: float) -> None: ...

    def lag(self, stage: str, messages: dict[str, int], seconds: dict[str, float]) -> None: ...

    def unread(self, stage: str, messages: int) -> None: ...

    def lanes(self, stage: str, counts: dict[tuple[str, str], int]) -> None: ...

    def committed(self, stage: str, partitions: int) -> None: ...

    def rebalanced(self, stage: str, partitions: int) -> None: ...

    def retention(self, stage: str, used: float) -> None: ...

    def incident(self, stage: str, kind: str, count: int) -> None: ...
