"""Events per second: through the whole chain from posted webhook to Campaign Member, and of each stage alone from a full topic."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence

from stages import flow
from tests.bench.figures import Figure, main, median, quantile, tell
from tests.bench.filling import addresses, fill, original
from tests.bench.ground import CHAIN, LOOK_SECONDS, Ground, ground
from tests.bench.outcomes import BenchError
from tests.bench.stand import Stand
from tests.bench.usage import cpu_seconds

DONE_SECONDS = 120.0
MIDDLE = (0.1, 0.9)
"""A stage's rate is that of the middle of its work: neither its first batch nor its last, smaller ones."""


async def measure(options: argparse.Namespace) -> Sequence[Figure]:
    figures = []
    async with ground(orgs=options.rounds + 1) as place:
        stands = await place.open(options.rounds + 1)
        await place.announce(stands)
        pids = {part: child.pid for part, child in place.children.items()}
        before = {part: cpu_seconds(pid) for part, pid in pids.items()}
        rates = [await _chain(place, stand, options.people) for stand in stands[1:]]
        figures.append(
            Figure("whole chain, webhook to member", median(rates), "events/s", note=f"{options.people:,} people; rounds: {_list(rates)}")
        )
        for part, pid in pids.items():
            spent = (cpu_seconds(pid) - before[part]) / (options.people * options.rounds)
            figures.append(Figure(f"… CPU of {part}", spent * 1000, "ms an event"))
        figures += await _stages(place, stands[0], options.stage_people)
    return figures


async def _chain(place: Ground, stand: Stand, people: int) -> float:
    """From the first post until the last one is synced, the posting of signed webhooks included."""
    bodies = stand.next_people(people)
    started = time.monotonic()
    await stand.register(bodies, at_once=64)
    posted = time.monotonic() - started
    await place.outcomes.people(stand.workspace, people, DONE_SECONDS)
    seconds = time.monotonic() - started
    tell(f"chain: {people} people: posted in {posted:.1f} s, synced after {seconds:.1f} s: {people / seconds:.0f} a second")
    return people / seconds


async def _stages(place: Ground, stand: Stand, people: int) -> list[Figure]:
    """Each stage alone, its topic filled by the one before, with nothing beside it but broker and org."""
    model = await original(place, stand)
    for part in CHAIN:
        await place.stop(part)
    emails = addresses(stand, people)
    await fill(place, model.clones(flow.RECEIVED, emails))
    figures = []
    for number, stage in enumerate(flow.STAGES):
        since = await _ends(place, flow.CHAIN[number + 1])
        await place.start(stage)
        await _grown(place, since, people)
        await place.stop(stage)
        times = await _times(place, flow.CHAIN[number + 1], since)
        start, end = (quantile(times, share) for share in MIDDLE)
        rate = len(times) * (MIDDLE[1] - MIDDLE[0]) / max(0.001, (end - start) / 1000)
        tell(f"{stage}: {len(times)} records in {(times[-1] - times[0]) / 1000:.1f} s: {rate:.0f} a second")
        figures.append(Figure(stage, rate, "events/s", note=f"{people:,} people of one session wait in its topic"))
    return figures


async def _ends(place: Ground, topic: str) -> dict[tuple[str, int], int]:
    return {(topic, number): end for number, (_, end) in (await place.transport.cluster.offsets(topic)).items()}


async def _grown(place: Ground, since: dict[tuple[str, int], int], count: int) -> None:
    """Until the topic has got so many records more. Raises BenchError."""
    topic, started = next(iter(since))[0], time.monotonic()
    while (grown := sum((await _ends(place, topic)).values()) - sum(since.values())) < count:
        if time.monotonic() - started > DONE_SECONDS:
            lag = await asyncio.to_thread(place.house.document, "lag")
            raise BenchError(
                f"{topic} has got {grown} of {count} records within {DONE_SECONDS:g} s; {place.outcomes.wrong[:2]}; {lag['lanes'][:2]}"
            )
        await asyncio.sleep(LOOK_SECONDS)


async def _times(place: Ground, topic: str, since: dict[tuple[str, int], int]) -> list[int]:
    """When each record was written, Unix ms, in order."""
    until = await _ends(place, topic)
    reader = place.transport.reader()
    await reader.start()
    try:
        reader.assign(since)
        times: list[int] = []
        while any(reader.position(*where) < end for where, end in until.items()):
            times += [record.timestamp_ms for record in await reader.fetch(0.5, 5_000)]
    finally:
        await reader.stop()
    return sorted(times)


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--people", type=int, default=5_000, help="of one round through the whole chain")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stage-people", type=int, default=20_000, help="waiting for each stage")


if __name__ == "__main__":
    sys.exit(main("throughput", __doc__, measure, arguments))
