"""What every test gets: logs that go through pytest, and an environment without Turnout's variables."""

import os

import pytest

from stages.environment import NAMES


@pytest.fixture(autouse=True)
def _no_variables_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own settings never reach a test; TURNOUT_TEST_* chooses the broker and stays."""
    for name in NAMES & set(os.environ):
        monkeypatch.delenv(name)
