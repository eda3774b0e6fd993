"""The messages of one org that a worker holds, across its partitions: what may go into the next batch.

Two messages with one exclusion key (here: one record key) are never in flight at once, and within an order key nothing starts before its
predecessor is finished. Decides; starts nothing.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum

from pipeline.lanes import LaneKey
from pipeline.ledger import Ledger
from pipeline.messages import Message
from schemas.messages import Cause


class State(Enum):
    """Where a held message stands."""

    QUEUED = "queued"
    LISTED = "listed"
    RUNNING = "running"
    RESTING = "resting"
    WAITING = "waiting"
    BEHIND = "behind"
    """Queued behind a message of its order key that rests or waits."""
    GONE = "gone"


class Entry:
    """One held message and its place."""

    __slots__ = (
        "asked", "blocks", "cancel", "key", "ledger", "message", "next_try_ms", "rests_for", "rests_since_ms", "serial", "size", "state",
    )  # fmt: skip

    def __init__(self, message: Message, ledger: "Ledger[Entry]", key: LaneKey, serial: str) -> None:
        self.message = message
        self.ledger = ledger
        self.key = key
        """Its narrowest lane: the order key."""
        self.serial = serial
        """Batches that share a serial do not run side by side; empty: none."""
        self.state = State.QUEUED
        self.cancel: Callable[[], None] | None = None
        """Ends the timer or the wait that it rests on."""
        self.rests_for: Cause | None = None
        """Why it rests or waits; None while it does not …"""
        self.rests_since_ms = 0
        """… and since when, Unix ms."""
        self.next_try_ms = 0
        """Unix ms: when a step that asked for another try gets it; 0: it waits for something else."""
        self.asked: tuple[str, str, bytes | None] | None = None
        """Table, key and row of the last wait for which it has asked: asked once."""
        self.blocks = 0
        """How often its step has blocked its own narrowest lane, or asked for a free retry: no tries of the message's, but the back-off grows."""
        self.size = len(message.record.value or b"") + 500

    @property
    def offset(self) -> int:
        return self.message.record.offset


IN_FLIGHT_BOUND = (State.QUEUED, State.LISTED, State.RUNNING)
"""What the bound of work in flight counts. All else has a budget of its own, or who waits would keep out what he waits for."""


class Tally:
    """What the lines of a worker count together."""

    __slots__ = ("resting", "resting_bytes")

    def __init__(self) -> None:
        self.resting = 0
        self.resting_bytes = 0


