"""What the table `lanes` tells of messages that rest in memory: enough to say of one whether it is tried again, or waits."""

import asyncio

import msgspec
import pytest
from structlog.testing import capture_logs

from pipeline.messages import Message
from pipeline.outcomes import Block, Outcome, Retry, Wait
from pipeline.records import Outgoing
from pipeline.stage import Closed, Limits
from pipeline.tables import Tables
from schemas.messages import Cause
from schemas.tables import GroupRow, LaneRow, ReplayRow
from tests.engine.place import STAGE, told
from tests.engine.seam import Seam
from tests.simulation.room import Room, each, passed_on, simulated

BUSY = Cause(code="row_locked", message="Somebody else holds it.")
ABSENT = Cause(code="no_row", message="It is not there yet.")


def test_a_lane_tells_when_its_message_is_tried_again_and_none_where_it_waits_for_a_row() -> None:
    async def test(room: Room) -> None:
        def decide(message: Message) -> Outcome:
            if message.workspace == "retrying":
                return Retry(60, BUSY, free=True)
            return Wait("rows", "row", None, ABSENT)

        running = await room.enter(each(decide), Limits())
        room.send([told(0, workspace="retrying"), told(1, workspace="waiting")])
        await room.until(lambda: len(running.lanes()) == 2)
        rows = {row.cause.partition(":")[0]: row for row in running.lanes().values()}
        assert rows["no_row"].next_try_at == 0
        due = rows["row_locked"].next_try_at / 1000
        assert room.clock() < due <= room.clock() + 60
        await room.until(lambda: any(row.next_try_at / 1000 > due for row in running.lanes().values()))

    simulated(test)


class Shut:
    """A gate that nothing passes."""

    def closed(self, message: Message) -> Closed:
        return Closed("org:acme", "paused", BUSY)

    def lane_closed(self, lane: str) -> bool:
        return True


def test_a_lane_that_an_owner_before_has_left_is_told_in_the_words_of_all_lanes() -> None:
    """Metrics and the table `lanes` know the same states."""

    async def test(room: Room) -> None:
        first = await room.enter(each(passed_on), Limits(), gate=Shut())
        room.send([told(n) for n in range(3)])
        await room.until(lambda: first.heard.blocked == {("paused", BUSY.code): 1})
        await first.stop()
        seam = Seam()
        seam.deaf_sweep = True  # else it soon finds out what they wait for
        second = await room.enter(each(passed_on), Limits(), gate=Shut(), around=seam.around)
        await room.until(lambda: bool(second.heard.blocked))
        assert second.heard.blocked == {("waiting", ""): 1}

    simulated(test)


def test_a_lane_that_rests_for_long_tells_what_its_first_message_waits_for_now() -> None:
    """First for a row, then for another one; a wait that is told once and never again would send an admin the wrong way."""

    async def test(room: Room) -> None:
        tables: list[Tables] = []

        def decide(message: Message) -> Outcome:
            seen = tables[0]["rows"].get("row") if tables else None
            return Wait("rows", "row", seen, ABSENT if seen is None else Cause(code="refused", message=seen.decode()))

        running = await room.enter(each(decide), Limits())
        tables.append(running.tables)
        room.send([told(0), *(told(n, org="bolt") for n in range(1, 5))])
        await room.until(lambda: any(row.cause.startswith(ABSENT.code) and not row.held for row in running.lanes().values()))
        room.broker.append(Outgoing("rows", b"row", b"No."), 0)
        await room.until(lambda: {row.cause for row in running.lanes().values()} == {"refused: No."})

    simulated(test)


@pytest.mark.parametrize("people", [1, 40])
def test_who_takes_over_repeats_nothing_for_a_few_who_wait_and_for_many_what_came_after_in_their_org_alone(people: int) -> None:
    """A person's messages of several workspaces are repeated together: a later one that is not would be overwritten by an earlier one."""

    async def test(room: Room) -> None:
        ran: list[str] = []

        def decide(message: Message) -> Outcome:
            ran.append(message.id)
            return Wait("rows", "row", None, ABSENT) if message.workspace == "waiting" else passed_on(message)

        first = await room.enter(each(decide), Limits())
        waiting = {str(n) for n in range(people)}
        finished = {str(n) for n in range(people, 2 * people)}
        room.send([told(n, workspace="waiting", key=f"k{n}@acme") for n in range(people)])
        room.send([told(people + n, workspace="other", key=f"k{n}@acme") for n in range(people)])
        room.send([told(n, org="bolt") for n in range(2 * people, 2 * people + 7)])
        await room.until(lambda: room.committed() == 2 * people + 7)
        again = waiting if people == 1 else waiting | finished
        row = f"{STAGE}|0|group"
        await room.pass_by(20)
        assert msgspec.json.decode(first.tables["lanes"].get(row) or b"", type=GroupRow).repeats == len(again - waiting)
        first.task.cancel()
        await asyncio.wait([first.task])
        ran.clear()
        second = await room.enter(each(decide), Limits())
        await room.until(lambda: set(ran) == again)
        await room.until(lambda: sum(row.waiting for row in second.lanes().values() if not row.held) == people)
        assert set(ran) == again

    simulated(test)


def test_a_row_that_an_owner_before_still_had_on_its_way_is_taken_away() -> None:
    """A worker was stopped and woken: its row of a lane lands long after another has taken over. Nor does it stand for a lane that waits."""

    async def test(room: Room) -> None:
        running = await room.enter(each(lambda message: Block("org:acme", BUSY)), Limits())
        room.send([told(n) for n in range(3)])
        await room.pass_by(30)
        assert [(lane, row.waiting) for lane, row in running.lanes().items()] == [("org:acme", 3)]
        for org in ("acme", "ghost"):
            row = LaneRow(lane=f"org:{org}", state="blocked", since=1, oldest_at=1, waiting=1000, cause="of before")
            room.send([Outgoing("lanes", f"{STAGE}|0|org:{org}".encode(), msgspec.json.encode(row))])
        await room.pass_by(70)
        assert [(lane, row.waiting) for lane, row in running.lanes().items()] == [("org:acme", 3)]
        await running.stop()

    simulated(test)


@pytest.mark.parametrize("first", [0, 3, 20])
def test_a_replay_of_what_the_log_has_no_longer_ends_and_says_so(first: int) -> None:
    """The topic was made anew, and is shorter than the range: a part of it is there, or nothing."""

    async def test(room: Room) -> None:
        room.send([told(n) for n in range(5)])
        wanted = ReplayRow(id="again", stage=STAGE, at=1, ranges={"0": (first, 100)})
        room.send([Outgoing("controls", b"again", msgspec.json.encode(wanted))])
        with capture_logs() as logs:
            running = await room.enter(each(passed_on), Limits())
            await room.until(lambda: any(row.state == "done" for row in running.lanes().values()), 30)
        assert len([line for line in logs if line["event"] == "a part of a replay is no longer in the log"]) == 1
        (row,) = running.lanes().values()
        assert row.waiting == 0
        assert row.cause == f"replay: again; it ended at {max(first, 5)}: the log was made anew and ends at 5, before 100"
        assert sorted(room.numbers()) == sorted([*range(5), *range(first, 5)])
        await running.stop()

    simulated(test)
