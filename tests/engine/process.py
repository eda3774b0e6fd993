"""A worker of the engine's tests in a process of its own: to be killed, stopped and woken. Its step notes in a journal what it does."""

import asyncio
import contextlib
import pathlib
import random
import signal
import sys
from collections.abc import Sequence

import anyio
import msgspec

from pipeline.errors import LeaseLost
from pipeline.kafka import KafkaSettings, KafkaTransport
from pipeline.outcomes import Batch, Block, Emit, Out, Outcome, Retry, Step
from pipeline.stage import Limits
from pipeline.tables import Tables
from pipeline.worker import Worker
from tests.engine.desk import DOWN, RESTING
from tests.engine.place import TABLES, Heard, stage


class Told(msgspec.Struct):
    """The command line."""

    kafka: KafkaSettings
    step: str
    directory: str
    journal: str
    limits: Limits


class Steps:
    """The steps, by name."""

    def __init__(self, directory: pathlib.Path, journal: pathlib.Path) -> None:
        self._directory = directory
        self._journal = journal.open("a", buffering=1)

    def note(self, what: str, batch: Batch) -> None:
        self._journal.writelines(f"{what} {message.id}\n" for message in batch.messages)

    def note_stop(self) -> None:
        """SIGTERM has come."""
        self._journal.write("stopping\n")

    async def gate(self, name: str) -> None:
        while not (self._directory / name).exists():  # noqa: ASYNC110  another process makes it
            await asyncio.sleep(0.02)

    async def plain(self, batch: Batch) -> Sequence[Outcome]:
        """Passes on, behind the guard."""
        self.note("begin", batch)
        await asyncio.to_thread(batch.guard)
        self.note("call", batch)
        return [Emit((Out("out", message.value),)) for message in batch.messages]

    async def gated(self, batch: Batch) -> Sequence[Outcome]:
        """Passes on once the gate `go` is open; notes when the guard forbids it."""
        self.note("begin", batch)
        await self.gate("go")
        try:
            await asyncio.to_thread(batch.guard)
        except LeaseLost:
            self.note("refused", batch)
            raise
        self.note("call", batch)
        return [Emit((Out("out", message.value),)) for message in batch.messages]

    async def second_rests(self, batch: Batch) -> Sequence[Outcome]:
        """Message 2 is to be tried again much later until the gate `mended` is open; all others are passed on."""
        mended = (self._directory / "mended").exists()
        return [
            Retry(60.0, RESTING) if message.id == "2" and not mended else Emit((Out("out", message.value),)) for message in batch.messages
        ]

    async def until_up(self, batch: Batch) -> Sequence[Outcome]:
        """Orgs whose name begins with `down` answer once the gate `up` is open."""
        if batch.org.startswith("down") and not (self._directory / "up").exists():
            return [Block(f"org:{batch.org}", DOWN)] * len(batch.messages)
        self.note("call", batch)
        return [Emit((Out("out", message.value),)) for message in batch.messages]


async def run(arguments: Told) -> None:
    steps = Steps(pathlib.Path(arguments.directory), pathlib.Path(arguments.journal))
    step: Step = getattr(steps, arguments.step)
    transport = KafkaTransport(arguments.kafka)
    await transport.start()
    tables = Tables(transport, TABLES)
    worker = Worker(stage(step, arguments.limits), transport, tables, Heard(), random=random.random)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(tables.run)
            await tasks.start(worker.run)
            await stopping.wait()
            steps.note_stop()
            await worker.stop()
            tasks.cancel_scope.cancel()
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await transport.stop()


if __name__ == "__main__":
    asyncio.run(run(msgspec.json.decode(sys.argv[1], type=Told)))
