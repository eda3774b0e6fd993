"""The door to one Salesforce org over simple-salesforce: few calls, each bounded, each error named. Decides nothing about records."""

import dataclasses
import functools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlsplit

import requests
import structlog
from simple_salesforce.api import Salesforce
from simple_salesforce.exceptions import SalesforceError, SalesforceExpiredSession

from schemas.messages import Cause
from stages.salesforce import causes, soql, wire
from stages.salesforce.allowance import Allowance, usage_of
from stages.salesforce.describe import KEPT_SECONDS, Describes, Fetched
from stages.salesforce.door import Describe, Guard, Reply, Subrequest, Trouble
from stages.salesforce.errors import CallRefused, OrgUnavailable, OutcomeUnknown, TroubledError
from stages.salesforce.logins import Token
from stages.salesforce.slots import NO_PLACE, Gate, Slots
from stages.salesforce.tokens import TokenDoor

log = structlog.get_logger()

PAGES: Final = 100
"""Most pages that one query is followed over: 200,000 records. More is a query that should not have been asked."""

SESSION_PROBE_SECONDS: Final = 60.0

Observe = Callable[[str, str, str, float], None]
"""org, resource (token, query, sobjects, collections, composite, describe, limits), outcome (ok, refused, unavailable, unknown, expired), seconds."""
Limits = Callable[[str, int], None]
"""org, calls left today."""


def _unobserved(org: str, resource: str, outcome: str, seconds: float) -> None:
    pass


def _untold(org: str, left: int) -> None:
    pass


@dataclasses.dataclass(frozen=True, slots=True)
class Hooks:
    """Where the counts go."""

    observe: Observe = _unobserved
    limits: Limits = _untold


@dataclasses.dataclass(slots=True)
class Health:
    """What outlives a door when it is closed or built anew: the org's gate and its allowance."""

    gate: Gate
    allowance: Allowance


@dataclasses.dataclass(frozen=True, slots=True)
class _Call:
    """One HTTP call below `/services/data/vXX.X/`."""

    resource: str
    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    object_name: str = ""
    """What the call is about, where it is one object."""
    writes: bool = False
    guard: Guard | None = None


@dataclasses.dataclass(slots=True)
class _Answer:
    token: Token
    status: int = 0
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: Any = None


