"""Committed offsets and the cursors beside them: rules 5, 7, 8 and 9 of the engine, and F40, F42, F44, over a real broker."""

import dataclasses
import re
from typing import Any

import msgspec
import pytest

from pipeline import metadata
from pipeline.records import Commit
from pipeline.sweep import RETENTION
from schemas.tables import GroupRow, RecoveryRow
from stages import cursors, lag
from tests import brokers
from tests.engine.conftest import apache_only
from tests.engine.desk import MISSING, Desk
from tests.engine.place import FAST, STAGE, Place, told, until
from tests.engine.seam import Seam
from tests.kafka.apache import ApacheKafka


async def drained(place: Place, count: int) -> bool:
    commit = (await place.committed()).get(0)
    return commit is not None and commit.offset == count and not metadata.decode(commit.metadata).cursors


async def behind_a_lane_that_is_down(place: Place, desk: Desk) -> None:
    """20 messages: every other one of an org that is down; then the worker stops, and its cursor stands at message 1."""
    desk.down.add("down")
    await place.send(told(n, org=("up", "down")[n % 2], key=f"k@{('up', 'down')[n % 2]}") for n in range(20))
    running = await place.begin(desk)
    await place.out(10)
    await running.stop()
    commit = (await place.committed())[0]
    found = metadata.decode(commit.metadata)
    assert commit.offset == 20
    assert [cursor.offset for cursor in found.cursors.values()] == [1]


# -- metadata and folding -----------------------------------------------------------------------------


async def test_metadata_of_4096_characters_is_taken_and_one_more_is_refused(place: Place) -> None:
    """Kafka's limit, on which the engine's own of three quarters stands. The embedded broker has none."""
    async with place.worker(Desk()) as running:
        await place.send([told(0)])
        await until(lambda: drained(place, 1))
        await running.stop()
    await place.move_offset(1, metadata="m" * 4096)
    assert (await place.committed())[0] == Commit(1, "m" * 4096)
    if brokers.kind() == brokers.APACHE:
        with pytest.raises(Exception, match="OffsetMetadataTooLarge"):
            await place.move_offset(1, metadata="m" * 4097)
        assert (await place.committed())[0] == Commit(1, "m" * 4096)


async def test_more_lanes_than_fit_are_folded_and_a_restart_only_repeats_more(place: Place) -> None:
    """900 lanes of one person each, in 300 orgs of which none answers, beside one that does: the commit stays within its bound."""
    desk = Desk()
    desk.down |= {f"down{n}" for n in range(300)}
    up = list(range(900, 1000))
    await place.send([*(told(n, org=f"down{n % 300}", key=f"{n}@x") for n in range(900)), *(told(n, org="up", key=f"{n}@up") for n in up)])
    running = await place.begin(desk)
    await place.out(100)

    async def committed_all() -> bool:
        commit = (await place.committed()).get(0)
        return commit is not None and commit.offset == 1000

    await until(committed_all)
    commit = (await place.committed())[0]
    assert len(commit.metadata) <= metadata.LIMIT_CHARACTERS
    found = metadata.decode(commit.metadata)
    assert 0 < len(found.cursors) <= 256, "folded into buckets of orgs"
    await running.crash()
    desk.down.clear()
    async with place.worker(desk):
        await place.out(1000)
        await until(lambda: drained(place, 1000))
    assert sorted(set(place.numbers())) == list(range(1000))
    assert desk.side_by_side == []


# -- the log's start ----------------------------------------------------------------------------------


async def test_a_log_start_beyond_a_cursor_is_told_and_what_is_left_is_done(place: Place) -> None:
    """Rule 9: an offset below the log's start is an incident, not a jump."""
    desk = Desk()
    await behind_a_lane_that_is_down(place, desk)
    await place.delete_records(8)
    desk.down.clear()
    async with place.worker(desk) as running:
        await until(lambda: drained(place, 20))
        assert running.heard.incidents["offsets_below_log"] == 7
    assert sorted(set(place.numbers()) - set(range(0, 20, 2))) == [9, 11, 13, 15, 17, 19]


