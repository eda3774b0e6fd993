"""A model of one partition: the log, what is durable, and a ledger that is driven through every call that the engine makes.

It keeps to what the engine promises the ledger: within an order key nothing is finished before its predecessor, and what is given back is
given back with everything of its order key that came later. Everything else comes in any order. After each step the promises are checked.
"""

from collections.abc import Collection

from pipeline.lanes import LaneKey, wider
from pipeline.ledger import Lag, Ledger, Verdict
from pipeline.metadata import Encoded, decode

SECOND_MS = 1_000


class Partition:
    """One partition's log, its ledger, and the truth about both. `remembered` and `limit` are the bounds under which it must hold."""

    def __init__(self, *, remembered: int, limit: int) -> None:
        self.remembered, self.limit = remembered, limit
        self.exact = remembered >= 1_000
        """Nothing need be forgotten: so nothing is taken twice between two restarts."""
        self.log: list[LaneKey] = []
        self.urgent: list[bool] = []
        self.durable: set[int] = set()
        """Offsets whose outputs are acknowledged: true for ever."""
        self.committed = Encoded("", 0, 0)
        self.ledger: Ledger[int]
        self.restart()

    # -- a life ---------------------------------------------------------------------------------

    def restart(self) -> None:
        """The worker dies; another takes over from the last commit."""
        progress = decode(self.committed.text) if self.committed.text else None
        self.ledger = Ledger(self.committed.offset, progress, remembered=self.remembered)
        self.began = self.ledger.main
        self.taken_now: set[int] = set()
        self.finished_before: set[int] = set()
        """Met by live reading, and finished in an earlier life."""
        self.finished_now: set[int] = set()
        """Finished in this life."""
        self.last_taken: dict[LaneKey, int] = {}
        self.sweep_place = 0
        self.sweeping: dict[LaneKey, Lag] = {}

    def produce(self, keys: list[LaneKey], *, urgent: Collection[LaneKey] = ()) -> None:
        self.log += keys
        self.urgent += [key in urgent for key in keys]

    def held(self, key: LaneKey) -> list[int]:
        return sorted(offset for offset, held in self.ledger.unfinished.items() if held.key == key)

    # -- live reading ---------------------------------------------------------------------------

    def read_live(self, count: int) -> None:
        for offset in range(self.ledger.main, min(self.ledger.main + count, len(self.log))):
            key = self.log[offset]
            urgent = self.urgent[offset] and not self._left_behind(key, offset)
            verdict = self.ledger.live(offset, key, offset * SECOND_MS, urgent=urgent)
            if verdict is Verdict.TAKE:
                self._take(offset)
            elif verdict is Verdict.DONE:
                assert offset in self.durable, f"{offset} was thought finished and is not"
                self.finished_before.add(offset)
            self.check()

    def _left_behind(self, key: LaneKey, offset: int) -> bool:
        """Whether a message of the order key before this one has still to be taken from the log."""
        lag = self.ledger.owner(key)
        first = offset if lag is None else lag.read
        done = self.ledger.unfinished.keys() | (self.finished_now if self.exact else ())
        return any(self.log[o] == key and o not in done for o in range(first, offset))

    def _take(self, offset: int) -> None:
        key = self.log[offset]
        assert offset not in self.ledger.unfinished, f"{offset} is held and taken again"
        assert not [o for o in self.held(key) if o > offset], f"{offset} is taken after a later one of its order key"
        if self.exact:
            assert offset not in self.finished_now, f"{offset} was finished in this life and is taken again"
        for before in range(offset):
            if self.log[before] == key and before not in self.ledger.unfinished:
                assert before in self.durable, f"{offset} is taken before {before} of the same order key"
        last = self.last_taken.get(key)
        if last is not None:
            skipped = [o for o in range(last + 1, offset) if self.log[o] == key]
            assert not skipped, f"{offset} is taken after {last}, and {skipped} between them are not: no whole run"
        self.last_taken[key] = offset
        self.taken_now.add(offset)
        self.ledger.hold(offset, key, offset * SECOND_MS, offset)

    # -- outcomes -------------------------------------------------------------------------------

    def finish(self, offset: int) -> None:
        """The outputs of the first message of its order key are acknowledged."""
        assert self.held(self.log[offset])[0] == offset
        self.ledger.finish(offset)
        self.durable.add(offset)
        self.finished_now.add(offset)
        self.check()

    def release(self, offsets: Collection[int], lane: LaneKey) -> None:
        """Messages that `lane` covers go back to the log, each with all that came later in its order key, in the order given."""
        back = [o for o in self.ledger.unfinished if any(self.log[o] == self.log[first] and o >= first for first in offsets)]
        for offset in sorted(back, key=lambda each: (each * 7919) % 101):
            lag = self.ledger.release(offset, lane)
            assert self.log[offset].startswith(lag.key)
        for key in {self.log[offset] for offset in back}:
            before = self.held(key)
            first = min(o for o in back if self.log[o] == key)
            earlier = [o for o in range(first) if self.log[o] == key]
            if before:
                self.last_taken[key] = before[-1]
            elif earlier and self.last_taken.get(key, -1) >= earlier[-1]:
                self.last_taken[key] = earlier[-1]
            else:
                self.last_taken.pop(key, None)
        self.check()

    def lag(self, lane: LaneKey) -> None:
        """A lane lags from now on, for no message's sake: paused by hand."""
        self.ledger.lag(lane, self.ledger.main, self.ledger.main * SECOND_MS)
        self.check()

    def set_aside(self, lanes: Collection[LaneKey]) -> None:
        """What is held of these lanes rests: the committed offset goes on beyond it, if nothing else holds it back."""
        before = set(self.ledger.lagging)
        self.ledger.set_aside(lanes)
        aside = set(self.ledger.lagging) - before
        assert aside <= set(lanes)
        free = [o for o in self.ledger.unfinished if self.ledger.owner(self.log[o]) is None]
        if aside:
            assert self.ledger.commit().offset == min(free, default=self.ledger.main)
        self.check()

    # -- the sweep ------------------------------------------------------------------------------

    def begin_sweep(self, lanes: Collection[LaneKey]) -> None:
        self.sweeping = {key: self.ledger.lagging[key] for key in lanes if not self.ledger.lagging[key].following}
        self.sweep_place = min((lag.read for lag in self.sweeping.values()), default=0)

    def join_sweep(self, lanes: Collection[LaneKey]) -> None:
        """Lanes that the sweep has yet to reach are picked up as it passes."""
        for key in lanes:
            lag = self.ledger.lagging[key]
            if not lag.following and lag.read >= self.sweep_place:
                self.sweeping[key] = lag

    def sweep(self, count: int, *, refuse: Collection[int] = (), level: int = 0) -> None:
        """One chunk; what cannot be held after all, at `refuse`, makes its lane of that level lag (0: the narrowest), or a narrower one that does."""
        for key, lag in list(self.sweeping.items()):
            if self.ledger.lagging.get(key) is not lag or lag.following or lag.read < self.sweep_place:
                del self.sweeping[key]
        end = min(self.sweep_place + count, self.ledger.main)
        for offset in range(self.sweep_place, end):
            key = self.log[offset]
            verdict = self.ledger.sweep(offset, key, offset * SECOND_MS, self.sweeping)
            if verdict is Verdict.TAKE:
                if offset in refuse:
                    lanes = wider(key)[:-1]
                    lag = self.ledger.cover(offset, key, offset * SECOND_MS, lanes[min(level, len(lanes) - 1)])
                    self.ledger.count_passed(lag, offset)
                    self.sweeping.pop(lag.key, None)
                else:
                    self._take(offset)
            elif verdict is Verdict.DONE:
                assert offset in self.durable or offset in self.ledger.unfinished, f"{offset} was thought finished and is not"
            self.check()
        self.sweep_place = max(self.sweep_place, end)
        for lag in self.sweeping.values():
            self.ledger.swept(lag, self.sweep_place)
        self.check()

    # -- the commit -----------------------------------------------------------------------------

    def tidy(self) -> None:
        self.ledger.tidy()
        self.check()

    def commit(self) -> None:
        self.committed = self.ledger.commit(limit=self.limit)
        assert len(self.committed.text) <= self.limit
        assert self.committed.offset <= self.ledger.main
        restored: Ledger[int] = Ledger(self.committed.offset, decode(self.committed.text))
        for offset in range(len(self.log)):
            if offset in self.durable:
                continue
            assert self._comes_back(restored, offset), f"{offset} is unfinished, and lost by a restart from here"

    def _comes_back(self, ledger: Ledger[int], offset: int) -> bool:
        lag = ledger.owner(self.log[offset])
        return offset >= ledger.main if lag is None else offset >= lag.read

    # -- the promises ---------------------------------------------------------------------------

    def check(self) -> None:
        """Every unfinished offset below the main cursor is held, or covered by a lagging lane whose cursor is not above it."""
        ledger = self.ledger
        for offset in range(ledger.main):
            if offset in self.durable or offset in ledger.unfinished:
                continue
            lag = ledger.owner(self.log[offset])
            assert lag is not None, f"{offset} is unfinished and nobody's"
            assert not lag.following, f"{offset} is unfinished and its lane follows"
            assert lag.read <= offset, f"{offset} is unfinished and its lane reads from {lag.read}"
        assert all(offset < ledger.main for offset in ledger.unfinished)
        if self.exact and not any(lag.at_least for lag in ledger.lagging.values()):
            # What this life has not finished; of what it began beyond, only what it has taken again.
            waits = sum(offset not in self.finished_now | self.finished_before for offset in range(self.began, ledger.main))
            assert ledger.waiting() == waits + sum(offset < self.began for offset in self.taken_now - self.finished_now), (
                "what waits is told wrong"
            )
        assert ledger.remembered() <= self.remembered

    def drain(self) -> None:
        """All is well again: everything left is worked on, and then nothing is left of any trouble."""
        for offset in sorted(self.ledger.unfinished):
            self.finish(offset)
        while self.ledger.main < len(self.log):
            self.read_live(50)
            for offset in sorted(self.ledger.unfinished):
                self.finish(offset)
        self.begin_sweep([key for key, lag in self.ledger.lagging.items() if not lag.following])
        while self.sweep_place < self.ledger.main and self.sweeping:
            self.sweep(7)
            for offset in sorted(self.ledger.unfinished):
                self.finish(offset)
        if self.sweeping:
            self.sweep(1)
        assert self.durable == set(range(len(self.log)))
        for key, last in self.last_taken.items():
            assert last == max(o for o, each in enumerate(self.log) if each == key), "a repeat broke off"
        self.tidy()
        assert not self.ledger.lagging
        assert self.ledger.remembered() == 0
        assert self.ledger.waiting() == 0
        self.commit()
        assert self.committed.offset == len(self.log)
        assert not decode(self.committed.text).cursors


def lanes_of(keys: Collection[LaneKey]) -> list[LaneKey]:
    """All lanes that the engine may name (no buckets), in order."""
    return sorted({lane for key in keys for lane in wider(key) if len(lane) > 1})
