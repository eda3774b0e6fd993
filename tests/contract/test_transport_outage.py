"""What happens while a broker is away: every wait has its end, and what goes on afterwards goes on by itself. On brokers of its own."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import signal
import socket
from collections.abc import AsyncIterator

import pytest

from pipeline.errors import CommitRefused, TransportError, WriteError
from pipeline.kafka import KafkaSettings, KafkaTransport, KafkaWriter
from pipeline.records import Commit, Outgoing
from stages.sandbox.broker import EmbeddedBroker
from tests.contract import logs


@contextlib.asynccontextmanager
async def house(data_dir: pathlib.Path, **settings: object) -> AsyncIterator[tuple[EmbeddedBroker, logs.KafkaLog]]:
    """A broker to be mistreated."""
    async with EmbeddedBroker(data_dir=data_dir) as broker, logs.kafka_log(broker.bootstrap, "outage") as kafka:
        kafka.settings = dataclasses.replace(kafka.settings, **settings)  # type: ignore[arg-type]
        yield broker, kafka


async def test_where_no_broker_answers_one_line_says_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        transport = KafkaTransport(KafkaSettings(bootstrap=address, connect_timeout_seconds=0.5))
        with pytest.raises(TransportError) as caught:
            await transport.start()
    said = str(caught.value)
    assert address in said
    assert "turnout sandbox broker" in said
    assert "TURNOUT_KAFKA_BOOTSTRAP" in said
    assert "\n" not in said


async def test_where_a_broker_takes_the_connection_and_says_nothing_the_wait_ends_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        transport = KafkaTransport(KafkaSettings(bootstrap=f"127.0.0.1:{mute.getsockname()[1]}", connect_timeout_seconds=0.5))
        with pytest.raises(TransportError, match="no Kafka broker answers"):
            await transport.start()


async def test_writers_and_readers_go_on_when_the_broker_is_back(tmp_path: pathlib.Path) -> None:
    """A broker that has lost its groups gives the partitions out again."""
    async with house(tmp_path, request_timeout_ms=3000) as (broker, kafka):
        transport = await kafka.transport()
        await kafka.create("received", 1)
        async with logs.writer(transport) as writer, logs.member(transport, "received") as one:
            await one.has(1)
            one.reader.seek(0, 0)
            await writer.send(logs.numbered("received", 0, range(3)))
            assert [r.value for r in await logs.fetched(one.reader, 3)] == [b"0", b"1", b"2"]
            one.places = {0: 3}
            port = broker.port
            await broker.stop()
            sent = writer.send(logs.numbered("received", 0, range(3, 6)))
            assert not await one.reader.fetch(0.3, 10)
            with pytest.raises(TransportError):
                await asyncio.wait_for(transport.cluster.offsets("received"), 30)
            async with EmbeddedBroker(port, tmp_path):
                assert len(await sent) == 3
                assert [r.value for r in await logs.fetched(one.reader, 3)] == [b"3", b"4", b"5"]
                await logs.until(lambda: _committed(one, Commit(6, "m")))
                assert await one.reader.committed([0]) == {0: Commit(6, "m")}


async def test_a_broker_that_says_nothing_ends_each_wait_at_its_deadline(tmp_path: pathlib.Path) -> None:
    """What was not acknowledged in time fails with what waits behind it, and may be sent again over a new producer."""
    async with house(tmp_path, delivery_timeout_seconds=3.0, request_timeout_ms=3000, close_timeout_seconds=1.0) as (broker, kafka):
        transport = await kafka.transport()
        await kafka.create("received", 1)
        async with logs.writer(transport) as writer, logs.member(transport, "received") as one, logs.reader(transport) as reader:
            await one.has(1)
            assert isinstance(writer, KafkaWriter)
            await writer.send(logs.numbered("received", 0, range(1)))
            assert broker.pid is not None
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                sends = [writer.send([Outgoing("received", b"k", b"late-%d" % number, (), 0)]) for number in range(3)]
                for send in sends:
                    with pytest.raises(WriteError) as caught:
                        await asyncio.wait_for(send, 30)
                    assert caught.value.retryable
                with pytest.raises(TransportError) as refused:
                    await one.reader.commit({0: Commit(1, "m")})
                assert refused.value.retryable
                with pytest.raises(TransportError):
                    await one.reader.committed([0])
                assert writer.pending_bytes == 0
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            again = asyncio.timeout(logs.PATIENCE_SECONDS)
            async with again:
                while True:
                    try:
                        await writer.send([Outgoing("received", b"k", b"again", (), 0)])
                        break
                    except WriteError as error:
                        assert error.retryable  # noqa: PT017  asked again until the new producer is there
            reader.assign({("received", 0): 0})
            found = await logs.read(reader, 2)
            while found[-1].value != b"again":
                found += await logs.read(reader, 1)
            assert found[0].value == b"0"


async def test_the_lease_runs_out_while_the_broker_is_away(tmp_path: pathlib.Path) -> None:
    async with house(tmp_path, session_timeout_ms=6000) as (broker, kafka):
        transport = await kafka.transport()
        await kafka.create("received", 1)
        async with logs.member(transport, "received") as one:
            await one.has(1)
            await broker.stop()
            await logs.until(lambda: _lapsed(one))


async def _committed(one: logs.Member, commit: Commit) -> bool:
    """False while the group is being put together again, or the broker does not answer yet."""
    try:
        await one.reader.commit({0: commit})
    except TransportError as error:
        if not isinstance(error, CommitRefused) and not error.retryable:
            raise
        return False
    return True


async def _lapsed(one: logs.Member) -> bool:
    return one.reader.lease_seconds() < 0
