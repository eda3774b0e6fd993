"""The ledger of one assigned partition: which messages are unfinished, which lane each belongs to, and what a commit may say.

Pure: no clock, no Kafka, no step. It lives as long as its assignment. Four things make up its state: `main`, the next offset that live
reading takes; `unfinished`, the messages held in memory; `lagging`, per lane the offset from which its messages were not taken yet; and
the finished offsets that a lane could come back to. A message belongs to the narrowest lagging lane that covers it.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from typing import Final, Generic, TypeVar

from pipeline.lanes import BUCKET_BYTES, ORG_BYTES, LaneKey, wider
from pipeline.metadata import LIMIT_CHARACTERS, Cursor, Encoded, Progress, encode

T = TypeVar("T")

REMEMBERED_FINISHED: Final = 50_000
"""How many finished offsets that may be met again one ledger remembers; beyond it the org with the most of them may repeat a whole run."""
LEAST_REMEMBERED: Final = 2_000


class Verdict(Enum):
    """What becomes of a message that was read."""

    TAKE = "take"
    """Work on it now."""
    PASS = "pass"
    """It belongs to a lagging lane: passed over, counted, not kept."""
    DONE = "done"
    """It was finished before, or is held already."""


class Lag:
    """One lagging lane. Only `read`, `following` and the counts are the ledger's; the rest says why, for people and for the sweep."""

    __slots__ = (
        "alone",
        "at_least",
        "behind",
        "cause",
        "counted_above",
        "following",
        "key",
        "last",
        "mend",
        "name",
        "oldest_ms",
        "passed",
        "read",
        "rescued_to",
        "since_ms",
        "state",
        "wake",
    )

    def __init__(self, key: LaneKey, read: int, oldest_ms: int) -> None:
        self.key = key
        self.read = read
        """The first offset whose message of this lane was not taken yet."""
        self.following = False
        """It has met the main cursor: its new messages are taken live; it stands only until its old ones are finished."""
        self.oldest_ms = oldest_ms
        self.passed = 0
        """Messages passed over since it began to lag and not taken since."""
        self.alone = False
        """It was made for one message and what comes after it in its order key: of such there may be as many as there are people."""
        self.counted_above = (0, 0)
        """From where to where a wider lane has counted its messages: each is counted here once the sweep of that one comes past it."""
        self.last = 0
        """No message of it above this offset was taken: only below it a wider lane could take one again."""
        self.at_least = False
        """`passed` is a lower bound: the lane came out of a commit."""
        self.behind = False
        """Urgent messages may be among those that were not taken yet: no later one may overtake them."""
        self.name = ""
        self.state = "restored"
        self.rescued_to = 0
        """While it is rescued: what came before this offset goes to the dead letters."""
        self.since_ms = 0
        self.cause = ""
        self.mend = ""
        self.wake: Callable[[], bool] | None = None
        """For a lane that waits: whether what it waits for has come."""


class Held(Generic[T]):
    """One unfinished message in memory."""

    __slots__ = ("body", "key", "offset", "timestamp_ms")

    def __init__(self, offset: int, key: LaneKey, timestamp_ms: int, body: T) -> None:
        self.offset, self.key, self.timestamp_ms, self.body = offset, key, timestamp_ms, body


