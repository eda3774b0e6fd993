"""The sweep: one group-less reader a worker that serves lagging lanes, one partition at a time, until they meet the main cursor.

It reads a partition from the lowest cursor of the lanes that are ready, takes their messages only, and leaves every other message alone.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Protocol

import anyio
import anyio.lowlevel
import structlog

from pipeline.dispatch import CROWD, RESCUE, Dispatcher
from pipeline.errors import NotAllowed, OffsetOutOfRange, TransportError
from pipeline.lanes import LaneKey
from pipeline.ledger import Lag, Ledger, Verdict
from pipeline.lines import Entry
from pipeline.messages import Message
from pipeline.records import Record
from pipeline.transport import Reader
from schemas.messages import Cause

log = structlog.get_logger()

_IDLE_SECONDS = 0.25
_FETCH_RECORDS = 2_000
_HAND_OVER_WITHIN = 4_000
"""Live reading pauses while the sweep makes up the last so many offsets."""

RETENTION = Cause(
    code="retention_guard",
    message="Its lane waited so long that the log would soon have lost it.",
    hint="Mend what the lane waits for, then `turnout dead-letters retry --cause retention_guard` brings all back, in order.",
)


class Swept(Protocol):
    """One partition as the sweep sees it."""

    number: int
    ledger: Ledger[Entry]
    hand_over: bool
    """While True, live reading of this partition pauses."""
    live_turn: bool
    """Live reading has had a turn since the last hand-over: lanes that are probed again and again must not keep it out."""

    @property
    def is_held(self) -> bool:
        """False once the partition is being let go of."""

    def wants(self, message: Message) -> bool: ...

    def message(self, record: Record) -> Message: ...


class Sweep:
    """See the module."""

    def __init__(
        self,
        topic: str,
        reader: Reader,
        dispatcher: Dispatcher,
        partitions: Callable[[], Sequence[Swept]],
        *,
        live_is_busy: Callable[[], bool],
        lost: Callable[[Swept, Sequence[Lag]], Awaitable[None]],
        share: float,
    ) -> None:
        self._topic, self._reader, self._dispatcher, self._partitions = topic, reader, dispatcher, partitions
        self._live_is_busy, self._lost, self._share = live_is_busy, lost, share
        self._last = -1
        self._kept: tuple[int, Sequence[Record]] | None = None
        """What was fetched and not yet looked at when a pass ended: partition and records."""
        self.serves: int | None = None
        """The partition that is read now; None: no lane is ready."""
        self.moves: Counter[int] = Counter()
        """By partition: how often reading has brought something or gone on."""

    async def run(self) -> None:
        """Serves ready lanes for ever."""
        await self._reader.start()
        try:
            while True:
                partition = self._next()
                self.serves = None if partition is None else partition.number
                if partition is None:
                    await self._idle()
                    continue
                try:
                    await self._pass(partition)
                except NotAllowed:
                    raise
                except TransportError as error:
                    log.warning("the sweep can't read now", partition=partition.number, error=str(error))
                    await anyio.sleep(_IDLE_SECONDS)
                finally:
                    partition.hand_over = False
        finally:
            with anyio.CancelScope(shield=True):
                await self._reader.stop()

    async def _idle(self) -> None:
        """Until something may have become ready; lanes that rest by time are looked at again shortly."""
        self._dispatcher.changed.clear()
        with anyio.move_on_after(_IDLE_SECONDS):
            await self._dispatcher.changed.wait()

    def _next(self) -> Swept | None:
        """The next partition, in turn, that has a lane to serve."""
        if self._dispatcher.full:
            return None
        held = sorted((partition for partition in self._partitions() if partition.is_held), key=lambda partition: partition.number)
        for partition in [other for other in held if other.number > self._last] + [other for other in held if other.number <= self._last]:
            if any(not lag.following and self._may_go(partition.ledger, lag) for lag in partition.ledger.lagging.values()):
                self._last = partition.number
                return partition
        return None

    def _ready(self, partition: Swept, position: int) -> dict[LaneKey, Lag]:
        """The lanes that may be served now and whose cursors are not below `position`."""
        ledger = partition.ledger
        return {key: lag for key, lag in ledger.lagging.items() if not lag.following and lag.read >= position and self._may_go(ledger, lag)}

    def _may_go(self, ledger: Ledger[Entry], lag: Lag) -> bool:
        if lag.state == RESCUE:
            return self._dispatcher.is_ready(lag, ())
        return self._dispatcher.is_ready(lag, _names(lag.name)) and all(
            other.state == CROWD or self._dispatcher.is_ready(other, _names(other.name)) for other in ledger.wider_lagging(lag)
        )

    def _in_doubt(self, lag: Lag) -> bool:
        """Whether the lane is only being probed: a batch and no more, for which live reading need not pause."""
        return any(self._dispatcher.board.in_doubt(name) for name in _names(lag.name))

    async def _pass(self, partition: Swept) -> None:
        ledger = partition.ledger
        position = min(lag.read for lag in self._ready(partition, 0).values())
        fetched = self._again(partition.number, position)
        if not fetched:
            self._reader.assign({(self._topic, partition.number): position})
        while partition.is_held and not self._dispatcher.full and (active := self._ready(partition, position)):
            started = anyio.current_time()
            if ledger.main - position > _HAND_OVER_WITHIN:
                partition.hand_over = False
            elif partition.live_turn and not all(self._in_doubt(lag) for lag in active.values()):
                partition.hand_over, partition.live_turn = True, False
            if position < ledger.main:
                if not fetched:
                    try:
                        fetched = await self._reader.fetch(1.0, _FETCH_RECORDS)
                    except OffsetOutOfRange:
                        await self._lost(partition, list(active.values()))
                        return
                    if not partition.is_held:
                        return
                    # While it was fetched a lane may have gone back below this place: what it has there is for a later pass.
                    active = self._ready(partition, position)
                began = position
                if not fetched:
                    # Nothing came: offsets up to the reader's position are gone (compacted, or a transaction's mark).
                    position = max(position, min(self._reader.position(self._topic, partition.number), ledger.main))
                self.moves[partition.number] += bool(fetched) or position > began
                looked_at, position = self._look(partition, fetched, active, position)
                fetched = fetched[looked_at:]
            for lag in active.values():
                ledger.swept(lag, position)
            if not partition.hand_over and self._live_is_busy():
                await anyio.sleep((anyio.current_time() - started) * (1 / self._share - 1))
            else:
                await anyio.lowlevel.checkpoint()
        self._kept = (partition.number, fetched) if fetched else None

    def _again(self, number: int, position: int) -> Sequence[Record]:
        """What the last pass fetched and left, where this one begins just there."""
        kept, self._kept = self._kept, None
        return kept[1] if kept is not None and kept[0] == number and kept[1][0].offset == position else ()

    def _look(self, partition: Swept, records: Sequence[Record], active: dict[LaneKey, Lag], position: int) -> tuple[int, int]:
        """Takes what belongs to the active lanes; a lane that can take no more leaves `active`. Returns how many were looked at, and the next offset."""
        ledger, dispatcher = partition.ledger, self._dispatcher
        for index, record in enumerate(records):
            if record.offset >= ledger.main:
                return index, ledger.main
            if not active:
                return index, record.offset
            message = partition.message(record)
            key = message.lane_key
            verdict = ledger.sweep(record.offset, key, record.timestamp_ms, active) if partition.wants(message) else Verdict.PASS
            if verdict is Verdict.TAKE:
                lag = ledger.owner(key)
                if lag is not None and lag.state == "waiting":
                    # Its wait began when the lane began to lag, not when it was read again.
                    message.waited_since_ms = lag.since_ms
                if lag is not None and lag.state == RESCUE and record.offset < lag.rescued_to:
                    message.refusal = RETENTION
                elif lag is not None and lag.state == RESCUE:
                    # What came since has its own time to wait.
                    lag.state = "blocked"
                closed = None if message.refusal else dispatcher.closed(message, ledger, lag)
                if closed is None and (message.refusal or not dispatcher.is_busy(message)):
                    dispatcher.hold(message, ledger, key)
                else:
                    active.pop(dispatcher.pass_over(ledger, message, key, closed).key, None)
            position = record.offset + 1
        return len(records), position


@lru_cache(maxsize=4_096)
def _names(name: str) -> tuple[str, ...]:
    """A lane's name and those of the wider ones, wide to narrow; none for a lane whose name is not known."""
    if not name:
        return ()
    parts = name.split("/")
    return tuple("/".join(parts[: count + 1]) for count in range(len(parts)))
