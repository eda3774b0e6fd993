"""HTTP of one stand-in org: reads a request, has it done, writes the answer and its line in the log. Decides nothing about records."""

import asyncio
import contextlib
import urllib.parse
from typing import Any

import msgspec
from aiohttp import web

from stages.sandbox.salesforce import composite, edge, oauth, rest, switches
from stages.sandbox.salesforce.calls import Entry, logged_headers
from stages.sandbox.salesforce.org import Org
from stages.sandbox.salesforce.refusals import RefusalError
from stages.sandbox.salesforce.request import NEWEST_VERSION, OLDEST_VERSION, Answer, Request, read_url

LARGEST_BODY_BYTES = 50 * 1024 * 1024
_SEASONS = ("Winter", "Spring", "Summer")
_JSON = "application/json;charset=UTF-8"


class OrgServer:
    """One org's HTTP: reads a request, has it done, writes the answer and its line in the log."""

    def __init__(self, org: Org) -> None:
        self.org = org
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            shutdown_timeout=1.0,
            max_line_size=1 << 20,
            max_field_size=1 << 20,
        )

    async def start(self, host: str, port: int) -> None:
        """Raises OSError where the port is taken."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=1024)
        await site.start()
        bound = self._runner.addresses[0][1]
        self.org.base_url = f"http://{host}:{bound}"

    async def stop(self) -> None:
        self.org.stopping.set()
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=LARGEST_BODY_BYTES)
        application.router.add_route("*", "/sandbox", self._switch)
        application.router.add_route("*", "/sandbox/{rest:.*}", self._switch)
        application.router.add_route("*", "/{rest:.*}", self._answer)
        return application

    async def _switch(self, request: web.Request) -> web.Response:
        return await switches.handle(self.org, request)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        entry = Entry(request.method, request.raw_path, logged_headers(request.headers), self._resource(request.path))
        entry.at = self.org.now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        call = rest.Call(self.org, entry, self.org.latency_ms)
        try:
            response = await self._by_path(call, request)
        except edge.EdgeError as error:
            entry.status = error.status
            response = web.Response(status=error.status, text=error.page(), content_type="text/html", headers=self._limit_info())
        except edge.SilenceError:
            call.cut = True
            await self._hang_up(request)
            response = web.Response()
        await call.spend_latency()
        if call.cut and request.transport is not None:
            request.transport.abort()
        return response

    async def _by_path(self, call: rest.Call, request: web.Request) -> web.Response:
        body = await request.read()
        parsed = _parsed(request, body)
        if call.entry.resource == "composite":
            call.entry.subrequests.extend(composite.entries(parsed))
        self.org.calls.add(call.entry)
        edge.check_size(request)
        if request.path == "/services/oauth2/token":
            return await self._token(call, request, body)
        if request.path in ("/services/data", "/services/data/"):
            call.entry.status = 200
            return self._json(Answer(200, _versions()))
        answer = await self._authorized(call, request, parsed)
        call.entry.status = answer.status
        return self._json(answer)

    async def _authorized(self, call: rest.Call, request: web.Request, parsed: Any) -> Answer:
        try:
            call.entry.user = self._user(request)
            if request.path == "/services/oauth2/userinfo":
                return self._userinfo(call.entry.user)
            if isinstance(parsed, RefusalError):
                raise parsed
            version, segments, parameters = read_url(request.raw_path)
            headers = {name.lower(): value for name, value in request.headers.items()}
            read = Request(request.method, version, segments, parameters, headers, parsed, call.entry.user)
            edge.befall(call, read)
            if call.entry.resource == "composite":
                rest.refuse_whole(call, "composite", inside=False)
            self._take_from_allowance()
            return await self._perform(call, read)
        except RefusalError as refusal:
            call.entry.count_error(refusal.code)
            return Answer(refusal.status, [refusal.as_rest()])

    async def _perform(self, call: rest.Call, read: Request) -> Answer:
        if call.entry.resource != "composite":
            return await rest.perform(call, read, call.entry, inside=False)
        if read.segments[1:]:
            raise RefusalError("NOT_FOUND")
        for fault in self.org.faults.for_request("composite", (), inside=False):
            if fault.slow_ms is not None and self.org.faults.hit(fault):
                await asyncio.sleep(fault.slow_ms / 1000)
        return await composite.perform(call, read)

    def _user(self, request: web.Request) -> str:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        user = self.org.sessions.get(token) if kind.lower() in ("bearer", "oauth") else None
        if user is None:
            raise RefusalError("INVALID_SESSION_ID")
        return user

    def _take_from_allowance(self) -> None:
        if self.org.used_today >= self.org.daily_limit:
            raise RefusalError("REQUEST_LIMIT_EXCEEDED")
        self.org.used_today += 1

    async def _hang_up(self, request: web.Request) -> None:
        """Waits until the caller hangs up, or the stand-in ends."""
        while request.transport is not None and not request.transport.is_closing():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.org.stopping.wait(), 0.1)
                return

    async def _token(self, call: rest.Call, request: web.Request, body: bytes) -> web.Response:
        try:
            await self._befall_token(call)
            if request.method != "POST":
                raise oauth.TokenError("invalid_request", "must use HTTP POST")
            await call.spend_latency()
            form = dict(urllib.parse.parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
            own = frozenset({self.org.base_url, f"http://{request.host}"})
            call.entry.user, reply = await oauth.grant(self.org, form, request.headers.get("Authorization"), own)
            call.entry.status = 200
            return self._json(Answer(200, reply, {"Cache-Control": "no-store"}))
        except oauth.TokenError as error:
            call.entry.status = error.status
            call.entry.count_error(error.error)
            return self._json(Answer(error.status, error.as_json()))

    async def _befall_token(self, call: rest.Call) -> None:
        for fault in self.org.faults.for_request("token", (), inside=False):
            if not self.org.faults.hit(fault):
                continue
            if fault.slow_ms is not None:
                await asyncio.sleep(fault.slow_ms / 1000)
            elif fault.of_connection:
                edge.strike(call, fault)
            else:
                raise oauth.TokenError(fault.kind, fault.message)

    def _userinfo(self, user: str) -> Answer:
        user_id = self.org.user_id(user)
        return Answer(
            200,
            {
                "sub": f"{self.org.base_url}/id/{self.org.id}/{user_id}",
                "user_id": user_id,
                "organization_id": self.org.id,
                "preferred_username": user,
                "name": user,
                "email": user,
                "active": True,
                "user_type": "STANDARD",
            },
        )

    def _resource(self, path: str) -> str:
        if path.startswith("/services/oauth2/"):
            return "token"
        try:
            return rest.resource_of(read_url(path)[1])
        except RefusalError:
            return "sobjects"

    def _limit_info(self) -> dict[str, str]:
        return {"Sforce-Limit-Info": f"api-usage={self.org.used_today}/{self.org.daily_limit}"}

    def _json(self, answer: Answer) -> web.Response:
        headers = {**self._limit_info(), **answer.headers}
        if answer.body is None:
            return web.Response(status=answer.status, headers=headers)
        headers["Content-Type"] = _JSON
        return web.Response(status=answer.status, body=msgspec.json.encode(answer.body), headers=headers)


def _parsed(request: web.Request, body: bytes) -> Any:
    """The JSON of a body, None where there is none, or why it can't be read."""
    if not body or request.path.startswith("/services/oauth2/"):
        return None
    if request.content_type not in ("application/json", "text/json"):
        return RefusalError("UNSUPPORTED_MEDIA_TYPE", f"Content type '{request.content_type}' is not supported.")
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        return RefusalError("JSON_PARSER_ERROR", f"Unexpected character or end: {error}")


def _versions() -> list[dict[str, str]]:
    listed = []
    for version in range(OLDEST_VERSION, NEWEST_VERSION + 1):
        # 62.0 is Winter '25; three releases a year.
        year, season = divmod(version - 62, 3)
        label = f"{_SEASONS[season]} '{25 + year:02d}"
        listed.append({"label": label, "url": f"/services/data/v{version}.0", "version": f"{version}.0"})
    return listed
