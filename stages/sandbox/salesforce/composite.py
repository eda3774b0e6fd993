"""The composite resource: subrequests one after another, references between them, all or nothing where asked. One call, whatever is in it."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stages.sandbox.salesforce import rest
from stages.sandbox.salesforce.calls import Entry
from stages.sandbox.salesforce.refusals import RefusalError
from stages.sandbox.salesforce.request import Answer, Request, read_url

if TYPE_CHECKING:
    from stages.sandbox.salesforce.org import Org

MOST_SUBREQUESTS = 25
MOST_QUERIES_AND_COLLECTIONS = 5
_INHERITED = ("accept", "authorization", "content-type")
_NAME = re.compile(r"[A-Za-z0-9_]+")
_REFERENCE = re.compile(r"@\{([^}]*)\}")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_METHODS = ("GET", "POST", "PATCH", "PUT", "DELETE", "HEAD")


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One subrequest as it was posted."""

    method: str
    url: str
    reference: str
    headers: Mapping[str, str]
    body: Any


class _NoSuchValueError(Exception):
    """A reference leads nowhere."""


def entries(body: Any) -> Iterator[Entry]:
    """A line of the log for each subrequest that can be made out."""
    for each in body.get("compositeRequest", ()) if isinstance(body, dict) and isinstance(body.get("compositeRequest"), list) else ():
        if isinstance(each, dict) and isinstance(each.get("url"), str):
            headers = each.get("httpHeaders")
            yield Entry(str(each.get("method")), each["url"], headers if isinstance(headers, dict) else {}, _resource(each["url"]))


def _resource(url: str) -> str:
    try:
        return rest.resource_of(read_url(url)[1])
    except RefusalError:
        return "sobjects"


async def perform(call: rest.Call, request: Request) -> Answer:
    """Runs all subrequests. Raises RefusalError where the whole is malformed."""
    request.allow("POST")
    body = request.body
    if not isinstance(body, dict) or not isinstance(body.get("compositeRequest"), list):
        raise RefusalError("JSON_PARSER_ERROR", "The HTTP entity body is required, but this request has no compositeRequest.")
    asked = body["compositeRequest"]
    if len(asked) > MOST_SUBREQUESTS:
        message = f"The limit of {MOST_SUBREQUESTS} for the number of subrequests in the composite request has been exceeded."
        return _over(call, message)
    parts = [_part(each) for each in asked]
    _check_names(parts)
    if sum(_resource(part.url) in ("query", "collections") for part in parts) > MOST_QUERIES_AND_COLLECTIONS:
        return _over(call, f"The limit of {MOST_QUERIES_AND_COLLECTIONS} for query and sObject Collections subrequests has been exceeded.")
    # From version 49 on Salesforce may run subrequests of one method out of order unless told not to; here they keep their order.
    return await _run(call, request, parts, all_or_none=body.get("allOrNone", False) is True)


def _over(call: rest.Call, message: str) -> Answer:
    refusal = RefusalError("LIMIT_EXCEEDED", message)
    call.entry.count_error(refusal.code)
    return Answer(200, {"compositeResponse": [_reply(None, Answer(400, [refusal.as_rest()]))]})


def _part(asked: Any) -> Part:
    if not isinstance(asked, dict):
        raise RefusalError("JSON_PARSER_ERROR", "Each subrequest is a JSON object.")
    method, url, reference = asked.get("method"), asked.get("url"), asked.get("referenceId")
    if method not in _METHODS or not isinstance(url, str):
        raise RefusalError("JSON_PARSER_ERROR", "Each subrequest needs method and url.")
    if not isinstance(reference, str) or _NAME.fullmatch(reference) is None:
        raise RefusalError("INVALID_REQUEST", "Each subrequest needs a referenceId of letters, digits and underscores.")
    headers = asked.get("httpHeaders") or {}
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise RefusalError("JSON_PARSER_ERROR", "httpHeaders is an object of texts.")
    return Part(method, url, reference, {name.lower(): value for name, value in headers.items()}, asked.get("body"))


