"""The stand-in Livestorm through the product's own client and ingress: what it says is what they understand."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stages.livestorm import signature
from stages.livestorm.client import Bounds, Client, Pace
from stages.livestorm.errors import CallRefused, LivestormUnavailable, NotFound, TokenRefused
from stages.sandbox.livestorm import Options, application


class Receiver:
    """A subscriber that answers as the test says, and notes what came."""

    def __init__(self) -> None:
        self.status = 202
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self._changed = asyncio.Condition()

    async def take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        verdict = signature.verify("s3cret", request.headers.get(signature.HEADER), raw, now=2**40, tolerance_seconds=2**41)
        assert verdict.standing is signature.Standing.OK
        async with self._changed:
            self.bodies.append(msgspec.json.decode(raw))
            self.headers.append(request.headers[signature.HEADER])
            self._changed.notify_all()
        return web.Response(status=self.status)

    async def has(self, count: int) -> list[str]:
        """Waits for so many webhooks: their events, in order of arrival."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: len(self.bodies) >= count)
        return [body["data"]["meta"]["webhook"]["event"] for body in self.bodies]


class Livestorm:
    """The stand-in and its client."""

    def __init__(self, http: aiohttp.ClientSession, base: str, receiver: Receiver) -> None:
        self.http, self.base, self.receiver = http, base, receiver
        self.client = self.with_token("tok")

    def with_token(self, token: str) -> Client:
        return Client(self.http, f"{self.base}/v1", token, Pace(1_000), Bounds(attempts=1))

    async def post(self, path: str, body: Any) -> Any:
        async with self.http.post(f"{self.base}/sandbox/{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def season(self, people: int = 1) -> None:
        await self.post("events", {"id": "E1", "title": "Opener"})
        await self.post("sessions", {"id": "S1", "event_id": "E1", "estimated_started_at": 900})
        await self.post(
            "people", [{"id": f"p{n}", "session_id": "S1", "email": f"p{n}@mill.example", "company": "Acme"} for n in range(people)]
        )

    async def deliveries(self) -> list[dict[str, Any]]:
        async with self.http.get(f"{self.base}/sandbox/deliveries") as answer:
            told: list[dict[str, Any]] = (await answer.json())["deliveries"]
            return told

    async def until(self, true: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(10):
            while not await true():  # noqa: ASYNC110 - another server's state: only asking tells
                await asyncio.sleep(0.01)


@asynccontextmanager
async def livestorm(**options: Any) -> AsyncIterator[Livestorm]:
    receiver = Receiver()
    hook = web.Application()
    hook.router.add_post("/livestorm/acme", receiver.take)
    async with TestServer(hook) as subscriber:
        url = str(subscriber.make_url("/livestorm/acme"))
        told = {"organization": "0a1b", "token": "tok", "secret": "s3cret", "webhooks": url, "time_scale": 0.0, "calls_per_second": 1_000}
        async with application(Options(**{**told, **options})) as app, TestServer(app) as server, aiohttp.ClientSession() as http:
            yield Livestorm(http, str(server.make_url("")).rstrip("/"), receiver)


async def test_the_client_reads_what_the_switches_made() -> None:
    async with livestorm() as stand_in:
        await stand_in.season(people=120)
        client = stand_in.client
        await client.ping()
        assert (await client.organization()).id == "0a1b"
        assert (await client.event("E1")).attributes.title == "Opener"
        assert (await client.session("S1")).attributes.estimated_started_at == 900
        people = [person async for person in client.people("S1")]
        assert len({person["id"] for person in people}) == 120
        detail = people[0]["attributes"]["registrant_detail"]
        assert {"id": "company", "type": "text", "value": "Acme", "required": True} in detail["fields"]
        assert detail["password_key"]
        assert [person["id"] async for person in client.people("S1", address="P7@Mill.example")] == ["p7"]
        assert [session["id"] async for session in client.sessions_of("E1")] == ["S1"]
        assert [session["id"] async for session in client.sessions(updated_since=2**40)] == []


async def test_it_refuses_as_livestorm_does() -> None:
    async with livestorm(calls_per_second=3) as stand_in:
        with pytest.raises(TokenRefused):
            await stand_in.with_token("Bearer tok").ping()
        with pytest.raises(NotFound):
            await stand_in.client.session("nowhere")

        async def too_many_calls() -> None:
            # More than the limit: those of one second count, and a busy machine may be slower.
            for _ in range(20):
                await stand_in.client.ping()

        with pytest.raises(LivestormUnavailable) as raised:
            await too_many_calls()
        assert raised.value.retry_after_seconds == 1


async def test_past_the_last_page_and_over_50_a_page_is_400() -> None:
    async with livestorm() as stand_in:
        await stand_in.season()
        for query in ("page[number]=1", "page[size]=51", "page[number]=x"):
            async with stand_in.http.get(f"{stand_in.base}/v1/sessions?{query}", headers={"Authorization": "tok"}) as answer:
                assert answer.status == 400
                assert answer.content_type == "application/vnd.api+json"
        with pytest.raises(CallRefused):
            await stand_in.client._get("/sessions", {"page[number]": "7"})


async def test_each_change_tells_what_livestorm_would() -> None:
    async with livestorm() as stand_in:
        await stand_in.season(people=2)
        await stand_in.post("people", {"id": "staff", "session_id": "S1", "role": "team_member", "email": "s@mill.example"})
        assert (await stand_in.post("sessions", {"id": "S1", "estimated_started_at": 950}))["webhooks"] == []
        assert (await stand_in.post("sessions", {"id": "S1", "status": "live"}))["webhooks"] == ["session.started"]
        assert (await stand_in.post("people", {"id": "p0", "attended": True, "attendance_duration": 60}))["webhooks"] == []
        ended = await stand_in.post("sessions", {"id": "S1", "status": "past"})
        assert ended["webhooks"] == ["session.ended", "people.attended", "people.not_attended"]
        watched = await stand_in.post("people", {"id": "p1", "replay_view_detail": {"watched_at": 5}})
        assert watched["webhooks"] == ["people.watched_replay"]
        events = await stand_in.receiver.has(10)
        assert sorted(events) == sorted([
            "event.created", "session.created", *["people.registered"] * 3, "session.started", "session.ended",
            "people.attended", "people.not_attended", "people.watched_replay",
        ])  # fmt: skip
        assert (await stand_in.client.session("S1")).attributes.ended_at


async def test_what_is_not_taken_comes_again_with_the_same_signature_and_then_the_subscription_ends() -> None:
    async with livestorm() as stand_in:
        stand_in.receiver.status = 503
        await stand_in.post("events", {"id": "E1"})
        await stand_in.receiver.has(6)
        assert len(set(stand_in.receiver.headers)) == 1

        async def failed() -> bool:
            return [delivery["state"] for delivery in await stand_in.deliveries()] == ["failed"]

        await stand_in.until(failed)
        stand_in.receiver.status = 202
        assert (await stand_in.post("events", {"id": "E2"}))["webhooks"] == ["event.created"]
        assert len(await stand_in.deliveries()) == 1


async def test_a_refused_connection_is_not_tried_again() -> None:
    async with livestorm(webhooks="http://127.0.0.1:9/") as stand_in:
        await stand_in.post("events", {"id": "E1"})

        async def unreachable() -> bool:
            (delivery,) = await stand_in.deliveries()
            return bool(delivery["state"] == "unreachable" and len(delivery["tries"]) == 1)

        await stand_in.until(unreachable)


async def test_webhooks_are_lost_repeated_and_reordered_on_demand() -> None:
    async with livestorm() as stand_in:
        await stand_in.post("faults", {"fault": "lose", "event": "event.created", "times": 1})
        await stand_in.season(people=0)
        await stand_in.receiver.has(1)
        await stand_in.post("faults", {"fault": "repeat:2", "times": 1})
        await stand_in.post("people", {"session_id": "S1", "email": "a@mill.example"})
        assert await stand_in.receiver.has(4) == ["session.created", *["people.registered"] * 3]
        fault = await stand_in.post("faults", {"fault": "reorder:9"})
        await stand_in.post("events", {"id": "E2"})
        async with stand_in.http.delete(f"{stand_in.base}/sandbox/faults/{fault['id']}") as answer:
            assert answer.status == 200
        assert (await stand_in.receiver.has(5))[-1] == "event.created"


async def test_subscriptions_can_be_made_and_ended_over_the_api() -> None:
    async with livestorm(webhooks="") as stand_in:
        headers = {"Authorization": "tok"}
        body = {"data": {"type": "webhooks", "attributes": {"url": "http://127.0.0.1:9/x", "event": "event.created"}}}
        async with stand_in.http.post(f"{stand_in.base}/v1/webhooks", json=body, headers=headers) as answer:
            assert answer.status == 201
            id = msgspec.json.decode(await answer.read())["data"]["id"]
        async with stand_in.http.delete(f"{stand_in.base}/v1/webhooks/{id}", headers=headers) as answer:
            assert answer.status == 204
        async with stand_in.http.get(f"{stand_in.base}/v1/webhooks", headers=headers) as answer:
            assert msgspec.json.decode(await answer.read())["data"] == []


async def test_a_switch_says_what_is_wrong() -> None:
    async with livestorm() as stand_in:
        for path, body in (
            ("sessions", {"event_id": "none"}),
            ("people", {"session_id": "none"}),
            ("faults", {"fault": "explode"}),
            ("faults", ["lose"]),
            ("faults", {"fault": ["lose"]}),
            ("faults", {"fault": "delay:-1"}),
            ("faults", {"fault": "repeat:soon"}),
            ("faults", {"fault": "lose", "times": 0}),
            ("faults", {"fault": "lose", "event": "people.danced"}),
            ("sessions", {"event_id": ["x"]}),
            ("people", {"session_id": {"x": 1}}),
            ("events", 5),
        ):
            async with stand_in.http.post(f"{stand_in.base}/sandbox/{path}", json=body) as answer:
                assert answer.status == 400
                assert (await answer.json())["error"]
