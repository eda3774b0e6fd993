"""A stand-in Salesforce: N orgs on N ports of one process, for tests, demos and measurements. Shipped beside the door to the real one.

It does: the token endpoint (JWT bearer, client credentials, refresh token, password), `query` and `queryAll` with paging, single records,
upsert by external id, sObject Collections, composite with references, describe, limits, userinfo; Accounts, Contacts, Leads, Campaigns with
their member statuses and members, person accounts, conversion, merges; partial success, row locks, duplicate and validation rules, field and
object rights, daily limits; faults on demand; and a history of every record, which no real org gives so readily.

It does not: SOAP, Bulk, composite/batch, /graph and /tree, search, relationship subqueries, semi-joins, GROUP BY and date literals in SOQL,
record types, sharing, triggers, flows, Opportunities, formula fields, field history, compressed replies, or anything over https. It keeps
everything in memory and forgets it at the end. Signatures of JWTs are not checked.
"""

import asyncio
import contextlib
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import msgspec
import structlog
from aiohttp import web

from stages.sandbox.salesforce import composite, oauth, rest, seed, switches
from stages.sandbox.salesforce.calls import Entry, logged_headers
from stages.sandbox.salesforce.org import Org
from stages.sandbox.salesforce.refusals import RefusalError
from stages.sandbox.salesforce.request import NEWEST_VERSION, OLDEST_VERSION, Answer, Request, read_url

log = structlog.get_logger()

LONGEST_URI_BYTES = 16_384
"""Of the URI alone (414), and of URI and headers together (431)."""
LARGEST_BODY_BYTES = 50 * 1024 * 1024
_SEASONS = ("Winter", "Spring", "Summer")
_JSON = "application/json;charset=UTF-8"


