"""Members that come and go: rules 4, 8 and 14 of the engine, and F33, F34, F36, F38, over a real broker.

The embedded broker loses track of a group in which several members join while another still finishes: that is shown on Apache Kafka.
"""

import asyncio
import dataclasses
import random

import pytest

from pipeline import metadata
from pipeline.records import Outgoing
from tests import brokers
from tests.engine.conftest import apache_only
from tests.engine.desk import Desk
from tests.engine.place import FAST, Place, Running, is_whole_runs, told, until
from tests.engine.seam import Seam


async def all_committed(place: Place, count: int) -> bool:
    """Whether what is committed over all partitions comes to so many messages, and no lane lags."""
    commits = (await place.committed()).values()
    return sum(commit.offset for commit in commits) == count and not any(metadata.decode(commit.metadata).cursors for commit in commits)


def spread(first: int, end: int, partitions: int, keys: int = 50) -> list[Outgoing]:
    """Messages `first` … `end`: of so many keys, each in a partition of its own, each with numbers in order."""
    return [told(n, key=f"{n % keys}@acme", partition=n % keys % partitions) for n in range(first, end)]


def check_order(place: Place, keys: int, rounds: int) -> None:
    """Per key `out` shows every number in order; what repeats is a whole run from a committed place."""
    found = place.by_key()
    assert len(found) == keys
    for key, numbers in found.items():
        assert is_whole_runs([number // keys for number in numbers], 0, rounds - 1), (key, numbers)


@pytest.mark.parametrize("partitions", [4])
async def test_f33_a_partition_that_comes_back_is_committed_again(place: Place) -> None:
    """B comes and goes twice beside A; after each step 200 messages more: commits follow, and a restart of A repeats nothing."""
    one, two = Desk(), Desk()
    sent = 0

    async def more() -> None:
        nonlocal sent
        await place.send(spread(sent, sent + 200, 4))
        sent += 200
        await until(lambda: all_committed(place, sent))

    first = await place.begin(one)
    await more()
    for _ in range(2):
        second = await place.begin(two)
        await until(lambda second=second: second.ready and second.heard.assignments[-1] == 2)  # type: ignore[misc]
        await more()
        await second.stop()
        await until(lambda: first.heard.assignments[-1] == 4)
        await more()
    await first.stop()
    calls = len(one.calls) + len(two.calls)
    async with place.worker(one) as first:
        await until(lambda: first.ready)
        await more()
    assert len(one.calls) + len(two.calls) - calls == 200, "the restart repeated nothing"
    check_order(place, 50, sent // 50)
    assert one.side_by_side == two.side_by_side == []


@apache_only
@pytest.mark.parametrize("partitions", [4])
async def test_f34_order_of_each_key_holds_while_workers_come_go_and_crash(place: Place) -> None:
    """50 keys, 40 events of each, batches of 20 ms; a worker is begun, stopped or crashed again and again meanwhile."""
    chance = random.Random(34)
    desks = [Desk() for _ in range(8)]
    for desk in desks:
        desk.slow_seconds[""] = 0.02
    limits = dataclasses.replace(FAST, batch_messages=10)
    running: list[Running] = [await place.begin(desks[0], limits)]
    for step, desk in enumerate(desks[1:], start=1):
        await place.send(spread((step - 1) * 250, step * 250, 4))
        running.append(await place.begin(desk, limits))
        await until(lambda: running[-1].heard.assignments != [])
        await place.out(step * 150)
        leaving = running.pop(chance.randrange(len(running) - 1))
        await (leaving.crash() if chance.random() < 0.5 else leaving.stop())
    await place.send(spread(1750, 2000, 4))
    await place.out(2000)
    await until(lambda: all_committed(place, 2000))
    for each in running:
        await each.crash()
    check_order(place, 50, 40)
    assert all(desk.side_by_side == [] for desk in desks)


@apache_only
@pytest.mark.parametrize("partitions", [3])
async def test_f36_a_group_with_long_batches_settles_each_time_and_throws_nobody_out(place: Place) -> None:
    """Three workers, batches of 1 s, and a fourth that comes and goes: the listener waits for calls, never they for it."""
    desks = [Desk() for _ in range(3)]
    for desk in desks:
        desk.slow_seconds[""] = 1.0
    limits = dataclasses.replace(FAST, batch_messages=20)
    workers = [await place.begin(desk, limits) for desk in desks]
    await until(lambda: all(worker.ready and worker.heard.assignments[-1] == 1 for worker in workers))
    await place.send(spread(0, 300, 3, keys=300))
    for _ in range(2):
        async with place.worker(Desk()) as guest:
            await until(lambda: guest.heard.assignments != [] and guest.ready)
            await guest.stop()
    await place.out(300)
    await until(lambda: all_committed(place, 300))
    assert set(place.numbers()) == set(range(300))
    if brokers.kind() == brokers.APACHE:
        assert len(place.numbers()) == 300, "each last commit was taken: nothing was done twice"
    await until(lambda: all(worker.ready and worker.heard.assignments[-1] == 1 for worker in workers))
    for worker in workers:
        await worker.stop()


@pytest.mark.parametrize("partitions", [4])
@pytest.mark.parametrize("end", ["stop", "crash"])
async def test_a_worker_that_is_restarted_under_its_name_moves_nobodys_partitions(place: Place, end: str) -> None:
    """Static membership: within the session the group does not notice, and who stayed is given nothing and asked for nothing."""
    desk = Desk()
    # However slow the machine is, nobody's session may end: that is what the group would notice.
    names = {
        name: dataclasses.replace(place.named(name), session_timeout_ms=30_000, rebalance_timeout_ms=30_000) for name in ("one", "two")
    }
    async with place.worker(Desk(), kafka=names["one"]) as stayed:
        gone = await place.begin(desk, kafka=names["two"])
        await until(lambda: all(worker.ready and worker.heard.assignments[-1] == 2 for worker in (stayed, gone)))
        held, assignments = dict(stayed.worker._partitions), list(stayed.heard.assignments)
        await (gone.stop() if end == "stop" else gone.crash())
        async with place.worker(desk, kafka=names["two"]) as back:
            await until(lambda: back.heard.assignments == [2] and back.ready)
            await place.send(spread(0, 200, 4))
            await until(lambda: all_committed(place, 200))
            assert stayed.heard.assignments == assignments
            assert stayed.worker._partitions == held, "the very same ownership of each"
    check_order(place, 50, 4)


async def test_f38_a_commit_under_way_when_the_partition_goes_is_no_end_of_the_consumer(place: Place) -> None:
    """Commits take a second, and another member comes in that time; more members than partitions."""
    one, two, seam = Desk(), Desk(), Seam()
    seam.commit_seconds = 1.0
    async with place.worker(one, around=seam.around) as first:
        await place.send(told(n) for n in range(50))
        await until(lambda: seam.commits_begun > 0)
        async with place.worker(two) as second:
            await until(lambda: sorted([first.heard.assignments[-1], *second.heard.assignments[-1:]]) == [0, 1])
            await place.send(told(n) for n in range(50, 100))
            await place.out(100)
            await until(lambda: all_committed(place, 100))
            assert first.ready, "with or without partitions"
            assert second.ready
            owner, idle = (first, second) if first.heard.assignments[-1] else (second, first)
            await owner.stop()
            await until(lambda: idle.heard.assignments[-1] == 1)
            await place.send(told(n) for n in range(100, 120))
            await place.out(120)
            await until(lambda: all_committed(place, 120))
            assert not idle.task.done()
    assert set(place.numbers()) == set(range(120))


async def test_a_stop_in_the_middle_of_a_rebalance_ends_cleanly(place: Place) -> None:
    """Both let go of the same partitions: the first to come does it."""
    desk = Desk()
    desk.shut["acme"] = asyncio.Event()
    first = await place.begin(desk)
    await place.send([told(0)])
    await until(lambda: desk.runs != [])
    other = asyncio.create_task(place.begin(Desk()))
    await until(lambda: first.worker.health().ready is False or first.heard.assignments[-1] == 0 or _closing(first))
    stopping = asyncio.create_task(first.stop())
    await asyncio.sleep(0)
    desk.shut["acme"].set()
    await stopping
    second = await other
    await place.send([told(1)])
    await place.out(2)
    await until(lambda: all_committed(place, 2))
    await second.stop()


def _closing(running: Running) -> bool:
    return any(partition.closing for partition in running.worker._partitions.values())


@pytest.mark.parametrize("partitions", [2])
async def test_work_that_ends_within_the_grace_time_is_not_done_again_by_the_next_owner(place: Place) -> None:
    """Drain first, then let go. (The embedded broker refuses a commit once a rebalance has begun.)"""
    one, two = Desk(), Desk()
    one.shut["acme"] = asyncio.Event()
    async with place.worker(one, dataclasses.replace(FAST, grace_seconds=8.0)) as first:
        await place.send([told(0, partition=0), told(1, partition=1)])
        await until(lambda: sum(one.in_flight.values()) == 2)
        async with place.worker(two):
            await until(lambda: _closing(first))
            # A group that doesn't wait would have given them out by then.
            await asyncio.sleep(1.0)
            assert two.runs == [], "nobody else works on it meanwhile"
            one.shut["acme"].set()
            await until(lambda: all_committed(place, 2))
    await place.out(2)
    if brokers.kind() == brokers.APACHE:
        assert ({message.id for message in one.calls}, two.calls) == ({"0", "1"}, [])
    else:
        # A commit that it refuses is the end of the right to call: then the rest is the next owner's.
        assert {message.id for message in one.calls + two.calls} == {"0", "1"}


@apache_only
@pytest.mark.parametrize("partitions", [4])
async def test_who_lets_go_for_longer_than_the_group_waits_stays_at_work(place: Place) -> None:
    """A call hangs past the group's rebalance timeout: what the call was for is the next owner's, and the worker does not end over it."""
    one, two = Desk(), Desk()
    one.shut["acme"] = asyncio.Event()
    async with place.worker(one, dataclasses.replace(FAST, grace_seconds=60.0)) as first:
        await place.send(spread(0, 40, 4, keys=40))
        await until(lambda: sum(one.in_flight.values()) == 40)
        async with place.worker(two) as second:
            await until(lambda: second.heard.assignments[-1:] == [2] and first.heard.assignments[-1] == 2 and first.ready)
            one.shut["acme"].set()
            await place.out(40)
            await until(lambda: all_committed(place, 40))
            assert len(one.refused_by_guard) == 40
    check_order(place, 40, 1)
    assert one.side_by_side == two.side_by_side == []
