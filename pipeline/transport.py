"""The seam to the log: what the engine needs of Kafka, as small Protocols. `pipeline.kafka` and `pipeline.memory` implement them.

Topics are named logically; an implementation adds the prefix. All methods may raise the errors of `pipeline.errors`.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, Protocol

from pipeline.records import Ack, Commit, Outgoing, Record

READER_BYTES: Final = 1024 * 1024
"""What a reader fetches at once, as the log stores it. More is no faster, and most of it is thrown away where the sweep goes on elsewhere."""


class Rebalanced(Protocol):
    """What a group reader tells the engine. Both are awaited before the group goes on."""

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Called before the partitions may go to another member: finish, commit, let go."""

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Called with the partitions that this member has now. None of them is read before `seek`."""


class GroupReader(Protocol):
    """One member of one consumer group on one topic. Never commits by itself."""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Leaves the group. The caller has committed before."""

    async def fetch(self, timeout_seconds: float, max_records: int) -> Mapping[int, Sequence[Record]]:
        """Records per partition, in offset order; empty after the timeout. A partition gives none until `seek` was called after its assignment, nor while paused.

        Raises OffsetOutOfRange (partition, offset, log start) where a position is below the log's start.
        """

    def seek(self, partition: int, offset: int) -> None: ...

    def pause(self, partitions: Sequence[int]) -> None: ...

    def resume(self, partitions: Sequence[int]) -> None: ...

    async def commit(self, commits: Mapping[int, Commit]) -> None:
        """Commits offsets with their metadata under this member's generation.

        Raises CommitRefused if this member no longer owns the partitions, TransportError (retryable) if the broker did not answer.
        """

    async def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit | None]:
        """What the group has committed, with metadata; None where nothing is."""

    def lease_seconds(self) -> float:
        """Seconds (monotonic) for which this member may still believe that it owns its partitions; negative: no longer."""

    async def end_offsets(self, partitions: Sequence[int]) -> Mapping[int, int]: ...


class Reader(Protocol):
    """A group-less reader of any partitions, from any place. For tables, sweeps and looking."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def assign(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Reads these (topic, partition) from these offsets, and nothing else, from the next fetch on."""

    async def fetch(self, timeout_seconds: float, max_records: int) -> Sequence[Record]:
        """Records in offset order per partition; empty after the timeout. Raises OffsetOutOfRange."""

    def position(self, topic: str, partition: int) -> int:
        """The next offset that a fetch would give (past compacted gaps, as far as known)."""


class Writer(Protocol):
    """An idempotent producer, acks=all. Order per partition is the order of the calls of `send`."""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Flushes within a bound, then closes."""

    def send(self, records: Sequence[Outgoing]) -> Awaitable[Sequence[Ack]]:
        """Takes the records into the buffer now, in order; the awaitable ends when all are acknowledged, in the order given.

        Raises RecordTooLarge (nothing of that record will land), NotAllowed, WriteError (some may have landed; `retryable` says whether to send again).
        """


class Cluster(Protocol):
    """What can be asked about topics and groups without being a member."""

    async def partitions(self, topic: str) -> int:
        """The number of partitions. Raises TopicMissing."""

    async def offsets(self, topic: str) -> Mapping[int, tuple[int, int]]:
        """Log start and end offset per partition. Raises TopicMissing."""

    async def offsets_at(self, topic: str, timestamp_ms: int) -> Mapping[int, int]:
        """Per partition the first offset whose record is not older; the end offset where there is none."""

    async def committed(self, group: str) -> Mapping[tuple[str, int], Commit]:
        """What a group (logical name) has committed, by (topic, partition)."""

    async def members(self, group: str) -> int:
        """How many members a group has; one that died is a member until its session ends."""


class Transport(Protocol):
    """Makes the parts. One for the process."""

    @property
    def cluster(self) -> Cluster: ...

    async def start(self) -> None:
        """Connects. Raises TransportError with one clear line where no broker answers."""

    async def stop(self) -> None: ...

    def group_reader(self, topic: str, group: str, listener: Rebalanced) -> GroupReader: ...

    def reader(self, max_bytes: int = READER_BYTES) -> Reader: ...

    def writer(self) -> Writer: ...