class Ledger(Generic[T]):
    """See the module. `T` is whatever the engine hangs on a message."""

    def __init__(self, main: int, progress: Progress | None = None, *, remembered: int = REMEMBERED_FINISHED) -> None:
        self.main = main
        self.unfinished: dict[int, Held[T]] = {}
        self.lagging: dict[LaneKey, Lag] = {}
        self.alone: Counter[LaneKey] = Counter()
        """Per org, how many lanes of one order key each have still to be read."""
        self.forgotten = 0
        """Finished offsets that could not be remembered: so many a lane may repeat."""
        self.changes = 0
        """Counts every change of what a commit would say."""
        self.controls_seen = progress.controls_seen if progress else 0
        self._finished: dict[LaneKey, set[int]] = {}
        """Per org."""
        self._finished_count = 0
        self._forgotten: dict[LaneKey, tuple[int, int]] = {}
        """Per org, from where to where finished offsets were forgotten; until no lane can come back there, what is remembered above does not count."""
        self._remembered = remembered
        self._lowest: tuple[tuple[int, int, int], dict[LaneKey | None, Cursor]] = ((-1, 0, 0), {})
        """The lowest held, by lane, as of some state."""
        self._jumbled = False
        """The first of `unfinished` may not be the lowest."""
        for key, cursor in (progress.cursors if progress else {}).items():
            lag = self.lagging[key] = Lag(key, cursor.offset, cursor.oldest_ms)
            lag.at_least = lag.behind = True
            lag.last = max(main, cursor.offset)

    # -- reading ----------------------------------------------------------------------------------

    def owner(self, key: LaneKey) -> Lag | None:
        """The narrowest lagging lane that covers a message (or lane) of this key."""
        lagging = self.lagging
        if not lagging:
            return None
        length = len(key)
        while length > 0:
            lag = lagging.get(key[:length])
            if lag is not None:
                return lag
            length = length - 4 if length > ORG_BYTES else BUCKET_BYTES if length == ORG_BYTES else 0
        return None

    def live(self, offset: int, key: LaneKey, timestamp_ms: int, *, urgent: bool = False) -> Verdict:
        """The main cursor reads `offset`; on TAKE the caller holds it next. Offsets come upwards; gaps are gone for good.

        An `urgent` message is taken though its lane lags (and the lane will not take it again), unless others like it are left behind.
        """
        if offset < self.main:
            return Verdict.DONE
        self.main = offset + 1
        self.changes += 1
        lag = self.owner(key)
        if lag is None:
            return Verdict.TAKE
        if offset < lag.read:
            # A restored lane whose first unfinished message lies beyond the committed offset.
            return Verdict.DONE
        if lag.following or (urgent and not lag.behind):
            lag.last = offset
            return Verdict.TAKE
        if not lag.passed and not lag.at_least:
            lag.oldest_ms = timestamp_ms
        lag.passed += 1
        return Verdict.PASS

    def skip_to(self, offset: int) -> None:
        """The main cursor goes on at `offset`: what lay between is gone from the log."""
        self.main = max(self.main, offset)
        self.changes += 1

    def sweep(self, offset: int, key: LaneKey, timestamp_ms: int, active: Mapping[LaneKey, Lag]) -> Verdict:
        """The sweep reads `offset`, below the main cursor, for the `active` lanes. TAKE: the caller holds it next, or gives it back (`cover`).

        A lane may be active only while its `read` is not below the place from which the sweep has read without a gap: what lies between
        would be passed over for good.
        """
        lag = self.owner(key)
        if lag is None or lag.following or offset < lag.read:
            return Verdict.PASS
        is_active = active.get(lag.key) is lag
        if is_active and lag.alone and (above := self._comes_to(lag, offset)) is not None:
            lag, is_active = above, active.get(above.key) is above
        if offset < lag.counted_above[1]:
            self._count_here(lag, offset, key, is_active, active)
        if not is_active:
            return Verdict.PASS
        lag.read = offset + 1
        lag.last = max(lag.last, offset)
        lag.oldest_ms = timestamp_ms
        self.changes += 1
        if offset in self.unfinished or self._was_finished(offset, key):
            return Verdict.DONE
        lag.passed = max(0, lag.passed - 1)
        return Verdict.TAKE

    def _comes_to(self, lag: Lag, offset: int) -> Lag | None:
        """The wider lane whose cursor a lane of one order key has come to, and which takes its messages from here on; None: it goes on by itself."""
        above = next((self.lagging[key] for key in wider(lag.key)[1:] if key in self.lagging), None)
        if (
            above is None
            or above.following
            or not lag.last < above.read <= offset
            or any(held.key == lag.key for held in self.unfinished.values())
        ):
            # What is held of it would draw the wider lane's cursor back.
            return None
        above.passed += lag.passed
        # Which lane had counted which of them is no longer known.
        above.at_least = True
        above.behind |= lag.behind
        self._drop(lag)
        return above

    def _drop(self, lag: Lag) -> None:
        self._counted_alone(lag, -1)
        del self.lagging[lag.key]
        self.changes += 1

    def _counted_alone(self, lag: Lag, step: int) -> None:
        """Before it follows or goes, or once it lags again."""
        if lag.alone and not lag.following:
            self.alone[lag.key[:ORG_BYTES]] += step

    def _count_here(self, lag: Lag, offset: int, key: LaneKey, is_active: bool, active: Mapping[LaneKey, Lag]) -> None:
        """A message that a wider lane counted before `lag` began: the count goes with whichever of them comes past it for good."""
        *narrower, counts = self._counting(lag, offset)
        if not narrower or not (is_active or counts.key in active) or offset in self.unfinished or self._was_finished(offset, key):
            return
        counts.passed = max(0, counts.passed - 1)
        (lag if is_active else narrower[-1]).passed += 1

    def _counting(self, lag: Lag, offset: int) -> list[Lag]:
        """`lag` and the wider lanes that counted this message before the next narrower one began; the last one counts it now."""
        lanes = [lag]
        while lanes[-1].counted_above[0] <= offset < lanes[-1].counted_above[1]:
            above = next((wide for wide in self.wider_lagging(lanes[-1]) if wide.read <= offset), None)
            if above is None:
                break
            lanes.append(above)
        return lanes

    def count_passed(self, lag: Lag, offset: int) -> None:
        """Counts a message that `lag` covers, and that was taken and could not be kept."""
        self._counting(lag, offset)[-1].passed += 1

    def swept(self, lag: Lag, offset: int) -> None:
        """Nothing of `lag` is left below `offset` that was not taken. At the main cursor the lane follows."""
        lag.read = max(lag.read, min(offset, self.main))
        if lag.read >= self.main:
            self._counted_alone(lag, -1)
            lag.following, lag.passed, lag.at_least, lag.behind, lag.wake = True, 0, False, False, None
        self.changes += 1

    # -- holding ----------------------------------------------------------------------------------

    def hold(self, offset: int, key: LaneKey, timestamp_ms: int, body: T) -> Held[T]:
        """Keeps a taken message until it is finished or released."""
        if not self._jumbled and self.unfinished and next(reversed(self.unfinished)) > offset:
            self._jumbled = True
        held = self.unfinished[offset] = Held(offset, key, timestamp_ms, body)
        return held

    def finish(self, offset: int) -> None:
        """All outputs of the message are acknowledged. Raises KeyError for a message that is not held: a step backwards is a bug."""
        held = self.unfinished.pop(offset)
        self.changes += 1
        # Cheap and on the safe side: `tidy` asks exactly.
        if self.lagging or self._jumbled or (self.unfinished and next(iter(self.unfinished)) < offset):
            self._remember(offset, held.key[:ORG_BYTES])

    def _remember(self, offset: int, org: LaneKey) -> None:
        if self._finished_count >= self._remembered:
            largest = max(self._finished, key=lambda each: len(self._finished[each]), default=org)
            self._forget(largest, self._finished.pop(largest, {offset}))
        forgotten = self._forgotten.get(org)
        if self._finished_count >= self._remembered or (forgotten is not None and forgotten[0] <= offset < forgotten[1]):
            self._forget(org, {offset})
            return
        finished = self._finished.setdefault(org, set())
        self._finished_count -= len(finished)
        finished.add(offset)
        self._finished_count += len(finished)

    def _forget(self, org: LaneKey, gone: set[int]) -> None:
        """These finished offsets of `org`, and all above them, may repeat."""
        lowest = min(gone)
        first, end = self._forgotten.get(org, (lowest, lowest))
        self._forgotten[org] = (min(first, lowest), max(end, self.main))
        self.forgotten += len(gone)
        self._finished_count = sum(map(len, self._finished.values()))

    def release(self, offset: int, lane: LaneKey) -> Lag:
        """Gives a held message back to the log: `lane`, or a narrower one that lags already, covers it from its offset on."""
        held = self.unfinished.pop(offset)
        lag = self.cover(offset, held.key, held.timestamp_ms, lane)
        self.count_passed(lag, offset)
        return lag

    def cover(self, offset: int, key: LaneKey, timestamp_ms: int, lane: LaneKey) -> Lag:
        """Sees to it that a message (about to be read, or given back) is covered by a lagging `lane`, or by a narrower one that lags already."""
        lag = self.owner(key)
        if lag is None or len(lag.key) < len(lane):
            return self.lag(lane, offset, timestamp_ms, alone=lane == key)
        return self.lag(lag.key, offset, timestamp_ms, alone=lag.key == key)

    def lag(self, lane: LaneKey, read: int, oldest_ms: int, *, alone: bool = False) -> Lag:
        """The lane lags from `read` on, if it does not yet from a lower offset. `read` is a held message's offset, or the main cursor's."""
        lag = self.lagging.get(lane)
        self.changes += 1
        if lag is None:
            lag = self.lagging[lane] = self._narrower(lane, read, oldest_ms)
            lag.alone = alone
            # In an order key nothing after a message that is given back was finished; of a wider lane anything that was read may be.
            lag.last = read if alone else self.main
            self._counted_alone(lag, 1)
            return lag
        self._counted_alone(lag, -1)
        lag.alone |= alone
        if read >= self.main and lag.read > self.main:
            # Restored, and finished up to there.
            lag.following = False
        elif lag.following:
            self._counted_below(lag)
            lag.following, lag.read, lag.oldest_ms, lag.passed = False, read, oldest_ms, 0
        elif read < lag.read:
            self._counted_below(lag)
            lag.read, lag.oldest_ms = read, min(lag.oldest_ms, oldest_ms)
        self._counted_alone(lag, 1)
        return lag

    def _counted_below(self, lag: Lag) -> None:
        """The lane goes back to where its sweep was before: what narrower ones have there, they count by now."""
        if len(self.lagging) > 1:
            for other in self.lagging.values():
                if len(other.key) > len(lag.key) and other.key.startswith(lag.key):
                    first, end = other.counted_above
                    other.counted_above = (max(first, lag.read), end)

    def set_aside(self, lanes: Collection[LaneKey]) -> None:
        """Held messages of these lanes rest for long: each lane gets a cursor of its own, so that the committed offset goes on without them.

        New messages of the lanes are taken all the same. None for a lane that has still to be read, or that holds nothing back.
        """
        free = self.main
        lowest: dict[LaneKey, Held[T]] = {}
        orgs = {lane[:ORG_BYTES] for lane in lanes}
        for held in self.unfinished.values():
            owner = self.owner(held.key)
            # Most messages are of orgs of which nothing rests.
            lane = next((key for key in wider(held.key) if key in lanes), None) if held.key[:ORG_BYTES] in orgs else None
            if lane is not None and (owner is None or (owner.following and len(owner.key) < len(lane))):
                if lane not in lowest or held.offset < lowest[lane].offset:
                    lowest[lane] = held
            elif owner is None:
                free = min(free, held.offset)
        for lane, first in lowest.items():
            if first.offset < free and lane not in self.lagging:
                aside = self.lagging[lane] = Lag(lane, self.main, first.timestamp_ms)
                aside.following, aside.last = True, self.main
                self.changes += 1

    def _narrower(self, lane: LaneKey, read: int, oldest_ms: int) -> Lag:
        """A new lane takes over what a wider one has of it."""
        lag, above = Lag(lane, read, oldest_ms), self.owner(lane)
        if above is None:
            return lag
        lag.behind = above.behind
        if above.read > self.main:
            lag.read = max(read, above.read) if read >= self.main else read
        elif not above.following and above.read < read:
            lag.read, lag.oldest_ms, lag.at_least = above.read, min(oldest_ms, above.oldest_ms), True
        if not above.following:
            lag.counted_above, lag.at_least = (above.read, self.main), lag.at_least or above.at_least
        return lag

    def _was_finished(self, offset: int, key: LaneKey) -> bool:
        org = key[:ORG_BYTES]
        forgotten = self._forgotten.get(org)
        if forgotten is None or offset < forgotten[0]:
            return offset in self._finished.get(org, ())
        # Forgotten, perhaps. But a later message of the same order key was taken only because this one was finished.
        return any(held.key == key and held.offset > offset for held in self.unfinished.values())

    # -- committing -------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Lets go of lanes that have caught up and have nothing left, and of finished offsets that no lane can come back to."""
        held = self._lowest_held()
        floor = self._lowest_free(held)
        for key, lag in list(self.lagging.items()):
            if lag.following and lag.read <= self.main and not self._wider_lags(lag):
                own = held.get(key)
                if own is None or (own.offset >= floor and not self.wider_lagging(lag)):
                    self._drop(lag)
        self.alone = +self.alone
        self._prune()
        if self._jumbled and not self.lagging:
            for offset in sorted(self.unfinished):
                self.unfinished[offset] = self.unfinished.pop(offset)
            self._jumbled = False

    def _prune(self) -> None:
        """Forgets the finished offsets that no lane stands below, or could be made to."""
        if not self._finished and not self._forgotten:
            return
        reach: dict[LaneKey, int] = {}
        for entry in self.unfinished.values():
            org = entry.key[:ORG_BYTES]
            reach[org] = min(reach.get(org, entry.offset), entry.offset)
        for key, lag in self.lagging.items():
            if not lag.following:
                org = key[:ORG_BYTES]
                reach[org] = min(reach.get(org, lag.read), lag.read)
        for org, finished in list(self._finished.items()):
            lowest = _lowest(reach, org, self.main)
            kept = {offset for offset in finished if offset >= lowest}
            self._finished_count -= len(finished) - len(kept)
            if kept:
                self._finished[org] = kept
            else:
                del self._finished[org]
        for org, (_, end) in list(self._forgotten.items()):
            if _lowest(reach, org, self.main) >= end:
                del self._forgotten[org]

    def wider_lagging(self, lag: Lag) -> list[Lag]:
        """The wider lanes that lag too, and have not met the main cursor."""
        if len(self.lagging) == 1:
            # The usual case, and asked at each step of a sweep.
            return []
        found = map(self.lagging.get, wider(lag.key)[1:])
        return [other for other in found if other is not None and not other.following]

    def _wider_lags(self, lag: Lag) -> bool:
        """Whether this lane must be kept, since a wider one would take its messages again, or think them finished."""
        return any(
            other is not None and ((not other.following and lag.last >= other.read) or other.read > self.main)
            for other in map(self.lagging.get, wider(lag.key)[1:])
        )

    def commit(self, *, drained: bool = False, replays: tuple[int, ...] = (), limit: int = LIMIT_CHARACTERS) -> Encoded:
        """What may be committed now: every unfinished message is at or above the offset, or at or above the cursor of its lane."""
        held = self._lowest_held()
        offset = self._lowest_free(held)
        cursors: dict[LaneKey, Cursor] = {}
        for key, lag in self.lagging.items():
            own = held.get(key)
            if lag.following and lag.read <= self.main:
                if own is not None:
                    cursors[key] = own
                elif self._wider_lags(lag):
                    cursors[key] = Cursor(self.main, lag.oldest_ms)
            elif own is not None and own.offset < lag.read:
                cursors[key] = own
            else:
                cursors[key] = Cursor(lag.read, lag.oldest_ms)
        encoded = encode(offset, Progress(cursors, drained, self.controls_seen, replays), limit)
        return dataclasses.replace(encoded, repeats=max(encoded.repeats, self._finished_beside(cursors)))

    def _finished_beside(self, cursors: Mapping[LaneKey, Cursor]) -> int:
        """How many finished messages a restart takes again with those that rest: of each org that was set aside whole."""
        aside = (key for key, lag in self.lagging.items() if lag.following and len(key) == ORG_BYTES and key in cursors)
        return sum(offset >= cursors[org].offset for org in aside for offset in self._finished.get(org, ()))

    def floor(self) -> int:
        """Everything below this offset is finished."""
        reads = (lag.read for lag in self.lagging.values() if not lag.following)
        return min(self.main, min(self.unfinished, default=self.main), min(reads, default=self.main))

    def _lowest_held(self) -> dict[LaneKey | None, Cursor]:
        """Per lagging lane (None: no lane) the lowest offset held in memory."""
        state = (self.changes, len(self.unfinished), len(self.lagging))
        if self._lowest[0] != state:
            self._lowest = state, {key: Cursor(held.offset, held.timestamp_ms) for key, held in self._lowest_by_lane().items()}
        return self._lowest[1]

    def _lowest_by_lane(self) -> dict[LaneKey | None, Held[T]]:
        if not self.lagging and not self._jumbled:
            return {None: next(iter(self.unfinished.values()))} if self.unfinished else {}
        orgs = {key[:ORG_BYTES] for key in self.lagging}
        lowest: dict[LaneKey | None, Held[T]] = {}
        for held in self.unfinished.values():
            key: LaneKey | None = None
            # Most messages are of orgs of which nothing lags.
            if orgs and (held.key[:ORG_BYTES] in orgs or held.key[:BUCKET_BYTES] in orgs):
                lag = self.owner(held.key)
                key = None if lag is None else lag.key
            known = lowest.get(key)
            if known is None or held.offset < known.offset:
                lowest[key] = held
        return lowest

    def _lowest_free(self, held: Mapping[LaneKey | None, Cursor]) -> int:
        free = held.get(None)
        return self.main if free is None else min(self.main, free.offset)

    # -- telling ----------------------------------------------------------------------------------

    def covered_by(self, lane: LaneKey) -> list[Held[T]]:
        """The messages held in memory that `lane` covers."""
        return [held for held in self.unfinished.values() if held.key.startswith(lane)]

    def taken(self) -> dict[LaneKey, tuple[int, int]]:
        """Per lagging lane: how many of its messages are held below the offset that a commit would give, and the time of the oldest, Unix ms."""
        found: dict[LaneKey, tuple[int, int]] = {}
        free = self.free() if self.lagging else 0
        for held in self.unfinished.values():
            if held.offset < free and (lag := self.owner(held.key)) is not None:
                count, oldest_ms = found.get(lag.key, (0, held.timestamp_ms))
                found[lag.key] = count + 1, min(oldest_ms, held.timestamp_ms)
        return found

    def free(self) -> int:
        """The offset that a commit would give: what is held below it has the cursor of a lane."""
        return self._lowest_free(self._lowest_held())

    def oldest_ms(self) -> int:
        """Time of the oldest unfinished message's record, Unix ms; 0: everything read is finished."""
        times: Iterable[int] = (
            *(held.timestamp_ms for held in self.unfinished.values()),
            *(lag.oldest_ms for lag in self.lagging.values() if not lag.following and (lag.passed or lag.at_least)),
        )
        return min(times, default=0)

    def remember(self, most: int) -> None:
        """From now on so many finished offsets are remembered."""
        self._remembered = most

    def remembered(self) -> int:
        """How many finished offsets are in memory."""
        return self._finished_count

    def waiting(self) -> int:
        """How many messages below the main cursor are unfinished."""
        return len(self.unfinished) + sum(lag.passed for lag in self.lagging.values())


def _lowest(reach: Mapping[LaneKey, int], org: LaneKey, main: int) -> int:
    """The lowest place of an org, by itself or by its bucket."""
    return min(reach.get(org, main), reach.get(org[:BUCKET_BYTES], main))
