"""What Livestorm sends: bodies of webhooks and their signature, made here from its documentation and with nothing of the product's."""

import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

DAY: Final = 86_400
HEADER: Final = "x-livestorm-signature"
FORM: Final = ("email", "company", "job_title", "phone", "city", "country", "website")
"""Answers that stand in `fields` alone; names stand in the attributes."""


def sign(secret: str, body: bytes, timestamp: int | None = None) -> str:
    """The header: plain SHA-256 of timestamp, secret and the raw bytes."""
    at = int(time.time()) if timestamp is None else timestamp
    return f"{at},{hashlib.sha256(str(at).encode() + secret.encode() + body).hexdigest()}"


def body(organization: str, trigger: str, type: str, id: str, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """A webhook, with `meta` inside `data`."""
    meta = {"webhook": {"event": trigger, "organization_id": organization}}
    return {"data": {"id": id, "type": type, "attributes": attributes, "meta": meta}}


def encode(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, ensure_ascii=False).encode()


def event(title: str, **changes: Any) -> dict[str, Any]:
    """Attributes of an event."""
    now = int(time.time())
    told = {
        "title": title, "slug": title.lower().replace(" ", "-"), "registration_link": "https://app.livestorm.example/p/1",
        "estimated_duration": 60, "description": None, "status": "published", "language": "en", "published_at": now - 30 * DAY,
        "scheduling_status": "upcoming", "created_at": now - 40 * DAY, "updated_at": now - 30 * DAY, "owner": None, "sessions_count": 1,
        "fields": [{"id": name, "type": "text", "order": order, "required": True} for order, name in enumerate(FORM)],
    }  # fmt: skip
    return told | changes


def session(event: str, **changes: Any) -> dict[str, Any]:
    """Attributes of a session; upcoming, if nothing else is said."""
    now = int(time.time())
    told = {
        "event_id": event, "status": "upcoming", "timezone": "Europe/Paris", "room_link": "https://app.livestorm.example/r/1",
        "name": None, "attendees_count": 0, "duration": None, "estimated_started_at": now + 7 * DAY, "started_at": 0, "ended_at": 0,
        "canceled_at": 0, "created_at": now - 20 * DAY, "updated_at": now - 20 * DAY, "registrants_count": 0,
        "breakout_room_parent_session_id": None,
    }  # fmt: skip
    return told | changes


def person(session: str, event: str, email: object, **told: Any) -> dict[str, Any]:
    """Attributes of a person on a session.

    Names and `role`, `updated_at`, `replay_view_detail` and the like go where Livestorm has them; every other keyword is an answer to the form.
    """
    now = int(time.time())
    at = told.pop("updated_at", now - 60)
    attributes: dict[str, Any] = {
        "role": told.pop("role", "participant"), "created_at": now - 3600, "updated_at": at, "timezone": None,
        "first_name": told.pop("first_name", "Ada"), "last_name": told.pop("last_name", "Berg"), "email": email, "avatar_link": None,
        "messages_count": told.pop("messages_count", 0), "questions_count": 0, "votes_count": 0, "up_votes_count": 0,
        "replay_view_detail": told.pop("replay_view_detail", None),
    }  # fmt: skip
    detail: dict[str, Any] = {
        "event_id": event, "session_id": session, "created_at": now - 3600, "updated_at": at, "referrer": None,
        "utm_source": told.pop("utm_source", None), "utm_medium": None, "utm_term": None, "utm_content": None, "utm_campaign": None,
        "browser_name": None, "os_name": None, "ip_city": None, "ip_country_code": None, "ip_country_name": None,
        "password_key": "open-sesame", "connection_link": "https://app.livestorm.example/join?key=open-sesame",
        "attended": told.pop("attended", False), "attendance_rate": told.pop("attendance_rate", None),
        "attendance_duration": told.pop("attendance_duration", 0), "has_viewed_replay": told.pop("has_viewed_replay", False),
        "registration_type": "form", "is_highlighted": False, "is_guest_speaker": False, "session_role": None,
    }  # fmt: skip
    answers = {"email": email, "company": "Harbour Ltd"} | told
    detail["fields"] = [{"id": name, "type": "text", "value": value, "required": True} for name, value in answers.items()]
    return attributes | {"registrant_detail": detail}


def new_id() -> str:
    return str(uuid.uuid4())
