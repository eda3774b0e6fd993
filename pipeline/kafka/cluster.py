"""What can be asked about topics and groups without being a member. Never writes records and never commits."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition, errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.metadata import MetadataRequest

from pipeline.errors import TopicMissing, TransportError
from pipeline.kafka.asking import answered, translating
from pipeline.kafka.closing import begun, closed, started
from pipeline.kafka.settings import KafkaSettings
from pipeline.records import Commit

T = TypeVar("T")

NO_OFFSET: Final = -1


class KafkaCluster:
    """Implements `pipeline.transport.Cluster`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._seconds = settings.request_timeout_ms / 1000
        self._admin: Any = None
        self._consumer: Any = None

    async def start(self) -> None:
        """One attempt. Raises TransportError."""
        connection = self._settings.connection() | {"request_timeout_ms": self._settings.request_timeout_ms}
        self._admin = AIOKafkaAdminClient(**connection)
        self._consumer = AIOKafkaConsumer(**connection, enable_auto_commit=False, auto_offset_reset="none")
        with translating(f"connecting to {self._settings.bootstrap}"):
            await begun(self._admin)
            await started(self._consumer)

    async def stop(self) -> None:
        admin, self._admin = self._admin, None
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await closed(consumer, self._settings.close_timeout_seconds)
        if admin is not None:
            await admin.close()

    async def partitions(self, topic: str) -> int:
        name = self._settings.topic(topic)
        found = await self.described([name])
        if name not in found:
            raise TopicMissing(name)
        return len(found[name])

    async def offsets(self, topic: str) -> Mapping[int, tuple[int, int]]:
        partitions = await self._topic_partitions(topic)
        starts = await self._answered(lambda: self._consumer.beginning_offsets(partitions), f"log start of {topic}")
        ends = await self._answered(lambda: self._consumer.end_offsets(partitions), f"end of {topic}")
        return {tp.partition: (starts[tp], ends[tp]) for tp in partitions}

    async def offsets_at(self, topic: str, timestamp_ms: int) -> Mapping[int, int]:
        partitions = await self._topic_partitions(topic)
        # Ends are asked first: a record that arrives in between must not be skipped by an end that is newer than the search.
        ends = await self._answered(lambda: self._consumer.end_offsets(partitions), f"end of {topic}")
        at = {tp: max(0, timestamp_ms) for tp in partitions}
        found = await self._answered(lambda: self._consumer.offsets_for_times(dict(at)), f"offsets of {topic} by time")
        return {tp.partition: ends[tp] if found[tp] is None else found[tp].offset for tp in partitions}

    async def committed(self, group: str) -> Mapping[tuple[str, int], Commit]:
        found = await self.committed_offsets(group, None)
        return {(self._settings.logical(tp.topic), tp.partition): commit for tp, commit in found.items() if commit is not None}

    async def members(self, group: str) -> int:
        name = self._settings.group(group)
        return await self._answered(lambda: self._count_members(name), f"members of {name}")

    async def committed_offsets(self, group: str, partitions: Iterable[TopicPartition] | None) -> dict[TopicPartition, Commit | None]:
        """What the group has committed, with metadata; with `partitions` an entry for each of them.

        Not `list_consumer_group_offsets` of aiokafka's admin client: that one takes an answer which holds an error for the whole
        group, and hence no partitions, for a group that has never committed.
        """
        wanted = None if partitions is None else frozenset(partitions)
        if wanted is not None and not wanted:
            return {}
        name = self._settings.group(group)
        return await self._answered(lambda: self._fetch_committed(name, wanted), f"committed offsets of {name}")

    async def described(self, names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """Partitions of those of these topics (full names) that exist. Never creates one, whatever the broker is set to."""
        wanted = list(names)
        return await self._answered(lambda: self._describe(wanted), f"metadata of {', '.join(wanted)}")

    @property
    def admin(self) -> Any:
        """aiokafka's admin client, for `pipeline.topics`."""
        if self._admin is None:
            raise TransportError("not connected to Kafka", retryable=False)
        return self._admin

    async def _answered(self, ask: Callable[[], Awaitable[T]], what: str) -> T:
        if self._consumer is None:
            raise TransportError(f"{what}: not connected to Kafka", retryable=False)
        return await answered(ask, self._seconds, what)

    async def _topic_partitions(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(self._settings.topic(topic), partition) for partition in range(await self.partitions(topic))]

    async def _describe(self, names: list[str]) -> dict[str, list[dict[str, Any]]]:
        response = await self._admin._send_request(MetadataRequest(names, allow_auto_topic_creation=False))
        found: dict[str, list[dict[str, Any]]] = {}
        for topic in response.to_object()["topics"]:
            error = errors.for_code(topic["error_code"])
            if error is errors.NoError:
                found[topic["topic"]] = topic["partitions"]
            elif error is not errors.UnknownTopicOrPartitionError:
                raise error(topic["topic"])
        return found

    async def _count_members(self, group: str) -> int:
        (response,) = await self._admin.describe_consumer_groups([group])
        ((error_code, _, _, _, _, members, *_),) = response.groups
        if error_code:
            raise errors.for_code(error_code)(group)
        return len(members)

    async def _fetch_committed(self, group: str, wanted: frozenset[TopicPartition] | None) -> dict[TopicPartition, Commit | None]:
        coordinator = await self._admin.find_coordinator(group)
        response = await self._admin._send_request(OffsetFetchRequest(group, _by_topic(wanted)), coordinator)
        if response.error_code:
            raise errors.for_code(response.error_code)(group)
        found: dict[TopicPartition, Commit | None] = {}
        for topic, rows in response.topics:
            for partition, offset, metadata, error_code in rows:
                if error_code:
                    raise errors.for_code(error_code)(f"{topic}/{partition}")
                found[TopicPartition(topic, partition)] = None if offset == NO_OFFSET else Commit(offset, metadata or "")
        if wanted is not None and not wanted <= found.keys():
            raise TransportError(f"{group}: no answer for every partition")
        return found


def _by_topic(partitions: frozenset[TopicPartition] | None) -> list[tuple[str, list[int]]] | None:
    if partitions is None:
        return None
    topics: dict[str, list[int]] = {}
    for tp in sorted(partitions):
        topics.setdefault(tp.topic, []).append(tp.partition)
    return list(topics.items())
