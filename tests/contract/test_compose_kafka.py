"""The Kafka of docker-compose.yml: its variables, as the image makes properties of them, on a real broker from the jars."""

import pathlib
from typing import Final

import pytest

from pipeline import topics
from stages import connection, environment
from tests import brokers, compose
from tests.kafka.apache import ApacheKafka

pytestmark = [
    pytest.mark.skipif(brokers.kind() != brokers.APACHE, reason="is about Apache Kafka's own settings: make test-kafka"),
    pytest.mark.timeout(240),
]

OF_THE_PLACE: Final = {
    "listeners", "advertised.listeners", "listener.security.protocol.map", "inter.broker.listener.name", "controller.listener.names",
    "controller.quorum.voters", "log.dirs", "process.roles", "node.id", "heap.opts",
}  # fmt: skip
"""Addresses and folders of the container, and the options of its Java: the tests' own take their place."""


def properties() -> dict[str, str]:
    """KAFKA_AUTO_CREATE_TOPICS_ENABLE is auto.create.topics.enable."""
    told = compose.environment(compose.services()["kafka"])
    named = {name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in told.items() if name.startswith("KAFKA_")}
    assert set(named) >= OF_THE_PLACE
    return {name: value for name, value in named.items() if name not in OF_THE_PLACE}


async def test_a_real_broker_takes_the_settings_and_turnout_finds_nothing_wrong_with_them(tmp_path: pathlib.Path) -> None:
    broker = ApacheKafka(tmp_path, properties())
    try:
        await broker.start()
        told = {"TURNOUT_KAFKA_BOOTSTRAP": broker.bootstrap, "TURNOUT_PARTITIONS": "1"}
        settings, specs = connection.kafka(environment.read(told)), connection.topic_specs(environment.read(told))
        await topics.apply(settings, specs)
        found = await topics.check(settings, specs)
        assert [str(problem) for problem in found if problem.subject == "broker" or problem.severity == "error"] == []
        # What kafka-broker-api-versions.sh, the health check, runs.
        assert "Produce" in broker.tool("org.apache.kafka.tools.BrokerApiVersionsCommand")
    finally:
        broker.stop()
    said = (tmp_path / "broker.log").read_text(errors="replace")
    assert "isn't a known config" not in said