async def test_a_log_start_beyond_the_committed_offset_is_told(place: Place) -> None:
    async with place.worker(Desk()) as running:
        await place.send(told(n) for n in range(5))
        await until(lambda: drained(place, 5))
        await running.stop()
    await place.send(told(n) for n in range(5, 20))
    await place.delete_records(12)
    async with place.worker(Desk()) as running:
        await until(lambda: drained(place, 20))
        assert running.heard.incidents["offsets_below_log"] == 7
    assert sorted(set(place.numbers())) == [*range(5), *range(12, 20)]


async def test_a_group_that_is_new_to_a_log_that_does_not_begin_at_0_says_so(place: Place) -> None:
    await place.send(told(n) for n in range(10))
    await place.delete_records(4)
    async with place.worker(Desk()) as running:
        await until(lambda: drained(place, 10))
        assert running.heard.incidents == {"started_late": 1}
    assert place.numbers() == list(range(4, 10))


async def test_live_reading_that_falls_out_of_the_log_goes_on_at_its_start(place: Place) -> None:
    """The retention overtakes a worker that could not read for long."""
    desk = Desk()
    seam = Seam()
    async with place.worker(desk, around=seam.around) as running:
        await place.send(told(n) for n in range(5))
        await until(lambda: drained(place, 5))
        seam.deaf = True
        await place.send(told(n) for n in range(5, 20))
        await place.delete_records(15)
        seam.back(0, 5)
        await until(lambda: drained(place, 20))
        assert running.heard.incidents["offsets_below_log"] == 10
    assert sorted(set(place.numbers())) == [*range(5), *range(15, 20)]


# -- offsets moved by something else --------------------------------------------------------------------


async def reset(place: Place, how: str, offset: int) -> None:
    """Moves the group's offset from outside: by the stock tool, or as it does it."""
    if how == "tool":
        broker = ApacheKafka(place.directory / "tool", port=int(place.settings.bootstrap.rsplit(":", 1)[1]))
        broker.tool(
            "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--group", place.settings.group(STAGE),
            "--topic", f"{place.settings.topic('in')}:0", "--reset-offsets", "--to-offset", str(offset), "--execute",
        )  # fmt: skip
    else:
        await place.move_offset(offset)


RESETS = ["commit", pytest.param("tool", marks=apache_only)]


@pytest.mark.parametrize("how", RESETS)
async def test_offsets_moved_while_stopped_stop_the_partition_until_a_way_is_named(place: Place, how: str) -> None:
    """Rule 5: what the cursors stood for would be lost without a sound. `restore` loses nothing."""
    desk = Desk()
    await behind_a_lane_that_is_down(place, desk)
    await reset(place, how, 20)
    desk.down.clear()
    before = len(desk.runs)
    async with place.worker(desk) as running:
        await until(lambda: running.heard.incidents["foreign_commit"] == 1)
        await place.send([told(20, org="up")])
        health = running.worker.health()
        assert not health.ready
        assert re.search(r"partition 0 .*moved by something else.*assume-none.*restore", health.reason)
        assert len(desk.runs) == before, "nothing is worked on"
        writer = place.transport.writer()
        await writer.start()
        assert await cursors.say(place.transport, writer, STAGE, "in", "restore", ()) == [0]
        await writer.stop()
        await until(lambda: running.ready)
        await until(lambda: drained(place, 21))
        assert running.heard.incidents == {"foreign_commit": 1}
        await running.stop()
    assert set(place.numbers()) == set(range(21)), "also what had been passed over"
    async with place.worker(desk) as running:
        await until(lambda: running.ready)
        assert running.tables["lanes"].get(f"{STAGE}|0|recovery") is None, "the word counts once"


async def test_assume_none_goes_on_from_where_the_offsets_were_put(place: Place) -> None:
    desk = Desk()
    await behind_a_lane_that_is_down(place, desk)
    await place.move_offset(16)
    desk.down.clear()
    async with place.worker(desk) as running:
        await until(lambda: running.heard.incidents["foreign_commit"] == 1)
        await place.row("lanes", f"{STAGE}|0|recovery", msgspec.json.encode(RecoveryRow(way="assume-none", at=1)))
        await until(lambda: drained(place, 20))
        await place.out(12)
    assert set(place.numbers()) == {*range(0, 20, 2), 17, 19}, "1 … 15 were given up, by word of an admin"


