"""One stage on the log in memory, in simulated time, for rules of the engine that need no broker. The step is the test's; the bounds are those of production."""

import asyncio
import dataclasses
import random
from collections.abc import Awaitable, Callable, Sequence

import anyio
import msgspec

from pipeline.memory import MemoryBroker, MemoryGroupReader, MemoryReader, MemoryTransport
from pipeline.messages import Message
from pipeline.outcomes import Batch, Emit, Out, Outcome, Step
from pipeline.records import Outgoing, Record
from pipeline.stage import Gate, Limits, OpenGate
from pipeline.tables import Tables
from pipeline.transport import Transport
from pipeline.worker import Worker
from schemas.messages import DeadLetter
from schemas.tables import LaneRow
from tests.engine.place import FOLLOWED, STAGE, TABLES, Heard, stage
from tests.simulation import virtual
from tests.simulation.virtual import VirtualLoop


class Transporting(MemoryTransport):
    """Counts what the sweep fetches, and may let it take a while."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.read: list[int] = []
        """Offsets of `in` that the sweep fetched, one after the other."""
        self.fetches = 0
        self.fetch_seconds = 0.0
        self.deaf_tables = False
        """The tables' reader brings nothing more, and does not fail either."""

    @property
    def members(self) -> list[MemoryGroupReader]:
        return self._group_readers

    def reader(self, max_bytes: int = 0) -> MemoryReader:
        return _Counting(self)


class _Counting(MemoryReader):
    def __init__(self, transport: Transporting) -> None:
        super().__init__(transport.broker)
        self._transport = transport

    async def fetch(self, timeout_seconds: float, max_records: int) -> Sequence[Record]:
        if self._transport.deaf_tables and (TABLES[0], 0) in self._positions:
            await asyncio.sleep(timeout_seconds)
            return ()
        records = await super().fetch(timeout_seconds, max_records)
        read = [record.offset for record in records if record.topic == "in"]
        if read:
            self._transport.read += read
            self._transport.fetches += 1
            await asyncio.sleep(self._transport.fetch_seconds)
        return records


@dataclasses.dataclass(slots=True)
class Running:
    """One worker."""

    worker: Worker
    tables: Tables
    heard: Heard
    transport: Transporting
    task: asyncio.Task[None]

    async def stop(self) -> None:
        """In two phases."""
        await self.worker.stop()
        self.task.cancel()
        await asyncio.wait([self.task])

    def lanes(self) -> dict[str, LaneRow]:
        """What the table `lanes` tells of lanes, by name."""
        return {
            row.lane: row
            for key, value in self.tables["lanes"].items()
            if key.rsplit("|", 1)[1] not in ("group", "recovery")
            for row in [msgspec.json.decode(value, type=LaneRow)]
        }


class Room:
    """See the module."""

    def __init__(self, loop: VirtualLoop, partitions: int) -> None:
        self._loop = loop
        self.broker = MemoryBroker(now_ms=lambda: int(self.clock() * 1000))
        for topic in ("in", *FOLLOWED):
            self.broker.create_topic(topic, partitions, max_record_bytes=8_000 if topic == "dead-letters" else 1_000)
        for table in TABLES:
            self.broker.create_topic(table, 1)

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self._loop.time()

    def clock(self) -> float:
        return 1_000_000_000 + self._loop.time()

    def send(self, records: Sequence[Outgoing]) -> None:
        for record in records:
            self.broker.append(record, record.partition or 0)

    def numbers(self, topic: str = "out") -> list[int]:
        return [int(record.value or b"0") for record in self.broker.records(topic)]

    def letters(self) -> list[DeadLetter]:
        return [msgspec.json.decode(record.value or b"", type=DeadLetter) for record in self.broker.records("dead-letters")]

    def committed(self, partition: int = 0) -> int:
        """The committed offset; -1: none yet."""
        commit = self.broker.group_offsets(STAGE).get(("in", partition))
        return -1 if commit is None else commit.offset

    async def enter(
        self,
        step: Step,
        limits: Limits,
        *,
        gate: Gate | None = None,
        answers: Callable[[str], int] | None = None,
        around: Callable[[Transport], Transport] | None = None,
    ) -> Running:
        """A worker that has begun."""
        transport, heard = Transporting(self.broker), Heard()
        seam: Transport = transport if around is None else around(transport)
        tables = Tables(transport, TABLES)
        run = dataclasses.replace(stage(step, limits), gate=gate or OpenGate(), answers=answers)
        worker = Worker(run, seam, tables, heard, clock=self.clock, random=random.Random(1).random)

        async def live() -> None:
            async with anyio.create_task_group() as tasks:
                await tasks.start(tables.run)
                await tasks.start(worker.run)

        running = Running(worker, tables, heard, transport, asyncio.create_task(live()))
        await self.until(lambda: running.task.done() or worker.health().ready)
        return running

    async def until(self, holds: Callable[[], bool], seconds: float = 600.0) -> None:
        """Until it holds, for so many simulated seconds."""
        async with asyncio.timeout(seconds):
            while True:
                if holds():
                    return
                await asyncio.sleep(0.1)

    async def pass_by(self, seconds: float) -> None:
        """So much simulated time."""
        await asyncio.sleep(seconds)


def simulated(test: Callable[[Room], Awaitable[None]], partitions: int = 1) -> None:
    """Runs a test in a room of its own."""
    random.seed(1)

    async def main(loop: VirtualLoop) -> None:
        await test(Room(loop, partitions))

    virtual.run(main)


def passed_on(message: Message) -> Outcome:
    return Emit((Out("out", message.value),))


def each(decide: Callable[[Message], Outcome], seconds: float = 0.0) -> Step:
    """A step that decides on each message by itself, after so long."""

    async def step(batch: Batch) -> Sequence[Outcome]:
        await asyncio.sleep(seconds)
        batch.guard()
        return [decide(message) for message in batch.messages]

    return step
