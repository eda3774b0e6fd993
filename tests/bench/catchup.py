"""How long a backlog takes once its org is back, against the same work with no outage. Both by turns, in one run."""

import argparse
import asyncio
import datetime
import sys
import time
from collections.abc import Sequence

from stages import flow
from tests.bench.figures import Figure, at_most, main, median, tell
from tests.bench.filling import Original, addresses, fill, original
from tests.bench.ground import Ground, ground
from tests.bench.stand import Stand

LATENCY_MS = 100
DONE_SECONDS = 300.0
SLOWEST = 50
"""People a second, on a machine that others use."""
AIM = 1.15


async def measure(options: argparse.Namespace) -> Sequence[Figure]:
    plain, outage, pauses = [], [], []
    async with ground(orgs=1, latency_ms=LATENCY_MS) as place:
        (stand,) = await place.open(1)
        await place.announce([stand])
        model = await original(place, stand)
        for _ in range(options.rounds):
            plain.append(await _plain(place, stand, model, options.people))
            seconds, pause = await _after_outage(place, stand, model, options)
            outage.append(seconds)
            pauses.append(pause)
    rounds = f"{options.people:,} people; rounds: {', '.join(f'{one:.1f}' for one in plain)}"
    return [
        Figure("with no outage, from the first call to the last member", median(plain), "s", note=rounds),
        Figure("after an outage, from the first good call to the last member", median(outage), "s", note=", ".join(f"{one:.1f}" for one in outage)),
        at_most("after an outage against no outage", median(outage) / median(plain), "x", AIM),
        Figure("from the mended org to the first good call", median(pauses), "s", note=f"the org was down for {options.down_seconds:g} s"),
    ]  # fmt: skip


async def _plain(place: Ground, stand: Stand, model: Original, people: int) -> float:
    done = place.outcomes.of[stand.workspace]
    known = len(done.at_ms)
    await stand.org.forget_calls()
    await fill(place, model.clones(flow.NORMALIZED, addresses(stand, people)))
    await place.outcomes.people(stand.workspace, known + people, DONE_SECONDS + people / SLOWEST)
    seconds = max(done.at_ms[known:]) / 1000 - await _first_good_call(stand)
    tell(f"no outage: {seconds:.1f} s")
    return seconds


async def _after_outage(place: Ground, stand: Stand, model: Original, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds from the first good call, and seconds until there was one."""
    done = place.outcomes.of[stand.workspace]
    known = len(done.at_ms)
    await stand.org.fault("http-503")
    await fill(place, model.clones(flow.NORMALIZED, addresses(stand, options.people)))
    await place.has_read("match", DONE_SECONDS)
    await asyncio.sleep(options.down_seconds)
    await stand.org.forget_calls()
    await stand.org.heal()
    mended = time.time()
    await place.outcomes.people(stand.workspace, known + options.people, DONE_SECONDS + options.people / SLOWEST)
    first = await _first_good_call(stand)
    seconds = max(done.at_ms[known:]) / 1000 - first
    tell(f"after an outage: {seconds:.1f} s, from {first - mended:.1f} s after the mend on")
    return seconds, first - mended


async def _first_good_call(stand: Stand) -> float:
    """Unix seconds."""
    log = (await stand.org.calls())["log"]
    good = [call["at"] for call in log if call["status"] == 200 and call["resource"] != "token"]
    return datetime.datetime.fromisoformat(min(good)).timestamp()


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--people", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--down-seconds", type=float, default=5.0, help="how long the org stays down once the backlog is read")


if __name__ == "__main__":
    sys.exit(main("catchup", __doc__, measure, arguments))
