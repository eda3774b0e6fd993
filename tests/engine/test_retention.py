"""The retention guard: rule 10 of the engine, over a real broker. And tables: F41."""

import asyncio
import dataclasses

import pytest

from pipeline.errors import TopicMissing
from pipeline.kafka import partition_of
from pipeline.records import Outgoing
from pipeline.tables import Tables
from tests import brokers
from tests.engine.desk import Desk
from tests.engine.place import FAST, Place, told, until


async def test_before_the_log_loses_it_a_waiting_lane_goes_to_the_dead_letters_in_order_and_marked(place: Place) -> None:
    """Others go on; what comes after the rescue waits in the log again."""
    desk = Desk()
    desk.down.add("down")
    limits = dataclasses.replace(FAST, retention_seconds=4.0)
    await place.send(told(n, org=("down", "up")[n % 2], key=f"{n % 10}@x") for n in range(60))
    async with place.worker(desk, limits) as running:
        await place.out(30)
        await until(lambda: len(place.letters()) == 30)
        letters = place.letters()
        assert [letter.offset for letter in letters] == list(range(0, 60, 2)), "whole and in order"
        assert {letter.causes[0].code for letter in letters} == {"retention_guard"}
        assert "dead-letters retry --cause retention_guard" in letters[0].causes[0].hint
        assert running.heard.incidents["retention_guard"] >= 1
        desk.down.clear()
        running.worker.nudge("org:down")
        await place.send(told(n, org="down", key=f"{n % 10}@x") for n in range(60, 70))
        await place.out(40)

        async def all_committed() -> bool:
            return (await place.committed())[0].offset == 70

        await until(all_committed)
    assert {message.id for message in desk.calls if message.org == "down"} == {str(n) for n in range(60, 70)}


async def test_a_lane_that_is_mended_in_time_loses_nothing_to_the_guard(place: Place) -> None:
    desk = Desk()
    desk.down.add("down")
    await place.send(told(n, org="down") for n in range(20))
    async with place.worker(desk, dataclasses.replace(FAST, retention_seconds=600.0)) as running:
        await until(lambda: len(desk.runs) >= 3)
        desk.down.clear()
        await place.out(20)
        assert running.heard.incidents == {}
    assert place.letters() == []


async def test_f41_a_restarted_stage_is_ready_at_once_whatever_of_its_table_is_empty_deleted_or_compacted(place: Place) -> None:
    """12 partitions: 9 empty, one of them for what it had was deleted; one of tombstones; one whose log begins later; one compacted (on Apache Kafka)."""
    await place.create(
        "wide", 12, **{"cleanup.policy": "compact,delete", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "retention.ms": "-1"}
    )  # fmt: skip
    key = {partition_of(key, 12): key for key in (b"%d" % n for n in range(1_000))}
    beside = next(each for each in (b"%d" % n for n in range(1_000)) if partition_of(each, 12) == 7 and each != key[7])
    await place.send([Outgoing("wide", key[1], b"row"), Outgoing("wide", key[1], b"later")])
    await place.send([Outgoing("wide", key[3], None), Outgoing("wide", key[3], None)])
    await place.send([Outgoing("wide", key[5], b"old"), Outgoing("wide", key[5], b"older"), Outgoing("wide", key[5], b"newest")])
    await place.send(Outgoing("wide", key[7], b"%d" % n) for n in range(5))
    await place.delete_records(2, 1, "wide")
    await place.delete_records(2, 5, "wide")
    bounds = await place.transport.cluster.offsets("wide")
    assert (bounds[1], bounds[3], bounds[5]) == ((2, 2), (0, 2), (2, 3))
    await place.send([Outgoing("wide", beside, b"row")])
    if brokers.kind() == brokers.APACHE:
        await until(lambda: is_compacted(place, 7, beside))
    rows = {key[5].decode(): b"newest", key[7].decode(): b"4", beside.decode(): b"row"}
    for count in (10, 20):
        async with asyncio.timeout(10):
            running = await place.begin(Desk(), more_tables=["wide"])
            await until(lambda running=running: running.ready)  # type: ignore[misc]
        assert dict(running.tables["wide"].items()) == rows
        await place.send(told(n) for n in range(count - 10, count))
        await place.out(count)
        await running.stop()


async def is_compacted(place: Place, partition: int, key: bytes) -> bool:
    """Whether what the partition began with is gone; each look writes a row of `key`, since a segment is compacted once a later one has begun."""
    await place.send([Outgoing("wide", key, b"row")])
    reader = place.transport.reader()
    await reader.start()
    try:
        reader.assign({("wide", partition): 0})
        records = await reader.fetch(1.0, 100)
        return bool(records) and records[0].offset > 0
    finally:
        await reader.stop()


async def test_f41_a_table_whose_topic_is_missing_is_a_clear_error(place: Place) -> None:
    tables = Tables(place.transport, ["nowhere"])
    with pytest.raises(TopicMissing, match=r"nowhere is missing: run `turnout topics apply`"):
        await tables.run()
