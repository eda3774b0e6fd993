"""Queries in as few calls as can be: five in one composite, further pages followed. Never decides what to ask."""

from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Final, TypeVar

from schemas.messages import Cause
from stages.salesforce.causes import ORG, UNREADABLE, classify_all, errors_of
from stages.salesforce.door import Describe, OrgDoor, Reply, Subrequest, Trouble
from stages.salesforce.errors import CallRefused, OrgUnavailable
from stages.salesforce.soql import holds_reference, path_of_query

QUERIES: Final = 5
"""Most queries of one composite."""

Record = dict[str, Any]
T = TypeVar("T")


async def read(door: OrgDoor, queries: Sequence[str], object_name: str = "") -> list[list[Record]]:
    """The records of each query, in the order of `queries`.

    Raises the door's errors: CallRefused for a query that was refused, OrgUnavailable where the org fails whatever it is asked.
    """
    return await _told_apart(door, queries, _read(door, queries, object_name))


async def read_deleted(door: OrgDoor, soql: str) -> list[Record]:
    """As `read`, for one query that finds deleted records too."""

    async def ask() -> list[Record]:
        return [_plain(record) for record in await door.query(soql, deleted=True)]

    return await _told_apart(door, [soql], ask())


async def _told_apart(door: OrgDoor, queries: Sequence[str], asking: Awaitable[T]) -> T:
    """What was refused for no reason of its own is either a fault of these queries, or the org's whatever it is asked."""
    try:
        return await asking
    except CallRefused as error:
        if error.trouble.kind != ORG and not await _answers(door, queries):
            raise OrgUnavailable(error.trouble) from error
        raise


async def _answers(door: OrgDoor, queries: Sequence[str]) -> bool:
    """Whether the org answers for the same fields where nobody is named: then it is who was named that it can't answer for."""
    unnamed = dict.fromkeys(f"{soql.partition(' WHERE ')[0]} LIMIT 1" for soql in queries)
    plain = [Subrequest("GET", path_of_query(soql)) for soql in list(unnamed)[:QUERIES]]
    try:
        return all(reply.status < 400 for reply in await door.composite(plain))
    except CallRefused:
        return False


async def _read(door: OrgDoor, queries: Sequence[str], object_name: str) -> list[list[Record]]:
    found: list[list[Record]] = [[] for _ in queries]
    together = [place for place, soql in enumerate(queries) if not holds_reference(soql)]
    for start in range(0, len(together), QUERIES):
        places = together[start : start + QUERIES]
        replies = await door.composite([Subrequest("GET", path_of_query(queries[place])) for place in places])
        for place, reply in zip(places, replies, strict=True):
            found[place] = await records_of(door, reply, object_name)
    for place, soql in enumerate(queries):
        if holds_reference(soql):
            found[place] = [_plain(record) for record in await door.query(soql)]
    return found


def known_fields(describe: Describe, wanted: Iterable[str]) -> list[str]:
    """Those of the fields that the org has and shows, by their own names, each once."""
    fields = (describe.field(name) for name in wanted)
    return list(dict.fromkeys(field.name for field in fields if field is not None))


def is_field_missing(error: CallRefused) -> bool:
    """A query named a field that is there no more: what describe said is old."""
    return error.trouble.cause.code == "INVALID_FIELD"


async def records_of(door: OrgDoor, reply: Reply, object_name: str) -> list[Record]:
    """The records of one query of a composite, further pages too. Raises CallRefused."""
    body = reply.body
    if reply.status >= 400 or not isinstance(body, dict) or "records" not in body:
        troubles = classify_all(errors_of(body), object_name=object_name, http_status=reply.status)
        unreadable = Trouble("transient", Cause(code=UNREADABLE, message="The answer to a query could not be read"))
        raise CallRefused(next(iter(troubles), unreadable))
    records = [_plain(record) for record in body["records"]]
    if not body.get("done", True):
        records += [_plain(record) for record in await door.follow(body["nextRecordsUrl"])]
    return records


def _plain(record: Record) -> Record:
    """The fields alone: no attributes, no parents."""
    return {name: value for name, value in record.items() if not isinstance(value, dict)}
