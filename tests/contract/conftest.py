"""The logs that contract tests run over: the one in memory, and Kafka's (the broker is TURNOUT_TEST_BROKER's)."""

from collections.abc import AsyncIterator

import pytest

from pipeline.transport import Transport
from tests.brokers import bootstrap, broker, prefix
from tests.contract import logs

__all__ = ["bootstrap", "broker", "prefix"]


@pytest.fixture(params=["memory", "kafka"])
def address(request: pytest.FixtureRequest) -> str | None:
    """Of the broker; None for the log in memory."""
    return None if request.param == "memory" else str(request.getfixturevalue("bootstrap"))


@pytest.fixture
async def log(address: str | None, prefix: str) -> AsyncIterator[logs.Log]:
    if address is None:
        yield logs.MemoryLog()
    else:
        async with logs.kafka_log(address, prefix) as made:
            yield made


@pytest.fixture
async def transport(log: logs.Log) -> Transport:
    """One process at that log."""
    return await log.transport()


@pytest.fixture
async def kafka(bootstrap: str, prefix: str) -> AsyncIterator[logs.KafkaLog]:
    """Kafka, for what the log in memory does not have."""
    async with logs.kafka_log(bootstrap, prefix) as made:
        yield made
