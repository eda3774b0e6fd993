"""One worker of one stage: a member of its group. Takes partitions, reads them live, commits, and lets go of them.

The only place that commits. Working on messages is the dispatcher's, lagging lanes are the sweep's.
"""

import asyncio
import dataclasses
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec
import structlog

from pipeline.delivery import deliver
from pipeline.dispatch import CROWD, RESCUE, Dispatcher
from pipeline.errors import CommitRefused, MetadataError, NotAllowed, OffsetOutOfRange, Stuck, TransportError, WriteError
from pipeline.lanes import ORG_BYTES, WORKSPACE_BYTES, LaneKey, key_of_name, wider
from pipeline.ledger import LEAST_REMEMBERED, Lag, Ledger
from pipeline.lines import Entry, State
from pipeline.metadata import Encoded, Progress, decode, encode
from pipeline.partition import Partition, Replay
from pipeline.records import Commit, Outgoing, Record
from pipeline.replays import Replays
from pipeline.stage import Observer, Stage
from pipeline.sweep import Sweep, Swept
from pipeline.tables import Tables, readable
from pipeline.transport import Transport
from pipeline.watchdog import Place, Sight, Watchdog
from schemas.messages import Cause
from schemas.tables import GroupRow, LaneRow, RecoveryRow

log = structlog.get_logger()

LANES = "lanes"
PARTITION = "partition"
"""In the table `lanes`: what is told of a whole partition."""
REST = "org:*"
"""Stands in the table `lanes` for all the lanes for which a partition has no row of their own."""
LOST = "offsets_below_log"
"""Code of a range that the log has lost."""
_LOST_KEYS = "lost:"
"""How the keys in the table `lanes` begin of what tells of a range that the log has lost."""
_FETCH_SECONDS = 0.2
_PAUSE_AFTER_ERROR_SECONDS = 1.0
_LANE_ROWS_SECONDS = 2.0
_GROUP_ROWS_SECONDS = 10.0
_OTHERS_ROWS_SECONDS = 60.0
_WRITE_ROWS_SECONDS = 5.0
"""Rows that are not acknowledged by then are written another time: whatever waits for them has something else to do."""
_RESTING_TOLD_SECONDS = 3.0
_LIVE: LaneKey = b""
"""Live reading, among the lanes that are warned of."""
_LAST_COMMIT_SECONDS = 10.0
_WATCH_SECONDS = 5.0
_LOST_LOOKED_FOR_SECONDS = 3_600.0
_ASIDE_OF_ORG, _ASIDE_OF_PARTITION = 32, 64
"""So many lanes of those who rest for long get cursors of their own: far fewer than a commit has room for, or they would be folded."""
_TOLD_STATES = {"restored": "waiting", RESCUE: "blocked", CROWD: "waiting"}
"""States that are the engine's own, as they are told."""
_STALLED_MEND = "the worker ends and is started again by itself; where that does not help, look at the broker that leads the partition"
_STALLED_MENDS = {"commit": f"look at the broker that coordinates the group, and whether the table {LANES} can be written"}
_encoder = msgspec.json.Encoder()


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """Whether a worker can do its work and makes progress."""

    ready: bool
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class _Stopped:
    """A partition that is not worked on, since its committed offset is not one of ours."""

    reason: str
    commit: Commit
    bounds: tuple[int, int]


