"""Replays: commands in the table `controls`, each a range that is read again beside the live reading. Nothing is copied, nothing stops.

A replay has a ledger of its own for each partition: lanes that are blocked or busy lag in it as they do in the live one, and the same
sweep serves them. Its messages carry the replay's id as their mark, all the way down.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio
import msgspec
import structlog

from pipeline.dispatch import Dispatcher
from pipeline.errors import NotAllowed, OffsetOutOfRange, TransportError
from pipeline.lanes import org_lane, session_lane, workspace_lane
from pipeline.partition import Partition, Replay, short_id
from pipeline.stage import Stage
from pipeline.tables import Tables, readable
from pipeline.transport import Transport
from schemas.tables import LaneRow, ReplayRow

log = structlog.get_logger()

CONTROLS = "controls"
LANES = "lanes"
MOST = 16
"""Replays under way at once in one partition; more wait for their turn. A commit has room for these."""

_FETCH_SECONDS = 0.5
_FETCH_RECORDS = 1_000
_IDLE_SECONDS = 1.0
_encoder = msgspec.json.Encoder()

WriteRows = Callable[[Mapping[str, bytes | None]], Awaitable[None]]


def row_key(stage: str, partition: int, id: str) -> str:
    """Key in the table `lanes` of what is told of a replay in one partition."""
    return f"{stage}|{partition}|replay:{id}"


class Replays:
    """Starts, reads and ends the replays of one worker."""

    def __init__(
        self,
        stage: Stage,
        tables: Tables,
        transport: Transport,
        dispatcher: Dispatcher,
        partitions: Callable[[], Sequence[Partition]],
        write_rows: WriteRows,
        *,
        live_is_busy: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._stage, self._transport, self._dispatcher = stage, transport, dispatcher
        self._reader = transport.reader()
        self._lanes = tables[LANES]
        self._controls = tables[CONTROLS]
        self._partitions, self._write_rows, self._live_is_busy, self._clock = partitions, write_rows, live_is_busy, clock
        self.changed = asyncio.Event()
        """Set when there may be a replay to start."""
        self._controls.subscribe(lambda key: self.changed.set())

    async def run(self) -> None:
        """Reads what is to be replayed, for ever; gives way to live reading."""
        await self._reader.start()
        try:
            while True:
                self.changed.clear()
                self._start()
                unread = [replay for replay in self._under_way() if replay.ledger.main < replay.end and replay.is_held]
                for replay in unread:
                    try:
                        await self._read(replay)
                    except NotAllowed:
                        raise
                    except TransportError as error:
                        log.warning("a replay can't be read now", stage=self._stage.name, replay=replay.row.id, error=str(error))
                        await anyio.sleep(_IDLE_SECONDS)
                if not unread:
                    with anyio.move_on_after(_IDLE_SECONDS):
                        await self.changed.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await self._reader.stop()

    def committed(self, partition: Partition) -> tuple[int, ...]:
        """What a commit carries: short id and floor of each replay under way, in turn; and of those that were, and are not begun here yet."""
        floors = partition.replays_committed | {short_id(id): replay.ledger.floor() for id, replay in partition.replays.items()}
        return tuple(number for floor in floors.items() for number in floor)

    async def tell(self) -> None:
        """Progress, and ends, as rows of the table `lanes`."""
        rows: dict[str, bytes | None] = {}
        ended: list[Replay] = []
        now_ms = int(self._clock() * 1000)
        for replay in self._under_way():
            done = replay.is_done
            if done:
                ended.append(replay)
            key = row_key(self._stage.name, replay.number, replay.row.id)
            row = LaneRow(
                lane=_name(replay.row), state="done" if done else "replay", since=replay.row.at, oldest_at=0,
                waiting=0 if done else replay.end - replay.ledger.floor(), cause=_cause(replay), next_try_at=0,
            )  # fmt: skip
            value = _encoder.encode(row)
            if done:
                replay.beside.replays_ended[replay.row.id] = value
            elif self._lanes.get(key) != value:
                rows[key] = value
        for partition in self._partitions():
            for id, value in partition.replays_ended.items():
                key = row_key(self._stage.name, partition.number, id)
                if self._lanes.get(key) != value:
                    rows[key] = value
        await self._write_rows(rows)
        # Only those of which the rows say so: one that ended meanwhile and went without its row would be started again.
        for partition in self._partitions():
            for replay in ended:
                if partition.replays.get(replay.row.id) is replay:
                    del partition.replays[replay.row.id]
                    log.info("replay is done", stage=self._stage.name, partition=partition.number, replay=replay.row.id, at_ms=now_ms)

    def _under_way(self) -> list[Replay]:
        return [replay for partition in self._partitions() for replay in partition.replays.values()]

    def _start(self) -> None:
        known = set()
        for key, value in dict(self._controls.items()).items():
            row = readable("controls", key, value, ReplayRow)
            if row is not None and row.stage == self._stage.name:
                known.add(short_id(row.id))
                for partition in self._partitions():
                    self._start_in(partition, row)
        for partition in self._partitions():
            # A commit has no room for what nobody asks for any more.
            for id in partition.replays_committed.keys() - known:
                del partition.replays_committed[id]

    def _start_in(self, partition: Partition, row: ReplayRow) -> None:
        if str(partition.number) not in row.ranges or row.id in partition.replays or row.id in partition.replays_ended or partition.closing:
            return
        key = row_key(self._stage.name, partition.number, row.id)
        value = self._lanes.get(key)
        told = readable(self._lanes.name, key, value, LaneRow)
        if value is not None and told is not None and told.state == "done":
            partition.replays_ended[row.id] = value
            partition.replays_committed.pop(short_id(row.id), None)
        elif len(partition.replays) < MOST:
            partition.replays[row.id] = Replay(partition, row, self._stage, int(self._clock() * 1000))

    async def _read(self, replay: Replay) -> None:
        """The next stretch of a replay."""
        if self._dispatcher.full:
            await anyio.sleep(_FETCH_SECONDS)
            return
        ledger = replay.ledger
        place = (self._stage.reads, replay.number)
        started = anyio.current_time()
        self._reader.assign({place: ledger.main})
        try:
            records = await self._reader.fetch(_FETCH_SECONDS, _FETCH_RECORDS)
        except OffsetOutOfRange:
            await self._missing(replay)
            await anyio.sleep(_IDLE_SECONDS)
            return
        if not replay.is_held:
            return
        for record in records:
            if record.offset >= replay.end:
                ledger.skip_to(replay.end)
                break
            message = replay.message(record)
            if replay.wants(message):
                self._dispatcher.admit(message, ledger)
            else:
                ledger.skip_to(record.offset + 1)
        if not records:
            ledger.skip_to(min(self._reader.position(*place), replay.end))
            if ledger.main < replay.end:
                await self._missing(replay)
        if self._live_is_busy():
            await anyio.sleep((anyio.current_time() - started) * (1 / self._stage.limits.sweep_share - 1))

    async def _missing(self, replay: Replay) -> None:
        """Nothing is at the place of a replay: looks whether the log still has it. What is gone is passed over, and told."""
        ledger = replay.ledger
        start, end = (await self._transport.cluster.offsets(self._stage.reads))[replay.number]
        if end < replay.end:
            replay.give_up(end)
        elif ledger.main < start:
            lost_to = min(start, replay.end)
            replay.missing = f"{ledger.main} to {lost_to - 1} were no longer in the log"
            ledger.skip_to(lost_to)
        else:
            return
        log.warning("a part of a replay is no longer in the log", stage=self._stage.name, replay=replay.row.id, missing=replay.missing)


def _cause(replay: Replay) -> str:
    """Which replay it is, what of it is missing, and what it waits for, if it does."""
    waits = [lag for lag in replay.ledger.lagging.values() if lag.name and not lag.following]
    more = f"; {len(waits)} of its lanes wait, {waits[0].name} for this: {waits[0].cause}" if waits else ""
    missing = f"; {replay.missing}" if replay.missing else ""
    return f"replay: {replay.row.id}{missing}{more}"


def _name(row: ReplayRow) -> str:
    """The lane's name, as far as the replay is bound to one."""
    if not row.workspace:
        return org_lane(row.org or "*")
    return session_lane(row.org, row.workspace, row.session) if row.session else workspace_lane(row.org, row.workspace)
