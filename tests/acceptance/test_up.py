"""`turnout up`, from outside: every part at addresses that it tells."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.installation import free_ports

STAGES = {"normalize", "match", "create", "campaign-membership"}


def told(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """Its log, until it says that all is up."""
    assert process.stderr is not None
    for line in process.stderr:
        said = json.loads(line) if line.startswith("{") else {"event": line}
        yield said
        if said["event"] == "up":
            return
    raise AssertionError(f"it ended with {process.wait()}")


def answers(address: str, path: str) -> bool:
    with urllib.request.urlopen(f"{address}{path}", timeout=30) as answer:  # noqa: S310 (http, as it was told)
        return bool(answer.status == 200)


@pytest.mark.timeout(240)
def test_up_listens_on_free_ports_where_they_are_left_open_and_tells_which(shell_environment: dict[str, str], tmp_path: Path) -> None:
    """Port 0, as the README has it, also for several parts that read the same variable."""
    open_ports = dict.fromkeys(("TURNOUT_INGRESS", "TURNOUT_CONSOLE", "TURNOUT_METRICS"), "127.0.0.1:0")
    own = {"TURNOUT_KAFKA_BOOTSTRAP": f"127.0.0.1:{free_ports(1)[0]}", "TURNOUT_LOG": "json", "TURNOUT_PARTITIONS": "2"}
    process = subprocess.Popen(
        ["turnout", "up", "--embedded", "--data-dir", str(tmp_path / "broker")],
        env=shell_environment | open_ports | own,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        log = list(told(process))
        up = log[-1]
        assert answers(up["ingress"].removesuffix("/livestorm/WORKSPACE"), "/readyz")
        assert answers(up["console"], "api/lag")
        metrics = {one["part"]: one["address"] for one in log if str(one["event"]).startswith("metrics")}
        assert set(metrics) == STAGES
        assert all(answers(address, "") for address in metrics.values())
    finally:
        process.terminate()
        process.communicate(timeout=120)
    assert process.returncode == 0
