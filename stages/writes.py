"""Records written in as few calls as can be: packed into collections and composites, each result read by itself. Never decides what to write."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas.messages import Cause, Value
from schemas.settings import Org
from stages.reads import Record, records_of
from stages.salesforce.causes import RECORD, Error, classify_all, errors_of
from stages.salesforce.door import OrgDoor, Reply, Subrequest, Trouble
from stages.salesforce.errors import CallRefused, OrgUnavailable, OutcomeUnknown
from stages.salesforce.ids import full_id, is_id
from stages.salesforce.soql import holds_reference, path_of_query

RECORDS: Final = 200
"""Most records of one collection."""
COLLECTIONS: Final = 5
"""Most collections of one composite."""
CALL_BYTES: Final = 3_000_000
"""Most bytes of records in one call; Salesforce is believed to take 6 MB."""
CHUNKS: Final = 10
"""Most changes of type in one collection."""

WRONG_ID: Final = "wrong_id"
"""Our code for a reply that names another record than the one that was sent."""


@dataclasses.dataclass(frozen=True, slots=True)
class Write:
    """One record to create (`id` "") or to update."""

    object: str
    values: Mapping[str, Value]
    id: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Saved:
    """The org has it."""

    id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """The org refused this record, for these reasons."""

    troubles: tuple[Trouble, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Lost:
    """It was sent, and no answer came: it may have been done."""

    trouble: Trouble


@dataclasses.dataclass(frozen=True, slots=True)
class Unsent:
    """The org can't be worked with: nothing was done."""

    trouble: Trouble


