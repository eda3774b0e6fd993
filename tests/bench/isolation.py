"""Delay from webhook to Campaign Member of healthy orgs: alone, beside orgs that are down, beside one that sends a crowd, and while that catches up.

The arms take turns, so that whatever else the machine does falls on each alike. The crowd's org answers slowly, and its people come at a
rate: so that its backlog stands for the whole turn while the processors have time to spare, without which delays tell of nothing else.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from stages import flow
from tests.bench.figures import Figure, at_most, main, quantile, tell
from tests.bench.filling import Original, addresses, fill, original
from tests.bench.ground import Ground, ground
from tests.bench.stand import Stand
from tests.bench.usage import machine_seconds

LATENCY_MS = 200
DONE_SECONDS = 120.0
ALONE, DOWN, CROWD, CATCHING_UP = "alone", "down", "crowd", "catching up"
P50_AIM, P99_AIM = 1.2, 1.5
CPU_AIM_PERCENT = 60
SLICE = 200
"""People of the crowd that come at one moment."""


class Arms:
    """The delays and the share of the machine's CPU in each arm, over all its turns."""

    def __init__(self) -> None:
        self.delays: defaultdict[str, list[float]] = defaultdict(list)
        self._cpu: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    @contextlib.contextmanager
    def watched(self, arm: str) -> Iterator[None]:
        busy, whole = machine_seconds()
        yield
        now_busy, now_whole = machine_seconds()
        self._cpu[arm].append((now_busy - busy, now_whole - whole))

    def cpu_percent(self, arm: str) -> float:
        return 100 * sum(busy for busy, _ in self._cpu[arm]) / sum(whole for _, whole in self._cpu[arm])


async def measure(options: argparse.Namespace) -> Sequence[Figure]:
    arms = Arms()
    async with ground(orgs=options.healthy + options.down + 1, latency_ms=LATENCY_MS) as place:
        stands = await place.open(options.healthy + options.down + 1)
        await place.announce(stands)
        healthy, down, crowd = stands[: options.healthy], stands[options.healthy : -1], stands[-1]
        model = await original(place, crowd)
        for stand in healthy + down:
            await stand.register(stand.next_people(1))
        for stand in healthy + down:
            await place.outcomes.people(stand.workspace, 1, DONE_SECONDS)
        for _ in range(options.rounds):
            await _turn(place, arms, ALONE, healthy, options)
            async with _orgs_down(place, down, options):
                await _turn(place, arms, DOWN, healthy, options)
            await _turn(place, arms, ALONE, healthy, options)
            for arm in (CROWD, CATCHING_UP):
                if arm == CATCHING_UP:
                    await _turn(place, arms, ALONE, healthy, options)
                async with _crowd(place, crowd, model, options, after_outage=arm == CATCHING_UP) as is_over:
                    await _turn(place, arms, arm, healthy, options, is_over)
    return list(_figures(arms, options))


async def _turn(
    place: Ground, arms: Arms, arm: str, healthy: Sequence[Stand], options: argparse.Namespace, is_over: Callable[[], bool] = lambda: True
) -> None:
    """Everyone's people come evenly, each org's at its own moments, for the length of a turn."""
    known = {stand.workspace: len(place.outcomes.of[stand.workspace].at_ms) for stand in healthy}
    ends = time.monotonic() + options.turn_seconds
    with arms.watched(arm):
        counts = await asyncio.gather(*(_steadily(stand, options.every_seconds, lambda: time.monotonic() < ends) for stand in healthy))
        for stand, count in zip(healthy, counts, strict=True):
            await place.outcomes.people(stand.workspace, known[stand.workspace] + count, DONE_SECONDS)
    delays = [delay for stand in healthy for delay in place.outcomes.of[stand.workspace].delays(known[stand.workspace])]
    arms.delays[arm] += delays
    tell(f"{arm}: {len(delays)} people, p50 {quantile(delays, 0.5):.2f} s, p99 {quantile(delays, 0.99):.2f} s; over: {is_over()}")


async def _steadily(stand: Stand, every_seconds: float, goes_on: Callable[[], bool]) -> int:
    """Registers one person after another; how many."""
    await asyncio.sleep(random.random() * every_seconds)
    count = 0
    while goes_on():
        started = time.monotonic()
        await stand.register(stand.next_people(1))
        count += 1
        await asyncio.sleep(max(0.0, every_seconds * random.uniform(0.8, 1.2) - (time.monotonic() - started)))
    return count


