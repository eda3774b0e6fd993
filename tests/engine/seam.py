"""A seam around Kafka at which the engine's tests can make things fail, stick or take long."""

import asyncio
from collections.abc import Mapping, Sequence

from pipeline.errors import TransportError
from pipeline.records import Commit, Record
from pipeline.transport import READER_BYTES, Cluster, GroupReader, Reader, Rebalanced, Transport, Writer


class Seam:
    """Give `around` to a place's worker; then turn the switches."""

    def __init__(self) -> None:
        self.deaf = False
        """Live reading brings nothing more, and does not fail either."""
        self.deaf_partitions: set[int] = set()
        """Live reading brings nothing more from these."""
        self.deaf_sweep = False
        """Whoever reads the stage's topic without the group hears nothing more."""
        self.failing_committed = 0
        """So many questions for what is committed fail."""
        self.failed_committed = 0
        self.commit_seconds = 0.0
        """Commits take so long to be sent."""
        self.commits_begun = 0
        self._readers: list[_Reader] = []

    def around(self, inner: Transport) -> Transport:
        return _Transport(self, inner)

    def back(self, partition: int, offset: int) -> None:
        """Hears again, from this place on."""
        for reader in self._readers:
            reader.seek(partition, offset)
        self.deaf = False


class _Transport:
    def __init__(self, seam: Seam, inner: Transport) -> None:
        self._seam, self._inner = seam, inner
        self._topic = ""

    @property
    def cluster(self) -> Cluster:
        return self._inner.cluster

    async def start(self) -> None:
        await self._inner.start()

    async def stop(self) -> None:
        await self._inner.stop()

    def group_reader(self, topic: str, group: str, listener: Rebalanced) -> GroupReader:
        self._topic = topic
        reader = _Reader(self._seam, self._inner.group_reader(topic, group, listener))
        self._seam._readers.append(reader)
        return reader

    def reader(self, max_bytes: int = READER_BYTES) -> Reader:
        return _Groupless(self._seam, self._inner.reader(max_bytes), self._topic)

    def writer(self) -> Writer:
        return self._inner.writer()


class _Reader:
    def __init__(self, seam: Seam, inner: GroupReader) -> None:
        self._seam, self._inner = seam, inner
        self.start, self.stop = inner.start, inner.stop
        self.seek, self.pause, self.resume = inner.seek, inner.pause, inner.resume
        self.lease_seconds, self.end_offsets = inner.lease_seconds, inner.end_offsets

    async def fetch(self, timeout_seconds: float, max_records: int) -> Mapping[int, Sequence[Record]]:
        fetched = await self._inner.fetch(timeout_seconds, max_records)
        if self._seam.deaf:
            return {}
        return {number: records for number, records in fetched.items() if number not in self._seam.deaf_partitions}

    async def commit(self, commits: Mapping[int, Commit]) -> None:
        self._seam.commits_begun += 1
        if self._seam.commit_seconds:
            await asyncio.sleep(self._seam.commit_seconds)
        await self._inner.commit(commits)

    async def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit | None]:
        if self._seam.failing_committed:
            self._seam.failing_committed -= 1
            self._seam.failed_committed += 1
            raise TransportError("the coordinator is not available")
        return await self._inner.committed(partitions)


class _Groupless:
    def __init__(self, seam: Seam, inner: Reader, topic: str) -> None:
        self._seam, self._inner, self._topic = seam, inner, topic
        self._reads_stage = False
        self.start, self.stop, self.position = inner.start, inner.stop, inner.position

    def assign(self, positions: Mapping[tuple[str, int], int]) -> None:
        self._reads_stage = any(topic == self._topic for topic, _ in positions)
        self._inner.assign(positions)

    async def fetch(self, timeout_seconds: float, max_records: int) -> Sequence[Record]:
        if self._seam.deaf_sweep and self._reads_stage:
            await asyncio.sleep(timeout_seconds)
            return ()
        return await self._inner.fetch(timeout_seconds, max_records)
