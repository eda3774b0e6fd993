"""The demo, from outside: it accounts for every person, also when its workers are killed, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Set
from pathlib import Path
from typing import Any

import pytest

KEYS = {
    "workspaces", "orgs", "sessions", "registrants", "events", "accepted", "synced", "dropped", "rejected", "salesforce_calls",
    "seconds", "events_per_second", "records", "differences", "ok",
}  # fmt: skip


def start(environment: dict[str, str], registrants: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["turnout", "demo", "--once", "--json", "--registrants", str(registrants)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], said: str = "") -> dict[str, Any]:
    """`said`: what was read of its standard error before."""
    out, err = process.communicate(timeout=240)
    document = json.loads(out)
    assert process.returncode == 0, f"{document['differences']}\n{(said + err)[-4_000:]}"
    assert isinstance(document, dict)
    return document


def children(pid: int) -> dict[int, str]:
    """Process ids and command lines of what a process started itself."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                found[int(path.parent.name)] = (path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def creators(pid: int) -> list[int]:
    return [child for child, line in children(pid).items() if "run create" in line]


@pytest.mark.timeout(300)
def test_the_demo_accounts_for_every_person(shell_environment: dict[str, str], tmp_path: Path) -> None:
    """Also where every address is set and its port left open."""
    open_ports = dict.fromkeys(("TURNOUT_INGRESS", "TURNOUT_CONSOLE", "TURNOUT_METRICS"), "127.0.0.1:0")
    document = ended(start(shell_environment | open_ports | {"TMPDIR": str(tmp_path)}, 120))
    assert set(document) == KEYS
    assert document["ok"] is True
    assert document["differences"] == []
    assert document["accepted"] == document["events"]
    assert document["registrants"] == 120
    assert not list(tmp_path.glob("turnout-*")), "its data goes with it"


@pytest.mark.timeout(300)
def test_a_create_worker_that_is_killed_in_the_middle_harms_nobody(shell_environment: dict[str, str]) -> None:
    """kill -9, twice: it is started again, and in the end every person is where they should be."""
    process = start(shell_environment, 150)
    killed: set[int] = set()
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "people register" in line or "sessions go live" in line:
                killed.add(kill_a_creator(process, killed))
        document = ended(process, said)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert len(killed) == 2
    assert document["ok"] is True


def kill_a_creator(process: subprocess.Popen[str], killed: Set[int]) -> int:
    """The process id of the one that was killed: another than those before."""
    while True:
        assert process.poll() is None, "the demo ended before a worker could be killed"
        for pid in creators(process.pid):
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                return pid
        time.sleep(0.02)  # no line tells that one has been started again
