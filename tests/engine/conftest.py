"""The place where the engine's tests are run; the broker is TURNOUT_TEST_BROKER's."""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator

import pytest

from pipeline.kafka import KafkaSettings, KafkaTransport
from tests import brokers
from tests.brokers import bootstrap, broker, prefix
from tests.engine.place import Place, settings

__all__ = ["bootstrap", "broker", "prefix"]

apache_only = pytest.mark.skipif(brokers.kind() != brokers.APACHE, reason="shown on Apache Kafka: make test-kafka")


@pytest.fixture
def partitions() -> int:
    """Of every topic; a test may name another number."""
    return 1


@pytest.fixture
async def place(bootstrap: str, prefix: str, partitions: int, tmp_path: pathlib.Path) -> AsyncIterator[Place]:
    async with opened(settings(bootstrap, prefix), partitions, tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def opened(kafka: KafkaSettings, partitions: int, directory: pathlib.Path, replication: int = 1) -> AsyncIterator[Place]:
    """A place with its topics, and what comes out of them followed."""
    transport = KafkaTransport(kafka)
    await transport.start()
    made = Place(transport.settings, transport, directory)
    try:
        await made.prepare(partitions, replication)
        following = asyncio.create_task(made.follow())
        try:
            yield made
        finally:
            following.cancel()
            await asyncio.wait({following})
            if not following.cancelled():
                following.result()
            await made.close()
    finally:
        await transport.stop()
