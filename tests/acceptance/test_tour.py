"""The README's tour, read from the README and run as it stands there, on free ports."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from stages.installation import free_ports
from tests.acceptance.conftest import ROOT

PORTS = ("9092", "8091", "8080", "8081")


def tour() -> str:
    """The tour's blocks, in order."""
    blocks = re.findall(r"^```sh tour\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    return "\n".join(blocks)


@pytest.mark.timeout(300)
def test_the_tour_of_the_readme_does_what_it_says(shell_environment: dict[str, str], tmp_path: Path) -> None:
    """A webhook signed by hand becomes the Campaign Member, and what waits for an org that is down arrives once it is back."""
    script = tour()
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    for fixed, free in ports.items():
        script = script.replace(fixed, free)
    environment = shell_environment | {"TURNOUT_INGRESS": f"127.0.0.1:{ports['8080']}", "TURNOUT_CONSOLE": f"127.0.0.1:{ports['8081']}"}
    # Job numbers are for an interactive shell; a script ends what it started through its trap, the last first.
    stop = "for job in $(jobs -p | tac); do kill $job; wait $job || true; done"
    whole = f"set -euo pipefail\ntrap '{stop}' EXIT\n{script}\necho the end of the tour\n"
    out = tmp_path / "out"
    with out.open("w") as file:
        shell = subprocess.Popen(
            ["bash", "-c", whole],
            cwd=tmp_path,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            code = shell.wait(240)
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
    said = out.read_text()
    assert code == 0, said[-6_000:]
    assert "the end of the tour" in said
    assert said.count('{"accepted":1}') == 4
    assert '"Email":"ada@example.com"' in said
    assert re.search(r"create\s+acme-emea\s+session-1\s+emitted\s+Lead 00Q", said)
