"""The console over HTTP, on a log in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from pipeline.memory import MemoryBroker, MemoryTransport, Operation
from stages import console, flow

Client = TestClient[web.Request, web.Application]


@asynccontextmanager
async def serving(broker: MemoryBroker) -> AsyncIterator[Client]:
    for spec in flow.topics(partitions=1, replication=1, retention_hours=336):
        broker.create_topic(spec.name, spec.partitions)
    app = console.application(MemoryTransport(broker), list(flow.STAGES.items()), ())
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.mark.parametrize(("operation", "topic"), [("offsets", "lanes"), ("offsets", "received"), ("committed", None)])
async def test_while_kafka_does_not_answer_lag_is_503_and_afterwards_it_is_told(operation: Operation, topic: str | None) -> None:
    """Whatever of it could not be read: the table of lanes, a topic's end, or what a group has committed."""
    broker = MemoryBroker()
    async with serving(broker) as client:
        broker.faults.fail(operation, topic=topic, times=2)
        response = await client.get("/api/lag")
        assert response.status == 503
        assert await response.json() == {"error": "Kafka doesn't answer: injected"}
        page = await client.get("/")
        assert (page.status, await page.text()) == (503, "Kafka doesn't answer: injected")
        told = await (await client.get("/api/lag")).json()
        assert (told["unfinished"], told["lanes"]) == (0, [])
        assert (await client.get("/")).status == 200
