"""The log in memory: what it has beyond the contract that it shares with Kafka, under a clock that only the test moves."""

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CommitRefused, OffsetOutOfRange, RecordTooLarge, TopicMissing, TransportError, WriteError
from pipeline.memory import MemoryBroker, MemoryGroupReader, MemoryTransport
from pipeline.records import Ack, Commit, Outgoing, Record

SESSION = 30.0
REBALANCE = 60.0


class Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self._now = 0.0
        self._due: list[tuple[float, int, Timer, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        timer = Timer()
        heapq.heappush(self._due, (self._now + delay, next(self._numbers), timer, callback))
        return timer

    async def forward(self, seconds: float) -> None:
        ends = self._now + seconds
        await settle()
        while self._due and self._due[0][0] <= ends:
            self._now, _, timer, callback = heapq.heappop(self._due)
            if not timer.cancelled:
                callback()
                await settle()
        self._now = ends
        await settle()


async def settle() -> None:
    """Every task goes as far as it can without time."""
    for _ in range(50):
        await asyncio.sleep(0)


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[str, list[int]]] = []
        self.may_let_go = asyncio.Event()
        self.may_let_go.set()

    async def revoked(self, partitions: frozenset[int]) -> None:
        await self.may_let_go.wait()
        self.heard.append(("revoked", sorted(partitions)))

    async def assigned(self, partitions: frozenset[int]) -> None:
        self.heard.append(("assigned", sorted(partitions)))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker(clock: Clock) -> MemoryBroker:
    made = MemoryBroker(
        source=clock, now_ms=lambda: int(clock.time() * 1000), session_timeout_seconds=SESSION, rebalance_timeout_seconds=REBALANCE
    )
    made.create_topic("received", 2, max_record_bytes=100)
    return made


async def joined(transport: MemoryTransport, group: str = "g") -> tuple[MemoryGroupReader, Listener]:
    listener = Listener()
    reader = transport.group_reader("received", group, listener)
    await reader.start()
    await settle()
    return reader, listener


def numbered(numbers: range, partition: int = 0) -> list[Outgoing]:
    return [Outgoing("received", b"k", b"%d" % number, (), partition) for number in numbers]


async def test_a_fetch_ends_at_its_timeout_by_the_given_clock_alone(broker: MemoryBroker, clock: Clock) -> None:
    reader, _ = await joined(broker.transport())
    reader.seek(0, 0)
    fetch = asyncio.create_task(reader.fetch(5.0, 10))
    await clock.forward(4.9)
    assert not fetch.done()
    await clock.forward(0.1)
    assert fetch.done()
    assert fetch.result() == {}


async def test_records_carry_the_time_of_the_given_clock(broker: MemoryBroker, clock: Clock) -> None:
    writer = broker.transport().writer()
    await writer.start()
    await clock.forward(7.0)
    await writer.send(numbered(range(1)))
    assert [record.timestamp_ms for record in broker.records("received")] == [7000]


async def test_a_full_partition_starves_no_other(broker: MemoryBroker) -> None:
    transport = broker.transport()
    writer = transport.writer()
    await writer.start()
    await writer.send([*numbered(range(100), 0), *numbered(range(100), 1)])
    reader, _ = await joined(transport)
    reader.seek(0, 0)
    reader.seek(1, 0)
    first, second = await reader.fetch(1, 10), await reader.fetch(1, 10)
    assert first.keys() | second.keys() == {0, 1}


# A member that falls silent.


async def test_a_killed_member_is_noticed_when_its_session_ends_and_not_before(broker: MemoryBroker, clock: Clock) -> None:
    first, second = broker.transport(), broker.transport()
    _, heard = await joined(first)
    dead, unheard = await joined(second)
    assert heard.heard[-1] == ("assigned", [0])
    second.kill()
    await clock.forward(SESSION - 0.1)
    assert heard.heard[-1] == ("assigned", [0])
    await clock.forward(0.2)
    assert heard.heard[-2:] == [("revoked", [0]), ("assigned", [0, 1])]
    assert unheard.heard == [("assigned", [1])]
    with pytest.raises(TransportError):
        await dead.commit({1: Commit(0, "")})


async def test_a_lease_runs_out_half_way_to_the_end_of_the_session(broker: MemoryBroker, clock: Clock) -> None:
    reader, _ = await joined(broker.transport())
    await clock.forward(100)
    assert reader.lease_seconds() == SESSION / 2
    reader.cut_off()
    await clock.forward(SESSION / 2 - 1)
    assert reader.lease_seconds() == pytest.approx(1)
    await clock.forward(2)
    assert reader.lease_seconds() == pytest.approx(-1)
    reader.reconnect()
    assert reader.lease_seconds() == SESSION / 2
    await reader.commit({0: Commit(0, "still a member")})


async def test_who_wakes_after_its_session_learns_it_late_and_joins_again(broker: MemoryBroker, clock: Clock) -> None:
    reader, listener = await joined(broker.transport())
    reader.cut_off()
    await clock.forward(SESSION + 1)
    other, _ = await joined(broker.transport())
    await other.commit({0: Commit(1, "theirs"), 1: Commit(1, "theirs")})
    assert listener.heard == [("assigned", [0, 1])]
    assert reader.lease_seconds() < 0
    reader.reconnect()
    with pytest.raises(CommitRefused):
        await reader.commit({0: Commit(0, "stale")})
    await settle()
    assert listener.heard == [("assigned", [0, 1]), ("revoked", [0, 1]), ("assigned", [1])]
    assert broker.group_offsets("g") == {("received", 0): Commit(1, "theirs"), ("received", 1): Commit(1, "theirs")}


async def test_a_member_that_is_cut_off_holds_a_rebalance_up_until_its_session_ends(broker: MemoryBroker, clock: Clock) -> None:
    silent, _ = await joined(broker.transport())
    silent.cut_off()
    _, newcomer = await joined(broker.transport())
    await clock.forward(SESSION - 1)
    assert newcomer.heard == []
    await clock.forward(2)
    assert newcomer.heard == [("assigned", [0, 1])]


async def test_who_does_not_let_go_in_time_is_thrown_out_and_comes_back(broker: MemoryBroker, clock: Clock) -> None:
    slow, listener = await joined(broker.transport())
    listener.may_let_go.clear()
    _, newcomer = await joined(broker.transport())
    await clock.forward(REBALANCE - 1)
    assert newcomer.heard == []
    assert slow.lease_seconds() > 0
    await clock.forward(2)
    assert newcomer.heard == [("assigned", [0, 1])]
    assert slow.lease_seconds() < 0
    with pytest.raises(CommitRefused):
        await slow.commit({0: Commit(1, "late")})
    listener.may_let_go.set()
    await settle()
    assert listener.heard == [("assigned", [0, 1]), ("revoked", [0, 1]), ("assigned", [1])]
    assert newcomer.heard[-1] == ("assigned", [0])


async def test_topics_that_go_and_come_are_told_to_their_groups(broker: MemoryBroker) -> None:
    reader, listener = await joined(broker.transport())
    await reader.commit({0: Commit(1, "m")})
    broker.delete_topic("received")
    await settle()
    broker.create_topic("received", 3)
    await settle()
    assert listener.heard == [("assigned", [0, 1]), ("revoked", [0, 1]), ("assigned", []), ("assigned", [0, 1, 2])]
    assert await reader.committed([0]) == {0: None}


async def test_offsets_are_reset_from_outside_only_while_the_group_is_empty(broker: MemoryBroker) -> None:
    reader, _ = await joined(broker.transport())
    with pytest.raises(TransportError, match="not empty"):
        broker.reset_offsets("g", {("received", 0): Commit(5, "")})
    await reader.stop()
    broker.reset_offsets("g", {("received", 0): Commit(5, ""), ("received", 1): None})
    assert broker.group_offsets("g") == {("received", 0): Commit(5, "")}


# Faults.


async def test_a_send_fails_on_demand_with_and_without_landing(broker: MemoryBroker) -> None:
    writer = broker.transport().writer()
    await writer.start()
    broker.faults.fail("send", times=2)
    for _ in range(2):
        with pytest.raises(WriteError):
            await writer.send(numbered(range(1)))
    assert broker.records("received") == []
    broker.faults.fail("send", landed=True)
    with pytest.raises(WriteError):
        await writer.send(numbered(range(1)))
    assert len(broker.records("received")) == 1
    await writer.send(numbered(range(1, 2)))


async def test_a_fault_of_one_topic_spares_the_others(broker: MemoryBroker) -> None:
    broker.create_topic("synced", 1)
    writer = broker.transport().writer()
    await writer.start()
    broker.faults.fail("send", topic="synced")
    await writer.send(numbered(range(1)))
    with pytest.raises(WriteError):
        await writer.send([*numbered(range(1)), Outgoing("synced", b"k", b"v")])
    assert len(broker.records("received")) == 1


async def test_acks_are_held_until_they_are_released_oldest_first(broker: MemoryBroker) -> None:
    writer = broker.transport().writer()
    await writer.start()
    broker.faults.hold_acks()
    sends = [asyncio.ensure_future(writer.send(numbered(range(number, number + 1)))) for number in range(3)]
    await settle()
    assert len(broker.records("received")) == 3
    assert [send.done() for send in sends] == [False] * 3
    broker.faults.release_acks(1)
    await settle()
    assert [send.done() for send in sends] == [True, False, False]
    broker.faults.release_acks()
    assert [await send for send in sends] == [(Ack(0, number),) for number in range(3)]
    assert broker.faults.held_acks == 0


async def test_a_commit_fails_on_demand_with_and_without_landing(broker: MemoryBroker) -> None:
    reader, _ = await joined(broker.transport())
    broker.faults.fail("commit")
    with pytest.raises(TransportError):
        await reader.commit({0: Commit(1, "")})
    assert await reader.committed([0]) == {0: None}
    broker.faults.fail("commit", landed=True)
    with pytest.raises(TransportError):
        await reader.commit({0: Commit(2, "")})
    assert await reader.committed([0]) == {0: Commit(2, "")}


@pytest.mark.parametrize("operation", ["committed", "fetch", "offsets"])
async def test_questions_fail_on_demand_with_the_error_that_is_wanted(broker: MemoryBroker, operation: str) -> None:
    transport = broker.transport()
    reader, _ = await joined(transport)
    asking: dict[str, Callable[[], Awaitable[object]]] = {
        "committed": lambda: reader.committed([0]),
        "fetch": lambda: reader.fetch(0, 1),
        "offsets": lambda: transport.cluster.offsets("received"),
    }
    wanted = TransportError("the wire is cut", retryable=False)
    broker.faults.fail(operation, wanted)  # type: ignore[arg-type]
    with pytest.raises(TransportError, match="the wire is cut") as caught:
        await asking[operation]()
    assert caught.value is wanted
    await asking[operation]()


async def test_a_killed_process_writes_nothing_more(broker: MemoryBroker) -> None:
    transport = broker.transport()
    writer = transport.writer()
    await writer.start()
    transport.kill()
    with pytest.raises(WriteError):
        await writer.send(numbered(range(1)))
    assert broker.records("received") == []


# The log itself.


async def test_compaction_keeps_the_last_of_each_key_and_the_reader_gets_past_the_gaps(broker: MemoryBroker) -> None:
    broker.create_topic("orgs", 1)
    transport = broker.transport()
    writer, reader = transport.writer(), transport.reader()
    await writer.start()
    await reader.start()
    rows = [(b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"c", b"1"), (b"c", None)]
    await writer.send([Outgoing("orgs", key, value) for key, value in rows])
    broker.compact("orgs")
    reader.assign({("orgs", 0): 0})
    found = list(await reader.fetch(0, 10)) + list(await reader.fetch(0, 10))
    assert [(record.offset, record.key, record.value) for record in found] == [(1, b"b", b"1"), (2, b"a", b"2")]
    assert reader.position("orgs", 0) == 5


async def test_what_does_not_exist_is_told(broker: MemoryBroker) -> None:
    writer = broker.transport().writer()
    await writer.start()
    with pytest.raises(TopicMissing):
        await writer.send([Outgoing("nowhere", b"k", b"v")])
    with pytest.raises(TopicMissing):
        broker.delete_topic("nowhere")
    with pytest.raises(TransportError):
        broker.create_topic("received", 1)
    with pytest.raises(TransportError):
        broker.delete_records("received", 9, 0)


async def test_the_size_of_a_record_counts_key_value_and_headers(broker: MemoryBroker) -> None:
    writer = broker.transport().writer()
    await writer.start()
    await writer.send([Outgoing("received", b"k", bytes(90), (("h", b"12345678"),))])
    with pytest.raises(RecordTooLarge):
        await writer.send([Outgoing("received", b"k", bytes(91), (("h", b"12345678"),))])


@given(st.lists(st.one_of(st.tuples(st.just("send"), st.integers(1, 5)), st.tuples(st.just("delete"), st.integers(0, 30))), max_size=20))
def test_a_log_gives_what_was_sent_from_its_start_on(actions: list[tuple[str, int]]) -> None:
    async def run() -> None:
        broker = MemoryBroker()
        broker.create_topic("received", 1)
        transport = broker.transport()
        writer, reader = transport.writer(), transport.reader()
        await writer.start()
        start = sent = 0
        for action, number in actions:
            if action == "send":
                await writer.send(numbered(range(sent, sent + number)))
                sent += number
            else:
                broker.delete_records("received", 0, number)
                start = max(start, min(number, sent))
        assert dict(await transport.cluster.offsets("received")) == {0: (start, sent)}
        reader.assign({("received", 0): start})
        found: list[Record] = []
        while len(found) < sent - start:
            found += await reader.fetch(0, 3)
        assert [(r.offset, r.value) for r in found] == [(n, b"%d" % n) for n in range(start, sent)]
        reader.assign({("received", 0): sent + 1})
        with pytest.raises(OffsetOutOfRange):
            await reader.fetch(0, 1)

    asyncio.run(run())


@given(members=st.integers(1, 6), partitions=st.integers(0, 20))
def test_every_partition_has_exactly_one_owner(members: int, partitions: int) -> None:
    async def run() -> None:
        broker = MemoryBroker()
        broker.create_topic("received", partitions)
        owners = [await joined(broker.transport()) for _ in range(members)]
        shares = [listener.heard[-1][1] for _, listener in owners]
        assert sorted(itertools.chain(*shares)) == list(range(partitions))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        for reader, _ in owners:
            await reader.stop()

    asyncio.run(run())
