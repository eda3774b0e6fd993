"""The ingress over HTTP, with a log that the test decides about."""

import asyncio
import base64
import contextlib
import gzip
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from pipeline.errors import RecordTooLarge, WriteError
from pipeline.messages import Message
from pipeline.records import Ack, Outgoing, Record
from schemas.messages import DeadLetter, Received, Synced
from schemas.settings import Livestorm, Workspace
from stages import ingress, metrics
from stages.environment import Address
from stages.livestorm import signature
from stages.secrets import Secrets, new_key

SECRET = "whsec"
NOW = 1_793_000_000
CIPHER = Secrets([new_key()], "test")
Client = TestClient[web.Request, web.Application]


class Log:
    """A Writer whose acknowledgements the test gives, or an error."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []
        self.error: Exception | None = None
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    def send(self, records: Sequence[Outgoing]) -> Awaitable[Sequence[Ack]]:
        return self._send(records)

    async def _send(self, records: Sequence[Outgoing]) -> Sequence[Ack]:
        self.asked.set()
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.records += records
        return [Ack(0, len(self.records)) for _ in records]


class Counted:
    """Metrics as a list."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def webhook(self, workspace: str, outcome: str) -> None:
        self.seen.append((workspace, outcome))


class Rows(dict[str, bytes]):
    """A table that the test fills."""


def workspace(id: str = "acme", **livestorm: Any) -> bytes:
    settings = Livestorm(organization_id="0a1b", webhook_secret=CIPHER.encrypt(SECRET), **livestorm)
    return msgspec.json.encode(Workspace(id=id, org="acme-prod", livestorm=settings))


class Stage:
    """One ingress under test."""

    def __init__(self, client: Client, log: Log, counted: Counted, rows: Rows, part: ingress.Ingress) -> None:
        self.client, self.log, self.counted, self.rows, self.ingress = client, log, counted, rows, part
        self.now = float(NOW)

    async def post(self, body: bytes, *, to: str = "acme", header: str | None = "", secret: str = SECRET, at: int = NOW) -> ClientResponse:
        signed = signature.sign(secret, at, body) if header == "" else header
        headers = {} if signed is None else {"x-livestorm-signature": signed}
        return await self.client.post(f"/livestorm/{to}", data=body, headers=headers)


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[Stage]:
    log, counted, rows = Log(), Counted(), Rows(acme=workspace())
    stage: Stage
    clock: Callable[[], float] = lambda: stage.now  # noqa: E731
    part = ingress.Ingress(log, rows, CIPHER.decrypt, counted, clock=clock, limits=ingress.Limits(**limits))
    async with TestClient(TestServer(ingress.application(part))) as client:
        stage = Stage(client, log, counted, rows, part)
        yield stage
        log.open.set()


def person(event: str = "people.registered", organization: str = "0a1b", **attributes: Any) -> bytes:
    detail = {"session_id": "S1", "event_id": "E1", "updated_at": 1_792_999_000, "password_key": "let-me-in"}
    meta = {"webhook": {"event": event, "organization_id": organization}}
    told = {"email": "Ana@Mill.example", "registrant_detail": detail, **attributes}
    return msgspec.json.encode({"data": {"id": "p1", "type": "people", "attributes": told, "meta": meta}})


def message(record: Outgoing) -> Message:
    return Message(Record(record.topic, 0, 0, 0, record.key, record.value, record.headers))


async def test_accepted_once_it_is_durable() -> None:
    async with serving() as stage:
        stage.log.open.clear()
        answer = asyncio.create_task(stage.post(person()))
        await stage.log.asked.wait()
        assert not answer.done()
        stage.log.open.set()
        response = await answer
        assert response.status == 202
        assert await response.json() == {"accepted": 1}
        (record,) = stage.log.records
        told = message(record)
        assert (record.topic, told.key, told.kind) == ("received", "ana@mill.example", "registration")
        assert (told.workspace, told.org, told.session, told.event) == ("acme", "acme-prod", "S1", "E1")
        assert (told.happened_at, told.received_at, told.schema) == (1_792_999_000_000, NOW * 1000, 1)
        received = msgspec.json.decode(record.value or b"", type=Received)
        assert received.id == told.id
        assert b"let-me-in" not in (record.value or b"")
        assert stage.counted.seen == [("acme", "accepted")]


