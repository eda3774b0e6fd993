"""The product as a user has it: the command `turnout`, in a shell, with nothing set."""

import os
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def shell_environment(tmp_path: Path) -> dict[str, str]:
    """`turnout` on the path (this very source), a home of its own, no variable of ours."""
    script = tmp_path / "bin" / "turnout"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m stages.cli "$@"\n')
    script.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TURNOUT_", "XDG_"))}
    return kept | {"PATH": f"{script.parent}:{kept['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "NO_COLOR": "1"}
