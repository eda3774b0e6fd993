"""Lanes from within: closed by hand, many at once, taken over, probed, counted."""

import asyncio
import dataclasses
from collections import Counter

import msgspec
import pytest

from pipeline.messages import Message
from pipeline.outcomes import Batch, Block, Drop, Out, Outcome, Retry, Row, Wait
from pipeline.records import Outgoing
from pipeline.stage import Closed, Limits
from schemas.messages import Cause
from schemas.tables import ReplayRow
from tests.engine.place import STAGE, told
from tests.simulation.room import Room, Running, each, passed_on, simulated
from tests.simulation.test_budgets import numbered

DOWN = Cause(code="down", message="It is down.")
ABSENT = Cause(code="no_row", message="It is not there yet.")
PAUSED = Cause(code="paused", message="By hand.")


class Gate:
    """Closes workspaces by hand."""

    def __init__(self) -> None:
        self.paused: set[str] = set()

    def closed(self, message: Message) -> Closed | None:
        lane = f"org:{message.org}/workspace:{message.workspace}"
        return Closed(lane, "paused", PAUSED) if message.workspace in self.paused and message.kind != "company" else None

    def lane_closed(self, lane: str) -> bool:
        return lane.rpartition(":")[2] in self.paused


def alone(running: Running) -> int:
    """How many lanes of one person each lag."""
    return sum(ledger.alone.total() for ledger in running.worker._dispatcher.ledgers())


async def die(running: Running) -> None:
    running.transport.members[0].cut_off()
    running.task.cancel()
    await asyncio.wait([running.task])


# -- closed by hand -------------------------------------------------------------------------------------------


def test_a_workspace_that_is_paused_starts_nothing_of_what_is_held_already() -> None:
    """What rests, waits or is queued goes back; what was in flight is not tried again; its company and its neighbours go on."""

    async def test(room: Room) -> None:
        gate, ran = Gate(), Counter[str]()

        def decide(message: Message) -> Outcome:
            ran[message.workspace if message.kind == "registration" else "company"] += 1
            if message.workspace == "w" and not mended:
                number = int(message.id)
                return Wait("rows", "row", None, ABSENT) if number % 2 else Retry(1.0, DOWN, free=True)
            return passed_on(message)

        mended = False
        limits = Limits(batch_messages=10)
        running = await room.enter(each(decide, seconds=0.5), limits, gate=gate)
        room.send([told(n) for n in range(200)])
        await room.until(lambda: ran["w"] > 60)
        gate.paused.add("w")
        running.worker.nudge("org:acme/workspace:w")
        await room.pass_by(1)
        before = ran["w"]
        mended = True
        room.send([told(200, workspace="other"), told(201, kind="company", key="company:acme"), Outgoing("rows", b"row", b"there")])
        await room.until(lambda: {200, 201} <= set(room.numbers()))
        await room.pass_by(120)
        assert ran["w"] == before
        (row,) = (row for row in running.lanes().values() if row.state == "paused")
        assert (row.waiting, row.at_least) == (200, False)
        gate.paused.clear()
        running.worker.nudge("org:acme/workspace:w")
        await room.until(lambda: len(room.numbers()) == 202)
        assert sorted(room.numbers()) == list(range(202))

    simulated(test)


def test_how_many_wait_is_told_right_when_a_workspace_is_paused_while_its_org_catches_up() -> None:
    async def test(room: Room) -> None:
        gate, down = Gate(), True
        step = each(lambda message: Block("org:acme", DOWN) if down else passed_on(message), seconds=0.1)
        running = await room.enter(step, Limits(), gate=gate)
        room.send([told(n) for n in range(500)])
        await room.until(lambda: sum(row.waiting for row in running.lanes().values()) == 500)
        gate.paused.add("w")
        down = False
        running.worker.nudge("org:acme/workspace:w")
        await room.until(lambda: [row.state for row in running.lanes().values()] == ["paused"])
        await room.pass_by(10)
        assert [(row.waiting, row.at_least) for row in running.lanes().values()] == [(500 - len(room.numbers()), False)]

    simulated(test)


