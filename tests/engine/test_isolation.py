"""One org's trouble or burst is nobody else's: rules 1 to 4, 13, 19 and 20 of the engine, and F35, F43, over a real broker."""

import asyncio
import dataclasses
import os
import time
from typing import Final

import pytest

from tests.engine.desk import Desk
from tests.engine.place import FAST, Place, told, until

SOAK_SECONDS: Final = float(os.environ.get("TURNOUT_TEST_SOAK_SECONDS", "3"))
"""Of each arm of the soak; the long form sets more."""
LONG_SECONDS: Final = 60.0
"""From here on rates are compared; those of seconds tell of the machine."""


def in_order(place: Place) -> None:
    for key, numbers in place.by_key().items():
        assert numbers == sorted(numbers), (key, numbers)


async def test_f35_a_step_that_raises_for_one_key_is_retried_then_a_dead_letter_and_holds_up_nobody(place: Place) -> None:
    """The batch is split until the guilty one is alone; the gist of the traceback stands in its dead letter; the key's later messages wait for it."""
    desk = Desk()
    desk.broken.add("bad@acme")
    limits = dataclasses.replace(FAST, tries=3)
    await place.send(told(n, key="bad@acme" if n in (5, 25) else f"{n}@acme") for n in range(40))
    async with place.worker(desk, limits):
        await place.out(38)
        await until(lambda: len(place.letters()) == 2)
        letters = place.letters()
        assert [letter.offset for letter in letters] == [5, 25], "in their order"
        assert letters[0].causes[0].code == "unexpected_error"
        assert "RuntimeError at" in letters[0].causes[0].message
        assert "desk.py" in letters[0].causes[0].message
        assert letters[0].tries == 3
        assert letters[0].message == b"5"
    alone = [ids for _, ids in desk.runs if ids == ("5",)]
    assert len(alone) == 3, "three tries, each found guilty alone"
    assert ("25",) not in [ids for _, ids in desk.runs[: [ids for _, ids in desk.runs].index(("5",))]]
    assert sorted(place.numbers()) == [n for n in range(40) if n not in (5, 25)]


async def test_a_burst_of_one_org_passes_nobody_by_and_follows_in_order(place: Place) -> None:
    """Busy is not blocked: beyond its bound the org lags, the partition is not paused, and nothing is lost or turned round."""
    desk = Desk()
    desk.slow_seconds["burst"] = 0.05
    limits = dataclasses.replace(FAST, org_messages=100, batch_messages=50, total_messages=1000)
    await place.send(told(n, org="burst", key=f"{n % 200}@burst") for n in range(1000))
    await place.send(told(n, org="calm") for n in range(1000, 1050))
    async with place.worker(desk, limits) as running:
        await until(lambda: sum(message.org == "calm" for message in desk.calls) == 50)
        assert sum(message.org == "burst" for message in desk.calls) < 1000, "calm did not wait for the burst's end"
        await place.out(1050)
        assert running.heard.incidents == {}
    assert desk.most_in_flight["burst"] <= 100
    assert len(place.numbers()) == 1050, "each once"
    in_order(place)
    assert desk.side_by_side == []


async def test_an_org_that_hangs_holds_its_own_threads_only(place: Place) -> None:
    desk = Desk()
    desk.shut["hung"] = asyncio.Event()
    await place.send(told(n, org="hung" if n % 2 else "well") for n in range(200))
    async with place.worker(desk, dataclasses.replace(FAST, batch_messages=10)):
        await until(lambda: len(desk.calls) == 100)
        assert {message.org for message in desk.calls} == {"well"}
        desk.shut["hung"].set()
        await place.out(200)
    assert len(place.numbers()) == 200


async def test_a_blocked_org_is_probed_with_one_batch_and_comes_back_by_itself(place: Place) -> None:
    desk = Desk()
    desk.down.add("down")
    await place.send(told(n, org="down") for n in range(400))
    async with place.worker(desk, dataclasses.replace(FAST, batch_messages=50)) as running:
        await until(lambda: len(desk.runs) >= 6)
        probes = [ids for _, ids in desk.runs[2:]]
        assert all(len(ids) <= FAST.probing.messages for ids in probes), [len(ids) for ids in probes]
        await until(lambda: (row := place.lane_rows(running).get("org:down")) is not None and row.waiting == 400)
        desk.down.clear()
        await place.out(400)
        await until(lambda: place.lane_rows(running) == {})
    assert place.numbers() == list(range(400)) or sorted(place.numbers()) == list(range(400))
    assert len(place.numbers()) == 400


