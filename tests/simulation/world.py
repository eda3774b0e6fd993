"""A whole stage in simulated time: workers that come, crash and go, lanes that fail, and a record of all that took effect.

The log is `pipeline.memory`; each simulated process has a transport, tables and a worker of its own. The step does what a step at an org
does: it takes time, looks, and decides. What must hold is checked as it happens, or from the record at the end.
"""

import asyncio
import dataclasses
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import anyio

from pipeline import messages
from pipeline.board import Probing
from pipeline.errors import WriteError
from pipeline.lanes import org_lane, session_lane, workspace_lane
from pipeline.memory import MemoryBroker, MemoryGroupReader, MemoryTransport, MemoryWriter
from pipeline.messages import Message
from pipeline.metadata import decode
from pipeline.outcomes import Batch, Block, Drop, Emit, Out, Outcome, Reject, Retry, Row, Wait
from pipeline.records import Ack, Commit, Outgoing
from pipeline.stage import Limits, SilentObserver, Stage
from pipeline.tables import Tables
from pipeline.transport import Rebalanced
from pipeline.worker import Worker
from schemas.messages import Cause
from tests.simulation.virtual import VirtualLoop

READS, WRITES, ROWS = "in", "out", "rows"
LIMITS = Limits(
    batch_messages=20,
    org_messages=40,
    total_messages=300,
    flowing_messages=100,
    resting_messages=60,
    org_resting_messages=15,
    fetch_messages=50,
    lagging_lanes=120,
    grace_seconds=100.0,
    stop_seconds=100.0,
    takeover_seconds=5.0,
    retry_longest_seconds=8.0,
    probing=Probing(longest_seconds=10.0, messages=5, answer_seconds=20.0, well_seconds=5.0),
)


@dataclasses.dataclass(frozen=True)
class Window:
    """A lane is blocked, or slow, from one time to another (virtual seconds)."""

    begins: float
    ends: float
    seconds: float = 0.0

    def holds(self, now: float) -> bool:
        return self.begins <= now < self.ends


@dataclasses.dataclass(frozen=True)
class Letter:
    """One message to be produced."""

    at: float
    id: str
    org: str
    workspace: str
    session: str
    key: str
    urgent: bool = False


@dataclasses.dataclass
class Plan:
    """All that will happen, drawn before anything happens."""

    seed: int
    partitions: int
    letters: list[Letter]
    blocked: dict[str, list[Window]] = dataclasses.field(default_factory=dict)
    """By lane name."""
    slow: dict[str, Window] = dataclasses.field(default_factory=dict)
    """By org."""
    stumbles: dict[str, int] = dataclasses.field(default_factory=dict)
    """By id: so many tries fail."""
    poison: frozenset[str] = frozenset()
    """Ids at which the step raises, each time."""
    needs_row: frozenset[str] = frozenset()
    """`<org>|<session>` that registrations wait for; the session's urgent message makes the row."""
    call_seconds: tuple[float, float] = (0.01, 0.3)
    jitter_seconds: float = 0.05
    """The longest that the log takes to answer."""


