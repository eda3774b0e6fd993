"""Parts run as processes of their own: started again when they die, ended in order, and never left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import supervisor
from stages.supervisor import Child, ChildFailed, Supervisor

PYTHON = (sys.executable, "-u", "-c")
PATIENCE_SECONDS = 60.0


class Said:
    """A sink that remembers, and can be waited on."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self._more = asyncio.Event()

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))
        self._more.set()

    async def until(self, enough: Callable[[Sequence[tuple[str, str]]], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not enough(self.lines):
                self._more.clear()
                await self._more.wait()


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie that nobody has reaped counts)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not gone(pid):  # noqa: ASYNC110  # the end of a process that isn't ours can only be looked for
            await asyncio.sleep(0.01)


WAITS = "import signal,os; print('up', os.getpid()); signal.pause()"
TIDY = "import signal,sys; signal.signal(signal.SIGTERM, lambda *_: (print('tidy'), sys.exit(0))); print('up'); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); [signal.pause() for _ in iter(int, 1)]"


async def test_a_child_that_is_killed_is_started_again() -> None:
    said = Said()
    async with Supervisor(said, command=PYTHON) as children:
        await children.start(Child("worker", (WAITS,)))
        await said.until(lambda lines: len(lines) == 1)
        first = children.children()["worker"].pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await said.until(lambda lines: len(lines) == 2)
        second = children.children()["worker"].pid
        assert second not in (None, first)
        assert children.children()["worker"].starts == 2
    assert gone(first)
    assert second is not None
    assert gone(second)


async def test_stopping_asks_first_and_the_last_tier_stops_first() -> None:
    said = Said()
    async with Supervisor(said, command=PYTHON) as children:
        await children.start(Child("broker", (TIDY,)))
        await children.start(Child("a", (TIDY,)), Child("b", (TIDY,)))
        await said.until(lambda lines: len(lines) == 3)
    endings = [name for name, line in said.lines if line == "tidy"]
    assert set(endings[:2]) == {"a", "b"}
    assert endings[2:] == ["broker"]


async def test_what_does_not_stop_in_time_is_killed() -> None:
    said = Said()
    async with Supervisor(said, command=PYTHON, stop_seconds=0.2) as children:
        await children.start(Child("deaf", (STUBBORN,)))
        await said.until(lambda lines: bool(lines))
        pid = children.children()["deaf"].pid
    assert pid is not None
    assert gone(pid)


async def test_what_a_killed_child_started_ends_with_it() -> None:
    grandparent = f"import subprocess,sys,signal; p=subprocess.Popen([sys.executable,'-c',{WAITS!r}]); print(p.pid); signal.pause()"
    said = Said()
    async with Supervisor(said, command=PYTHON) as children:
        await children.start(Child("parent", (grandparent,)))
        await said.until(lambda lines: len(lines) >= 2)
        grandchild = next(int(line) for _, line in said.lines if line.isdigit())
        parent = children.children()["parent"].pid
        assert parent is not None
        os.kill(parent, signal.SIGKILL)
        await until_gone(grandchild)


async def test_a_child_with_wrong_settings_is_not_started_again() -> None:
    said = Said()
    async with Supervisor(said, command=PYTHON) as children:
        await children.start(Child("wrong", ("import sys; print('turnout: what is wrong'); sys.exit(2)",)))
        with pytest.raises(ChildFailed, match="wrong"):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await children.failed()
        assert children.children()["wrong"].starts == 1


async def test_lines_are_handed_on_whole_with_the_name_of_the_child() -> None:
    said = Said()
    code = "import sys; sys.stdout.write('one\\ntwo'); sys.stdout.flush(); sys.stderr.write(' and three'); sys.exit(2)"
    async with Supervisor(said, command=PYTHON) as children:
        await children.start(Child("talker", (code,)))
        await said.until(lambda lines: len(lines) >= 2)
    assert said.lines == [("talker", "one"), ("talker", "two and three")]


async def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """A kill that nobody can catch: the child sees the end of its standard input."""
    child = "import os,signal; from stages import leash; leash.hold(); print('child', os.getpid(), flush=True); signal.pause()"
    parent = (
        "import asyncio, sys\n"
        "from stages.supervisor import Child, Supervisor\n"
        "async def main():\n"
        "    async with Supervisor(lambda n, l: print(l, flush=True), command=(sys.executable, '-c')) as s:\n"
        f"        await s.start(Child('child', ({child!r},)))\n"
        "        await s.failed()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.to_thread(subprocess.Popen, [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        line = await asyncio.to_thread(process.stdout.readline)
        pid = int(line.split()[1])
        process.kill()
        process.wait()
    await until_gone(pid)


@given(st.integers(1, 1_000), st.floats(0, 1))
def test_the_wait_before_a_start_is_bounded(deaths: int, chance: float) -> None:
    delay = supervisor.restart_delay_seconds(deaths, chance)
    assert supervisor.FIRST_DELAY_SECONDS / 2 <= delay <= supervisor.LONGEST_DELAY_SECONDS


@given(st.integers(1, 1_000))
def test_the_wait_grows_with_deaths_in_a_row_and_a_steady_life_forgives(deaths: int) -> None:
    assert supervisor.restart_delay_seconds(deaths, 0.0) <= supervisor.restart_delay_seconds(deaths + 1, 0.0)
    assert supervisor.deaths_in_a_row(deaths, supervisor.STEADY_SECONDS) == 1
    assert supervisor.deaths_in_a_row(deaths, 0.0) == deaths + 1