async def test_restore_without_anything_to_go_back_to_keeps_the_partition_stopped(place: Place) -> None:
    await place.send(told(n) for n in range(3))
    await place.move_offset(1)
    async with place.worker(Desk()) as running:
        await until(lambda: running.heard.incidents["foreign_commit"] == 1)
        await place.row("lanes", f"{STAGE}|0|recovery", msgspec.json.encode(RecoveryRow(way="restore", at=1)))
        await until(lambda: running.heard.incidents["foreign_commit"] == 2)
        assert "nothing is known to go back to" in running.worker.health().reason
        await place.row("lanes", f"{STAGE}|0|recovery", msgspec.json.encode(RecoveryRow(way="assume-none", at=2)))
        await until(lambda: drained(place, 3))
    assert place.numbers() == [1, 2]


# -- offsets that are gone ----------------------------------------------------------------------------


async def test_f40_a_group_whose_offsets_are_gone_starts_at_the_log_start_with_the_replay_mark(place: Place) -> None:
    """Loudly; neither at the end nor as if all were news. The mark ends with what was there."""
    desk = Desk()
    await behind_a_lane_that_is_down(place, desk)
    await place.forget_group()
    desk.down.clear()
    desk.calls.clear()
    async with place.worker(desk) as running:
        await until(lambda: drained(place, 20))
        assert running.heard.incidents == {"offsets_lost": 1}
        assert sorted(int(message.id) for message in desk.calls) == list(range(20))
        assert {message.replay for message in desk.calls} == {"offsets-lost"}
        await place.send([told(20)])
        await place.out(21)
        assert desk.calls[-1].replay is None


async def test_f40_the_mark_outlives_a_crash_in_the_middle(place: Place) -> None:
    """What was read again because the offsets were gone is a replay also for the next owner."""
    desk = Desk()
    await behind_a_lane_that_is_down(place, desk)
    await place.forget_group()
    desk.calls.clear()
    running = await place.begin(desk)

    async def partly() -> bool:
        return 0 in await place.committed()

    await until(partly)
    await running.crash()
    desk.down.clear()
    desk.calls.clear()
    async with place.worker(desk) as running:
        await place.send([told(20, org="up", key="k@up")])
        await until(lambda: drained(place, 21))
    assert [message.replay for message in desk.calls if int(message.id) % 2] == ["offsets-lost"] * 10
    assert [message.replay for message in desk.calls if message.id == "20"] == [None]


@apache_only
async def test_f40_offsets_that_are_deleted_with_the_stock_tool(place: Place) -> None:
    async with place.worker(Desk()) as running:
        await place.send(told(n) for n in range(10))
        await until(lambda: drained(place, 10))
        await running.stop()
    broker = ApacheKafka(place.directory / "tool", port=int(place.settings.bootstrap.rsplit(":", 1)[1]))
    broker.tool(
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--group", place.settings.group(STAGE),
        "--topic", place.settings.topic("in"), "--delete-offsets",
    )  # fmt: skip
    desk = Desk()
    async with place.worker(desk) as running:
        await until(lambda: drained(place, 10))
        assert running.heard.incidents == {"offsets_lost": 1}
        assert {message.replay for message in desk.calls} == {"offsets-lost"}


# -- one that waits for long --------------------------------------------------------------------------


async def unfinished(place: Place, count: int) -> list[dict[str, Any]]:
    """The lanes that lag tells of, once it tells of so many unfinished messages."""
    found: list[dict[str, Any]] = []

    async def so_many() -> bool:
        document = await lag.lag(place.transport, {STAGE: "in"})
        found[:] = document["lanes"]
        return bool(document["unfinished"] == count and found)

    await until(so_many)
    return found


