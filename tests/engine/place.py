"""Where the engine's tests take place: topics of their own on the test broker, workers in this process or in their own, and what the log holds."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final

import anyio
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.structs import OffsetAndMetadata

from pipeline import topics
from pipeline.board import Probing
from pipeline.delivery import deliver
from pipeline.kafka import KafkaSettings, KafkaTransport
from pipeline.messages import Message, headers
from pipeline.outcomes import Step
from pipeline.records import Commit, Outgoing, Record
from pipeline.stage import Limits, SilentObserver, Stage
from pipeline.tables import Tables
from pipeline.topics import TopicSpec
from pipeline.transport import Transport
from pipeline.worker import Worker
from schemas.messages import DeadLetter
from schemas.tables import LaneRow
from stages.sandbox.broker import die_with

STAGE: Final = "work"
SESSION_MS: Final = 10_000
"""Longer than a broker stands still on a busy machine."""
PATIENCE_SECONDS: Final = 60.0
START_SECONDS: Final = 60.0
"""For what is waited for first of a worker in a process of its own: its interpreter and its imports come before."""
TABLES: Final = ("lanes", "controls", "rows")
FOLLOWED: Final = ("out", "dead-letters", "synced")
ROOT: Final = pathlib.Path(__file__).parent.parent.parent

FAST: Final = Limits(
    commit_seconds=0.1,
    poll_seconds=0.5,
    wait_first_seconds=0.001,
    wait_longest_seconds=0.05,
    retry_longest_seconds=0.3,
    grace_seconds=4.0,
    stop_seconds=5.0,
    takeover_seconds=1.0,
    probing=Probing(first_seconds=0.1, longest_seconds=0.4, answer_seconds=5.0, well_seconds=0.2),
)
"""The engine's times, scaled down."""


def settings(bootstrap: str, prefix: str) -> KafkaSettings:
    return KafkaSettings(
        bootstrap=bootstrap,
        prefix=prefix,
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=300,
        rebalance_timeout_ms=10_000,
        request_timeout_ms=5_000,
        close_timeout_seconds=5.0,
        fetch_max_wait_ms=50,
    )


def told(
    number: int, *, org: str = "acme", workspace: str = "w", key: str = "", partition: int = 0, kind: str = "registration", size: int = 0
) -> Outgoing:
    """The input message of this number; its key is that of a person of its own where none is given."""
    head = headers(
        id=str(number), kind=kind, workspace=workspace, org=org, session="s", event="e", happened_at=0,
        received_at=int(time.time() * 1000), schema=1,
    )  # fmt: skip
    return Outgoing("in", (key or f"{number}@{org}").encode(), b"%d" % number + b" " * size, head, partition)


def stage(step: Step, limits: Limits = FAST) -> Stage:
    """The stage under test: reads `in`; lanes are those of org and workspace; a company message lies in its org's lane and is urgent."""

    def lanes(message: Message) -> tuple[str, ...]:
        org = f"org:{message.org}"
        return (org,) if message.kind == "company" else (org, f"{org}/workspace:{message.workspace}")

    return Stage(STAGE, "in", step, lanes, urgent=lambda message: message.kind == "company", limits=limits)


class Heard(SilentObserver):
    """What a worker told."""

    def __init__(self) -> None:
        self.incidents: Counter[str] = Counter()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """By org and outcome."""
        self.assignments: list[int] = []
        """How many partitions each assignment brought."""
        self.commits = 0
        self.blocked: dict[tuple[str, str], int] = {}
        self.not_read = -1
        """Messages that are not read yet; -1: not told."""

    def unread(self, stage: str, messages: int) -> None:
        self.not_read = messages

    def incident(self, stage: str, kind: str, count: int) -> None:
        self.incidents[kind] += count

    def outcome(self, stage: str, org: str, outcome: str, reason: str, count: int) -> None:
        self.outcomes[org, outcome] += count

    def rebalanced(self, stage: str, partitions: int) -> None:
        self.assignments.append(partitions)

    def committed(self, stage: str, partitions: int) -> None:
        self.commits += partitions

    def lanes(self, stage: str, counts: dict[tuple[str, str], int]) -> None:
        self.blocked = counts


