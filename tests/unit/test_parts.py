"""What the parts of a process start, and what they do without."""

import asyncio
import os
import pathlib
import signal

import aiohttp
import anyio
import pytest

from pipeline import tables
from pipeline.memory import MemoryBroker, MemoryTransport, MemoryWriter
from stages import console, flow, parts, secrets
from stages.environment import Address, Environment, Secret, Token
from stages.installation import free_ports, local

ANY = Address("127.0.0.1", 0)


class Counting(MemoryTransport):
    """Counts the writers that are started: each would be a producer."""

    started = 0

    def writer(self) -> MemoryWriter:
        transport = self

        class Counted(MemoryWriter):
            async def start(self) -> None:
                transport.started += 1
                await super().start()

        return Counted(self.broker)


class AtOnce(parts.Stopping):
    """Asks for the stop as soon as the parts run."""

    async def asked(self) -> None:
        await anyio.lowlevel.checkpoint()


class Looking(parts.Stopping):
    """Looks at a page as soon as the parts run, then asks for the stop."""

    status = 0

    def __init__(self, page: str) -> None:
        super().__init__()
        self._page = page

    async def asked(self) -> None:
        async with aiohttp.ClientSession() as session, session.get(self._page) as answer:
            self.status = answer.status


@pytest.fixture
def keys(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "keys"
    path.write_text(secrets.new_key())
    path.chmod(0o600)
    return path


@pytest.fixture
def transport() -> Counting:
    broker = MemoryBroker()
    for spec in flow.topics(partitions=2, replication=1, retention_hours=336):
        broker.create_topic(spec.name, spec.partitions)
    return Counting(broker)


@pytest.mark.parametrize(("names", "producers"), [(["console"], 0), (["ingress"], 1), (["ingress", "console"], 1), (["normalize"], 1)])
async def test_only_what_writes_starts_a_producer(transport: Counting, keys: pathlib.Path, names: list[str], producers: int) -> None:
    """A producer asks for rights, IdempotentWrite before Kafka 3.0 and on no topic at all."""
    environment = Environment(ingress=ANY, console=ANY, metrics=ANY, secret_keys_file=keys)
    with anyio.fail_after(20):
        await parts.Process(environment, transport, names).run(AtOnce())
    assert transport.started == producers


@pytest.mark.parametrize(("tokens", "status"), [((), 200), ((Token("look", Secret("0123456789abcdef")),), 401)])
async def test_the_console_asks_for_the_tokens_of_the_environment(
    transport: Counting, keys: pathlib.Path, tokens: tuple[Token, ...], status: int
) -> None:
    address = local(free_ports(1)[0])
    stopping = Looking(f"http://{address}/")
    with anyio.fail_after(20):
        await parts.Process(Environment(console=address, console_tokens=tokens, secret_keys_file=keys), transport, ["console"]).run(
            stopping
        )
    assert stopping.status == status


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_the_first_signal_stops_the_parts_and_says_what_the_process_ends_with(number: signal.Signals, code: int) -> None:
    with parts.Stopping() as stopping, anyio.fail_after(20):
        os.kill(os.getpid(), number)
        await stopping.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        await anyio.lowlevel.checkpoint()
    assert stopping.exit_code == code


class Outage(parts.Stopping):
    """Kafka does not answer until /readyz says so; once it does again, and /readyz says that too, asks for the stop."""

    def __init__(self, broker: MemoryBroker, page: str) -> None:
        super().__init__()
        self._broker, self._page = broker, page
        self.reason = ""

    async def asked(self) -> None:
        async with aiohttp.ClientSession() as session:
            await self._until(session, 200)
            self._broker.faults.fail("offsets", times=1_000_000)
            self.reason = (await self._until(session, 503))["reason"]
            self._broker.faults.clear()
            await self._until(session, 200)

    async def _until(self, session: aiohttp.ClientSession, status: int) -> dict[str, str]:
        while True:
            async with session.get(self._page) as answer:
                if answer.status == status:
                    told: dict[str, str] = await answer.json()
                    return told
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("name", ["ingress", "console"])
async def test_a_part_without_a_worker_is_not_ready_while_kafka_does_not_answer_and_again_afterwards(
    transport: Counting, keys: pathlib.Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while nobody sends it anything, nor looks at it."""
    for module, seconds in ((console, "_LOOK_SECONDS"), (tables, "_WATCH_SECONDS")):
        monkeypatch.setattr(module, seconds, 0.05)
        monkeypatch.setattr(module, "_SILENT_SECONDS", 0.2)
    address = local(free_ports(1)[0])
    stopping = Outage(transport.broker, f"http://{address}/readyz")
    with anyio.fail_after(20):
        await parts.Process(Environment(ingress=address, console=address, secret_keys_file=keys), transport, [name]).run(stopping)
    assert stopping.reason.startswith("the log has not answered for ")
    assert stopping.reason.endswith(": injected")
