"""Holds messages, forms batches, runs the step, acts on its outcomes. Reads nothing and commits nothing.

One dispatcher a worker, over all its partitions. What a lane must give back goes to its ledger; what is finished is told to it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import anyio
import anyio.abc
import structlog

from pipeline.backoff import backoff_seconds
from pipeline.board import Board
from pipeline.delivery import deliver, out_record, records_of, row_record, unexpected
from pipeline.errors import LeaseLost, PipelineError
from pipeline.lanes import LaneKey, key_of_name, key_of_org, org_lane
from pipeline.ledger import Held, Lag, Ledger, Verdict
from pipeline.lines import Entry, Line, State, Tally
from pipeline.messages import Message
from pipeline.outcomes import Batch, Block, Drop, Emit, Outcome, Reject, Retry, Wait
from pipeline.records import Outgoing
from pipeline.stage import Closed, Observer, Stage
from pipeline.tables import Tables, Waits
from pipeline.transport import Writer
from schemas.messages import Cause

log = structlog.get_logger()

_STILL_SLICES, _SLICE_SECONDS = 10, 0.02
"""Nothing ended for so many times so long: nothing flows. In slices, since one turn of a loop that is busy may take longer than all of them."""
_FLOWS_SECONDS = 3.0
"""An org of which nothing ended for so long does not flow."""

RESCUE = "rescue"
_AGAIN_SECONDS = 1.0
"""First wait after a step that raised, or took too long."""
_SHORTEST_SECONDS = 0.5
"""What a wait doubles from where none was asked for."""
_ASKED_SECONDS = 60.0
"""A question is answered by then, or was in vain."""
_LEAST_ALONE = 16
"""So many lanes of one order key an org may always have that lag."""
_ENDLESS_SECONDS = 600
"""Who rests for so long between tries has no last one: all bounded tries are over before."""
"""State of a lane whose messages go to the dead letters, since the log would soon lose them."""

CROWD = "crowded"
"""State of a lane that waits until fewer narrower ones lag each for itself: it holds none of them up."""

STUCK = Cause(code="behind", message="One before it of the same person waits, and no more may wait in memory; it follows in order.")

CROWDED = Cause(code="more_wait", message="Many of this lane wait each for itself, and no more may be remembered; it follows in order.")

BUSY = Cause(code="busy", message="More of this lane came than is worked on at once; it follows in order.")


class Past(NamedTuple):
    """What the log does not tell of a message that was given back to it."""

    tries: int
    blocks: int
    waited_since_ms: int


class Dispatcher:
    """See the module."""

    def __init__(
        self,
        stage: Stage,
        tables: Tables,
        writer: Writer,
        observer: Observer,
        *,
        clock: Callable[[], float],
        lease_seconds: Callable[[], float],
    ) -> None:
        self._stage, self._tables, self._writer, self._observer = stage, tables, writer, observer
        self._limits = stage.limits
        self._least_bound = stage.limits.batch_messages // 4
        self._least_bytes = stage.limits.total_bytes // 64
        self._plenty = stage.limits.total_messages // 2
        """While no more is held, an org may have its least in any case."""
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._lines: dict[str, Line] = {}
        self._waits = Waits(tables)
        self._group: anyio.abc.TaskGroup | None = None
        self._stopping = False
        self.board = Board(self._now, random.random, stage.limits.probing)
        self._going: set[Ledger[Entry]] = set()
        """Of partitions that are being let go of."""
        self.held = 0
        self.held_bytes = 0
        self._tally = Tally()
        self._past: dict[tuple[Ledger[Entry], int], Past] = {}
        """Of messages that were given back and not taken again yet, by offset."""
        self._touched: dict[str, Line] = {}
        """Lines that took messages in since the last turn of the loop."""
        self.running_messages = 0
        self.last_progress = 0.0
        """When a batch ended last, or work began after there was none: loop time."""
        self.changed = asyncio.Event()
        """Set when there may be more room, or a lane may have become ready."""

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def start(self, group: anyio.abc.TaskGroup) -> None:
        self._group = group
        self.last_progress = self._now()

    def stop_intake(self) -> None:
        """From now on no batch is started."""
        self._stopping = True

    # -- taking in ----------------------------------------------------------------------------------

    @property
    def resting(self) -> int:
        """Messages that rest or wait in memory, and those behind them."""
        return self._tally.resting

    @property
    def full(self) -> bool:
        """Whether reading must pause: the memory's bound."""
        return self.held >= self._limits.total_messages or self.held_bytes >= self._limits.total_bytes

    @property
    def is_working(self) -> bool:
        """Whether batches must end sooner or later: some run, or nothing more is read until they do."""
        return self.running_messages > 0 or self.full

    def closed(self, message: Message, ledger: Ledger[Entry], lag: Lag | None) -> Closed | None:
        """The lane that lets this message through neither now nor as a probe; `lag` is the one that covers it."""
        closed = self._stage.gate.closed(message)
        if closed is not None:
            return closed
        if ledger.alone and not message.urgent and not (lag and lag.alone) and self._is_crowded(ledger, key_of_org(message.org)):
            return Closed(message.shared_lanes[-1], CROWD, CROWDED)
        line = self._lines.get(message.org)
        if line is not None and line.resting and self._over_budget(line) and line.is_stuck(message.key, message.lane_key):
            return Closed(message.lanes[-1], "waiting", STUCK)
        if not self.board.blocked:
            return None
        blocked = self.board.stops(message.shared_lanes)
        return None if blocked is None else Closed(blocked.lane, "blocked", blocked.cause)

    def is_busy(self, message: Message) -> bool:
        """Whether the org's bound of work in flight is reached. What nobody else waits for is then passed over."""
        line = self._lines.get(message.org)
        # First what costs least: this is asked for every message.
        if line is None or message.urgent:
            return False
        if self.held < self._plenty and line.active < self._least_bound and line.active_bytes < self._least_bytes:
            return False
        return line.active >= self._org_bound() or line.active_bytes >= self._org_bytes()

    def _is_crowded(self, ledger: Ledger[Entry], org: LaneKey, share: float = 1.0) -> bool:
        """Whether so many lanes of one order key each lag that an org gets no more, or (`share`) is still near that bound."""
        count = ledger.alone.get(org, 0)
        if count < _LEAST_ALONE:
            return False
        room = self._limits.lagging_lanes // max(1, len(self.ledgers())) - ledger.alone.total()
        return count >= share * max(_LEAST_ALONE, (room + count) // 4)

    def _org_bound(self) -> int:
        """One org gets at most a quarter of the room that is left, so that some can't fill it for all; where that is scarce it gets little."""
        room = self._limits.total_messages - self.held
        return max(1, min(self._least_bound, room // 16), min(self._limits.org_messages, room // 4))

    def _org_bytes(self) -> int:
        """The same in bytes. What is larger than that goes alone."""
        room = self._limits.total_bytes - self.held_bytes
        return max(1, min(self._least_bytes, room // 16), min(self._limits.org_bytes, room // 4))

    def has_room(self, org: str) -> bool:
        """Whether a lane of the org that lagged for being busy may go on."""
        line = self._lines.get(org)
        if self.full or line is None:
            return not self.full
        return line.active <= self._org_bound() // 2 and line.active_bytes <= self._org_bytes() // 2

    async def worked_off(self) -> None:
        """Returns when what flows is little enough, or does not move: to read on sooner would only make healthy orgs lag."""
        still = 0
        while still < _STILL_SLICES and self._flowing() >= self._limits.flowing_messages:
            self.changed.clear()
            self.hurry()
            with anyio.move_on_after(_SLICE_SECONDS) as waited:
                await self.changed.wait()
            still = still + 1 if waited.cancelled_caught else 0

    def _flowing(self) -> int:
        """Messages of the orgs that are neither near their bound nor slow: who is holds up no reading."""
        # Where many hold equally much, as after a pause of all, the bound shrinks below what each holds: that makes none a crowd.
        bound, since = max(self._org_bound(), self._limits.org_messages // 2), self._now() - _FLOWS_SECONDS
        return sum(line.active for line in self._lines.values() if line.active * 2 <= bound and line.moved_at >= since)

    def hurry(self) -> None:
        """Nothing is read for now: batches that wait to be filled go as they are."""
        for line in list(self._lines.values()):
            if line.timer is not None:
                line.timer()
                line.timer = None
                self._consider(line, filled=True)

    def admit(self, message: Message, ledger: Ledger[Entry]) -> None:
        """The ledger's main cursor reads a message: it is held, or its lane lags."""
        record, key = message.record, message.lane_key
        lag = ledger.owner(key)
        if lag is None or lag.following:
            closed = None if message.refusal else self.closed(message, ledger, lag)
            if closed is not None or self.is_busy(message):
                # `live` counts it as passed over.
                self.pass_over(ledger, message, key, closed).passed -= 1
                lag = ledger.owner(key)
        urgent = message.urgent and lag is not None and lag.state in ("busy", "waiting", CROWD)
        verdict = ledger.live(record.offset, key, record.timestamp_ms, urgent=urgent)
        if verdict is Verdict.TAKE:
            self.hold(message, ledger, key)
        elif verdict is Verdict.PASS and message.urgent and lag is not None:
            lag.behind = True

    def hold(self, message: Message, ledger: Ledger[Entry], key: LaneKey) -> None:
        """Takes in a message that its ledger let through."""
        entry = Entry(message, ledger, key, self._stage.serial(message))
        if self._past and (past := self._past.pop((ledger, entry.offset), None)) is not None:
            message.tries, entry.blocks, message.waited_since_ms = past
        ledger.hold(entry.offset, key, message.record.timestamp_ms, entry)
        line = self._lines.get(message.org)
        if line is None:
            line = self._lines[message.org] = Line(message.org, self._tally, self._limits.batch_messages, self._limits.wait_first_seconds)
            line.moved_at = self._now()
        self.held += 1
        self.held_bytes += entry.size
        line.add(entry)
        if not self._touched:
            asyncio.get_running_loop().call_soon(self._consider_touched)
        self._touched[line.org] = line

    def _consider_touched(self) -> None:
        """Once for all that was taken in between two awaits, not for each message."""
        touched, self._touched = self._touched, {}
        for line in touched.values():
            self._consider(line)

    # -- forming batches ----------------------------------------------------------------------------

    def _consider(self, line: Line, *, filled: bool = False) -> None:
        """Starts the org's next batch, or sees to it that it is started when it has been filled long enough; `filled`: it has."""
        if not line.ready or self._stopping or self._group is None:
            return
        now = self._now()
        if not line.first_ready_at:
            line.first_ready_at = now
        most_batches = 1 if self.board.in_doubt(f"org:{line.org}") else self._limits.org_batches
        while line.running < most_batches and (ready := line.ready):
            # Waiting for more is of no use where as many again wait behind these for their turn.
            if not filled and ready < line.batch_max and line.behind <= ready:
                due = line.first_ready_at + (self._limits.wait_longest_seconds if line.running else line.wait_seconds)
                if now < due:
                    if line.timer is None:
                        line.timer = asyncio.get_running_loop().call_later(due - now, self._timed, line).cancel
                    return
            batch = line.take(line.batch_max)
            line.first_ready_at = now if line.ready else 0.0
            if not batch:
                return
            line.running += 1
            self._group.start_soon(self._run, line, batch)
            filled = False

    def _timed(self, line: Line) -> None:
        line.timer = None
        self._consider(line)

    async def _run(self, line: Line, entries: list[Entry]) -> None:
        started = self._now()
        if not self.is_working:
            self.last_progress = started
        self.running_messages += len(entries)
        answered = self._answers(line.org)
        try:
            outcomes = await self._decide(line.org, entries)
            await self._act(line, entries, outcomes, was_asked=self._stage.answers is None or self._answers(line.org) != answered)
        finally:
            self.running_messages -= len(entries)
            self.last_progress = self._now()
            line.running -= 1
            line.moved_at = self._now()
            line.serials -= {entry.serial for entry in entries}
            self._fit(line, len(entries), self._now() - started)
            if line.timer is not None:
                # It was set for what waits beside a batch.
                line.timer()
                line.timer = None
            if not line.active and not line.resting and self._lines.get(line.org) is line and line.timer is None:
                del self._lines[line.org]
            self._consider(line)
            self.changed.set()

    def _answers(self, org: str) -> int:
        return 0 if self._stage.answers is None else self._stage.answers(org)

    def _fit(self, line: Line, messages: int, seconds: float) -> None:
        """The next batch's size and the time it is filled for, from how this one went."""
        limits = self._limits
        if seconds > limits.slow_seconds:
            line.batch_max = max(1, line.batch_max // 2)
        else:
            line.batch_max = min(limits.batch_messages, line.batch_max * 2)
        if limits.wait_fixed_seconds is not None:
            line.wait_seconds = limits.wait_fixed_seconds
        else:
            line.wait_seconds = min(limits.wait_longest_seconds, limits.wait_first_seconds * max(1, messages))

    # -- deciding -----------------------------------------------------------------------------------

    async def _decide(self, org: str, entries: Sequence[Entry]) -> list[Outcome]:
        """One outcome for each. An exception of the step is narrowed down by splitting the batch."""
        if any(entry.message.refusal for entry in entries):
            sound = [entry for entry in entries if entry.message.refusal is None]
            decided = iter(await self._decide(org, sound) if sound else ())
            return [next(decided) if (refusal := entry.message.refusal) is None else Reject((refusal,)) for entry in entries]
        messages = [entry.message for entry in entries]
        try:
            with anyio.move_on_after(self._limits.step_seconds) as deadline:
                outcomes = await self._stage.step(Batch(org, messages, lambda: self._guard(entries)))
            if deadline.cancelled_caught:
                cause = Cause(code="step_timed_out", message=f"{self._stage.name} took over {self._limits.step_seconds:.0f} s.")
                return [Retry(_AGAIN_SECONDS, cause)] * len(entries)
            if len(outcomes) != len(entries):
                raise PipelineError(f"step {self._stage.name} gave {len(outcomes)} outcomes for {len(entries)} messages")
            return list(outcomes)
        except LeaseLost:
            return [Retry(1.0, Cause(code="lease_lost", message="The partition may have gone to another worker."), free=True)] * len(
                entries
            )
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            if len(entries) > 1:
                half = len(entries) // 2
                return await self._decide(org, entries[:half]) + await self._decide(org, entries[half:])
            cause = unexpected(error)
            log.error("a step raised", stage=self._stage.name, cause=cause.message, exc_info=error)
            return [Retry(_AGAIN_SECONDS, cause)]

    def _rest(self, attempt: int) -> float:
        return backoff_seconds(attempt, random.random(), longest_seconds=self._limits.retry_longest_seconds)

    def _guard(self, entries: Sequence[Entry]) -> None:
        """Just before a write goes out; may be called in a thread, so it only reads."""
        if self._lease_seconds() <= 0 or any(entry.state is State.GONE for entry in entries):
            raise LeaseLost("this worker may no longer own the partition: nothing was sent")

    # -- acting -------------------------------------------------------------------------------------

    async def _act(self, line: Line, entries: Sequence[Entry], outcomes: Sequence[Outcome], *, was_asked: bool) -> None:
        """`was_asked`: the org answered a call meanwhile. Else what got through says nothing of it."""
        decided = [
            (entry, self._bounded(entry, outcome)) for entry, outcome in zip(entries, outcomes, strict=True) if entry.state is State.RUNNING
        ]
        records: list[Outgoing] = []
        owners: list[Entry] = []
        done: list[tuple[Entry, Emit | Drop | Reject]] = []
        now_ms = self._now_ms()
        for entry, outcome in decided:
            new = self._records(entry, outcome, now_ms)
            records += new
            owners += [entry] * len(new)
            if isinstance(outcome, (Emit, Drop, Reject)):
                done.append((entry, outcome))
            elif entry.ledger in self._going:
                # Its partition is being let go of: nothing of it starts again here, the next owner finds it unfinished.
                self._let_go(line, entry)
            elif isinstance(outcome, Retry):
                self._retry(line, entry, outcome)
            elif isinstance(outcome, Wait):
                # Before anything is awaited: the row must not come between the look and the wait.
                self._wait(line, entry, outcome)
        if records:
            await self._write(records, owners)
        self._finish(line, done)
        blocked = [(entry, outcome) for entry, outcome in decided if isinstance(outcome, Block)]
        # A message that no step has seen says nothing of its lanes.
        told = (entry for entry, outcome in decided if entry.message.refusal is None and not isinstance(outcome, (Block, Retry)))
        silent = {outcome.lane for _, outcome in blocked}
        if not was_asked and (org := org_lane(line.org)) not in silent:
            silent.add(org)
            self.board.unasked(org)
        for lanes in {entry.message.shared_lanes for entry in told}:
            self.board.well([lane for lane in lanes if lane not in silent])
        emptied: set[str] = set()
        for entry, outcome in blocked:
            if entry.state is State.RUNNING:
                self._block(entry, outcome, emptied)

    def _bounded(self, entry: Entry, outcome: Outcome) -> Outcome:
        """Tries and waits have an end: then the message is refused with their cause."""
        if isinstance(outcome, Retry) and not outcome.free and entry.message.tries + 1 >= self._limits.tries:
            return Reject((outcome.cause,))
        if isinstance(outcome, Wait) and self._is_overdue(entry, outcome):
            return Reject((outcome.cause,))
        return outcome

    def _records(self, entry: Entry, outcome: Outcome, now_ms: int) -> list[Outgoing]:
        if isinstance(outcome, (Emit, Drop, Reject)):
            return records_of(self._stage.name, entry.message, outcome, now_ms)
        if entry.ledger in self._going:
            return []
        if isinstance(outcome, Block):
            return [row_record(row) for row in outcome.rows]
        if isinstance(outcome, Wait) and outcome.outs and self._may_ask(entry, outcome):
            return [out_record(entry.message, out) for out in outcome.outs]
        return []

    def _may_ask(self, entry: Entry, outcome: Wait) -> bool:
        """One question is enough for all who wait for a row, until it may have been in vain."""
        now = self._now()
        asked_at = self._waits.asked_at(outcome.table, outcome.key)
        asked = (outcome.table, outcome.key, outcome.seen)
        if asked_at is not None:
            waits_on = outcome.again_seconds is None and self._waits.others(outcome.table, outcome.key)
            if waits_on or now - asked_at < (outcome.again_seconds or _ASKED_SECONDS):
                return False
        elif outcome.again_seconds is None and entry.asked == asked:
            return False
        entry.asked = asked
        self._waits.asked(outcome.table, outcome.key, now)
        return True

    async def _write(self, records: list[Outgoing], owners: list[Entry]) -> None:
        def too_large(index: int) -> Sequence[Outgoing]:
            cause = Cause(
                code="record_too_large",
                message=f"The record is larger than the topic {records[index].topic} takes.",
                hint="Raise max.message.bytes of that topic, then retry.",
            )
            return records_of(self._stage.name, owners[index].message, Reject((cause,)), self._now_ms())

        written = await deliver(
            self._writer,
            records,
            too_large=too_large,
            random=random.random,
            replaced=lambda: self._observer.incident(self._stage.name, "write_failed", 1),
        )
        for record, ack in written:
            if record.topic in self._tables and record.key is not None:
                self._tables[record.topic].written(record.key.decode(), record.value, ack)

    def _finish(self, line: Line, done: Sequence[tuple[Entry, Emit | Drop | Reject]]) -> None:
        counts: Counter[tuple[str, str]] = Counter()
        now_ms = self._now_ms()
        for entry, outcome in done:
            if entry.state is State.GONE:
                continue
            self._let_go(line, entry)
            entry.ledger.finish(entry.offset)
            if isinstance(outcome, Emit):
                counts["emitted", outcome.reason] += 1
                if self._stage.last and entry.message.received_at:
                    self._observer.delivered(max(0.0, (now_ms - entry.message.received_at) / 1000))
            elif isinstance(outcome, Drop):
                counts["dropped", outcome.reason] += 1
            else:
                counts["rejected", outcome.causes[0].code if outcome.causes else ""] += 1
        for (kind, reason), count in counts.items():
            self._observer.outcome(self._stage.name, line.org, kind, reason, count)

    def _let_go(self, line: Line, entry: Entry) -> None:
        line.remove(entry)
        self.held -= 1
        self.held_bytes -= entry.size

    # -- resting and waiting ------------------------------------------------------------------------

    def _retry(self, line: Line, entry: Entry, outcome: Retry) -> None:
        if outcome.free:
            entry.blocks += 1
            attempt = entry.blocks
        else:
            entry.message.tries += 1
            attempt = entry.message.tries
        # Later each time, and not all at one moment: who hits the same trouble together is then tried apart.
        asked = max(outcome.after_seconds, 0.0)
        longest = max(asked, self._limits.retry_longest_seconds)
        grown = backoff_seconds(attempt, random.random(), first_seconds=max(asked, _SHORTEST_SECONDS), longest_seconds=longest)
        seconds = max(asked, grown) if attempt > 1 else asked
        self._observer.outcome(self._stage.name, line.org, "retried", outcome.cause.code, 1)
        if self._over_budget(line):
            due = self._now() + seconds
            self._give_back(line, entry, entry.key, entry.message.lanes[-1], "waiting", outcome.cause, wake=lambda: self._now() >= due)
            return
        self._rests(line, entry, State.RESTING, outcome.cause, entry.rests_since_ms or self._now_ms(), self._now_ms() + int(seconds * 1000))
        entry.cancel = asyncio.get_running_loop().call_later(seconds, self._wake, line, entry).cancel
        self._consider(line)

    @staticmethod
    def _rests(line: Line, entry: Entry, state: State, cause: Cause, since_ms: int, next_try_ms: int = 0) -> None:
        line.rest(entry, state)
        entry.rests_for, entry.rests_since_ms, entry.next_try_ms = cause, since_ms, next_try_ms

    def _wait(self, line: Line, entry: Entry, outcome: Wait) -> None:
        message = entry.message
        if not message.waited_since_ms:
            message.waited_since_ms = self._now_ms()
            self._observer.outcome(self._stage.name, line.org, "waiting", outcome.cause.code, 1)
        if self._tables[outcome.table].get(outcome.key) != outcome.seen:
            line.rest(entry, State.WAITING)
            self._wake(line, entry)
            return
        if self._over_budget(line):
            table, key, seen = self._tables[outcome.table], outcome.key, outcome.seen
            lane = self._stage.waiting_lane(message)
            due_ms = message.waited_since_ms + outcome.longest_seconds * 1000 if outcome.longest_seconds is not None else float("inf")
            again = self._now() + (float("inf") if outcome.again_seconds is None else outcome.again_seconds)

            def wake() -> bool:
                # Where somebody waits in memory, he asks again.
                is_to_ask = self._now() >= again and not self._waits.others(outcome.table, key)
                return table.get(key) != seen or self._now_ms() >= due_ms or is_to_ask

            self._give_back(line, entry, message.key_of(lane), lane, "waiting", outcome.cause, wake)
            return
        self._rests(line, entry, State.WAITING, outcome.cause, message.waited_since_ms)
        timer = None
        due = [] if outcome.again_seconds is None else [outcome.again_seconds]
        if outcome.longest_seconds is not None:
            due.append(outcome.longest_seconds - (self._now_ms() - message.waited_since_ms) / 1000)
        if due:
            timer = asyncio.get_running_loop().call_later(max(0.0, min(due)), self._wake, line, entry)

        def cancel() -> None:
            self._waits.remove(outcome.table, outcome.key, entry)
            if timer is not None:
                timer.cancel()

        entry.cancel = cancel
        self._waits.add(outcome.table, outcome.key, outcome.seen, entry, lambda: self._wake(line, entry))
        self._consider(line)

    def _is_overdue(self, entry: Entry, outcome: Wait) -> bool:
        since = entry.message.waited_since_ms
        return outcome.longest_seconds is not None and bool(since) and self._now_ms() - since >= outcome.longest_seconds * 1000

    def _wake(self, line: Line, entry: Entry) -> None:
        if entry.state not in (State.RESTING, State.WAITING) or self._send_back(entry):
            return
        if entry.cancel is not None:
            entry.cancel()
        line.wake(entry)
        self._consider(line)

    def _over_budget(self, line: Line) -> bool:
        limits, tally = self._limits, self._tally
        return (
            tally.resting >= limits.resting_messages
            or line.resting >= limits.org_resting_messages
            or tally.resting_bytes >= limits.resting_bytes
            or line.resting_bytes >= limits.org_resting_bytes
        )

    # -- lanes --------------------------------------------------------------------------------------

    def _block(self, entry: Entry, outcome: Block, emptied: set[str]) -> None:
        """The lane waits: what is held of it and not in flight goes back to the log, in every partition; once for all of a batch (`emptied`)."""
        key = entry.message.key_of(outcome.lane)
        narrowest = key == entry.key
        if not narrowest and self.board.block(outcome.lane, outcome.cause, outcome.at_least_seconds):
            log.warning("lane is blocked", stage=self._stage.name, lane=outcome.lane, code=outcome.cause.code)
        line = self._lines[entry.message.org]
        if narrowest:
            entry.blocks += 1
            now = self._now()
            due = now + max(outcome.at_least_seconds or 0.0, self._rest(entry.blocks))

            def wake() -> bool:
                return self._now() >= due or self.board.nudged_since(outcome.lane, now)

            self._give_back(line, entry, key, outcome.lane, "blocked", outcome.cause, wake)
            return
        if outcome.lane not in emptied:
            emptied.add(outcome.lane)
            for ledger in self.ledgers():
                for held in ledger.covered_by(key):
                    if held.body.state not in (State.RUNNING, State.GONE):
                        self._give_back(line, held.body, key, outcome.lane, "blocked", outcome.cause)
        self._give_back(line, entry, key, outcome.lane, "blocked", outcome.cause)

    def look_again(self, lane: str) -> None:
        """Something about this lane changed: what is held of it goes back to the log where the gate is closed now, and waits no longer where it isn't."""
        try:
            key = key_of_name(lane)
        except ValueError:
            # A row's ids are not such as settings give: no message is of that lane.
            return
        for ledger in self.ledgers():
            for held in ledger.covered_by(key):
                entry = held.body
                if entry.state in (State.RUNNING, State.GONE) or self._send_back(entry):
                    continue
                if entry.state is State.WAITING:
                    self._wake(self._lines[entry.message.org], entry)

    def _send_back(self, entry: Entry) -> bool:
        """Gives back a message whose lane the gate keeps closed; whether it does."""
        closed = None if entry.message.refusal else self._stage.gate.closed(entry.message)
        if closed is None or entry.ledger in self._going:
            return False
        key = entry.message.key_of(closed.lane)
        self._give_back(self._lines[entry.message.org], entry, key, closed.lane, closed.state, closed.cause)
        return True

    ledgers: Callable[[], list[Ledger[Entry]]] = staticmethod(list)
    """The ledgers of all partitions that are held; set by the worker."""

    def lane_of(self, entry: Entry) -> str:
        """The lane that lags where a message that waits, or is tried again, goes back to the log."""
        return self._stage.waiting_lane(entry.message) if entry.state is State.WAITING else entry.message.lanes[-1]

    def give_up(self, ledger: Ledger[Entry], before_ms: float) -> Held[Entry] | None:
        """What waits in memory and came before then goes back to the log, from where the sweep takes it to the dead letters.

        That is who waits for a row, and who is tried again without end: not who rests between two tries. Gives the oldest that goes on
        waiting, if any does.
        """
        endless_ms = self._now_ms() - _ENDLESS_SECONDS * 1000
        oldest: Held[Entry] | None = None
        for held in list(ledger.unfinished.values()):
            entry = held.body
            if entry.rests_for is None or not (
                entry.state is State.WAITING or (entry.state is State.RESTING and entry.rests_since_ms <= endless_ms)
            ):
                continue
            if held.timestamp_ms <= before_ms:
                lane = self.lane_of(entry)
                self._give_back(self._lines[entry.message.org], entry, entry.message.key_of(lane), lane, "waiting", entry.rests_for)
            elif oldest is None or held.timestamp_ms < oldest.timestamp_ms:
                oldest = held
        return oldest

    def _give_back(
        self, line: Line, entry: Entry, key: LaneKey, lane: str, state: str, cause: Cause, wake: Callable[[], bool] | None = None
    ) -> None:
        """The message goes back to the log, with all that came after it in its order key: its lane, or a narrower one that lags already, comes to it later."""
        for other in reversed(line.after(entry)):
            self._let_go(line, other)
            other.ledger.release(other.offset, key)
        self._let_go(line, entry)
        lag = entry.ledger.release(entry.offset, key)
        lag.behind |= entry.message.urgent
        if lag.key == key:
            self.tell(lag, lane, state, cause, wake)
        else:
            # A narrower lane keeps its name, what wakes it, and its rescue.
            self.tell(lag, lag.name, lag.state if lag.state == RESCUE else state, cause, lag.wake)
        self._remember(entry, lag, waits=state == "waiting")
        self.changed.set()

    def _remember(self, entry: Entry, lag: Lag, *, waits: bool) -> None:
        """Tries and waits go on where they were when the message is taken again; after a block the wait begins anew."""
        since_ms = entry.message.waited_since_ms if waits else 0
        past = Past(entry.message.tries, entry.blocks, since_ms)
        # A wait that is no older than its lane's is told by that.
        is_told = not past.tries and not past.blocks and not 0 < since_ms < lag.since_ms
        if not is_told and len(self._past) < self._limits.total_messages:
            self._past[entry.ledger, entry.offset] = past

    def pass_over(self, ledger: Ledger[Entry], message: Message, key: LaneKey, closed: Closed | None) -> Lag:
        """A message that was read but can't be held: the closed lane (None: the org's, which is busy) lags from here on, or a narrower one that lags already."""
        lane = message.shared_lanes[0] if closed is None else closed.lane
        lane_key = message.key_of(lane)
        lag = ledger.cover(message.record.offset, key, message.record.timestamp_ms, lane_key)
        ledger.count_passed(lag, message.record.offset)
        lag.behind |= message.urgent
        state, cause = ("busy", BUSY) if closed is None else (closed.state, closed.cause)
        wake = self._unstuck(message) if cause is STUCK else self._roomy(ledger, message.org) if cause is CROWDED else None
        if lag.key == lane_key:
            self.tell(lag, lane, state, cause, wake)
        else:
            self.tell(lag, lag.name or message.lanes[-1], state, cause, wake)
        return lag

    def _roomy(self, ledger: Ledger[Entry], org: str) -> Callable[[], bool]:
        """Whether so few lanes of the org lag each for itself that more may."""
        return lambda: not self._is_crowded(ledger, key_of_org(org), 0.5)

    def _unstuck(self, message: Message) -> Callable[[], bool]:
        """Whether the message may come in: what it would be behind has gone, or there is room to wait."""
        org, key, order_key = message.org, message.key, message.lane_key

        def wake() -> bool:
            line = self._lines.get(org)
            return line is None or not self._over_budget(line) or not line.is_stuck(key, order_key)

        return wake

    def tell(self, lag: Lag, lane: str, state: str, cause: Cause, wake: Callable[[], bool] | None = None) -> None:
        """Writes beside a lagging lane why it lags."""
        if not lag.since_ms:
            lag.since_ms = self._now_ms()
        lag.name, lag.state, lag.wake = lane, state, wake
        lag.cause = f"{cause.code}: {cause.message}"
        lag.mend = cause.hint

    def is_ready(self, lag: Lag, lanes: Sequence[str]) -> bool:
        """Whether a lagging lane (its own name and the wider ones, as far as known) may be swept now."""
        if lag.state == RESCUE:
            return not self.full
        if lag.wake is not None and not lag.wake():
            return False
        if lag.state == "busy" and lanes and not self.has_room(lanes[0].removeprefix("org:")):
            return False
        return self.board.is_open(lanes) and not any(self._stage.gate.lane_closed(lane) for lane in lanes)

    # -- letting go ---------------------------------------------------------------------------------

    def forget_idle(self, ledgers: Sequence[Ledger[Entry]]) -> None:
        """The partitions are going: what is held of them and not in flight is worked on no more. The ledgers still know it as unfinished."""
        self._going.update(ledgers)
        for ledger in ledgers:
            for held in ledger.unfinished.values():
                if held.body.state not in (State.RUNNING, State.GONE):
                    self._let_go(self._lines[held.body.message.org], held.body)

    def forget(self, ledgers: Sequence[Ledger[Entry]]) -> None:
        """The partitions are gone: nothing of them is held any more; what is in flight will find its entry gone."""
        self._going.difference_update(ledgers)
        for ledger in ledgers:
            for held in ledger.unfinished.values():
                if held.body.state is not State.GONE:
                    self._let_go(self._lines[held.body.message.org], held.body)
        self._past = {place: past for place, past in self._past.items() if place[0] not in ledgers}
        for org in [org for org, line in self._lines.items() if not len(line) and not line.running and line.timer is None]:
            del self._lines[org]
        self.changed.set()

    def in_flight(self, ledgers: Sequence[Ledger[Entry]]) -> int:
        """How many messages of these partitions are in a batch under way."""
        return sum(held.body.state is State.RUNNING for ledger in ledgers for held in ledger.unfinished.values())

    async def quiet(self, ledgers: Sequence[Ledger[Entry]]) -> None:
        """Returns when nothing of these partitions is in flight."""
        while self.in_flight(ledgers):
            self.changed.clear()
            if self.in_flight(ledgers):
                await self.changed.wait()


def _is_cancelled() -> bool:
    """Whether somebody has asked for the end of this task; else a CancelledError is an exception like any other."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