async def test_the_signature_is_over_the_raw_bytes() -> None:
    """F28: accents, an emoji, an escape and two blanks after a colon."""
    body = person(first_name="Ñandú 🎟").replace(b'"email":', b'"note":"\\u00e9","email":  ')
    async with serving() as stage:
        assert (await stage.post(body)).status == 202
        header = signature.sign(SECRET, NOW, body)
        assert (await stage.post(body.replace(b"  ", b" ", 1), header=header)).status == 401
        assert (await stage.post(body[:-1] + b" ", header=header)).status == 401


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (person().replace(b"Ana@", b"J\xfcrgen@"), "not_utf8"),
        (b"not json", "not_json"),
        (b"", "not_json"),
        (b'{"data":{}}', "unexpected_shape"),
        (b'{"data":{"id":"p1","attributes":{}}}', "no_event_named"),
        (person(organization="other"), "other_workspace"),
    ],
)
async def test_what_is_rightly_signed_and_unreadable_is_a_dead_letter(body: bytes, code: str) -> None:
    """F29: never refused, for a refusal in the end disables the subscription."""
    async with serving() as stage:
        assert (await stage.post(body)).status == 202
        letter_record, synced_record = stage.log.records
        assert (letter_record.topic, synced_record.topic) == ("dead-letters", "synced")
        letter = msgspec.json.decode(letter_record.value or b"", type=DeadLetter)
        synced = msgspec.json.decode(synced_record.value or b"", type=Synced)
        assert [cause.code for cause in letter.causes] == [code]
        assert letter.causes == synced.causes
        assert letter.causes[0].hint
        assert (letter.stage, letter.workspace, letter.org) == ("ingress", "acme", "acme-prod")
        assert (synced.outcome, synced.workspace) == ("rejected", "acme")
        assert b"let-me-in" not in letter.message
        assert stage.counted.seen == [("acme", "dead_letter")]


async def test_the_bytes_of_an_unreadable_body_are_untouched() -> None:
    async with serving() as stage:
        await stage.post(b"\xff\x00 not json")
        value = stage.log.records[0].value or b""
        assert msgspec.json.decode(value, type=DeadLetter).message == b"\xff\x00 not json"
        assert base64.b64encode(b"\xff\x00 not json") in value


async def test_a_dead_letter_of_the_ingress_can_be_taken_again() -> None:
    async with serving() as stage:
        await stage.post(person(organization="0A1C"))
        letter = msgspec.json.decode(stage.log.records[0].value or b"", type=DeadLetter)
        mended = Workspace(id="acme", org="acme-prod", livestorm=Livestorm(organization_id="0A1C", webhook_secret="x"))
        answer, records = ingress.again(letter, mended, now=NOW * 1000 + 5)
        assert answer is ingress.ACCEPTED
        assert msgspec.json.decode(records[0].value or b"", type=Received).signed_at == NOW * 1000


async def test_an_unknown_event_is_taken_dropped_and_told() -> None:
    async with serving() as stage:
        assert (await stage.post(person("people.sneezed"))).status == 202
        (record,) = stage.log.records
        synced = msgspec.json.decode(record.value or b"", type=Synced)
        assert (record.topic, synced.outcome, synced.reason) == ("synced", "dropped", "unknown_event")
        assert stage.counted.seen == [("acme", "unknown_event")]