class _SessionEnded(Exception):
    """401: the token is dead. Nothing was done."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.cause.code)
        self.trouble = trouble


class Door:
    """One org, whoever calls; `Leased` is `stages.salesforce.door.OrgDoor` over it."""

    def __init__(
        self,
        org: str,
        api_version: str,
        reserve: float,
        tokens: TokenDoor,
        slots: Slots,
        health: Health,
        *,
        hooks: Hooks | None = None,
        times: wire.CallTimes | None = None,
        describe_seconds: float = KEPT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.org = org
        self.api_version = api_version
        self.health = health
        self.tokens = tokens
        self._reserve, self._slots, self._clock = reserve, slots, clock
        self._hooks = hooks or Hooks()
        self._times = times or wire.CallTimes()
        self._session = wire.session(slots.bounds.per_org)
        self._client: tuple[Token, Salesforce] | None = None
        self._describes = Describes(self._fetch_describe, kept_seconds=describe_seconds, clock=clock)

    async def composite(self, subrequests: Sequence[Subrequest], *, guard: Guard | None = None) -> Sequence[Reply]:
        """One call, whatever is in it. Raises OutcomeUnknown where it held a write and the answer was lost."""
        if not subrequests:
            return ()
        writes = any(part.method != "GET" for part in subrequests)
        body = {
            "allOrNone": False,
            "collateSubrequests": False,
            "compositeRequest": [self._part(i, part) for i, part in enumerate(subrequests)],
        }
        answer = await self._call(_Call("composite", "POST", "composite", body, writes=writes, guard=guard))
        replies = _replies(answer, len(subrequests), writes)
        if any(error.code == causes.SESSION_ENDED for reply in replies if reply.status >= 400 for error in causes.errors_of(reply.body)):
            # It ended between the parts. What was done stays done: who sent the others sends them again, with the next session.
            self.tokens.forget(answer.token)
        return replies

    async def collections(self, method: str, path: str, body: Any, headers: Mapping[str, str], *, guard: Guard | None = None) -> Reply:
        """One plain call, to `composite/sobjects` or to a record."""
        resource = "collections" if path.startswith("composite/sobjects") else "sobjects"
        answer = await self._call(_Call(resource, method, path, body, headers, writes=method != "GET", guard=guard))
        return Reply(answer.status, answer.body)

    async def query(self, soql_text: str, *, deleted: bool = False, guard: Guard | None = None) -> Sequence[dict[str, Any]]:
        """All pages. A query too long for an address goes in the body of a composite."""
        path = soql.path_of_query(soql_text, deleted=deleted)
        if len(path) <= soql.URI_BYTES:
            answer = await self._call(_Call("query", "GET", path, guard=guard))
            return await self._pages(answer.body, guard)
        (reply,) = await self.composite([Subrequest("GET", path)], guard=guard)
        if reply.status != 200:
            raise _refusal(reply.status, reply.body, writes=False)
        return await self._pages(reply.body, guard)

    async def follow(self, next_records_url: str, *, guard: Guard | None = None) -> Sequence[dict[str, Any]]:
        """The records from that page on."""
        return await self._pages({"records": [], "done": False, "nextRecordsUrl": next_records_url}, guard)

    async def describe(self, object_name: str, *, fresh: bool = False) -> Describe:
        """Kept for an hour; then, or `fresh`, asked for with the date of what is known."""
        return await self._describes.get(object_name, fresh=fresh)

    async def user_id(self) -> str:
        return (await self.tokens.current()).user_id

    async def organization_id(self) -> str:
        """Id, 18 characters, of the org that the login led to."""
        return (await self.tokens.current()).organization_id

    async def limits(self) -> Mapping[str, Any]:
        """The org's limits as `GET limits` tells them, by name: `{"DailyApiRequests": {"Max", "Remaining"}, …}`."""
        answer = await self._call(_Call("limits", "GET", "limits"))
        return answer.body if isinstance(answer.body, dict) else {}

    @property
    def calls_left(self) -> int | None:
        """Daily API calls left, as the last reply told; None before the first."""
        return self.health.allowance.left

    def close(self) -> None:
        """Closes idle connections; those in use close when their call ends. A call after it simply connects again."""
        self._session.close()

    def _part(self, index: int, part: Subrequest) -> dict[str, Any]:
        row = {"method": part.method, "referenceId": f"r{index}", "url": f"/services/data/v{self.api_version}/{part.path}"}
        row |= {"body": part.body} if part.body is not None else {}
        return row | ({"httpHeaders": dict(part.headers)} if part.headers else {})

    async def _pages(self, page: Any, guard: Guard | None) -> list[dict[str, Any]]:
        records = _records(page)
        for _ in range(PAGES):
            if page["done"]:
                return records
            answer = await self._call(_Call("query", "GET", _below_version(page["nextRecordsUrl"]), guard=guard))
            page = answer.body
            records += _records(page)
        raise CallRefused(_ours("query_too_long", f"A query has more than {PAGES} pages"))

    async def _fetch_describe(self, object_name: str, last_modified: str) -> Fetched:
        headers = {"If-Modified-Since": last_modified} if last_modified else {}
        call = _Call("describe", "GET", f"sobjects/{quote(object_name)}/describe", headers=headers, object_name=object_name)
        try:
            answer = await self._call(call)
        except CallRefused as error:
            if error.trouble.kind != causes.TRANSIENT:
                raise
            # No message has a part in what is asked here.
            raise OrgUnavailable(error.trouble) from error
        if answer.status == 304:
            return Fetched(None, last_modified)
        if not isinstance(answer.body, dict):
            raise CallRefused(_ours(causes.UNREADABLE, "A describe that is not an object"))
        return Fetched(answer.body, answer.headers.get("Last-Modified", ""))

    async def _call(self, call: _Call) -> _Answer:
        """One call with its session: a dead one is renewed once, and the call, which was then not done, repeated once."""
        trouble = self.health.allowance.trouble(self._reserve)
        if trouble is not None:
            raise OrgUnavailable(trouble)
        token = await self._token(None)
        try:
            return await self._try(call, token)
        except _SessionEnded:
            token = await self._token(token)
        try:
            return await self._try(call, token)
        except _SessionEnded as error:
            self.health.gate.failed()
            hint = "Salesforce refuses a session that it just gave: see the user's session settings, IP ranges and API access"
            cause = Cause(code="session_refused", message=error.trouble.cause.message, hint=hint)
            raise OrgUnavailable(Trouble(kind=causes.ORG, cause=cause, retry_after_seconds=SESSION_PROBE_SECONDS)) from None

    async def _token(self, dead: Token | None) -> Token:
        try:
            return await (self.tokens.renew(dead) if dead is not None else self.tokens.current())
        except OrgUnavailable as error:
            self._judge(error)
            raise

    async def _try(self, call: _Call, token: Token) -> _Answer:
        """One HTTP call in its thread, counted, with what it says about the org's health."""
        client = self._client_for(token)
        began = self._clock()
        outcome = ""
        try:
            answer = await self._slots.run(self.health.gate, lambda: self._send(client, token, call))
            outcome = "ok"
            self.health.gate.succeeded()
            return answer
        except TroubledError as error:
            outcome = _outcome(error)
            self._judge(error)
            raise
        except _SessionEnded:
            outcome = "expired"
            raise
        finally:
            # No outcome: nothing was sent, since a guard or a cancellation was first.
            if outcome:
                self._tell(call.resource, outcome, self._clock() - began)

    def _tell(self, resource: str, outcome: str, seconds: float) -> None:
        self._hooks.observe(self.org, resource, outcome, seconds)
        if self.calls_left is not None:
            self._hooks.limits(self.org, self.calls_left)

    def _judge(self, error: TroubledError) -> None:
        if isinstance(error, CallRefused):
            self.health.gate.succeeded()
            return
        code = error.trouble.cause.code
        if code == NO_PLACE:
            return
        self.health.gate.failed()
        if code == "REQUEST_LIMIT_EXCEEDED" and error.trouble.kind == causes.ORG:
            self.health.allowance.exhausted()
        log.warning("salesforce_call_failed", org=self.org, code=code, kind=error.trouble.kind)

    def _client_for(self, token: Token) -> Salesforce:
        """One "direct" object per token on the org's one session: a new token never changes headers under a call that runs."""
        if self._client is None or self._client[0] is not token:
            self._client = (token, _client(token, self.api_version, self._session))
        return self._client[1]

    def _send(self, client: Salesforce, token: Token, call: _Call) -> _Answer:
        """Runs in the worker thread."""
        answer = _Answer(token)
        times = self._times.pressed() if self._slots.pressed and not call.writes else self._times

        def keep(response: requests.Response, *args: Any, **kwargs: Any) -> None:
            answer.status, answer.headers = response.status_code, response.headers
            usage = usage_of(response.headers.get("Sforce-Limit-Info"))
            if usage is not None:
                self.health.allowance.tell(usage)

        with wire.flight(call.guard, times) as flight:
            try:
                answer.body = _restful(client, call, times, keep)
            except SalesforceExpiredSession as error:
                raise _SessionEnded(_first(causes.errors_of(error.content), error.status)) from None
            except SalesforceError as error:
                if error.status != 304:
                    raise _refusal(error.status, error.content, writes=call.writes, object_name=call.object_name) from None
            except requests.exceptions.InvalidJSONError:
                raise _lost(call.writes, causes.UNREADABLE, "The answer is not JSON") from None
            except wire.NETWORK_ERRORS as error:
                raise _no_answer(call.writes and flight.sent, error) from None
        return answer


