"""The ledger keeps its promises under any interleaving: nothing unfinished is let go, a restart covers all of it, order holds."""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.lanes import LaneKey
from tests.unit.ledger_model import Partition, lanes_of

ORGS = (b"\x07aaaa", b"\x07bbbb", b"\x09cccc")
"""Two of them share a bucket."""
WORKSPACES = (b"w__1", b"w__2")
SESSIONS = (b"s__1", b"s__2")
PEOPLE = (b"p__1", b"p__2")

KEYS: tuple[LaneKey, ...] = (
    *(org + workspace + session + person for org in ORGS[:2] for workspace in WORKSPACES for session in SESSIONS for person in PEOPLE),
    *(org + workspace + person for org in ORGS for workspace in WORKSPACES for person in PEOPLE),
    ORGS[0] + b"cmp1",
    ORGS[2] + b"cmp1",
)
URGENT = frozenset({ORGS[0] + b"cmp1", ORGS[1] + b"w__1p__1", ORGS[2] + b"cmp1"})
LANES = lanes_of(KEYS)

PROFILE = os.environ.get("LEDGER_EXAMPLES", "")
BUDGET = settings(
    max_examples=int(PROFILE or 60),
    stateful_step_count=200 if PROFILE else 50,
    print_blob=False,
    phases=[Phase.generate] if PROFILE else list(Phase),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
"""Quick by default; LEDGER_EXAMPLES=100000 looks for long."""


class PartitionMachine(RuleBasedStateMachine):
    """Draws what happens next."""

    remembered = 100_000
    limit = 3_072
    partition: Partition

    @initialize(few=st.integers(min_value=1, max_value=len(KEYS)), seed=st.randoms(use_true_random=False))
    def begin(self, few: int, seed: object) -> None:
        self.partition = Partition(remembered=self.remembered, limit=self.limit)
        self.keys = list(KEYS)
        seed.shuffle(self.keys)  # type: ignore[attr-defined]
        self.keys = self.keys[:few]

    @rule(data=st.data())
    def produce(self, data: st.DataObject) -> None:
        keys = data.draw(st.lists(st.sampled_from(self.keys), min_size=1, max_size=12))
        self.partition.produce(keys, urgent=URGENT)

    @precondition(lambda self: self.partition.ledger.main < len(self.partition.log))
    @rule(count=st.integers(min_value=1, max_value=12))
    def read_live(self, count: int) -> None:
        self.partition.read_live(count)

    @precondition(lambda self: self.partition.ledger.unfinished)
    @rule(data=st.data(), times=st.integers(min_value=1, max_value=8))
    def finish(self, data: st.DataObject, times: int) -> None:
        for _ in range(times):
            firsts: dict[LaneKey, int] = {}
            for offset, held in self.partition.ledger.unfinished.items():
                firsts[held.key] = min(firsts.get(held.key, offset), offset)
            if not firsts:
                return
            self.partition.finish(data.draw(st.sampled_from(sorted(firsts.values()))))

    @precondition(lambda self: self.partition.ledger.unfinished)
    @rule(data=st.data(), level=st.integers(min_value=0, max_value=3), share=st.sampled_from(["one", "later", "all"]))
    def release(self, data: st.DataObject, level: int, share: str) -> None:
        offset = data.draw(st.sampled_from(sorted(self.partition.ledger.unfinished)))
        levels = [lane for lane in LANES if self.partition.log[offset].startswith(lane)]
        lane = levels[min(level, len(levels) - 1)]
        covered = [held.offset for held in self.partition.ledger.covered_by(lane)]
        chosen = {"one": [offset], "later": [o for o in covered if o >= offset], "all": covered}[share]
        self.partition.release(chosen, lane)

    @rule(data=st.data())
    def lag(self, data: st.DataObject) -> None:
        lanes = [lane for lane in LANES if any(key.startswith(lane) for key in self.keys)]
        self.partition.lag(data.draw(st.sampled_from(lanes)))

    @precondition(lambda self: self.partition.ledger.unfinished)
    @rule(data=st.data())
    def set_aside(self, data: st.DataObject) -> None:
        held = {held.key for held in self.partition.ledger.unfinished.values()}
        lanes = [lane for lane in LANES if any(key.startswith(lane) for key in held)]
        self.partition.set_aside(data.draw(st.sets(st.sampled_from(lanes), min_size=1)))

    def _lagging(self) -> list[LaneKey]:
        return sorted(key for key, lag in self.partition.ledger.lagging.items() if not lag.following)

    @precondition(lambda self: self._lagging())
    @rule(data=st.data(), all_of_them=st.booleans())
    def begin_sweep(self, data: st.DataObject, all_of_them: bool) -> None:
        lanes = self._lagging()
        self.partition.begin_sweep(lanes if all_of_them else data.draw(st.lists(st.sampled_from(lanes), min_size=1, unique=True)))

    @precondition(lambda self: self.partition.sweeping and self._lagging())
    @rule(data=st.data())
    def join_sweep(self, data: st.DataObject) -> None:
        self.partition.join_sweep(data.draw(st.lists(st.sampled_from(self._lagging()), min_size=1, unique=True)))

    @precondition(lambda self: self.partition.sweeping)
    @rule(
        count=st.integers(min_value=1, max_value=30),
        refuse=st.none() | st.integers(min_value=0, max_value=30),
        level=st.integers(min_value=0, max_value=3),
    )
    def sweep(self, count: int, refuse: int | None, level: int) -> None:
        place = self.partition.sweep_place
        self.partition.sweep(count, refuse=() if refuse is None else range(place + refuse, place + count), level=level)

    @precondition(lambda self: self.partition.sweeping)
    @rule()
    def sweep_to_main(self) -> None:
        self.partition.sweep(1_000)

    @rule()
    def tidy(self) -> None:
        self.partition.tidy()

    @rule()
    def commit(self) -> None:
        self.partition.commit()

    @rule(commits=st.booleans(), tidies=st.booleans())
    def restart(self, commits: bool, tidies: bool) -> None:
        if tidies:
            self.partition.tidy()
        if commits:
            self.partition.commit()
        self.partition.restart()

    @rule()
    def drain(self) -> None:
        self.partition.drain()

    @invariant()
    def tells_the_truth(self) -> None:
        if hasattr(self, "partition"):
            self.partition.check()
            assert self.partition.ledger.waiting() >= 0

    def teardown(self) -> None:
        if hasattr(self, "partition"):
            self.partition.drain()


class FoldedMachine(PartitionMachine):
    """So little room for metadata that lanes are folded, into buckets, and away."""

    limit = 100


class ForgetfulMachine(PartitionMachine):
    """Hardly any finished offset is remembered: repeats come, whole and in order."""

    remembered = 3


class FoldedForgetfulMachine(PartitionMachine):
    """Both, at the edge."""

    limit = 64
    remembered = 1


# Without an end where it looks for long.
@pytest.mark.timeout(0 if PROFILE else 300)
@pytest.mark.parametrize("machine", [PartitionMachine, FoldedMachine, ForgetfulMachine, FoldedForgetfulMachine])
def test_whatever_happens_in_whatever_order_nothing_is_lost_and_order_holds(machine: type[PartitionMachine]) -> None:
    """See `ledger_model` for what is checked after each step."""
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine, settings=BUDGET)
