"""The ingress: one webhook in, durable in Kafka before the answer. Refuses only what isn't rightly signed; decides nothing about people."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec
import structlog
from aiohttp import web

from pipeline import messages
from pipeline.errors import RecordTooLarge, TransportError
from pipeline.outcomes import Table
from pipeline.records import Ack, Headers, Outgoing
from pipeline.transport import Writer
from schemas.messages import SCHEMA, DeadLetter, Synced
from schemas.settings import Workspace
from stages.livestorm import signature, webhook
from stages.livestorm.signature import Standing
from stages.recency import retried
from stages.rows import WORKSPACES, Rows
from stages.secrets import SecretsError

log = structlog.get_logger()

STAGE: Final = "ingress"
_SIGNED_AT: Final = "signed-at"


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The ingress's bounds."""

    body_bytes: int = 256 * 1024
    body_seconds: float = 30.0
    """How long a body may take to arrive; then 408."""
    produce_seconds: float = 10.0
    """How long a request waits for Kafka; then 503."""
    reading: int = 2_000
    """Bodies that are being read at once; beyond it 503 at once."""
    in_flight: int = 2_000
    """Bodies that Kafka has not acknowledged, those already answered 503 among them; beyond it 503 at once."""
    retry_after_seconds: int = 30


class Metrics(Protocol):
    """What the ingress counts."""

    def webhook(self, workspace: str, outcome: str) -> None:
        """One request. `workspace` is a known id or "unknown"; outcomes are those of `Answer`."""


class Quiet:
    """Lets one log line a kind through in a while, and counts the others: a flood of refusals must not be one of lines."""

    def __init__(self, clock: Callable[[], float], every_seconds: float = 30.0) -> None:
        self._clock, self._every = clock, every_seconds
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def speaks(self, workspace: str, kind: str) -> int | None:
        """How many were kept quiet since the last line; None: this one is kept quiet too."""
        now = self._clock()
        since, quiet = self._told.get((workspace, kind), (-self._every, 0))
        if now - since < self._every:
            self._told[workspace, kind] = since, quiet + 1
            return None
        self._told[workspace, kind] = now, 0
        return quiet


class Unavailable(Exception):
    """Kafka did not take it within the bound, or this ingress can't look: the sender shall come again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status, and the outcome by which it is counted."""

    status: int
    outcome: str
    text: str = ""


ACCEPTED: Final = Answer(202, "accepted")
UNKNOWN_EVENT: Final = Answer(202, "unknown_event")
DEAD_LETTER: Final = Answer(202, "dead_letter")
UNKNOWN_WORKSPACE: Final = Answer(404, "unknown_workspace", "no such workspace")
BROKEN_BODY: Final = Answer(400, "broken_body", "the body is not what its headers say")
HUNG_UP: Final = Answer(400, "hung_up", "the sender has gone")
TOO_SLOW: Final = Answer(408, "too_slow", "the body did not arrive in time")
TOO_LARGE: Final = Answer(413, "too_large", "the body is too large")
UNAVAILABLE: Final = Answer(503, "unavailable", "can't be taken now, come again")
_REFUSED: Final = {
    Standing.MISSING: Answer(401, Standing.MISSING.value, "no signature"),
    Standing.BAD: Answer(401, Standing.BAD.value, "the signature is wrong"),
    Standing.TOO_OLD: Answer(401, Standing.TOO_OLD.value, "the signature is right, but too old"),
    Standing.AHEAD: Answer(401, Standing.AHEAD.value, "the signature is right, but its time lies in the future"),
}