async def test_f44_one_that_waits_for_long_is_one_unfinished_and_holds_back_nobodys_commit(place: Place) -> None:
    """One of a thousand waits for a row: lag tells of one, why and since when; after a crash it alone is done again, and has waited as long."""
    desk = Desk()
    desk.waiting.add("acme")
    await place.send([told(0), *(told(n, org="bolt") for n in range(1, 1000))])
    running = await place.begin(desk)
    [waits] = await unfinished(place, 1)
    assert (waits["state"], waits["waiting"], waits["cause"]) == ("waiting", 1, f"{MISSING.code}: {MISSING.message}")
    commit = (await place.committed())[0]
    assert (commit.offset, [cursor.offset for cursor in metadata.decode(commit.metadata).cursors.values()]) == (1000, [0])
    await running.crash()
    desk.calls.clear()
    desk.runs.clear()
    async with place.worker(desk) as running:
        running.tables["rows"].subscribe(lambda key: desk.row.update({key: running.tables["rows"].get(key) or b""}))
        await until(lambda: len(desk.runs) > 0)
        await place.send([told(1000, org="bolt")])
        [again] = await unfinished(place, 1)
        assert again["since"] == waits["since"]
        await place.row("rows", "acme", b"an account")
        await until(lambda: drained(place, 1001))
    assert {message.id for message in desk.calls} == {"0", "1000"}


async def test_what_waits_in_memory_goes_to_the_dead_letters_before_the_log_loses_it(place: Place) -> None:
    """In order, whole, and marked for one retry, as what waits in the log does."""
    desk = Desk()
    desk.waiting.add("acme")
    await place.send([*(told(n, key="k@acme") for n in range(3)), *(told(n, org="bolt") for n in range(3, 10))])
    async with place.worker(desk, dataclasses.replace(FAST, retention_seconds=8.0)) as running:
        await until(lambda: len(place.letters()) == 3)
        assert running.heard.incidents["retention_guard"] == 1
        await until(lambda: drained(place, 10))
    assert [letter.offset for letter in place.letters()] == [0, 1, 2]
    assert {letter.causes[0].code for letter in place.letters()} == {RETENTION.code}


async def test_lanes_beyond_those_that_are_told_are_told_as_a_sum(place: Place) -> None:
    """Ten rows a partition, 40 lanes that wait: none is left out of the count."""
    desk = Desk()
    desk.down |= {f"down{n}" for n in range(40)}
    await place.send(told(n, org=f"down{n % 40}") for n in range(120))
    async with place.worker(desk, dataclasses.replace(FAST, lanes_told=10)):
        lanes = await unfinished(place, 120)
    assert len(lanes) == 10
    [rest] = [lane for lane in lanes if lane["lane"] == "org:*"]
    assert rest["cause"].startswith("more_lanes: 31 more lanes")
    assert sum(lane["waiting"] for lane in lanes) == 120


# -- a topic made anew --------------------------------------------------------------------------------


async def test_a_topic_that_was_deleted_and_made_anew_while_stopped_is_read_from_its_start(place: Place) -> None:
    """With the topic, Kafka forgets what groups committed on it; the embedded broker keeps an offset beyond the new log's end."""
    async with place.worker(Desk()) as running:
        await place.send(told(n) for n in range(20))
        await until(lambda: drained(place, 20))
        await running.stop()
    await place.delete("in")
    await place.create("in", 1)
    await place.send(told(n) for n in range(100, 105))
    async with place.worker(Desk()) as running:
        await until(lambda: drained(place, 5))
        assert sum(running.heard.incidents[kind] for kind in ("offsets_lost", "log_recreated")) == 1
        await place.out(25)
    assert set(range(100, 105)) <= set(place.numbers())


async def test_a_topic_that_is_deleted_and_made_anew_under_a_worker_is_read_from_its_start(place: Place) -> None:
    desk = Desk()
    async with place.worker(desk) as running:
        await place.send(told(n) for n in range(20))
        await until(lambda: drained(place, 20))
        await place.delete("in")
        await place.create("in", 1)
        await until(lambda: sum(running.heard.incidents.values()) > 0 or running.task.done())
        assert not running.task.done(), running.task
        await place.send(told(n) for n in range(100, 105))
        await place.out(25)
        await until(lambda: running.ready)
    assert set(range(100, 105)) <= set(place.numbers())


