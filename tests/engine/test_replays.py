"""Replays: rule 17 of the engine, over a real broker."""

import asyncio
import dataclasses
import time

import msgspec

from pipeline import metadata
from pipeline.partition import short_id
from pipeline.replays import row_key
from schemas.tables import LaneRow, ReplayRow
from stages import replay
from tests.engine.desk import DOWN, Desk
from tests.engine.place import FAST, STAGE, Place, Running, told, until


async def done_once(place: Place, desk: Desk, count: int) -> None:
    """So many messages went through live."""
    await place.send(told(n, org=("acme", "bolt")[n % 2], workspace=f"w{n % 4}", key=f"{n % 10}@x") for n in range(count))
    running = await place.begin(desk)
    await place.out(count)
    await running.stop()
    desk.calls.clear()


async def ask(place: Place, first: int, end: int, **only: str) -> ReplayRow:
    row = ReplayRow(id=f"r{time.time_ns()}", stage=STAGE, ranges={"0": (first, end)}, at=int(time.time() * 1000), **only)
    await place.row("controls", row.id, msgspec.json.encode(row))
    return row


def is_done(running: Running, row: ReplayRow) -> bool:
    return replay.is_done(row, running.tables["lanes"])


async def test_a_range_is_run_again_beside_the_live_reading_with_its_mark(place: Place) -> None:
    """The live cursor never moves back; new messages go on meanwhile, without a mark."""
    desk = Desk()
    await done_once(place, desk, 100)
    async with place.worker(desk) as running:
        row = await ask(place, 20, 60)
        await place.send(told(n) for n in range(100, 110))
        await until(lambda: is_done(running, row))
        await place.out(110)
        marked = [int(message.id) for message in desk.calls if message.replay == row.id]
        assert sorted(marked) == list(range(20, 60))
        assert sorted(int(message.id) for message in desk.calls if message.replay is None) == list(range(100, 110))
        for key in range(10):
            mine = [number for number in marked if number % 10 == key]
            assert mine == sorted(mine), "in order"

        async def all_committed() -> bool:
            commit = (await place.committed())[0]
            assert commit.offset >= 100, "never back"
            return commit.offset == 110

        await until(all_committed)
    desk.calls.clear()
    async with place.worker(desk) as running:
        await until(lambda: running.ready)
        await place.send([told(110)])
        await place.out(111)
    assert [message.id for message in desk.calls] == ["110"], "a replay runs once"


async def test_a_replay_takes_only_what_it_was_asked_for(place: Place) -> None:
    desk = Desk()
    await done_once(place, desk, 100)
    async with place.worker(desk) as running:
        row = await ask(place, 0, 100, org="acme", workspace="w2", key="2@x")
        await until(lambda: is_done(running, row))
    assert sorted(int(message.id) for message in desk.calls) == [n for n in range(100) if n % 4 == 2 and n % 10 == 2]


async def test_a_replay_with_a_blocked_org_in_it_waits_for_that_org_alone(place: Place) -> None:
    desk = Desk()
    await done_once(place, desk, 100)
    desk.down.add("acme")
    async with place.worker(desk) as running:
        row = await ask(place, 0, 100)
        await until(lambda: len({message.id for message in desk.calls}) == 50)
        assert {message.org for message in desk.calls} == {"bolt"}

        def told_so() -> bool:
            value = running.tables["lanes"].get(row_key(STAGE, 0, row.id))
            told = None if value is None else msgspec.json.decode(value, type=LaneRow)
            return told is not None and told.waiting == 100 and f"org:acme for this: {DOWN.code}" in told.cause

        await until(told_so)
        await place.send(told(n, org="bolt", key="live@x") for n in range(100, 105))
        await place.out(105)
        assert not is_done(running, row)
        desk.down.clear()
        await until(lambda: is_done(running, row))
    assert sorted(int(message.id) for message in desk.calls if message.replay) == list(range(100)), "each once"
    assert desk.side_by_side == []


