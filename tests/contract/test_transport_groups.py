"""What a member of a group is promised, over every log: rules 5 to 9, 14 and 15 of the engine stand on it."""

import asyncio
import gc

import pytest
from aiokafka import errors

from pipeline.errors import CommitRefused, OffsetOutOfRange, TopicMissing, TransportError
from pipeline.kafka import KafkaGroupReader
from pipeline.records import Commit
from pipeline.transport import Transport
from tests.contract import logs


async def filled(log: logs.Log, transport: Transport, partitions: int, each: int) -> None:
    await log.create("received", partitions)
    async with logs.writer(transport) as writer:
        for partition in range(partitions):
            await writer.send(logs.numbered("received", partition, range(each)))


async def test_nothing_is_read_before_a_place_is_named_whatever_was_committed(log: logs.Log, transport: Transport) -> None:
    """Neither the committed offset nor the log's start nor its end is where reading begins by itself."""
    await filled(log, transport, 2, 5)
    async with logs.member(transport, "received") as first:
        await first.has(2)
        await first.reader.commit({0: Commit(3, "m")})
    async with logs.member(transport, "received") as second:
        await second.has(2)
        assert not await second.reader.fetch(0.4, 10)
        second.reader.seek(1, 2)
        found = await logs.fetched(second.reader, 3)
        assert [(r.partition, r.offset) for r in found] == [(1, 2), (1, 3), (1, 4)]
        assert not await second.reader.fetch(0.2, 10)
        second.reader.seek(0, 4)
        assert [(r.partition, r.offset) for r in await logs.fetched(second.reader, 1)] == [(0, 4)]


async def test_a_place_can_be_named_only_for_what_is_assigned(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 1, 1)
    async with logs.member(transport, "received") as one:
        await one.has(1)
        with pytest.raises(TransportError):
            one.reader.seek(1, 0)


async def test_a_fetch_brings_no_more_than_asked_for_and_all_of_it_in_order(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 3, 100)
    async with logs.member(transport, "received") as one:
        for partition in await one.has(3):
            one.reader.seek(partition, 0)
        found: dict[int, list[int]] = {0: [], 1: [], 2: []}
        while sum(map(len, found.values())) < 300:
            batch = await one.reader.fetch(1, 7)
            assert sum(map(len, batch.values())) <= 7
            for partition, records in batch.items():
                found[partition] += [r.offset for r in records]
        assert found == {partition: list(range(100)) for partition in range(3)}


async def test_a_paused_partition_gives_nothing_and_loses_nothing(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 2, 50)
    async with logs.member(transport, "received") as one:
        for partition in await one.has(2):
            one.reader.seek(partition, 0)
        found: dict[int, list[int]] = {0: [], 1: []}

        async def take(count: int) -> None:
            for partition, records in (await one.reader.fetch(0.5, count)).items():
                found[partition] += [r.offset for r in records]

        await take(3)
        one.reader.pause([0])
        before = list(found[0])
        while len(found[1]) < 50:
            await take(5)
        assert found[0] == before
        one.reader.resume([0])
        while len(found[0]) < 50:
            await take(5)
        assert found == {0: list(range(50)), 1: list(range(50))}


async def test_a_pause_holds_for_a_fetch_that_is_already_waiting(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 1, 0)
    async with logs.member(transport, "received") as one, logs.writer(transport) as writer:
        await one.has(1)
        one.reader.seek(0, 0)
        waiting = asyncio.create_task(one.reader.fetch(1.0, 10))
        await asyncio.sleep(0)
        one.reader.pause([0])
        await writer.send(logs.numbered("received", 0, range(3)))
        assert not await waiting
        one.reader.resume([0])
        assert [r.offset for r in await logs.fetched(one.reader, 3)] == [0, 1, 2]


async def test_seeking_goes_back_and_forth_also_while_a_fetch_waits(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 1, 10)
    async with logs.member(transport, "received") as one:
        await one.has(1)
        one.reader.seek(0, 8)
        assert [r.offset for r in await logs.fetched(one.reader, 2)] == [8, 9]
        waiting = asyncio.create_task(logs.fetched(one.reader, 9))
        await asyncio.sleep(0)
        one.reader.seek(0, 1)
        assert [r.offset for r in await waiting] == list(range(1, 10))


async def test_a_cancelled_fetch_loses_nothing(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 1, 0)
    async with logs.member(transport, "received") as one, logs.writer(transport) as writer:
        await one.has(1)
        one.reader.seek(0, 0)
        found: list[int] = []
        for _ in range(5):
            waiting = asyncio.create_task(logs.fetched(one.reader, 1))
            await asyncio.sleep(0)
            await writer.send(logs.numbered("received", 0, range(1)))
            waiting.cancel()
            await asyncio.wait({waiting})
            if not waiting.cancelled():
                found += [r.offset for r in waiting.result()]
        if len(found) < 5:
            found += [r.offset for r in await logs.fetched(one.reader, 5 - len(found))]
        assert found == [0, 1, 2, 3, 4]