async def test_refusals_are_counted_apart() -> None:
    async with serving() as stage:
        body = person()
        assert (await stage.post(body, header=None)).status == 401
        assert (await stage.post(body, secret="wrong")).status == 401
        assert (await stage.post(body, at=NOW - 3601)).status == 401
        assert (await stage.post(body, at=NOW + 301)).status == 401
        assert (await stage.post(body, to="nobody")).status == 404
        assert [outcome for _, outcome in stage.counted.seen] == [
            "missing_signature", "bad_signature", "too_old", "ahead", "unknown_workspace",
        ]  # fmt: skip
        assert stage.counted.seen[-1] == ("unknown", "unknown_workspace")
        assert not stage.log.records


async def test_the_same_request_is_taken_within_a_larger_tolerance() -> None:
    """F31: whether a retry is signed anew isn't known, so the tolerance is a setting."""
    async with serving() as stage:
        body = person()
        stage.now = NOW + 3_700
        assert (await stage.post(body)).status == 401
        stage.rows["acme"] = workspace(signature_tolerance_seconds=7_200)
        assert (await stage.post(body)).status == 202
        assert stage.counted.seen == [("acme", "too_old"), ("acme", "accepted")]


async def test_settings_count_as_soon_as_the_row_changes() -> None:
    async with serving() as stage:
        other = Livestorm(organization_id="0a1b", webhook_secret=CIPHER.encrypt("other"))
        assert (await stage.post(person())).status == 202
        stage.rows["acme"] = msgspec.json.encode(Workspace(id="acme", org="acme-prod", livestorm=other))
        assert (await stage.post(person())).status == 401
        assert (await stage.post(person(), secret="other")).status == 202
        del stage.rows["acme"]
        assert (await stage.post(person(), secret="other")).status == 404


async def test_too_large_with_and_without_a_length() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 64 * 1024

    async with serving() as stage:
        assert (await stage.post(b"x" * (256 * 1024 + 1))).status == 413
        assert (await stage.client.post("/livestorm/acme", data=chunks())).status == 413
        assert (await stage.post(b"x" * (256 * 1024))).status == 202
        assert [outcome for _, outcome in stage.counted.seen] == ["too_large", "too_large", "dead_letter"]


async def test_over_what_the_topic_takes_is_too_large() -> None:
    async with serving() as stage:
        stage.log.error = RecordTooLarge("too large")
        assert (await stage.post(person())).status == 413


async def test_503_while_kafka_does_not_answer_and_202_afterwards() -> None:
    """F30: within a bound; what got 503 may still land."""
    async with serving(produce_seconds=0.02) as stage:
        stage.log.open.clear()
        response = await stage.post(person())
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert stage.ingress.trouble() is not None
        stage.log.open.set()
        # A busy machine may take longer than the bound to acknowledge what it takes.
        stage.ingress.limits = ingress.Limits()
        assert (await stage.post(person())).status == 202
        assert stage.ingress.trouble() is None
        assert len(stage.log.records) == 2
        assert stage.counted.seen == [("acme", "unavailable"), ("acme", "accepted")]


async def test_503_where_the_producer_fails() -> None:
    async with serving() as stage:
        stage.log.error = WriteError("not acknowledged")
        assert (await stage.post(person())).status == 503
        assert "not acknowledged" in (stage.ingress.trouble() or "")


async def test_no_more_is_taken_than_the_bound_while_kafka_hangs() -> None:
    async with serving(produce_seconds=0.01, in_flight=3) as stage:
        stage.log.open.clear()
        for _ in range(3):
            assert (await stage.post(person())).status == 503
        stage.log.error = AssertionError("nothing may be sent beyond the bound")
        assert (await stage.post(person())).status == 503
        assert stage.ingress._in_flight == 3


async def test_a_body_that_never_ends_is_given_up() -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with serving(body_seconds=0.05) as stage:
        response = await stage.client.post("/livestorm/acme", data=endless())
        assert response.status == 408
        assert stage.counted.seen == [("acme", "too_slow")]


