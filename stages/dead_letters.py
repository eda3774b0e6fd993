"""What was refused: finding dead letters, sending them on their way again in their order, or laying them aside with a reason.

The topic is never rewritten: what was decided about a letter is a record of its own behind it, with the header `resolution`.
"""

import base64
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from pipeline.delivery import DEAD_LETTERS
from pipeline.messages import REPLAY
from pipeline.records import Outgoing, Record
from pipeline.tables import readable
from pipeline.transport import Transport, Writer
from schemas.messages import DeadLetter
from schemas.settings import Workspace
from stages import flow, ingress
from stages.errors import UsageError
from stages.lag import rfc3339
from stages.livestorm import texts
from stages.recency import retried, retried_again, tries_before
from stages.trace import read

Json = dict[str, Any]
RESOLUTION: Final = "resolution"


class Resolution(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What somebody decided about a letter."""

    id: str
    state: Literal["retried", "discarded"]
    at: int
    """Unix ms."""
    letter_at: int = 0
    """The letter's own `at`: what has come under the same id meanwhile is another one. 0: not told, as by earlier versions."""
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """Which letters are meant: those with these ids, or all that fit every word that is given. Empty words fit all."""

    ids: tuple[str, ...] = ()
    workspace: str = ""
    stage: str = ""
    cause: str = ""

    def fits(self, letter: DeadLetter) -> bool:
        return (
            (not self.ids or letter.id in self.ids)
            and self.workspace in ("", letter.workspace)
            and self.stage in ("", letter.stage)
            and (not self.cause or any(cause.code == self.cause for cause in letter.causes))
        )


async def load(transport: Transport) -> list[DeadLetter]:
    """Every letter about which nothing was decided, in the order in which their messages came."""
    offsets = await transport.cluster.offsets(DEAD_LETTERS)
    return unresolved(await read(transport, DEAD_LETTERS, offsets, lambda record: record.value is not None))


def unresolved(records: Iterable[Record]) -> list[DeadLetter]:
    """From the topic's records. A letter that came twice (a repeat after a crash) is one; one that came again is new, and open until
    something is decided about itself: the same bad body posted to one workspace twice has one id."""
    letters: dict[str, DeadLetter] = {}
    for record in records:
        place = f"{record.partition}-{record.offset}"
        if any(name == RESOLUTION for name, _ in record.headers):
            resolution = readable(DEAD_LETTERS, place, record.value, Resolution)
            if resolution is not None and (letter := letters.get(resolution.id)) and resolution.letter_at in (0, letter.at):
                del letters[letter.id]
        elif (letter := readable(DEAD_LETTERS, place, record.value, DeadLetter)) is not None:
            letters[letter.id] = letter
    return sorted(letters.values(), key=lambda letter: (letter.topic, letter.partition, letter.offset, letter.at))


def chosen(letters: Sequence[DeadLetter], choice: Choice, workspaces: Iterable[str] = ()) -> list[DeadLetter]:
    """Raises UsageError for ids that are none of the letters', and for names that nothing has.

    `workspaces`: those that have settings. One that has none any more, or a stage of before, is known by its letters.
    """
    missing = set(choice.ids) - {letter.id for letter in letters}
    if missing:
        raise UsageError(f"there is no open dead letter {', '.join(sorted(missing))}: `turnout dead-letters list` names them")
    _known("workspace", choice.workspace, {*workspaces, *(letter.workspace for letter in letters)})
    _known("stage", choice.stage, {ingress.STAGE, *flow.STAGES, *(letter.stage for letter in letters)})
    return [letter for letter in letters if choice.fits(letter)]


def _known(kind: str, name: str, known: Collection[str]) -> None:
    if name and name not in known:
        raise UsageError(f"there is no {kind} {name!r}; known are: {', '.join(sorted(filter(None, known))) or 'none'}")


async def retry(writer: Writer, letters: Sequence[DeadLetter], workspaces: Mapping[str, Workspace], now_ms: int) -> list[DeadLetter]:
    """Sends the untouched messages to the topics that they were in, in order, and notes it once they are durable. Raises TransportError.

    Gives the letters that are refused again right away (the ingress still can't read them): they stay open, with one more try.
    """
    ways = [(letter, again(letter, workspaces, now_ms)) for letter in letters]
    records = [record for _, way in ways for record in way]
    if records:
        await writer.send(records)
    refused = {letter.id: letter for letter, way in ways if any(record.topic == DEAD_LETTERS for record in way)}
    await _note(writer, [letter for letter in letters if letter.id not in refused], Resolution(id="", state="retried", at=now_ms))
    return list(refused.values())


async def discard(writer: Writer, letters: Sequence[DeadLetter], reason: str, now_ms: int) -> None:
    """Notes that nothing is to be done about them. The letters stay in the topic until its retention."""
    await _note(writer, letters, Resolution(id="", state="discarded", at=now_ms, reason=reason))


def again(letter: DeadLetter, workspaces: Mapping[str, Workspace], now_ms: int) -> Sequence[Outgoing]:
    """The records that bring a letter's message back. Raises UsageError where its workspace is gone and it never was in a topic.

    They carry the mark of a retry, since they come behind what was behind them: what was set meanwhile doesn't go back. What it was
    marked as before stays.
    """
    if letter.topic:
        before = letter.headers.get(REPLAY)
        tried = tries(letter)
        told = letter.headers | {REPLAY: retried(letter.at, now_ms, tried) if before is None else retried_again(before, now_ms, tried)}
        headers = tuple((name, value.encode()) for name, value in told.items())
        return [Outgoing(letter.topic, letter.key.encode(), letter.message, headers)]
    workspace = workspaces.get(letter.workspace)
    if workspace is None:
        raise UsageError(f"{letter.id} is of workspace {letter.workspace!r}, which has no settings: apply them first, or discard it")
    return ingress.again(letter, workspace, now=now_ms)[1]


def tries(letter: DeadLetter) -> int:
    """How often its message was tried, before its retries too."""
    return letter.tries + tries_before(letter.headers.get(REPLAY, ""))


async def _note(writer: Writer, letters: Sequence[DeadLetter], resolution: Resolution) -> None:
    notes = [
        Outgoing(
            DEAD_LETTERS,
            letter.key.encode(),
            msgspec.json.encode(msgspec.structs.replace(resolution, id=letter.id, letter_at=letter.at)),
            ((RESOLUTION, resolution.state.encode()),),
            partition=letter.partition if letter.partition >= 0 else None,
        )
        for letter in letters
    ]
    if notes:
        await writer.send(notes)


def summary(letter: DeadLetter) -> Json:
    """One entry of `turnout dead-letters list --json`."""
    return {
        "id": letter.id,
        "at": rfc3339(letter.at),
        "stage": letter.stage,
        "workspace": letter.workspace,
        "org": letter.org,
        "email": letter.email,
        "session": letter.session,
        "event": letter.event,
        "causes": [msgspec.structs.asdict(cause) for cause in letter.causes],
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "tries": tries(letter),
    }


def detail(letter: DeadLetter) -> Json:
    """The document of `turnout dead-letters show --json`: with the message decoded, if it can be, and its untouched bytes."""
    return {**summary(letter), "message": _decoded(letter.message), "message_base64": base64.b64encode(letter.message).decode()}


def _decoded(message: bytes) -> Any:
    try:
        return texts.decode(message)[0]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
