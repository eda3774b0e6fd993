"""Livestorm's shapes, as its webhooks and its REST API v1 tell them. Lenient: unknown keys are ignored, numbers may come as text.

What says who and what it is about (ids, the event's name) has a type, and a wrong value is an error with its path. All else is `Any`,
so that an odd value costs that value and not the person; times are read by `seconds`, the rest by `stages.livestorm.attributes`.
"""

import contextlib
from typing import Any, Final, Generic, TypeVar

import msgspec

A = TypeVar("A")


class Hook(msgspec.Struct):
    """Which event this is, and whose."""

    event: str
    organization_id: str


class Resource(msgspec.Struct, Generic[A]):
    """One JSON:API resource."""

    id: str
    attributes: A
    relationships: Any = None
    """By name: `{"data": …}` with an object that has an `id`, a list of them, or null."""


class Webhook(msgspec.Struct, Generic[A]):
    """A webhook's body, but for its `meta`: see `hook`."""

    data: Resource[A]


class RegistrantDetail(msgspec.Struct):
    """A person's registration for one session. `fields` are the answers to the form: `[{"id", "value", …}]`."""

    session_id: str | None = None
    event_id: Any = None
    created_at: Any = None
    updated_at: Any = None
    fields: Any = None
    referrer: Any = None
    utm_source: Any = None
    utm_medium: Any = None
    utm_term: Any = None
    utm_content: Any = None
    utm_campaign: Any = None
    browser_name: Any = None
    os_name: Any = None
    ip_city: Any = None
    ip_country_code: Any = None
    ip_country_name: Any = None
    attended: Any = None
    attendance_rate: Any = None
    """0–100 or null."""
    attendance_duration: Any = None
    """Seconds."""
    has_viewed_replay: Any = None
    registration_type: Any = None
    is_highlighted: Any = None
    is_guest_speaker: Any = None


class Person(msgspec.Struct):
    """A person on a session (resource type `people`)."""

    role: Any = None
    """`participant`, or `team_member` for staff."""
    updated_at: Any = None
    timezone: Any = None
    first_name: Any = None
    last_name: Any = None
    email: Any = None
    registrant_detail: RegistrantDetail | None = None
    messages_count: Any = None
    questions_count: Any = None
    votes_count: Any = None
    up_votes_count: Any = None
    replay_view_detail: Any = None
    """Null, or an object with at least `watched_at` (Unix s)."""


class Session(msgspec.Struct):
    """Resource type `sessions`."""

    event_id: Any = None
    status: Any = None
    """upcoming, live, on_demand, past, past_not_started, canceled, draft."""
    timezone: Any = None
    name: Any = None
    estimated_started_at: Any = None
    started_at: Any = None
    ended_at: Any = None
    canceled_at: Any = None
    updated_at: Any = None
    breakout_room_parent_session_id: Any = None
    """Set: a breakout room, no session of its own."""


class Event(msgspec.Struct):
    """Resource type `events`. `fields` is the form: `[{"id", "type", "order", "required"}]`."""

    title: Any = None
    slug: Any = None
    language: Any = None
    updated_at: Any = None
    fields: Any = None


class Organization(msgspec.Struct):
    """Resource type `organizations`: the Livestorm workspace that a token belongs to."""

    name: Any = None


class One(msgspec.Struct, Generic[A]):
    """The answer for a single resource."""

    data: Resource[A]


_BEYOND: Final = 32_503_680_000
"""The year 3000: nothing that Livestorm tells of lies there; what does is another unit, mostly milliseconds."""


def seconds(time: Any, until: int = _BEYOND) -> int:
    """Unix seconds, told as a number or as text; 0 where it is not set, and where it is no moment up to `until`."""
    if isinstance(time, str):
        with contextlib.suppress(ValueError):
            time = float(time)
    is_number = isinstance(time, int | float) and not isinstance(time, bool)
    return int(time) if is_number and 0 < time <= until else 0


def text(value: Any) -> str:
    """A text; "" for whatever is none."""
    return value if isinstance(value, str) else ""


def within(told: Any, *way: str) -> Any:
    """What stands at the end of a way into objects; None where it leads nowhere."""
    for name in way:
        told = told.get(name) if isinstance(told, dict) else None
    return told


def hook(body: Any) -> Hook | None:
    """Which event a decoded body is. It stands inside `data`, and is also taken at the top level; None where neither names one."""
    for way in (("data", "meta", "webhook"), ("meta", "webhook")):
        with contextlib.suppress(msgspec.ValidationError):
            return msgspec.convert(within(body, *way), Hook)
    return None
