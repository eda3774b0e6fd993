"""From a webhook's raw body to what the topic `received` holds: whose, what, which key; without the secrets of the room. Pure."""

import dataclasses
import hashlib
from typing import Any, Final, Literal

import msgspec

from schemas import livestorm
from schemas.messages import Action, Cause, Received
from schemas.settings import Workspace
from stages.livestorm import attributes, room, texts
from stages.livestorm.signature import AHEAD_SECONDS

Kind = Literal["registration", "event", "session"]

ACTIONS: Final[dict[str, Action]] = {
    "people.registered": "registered",
    "people.attended": "attended",
    "people.not_attended": "not_attended",
    "people.watched_replay": "watched_replay",
}
EVENTS: Final = frozenset(("event.created", "event.published", "event.polled"))
SESSIONS: Final = frozenset(("session.created", "session.started", "session.ended", "session.polled"))
"""`*.polled`: the same resource, as read from the REST API."""
HOOKS: Final = (*ACTIONS, "event.created", "event.published", "session.created", "session.started", "session.ended")
"""Every event of Livestorm's that Turnout subscribes to."""
WANTED: Final = "wanted"
"""Trigger of a message to the one writer of a session's or an event's row: somebody waits for it."""

_ENVELOPE: Final = livestorm.Webhook[dict[str, Any]]
_SHAPES: Final[dict[Kind, Any]] = {
    "registration": livestorm.Webhook[livestorm.Person],
    "event": livestorm.Webhook[livestorm.Event],
    "session": livestorm.Webhook[livestorm.Session],
}


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """A body that is understood. Times are Unix ms."""

    key: str
    kind: Kind
    session: str
    event: str
    happened_at: int
    received: Received


@dataclasses.dataclass(frozen=True, slots=True)
class Unknown:
    """An event that Turnout does not know: nothing to do."""

    id: str
    key: str
    trigger: str


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """A body for the dead letters. `body` is untouched but for the secrets of the room."""

    id: str
    cause: Cause
    body: bytes


def kind_of(trigger: str) -> Kind | None:
    """What a trigger is about; None: unknown."""
    if trigger in ACTIONS:
        return "registration"
    if trigger in EVENTS:
        return "event"
    return "session" if trigger in SESSIONS else None


def take(workspace: Workspace, body: bytes, *, signed_at: int, received_at: int) -> Taken | Unknown | Unreadable:
    """Reads a verified body. `signed_at` and `received_at` are Unix ms. Never raises over what the body holds."""
    try:
        decoded, said = _decode(body)
        safe = msgspec.json.encode(decoded) if room.strip(decoded) else None
    except Refused as refused:
        return Unreadable(_unreadable_id(workspace, body), refused.cause, room.mask(body))
    except RecursionError:
        return Unreadable(_unreadable_id(workspace, body), _TOO_DEEP, room.mask(body))
    try:
        return _understand(workspace, decoded, safe or said, signed_at, received_at)
    except Refused as refused:
        return Unreadable(_unreadable_id(workspace, body), refused.cause, safe or body)


