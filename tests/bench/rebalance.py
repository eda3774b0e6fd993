"""What healthy work notices when a worker comes, goes, or is killed: the longest silence of any partition, and what is worked on twice. On Apache Kafka.

Each partition of `received` gets a message every tenth of a second; `turnout run normalize` passes them on. A pause is the longest gap
between two outputs of one partition, less the longest gap of a quiet while just before. Times of the group are the product's own.
"""

import argparse
import asyncio
import contextlib
import itertools
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Final

from pipeline.kafka.writer import partition_of
from stages import flow
from tests import brokers
from tests.bench.figures import Figure, main, median, tell
from tests.bench.filling import Original, original
from tests.bench.ground import Ground, ground
from tests.bench.outcomes import BenchError
from tests.flow.processes import Child

STAGE: Final = "normalize"
READS, WRITES = flow.STAGES[STAGE][0], "normalized"
TICK_SECONDS: Final = 0.1
PEOPLE: Final = 100
"""Addresses of each partition, taken in turn."""
QUIET_SECONDS: Final = 5.0
CALM_SECONDS: Final = 2.0
"""So long must everything be through at once before a blow is over."""
MOMENT_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.2
LONGEST_SECONDS: Final = 180.0
FETCH_RECORDS: Final = 5_000

ADDED, LEFT = "a worker is added", "a worker is stopped (SIGTERM)"
KILLED, REPLACED = "a worker without a name is killed, nobody comes", "a worker without a name is killed and started again at once"
NAMED: Final = "a worker with a name (TURNOUT_INSTANCE) is killed and started again at once"


class Stream:
    """A steady stream through the stage, and when what of it came out."""

    def __init__(self, place: Ground, model: Original, partitions: int) -> None:
        self._place, self._partitions = place, partitions
        self._records = model.clones(READS, itertools.cycle(_addresses(partitions)))
        self.sent = 0
        self.out: Counter[str] = Counter()
        """By id, how often it came out."""
        self.times_ms: defaultdict[int, list[int]] = defaultdict(list)
        """By partition, when the log took each output."""

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._send())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self) -> None:
        writer = self._place.transport.writer()
        await writer.start()
        due = time.monotonic()
        try:
            while True:
                await writer.send(list(itertools.islice(self._records, self._partitions)))
                self.sent += self._partitions
                due += TICK_SECONDS
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        finally:
            await writer.stop()

    async def _listen(self) -> None:
        reader = self._place.transport.reader()
        await reader.start()
        try:
            ends = await self._place.transport.cluster.offsets(WRITES)
            reader.assign({(WRITES, number): end for number, (_, end) in ends.items()})
            while True:
                for record in await reader.fetch(0.2, FETCH_RECORDS):
                    self.out[dict(record.headers)["id"].decode()] += 1
                    self.times_ms[record.partition].append(record.timestamp_ms)
        finally:
            await reader.stop()

    @property
    def repeats(self) -> int:
        return self.out.total() - len(self.out)

    async def calm(self) -> None:
        """Until what was sent is through, and stays so. Raises BenchError."""
        ends, since = time.monotonic() + LONGEST_SECONDS, time.monotonic()
        while time.monotonic() - since < CALM_SECONDS:
            # A second's worth may be on its way at any time.
            if self.sent - len(self.out) > self._partitions / TICK_SECONDS:
                since = time.monotonic()
            if time.monotonic() > ends:
                raise BenchError(f"{self.sent - len(self.out)} of {self.sent} messages are not through within {LONGEST_SECONDS:g} s")
            await asyncio.sleep(LOOK_SECONDS)

    def longest_gaps(self, since_ms: float) -> list[float]:
        """Seconds: the longest silence of each partition from then on."""
        pairs = (itertools.pairwise(times) for times in self.times_ms.values())
        return [max(((late - early) / 1000 for early, late in gaps if late > since_ms), default=0.0) for gaps in pairs]