# -- many at once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_up_by", ["time", "row"])
def test_however_many_wait_each_for_itself_few_lanes_lag_and_all_is_done_in_order(held_up_by: str) -> None:
    """As after a death in an org without keys, or where a crowd's Account is made: thousands of people, two messages each."""
    people = 8_000

    async def test(room: Room) -> None:
        most = 0
        ends = 100.0

        def decide(message: Message) -> Outcome:
            nonlocal most
            most = max(most, alone(running))
            if message.kind == "company":
                return numbered(message, Row("rows", "account", b"made"))
            if message.org == "calm" or (held_up_by == "row" and running.tables["rows"].get("account") is not None):
                return passed_on(message)
            if held_up_by == "row":
                return Wait("rows", "account", None, ABSENT)
            return passed_on(message) if room.now > ends else Retry(ends - room.now, DOWN, free=True)

        limits = dataclasses.replace(Limits(), org_resting_messages=100, resting_messages=200, lagging_lanes=400)
        running = await room.enter(each(decide), limits)
        room.send([told(n, key=f"{n % people}@acme") for n in range(2 * people)])
        room.send([told(2 * people + n, org="calm") for n in range(20)])
        await room.until(lambda: len(room.numbers()) == 20, 60)
        # What is in flight when the bound is reached comes on top of it, once.
        assert most <= limits.lagging_lanes // 4 + limits.org_messages
        assert alone(running) <= limits.lagging_lanes // 4 + limits.org_messages
        if held_up_by == "row":
            room.send([told(2 * people + 20, kind="company", key="company:acme")])
        count = 2 * people + 20 + (held_up_by == "row")
        await room.until(lambda: len(room.numbers()) == count)
        assert sorted(room.numbers()) == list(range(count))
        place = {number: place for place, number in enumerate(room.numbers())}
        assert all(place[n] < place[n + people] for n in range(people))
        await room.until(lambda: alone(running) == 0)

    simulated(test)


def test_people_who_send_once_more_while_their_first_message_is_worked_on_hold_up_no_crowd() -> None:
    """Their lanes follow, and stand until the crowd has come past what they have taken: the crowd must not wait for them."""

    async def test(room: Room) -> None:
        def decide(message: Message) -> Outcome:
            return passed_on(message) if running.tables["rows"].get("account") is not None else Wait("rows", "account", None, ABSENT)

        limits = dataclasses.replace(Limits(), org_resting_messages=5, resting_messages=10, lagging_lanes=64)
        running = await room.enter(each(decide, seconds=2.0), limits)
        for n in range(60):
            room.send([told(n, key=f"{n}@acme")])
            await room.pass_by(3.0 if n < 24 else 0.2)
        await room.pass_by(30)
        assert alone(running) >= 16
        room.send([Outgoing("rows", b"account", b"made")])
        await room.pass_by(1)
        room.send([told(60 + n, key=f"{n}@acme") for n in range(60)])
        await room.until(lambda: len(room.numbers()) == 120)
        assert sorted(room.numbers()) == list(range(120))

    simulated(test)


def test_a_hundred_crowds_leave_room_for_an_org_that_sends_little() -> None:
    """None of them is let go on; each has as much in flight as it may."""

    async def test(room: Room) -> None:
        shut = asyncio.Event()

        async def step(batch: Batch) -> list[Outcome]:
            if batch.org != "calm":
                await shut.wait()
            return [passed_on(message) for message in batch.messages]

        running = await room.enter(step, Limits(step_seconds=3_600))
        room.send([told(n, org=f"crowd{n % 100}") for n in range(60_000)])
        await room.until(lambda: running.heard.not_read == 0, 60)
        for number in range(60_000, 60_010):
            room.send([told(number, org="calm")])
            await room.until(lambda number=number: number in room.numbers(), 5)  # type: ignore[misc]
        shut.set()
        await room.until(lambda: len(room.numbers()) == 60_010)

    simulated(test)


# -- probes ---------------------------------------------------------------------------------------------------


def test_what_ends_without_a_call_says_nothing_of_an_org_that_is_down() -> None:
    """Rule 13: the next probe goes at once, and is a probe: not all that waits."""

    async def test(room: Room) -> None:
        calls = Counter[str]()
        asked = 0

        def decide(message: Message) -> Outcome:
            nonlocal asked
            if int(message.id) < 100:
                return Drop("not for the org")
            asked += 1
            return Block("org:acme", DOWN)

        limits = Limits()
        running = await room.enter(each(decide), limits, answers=calls.__getitem__)
        room.send([told(1_000)])
        await room.until(lambda: asked == 1)
        room.send([told(n) for n in (*range(100), *range(100, 900))])
        await room.until(lambda: running.heard.outcomes["acme", "dropped"] == 100, 120)
        before = asked
        await room.pass_by(60)
        assert asked - before <= limits.probing.messages * 10, "it is probed, and no more"

    simulated(test)


def test_what_ends_without_a_call_beside_a_narrower_lane_that_is_blocked_says_nothing_either() -> None:
    async def test(room: Room) -> None:
        def decide(message: Message) -> Outcome:
            if message.id == "1":
                return Drop("not for the org")
            return Block("org:acme", DOWN) if room.now < 20 else Block(message.lanes[-1], DOWN, 50)

        running = await room.enter(each(decide, seconds=0.1), Limits(), answers=lambda org: 0)
        room.send([told(0)])
        for n in range(600):
            room.send([told(1, key=f"{n}@acme")])
            await room.pass_by(0.1)
        assert running.worker._dispatcher.board.in_doubt("org:acme")

    simulated(test)


