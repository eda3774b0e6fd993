"""What the stand-in Livestorm knows, and which webhooks each change causes; pure, in memory. Sends nothing."""

import dataclasses
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal

Kind = Literal["events", "sessions", "people"]
Resource = dict[str, Any]
"""A JSON:API resource: `{"id", "type", "attributes"}`."""

_EVENT: Final[dict[str, Any]] = {
    "title": "Untitled", "slug": None, "registration_link": "https://app.livestorm.example/p/1", "estimated_duration": 60, "description": None,
    "status": "published", "language": "en", "published_at": 0, "scheduling_status": "not_scheduled", "owner": None, "sessions_count": 0,
    "fields": [{"id": name, "type": "text", "order": order, "required": True} for order, name in enumerate(("email", "first_name", "last_name", "company"))],
}  # fmt: skip
_SESSION: Final[dict[str, Any]] = {
    "event_id": "", "status": "upcoming", "timezone": "Europe/Paris", "room_link": "https://app.livestorm.example/r/1", "name": None,
    "attendees_count": 0, "duration": None, "estimated_started_at": 0, "started_at": 0, "ended_at": 0, "canceled_at": 0,
    "registrants_count": 0, "breakout_room_parent_session_id": None,
}  # fmt: skip
_PERSON: Final[dict[str, Any]] = {
    "role": "participant", "timezone": None, "first_name": None, "last_name": None, "email": None, "avatar_link": None,
    "messages_count": 0, "questions_count": 0, "votes_count": 0, "up_votes_count": 0, "replay_view_detail": None,
}  # fmt: skip
_DETAIL: Final[dict[str, Any]] = {
    "event_id": "", "session_id": "", "fields": [], "referrer": None, "utm_source": None, "utm_medium": None, "utm_term": None,
    "utm_content": None, "utm_campaign": None, "browser_name": None, "os_name": None, "ip_city": None, "ip_country_code": None,
    "ip_country_name": None, "attended": False, "attendance_rate": None, "attendance_duration": 0, "has_viewed_replay": False,
    "registration_type": "form", "is_highlighted": False, "is_guest_speaker": False, "session_role": None,
}  # fmt: skip
_STANDARD: Final = frozenset(("email", "first_name", "last_name", "company", "job_title", "phone", "city", "country", "website"))


