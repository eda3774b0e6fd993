"""What happened to one person, told from the topics of the chain and from `synced`. Pure but for the reading; needs no worker."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from pipeline.kafka import partition_of
from pipeline.messages import Message
from pipeline.records import Record
from pipeline.tables import readable
from pipeline.transport import Transport
from schemas.messages import Cause, Synced, Written
from schemas.tables import LaneRow
from stages import flow
from stages.lag import lane_rows, rfc3339
from stages.recency import is_retry

Json = dict[str, Any]
FETCH_SECONDS: Final = 0.5
FETCH_RECORDS: Final = 5_000


async def trace(transport: Transport, chain: Sequence[tuple[str, str]], email: str, workspace: str | None) -> Json:
    """The document of `turnout trace --json`. `chain`: stages in the flow's order with the topic that each reads; `email` canonical.

    All records of an address lie in partitions of one number, whichever topic: that one is read from its start to its present end.
    """
    key = email.encode()
    travelling: list[tuple[str, Message]] = []
    for stage, topic in chain:
        travelling += [(stage, Message(record)) for record in await _records(transport, topic, key)]
    final = [
        (Message(record).replay, outcome)
        for record in await _records(transport, "synced", key)
        if (outcome := readable("synced", f"{record.partition}-{record.offset}", record.value, Synced)) is not None
    ]
    return {"email": email, "events": events(travelling, final, await lane_rows(transport), workspace)}


Run = tuple[str, str | None]
"""A message's id and its mark: what is retried after it was refused goes its way again."""
_Mark = tuple[str, str, int]
"""A message's id, a stage and when it left its mark."""


def events(
    travelling: Sequence[tuple[str, Message]],
    final: Sequence[tuple[str | None, Synced]],
    rows: Mapping[tuple[str, int], Sequence[LaneRow]],
    workspace: str | None,
) -> list[Json]:
    """Every stage's part in every event, once, in order of time. What has no final outcome is under way at the stage that it came to last.

    `final`: outcomes with the replay mark of their message; `rows`: lanes that wait, by stage and partition.
    """
    finished: dict[_Mark, tuple[int, Json]] = {}
    for _, outcome in final:
        for written, is_last in _marks(outcome):
            mark = (outcome.id, written.stage, written.at)
            # A replay's outcome carries the marks of the stages before once more; what a mark came to, only the outcome of its own stage tells.
            if is_last or mark not in finished:
                finished[mark] = (written.at, _finished(outcome, written, is_last=is_last))
    told = list(finished.values())
    done: set[Run] = {(outcome.id, replay) for replay, outcome in final}
    # A replay reads records that lie there unmarked, whichever way they had come: its outcome is that of all of them.
    replayed = {outcome.id for replay, outcome in final if replay is not None and not is_retry(replay)}
    last = {
        run: (stage, message)
        for stage, message in travelling
        if (run := (message.id, message.replay)) not in done and message.id not in replayed
    }
    told += [(message.record.timestamp_ms, _under_way(stage, message, rows)) for stage, message in last.values()]
    ours = (entry for entry in told if workspace is None or entry[1]["workspace"] == workspace)
    return [event for _, event in sorted(ours, key=lambda entry: entry[0])]


def _marks(outcome: Synced) -> Iterable[tuple[Written, bool]]:
    """One for each stage that left its mark, and whether it is the last of them: the one with the outcome."""
    trail = list(outcome.trail)
    if not trail or trail[-1].stage != outcome.stage:
        trail.append(Written(stage=outcome.stage, at=outcome.at))
    return [(written, place == len(trail)) for place, written in enumerate(trail, 1)]


def _finished(outcome: Synced, written: Written, *, is_last: bool) -> Json:
    place = _Place(outcome.happened_at, outcome.workspace, outcome.org, outcome.session, outcome.event)
    if not is_last:
        return _event(written.at, written.stage, place, "emitted", "", written, written.causes)
    # What a stage was refused for stands in its mark and in the outcome.
    causes = tuple(dict.fromkeys((*written.causes, *outcome.causes)))
    return _event(written.at, written.stage, place, outcome.outcome, outcome.reason, written, causes)


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    happened_at: int
    workspace: str
    org: str
    session: str
    event: str


def _under_way(stage: str, message: Message, rows: Mapping[tuple[str, int], Sequence[LaneRow]]) -> Json:
    """Waiting, or retrying where what holds it up is tried again at a known time; with the cause that its lane tells."""
    place = _Place(message.happened_at, message.workspace, message.org, message.session, message.event)
    row = _lane_of(stage, message, rows.get((stage, message.record.partition), ()))
    outcome = "retrying" if row is not None and row.next_try_at else "waiting"
    code, _, words = row.cause.partition(": ") if row is not None else ("", "", "")
    causes = (Cause(code, words, hint=row.mend),) if row is not None and code else ()
    return _event(message.record.timestamp_ms, stage, place, outcome, code, Written(stage=stage, at=0), causes)


def _lane_of(stage: str, message: Message, rows: Sequence[LaneRow]) -> LaneRow | None:
    """The narrowest lane that waits and holds the message."""
    message.shared_lanes = flow.shared_lanes(stage)(message)
    waiting = {row.lane: row for row in rows if row.state != "replay" and not row.lost}
    return next((waiting[lane] for lane in reversed(message.lanes) if lane in waiting), None)


def _event(at: int, stage: str, place: _Place, outcome: str, reason: str, written: Written, causes: Sequence[Cause]) -> Json:
    return {
        "at": rfc3339(at),
        "happened_at": rfc3339(place.happened_at),
        "stage": stage,
        "workspace": place.workspace,
        "org": place.org,
        "session": place.session,
        "event": place.event,
        "outcome": outcome,
        "reason": reason,
        "salesforce": written.salesforce,
        "written": written.written,
        "left_out": written.left_out,
        "causes": [msgspec.structs.asdict(cause) for cause in causes],
    }


async def _records(transport: Transport, topic: str, key: bytes) -> list[Record]:
    offsets: Mapping[int, tuple[int, int]] = await transport.cluster.offsets(topic)
    partition = partition_of(key, len(offsets))
    return await read(transport, topic, {partition: offsets[partition]}, lambda record: record.key == key)


async def read(transport: Transport, topic: str, ranges: Mapping[int, tuple[int, int]], wanted: Callable[[Record], bool]) -> list[Record]:
    """The records of these ranges (partition to first offset and the one past the last) that are wanted, in order per partition."""
    open_ranges = {partition: bounds for partition, bounds in ranges.items() if bounds[0] < bounds[1]}
    if not open_ranges:
        return []
    reader = transport.reader()
    await reader.start()
    found: list[Record] = []
    try:
        reader.assign({(topic, partition): start for partition, (start, _) in open_ranges.items()})
        while any(reader.position(topic, partition) < end for partition, (_, end) in open_ranges.items()):
            records = await reader.fetch(FETCH_SECONDS, FETCH_RECORDS)
            found += [record for record in records if record.offset < open_ranges[record.partition][1] and wanted(record)]
    finally:
        await reader.stop()
    return found