# -- taking a partition -------------------------------------------------------------------------------


async def test_while_the_metadata_cannot_be_read_nothing_is_dispatched_and_it_is_tried_again(place: Place) -> None:
    """Rule 8: dispatch is gated by a ledger that was loaded, never by the callback having returned."""
    desk = Desk()
    await behind_a_lane_that_is_down(place, desk)
    desk.down.clear()
    before = len(desk.runs)
    seam = Seam()
    seam.failing_committed = 10**6
    async with place.worker(desk, around=seam.around) as running:
        await until(lambda: seam.failed_committed >= 2)
        assert not running.ready
        assert "taken over" in running.worker.health().reason
        assert len(desk.runs) == before
        seam.failing_committed = 0
        await until(lambda: running.ready)
        await until(lambda: drained(place, 20))
    assert set(place.numbers()) == set(range(20))


# -- what the commit is for -----------------------------------------------------------------------------


async def test_f42_one_org_that_is_down_for_long_holds_up_neither_the_others_nor_the_commits(place: Place) -> None:
    """3,000 messages in one partition, every third of an org that is down: commits stay small, and a crash afterwards repeats little."""
    desk = Desk()
    desk.down.add("acme")
    limits = dataclasses.replace(FAST, org_messages=500, total_messages=1000)
    await place.send(told(n, org="acme" if n % 3 == 0 else "bolt", key=f"{n % 300}@x") for n in range(3000))
    running = await place.begin(desk, limits)
    await place.out(2000)

    async def committed_all() -> bool:
        return (await place.committed())[0].offset == 3000

    await until(committed_all)
    commit = (await place.committed())[0]
    assert len(commit.metadata) < 60, "one lane, one cursor"
    desk.down.clear()
    running.worker.nudge("org:acme")
    await place.out(3000)
    await until(lambda: drained(place, 3000))
    await running.crash()
    before = len(desk.calls)
    async with place.worker(desk) as again:
        await until(lambda: again.ready)
        await place.send([told(3000)])
        await place.out(3001)
    assert len(desk.calls) - before == 1, "what was committed is not repeated"
    for key, numbers in place.by_key().items():
        assert numbers == sorted(numbers), f"{key}: its order is kept"
    assert desk.side_by_side == []


async def test_f44_one_stuck_message_and_a_thousand_are_told_apart(place: Place) -> None:
    desk = Desk()
    desk.down.add("one")
    await place.send(told(n, org="one" if n == 7 else "many") for n in range(300))
    async with place.worker(desk) as running:
        await place.out(299)
        await until(lambda: (row := place.lane_rows(running).get("org:one")) is not None and row.waiting == 1)
        desk.down.add("many")
        await place.send(told(n, org="many") for n in range(300, 600))
        await until(lambda: (row := place.lane_rows(running).get("org:many")) is not None and row.waiting == 300)
        rows = place.lane_rows(running)
        assert {lane: (row.waiting, row.state, row.cause.split(":")[0]) for lane, row in rows.items()} == {
            "org:one": (1, "blocked", "org_down"),
            "org:many": (300, "blocked", "org_down"),
        }
        assert rows["org:one"].oldest_at < rows["org:many"].oldest_at
        assert rows["org:one"].mend == "Wait."


async def test_what_was_committed_is_kept_where_a_reset_does_not_reach_it(place: Place) -> None:
    """`restore` goes back to the row `group` of the table `lanes`."""
    desk = Desk()
    await behind_a_lane_that_is_down(place, desk)
    async with place.worker(desk) as running:
        await until(lambda: running.ready)
        value = running.tables["lanes"].get(f"{STAGE}|0|group")
        assert value is not None
        row = msgspec.json.decode(value, type=GroupRow)
        assert Commit(row.offset, row.metadata) == (await place.committed())[0]
