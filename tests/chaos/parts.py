"""The product's processes under attack: each is started again when it ends, as a supervisor does it. Signals reach only processes started here."""

import asyncio
import os
import pathlib
import re
import signal
import socket
from collections.abc import Mapping
from typing import Final

from tests.flow import watching
from tests.flow.processes import Child

RUNNING: Final = r'"event": "(running)"'
LOOK_SECONDS: Final = 0.1
STOP_SECONDS: Final = 90.0
"""For a stop in two phases: its own deadline is 60 s."""
AGAIN_SECONDS: Final = 1.0
"""Before the start after an end that nobody brought about."""

_NO_KAFKA: Final = re.compile(r"^turnout: .*Kafka", re.MULTILINE)
_BROKEN: Final = re.compile(r"Traceback|\"level\": \"critical\"")


class Part:
    """One process over all its lives. `folder` gets the log of each life."""

    def __init__(self, name: str, arguments: tuple[str, ...], environment: Mapping[str, str], folder: pathlib.Path) -> None:
        self.name, self.starts = name, 0
        self.wrong: list[str] = []
        """Ends that should not have been."""
        self.gave_up = 0
        """Ends by itself with a clear line, since Kafka did not answer."""
        self._arguments, self._environment, self._folder = arguments, environment, folder
        self._child: Child | None = None
        self._down_seconds: float | None = None
        self._closing = False

    @property
    def logs(self) -> list[pathlib.Path]:
        return sorted(self._folder.glob(f"{self.name}.*.log"))

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.code is None

    def start(self) -> None:
        self.starts += 1
        self._child = Child([*self._arguments, "--stop-with-stdin"], self._environment, self._folder / f"{self.name}.{self.starts:03}.log")

    async def keep(self) -> None:
        """Starts it again whenever it has ended, until it is closed."""
        while not self._closing:
            if self._child is None:
                self.start()
            elif self._child.code is not None:
                await self._again(self._child)
            await asyncio.sleep(LOOK_SECONDS)

    async def _again(self, child: Child) -> None:
        child.kill()  # has ended: lets go of its pipe
        down_seconds, self._down_seconds = self._down_seconds, None
        if down_seconds is None:
            if child.code == 1 and _NO_KAFKA.search(child.tail(1_500)):
                self.gave_up += 1
            else:
                self.wrong.append(f"{self.name} ended by itself with {child.code}: {_gist(child)}")
        await asyncio.sleep(AGAIN_SECONDS if down_seconds is None else down_seconds)
        if not self._closing:
            self.start()

    def kill(self, down_seconds: float) -> None:
        self._down_seconds = down_seconds
        self._signal(signal.SIGKILL)

    async def stop(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after `seconds`."""
        child = self._child
        self._signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            if child is self._child:
                self._signal(signal.SIGCONT)

    async def restart(self, down_seconds: float) -> None:
        self._down_seconds = down_seconds
        await self._terminate()

    async def close(self) -> None:
        """Ends it for good."""
        self._closing = True
        if self.alive:
            self._signal(signal.SIGCONT)
            await self._terminate()

    async def _terminate(self) -> None:
        """SIGTERM: it has to end with 0 within the time for two phases."""
        child = self._child
        assert child is not None
        self._signal(signal.SIGTERM)
        try:
            await watching.eventually(lambda: _ended(child), STOP_SECONDS)
        except AssertionError:
            self.wrong.append(f"{self.name} did not end within {STOP_SECONDS:g} s of SIGTERM: {_gist(child)}")
            child.kill()
        if self._closing:
            child.kill()
        # Before it runs there is nothing to stop in two phases: the signal may then end it at once.
        well = (0, -signal.SIGKILL) if self.told(RUNNING) else (0, -signal.SIGKILL, -signal.SIGTERM)
        if child.code not in well:
            self.wrong.append(f"{self.name} ended with {child.code} after SIGTERM: {_gist(child)}")

    def _signal(self, number: int) -> None:
        if self.alive and self._child is not None:
            os.kill(self._child.pid, number)

    def told(self, pattern: str) -> str | None:
        """What the present life has said, by a pattern's first group."""
        if self._child is None:
            return None
        found = re.search(pattern, self._child.said.read_text(errors="replace"))
        return None if found is None else found.group(1)

    def broken(self) -> list[str]:
        """Lines of its logs that tell of a mistake in the program."""
        return [line[:600] for path in self.logs for line in path.read_text(errors="replace").splitlines() if _BROKEN.search(line)]

    def mentions(self, text: str) -> list[str]:
        return [line[:600] for path in self.logs for line in path.read_text(errors="replace").splitlines() if text in line.lower()]


async def _ended(child: Child) -> None:
    assert child.code is not None


def _gist(child: Child) -> str:
    return " | ".join(child.tail(1_500).splitlines()[-3:])


def free_address() -> str:
    """An address that is free now, to be kept over restarts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