class Refused(Exception):
    """What was told can't be used, and why."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.code)
        self.cause = cause


def shaped(decoded: Any, shape: Any) -> Any:
    """Converts decoded JSON leniently. Raises Refused with the path of the first wrong value."""
    try:
        return msgspec.convert(decoded, shape, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(unexpected(error)) from None


def unexpected(error: msgspec.ValidationError) -> Cause:
    """The cause for a value that has not the shape it must have; msgspec names its path."""
    text = str(error)
    path = text.rpartition(" - at ")[2].strip("`") if " - at " in text else "$"
    return Cause("unexpected_shape", f"The body has not Livestorm's shape: {text}", (path,), _SHAPE_HINT)


def happened_at(trigger: str, person: livestorm.Person, *, session_ended_at: int, signed_at: int) -> int:
    """Unix ms at which it happened: a registration's `updated_at`, the session's end for (not) attended, `watched_at` for a replay.

    `session_ended_at` is Unix s, 0 where the end isn't known. What isn't told, or lies after the signed timestamp (Unix ms) by more than
    clocks may differ, is replaced by the next best, that timestamp at last: a time far ahead would keep out every later event.
    """
    detail = person.registrant_detail
    times: tuple[Any, ...] = ()
    match ACTIONS.get(trigger):
        case "registered":
            times = (detail.updated_at if detail else None, person.updated_at)
        case "attended" | "not_attended":
            times = (session_ended_at,)
        case "watched_replay":
            times = (attributes.watched_at(person),)
    until = signed_at // 1000 + AHEAD_SECONDS
    return next((at * 1000 for time in times if (at := livestorm.seconds(time, until))), signed_at)


_RETRY_HINT: Final = (
    "The message is kept whole: look at it, and tell Livestorm's support, or update Turnout if it is behind, then retry it."
)
_SHAPE_HINT: Final = "Turnout expects the body of Livestorm's API v1. " + _RETRY_HINT
_NO_EVENT_NAMED: Final = Cause(
    "no_event_named",
    "Neither data.meta.webhook nor meta.webhook says which event this is, and whose",
    ("$.data.meta.webhook",),
    _SHAPE_HINT,
)
_NO_ID: Final = Cause("unexpected_shape", "The body names no session or event: its id is blank", ("$.data.id",), _SHAPE_HINT)
_TOO_DEEP: Final = Cause("not_json", "The body is nested too deeply to be read", (), _RETRY_HINT)


def _decode(body: bytes) -> tuple[Any, bytes]:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"The body is not UTF-8: byte 0x{body[error.start]:02x} at position {error.start} ({error.reason})"
        raise Refused(Cause("not_utf8", message, (f"position {error.start}",), _RETRY_HINT)) from None
    try:
        return texts.decode(body)
    except msgspec.DecodeError as error:
        raise Refused(Cause("not_json", f"The body is not JSON: {error}", (), _RETRY_HINT)) from None


def _understand(workspace: Workspace, decoded: Any, safe: bytes, signed_at: int, received_at: int) -> Taken | Unknown:
    hook = livestorm.hook(decoded)
    if hook is None:
        shaped(decoded, _ENVELOPE)
        raise Refused(_NO_EVENT_NAMED)
    _check_owner(workspace, hook)
    kind = kind_of(hook.event)
    if kind is None:
        type, id = (livestorm.text(livestorm.within(decoded, "data", name)) for name in ("type", "id"))
        return Unknown(_id(hook.organization_id, hook.event, id), f"{type or 'unknown'}:{id}", hook.event)
    data = shaped(decoded, _SHAPES[kind]).data
    if kind != "registration" and not texts.clean(data.id):
        raise Refused(_NO_ID)
    session, event, updated_at = _places(kind, data)
    happened = signed_at
    if kind == "registration":
        happened = happened_at(hook.event, data.attributes, session_ended_at=0, signed_at=signed_at)
    return Taken(
        key=_key(kind, data),
        kind=kind,
        session=session,
        event=event,
        happened_at=happened,
        received=Received(
            id=_id(hook.organization_id, hook.event, data.id, session, updated_at),
            workspace=workspace.id,
            org=workspace.org,
            trigger=hook.event,
            received_at=received_at,
            signed_at=signed_at,
            body=msgspec.Raw(safe),
        ),
    )


def _check_owner(workspace: Workspace, hook: livestorm.Hook) -> None:
    expected = workspace.livestorm.organization_id
    if hook.organization_id.strip().lower() != expected.strip().lower():
        raise Refused(
            Cause(
                "other_workspace",
                f"The body is of the Livestorm workspace {hook.organization_id}, and {workspace.id} is {expected}",
                ("$.data.meta.webhook.organization_id",),
                "Correct livestorm.organization_id in the settings, or the address that the other workspace's webhooks are sent to; then retry it.",
            )
        )


def _key(kind: Kind, data: livestorm.Resource[Any]) -> str:
    if kind == "registration":
        return attributes.address_of(data.attributes) or f"person:{data.id}"
    return f"{kind}:{data.id}"


def _places(kind: Kind, data: livestorm.Resource[Any]) -> tuple[str, str, object]:
    """Session id, event id ("" where not told) and the resource's `updated_at`."""
    told = data.attributes
    if kind == "registration":
        detail = told.registrant_detail or livestorm.RegistrantDetail()
        return detail.session_id or "", livestorm.text(detail.event_id), (detail.updated_at, told.updated_at)
    if kind == "session":
        return data.id, event_of(data), told.updated_at
    return "", data.id, told.updated_at


def event_of(session: livestorm.Resource[livestorm.Session]) -> str:
    """The id of a session's event: its attribute, else the JSON:API relationship; "" where neither is told."""
    own = livestorm.text(session.attributes.event_id)
    return own or livestorm.text(livestorm.within(session.relationships, "event", "data", "id"))


def _id(*parts: object) -> str:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:32]


def _unreadable_id(workspace: Workspace, body: bytes) -> str:
    """One for each workspace that the body was sent to: what is decided about one's letter decides nothing about another's."""
    return hashlib.sha256(workspace.id.encode() + b"\x1f" + body).hexdigest()[:32]