class Line:
    """See the module. One a worker, stage and org."""

    __slots__ = (
        "_by_key",
        "_ready",
        "active",
        "active_bytes",
        "batch_max",
        "first_ready_at",
        "in_flight",
        "moved_at",
        "org",
        "resting",
        "resting_bytes",
        "running",
        "serials",
        "tally",
        "timer",
        "wait_seconds",
    )

    def __init__(self, org: str, tally: Tally, batch_max: int, wait_seconds: float) -> None:
        self.org = org
        self.tally = tally
        self._by_key: dict[str, Entry | list[Entry]] = {}
        self._ready: deque[Entry] = deque()
        self.active = 0
        """Messages queued or in flight: what the bound of work in flight counts."""
        self.active_bytes = 0
        self.resting = 0
        """Messages that rest before a retry or wait for a row, and those behind them: they have a budget of their own."""
        self.resting_bytes = 0
        self.in_flight = 0
        """Messages in a batch under way."""
        self.running = 0
        """Batches under way."""
        self.moved_at = 0.0
        """When its first message came, or a batch of it ended last: loop time."""
        self.serials: set[str] = set()
        self.batch_max = batch_max
        self.wait_seconds = wait_seconds
        self.first_ready_at = 0.0
        self.timer: Callable[[], None] | None = None

    def __len__(self) -> int:
        return self.active + self.resting

    @property
    def ready(self) -> int:
        """How many could go now (at most: some may have left since)."""
        return len(self._ready)

    @property
    def behind(self) -> int:
        """How many are queued behind another of their exclusion key."""
        return self.active - self.in_flight - len(self._ready)

    def add(self, entry: Entry) -> None:
        """Takes a message in; of one order key they come in the order of the log."""
        self.active += 1
        self.active_bytes += entry.size
        key = entry.message.key
        known = self._by_key.get(key)
        if known is None:
            self._by_key[key] = entry
            entry.state = State.LISTED
            self._ready.append(entry)
        else:
            entries = [known] if isinstance(known, Entry) else known
            # A sweep brings older messages than live reading did: order is that of the log.
            place = len(entries)
            while place and entries[place - 1].offset > entry.offset:
                place -= 1
            entries.insert(place, entry)
            self._by_key[key] = entries
            self._settle(key)

    def take(self, most: int) -> list[Entry]:
        """The next batch, at most `most` messages, now running; none of a serial that runs already."""
        batch: list[Entry] = []
        kept: list[Entry] = []
        serials: set[str] = set()
        ready = self._ready
        while ready and len(batch) < most:
            entry = ready.popleft()
            if entry.state is not State.LISTED:
                continue
            if entry.serial and entry.serial in self.serials:
                kept.append(entry)
                continue
            entry.state = State.RUNNING
            self.in_flight += 1
            if entry.serial:
                serials.add(entry.serial)
            batch.append(entry)
        ready.extendleft(reversed(kept))
        self.serials |= serials
        return batch

    def rest(self, entry: Entry, state: State) -> None:
        """A running message rests before a retry, or waits for a row: others of its exclusion key may go."""
        self.in_flight -= 1
        self._becomes(entry, state)
        self._settle(entry.message.key)

    def wake(self, entry: Entry) -> None:
        """It has rested."""
        self._becomes(entry, State.QUEUED)
        entry.cancel = None
        self._settle(entry.message.key)

    def remove(self, entry: Entry) -> None:
        """It is finished, or given back to the log."""
        if entry.state is State.RUNNING:
            # As good as always: the short way.
            self.in_flight -= 1
            self.active -= 1
            self.active_bytes -= entry.size
            entry.state = State.GONE
        else:
            self._becomes(entry, State.GONE)
        if entry.cancel is not None:
            entry.cancel()
            entry.cancel = None
        key = entry.message.key
        known = self._by_key[key]
        if isinstance(known, Entry):
            del self._by_key[key]
            return
        known.remove(entry)
        if known:
            self._settle(key)
        else:
            del self._by_key[key]

    def after(self, entry: Entry) -> list[Entry]:
        """What is held of its order key that came after it."""
        known = self._by_key[entry.message.key]
        if isinstance(known, Entry):
            return []
        return [other for other in known if other.key == entry.key and other.ledger is entry.ledger and other.offset > entry.offset]

    def is_stuck(self, key: str, order_key: LaneKey) -> bool:
        """Whether a message of this record key and order key would be behind one that rests or waits."""
        known = self._by_key.get(key)
        entries = [known] if isinstance(known, Entry) else known or []
        return any(entry.key == order_key and entry.state not in IN_FLIGHT_BOUND for entry in entries)

    def _becomes(self, entry: Entry, state: State) -> None:
        """Each state is counted in one place."""
        for known, step in ((entry.state, -1), (state, 1)):
            if known in IN_FLIGHT_BOUND:
                self.active += step
                self.active_bytes += step * entry.size
            elif known is not State.GONE:
                self.resting += step
                self.resting_bytes += step * entry.size
                self.tally.resting += step
                self.tally.resting_bytes += step * entry.size
        entry.state = state

    def _settle(self, key: str) -> None:
        """After a change among the messages of one exclusion key: who is behind whom, and who may go."""
        known = self._by_key[key]
        stuck: set[LaneKey] = set()
        for entry in [known] if isinstance(known, Entry) else known:
            if entry.state in (State.RESTING, State.WAITING):
                stuck.add(entry.key)
            elif entry.state is State.QUEUED and entry.key in stuck:
                self._becomes(entry, State.BEHIND)
            elif entry.state is State.BEHIND and entry.key not in stuck:
                self._becomes(entry, State.QUEUED)
        self._promote(key)

    def _promote(self, key: str) -> None:
        """Lists the first message of this exclusion key that may go: none is in flight or listed, and none of its order key is before it."""
        known = self._by_key.get(key)
        entries = [known] if isinstance(known, Entry) else known or []
        if any(entry.state in (State.RUNNING, State.LISTED) for entry in entries):
            return
        before: set[LaneKey] = set()
        for entry in entries:
            if entry.state is State.QUEUED and entry.key not in before:
                entry.state = State.LISTED
                self._ready.append(entry)
                return
            before.add(entry.key)
