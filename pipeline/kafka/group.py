"""One member of one consumer group on one topic, over aiokafka. Holds the only commit of the code base; never commits by itself.

aiokafka 0.14 keeps to itself what the engine's rules need, so four of its private names are used here, each of them only here:
the coordinator's `_do_heartbeat` and `_do_commit_offsets` are wrapped, `_start_heartbeat_task` is called and `_rejoin_needed_fut`
read. tests/contract/ shows that they still do what they did.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition, errors
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.structs import OffsetAndMetadata

from pipeline.errors import CommitRefused, OffsetOutOfRange, TransportError
from pipeline.kafka.asking import translated, within
from pipeline.kafka.closing import closed, ended, started
from pipeline.kafka.cluster import KafkaCluster
from pipeline.kafka.lease import Clock, Lease, monotonic
from pipeline.kafka.pacing import paced
from pipeline.kafka.settings import KafkaSettings, member_name
from pipeline.records import Commit, Record
from pipeline.transport import Rebalanced

log = structlog.get_logger()

JOIN_MARGIN_MS: Final = 5_000
"""A join is answered when every member has come or the rebalance timeout has ended; the wait for it must outlast that."""


class KafkaGroupReader:
    """Implements `pipeline.transport.GroupReader`. All methods but `lease_seconds` belong to the event loop's thread."""

    def __init__(
        self, settings: KafkaSettings, cluster: KafkaCluster, topic: str, group: str, listener: Rebalanced, clock: Clock = monotonic
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._topic = topic
        self._name = settings.topic(topic)
        self._group = group
        self._listener = listener
        self._clock = clock
        self._lease = Lease(settings.session_timeout_ms / 1000, settings.rebalance_timeout_ms / 1000, clock)
        self._consumer: Any = None
        self._owned: frozenset[int] = frozenset()
        self._generation: int | None = None
        self._letting_go = False
        self._sought: set[int] = set()
        self._paused: set[int] = set()
        self._poll: asyncio.Task[dict[Any, list[Any]]] | None = None
        self._moved: dict[int, int] = {}
        """Where `seek` went while a poll was under way; what that poll brings of them may be from before."""
        self._failure: BaseException | None = None

    async def start(self) -> None:
        """Joins; the listener tells what this member gets. Raises TopicMissing."""
        await self._cluster.partitions(self._topic)
        settings = self._settings
        self._consumer = AIOKafkaConsumer(
            **settings.connection() | {"client_id": member_name(settings.client)},
            group_id=settings.group(self._group),
            group_instance_id=settings.group_instance(self._group),
            enable_auto_commit=False,
            auto_offset_reset="none",
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
            rebalance_timeout_ms=settings.rebalance_timeout_ms,
            max_poll_interval_ms=settings.max_poll_interval_ms,
            request_timeout_ms=max(settings.request_timeout_ms, settings.rebalance_timeout_ms + JOIN_MARGIN_MS),
            fetch_max_wait_ms=settings.fetch_max_wait_ms,
            fetch_max_bytes=settings.fetch_max_bytes,
            max_partition_fetch_bytes=settings.max_partition_fetch_bytes,
        )
        async with within(settings.connect_timeout_seconds, f"joining {settings.group(self._group)}"):
            await started(self._consumer)
        paced(self._consumer, settings.fetch_max_wait_ms / 1000)
        self._watch(self._consumer._coordinator)
        self._consumer.subscribe([self._name], listener=_Listener(self))

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._forget()
        if consumer is None:
            return
        await closed(consumer, self._settings.close_timeout_seconds)
        poll, self._poll = self._poll, None
        await ended(poll)

    async def fetch(self, timeout_seconds: float, max_records: int) -> Mapping[int, Sequence[Record]]:
        self._raise_failure()
        consumer = self._joined()
        if self._poll is None:
            self._moved.clear()
            poll = consumer.getmany(timeout_ms=max(1, int(timeout_seconds * 1000)), max_records=max_records)
            self._poll = asyncio.create_task(poll, name=f"poll {self._name}")
        # During a rebalance aiokafka's poll outlasts its timeout. It is then kept for the next call rather than cancelled, so that no
        # record which it has already taken can be lost with it.
        done, _ = await asyncio.wait({self._poll}, timeout=timeout_seconds)
        self._raise_failure()
        if not done:
            return {}
        finished, self._poll = self._poll, None
        return self._admitted(self._polled(finished))

    def seek(self, partition: int, offset: int) -> None:
        if partition not in self._owned:
            raise TransportError(f"{self._name}/{partition} is not assigned to this member", retryable=False)
        tp = self._tp(partition)
        self._joined().seek(tp, offset)
        self._moved[partition] = offset
        self._sought.add(partition)
        if partition not in self._paused:
            self._consumer.resume(tp)

    def pause(self, partitions: Sequence[int]) -> None:
        for partition in self._owned.intersection(partitions):
            self._paused.add(partition)
            self._joined().pause(self._tp(partition))

    def resume(self, partitions: Sequence[int]) -> None:
        for partition in self._owned.intersection(partitions):
            self._paused.discard(partition)
            if partition in self._sought:
                self._joined().resume(self._tp(partition))

    async def commit(self, commits: Mapping[int, Commit]) -> None:
        if not commits:
            return
        foreign = commits.keys() - self._owned
        if foreign:
            raise CommitRefused(f"{self._name}: partitions {sorted(foreign)} are not assigned to this member")
        offsets = {self._tp(p): OffsetAndMetadata(commit.offset, commit.metadata) for p, commit in commits.items()}
        async with within(self._settings.request_timeout_ms / 1000, f"commit of {self._settings.group(self._group)}", "Read"):
            await self._joined().commit(offsets)

    async def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit | None]:
        found = await self._cluster.committed_offsets(self._group, [self._tp(partition) for partition in partitions])
        return {partition: found[self._tp(partition)] for partition in partitions}

    def lease_seconds(self) -> float:
        return self._lease.seconds()

    async def end_offsets(self, partitions: Sequence[int]) -> Mapping[int, int]:
        tps = [self._tp(partition) for partition in partitions]
        async with within(self._settings.request_timeout_ms / 1000, f"end of {self._name}"):
            ends = await self._joined().end_offsets(tps)
        return {tp.partition: ends[tp] for tp in tps}

    # What the coordinator tells.

    async def revoked(self) -> None:
        """Called by aiokafka before it joins again, while heartbeats go on."""
        partitions = self._owned
        if partitions:
            self._letting_go = True
            # Past the rebalance timeout the partitions are gone anyhow; waiting on would only hold up the next join.
            patience = asyncio.timeout(self._settings.rebalance_timeout_ms / 1000)
            try:
                async with patience:
                    await self._listener.revoked(partitions)
            except Exception as error:  # noqa: BLE001  aiokafka would only log it; `fetch` raises it
                if isinstance(error, TimeoutError) and patience.expired():
                    log.warning("partitions were let go of too late: the group may have given them to others", topic=self._name)
                else:
                    self._failed("revoke", error)
            finally:
                self._letting_go = False
        self._forget()

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Called by aiokafka after a join, in the same step that made the assignment or a few later, and before any fetch."""
        consumer = self._consumer
        if consumer is None:
            return
        for partition in partitions:
            # A position that is never read from: with it, aiokafka neither looks for a committed one nor fails for want of one.
            consumer.seek(self._tp(partition), 0)
            consumer.pause(self._tp(partition))
        coordinator = consumer._coordinator
        self._owned, self._generation = partitions, coordinator.generation
        self._moved = dict.fromkeys(partitions, 0)
        self._lease.begin()
        try:
            # aiokafka starts heartbeats only after this callback: a listener that is slower than the session would be thrown out.
            coordinator._start_heartbeat_task()
            await coordinator._do_heartbeat()
            await self._listener.assigned(partitions)
        except Exception as error:  # noqa: BLE001  aiokafka would only log it; `fetch` raises it
            self._failed("assignment", error)

    def _watch(self, coordinator: Any) -> None:
        beat, send_commit = coordinator._do_heartbeat, coordinator._do_commit_offsets

        async def heartbeat() -> bool:
            asked_at = self._clock()
            alive: bool = await beat()
            if alive:
                self._lease.renew(asked_at, settled=not coordinator._rejoin_needed_fut.done())
            self._check_membership(coordinator)
            return alive

        async def commit(assignment: Any, offsets: Any) -> None:
            # aiokafka sends, and sends again, under whatever generation it has by then; after a rejoin that would let offsets of an
            # earlier ownership pass, and without a generation even those of no member at all.
            if not assignment.active or coordinator.generation != self._generation:
                raise errors.IllegalGenerationError(self._settings.group(self._group))
            asked_at, identity = self._clock(), (coordinator.generation, coordinator.member_id)
            if (task := asyncio.current_task()) is not None:
                task.add_done_callback(_heard)
            try:
                await send_commit(assignment, offsets)
            except errors.IllegalGenerationError:
                # The embedded broker counts the generation on when a rebalance begins, Kafka when it ends. aiokafka forgets its member
                # id over this, and the group would wait for the forgotten member: it joins again under the id that it has, and a
                # broker that doesn't know the id says so. Who lets go keeps its generation too, so that its heartbeats go on.
                coordinator.member_id = identity[1]
                if self._letting_go:
                    coordinator.generation = identity[0]
                raise
            finally:
                self._check_membership(coordinator)
            self._lease.renew(asked_at, settled=not coordinator._rejoin_needed_fut.done())

        coordinator._do_heartbeat = heartbeat
        coordinator._do_commit_offsets = commit

    def _check_membership(self, coordinator: Any) -> None:
        if coordinator.generation != self._generation:
            self._lease.end()

    def _forget(self) -> None:
        self._lease.end()
        self._owned, self._generation = frozenset(), None
        self._sought.clear()
        self._paused.clear()

    def _failed(self, what: str, error: Exception) -> None:
        log.error("group callback failed", what=what, topic=self._name, error=repr(error))
        self._failure = error

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    # What a poll brought.

    def _polled(self, poll: asyncio.Task[dict[Any, list[Any]]]) -> dict[Any, list[Any]]:
        try:
            return poll.result()
        except errors.OffsetOutOfRangeError as error:
            tp, offset = next(iter(error.args[0].items()))
            if tp.partition not in self._owned or self._moved.get(tp.partition, offset) != offset:
                return {}
            raise OffsetOutOfRange(self._topic, tp.partition, offset) from error
        except errors.KafkaError as error:
            operation = "Read and Describe" if isinstance(error, errors.GroupAuthorizationFailedError) else "Read"
            raise translated(f"reading {self._name}", error, operation) from error

    def _admitted(self, polled: dict[Any, list[Any]]) -> dict[int, list[Record]]:
        admitted: dict[int, list[Record]] = {}
        for tp, rows in polled.items():
            partition = tp.partition
            if partition not in self._owned or partition not in self._sought:
                continue
            if partition in self._moved:
                self._consumer.seek(tp, self._moved[partition])
            elif partition in self._paused:
                self._consumer.seek(tp, rows[0].offset)
            else:
                admitted[partition] = records(self._topic, rows)
        return admitted

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._name, partition)

    def _joined(self) -> Any:
        if self._consumer is None:
            raise TransportError(f"the reader of {self._name} is not started", retryable=False)
        return self._consumer


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, reader: KafkaGroupReader) -> None:
        self._reader = reader

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._reader.revoked()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._reader.assigned(frozenset(tp.partition for tp in assigned))


def _heard(task: asyncio.Task[Any]) -> None:
    """aiokafka shields a commit from who asked for it: where they gave up, how it ends would be logged as nobody's."""
    if not task.cancelled():
        task.exception()


def records(topic: str, rows: Iterable[Any]) -> list[Record]:
    """Rows of aiokafka as records of ours."""
    return [Record(topic, row.partition, row.offset, row.timestamp, row.key, row.value, row.headers) for row in rows]