def _addresses(partitions: int) -> Iterator[str]:
    """So that each partition gets one message in each round."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    names = (f"stream-{number:08}@ws-000.example" for number in itertools.count())
    while len(found) < partitions or min(map(len, found.values())) < PEOPLE:
        name = next(names)
        found[partition_of(name.encode(), partitions)].append(name)
    for row in itertools.islice(zip(*(found[number] for number in range(partitions)), strict=False), PEOPLE):
        yield from row


class Samples:
    """By blow: pauses in seconds, and repeats."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.pauses: defaultdict[str, list[float]] = defaultdict(list)
        self.repeats: defaultdict[str, list[int]] = defaultdict(list)
        self.silent: defaultdict[str, list[int]] = defaultdict(list)
        """How many partitions paused for more than a moment."""
        self.usual: list[float] = []

    async def take(self, blow: str, strike: Callable[[], Awaitable[Child | None]]) -> Child | None:
        """Strikes, and waits until everything is through again."""
        stream = self._stream
        await stream.calm()
        quiet = time.time() * 1000
        await asyncio.sleep(QUIET_SECONDS)
        usual, known = max(stream.longest_gaps(quiet)), stream.repeats
        struck = time.time() * 1000
        child = await strike()
        await asyncio.sleep(CALM_SECONDS)
        await stream.calm()
        gaps = stream.longest_gaps(struck)
        self.usual.append(usual)
        self.pauses[blow].append(max(0.0, max(gaps) - usual))
        self.silent[blow].append(sum(gap - usual > MOMENT_SECONDS for gap in gaps))
        self.repeats[blow].append(stream.repeats - known)
        tell(
            f"{blow}: {max(gaps):.1f} s, where {usual:.1f} s is usual; {self.silent[blow][-1]} partitions were silent for over "
            f"{MOMENT_SECONDS:g} s; {self.repeats[blow][-1]} messages came out twice"
        )
        return child


async def measure(options: argparse.Namespace) -> Sequence[Figure]:
    async with ground(broker=brokers.APACHE) as place:
        stands = await place.open(1)
        await place.announce(stands)
        model = await original(place, stands[0])
        for part in [part for part in place.children if part != STAGE]:
            await place.stop(part)
        partitions = await place.transport.cluster.partitions(READS)
        stream = Stream(place, model, partitions)
        samples = Samples(stream)
        async with stream.flowing():
            for _ in range(options.samples):
                await _without_names(place, samples)
            await _with_name(place, samples, options.samples)
    rate = f"{partitions} partitions, {partitions / TICK_SECONDS:g} messages a second"
    tell(f"usual: {', '.join(f'{usual:.1f}' for usual in samples.usual)}")
    return list(_figures(samples, rate))


async def _without_names(place: Ground, samples: Samples) -> None:
    """One worker stays all the time; the other one comes and goes."""

    async def add() -> Child:
        return await place.another(STAGE)

    added = await samples.take(ADDED, add)
    assert added is not None
    await samples.take(LEFT, lambda: _none(place.end(added)))
    victim = await place.another(STAGE)
    await samples.take(KILLED, lambda: _none(place.kill(victim)))
    victim = await place.another(STAGE)

    async def replace() -> Child:
        await place.kill(victim)
        return await place.another(STAGE)

    replaced = await samples.take(REPLACED, replace)
    assert replaced is not None
    await place.end(replaced)


async def _with_name(place: Ground, samples: Samples, count: int) -> None:
    """The other worker has a name, and keeps its partitions while it is started again."""
    current = await place.another(STAGE, INSTANCE="bench")

    async def again() -> Child:
        await place.kill(current)
        return await place.another(STAGE, INSTANCE="bench")

    for _ in range(count):
        started = await samples.take(NAMED, again)
        assert started is not None
        current = started


async def _none(ended: Awaitable[None]) -> None:
    await ended


def _figures(samples: Samples, rate: str) -> Iterator[Figure]:
    for blow, pauses in samples.pauses.items():
        yield Figure(f"pause: {blow}", median(pauses), "s", note=f"samples: {', '.join(f'{pause:.1f}' for pause in pauses)}")
        silent = samples.silent[blow]
        told = f"for over {MOMENT_SECONDS:g} s; samples: {', '.join(map(str, silent))}"
        yield Figure("… partitions that were silent", median(silent), "", note=told)
        repeats = samples.repeats[blow]
        yield Figure("… worked on twice", median(repeats), "messages", note=f"samples: {', '.join(map(str, repeats))}; {rate}")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=3, help="of each")


if __name__ == "__main__":
    sys.exit(main("rebalance", __doc__, measure, arguments))
