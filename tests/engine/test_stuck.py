"""Work that does not go on: what `/readyz` says, and when the process ends by itself. F37, F39 and rule 3's deadlines, over a real broker."""

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pipeline.errors import Stuck
from stages import lag
from tests.engine.desk import Desk
from tests.engine.place import FAST, STAGE, Place, Running, told, until
from tests.engine.seam import Seam

WATCHED = dataclasses.replace(FAST, stuck_seconds=3.0)
"""The process ends by itself after twice the bound: what `/readyz` says before is looked for in between."""


async def says(running: Running, words: str) -> str:
    """The reason that `/readyz` gives, once these words are in it."""
    reason = ""

    def heard() -> bool:
        nonlocal reason
        reason = running.worker.health().reason
        return words in reason

    await until(heard)
    return reason


async def ends_stuck(running: Running) -> str:
    """What a worker ends with that only a start anew helps."""
    with pytest.raises(ExceptionGroup) as caught:
        await running.task
    (inner,) = _flat(caught.value)
    assert isinstance(inner, Stuck)
    return str(inner)


@contextlib.asynccontextmanager
async def flowing(place: Place, partition: int) -> AsyncIterator[None]:
    """Meanwhile messages come in one partition, one after the other."""

    async def send() -> None:
        for n in itertools.count(1000):
            await place.send([told(n, org="other", partition=partition)])
            await asyncio.sleep(0.05)

    sending = asyncio.create_task(send())
    try:
        yield
    finally:
        sending.cancel()
        await asyncio.wait({sending})


async def lag_says(place: Place, cause: str) -> dict[str, Any]:
    """The lane of this cause, once `turnout lag` tells of one."""
    found: list[dict[str, Any]] = []

    async def is_told() -> bool:
        document = await lag.lag(place.transport, {STAGE: "in"})
        found[:] = [lane for lane in document["lanes"] if lane["cause"].startswith(f"{cause}: ")]
        return bool(found)

    await until(is_told)
    return found[0]


async def test_f37_a_worker_whose_reading_stopped_says_so_and_then_ends_with_one_clear_line(place: Place) -> None:
    """The fetching breaks inside; heartbeats and commits go on. `/readyz` turns bad, then the process leaves it to its supervisor."""
    seam = Seam()
    running = await place.begin(Desk(), WATCHED, around=seam.around)
    await place.send(told(n) for n in range(10))
    await place.out(10)
    await until(lambda: running.ready)
    seam.deaf = True
    await place.send(told(n) for n in range(10, 20))
    assert "10 messages" in await says(running, "live reading has brought nothing")
    line = await ends_stuck(running)
    assert "this process ends, to be started again" in line
    assert "\n" not in line
    async with place.worker(Desk(), WATCHED):
        await place.out(20)
    assert sorted(set(place.numbers())) == list(range(20))


async def test_f37_a_worker_that_hears_again_in_time_is_ready_again(place: Place) -> None:
    seam = Seam()
    async with place.worker(Desk(), dataclasses.replace(FAST, stuck_seconds=4.0), around=seam.around) as running:
        await place.send(told(n) for n in range(10))
        await place.out(10)
        seam.deaf = True
        await place.send(told(n) for n in range(10, 20))
        await says(running, "live reading has brought nothing")
        seam.back(0, 10)
        await place.out(20)
        await until(lambda: running.ready)


@pytest.mark.parametrize("partitions", [2])
async def test_f37_one_partition_that_brings_nothing_is_noticed_while_another_flows(place: Place) -> None:
    """`/readyz` and the lag name it, the process ends for it alone, and nothing is lost."""
    seam = Seam()
    running = await place.begin(Desk(), WATCHED, around=seam.around)
    await place.send(told(n, partition=n % 2) for n in range(10))
    await place.out(10)
    seam.deaf_partitions.add(1)
    await place.send(told(n, partition=1) for n in range(10, 20))
    async with flowing(place, partition=0):
        reason = await says(running, "live reading has brought nothing")
        assert "from partition 1 " in reason
        assert "10 messages" in reason
        lane = await lag_says(place, "no_progress")
        assert (lane["partition"], lane["lane"], lane["state"], lane["waiting"]) == (1, "partition", "blocked", 10)
        assert lane["oldest_at"] is not None
        assert "the broker that leads the partition" in lane["mend"]
        assert "partition 1 " in await ends_stuck(running)
    async with place.worker(Desk(), WATCHED) as another:
        await until(lambda: set(range(20)) <= set(place.numbers()))
        await until(lambda: place.lane_rows(another) == {})


async def test_f37_a_stage_that_nobody_works_on_is_told_as_such(place: Place) -> None:
    await place.send(told(n) for n in range(3))
    lane = await lag_says(place, "no_worker")
    assert (lane["partition"], lane["lane"], lane["state"], lane["waiting"]) == (0, "partition", "blocked", 3)
    assert lane["mend"] == "start one: `turnout run work`"
    async with place.worker(Desk()):
        await place.out(3)
        assert (await lag.lag(place.transport, {STAGE: "in"}))["lanes"] == []