class Broker(MemoryBroker):
    """Keeps what took effect: each outcome's record as it lands."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(now_ms=lambda: 1_000_000_000_000 + int(loop.time() * 1000), rebalance_timeout_seconds=200)
        self._clock = loop
        self.effects: list[tuple[float, str]] = []
        """Time and id, in the order of landing."""

    def append(self, record: Outgoing, partition: int) -> int:
        if record.topic in (WRITES, "synced"):
            self.effects.append((self._clock.time(), dict(record.headers)[messages.ID].decode()))
        return super().append(record, partition)


class _SlowWriter:
    """A writer whose answers take a while."""

    def __init__(self, inner: MemoryWriter, draw: random.Random, jitter_seconds: float) -> None:
        self._inner, self._draw, self._jitter = inner, draw, jitter_seconds

    async def start(self) -> None:
        await self._inner.start()

    async def stop(self) -> None:
        await self._inner.stop()

    def send(self, records: Sequence[Outgoing]) -> Awaitable[Sequence[Ack]]:
        sending = asyncio.ensure_future(self._inner.send(records))
        # Who is killed asks no more what became of it.
        sending.add_done_callback(lambda each: each.cancelled() or each.exception())
        return self._answer(sending, self._draw.uniform(0, self._jitter))

    async def _answer(self, sending: Awaitable[Sequence[Ack]], seconds: float) -> Sequence[Ack]:
        await asyncio.sleep(seconds)
        return await sending


class _SlowGroup:
    """A member whose commits and questions take a while, before and after they are heard."""

    def __init__(self, inner: MemoryGroupReader, draw: random.Random, jitter_seconds: float) -> None:
        self._inner, self._draw, self._jitter = inner, draw, jitter_seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def _while(self) -> None:
        await asyncio.sleep(self._draw.uniform(0, self._jitter))

    async def commit(self, commits: Mapping[int, Commit]) -> None:
        await self._while()
        await self._inner.commit(commits)
        await self._while()

    async def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit | None]:
        await self._while()
        found = await self._inner.committed(partitions)
        await self._while()
        return found


class _SlowTransport(MemoryTransport):
    def __init__(self, broker: Broker, draw: random.Random, jitter_seconds: float) -> None:
        super().__init__(broker)
        self._draw, self._jitter = draw, jitter_seconds

    def group_reader(self, topic: str, group: str, listener: Rebalanced) -> MemoryGroupReader:
        return _SlowGroup(super().group_reader(topic, group, listener), self._draw, self._jitter)  # type: ignore[return-value]

    def writer(self) -> MemoryWriter:
        return _SlowWriter(super().writer(), self._draw, self._jitter)  # type: ignore[return-value]


class Process:
    """One worker in a process of its own."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        draw = random.Random(f"{world.plan.seed} process {number}")
        self._transport = _SlowTransport(world.broker, draw, world.plan.jitter_seconds)
        self._tables = Tables(self._transport, [ROWS, "lanes", "controls"])
        self._draw = draw
        self.worker: Worker | None = None
        self.task = asyncio.create_task(self._live(), name=f"process {number}")

    async def _live(self) -> None:
        stage = Stage(
            name="stage",
            reads=READS,
            step=self._world.step,
            shared_lanes=lanes_of,
            urgent=lambda message: message.kind == "session",
            waiting_lane=lambda message: message.shared_lanes[-1],
            limits=self._world.limits,
        )
        await self._transport.start()
        async with anyio.create_task_group() as group:
            await group.start(self._tables.run)
            self.worker = Worker(stage, self._transport, self._tables, SilentObserver(), clock=self._world.clock, random=self._draw.random)
            await group.start(self.worker.run)
            await self._world.ended.wait()
            await self.worker.stop()
            group.cancel_scope.cancel()

    async def stop(self) -> None:
        """Two phases, as on SIGTERM."""
        if self.worker is not None and not self.task.done():
            await self.worker.stop()
        self.task.cancel()
        await asyncio.wait([self.task])

    def kill(self) -> None:
        """As by SIGKILL: nothing is finished, nobody is told."""
        self._transport.kill()
        self.task.cancel()


def lanes_of(message: Message) -> tuple[str, ...]:
    org, workspace = org_lane(message.org), workspace_lane(message.org, message.workspace)
    return (
        (org, workspace) if message.kind == "session" else (org, workspace, session_lane(message.org, message.workspace, message.session))
    )