@dataclasses.dataclass(slots=True)
class Running:
    """A worker in this process."""

    worker: Worker
    tables: Tables
    heard: Heard
    task: asyncio.Task[None]

    async def stop(self) -> None:
        """In two phases, as SIGTERM does it."""
        await self.worker.stop()
        await self.task

    async def crash(self) -> None:
        """Ends it in the middle of whatever it does: nothing more is finished, nothing more committed."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    @property
    def ready(self) -> bool:
        return self.worker.health().ready


class Place:
    """See the module."""

    def __init__(self, settings: KafkaSettings, transport: KafkaTransport, directory: pathlib.Path) -> None:
        self.settings, self.transport, self.directory = settings, transport, directory
        self.log: defaultdict[str, list[Record]] = defaultdict(list)
        """What `out`, `dead-letters` and `synced` hold, in the order in which it was read."""
        self._read: dict[tuple[str, int], int] = {}
        """How far `log` has come, by topic and partition."""
        self._writer = transport.writer()
        self._stack = contextlib.AsyncExitStack()
        self._processes: list[subprocess.Popen[bytes]] = []

    # -- topics -------------------------------------------------------------------------------------

    async def prepare(self, partitions: int, replication: int) -> None:
        await topics.apply(
            self.settings,
            [
                *(TopicSpec(name, partitions, replication) for name in ("in", *FOLLOWED)),
                *(TopicSpec(name, 1, replication, compacted=True) for name in TABLES),
            ],
        )
        await self._writer.start()
        self._stack.push_async_callback(self._writer.stop)

    async def follow(self) -> None:
        """Reads what comes out, for ever."""
        reader = self.transport.reader()
        await reader.start()
        try:
            places = {(topic, partition): 0 for topic in FOLLOWED for partition in range(await self.transport.cluster.partitions(topic))}
            reader.assign(places)
            while True:
                for record in await reader.fetch(0.5, 5_000):
                    self.log[record.topic].append(record)
                    self._read[record.topic, record.partition] = record.offset + 1
        finally:
            await reader.stop()

    async def create(self, topic: str, partitions: int, **configs: str) -> None:
        name = self.settings.topic(topic)
        await self.transport.cluster.admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])

        async def led() -> bool:
            found = (await self.transport.cluster.described([name])).get(name, [])
            return len(found) == partitions and all(partition["leader"] >= 0 for partition in found)

        await until(led)

    async def delete(self, topic: str) -> None:
        name = self.settings.topic(topic)
        await self.transport.cluster.admin.delete_topics([name])

        async def gone() -> bool:
            return name not in await self.transport.cluster.described([name])

        await until(gone)

    async def delete_records(self, before: int, partition: int = 0, topic: str = "in") -> None:
        """Moves the log's start, as the retention does."""
        await self.transport.cluster.admin.delete_records({TopicPartition(self.settings.topic(topic), partition): RecordsToDelete(before)})

    # -- the group, from outside ----------------------------------------------------------------------

    async def committed(self) -> dict[int, Commit]:
        """By partition. `log` then holds whatever was written before these commits."""
        commits = await self.transport.cluster.committed(STAGE)
        ends = {
            (topic, partition): end
            for topic in FOLLOWED
            for partition, (_, end) in (await self.transport.cluster.offsets(topic)).items()
        }  # fmt: skip
        await until(lambda: all(self._read.get(where, 0) >= end for where, end in ends.items()))
        return {partition: commit for (_, partition), commit in commits.items()}

    async def move_offset(self, offset: int, partition: int = 0, metadata: str = "") -> None:
        """What a reset tool does to a group without members."""
        consumer = AIOKafkaConsumer(**self.settings.connection(), group_id=self.settings.group(STAGE), enable_auto_commit=False)
        await consumer.start()
        try:
            place = TopicPartition(self.settings.topic("in"), partition)
            consumer.assign([place])
            await consumer.commit({place: OffsetAndMetadata(offset, metadata)})
        finally:
            await consumer.stop()

    async def forget_group(self) -> None:
        """The group's offsets are gone, as after their retention."""
        admin = self.transport.cluster.admin
        name = self.settings.group(STAGE)
        response = await admin._send_request(DeleteGroupsRequest([name]), await admin.find_coordinator(name))
        assert [code for _, code in response.results] == [0], response
        assert await self.committed() == {}

    # -- messages -----------------------------------------------------------------------------------

    async def send(self, records: Iterable[Outgoing]) -> None:
        await deliver(self._writer, list(records), too_large=lambda index: (), random=random.random, replaced=lambda: None)

    async def row(self, table: str, key: str, value: bytes | None) -> None:
        await self.send([Outgoing(table, key.encode(), value)])

    def numbers(self, topic: str = "out") -> list[int]:
        """The numbers of the messages that a topic of values holds, in order."""
        return [int(record.value or b"0") for record in self.log[topic]]

    def by_key(self) -> dict[str, list[int]]:
        """Of `out`: by key, the numbers in the order of the log."""
        found: defaultdict[str, list[int]] = defaultdict(list)
        for record in self.log["out"]:
            found[(record.key or b"").decode()].append(int(record.value or b"0"))
        return dict(found)

    def letters(self) -> list[DeadLetter]:
        return [msgspec.json.decode(record.value or b"", type=DeadLetter) for record in self.log["dead-letters"]]

    async def out(self, count: int, seconds: float = PATIENCE_SECONDS) -> None:
        """Until so many different numbers stand in `out`."""
        await until(lambda: len(set(self.numbers())) >= count, seconds)

    def lane_rows(self, running: Running) -> dict[str, LaneRow]:
        """Rows of the table `lanes` that tell of lanes, by the lane's name."""
        return {
            row.lane: row
            for key, value in running.tables["lanes"].items()
            if key.startswith(f"{STAGE}|") and key.rsplit("|", 1)[1] not in ("group", "recovery")
            for row in [msgspec.json.decode(value, type=LaneRow)]
        }  # fmt: skip

    # -- workers ------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def worker(
        self,
        step: Step,
        limits: Limits = FAST,
        *,
        kafka: KafkaSettings | None = None,
        around: Callable[[Transport], Transport] | None = None,
    ) -> AsyncIterator[Running]:
        """A worker in this process, as a member of the group of its own; ended when the block ends, if it was not before."""
        running = await self.begin(step, limits, kafka=kafka, around=around)
        try:
            yield running
        finally:
            await running.crash()

    async def begin(
        self,
        step: Step,
        limits: Limits = FAST,
        *,
        kafka: KafkaSettings | None = None,
        around: Callable[[Transport], Transport] | None = None,
        more_tables: Sequence[str] = (),
    ) -> Running:
        transport = KafkaTransport(kafka or self.settings)
        await transport.start()
        seam: Transport = transport if around is None else around(transport)
        tables, heard = Tables(seam, (*TABLES, *more_tables)), Heard()
        worker = Worker(stage(step, limits), seam, tables, heard, random=random.random)
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def live() -> None:
            try:
                async with anyio.create_task_group() as tasks:
                    await tasks.start(tables.run)
                    async with anyio.create_task_group() as work:
                        await work.start(worker.run)
                        started.set_result(None)
                    tasks.cancel_scope.cancel()
            finally:
                await transport.stop()

        task = asyncio.create_task(live(), name="a worker")
        await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        return Running(worker, tables, heard, task)

    def named(self, instance: str) -> KafkaSettings:
        """For a member with a name: whoever comes back under it gets its partitions at once. The embedded broker misses no other dead."""
        return dataclasses.replace(self.settings, instance=instance)

    def process(self, step: str, limits: Limits = FAST, *, kafka: KafkaSettings | None = None) -> "Process":
        """A worker in a process of its own, with a step of `tests.engine.process`."""
        number = len(self._processes)
        journal = self.directory / f"worker-{number}.journal"
        said = (self.directory / f"worker-{number}.log").open("wb")
        arguments = msgspec.json.encode(
            {"kafka": dataclasses.asdict(kafka or self.settings), "step": step, "directory": str(self.directory), "journal": str(journal), "limits": dataclasses.asdict(limits)}
        ).decode()  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.process", arguments],
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, cwd=ROOT, preexec_fn=die_with(os.getpid()),
        )  # fmt: skip
        said.close()
        self._processes.append(process)
        return Process(process, journal)

    def gate(self, name: str) -> None:
        """Opens a gate that steps in other processes wait at."""
        (self.directory / name).touch()

    async def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        await self._stack.aclose()


@dataclasses.dataclass(slots=True)
class Process:
    """A worker in a process of its own, and what its step has noted."""

    process: subprocess.Popen[bytes]
    journal: pathlib.Path

    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    def has_begun(self) -> bool:
        """Whether a batch has come to its step."""
        return any(line.startswith("begin") for line in self.lines())

    def kill(self) -> None:
        """kill -9, and gone."""
        self.process.kill()
        self.process.wait()

    def suspend(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.terminate()

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        return await asyncio.to_thread(self.process.wait, START_SECONDS)

    def peak_kib(self) -> int:
        """Its greatest resident memory so far."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


async def until(holds: Callable[[], bool | Awaitable[bool]], seconds: float = PATIENCE_SECONDS) -> None:
    """Until it holds, asked again and again."""
    async with asyncio.timeout(seconds):
        while True:
            answer = holds()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.02)


def is_whole_runs(numbers: Sequence[int], first: int, last: int) -> bool:
    """Whether these are `first` … `last` in order, where a run may begin again at an earlier number but leaves nothing out."""
    expected = first
    highest = first - 1
    for number in numbers:
        if number > expected or number < first:
            return False
        expected = number + 1
        highest = max(highest, number)
    return highest == last and expected == last + 1
