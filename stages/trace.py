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
from stages.lag import rfc3339

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
    outcomes = (readable("synced", f"{one.partition}-{one.offset}", one.value, Synced) for one in await _records(transport, "synced", key))
    final = [outcome for outcome in outcomes if outcome is not None]
    return {"email": email, "events": events(travelling, final, workspace)}


def events(travelling: Sequence[tuple[str, Message]], final: Sequence[Synced], workspace: str | None) -> list[Json]:
    """Every stage's part in every event, in order of time. What has no final outcome waits for the stage that it came to last."""
    told = [(at, event) for outcome in final for at, event in _finished(outcome)]
    done = {outcome.id for outcome in final}
    last = {message.id: (stage, message) for stage, message in travelling if message.id not in done}
    told += [(message.record.timestamp_ms, _waiting(stage, message)) for stage, message in last.values()]
    ours = (entry for entry in told if workspace is None or entry[1]["workspace"] == workspace)
    return [event for _, event in sorted(ours, key=lambda entry: entry[0])]


def _finished(outcome: Synced) -> Iterable[tuple[int, Json]]:
    """One entry for each stage that left its mark, the last of them with the outcome."""
    trail = list(outcome.trail)
    if not trail or trail[-1].stage != outcome.stage:
        trail.append(Written(stage=outcome.stage, at=outcome.at))
    for place, written in enumerate(trail):
        last = place == len(trail) - 1
        causes = (*written.causes, *outcome.causes) if last else written.causes
        yield (
            written.at,
            _event(
                written.at,
                written.stage,
                dataclasses.replace(
                    _PLACE, **{name: getattr(outcome, name) for name in ("happened_at", "workspace", "org", "session", "event")}
                ),
                outcome.outcome if last else "emitted",
                outcome.reason if last else "",
                written,
                causes,
            ),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    happened_at: int = 0
    workspace: str = ""
    org: str = ""
    session: str = ""
    event: str = ""


_PLACE: Final = _Place()


def _waiting(stage: str, message: Message) -> Json:
    place = _Place(message.happened_at, message.workspace, message.org, message.session, message.event)
    return _event(message.record.timestamp_ms, stage, place, "waiting", "", Written(stage=stage, at=0), ())


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
        "causes": [msgspec.to_builtins(cause) for cause in causes],
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
