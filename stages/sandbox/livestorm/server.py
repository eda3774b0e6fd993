"""The stand-in Livestorm as a server: its API, its own switches under /sandbox, and its life. No real Livestorm has the switches."""

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import aiohttp
import anyio
import click
import msgspec
from aiohttp import web

from stages.livestorm.webhook import HOOKS
from stages.sandbox.livestorm.deliveries import Deliveries
from stages.sandbox.livestorm.rest import Rest
from stages.sandbox.livestorm.world import Kind, Told, World, WorldError

SWITCHES: Final = {
    "GET /sandbox": "this list, once it is ready",
    "POST /sandbox/events": "creates an event, or changes the one with this id; one object or a list; keys are Livestorm's attributes",
    "POST /sandbox/sessions": "the same for sessions; status live starts one, past ends it and tells who attended",
    "POST /sandbox/people": "the same for people on a session (session_id); keys that Livestorm does not have are answers to the form",
    "POST /sandbox/faults": '{"fault": "lose" | "delay:SECONDS" | "repeat:TIMES" | "reorder:HOW_MANY", "event"?, "times"?}',
    "GET /sandbox/faults": "the faults that are on",
    "DELETE /sandbox/faults/{id}": "ends one",
    "GET /sandbox/deliveries": "webhooks, their tries and what became of them",
    "POST /sandbox/reset": "forgets everything but the options",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """One Livestorm workspace. `webhooks` is an address that is subscribed to every event from the start."""

    organization: str = "sandbox"
    token: str = "sandbox"
    secret: str = "sandbox"
    webhooks: str = ""
    time_scale: float = 1.0
    calls_per_second: int = 5


class Sandbox:
    """The switches, over one world."""

    def __init__(self, options: Options, http: aiohttp.ClientSession) -> None:
        self._options = options
        self.deliveries = Deliveries(http, organization=options.organization, secret=options.secret, time_scale=options.time_scale)
        self.world = World(time.time)
        self.rest = Rest(
            self.world, self.deliveries, organization=options.organization, token=options.token, calls_per_second=options.calls_per_second
        )
        self._subscribe()

    def routes(self) -> list[web.RouteDef]:
        kinds: tuple[Kind, ...] = ("events", "sessions", "people")
        return [
            web.get("/sandbox", self._list),
            *(web.post(f"/sandbox/{kind}", self._put(kind)) for kind in kinds),
            web.post("/sandbox/faults", self._add_fault),
            web.get("/sandbox/faults", self._faults),
            web.delete("/sandbox/faults/{id}", self._remove_fault),
            web.get("/sandbox/deliveries", self._deliveries),
            web.post("/sandbox/reset", self._reset),
        ]

    def _subscribe(self) -> None:
        if self._options.webhooks:
            for number, event in enumerate(HOOKS):
                self.deliveries.subscribe(f"w{number}", self._options.webhooks, event)

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"switches": SWITCHES})

    def _put(self, kind: Kind) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def put(request: web.Request) -> web.Response:
            body = await _body(request)
            ids: list[str] = []
            told: list[Told] = []
            for values in body if isinstance(body, list) else [body]:
                if not isinstance(values, dict):
                    raise _refused("expected an object, or a list of them")
                try:
                    id, caused = self.world.put(kind, values)
                except WorldError as error:
                    raise _refused(str(error)) from None
                ids.append(id)
                told += caused
            self.deliveries.send(told)
            return web.json_response({"ids": ids, "webhooks": [one.trigger for one in told]})

        return put

    async def _add_fault(self, request: web.Request) -> web.Response:
        body = await _body(request)
        if not isinstance(body, dict):
            raise _refused("expected an object")
        try:
            fault = self.deliveries.add_fault(body.get("fault"), body.get("event"), body.get("times"))
        except ValueError as error:
            raise _refused(f"not a fault: {error}") from None
        return web.json_response({"id": fault.id})

    async def _faults(self, _: web.Request) -> web.Response:
        faults = [
            {"id": fault.id, "fault": fault.kind, "amount": fault.amount, "event": fault.event, "times": fault.times}
            for fault in self.deliveries.faults.values()
        ]
        return web.json_response({"faults": faults})

    async def _remove_fault(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        if not self.deliveries.remove_fault(id):
            return web.json_response({"error": f"no such fault: {id}"}, status=404)
        return web.json_response({})

    async def _deliveries(self, _: web.Request) -> web.Response:
        return web.json_response({"deliveries": self.deliveries.told()})

    async def _reset(self, _: web.Request) -> web.Response:
        await self.deliveries.reset()
        self.world.forget()
        self._subscribe()
        return web.json_response({})


def _refused(why: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=msgspec.json.encode({"error": why}).decode(), content_type="application/json")


async def _body(request: web.Request) -> Any:
    try:
        return msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refused(f"not JSON: {error}") from None


@contextlib.asynccontextmanager
async def application(options: Options) -> AsyncIterator[web.Application]:
    """The application of one stand-in; what is on its way when it ends is given up."""
    async with aiohttp.ClientSession() as http:
        sandbox = Sandbox(options, http)
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_routes([*sandbox.rest.routes(), *sandbox.routes()])
        try:
            yield app
        finally:
            await sandbox.deliveries.stop()


async def serve(port: int, options: Options) -> None:
    """Serves on the loopback address until it is cancelled; prints one line with the address once it is ready. Raises OSError where the port is in use."""
    async with application(options) as app:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            click.echo(f"sandbox livestorm ready: http://127.0.0.1:{runner.addresses[0][1]}")
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await runner.cleanup()
