"""Rules of the engine, one by one, in simulated time: an hour costs nothing, and the bounds are those of production."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from unittest import mock

import msgspec
import pytest
from structlog.testing import capture_logs

from pipeline.errors import LeaseLost, Stuck, WriteError
from pipeline.memory import MemoryTransport
from pipeline.messages import Message
from pipeline.metadata import decode
from pipeline.outcomes import Batch, Block, Emit, Out, Outcome, Reject, Retry, Wait
from pipeline.records import Outgoing
from pipeline.stage import Closed, Limits, OpenGate
from schemas.messages import Cause
from stages import lag
from stages.errors import innermost
from tests.engine.place import STAGE, told
from tests.engine.seam import Seam
from tests.simulation.room import Room, Running, each, passed_on, simulated

LIMITS = Limits()
ABSENT = Cause(code="no_row", message="It is not there.")
DOWN = Cause(code="org_down", message="The org does not answer.", hint="Wait.")
BY_HAND = Cause(code="paused", message="By hand.")


def ended(running: Running) -> BaseException:
    """The one error that a worker has ended with."""
    assert running.task.done()
    return innermost(running.task.exception() or AssertionError("it ended by itself"))


# -- lanes --------------------------------------------------------------------------------------------


class Gate(OpenGate):
    """Closes workspaces."""

    def __init__(self) -> None:
        self.paused: set[str] = set()

    def closed(self, message: Message) -> Closed | None:
        lane = message.shared_lanes[-1]
        return Closed(lane, "paused", BY_HAND) if lane in self.paused else None

    def lane_closed(self, lane: str) -> bool:
        return lane in self.paused


def test_a_workspace_that_is_paused_waits_alone_and_goes_on_by_itself_in_order() -> None:
    """Rule 1: nothing of it is tried meanwhile; its org and the workspaces beside it go on."""

    async def test(room: Room) -> None:
        gate = Gate()
        gate.paused.add("org:acme/workspace:one")
        running = await room.enter(each(passed_on), LIMITS, gate=gate)
        room.send([told(n, workspace=("one", "two")[n % 2], key=f"k{n % 6}@acme") for n in range(60)])
        await room.until(lambda: len(room.numbers()) == 30)
        await room.pass_by(600)
        assert all(number % 2 for number in room.numbers())
        row = running.lanes()["org:acme/workspace:one"]
        assert (row.state, row.waiting, row.cause) == ("paused", 30, "paused: By hand.")
        gate.paused.clear()
        await room.until(lambda: room.committed() == 60 and not running.lanes())
        assert [number for number in room.numbers() if number % 2 == 0] == list(range(0, 60, 2))

    simulated(test)


def test_a_lane_is_ready_only_when_every_wider_one_is() -> None:
    """Rule 1: a workspace that is mended while its org is down is not tried before the org may be."""

    async def test(room: Room) -> None:
        runs: list[tuple[float, str]] = []
        bad = {"org:acme/workspace:one": None, "org:acme": 300.0}

        def decide(message: Message) -> Outcome:
            runs.append((room.now, message.workspace))
            lane = next((lane for lane in message.shared_lanes if lane in bad), None)
            return passed_on(message) if lane is None else Block(lane, DOWN, bad[lane])

        del bad["org:acme"]
        await room.enter(each(decide), LIMITS)
        room.send([told(n, workspace="one") for n in range(5)])
        await room.until(lambda: len(runs) > 0)
        bad["org:acme"] = 300.0
        room.send([told(5, workspace="two")])
        await room.until(lambda: runs[-1][1] == "two")
        shut_at = room.now
        del bad["org:acme/workspace:one"], bad["org:acme"]
        await room.until(lambda: len(room.numbers()) == 6)
        assert min(at for at, _ in runs if at > shut_at) >= shut_at + 299

    simulated(test)


def test_busy_and_blocked_are_told_apart() -> None:
    """Rule 2: a burst beyond the org's bound lags as busy, an org that is down as blocked."""

    async def test(room: Room) -> None:
        async def step(batch: Batch) -> list[Outcome]:
            if batch.org == "down":
                return [Block("org:down", DOWN)] * len(batch.messages)
            await room.pass_by(5)
            return [passed_on(message) for message in batch.messages]

        running = await room.enter(step, LIMITS)
        room.send([told(n, org="burst") for n in range(6_000)])
        room.send([told(n, org="down") for n in range(6_000, 6_010)])
        await room.until(lambda: len(running.lanes()) == 2)
        assert {lane: row.state for lane, row in running.lanes().items()} == {"org:burst": "busy", "org:down": "blocked"}
        assert running.heard.blocked == {("busy", "busy"): 1, ("blocked", "org_down"): 1}
        await room.until(lambda: len(room.numbers()) == 6_000)
        assert sorted(room.numbers()) == list(range(6_000))

    simulated(test)


