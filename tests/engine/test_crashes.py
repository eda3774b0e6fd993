"""kill -9, SIGSTOP and SIGTERM of workers that are processes: rules 6, 14, 15 and 16 of the engine, and F32, over a real broker."""

import asyncio
import dataclasses

import pytest

from pipeline import metadata
from tests.engine.conftest import apache_only
from tests.engine.desk import Desk
from tests.engine.place import FAST, START_SECONDS, Place, is_whole_runs, told, until

pytestmark = pytest.mark.timeout(240)

NEVER = dataclasses.replace(FAST, commit_seconds=3600.0)


async def test_killed_between_output_and_commit_it_repeats_whole_runs_and_loses_nothing(place: Place) -> None:
    """Outputs are acknowledged, then comes the commit: what dies in between is done again, never left out."""
    await place.send(told(n, key=f"{n % 5}@acme") for n in range(100))
    first = place.process("plain", NEVER, kafka=place.named("one"))
    await place.out(100, START_SECONDS)
    first.kill()
    assert {commit.offset for commit in (await place.committed()).values()} == {0}
    place.process("plain", kafka=place.named("one"))
    await until(lambda: len(place.log["out"]) >= 200, START_SECONDS)
    await place.send(told(n, key=f"{n % 5}@acme") for n in range(100, 105))
    await place.out(105)
    for key, numbers in place.by_key().items():
        mine = int(key[0])
        assert is_whole_runs([number // 5 for number in numbers], 0, 20), numbers
        assert {number % 5 for number in numbers} == {mine}


async def test_f32_what_is_not_done_is_never_passed_by_the_committed_offset(place: Place) -> None:
    """301 messages of different workspaces; message 2 is to be tried again in a minute; kill -9; start again."""
    await place.send(told(n, workspace=f"w{n}") for n in range(301))
    first = place.process("second_rests", kafka=place.named("one"))
    await place.out(300, START_SECONDS)

    async def committed() -> int:
        commit = (await place.committed()).get(0)
        return -1 if commit is None else min([commit.offset, *(c.offset for c in metadata.decode(commit.metadata).cursors.values())])

    async def stands() -> bool:
        return await committed() == 2

    await until(stands)
    await place.send([told(301, workspace="w301")])
    await place.out(301)
    assert await committed() <= 2
    first.kill()
    place.gate("mended")
    place.process("second_rests", kafka=place.named("one"))
    await place.out(302, START_SECONDS)

    async def all_done() -> bool:
        return await committed() == 302

    await until(all_done)
    assert sorted(set(place.numbers())) == list(range(302))
    assert place.numbers().count(2) == 1


@apache_only
async def test_a_worker_stopped_past_its_session_and_woken_makes_no_call_and_no_commit(place: Place) -> None:
    """SIGSTOP while a batch is under way. On waking no callback has run yet; the lease alone knows (rule 15)."""
    await place.send(told(n, key="k@acme") for n in range(1))
    sleeper = place.process("gated")
    await until(lambda: sleeper.lines() == ["begin 0"], START_SECONDS)
    sleeper.suspend()
    desk = Desk()
    async with place.worker(desk) as other:
        await until(lambda: other.heard.assignments[-1:] == [1])
        await until(lambda: other.ready)
        await place.out(1)

        async def committed() -> bool:
            commit = (await place.committed()).get(0)
            return commit is not None and commit.offset == 1

        await until(committed)
        place.gate("go")
        sleeper.resume()
        await until(lambda: "refused 0" in sleeper.lines())
        await place.send([told(1, key="k@acme")])
        await place.out(2)
        assert [line for line in sleeper.lines() if line == "call 0"] == []
        assert place.numbers().count(0) == 1, "done once, by the new owner"
        commit = (await place.committed())[0]
        assert commit.offset >= 1, "nothing was moved back"


async def test_sigterm_finishes_what_is_in_flight_and_commits_it_drained(place: Place) -> None:
    """Two phases: no more intake, what runs ends; then the commit that says so, then the group is left."""
    await place.send(told(n) for n in range(10))
    worker = place.process("gated", dataclasses.replace(FAST, stop_seconds=30.0))
    await until(worker.has_begun, START_SECONDS)
    worker.terminate()
    await until(lambda: "stopping" in worker.lines())
    # Who does not wait is gone by then.
    await asyncio.sleep(1.0)
    assert worker.process.poll() is None, "it waits for the batch"
    place.gate("go")
    assert await worker.ended() == 0
    begun = [line.split()[1] for line in worker.lines() if line.startswith("begin")]
    assert [line.split()[1] for line in worker.lines() if line.startswith("call")] == begun
    await place.out(len(begun))
    commit = (await place.committed())[0]
    assert metadata.decode(commit.metadata).drained
    desk = Desk()
    async with place.worker(desk):
        await place.out(10)
    assert sorted(place.numbers()) == list(range(10)), "each once"
    assert [message.hold_creates_until_ms for message in desk.calls] == [0] * (10 - len(begun))


async def test_after_a_death_creates_are_held_for_a_calls_deadline(place: Place) -> None:
    """Rule 14: where the last commit isn't drained, an owner before may still have a call under way."""
    await place.send(told(n) for n in range(5))
    first = place.process("plain", kafka=place.named("one"))
    await place.out(5, START_SECONDS)

    async def committed() -> bool:
        return 0 in await place.committed()

    await until(committed)
    first.kill()
    desk = Desk()
    async with place.worker(desk, kafka=place.named("one")):
        await place.send([told(5)])
        await place.out(6)
    until_ms = desk.calls[-1].hold_creates_until_ms
    assert until_ms - desk.calls[-1].held_since_ms == int(FAST.takeover_seconds * 1000)


async def test_who_dies_within_its_first_batch_is_waited_for_too(place: Place) -> None:
    """Rule 14: the word of a clean owner before it, or that there was none, does not speak for who has taken over since."""
    for round in range(2):
        await place.send(told(n) for n in range(round * 5, round * 5 + 5))
        first = place.process("gated", NEVER, kafka=place.named("one"))
        await until(first.has_begun, START_SECONDS)
        first.kill()
        desk = Desk()
        async with place.worker(desk, kafka=place.named("one")):
            await place.out(round * 5 + 5)
        holds = {message.hold_creates_until_ms - message.held_since_ms for message in desk.calls}
        assert holds == {int(FAST.takeover_seconds * 1000)}, f"round {round}"
