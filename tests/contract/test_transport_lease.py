"""The lease of a member of a group: that heartbeats and commits renew it, that it ends in time, and that what aiokafka keeps private still serves."""

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import sys
import time
from collections.abc import AsyncIterator

import pytest

from pipeline.errors import CommitRefused
from pipeline.kafka import KafkaGroupReader
from pipeline.records import Commit
from stages.sandbox.broker import die_with
from tests.contract import logs

ROOT = pathlib.Path(__file__).parent.parent.parent


@contextlib.asynccontextmanager
async def alone(kafka: logs.KafkaLog) -> AsyncIterator[tuple[logs.Member, KafkaGroupReader]]:
    await kafka.create("received", 1)
    async with logs.member(await kafka.transport(), "received") as one:
        await one.has(1)
        assert isinstance(one.reader, KafkaGroupReader)
        yield one, one.reader


def ends(reader: KafkaGroupReader) -> float:
    return time.monotonic() + reader.lease_seconds()


async def test_heartbeats_renew_it(kafka: logs.KafkaLog) -> None:
    async with alone(kafka) as (_, reader):
        first = ends(reader)
        await logs.until(lambda: _later(reader, first + 0.1))


async def test_a_commit_renews_it(kafka: logs.KafkaLog) -> None:
    async with alone(kafka) as (_, reader):
        # With the heartbeat out of the way the lease stands still.
        await reader._consumer._coordinator._stop_heartbeat_task()
        first = ends(reader)
        await asyncio.to_thread(time.sleep, 1.0)
        # Two clocks are read one after the other.
        assert ends(reader) == pytest.approx(first, abs=0.4)
        await reader.commit({0: Commit(0, "m")})
        assert ends(reader) > first + 0.5


async def test_it_is_never_longer_than_half_the_session(kafka: logs.KafkaLog) -> None:
    async with alone(kafka) as (_, reader):
        for _ in range(50):
            assert reader.lease_seconds() <= logs.SESSION_SECONDS / 2
            await reader.commit({0: Commit(0, "m")})


async def test_it_ends_with_a_heartbeat_that_is_refused(kafka: logs.KafkaLog) -> None:
    """Here because the coordinator is told of another member id, as after the session has ended."""
    _needs_expelling(kafka)
    async with alone(kafka) as (one, reader):
        coordinator = reader._consumer._coordinator
        coordinator.member_id = "somebody-else"
        await coordinator._do_heartbeat()
        assert reader.lease_seconds() < 0
        with pytest.raises(CommitRefused):
            await reader.commit({0: Commit(1, "stale")})
        # It joins again by itself.
        await logs.until(lambda: _later(reader, time.monotonic()))
        assert [what for what, _ in one.heard] == ["assigned", "revoked", "assigned"]


async def test_a_commit_of_an_earlier_generation_never_goes_out_under_a_later_one(kafka: logs.KafkaLog) -> None:
    """aiokafka sends a commit again under whatever generation it has by then."""
    async with alone(kafka) as (_, reader):
        coordinator = reader._consumer._coordinator
        coordinator.generation += 1
        with pytest.raises(CommitRefused):
            await reader.commit({0: Commit(1, "stale")})
        coordinator.generation -= 1
        await reader.commit({0: Commit(1, "good")})
        assert await reader.committed([0]) == {0: Commit(1, "good")}


async def test_a_listener_may_take_longer_than_the_session(kafka: logs.KafkaLog) -> None:
    """aiokafka would begin with heartbeats only after it; the group would have given the partitions away."""
    await kafka.create("received", 1)
    one = logs.Member(await kafka.transport(), "received")
    assert isinstance(one.reader, KafkaGroupReader)
    reader: KafkaGroupReader = one.reader
    renewed = asyncio.Event()

    class Slow:
        async def revoked(self, partitions: frozenset[int]) -> None:
            await one.revoked(partitions)

        async def assigned(self, partitions: frozenset[int]) -> None:
            first = ends(reader)
            await logs.until(lambda: _later(reader, first + 0.3))
            renewed.set()
            await one.assigned(partitions)

    reader._listener = Slow()
    await reader.start()
    await one.has(1)
    assert renewed.is_set()
    await reader.stop()


async def test_who_wakes_after_its_session_has_no_lease_and_cannot_commit(kafka: logs.KafkaLog) -> None:
    """SIGSTOP, another takes over, SIGCONT: no callback has run yet, and still it knows that it must not call."""
    _needs_expelling(kafka)
    await kafka.create("received", 2)
    command = [
        sys.executable,
        "-m",
        "tests.contract.lonely_member",
        kafka.settings.bootstrap,
        kafka.settings.prefix,
        str(int(logs.SESSION_SECONDS * 1000)),
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT, preexec_fn=die_with(os.getpid()))
    assert process.stdout is not None
    try:
        async with asyncio.timeout(logs.PATIENCE_SECONDS):
            said = (await process.stdout.readline()).split()
            assert said[0] == b"assigned"
            assert float(said[1]) > 0
        process.send_signal(signal.SIGSTOP)
        async with logs.member(await kafka.transport(), "received") as other:
            await other.has(2)
            await other.reader.commit({0: Commit(0, "mine"), 1: Commit(0, "mine")})
            process.send_signal(signal.SIGCONT)
            async with asyncio.timeout(logs.PATIENCE_SECONDS):
                found = json.loads(await process.stdout.readline())
            assert found["believed"] == [0, 1]
            assert found["revokes"] == 0
            assert found["lease"] < 0
            assert found["commit"] == "CommitRefused"
            assert await kafka.first.cluster.committed("stage") == {("received", p): Commit(0, "mine") for p in range(2)}
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _needs_expelling(kafka: logs.KafkaLog) -> None:
    if not kafka.expels_the_silent:
        pytest.skip("this broker never lets a silent member go: Apache Kafka shows it (TURNOUT_TEST_BROKER=apache)")


async def _later(reader: KafkaGroupReader, moment: float) -> bool:
    return ends(reader) > moment
