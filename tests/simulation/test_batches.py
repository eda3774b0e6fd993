"""How large batches are, when they start, and which of them run side by side: in simulated time."""

import dataclasses
from collections import defaultdict
from unittest import mock

import msgspec
import pytest

from pipeline.messages import Message
from pipeline.outcomes import Batch, Outcome, Retry
from pipeline.records import Outgoing
from pipeline.stage import Limits, OpenGate
from schemas.messages import Cause
from stages import flow
from tests.engine.place import STAGE, told
from tests.simulation.room import Room, Running, passed_on, simulated

LIMITS = Limits()
LOCKED = Cause(code="row_locked", message="Somebody else holds it.")


class Work:
    """A step that takes its time."""

    def __init__(self, room: Room, seconds: float) -> None:
        self.seconds = seconds
        self.begun: list[float] = []
        self.sizes: list[int] = []
        self.ended: list[float] = []
        self.ids: list[str] = []
        """Of all messages, as their batches began."""
        self._room = room

    async def __call__(self, batch: Batch) -> list[Outcome]:
        self.begun.append(self._room.now)
        self.sizes.append(len(batch.messages))
        self.ids += [message.id for message in batch.messages]
        await self._room.pass_by(self.seconds)
        self.ended.append(self._room.now)
        return [passed_on(message) for message in batch.messages]


def of_session(number: int, session: str, partition: int = 0) -> Outgoing:
    record = told(number, partition=partition)
    return msgspec.structs.replace(record, headers=tuple((dict(record.headers) | {"session": session.encode()}).items()))


async def enter_last(room: Room, work: Work, *, batch_wait_ms: int | None = None) -> Running:
    """A worker of the flow's last stage, on the room's topics."""
    last = flow.stage("campaign-membership", work, OpenGate(), batch_wait_ms=batch_wait_ms)
    with mock.patch("tests.simulation.room.stage", return_value=dataclasses.replace(last, name=STAGE, reads="in")):
        return await room.enter(work, last.limits)


# -- how many messages --------------------------------------------------------------------------------------


def test_an_org_whose_batches_take_too_long_gets_smaller_ones_until_it_is_quick_again_and_no_other_org_does() -> None:
    """Halved after each slow one, down to one message; doubled after each quick one, up to what all have. Three orgs are slow at once."""

    async def test(room: Room) -> None:
        slow, quick = LIMITS.slow_seconds + 1, LIMITS.slow_seconds - 1
        heavy = ("one", "two", "three")
        seconds = dict.fromkeys(heavy, slow) | {"calm": quick}
        sizes: defaultdict[str, list[int]] = defaultdict(list)

        async def step(batch: Batch) -> list[Outcome]:
            sizes[batch.org].append(len(batch.messages))
            await room.pass_by(seconds[batch.org])
            return [passed_on(message) for message in batch.messages]

        await room.enter(step, Limits(batch_messages=64, org_batches=1))
        room.send([told(n, org=(*heavy, "calm")[n % 4]) for n in range(1_280)])
        await room.until(lambda: all(len(sizes[org]) == 9 for org in heavy))
        seconds.update(dict.fromkeys(heavy, quick))
        room.send([told(n, org="calm") for n in range(1_280, 1_600)])
        await room.until(lambda: len(room.numbers()) == 1_600)
        assert [sizes[org] for org in heavy] == [[64, 32, 16, 8, 4, 2, 1, 1, 1, 1, 2, 4, 8, 16, 32, 64, 64]] * 3
        assert sizes["calm"] == [64] * 10
        assert sorted(room.numbers()) == list(range(1_600))

    simulated(test)


def test_during_a_backlog_batches_fill_up_to_their_bound() -> None:
    """500 messages a second, and steps of 5 s: the first batch is what came at once, the second what came in the longest wait."""

    async def test(room: Room) -> None:
        work = Work(room, 5.0)
        await room.enter(work, LIMITS)
        for first in range(0, 6_000, 50):
            room.send([told(n) for n in range(first, first + 50)])
            await room.pass_by(0.1)
        await room.until(lambda: len(room.numbers()) == 6_000)
        first, second, *full, rest = work.sizes
        assert first == 50
        assert 450 <= second <= 550
        assert set(full) == {LIMITS.batch_messages}
        assert 0 < rest <= LIMITS.batch_messages
        assert sorted(room.numbers()) == list(range(6_000))

    simulated(test)


# -- side by side -------------------------------------------------------------------------------------------


def test_a_session_is_worked_on_by_one_batch_at_a_time_while_another_of_its_org_goes_beside_it() -> None:
    async def test(room: Room) -> None:
        work = Work(room, 20.0)
        await enter_last(room, work)
        room.send([of_session(0, "one", partition=0)])
        await room.until(lambda: work.ids == ["0"])
        room.send([of_session(1, "one", partition=1), of_session(2, "two", partition=1)])
        await room.until(lambda: work.ids == ["0", "2"])
        assert work.ended == [], "both are under way"
        await room.until(lambda: len(work.ids) == 3)
        assert (work.ids, work.begun[2]) == (["0", "2", "1"], work.ended[0])
        await room.until(lambda: sorted(room.numbers()) == [0, 1, 2])

    simulated(test, partitions=2)


