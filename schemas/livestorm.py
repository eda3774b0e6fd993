"""Livestorm's shapes, as its webhooks and its REST API v1 tell them. Lenient: unknown keys are ignored, numbers may come as text.

What decides (ids, times, the event's name) has a type, and a wrong value is an error with its path. What only informs is `Any`,
so that an odd value costs that value and not the person; `stages.livestorm.attributes` reads it.
"""

from typing import Any, Final, Generic, TypeVar

import msgspec

Unix = int | float | None
"""Unix seconds; 0 and None mean not set."""

A = TypeVar("A")


class Hook(msgspec.Struct):
    """Which event this is, and whose."""

    event: str
    organization_id: str


class Meta(msgspec.Struct):
    webhook: Hook | None = None


class Related(msgspec.Struct):
    """One end of a JSON:API relationship: an object with `id`, a list of them, or null."""

    data: Any = None


class Resource(msgspec.Struct, Generic[A]):
    """One JSON:API resource."""

    id: str
    attributes: A
    type: str = ""
    meta: Meta | None = None
    relationships: dict[str, Any] | None = None


class Webhook(msgspec.Struct, Generic[A]):
    """A webhook's body. `meta` stands inside `data`; also taken at the top level."""

    data: Resource[A]
    meta: Meta | None = None

    @property
    def hook(self) -> Hook | None:
        """The one inside `data` wins: that is the documented place."""
        for meta in (self.data.meta, self.meta):
            if meta is not None and meta.webhook is not None:
                return meta.webhook
        return None


class RegistrantDetail(msgspec.Struct):
    """A person's registration for one session. `fields` are the answers to the form: `[{"id", "value", …}]`."""

    session_id: str | None = None
    event_id: str | None = None
    created_at: Unix = None
    updated_at: Unix = None
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
    created_at: Unix = None
    updated_at: Unix = None
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

    event_id: str | None = None
    status: str | None = None
    """upcoming, live, on_demand, past, past_not_started, canceled, draft."""
    timezone: str | None = None
    name: Any = None
    estimated_started_at: Unix = None
    started_at: Unix = None
    ended_at: Unix = None
    canceled_at: Unix = None
    created_at: Unix = None
    updated_at: Unix = None
    breakout_room_parent_session_id: Any = None
    """Set: a breakout room, no session of its own."""


class Event(msgspec.Struct):
    """Resource type `events`. `fields` is the form: `[{"id", "type", "order", "required"}]`."""

    title: Any = None
    slug: Any = None
    language: Any = None
    updated_at: Unix = None
    fields: Any = None


class Organization(msgspec.Struct):
    """Resource type `organizations`: the Livestorm workspace that a token belongs to."""

    name: Any = None


class Page(msgspec.Struct, Generic[A]):
    """One page of a list. The last one has no `meta.next_page`."""

    data: list[Resource[A]]
    meta: dict[str, Any] | None = None


class One(msgspec.Struct, Generic[A]):
    """The answer for a single resource."""

    data: Resource[A]


_BEYOND: Final = 32_503_680_000
"""The year 3000: nothing that Livestorm tells of lies there; what does is another unit, mostly milliseconds."""


def seconds(time: Unix) -> int:
    """Unix seconds; 0 where not set, and where the number is no moment: negative, not finite, beyond the year 3000."""
    return int(time) if time is not None and 0 < time < _BEYOND else 0
