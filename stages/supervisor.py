"""Runs parts as operating-system processes of their own: starts, prefixes their output, starts again what dies, stops in two phases.

Never touches a process that it did not start.
"""

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio
import structlog

from stages.errors import TurnoutError

log = structlog.get_logger()

FIRST_DELAY_SECONDS: Final = 0.25
LONGEST_DELAY_SECONDS: Final = 30.0
STEADY_SECONDS: Final = 60.0
"""A process that lived this long starts with a clean slate."""
WRONG_SETTINGS: Final = 2
"""Exit code of a process that a start with the same settings can't help."""
LONGEST_LINE_BYTES: Final = 64 * 1024

Sink = Callable[[str, str], None]
"""Takes one line of output: the child's name, the line without its end."""


@dataclasses.dataclass(frozen=True, slots=True)
class Child:
    """What to run. `arguments` follow `turnout` on the command line."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Laid over this process's environment."""


class ChildFailed(TurnoutError):
    """A child says that starting it again is no use."""


def restart_delay_seconds(deaths: int, chance: float) -> float:
    """How long to wait before the start after the nth death in a row (1, 2, …). `chance` in 0..1 spreads it by up to half."""
    return min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(deaths - 1, 20)) * (1 - chance / 2)


def deaths_in_a_row(before: int, lived_seconds: float) -> int:
    """The count after one more death."""
    return 1 if lived_seconds >= STEADY_SECONDS else before + 1


def program() -> tuple[str, ...]:
    """The command line of `turnout` itself: the console script beside the interpreter, else the module."""
    script = Path(sys.executable).parent / "turnout"
    if script.is_file() and os.access(script, os.X_OK):
        return (sys.executable, str(script))
    return (sys.executable, "-m", "stages.cli")


class Running:
    """One child, over all its lives."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.pid: int | None = None
        """Of the living process, None between two lives."""
        self.starts = 0
        self.stopping = False
        self.changed = asyncio.Event()
        """Set with every start and end; whoever waits clears it."""

    def terminate(self) -> None:
        """Asks the process to stop; what it started is its own to end."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process and its group, whose leader it is."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


class Supervisor:
    """Owns children in tiers: the tiers that were started last stop first. Use as an async context manager."""

    def __init__(self, sink: Sink, *, stop_seconds: float = 75.0, command: Sequence[str] | None = None) -> None:
        """`stop_seconds`: how long a tier may take to end by itself before it is killed."""
        self._sink = sink
        self._stop_seconds = stop_seconds
        self._command = tuple(command or program())
        self._tiers: list[dict[str, Running]] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failure: asyncio.Future[None] | None = None

    async def __aenter__(self) -> "Supervisor":
        self._failure = asyncio.get_running_loop().create_future()
        return self

    async def __aexit__(self, *_: object) -> None:
        # Also where everything around is cancelled: children never outlive their supervisor.
        with anyio.CancelScope(shield=True):
            await self.stop()
        if self._failure is not None and not self._failure.done():
            self._failure.cancel()
        elif self._failure is not None:
            self._failure.exception()

    async def start(self, *children: Child) -> None:
        """Starts one tier; returns when each process exists (not when it is ready)."""
        tier = {child.name: Running(child) for child in children}
        self._tiers.append(tier)
        for name, running in tier.items():
            self._tasks[name] = asyncio.create_task(self._keep(running), name=f"keep {name}")
        for running in tier.values():
            while running.starts == 0 and not self._tasks[running.child.name].done():
                running.changed.clear()
                await running.changed.wait()
        await self._raise_failure()

    def children(self) -> Mapping[str, Running]:
        return {name: running for tier in self._tiers for name, running in tier.items()}

    async def failed(self) -> None:
        """Waits until a child says that it can't be started; raises ChildFailed. Never returns."""
        assert self._failure is not None, "use the supervisor as a context manager"  # noqa: S101  # misuse in code, not input
        await asyncio.shield(self._failure)

    async def stop(self) -> None:
        """Ends all tiers, the last first: SIGTERM, then a wait, then SIGKILL to what is left of the child's own group."""
        while self._tiers:
            tier = self._tiers.pop()
            for running in tier.values():
                running.stopping = True
                running.changed.set()
                running.terminate()
            tasks = [self._tasks.pop(name) for name in tier]
            _, late = await asyncio.wait(tasks, timeout=self._stop_seconds)
            if late:
                for running in tier.values():
                    if running.pid is not None:
                        log.warning("killed after the deadline; repeats may follow", child=running.child.name)
                        running.kill()
                await asyncio.wait(late)
            for task in tasks:
                task.result()

    async def _raise_failure(self) -> None:
        if self._failure is not None and self._failure.done():
            await self._failure

    async def _keep(self, running: Running) -> None:
        deaths = 0
        while not running.stopping:
            began = time.monotonic()
            code = await self._live(running)
            running.changed.set()
            if running.stopping:
                return
            if code == WRONG_SETTINGS:
                self._give_up(running.child.name)
                return
            deaths = deaths_in_a_row(deaths, time.monotonic() - began)
            delay = restart_delay_seconds(deaths, random.random())
            log.warning("a part ended and is started again", child=running.child.name, exit_code=code, after_seconds=round(delay, 2))
            await _until_stopping(running, delay)

    def _give_up(self, name: str) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(ChildFailed(f"{name} can't start: its last line above says why"))

    async def _live(self, running: Running) -> int:
        """One life of a child, from its start to its end. Returns its exit code, negative for a signal.

        The process has a group of its own, so that Ctrl-C reaches the supervisor alone. Its standard input is a pipe that
        nobody writes to: it ends with the supervisor, however that ends, and the child with it (`stages.leash`).
        """
        child = running.child
        loop = asyncio.get_running_loop()
        transport, life = await loop.subprocess_exec(
            lambda: _Life(child.name, self._sink),
            *self._command,
            *child.arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **child.environment},
            process_group=0,
        )
        running.pid = transport.get_pid()
        running.starts += 1
        running.changed.set()
        if running.stopping:
            running.terminate()
        try:
            await life.ended
        finally:
            running.pid = None
            transport.close()
        return transport.get_returncode() or 0


class _Life(asyncio.SubprocessProtocol):
    """Hands on a process's output line by line, and tells when it has ended; what it left in its group ends with it."""

    def __init__(self, name: str, sink: Sink) -> None:
        self._name = name
        self._sink = sink
        self._rest = b""
        self._pid = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)  # noqa: S101  # what subprocess_exec makes
        self._pid = transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._sink(self._name, line.decode(errors="replace"))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1 and self._rest:
            self._sink(self._name, self._rest.decode(errors="replace"))
            self._rest = b""

    def process_exited(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended and its output was read."""
        if not self.ended.done():
            self.ended.set_result(None)


async def _until_stopping(running: Running, seconds: float) -> None:
    """Waits that long, or until the child is to stop."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not running.stopping:
                running.changed.clear()
                await running.changed.wait()