async def test_how_a_commit_ends_that_nobody_waits_for_any_more_is_not_logged_as_a_mistake(
    log: logs.Log, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka shields it from who asked, who may have a deadline."""
    if not isinstance(log, logs.KafkaLog):
        pytest.skip("is about aiokafka")
    await filled(log, transport, 1, 1)
    unheard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context["message"]))
    asked, answer, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slowly(request: object) -> None:
        asked.set()
        await answer.wait()
        ended.set()
        raise errors.GroupLoadInProgressError

    async with logs.member(transport, "received") as one:
        await one.has(1)
        assert isinstance(one.reader, KafkaGroupReader)
        with monkeypatch.context() as patched:
            patched.setattr(one.reader._joined()._coordinator, "_send_req", slowly)
            commit = asyncio.ensure_future(one.reader.commit({0: Commit(1, "")}))
            await asked.wait()
            commit.cancel()
            answer.set()
            await ended.wait()
        with pytest.raises(asyncio.CancelledError):
            await commit
        gc.collect()
    assert unheard == []


async def test_a_group_tells_how_many_members_it_has(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 3, 1)
    assert await transport.cluster.members("stage") == 0
    async with logs.member(transport, "received") as one:
        await one.has(3)
        assert await transport.cluster.members("stage") == 1
        assert await transport.cluster.members("another") == 0
    assert await transport.cluster.members("stage") == 0


async def test_metadata_comes_back_as_it_was_committed(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 3, 1)
    async with logs.member(transport, "received") as one:
        await one.has(3)
        assert dict(await one.reader.committed([0, 1, 2])) == {0: None, 1: None, 2: None}
        commits = {0: Commit(1, "v1 |~ metadata"), 1: Commit(0, "x" * logs.METADATA_LIMIT)}
        await one.reader.commit(commits)
        assert dict(await one.reader.committed([0, 1, 2])) == {**commits, 2: None}
    assert dict(await transport.cluster.committed("stage")) == {("received", p): commit for p, commit in commits.items()}
    assert dict(await transport.cluster.committed("another")) == {}


async def test_metadata_beyond_the_limit_is_refused_and_leaves_what_was(log: logs.Log, transport: Transport) -> None:
    if not log.limits_metadata:
        pytest.skip("this broker takes metadata of any length: Apache Kafka and the log in memory show the limit")
    await filled(log, transport, 1, 1)
    async with logs.member(transport, "received") as one:
        await one.has(1)
        kept = Commit(0, "y" * logs.METADATA_LIMIT)
        await one.reader.commit({0: kept})
        with pytest.raises(TransportError) as caught:
            await one.reader.commit({0: Commit(1, "y" * (logs.METADATA_LIMIT + 1))})
        assert not isinstance(caught.value, CommitRefused)
        assert not caught.value.retryable
        assert await one.reader.committed([0]) == {0: kept}


async def test_a_newcomer_gets_nothing_before_the_other_has_let_go(log: logs.Log, transport: Transport) -> None:
    """`revoked` is awaited, and only then does the group go on."""
    await filled(log, transport, 4, 1)
    async with logs.member(transport, "received") as first:
        await first.has(4)
        first.may_let_go.clear()
        async with logs.member(await log.transport(), "received") as second:
            await first.letting_go.wait()
            assert first.reader.lease_seconds() > 0
            # A group that doesn't wait would have given them out by then.
            await asyncio.sleep(1.0)
            assert second.heard == []
            first.may_let_go.set()
            mine, other = await first.has(2), await second.has(2)
            assert (mine | other, mine & other) == (frozenset(range(4)), frozenset())
        await first.has(4)
    assert [what for what, _ in first.heard] == ["assigned", "revoked", "assigned", "revoked", "assigned"]


async def test_who_lets_go_may_commit_and_stays_a_member_if_it_is_refused(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 2, 1)
    async with logs.member(transport, "received") as first:
        await first.has(2)
        commits = {p: Commit(1, "drained") for p in range(2)}
        refused: list[CommitRefused] = []

        async def commit() -> None:
            try:
                await first.reader.commit(commits)
            except CommitRefused as error:
                refused.append(error)

        first.on_revoked = commit
        async with logs.member(await log.transport(), "received") as second:
            await second.has(1)
            await first.has(1)
            first.on_revoked = None
            expected = commits if log.commits_while_letting_go else {0: None, 1: None}
            assert await second.reader.committed([0, 1]) == expected
            assert len(refused) == (0 if log.commits_while_letting_go else 1)


async def test_who_lost_a_partition_cannot_commit_it(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 2, 1)
    async with logs.member(transport, "received") as first:
        await first.has(2)
        async with logs.member(await log.transport(), "received") as second:
            (kept,), (lost,) = await first.has(1), await second.has(1)
            with pytest.raises(CommitRefused):
                await first.reader.commit({lost: Commit(1, "stale")})
            with pytest.raises(CommitRefused):
                await first.reader.commit({lost: Commit(1, "stale"), kept: Commit(1, "stale")})
            await first.reader.commit({kept: Commit(1, "good")})
            assert await second.reader.committed([kept, lost]) == {kept: Commit(1, "good"), lost: None}


async def test_partitions_of_one_number_go_together(log: logs.Log, transport: Transport) -> None:
    """The Range assignor: two members share a topic as neighbours, the same for every topic with as many partitions."""
    await filled(log, transport, 4, 0)
    async with logs.member(transport, "received") as first:
        await first.has(4)
        async with logs.member(await log.transport(), "received") as second:
            assert {await first.has(2), await second.has(2)} == {frozenset({0, 1}), frozenset({2, 3})}


async def test_a_listener_that_fails_is_heard_at_the_next_fetch(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 1, 1)
    async with logs.member(transport, "received") as one:
        one.failure = RuntimeError("could not load")
        await one.has(1)
        with pytest.raises(RuntimeError, match="could not load"):
            await logs.fetched(one.reader, 1)
        one.reader.seek(0, 0)
        assert len(await logs.fetched(one.reader, 1)) == 1


@pytest.mark.parametrize("offset", [2, 11], ids=["below the log's start", "past its end"])
async def test_a_place_outside_the_log_is_told_with_partition_and_offset(log: logs.Log, transport: Transport, offset: int) -> None:
    await filled(log, transport, 2, 10)
    await log.delete_records("received", 1, 5)
    async with logs.member(transport, "received") as one:
        await one.has(2)
        one.reader.seek(1, offset)
        with pytest.raises(OffsetOutOfRange) as caught:
            await logs.fetched(one.reader, 1)
        assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("received", 1, offset)
        one.reader.seek(1, 5)
        assert [r.offset for r in await logs.fetched(one.reader, 5)] == [5, 6, 7, 8, 9]


async def test_the_end_of_a_partition_is_asked_for(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 2, 3)
    async with logs.member(transport, "received") as one:
        await one.has(2)
        assert dict(await one.reader.end_offsets([0, 1])) == {0: 3, 1: 3}


async def test_a_group_on_a_topic_that_is_missing_does_not_start(log: logs.Log, transport: Transport) -> None:
    with pytest.raises(TopicMissing, match="nowhere"):
        await logs.Member(transport, "nowhere").reader.start()


async def test_the_lease_is_there_with_the_partitions_and_ends_with_them(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 1, 1)
    one = logs.Member(transport, "received")
    assert one.reader.lease_seconds() < 0
    await one.reader.start()
    await one.has(1)
    assert 0 < one.reader.lease_seconds() <= logs.SESSION_SECONDS / 2
    await one.reader.stop()
    assert one.reader.lease_seconds() < 0


async def test_with_a_topic_that_is_deleted_its_commits_go(log: logs.Log, transport: Transport) -> None:
    await filled(log, transport, 1, 3)
    async with logs.member(transport, "received") as one:
        await one.has(1)
        await one.reader.commit({0: Commit(2, "m")})
    await log.delete_topic("received")
    await log.create("received", 1)
    async with logs.member(transport, "received") as again:
        await again.has(1)
        assert await again.reader.committed([0]) == {0: None if log.forgets_with_topic else Commit(2, "m")}


async def test_what_was_fetched_ahead_is_not_handed_out_after_a_rebalance(log: logs.Log, transport: Transport) -> None:
    """Also of a partition that stays or comes back: reading begins at the place that is named for this ownership."""
    await filled(log, transport, 2, 50)
    async with logs.member(transport, "received") as first:
        for partition in await first.has(2):
            first.reader.seek(partition, 0)
        await logs.fetched(first.reader, 1)
        async with logs.member(await log.transport(), "received") as second:
            (kept,), _ = await first.has(1), await second.has(1)
            assert not await first.reader.fetch(0.5, 100)
            first.reader.seek(kept, 40)
            assert [(r.partition, r.offset) for r in await logs.fetched(first.reader, 10)] == [(kept, offset) for offset in range(40, 50)]
        await first.has(2)
        assert not await first.reader.fetch(0.5, 100)
        for partition in (0, 1):
            first.reader.seek(partition, 45)
        found = [(r.partition, r.offset) for r in await logs.fetched(first.reader, 10)]
        assert sorted(found) == [(partition, offset) for partition in (0, 1) for offset in range(45, 50)]
