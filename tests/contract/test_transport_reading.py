"""What a group-less reader and the cluster's questions promise, over every log."""

import pytest

from pipeline.errors import OffsetOutOfRange, TopicMissing, TransportError
from pipeline.records import Outgoing, Record
from pipeline.transport import Transport
from tests.contract import logs


async def test_it_reads_from_the_given_places_and_knows_where_it_stands(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 2)
    async with logs.writer(transport) as writer, logs.reader(transport) as reader:
        await writer.send([*logs.numbered("received", 0, range(10)), *logs.numbered("received", 1, range(10))])
        reader.assign({("received", 0): 7, ("received", 1): 2})
        assert (reader.position("received", 0), reader.position("received", 1)) == (7, 2)
        found = await logs.read(reader, 11)
        assert [r.offset for r in found if r.partition == 0] == [7, 8, 9]
        assert [r.offset for r in found if r.partition == 1] == list(range(2, 10))
        assert (reader.position("received", 0), reader.position("received", 1)) == (10, 10)
        with pytest.raises(TransportError):
            reader.position("received", 5)


async def test_it_reads_topics_side_by_side_and_no_more_than_asked_for(log: logs.Log, transport: Transport) -> None:
    await log.create("orgs", 1)
    await log.create("workspaces", 1)
    async with logs.writer(transport) as writer, logs.reader(transport) as reader:
        await writer.send([*logs.numbered("orgs", 0, range(5)), *logs.numbered("workspaces", 0, range(5))])
        reader.assign({("orgs", 0): 0, ("workspaces", 0): 0})
        found: list[Record] = []
        while len(found) < 10:
            some = await reader.fetch(0.5, 3)
            assert len(some) <= 3
            found += some
    for topic in ("orgs", "workspaces"):
        assert [r.offset for r in found if r.topic == topic] == list(range(5))


async def test_a_new_assignment_replaces_the_old_one(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 2)
    async with logs.writer(transport) as writer, logs.reader(transport) as reader:
        await writer.send([*logs.numbered("received", 0, range(10)), *logs.numbered("received", 1, range(10))])
        reader.assign({("received", 0): 0})
        first: list[Record] = []
        while len(first) < 4:
            first += await reader.fetch(0.5, 4 - len(first))
        assert [r.offset for r in first] == [0, 1, 2, 3]
        reader.assign({("received", 1): 8, ("received", 0): 2})
        found = await logs.read(reader, 10)
        assert [r.offset for r in found if r.partition == 0] == list(range(2, 10))
        assert [r.offset for r in found if r.partition == 1] == [8, 9]
        reader.assign({})
        assert not await reader.fetch(0.05, 10)


async def test_it_waits_for_what_comes(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 1)
    async with logs.writer(transport) as writer, logs.reader(transport) as reader:
        reader.assign({("received", 0): 0})
        assert not await reader.fetch(0.05, 10)
        await writer.send(logs.numbered("received", 0, range(1)))
        assert [r.value for r in await logs.read(reader, 1)] == [b"0"]


@pytest.mark.parametrize("offset", [2, 11], ids=["below the log's start", "past its end"])
async def test_a_place_outside_the_log_is_told_with_partition_and_offset(log: logs.Log, transport: Transport, offset: int) -> None:
    await log.create("received", 2)
    async with logs.writer(transport) as writer, logs.reader(transport) as reader:
        await writer.send(logs.numbered("received", 1, range(10)))
        await log.delete_records("received", 1, 5)
        reader.assign({("received", 1): offset})
        with pytest.raises(OffsetOutOfRange) as caught:
            await logs.read(reader, 1)
        assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("received", 1, offset)
        reader.assign({("received", 1): 5})
        assert [r.offset for r in await logs.read(reader, 5)] == [5, 6, 7, 8, 9]


async def test_a_topic_that_is_missing_is_named(log: logs.Log, transport: Transport) -> None:
    async with logs.reader(transport) as reader:
        reader.assign({("nowhere", 0): 0})
        with pytest.raises(TopicMissing, match="nowhere"):
            await reader.fetch(1, 1)


async def test_the_cluster_tells_partitions_starts_and_ends(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 3)
    async with logs.writer(transport) as writer:
        await writer.send([*logs.numbered("received", 0, range(10)), *logs.numbered("received", 2, range(4))])
    await log.delete_records("received", 0, 6)
    assert await transport.cluster.partitions("received") == 3
    assert dict(await transport.cluster.offsets("received")) == {0: (6, 10), 1: (0, 0), 2: (0, 4)}
    with pytest.raises(TopicMissing):
        await transport.cluster.offsets("nowhere")


async def test_offsets_by_time_are_those_of_the_first_record_that_is_not_older(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 2)
    async with logs.writer(transport) as writer, logs.reader(transport) as reader:
        for number in range(3):
            await writer.send([Outgoing("received", b"k", b"%d" % number, (), 0)])
        reader.assign({("received", 0): 0})
        times = [r.timestamp_ms for r in await logs.read(reader, 3)]
    assert dict(await transport.cluster.offsets_at("received", times[0])) == {0: 0, 1: 0}
    assert dict(await transport.cluster.offsets_at("received", times[2])) == {0: times.index(times[2]), 1: 0}
    assert dict(await transport.cluster.offsets_at("received", times[2] + 1)) == {0: 3, 1: 0}
    assert dict(await transport.cluster.offsets_at("received", 0)) == {0: 0, 1: 0}


async def test_a_topic_that_was_made_again_starts_anew(log: logs.Log, transport: Transport) -> None:
    await log.create("received", 1)
    async with logs.writer(transport) as writer:
        await writer.send(logs.numbered("received", 0, range(3)))
    await log.delete_topic("received")
    with pytest.raises(TopicMissing):
        await transport.cluster.partitions("received")
    await log.create("received", 2)
    assert dict(await transport.cluster.offsets("received")) == {0: (0, 0), 1: (0, 0)}
