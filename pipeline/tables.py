"""Tables: compacted topics, each read whole into memory by one group-less reader, and the waits on their rows."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import anyio
import msgspec
import structlog

from pipeline.errors import NotAllowed, OffsetOutOfRange, Stuck, TransportError
from pipeline.records import Ack, Record
from pipeline.transport import Reader, Transport
from pipeline.watchdog import Place, Sight, Watchdog

log = structlog.get_logger()
R = TypeVar("R", bound=msgspec.Struct)

_FETCH_SECONDS = 0.5
_FETCH_RECORDS = 5_000
_PAUSE_AFTER_ERROR_SECONDS = 1.0
_WATCH_SECONDS = 10.0
_ASKED = 10_000
"""Questions that are remembered."""
_SILENT_SECONDS = 30.0
"""For so long the log may leave questions unanswered."""


def readable(table: str, key: str, raw: bytes | None, shape: type[R]) -> R | None:
    """A row, or a record of another topic, decoded. One that can't be read counts as missing, and is logged."""
    try:
        return None if raw is None else msgspec.json.decode(raw, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.error("a row can't be read and counts as missing", table=table, key=key, error=str(error))
        return None


class Table:
    """One table in memory: key to row, as bytes. What this process wrote is there as soon as it is acknowledged."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._rows: dict[str, bytes] = {}
        self._ahead: dict[str, int] = {}
        self._read: dict[int, int] = {}
        """Per partition, the offset of the record that was read last."""
        self._listeners: list[Callable[[str], None]] = []

    def get(self, key: str) -> bytes | None:
        return self._rows.get(key)

    def items(self) -> Iterator[tuple[str, bytes]]:
        """A snapshot of all rows."""
        return iter(list(self._rows.items()))

    def __len__(self) -> int:
        return len(self._rows)

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with the key after each change of a row."""
        self._listeners.append(listener)

    def written(self, key: str, value: bytes | None, ack: Ack) -> None:
        """A row of this process's own was acknowledged (a key has one partition): older records of it no longer count.

        One that was read already counts no more: somebody else may have written a later one, which was read too.
        """
        if ack.offset > max(self._ahead.get(key, -1), self._read.get(ack.partition, -1)):
            self._ahead[key] = ack.offset
            self._set(key, value)

    def begin_anew(self) -> None:
        """The topic was made anew: its offsets say nothing of what was read and written before."""
        self._ahead.clear()
        self._read.clear()

    def read(self, record: Record) -> None:
        """A record of the topic was read."""
        self._read[record.partition] = record.offset
        try:
            key = (record.key or b"").decode()
        except UnicodeDecodeError:
            log.warning(
                "table row with an unreadable key was passed over", table=self.name, partition=record.partition, offset=record.offset
            )
            return
        ahead = self._ahead.get(key)
        if ahead is not None:
            if record.offset < ahead:
                return
            del self._ahead[key]
        self._set(key, record.value)

    def _set(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = value
        for listener in self._listeners:
            listener(key)


class Tables:
    """All tables that a process needs, and the one reader that keeps them."""

    def __init__(self, transport: Transport, names: Sequence[str], stuck_seconds: float = 120.0) -> None:
        """`stuck_seconds`: with records to read, and nothing read for so long, there is trouble; after twice that only a start anew helps."""
        self._transport, self._stuck_seconds = transport, stuck_seconds
        self._tables = {name: Table(name) for name in names}
        self._positions: dict[tuple[str, int], int] = {}
        self._progress = asyncio.Event()
        self._watchdog: Watchdog | None = None

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tables

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Reads for ever; started when every table is as new as its topic was at the start. Raises TopicMissing then, and Stuck."""
        if not self._tables:
            task_status.started()
            await anyio.sleep_forever()
        reader = self._transport.reader()
        await reader.start()
        try:
            await self._rewind(reader)
            async with anyio.create_task_group() as group:
                group.start_soon(self._read_on, reader)
                group.start_soon(self._watch)
                await self.caught_up()
                task_status.started()
        finally:
            with anyio.CancelScope(shield=True):
                await reader.stop()

    def trouble(self) -> str | None:
        """Why rows may be missing, for /readyz; None: none is."""
        return None if self._watchdog is None else self._watchdog.trouble(asyncio.get_running_loop().time()) or None

    async def caught_up(self) -> None:
        """Returns when the tables hold all that their topics held when it was called."""
        missing: dict[tuple[str, int], int] = {}
        for name in self._tables:
            for partition, (start, end) in (await self._transport.cluster.offsets(name)).items():
                if end > start:
                    missing[name, partition] = end
        while True:
            self._progress.clear()
            missing = {place: end for place, end in missing.items() if self._positions.get(place, 0) < end}
            if not missing:
                return
            await self._progress.wait()

    async def _watch(self) -> None:
        """Compares what was read with the log, asked by other connections: a reader can fall silent, and everybody would wait for rows that are there."""
        loop = asyncio.get_running_loop()
        watchdog = self._watchdog = Watchdog(self._stuck_seconds, loop.time(), _SILENT_SECONDS)
        while True:
            await anyio.sleep(min(_WATCH_SECONDS, self._stuck_seconds / 8))
            try:
                sights = await self._sights()
            except NotAllowed:
                raise
            except TransportError as error:
                watchdog.unanswered(loop.time(), str(error))
                continue
            watchdog.answered(sights, loop.time())
            if watchdog.is_stuck():
                raise Stuck(f"{watchdog.trouble(loop.time())}: this process ends, to be started again")

    async def _sights(self) -> dict[Place, Sight]:
        """Where reading stands in each partition of each table, and how much is left."""
        sights: dict[Place, Sight] = {}
        for name in self._tables:
            for partition, (start, end) in (await self._transport.cluster.offsets(name)).items():
                position = self._positions.get((name, partition), start)
                # A place beyond the end is that of a topic that was made anew: it is to be read again.
                sights[Place("table", partition, name)] = Sight(position, abs(end - position))
        return sights

    async def _rewind(self, reader: Reader) -> None:
        """Every table from the start of its log."""
        starts: dict[tuple[str, int], int] = {}
        for name in self._tables:
            for partition, (start, _) in (await self._transport.cluster.offsets(name)).items():
                starts[name, partition] = start
        self._positions = dict(starts)
        reader.assign(starts)

    async def _fetch(self, reader: Reader) -> Sequence[Record]:
        """What there is. Raises TransportError."""
        try:
            return await reader.fetch(_FETCH_SECONDS, _FETCH_RECORDS)
        except OffsetOutOfRange as error:
            # The topic was deleted and made again, or cut: what is there now is the truth, on top of what is known.
            log.warning("table is read again from its start", table=error.topic, partition=error.partition)
            await anyio.sleep(_PAUSE_AFTER_ERROR_SECONDS)
            self._tables[error.topic].begin_anew()
            await self._rewind(reader)
            return ()

    async def _read_on(self, reader: Reader) -> None:
        while True:
            try:
                records = await self._fetch(reader)
            except NotAllowed:
                raise
            except TransportError as error:
                log.warning("tables can't be read now", error=str(error))
                await anyio.sleep(_PAUSE_AFTER_ERROR_SECONDS)
                continue
            for record in records:
                self._tables[record.topic].read(record)
            for place in self._positions:
                self._positions[place] = max(self._positions[place], reader.position(*place))
            self._progress.set()


class Waits:
    """Who waits for which row. Pure bookkeeping: waking is the caller's."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._waiting: dict[tuple[str, str], dict[object, Callable[[], None]]] = defaultdict(dict)
        self._watched: set[str] = set()
        self._asked: dict[tuple[str, str], float] = {}

    def add(self, table: str, key: str, seen: bytes | None, waiter: object, wake: Callable[[], None]) -> bool:
        """Waits, unless the row is no longer the one that was seen: then False, and nothing waits."""
        if self._tables[table].get(key) != seen:
            return False
        if table not in self._watched:
            self._watched.add(table)
            self._tables[table].subscribe(lambda key, table=table: self._changed(table, key))  # type: ignore[misc]
        self._waiting[table, key][waiter] = wake
        return True

    def others(self, table: str, key: str) -> int:
        """How many wait for this row."""
        return len(self._waiting.get((table, key), ()))

    def asked(self, table: str, key: str, moment: float) -> None:
        """Somebody asks for the row, and will wait for it."""
        if len(self._asked) >= _ASKED:
            del self._asked[next(iter(self._asked))]
        self._asked[table, key] = moment

    def asked_at(self, table: str, key: str) -> float | None:
        """When somebody asked for the row last; None where nobody has, or all who waited have gone."""
        return self._asked.get((table, key))

    def remove(self, table: str, key: str, waiter: object) -> None:
        waiting = self._waiting.get((table, key))
        if waiting is not None:
            waiting.pop(waiter, None)
            if not waiting:
                del self._waiting[table, key]
                self._asked.pop((table, key), None)

    def _changed(self, table: str, key: str) -> None:
        self._asked.pop((table, key), None)
        for wake in list(self._waiting.pop((table, key), {}).values()):
            wake()