async def killed_in_the_middle(place: Place) -> tuple[ReplayRow, int, Desk]:
    """A replay of 400 messages whose worker died after the first 100 were committed as done; how far they were; the desk, whose calls hang."""
    slow = Desk()
    slow.slow_seconds[""] = 0.05
    running = await place.begin(slow, dataclasses.replace(FAST, batch_messages=10))
    row = await ask(place, 0, 400)
    committed = 0

    async def partly() -> bool:
        nonlocal committed
        told = metadata.decode((await place.committed())[0].metadata).replays
        committed = dict(zip(told[::2], told[1::2], strict=True)).get(short_id(row.id), 0)
        return committed >= 100

    await until(lambda: len(slow.calls) >= 200)
    # From now on calls hang: the replay never comes to its end before the crash.
    slow.shut = {"acme": asyncio.Event(), "bolt": asyncio.Event()}
    await until(partly)
    await running.crash()
    return row, committed, slow


async def test_a_replay_survives_a_worker_that_dies_in_the_middle(place: Place) -> None:
    """The next owner goes on where the last commit says; nothing is left out, and it ends."""
    desk = Desk()
    await done_once(place, desk, 400)
    row, committed, slow = await killed_in_the_middle(place)
    before = {int(message.id) for message in slow.calls}
    assert len(before) < 400
    async with place.worker(desk) as running:
        await until(lambda: is_done(running, row))
    after = {int(message.id) for message in desk.calls}
    assert before | after == set(range(400))
    assert min(after) >= committed, "what was committed of it is not repeated"
    assert {message.replay for message in desk.calls} == {row.id}


async def test_exclusion_holds_between_live_reading_and_a_replay(place: Place) -> None:
    desk = Desk()
    await done_once(place, desk, 50)
    desk.shut["acme"] = asyncio.Event()
    async with place.worker(desk, dataclasses.replace(FAST, batch_messages=5)) as running:
        row = await ask(place, 0, 50)
        await place.send(told(n, key=f"{n % 10}@x") for n in range(50, 90))
        await until(lambda: sum(desk.in_flight.values()) >= 5)
        desk.shut["acme"].set()
        await until(lambda: is_done(running, row))
        await place.out(90)
    assert desk.side_by_side == []


async def test_a_replay_of_what_is_no_longer_in_the_log_ends_with_what_is_left(place: Place) -> None:
    desk = Desk()
    await done_once(place, desk, 50)
    await place.delete_records(30)
    async with place.worker(desk) as running:
        row = await ask(place, 0, 50)
        await until(lambda: is_done(running, row))
    assert sorted(int(message.id) for message in desk.calls) == list(range(30, 50))


async def test_a_replay_goes_on_where_it_was_also_after_an_owner_that_died_as_soon_as_it_had_it(place: Place) -> None:
    """The first commit of an owner comes before it begins what it took over: that commit carries it all the same."""
    desk = Desk()
    await done_once(place, desk, 400)
    row, committed, slow = await killed_in_the_middle(place)
    running = await place.begin(slow, dataclasses.replace(FAST, commit_seconds=3600.0))
    await until(lambda: running.ready)
    await running.crash()
    async with place.worker(desk) as running:
        await until(lambda: is_done(running, row))
    assert min(int(message.id) for message in desk.calls) >= committed


async def test_a_replay_that_is_done_stays_so_whatever_an_owner_before_still_tells(place: Place) -> None:
    """A row of progress that comes after the one of the end is written over, and nothing is run again."""
    desk = Desk()
    await done_once(place, desk, 50)
    async with place.worker(desk) as running:
        row = await ask(place, 0, 50)
        await until(lambda: is_done(running, row))
        late = LaneRow(lane="org:*", state="replay", since=1, oldest_at=0, waiting=5, cause=f"replay: {row.id}")
        await place.row("lanes", row_key(STAGE, 0, row.id), msgspec.json.encode(late))
        await until(lambda: not is_done(running, row))
        await until(lambda: is_done(running, row))
        await place.send(told(n) for n in range(50, 55))
        await place.out(55)
    assert len([message for message in desk.calls if message.replay]) == 50