class Ingress:
    """Takes webhooks. `decrypt` gives a secret's plain text, `clock` Unix seconds."""

    def __init__(
        self,
        writer: Writer,
        workspaces: Table,
        decrypt: Callable[[str], str],
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
        limits: Limits = Limits(),
    ) -> None:
        self._writer = writer
        self._workspaces = Rows(WORKSPACES, workspaces, Workspace)
        self._decrypt = decrypt
        self._metrics = metrics
        self._clock = clock
        self.limits = limits
        self._secrets: dict[str, str] = {}
        self._quiet = Quiet(clock)
        self._reading = 0
        self._in_flight = 0
        self._trouble: str | None = None
        self._trouble_until = 0.0

    def trouble(self) -> str | None:
        """Why it can't do its work now; None: it can. For /readyz."""
        if self._in_flight >= self.limits.in_flight:
            return f"{self._in_flight} webhooks are not acknowledged by Kafka"
        # A front that asks /readyz sends nothing while it is bad: the trouble must end by itself for the next webhook to try.
        return self._trouble if self._clock() < self._trouble_until else None

    async def handle(self, request: web.Request) -> web.Response:
        """POST /livestorm/{workspace}."""
        name = request.match_info["workspace"]
        try:
            workspace = self._workspace(name)
            answer = UNKNOWN_WORKSPACE if workspace is None else await self._verified(workspace, request)
        except (Unavailable, SecretsError) as error:
            if (quiet := self._quiet.speaks(name, "unavailable")) is not None:
                log.error("webhook was not taken", workspace=name, error=str(error), kept_quiet=quiet)
            answer = UNAVAILABLE
        self._metrics.webhook("unknown" if answer is UNKNOWN_WORKSPACE else name, answer.outcome)
        return self._respond(answer)

    def _workspace(self, name: str) -> Workspace | None:
        workspace = self._workspaces.get(name)
        if workspace is None and self._workspaces.raw(name) is not None:
            raise Unavailable(f"the row of workspace {name} can't be read: apply its settings again")
        return workspace

    def _respond(self, answer: Answer) -> web.Response:
        if answer.status == 202:
            return web.Response(body=b'{"accepted":1}', status=202, content_type="application/json")
        headers = {"Retry-After": str(self.limits.retry_after_seconds)} if answer.status == 503 else None
        return web.json_response({"error": answer.text}, status=answer.status, headers=headers)

    async def _verified(self, workspace: Workspace, request: web.Request) -> Answer:
        if self._reading >= self.limits.reading:
            raise Unavailable(f"{self._reading} bodies are being read")
        self._reading += 1
        try:
            body = await asyncio.wait_for(self._body(request), self.limits.body_seconds)
        except TimeoutError:
            return TOO_SLOW
        except ConnectionError:
            return HUNG_UP
        except web.RequestPayloadError:
            return BROKEN_BODY
        finally:
            self._reading -= 1
        if body is None:
            return TOO_LARGE
        now = self._clock()
        settings = workspace.livestorm
        verdict = signature.verify(
            self._secret(settings.webhook_secret), request.headers.get(signature.HEADER), body,
            now=now, tolerance_seconds=settings.signature_tolerance_seconds,
        )  # fmt: skip
        if verdict.standing is not Standing.OK:
            self._tell(workspace.id, verdict, now)
            return _REFUSED[verdict.standing]
        answer, records = decide(workspace, body, signed_at=verdict.signed_at * 1000, received_at=int(now * 1000))
        try:
            await self._produce(records)
        except RecordTooLarge:
            return TOO_LARGE
        return answer

    def _tell(self, workspace: str, verdict: signature.Verdict, now: float) -> None:
        outcome = verdict.standing.value
        if (quiet := self._quiet.speaks(workspace, outcome)) is not None:
            age = int(now - verdict.signed_at) if verdict.signed_at else None
            log.warning("webhook refused", workspace=workspace, outcome=outcome, age_seconds=age, kept_quiet=quiet)

    async def _body(self, request: web.Request) -> bytes | None:
        """The raw bytes; None if there are too many."""
        limit = self.limits.body_bytes
        if request.content_length is not None and request.content_length > limit:
            return None
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > limit:
                return None
        return bytes(body)

    def _secret(self, token: str) -> str:
        secret = self._secrets.get(token)
        if secret is None:
            if len(self._secrets) >= 20_000:
                self._secrets.clear()
            secret = self._secrets[token] = self._decrypt(token)
        return secret

    async def _produce(self, records: Sequence[Outgoing]) -> None:
        """Returns when the records are durable. Raises Unavailable, RecordTooLarge."""
        if self._in_flight >= self.limits.in_flight:
            raise Unavailable(self.trouble())
        sending = asyncio.ensure_future(_sent(self._writer, records))
        self._in_flight += 1
        sending.add_done_callback(self._landed)
        # Shielded: a record once given to the producer can't be taken back; it may still land, and its place is held until then.
        try:
            await asyncio.wait_for(asyncio.shield(sending), self.limits.produce_seconds)
        except TimeoutError:
            raise self._troubled(f"Kafka did not acknowledge a webhook within {self.limits.produce_seconds:g} s") from None
        except RecordTooLarge:
            raise
        except TransportError as error:
            raise self._troubled(f"Kafka did not take a webhook: {error}") from None

    def _troubled(self, reason: str) -> Unavailable:
        self._trouble, self._trouble_until = reason, self._clock() + self.limits.retry_after_seconds
        return Unavailable(reason)

    def _landed(self, sending: asyncio.Future[Sequence[Ack]]) -> None:
        self._in_flight -= 1
        if not sending.cancelled() and sending.exception() is None:
            self._trouble = None


async def _sent(writer: Writer, records: Sequence[Outgoing]) -> Sequence[Ack]:
    return await writer.send(records)


