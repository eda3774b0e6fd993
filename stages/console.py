"""The console's pages: for now the lag, as a page and as JSON. Changes nothing."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from pipeline.errors import TransportError
from pipeline.transport import Transport
from stages import lag
from stages.errors import innermost

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="3"><title>Turnout: lag</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:70rem}}table{{border-collapse:collapse;width:100%}}
th,td{{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8884}}td.n,th.n{{text-align:right}}</style></head>
<body><h1>Lag</h1><p>{summary}</p>
<table><thead><tr><th>Stage</th><th class="n">Unfinished</th><th class="n">Oldest, seconds</th></tr></thead><tbody>{stages}</tbody></table>
<h2>Lanes that wait</h2>{lanes}</body></html>"""
_SILENCE = "Kafka doesn't answer: {}"


def application(
    transport: Transport, stages: Sequence[tuple[str, tuple[str, tuple[str, ...]]]], routes: Sequence[web.RouteDef]
) -> web.Application:
    """The aiohttp application; `routes` are those that every part serves."""
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

    app = web.Application()
    app.router.add_routes([web.get("/", page), web.get("/api/lag", document), *routes])
    return app


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