async def test_lanes_that_are_probed_all_the_time_do_not_keep_live_reading_out(place: Place) -> None:
    """The sweep meets the main cursor again and again for 20 orgs that are down; each time live reading has its turn in between."""
    desk = Desk()
    desk.down |= {f"down{n}" for n in range(20)}
    await place.send(told(n, org=f"down{n % 20}", size=16_000) for n in range(200))
    async with place.worker(desk):
        for n in range(200, 205):
            probes = len(desk.runs)
            await until(lambda probes=probes: len(desk.runs) > probes + 10)  # type: ignore[misc]
            await place.send([told(n, org="up")])
            await place.out(n - 199)


async def test_lanes_that_go_back_while_the_sweep_reads_lose_nothing(place: Place) -> None:
    """5 orgs are down and probed all the time while 95 others flow; a probe's refusal comes while the sweep waits for its next fetch."""
    desk = Desk()
    desk.down |= {f"o{n}" for n in range(5)}
    limits = dataclasses.replace(FAST, org_messages=200, total_messages=2000)
    async with place.worker(desk, limits):
        for first in range(0, 10_000, 2000):
            await place.send(told(n, org=f"o{n % 100}", key=f"{n % 1000}@x") for n in range(first, first + 2000))
            await until(lambda first=first: len(desk.calls) >= (first + 2000) * 95 // 100)  # type: ignore[misc]
        desk.down.clear()
        await until(lambda: len(desk.calls) == 10_000)
        await place.out(10_000)
    assert len({message.id for message in desk.calls}) == 10_000
    in_order(place)
    assert desk.side_by_side == []


async def test_waits_end_with_the_row_also_for_those_beyond_the_budget(place: Place) -> None:
    """60 wait, 10 have room: the others go back to the log; the row that wakes them is made by a message behind them (rule 3)."""
    desk = Desk()
    desk.waiting.add("acme")
    limits = dataclasses.replace(FAST, resting_messages=10, org_resting_messages=10, org_messages=20, total_messages=100)
    await place.send(told(n) for n in range(60))
    await place.send([told(60, org="other")])
    await place.send([told(61, kind="company", key="company:acme")])
    async with place.worker(desk, limits) as running:
        running.tables["rows"].subscribe(lambda key: desk.row.update({key: running.tables["rows"].get(key) or b""}))
        await until(lambda: {"60", "61"} <= {message.id for message in desk.calls})
        assert len(desk.calls) == 2
        await until(lambda: sum(row.waiting for row in place.lane_rows(running).values()) >= 40)
        await place.row("rows", "acme", b"an account")
        await place.out(62)
    assert len(place.numbers()) == 62, "each once"
    assert desk.side_by_side == []


async def test_waits_that_fill_the_budget_do_not_keep_out_who_would_end_them(place: Place) -> None:
    """No deadlock: the message that makes the row comes behind more waiters than every bound."""
    desk = Desk()
    desk.waiting |= {f"o{n}" for n in range(10)}
    limits = dataclasses.replace(FAST, resting_messages=20, org_resting_messages=5, org_messages=20, total_messages=80, batch_messages=10)
    await place.send(told(n, org=f"o{n % 10}") for n in range(600))
    await place.send(told(n, org=f"o{n % 10}", kind="company", key=f"company:{n}") for n in range(600, 610))
    async with place.worker(desk, limits) as running:
        running.tables["rows"].subscribe(lambda key: desk.row.update({key: running.tables["rows"].get(key) or b""}))
        await until(lambda: sum(message.kind == "company" for message in desk.calls) == 10)
        for n in range(10):
            await place.row("rows", f"o{n}", b"an account")
        await place.out(610)
    assert len(place.numbers()) == 610
    assert desk.side_by_side == []


async def test_a_wait_has_a_longest_time_and_then_a_cause(place: Place) -> None:
    desk = Desk()
    desk.waiting.add("acme")
    desk.longest_wait_seconds = 0.5
    await place.send(told(n) for n in range(5))
    async with place.worker(desk):
        await until(lambda: len(place.letters()) == 5)
    assert {letter.causes[0].code for letter in place.letters()} == {"row_missing"}


async def test_one_that_is_refused_goes_to_the_dead_letters_whole_and_alone(place: Place) -> None:
    desk = Desk()
    desk.refused.add("3@acme")
    await place.send(told(n) for n in range(10))
    async with place.worker(desk):
        await place.out(9)
        await until(lambda: len(place.letters()) == 1)
    (letter,) = place.letters()
    assert (letter.key, letter.message, letter.causes[0].code) == ("3@acme", b"3", "refused")
    assert letter.headers["org"] == "acme"


async def test_what_was_finished_above_a_cursor_is_not_done_again_by_the_sweep(place: Place) -> None:
    """Rule 19: an org that fails half-way; what got through before stands above the cursor and is remembered."""
    desk = Desk()
    desk.resting |= {"0"}
    limits = dataclasses.replace(FAST, resting_messages=1, org_resting_messages=0)
    await place.send(told(n) for n in range(100))
    async with place.worker(desk, limits):
        await place.out(99)
        desk.resting.clear()
        await place.out(100)
    assert len(place.numbers()) == 100, "each once"


@pytest.mark.timeout(240)
async def test_f43_with_every_org_down_memory_is_flat_and_all_is_done_in_order_afterwards(place: Place) -> None:
    """12,000 messages of 2 kB in a process whose bounds allow 1 MB: after the first 4,000 the others cost nothing more. Then the orgs come back."""
    limits = dataclasses.replace(FAST, total_messages=1000, total_bytes=1024 * 1024, org_messages=250, resting_messages=200)
    worker = place.process("until_up", limits)

    async def backlog(first: int, end: int) -> int:
        """The process's greatest memory once it has passed all of it over."""
        for start in range(first, end, 1000):
            await place.send(told(n, org=f"down{n % 20}", key=f"{n % 500}@x", size=2_000) for n in range(start, min(end, start + 1000)))

        async def passed_over() -> bool:
            commit = (await place.committed()).get(0)
            return commit is not None and commit.offset == end

        await until(passed_over, 60.0)
        return worker.peak_kib()

    first = await backlog(0, 4000)
    whole = await backlog(4000, 12_000)
    assert whole - first < 12 * 1024, f"{first} KiB, then {whole} KiB"
    assert whole < 150 * 1024
    place.gate("up")
    await until(lambda: len(set(place.numbers())) == 12_000, 60.0)
    assert worker.peak_kib() < 150 * 1024
    in_order(place)


async def test_soak_lanes_that_fail_for_ever_cost_the_others_nothing(place: Place) -> None:
    """Two arms in turn, in one worker: 100 orgs well, then 5 of them failing for ever. TURNOUT_TEST_SOAK_SECONDS makes it long."""
    desk = Desk()
    probing = dataclasses.replace(FAST.probing, first_seconds=1.0, longest_seconds=3.0)
    limits = dataclasses.replace(FAST, org_messages=200, total_messages=2000, probing=probing)
    sent = 0

    async def arm(running: float) -> float:
        """Messages of the well orgs a second."""
        nonlocal sent
        ends, done, took = time.monotonic() + running, 0, 0.0
        while time.monotonic() < ends:
            batch = [told(n, org=f"o{n % 100}", key=f"{n % 1000}@x") for n in range(sent, sent + 2000)]
            sent += 2000
            before, began = len(desk.calls), time.monotonic()
            await place.send(batch)
            await until(lambda before=before: len(desk.calls) - before >= 1900)  # type: ignore[misc]
            took += time.monotonic() - began
            done += 1900
        return done / took

    async with place.worker(desk, limits) as worker:
        await arm(1.0)
        well = await arm(SOAK_SECONDS)
        desk.down |= {f"o{n}" for n in range(5)}
        begun, done, since = len(desk.runs), len(desk.calls), time.monotonic()
        ill = await arm(SOAK_SECONDS)
        elapsed = time.monotonic() - since
        assert worker.worker._dispatcher.held <= limits.total_messages
        spent = sum(len(ids) for org, ids in desk.runs[begun:] if org in desk.down)
        # What was under way when they went down, two probes while the wait grows, then one in each half of the longest wait at the most.
        probes = 3 + elapsed / (probing.longest_seconds / 2)
        assert spent <= len(desk.down) * probing.messages * probes, "what the failing lanes cost of work: probes, and no more"
        if SOAK_SECONDS >= LONG_SECONDS:
            assert spent < 0.1 * (len(desk.calls) - done)
            assert ill > 0.8 * well, f"{ill:.0f}/s against {well:.0f}/s"
        desk.down.clear()
        await until(lambda: len(desk.calls) == sent)
        await until(lambda: len(place.log["out"]) == sent)
    in_order(place)
    assert desk.side_by_side == []


async def test_soak_all_lanes_fail_then_recover_one_after_another(place: Place) -> None:
    """Memory's bound holds all the while; each lane comes back by itself, in order, whatever the others do."""
    desk = Desk()
    orgs = [f"o{n}" for n in range(8)]
    desk.down |= set(orgs)
    limits = dataclasses.replace(
        FAST, resting_messages=100, org_resting_messages=20, org_messages=100, total_messages=400, batch_messages=20
    )
    await place.send(told(n, org=orgs[n % 8], key=f"{n % 400}@x") for n in range(1600))
    async with place.worker(desk, limits) as running:
        most = 0

        def all_wait() -> bool:
            nonlocal most
            most = max(most, running.worker._dispatcher.held)
            return sum(row.waiting for row in place.lane_rows(running).values()) >= 1200

        await until(all_wait)
        for n, org in enumerate(orgs):
            desk.down.discard(org)
            await place.out(n * 200 + 1)
        await place.out(1600)
        assert most <= 400 + FAST.fetch_messages
    assert len(place.numbers()) == 1600
    in_order(place)
    assert desk.side_by_side == []
