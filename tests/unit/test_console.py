"""The console over HTTP, on a log in memory."""

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from pipeline.memory import MemoryBroker, MemoryTransport, Operation
from stages import console, flow
from stages.environment import Secret, Token
from stages.metrics import Metrics, routes

Client = TestClient[web.Request, web.Application]


@asynccontextmanager
async def serving(broker: MemoryBroker, tokens: Sequence[Token] = ()) -> AsyncIterator[Client]:
    for spec in flow.topics(partitions=1, replication=1, retention_hours=336):
        broker.create_topic(spec.name, spec.partitions)
    app = console.application(MemoryTransport(broker), list(flow.STAGES.items()), routes(Metrics(), lambda: None), tokens)
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.mark.parametrize(("operation", "topic"), [("offsets", "lanes"), ("offsets", "received"), ("committed", None)])
async def test_while_kafka_does_not_answer_lag_is_503_and_afterwards_it_is_told(operation: Operation, topic: str | None) -> None:
    """Whatever of it could not be read: the table of lanes, a topic's end, or what a group has committed."""
    broker = MemoryBroker()
    async with serving(broker) as client:
        broker.faults.fail(operation, topic=topic, times=2)
        response = await client.get("/api/lag")
        assert response.status == 503
        assert await response.json() == {"error": "Kafka doesn't answer: injected"}
        page = await client.get("/")
        assert (page.status, await page.text()) == (503, "Kafka doesn't answer: injected")
        told = await (await client.get("/api/lag")).json()
        assert (told["unfinished"], told["lanes"]) == (0, [])
        assert (await client.get("/")).status == 200


LOOK, ACT = "look-0123456789abcdef", "act-0123456789+/=abc"
TOKENS = (Token("look", Secret(LOOK)), Token("act", Secret(ACT)))
PAGES = ("/", "/api/lag")


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("token", [LOOK, ACT])
async def test_whoever_shows_a_token_may_look_whichever_right_it_has(token: str) -> None:
    """As a bearer, and as the password of any user, even of none."""
    async with serving(MemoryBroker(), TOKENS) as client:
        for shown in (f"Bearer {token}", f"bearer  {token}", basic(f"ada:{token}"), basic(f":{token}"), basic(f"é:{token}")):
            for page in PAGES:
                assert (await client.get(page, headers={"Authorization": shown})).status == 200


@pytest.mark.parametrize(
    "shown",
    [
        None, "", "Bearer", "Bearer ", "Bearer look", f"Bearer {LOOK[:-1]}", f"Bearer {LOOK}x", f"Bearer {LOOK} {ACT}", "Bearer é",
        LOOK, f"Token {LOOK}", "Basic", f"Basic {LOOK}", "Basic é", basic(LOOK), basic(f"{LOOK}:"), basic(f"ada:{LOOK}:"), basic("ada:é"),
        f"Bearer {LOOK.upper()}", f"Bearer look {LOOK}",
    ],
)  # fmt: skip
async def test_without_a_token_or_with_a_wrong_one_nothing_is_told_and_a_browser_asks_for_it(shown: str | None) -> None:
    async with serving(MemoryBroker(), TOKENS) as client:
        headers = {} if shown is None else {"Authorization": shown}
        for page in (*PAGES, "/no-such-page", "/metrics/"):
            response = await client.get(page, headers=headers)
            assert response.status == 401
            assert response.headers.getall("WWW-Authenticate") == ['Basic realm="Turnout"', 'Bearer realm="Turnout"']
            text = await response.text()
            assert "Bearer TOKEN" in text
            assert LOOK not in text
        assert (await client.head("/", headers=headers)).status == 401
        assert (await client.post("/", headers=headers)).status == 401


@pytest.mark.parametrize("shown", [b"Bearer \xff\xfe", b"Basic \xff\xfe"])
async def test_bytes_that_are_no_text_are_a_wrong_token(shown: bytes) -> None:
    async with serving(MemoryBroker(), TOKENS) as client, await anyio.connect_tcp(client.host, client.port or 0) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: console\r\nAuthorization: " + shown + b"\r\n\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 401 ")


async def test_what_every_part_tells_of_itself_needs_no_token() -> None:
    async with serving(MemoryBroker(), TOKENS) as client:
        assert [(await client.get(path)).status for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]


async def test_without_tokens_the_console_asks_for_none() -> None:
    async with serving(MemoryBroker()) as client:
        assert [(await client.get(page)).status for page in PAGES] == [200, 200]
