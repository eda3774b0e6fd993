"""One REST (sub)request from its url to its answer: routing, faults, locks, latency. Knows no connection and no composite."""

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stages.sandbox.salesforce import collection, querying, rows
from stages.sandbox.salesforce.calls import Entry
from stages.sandbox.salesforce.refusals import RecordRefusedError, RefusalError
from stages.sandbox.salesforce.request import Answer, Operation, Request

if TYPE_CHECKING:
    from stages.sandbox.salesforce.org import Org


@dataclasses.dataclass(slots=True)
class Call:
    """One HTTP call under way. `cut` is set where the connection is to be cut after the work."""

    org: "Org"
    entry: Entry
    latency_ms: float
    cut: bool = False

    async def spend_latency(self) -> None:
        """The time that a call takes, once in each."""
        spent, self.latency_ms = self.latency_ms, 0.0
        if spent > 0:
            await asyncio.sleep(spent / 1000)


def resource_of(segments: tuple[str, ...]) -> str:
    """What the call log and the faults call it."""
    lower = tuple(segment.lower() for segment in segments)
    match lower:
        case ("query" | "queryall", *_):
            return "query"
        case ("composite", "sobjects", *_):
            return "collections"
        case ("composite", *_):
            return "composite"
        case ("limits",):
            return "limits"
        case ("sobjects", _, "describe"):
            return "describe"
    return "sobjects"


def route(org: "Org", request: Request) -> Operation:
    """Raises RefusalError."""
    match tuple(segment.lower() for segment in request.segments[:2]):
        case ("query" | "queryall", *_):
            return querying.route(org, request)
        case ("composite", "sobjects"):
            return collection.route(org, request)
        case ("sobjects", *_):
            operation = rows.route(org, request)
            return _cacheable(org, request, operation) if operation.resource == "describe" else operation
        case ("limits",):
            request.allow("GET", "HEAD")
            return Operation("limits", lambda _: _limits(org))
        case ():
            request.allow("GET", "HEAD")
            names = ("sobjects", "query", "queryAll", "composite", "limits")
            return Operation("sobjects", lambda _: Answer(200, {name: f"/services/data/v{request.version}/{name}" for name in names}))
    raise RefusalError("NOT_FOUND")


def _cacheable(org: "Org", request: Request, operation: Operation) -> Operation:
    changed = org.schema_changed
    asked = querying.unix_seconds(request.headers.get("if-modified-since", ""))
    headers = {"Last-Modified": querying.http_date(changed)}
    if asked is not None and asked >= changed:
        return dataclasses.replace(operation, work=lambda _: Answer(304, None, headers))
    return dataclasses.replace(operation, work=lambda refused: dataclasses.replace(operation.work(refused), headers=headers))


def _limits(org: "Org") -> Answer:
    left = max(0, org.daily_limit - org.used_today)
    return Answer(
        200,
        {
            "DailyApiRequests": {"Max": org.daily_limit, "Remaining": left},
            "DataStorageMB": {"Max": 5120, "Remaining": 5100},
            "FileStorageMB": {"Max": 20480, "Remaining": 20480},
            "DailyBulkV2QueryJobs": {"Max": 10000, "Remaining": 10000},
        },
    )


async def perform(call: Call, request: Request, entry: Entry, *, inside: bool) -> Answer:
    """Does it, and answers in Salesforce's words also where it is refused. `inside` a composite; `entry` is its line in the log."""
    try:
        answer = await _perform(call, request, inside=inside)
    except RecordRefusedError as error:
        answer = Answer(error.status, error.as_rest())
    except RefusalError as refusal:
        answer = Answer(refusal.status, [refusal.as_rest()])
    entry.status = answer.status
    for name, count in answer.objects.items():
        entry.count(name, count)
    for code in error_codes(answer.body):
        entry.count_error(code)
    return answer


async def _perform(call: Call, request: Request, *, inside: bool) -> Answer:
    org = call.org
    resource = resource_of(request.segments)
    refuse_whole(call, resource, inside=inside)
    operation = route(org, request)
    epoch = org.epoch
    faults = org.faults.for_request(resource, operation.targets, inside=inside)
    refused: dict[int, RefusalError] = {}
    if operation.writes:
        refused = org.faults.refused_records(faults, operation.targets)
    else:
        for fault in faults:
            if fault.narrow and fault.is_code and org.faults.hit(fault):
                raise fault.refusal()
    pause_ms = sum(fault.slow_ms for fault in faults if fault.slow_ms is not None and org.faults.hit(fault))
    wanted = {parent for each in operation.locks for parent in each}
    async with org.locks.hold(wanted, org.lock_timeout_seconds) as missed:
        # A call's time is spent with its rows locked, as a write's is in Salesforce: that is what makes writes overlap.
        await call.spend_latency()
        if pause_ms:
            await asyncio.sleep(pause_ms / 1000)
        if org.epoch != epoch:
            raise RefusalError("SERVER_UNAVAILABLE", "The org was reset while this request was under way.")
        for at, parents in enumerate(operation.locks):
            if parents & missed:
                refused.setdefault(at, _not_locked(len(parents & missed), parents & missed))
        return operation.work(refused)


def _not_locked(count: int, parents: frozenset[str]) -> RefusalError:
    message = f"unable to obtain exclusive access to this record or {count} records: {','.join(sorted(parents))}"
    return RefusalError("UNABLE_TO_LOCK_ROW", message, [])


def refuse_whole(call: Call, resource: str, *, inside: bool) -> None:
    """Error codes asked for whole (sub)requests of this resource. Raises RefusalError."""
    for fault in call.org.faults.for_request(resource, (), inside=inside):
        if fault.is_code and call.org.faults.hit(fault):
            raise fault.refusal()


def error_codes(body: Any) -> list[str]:
    """Codes in a REST array of errors, or in the results of a collection."""
    if not isinstance(body, list):
        return []
    codes = []
    for element in body:
        if not isinstance(element, Mapping):
            continue
        if "errorCode" in element:
            codes.append(element["errorCode"])
        elif element.get("success") is False:
            codes.extend(error["statusCode"] for error in element.get("errors", ()))
    return codes
