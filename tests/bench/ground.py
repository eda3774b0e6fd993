"""What benches run on: a broker, sandbox orgs and each part of the product as a process of its own, all on loopback, all ended at the end."""

import asyncio
import contextlib
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

import aiohttp

from pipeline.kafka import KafkaSettings, KafkaTransport
from stages import flow
from tests import brokers
from tests.bench import outcomes
from tests.bench.outcomes import BenchError, Outcomes
from tests.bench.stand import Stand
from tests.flow import house as houses
from tests.flow import processes
from tests.flow.house import House
from tests.flow.processes import Child
from tests.flow.salesforce import Org
from tests.kafka import apache

CHAIN: Final = ("ingress", *flow.STAGES)
READY_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.1


@dataclasses.dataclass(slots=True)
class Ground:
    """`children` are the parts that run, by name."""

    house: House
    urls: list[str]
    http: aiohttp.ClientSession
    transport: KafkaTransport
    outcomes: Outcomes
    sandbox: Child
    children: dict[str, Child] = dataclasses.field(default_factory=dict)
    opened: int = 0

    async def start(self, part: str) -> None:
        """Starts a part; returns when it is ready: a stage then holds its partitions."""
        self.children[part] = await self.another(part)

    async def another(self, part: str, **variables: str) -> Child:
        """One more process of a part, with these variables of its own; it is not among `children`. Returns when it is ready."""
        child = await asyncio.to_thread(self.house.start, (part,), **variables)
        serves = r'"address": "(http://[^"]+)/metrics"'
        address = child.says(serves).group(1) if part in flow.STAGES else self.house.ingress
        ends = time.monotonic() + READY_SECONDS
        while not await self._is_ready(address):
            if time.monotonic() > ends:
                raise BenchError(f"{part} is not ready within {READY_SECONDS:g} s:\n{child.tail()}")
            await asyncio.sleep(LOOK_SECONDS)
        return child

    async def _is_ready(self, address: str) -> bool:
        async with self.http.get(f"{address}/readyz") as answer:
            return answer.status == 200

    async def stop(self, part: str) -> None:
        await self.end(self.children.pop(part))

    async def end(self, child: Child) -> None:
        """SIGTERM, and gone. Raises BenchError where it does not end well."""
        self.house.children.remove(child)
        code = await asyncio.to_thread(child.stop)
        if code:
            raise BenchError(f"`turnout {' '.join(child.arguments)}` ended with {code}:\n{child.tail()}")

    async def kill(self, child: Child) -> None:
        """kill -9, and gone."""
        self.house.children.remove(child)
        await asyncio.to_thread(child.kill)

    async def open(self, count: int = 1) -> list[Stand]:
        """So many workspaces, each on an org of its own, known to the ingress; nothing has happened in them."""
        first, self.opened = self.opened, self.opened + count
        stands = [
            Stand(Org(f"org-{number:03}", self.urls[number], self.http), f"ws-{number:03}", self.house.ingress, self.http)
            for number in range(first, first + count)
        ]
        settings = {"org": [stand.org_table() for stand in stands], "workspace": [stand.workspace_table() for stand in stands]}
        await asyncio.to_thread(self.house.apply, settings)
        for stand in stands:
            await stand.known(READY_SECONDS)
        return stands

    async def announce(self, stands: Sequence[Stand]) -> None:
        """Tells of each one's session, and returns when all have their Campaign."""
        for stand in stands:
            await stand.tell_session()
        for stand in stands:
            await self.outcomes.session(stand.workspace, READY_SECONDS)

    async def has_read(self, stage: str, seconds: float) -> None:
        """Until the stage's main cursors have come to the end of its topic: what is not done by then lags."""
        topic, ends = flow.STAGES[stage][0], time.monotonic() + seconds
        while True:
            bounds = await self.transport.cluster.offsets(topic)
            committed = await self.transport.cluster.committed(stage)
            have = {number: commit.offset for (name, number), commit in committed.items() if name == topic}
            left = sum(end - have.get(number, start) for number, (start, end) in bounds.items())
            if not left:
                return
            if time.monotonic() > ends:
                raise BenchError(f"{stage} has not read its topic within {seconds:g} s: {left} messages are left")
            await asyncio.sleep(LOOK_SECONDS)


@contextlib.asynccontextmanager
async def ground(
    *, orgs: int = 1, latency_ms: int = 0, parts: Sequence[str] = CHAIN, broker: str | None = None, folder: pathlib.Path | None = None
) -> AsyncIterator[Ground]:
    """With these parts running. `broker`: else TURNOUT_TEST_BROKER's; `folder`: for logs and topics, else one that goes at the end."""
    async with contextlib.AsyncExitStack() as stack:
        if folder is None:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnout-bench-")))
        bootstrap = await stack.enter_async_context(on_broker(folder / "broker", broker or brokers.kind()))
        arguments = ["sandbox", "salesforce", "--port", "0", "--orgs", str(orgs), "--latency-ms", str(latency_ms)]
        said = folder / "orgs.log"
        sandbox, ready = stack.enter_context(processes.running(arguments, processes.environment(), said, r"sandbox salesforce ready: (.+)"))
        place = folder / "house"
        place.mkdir()
        house = stack.enter_context(houses.built(bootstrap, place))
        connector = aiohttp.TCPConnector(limit=0)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)))
        transport = KafkaTransport(KafkaSettings(bootstrap=bootstrap, prefix=house.prefix))
        await transport.start()
        stack.push_async_callback(transport.stop)
        heard = await stack.enter_async_context(outcomes.listening(transport))
        built = Ground(house, ready.group(1).split(), http, transport, heard, sandbox)
        for part in parts:
            await built.start(part)
        yield built


@contextlib.asynccontextmanager
async def on_broker(folder: pathlib.Path, kind: str) -> AsyncIterator[str]:
    """A broker's address; `folder` is made."""
    if kind == brokers.EMBEDDED:
        await asyncio.to_thread(folder.mkdir)
        with brokers.embedded(folder) as address:
            yield address
        return
    kafka = apache.ApacheKafka(folder)
    try:
        await kafka.start()
        yield kafka.bootstrap
    finally:
        kafka.stop()
