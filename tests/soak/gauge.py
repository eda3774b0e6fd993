"""What a soak measures of each window, and the limits that it must keep. Pure but for the reading of /proc.

Throughput and delay are those of the orgs that are well; memory is that of each worker.
"""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tests.bench.figures import Figure, at_most
from tests.soak.plan import BACK, CAUGHT_UP, FAILING, OUTAGE, QUARTERS, WARM, Window

LEAST_RATIO: Final = 0.9
"""People come at an even rate, so throughput can only fall where the product no longer keeps up. A tenth is what the edges of a window
may cut off: a batch and its calls of the last second or two of one that lasts some ten seconds."""
JUDGED_BELOW: Final = 0.9
"""Of all processors; where more is busy, throughput is also what else the machine does. The limit stands all the same."""
MOST_GROWTH_MIB: Final = 24.0
"""From the first quarter with failing lanes to the last. What a worker remembers is bounded and fills meanwhile: 20,000 addresses in
create, 50,000 sessions in normalize, what each org's objects are like; beside it the allocator's pieces. A leak of one message a
second would pass it within hours."""
MOST_OUTAGE_MIB: Final = 72.0
"""While all lanes are down, and after. By its own bounds a stage may hold 48 MiB of messages; the half of it again for their objects."""
MOST_MIB: Final = 200.0
"""Of one worker at any time: the aim that the memory bench has too."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """At one moment, Unix s: by part, resident MiB and seconds of processor so far."""

    at: float
    mib: Mapping[str, float]
    cpu: Mapping[str, float]
    busy: float
    """Seconds of processor that the whole machine has spent so far …"""
    whole: float
    """… and had."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One window. Rates are a second; `mib`: the most of each part.

    `cpu_ms`: of all parts, for one person who came through, where half of those who came did. `machine`: the share of all processors that
    was busy, with whatever else the machine does; above `JUDGED_BELOW` rates tell little of the product.
    """

    stretch: str
    number: int
    seconds: float
    came: float
    synced: float
    delay_seconds: float | None
    cpu_ms: float | None
    mib: Mapping[str, float]
    machine: float | None = None


def row(window: Window, start: float, came_ms: Sequence[int], done: Sequence[tuple[int, float]], samples: Sequence[Sample]) -> Row:
    """`start`: Unix s of the soak's start; `done`: Unix ms and seconds of delay of everyone who came through."""
    since, until = start + window.start, start + window.end
    seconds = until - since
    came = sum(since <= at / 1000 < until for at in came_ms)
    delays = [delay for at, delay in done if since <= at / 1000 < until]
    inside = [sample for sample in samples if since <= sample.at < until]
    spent = sum(inside[-1].cpu.values()) - sum(inside[0].cpu.values()) if len(inside) > 1 else 0.0
    lasted = inside[-1].at - inside[0].at if len(inside) > 1 else 0.0
    had = inside[-1].whole - inside[0].whole if len(inside) > 1 else 0.0
    through = len(delays) * lasted / seconds
    return Row(
        window.stretch,
        window.number,
        round(seconds, 1),
        came / seconds,
        len(delays) / seconds,
        statistics.median(delays) if delays else None,
        1000 * spent / through if through and 2 * len(delays) >= came else None,
        {part: max(sample.mib[part] for sample in inside) for part in inside[0].mib} if inside else {},
        (inside[-1].busy - inside[0].busy) / had if had else None,
    )


def limits(rows: Sequence[Row]) -> Iterator[Figure]:
    """What must hold; `met` says whether it does."""
    (warm,) = (one for one in rows if one.stretch == WARM)
    failing = [one for one in rows if one.stretch == FAILING]
    first, last = failing[0], failing[QUARTERS - 1]
    yield _at_least("the healthy orgs' throughput beside failing ones, last quarter against the first", last, first)
    yield _at_least("… last quarter against before they failed", last, warm)
    later = [one for one in rows if one.stretch in (OUTAGE, BACK, CAUGHT_UP)]
    for part in first.mib:
        before = last.mib[part]
        grown = before - first.mib[part]
        yield at_most(
            f"{part}: memory from the first to the last quarter beside failing orgs", grown, "MiB", MOST_GROWTH_MIB, f"{before:.0f} MiB"
        )
        most = max(one.mib[part] for one in later if one.mib)
        yield at_most(f"{part}: memory while all orgs are down and after, beyond before", most - before, "MiB", MOST_OUTAGE_MIB)
        yield at_most(f"{part}: memory at its most", max(most, *(one.mib[part] for one in rows if one.mib)), "MiB", MOST_MIB)


def _at_least(name: str, later: Row, earlier: Row) -> Figure:
    ratio = later.synced / earlier.synced if earlier.synced else 0.0
    note = f"{earlier.synced:.1f} to {later.synced:.1f} people a second"
    busy = max(later.machine or 0.0, earlier.machine or 0.0)
    if busy > JUDGED_BELOW:
        note += f"; the machine was {busy:.0%} busy, too much to judge by"
    return Figure(name, ratio, "x", f"at least {LEAST_RATIO:g}", ratio >= LEAST_RATIO, note)
