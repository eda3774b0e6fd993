"""Tables: what reads them outlives what happens to their topics and to Kafka."""

import asyncio
from collections.abc import Mapping

import anyio
import pytest

from pipeline.errors import TransportError
from pipeline.memory import MemoryBroker
from pipeline.records import Ack, Outgoing, Record
from pipeline.tables import Table, Tables


async def test_a_table_whose_topic_was_made_anew_while_kafka_cannot_be_asked_is_read_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = MemoryBroker()
    broker.create_topic("rows", 1)
    transport = broker.transport()
    writer = transport.writer()
    await writer.start()
    await writer.send([Outgoing("rows", b"key", b"%d" % number) for number in range(5)])
    tables = Tables(transport, ["rows"])
    ask = transport.cluster.offsets
    refused = 0

    async def no_answer(topic: str) -> Mapping[int, tuple[int, int]]:
        nonlocal refused
        refused += 1
        if refused < 3:
            raise TransportError(f"end of {topic}: Kafka gave no answer")
        return await ask(topic)

    read_again = asyncio.Event()
    async with anyio.create_task_group() as tasks:
        await tasks.start(tables.run)
        tables["rows"].subscribe(lambda key: read_again.set())
        monkeypatch.setattr(transport.cluster, "offsets", no_answer)
        broker.delete_topic("rows")
        broker.create_topic("rows", 1)
        await writer.send([Outgoing("rows", b"key", b"new")])
        async with asyncio.timeout(30):
            await read_again.wait()
        assert tables["rows"].get("key") == b"new"
        assert refused == 3
        tasks.cancel_scope.cancel()


def test_an_own_row_whose_acknowledgement_comes_after_a_later_one_was_read_does_not_come_back() -> None:
    """Whoever was stopped for a while, and woken, may hear of its own row after another's that was written since."""
    table = Table("rows")
    for offset, value in ((10, b"own"), (11, b"another's")):
        table.read(Record("rows", 0, offset, 0, b"key", value, ()))
    table.written("key", b"own", Ack(0, 10))
    assert table.get("key") == b"another's"
    table.written("key", b"own again", Ack(0, 12))
    table.read(Record("rows", 0, 11, 0, b"key", b"another's", ()))
    assert table.get("key") == b"own again"
