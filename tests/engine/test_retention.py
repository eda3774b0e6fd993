"""The retention guard: rule 10 of the engine, over a real broker. And tables: F41."""

import asyncio
import dataclasses

import pytest

from pipeline.errors import TopicMissing
from pipeline.tables import Tables
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


async def test_f41_tables_are_ready_whatever_of_them_is_empty_deleted_or_compacted(place: Place) -> None:
    """12 partitions: 9 of them empty, one with nothing but tombstones, one whose log's start was moved away, one with rows."""
    await place.create("wide", 12, **{"cleanup.policy": "compact"})
    from pipeline.kafka import partition_of

    def key(partition: int) -> bytes:
        return next(b"%d" % n for n in range(10_000) if partition_of(b"%d" % n, 12) == partition)

    from pipeline.records import Outgoing

    await place.send([Outgoing("wide", key(3), b"row"), Outgoing("wide", key(3), None)])
    await place.send([Outgoing("wide", key(5), b"old"), Outgoing("wide", key(5), b"older"), Outgoing("wide", key(7), b"row")])
    tables = Tables(place.transport, ["wide"])
    reading = asyncio.create_task(tables.run())
    try:
        await until(lambda: tables["wide"].get(key(7).decode()) is not None)
        await asyncio.wait_for(tables.caught_up(), 30)
        assert dict(tables["wide"].items()) == {key(5).decode(): b"older", key(7).decode(): b"row"}
    finally:
        reading.cancel()
        await asyncio.wait({reading})


async def test_f41_a_table_whose_topic_is_missing_is_a_clear_error(place: Place) -> None:
    tables = Tables(place.transport, ["nowhere"])
    with pytest.raises(TopicMissing, match=r"nowhere is missing: run `turnout topics apply`"):
        await tables.run()
