"""What travels between the stages: one subject a message, tagged by `kind`; JSON on the wire.

A subject grows on its way: normalize makes it, match adds `found`, create adds `member`.
"""

import unicodedata
from typing import Literal

import msgspec

SCHEMA = 1
"""Version of the shapes below, in the header `schema` of every record. A worker reads this and the one before."""

Value = str | int | float | bool | list[str] | None
"""A Livestorm attribute's value, as it came: text, number, flag, several texts (multi-select) or nothing."""

Action = Literal["registered", "attended", "not_attended", "watched_replay"]
"""What the person did."""


class Received(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A verified webhook (or a polled resource) as the door took it; topic `received`."""

    id: str
    """Idempotency key: a hash of organization_id, event, data.id, session_id and updated_at."""
    workspace: str
    org: str
    trigger: str
    """Livestorm's name of the event, `people.registered` and the like; `wanted` for a session that somebody waits for."""
    received_at: int
    """Unix ms: when the door took it."""
    signed_at: int
    """Unix ms: the signed timestamp of the webhook; for a polled resource the time of the poll."""
    body: msgspec.Raw = msgspec.Raw(b"{}")
    """The body, JSON, without the secrets of the room."""


class Cause(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why something was refused or waits, in words that an admin can act on."""

    code: str
    """Machine-readable: Salesforce's own status code, or ours in lower_snake_case."""
    message: str
    """The org's own words, or ours."""
    fields: tuple[str, ...] = ()
    hint: str = ""
    """How to mend it."""


class Found(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What match read about one address in one org."""

    read_at: int
    """Unix ms, before the query was sent."""
    object: Literal["Contact", "Lead"] | None = None
    """What it turned out to be; None: nobody has this address."""
    record: dict[str, Value] = {}
    """The record that wins, with Id, LastModifiedById, LastModifiedDate and every mapped field."""
    converted_from: tuple[str, ...] = ()
    """Ids of converted Leads that led to this Contact: memberships may still hang on them."""
    worker: str = ""
    """Who read it; create may trust a fresh read of its own worker only."""


class Member(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Whom campaign-membership adds to the Campaign: the Contact or Lead that create settled on."""

    object: Literal["Contact", "Lead"]
    id: str
    email: str = ""
    """The record's own email, lower case; differs from the message's after a conversion."""
    converted_from: tuple[str, ...] = ()
    created: bool = False
    """create has made the record for this very message: it can't be a member of anything yet."""


class Written(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one stage did in Salesforce for one subject; carried along for the trace."""

    stage: str
    at: int
    """Unix ms."""
    salesforce: dict[str, str] = {}
    """Object name to Id."""
    written: dict[str, Value] = {}
    left_out: dict[str, str] = {}
    """Field to the reason why it was not written."""
    causes: tuple[Cause, ...] = ()


class Registration(msgspec.Struct, kw_only=True, omit_defaults=True, tag="registration", tag_field="kind"):
    """A person at a session did something. Key: the canonical email."""

    id: str
    action: Action
    workspace: str
    org: str
    session: str
    event: str
    email: str
    person: str
    """Livestorm's id of the person."""
    happened_at: int
    """Unix ms: registration: its updated_at; attended, not attended: the session's end; replay: watched_at; else signed_at."""
    received_at: int
    """Unix ms."""
    attributes: dict[str, Value] = {}
    """By Livestorm's attribute id (first_name, company, team_size, utm_source, attendance_minutes …). Only what was told: no blanks made up."""
    found: Found | None = None
    member: Member | None = None
    trail: tuple[Written, ...] = ()


class Session(msgspec.Struct, kw_only=True, omit_defaults=True, tag="session", tag_field="kind"):
    """A session changed (or is wanted); makes and follows its Campaign. Key: `session:<id>`."""

    id: str
    """Idempotency key of the message."""
    session: str
    event: str
    workspace: str
    org: str
    happened_at: int
    received_at: int
    dead_version: int = 0
    """Not 0: whoever sent this found that the Campaign of this version of the row is gone."""
    title: str = ""
    """The event's title, as the row of `events` had it when this was made …"""
    title_at: int = 0
    """… and that row's `updated_at`, Unix s."""
    updated_at: int = 0
    """Unix s: the row of `sessions` that this speaks of, or a later one; a reader whose table has an older row waits for it."""
    trail: tuple[Written, ...] = ()


class Company(msgspec.Struct, kw_only=True, omit_defaults=True, tag="company", tag_field="kind"):
    """An Account is asked for. Key: `company:<org>:<folded name>`."""

    id: str
    workspace: str
    org: str
    name: str
    """As the first asker spelled it, trimmed."""
    folded: str
    happened_at: int
    received_at: int
    dead_version: int = 0
    trail: tuple[Written, ...] = ()


Subject = Registration | Session | Company
"""What the topics normalized, matched and resolved hold."""


class Synced(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What became of one message: topic `synced`, keyed like the message. Every final outcome is one."""

    id: str
    at: int
    """Unix ms."""
    happened_at: int
    stage: str
    workspace: str
    org: str
    session: str
    event: str
    kind: str
    """registration, session, event, company or unknown."""
    email: str = ""
    outcome: Literal["emitted", "dropped", "rejected"]
    reason: str = ""
    trail: tuple[Written, ...] = ()
    causes: tuple[Cause, ...] = ()


class DeadLetter(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A message that was refused, whole: topic `dead-letters`, keyed like the message."""

    id: str
    """`<topic>-<partition>-<offset>`; for what never was in a topic `ingress-<hash>`."""
    at: int
    """Unix ms."""
    stage: str
    workspace: str = ""
    org: str = ""
    email: str = ""
    session: str = ""
    event: str = ""
    causes: tuple[Cause, ...] = ()
    topic: str = ""
    partition: int = -1
    offset: int = -1
    tries: int = 1
    key: str = ""
    headers: dict[str, str] = {}
    message: bytes = b""
    """The untouched bytes (base64 in JSON)."""


_KNOWN = frozenset(name for shape in (Received, Registration, Session, Company) for name in shape.__struct_fields__)


def carry_unknown(before: bytes, after: bytes) -> bytes:
    """The subject `after` with what a later version put into `before` and this one does not know (at the top level)."""
    values = msgspec.json.decode(before)
    if not isinstance(values, dict):
        return after
    unknown = {name: value for name, value in values.items() if name not in _KNOWN and name != "kind"}
    return msgspec.json.encode(msgspec.json.decode(after) | unknown) if unknown else after


def canonical_email(address: str) -> str:
    """The record key: trimmed, NFC, lower case; plus tags and dots stay."""
    return unicodedata.normalize("NFC", address.strip()).lower()


def folded_company(name: str) -> str:
    """The key of a company: trimmed, single blanks, lower case; nothing else."""
    return " ".join(name.split()).lower()