def test_whoever_takes_over_probes_an_org_that_was_down_and_does_not_begin_with_all() -> None:
    async def test(room: Room) -> None:
        asked = 0

        def decide(message: Message) -> Outcome:
            nonlocal asked
            asked += 1
            return Block("org:acme", DOWN)

        first = await room.enter(each(decide), Limits())
        room.send([told(n) for n in range(2_000)])
        await room.until(lambda: any(row.next_try_at for row in first.lanes().values()))
        await room.pass_by(30)
        await first.stop()
        asked = 0
        second = await room.enter(each(decide), Limits())
        await room.until(lambda: asked > 0, 120)
        await room.pass_by(2)
        assert asked <= 2 * Limits().probing.messages
        assert sum(row.waiting for row in second.lanes().values()) == 2_000

    simulated(test)


# -- waits that ask -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 50])
def test_what_is_asked_in_vain_is_asked_again_once_for_all_and_at_once_when_settings_change(count: int) -> None:
    async def test(room: Room) -> None:
        def decide(message: Message) -> Outcome:
            if message.kind == "company":
                return passed_on(message)
            outs = (Out("dead-letters", message.value),)
            return Wait("rows", "row", None, ABSENT, outs, again_seconds=100)

        def questions() -> int:
            return len(room.broker.records("dead-letters"))

        running = await room.enter(each(decide), Limits())
        room.send([told(n) for n in range(count)])
        await room.pass_by(90)
        assert questions() == 1
        await room.pass_by(100)
        assert questions() == 2
        running.worker.nudge("org:acme/workspace:w")
        await room.pass_by(5)
        assert questions() == 3

    simulated(test)


def test_beyond_the_budget_one_question_is_enough_too() -> None:
    async def test(room: Room) -> None:
        def decide(message: Message) -> Outcome:
            if int(message.id) < 10:
                return Wait("rows", "other", None, ABSENT)
            return Wait("rows", "row", None, ABSENT, (Out("dead-letters", message.value),), again_seconds=300)

        await room.enter(each(decide, seconds=0.5), dataclasses.replace(Limits(), org_resting_messages=10, resting_messages=20))
        room.send([told(n) for n in range(10)])
        await room.pass_by(5)
        room.send([told(n) for n in range(10, 1_500)])
        await room.pass_by(60)
        assert len(room.broker.records("dead-letters")) == 1
        await room.pass_by(300)
        assert len(room.broker.records("dead-letters")) == 2

    simulated(test)


# -- replays --------------------------------------------------------------------------------------------------


def test_a_replay_that_is_taken_over_from_a_death_holds_creates_like_live_reading() -> None:
    """Rule 14: the one that died may have had a create of the replay on the wire."""

    async def test(room: Room) -> None:
        held: dict[str, bool] = {}
        ends = False

        def decide(message: Message) -> Outcome:
            if message.replay is None:
                return passed_on(message)
            held[message.id] = message.hold_creates_until_ms > room.clock() * 1000
            return passed_on(message) if ends else Retry(1.0, DOWN, free=True)

        first = await room.enter(each(decide), Limits())
        room.send([told(n) for n in range(5)])
        await room.until(lambda: len(room.numbers()) == 5)
        row = ReplayRow(id="again", stage=STAGE, at=1, ranges={"0": (0, 5)})
        room.send([Outgoing("controls", b"again", msgspec.json.encode(row))])
        await room.until(lambda: len(held) == 5)
        await room.pass_by(3)
        await die(first)
        held.clear()
        await room.enter(each(decide), Limits())
        await room.until(lambda: len(held) == 5)
        assert set(held.values()) == {True}
        ends = True
        await room.until(lambda: len(room.numbers()) == 10)

    simulated(test)


# -- the retention --------------------------------------------------------------------------------------------


def test_live_reading_that_is_far_behind_counts_for_the_retention() -> None:
    """Rule 10: too few workers lose messages as surely as a lane that waits."""

    async def test(room: Room) -> None:
        seen: list[float] = []
        slow = each(passed_on, seconds=100.0)
        limits = Limits(retention_seconds=2_000.0, batch_messages=10, org_batches=1, org_messages=20, total_messages=40, fetch_messages=20)
        running = await room.enter(slow, dataclasses.replace(limits, stuck_seconds=10_000))
        running.heard.retention = lambda stage, used: seen.append(used)  # type: ignore[method-assign]
        room.send([told(n, org=f"o{n}") for n in range(200)])
        await room.until(lambda: bool(seen) and seen[-1] > 0.1)

    simulated(test)


def test_a_lane_that_no_message_can_have_is_changed_without_harm() -> None:
    """A row of the table `workspaces` that something else wrote, with ids such as settings never give."""

    async def test(room: Room) -> None:
        running = await room.enter(each(passed_on), Limits())
        running.worker.nudge("org:acme/workspace:a/b")
        room.send([told(0)])
        await room.until(lambda: room.numbers() == [0])

    simulated(test)
