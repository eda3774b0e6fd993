"""One assigned partition, and the replays that run beside it. They live as long as the assignment; nothing of an earlier one survives."""

import hashlib

import msgspec

from pipeline.lanes import LaneKey, wider
from pipeline.ledger import LEAST_REMEMBERED, Ledger
from pipeline.lines import Entry
from pipeline.messages import REPLAY, Message
from pipeline.metadata import Encoded
from pipeline.records import Record
from pipeline.stage import Stage
from schemas.tables import LaneRow, ReplayRow

OFFSETS_LOST = b"offsets-lost"
"""The replay mark of what is read again because the group's offsets were gone."""


class Partition:
    """One assigned partition."""

    def __init__(
        self, number: int, stage: Stage, ledger: Ledger[Entry], *, held_since_ms: int, hold_creates_until_ms: int, replay_until: int
    ) -> None:
        self.number = number
        self.ledger = ledger
        self.hand_over = False
        self.live_turn = True
        self.closing = False
        self.replays: dict[str, Replay] = {}
        """By id: those that are under way here."""
        self.replays_ended: dict[str, bytes] = {}
        """By id, with the row that says so: an owner before may still write over it."""
        self.replays_committed: dict[int, int] = {}
        """Where the last owner left the replays, by short id, until they are begun here."""
        self.stashed: list[Record] = []
        """Read while the sweep hands over, not yet looked at."""
        self.committed_changes = -1
        """-1: nothing was committed yet."""
        self.unkept: Encoded | None = None
        """What was committed last, until the row `group` tells of it."""
        self.told_lanes: dict[str, LaneRow] = {}
        """Rows of the table `lanes` as this owner has written them."""
        self.lost: dict[str, LaneRow] = {}
        """By key of the table `lanes`: ranges that the log has lost, not told there yet."""
        self.lost_looked_for_ms = 0
        self.waits: dict[LaneKey, int] = {}
        """By lane: since when, Unix ms, its messages waited under owners before."""
        self._waited_until = ledger.main
        self.looked_through_ms = 0
        """When its rows of lanes were last compared with what this owner has told."""
        self.read_ms = 0
        """What came before this time was read, Unix ms; 0: nothing is known."""
        self.unread = 0
        """How many records live reading had before it when the log was asked last."""
        self.warned: set[LaneKey] = set()
        """Lanes that are warned of, for the retention; the empty one is live reading itself."""
        self._stage = stage
        self._held_since_ms = held_since_ms
        self.hold_creates_until_ms = hold_creates_until_ms
        self._replay_until = replay_until

    @property
    def is_held(self) -> bool:
        return not self.closing

    def holds_creates(self, now_ms: int) -> bool:
        """Whether calls of an owner before may still be under way: whoever takes over meanwhile must hold creates, too."""
        return now_ms < self.hold_creates_until_ms

    @property
    def changes(self) -> int:
        """Another number whenever a commit would say something else."""
        return self.ledger.changes + sum(replay.ledger.changes for replay in self.replays.values())

    @property
    def marked_until(self) -> int:
        """Below this offset what is read, and not all finished yet, carries the mark of a replay; 0: nothing does."""
        return self._replay_until if self._replay_until and self.ledger.floor() < self._replay_until else 0

    def wants(self, message: Message) -> bool:
        """Whether the message is one of those that are read here: of a replay not all are."""
        return True

    def message(self, record: Record) -> Message:
        """The record as this stage's steps see it."""
        if record.offset < self._replay_until:
            record = msgspec.structs.replace(record, headers=(*record.headers, (REPLAY, OFFSETS_LOST)))
        message = Message(record)
        message.shared_lanes = self._stage.shared_lanes(message)
        message.urgent = self._stage.urgent(message)
        if self.waits and record.offset < self._waited_until:
            message.waited_since_ms = next((since for key in wider(message.lane_key) if (since := self.waits.get(key))), 0)
        message.held_since_ms = self._held_since_ms
        message.hold_creates_until_ms = self.hold_creates_until_ms
        return message


class Replay(Partition):
    """A replay of a range of one partition: a ledger of its own beside the live one, whose main cursor reads the range once."""

    def __init__(self, beside: Partition, row: ReplayRow, stage: Stage, held_since_ms: int) -> None:
        first, self.end = row.ranges[str(beside.number)]
        start = max(first, beside.replays_committed.pop(short_id(row.id), first))
        ledger: Ledger[Entry] = Ledger(start, remembered=LEAST_REMEMBERED)
        # An owner before may have died with a create of this replay under way, as with one of the live reading.
        hold_until = beside.hold_creates_until_ms
        super().__init__(beside.number, stage, ledger, held_since_ms=held_since_ms, hold_creates_until_ms=hold_until, replay_until=0)
        self.row = row
        self.beside = beside
        self.missing = ""
        """What of its range is no longer in the log, if anything is."""

    @property
    def is_held(self) -> bool:
        return not self.closing and not self.beside.closing

    @property
    def is_done(self) -> bool:
        return self.ledger.floor() >= self.end

    def give_up(self, log_end: int) -> None:
        """The log ends before the range does: it was made anew, and what was to be read again never comes. What is in flight is finished."""
        self.missing = f"it ended at {self.ledger.floor()}: the log was made anew and ends at {log_end}, before {self.end}"
        self.ledger.skip_to(self.end)
        for lag in self.ledger.lagging.values():
            self.ledger.swept(lag, self.end)

    def wants(self, message: Message) -> bool:
        row = self.row
        return (
            (not row.org or row.org == message.org)
            and (not row.workspace or row.workspace == message.workspace)
            and (not row.session or row.session == message.session)
            and (not row.key or row.key == message.key)
        )

    def message(self, record: Record) -> Message:
        marked = msgspec.structs.replace(
            record, headers=(*(header for header in record.headers if header[0] != REPLAY), (REPLAY, self.row.id.encode()))
        )
        return super().message(marked)


def short_id(id: str) -> int:
    """What a commit carries of a replay's id."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=4).digest())