class WorldError(Exception):
    """What was asked for makes no sense here; `str()` says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """A webhook that Livestorm would send: which, and the resource as it is now."""

    trigger: str
    resource: Resource


class World:
    """One Livestorm workspace. `clock`: Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.resources: dict[Kind, dict[str, Resource]] = {"events": {}, "sessions": {}, "people": {}}

    def put(self, kind: Kind, values: Mapping[str, Any]) -> tuple[str, list[Told]]:
        """Creates what has no `id`, or one that isn't known, and changes what has; the id, and the webhooks. Raises WorldError."""
        id = str(values.get("id") or uuid.uuid4())
        told = {name: value for name, value in values.items() if name != "id"}
        match kind:
            case "events":
                return id, self._event(id, told)
            case "sessions":
                return id, self._session(id, told)
            case "people":
                return id, self._person(id, told)

    def forget(self) -> None:
        """Empties the workspace."""
        for resources in self.resources.values():
            resources.clear()

    def of(self, kind: Kind, **attributes: str) -> Iterator[Resource]:
        """Resources of a kind, oldest first; `session_id` and `event_id` narrow them."""
        for resource in self.resources[kind].values():
            place = resource["attributes"].get("registrant_detail") or resource["attributes"]
            if all(place.get(name) == value for name, value in attributes.items()):
                yield resource

    def _event(self, id: str, told: dict[str, Any]) -> list[Told]:
        known = self.resources["events"].get(id)
        resource = self._changed("events", id, _EVENT, told)
        if known is None:
            return [Told("event.created", resource)]
        published = resource["attributes"]["published_at"] and not known["attributes"]["published_at"]
        return [Told("event.published", resource)] if published else []

    def _session(self, id: str, told: dict[str, Any]) -> list[Told]:
        known = self.resources["sessions"].get(id)
        status = told.get("status")
        before = known["attributes"] if known is not None else {}
        if status in ("live", "past") and not before.get("started_at"):
            told.setdefault("started_at", self._now())
        if status == "past" and not before.get("ended_at"):
            told.setdefault("ended_at", self._now())
        if status == "canceled" and not before.get("canceled_at"):
            told.setdefault("canceled_at", self._now())
        event = told.get("event_id", before.get("event_id"))
        if not isinstance(event, str) or event not in self.resources["events"]:
            raise WorldError(f"there is no event {event!r}: POST /sandbox/events first")
        resource = self._changed("sessions", id, _SESSION, told)
        if known is None:
            return [Told("session.created", resource)]
        if status == before.get("status"):
            return []
        if status == "live":
            return [Told("session.started", resource)]
        # Attendance is told after the end, one webhook a person.
        return [Told("session.ended", resource), *self._attendance(id)] if status == "past" else []

    def _attendance(self, session: str) -> Iterator[Told]:
        for person in self.of("people", session_id=session):
            if person["attributes"]["role"] == "participant":
                yield Told("people.attended" if person["attributes"]["registrant_detail"]["attended"] else "people.not_attended", person)

    def _person(self, id: str, told: dict[str, Any]) -> list[Told]:
        known = self.resources["people"].get(id)
        before = known["attributes"] if known is not None else {**_PERSON, "registrant_detail": dict(_DETAIL)}
        detail_before = before["registrant_detail"]
        detail = {**detail_before, **{name: value for name, value in told.items() if name in _DETAIL and name != "fields"}}
        named = detail["session_id"]
        session = self.resources["sessions"].get(named) if isinstance(named, str) else None
        if session is None:
            raise WorldError(f"there is no session {named!r}: POST /sandbox/sessions first")
        detail["event_id"] = session["attributes"]["event_id"]
        answers = {name: value for name, value in told.items() if name not in _DETAIL and name not in _PERSON}
        detail["fields"] = told["fields"] if "fields" in told else _answered(detail_before["fields"], told, answers)
        detail |= {"created_at": detail_before.get("created_at", self._now()), "updated_at": self._now(), "password_key": uuid.uuid4().hex}
        detail["connection_link"] = f"https://app.livestorm.example/join?key={detail['password_key']}"
        attributes = {name: value for name, value in told.items() if name in _PERSON}
        resource = self._changed("people", id, {**_PERSON, "registrant_detail": detail}, {**attributes, "registrant_detail": detail})
        if known is None:
            return [Told("people.registered", resource)]
        watched = resource["attributes"]["replay_view_detail"] is not None and before["replay_view_detail"] is None
        return [Told("people.watched_replay", resource)] if watched else []

    def _changed(self, kind: Kind, id: str, defaults: Mapping[str, Any], told: Mapping[str, Any]) -> Resource:
        known = self.resources[kind].get(id)
        before = known["attributes"] if known is not None else {**defaults, "created_at": self._now()}
        # A new object each time: a webhook that is still on its way shows what was true when it was caused.
        resource = {"id": id, "type": kind, "attributes": {**before, "updated_at": self._now(), **told}}
        self.resources[kind][id] = resource
        return resource

    def _now(self) -> int:
        return int(self._clock())


def _answered(before: list[dict[str, Any]], told: Mapping[str, Any], answers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The form's answers: those of before, with what is told over them."""
    fields = {field["id"]: field for field in before}
    for name, value in {**{name: told[name] for name in ("email", "first_name", "last_name") if name in told}, **answers}.items():
        fields[name] = {"id": name, "type": "text", "value": value, "required": True}
        if name not in _STANDARD:
            fields[name]["custom"] = True
    return list(fields.values())
