"""A log in memory behind the seams of `pipeline.transport`, for unit tests and for simulations under a virtual clock.

Does: partitions placed by murmur2, offsets, compaction and deletion on demand, groups with generations and eager rebalancing by the
Range assignor (every `revoked` is awaited before any `assigned`), fencing, commits with bounded metadata, leases, and faults on
demand. Does not: keep anything, replicate, batch, limit bytes, retain by time, know static members or transactions, or run in
more than one event loop. It never sleeps: time is what the event loop (or what is given in its place) says.
"""

import asyncio
import bisect
import dataclasses
import itertools
import operator
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, Protocol

import structlog

from pipeline.errors import CommitRefused, OffsetOutOfRange, RecordTooLarge, TopicMissing, TransportError, WriteError
from pipeline.kafka.writer import partition_of
from pipeline.records import Ack, Commit, Outgoing, Record
from pipeline.transport import READER_BYTES, Rebalanced

log = structlog.get_logger()

Operation = Literal["send", "commit", "committed", "fetch", "offsets"]

_EARLY_SECONDS = 1e-6
"""An event loop may wake a hair too early; under a clock that stands still meanwhile, who waits for the rest would be woken for ever."""


class Handle(Protocol):
    def cancel(self) -> None: ...


class TimeSource(Protocol):
    """What an event loop has; a simulation may give its own."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Handle: ...


class _Log:
    """One partition."""

    __slots__ = ("end", "records", "start")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.start = 0
        self.end = 0

    def append(self, topic: str, partition: int, timestamp_ms: int, record: Outgoing) -> int:
        offset = self.end
        self.records.append(Record(topic, partition, offset, timestamp_ms, record.key, record.value, record.headers))
        self.end += 1
        return offset

    def read(self, offset: int, limit: int) -> list[Record]:
        first = bisect.bisect_left(self.records, offset, key=operator.attrgetter("offset"))
        return self.records[first : first + limit]

    def holds(self, offset: int) -> bool:
        return self.start <= offset <= self.end

    def delete_before(self, offset: int) -> None:
        self.start = max(self.start, min(offset, self.end))
        self.records = [record for record in self.records if record.offset >= self.start]

    def compact(self) -> None:
        latest = {record.key: record.offset for record in self.records}
        self.records = [record for record in self.records if latest[record.key] == record.offset and record.value is not None]


@dataclasses.dataclass(slots=True)
class _Topic:
    logs: list[_Log]
    max_record_bytes: int


@dataclasses.dataclass(slots=True)
class _Fault:
    operation: Operation
    error: TransportError
    topic: str | None
    times: int
    landed: bool


class Faults:
    """What goes wrong next."""

    def __init__(self) -> None:
        self._planned: list[_Fault] = []
        self._holding = False
        self._held: list[Callable[[], None]] = []

    def fail(
        self,
        operation: Operation,
        error: TransportError | None = None,
        *,
        topic: str | None = None,
        times: int = 1,
        landed: bool = False,
    ) -> None:
        """The next `times` operations fail; `landed`: what was asked for (a send, a commit) happens nevertheless, only the answer is lost."""
        default = WriteError("injected") if operation == "send" else TransportError("injected")
        self._planned.append(_Fault(operation, error or default, topic, times, landed))

    def clear(self) -> None:
        self._planned.clear()
        self.release_acks()

    def hold_acks(self) -> None:
        """Records land, and nobody is told until `release_acks`."""
        self._holding = True

    def release_acks(self, count: int | None = None) -> None:
        """Tells of what was held, oldest first; of all of it, and of what comes, without `count`."""
        if count is None:
            self._holding = False
        ready = self._held[:count]
        del self._held[:count]
        for tell in ready:
            tell()

    @property
    def held_acks(self) -> int:
        return len(self._held)

    def tell(self, ack: Callable[[], None]) -> None:
        if self._holding:
            self._held.append(ack)
        else:
            asyncio.get_running_loop().call_soon(ack)

    def take(self, operation: Operation, topic: str | None) -> _Fault | None:
        for fault in self._planned:
            if fault.operation == operation and fault.topic in (None, topic):
                fault.times -= 1
                if not fault.times:
                    self._planned.remove(fault)
                return fault
        return None

    def check(self, operation: Operation, topic: str | None) -> None:
        fault = self.take(operation, topic)
        if fault is not None:
            raise fault.error


class MemoryBroker:
    """Topics, groups and faults. Each transport of it stands for a process."""

    def __init__(
        self,
        *,
        source: TimeSource | None = None,
        now_ms: Callable[[], int] | None = None,
        session_timeout_seconds: float = 30.0,
        rebalance_timeout_seconds: float = 60.0,
        metadata_limit: int = 4096,
    ) -> None:
        self._source = source
        self._now_ms = now_ms or (lambda: int(time.time() * 1000))
        self.session_timeout_seconds = session_timeout_seconds
        self.rebalance_timeout_seconds = rebalance_timeout_seconds
        self.metadata_limit = metadata_limit
        self.faults = Faults()
        self._topics: dict[str, _Topic] = {}
        self._groups: dict[str, _Group] = {}
        self._waiters: dict[asyncio.Future[None], None] = {}

    # What a test does to it.

    def create_topic(self, name: str, partitions: int, *, max_record_bytes: int = 1024 * 1024) -> None:
        if name in self._topics:
            raise TransportError(f"topic {name} exists", retryable=False)
        self._topics[name] = _Topic([_Log() for _ in range(partitions)], max_record_bytes)
        self._topic_changed(name)

    def delete_topic(self, name: str) -> None:
        """With what groups have committed on it, as Kafka does."""
        self.topic(name)
        del self._topics[name]
        for group in self._groups.values():
            group.forget(name)
        self._topic_changed(name)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Moves the log start."""
        self.log(topic, partition).delete_before(before)
        self.wake()

    def compact(self, topic: str) -> None:
        for partition in self.topic(topic).logs:
            partition.compact()

    def records(self, topic: str) -> list[Record]:
        """All that the topic holds, partition by partition."""
        return [record for partition in self.topic(topic).logs for record in partition.records]

    def group_offsets(self, group: str) -> dict[tuple[str, int], Commit]:
        return dict(self.group(group).offsets)

    def reset_offsets(self, group: str, offsets: Mapping[tuple[str, int], Commit | None]) -> None:
        """What an outside tool does: refused while the group has members. None forgets."""
        if self.group(group).members:
            raise TransportError(f"group {group} is not empty", retryable=False)
        for place, commit in offsets.items():
            if commit is None:
                self.group(group).offsets.pop(place, None)
            else:
                self.group(group).offsets[place] = commit

    def members(self, group: str) -> int:
        return len(self.group(group).members)

    def transport(self) -> "MemoryTransport":
        return MemoryTransport(self)

    # What its parts use.

    @property
    def source(self) -> TimeSource:
        return self._source or asyncio.get_running_loop()

    def topic(self, name: str) -> _Topic:
        topic = self._topics.get(name)
        if topic is None:
            raise TopicMissing(name)
        return topic

    def log(self, topic: str, partition: int) -> _Log:
        logs = self.topic(topic).logs
        if not 0 <= partition < len(logs):
            raise TransportError(f"{topic} has no partition {partition}", retryable=False)
        return logs[partition]

    def group(self, name: str) -> "_Group":
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(self, name)
        return group

    def partitions_of(self, topic: str) -> int:
        found = self._topics.get(topic)
        return 0 if found is None else len(found.logs)

    def append(self, record: Outgoing, partition: int) -> int:
        offset = self.log(record.topic, partition).append(record.topic, partition, self._now_ms(), record)
        self.wake()
        return offset

    def wake(self) -> None:
        """Something changed that a fetch may wait for."""
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            _finish(waiter)

    async def changed(self, seconds: float) -> None:
        """Until something changes, or `seconds` have passed."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        handle = self.source.call_later(max(0.0, seconds), lambda: _finish(waiter))
        try:
            await waiter
        finally:
            handle.cancel()
            self._waiters.pop(waiter, None)

    def _topic_changed(self, name: str) -> None:
        for group in self._groups.values():
            if group.topic == name and group.members:
                group.rebalance()
        self.wake()


class _Group:
    """The coordinator's side of one group: who is in it, the generation, and what is committed."""

    def __init__(self, broker: MemoryBroker, name: str) -> None:
        self._broker = broker
        self.name = name
        self.topic: str | None = None
        self.members: dict[int, MemoryGroupReader] = {}
        self.generation = 0
        self.offsets: dict[tuple[str, int], Commit] = {}
        self._numbers = itertools.count(1)
        self._stale = False
        self._letting_go = False
        self._task: asyncio.Task[None] | None = None

    def join(self, reader: "MemoryGroupReader", topic: str) -> int:
        if self.members and self.topic != topic:
            raise TransportError(f"group {self.name} reads {self.topic}", retryable=False)
        self.topic = topic
        number = next(self._numbers)
        self.members[number] = reader
        self.rebalance()
        return number

    def leave(self, number: int) -> None:
        if self.members.pop(number, None) is not None:
            self.rebalance()

    def forget(self, topic: str) -> None:
        for place in [place for place in self.offsets if place[0] == topic]:
            del self.offsets[place]

    def rebalance(self) -> None:
        if self._letting_go:
            # What is given out at its end goes by who is there then.
            return
        self._stale = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._rebalance(), name=f"rebalance of {self.name}")

    async def _rebalance(self) -> None:
        while self._stale:
            self._stale = False
            self._letting_go = True
            await self._revoke()
            self._letting_go = False
            self.generation += 1
            for number, partitions in _ranges(sorted(self.members), self._broker.partitions_of(self.topic or "")).items():
                self.members[number].give(self.generation, partitions)
            self._broker.wake()

    async def _revoke(self) -> None:
        """Every member lets go, or has gone, or is thrown out when the rebalance timeout ends."""
        letting_go = {number: member.begin_to_let_go() for number, member in self.members.items()}
        late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handle = self._broker.source.call_later(self._broker.rebalance_timeout_seconds, lambda: _finish(late))
        try:
            while waiting := {number: task for number, task in letting_go.items() if not task.done() and number in self.members}:
                if late.done():
                    break
                gone = {self.members[number].gone for number in waiting}
                await asyncio.wait({*waiting.values(), *gone, late}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            handle.cancel()
        for number in waiting:
            self.members.pop(number).expel()


def _ranges(members: Sequence[int], partitions: int) -> dict[int, frozenset[int]]:
    """The Range assignor: neighbouring partitions together, the first members get one more where it does not divide."""
    shares: dict[int, frozenset[int]] = {}
    first = 0
    for place, member in enumerate(members):
        count = partitions // len(members) + (place < partitions % len(members))
        shares[member] = frozenset(range(first, first + count))
        first += count
    return shares


class MemoryGroupReader:
    """Implements `pipeline.transport.GroupReader`."""

    def __init__(self, broker: MemoryBroker, topic: str, group: str, listener: Rebalanced) -> None:
        self._broker = broker
        self._topic = topic
        self._group = broker.group(group)
        self._listener = listener
        self._number: int | None = None
        self._generation: int | None = None
        self._owned: frozenset[int] = frozenset()
        self._positions: dict[int, int] = {}
        self._paused: set[int] = set()
        self._turn = 0
        self._callbacks = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self._reachable = asyncio.Event()
        self._reachable.set()
        self._cut_at = 0.0
        self._silence: Handle | None = None
        self._ended = False
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the group has no longer this member."""

    async def start(self) -> None:
        self._broker.topic(self._topic)
        self._number = self._group.join(self, self._topic)

    async def stop(self) -> None:
        self._end()
        if self._reachable.is_set():
            if self._number is not None:
                self._group.leave(self._number)
            self.expel()
        await self._cancel()

    async def fetch(self, timeout_seconds: float, max_records: int) -> Mapping[int, Sequence[Record]]:
        await asyncio.sleep(0)
        ends = self._broker.source.time() + timeout_seconds
        while True:
            self._raise_failure()
            self._broker.faults.check("fetch", self._topic)
            batch = self._take(max_records)
            left = ends - self._broker.source.time()
            if batch or left <= _EARLY_SECONDS:
                return batch
            await self._broker.changed(left)

    def seek(self, partition: int, offset: int) -> None:
        if partition not in self._owned:
            raise TransportError(f"{self._topic}/{partition} is not assigned to this member", retryable=False)
        self._positions[partition] = offset
        self._broker.wake()

    def pause(self, partitions: Sequence[int]) -> None:
        self._paused |= self._owned.intersection(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        self._paused -= set(partitions)
        self._broker.wake()

    async def commit(self, commits: Mapping[int, Commit]) -> None:
        await asyncio.sleep(0)
        if not commits:
            return
        if not self._reachable.is_set():
            raise TransportError(f"commit of {self._group.name}: no answer")
        fault = self._broker.faults.take("commit", self._topic)
        if fault is not None and not fault.landed:
            raise fault.error
        if self._number not in self._group.members or self._generation != self._group.generation or not commits.keys() <= self._owned:
            raise CommitRefused(f"{self._topic}: partitions {sorted(commits)} are not all assigned to this member")
        self._store(commits)
        if fault is not None:
            raise fault.error

    def _store(self, commits: Mapping[int, Commit]) -> None:
        fitting = {p: commit for p, commit in commits.items() if len(commit.metadata) <= self._broker.metadata_limit}
        self._group.offsets.update({(self._topic, partition): commit for partition, commit in fitting.items()})
        if len(fitting) < len(commits):
            raise TransportError(f"commit of {self._group.name}: metadata over {self._broker.metadata_limit} characters", retryable=False)

    async def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit | None]:
        await asyncio.sleep(0)
        self._broker.faults.check("committed", self._topic)
        return {partition: self._group.offsets.get((self._topic, partition)) for partition in partitions}

    def lease_seconds(self) -> float:
        if self._generation is None:
            return float("-inf")
        silent = 0.0 if self._reachable.is_set() else self._broker.source.time() - self._cut_at
        return self._broker.session_timeout_seconds / 2 - silent

    async def end_offsets(self, partitions: Sequence[int]) -> Mapping[int, int]:
        await asyncio.sleep(0)
        self._broker.faults.check("offsets", self._topic)
        return {partition: self._broker.log(self._topic, partition).end for partition in partitions}

    # What a test does to it.

    def cut_off(self) -> None:
        """Nothing passes between member and coordinator any more, as after SIGSTOP: the lease runs out, then the session."""
        if not self._reachable.is_set():
            return
        self._reachable.clear()
        self._cut_at = self._broker.source.time()
        self._silence = self._broker.source.call_later(self._broker.session_timeout_seconds, self._expire)

    def reconnect(self) -> None:
        """The end of `cut_off`. Who was thrown out meanwhile learns of it only now: `revoked`, then it joins again."""
        if self._ended or self._reachable.is_set():
            return
        if self._silence is not None:
            self._silence.cancel()
        self._reachable.set()
        if self._number is None:
            self._spawn(self._rejoin())

    def kill(self) -> None:
        """The process is gone: it leaves nothing and hears nothing; the group notices when the session ends."""
        self.cut_off()
        self._end()

    # What the group does to it.

    def begin_to_let_go(self) -> asyncio.Task[None]:
        return self._spawn(self.let_go())

    async def let_go(self) -> None:
        await self._reachable.wait()
        async with self._callbacks:
            if self._owned and not self._ended:
                await self._tell("revoke", self._listener.revoked(self._owned))
            self._forget()

    def give(self, generation: int, partitions: frozenset[int]) -> None:
        self._forget()
        self._generation, self._owned = generation, partitions
        self._spawn(self._assigned(generation, partitions))

    def expel(self) -> None:
        """It is no longer in the group; a member that is cut off does not know it yet."""
        self._number = None
        _finish(self.gone)
        if self._ended:
            self._forget()
            for task in self._tasks - {asyncio.current_task()}:
                task.cancel()
        elif self._reachable.is_set():
            self._generation = None
            self._spawn(self._rejoin())

    async def _assigned(self, generation: int, partitions: frozenset[int]) -> None:
        async with self._callbacks:
            if self._generation == generation and not self._ended:
                await self._tell("assignment", self._listener.assigned(partitions))

    async def _rejoin(self) -> None:
        await self.let_go()
        self.gone = asyncio.get_running_loop().create_future()
        self._number = self._group.join(self, self._topic)

    def _expire(self) -> None:
        if self._number is not None:
            number = self._number
            self.expel()
            self._group.leave(number)

    async def _tell(self, what: str, telling: Awaitable[None]) -> None:
        try:
            await telling
        except Exception as error:  # noqa: BLE001  `fetch` raises it, as it does over Kafka
            log.error("group callback failed", what=what, topic=self._topic, error=repr(error))
            self._failure = error
            self._broker.wake()

    def _take(self, max_records: int) -> dict[int, list[Record]]:
        taken: dict[int, list[Record]] = {}
        readable = sorted(self._positions.keys() - self._paused) if not self._ended else []
        # Each time another partition comes first, so that a full one starves no other.
        self._turn += 1
        for place in range(len(readable)):
            partition = readable[(place + self._turn) % len(readable)]
            records = _read(self._broker, self._topic, partition, self._positions[partition], max_records, quiet=bool(taken))
            if records:
                taken[partition] = records
                self._positions[partition] = records[-1].offset + 1
                max_records -= len(records)
            if max_records <= 0:
                break
        return taken

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _forget(self) -> None:
        self._generation, self._owned = None, frozenset()
        self._positions.clear()
        self._paused.clear()

    def _end(self) -> None:
        self._ended = True
        self._broker.wake()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _cancel(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class MemoryReader:
    """Implements `pipeline.transport.Reader`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._positions: dict[tuple[str, int], int] = {}
        self._turn = 0

    async def start(self) -> None:
        await asyncio.sleep(0)

    async def stop(self) -> None:
        self._positions.clear()

    def assign(self, positions: Mapping[tuple[str, int], int]) -> None:
        self._positions = dict(positions)
        self._broker.wake()

    async def fetch(self, timeout_seconds: float, max_records: int) -> Sequence[Record]:
        await asyncio.sleep(0)
        ends = self._broker.source.time() + timeout_seconds
        while True:
            for topic, _ in self._positions:
                self._broker.topic(topic)
                self._broker.faults.check("fetch", topic)
            records = self._take(max_records)
            left = ends - self._broker.source.time()
            if records or left <= _EARLY_SECONDS:
                return records
            await self._broker.changed(left)

    def position(self, topic: str, partition: int) -> int:
        if (topic, partition) not in self._positions:
            raise TransportError(f"{topic}/{partition} is not assigned to this reader", retryable=False)
        return self._positions[topic, partition]

    def _take(self, max_records: int) -> list[Record]:
        taken: list[Record] = []
        places = sorted(self._positions)
        self._turn += 1
        for number in range(len(places)):
            topic, partition = place = places[(number + self._turn) % len(places)]
            limit = max_records - len(taken)
            records = _read(self._broker, topic, partition, self._positions[place], limit, quiet=bool(taken))
            taken += records
            if records:
                self._positions[place] = records[-1].offset + 1
            elif not taken:
                # Nothing is left up to the end: what compaction took away there is behind.
                self._positions[place] = self._broker.log(topic, partition).end
            if len(taken) >= max_records:
                break
        return taken


class MemoryWriter:
    """Implements `pipeline.transport.Writer`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._open = False
        self._turn = itertools.count()

    async def start(self) -> None:
        await asyncio.sleep(0)
        self._open = True

    async def stop(self) -> None:
        self._open = False

    def kill(self) -> None:
        self._open = False

    def send(self, records: Sequence[Outgoing]) -> Awaitable[Sequence[Ack]]:
        future: asyncio.Future[Sequence[Ack]] = asyncio.get_running_loop().create_future()
        try:
            acks, failure = self._append(records)
        except TransportError as error:
            future.set_exception(error)
            return future

        def tell() -> None:
            if future.done():
                return
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(acks)

        self._broker.faults.tell(tell)
        return future

    def _append(self, records: Sequence[Outgoing]) -> tuple[tuple[Ack, ...], TransportError | None]:
        """What lands lands now. A record that fails keeps no other from landing."""
        if not self._open:
            raise WriteError("the writer is not started")
        fault = next(
            (found for topic in dict.fromkeys(r.topic for r in records) if (found := self._broker.faults.take("send", topic))), None
        )
        if fault is not None and not fault.landed:
            raise fault.error
        acks: list[Ack] = []
        failure = fault.error if fault is not None else None
        for index, record in enumerate(records):
            topic = self._broker.topic(record.topic)
            size = len(record.key or b"") + len(record.value or b"") + sum(len(name) + len(value or b"") for name, value in record.headers)
            if size > topic.max_record_bytes:
                failure = RecordTooLarge(f"{record.topic}: {size} bytes", index)
                continue
            partition = self._partition(record, len(topic.logs))
            acks.append(Ack(partition, self._broker.append(record, partition)))
        return tuple(acks), failure

    def _partition(self, record: Outgoing, partitions: int) -> int:
        if record.partition is not None:
            if not 0 <= record.partition < partitions:
                raise WriteError(f"{record.topic} has no partition {record.partition}", retryable=False)
            return record.partition
        return next(self._turn) % partitions if record.key is None else partition_of(record.key, partitions)


class MemoryCluster:
    """Implements `pipeline.transport.Cluster`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def partitions(self, topic: str) -> int:
        await asyncio.sleep(0)
        return len(self._broker.topic(topic).logs)

    async def offsets(self, topic: str) -> Mapping[int, tuple[int, int]]:
        await asyncio.sleep(0)
        self._broker.faults.check("offsets", topic)
        return {number: (partition.start, partition.end) for number, partition in enumerate(self._broker.topic(topic).logs)}

    async def offsets_at(self, topic: str, timestamp_ms: int) -> Mapping[int, int]:
        await asyncio.sleep(0)
        self._broker.faults.check("offsets", topic)
        return {
            number: next((record.offset for record in partition.records if record.timestamp_ms >= timestamp_ms), partition.end)
            for number, partition in enumerate(self._broker.topic(topic).logs)
        }

    async def committed(self, group: str) -> Mapping[tuple[str, int], Commit]:
        await asyncio.sleep(0)
        self._broker.faults.check("committed", None)
        return self._broker.group_offsets(group)

    async def members(self, group: str) -> int:
        await asyncio.sleep(0)
        return self._broker.members(group)


class MemoryTransport:
    """Implements `pipeline.transport.Transport`: one process at a MemoryBroker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.cluster = MemoryCluster(broker)
        self._group_readers: list[MemoryGroupReader] = []
        self._writers: list[MemoryWriter] = []

    async def start(self) -> None:
        await asyncio.sleep(0)

    async def stop(self) -> None:
        await asyncio.sleep(0)

    def kill(self) -> None:
        """The process dies: its members fall silent, and nothing more of it is written. Its tasks are the caller's to cancel."""
        for reader in self._group_readers:
            reader.kill()
        for writer in self._writers:
            writer.kill()

    def group_reader(self, topic: str, group: str, listener: Rebalanced) -> MemoryGroupReader:
        reader = MemoryGroupReader(self.broker, topic, group, listener)
        self._group_readers.append(reader)
        return reader

    def reader(self, max_bytes: int = READER_BYTES) -> MemoryReader:
        return MemoryReader(self.broker)

    def writer(self) -> MemoryWriter:
        writer = MemoryWriter(self.broker)
        self._writers.append(writer)
        return writer


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _read(broker: MemoryBroker, topic: str, partition: int, offset: int, limit: int, *, quiet: bool) -> list[Record]:
    """`quiet`: what is wrong here is told by the next fetch, since this one has records of another partition to give."""
    if partition >= broker.partitions_of(topic):
        return []
    place = broker.log(topic, partition)
    if not place.holds(offset):
        if quiet:
            return []
        raise OffsetOutOfRange(topic, partition, offset)
    return place.read(offset, limit)