class Leased:
    """Implements `stages.salesforce.door.OrgDoor`: a door for one batch, whose calls end with its lease.

    What is asked of the org itself (its objects, a login) is kept for all, and asked for whoever comes first.
    """

    def __init__(self, door: Door, guard: Guard) -> None:
        self.org, self.api_version = door.org, door.api_version
        self._door, self._guard = door, guard

    async def composite(self, subrequests: Sequence[Subrequest]) -> Sequence[Reply]:
        return await self._door.composite(subrequests, guard=self._guard)

    async def collections(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Reply:
        return await self._door.collections(method, path, body, headers, guard=self._guard)

    async def query(self, soql: str, *, deleted: bool = False) -> Sequence[dict[str, Any]]:
        return await self._door.query(soql, deleted=deleted, guard=self._guard)

    async def follow(self, next_records_url: str) -> Sequence[dict[str, Any]]:
        return await self._door.follow(next_records_url, guard=self._guard)

    async def describe(self, object_name: str, *, fresh: bool = False) -> Describe:
        return await self._door.describe(object_name, fresh=fresh)

    async def user_id(self) -> str:
        return await self._door.user_id()


def _restful(client: Salesforce, call: _Call, times: wire.CallTimes, keep: Callable[..., None]) -> Any:
    send = functools.partial(
        client.restful,
        call.path,
        method=call.method,
        headers=dict(call.headers),
        timeout=wire.timeout(times),
        allow_redirects=False,
        hooks={"response": keep},
        **({"json": call.body} if call.body is not None else {}),
    )
    try:
        return send()
    except requests.ConnectionError as error:
        if call.writes or isinstance(error, requests.Timeout):
            raise
        # A kept connection that the other side had closed: a read loses nothing by asking once more.
        return send()


def _client(token: Token, api_version: str, session: requests.Session) -> Salesforce:
    client = Salesforce(
        instance_url=token.instance_url, session_id=token.access_token, session=session, version=api_version, object_pairs_hook=dict
    )
    if urlsplit(token.instance_url).scheme == "http":
        # simple-salesforce knows https only; a sandbox org speaks http.
        client.base_url = f"{token.instance_url}/services/data/v{api_version}/"
    del client.headers["X-PrettyPrint"]
    client.headers["Sforce-Call-Options"] = "client=turnout"
    return client


ANSWERED: Final = ("ok", "refused")
"""Outcomes of a call, as they are told, where the org answered it."""


def _outcome(error: TroubledError) -> str:
    match error:
        case OrgUnavailable() if error.trouble.cause.code == NO_PLACE:
            return ""
        case OrgUnavailable():
            return "unavailable"
        case OutcomeUnknown():
            return "unknown"
        case _:
            return "refused"


def _records(page: Any) -> list[dict[str, Any]]:
    if not isinstance(page, dict) or not isinstance(page.get("records"), list) or "done" not in page:
        raise CallRefused(_ours(causes.UNREADABLE, "The answer to a query is no page of records"))
    return list(page["records"])


def _below_version(next_records_url: str) -> str:
    """`query/01g…-2000` of `/services/data/v62.0/query/01g…-2000`."""
    found = re.fullmatch(r"/services/data/v[\d.]+/(.+)", next_records_url)
    if not found:
        raise CallRefused(_ours(causes.UNREADABLE, "The next page of a query has no address of the API"))
    return found[1]


def _replies(answer: _Answer, count: int, writes: bool) -> list[Reply]:
    """The parts in the order of the subrequests, by their references: a part that is missing was answered by nobody."""
    rows = answer.body.get("compositeResponse") if isinstance(answer.body, dict) else None
    found = {row.get("referenceId"): row for row in rows or () if isinstance(row, dict)}
    if found.keys() != {f"r{index}" for index in range(count)}:
        whole = next((row for row in found.values() if row.get("referenceId") is None), None)
        if whole is not None:
            raise _refusal(int(whole.get("httpStatusCode") or 400), whole.get("body"), writes=writes)
        raise _lost(writes, causes.UNREADABLE, "The answer to a composite lacks parts")
    return [Reply(int(found[f"r{index}"]["httpStatusCode"]), found[f"r{index}"].get("body")) for index in range(count)]


_WHOLE_ORG: Final = frozenset(
    {"REQUEST_LIMIT_EXCEEDED", "API_DISABLED_FOR_ORG", "API_CURRENTLY_DISABLED", "SERVER_UNAVAILABLE", causes.UNREADABLE}
)
_CODES_OF_STATUS: Final = {401: causes.SESSION_ENDED, **dict.fromkeys((400, 405, 411, 413, 414, 415, 431), "BAD_REQUEST")}
"""Pages instead of JSON that are the request's fault. Any other page is the edge's: 403 and 404 too, which maintenance shows."""
_EDGE: Final = frozenset({429, 502, 503, 504})


def _refusal(status: int, content: Any, *, writes: bool, object_name: str = "") -> TroubledError:
    """The error for a call that was answered, but not with success."""
    trouble = _first(causes.errors_of(content), status, object_name)
    if writes and (status >= 500 or trouble.cause.code == causes.UNREADABLE):
        return OutcomeUnknown(trouble)
    if status in _EDGE or trouble.cause.code in _WHOLE_ORG:
        return OrgUnavailable(trouble)
    return CallRefused(trouble)


def _first(errors: Sequence[causes.Error], status: int, object_name: str = "") -> Trouble:
    """The call's first error; what is not Salesforce's own JSON is told by its status."""
    error = errors[0] if errors else causes.Error(causes.UNREADABLE, f"HTTP {status}")
    if error.code == causes.UNREADABLE and status in _CODES_OF_STATUS:
        error = causes.Error(_CODES_OF_STATUS[status], f"HTTP {status} {error.message}".strip())
    return causes.classify(error.code, error.message, error.fields, object_name=object_name, http_status=status)


def _no_answer(sent_write: bool, error: Exception) -> TroubledError:
    timed_out = isinstance(error, requests.Timeout)
    code = "timeout" if timed_out else "connection_failed"
    # The kind of error only: its text holds the address, and with it the query and the people in it.
    message = (
        f"Salesforce did not answer in time ({type(error).__name__})"
        if timed_out
        else f"No answer from Salesforce ({type(error).__name__})"
    )
    return _lost(sent_write, code, message)


def _lost(writes: bool, code: str, message: str) -> TroubledError:
    hint = "Salesforce is down or slow, or the network is: see status.salesforce.com"
    trouble = Trouble(kind=causes.TRANSIENT, cause=Cause(code=code, message=message, hint=hint))
    return OutcomeUnknown(trouble) if writes else OrgUnavailable(trouble)


def _ours(code: str, message: str) -> Trouble:
    return Trouble(
        kind=causes.RECORD, cause=Cause(code=code, message=message, hint="A mistake of Turnout's own: please report it with this code")
    )
