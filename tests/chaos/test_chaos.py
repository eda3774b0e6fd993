"""A short chaos run of a fixed seed: on Apache Kafka with the broker struck too. `make chaos MINUTES=… SEED=…` runs long ones."""

import pathlib
import sys

import pytest

from tests import brokers
from tests.chaos.play import Call, play

SEED = 1
MINUTES = 0.6


@pytest.mark.timeout(1800)
async def test_nothing_is_lost_nothing_is_twice_and_nothing_goes_back(tmp_path: pathlib.Path) -> None:
    """Workers of every stage, both ingresses and the broker are killed, stopped and restarted while orgs are in trouble."""
    # The embedded broker's groups do not survive every death of a member beside others; each worker is alone in its group there.
    workers = 2 if brokers.kind() == brokers.APACHE else 1
    report = await play(Call(SEED, MINUTES, brokers.kind(), tmp_path, workers=workers), lambda what: print(what, file=sys.stderr))  # noqa: T201  # shown where it fails
    assert report.ok, report.text()
    kinds = {blow.split()[0] for blow in report.blows}
    assert {"kill", "stop", "restart"} <= kinds, report.text()
    assert ("kill broker" in report.blows) == (brokers.kind() == brokers.APACHE)