def test_through_a_crowd_of_sessions_no_two_batches_share_one_and_nothing_is_lost() -> None:
    """Each session comes in all partitions, and some messages are tried again."""

    async def test(room: Room) -> None:
        under_way: list[frozenset[str]] = []
        beside: list[tuple[frozenset[str], frozenset[str]]] = []
        """The sessions of two batches that ran at once."""

        class Tracking(Work):
            async def __call__(self, batch: Batch) -> list[Outcome]:
                sessions = frozenset(message.session for message in batch.messages)
                beside.extend((sessions, others) for others in under_way)
                under_way.append(sessions)
                await super().__call__(batch)
                under_way.remove(sessions)
                return [decide(message) for message in batch.messages]

        def decide(message: Message) -> Outcome:
            return Retry(0.5, LOCKED) if int(message.id) % 7 == 0 and not message.tries else passed_on(message)

        await enter_last(room, Tracking(room, 2.0))
        for first in range(0, 2_000, 20):
            room.send([of_session(n, f"s{first // 20 % 5}", partition=n % 4) for n in range(first, first + 20)])
            await room.pass_by(0.3)
        await room.until(lambda: len(room.numbers()) == 2_000)
        assert sorted(room.numbers()) == list(range(2_000))
        assert len(beside) > 10
        assert not [pair for pair in beside if pair[0] & pair[1]]

    simulated(test, partitions=4)


# -- how long a batch is filled -----------------------------------------------------------------------------


def test_on_an_idle_stage_a_single_message_is_worked_on_after_a_short_wait() -> None:
    """Also after a crowd."""

    async def test(room: Room) -> None:
        work = Work(room, 0.5)
        await room.enter(work, LIMITS)
        sent: list[float] = []
        for numbers in (range(1), range(1, 2), range(2, 202), range(202, 203)):
            await room.pass_by(5)
            sent.append(room.now)
            room.send([told(n) for n in numbers])
        await room.until(lambda: len(room.numbers()) == 203)
        assert work.sizes == [1, 1, 200, 1]
        assert [begun - at for begun, at in zip(work.begun, sent, strict=True)] == pytest.approx([LIMITS.wait_first_seconds] * 4)

    simulated(test)


def test_a_batch_that_is_full_or_has_more_behind_it_than_it_holds_waits_for_nothing() -> None:
    async def test(room: Room) -> None:
        work = Work(room, 20.0)
        await room.enter(work, LIMITS)
        sent = room.now
        room.send([told(n) for n in range(LIMITS.batch_messages)])
        room.send([told(n, org="bolt", key=f"k{n % 10}@bolt") for n in range(LIMITS.batch_messages, LIMITS.batch_messages + 30)])
        await room.until(lambda: len(work.sizes) == 2)
        assert (work.sizes, work.begun) == ([LIMITS.batch_messages, 10], [sent, sent])
        sent = room.now
        room.send([told(n) for n in range(2_000, 2_000 + LIMITS.batch_messages)])
        await room.until(lambda: len(work.sizes) == 3)
        assert (work.sizes[2], work.begun[2]) == (LIMITS.batch_messages, sent), "also beside one that runs"

    simulated(test)


async def second_wait(room: Room, work: Work, people: int) -> float:
    """Two messages of each of so many people: how long the second ones wait once the batch of the first ones has ended."""
    room.send([told(n, key=f"k{n % people}@acme") for n in range(2 * people)])
    await room.until(lambda: len(room.numbers()) == 2 * people)
    assert work.sizes == [people, people]
    return work.begun[1] - work.ended[0]


@pytest.mark.parametrize(("people", "seconds"), [(1, 0.02), (10, 0.2), (40, 0.8), (50, 1.0), (400, 1.0)])
def test_a_batch_is_filled_the_longer_the_larger_the_one_before_it_was(people: int, seconds: float) -> None:
    async def test(room: Room) -> None:
        work = Work(room, 0.5)
        await room.enter(work, LIMITS)
        assert await second_wait(room, work, people) == pytest.approx(seconds)

    simulated(test)


@pytest.mark.parametrize("people", [1, 400])
@pytest.mark.parametrize("wait_ms", [0, 300, 2_500])
def test_with_a_fixed_wait_a_batch_is_filled_for_that_long_however_large_the_one_before_it_was(wait_ms: int, people: int) -> None:
    """The setting TURNOUT_BATCH_WAIT_MS."""

    async def test(room: Room) -> None:
        work = Work(room, 0.5)
        await enter_last(room, work, batch_wait_ms=wait_ms)
        assert await second_wait(room, work, people) == pytest.approx(wait_ms / 1000, abs=1e-6)

    simulated(test)


@pytest.mark.parametrize(("wait_ms", "seconds"), [(None, 1.0), (0, 0.001), (300, 0.3), (2_500, 2.5)])
def test_beside_a_batch_that_runs_the_next_one_is_filled_for_the_longest_time_or_the_fixed_one(wait_ms: int | None, seconds: float) -> None:
    async def test(room: Room) -> None:
        work = Work(room, 20.0)
        await enter_last(room, work, batch_wait_ms=wait_ms)
        room.send([of_session(0, "one")])
        await room.until(lambda: work.ids == ["0"])
        sent = room.now
        room.send([of_session(1, "two")])
        await room.until(lambda: work.ids == ["0", "1"])
        assert work.begun[1] - sent == pytest.approx(seconds)

    simulated(test)


@pytest.mark.parametrize("wait_ms", [0, 300, 2_500])
def test_with_a_fixed_wait_a_single_message_on_an_idle_stage_waits_for_that_long_too(wait_ms: int) -> None:
    async def test(room: Room) -> None:
        work = Work(room, 0.5)
        await enter_last(room, work, batch_wait_ms=wait_ms)
        await room.pass_by(5)
        sent = room.now
        room.send([told(0)])
        await room.until(lambda: room.numbers() == [0])
        assert work.begun[0] - sent == pytest.approx(wait_ms / 1000, abs=1e-6)

    simulated(test)
