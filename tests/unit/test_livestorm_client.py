"""The door to Livestorm's API, against a server that the test scripts."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import stamina
from aiohttp import web
from aiohttp.test_utils import TestServer

from schemas.livestorm import seconds
from schemas.settings import Livestorm, Workspace
from stages.livestorm.client import Bounds, Client, Clients, Pace, refusal, retry_after_seconds
from stages.livestorm.errors import CallRefused, LivestormUnavailable, NotFound, ScopeMissing, TokenRefused
from stages.secrets import Secrets, new_key

Answer = Callable[[web.Request], web.Response]
TOKEN = "private-token"
SESSION = {"data": {"id": "s1", "type": "sessions", "attributes": {"event_id": "e1", "status": "upcoming", "estimated_started_at": "5"}}}


@pytest.fixture(autouse=True)
def _retries_without_waits() -> Any:
    with stamina.set_testing(True, attempts=3):
        yield


@asynccontextmanager
async def api(*answers: Answer) -> AsyncIterator[tuple[Client, list[web.Request], str]]:
    """A Livestorm that gives these answers in turn, the last one for ever."""
    asked: list[web.Request] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1](request)

    app = web.Application()
    app.router.add_get("/{rest:.*}", handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        base = str(server.make_url("/v1"))
        yield Client(http, base, TOKEN, Pace(1_000), Bounds(call_seconds=5.0)), asked, base


def json(body: Any, status: int = 200, **headers: str) -> Answer:
    return lambda _: web.json_response(body, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def error(status: int, **headers: str) -> Answer:
    return json({"errors": [{"title": "No", "detail": "not today", "code": "x", "status": "a word"}]}, status, **headers)


async def test_half_a_character_costs_that_character_and_not_the_answer() -> None:
    event = b'{"data":{"id":"e1","type":"events","attributes":{"title":"Opener \\ud83d","updated_at":5}}}'
    async with api(lambda _: web.Response(body=event, content_type="application/json")) as (client, _, _):
        assert (await client.event("e1")).attributes.title == "Opener \ufffd"


async def test_the_token_goes_raw_into_the_header() -> None:
    async with api(json(SESSION)) as (client, asked, _):
        session = await client.session("s1")
        assert session.attributes.event_id == "e1"
        assert seconds(session.attributes.estimated_started_at) == 5
        assert asked[0].path == "/v1/sessions/s1"
        assert asked[0].headers["Authorization"] == TOKEN
        assert asked[0].headers["Accept"] == "application/vnd.api+json"


async def test_pages_from_0_until_next_page_is_null() -> None:
    pages = [{"data": [{"id": f"p{number}"}], "meta": {"next_page": following}} for number, following in ((0, 1), (1, 2), (2, None))]
    async with api(*(json(page) for page in pages)) as (client, asked, _):
        people = [person async for person in client.people("s1", updated_since=7)]
        assert [person["id"] for person in people] == ["p0", "p1", "p2"]
        assert [request.query["page[number]"] for request in asked] == ["0", "1", "2"]
        query = asked[0].query
        assert (query["filter[role]"], query["filter[updated_since]"], query["page[size]"]) == ("participant", "7", "50")


async def test_a_page_that_leads_back_ends_in_an_error_and_not_in_a_loop() -> None:
    async with api(json({"data": [], "meta": {"next_page": 0}})) as (client, _, _):
        with pytest.raises(CallRefused):
            _ = [item async for item in client.sessions()]


@pytest.mark.parametrize(
    ("status", "kind"), [(401, TokenRefused), (403, ScopeMissing), (404, NotFound), (400, CallRefused), (422, CallRefused)]
)
async def test_refusals_are_not_repeated(status: int, kind: type[Exception]) -> None:
    async with api(error(status)) as (client, asked, _):
        with pytest.raises(kind, match="not today"):
            await client.event("e1")
        assert len(asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    async with api(error(status, Retry_After="1"), json(SESSION)) as (client, asked, _):
        assert (await client.session("s1")).id == "s1"
        assert len(asked) == 2


async def test_a_long_wait_is_left_to_the_caller() -> None:
    async with api(error(429, Retry_After="3600")) as (client, asked, _):
        with pytest.raises(LivestormUnavailable) as raised:
            await client.session("s1")
        assert raised.value.retry_after_seconds == 3600
        assert len(asked) == 1


async def test_tries_are_bounded() -> None:
    async with api(error(503)) as (client, asked, _):
        with pytest.raises(LivestormUnavailable):
            await client.session("s1")
        assert len(asked) == 3


async def test_no_answer_is_unavailable_and_tells_no_address() -> None:
    async with api(json(SESSION)) as (_, _, base):
        """Closed again below: nobody listens there any more."""
    async with aiohttp.ClientSession() as http:
        closed = Client(http, base, TOKEN, Pace(1_000))
        with pytest.raises(LivestormUnavailable) as raised:
            _ = [person async for person in closed.people("s1", address="ana@mill.example")]
        assert "ana" not in str(raised.value)
        assert TOKEN not in repr(raised.value.cause)


async def test_what_is_not_json_is_refused() -> None:
    async with api(lambda _: web.Response(text="<html>")) as (client, _, _):
        with pytest.raises(CallRefused, match="not JSON"):
            await client.session("s1")


async def test_another_shape_is_refused_with_its_path() -> None:
    async with api(json({"data": {"id": 5, "attributes": {}}})) as (client, _, _):
        with pytest.raises(CallRefused, match=r"\$\.data\.id"):
            await client.session("s1")


@pytest.mark.parametrize("id", ["", "../admin", "a/b", "a?b", "a b"])
async def test_an_id_never_leads_elsewhere(id: str) -> None:
    async with api(json(SESSION)) as (client, asked, _):
        with pytest.raises(NotFound):
            await client.session(id)
        assert not asked


async def test_at_most_five_calls_in_a_second() -> None:
    now = 0.0
    at: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    pace = Pace(5, lambda: now, sleep)
    for _ in range(23):
        await pace.turn()
        at.append(now)
        now += 0.01
    assert all(later - earlier > 0.999 for earlier, later in zip(at, at[5:], strict=False))
    assert at[-1] < 5.0


async def test_the_clients_open_tokens_and_say_when_there_is_no_such_thing() -> None:
    cipher = Secrets([new_key()], "test")
    async with api(error(404), json(SESSION)) as (_, asked, base), aiohttp.ClientSession() as http:
        settings = Livestorm(organization_id="o", webhook_secret="x", api_token=cipher.encrypt(TOKEN), base_url=base)
        workspace = Workspace(id="acme", org="o", livestorm=settings)
        clients = Clients(http, cipher.decrypt)
        assert await clients.session(workspace, "gone") is None
        session = await clients.session(workspace, "s1")
        assert session is not None
        assert clients.client(workspace) is clients.client(workspace)
        assert asked[1].headers["Authorization"] == TOKEN
        with pytest.raises(TokenRefused, match="secret_unreadable"):
            await Clients(http, Secrets([new_key()], "other").decrypt).session(workspace, "s1")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Thu, 01 Jan 1970 00:20:00 GMT"}, 200.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "soon", "RateLimit-Reset": "9"}, 9.0),
        ({"RateLimit-Reset": "1000000060"}, 86_400.0),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
    ],
)
def test_how_long_livestorm_wants_us_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, 1_000.0) == seconds


def test_a_refusal_without_a_body_still_says_what_to_do() -> None:
    refused = refusal("/sessions/0a1b2c3d-1111-2222-3333-444455556666", 403, {}, None, 0.0, 60.0)
    assert refused.cause.hint
    assert "0a1b2c3d" not in refused.cause.message
