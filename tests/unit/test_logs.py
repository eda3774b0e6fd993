"""Log lines are for people or machines, say which part speaks, and show no address of anyone."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from aiohttp import web

from stages import logs, metrics
from stages.environment import Address


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """The log of the whole process is set up by these tests, and put back after each."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def said(form: str) -> str:
    """What comes out of a line of ours, one of the standard library's, and an exception, each with an address in it."""
    stream = io.StringIO()
    logs.configure("json" if form == "json" else "text", part="create", stream=stream)
    structlog.get_logger().info("written", who="ada@example.com", nested={"all": ["bob.o'neil+x@mail.example.org"]}, count=3)
    logging.getLogger("somebody.else").warning("sent to %s", "ada@example.com")
    words = "no such person: ada@example.com"
    try:
        raise ValueError(words)
    except ValueError:
        structlog.get_logger().exception("failed")
    return stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_line_shows_an_address(form: str) -> None:
    text = said(form)
    assert "example.com" not in text
    assert "example.org" not in text
    assert text.count("<address>") == 4
    assert "ValueError: no such person" in text


def test_json_lines_are_one_document_each_with_time_level_and_part() -> None:
    lines = [json.loads(line) for line in said("json").splitlines()]
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert {line["part"] for line in lines} == {"create"}
    assert all(line["timestamp"].endswith("Z") for line in lines)
    assert lines[0]["count"] == 3


def test_chatter_of_libraries_is_left_out() -> None:
    stream = io.StringIO()
    logs.configure("text", stream=stream)
    logging.getLogger("aiokafka.consumer").info("heartbeat")
    logging.getLogger("aiokafka.consumer").error("lost")
    assert "heartbeat" not in stream.getvalue()
    assert "lost" in stream.getvalue()


@pytest.mark.parametrize(
    "request_", [b"no HTTP at all\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n"]
)
async def test_what_a_client_sends_that_is_no_http_is_no_error_of_ours(request_: bytes) -> None:
    """No line, least of all a traceback, however many come; a fault of a page of ours is still told."""

    async def broken(_: web.Request) -> web.Response:
        raise ZeroDivisionError

    stream = io.StringIO()
    logs.configure("text", stream=stream)
    app = web.Application()
    app.router.add_get("/broken", broken)
    async with metrics.serving(app, Address("127.0.0.1", 0), "TURNOUT_INGRESS") as where:
        for sent, status in ((request_, b" 400 "), (b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n", b" 500 ")):
            assert stream.getvalue() == ""
            answers, client = await asyncio.open_connection(where.host, where.port)
            client.write(sent)
            assert status in await answers.readline()
            client.close()
    assert "ZeroDivisionError" in stream.getvalue()