Result = Saved | Refused | Lost | Unsent


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """Writes that go as one collection, by their places in what was asked for."""

    creating: bool
    places: tuple[int, ...]
    size: int
    alone: bool

    def halves(self) -> list["_Part"]:
        middle = len(self.places) // 2
        return [dataclasses.replace(self, places=places, size=self.size // 2) for places in (self.places[:middle], self.places[middle:])]


def headers(org: Org, *, creating: bool) -> dict[str, str]:
    """What every subrequest that writes people or companies must carry: assignment rules run on new records only, and only if asked for."""
    sent = {"Sforce-Auto-Assign": "TRUE" if creating and org.assignment_rules else "FALSE"}
    if org.duplicate_rules == "save":
        sent["Sforce-Duplicate-Rule-Header"] = "allowSave=true; includeRecordDetails=false; runAsCurrentUser=true"
    return sent


async def send(door: OrgDoor, org: Org, writes: Sequence[Write]) -> list[Result]:
    """Writes all; results in the order of `writes`. Only the door's LeaseLost is raised: all else is a result."""
    return await _send_calls(door, org, writes, _calls(_parts(writes)))


async def send_then_read(
    door: OrgDoor, org: Org, writes: Sequence[Write], queries: Sequence[str], object_name: str
) -> tuple[list[Result], list[Record] | None]:
    """As `send`, and what the queries find after it, in the same call where all fits one; None where they were not answered."""
    calls = list(_calls(_parts(writes)))
    fits = len(calls) == 1 and not calls[0][0].alone and len(calls[0]) + len(queries) <= COLLECTIONS
    if not fits or any(holds_reference(soql) for soql in queries):
        return await _send_calls(door, org, writes, calls), None
    answers: list[Reply] = []
    results = await _send_calls(door, org, writes, calls, queries, answers)
    try:
        return results, [record for reply in answers for record in await records_of(door, reply, object_name)] if answers else None
    except CallRefused:
        return results, None


async def _send_calls(
    door: OrgDoor,
    org: Org,
    writes: Sequence[Write],
    calls: Iterable[list[_Part]],
    queries: Sequence[str] = (),
    answers: list[Reply] | None = None,
) -> list[Result]:
    results: list[Result | None] = [None] * len(writes)
    unavailable: Trouble | None = None
    waiting = deque(calls)
    while waiting:
        call = waiting.popleft()
        if unavailable is None:
            try:
                replies = await _replies(door, org, writes, call, queries)
            except OrgUnavailable as error:
                unavailable = error.trouble
            except OutcomeUnknown as error:
                _fill(results, call, Lost(error.trouble))
            except CallRefused as error:
                replies = [Reply(400, [_as_error(error.trouble)])] * len(call)
                waiting.extendleft(_take(results, writes, call, replies))
            else:
                if answers is not None:
                    answers[:] = replies[len(call) :]
                waiting.extendleft(_take(results, writes, call, replies[: len(call)]))
        if unavailable is not None:
            _fill(results, call, Unsent(unavailable))
    return [result if result is not None else Lost(_no_answer()) for result in results]


def _take(results: list[Result | None], writes: Sequence[Write], call: Sequence[_Part], replies: Sequence[Reply]) -> list[list[_Part]]:
    """Takes in the replies. A part that was refused as a whole for one record's fault goes again in halves, which are returned."""
    again: list[list[_Part]] = []
    for part, reply in zip(call, replies, strict=True):
        if len(part.places) > 1 and _is_one_records_fault(reply):
            again += [[half] for half in part.halves()]
            continue
        for place, result in zip(part.places, _results(writes, part, reply), strict=True):
            results[place] = result
    return again


def _is_one_records_fault(reply: Reply) -> bool:
    """Whether a collection was refused whole, though it may be one record's text or type that Salesforce could not read."""
    if not 400 <= reply.status < 500:
        return False
    troubles = classify_all(errors_of(reply.body), http_status=reply.status)
    return bool(troubles) and all(trouble.kind == RECORD for trouble in troubles)


def _as_error(trouble: Trouble) -> dict[str, Any]:
    return {"errorCode": trouble.cause.code, "message": trouble.cause.message, "fields": list(trouble.cause.fields)}


async def _replies(door: OrgDoor, org: Org, writes: Sequence[Write], call: Sequence[_Part], queries: Sequence[str]) -> Sequence[Reply]:
    if call[0].alone:
        part = call[0]
        method, path = _method(part), "composite/sobjects"
        return [await door.collections(method, path, _body(writes, part), headers(org, creating=part.creating))]
    subrequests = [
        Subrequest(_method(part), "composite/sobjects", _body(writes, part), headers(org, creating=part.creating)) for part in call
    ]
    subrequests += [Subrequest("GET", path_of_query(soql)) for soql in queries]
    return await door.composite(subrequests)


def _parts(writes: Sequence[Write]) -> Iterator[_Part]:
    """Creations and updates apart (their headers differ), sorted by type, a text that a composite would take for a reference apart."""
    chosen: dict[tuple[bool, bool], list[tuple[int, int]]] = {}
    for place, write in enumerate(writes):
        chosen.setdefault((_is_reference(write), write.id != ""), []).append((place, len(msgspec.json.encode(write.values)) + 100))
    for (alone, updating), places in sorted(chosen.items()):
        places.sort(key=lambda one: writes[one[0]].object)
        yield from _cut(not updating, places, alone)


def _cut(creating: bool, chosen: Sequence[tuple[int, int]], alone: bool) -> Iterator[_Part]:
    places: list[int] = []
    total = 0
    for place, size in chosen:
        if places and (len(places) == RECORDS or total + size > CALL_BYTES):
            yield _Part(creating, tuple(places), total, alone)
            places, total = [], 0
        places.append(place)
        total += size
    if places:
        yield _Part(creating, tuple(places), total, alone)


def _calls(parts: Iterator[_Part]) -> Iterator[list[_Part]]:
    call: list[_Part] = []
    for part in parts:
        full = len(call) == COLLECTIONS or sum(one.size for one in call) + part.size > CALL_BYTES
        if call and (full or part.alone or call[0].alone):
            yield call
            call = []
        call.append(part)
    if call:
        yield call


def _is_reference(write: Write) -> bool:
    return any(isinstance(value, str) and holds_reference(value) for value in write.values.values())


def _method(part: _Part) -> str:
    return "POST" if part.creating else "PATCH"


def _body(writes: Sequence[Write], part: _Part) -> dict[str, Any]:
    return {"allOrNone": False, "records": [_record(writes[place]) for place in part.places]}


def _record(write: Write) -> dict[str, Any]:
    record: dict[str, Any] = {"attributes": {"type": write.object}}
    if write.id:
        record["id"] = write.id
    record.update(write.values)
    return record


def _results(writes: Sequence[Write], part: _Part, reply: Reply) -> Iterator[Result]:
    """One result for each record, by position. A body that doesn't fit tells nothing: the outcome is unknown."""
    body = reply.body
    objects = {writes[place].object for place in part.places}
    if reply.status >= 400:
        troubles = classify_all(errors_of(body), object_name=next(iter(objects)) if len(objects) == 1 else "", http_status=reply.status)
        yield from (Refused(troubles) if troubles and reply.status < 500 else Lost(next(iter(troubles), _no_answer())) for _ in part.places)
    elif not isinstance(body, list) or len(body) != len(part.places):
        yield from (Lost(_no_answer()) for _ in part.places)
    else:
        yield from (_result(writes[place], row) for place, row in zip(part.places, body, strict=True))


def _result(write: Write, row: Any) -> Result:
    if not isinstance(row, Mapping):
        return Lost(_no_answer())
    if row.get("success") is not True:
        errors = errors_of(row) or (Error("UNKNOWN_EXCEPTION", "refused without a reason"),)
        return Refused(classify_all(errors, object_name=write.object))
    answered = row.get("id")
    if not isinstance(answered, str) or not is_id(answered):
        return Lost(_no_answer())
    answered = full_id(answered)
    if write.id and answered != full_id(write.id):
        return Lost(_other_record())
    return Saved(answered)


def _fill(results: list[Result | None], call: Sequence[_Part], result: Result) -> None:
    for part in call:
        for place in part.places:
            results[place] = result


def _no_answer() -> Trouble:
    return Trouble(
        "look", Cause(code="outcome_unknown", message="The answer to a write was lost or could not be read", hint="Turnout looks again")
    )


def _other_record() -> Trouble:
    return Trouble(
        "look", Cause(code=WRONG_ID, message="The reply names another record than the one that was sent", hint="Turnout looks again")
    )
