"""A broker that is killed and comes back under a worker: nothing is lost, order holds. On Apache Kafka alone: the embedded one loses what it acknowledged."""

import pathlib

import pytest

from tests.engine.conftest import apache_only, opened
from tests.engine.desk import Desk
from tests.engine.place import is_whole_runs, settings, told, until
from tests.kafka.apache import ApacheKafka

pytestmark = [apache_only, pytest.mark.timeout(240)]


async def test_a_broker_killed_and_restarted_under_load_loses_nothing_and_turns_nothing_round(
    broker: ApacheKafka, prefix: str, tmp_path: pathlib.Path
) -> None:
    async with opened(settings(broker.bootstrap, prefix), 1, tmp_path) as place:
        desk = Desk()
        desk.slow_seconds[""] = 0.01
        async with place.worker(desk) as running:
            await place.send(told(n, key=f"{n % 20}@acme") for n in range(400))
            await place.out(100)
            broker.kill()
            await broker.restart()
            await place.send(told(n, key=f"{n % 20}@acme") for n in range(400, 800))
            await until(lambda: len(set(place.numbers())) == 800, 60.0)

            async def all_committed() -> bool:
                commit = (await place.committed()).get(0)
                return commit is not None and commit.offset == 800

            await until(all_committed, 60.0)
            await until(lambda: running.ready)
        for numbers in place.by_key().values():
            assert is_whole_runs([number // 20 for number in numbers], 0, 39), numbers
        assert desk.side_by_side == []


async def test_a_broker_that_is_stopped_for_longer_than_the_session_costs_time_only(
    broker: ApacheKafka, prefix: str, tmp_path: pathlib.Path
) -> None:
    """SIGSTOP of the broker: no call is made on a lease that has run out; afterwards all goes on by itself."""
    async with opened(settings(broker.bootstrap, prefix), 1, tmp_path) as place:
        desk = Desk()
        async with place.worker(desk) as running:
            await place.send(told(n) for n in range(50))
            await place.out(50)
            broker.suspend()
            await until(lambda: running.worker._group.lease_seconds() < 0)
            broker.resume()
            await place.send(told(n) for n in range(50, 100))
            await until(lambda: len(set(place.numbers())) == 100, 60.0)
            await until(lambda: running.ready)
        assert desk.side_by_side == []
