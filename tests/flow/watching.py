"""Waiting for what must become true, and listening to topics. No fixed waits: every one has a condition and an end."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

T = TypeVar("T")

PATIENCE_SECONDS: Final = 60.0


async def eventually(check: Callable[[], Awaitable[T]], seconds: float = PATIENCE_SECONDS) -> T:
    """Until `check` raises no AssertionError any more: what it returns. Its last one is raised at the end."""
    ends = time.monotonic() + seconds
    pause = 0.05
    while True:
        try:
            return await check()
        except AssertionError:
            if time.monotonic() > ends:
                raise
        await asyncio.sleep(pause)
        pause = min(0.5, pause * 1.3)


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """One record of a topic."""

    topic: str
    partition: int
    offset: int
    key: str
    headers: dict[str, str]
    value: Any
    """Decoded JSON; None: it is none."""
    raw: bytes


def heard(record: Any, prefix: str) -> Heard:
    """A consumer's record of one of the product's topics."""
    raw = record.value or b""
    return Heard(
        record.topic.removeprefix(f"{prefix}."),
        record.partition,
        record.offset,
        (record.key or b"").decode(errors="backslashreplace"),
        {name: value.decode(errors="backslashreplace") for name, value in record.headers},
        _decoded(raw),
        raw,
    )


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


class Topics:
    """Everything that topics got since this began to listen."""

    def __init__(self, consumer: AIOKafkaConsumer, prefix: str) -> None:
        self._consumer, self._prefix = consumer, prefix
        self.heard: list[Heard] = []

    def of(self, topic: str, workspace: str) -> list[Heard]:
        """What a topic got for one workspace, in the order of each partition."""
        return [one for one in self.heard if one.topic == topic and one.headers.get("workspace") == workspace]

    async def listen(self) -> None:
        while True:
            for records in (await self._consumer.getmany(timeout_ms=200, max_records=5_000)).values():
                self.heard.extend(heard(record, self._prefix) for record in records)


@contextlib.asynccontextmanager
async def listening(bootstrap: str, prefix: str, topics: tuple[str, ...]) -> AsyncIterator[Topics]:
    """Listens from now on."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=100)
    await consumer.start()
    try:
        names = [f"{prefix}.{topic}" for topic in topics]
        await consumer._client.set_topics(names)  # partitions_for_topic knows only topics that the client follows
        places = [TopicPartition(name, number) for name in names for number in sorted(consumer.partitions_for_topic(name) or ())]
        assert places, f"there are no topics {names}"
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        for place, end in ends.items():
            consumer.seek(place, end)
        told = Topics(consumer, prefix)
        task = asyncio.create_task(told.listen())
        try:
            yield told
        finally:
            if not task.done():
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    finally:
        await consumer.stop()


async def record_at(bootstrap: str, topic: str, partition: int, offset: int) -> bytes | None:
    """The value of one record."""
    place = TopicPartition(topic, partition)
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False) as consumer:
        consumer.assign([place])
        consumer.seek(place, offset)
        record = await asyncio.wait_for(consumer.getone(place), PATIENCE_SECONDS)
        assert record.offset == offset
        value: bytes | None = record.value
        return value


async def send_again(bootstrap: str, topic: str, workspace: str) -> int:
    """Puts every record that a topic holds of one workspace into it once more, as it was: how many of them are about people."""
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest") as consumer:
        await consumer._client.set_topics([topic])
        while not (numbers := consumer.partitions_for_topic(topic)):
            # The answer may be that of an update that was under way for other topics.
            await consumer._client.force_metadata_update()
        places = [TopicPartition(topic, number) for number in sorted(numbers)]
        # From the start by its setting: a seek could be overtaken by the answer about where the end is.
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        found = []
        while any([await consumer.position(place) < end for place, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += [record for record in records if dict(record.headers).get("workspace") == workspace.encode()]
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for record in found:
            await producer.send_and_wait(topic, record.value, key=record.key, partition=record.partition, headers=list(record.headers))
    return sum(dict(record.headers)["kind"] == b"registration" for record in found)
