"""What the parts of a process start, and what they do without."""

import pathlib

import anyio
import pytest

from pipeline.memory import MemoryBroker, MemoryTransport, MemoryWriter
from stages import flow, parts, secrets
from stages.environment import Address, Environment

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


@pytest.fixture
def transport() -> Counting:
    broker = MemoryBroker()
    for spec in flow.topics(partitions=2, replication=1, retention_hours=336):
        broker.create_topic(spec.name, spec.partitions)
    return Counting(broker)


@pytest.mark.parametrize(("names", "producers"), [(["console"], 0), (["ingress"], 1), (["ingress", "console"], 1), (["normalize"], 1)])
async def test_only_what_writes_starts_a_producer(transport: Counting, tmp_path: pathlib.Path, names: list[str], producers: int) -> None:
    """A producer asks for rights, IdempotentWrite before Kafka 3.0 and on no topic at all."""
    keys = tmp_path / "keys"
    keys.write_text(secrets.new_key())
    keys.chmod(0o600)
    environment = Environment(ingress=ANY, console=ANY, metrics=ANY, secret_keys_file=keys)
    with anyio.fail_after(20):
        await parts.Process(environment, transport, names).run(AtOnce())
    assert transport.started == producers
