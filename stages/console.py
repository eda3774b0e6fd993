"""The console's pages: for now the lag, as a page and as JSON, for whoever shows a token where there are tokens. Changes nothing."""

import asyncio
import base64
import hmac
import html
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import anyio
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from pipeline.errors import NotAllowed, TransportError
from pipeline.transport import Transport
from pipeline.watchdog import Watchdog
from stages import lag
from stages.environment import Token
from stages.errors import innermost

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="3"><title>Turnout: lag</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:70rem}}table{{border-collapse:collapse;width:100%}}
th,td{{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8884}}td.n,th.n{{text-align:right}}</style></head>
<body><h1>Lag</h1><p>{summary}</p>
<table><thead><tr><th>Stage</th><th class="n">Unfinished</th><th class="n">Oldest, seconds</th></tr></thead><tbody>{stages}</tbody></table>
<h2>Lanes that wait</h2>{lanes}</body></html>"""
_LOOK_SECONDS: Final = 10.0
_SILENT_SECONDS: Final = 30.0
_SILENCE = "Kafka doesn't answer: {}"
_CHALLENGES: Final = ('Basic realm="Turnout"', 'Bearer realm="Turnout"')
_WHO = "Send one of the console's tokens, as `Authorization: Bearer TOKEN`, or as the password of any user."


def application(
    transport: Transport,
    stages: Sequence[tuple[str, tuple[str, tuple[str, ...]]]],
    routes: Sequence[web.RouteDef],
    tokens: Sequence[Token] = (),
) -> web.Application:
    """The aiohttp application; `routes` are those that every part serves, to anybody. All else wants one of the tokens, if there are any."""
    reads = {name: topic for name, (topic, _) in stages}

    async def document(_: web.Request) -> web.Response:
        try:
            return web.json_response(await _lag(transport, reads))
        except TransportError as error:
            return web.json_response({"error": _SILENCE.format(error)}, status=503)

    async def page(_: web.Request) -> web.Response:
        try:
            told = await _lag(transport, reads)
        except TransportError as error:
            return web.Response(status=503, text=_SILENCE.format(error))
        return web.Response(text=_PAGE.format(**_parts(told)), content_type="text/html")

    app = web.Application(middlewares=[_asking(tokens, {route.path for route in routes})] if tokens else [])
    app.router.add_routes([web.get("/", page), web.get("/api/lag", document), *routes])
    return app


def _asking(tokens: Sequence[Token], open_paths: Collection[str]) -> Middleware:
    """Lets nobody look without a token, but at the open paths."""

    @web.middleware
    async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in open_paths or _known(_shown(request.headers.get(hdrs.AUTHORIZATION, "")), tokens):
            return await handler(request)
        refusal = web.Response(status=401, text=_WHO)
        for challenge in _CHALLENGES:
            refusal.headers.add(hdrs.WWW_AUTHENTICATE, challenge)
        return refusal

    return ask


def _shown(authorization: str) -> str:
    """The token: a bearer's, or the password, which is how a browser asks for it. Empty where there is none."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode("latin-1").partition(":")[2]
    except ValueError:
        return ""


def _known(shown: str, tokens: Sequence[Token]) -> bool:
    """Takes the same time whichever it is, and however much of it is right."""
    given = shown.encode(errors="surrogateescape")
    return sum(hmac.compare_digest(given, token.secret.reveal().encode()) for token in tokens) > 0


class Look:
    """Asks the log now and then whether it answers, for /readyz: the console reads nothing while nobody looks at it."""

    def __init__(self, transport: Transport, topic: str) -> None:
        self._transport, self._topic = transport, topic
        self._watchdog: Watchdog | None = None

    async def run(self) -> None:
        """For ever. Raises NotAllowed."""
        loop = asyncio.get_running_loop()
        watchdog = self._watchdog = Watchdog(_SILENT_SECONDS, loop.time())
        while True:
            try:
                await self._transport.cluster.offsets(self._topic)
                watchdog.answered({}, loop.time())
            except NotAllowed:
                raise
            except TransportError as error:
                watchdog.unanswered(loop.time(), str(error))
            await anyio.sleep(_LOOK_SECONDS)

    def trouble(self) -> str | None:
        """None: the log answers."""
        return None if self._watchdog is None else self._watchdog.trouble(asyncio.get_running_loop().time()) or None


async def _lag(transport: Transport, reads: Mapping[str, str]) -> dict[str, Any]:
    """The lag's document. Raises TransportError, also where it comes out of the tasks that read a table."""
    try:
        return await lag.lag(transport, reads)
    except ExceptionGroup as group:
        error = innermost(group)
        if isinstance(error, TransportError):
            raise error from group
        raise


def _parts(told: dict[str, Any]) -> dict[str, str]:
    unfinished = told["unfinished"]
    summary = (
        "Everything is synced."
        if not unfinished
        else f"{unfinished} messages are unfinished, the oldest for {told['oldest_age_seconds']} s."
    )
    stages = "".join(
        f"<tr><td>{html.escape(stage['stage'])}</td><td class=n>{stage['unfinished']}</td><td class=n>{stage['oldest_age_seconds']}</td></tr>"
        for stage in told["stages"]
    )
    columns = ("stage", "partition", "lane", "state", "waiting", "since", "cause", "next_try_at", "mend")
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(lane[column] or ''))}</td>" for column in columns) + "</tr>" for lane in told["lanes"]
    )
    head = "".join(f"<th>{column.replace('_', ' ')}</th>" for column in columns)
    lanes = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else "<p>None.</p>"
    return {"summary": summary, "stages": stages, "lanes": lanes}
