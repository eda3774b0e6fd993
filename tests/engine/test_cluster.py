"""Three brokers, of which one is killed under workers: work goes on on the other two. On Apache Kafka alone: the embedded broker is always one."""

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator
from typing import Final

import pytest

from pipeline import metadata
from tests.engine.conftest import apache_only, opened
from tests.engine.desk import Desk
from tests.engine.place import FOLLOWED, STAGE, TABLES, Place, Running, is_whole_runs, settings, told, until
from tests.kafka.apache import ApacheCluster

pytestmark = [apache_only, pytest.mark.timeout(600)]

PARTITIONS: Final = 6
KEYS: Final = 24
ROUND: Final = 2 * KEYS
"""So many messages are written at once, to all partitions."""
ROUND_SECONDS: Final = 0.1
LEADERS_SECONDS: Final = 120.0
"""For new leaders, or a node that comes back, on a busy machine."""


@dataclasses.dataclass
class Load:
    """Writes round after round while what comes out keeps up."""

    place: Place
    sent: int = 0
    enough: bool = False

    async def run(self) -> None:
        while not self.enough:
            numbers = range(self.sent, self.sent + ROUND)
            await self.place.send(told(n, key=f"{n % KEYS}@acme", partition=n % PARTITIONS) for n in numbers)
            self.sent = numbers.stop
            await until(lambda: len(self.place.log["out"]) > self.sent - 2 * ROUND, LEADERS_SECONDS)
            await asyncio.sleep(ROUND_SECONDS)


@pytest.fixture
async def cluster(tmp_path: pathlib.Path) -> AsyncIterator[ApacheCluster]:
    made = ApacheCluster(tmp_path)
    try:
        await made.start()
        yield made
    finally:
        made.stop()


async def leaders(place: Place) -> set[int]:
    """The nodes that lead partitions of `in`."""
    name = place.settings.topic("in")
    return {partition["leader"] for partition in (await place.transport.cluster.described([name]))[name]}


async def is_on_all(place: Place, nodes: int) -> bool:
    """Whether every log, and that of the groups' offsets, is on so many nodes."""
    names = [*map(place.settings.topic, ("in", *FOLLOWED, *TABLES)), "__consumer_offsets"]
    found = await place.transport.cluster.described(names)
    return all(len(partition["isr"]) == nodes for partitions in found.values() for partition in partitions)


async def all_committed(place: Place) -> None:
    """Until all that `in` holds now is done and committed, on every partition."""
    ends = await place.transport.cluster.offsets("in")

    async def done() -> bool:
        commits = await place.committed()
        return all(
            number in commits and commits[number].offset >= end and not metadata.decode(commits[number].metadata).cursors
            for number, (_, end) in ends.items()
        )

    await until(done, LEADERS_SECONDS)


async def all_know(place: Place, workers: list[Running], value: bytes) -> None:
    """Until a row has come to every worker, and every one is ready."""
    await place.row("rows", "row", value)
    await until(lambda: all(running.ready and running.tables["rows"].get("row") == value for running in workers), LEADERS_SECONDS)


async def test_work_goes_on_while_one_of_three_brokers_is_killed_and_nothing_is_lost_or_turned_round(
    cluster: ApacheCluster, prefix: str, tmp_path: pathlib.Path
) -> None:
    """Twice it is the group's coordinator, a leader of partitions too, that dies; each time another worker joins before it is back."""
    kafka = dataclasses.replace(settings(cluster.bootstrap, prefix), request_timeout_ms=15_000)
    async with opened(kafka, PARTITIONS, tmp_path, replication=3) as place, contextlib.AsyncExitStack() as stack:
        desk = Desk()
        desk.slow_seconds[""] = 0.01
        workers = [await stack.enter_async_context(place.worker(desk))]
        load = Load(place)
        loading = asyncio.create_task(load.run())
        stack.callback(loading.cancel)
        killed: set[int] = set()
        for _ in range(2):
            await until(lambda: is_on_all(place, 3), LEADERS_SECONDS)
            await all_know(place, workers, b"before")
            await all_committed(place)
            number = await place.transport.cluster.admin.find_coordinator(place.settings.group(STAGE))
            assert number in await leaders(place)
            node = cluster.nodes[number]
            node.kill()
            killed.add(number)
            goal = load.sent + 3 * ROUND
            await until(lambda goal=goal: load.sent >= goal, LEADERS_SECONDS)  # type: ignore[misc]
            await all_committed(place)
            dead_first = dataclasses.replace(kafka, bootstrap=f"{node.bootstrap},{cluster.bootstrap}")
            workers.append(await stack.enter_async_context(place.worker(desk, kafka=dead_first)))
            await all_know(place, workers, b"away")
            await all_committed(place)
            assert number not in await leaders(place)
            await node.restart()
        assert len(killed) == 2
        await until(lambda: is_on_all(place, 3), LEADERS_SECONDS)
        load.enough = True
        await loading
        await all_committed(place)
        await all_know(place, workers, b"whole again")
        found = place.by_key()
        assert len(found) == KEYS
        for numbers in found.values():
            assert is_whole_runs([number // KEYS for number in numbers], 0, load.sent // KEYS - 1), numbers
        assert place.letters() == []
        assert desk.side_by_side == []
