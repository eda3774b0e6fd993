"""The embedded broker: it starts, says what is wrong, and never outlives who started it."""

import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import sys
from collections.abc import AsyncIterator
from importlib import resources

import pytest

from pipeline import topics
from pipeline.kafka import KafkaSettings
from stages.sandbox.broker import BrokerError, EmbeddedBroker
from tests.contract import logs

ROOT = pathlib.Path(__file__).parent.parent.parent
SERVE = "import asyncio, sys; from stages.sandbox.broker import serve; sys.exit(asyncio.run(serve(0, None)))"


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The broker as the command runs it, and its address."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVE, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("broker ready at 127.0.0.1:")
        yield process, line.split()[-1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def closed(address: str) -> bool:
    """Nothing listens there any more."""
    host, port = address.split(":")
    try:
        _, stream = await asyncio.open_connection(host, int(port))
    except OSError:
        return True
    stream.close()
    return False


async def test_it_answers_and_is_gone_afterwards(tmp_path: pathlib.Path) -> None:
    async with EmbeddedBroker(data_dir=tmp_path) as broker, logs.kafka_log(broker.bootstrap, "one") as kafka:
        await kafka.create("received", 1)
        address, pid = broker.bootstrap, broker.pid
        assert pid is not None
    assert await closed(address)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_what_it_was_told_is_there_after_a_clean_end(tmp_path: pathlib.Path) -> None:
    async with EmbeddedBroker(data_dir=tmp_path) as broker, logs.kafka_log(broker.bootstrap, "one") as kafka:
        await kafka.create("received", 1)
        async with logs.writer(await kafka.transport()) as writer:
            await writer.send(logs.numbered("received", 0, range(5)))
    async with EmbeddedBroker(data_dir=tmp_path) as broker, logs.kafka_log(broker.bootstrap, "one") as kafka:
        assert await kafka.first.cluster.offsets("received") == {0: (0, 5)}


async def test_nothing_about_it_is_warned_of_that_nobody_could_set_there() -> None:
    async with EmbeddedBroker() as broker:
        assert await topics.check(KafkaSettings(bootstrap=broker.bootstrap), []) == []


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} is in use"):
            await EmbeddedBroker(port).start()


async def test_where_it_is_not_installed_the_way_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(resources, "files", missing)
    with pytest.raises(BrokerError, match=r"pip install 'turnout\[embedded\]'"):
        await EmbeddedBroker().start()


async def test_a_broker_that_dies_at_once_is_quoted(tmp_path: pathlib.Path) -> None:
    """Here because its data directory is a file."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(BrokerError, match="ended at once"):
        await EmbeddedBroker(data_dir=blocked / "data").start()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_the_command_ends_cleanly_when_it_is_told_to(number: signal.Signals, code: int) -> None:
    async with serving() as (process, address):
        process.send_signal(number)
        async with asyncio.timeout(logs.PATIENCE_SECONDS):
            assert await process.wait() == code
        assert await closed(address)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can tie a child to its parent's death")
async def test_the_broker_ends_with_a_command_that_is_killed() -> None:
    async with serving() as (process, address):
        process.kill()
        await logs.until(lambda: closed(address))
