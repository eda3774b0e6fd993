"""Lag, told from the log alone: what each stage has not finished, how old it is, and which lanes wait and why. Needs no worker."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import msgspec

from pipeline.errors import MetadataError, TransportError
from pipeline.metadata import Progress, decode
from pipeline.records import Commit, Record
from pipeline.tables import Tables
from pipeline.transport import Reader, Transport
from pipeline.worker import LANES
from schemas.tables import LaneRow

Json = dict[str, Any]


async def lag(transport: Transport, stages: Mapping[str, str]) -> Json:
    """The document of `turnout lag --json`. `stages`: name to the topic that it reads, in the flow's order."""
    rows = await _lane_rows(transport)
    reader = transport.reader(256 * 1024)
    await reader.start()
    try:
        told = [await _stage(transport, reader, stage, topic, rows) for stage, topic in stages.items()]
    finally:
        await reader.stop()
    lanes = [lane for _, lanes in told for lane in lanes]
    numbers = [stage for stage, _ in told]
    return {
        "unfinished": sum(stage["unfinished"] for stage in numbers),
        "oldest_age_seconds": max((stage["oldest_age_seconds"] for stage in numbers), default=0),
        "stages": numbers,
        "lanes": lanes,
    }


async def _lane_rows(transport: Transport) -> dict[tuple[str, int], list[LaneRow]]:
    """The table `lanes`, read once, by stage and partition."""
    table = await snapshot(transport, LANES)
    rows: dict[tuple[str, int], list[LaneRow]] = {}
    for key, value in table.items():
        stage, partition, _ = key.split("|", 2)
        row = msgspec.json.decode(value, type=LaneRow)
        if row.lane != "group":
            rows.setdefault((stage, int(partition)), []).append(row)
    return rows


async def snapshot(transport: Transport, name: str) -> dict[str, bytes]:
    """All rows of a table as they are now."""
    tables = Tables(transport, [name])
    async with anyio.create_task_group() as tasks:
        await tasks.start(tables.run)
        found = dict(tables[name].items())
        tasks.cancel_scope.cancel()
    return found


async def _stage(
    transport: Transport, reader: Reader, stage: str, topic: str, rows: Mapping[tuple[str, int], Sequence[LaneRow]]
) -> tuple[Json, list[Json]]:
    committed = await transport.cluster.committed(stage)
    offsets = await transport.cluster.offsets(topic)
    partitions: list[Json] = []
    lanes: list[Json] = []
    for partition, (start, end) in sorted(offsets.items()):
        commit = committed.get((topic, partition))
        number, waiting = await _partition(reader, stage, topic, partition, (start, end), commit, rows.get((stage, partition), ()))
        partitions.append(number)
        lanes += waiting
    return {
        "stage": stage,
        "unfinished": sum(partition["unfinished"] for partition in partitions),
        "oldest_age_seconds": max((partition["oldest_age_seconds"] for partition in partitions), default=0),
        "partitions": partitions,
    }, lanes


async def _partition(
    reader: Reader, stage: str, topic: str, partition: int, bounds: tuple[int, int], commit: Commit | None, rows: Sequence[LaneRow]
) -> tuple[Json, list[Json]]:
    start, end = bounds
    progress, problem = _progress(commit)
    place = start if commit is None else max(commit.offset, start)
    cursors = list(progress.cursors.values())
    # A row may be some seconds older than the commit: without a cursor nothing waits any more.
    told = list(rows) if cursors else []
    unfinished = max(0, end - place) + sum(row.waiting for row in told) + max(0, len(cursors) - len(told))
    oldest_ms = min((cursor.oldest_ms for cursor in cursors), default=0)
    if place < end:
        first = await _time_at(reader, topic, partition, place)
        oldest_ms = min(oldest_ms, first) if oldest_ms and first else oldest_ms or first
    lanes = [_lane(stage, partition, row) for row in told]
    if problem:
        lanes.append(_lane(stage, partition, LaneRow(lane="partition", state="blocked", since=0, oldest_at=oldest_ms, waiting=unfinished, cause=problem)))
    return {
        "partition": partition,
        "end_offset": end,
        "committed": None if commit is None else commit.offset,
        "unfinished": unfinished,
        "oldest_age_seconds": _age_seconds(oldest_ms) if unfinished else 0,
    }, lanes


def _progress(commit: Commit | None) -> tuple[Progress, str]:
    if commit is None:
        return Progress({}, drained=True), ""
    try:
        return decode(commit.metadata), ""
    except MetadataError as error:
        return Progress({}, drained=False), f"foreign_commit: {error}"


async def _time_at(reader: Reader, topic: str, partition: int, offset: int) -> int:
    """Unix ms of the first record at or after `offset`; 0 where none can be had."""
    reader.assign({(topic, partition): offset})
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        try:
            records: Sequence[Record] = await reader.fetch(0.5, 1)
        except TransportError:
            return 0
        if records:
            return records[0].timestamp_ms
    return 0


def _age_seconds(at_ms: int) -> float:
    return round(max(0.0, time.time() - at_ms / 1000), 1) if at_ms else 0


def _lane(stage: str, partition: int, row: LaneRow) -> Json:
    return {
        "stage": stage, "partition": partition, "lane": row.lane, "state": row.state, "since": rfc3339(row.since), "oldest_at": rfc3339(row.oldest_at),
        "waiting": row.waiting, "at_least": row.at_least, "cause": row.cause, "next_try_at": rfc3339(row.next_try_at), "mend": row.mend,
    }  # fmt: skip


def rfc3339(at_ms: int) -> str | None:
    """A time in UTC; None for 0, which means not set."""
    if not at_ms:
        return None
    whole, milliseconds = divmod(at_ms, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{milliseconds:03d}Z"
