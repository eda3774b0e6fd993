"""Listens to the topic `synced`: how many people of each workspace are done, and how long each took from the door. Waits; judges nothing."""

import asyncio
import contextlib
import dataclasses
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from pipeline.kafka import KafkaTransport
from pipeline.transport import Reader
from schemas.messages import Synced

FETCH_SECONDS: Final = 0.2
FETCH_RECORDS: Final = 5_000


class BenchError(AssertionError):
    """Something did not become of a message in time, or something else than it should: the figures would be of no use."""


@dataclasses.dataclass(slots=True)
class Done:
    """Of one workspace. Times are Unix ms."""

    at_ms: list[int] = dataclasses.field(default_factory=list)
    """When each person's final outcome was written to the log, in the order of reading."""
    received_ms: list[int] = dataclasses.field(default_factory=list)
    sessions: int = 0
    """Messages about sessions that have ended."""

    def delays(self, start: int = 0) -> list[float]:
        """Seconds from the door to the Campaign Member, of those from place `start` on."""
        return [(at - received) / 1000 for at, received in zip(self.at_ms[start:], self.received_ms[start:], strict=True)]


class Outcomes:
    """Everything since this began to listen."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._decoder = msgspec.json.Decoder(Synced)
        self._more = asyncio.Event()
        self.of: defaultdict[str, Done] = defaultdict(Done)
        self.wrong: list[str] = []
        """What ended otherwise than as a Campaign Member."""

    async def listen(self) -> None:
        while True:
            for record in await self._reader.fetch(FETCH_SECONDS, FETCH_RECORDS):
                self._hear(record)
            self._more.set()
            self._more = asyncio.Event()

    def _hear(self, record: Any) -> None:
        told = self._decoder.decode(record.value)
        done = self.of[told.workspace]
        if told.kind == "session":
            done.sessions += 1
        elif told.kind == "registration":
            done.at_ms.append(record.timestamp_ms)
            done.received_ms.append(int(dict(record.headers)["received-at"]))
        if told.outcome == "rejected" or (told.outcome == "dropped" and told.kind == "registration"):
            self.wrong.append(f"{told.kind} of {told.workspace}: {told.outcome} in {told.stage}: {told.reason} {told.causes}")

    async def people(self, workspace: str, count: int, seconds: float) -> None:
        """Until so many people of the workspace are done. Raises BenchError."""
        await self._until(lambda: len(self.of[workspace].at_ms) >= count, seconds, f"{count} people of {workspace}")

    async def session(self, workspace: str, seconds: float) -> None:
        """Until the workspace's session has its Campaign."""
        await self._until(lambda: self.of[workspace].sessions > 0, seconds, f"the session of {workspace}")

    async def _until(self, reached: Any, seconds: float, what: str) -> None:
        ends = time.monotonic() + seconds
        while not reached():
            if self.wrong:
                raise BenchError(f"{len(self.wrong)} ended otherwise: {self.wrong[0]}")
            more, left = self._more, ends - time.monotonic()
            try:
                await asyncio.wait_for(more.wait(), left)
            except TimeoutError:
                counts = {name: len(done.at_ms) for name, done in self.of.items()}
                raise BenchError(f"not done within {seconds:g} s: {what}; done are {counts}") from None


@contextlib.asynccontextmanager
async def listening(transport: KafkaTransport) -> AsyncIterator[Outcomes]:
    """Listens from now on."""
    reader = transport.reader()
    await reader.start()
    offsets = await transport.cluster.offsets("synced")
    reader.assign({("synced", partition): end for partition, (_, end) in offsets.items()})
    outcomes = Outcomes(reader)
    task = asyncio.create_task(outcomes.listen())
    try:
        yield outcomes
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await reader.stop()