class Worker:
    """See the module."""

    def __init__(
        self,
        stage: Stage,
        transport: Transport,
        tables: Tables,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float],
    ) -> None:
        self.stage = stage
        self._transport, self._tables, self._observer = transport, tables, observer
        self._clock, self._random = clock, random
        self._writer = transport.writer()
        self._group = transport.group_reader(stage.reads, stage.name, self)
        self._dispatcher = Dispatcher(stage, tables, self._writer, observer, clock=clock, lease_seconds=self._group.lease_seconds)
        self._dispatcher.ledgers = lambda: _ledgers(self._partitions.values())
        self._partitions: dict[int, Partition] = {}
        self._replays = Replays(
            stage, tables, transport, self._dispatcher, lambda: list(self._partitions.values()), self._write_rows,
            live_is_busy=self._live_is_busy, clock=clock,
        )  # fmt: skip
        self._loading: list[int] = []
        self._taken: dict[int, Partition] = {}
        """Claimed, and not begun yet."""
        self._is_leaving = False
        self._stopped_partitions: dict[int, _Stopped] = {}
        self._group_told: dict[int, tuple[int, int]] = {}
        """By partition: when its row `group` was written, Unix ms, and how many repeats it tells of."""
        self._assignment = 0
        self._tasks: anyio.abc.TaskGroup | None = None
        self._joined = False
        self._stop = asyncio.Event()
        self._last_live = 0.0
        self._watchdog: Watchdog | None = None
        self._reading_rests = False
        """Live reading waits on purpose, or others had the turn."""
        self._commit_lock = anyio.Lock()
        self._commit_error = ""
        """Why the last commit was not taken; empty: it was."""
        self._lanes_told_at = 0.0

    # -- life ---------------------------------------------------------------------------------------

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Works until `stop`; then stops in two phases and returns. Raises Stuck where only a start anew helps, NotAllowed without a right."""
        await self._writer.start()
        try:
            async with anyio.create_task_group() as tasks, anyio.create_task_group() as work:
                self._tasks = tasks
                self._dispatcher.start(work)
                sweep = Sweep(
                    self.stage.reads,
                    self._transport.reader(),
                    self._dispatcher,
                    self._swept,
                    live_is_busy=self._live_is_busy,
                    lost=self._lost,
                    share=self.stage.limits.sweep_share,
                )
                self._tables[LANES].subscribe(self._lanes_changed)
                await self._group.start()
                tasks.start_soon(sweep.run)
                tasks.start_soon(self._read_live)
                tasks.start_soon(self._replays.run)
                tasks.start_soon(self._commit_on)
                tasks.start_soon(self._tell_on)
                tasks.start_soon(self._watch, sweep)
                task_status.started()
                await self._stop.wait()
                tasks.cancel_scope.cancel()
        finally:
            self._dispatcher.stop_intake()
            with anyio.CancelScope(shield=True), anyio.move_on_after(self.stage.limits.stop_seconds + 30):
                await self._group.stop()
                await self._writer.stop()

    async def stop(self) -> None:
        """Two phases: no more intake and what is in flight finished; then the commit, and leaving the group."""
        self._is_leaving = True
        self._dispatcher.stop_intake()
        drained = False
        with anyio.move_on_after(self.stage.limits.stop_seconds):
            await self._dispatcher.quiet(_ledgers(self._partitions.values()))
            drained = True
        if not drained:
            log.warning("stopped with calls in flight: they may be repeated", stage=self.stage.name)
        leaving = [*self._partitions.values(), *self._taken.values()]
        await self._commit_last(leaving, drained=drained)
        self._forget(leaving)
        self._stop.set()

    def health(self) -> Health:
        """For /readyz. A worker without partitions is ready."""
        if not self._joined:
            return Health(False, f"{self.stage.name}: has not joined its group yet")
        if self._stopped_partitions:
            number, stopped = next(iter(self._stopped_partitions.items()))
            return Health(False, f"{self.stage.name}: partition {number} is stopped: {stopped.reason}")
        if self._loading:
            return Health(False, f"{self.stage.name}: partitions are being taken over")
        now = asyncio.get_running_loop().time()
        idle = now - self._dispatcher.last_progress
        if self._dispatcher.is_working and idle > self.stage.limits.stuck_seconds:
            return Health(False, f"{self.stage.name}: no progress for {idle:.0f} s with work under way")
        trouble = (self._watchdog and self._watchdog.trouble(now)) or self._tables.trouble()
        return Health(not trouble, f"{self.stage.name}: {trouble}" if trouble else "")

    def nudge(self, lane: str) -> None:
        """Something about this lane was changed: what is blocked or waits at or below it is tried at once, what is closed now is not worked on."""
        self._dispatcher.board.nudge(lane)
        self._dispatcher.look_again(lane)
        self._dispatcher.changed.set()

    def _swept(self) -> Sequence[Swept]:
        return [place for partition in self._partitions.values() for place in (partition, *partition.replays.values())]

    def _live_is_busy(self) -> bool:
        return asyncio.get_running_loop().time() - self._last_live < 0.1

    # -- taking and letting go ------------------------------------------------------------------------

    async def assigned(self, partitions: frozenset[int]) -> None:
        """The group gave these. They are worked on once their ledgers are loaded, each on its own."""
        self._joined = True
        self._assignment += 1
        self._observer.rebalanced(self.stage.name, len(partitions))
        if self._is_leaving or self._tasks is None or self._tasks.cancel_scope.cancel_called:
            # They go to somebody else as soon as the group has noticed.
            return
        self._loading = sorted(partitions - self._partitions.keys())
        if self._loading:
            self._tasks.start_soon(self._take, list(self._loading), self._assignment)

    async def revoked(self, partitions: frozenset[int]) -> None:
        """They go: what is in flight is finished within the grace time and committed; the rest is the next owner's."""
        self._loading = [number for number in self._loading if number not in partitions]
        for number in partitions:
            self._stopped_partitions.pop(number, None)
        leaving = [partition for number in partitions if (partition := self._partition(number)) is not None]
        for partition in leaving:
            partition.closing = True
        # Nothing more of them is started; only what is in flight stays, to be finished.
        self._dispatcher.forget_idle(_ledgers(leaving))
        drained = False
        try:
            with anyio.move_on_after(self.stage.limits.grace_seconds):
                await self._dispatcher.quiet(_ledgers(leaving))
                drained = True
            if not drained:
                log.warning("partitions were let go of with calls in flight: the next owner waits for them", stage=self.stage.name)
            await self._commit_last(leaving, drained=drained)
        finally:
            # Also where the group's patience ends first, as after the process was stopped for a while.
            self._forget(leaving)

    async def _commit_last(self, leaving: Sequence[Partition], *, drained: bool) -> None:
        """Before they go. A stop and a rebalance may let go of the same partitions at once: the first to come does it."""
        leaving = [partition for partition in leaving if self._partition(partition.number) is partition]
        for partition in leaving:
            partition.closing = True
        try:
            with anyio.move_on_after(_LAST_COMMIT_SECONDS) as patience:
                await self._tell_first(leaving)
                await self._commit(leaving, drained=drained, leaving=True)
                await self._told(self._tell_group, leaving, drained)
            if patience.cancelled_caught:
                log.warning("the last commit was not answered in time: some messages may be repeated", stage=self.stage.name)
        except TransportError as error:
            log.warning("the last commit was not taken: some messages will be repeated", stage=self.stage.name, error=str(error))

    def _forget(self, leaving: Sequence[Partition]) -> None:
        """Nothing of these is worked on or known any more."""
        self._dispatcher.forget(_ledgers(leaving))
        for partition in leaving:
            for held in (self._partitions, self._taken):
                if held.get(partition.number) is partition:
                    del held[partition.number]

    async def _take(self, numbers: Sequence[int], assignment: int) -> None:
        """Loads the ledgers of newly assigned partitions; tries until it can, or until they are gone again."""
        while True:
            try:
                await self._tables.caught_up()
                commits = await self._group.committed(numbers)
                bounds = await self._transport.cluster.offsets(self.stage.reads)
                break
            except NotAllowed:
                raise
            except TransportError as error:
                log.warning("partitions can't be taken over yet", stage=self.stage.name, error=str(error))
                await anyio.sleep(_PAUSE_AFTER_ERROR_SECONDS)
        if assignment != self._assignment:
            # What is not begun yet is taken anew.
            return
        loaded = [self._load(number, commits[number], bounds[number]) for number in numbers if number in self._loading]
        taken = [partition for partition in loaded if partition is not None]
        self._loading = [partition.number for partition in taken]
        await self._claim(taken, assignment)

    async def _claim(self, taken: Sequence[Partition], assignment: int) -> None:
        """Commits, before anything of a partition is worked on, that calls may be in flight from now on; then it is.

        Else who takes over from a worker that died before its first commit would find its predecessor's word that nothing is.
        """
        self._taken = {partition.number: partition for partition in taken}
        while taken and assignment == self._assignment:
            try:
                await self._tell_first(taken)
                await self._commit(taken, drained=False)
                await self._told(self._tell_group, taken, False)
            except NotAllowed:
                raise
            except TransportError as error:
                log.warning("partitions can't be taken over yet", stage=self.stage.name, error=str(error))
            if assignment != self._assignment:
                return
            taken = [partition for partition in taken if partition.number in self._loading]
            for partition in [partition for partition in taken if partition.committed_changes >= 0]:
                self._loading.remove(partition.number)
                self._begin(partition.number, partition)
            self._dispatcher.changed.set()
            if taken := [partition for partition in taken if partition.number in self._loading]:
                await anyio.sleep(_PAUSE_AFTER_ERROR_SECONDS)

    def _partition(self, number: int) -> Partition | None:
        """One that is worked on, or about to be."""
        return self._partitions.get(number) or self._taken.get(number)

    def _load(self, number: int, commit: Commit | None, bounds: tuple[int, int]) -> Partition | None:
        """The partition as its last owner left it; None, and told loudly, where that can't be known."""
        start, end = bounds
        now_ms = int(self._clock() * 1000)
        where = {"stage": self.stage.name, "partition": number}
        progress: Progress | None = None
        replay_until = 0
        lost_from = start
        if commit is None:
            if self._tables[LANES].get(self._row(number, "group")) is not None:
                self._observer.incident(self.stage.name, "offsets_lost", 1)
                log.error("the group's offsets are gone: the log is read from its start, marked as a replay", start=start, end=end, **where)
                replay_until = end
            elif start > 0:
                self._observer.incident(self.stage.name, "started_late", 1)
                log.error("the log does not begin at 0: what was before is not known to this group", start=start, **where)
            offset = start
        else:
            try:
                commit, progress = self._trusted(number, commit)
            except MetadataError as error:
                reason = (
                    f"its offset was moved by something else than Turnout ({error}): go on from there with "
                    f"`turnout cursors assume-none --stage {self.stage.name}`, or go back with `turnout cursors restore --stage {self.stage.name}`"
                )
                self._stopped_partitions[number] = _Stopped(reason, commit, bounds)
                self._observer.incident(self.stage.name, "foreign_commit", 1)
                log.error("partition is stopped: messages that were passed over could be lost", reason=reason, **where)
                return None
            offset = commit.offset
            replay_until = self._marked_until(number)
            if offset > end or any(cursor.offset > end for cursor in progress.cursors.values()):
                self._observer.incident(self.stage.name, "log_recreated", 1)
                log.error(
                    "the log ends before the committed offset: it was made anew, and is read from its start",
                    committed=offset,
                    end=end,
                    **where,
                )
                offset, progress, replay_until = start, None, end
            elif offset < start:
                lost_from, offset = offset, start
        ledger: Ledger[Entry] = Ledger(offset, progress)
        told = progress.replays if progress is not None else ()
        clean = commit is None or (progress is not None and progress.drained)
        hold_until = 0 if clean else now_ms + int(self.stage.limits.takeover_seconds * 1000)
        partition = Partition(
            number, self.stage, ledger, held_since_ms=now_ms, hold_creates_until_ms=hold_until, replay_until=replay_until
        )  # fmt: skip
        partition.replays_committed = dict(zip(told[::2], told[1::2], strict=True))
        if lost_from < start:
            self._tell_lost(partition, REST, lost_from, start)
        self._recall(partition)
        return partition

    def _recall(self, partition: Partition) -> None:
        """What an owner before has told of the lanes that lag: why, since when and how many. A wait goes on from when it began."""
        prefix = f"{self.stage.name}|{partition.number}|org:"
        for key, value in self._tables[LANES].items():
            row = readable(LANES, key, value, LaneRow) if key.startswith(prefix) else None
            if row is None or row.lane == REST:
                continue
            try:
                lanes = wider(key_of_name(row.lane))[::-1]
            except ValueError:
                # Its ids are not such as settings or Livestorm give.
                continue
            if row.state == "waiting" and len(lanes[-1]) > WORKSPACE_BYTES:
                # A wider lane waits for other things than each of its messages does.
                partition.waits[lanes[-1]] = row.since
            lag = partition.ledger.owner(lanes[-1])
            if lag is None or row.held:
                continue
            if lag.key == lanes[-1]:
                lag.name, lag.state, lag.since_ms, lag.cause, lag.mend = row.lane, row.state, row.since, row.cause, row.mend
                if row.state == "blocked" and len(lag.key) <= WORKSPACE_BYTES and row.next_try_at:
                    code, _, message = row.cause.partition(": ")
                    left = row.next_try_at / 1000 - self._clock()
                    self._dispatcher.board.restore(row.lane, Cause(code=code, message=message, hint=row.mend), left)
            elif not lag.name and (level := lanes.index(lag.key)):
                # A cursor of more than the row's lane, whose state and times were others. A bucket has no name.
                lag.name, lag.cause, lag.mend = "/".join(row.lane.split("/")[:level]), row.cause, row.mend
            lag.passed += row.waiting

    def _marked_until(self, number: int) -> int:
        """Up to where an owner before has read what is a replay, since the group's offsets were gone or the log was made anew."""
        row = self._group_row(number)
        return 0 if row is None else row.marked_until

    def _group_row(self, number: int) -> GroupRow | None:
        key = self._row(number, "group")
        return readable(LANES, key, self._tables[LANES].get(key), GroupRow)

    def _trusted(self, number: int, commit: Commit) -> tuple[Commit, Progress]:
        """The commit and what it carries; for one that is not ours, what somebody said shall be done. Raises MetadataError where nobody has."""
        try:
            return commit, decode(commit.metadata)
        except MetadataError:
            key = self._row(number, "recovery")
            row = readable(LANES, key, self._tables[LANES].get(key), RecoveryRow)
            if row is None:
                raise
        if row.way == "assume-none":
            return commit, Progress({}, drained=False)
        last = self._group_row(number)
        if last is None:
            raise MetadataError("nothing is known to go back to")
        # Since then anything may have been in flight.
        return Commit(last.offset, last.metadata), dataclasses.replace(decode(last.metadata), drained=False)

    def _row(self, number: int, what: str) -> str:
        """Key in the table `lanes`."""
        return f"{self.stage.name}|{number}|{what}"

    def _lanes_changed(self, key: str) -> None:
        """Somebody said how a stopped partition shall go on."""
        for number, stopped in list(self._stopped_partitions.items()):
            if key == self._row(number, "recovery") and self._tables[LANES].get(key) is not None:
                del self._stopped_partitions[number]
                self._begin(number, self._load(number, stopped.commit, stopped.bounds))

    def _begin(self, number: int, partition: Partition | None) -> None:
        if partition is not None:
            self._partitions[number] = partition
            self._taken.pop(number, None)
            share = self.stage.limits.finished_remembered // len(self._partitions)
            for each in self._partitions.values():
                each.ledger.remember(max(LEAST_REMEMBERED, share))
            self._group.seek(number, partition.ledger.main)
            self._replays.changed.set()

    # -- reading ------------------------------------------------------------------------------------

    async def _read_live(self) -> None:
        dispatcher = self._dispatcher
        loop = asyncio.get_running_loop()
        crowded = False
        while True:
            self._reading_rests = True
            if dispatcher.full:
                await self._until_room()
                continue
            for partition in self._partitions.values():
                if partition.stashed and not partition.hand_over:
                    stashed, partition.stashed = partition.stashed, []
                    self._admit(partition, stashed)
                    if not partition.stashed:
                        self._group.resume([partition.number])
            await dispatcher.worked_off()
            # Where some partitions filled the last fetch, the others' silence says nothing yet.
            self._reading_rests, crowded = crowded, False
            try:
                fetched = await self._group.fetch(_FETCH_SECONDS, self.stage.limits.fetch_messages)
            except OffsetOutOfRange as error:
                try:
                    await self._live_lost(error)
                except NotAllowed:
                    raise
                except TransportError as gone:
                    log.warning("the log can't be asked now", stage=self.stage.name, error=str(gone))
                    await anyio.sleep(_PAUSE_AFTER_ERROR_SECONDS)
                continue
            except NotAllowed:
                raise
            except TransportError as error:
                log.warning("the log can't be read now", stage=self.stage.name, error=str(error))
                await anyio.sleep(_PAUSE_AFTER_ERROR_SECONDS)
                continue
            crowded = sum(map(len, fetched.values())) >= self.stage.limits.fetch_messages
            for partition in self._partitions.values():
                partition.live_turn |= not partition.hand_over and not partition.stashed
            for number, records in fetched.items():
                reading = self._partitions.get(number)
                if reading is not None and records:
                    self._last_live = loop.time()
                    self._admit(reading, records)
            await anyio.lowlevel.checkpoint()

    async def _watch(self, sweep: Sweep) -> None:
        """Compares reading with the log, asked by other connections, partition by partition. Raises Stuck."""
        loop = asyncio.get_running_loop()
        seconds = self.stage.limits.stuck_seconds
        watchdog = self._watchdog = Watchdog(seconds, loop.time())
        while True:
            await anyio.sleep(min(_WATCH_SECONDS, seconds / 8))
            try:
                bounds = await self._transport.cluster.offsets(self.stage.reads)
            except NotAllowed:
                raise
            except TransportError as error:
                log.warning("the log can't be asked now", stage=self.stage.name, error=str(error))
                watchdog.unanswered(loop.time(), str(error))
                continue
            sights = self._sights({number: end for number, (_, end) in bounds.items()}, sweep)
            watchdog.answered(sights, loop.time())
            self._observer.unread(self.stage.name, sum(sight.behind for place, sight in sights.items() if place.reader == "live"))
            await self._told(self._tell_stalled, watchdog)
            if watchdog.is_stuck():
                raise Stuck(f"{self.stage.name}: {watchdog.trouble(loop.time())}: this process ends, to be started again")

    def _sights(self, ends: Mapping[int, int], sweep: Sweep) -> dict[Place, Sight]:
        """Where live reading, the sweep and the commits stand in each partition that is worked on, and what they have to do there."""
        sights: dict[Place, Sight] = {}
        for number, partition in self._partitions.items():
            if partition.closing or number not in ends:
                continue
            main = partition.ledger.main
            partition.unread = max(0, ends[number] - main)
            if not partition.unread:
                partition.read_ms = int(self._clock() * 1000)
            rests = self._reading_rests or partition.hand_over or bool(partition.stashed)
            sights[Place("live", number)] = Sight(main, partition.unread, rests)
            lagging = sum(not lag.following for ledger in _ledgers([partition]) for lag in ledger.lagging.values())
            sights[Place("sweep", number)] = Sight(sweep.moves[number], lagging, sweep.serves != number)
            uncommitted = abs(partition.changes - partition.committed_changes)
            owes = self._owes_rows(partition)
            reason = f"rows of the table {LANES} must be written first" if owes else self._commit_error
            sights[Place("commit", number)] = Sight(partition.committed_changes, uncommitted, reason=reason, lasts=owes)
        return sights

    async def _tell_stalled(self, watchdog: Watchdog) -> None:
        """Rows of the table `lanes` where reading has stalled, for `turnout lag`; each is taken away once it goes on, here or at a later owner's."""
        rows: dict[str, bytes | None] = {}
        table = self._tables[LANES]
        for place, trouble in watchdog.stalled().items():
            key = self._row(place.partition, place.reader)
            if table.get(key) is None:
                now_ms = int(self._clock() * 1000)
                row = LaneRow(
                    lane=PARTITION, state="blocked", since=now_ms, oldest_at=0, held=True, cause=f"no_progress: {trouble}",
                    mend=_STALLED_MENDS.get(place.reader, _STALLED_MEND),
                )  # fmt: skip
                rows[key] = _encoder.encode(row)
        moved = (self._row(place.partition, place.reader) for place in watchdog.moved)
        rows.update({key: None for key in moved if table.get(key) is not None})
        await self._write_rows(rows)

    async def _until_room(self) -> None:
        """Memory is full: nothing is read. A member that does not poll for long is thrown out, so now and then it polls, paused."""
        dispatcher = self._dispatcher
        with anyio.move_on_after(self.stage.limits.poll_seconds):
            while dispatcher.full:
                dispatcher.changed.clear()
                dispatcher.hurry()
                await dispatcher.changed.wait()
            return
        held = list(self._partitions.values())
        self._group.pause([partition.number for partition in held])
        try:
            await self._group.fetch(0.0, 1)
        except (OffsetOutOfRange, TransportError) as error:
            log.warning("the log can't be read now", stage=self.stage.name, error=str(error))
        self._group.resume([partition.number for partition in held if not partition.stashed])

    def _admit(self, partition: Partition, records: Sequence[Record]) -> None:
        if partition.closing or not records:
            return
        partition.read_ms = records[-1].timestamp_ms
        for index, record in enumerate(records):
            if partition.hand_over:
                partition.stashed.extend(records[index:])
                self._group.pause([partition.number])
                return
            self._dispatcher.admit(partition.message(record), partition.ledger)

    async def _live_lost(self, error: OffsetOutOfRange) -> None:
        """Live reading stands outside the log: what is gone is told, and reading goes on at the log's start. Raises TransportError."""
        number = error.partition
        partition = self._partitions.get(number)
        start, end = (await self._transport.cluster.offsets(self.stage.reads)).get(number, (0, 0))
        if partition is None or self._partitions.get(number) is not partition:
            return
        if error.offset < start:
            self._tell_lost(partition, REST, error.offset, start)
            partition.ledger.skip_to(start)
            self._group.seek(number, start)
        elif error.offset > end:
            self._observer.incident(self.stage.name, "log_recreated", 1)
            log.error(
                "the log ends before the place of live reading: it was made anew, and is read from its start",
                stage=self.stage.name, partition=number, place=error.offset, end=end,
            )  # fmt: skip
            # What the old log held is gone: nothing more of it is taken, and what is in flight ends before the new one is begun.
            partition.closing = True
            self._dispatcher.forget_idle(_ledgers([partition]))
            await self._dispatcher.quiet(_ledgers([partition]))
            self._dispatcher.forget(_ledgers([partition]))
            if self._partitions.get(number) is partition:
                now_ms = int(self._clock() * 1000)
                ledger: Ledger[Entry] = Ledger(start)
                self._begin(
                    number, Partition(number, self.stage, ledger, held_since_ms=now_ms, hold_creates_until_ms=0, replay_until=end)
                )  # fmt: skip
        else:
            await anyio.sleep(_PAUSE_AFTER_ERROR_SECONDS)
            if self._partitions.get(number) is partition:
                self._group.seek(number, partition.ledger.main)

    async def _lost(self, partition: Swept, lags: Sequence[Lag]) -> None:
        """The log starts beyond the cursors of these lanes: a range was lost, and is told. Or it was made anew, which ends a replay."""
        start, end = (await self._transport.cluster.offsets(self.stage.reads))[partition.number]
        live = self._partition(partition.number)
        if isinstance(partition, Replay) and end < partition.end:
            partition.give_up(end)
        lost = [lag for lag in lags if lag.read < start]
        if live is None or not lost:
            # Live reading finds it, too, and knows what to do: until then the sweep would come here again and again.
            await anyio.sleep(_PAUSE_AFTER_ERROR_SECONDS)
            return
        for lag in lost:
            self._tell_lost(live, lag.name or REST, lag.read, start, lag.oldest_ms)
            partition.ledger.swept(lag, start)

    def _tell_lost(self, partition: Partition, lane: str, lost_from: int, lost_to: int, oldest_ms: int = 0) -> None:
        """One loud line, a count, and a row of the table `lanes` that stands for as long as the log keeps a message."""
        self._observer.incident(self.stage.name, "offsets_below_log", lost_to - lost_from)
        log.error(
            "messages were deleted before they were worked on: docs/operations.md says how to bring them back",
            stage=self.stage.name, partition=partition.number, lane=lane, lost_from=lost_from, lost_to=lost_to, oldest_at_ms=oldest_ms,
        )  # fmt: skip
        what = f"messages {lost_from} to {lost_to - 1} were deleted before they were worked on" + (
            "" if lane == REST else ", those of this lane"
        )
        partition.lost[self._row(partition.number, f"{_LOST_KEYS}{lost_from}:{lane}")] = LaneRow(
            lane=lane, state="blocked", since=int(self._clock() * 1000), oldest_at=oldest_ms, cause=f"{LOST}: {what}",
            mend="docs/operations.md, under Incidents, says how to bring them back", lost=True,
        )  # fmt: skip

    # -- committing ---------------------------------------------------------------------------------

    async def _commit_on(self) -> None:
        while True:
            await anyio.sleep(self.stage.limits.commit_seconds)
            self._set_aside()
            try:
                await self._commit(list(self._partitions.values()), drained=False)
                self._commit_error = ""
            except NotAllowed:
                raise
            except CommitRefused as error:
                self._commit_error = str(error)
                log.warning("a commit was refused: the group goes on without this worker for now", stage=self.stage.name, error=str(error))
            except TransportError as error:
                self._commit_error = str(error)
                log.warning("a commit was not taken; it is tried again", stage=self.stage.name, error=str(error))
            self._guard_retention()
            self._tell_lag()

    def _set_aside(self) -> None:
        """Who has waited for a while, for a row or the next try, gets a cursor of his own: it must not hold the commit back for all.

        Where many of an org wait, the org gets one: never a lane between, of which finished messages would be repeated and the same
        person's later ones of another workspace would not.
        """
        waited_ms = int(self._clock() * 1000) - _RESTING_TOLD_SECONDS * 1000
        for partition in self._partitions.values():
            by_org: defaultdict[LaneKey, set[LaneKey]] = defaultdict(set)
            for held in partition.ledger.unfinished.values():
                entry = held.body
                if entry.state in (State.RESTING, State.WAITING) and entry.rests_since_ms <= waited_ms:
                    by_org[held.key[:ORG_BYTES]].add(entry.message.key_of(self._dispatcher.lane_of(entry)))
            waiting: set[LaneKey] = set()
            for org, lanes in sorted(by_org.items(), key=lambda each: len(each[1])):
                fits = len(lanes) <= _ASIDE_OF_ORG and len(waiting) + len(lanes) <= _ASIDE_OF_PARTITION
                waiting |= lanes if fits and org not in partition.ledger.lagging else {org}
            if waiting - partition.ledger.lagging.keys():
                partition.ledger.set_aside(waiting)

    def _guard_retention(self) -> None:
        """Before the log loses what a lane has waited for so long, its messages go to the dead letters, whole and in order."""
        limits = self.stage.limits
        if limits.retention_seconds is None:
            return
        now_ms = self._clock() * 1000
        most = 0.0
        for partition in self._partitions.values():
            due: set[LaneKey] = set()
            if partition.unread and partition.read_ms:
                used = (now_ms - partition.read_ms) / 1000 / limits.retention_seconds
                most = max(most, used)
                if used >= limits.retention_warned:
                    due.add(_LIVE)
                    behind = f"reading is behind by {partition.unread} messages"
                    self._warn_of_retention(partition, _LIVE, PARTITION, behind, f"start more of {self.stage.name}")
            oldest = self._dispatcher.give_up(partition.ledger, now_ms - limits.retention_rescued * limits.retention_seconds * 1000)
            if oldest is not None and (cause := oldest.body.rests_for) is not None:
                used = (now_ms - oldest.timestamp_ms) / 1000 / limits.retention_seconds
                most = max(most, used)
                if used >= limits.retention_warned:
                    lane = self._dispatcher.lane_of(oldest.body)
                    due.add(key := oldest.key[:ORG_BYTES])
                    self._warn_of_retention(partition, key, lane, f"{cause.code}: {cause.message}", cause.hint)
            for lag in partition.ledger.lagging.values():
                if lag.following or not (lag.passed or lag.at_least):
                    continue
                used = (now_ms - lag.oldest_ms) / 1000 / limits.retention_seconds
                most = max(most, used)
                if used >= limits.retention_warned:
                    due.add(lag.key)
                if lag.state == RESCUE:
                    continue
                if used >= limits.retention_rescued:
                    lag.state, lag.rescued_to = RESCUE, partition.ledger.main
                    self._observer.incident(self.stage.name, "retention_guard", 1)
                    log.error(
                        "a lane has waited so long that its messages go to the dead letters",
                        stage=self.stage.name, partition=partition.number, lane=lag.name, waiting=lag.passed, cause=lag.cause,
                    )  # fmt: skip
                    self._dispatcher.changed.set()
                elif used >= limits.retention_warned:
                    self._warn_of_retention(partition, lag.key, lag.name, lag.cause, lag.mend)
            # While a lane is only being probed it counts for nothing, and stands all the same.
            partition.warned = due | (partition.warned & partition.ledger.lagging.keys())
        self._observer.retention(self.stage.name, most)

    def _warn_of_retention(self, partition: Partition, key: LaneKey, lane: str, cause: str, mend: str) -> None:
        if key in partition.warned:
            return
        log.warning(
            "a lane has waited for half of what the log keeps: mend it, or its messages go to the dead letters",
            stage=self.stage.name, partition=partition.number, lane=lane, cause=cause, mend=mend,
        )  # fmt: skip

    async def _commit(self, partitions: Sequence[Partition], *, drained: bool, leaving: bool = False) -> None:
        """The one place that commits: the value is a pure function of outcomes, and only changes are committed.

        Waits for no row: a partition of which rows must be there first is left out until they are.
        """
        async with self._commit_lock:
            commits: dict[int, Encoded] = {}
            changes: dict[int, int] = {}
            now_ms = int(self._clock() * 1000)
            for partition in partitions:
                if (partition.closing and not leaving) or self._owes_rows(partition):
                    continue
                ledger = partition.ledger
                ledger.tidy()
                for replay in partition.replays.values():
                    replay.ledger.tidy()
                change = partition.changes
                if change == partition.committed_changes and not drained:
                    continue
                vouched = drained and not partition.holds_creates(now_ms)
                commits[partition.number] = ledger.commit(drained=vouched, replays=self._replays.committed(partition))
                changes[partition.number] = change
            if not commits:
                return
            await self._group.commit({number: Commit(encoded.offset, encoded.text) for number, encoded in commits.items()})
            for partition in partitions:
                if partition.number in changes:
                    partition.committed_changes, partition.unkept = changes[partition.number], commits[partition.number]
            self._observer.committed(self.stage.name, len(commits))

    def _owes_rows(self, partition: Partition) -> bool:
        """Whether rows must be there before the next commit: it would hide that a range was lost, or that the group had no offsets."""
        return bool(partition.lost) or self._is_mark_unkept(partition)

    def _is_mark_unkept(self, partition: Partition) -> bool:
        return partition.marked_until > 0 and partition.marked_until > self._marked_until(partition.number)

    # -- rows -----------------------------------------------------------------------------------------

    async def _tell_on(self) -> None:
        """Rows of the table `lanes`, beside the commits: where they can't be written, commits go on."""
        while True:
            await anyio.sleep(self.stage.limits.commit_seconds)
            held = [partition for partition in self._partitions.values() if not partition.closing]
            await self._tell_first(held)
            await self._told(self._tell_group, held, False)
            await self._told(self._tell_lanes)
            await self._told(self._replays.tell)

    async def _told(self, tell: Callable[..., Awaitable[None]], *args: object) -> None:
        """Rows that can't be written now are made and written another time."""
        try:
            await tell(*args)
        except NotAllowed:
            raise
        except TransportError as error:
            log.warning("rows can't be written now", stage=self.stage.name, table=LANES, error=str(error))

    async def _tell_first(self, partitions: Iterable[Partition]) -> None:
        """What these partitions owe, each for itself."""
        async with anyio.create_task_group() as tasks:
            for partition in partitions:
                if self._owes_rows(partition):
                    tasks.start_soon(self._told, self._tell_owed, partition)

    async def _tell_owed(self, partition: Partition) -> None:
        lost = dict(partition.lost)
        rows: dict[str, bytes | None] = {key: _encoder.encode(row) for key, row in lost.items()}
        if self._is_mark_unkept(partition):
            # Nothing was committed yet: whoever goes back to this row begins where nothing is finished.
            rows |= self._group_rows(partition, encode(partition.ledger.floor(), Progress({}, drained=False)))
        try:
            await self._write_rows(rows)
        finally:
            # As the table tells: rows may land though their acknowledgement comes too late.
            table = self._tables[LANES]
            partition.lost = {key: row for key, row in partition.lost.items() if table.get(key) != _encoder.encode(row)}

    async def _tell_group(self, partitions: Iterable[Partition], last: bool) -> None:
        """Keeps what was committed where a reset of the group's offsets can't reach it; now and then, and at the end."""
        now_ms = int(self._clock() * 1000)
        rows: dict[str, bytes | None] = {}
        kept: dict[Partition, Encoded] = {}
        for partition in partitions:
            told_ms, told_repeats = self._group_told.get(partition.number, (0, 0))
            commit = partition.unkept
            if commit is None:
                continue
            if last or now_ms - told_ms >= _GROUP_ROWS_SECONDS * 1000 or (told_repeats and not commit.repeats):
                kept[partition] = commit
                rows |= self._group_rows(partition, commit)
        await self._write_rows(rows)
        for partition, commit in kept.items():
            self._group_told[partition.number] = now_ms, commit.repeats
            if partition.unkept is commit:
                partition.unkept = None

    def _group_rows(self, partition: Partition, commit: Encoded) -> dict[str, bytes | None]:
        row = GroupRow(
            at=int(self._clock() * 1000), offset=commit.offset, metadata=commit.text, repeats=commit.repeats, marked_until=partition.marked_until
        )  # fmt: skip
        rows: dict[str, bytes | None] = {self._row(partition.number, "group"): _encoder.encode(row)}
        recovery = self._row(partition.number, "recovery")
        return rows if self._tables[LANES].get(recovery) is None else rows | {recovery: None}

    async def _write_rows(self, rows: Mapping[str, bytes | None]) -> None:
        """Raises WriteError where they are not acknowledged in time; some may have landed."""
        if not rows:
            return
        records = [Outgoing(LANES, key.encode(), value) for key, value in rows.items()]
        try:
            with anyio.fail_after(_WRITE_ROWS_SECONDS):
                written = await deliver(self._writer, records, too_large=lambda index: (), random=self._random, replaced=lambda: None)
        except TimeoutError:
            raise WriteError(f"{len(records)} rows were not acknowledged within {_WRITE_ROWS_SECONDS:g} s") from None
        for record, ack in written:
            self._tables[LANES].written((record.key or b"").decode(), record.value, ack)

    # -- telling ------------------------------------------------------------------------------------

    async def _tell_lanes(self) -> None:
        """The table `lanes`: what a commit has no room for."""
        now, now_ms = asyncio.get_running_loop().time(), int(self._clock() * 1000)
        if now - self._lanes_told_at < _LANE_ROWS_SECONDS:
            return
        self._lanes_told_at = now
        rows: dict[str, bytes | None] = {}
        told_by: dict[Partition, dict[str, LaneRow]] = {}
        looked_through: list[Partition] = []
        for partition in list(self._partitions.values()):
            lagging = [self._lane_row(lag, waiting, oldest_ms) for lag, waiting, oldest_ms in self._waiting(partition) if lag.name]
            lanes = _bounded([*lagging, *self._rows_of_resting(partition)], self.stage.limits.lanes_told)
            # Lanes that lag come first: where one rests in memory besides, the log's is told.
            told = {f"{self.stage.name}|{partition.number}|{row.lane}": row for row in reversed(lanes)}
            for key, row in told.items():
                if partition.told_lanes.get(key) != row:
                    rows[key] = _encoder.encode(row)
            known = set(partition.told_lanes)
            if now_ms - partition.looked_through_ms >= _OTHERS_ROWS_SECONDS * 1000:
                looked_through.append(partition)
                # What an owner before has told: also what it still had on its way when this one took over.
                prefix = f"{self.stage.name}|{partition.number}|org:"
                standing = {key: value for key, value in self._tables[LANES].items() if key.startswith(prefix)}
                known |= standing.keys()
                rows.update({key: value for key, row in told.items() if (value := _encoder.encode(row)) != standing.get(key)})
            known |= self._lost_long_ago(partition)
            rows.update(dict.fromkeys(known - told.keys()))
            told_by[partition] = told
        await self._write_rows(rows)
        for partition, told in told_by.items():
            partition.told_lanes = told
        for partition in looked_through:
            partition.looked_through_ms = now_ms

    def _lost_long_ago(self, partition: Partition) -> set[str]:
        """Rows of lost ranges that have stood for as long as the log keeps a message; looked for once an hour."""
        seconds, now_ms = self.stage.limits.retention_seconds, int(self._clock() * 1000)
        if seconds is None or now_ms - partition.lost_looked_for_ms < _LOST_LOOKED_FOR_SECONDS * 1000:
            return set()
        partition.lost_looked_for_ms = now_ms
        prefix, since_ms = self._row(partition.number, _LOST_KEYS), int((self._clock() - seconds) * 1000)
        told = {key: readable(LANES, key, value, LaneRow) for key, value in self._tables[LANES].items() if key.startswith(prefix)}
        return {key for key, row in told.items() if row is None or row.since < since_ms}

    def _rows_of_resting(self, partition: Partition) -> list[LaneRow]:
        """Lanes of which messages have rested in memory for a while, each told once with the cause of its oldest."""
        rows: dict[str, LaneRow] = {}
        below: Counter[str] = Counter()
        now_ms, free = int(self._clock() * 1000), partition.ledger.free()
        for held in partition.ledger.unfinished.values():
            entry = held.body
            cause = entry.rests_for
            if cause is None or now_ms - entry.rests_since_ms < _RESTING_TOLD_SECONDS * 1000:
                continue
            lane = self.stage.waiting_lane(entry.message)
            row = rows.get(lane)
            if row is None:
                row = rows[lane] = LaneRow(
                    lane=lane, state="waiting", since=entry.rests_since_ms, oldest_at=held.timestamp_ms,
                    cause=f"{cause.code}: {cause.message}", mend=cause.hint, held=True,
                )  # fmt: skip
            row.waiting += 1
            below[lane] += held.offset < free
            row.since = min(row.since, entry.rests_since_ms)
            row.oldest_at = min(row.oldest_at, held.timestamp_ms)
            if entry.next_try_ms and not 0 < row.next_try_at <= entry.next_try_ms:
                row.next_try_at = entry.next_try_ms // 1000 * 1000
        for lane, count in below.items():
            if count:
                # They stand below the committed offset.
                rows[lane].waiting, rows[lane].held = count, False
        return list(rows.values())

    def _waiting(self, partition: Partition) -> list[tuple[Lag, int, int]]:
        """Lanes that wait, with how many of their messages do and the time of the oldest, Unix ms; a blocked one, too, of which all is in a probe."""
        found: list[tuple[Lag, int, int]] = []
        taken = partition.ledger.taken()
        for key, lag in partition.ledger.lagging.items():
            count, oldest_ms = taken.get(key, (0, lag.oldest_ms))
            if not lag.following:
                found.append((lag, lag.passed + count, min(oldest_ms, lag.oldest_ms)))
            elif count and self._dispatcher.board.in_doubt(lag.name):
                found.append((lag, count, oldest_ms))
        return found

    def _lane_row(self, lag: Lag, waiting: int, oldest_ms: int) -> LaneRow:
        blocked = self._dispatcher.board.blocked.get(lag.name)
        next_try = 0
        if blocked is not None:
            next_try = int((self._clock() + blocked.next_try - asyncio.get_running_loop().time()) * 1000)
        return LaneRow(
            lane=lag.name, state=_TOLD_STATES.get(lag.state, lag.state), since=lag.since_ms, oldest_at=oldest_ms, waiting=waiting, at_least=lag.at_least,
            cause=lag.cause, next_try_at=next_try // 1000 * 1000, mend=lag.mend,
        )  # fmt: skip

    def _tell_lag(self) -> None:
        messages: Counter[str] = Counter()
        oldest: defaultdict[str, list[int]] = defaultdict(list)
        lanes: Counter[tuple[str, str]] = Counter()
        for partition in self._partitions.values():
            for held in partition.ledger.unfinished.values():
                org = held.body.message.org
                messages[org] += 1
                oldest[org].append(held.timestamp_ms)
            for lag, _, oldest_ms in self._waiting(partition):
                org = lag.name.split("/", 1)[0].removeprefix("org:")
                messages[org] += lag.passed
                if lag.passed:
                    oldest[org].append(oldest_ms)
                lanes[_TOLD_STATES.get(lag.state, lag.state), lag.cause.split(":", 1)[0]] += 1
        now = self._clock()
        self._observer.lag(self.stage.name, dict(messages), {org: max(0.0, now - min(times) / 1000) for org, times in oldest.items()})
        self._observer.lanes(self.stage.name, dict(lanes))


def _bounded(rows: Sequence[LaneRow], most: int) -> Sequence[LaneRow]:
    """What is too much to be told lane by lane is told as a sum: nothing is left out without a word."""
    if len(rows) <= most:
        return rows
    told, rest = rows[: most - 1], rows[most - 1 :]
    counted = [row for row in rest if not row.held]
    return [
        *told,
        LaneRow(
            lane=REST, state="waiting", since=min(row.since for row in rest), oldest_at=min(row.oldest_at for row in rest),
            waiting=sum(row.waiting for row in counted or rest), at_least=any(row.at_least for row in counted), held=not counted,
            cause=f"more_lanes: {len(rest)} more lanes wait, one of them for this: {rest[0].cause}",
        ),
    ]  # fmt: skip


def _ledgers(partitions: Iterable[Partition]) -> list[Ledger[Entry]]:
    """The ledgers of these partitions and of their replays."""
    return [place.ledger for partition in partitions for place in (partition, *partition.replays.values())]
