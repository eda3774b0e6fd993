"""Outcomes into records, and records into the log until they are acknowledged. A message is finished when all its records are."""

import traceback
from collections.abc import Awaitable, Callable, Sequence

import anyio
import msgspec
import structlog

from pipeline.backoff import backoff_seconds
from pipeline.errors import RecordTooLarge, WriteError
from pipeline.messages import Message
from pipeline.outcomes import Drop, Emit, Out, Reject, Row
from pipeline.records import Ack, Outgoing
from pipeline.transport import Writer
from schemas.messages import SCHEMA, Cause, DeadLetter, Synced, carry_unknown

log = structlog.get_logger()

SYNCED = "synced"
DEAD_LETTERS = "dead-letters"

_encoder = msgspec.json.Encoder()


def records_of(stage: str, message: Message, outcome: Emit | Drop | Reject, now_ms: int) -> list[Outgoing]:
    """Every record that an outcome means, in order: rows first, so that who is sent on finds them."""
    records = [row_record(row) for row in outcome.rows]
    if isinstance(outcome, Emit):
        records += [out_record(message, out) for out in outcome.outs]
        if not outcome.outs:
            records.append(_synced(stage, message, outcome, now_ms))
        return records
    if isinstance(outcome, Reject):
        records.append(_dead_letter(stage, message, outcome, now_ms))
    records.append(_synced(stage, message, outcome, now_ms))
    return records


def out_record(message: Message, out: Out) -> Outgoing:
    """A record for a topic of the chain; with the message's own key it keeps the message's own partition number."""
    headers = message.record.headers if out.headers is None else out.headers
    if out.key is None:
        # A record of a later version keeps what this worker doesn't know: old and new workers run side by side during an upgrade.
        value = out.value if message.schema <= SCHEMA else carry_unknown(message.value, out.value)
        return Outgoing(out.topic, message.record.key, value, headers, message.record.partition)
    return Outgoing(out.topic, out.key.encode(), out.value, headers)


def row_record(row: Row) -> Outgoing:
    return Outgoing(row.table, row.key.encode(), row.value)


def _synced(stage: str, message: Message, outcome: Emit | Drop | Reject, now_ms: int) -> Outgoing:
    row = Synced(
        id=message.id,
        at=now_ms,
        happened_at=message.happened_at,
        stage=stage,
        workspace=message.workspace,
        org=message.org,
        session=message.session,
        event=message.event,
        kind=message.kind or "unknown",
        email=_email(message),
        outcome="emitted",
    )
    if isinstance(outcome, Drop):
        row.outcome, row.reason = "dropped", outcome.reason
    else:
        row.trail = outcome.trail
        if isinstance(outcome, Reject):
            row.outcome, row.causes = "rejected", outcome.causes
            row.reason = outcome.causes[0].code if outcome.causes else ""
        else:
            row.reason = outcome.reason
    return Outgoing(SYNCED, message.record.key, _encoder.encode(row), message.record.headers, message.record.partition)


def _dead_letter(stage: str, message: Message, outcome: Reject, now_ms: int) -> Outgoing:
    record = message.record
    letter = DeadLetter(
        id=f"{record.topic}-{record.partition}-{record.offset}",
        at=now_ms,
        stage=stage,
        workspace=message.workspace,
        org=message.org,
        email=_email(message),
        session=message.session,
        event=message.event,
        causes=outcome.causes,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        tries=message.tries + 1,
        key=(record.key or b"").decode(errors="backslashreplace"),
        headers={name: (value or b"").decode(errors="backslashreplace") for name, value in record.headers},
        message=record.value or b"",
    )
    return Outgoing(DEAD_LETTERS, record.key, _encoder.encode(letter), record.headers, record.partition)


def _email(message: Message) -> str:
    return message.key if "@" in message.key and ":" not in message.key.partition("@")[0] else ""


def unexpected(error: BaseException) -> Cause:
    """An exception that no step should raise, told with the gist of its traceback."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " > ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames)
    return Cause(
        code="unexpected_error",
        message=f"{type(error).__name__} at {where}",
        hint="A fault of Turnout's own, or a message of a kind that it doesn't know: look at the message, upgrade, then retry.",
    )


async def deliver(
    writer: Writer,
    records: Sequence[Outgoing],
    *,
    too_large: Callable[[int], Sequence[Outgoing]],
    random: Callable[[], float],
    replaced: Callable[[], None],
) -> Sequence[tuple[Outgoing, Ack]]:
    """Writes the records, again and again from memory and in order, until they are acknowledged; gives what was written, and where.

    `too_large(index)` gives what goes in place of a record that its topic doesn't take; the index is that of the list given.
    """
    origins = list(range(len(records)))
    pending = list(records)
    sending: Awaitable[Sequence[Ack]] = writer.send(pending)
    attempt = 0
    while True:
        try:
            return list(zip(pending, await sending, strict=True))
        except RecordTooLarge as error:
            place = error.index
            instead = too_large(origins[place])
            pending[place : place + 1] = instead
            origins[place : place + 1] = [origins[place]] * len(instead)
        except WriteError as error:
            attempt += 1
            replaced()
            log.warning("records were not acknowledged, they are written again", records=len(pending), attempt=attempt, error=str(error))
            await anyio.sleep(backoff_seconds(attempt, random(), longest_seconds=10.0))
        sending = writer.send(pending)