class _EdgeError(Exception):
    """What answers before the org does: an HTML page, or nothing at all (status 0)."""

    def __init__(self, status: int, title: str = "") -> None:
        super().__init__(title)
        self.status = status
        self.title = title


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
        uri = request.raw_path
        entry = Entry(request.method, uri, logged_headers(request.headers), self._resource(request.path))
        entry.at = self.org.now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        call = rest.Call(self.org, entry, self.org.latency_ms)
        try:
            _check_size(request)
            response = await self._by_path(call, request)
        except _EdgeError as error:
            await call.spend_latency()
            if error.status == 0:
                await self._never(request)
            entry.status = error.status or None
            response = web.Response(status=error.status or 503, text=_page(error), content_type="text/html", headers=self._limit_info())
            call.cut = call.cut or error.status == 0
        await call.spend_latency()
        if call.cut and request.transport is not None:
            request.transport.abort()
        return response

    async def _by_path(self, call: rest.Call, request: web.Request) -> web.Response:
        path = request.path
        if path == "/services/oauth2/token":
            return await self._token(call, request)
        if path in ("/services/data", "/services/data/"):
            self._log(call, b"")
            call.entry.status = 200
            return self._json(Answer(200, _versions()))
        body = await request.read()
        self._log(call, body)
        answer = await self._authorized(call, request, body)
        call.entry.status = answer.status
        if not call.entry.objects and not call.entry.subrequests:
            for name, count in answer.objects.items():
                call.entry.count(name, count)
        return self._json(answer)

    async def _authorized(self, call: rest.Call, request: web.Request, body: bytes) -> Answer:
        try:
            call.entry.user = self._user(request)
            if request.path == "/services/oauth2/userinfo":
                return self._userinfo(call.entry.user)
            read = self._read(request, body, call.entry.user)
            if call.entry.resource == "composite":
                call.entry.subrequests.extend(composite.entries(read.body))
            self._befall(call, read)
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

    def _read(self, request: web.Request, body: bytes, user: str) -> Request:
        version, segments, parameters = read_url(request.raw_path)
        parsed: Any = None
        if body:
            if request.content_type not in ("application/json", "text/json"):
                raise RefusalError("UNSUPPORTED_MEDIA_TYPE", f"Content type '{request.content_type}' is not supported.")
            try:
                parsed = msgspec.json.decode(body)
            except msgspec.DecodeError as error:
                raise RefusalError("JSON_PARSER_ERROR", f"Unexpected character or end: {error}") from None
        headers = {name.lower(): value for name, value in request.headers.items()}
        return Request(request.method, version, segments, parameters, headers, parsed, user)

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

    def _befall(self, call: rest.Call, read: Request) -> None:
        """Faults of the connection, before anything is done: they befall the call as a whole. Raises _EdgeError."""
        standing = [fault for fault in self.org.faults.standing.values() if not fault.is_code and fault.slow_ms is None]
        if not standing:
            return
        about: list[tuple[str, Sequence[Any], bool]] = []
        if call.entry.resource == "composite":
            about.append(("composite", (), False))
            about.extend((resource, targets, True) for resource, targets in composite.targets_of(self.org, read))
        else:
            with contextlib.suppress(RefusalError):  # a request that can't be routed is still a request of its resource
                about.append((call.entry.resource, rest.route(self.org, read).targets, False))
            about = about or [(call.entry.resource, (), False)]
        for fault in standing:
            matched = any(fault in self.org.faults.for_request(name, targets, inside=inside) for name, targets, inside in about)
            if matched and self.org.faults.hit(fault):
                self._strike(call, fault.kind)

    @staticmethod
    def _strike(call: rest.Call, kind: str) -> None:
        if kind == "http-503":
            raise _EdgeError(503, "Service Unavailable")
        if kind == "timeout":
            raise _EdgeError(0)
        call.cut = True

    async def _never(self, request: web.Request) -> None:
        """Until the caller hangs up or the stand-in ends."""
        while request.transport is not None and not request.transport.is_closing():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.org.stopping.wait(), 0.1)
                return

    async def _token(self, call: rest.Call, request: web.Request) -> web.Response:
        entry = call.entry
        body = await request.read()
        self._log(call, b"")
        pause_ms = 0.0
        try:
            for fault in self.org.faults.for_request("token", (), inside=False):
                if not self.org.faults.hit(fault):
                    continue
                if fault.slow_ms is not None:
                    pause_ms += fault.slow_ms
                elif fault.is_code:
                    raise oauth.TokenError(fault.kind, fault.message)
                else:
                    self._strike(call, fault.kind)
            if request.method != "POST":
                raise oauth.TokenError("invalid_request", "must use HTTP POST")
            form = dict(urllib.parse.parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
            await asyncio.sleep((pause_ms + call.latency_ms) / 1000)
            call.latency_ms = 0.0
            own = frozenset({self.org.base_url, f"http://{request.host}"})
            entry.user, reply = await oauth.grant(self.org, form, request.headers.get("Authorization"), own)
            entry.status = 200
            return self._json(Answer(200, reply, {"Cache-Control": "no-store"}))
        except oauth.TokenError as error:
            entry.status = error.status
            entry.count_error(error.error)
            return self._json(Answer(error.status, error.as_json()))

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

    def _log(self, call: rest.Call, body: bytes) -> None:
        self.org.calls.add(call.entry, len(call.entry.url) + (len(body) if call.entry.resource == "composite" else 0) + 300)

    def _limit_info(self) -> dict[str, str]:
        return {"Sforce-Limit-Info": f"api-usage={self.org.used_today}/{self.org.daily_limit}"}

    def _json(self, answer: Answer) -> web.Response:
        headers = {**self._limit_info(), **answer.headers}
        if answer.body is None:
            return web.Response(status=answer.status, headers=headers)
        headers["Content-Type"] = _JSON
        return web.Response(status=answer.status, body=msgspec.json.encode(answer.body), headers=headers)


def _check_size(request: web.Request) -> None:
    uri = len(request.raw_path.encode())
    if uri > LONGEST_URI_BYTES:
        raise _EdgeError(414, "URI Too Long")
    if uri + sum(len(name) + len(value) + 4 for name, value in request.raw_headers) > LONGEST_URI_BYTES:
        raise _EdgeError(431, "Request Header Fields Too Large")


def _page(error: _EdgeError) -> str:
    return f"<html><head><title>{error.status} {error.title}</title></head><body><h1>{error.title}</h1></body></html>"


def _versions() -> list[dict[str, str]]:
    listed = []
    for version in range(OLDEST_VERSION, NEWEST_VERSION + 1):
        # 62.0 is Winter '25; three releases a year.
        year, season = divmod(version - 62, 3)
        label = f"{_SEASONS[season]} '{25 + year:02d}"
        listed.append({"label": label, "url": f"/services/data/v{version}.0", "version": f"{version}.0"})
    return listed


class SandboxOrgs:
    """Orgs while the block runs: `async with SandboxOrgs(2) as orgs: orgs.urls[0]`. Port 0 takes free ports, else `port`, `port + 1`, …

    `seed` is one for all orgs, or a list of which each org takes its own. Raises SeedError, OSError where a port is taken.
    """

    def __init__(
        self,
        orgs: int = 1,
        *,
        port: int = 0,
        seed_data: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        latency_ms: float = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self.host = host
        self.port = port
        seeds = seed.check_shape(seed_data if seed_data is not None else {})
        self.orgs = [Org(number, seeds[number % len(seeds)], latency_ms) for number in range(orgs)]
        self._servers = [OrgServer(org) for org in self.orgs]

    @property
    def urls(self) -> list[str]:
        """The base URL of each org."""
        return [org.base_url for org in self.orgs]

    async def __aenter__(self) -> Self:
        for org in self.orgs:
            seed.plant(org)
        try:
            for number, server in enumerate(self._servers):
                await server.start(self.host, self.port + number if self.port else 0)
        except OSError:
            await self._stop()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stop()

    async def _stop(self) -> None:
        await asyncio.gather(*(server.stop() for server in self._servers))


def read_seed(path: Path) -> Any:
    """A seed file's JSON. Raises SeedError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise seed.SeedError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise seed.SeedError(f"{path}: not JSON: {error}") from None


async def serve(port: int, orgs: int = 1, seed_file: Path | None = None, latency_ms: float = 0, host: str = "127.0.0.1") -> None:
    """Runs until cancelled; prints one line with every base URL once all are ready. Raises SeedError, OSError."""
    seed_data = None if seed_file is None else read_seed(seed_file)
    async with SandboxOrgs(orgs, port=port, seed_data=seed_data, latency_ms=latency_ms, host=host) as running:
        click.echo(f"sandbox salesforce ready: {' '.join(running.urls)}")
        log.info("sandbox_salesforce_ready", orgs=orgs, urls=running.urls)
        await asyncio.Event().wait()
