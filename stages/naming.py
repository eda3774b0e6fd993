"""What a session's Campaign is called, when it is, and how it stands. Pure; the forms are Turnout's own choice."""

import dataclasses
import datetime
import hashlib
import re
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from schemas.tables import EventRow, SessionRow

NAME_CHARACTERS: Final = 80
"""Length of Campaign.Name."""
TYPE: Final = "Webinar"
UNTITLED: Final = "Webinar"
"""For an event without a title."""

PLANNED: Final = "Planned"
IN_PROGRESS: Final = "In Progress"
COMPLETED: Final = "Completed"
ABORTED: Final = "Aborted"

_RANK: Final = {PLANNED: 0, IN_PROGRESS: 1, COMPLETED: 2, ABORTED: 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Title:
    """What a Campaign says about its session. `date` is ISO 8601, "" where the session has none."""

    name: str
    date: str
    status: str

    def digest(self) -> str:
        """Tells whether a name and date are those that Turnout gave."""
        return digest(self.name, self.date)


def title(session: SessionRow, event: EventRow, *, characters: int = NAME_CHARACTERS) -> Title:
    """The Campaign's name, date and status. The event's title is cut where the whole would be too long, never the date."""
    zone = _zone(session.timezone)
    begins = session.estimated_started_at or session.started_at
    local = datetime.datetime.fromtimestamp(begins, zone) if begins else None
    if session.status == "on_demand":
        when = "On demand"
    elif local is not None:
        when = f"{local:%Y-%m-%d %H:%M} {zone.key}"
    else:
        when = ""
    return Title(_joined(event.title, when, characters), local.date().isoformat() if local is not None else "", status(session))


def status(session: SessionRow) -> str:
    """How the Campaign stands: Salesforce's own values as shipped."""
    if session.canceled_at or session.status == "canceled":
        return ABORTED
    if session.status == "on_demand":
        return IN_PROGRESS
    if session.ended_at or session.status == "past":
        return COMPLETED
    if session.started_at or session.status == "live":
        return IN_PROGRESS
    return PLANNED


def advances(held: str | None, wanted: str) -> bool:
    """Whether a Campaign that stands at `held` goes on to `wanted`: never back, and never from a status that isn't Turnout's."""
    if not held:
        return True
    rank = {name.lower(): value for name, value in _RANK.items()}.get(held.strip().lower())
    return rank is not None and rank < _RANK[wanted]


def mark(session: str) -> str:
    """The last words of the Campaign's Description, by which it is found again."""
    return f"Livestorm session {session}"


_MARK: Final = re.compile(rf"{mark('')}\S+\s*$")


def is_marked(description: str | None, session: str) -> bool:
    """Whether a Description ends with the session's mark; people may have written before it."""
    return (description or "").rstrip().endswith(mark(session))


def bears_mark(description: str | None) -> bool:
    """Whether a Description ends with the mark of any session."""
    return _MARK.search(description or "") is not None


def digest(name: str, date: str) -> str:
    """Eight characters for a name and a date."""
    return hashlib.sha256(f"{name}\n{date}".encode()).hexdigest()[:8]


def _joined(event_title: str, when: str, characters: int) -> str:
    name = " ".join(event_title.split()) or UNTITLED
    if not when:
        return name[:characters].rstrip()
    tail = f" - {when}"
    return name[: max(0, characters - len(tail))].rstrip() + tail


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")
