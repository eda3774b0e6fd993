"""What a step decides for a message. Values; the engine acts on them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from pipeline.messages import Message
from pipeline.records import Headers
from schemas.messages import Cause, Written


@dataclasses.dataclass(frozen=True, slots=True)
class Out:
    """A record for a topic. `key` None: the message's own key, hence its own partition; `headers` None: the message's own."""

    topic: str
    value: bytes
    key: str | None = None
    headers: Headers | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A row for a table; `value` None deletes it."""

    table: str
    key: str
    value: bytes | None


@dataclasses.dataclass(frozen=True, slots=True)
class Emit:
    """Done: these follow. With no `outs` the message ends here, and `synced` says so with `reason`."""

    outs: tuple[Out, ...] = ()
    rows: tuple[Row, ...] = ()
    reason: str = ""
    trail: tuple[Written, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Drop:
    """Not for Salesforce, and that is right; counted, and told in `synced`."""

    reason: str
    rows: tuple[Row, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Reject:
    """Refused for a fault of its own: to the dead letters, whole."""

    causes: tuple[Cause, ...]
    trail: tuple[Written, ...] = ()
    rows: tuple[Row, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Retry:
    """This message alone, again after some seconds, which double with each try; a bounded number of tries, then rejected with the cause."""

    after_seconds: float
    cause: Cause
    free: bool = False
    """Not the message's fault: does not count as a try."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wait:
    """For a row of a table that is not there, or not the one that is needed. Run again when the row changes.

    `seen` is the row that the step looked at (None: there was none); `outs` ask for the row, and are sent once for all who wait for it.
    After `again_seconds` without it the step is run again, and its `outs` may be sent again. After `longest_seconds` the message is rejected with `cause`, unless `longest_seconds` is None.
    """

    table: str
    key: str
    seen: bytes | None
    cause: Cause
    outs: tuple[Out, ...] = ()
    longest_seconds: float | None = None
    again_seconds: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """The fault of a lane, not of this message: the lane (a prefix of the message's lanes, its full name) waits, probed after a back-off.

    `at_least_seconds` is the shortest time until the next probe; None leaves it to the back-off.
    """

    lane: str
    cause: Cause
    at_least_seconds: float | None = None
    rows: tuple[Row, ...] = ()


Outcome = Emit | Drop | Reject | Retry | Wait | Block


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Messages of one org, no two of which exclude each other."""

    org: str
    messages: Sequence[Message]
    guard: Callable[[], None]
    """To be called just before a write goes out, also from a worker thread; raises LeaseLost where a partition of the batch is no longer this worker's."""


class Step(Protocol):
    """Decides: exactly one outcome for each message of the batch, in the order of the messages."""

    async def __call__(self, batch: Batch) -> Sequence[Outcome]: ...


class Table(Protocol):
    """A compacted topic, read whole into memory; what it holds is at least as new as the partition's assignment."""

    def get(self, key: str) -> bytes | None: ...
