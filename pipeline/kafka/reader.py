"""A group-less reader of any partitions from any place, over aiokafka: tables, sweeps, looking. Never commits."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition, errors

from pipeline.errors import OffsetOutOfRange, TransportError
from pipeline.kafka.asking import translated, within
from pipeline.kafka.closing import closed, ended, started
from pipeline.kafka.cluster import KafkaCluster
from pipeline.kafka.pacing import paced
from pipeline.kafka.settings import KafkaSettings
from pipeline.records import Record

log = structlog.get_logger()


class KafkaReader:
    """Implements `pipeline.transport.Reader`."""

    def __init__(self, settings: KafkaSettings, cluster: KafkaCluster, max_bytes: int) -> None:
        self._settings = settings
        self._cluster = cluster
        self._max_bytes = max_bytes
        self._consumer: Any = None
        self._positions: dict[TopicPartition, int] = {}
        self._known: set[str] = set()
        self._assignment = 0
        """Counts the calls of `assign`."""
        self._applied = 0
        """The assignment that the client has."""
        self._poll: asyncio.Task[dict[Any, list[Any]]] | None = None
        self._poll_of = 0
        """The assignment that the poll under way was begun with."""
        self._reassigned = asyncio.Event()

    async def start(self) -> None:
        self._consumer = AIOKafkaConsumer(
            **self._settings.connection(),
            enable_auto_commit=False,
            auto_offset_reset="none",
            request_timeout_ms=self._settings.request_timeout_ms,
            fetch_max_wait_ms=self._settings.fetch_max_wait_ms,
            fetch_max_bytes=self._max_bytes,
            max_partition_fetch_bytes=self._max_bytes,
        )
        async with within(self._settings.connect_timeout_seconds, "starting a reader"):
            await started(self._consumer)
        paced(self._consumer, self._settings.fetch_max_wait_ms / 1000)

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        await closed(consumer, self._settings.close_timeout_seconds)
        poll, self._poll = self._poll, None
        await ended(poll)

    def assign(self, positions: Mapping[tuple[str, int], int]) -> None:
        self._positions = {
            TopicPartition(self._settings.topic(topic), partition): offset for (topic, partition), offset in positions.items()
        }
        self._assignment += 1
        self._reassigned.set()

    async def fetch(self, timeout_seconds: float, max_records: int) -> Sequence[Record]:
        consumer = self._started()
        self._reassigned.clear()
        if self._applied != self._assignment:
            await self._apply(consumer)
        if self._poll is None:
            poll = consumer.getmany(timeout_ms=max(1, int(timeout_seconds * 1000)), max_records=max_records)
            self._poll, self._poll_of = asyncio.create_task(poll, name="poll of a reader"), self._applied
        change = asyncio.create_task(self._reassigned.wait())
        try:
            await asyncio.wait({self._poll, change}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
        if not self._poll.done():
            return ()
        finished, self._poll = self._poll, None
        return await self._records(finished) if self._poll_of == self._assignment else self._dropped(finished)

    def position(self, topic: str, partition: int) -> int:
        tp = TopicPartition(self._settings.topic(topic), partition)
        if tp not in self._positions:
            raise TransportError(f"{tp.topic}/{partition} is not assigned to this reader", retryable=False)
        return self._positions[tp]

    async def _apply(self, consumer: Any) -> None:
        for name in {tp.topic for tp in self._positions} - self._known:
            # Before aiokafka asks for it, which would make the topic where the broker is set to make topics.
            await self._cluster.partitions(self._settings.logical(name))
            self._known.add(name)
        consumer.assign(list(self._positions))
        for tp, offset in self._positions.items():
            # In the same step, before the fetcher would look for a place by itself.
            consumer.seek(tp, offset)
        self._applied = self._assignment

    async def _records(self, poll: asyncio.Task[dict[Any, list[Any]]]) -> list[Record]:
        try:
            polled = poll.result()
        except errors.OffsetOutOfRangeError as error:
            tp, offset = next(iter(error.args[0].items()))
            raise OffsetOutOfRange(self._settings.logical(tp.topic), tp.partition, offset) from error
        except errors.KafkaError as error:
            raise translated("reading", error, "Read") from error
        for tp in self._positions:
            # Past what compaction has taken away and past control records, which only the client sees. Never waits: every position is set.
            self._positions[tp] = await self._consumer.position(tp)
        logical = {tp: self._settings.logical(tp.topic) for tp in polled}
        return [
            Record(logical[tp], tp.partition, row.offset, row.timestamp, row.key, row.value, row.headers)
            for tp, rows in polled.items()
            for row in rows
        ]

    def _dropped(self, poll: asyncio.Task[dict[Any, list[Any]]]) -> Sequence[Record]:
        """What was read for an assignment that has been replaced."""
        if (error := poll.exception()) is not None:
            log.debug("a poll of an earlier assignment failed", error=repr(error))
        else:
            # It may have moved on what is assigned now.
            self._applied = -1
        return ()

    def _started(self) -> Any:
        if self._consumer is None:
            raise TransportError("the reader is not started", retryable=False)
        return self._consumer
