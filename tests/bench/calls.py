"""Calls to Salesforce per 1,000 new registrants of one session: posted at once, and one after the other. One worker a stage, 100 ms a call."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.bench import crowd
from tests.bench.figures import Figure, at_most, main, median, tell
from tests.bench.ground import Ground, ground
from tests.bench.stand import Stand

LATENCY_MS = 100
DONE_SECONDS = 120.0


async def measure(options: argparse.Namespace) -> Sequence[Figure]:
    async with ground(orgs=options.rounds + 1, latency_ms=LATENCY_MS) as place:
        stands = await place.open(options.rounds + 1)
        await place.announce(stands)
        # One person first: each worker logs in to the org and asks what its objects are like, once for all that follow.
        for stand in stands:
            await stand.register(stand.next_people(1))
            await place.outcomes.people(stand.workspace, stand.told, DONE_SECONDS)
        rounds = [await _at_once(place, stand, options.people) for stand in stands[1:]]
        single, kinds = await _one_by_one(place, stands[0], options.single)
    return [
        at_most(
            f"{options.people:,} registrants, posted as fast as the ingress takes them", median([calls for _, calls, _ in rounds]), "calls", 20,
            f"rounds: {', '.join(f'{calls}, posted within {posting:.2f} s' for posting, calls, _ in rounds)}",
        ),
        Figure("… until the last one is a member", median([seconds for _, _, seconds in rounds]), "s"),
        at_most(f"{options.single} registrants, each after the one before is synced", single, "calls a registrant", 4, kinds),
    ]  # fmt: skip


async def _at_once(place: Ground, stand: Stand, people: int) -> tuple[float, int, float]:
    """Seconds until all were accepted, calls, and seconds until everyone was a member."""
    bodies = stand.next_people(people)
    await stand.org.forget_calls()
    started = time.monotonic()
    posted = await crowd.post(stand, bodies)
    await place.outcomes.people(stand.workspace, stand.told, DONE_SECONDS)
    seconds = time.monotonic() - started
    told = await stand.org.calls()
    tell(f"{people} at once: posted in {posted:.2f} s, synced after {seconds:.1f} s: {told['total']} calls: {_kinds(told)}")
    return posted, int(told["total"]), seconds


async def _one_by_one(place: Ground, stand: Stand, people: int) -> tuple[float, str]:
    """Calls a registrant, and which they were."""
    await stand.org.forget_calls()
    for _ in range(people):
        [body] = stand.next_people(1)
        await stand.post(body)
        await place.outcomes.people(stand.workspace, stand.told, DONE_SECONDS)
    told = await stand.org.calls()
    tell(f"one by one: {told['total']} calls: {_kinds(told)}")
    return told["total"] / people, _kinds(told)


def _kinds(told: dict[str, object]) -> str:
    """What the calls were: a composite by its first request."""
    kinds: Counter[str] = Counter()
    for call in told["log"]:  # type: ignore[attr-defined]
        inner = call["subrequests"]
        first = inner[0] if inner else call
        kinds[f"{'read' if first['method'] == 'GET' else 'write'} {'+'.join(first['objects'] or {}) or first['resource']}"] += 1
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--people", type=int, default=1_000, help="registrants that are posted at once")
    parser.add_argument("--rounds", type=int, default=3, help="how often, each in an org of its own")
    parser.add_argument("--single", type=int, default=25, help="registrants that are posted one after the other")


if __name__ == "__main__":
    sys.exit(main("calls", __doc__, measure, arguments))