async def test_f37_a_sweep_that_brings_nothing_is_noticed_while_live_reading_flows(place: Place) -> None:
    seam, desk = Seam(), Desk()
    desk.down.add("down")
    seam.deaf_sweep = True
    running = await place.begin(desk, WATCHED, around=seam.around)
    await place.send(told(n, org="down") for n in range(10))
    await until(lambda: "org:down" in place.lane_rows(running))
    desk.down.clear()
    async with flowing(place, partition=0):
        assert "from partition 0 " in await says(running, "the sweep has brought nothing")
        assert (await lag_says(place, "no_progress"))["lane"] == "partition"
        assert "the sweep" in await ends_stuck(running)
    async with place.worker(Desk(), WATCHED) as another:
        await until(lambda: set(range(10)) <= set(place.numbers()))
        await until(lambda: place.lane_rows(another) == {})


async def test_a_lane_that_waits_for_its_org_is_no_stalled_sweep(place: Place) -> None:
    """Probed all the time, and nothing of it moves: that is the org's doing."""
    desk = Desk()
    desk.down.add("down")
    async with place.worker(desk, dataclasses.replace(FAST, stuck_seconds=1.0)) as running:
        await place.send(told(n, org="down") for n in range(10))
        await until(lambda: "org:down" in place.lane_rows(running))
        for _ in range(40):
            assert "brought nothing" not in running.worker.health().reason
            await asyncio.sleep(0.1)
        assert not running.task.done()


async def test_what_is_not_read_is_told_apart_from_what_is_held(place: Place) -> None:
    seam = Seam()
    async with place.worker(Desk(), WATCHED, around=seam.around) as running:
        await place.send(told(n) for n in range(10))
        await place.out(10)
        await until(lambda: running.heard.not_read == 0)
        seam.deaf = True
        await place.send(told(n) for n in range(10, 17))
        await until(lambda: running.heard.not_read == 7)
        seam.back(0, 10)
        await until(lambda: running.heard.not_read == 0)


async def test_a_worker_with_nothing_to_read_stays_ready(place: Place) -> None:
    """Quiet topics are no fault."""
    seam = Seam()
    async with place.worker(Desk(), dataclasses.replace(FAST, stuck_seconds=1.0), around=seam.around) as running:
        await place.send(told(n) for n in range(10))
        await place.out(10)
        await until(lambda: running.ready)
        asked = running.heard.commits
        seam.deaf = True  # nothing comes anyhow
        for _ in range(30):
            assert "brought nothing" not in running.worker.health().reason
            await asyncio.sleep(0.1)
        await until(lambda: running.ready)
        assert running.heard.commits >= asked
        assert not running.task.done()


async def test_batches_that_do_not_end_turn_readiness_bad_and_work_after_a_quiet_time_does_not(place: Place) -> None:
    desk = Desk()
    async with place.worker(desk, WATCHED) as running:
        await place.send([told(0)])
        await place.out(1)
        await asyncio.sleep(3.5)  # longer than the bound, with nothing to do
        desk.shut["acme"] = asyncio.Event()
        await place.send([told(1)])
        await until(lambda: sum(desk.in_flight.values()) == 1)
        assert "no progress" not in running.worker.health().reason
        await says(running, "no progress")
        desk.shut["acme"].set()
        await until(lambda: running.ready)


async def test_f39_orgs_that_are_down_for_longer_than_the_poll_interval_cost_no_membership(place: Place) -> None:
    """A backlog beyond every bound, all orgs down, then all calls hanging, each for longer than `max_poll_interval_ms`."""
    desk = Desk()
    orgs = [f"o{n}" for n in range(5)]
    desk.down |= set(orgs)
    limits = dataclasses.replace(FAST, total_messages=200, org_messages=80, batch_messages=20)
    short = dataclasses.replace(place.settings, max_poll_interval_ms=5_000)
    await place.send(told(n, org=orgs[n % 5], key=f"{n % 50}@x") for n in range(1000))
    async with place.worker(desk, limits, kafka=short) as running:
        await until(lambda: sum(row.waiting for row in place.lane_rows(running).values()) >= 900)
        await asyncio.sleep(5.5)
        desk.shut = {org: asyncio.Event() for org in orgs}
        desk.down.clear()
        await until(lambda: sum(desk.in_flight.values()) > 0)
        await place.send(told(n, org="full", key=f"{n}@y") for n in range(1000, 1200))
        desk.shut["full"] = asyncio.Event()
        await asyncio.sleep(5.5)
        for event in desk.shut.values():
            event.set()
        await place.out(1200)
        assert running.heard.assignments == [1], "no rebalance"
    assert len(place.numbers()) == 1200
    for key, numbers in place.by_key().items():
        assert numbers == sorted(numbers), key
    assert desk.side_by_side == []


async def test_f39_reading_that_pauses_since_memory_is_full_costs_no_membership(place: Place) -> None:
    """Nothing is fetched while all that is held hangs; the group must not take that for death."""
    desk = Desk()
    desk.shut = {f"o{n}": asyncio.Event() for n in range(40)}
    limits = dataclasses.replace(FAST, total_messages=40, batch_messages=4)
    short = dataclasses.replace(place.settings, max_poll_interval_ms=5_000)
    await place.send(told(n, org=f"o{n % 40}", kind="company", key=f"company:{n}") for n in range(400))
    async with place.worker(desk, limits, kafka=short) as running:
        await until(lambda: sum(desk.in_flight.values()) >= 30)
        await asyncio.sleep(6.5)
        for event in desk.shut.values():
            event.set()
        await place.out(400)
        assert running.heard.assignments == [1], "no rebalance"


def _flat(group: BaseExceptionGroup) -> list[BaseException]:
    return [inner for error in group.exceptions for inner in (_flat(error) if isinstance(error, BaseExceptionGroup) else [error])]
