"""Peak resident memory of each process while many messages wait for an org that is down, and after it has come back. No worker may hold them."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence

from stages import flow
from tests.bench.figures import Figure, at_most, main, tell
from tests.bench.filling import Original, addresses, fill, original
from tests.bench.ground import CHAIN, Ground, ground
from tests.bench.stand import Stand
from tests.bench.usage import peak_mib, resident_mib

AIM_MIB = 200
MANY, AIM_OF_MANY_MIB = 1_000_000, 150
READ_SECONDS = 600.0
SLOWEST_READ = 1_000
"""Messages a second, on a machine that others use."""
WAITERS = ("match", "create", "campaign-membership")
"""The stages that call the org."""


async def measure(options: argparse.Namespace) -> Sequence[Figure]:
    figures = []
    async with ground(orgs=1) as place:
        (stand,) = await place.open(1)
        await place.announce([stand])
        model = await original(place, stand)
        pids = {part: place.children[part].pid for part in CHAIN}
        idle = {part: resident_mib(pid) for part, pid in pids.items()}
        fault = await stand.org.fault("http-503")
        sizes = await _pile_up(place, stand, model, options)
        await asyncio.sleep(options.down_seconds)
        waiting = {part: peak_mib(pid) for part, pid in pids.items()}
        tell(f"the org was down, {await stand.org.hits(fault)} calls found it so: " + _told(waiting))
        await stand.org.heal()
        await _progress(place, stand, options.back_seconds)
        peak = {part: peak_mib(pid) for part, pid in pids.items()}
        tell("the org is back: " + _told(peak))
        aim = AIM_OF_MANY_MIB if options.messages >= MANY else AIM_MIB
        for part in CHAIN:
            note = f"{idle[part]:.0f} MiB idle; {waiting[part]:.0f} while the org is down; {sizes.get(part, 'no message waits here')}"
            figures.append(at_most(part, peak[part], "MiB", aim, note))
    return figures


async def _pile_up(place: Ground, stand: Stand, model: Original, options: argparse.Namespace) -> dict[str, str]:
    """So many messages before each stage that calls the org, all read and none taken: what waits before each."""
    sizes = {}
    for stage in WAITERS:
        topic = flow.STAGES[stage][0]
        started = time.monotonic()
        size = await fill(place, model.clones(topic, addresses(stand, options.messages), fill_bytes=options.bytes))
        sizes[stage] = f"{options.messages:,} messages of {size / options.messages:,.0f} bytes wait"
        await place.has_read(stage, READ_SECONDS + options.messages / SLOWEST_READ)
        tell(f"{stage}: {sizes[stage]}; written and read within {time.monotonic() - started:.0f} s")
    return sizes


async def _progress(place: Ground, stand: Stand, seconds: float) -> None:
    """The org is back: lets the stages work on what waits, for so long."""
    known = len(place.outcomes.of[stand.workspace].at_ms)
    await place.outcomes.people(stand.workspace, known + 1, READ_SECONDS)
    await asyncio.sleep(seconds)
    tell(f"{len(place.outcomes.of[stand.workspace].at_ms) - known} people synced since the org is back")


def _told(sizes: dict[str, float]) -> str:
    return ", ".join(f"{part} {size:.0f} MiB" for part, size in sizes.items())


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=int, default=200_000, help="waiting before each stage that calls the org")
    parser.add_argument("--bytes", type=int, default=1_024, help="of a message's value, at least")
    parser.add_argument("--down-seconds", type=float, default=10.0, help="how long the org stays down after all is read")
    parser.add_argument("--back-seconds", type=float, default=20.0, help="how long what waits is worked on afterwards")


if __name__ == "__main__":
    sys.exit(main("memory", __doc__, measure, arguments))