def test_what_others_wait_for_is_not_passed_over_for_a_burst() -> None:
    """Rule 3: a company message behind 12,000 others of its org is worked on when those that were held before it are, not after all."""

    async def test(room: Room) -> None:
        called: list[str] = []

        async def step(batch: Batch) -> list[Outcome]:
            await room.pass_by(1)
            called.extend(message.kind for message in batch.messages)
            return [passed_on(message) for message in batch.messages]

        await room.enter(step, LIMITS)
        room.send([told(n) for n in range(12_000)])
        room.send([told(12_000, kind="company", key="company:acme")])
        await room.until(lambda: len(called) == 12_001)
        assert called.index("company") <= LIMITS.org_messages + 2 * LIMITS.batch_messages

    simulated(test)


def test_a_share_that_is_tried_again_for_ever_takes_no_place_from_the_others() -> None:
    """Rule 3: every fifth message of every org rests and rests; more of them than the budget holds; all others are worked on, in bounded memory."""

    async def test(room: Room) -> None:
        def decide(message: Message) -> Outcome:
            return Retry(30.0, DOWN, free=True) if int(message.id) % 5 == 0 else passed_on(message)

        limits = Limits(resting_messages=50, org_resting_messages=20, org_messages=100, total_messages=400, batch_messages=50)
        running = await room.enter(each(decide, 0.1), limits)
        most = 0
        for first in range(0, 5_000, 500):
            room.send([told(n, org=f"o{n % 3}") for n in range(first, first + 500)])
            await room.until(lambda first=first: len(set(room.numbers())) == (first + 500) * 4 // 5)  # type: ignore[misc]
            most = max(most, running.worker._dispatcher.held)
        assert most <= limits.total_messages + limits.fetch_messages
        assert running.worker._dispatcher.resting <= limits.resting_messages + limits.batch_messages
        assert len(room.numbers()) == 4_000, "each once"

    simulated(test)


def test_what_waits_is_counted_while_it_is_passed_over_and_at_least_so_after_a_restart() -> None:
    """Rule 18: with the time of the oldest, the cause, the mend and the next try."""

    async def test(room: Room) -> None:
        gate = Gate()
        gate.paused.add("org:acme/workspace:w")
        decide = each(lambda message: Block("org:bolt", DOWN, 100.0) if message.org == "bolt" else passed_on(message))
        running = await room.enter(decide, LIMITS, gate=gate)
        room.send([told(n, org=("acme", "bolt")[n % 2]) for n in range(70)])
        await room.until(lambda: {row.waiting for row in running.lanes().values()} == {35})
        rows = running.lanes()
        row = rows["org:bolt"]
        assert (row.at_least, row.cause, row.mend) == (False, "org_down: The org does not answer.", "Wait.")
        assert row.oldest_at == room.broker.records("in")[1].timestamp_ms
        assert 90_000 < row.next_try_at - row.since < 101_000
        assert rows["org:acme/workspace:w"].next_try_at == 0
        await running.stop()
        again = await room.enter(decide, LIMITS, gate=gate)
        room.send([told(70)])
        await room.until(lambda: again.lanes()["org:acme/workspace:w"].at_least)
        assert 1 <= again.lanes()["org:acme/workspace:w"].waiting <= 36

    simulated(test)


@pytest.mark.parametrize("count", [10, 60])
def test_what_waits_for_an_org_is_told_also_while_it_is_probed(count: int) -> None:
    """F44: calls that hang for 20 s are most of what is seen of such an org; all of its lane may be in one probe, or a part."""

    async def test(room: Room) -> None:
        running = await room.enter(each(lambda m: Block("org:down", DOWN) if m.org == "down" else passed_on(m), 20.0), LIMITS)
        room.send([told(n, org="down") for n in range(count)])
        room.send([told(count, org="up")])
        await room.until(lambda: room.numbers() == [count] and "org:down" in running.lanes())
        await room.pass_by(5)
        probes = set()
        for _ in range(300):
            await room.pass_by(1)
            row = running.lanes()["org:down"]
            assert (row.waiting, row.state, row.cause.partition(":")[0]) == (count, "blocked", "org_down")
            assert running.heard.blocked == {("blocked", "org_down"): 1}
            document = await lag.lag(MemoryTransport(room.broker), {STAGE: "in"})
            assert document["unfinished"] == count
            assert [(lane["waiting"], lane["state"]) for lane in document["lanes"]] == [(count, "blocked")]
            probes.add(running.worker._dispatcher.running_messages)
        assert probes == {0, min(count, LIMITS.probing.messages)}, "it was probed meanwhile"

    simulated(test)


def test_how_much_a_restart_repeats_is_told_while_more_lanes_wait_than_a_commit_has_room_for() -> None:
    """Rule 7."""

    async def test(room: Room) -> None:
        down = {f"o{n}" for n in range(1, 600, 2)}

        async def repeats() -> int:
            document = await lag.lag(MemoryTransport(room.broker), {STAGE: "in"})
            (partition,) = document["stages"][0]["partitions"]
            return int(partition.get("repeats_after_restart", 0))

        running = await room.enter(each(lambda m: Block(f"org:{m.org}", DOWN) if m.org in down else passed_on(m)), LIMITS)
        room.send([told(n, org=f"o{n}" if n % 2 else "up") for n in range(600)])
        await room.until(lambda: len(room.numbers()) == 300)
        await room.pass_by(30)
        assert 300 < await repeats() <= 600
        down.clear()
        await room.until(lambda: room.committed() == 600 and not running.lanes())
        await room.pass_by(5)
        assert await repeats() == 0

    simulated(test)


# -- commits --------------------------------------------------------------------------------------------


def test_commits_are_at_most_one_a_second_and_none_where_nothing_changed() -> None:
    """Rule 6."""

    async def test(room: Room) -> None:
        running = await room.enter(each(passed_on), LIMITS)
        begun = room.now
        for n in range(600):
            room.send([told(n)])
            await room.pass_by(0.05)
        await room.until(lambda: room.committed() == 600)
        assert 20 <= running.heard.commits <= room.now - begun + 2
        before = running.heard.commits
        await room.pass_by(300)
        assert running.heard.commits == before

    simulated(test)


def test_what_is_finished_while_a_commit_is_under_way_is_in_the_next_one() -> None:
    """Rule 6: that a commit was taken clears only the changes that it carried."""

    async def test(room: Room) -> None:
        seam = Seam()
        await room.enter(each(passed_on), LIMITS, around=seam.around)
        seam.commit_seconds = 5.0
        begun = seam.commits_begun
        room.send([told(0)])
        await room.until(lambda: seam.commits_begun > begun)
        room.send([told(1)])
        await room.until(lambda: room.numbers() == [0, 1])
        assert room.committed() < 1, "the first is still under way"
        await room.until(lambda: room.committed() == 2, 20)

    simulated(test)


def test_commits_go_on_while_rows_cannot_be_written() -> None:
    """The table `lanes` has no leader: the coordinator is well, and what a commit says is no row's."""

    async def test(room: Room) -> None:
        running = await room.enter(each(passed_on), LIMITS)
        room.broker.faults.fail("send", topic="lanes", times=1_000_000)
        for n in range(60):
            room.send([told(n)])
            await room.pass_by(10)
        assert room.committed() == 60
        assert running.worker.health().ready
        # Also the last one, of a worker that stops.
        room.send([told(60)])
        await room.until(lambda: len(room.numbers()) == 61)
        await running.stop()
        assert room.committed() == 61

    simulated(test)


def test_a_commit_that_owes_a_row_waits_for_it_and_no_other_partition_does() -> None:
    """A range was lost in one partition: before that is told, its commit would hide it."""

    async def test(room: Room) -> None:
        running = await room.enter(each(passed_on), LIMITS)
        await running.stop()
        room.send([told(n, partition=n % 2) for n in range(10)])
        room.broker.delete_records("in", 0, 2)
        room.broker.faults.fail("send", topic="lanes", times=1_000_000)
        entering = asyncio.create_task(room.enter(each(passed_on), LIMITS))
        await room.until(lambda: room.committed(1) == 5)
        assert room.committed(0) == 0
        assert not entering.done()
        room.broker.faults.clear()
        second = await entering
        await room.until(lambda: room.committed(0) == 5)
        assert [row.lost for row in second.lanes().values()] == [True]

    simulated(test, partitions=2)


def test_commits_that_are_not_taken_turn_readiness_bad_and_then_end_the_process() -> None:
    async def test(room: Room) -> None:
        running = await room.enter(each(passed_on), LIMITS)
        room.broker.faults.fail("commit", times=1_000_000)
        for n in range(14):
            room.send([told(n)])
            await room.pass_by(10)
        assert "nothing of partition 0 was committed for" in running.worker.health().reason
        assert running.worker.health().reason.endswith(": injected")
        await room.until(running.task.done, 130)
        assert isinstance(ended(running), Stuck)

    simulated(test)


def test_every_commit_carries_metadata_of_ours_and_no_address() -> None:
    """Rule 5: also the first, before anything was worked on, and one with nothing that lags."""

    async def test(room: Room) -> None:
        commits: list[str] = []
        store = room.broker.group(STAGE).offsets
        running = await room.enter(each(lambda m: Block("org:acme", DOWN) if m.id == "1" else passed_on(m)), LIMITS)
        for n in range(4):
            commits.append(store["in", 0].metadata)
            room.send([told(n, key="ada.berg@mill.example")])
            await room.pass_by(2)
        await running.stop()
        commits.append(store["in", 0].metadata)
        assert [decode(text).drained for text in commits] == [False, False, False, False, True]
        assert decode(commits[-1]).cursors
        assert not any(word in text for text in commits for word in ("ada", "berg", "mill", "@", "acme"))

    simulated(test)


# -- the right to call --------------------------------------------------------------------------------------


class Caller:
    """A step that takes so long before its call goes out, and notes whether it did."""

    def __init__(self, room: Room, seconds: float) -> None:
        self._room, self.seconds = room, seconds
        self.begun: list[str] = []
        self.called: list[str] = []
        self.refused: list[str] = []

    async def __call__(self, batch: Batch) -> list[Outcome]:
        ids = [message.id for message in batch.messages]
        self.begun += ids
        await self._room.pass_by(self.seconds)
        try:
            batch.guard()
        except LeaseLost:
            self.refused += ids
            raise
        self.called += ids
        return [passed_on(message) for message in batch.messages]


def test_whoever_the_group_does_not_hear_makes_no_call_once_half_the_session_is_over() -> None:
    """Rule 15: it has heard of nothing itself; another has the partition by then, and does the work."""

    async def test(room: Room) -> None:
        deaf, other = Caller(room, 60.0), Caller(room, 0.0)
        first = await room.enter(deaf, LIMITS)
        room.send([told(0)])
        await room.until(lambda: deaf.begun == ["0"])
        first.transport.members[0].cut_off()
        await room.enter(other, LIMITS)
        await room.until(lambda: other.called == ["0"])
        assert first.worker.health().ready, "it knows of nothing"
        await room.until(lambda: deaf.refused == ["0"])
        first.transport.members[0].reconnect()
        room.send([told(1)])
        await room.until(lambda: room.numbers() == [0, 1])
        assert deaf.called == []

    simulated(test)


def test_a_batch_that_outlasts_the_grace_time_makes_no_call_for_the_partition_that_went() -> None:
    """Rule 14 and 15: the lease holds, for the partition that stayed; the next owner was told that a call may be under way."""

    async def test(room: Room) -> None:
        slow, other = Caller(room, 100.0), Caller(room, 0.0)
        await room.enter(slow, LIMITS)
        room.send([told(0, partition=0), told(1, partition=1)])
        await room.until(lambda: sorted(slow.begun) == ["0", "1"])
        holds: list[int] = []

        async def step(batch: Batch) -> list[Outcome]:
            holds.extend(message.hold_creates_until_ms - message.held_since_ms for message in batch.messages)
            return await other(batch)

        await room.enter(step, LIMITS)
        await room.until(lambda: len(other.called) == 1)
        assert holds == [int(LIMITS.takeover_seconds * 1000)]
        await room.until(lambda: sorted(slow.refused) == ["0", "1"])
        slow.seconds = 0.0
        await room.until(lambda: len(room.numbers()) == 2)
        assert sorted(room.numbers()) == [0, 1]
        assert slow.called + other.called in (["0", "1"], ["1", "0"])

    simulated(test, partitions=2)


def test_creates_are_held_until_the_calls_of_whoever_died_must_have_ended_however_many_take_over_meanwhile() -> None:
    """Rule 14: whoever takes over from a death and goes again in good order can vouch for its own calls only."""

    async def test(room: Room) -> None:
        held: list[float] = []

        def decide(message: Message) -> Outcome:
            held.append(message.hold_creates_until_ms - room.clock() * 1000 if message.hold_creates_until_ms else 0)
            return Retry(1.0, DOWN, free=True)

        dies = await room.enter(each(decide), LIMITS)
        room.send([told(0)])
        await room.until(lambda: len(held) > 0)
        await room.pass_by(2)
        dies.transport.members[0].cut_off()
        dies.task.cancel()
        await asyncio.wait([dies.task])
        for _ in range(2):
            held.clear()
            next_owner = await room.enter(each(decide), LIMITS)
            await room.until(lambda: len(held) > 0)
            assert held[0] > 0
            await room.pass_by(2)
            await next_owner.stop()
        held.clear()
        last = await room.enter(each(decide), LIMITS)
        await room.until(lambda: held[-1] < 0 if held else False)
        await last.stop()
        held.clear()
        await room.enter(each(decide), LIMITS)
        await room.until(lambda: held == [0])

    simulated(test)


# -- what a step may raise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [TimeoutError("a socket"), asyncio.CancelledError(), ValueError("odd")])
def test_whatever_a_step_raises_is_the_fault_of_whose_message_it_is(error: BaseException) -> None:
    """Rule 20: its mates are worked on; it has its tries, and is refused with what was raised."""

    async def test(room: Room) -> None:
        async def step(batch: Batch) -> list[Outcome]:
            await room.pass_by(0.1)
            if any(message.id == "0" for message in batch.messages):
                raise error
            return [passed_on(message) for message in batch.messages]

        await room.enter(step, LIMITS)
        room.send([told(n) for n in range(300)])
        await room.until(lambda: len(room.letters()) == 1)
        assert sorted(room.numbers()) == list(range(1, 300))
        assert [(letter.offset, letter.causes[0].code) for letter in room.letters()] == [(0, "unexpected_error")]
        assert type(error).__name__ in room.letters()[0].causes[0].message

    simulated(test)


def test_a_lane_that_is_blocked_for_many_messages_is_emptied_once() -> None:
    """Promise 4: else an org with full batches costs every other org as often as it has messages, times all that is held."""

    async def test(room: Room) -> None:
        running = await room.enter(each(lambda message: Block("org:acme", DOWN), 1.0), LIMITS)
        await room.pass_by(1)
        [partition] = running.worker._partitions.values()
        with mock.patch.object(partition.ledger, "covered_by", wraps=partition.ledger.covered_by) as covered_by:
            room.send([told(n) for n in range(2_000)])
            await room.until(lambda: "org:acme" in running.lanes())
        assert 0 < covered_by.call_count <= 4
        assert running.lanes()["org:acme"].waiting == 2_000

    simulated(test)


@pytest.mark.parametrize("outcome", [passed_on, lambda message: Reject((DOWN,))], ids=["passed on", "refused"])
@pytest.mark.parametrize(
    "changes",
    [{"session": None}, {"happened-at": None}, {"foreign": None}, {"received-at": b"9" * 400}, {"happened-at": b"-" + b"9" * 400}],
)
def test_headers_that_are_null_or_no_number_end_no_worker(changes: dict[str, bytes | None], outcome: Callable[[Message], Outcome]) -> None:
    """F11 and F29: other software may write anything; what can't be read is a dead letter, and what is foreign is nobody's concern."""

    async def test(room: Room) -> None:
        record = told(0)
        odd = msgspec.structs.replace(record, headers=tuple((dict(record.headers) | changes).items()))
        await room.enter(each(outcome), LIMITS)
        room.send([odd, told(1)])
        await room.until(lambda: room.committed() == 2)
        letters = {letter.offset: letter.causes[0].code for letter in room.letters()}
        if "foreign" not in changes:
            assert letters[0] == "unreadable_record"
        elif outcome is passed_on:
            assert room.numbers() == [0, 1]

    simulated(test)


@pytest.mark.parametrize("asked", [0.0, 1.0, 30.0])
def test_tries_come_ever_more_seldom(asked: float) -> None:
    """Up to a minute apart, or what was asked for; what is not counted has no end, and must not spin either."""

    async def test(room: Room) -> None:
        tries: list[float] = []

        def decide(message: Message) -> Outcome:
            tries.append(room.now)
            return Retry(asked, DOWN, free=True)

        await room.enter(each(decide), LIMITS)
        room.send([told(0)])
        await room.until(lambda: len(tries) == 12, 3_600)
        waits = [after - before for before, after in itertools.pairwise(tries)]
        assert asked <= waits[0] <= asked + 1.5
        assert all(25 <= wait <= 62 for wait in waits[-3:])

    simulated(test)


def test_a_step_that_raises_is_tried_six_times_within_a_minute() -> None:
    """Rule 20: its order key stands still meanwhile."""

    async def test(room: Room) -> None:
        tries: list[float] = []

        async def step(batch: Batch) -> list[Outcome]:
            tries.append(room.now)
            raise ValueError("odd")

        await room.enter(step, LIMITS)
        room.send([told(0)])
        await room.until(lambda: len(room.letters()) == 1)
        assert len(tries) == LIMITS.tries
        assert 12 < tries[-1] - tries[0] < 40

    simulated(test)


# -- outputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("landed", [False, True])
def test_an_output_that_fails_is_produced_again_from_memory_in_order_and_the_step_is_not_run_again(landed: bool) -> None:
    """Rule 16; where it landed and only the answer was lost, the whole run is there again. Nothing is committed before."""

    async def test(room: Room) -> None:
        runs: Counter[str] = Counter()

        def decide(message: Message) -> Outcome:
            runs[message.id] += 1
            return passed_on(message)

        await room.enter(each(decide), LIMITS)
        room.broker.faults.fail("send", WriteError("injected"), topic="out", times=3, landed=landed)
        room.send([told(n, key="k@acme") for n in range(20)])
        await room.until(lambda: len(set(room.numbers())) == 20 and room.committed() == 20)
        assert set(runs.values()) == {1}
        firsts = list(dict.fromkeys(room.numbers()))
        assert firsts == list(range(20))
        assert len(room.numbers()) == (20 if not landed else 23)

    simulated(test)


def test_an_output_too_large_for_its_topic_is_a_dead_letter_and_its_mates_go_on() -> None:
    """Rule 16: the untouched message, whose topic takes larger records."""

    async def test(room: Room) -> None:
        def decide(message: Message) -> Outcome:
            return Emit((Out("out", b" " * 2_000 + message.value),)) if message.id == "7" else passed_on(message)

        await room.enter(each(decide), LIMITS)
        room.send([told(n) for n in range(20)])
        await room.until(lambda: room.committed() == 20)
        assert list(dict.fromkeys(room.numbers())) == [n for n in range(20) if n != 7]
        [letter] = room.letters()
        assert (letter.offset, letter.message, letter.causes[0].code) == (7, b"7", "record_too_large")
        assert "max.message.bytes" in letter.causes[0].hint

    simulated(test)


# -- probes and the sweep -----------------------------------------------------------------------------------


def test_a_blocked_org_is_probed_by_one_batch_at_least_once_a_minute_however_many_partitions_it_has() -> None:
    """Rule 13: half an hour of it, in eight partitions."""

    async def test(room: Room) -> None:
        probes: list[tuple[float, int]] = []

        async def step(batch: Batch) -> list[Outcome]:
            probes.append((room.now, len(batch.messages)))
            return [Block("org:acme", DOWN)] * len(batch.messages)

        await room.enter(step, LIMITS)
        room.send([told(n, partition=n % 8) for n in range(4_000)])
        await room.pass_by(1_800)
        settled = [(at, size) for at, size in probes if at > 300]
        gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(settled)]
        assert max(gaps) <= 61
        per_probe: Counter[int] = Counter()
        for at, size in settled:
            per_probe[int(at // 15)] += size
        assert max(per_probe.values()) <= LIMITS.probing.messages, "one batch, over all partitions"
        assert len(settled) <= 1_500 / 25

    simulated(test, partitions=8)


def test_for_one_lane_no_range_is_read_again_and_again() -> None:
    """Rule 11: once the org is mended the sweep reads each offset once; while it is down a probe reads a fetch or two."""

    async def test(room: Room) -> None:
        down = {"acme"}
        probes = 0

        async def step(batch: Batch) -> list[Outcome]:
            nonlocal probes
            if batch.org in down:
                probes += 1
                return [Block("org:acme", DOWN)] * len(batch.messages)
            return [passed_on(message) for message in batch.messages]

        running = await room.enter(step, LIMITS)
        room.send([told(n, org=("acme", "bolt")[n % 2], key=f"{n % 100}@x") for n in range(20_000)])
        await room.until(lambda: len(room.numbers()) == 10_000)
        read = running.transport.read
        await room.pass_by(1_800)
        assert 25 < probes < 100
        assert len(read) <= 2 * probes * 2_000
        del read[:]
        down.clear()
        await room.until(lambda: len(room.numbers()) == 20_000 and room.committed() == 20_000)
        counted = Counter(read)
        assert max(counted.values()) <= 2, counted.most_common(3)
        assert len(read) <= 20_000 + 2 * 2_000, "the whole range once, and the ends of two fetches"

    simulated(test)


def test_where_every_org_holds_equally_much_none_lags_for_being_busy() -> None:
    """Also after a pause of all: reading waits for what flows, and nothing is read twice."""

    async def test(room: Room) -> None:
        async def step(batch: Batch) -> list[Outcome]:
            await asyncio.sleep(max(0.05, 2.0 - room.now))
            return [passed_on(message) for message in batch.messages]

        running = await room.enter(step, LIMITS)
        room.send([told(n, org=f"org-{n % 20}") for n in range(30_000)])
        await room.until(lambda: len(room.numbers()) == 30_000)
        assert running.transport.read == []

    simulated(test)


def test_the_sweep_takes_a_fifth_of_the_time_beside_live_reading_and_all_of_it_alone() -> None:
    """Rule 13: each of its fetches takes a second here, and what is live comes twenty times a second."""

    async def test(room: Room) -> None:
        gate = Gate()
        gate.paused.add("org:acme/workspace:one")
        running = await room.enter(each(passed_on), LIMITS, gate=gate)
        room.send([told(n, workspace="one") for n in range(30_000)])
        await room.until(lambda: room.committed() == 30_000)
        transport = running.transport
        transport.fetch_seconds = 1.0
        gate.paused.clear()
        await room.until(lambda: transport.fetches > 0)
        begun = transport.fetches
        for n in range(30_000, 30_600):
            room.send([told(n, workspace="two")])
            await room.pass_by(0.05)
        assert 5 <= transport.fetches - begun <= 7, "of 30 seconds"
        begun = transport.fetches
        await room.pass_by(5)
        assert 4 <= transport.fetches - begun <= 5, "of 5 seconds"
        await room.until(lambda: len(room.numbers()) == 30_600)

    simulated(test)


def test_live_reading_pauses_while_the_sweep_makes_up_the_last_of_a_lane_which_is_merged_once_and_in_order() -> None:
    """Rule 12: each fetch of the sweep takes a second here, and the log is never quiet for so long: it would always be behind."""

    async def test(room: Room) -> None:
        gate = Gate()
        gate.paused.add("org:acme/workspace:one")
        running = await room.enter(each(passed_on), LIMITS, gate=gate)
        room.send([told(n, workspace="one", key=f"k{n % 50}@acme") for n in range(3_000)])
        await room.until(lambda: room.committed() == 3_000)
        running.transport.fetch_seconds = 1.0
        gate.paused.clear()
        partition = running.worker._partitions[0]
        handed_over: list[set[int]] = []
        """For each hand-over, where the main cursor was meanwhile."""
        before = False
        for n in range(3_000, 3_600):
            room.send([told(n, workspace=("one", "two")[n % 2], key=f"k{n % 50}@acme")])
            await room.pass_by(0.05)
            if partition.hand_over:
                handed_over += [] if before else [set()]
                handed_over[-1].add(partition.ledger.main)
            before = partition.hand_over
        [places] = handed_over
        assert len(places) == 1, "live reading paused"
        assert len(room.numbers()) > 3_500, "and went on"
        await room.until(lambda: room.committed() == 3_600 and not running.lanes())
        assert Counter(room.numbers()) == Counter(range(3_600)), "each once"
        for key in range(0, 50, 2):
            numbers = [number for number in room.numbers() if number % 50 == key]
            assert numbers == sorted(numbers), "in order: these are of the lane alone"

    simulated(test)


@pytest.mark.parametrize("silently", [True, False])
def test_tables_that_are_not_read_any_more_turn_readiness_bad_and_then_end_the_process(silently: bool) -> None:
    """Whoever waits for a row would wait for ever: the row is there, and nobody reads it."""

    async def test(room: Room) -> None:
        running = await room.enter(each(lambda message: Wait("rows", "r", None, ABSENT)), LIMITS)
        room.send([told(0)])
        if silently:
            running.transport.deaf_tables = True
        else:
            room.broker.faults.fail("fetch", topic="rows", times=1_000_000)
        await room.pass_by(1)
        room.send([Outgoing("rows", b"r", b"{}")])
        await room.pass_by(150)
        assert "reading the table " in running.worker.health().reason
        assert running.tables.trouble() is not None
        await room.pass_by(120)
        assert isinstance(ended(running), Stuck)
        assert "this process ends, to be started again" in str(ended(running))

    simulated(test)


def test_reading_that_waits_for_room_is_not_taken_for_stalled() -> None:
    """Batches take far longer than the bound; what does not fit into memory meanwhile is unread on purpose."""

    async def test(room: Room) -> None:
        limits = Limits(total_messages=20, fetch_messages=10, stuck_seconds=30.0)
        running = await room.enter(each(passed_on, 140.0), limits)
        room.send([told(n, org=f"o{n}", kind="company", key=f"company:{n}") for n in range(60)])
        await room.until(lambda: running.task.done() or len(room.numbers()) == 60, 3_000)
        assert not running.task.done(), "the worker has ended itself"

    simulated(test)


# -- what the log no longer has ------------------------------------------------------------------------------


def test_the_retention_guard_warns_at_half_and_rescues_at_four_fifths() -> None:
    """Rule 10: the gauge tells the age of the oldest cursor over the retention."""

    async def test(room: Room) -> None:
        seen: list[float] = []
        limits = Limits(retention_seconds=2_000.0)
        running = await room.enter(each(lambda message: Block("org:acme", DOWN)), limits)
        running.heard.retention = lambda stage, used: seen.append(used)  # type: ignore[method-assign]
        states: set[str] = set()
        running.heard.lanes = lambda stage, counts: states.update(state for state, _ in counts)  # type: ignore[method-assign]
        room.send([told(n) for n in range(10)])
        with capture_logs() as lines:
            await room.pass_by(980)
            assert not [line for line in lines if "waited" in line["event"]]
            await room.pass_by(40)
            [warned] = [line for line in lines if "half of what the log keeps" in line["event"]]
            assert (warned["lane"], warned["log_level"]) == ("org:acme", "warning")
            assert room.letters() == []
            await room.pass_by(560)
            assert room.letters() == []
            assert 0.78 < seen[-1] < 0.8
            await room.until(lambda: len(room.letters()) == 10)
        assert [letter.offset for letter in room.letters()] == list(range(10))
        assert {letter.causes[0].code for letter in room.letters()} == {"retention_guard"}
        await room.until(lambda: seen[-1] == 0)
        assert states == {"blocked"}, "also while it is rescued"

    simulated(test)


def test_the_retention_guard_warns_of_and_rescues_what_waits_in_memory_too() -> None:
    """Rule 10, for one that waits for a row."""

    async def test(room: Room) -> None:
        limits = Limits(retention_seconds=2_000.0)
        await room.enter(each(lambda message: Wait("rows", "row", None, ABSENT, longest_seconds=10_000.0)), limits)
        room.send([told(1)])
        with capture_logs() as lines:
            await room.pass_by(980)
            assert not [line for line in lines if "half of what the log keeps" in line["event"]]
            await room.pass_by(40)
            [warned] = [line for line in lines if "half of what the log keeps" in line["event"]]
            assert (warned["lane"].startswith("org:acme/"), warned["cause"]) == (True, "no_row: It is not there.")
            await room.pass_by(560)
            assert room.letters() == []
            await room.until(lambda: len(room.letters()) == 1)
        assert room.letters()[0].causes[0].code == "retention_guard"

    simulated(test)


def test_the_retention_guard_warns_again_in_the_next_outage() -> None:
    """Rule 10."""

    async def test(room: Room) -> None:
        down = True
        running = await room.enter(
            each(lambda message: Block("org:acme", DOWN) if down else passed_on(message)), Limits(retention_seconds=5_000.0)
        )
        for outage in (1, 2):
            with capture_logs() as lines:
                down = True
                room.send([told(outage)])
                await room.pass_by(3_000)
                assert len([line for line in lines if "half of what the log keeps" in line["event"]]) == 1, outage
            down = False
            await room.until(lambda: not running.lanes())
            await room.pass_by(100)

    simulated(test)


def test_who_is_tried_again_and_again_holds_back_nobodys_commit_and_ends_with_the_retention_guard() -> None:
    """Rules 3 and 10: a free retry has no last try, so it must not be what the log loses, nor what a restart repeats all for."""

    async def test(room: Room) -> None:
        limits = Limits(retention_seconds=2_000.0)
        await room.enter(each(lambda message: Retry(20.0, DOWN, free=True) if message.id == "0" else passed_on(message)), limits)
        room.send([told(n, org=f"org-{n}") for n in range(10)])
        await room.until(lambda: room.committed() == 10, 60)
        await room.pass_by(1_400)
        assert room.letters() == []
        await room.until(lambda: [letter.offset for letter in room.letters()] == [0], 300)
        assert room.letters()[0].causes[0].code == "retention_guard"

    simulated(test)


def test_an_old_backlog_is_worked_on_though_one_of_it_is_tried_again() -> None:
    """Rule 10: whoever rests between two tries waits for nobody's mend, however old the message is."""

    async def test(room: Room) -> None:
        room.send([told(n) for n in range(10)])
        await room.pass_by(1_700)
        tried: set[str] = set()

        def decide(message: Message) -> Outcome:
            if message.id == "0" and "0" not in tried:
                tried.add("0")
                return Retry(5.0, DOWN, free=True)
            return passed_on(message)

        await room.enter(each(decide), Limits(retention_seconds=2_000.0))
        await room.until(lambda: sorted(room.numbers()) == list(range(10)), 60)
        assert room.letters() == []

    simulated(test)


def test_what_comes_while_a_lane_is_rescued_has_its_own_time_to_wait() -> None:
    """Rule 10: the lane's messages go to the dead letters, those that came before it was rescued."""

    async def test(room: Room) -> None:
        down = True
        await room.enter(each(lambda message: Block("org:acme", DOWN) if down else passed_on(message)), Limits(retention_seconds=2_000.0))
        room.send([told(n) for n in range(5)])
        await room.pass_by(1_550)
        sent = 5
        while not room.letters():
            room.send([told(sent)])
            sent += 1
            await room.pass_by(1)
        rescued = len(room.letters())
        for _ in range(20):
            room.send([told(sent)])
            sent += 1
            await room.pass_by(1)
        assert len(room.letters()) == rescued, "all at once, and nothing after"
        assert [letter.offset for letter in room.letters()] == list(range(rescued))
        down = False
        await room.until(lambda: sorted(room.numbers()) == list(range(rescued, sent)))

    simulated(test)


def test_the_guard_says_once_that_a_lane_has_waited_for_half_also_while_it_is_rescued() -> None:
    async def test(room: Room) -> None:
        running = await room.enter(each(lambda message: Block("org:acme", DOWN)), Limits(retention_seconds=2_000.0))
        running.transport.fetch_seconds = 4.0
        room.send([told(n) for n in range(5)])
        with capture_logs() as lines:
            await room.until(lambda: len(room.letters()) == 5, 2_000)
        assert len([line for line in lines if "half of what the log keeps" in line["event"]]) == 1

    simulated(test)


def test_a_lost_range_is_told_with_its_lane_its_ends_and_its_time() -> None:
    """Rule 9: the log's start moved past a lane's cursor."""

    async def test(room: Room) -> None:
        down = {"acme"}

        def decide(message: Message) -> Outcome:
            return Block("org:acme", DOWN) if message.org in down else passed_on(message)

        await room.enter(each(decide), LIMITS)
        room.send([told(n, org=("acme", "bolt")[n % 2]) for n in range(40)])
        await room.until(lambda: len(room.numbers()) == 20)
        room.broker.delete_records("in", 0, 30)
        with capture_logs() as lines:
            down.clear()
            await room.until(lambda: room.committed() == 40 and len(room.numbers()) == 25)
        [line] = [line for line in lines if line["event"].startswith("messages were deleted")]
        assert (line["lane"], line["partition"], line["lost_from"], line["lost_to"]) == ("org:acme", 0, 0, 30)
        assert line["oldest_at_ms"] > 0
        await room.pass_by(5)
        document = await lag.lag(MemoryTransport(room.broker), {STAGE: "in"})
        assert document["unfinished"] == 0
        [lost] = document["lanes"]
        assert (lost["lane"], lost["state"], lost["waiting"]) == ("org:acme", "blocked", 0)
        assert lost["cause"].startswith("offsets_below_log: messages 0 to 29 were deleted")
        assert lost["oldest_at"] is not None

    simulated(test)


def test_one_key_that_always_fails_takes_no_place_from_the_others_though_most_are_behind_it() -> None:
    """Rule 3: 2,000 of 3,000 messages are of one person whose first one rests and rests; the others of its org, and of the next, are worked on."""

    async def test(room: Room) -> None:
        def decide(message: Message) -> Outcome:
            return Retry(30.0, DOWN, free=True) if message.key == "stuck@acme" else passed_on(message)

        limits = Limits(resting_messages=50, org_resting_messages=20, org_messages=100, total_messages=400, batch_messages=50)
        running = await room.enter(each(decide, 0.1), limits)
        most = 0
        for first in range(0, 3_000, 500):
            numbers = range(first, first + 500)
            room.send([told(n, org="bolt" if n % 6 == 5 else "acme", key="stuck@acme" if n % 3 < 2 else "") for n in numbers])
            await room.until(lambda first=first: len(room.numbers()) == (first + 500) // 3)  # type: ignore[misc]
            most = max(most, running.worker._dispatcher.held)
        assert most <= limits.resting_messages + 2 * limits.org_messages
        assert all(number % 3 == 2 for number in room.numbers())

    simulated(test)


def test_with_memory_full_nothing_more_is_read() -> None:
    """Of what is never passed over, 4,000 messages come for orgs that hang; reading goes on when there is room, and all are done."""

    async def test(room: Room) -> None:
        async def step(batch: Batch) -> list[Outcome]:
            await room.pass_by(max(0.0, 60.0 - room.now))
            return [passed_on(message) for message in batch.messages]

        limits = Limits(total_messages=400, fetch_messages=50, batch_messages=10)
        running = await room.enter(step, limits)
        room.send([told(n, org=f"o{n % 40}", kind="company", key=f"company:{n}") for n in range(4_000)])
        await room.pass_by(50)
        assert limits.total_messages <= running.worker._dispatcher.held <= limits.total_messages + limits.fetch_messages
        await room.until(lambda: len(room.numbers()) == 4_000)

    simulated(test)
