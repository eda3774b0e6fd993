"""What is known of sessions and events: rows from what Livestorm tells, merged so that nothing true goes back; pure."""

import zoneinfo
from functools import lru_cache
from typing import Any, Final

import msgspec

from schemas import livestorm
from schemas.livestorm import seconds, text
from schemas.messages import Value
from schemas.settings import Workspace
from schemas.tables import EventRow, SessionRow
from stages.livestorm import attributes
from stages.livestorm.signature import AHEAD_SECONDS
from stages.livestorm.texts import clean
from stages.livestorm.webhook import event_of

PAST: Final = "past"
_ENDED: Final = frozenset((PAST, "past_not_started"))
_RANKS: Final = {"draft": 0, "upcoming": 1, "on_demand": 1, "live": 2, "past_not_started": 3, PAST: 3, "canceled": 4}

OF_EVENT: Final = frozenset(("event_title", "event_language"))
"""Attributes that only the row of `events` tells."""


def snapshot(told: livestorm.Resource[livestorm.Session], trigger: str, *, workspace: str, signed_at: int) -> SessionRow:
    """The row as one message tells it. `signed_at` is Unix s.

    A body may lag behind the event that it comes with: `session.started` means started and `session.ended` means ended, whatever it says.
    """
    session = told.attributes
    row = SessionRow(
        id=told.id,
        workspace=workspace,
        event=event_of(told),
        status=text(session.status).strip().lower() or "upcoming",
        timezone=_zone(text(session.timezone)),
        name=clean(text(session.name)),
        estimated_started_at=seconds(session.estimated_started_at),
        started_at=seconds(session.started_at),
        ended_at=seconds(session.ended_at),
        canceled_at=seconds(session.canceled_at),
        updated_at=_changed_at(session.updated_at, signed_at),
        breakout=bool(session.breakout_room_parent_session_id),
    )
    if row.status == "on_demand":
        return row
    if trigger == "session.started":
        row.started_at = row.started_at or signed_at
        row.status = _at_least(row.status, "live")
    if trigger == "session.ended":
        row.ended_at = row.ended_at or signed_at
        row.status = _at_least(row.status, PAST)
    return row


def merge(known: SessionRow | None, fresh: SessionRow, *, connected_at: int) -> SessionRow:
    """What is known after `fresh`: the later `updated_at` tells, of equal ones the one that is further on.

    A start or an end that was told once stays told, and a session that has ended does not go back to live or upcoming.
    `connected_at` (Unix s, of its workspace) says what is past.
    """
    row = msgspec.structs.replace(fresh) if known is None else _merged(known, fresh)
    if end_of(row):
        row.status = _at_least(row.status, PAST)
    row.past = ended_before(row, connected_at)
    return row


def told(row: SessionRow, org: str) -> SessionRow:
    """The row after an org was told of the session."""
    return row if org in row.orgs else msgspec.structs.replace(row, orgs=(*row.orgs, org))


def closed(row: SessionRow, workspace: Workspace) -> str | None:
    """Why a session is none for Salesforce: `breakout_room`, `past_session`; None: it is one."""
    if row.breakout:
        return "breakout_room"
    return "past_session" if ended_before(row, workspace.connected_at) else None


def end_of(row: SessionRow) -> int:
    """When it ended (Unix s), 0: it has not. A session on demand goes on, whatever end it is told with."""
    return 0 if row.status == "on_demand" else row.ended_at


def ended_before(row: SessionRow, moment: int) -> bool:
    """Whether it ended before a moment (Unix s). One that is over without an end told counts by its last known time."""
    if end := end_of(row):
        return end < moment
    if row.status in _ENDED:
        return (row.started_at or row.estimated_started_at or row.updated_at) < moment
    return row.status == "canceled" and (row.canceled_at or row.updated_at) < moment


def event_row(told: livestorm.Resource[livestorm.Event], known: EventRow | None, *, signed_at: int) -> EventRow:
    """The event's row after what was told; something older than what is known changes nothing. `signed_at` is Unix s."""
    event = told.attributes
    updated_at = _changed_at(event.updated_at, signed_at)
    if known is not None and updated_at < known.updated_at:
        return known
    return EventRow(
        id=told.id,
        title=_first_text(event.title, event.slug, known.title if known else None, told.id),
        updated_at=updated_at,
        language=text(event.language),
        fields=_form(event.fields),
    )


def context(row: SessionRow, event: EventRow | None) -> dict[str, Value]:
    """Mappable attributes that the session and its event tell of a registration; only what is set."""
    values: dict[str, Value] = {
        "session_id": row.id,
        "session_name": row.name,
        "session_status": row.status,
        "session_timezone": row.timezone,
        "session_starts_at": _instant(row.started_at or row.estimated_started_at),
        "session_ended_at": _instant(row.ended_at),
        "event_id": row.event,
    }
    if event is not None:
        values |= {"event_title": event.title, "event_language": event.language}
    return {name: value for name, value in values.items() if value}


def _merged(known: SessionRow, fresh: SessionRow) -> SessionRow:
    later, earlier = (known, fresh) if _standing(known) > _standing(fresh) else (fresh, known)
    return msgspec.structs.replace(
        later,
        event=later.event or earlier.event,
        started_at=later.started_at or earlier.started_at,
        ended_at=later.ended_at or earlier.ended_at,
        canceled_at=later.canceled_at or (earlier.canceled_at if later.status == "canceled" else 0),
        estimated_started_at=later.estimated_started_at or earlier.estimated_started_at,
        breakout=later.breakout or earlier.breakout,
        orgs=known.orgs,
    )


def _changed_at(updated_at: Any, signed_at: int) -> int:
    """When a resource changed, Unix s. One that is said to have changed after it was signed could never change again."""
    return seconds(updated_at, signed_at + AHEAD_SECONDS) or signed_at


def _standing(row: SessionRow) -> tuple[int, int]:
    return row.updated_at, _RANKS.get(row.status, 0)


def _at_least(status: str, floor: str) -> str:
    return status if _RANKS.get(status, 0) >= _RANKS[floor] else floor


@lru_cache(maxsize=1024)
def _zone(name: str) -> str:
    """The time zone's name, or UTC where there is none by that name."""
    try:
        return zoneinfo.ZoneInfo(name).key if name else "UTC"
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return "UTC"


def _first_text(*values: Any) -> str:
    return next((cleaned for value in values if (cleaned := clean(text(value)))), "")


def _form(fields: Any) -> tuple[str, ...]:
    if not isinstance(fields, list):
        return ()
    return tuple(field["id"] for field in fields if isinstance(field, dict) and isinstance(field.get("id"), str))


def _instant(unix_seconds: int) -> str:
    return attributes.instant(unix_seconds) if unix_seconds else ""