def decide(
    workspace: Workspace, body: bytes, *, signed_at: int, received_at: int, before: DeadLetter | None = None
) -> tuple[Answer, tuple[Outgoing, ...]]:
    """What becomes of a verified body: the answer once the records are durable, and the records. Times are Unix ms. Pure.

    `before`: the letter that it is already, where it is tried again.
    """
    match webhook.take(workspace, body, signed_at=signed_at, received_at=received_at):
        case webhook.Taken() as taken:
            return ACCEPTED, (received(taken),)
        case webhook.Unknown() as unknown:
            return UNKNOWN_EVENT, (_dropped(workspace, unknown, signed_at, received_at),)
        case webhook.Unreadable() as unreadable:
            return DEAD_LETTER, _refused(workspace, unreadable, signed_at, received_at, before)


def received(taken: webhook.Taken) -> Outgoing:
    """The record of topic `received`."""
    told = taken.received
    headers = messages.headers(
        id=told.id, kind=taken.kind, workspace=told.workspace, org=told.org, session=taken.session, event=taken.event,
        happened_at=taken.happened_at, received_at=told.received_at, schema=SCHEMA,
    )  # fmt: skip
    return Outgoing("received", taken.key.encode(), msgspec.json.encode(told), headers)


def again(letter: DeadLetter, workspace: Workspace, *, now: int) -> tuple[Answer, tuple[Outgoing, ...]]:
    """A dead letter of the ingress (it never was in a topic), once more; the same signed timestamp. `now` is Unix ms.

    It is marked as a retry of what was refused when it was signed: it may be refused, and retried, more than once.
    """
    signed_at = int(letter.headers[_SIGNED_AT])
    answer, records = decide(workspace, letter.message, signed_at=signed_at, received_at=now, before=letter)
    mark = (messages.REPLAY, retried(signed_at, now, letter.tries).encode())
    return answer, tuple(msgspec.structs.replace(record, headers=(*record.headers, mark)) for record in records)


def _dropped(workspace: Workspace, unknown: webhook.Unknown, signed_at: int, received_at: int) -> Outgoing:
    synced = Synced(
        id=unknown.id, at=received_at, happened_at=signed_at, stage=STAGE, workspace=workspace.id, org=workspace.org,
        session="", event="", kind="unknown", outcome="dropped", reason="unknown_event",
    )  # fmt: skip
    return Outgoing("synced", unknown.key.encode(), msgspec.json.encode(synced), _headers(synced, received_at))


def _refused(
    workspace: Workspace, unreadable: webhook.Unreadable, signed_at: int, received_at: int, before: DeadLetter | None
) -> tuple[Outgoing, Outgoing]:
    # A letter keeps its id: its message may hash to another one, since the secrets of the room were masked in it.
    key, tries = (f"{STAGE}-{unreadable.id}", 1) if before is None else (before.id, before.tries + 1)
    letter = DeadLetter(
        id=key, at=received_at, stage=STAGE, workspace=workspace.id, org=workspace.org, causes=(unreadable.cause,),
        key=key, headers={_SIGNED_AT: str(signed_at)}, message=unreadable.body, tries=tries,
    )  # fmt: skip
    synced = Synced(
        id=unreadable.id, at=received_at, happened_at=signed_at, stage=STAGE, workspace=workspace.id, org=workspace.org,
        session="", event="", kind="unknown", outcome="rejected", causes=letter.causes,
    )  # fmt: skip
    headers = _headers(synced, received_at)
    return (
        Outgoing("dead-letters", key.encode(), msgspec.json.encode(letter), headers),
        Outgoing("synced", key.encode(), msgspec.json.encode(synced), headers),
    )


def _headers(synced: Synced, received_at: int) -> Headers:
    return messages.headers(
        id=synced.id, kind=synced.kind, workspace=synced.workspace, org=synced.org, session=synced.session, event=synced.event,
        happened_at=synced.happened_at, received_at=received_at, schema=SCHEMA,
    )  # fmt: skip


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(ingress: Ingress, routes: Sequence[web.RouteDef] = ()) -> web.Application:
    """The aiohttp application. `routes` are those that every part serves beside its own (/healthz, /readyz, /metrics)."""
    app = web.Application(client_max_size=ingress.limits.body_bytes + 1, middlewares=[_json_errors])
    app.router.add_post("/livestorm/{workspace}", ingress.handle)
    app.router.add_routes(routes)
    return app


@web.middleware
async def _json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """aiohttp's own refusals (no such page, wrong method) as JSON too."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
        return web.json_response({"error": error.reason}, status=error.status, headers=headers)
