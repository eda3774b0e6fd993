"""A seam around Kafka at which the engine's tests can make things fail, stick or take long."""

import asyncio
from collections.abc import Mapping, Sequence

from pipeline.errors import TransportError
from pipeline.records import Commit, Record
from pipeline.transport import Cluster, GroupReader, Reader, Rebalanced, Transport, Writer


class Seam:
    """Give `around` to a place's worker; then turn the switches."""

    def __init__(self) -> None:
        self.deaf = False
        """Live reading brings nothing more, and does not fail either."""
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

    @property
    def cluster(self) -> Cluster:
        return self._inner.cluster

    async def start(self) -> None:
        await self._inner.start()

    async def stop(self) -> None:
        await self._inner.stop()

    def group_reader(self, topic: str, group: str, listener: Rebalanced) -> GroupReader:
        reader = _Reader(self._seam, self._inner.group_reader(topic, group, listener))
        self._seam._readers.append(reader)
        return reader

    def reader(self, max_bytes: int = 8 * 1024 * 1024) -> Reader:
        return self._inner.reader(max_bytes)

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
        return {} if self._seam.deaf else fetched

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