@contextlib.asynccontextmanager
async def by_hand(request: bytes) -> AsyncIterator[tuple[Stage, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client that speaks HTTP as badly as the test wants, to a server as the ingress part starts it."""
    log, counted = Log(), Counted()
    part = ingress.Ingress(log, Rows(acme=workspace()), CIPHER.decrypt, counted, clock=lambda: NOW)
    async with metrics.serving(ingress.application(part), Address("127.0.0.1", 0), "TURNOUT_INGRESS") as where:
        answers, client = await asyncio.open_connection(where.host, where.port)
        client.write(b"POST /livestorm/acme HTTP/1.1\r\nHost: ingress\r\n" + request)
        await client.drain()
        try:
            yield Stage(cast(Client, None), log, counted, Rows(), part), answers, client
        finally:
            client.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("framing", ["Content-Length: 1000\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"])
async def test_a_sender_who_hangs_up_in_mid_body_is_counted_and_no_error(framing: str, caplog: pytest.LogCaptureFixture) -> None:
    async with by_hand(framing.encode()) as (stage, _, client):
        await until(lambda: stage.ingress._reading == 1)
        client.transport.abort()
        await until(lambda: stage.counted.seen == [("acme", "hung_up")])
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_body_that_its_headers_belie_is_refused() -> None:
    async with serving() as stage:
        response = await stage.client.post("/livestorm/acme", data=b"no gzip", headers={"Content-Encoding": "gzip"})
        assert response.status == 400
        assert stage.counted.seen == [("acme", "broken_body")]


async def test_what_is_signed_is_what_was_sent_and_nothing_is_unpacked() -> None:
    """Unpacked, a small body could fill the memory; and the signature is over the bytes that were sent."""
    packed = gzip.compress(b" " * 50_000_000)
    head = (
        f"x-livestorm-signature: {signature.sign(SECRET, NOW, packed)}\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
    )
    async with by_hand(head.encode() + packed) as (stage, answers, _):
        assert b" 202 " in await answers.readline()
        assert stage.counted.seen == [("acme", "dead_letter")]


async def test_no_more_bodies_are_read_at_once_than_the_bound() -> None:
    begun = asyncio.Event()
    go_on = asyncio.Event()
    body = person()

    async def slow() -> AsyncIterator[bytes]:
        yield body[:5]
        begun.set()
        await go_on.wait()
        yield body[5:]

    async with serving(reading=1) as stage:
        headers = {"x-livestorm-signature": signature.sign(SECRET, NOW, body)}
        first = asyncio.create_task(stage.client.post("/livestorm/acme", data=slow(), headers=headers))
        await begun.wait()
        while not stage.ingress._reading:  # noqa: ASYNC110 - the request is on its way through a socket
            await asyncio.sleep(0.001)
        assert (await stage.post(body)).status == 503
        go_on.set()
        assert (await first).status == 202


def test_a_flood_of_refusals_is_not_a_flood_of_lines() -> None:
    now = 0.0
    quiet = ingress.Quiet(lambda: now, every_seconds=30.0)
    assert quiet.speaks("acme", "bad_signature") == 0
    assert [quiet.speaks("acme", "bad_signature") for _ in range(5)] == [None] * 5
    assert quiet.speaks("acme", "too_old") == 0
    assert quiet.speaks("other", "bad_signature") == 0
    now = 30.0
    assert quiet.speaks("acme", "bad_signature") == 5


async def test_a_row_or_a_secret_that_cannot_be_read_is_503_for_nothing_is_lost() -> None:
    async with serving() as stage:
        stage.rows["acme"] = b'{"id":5}'
        assert (await stage.post(person())).status == 503
        stage.rows["acme"] = msgspec.json.encode(
            Workspace(
                id="acme", org="o", livestorm=Livestorm(organization_id="0a1b", webhook_secret=Secrets([new_key()], "x").encrypt(SECRET))
            )
        )
        assert (await stage.post(person())).status == 503


async def test_other_pages_are_refused_in_json() -> None:
    async with serving() as stage:
        response = await stage.client.get("/livestorm/acme")
        assert response.status == 405
        assert await response.json() == {"error": "Method Not Allowed"}
        assert (await stage.client.post("/nowhere")).status == 404
