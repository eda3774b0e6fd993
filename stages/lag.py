"""Lag, told from the log alone: what each stage has not finished, how old it is, and which lanes wait and why. Needs no worker."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import anyio
import msgspec

from pipeline.errors import MetadataError, TransportError
from pipeline.metadata import Progress, decode
from pipeline.records import Commit, Record
from pipeline.tables import Tables, readable
from pipeline.transport import Reader, Transport
from pipeline.worker import LANES, PARTITION, REST
from schemas.tables import GroupRow, LaneRow

Json = dict[str, Any]

_LOOK_SECONDS = 5.0
"""The longest that the ages of one stage's oldest messages are looked for."""


async def lag(transport: Transport, stages: Mapping[str, str]) -> Json:
    """The document of `turnout lag --json`. `stages`: name to the topic that it reads, in the flow's order."""
    table = await snapshot(transport, LANES)
    rows, groups = _lane_rows(table), _group_rows(table)
    reader = transport.reader(256 * 1024)
    await reader.start()
    try:
        told = [await _stage(transport, reader, stage, topic, rows, groups) for stage, topic in stages.items()]
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


async def lane_rows(transport: Transport) -> dict[tuple[str, int], list[LaneRow]]:
    """The table `lanes`, read once, by stage and partition."""
    return _lane_rows(await snapshot(transport, LANES))


def _lane_rows(table: Mapping[str, bytes]) -> dict[tuple[str, int], list[LaneRow]]:
    rows: dict[tuple[str, int], list[LaneRow]] = {}
    for place, what, key in _places(table):
        if what in ("group", "recovery"):
            continue
        row = readable(LANES, key, table[key], LaneRow)
        if row is not None and row.state != "done":
            rows.setdefault(place, []).append(row)
    return rows


def _group_rows(table: Mapping[str, bytes]) -> dict[tuple[str, int], GroupRow]:
    """By stage and partition, what its group last kept."""
    rows: dict[tuple[str, int], GroupRow] = {}
    for place, what, key in _places(table):
        if what == "group" and (row := readable(LANES, key, table[key], GroupRow)) is not None:
            rows[place] = row
    return rows


def _places(table: Iterable[str]) -> Iterator[tuple[tuple[str, int], str, str]]:
    """Of keys of the table `lanes`: stage and partition, the lane or what else it is, the key."""
    for key in table:
        stage, _, rest = key.partition("|")
        partition, _, what = rest.partition("|")
        if partition.isdecimal():
            yield (stage, int(partition)), what, key


async def snapshot(transport: Transport, name: str) -> dict[str, bytes]:
    """All rows of a table as they are now."""
    tables = Tables(transport, [name])
    async with anyio.create_task_group() as tasks:
        await tasks.start(tables.run)
        found = dict(tables[name].items())
        tasks.cancel_scope.cancel()
    return found


async def _stage(
    transport: Transport,
    reader: Reader,
    stage: str,
    topic: str,
    rows: Mapping[tuple[str, int], Sequence[LaneRow]],
    groups: Mapping[tuple[str, int], GroupRow],
) -> tuple[Json, list[Json]]:
    committed = await transport.cluster.committed(stage)
    is_worked_on = await transport.cluster.members(stage) > 0
    offsets = await transport.cluster.offsets(topic)
    places = {
        partition: start if (commit := committed.get((topic, partition))) is None else max(commit.offset, start)
        for partition, (start, _) in offsets.items()
    }
    unread = {partition: place for partition, place in places.items() if place < offsets[partition][1]}
    first_ms = await _times_at(reader, topic, unread)
    partitions: list[Json] = []
    lanes: list[Json] = []
    for partition, (_, end) in sorted(offsets.items()):
        commit = committed.get((topic, partition))
        behind = max(0, end - places[partition])
        number, waiting = _partition(
            stage, partition, end, behind, first_ms.get(partition, 0), commit, rows.get((stage, partition), ()), is_worked_on=is_worked_on
        )  # fmt: skip
        group = groups.get((stage, partition))
        if group is not None and group.repeats:
            number["repeats_after_restart"] = group.repeats
        partitions.append(number)
        lanes += waiting
    return {
        "stage": stage,
        "unfinished": sum(partition["unfinished"] for partition in partitions),
        "oldest_age_seconds": max((partition["oldest_age_seconds"] for partition in partitions), default=0),
        "partitions": partitions,
    }, lanes


def _partition(
    stage: str, partition: int, end: int, behind: int, first_ms: int, commit: Commit | None, rows: Sequence[LaneRow], *, is_worked_on: bool
) -> tuple[Json, list[Json]]:
    """One partition of one stage: `behind` messages at or above the committed offset, the first of them from `first_ms`."""
    progress, problem = _progress(commit)
    cursors = list(progress.cursors.values())
    # A row may be some seconds older than the commit: without a cursor nothing waits any more.
    told = [row for row in rows if row.state != "replay" and not row.held and not row.lost] if cursors else []
    # What rests in memory stands at or above the committed offset, and what is replayed was finished once: neither counts again.
    beside = [row for row in rows if row.state == "replay" or row.lost or (row.held and behind + len(cursors))]
    if not is_worked_on:
        # What stalled somebody's reading is over with him.
        beside = [row for row in beside if row.lane != PARTITION]
    # A cursor without a row is of one message at least; where a row stands for many lanes, it has counted them.
    untold = 0 if any(row.lane == REST for row in told) else max(0, len(cursors) - len(told))
    unfinished = behind + sum(row.waiting for row in told) + untold
    oldest_ms = min((at for at in (first_ms, *(cursor.oldest_ms for cursor in cursors)) if at), default=0)
    # Where reading stalled, the log itself says how much waits.
    stalled = {"waiting": unfinished, "oldest_at": oldest_ms}
    lanes = [_lane(stage, partition, msgspec.structs.replace(row, **stalled) if row.lane == PARTITION else row) for row in (*told, *beside)]
    problems = [(problem, "")] if problem else []
    if unfinished and not is_worked_on:
        problems.append(("no_worker: Nobody works on this stage.", f"start one: `turnout run {stage}`"))
    lanes += [
        _lane(
            stage,
            partition,
            LaneRow(lane=PARTITION, state="blocked", since=0, oldest_at=oldest_ms, waiting=unfinished, cause=cause, mend=mend),
        )
        for cause, mend in problems
    ]
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


async def _times_at(reader: Reader, topic: str, places: Mapping[int, int]) -> dict[int, int]:
    """Per partition the time, Unix ms, of the first record at or after its place; those that can't be had in time are left out."""
    missing = dict(places)
    times: dict[int, int] = {}
    deadline = time.monotonic() + _LOOK_SECONDS
    while missing and time.monotonic() < deadline:
        reader.assign({(topic, partition): place for partition, place in missing.items()})
        try:
            records: Sequence[Record] = await reader.fetch(1.0, 1_000)
        except TransportError:
            break
        for record in records:
            if missing.pop(record.partition, None) is not None:
                times[record.partition] = record.timestamp_ms
    return times


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
