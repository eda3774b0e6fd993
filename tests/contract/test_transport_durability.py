"""What only Apache Kafka can show: that nothing acknowledged is lost, doubled or put out of order by `kill -9` of the broker, and what its own tools do."""

import asyncio
import dataclasses

import pytest

from pipeline.errors import CommitRefused, TransportError, WriteError
from pipeline.records import Ack, Commit
from tests import brokers
from tests.contract import logs
from tests.kafka.apache import ApacheKafka

pytestmark = [
    pytest.mark.skipif(brokers.kind() != brokers.APACHE, reason="the embedded broker loses acknowledged records when it is killed"),
    pytest.mark.timeout(240),
]

PARTITIONS = 4
PACE = 20
"""So many sends of each partition are under way at once."""


async def test_records_are_there_once_and_in_order_though_the_broker_was_killed_twice_under_load(broker: ApacheKafka, prefix: str) -> None:
    async with logs.kafka_log(broker.bootstrap, prefix) as kafka:
        transport = await kafka.transport()
        await kafka.create("received", PARTITIONS)
        async with logs.writer(transport) as writer, logs.reader(transport) as reader:
            sent = [0] * PARTITIONS
            stopping = asyncio.Event()

            async def load(partition: int) -> None:
                """Each send waits for the one PACE before it; the order of the calls is the order of the numbers."""
                under_way: list[asyncio.Future[object]] = []
                while not stopping.is_set():
                    number = sent[partition]
                    under_way.append(asyncio.ensure_future(writer.send(logs.numbered("received", partition, range(number, number + 1)))))
                    sent[partition] += 1
                    if len(under_way) >= PACE:
                        await under_way.pop(0)
                await asyncio.gather(*under_way)

            async def further() -> None:
                goal = [number + 200 for number in sent]
                await logs.until(lambda: _reached(sent, goal))

            loads = [asyncio.create_task(load(partition)) for partition in range(PARTITIONS)]
            for _ in range(2):
                await further()
                await asyncio.to_thread(broker.kill)
                await broker.restart()
            await further()
            stopping.set()
            await asyncio.gather(*loads)

            reader.assign({("received", partition): 0 for partition in range(PARTITIONS)})
            found = await logs.read(reader, sum(sent))
        for partition in range(PARTITIONS):
            assert [int(r.value or b"") for r in found if r.partition == partition] == list(range(sent[partition]))


async def test_a_member_comes_back_to_what_it_has_committed(broker: ApacheKafka, prefix: str) -> None:
    async with logs.kafka_log(broker.bootstrap, prefix) as kafka:
        transport = await kafka.transport()
        await kafka.create("received", 1)
        async with logs.writer(transport) as writer, logs.member(transport, "received") as one:
            await one.has(1)
            one.places = {0: 0}
            one.reader.seek(0, 0)
            await writer.send(logs.numbered("received", 0, range(5)))
            assert len(await logs.fetched(one.reader, 5)) == 5
            await one.reader.commit({0: Commit(5, "before")})
            one.places = {0: 5}
            await asyncio.to_thread(broker.kill)
            assert not await one.reader.fetch(0.2, 10)
            await broker.restart()
            await logs.until(lambda: _holds(one, Commit(5, "before")))
            acks = await writer.send(logs.numbered("received", 0, range(5, 8)))
            assert tuple(acks) == tuple(Ack(0, offset) for offset in range(5, 8))
            assert [r.offset for r in await logs.fetched(one.reader, 3)] == [5, 6, 7]
            await logs.until(lambda: _committed(one, Commit(8, "after")))
            assert one.reader.lease_seconds() > 0


async def test_the_stock_tool_wipes_the_metadata_and_is_refused_while_the_group_lives(broker: ApacheKafka, prefix: str) -> None:
    """By empty metadata the engine tells that someone else moved the offsets."""
    async with logs.kafka_log(broker.bootstrap, prefix) as kafka:
        transport = await kafka.transport()
        await kafka.create("received", 1)

        async def reset() -> str:
            group, topic = kafka.settings.group("stage"), kafka.settings.topic("received")
            arguments = ("--group", group, "--topic", topic, "--reset-offsets", "--to-earliest", "--execute")
            return await asyncio.to_thread(broker.tool, "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", *arguments)

        async with logs.writer(transport) as writer, logs.member(transport, "received") as one:
            await one.has(1)
            await writer.send(logs.numbered("received", 0, range(5)))
            await one.reader.commit({0: Commit(5, "ours")})
            await reset()
            assert await one.reader.committed([0]) == {0: Commit(5, "ours")}
        await reset()
        assert await transport.cluster.committed("stage") == {("received", 0): Commit(0, "")}


async def test_sends_to_a_topic_that_was_deleted_end_at_their_deadline(broker: ApacheKafka, prefix: str) -> None:
    async with logs.kafka_log(broker.bootstrap, prefix) as kafka:
        await kafka.create("received", 1)
        kafka.settings = dataclasses.replace(kafka.settings, delivery_timeout_seconds=5.0)
        async with logs.writer(await kafka.transport()) as writer:
            await writer.send(logs.numbered("received", 0, range(1)))
            await kafka.delete_topic("received")
            with pytest.raises(WriteError) as caught:
                await writer.send(logs.numbered("received", 0, range(1)))
            assert caught.value.retryable
            await kafka.create("received", 1)

            async def landed() -> bool:
                try:
                    await writer.send(logs.numbered("received", 0, range(1)))
                except WriteError:
                    return False
                return True

            await logs.until(landed)


async def _reached(sent: list[int], goal: list[int]) -> bool:
    return all(number >= least for number, least in zip(sent, goal, strict=True))


async def _holds(one: logs.Member, commit: Commit) -> bool:
    """False while the broker does not answer."""
    try:
        return await one.reader.committed([0]) == {0: commit}
    except TransportError as error:
        if not error.retryable:
            raise
        return False


async def _committed(one: logs.Member, commit: Commit) -> bool:
    """False while the group is being put together again, or the broker does not answer yet."""
    try:
        await one.reader.commit({0: commit})
    except TransportError as error:
        if not isinstance(error, CommitRefused) and not error.retryable:
            raise
        return False
    return True
