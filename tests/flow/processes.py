"""Processes of the product under test: started on free ports, watched through their log, ended by their id. Knows nothing of what they do."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

ROOT: Final = pathlib.Path(__file__).parent.parent.parent
READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 90.0
COMMAND_SECONDS: Final = 120.0


class ProcessError(AssertionError):
    """A process ended, or did not say what it was waited for."""


class Child:
    """One running `turnout …`, with everything that it says in a file. It ends by itself when this process is gone."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], said: pathlib.Path) -> None:
        self.arguments, self.said = arguments, said
        self._asked = False
        with said.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stages.cli", *arguments, "--stop-with-stdin"],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=dict(environment),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""
        return self._process.poll()

    def says(self, pattern: str, seconds: float = READY_SECONDS) -> re.Match[str]:
        """Waits for a line of its log."""
        ends = time.monotonic() + seconds
        while True:
            ended = self._process.poll()
            found = re.search(pattern, self.said.read_text(errors="replace"))
            if found is not None:
                return found
            if ended is not None or time.monotonic() > ends:
                state = "is running" if ended is None else f"ended with {ended}"
                raise ProcessError(f"`turnout {' '.join(self.arguments)}` {state}, and never said {pattern!r}:\n{self.tail()}")
            time.sleep(0.05)

    def tail(self, characters: int = 4_000) -> str:
        return self.said.read_text(errors="replace")[-characters:]

    def kill(self) -> None:
        """kill -9, and gone."""
        self._process.kill()
        self._process.wait(STOP_SECONDS)
        self._let_go()

    def ask_to_stop(self) -> None:
        """SIGTERM, once."""
        if not self._asked and self._process.poll() is None:
            self._asked = True
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Its exit code after SIGTERM. One that does not end within the time for two phases is killed, and that is an error."""
        self.ask_to_stop()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProcessError(f"`turnout {' '.join(self.arguments)}` did not stop within {STOP_SECONDS:g} s:\n{self.tail()}") from None
        self._let_go()
        return code

    def _let_go(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


@contextlib.contextmanager
def running(
    arguments: Sequence[str], environment: Mapping[str, str], said: pathlib.Path, ready: str
) -> Iterator[tuple[Child, re.Match[str]]]:
    """A child that has said that it is ready; stopped at the end, whatever happens."""
    child = Child(arguments, environment, said)
    try:
        yield child, child.says(ready)
    finally:
        child.stop()


def environment(**variables: str) -> dict[str, str]:
    """The environment of a child: this one's, without any variable of the product's, and with those given (without their prefix)."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TURNOUT_")}
    return inherited | {"PYTHONUNBUFFERED": "1", "TURNOUT_LOG": "json"} | {f"TURNOUT_{name}": value for name, value in variables.items()}


def command(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs one command of the product to its end."""
    return subprocess.run(
        [sys.executable, "-m", "stages.cli", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        cwd=ROOT,
        env=dict(environment),
        check=False,
    )


def done(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Runs one command that must succeed: what it printed."""
    ended = command(arguments, environment)
    if ended.returncode != 0:
        raise ProcessError(
            f"`turnout {' '.join(arguments)}` ended with {ended.returncode}:\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
        )
    return ended.stdout


def document(arguments: Sequence[str], environment: Mapping[str, str]) -> Any:
    """Runs one command with --json that must succeed: its document."""
    return json.loads(done([*arguments, "--json"], environment))
