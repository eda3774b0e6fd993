"""What every test gets: logs that go through pytest, and an environment without Turnout's variables."""

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from stages.environment import NAMES
from tests import brokers

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("turnout", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("turnout")


@pytest.fixture(autouse=True)
def _no_variables_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own settings never reach a test; TURNOUT_TEST_* chooses the broker and stays."""
    for name in NAMES & set(os.environ):
        monkeypatch.delenv(name)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """For each process of a parallel run (pytest-xdist): what it is told at its start."""
    if brokers.kind() == brokers.APACHE:
        node.workerinput["bootstrap"] = brokers.shared(node.config)
