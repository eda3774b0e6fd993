"""What a writer promises, over every log."""

import asyncio
import random

import pytest
from aiokafka import TopicPartition

from pipeline.errors import RecordTooLarge, TopicMissing, WriteError
from pipeline.kafka import KafkaWriter
from pipeline.records import Ack, Outgoing
from pipeline.transport import Transport
from tests.contract import logs


async def test_records_of_a_partition_stand_in_the_order_of_the_calls(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 3)
    async with logs.writer(transport) as writer, logs.reader(transport) as reader:
        sends = [writer.send([Outgoing("received", b"k", b"%d" % n, (), n % 3)]) for n in range(600)]
        await asyncio.gather(*sends)
        reader.assign({("received", partition): 0 for partition in range(3)})
        found = await logs.read(reader, 600)
    for partition in range(3):
        assert [int(r.value or b"") for r in found if r.partition == partition] == list(range(partition, 600, 3))


async def test_acks_say_where_each_record_landed_in_the_order_given(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 4)
    async with logs.writer(transport) as writer, logs.reader(transport) as reader:
        records = [Outgoing("received", b"key-%d" % n, b"%d" % n) for n in range(50)]
        acks = await writer.send(records)
        reader.assign({("received", partition): 0 for partition in range(4)})
        found = {Ack(r.partition, r.offset): r for r in await logs.read(reader, 50)}
    assert [found[ack].value for ack in acks] == [record.value for record in records]


async def test_a_record_comes_back_as_it_was_sent(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 1)
    headers = (("id", b"1"), ("id", b"twice"), ("empty", b""))
    async with logs.writer(transport) as writer, logs.reader(transport) as reader:
        await writer.send([Outgoing("received", b"k", b"v", headers), Outgoing("received", b"gone", None), Outgoing("received", None, b"")])
        reader.assign({("received", 0): 0})
        first, second, third = await logs.read(reader, 3)
    assert (first.topic, first.partition, first.offset, first.key, first.value, first.headers) == ("received", 0, 0, b"k", b"v", headers)
    assert first.timestamp_ms > 1_500_000_000_000
    assert (second.key, second.value, third.key, third.value) == (b"gone", None, None, b"")


async def test_an_empty_send_is_acknowledged_at_once(log: logs.Log, transport: Transport) -> None:
    async with logs.writer(transport) as writer:
        assert tuple(await writer.send([])) == ()


async def test_a_record_that_is_too_large_is_named_and_keeps_no_other_from_landing(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 1)
    too_large = random.Random(7).randbytes(logs.LARGE_BYTES * 2)
    async with logs.writer(transport) as writer, logs.reader(transport) as reader:
        middle = writer.send(
            [
                *logs.numbered("received", 0, range(2)),
                Outgoing("received", b"k", too_large, (), 0),
                *logs.numbered("received", 0, range(2, 4)),
            ]
        )
        later = writer.send(logs.numbered("received", 0, range(4, 6)))
        with pytest.raises(RecordTooLarge) as caught:
            await middle
        assert caught.value.index == 2
        assert not caught.value.retryable
        await later
        await writer.send(logs.numbered("received", 0, range(6, 8)))
        reader.assign({("received", 0): 0})
        found = await logs.read(reader, 8)
    assert [r.value for r in found] == [b"%d" % n for n in range(8)]


async def test_a_topic_that_is_missing_is_named_and_not_made(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 1)
    async with logs.writer(transport) as writer:
        with pytest.raises(TopicMissing, match="nowhere"):
            await writer.send([Outgoing("nowhere", b"k", b"v")])
        await writer.send(logs.numbered("received", 0, range(1)))
    with pytest.raises(TopicMissing):
        await transport.cluster.partitions("nowhere")


async def test_a_partition_that_does_not_exist_is_refused_for_good(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 2)
    async with logs.writer(transport) as writer:
        with pytest.raises(WriteError) as caught:
            await writer.send([Outgoing("received", b"k", b"v", (), 2)])
    assert not caught.value.retryable


async def test_a_caller_that_gives_up_disturbs_nobody_else(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 1)
    async with logs.writer(transport) as writer:
        given_up = asyncio.ensure_future(writer.send(logs.numbered("received", 0, range(3))))
        kept = writer.send(logs.numbered("received", 0, range(3, 6)))
        given_up.cancel()
        assert len(await kept) == 3


async def test_a_writer_that_is_stopped_has_flushed_and_takes_nothing_more(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 2)
    writer = transport.writer()
    await writer.start()
    sends = [writer.send([Outgoing("received", b"k", b"v", (), n % 2)]) for n in range(100)]
    await writer.stop()
    assert len(await asyncio.gather(*sends)) == 100
    with pytest.raises(WriteError):
        await writer.send(logs.numbered("received", 0, range(1)))


async def test_after_a_gap_in_the_sequence_the_writer_goes_on_with_a_new_producer(kafka: logs.KafkaLog) -> None:
    """OutOfOrderSequence would stop all producing until a restart; what waited behind fails with it, so that sending again keeps the order."""
    transport = await kafka.transport()
    await kafka.create("received", 1)
    async with logs.writer(transport) as writer, logs.reader(transport) as reader:
        assert isinstance(writer, KafkaWriter)
        await writer.send(logs.numbered("received", 0, range(2)))
        spent = writer._producer
        assert spent is not None
        spent.client._txn_manager.increment_sequence_number(TopicPartition(kafka.settings.topic("received"), 0), 5)
        failing = [writer.send(logs.numbered("received", 0, range(2, 4))), writer.send(logs.numbered("received", 0, range(4, 6)))]
        for send in failing:
            with pytest.raises(WriteError) as caught:
                await send
            assert caught.value.retryable
        for numbers in (range(2, 4), range(4, 6)):
            await writer.send(logs.numbered("received", 0, numbers))
        assert writer._producer is not spent
        reader.assign({("received", 0): 0})
        assert [r.value for r in await logs.read(reader, 6)] == [b"%d" % n for n in range(6)]


async def test_a_record_that_cannot_be_written_down_fails_alone(kafka: logs.KafkaLog) -> None:
    """Only a bug makes one; it must not leave others waiting for ever."""
    transport = await kafka.transport()
    await kafka.create("received", 1)
    async with logs.writer(transport) as writer:
        broken = writer.send([Outgoing("received", b"k", b"v", (("id", "text"),), 0)])  # type: ignore[arg-type]
        sound = writer.send(logs.numbered("received", 0, range(3)))
        with pytest.raises(WriteError, match="TypeError") as caught:
            await broken
        assert not caught.value.retryable
        assert len(await sound) == 3


async def test_beyond_its_bound_a_writer_takes_nothing_and_says_so(kafka: logs.KafkaLog) -> None:
    transport = await kafka.transport()
    await kafka.create("received", 1)
    async with logs.writer(transport) as writer:
        assert isinstance(writer, KafkaWriter)
        value = bytes(40_000)
        count = kafka.settings.max_pending_bytes // len(value)
        taken = writer.send([Outgoing("received", b"k", value, (), 0)] * count)
        with pytest.raises(WriteError, match="wait for Kafka already") as caught:
            await writer.send([Outgoing("received", b"k", value * 2, (), 0)])
        assert caught.value.retryable
        assert len(await taken) == count
        assert writer.pending_bytes == 0
