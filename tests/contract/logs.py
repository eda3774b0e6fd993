"""One face for the logs that the contract tests run over: in memory, and Kafka behind `tests.brokers`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

from aiokafka import TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete

from pipeline.kafka import KafkaSettings, KafkaTransport
from pipeline.memory import MemoryBroker
from pipeline.records import Outgoing, Record
from pipeline.transport import GroupReader, Reader, Transport, Writer
from tests import brokers

SESSION_SECONDS: Final = 6.0
PATIENCE_SECONDS: Final = 30.0
METADATA_LIMIT: Final = 4096
LARGE_BYTES: Final = 50_000
"""What a topic of these tests takes of one record."""


class Log(Protocol):
    """A log to be tested. Each transport of it stands for a process."""

    limits_metadata: bool
    """Kafka refuses metadata over `offset.metadata.max.bytes`; the embedded broker takes any."""
    commits_while_letting_go: bool
    """Kafka takes a commit until the rebalance is complete; the embedded broker counts the generation on at its beginning."""
    forgets_with_topic: bool
    """With a topic, Kafka deletes what groups have committed on it; the embedded broker keeps it."""
    expels_the_silent: bool
    """Kafka's groups go on without a member whose session has ended; the embedded broker's wait for it for ever."""

    async def transport(self) -> Transport: ...

    async def create(self, topic: str, partitions: int) -> None: ...

    async def delete_topic(self, topic: str) -> None: ...

    async def delete_records(self, topic: str, partition: int, before: int) -> None: ...


class MemoryLog:
    limits_metadata = True
    commits_while_letting_go = True
    forgets_with_topic = True
    expels_the_silent = True

    def __init__(self) -> None:
        self.broker = MemoryBroker(session_timeout_seconds=SESSION_SECONDS, metadata_limit=METADATA_LIMIT)

    async def transport(self) -> Transport:
        return self.broker.transport()

    async def create(self, topic: str, partitions: int) -> None:
        self.broker.create_topic(topic, partitions, max_record_bytes=LARGE_BYTES)

    async def delete_topic(self, topic: str) -> None:
        self.broker.delete_topic(topic)

    async def delete_records(self, topic: str, partition: int, before: int) -> None:
        self.broker.delete_records(topic, partition, before)


class KafkaLog:
    def __init__(self, settings: KafkaSettings, first: KafkaTransport, stack: contextlib.AsyncExitStack) -> None:
        self.settings = settings
        self.first = first
        apache = brokers.kind() == brokers.APACHE
        self.limits_metadata = self.commits_while_letting_go = self.forgets_with_topic = self.expels_the_silent = apache
        self._stack = stack

    async def transport(self) -> Transport:
        transport = KafkaTransport(self.settings)
        await transport.start()
        self._stack.push_async_callback(transport.stop)
        return transport

    async def create(self, topic: str, partitions: int) -> None:
        name = self.settings.topic(topic)
        new = NewTopic(name, partitions, 1, topic_configs={"max.message.bytes": str(LARGE_BYTES)})
        response = await self.first.cluster.admin.create_topics([new])
        assert response.topic_errors[0][1] == 0, response
        await until(lambda: self._led(name, partitions))

    async def delete_topic(self, topic: str) -> None:
        name = self.settings.topic(topic)
        response = await self.first.cluster.admin.delete_topics([name])
        assert response.topic_error_codes[0][1] == 0, response
        await until(lambda: self._led(name, 0))

    async def delete_records(self, topic: str, partition: int, before: int) -> None:
        await self.first.cluster.admin.delete_records({TopicPartition(self.settings.topic(topic), partition): RecordsToDelete(before)})

    async def _led(self, name: str, partitions: int) -> bool:
        found = (await self.first.cluster.described([name])).get(name, [])
        return len(found) == partitions and all(partition["leader"] >= 0 for partition in found)


@contextlib.asynccontextmanager
async def kafka_log(bootstrap: str, prefix: str) -> AsyncIterator[KafkaLog]:
    settings = KafkaSettings(bootstrap=bootstrap, prefix=prefix, session_timeout_ms=int(SESSION_SECONDS * 1000), heartbeat_interval_ms=200)
    async with contextlib.AsyncExitStack() as stack:
        first = KafkaTransport(settings)
        await first.start()
        stack.push_async_callback(first.stop)
        yield KafkaLog(settings, first, stack)


class Member:
    """A group reader whose listener takes note, and can be made to dawdle or to fail."""

    def __init__(self, log: Transport, topic: str, group: str = "stage") -> None:
        self.reader: GroupReader = log.group_reader(topic, group, self)
        self.partitions: frozenset[int] = frozenset()
        self.heard: list[tuple[str, frozenset[int]]] = []
        self.may_let_go = asyncio.Event()
        self.may_let_go.set()
        self.letting_go = asyncio.Event()
        self.on_revoked: Callable[[], Awaitable[None]] | None = None
        self.failure: Exception | None = None
        self.places: dict[int, int] = {}
        """Where it goes on whenever it is given a partition."""
        self._changed = asyncio.Condition()

    async def revoked(self, partitions: frozenset[int]) -> None:
        self.letting_go.set()
        await self.may_let_go.wait()
        if self.on_revoked is not None:
            await self.on_revoked()
        await self._note("revoked", partitions, frozenset())

    async def assigned(self, partitions: frozenset[int]) -> None:
        for partition in partitions & self.places.keys():
            self.reader.seek(partition, self.places[partition])
        await self._note("assigned", partitions, partitions)
        if self.failure is not None:
            raise self.failure

    async def has(self, count: int) -> frozenset[int]:
        """Until it has so many partitions."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(self.partitions) == count and self.heard[-1:] == [("assigned", self.partitions)])
        return self.partitions

    async def _note(self, what: str, partitions: frozenset[int], now: frozenset[int]) -> None:
        async with self._changed:
            self.heard.append((what, partitions))
            self.partitions = now
            self._changed.notify_all()


@contextlib.asynccontextmanager
async def member(log: Transport, topic: str, group: str = "stage") -> AsyncIterator[Member]:
    joined = Member(log, topic, group)
    await joined.reader.start()
    try:
        yield joined
    finally:
        joined.may_let_go.set()
        await joined.reader.stop()


@contextlib.asynccontextmanager
async def writer(log: Transport) -> AsyncIterator[Writer]:
    made = log.writer()
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@contextlib.asynccontextmanager
async def reader(log: Transport) -> AsyncIterator[Reader]:
    made = log.reader()
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Until it holds, asked again and again."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await holds():  # noqa: ASYNC110  the state is a broker's
            await asyncio.sleep(0.02)


async def fetched(source: GroupReader, count: int) -> list[Record]:
    """At least so many records from a group reader, in the order in which they came."""
    found: list[Record] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(found) < count:
            for records in (await source.fetch(0.5, 1000)).values():
                found.extend(records)
    return found


async def read(source: Reader, count: int) -> list[Record]:
    """At least so many records from a group-less reader."""
    found: list[Record] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(found) < count:
            found.extend(await source.fetch(0.5, 1000))
    return found


def numbered(topic: str, partition: int, numbers: range) -> list[Outgoing]:
    return [Outgoing(topic, b"key", b"%d" % number, (), partition) for number in numbers]
