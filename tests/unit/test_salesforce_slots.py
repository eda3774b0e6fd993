"""Facts about places for calls: orgs that hang fill neither threads nor anyone's patience."""

import asyncio
import threading
from collections.abc import Callable

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.salesforce.errors import OrgUnavailable
from stages.salesforce.slots import Bounds, Gate, Slots

SMALL = Bounds(healthy=2, slow=4, doubtful=2, per_org=2, per_org_while_slow=1, slow_after_seconds=0.05)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 (what is waited for happens in threads)
            await anyio.sleep(0.002)


class Hanging:
    """Calls that do not come back before they are let go."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._gone = threading.Event()
        self._count = threading.Lock()
        self.running = 0
        self.most = 0

    def _work(self) -> None:
        with self._count:
            self.running += 1
            self.most = max(self.most, self.running)
        self._gone.wait(20)
        with self._count:
            self.running -= 1

    async def call(self, gate: Gate) -> None:
        await self._slots.run(gate, self._work)

    def let_go(self) -> None:
        self._gone.set()


async def test_healthy_orgs_do_not_wait_behind_calls_that_hang() -> None:
    slots = Slots(SMALL)
    hanging = Hanging(slots)
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(hanging.call, slots.gate())
        await until(lambda: hanging.running == 4)
        with anyio.fail_after(5):
            assert await slots.run(slots.gate(), lambda: "answer") == "answer"
        hanging.let_go()


async def test_threads_are_bounded_whatever_hangs() -> None:
    slots = Slots(SMALL)
    hanging = Hanging(slots)
    async with anyio.create_task_group() as group:
        for number in range(30):
            gate = slots.gate()
            gate.doubt = number % 2 == 0
            group.start_soon(hanging.call, gate)
        await until(lambda: hanging.running == SMALL.threads)
        hanging.let_go()
    assert hanging.most == SMALL.threads


async def test_an_org_has_no_more_calls_than_its_share() -> None:
    slots = Slots(Bounds(healthy=8, per_org=2, slow_after_seconds=60))
    hanging, gate = Hanging(slots), slots.gate()
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(hanging.call, gate)
        await until(lambda: hanging.running == 2)
        await anyio.wait_all_tasks_blocked()
        hanging.let_go()
    assert hanging.most == 2
    assert gate.running == 0


async def test_an_org_in_doubt_has_one_call_at_a_time_until_one_succeeds() -> None:
    slots = Slots()
    gate = slots.gate()
    gate.failed()
    hanging = Hanging(slots)
    done: list[int] = []

    async def call(number: int) -> None:
        await slots.run(gate, lambda: done.append(number))

    async with anyio.create_task_group() as group:
        group.start_soon(hanging.call, gate)
        await until(lambda: hanging.running == 1)
        for number in range(3):
            group.start_soon(call, number)
        await anyio.wait_all_tasks_blocked()
        assert (done, gate.running) == ([], 1)
        gate.succeeded()
        await until(lambda: len(done) == 3)
        hanging.let_go()


async def test_orgs_in_doubt_share_a_quarter_of_the_threads() -> None:
    assert Bounds().doubtful * 4 <= Bounds().threads
    slots = Slots(SMALL)
    hanging = Hanging(slots)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            gate = slots.gate()
            gate.failed()
            group.start_soon(hanging.call, gate)
        await until(lambda: hanging.running == SMALL.doubtful)
        await anyio.wait_all_tasks_blocked()
        assert hanging.running == SMALL.doubtful
        assert await slots.run(slots.gate(), lambda: 1) == 1
        hanging.let_go()


async def test_an_org_whose_call_hangs_starts_few_others() -> None:
    slots = Slots(SMALL)
    hanging, gate = Hanging(slots), slots.gate()
    async with anyio.create_task_group() as group:
        group.start_soon(hanging.call, gate)
        await until(lambda: gate.slow == 1)
        group.start_soon(hanging.call, gate)
        await anyio.wait_all_tasks_blocked()
        assert hanging.running == 1
        hanging.let_go()
    assert (gate.running, gate.slow) == (0, 0)


async def test_one_who_gives_up_waiting_takes_no_place_with_him() -> None:
    slots = Slots(SMALL)
    hanging, gate = Hanging(slots), slots.gate()
    async with anyio.create_task_group() as group:
        group.start_soon(hanging.call, gate)
        await until(lambda: gate.slow == 1)
        with anyio.move_on_after(0.01) as scope:
            await slots.run(gate, lambda: None)
        assert scope.cancelled_caught
        hanging.let_go()
    assert await slots.run(gate, lambda: "again") == "again"
    assert gate.running == 0


async def test_a_wait_for_a_place_has_an_end() -> None:
    slots = Slots(Bounds(per_org=1, per_org_while_slow=1, longest_wait_seconds=0.02))
    hanging, gate = Hanging(slots), slots.gate()
    async with anyio.create_task_group() as group:
        group.start_soon(hanging.call, gate)
        await until(lambda: hanging.running == 1)
        with pytest.raises(OrgUnavailable) as raised:
            await slots.run(gate, lambda: None)
        hanging.let_go()
    assert raised.value.trouble.cause.code == "no_place_for_a_call"


async def test_what_the_work_raises_comes_out_and_the_place_is_free_again() -> None:
    slots = Slots(Bounds(healthy=1, per_org=1))
    gate = slots.gate()

    def fails() -> None:
        raise KeyError("x")

    for _ in range(3):
        with pytest.raises(KeyError):
            await slots.run(gate, fails)
    assert gate.running == 0


class Steps:
    """One org's gate, driven by any sequence of what can happen to it."""

    def __init__(self) -> None:
        self.bounds = Bounds(per_org=3, per_org_while_slow=2)
        self.gate = Gate(self.bounds)
        self.waiting: list[asyncio.Task[None]] = []
        self.inside = 0
        self.slow = 0

    async def step(self, act: str) -> None:
        before, was_open = self.inside, self.open()
        match act:
            case "enter":
                self.waiting.append(asyncio.ensure_future(self.gate.enter()))
            case "give-up" if self.waiting:
                self.waiting.pop(0).cancel()
            case "leave" if self.inside > self.slow:
                self.inside -= 1
                self.gate.leave()
            case "turn-slow" if self.inside > self.slow:
                self.slow += 1
                self.gate.turned_slow()
            case "slow-ends" if self.slow:
                self.slow -= 1
                self.inside -= 1
                self.gate.slow_ended()
                self.gate.leave()
            case "fail":
                self.gate.failed()
            case "succeed":
                self.gate.succeeded()
        await anyio.wait_all_tasks_blocked()
        entered = [task for task in self.waiting if task.done()]
        self.waiting = [task for task in self.waiting if not task.done()]
        self.inside += len(entered)
        assert not entered or was_open or act in ("leave", "slow-ends", "succeed"), (act, before)

    def open(self) -> bool:
        if self.gate.doubt:
            return self.inside == 0
        return self.inside < (self.bounds.per_org_while_slow if self.slow else self.bounds.per_org)

    def check(self) -> None:
        assert (self.gate.running, self.gate.slow) == (self.inside, self.slow)
        assert self.inside <= self.bounds.per_org
        assert not (self.waiting and self.open()), "someone waits at an open gate"


ACTS = ["enter", "enter", "give-up", "leave", "turn-slow", "slow-ends", "fail", "succeed"]


@given(st.lists(st.sampled_from(ACTS), max_size=40))
@settings(max_examples=60)
def test_whatever_happens_nobody_waits_at_an_open_gate_and_none_is_over_the_bound(acts: list[str]) -> None:
    async def drive() -> None:
        steps = Steps()
        for act in acts:
            await steps.step(act)
            steps.check()
        for task in steps.waiting:
            task.cancel()

    asyncio.run(drive())