def _check_names(parts: Sequence[Part]) -> None:
    names = [part.reference for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise RefusalError("INVALID_REQUEST", f"Duplicate referenceId '{name}' found in the composite request.")


async def _run(call: rest.Call, request: Request, parts: Sequence[Part], *, all_or_none: bool) -> Answer:
    answers: dict[str, Answer] = {}
    for part, entry in zip(parts, call.entry.subrequests, strict=True):
        if all_or_none and isinstance(part.body, dict) and "records" in part.body:
            part = dataclasses.replace(part, body={**part.body, "allOrNone": True})
        answer = answers[part.reference] = await _one(call, request, part, entry, answers)
        if all_or_none and (answer.status >= 400 or _has_failures(answer)):
            for transaction in reversed(request.transactions):
                transaction.roll_back()
            return _all_rolled_back(parts, part, answer)
    return Answer(200, {"compositeResponse": [_reply(part.reference, answers[part.reference]) for part in parts]})


def _has_failures(answer: Answer) -> bool:
    return isinstance(answer.body, list) and any(isinstance(each, dict) and each.get("success") is False for each in answer.body)


def _all_rolled_back(parts: Sequence[Part], culprit: Part, answer: Answer) -> Answer:
    message = "The transaction was rolled back since another operation in the same transaction failed."
    innocent = Answer(400, [RefusalError("PROCESSING_HALTED", message).as_rest()])
    replies = [_reply(part.reference, answer if part.reference == culprit.reference else innocent) for part in parts]
    return Answer(200, {"compositeResponse": replies})


async def _one(call: rest.Call, request: Request, part: Part, entry: Entry, answers: Mapping[str, Answer]) -> Answer:
    try:
        repeated = [name for name in _INHERITED if name in part.headers]
        if repeated:
            raise RefusalError("INVALID_REQUEST", f"Subrequests can't set these headers: {', '.join(repeated)}")
        url, body = _resolve(part.url, answers), _resolve(part.body, answers)
        subrequest = _subrequest(request, part, url, body)
    except RefusalError as refusal:
        entry.status = refusal.status
        entry.count_error(refusal.code)
        return Answer(refusal.status, [refusal.as_rest()])
    return await rest.perform(call, subrequest, entry, inside=True)


def _subrequest(request: Request, part: Part, url: Any, body: Any) -> Request:
    if not isinstance(url, str):
        raise RefusalError("NOT_FOUND")
    version, segments, parameters = read_url(url)
    if rest.resource_of(segments) in ("composite", "limits"):
        raise RefusalError("INVALID_REQUEST", f"This resource can't be part of a composite request: {url}")
    return Request(part.method, version, segments, parameters, part.headers, body, request.user, request.transactions)


def targets_of(org: "Org", request: Request) -> Iterator[tuple[str, Any]]:
    """Resource and records of each subrequest before anything is done, as far as they can be told without references."""
    for each in request.body.get("compositeRequest", ()) if isinstance(request.body, dict) else ():
        try:
            part = _part(each)
            subrequest = _subrequest(request, part, part.url, part.body)
            yield rest.resource_of(subrequest.segments), rest.route(org, subrequest).targets
        except RefusalError:
            continue


def _reply(reference: str | None, answer: Answer) -> dict[str, Any]:
    return {"body": answer.body, "httpHeaders": dict(answer.headers), "httpStatusCode": answer.status, "referenceId": reference}


def _resolve(value: Any, answers: Mapping[str, Answer]) -> Any:
    """Puts values in the place of references, in any text at any depth. Raises RefusalError: PROCESSING_HALTED."""
    if isinstance(value, str):
        return _resolve_text(value, answers) if "@{" in value else value
    if isinstance(value, dict):
        return {key: _resolve(each, answers) for key, each in value.items()}
    if isinstance(value, list):
        return [_resolve(each, answers) for each in value]
    return value


def _resolve_text(text: str, answers: Mapping[str, Answer]) -> Any:
    whole = _REFERENCE.fullmatch(text)
    if whole is not None:
        return _look_up(whole[1], answers)
    if len(_REFERENCE.findall(text)) < text.count("@{"):
        raise RefusalError("PROCESSING_HALTED", "Invalid reference specified. The reference has no end.")
    return _REFERENCE.sub(lambda match: str(_look_up(match[1], answers)), text)


def _look_up(expression: str, answers: Mapping[str, Answer]) -> Any:
    name = _NAME.match(expression)
    reference = name[0] if name is not None else ""
    path = expression[len(reference) :]
    answer = answers.get(reference)
    if answer is None or answer.status >= 300:
        raise _no_value(path.lstrip(".") or expression, reference or expression)
    try:
        return _follow(answer.body, path)
    except _NoSuchValueError:
        raise _no_value(path.lstrip("."), reference) from None


def _no_value(path: str, reference: str) -> RefusalError:
    return RefusalError("PROCESSING_HALTED", f"Invalid reference specified. No value for {path} found in {reference}")


def _follow(body: Any, path: str) -> Any:
    if not path or "".join(match[0] for match in _STEP.finditer(path)) != path:
        raise _NoSuchValueError
    for match in _STEP.finditer(path):
        key: Any = match[1] if match[1] is not None else int(match[2])
        try:
            body = body[key]
        except (KeyError, IndexError, TypeError):
            raise _NoSuchValueError from None
    if body is None or isinstance(body, dict | list):
        raise _NoSuchValueError
    return body