@contextlib.asynccontextmanager
async def _orgs_down(place: Ground, down: Sequence[Stand], options: argparse.Namespace) -> AsyncIterator[None]:
    """These orgs are down, with people coming in them all the same; afterwards all of them are synced."""
    known = {stand.workspace: len(place.outcomes.of[stand.workspace].at_ms) for stand in down}
    for stand in down:
        await stand.org.fault("http-503")
    ends = time.monotonic() + options.turn_seconds
    async with asyncio.TaskGroup() as tasks:
        coming = [tasks.create_task(_steadily(stand, options.every_seconds, lambda: time.monotonic() < ends)) for stand in down]
        yield
    for stand, task in zip(down, coming, strict=True):
        await stand.org.heal()
        await place.outcomes.people(stand.workspace, known[stand.workspace] + task.result(), DONE_SECONDS)


@contextlib.asynccontextmanager
async def _crowd(
    place: Ground, crowd: Stand, model: Original, options: argparse.Namespace, *, after_outage: bool
) -> AsyncIterator[Callable[[], bool]]:
    """One org's crowd comes, or waits already and the org is back; afterwards all of it is synced. Gives whether it is."""
    people, done = options.crowd, place.outcomes.of[crowd.workspace]
    known = len(done.at_ms)
    if after_outage:
        await crowd.org.fault("http-503")
        await fill(place, model.clones(flow.RECEIVED, addresses(crowd, people)))
        await place.has_read("match", DONE_SECONDS)
        await crowd.org.heal()
    await crowd.org.fault(f"slow:{options.crowd_call_ms}")
    async with asyncio.TaskGroup() as tasks:
        if not after_outage:
            tasks.create_task(_coming(place, crowd, model, people, options.crowd_rate))
        yield lambda: len(done.at_ms) >= known + people
    await crowd.org.heal()
    await place.outcomes.people(crowd.workspace, known + people, DONE_SECONDS * 2)
    tell(f"the crowd of {people} is synced")


async def _coming(place: Ground, crowd: Stand, model: Original, people: int, rate: float) -> None:
    """So many a second, as fast as a door of that speed lets them in."""
    started = time.monotonic()
    for first in range(0, people, SLICE):
        await asyncio.sleep(max(0.0, first / rate - (time.monotonic() - started)))
        await fill(place, model.clones(flow.RECEIVED, addresses(crowd, min(SLICE, people - first))))


def _figures(arms: Arms, options: argparse.Namespace) -> Sequence[Figure]:
    alone = arms.delays[ALONE]
    told = {
        DOWN: f"beside {options.down} orgs that are down",
        CROWD: f"beside one org that sends {options.crowd:,} people",
        CATCHING_UP: f"beside one org that catches up on {options.crowd:,} people",
    }
    figures = [
        Figure(f"{options.healthy} healthy orgs alone, {name}", quantile(alone, share), "s", note=_note(arms, ALONE))
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]
    for arm, words in told.items():
        for name, share, aim in (("p50", 0.5, P50_AIM), ("p99", 0.99, P99_AIM)):
            value = quantile(arms.delays[arm], share)
            figures.append(at_most(f"… {words}, {name}", value / quantile(alone, share), "x", aim, f"{value:.2f} s; {_note(arms, arm)}"))
    return figures


def _note(arms: Arms, arm: str) -> str:
    cpu = arms.cpu_percent(arm)
    return f"{len(arms.delays[arm])} samples, {cpu:.0f} % of all CPU{' (too much to judge by)' if cpu > CPU_AIM_PERCENT else ''}"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--healthy", type=int, default=50, help="orgs whose delay is measured")
    parser.add_argument("--down", type=int, default=5, help="orgs that are down")
    parser.add_argument("--crowd", type=int, default=20_000, help="people that one org sends")
    parser.add_argument("--crowd-rate", type=float, default=400.0, help="so many of them a second")
    parser.add_argument("--crowd-call-ms", type=int, default=5_000, help="what a call to the crowd's org takes, beside the latency of all")
    parser.add_argument("--every-seconds", type=float, default=4.0, help="between two people of one org")
    parser.add_argument("--turn-seconds", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=4)


if __name__ == "__main__":
    sys.exit(main("isolation", __doc__, measure, arguments))