class World:
    """Runs a plan. See the module."""

    def __init__(self, loop: VirtualLoop, plan: Plan, limits: Limits = LIMITS) -> None:
        self.loop, self.plan, self.limits = loop, plan, limits
        self.broker = Broker(loop)
        self.ended = asyncio.Event()
        self.processes: list[Process] = []
        self._numbers = 0
        self._draw = random.Random(f"{plan.seed} calls")
        self._in_flight: set[tuple[str, str]] = set()
        self._tried: Counter[str] = Counter()
        self.calls = 0
        self.broken: list[str] = []
        """Promises that the step saw broken. (What a step raises, the engine takes for the message's fault.)"""
        self.by_id = {letter.id: letter for letter in plan.letters}
        self.order: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        """Ids of each order key as they stand in the log."""
        self.place: dict[str, int] = {}
        self._landed: set[str] = set()
        self._seen = 0
        self.most_held = self.most_resting = self.most_remembered = self.most_alone = 0
        for topic in (READS, WRITES, "synced", "dead-letters"):
            self.broker.create_topic(topic, plan.partitions)
        for table in (ROWS, "lanes", "controls"):
            self.broker.create_topic(table, 1)

    def clock(self) -> float:
        return 1_000_000_000 + self.loop.time()

    # -- what happens to it ---------------------------------------------------------------------

    def start(self) -> Process:
        self._numbers += 1
        process = Process(self, self._numbers)
        self.processes.append(process)
        return process

    def kill(self, process: Process) -> None:
        self.processes.remove(process)
        process.kill()

    async def stop(self, process: Process) -> None:
        self.processes.remove(process)
        await process.stop()

    async def produce(self) -> None:
        writer = self.broker.transport().writer()
        await writer.start()
        for letter in self.plan.letters:
            await asyncio.sleep(max(0.0, letter.at - self.loop.time()))
            headers = messages.headers(
                id=letter.id, kind="session" if letter.urgent else "registration", workspace=letter.workspace, org=letter.org,
                session=letter.session, event="", happened_at=0, received_at=int(self.clock() * 1000), schema=1,
            )  # fmt: skip
            place = self.order[order_key(letter)]
            self.place[letter.id] = len(place)
            place.append(letter.id)
            while True:
                try:
                    await writer.send([Outgoing(READS, letter.key.encode(), b"{}", headers)])
                    break
                except WriteError:
                    await asyncio.sleep(0.1)

    # -- the step -------------------------------------------------------------------------------

    async def step(self, batch: Batch) -> Sequence[Outcome]:
        self.calls += 1
        taken = [(batch.org, message.key) for message in batch.messages]
        if self._in_flight & set(taken):
            self.broken.append(f"at {self.loop.time():.2f} excluded from each other, and in flight at once: {self._in_flight & set(taken)}")
        if len(set(taken)) < len(taken):
            self.broken.append(f"excluded from each other, and in one batch: {taken}")
        self._note_landed()
        for message in batch.messages:
            self._check_turn(message)
        self._in_flight.update(taken)
        try:
            slow = self.plan.slow.get(batch.org)
            seconds = self._draw.uniform(*self.plan.call_seconds)
            await asyncio.sleep(slow.seconds if slow is not None and slow.holds(self.loop.time()) else seconds)
            batch.guard()
            for message in batch.messages:
                if message.id in self.plan.poison:
                    raise ZeroDivisionError(message.id)
            return [self._outcome(message) for message in batch.messages]
        finally:
            self._in_flight.difference_update(taken)

    def _outcome(self, message: Message) -> Outcome:
        now = self.loop.time()
        for lane in message.lanes:
            if any(window.holds(now) for window in self.plan.blocked.get(lane, ())):
                return Block(lane, Cause(code="down", message=lane))
        row = f"{message.org}|{message.session}"
        if message.kind == "session":
            return Emit((Out(WRITES, message.value),), rows=(Row(ROWS, row, message.id.encode()),))
        if row in self.plan.needs_row and not self._has_row(row):
            return Wait(ROWS, row, None, Cause(code="no_row", message=row))
        self._tried[message.id] += 1
        if self._tried[message.id] <= self.plan.stumbles.get(message.id, 0):
            return Retry(0.5, Cause(code="stumbled", message=message.id))
        number = int(message.id)
        if number % 17 == 0:
            return Drop("by the plan")
        if number % 29 == 0:
            return Reject((Cause(code="refused", message="by the plan"),))
        return Emit((Out(WRITES, message.value),))

    def _has_row(self, key: str) -> bool:
        """As a step reads it: from its own worker's table; any worker's will do, since a wait is for a row that changed."""
        tables = [process._tables[ROWS].get(key) for process in self.processes]
        return bool(tables) and all(row is not None for row in tables)

    # -- what must hold -------------------------------------------------------------------------

    def _note_landed(self) -> None:
        for _, id_ in self.broker.effects[self._seen :]:
            self._landed.add(id_)
        self._seen = len(self.broker.effects)

    def _check_turn(self, message: Message) -> None:
        letter = self.by_id[message.id]
        before = self.order[order_key(letter)][: self.place[message.id]]
        missing = [id_ for id_ in before if id_ not in self._landed]
        if missing:
            self.broken.append(
                f"at {self.loop.time():.2f} {message.id} is worked on, and {missing} before it in {order_key(letter)} are not finished"
            )

    def check_order(self) -> None:
        """A repeat is a whole run: nothing is passed over, and none breaks off."""
        runs: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for _, id_ in self.broker.effects:
            runs[order_key(self.by_id[id_])].append(self.place[id_])
        for key, places in runs.items():
            before = -1
            for place in places:
                assert place <= before + 1, f"{key}: {place} took effect after {before}"
                before = place
            assert before == len(self.order[key]) - 1, f"{key}: the last effect is {before} of {len(self.order[key])}"

    def sample(self) -> None:
        """The bounds on memory."""
        for process in self.processes:
            worker = process.worker
            if worker is None:
                continue
            dispatcher = worker._dispatcher
            self.most_held = max(self.most_held, dispatcher.held)
            self.most_resting = max(self.most_resting, dispatcher.resting)
            ledgers = [partition.ledger for partition in worker._partitions.values() if partition.is_held]
            self.most_remembered = max([self.most_remembered, *(ledger.remembered() for ledger in ledgers)])
            self.most_alone = max(self.most_alone, sum(ledger.alone.total() for ledger in ledgers))
            for ledger in ledgers:
                assert ledger.alone.total() == sum(lag.alone and not lag.following for lag in ledger.lagging.values())
            assert sum(len(ledger.unfinished) for ledger in ledgers) <= dispatcher.held
            lines = dispatcher._lines.values()
            assert sum(line.active_bytes + line.resting_bytes for line in lines) == dispatcher.held_bytes
            assert sum(line.resting_bytes for line in lines) == dispatcher._tally.resting_bytes
        assert self.most_alone <= self.limits.lagging_lanes + self.limits.total_messages
        assert self.most_held <= self.limits.total_messages + self.limits.fetch_messages
        assert self.most_resting <= self.limits.resting_messages + self.limits.batch_messages * 4

    async def until_done(self, longest_seconds: float) -> None:
        """All that was produced has taken effect, and the commits say so."""
        ends = self.loop.time() + longest_seconds
        while True:
            self._note_landed()
            self.sample()
            assert not self.broken, self.broken[:3]
            for process in self.processes:
                if process.task.done():
                    process.task.result()
                    raise AssertionError("a process ended by itself")
            missing = self.by_id.keys() - self._landed
            if not missing and self._all_committed():
                return
            if self.loop.time() > ends:
                raise AssertionError(f"after {self.loop.time():.0f} s: not done are {sorted(missing, key=int)[:20]}; {self._where()}")
            await asyncio.sleep(0.5)

    def _all_committed(self) -> bool:
        commits = self.broker.group_offsets("stage")
        for number in range(self.plan.partitions):
            end = self.broker.log(READS, number).end
            commit = commits.get((READS, number))
            if end and (commit is None or commit.offset != end or decode(commit.metadata).cursors):
                return False
        return True

    def _where(self) -> str:
        parts = []
        for process in self.processes:
            worker = process.worker
            if worker is None:
                parts.append("not joined")
                continue
            for number, partition in worker._partitions.items():
                ledger = partition.ledger
                lags = [(lag.name, lag.state, lag.read, lag.following, lag.passed) for lag in ledger.lagging.values()][:6]
                held = [(offset, held.body.state.value) for offset, held in ledger.unfinished.items()][:6]
                parts.append(f"partition {number}: main {ledger.main}, lagging {lags}, held {held}")
            for org, line in worker._dispatcher._lines.items():
                states = {
                    key: [each.state.value for each in (known if isinstance(known, list) else [known])]
                    for key, known in line._by_key.items()
                }
                parts.append(
                    f"line {org}: active {line.active}, resting {line.resting}, ready {line.ready}, running {line.running}, timer {line.timer}, {states}"
                )
            blocked = dict(list(worker._dispatcher.board.blocked.items())[:5])
            parts.append(f"held {worker._dispatcher.held}, resting {worker._dispatcher.resting}, blocked {blocked}, {worker.health()}")
        return "; ".join(parts)

    def delays(self, orgs: set[str]) -> list[float]:
        """Seconds from the log to the first effect, for these orgs' messages, in rising order."""
        first: dict[str, float] = {}
        for at, id_ in self.broker.effects:
            first.setdefault(id_, at)
        return sorted(first[letter.id] - letter.at for letter in self.plan.letters if letter.org in orgs)


def order_key(letter: Letter) -> tuple[str, ...]:
    shared = (letter.org, letter.workspace) if letter.urgent else (letter.org, letter.workspace, letter.session)
    return (*shared, letter.key)
