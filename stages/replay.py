"""Asking for a replay, and following it: ranges of one stage's topic run again beside the live reading. Runs nothing itself."""

import dataclasses
import random
import secrets
import time
from collections.abc import Mapping

import msgspec

from pipeline.delivery import deliver
from pipeline.records import Outgoing
from pipeline.replays import CONTROLS, LANES, row_key
from pipeline.tables import Table, readable
from pipeline.transport import Transport, Writer
from schemas.tables import LaneRow, ReplayRow


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What to run again. Times are Unix ms; empty texts: any."""

    stage: str
    from_ms: int
    to_ms: int | None = None
    org: str = ""
    workspace: str = ""
    session: str = ""
    key: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay is, in offsets over all partitions."""

    total: int
    left: int


async def plan(transport: Transport, topic: str, wanted: Wanted, now_ms: int) -> ReplayRow:
    """The command: the log's offsets at these times, fixed now."""
    firsts = await transport.cluster.offsets_at(topic, wanted.from_ms)
    ends = {partition: end for partition, (_, end) in (await transport.cluster.offsets(topic)).items()}
    if wanted.to_ms is not None:
        until = await transport.cluster.offsets_at(topic, wanted.to_ms)
        ends = {partition: min(end, until[partition]) for partition, end in ends.items()}
    ranges = {str(partition): (firsts[partition], end) for partition, end in sorted(ends.items()) if firsts[partition] < end}
    id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now_ms / 1000))}-{secrets.token_hex(3)}"
    return ReplayRow(
        id=id, stage=wanted.stage, ranges=ranges, at=now_ms, org=wanted.org, workspace=wanted.workspace, session=wanted.session, key=wanted.key
    )  # fmt: skip


async def ask(writer: Writer, row: ReplayRow) -> None:
    """Durable when it returns; the stage's workers begin at once."""
    records = [Outgoing(CONTROLS, row.id.encode(), msgspec.json.encode(row))]
    await deliver(writer, records, too_large=lambda index: (), random=random.random, replaced=lambda: None)


def progress(row: ReplayRow, lanes: Table | Mapping[str, bytes]) -> Progress:
    """As the workers tell it in the table `lanes`; a partition that nobody has begun is left whole."""
    total = left = 0
    for partition, (first, end) in row.ranges.items():
        total += end - first
        told = _told(row, partition, lanes)
        left += end - first if told is None else told.waiting
    return Progress(total, left)


def is_done(row: ReplayRow, lanes: Table | Mapping[str, bytes]) -> bool:
    """Whether every partition of it has ended."""
    told = [_told(row, partition, lanes) for partition in row.ranges]
    return all(lane is not None and lane.state == "done" for lane in told)


def _told(row: ReplayRow, partition: str, lanes: Table | Mapping[str, bytes]) -> LaneRow | None:
    key = row_key(row.stage, int(partition), row.id)
    return readable(LANES, key, lanes.get(key), LaneRow)
