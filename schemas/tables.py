"""Rows of the compacted tables. A row says an id, or why there is none, so that nobody waits for what won't come."""

from typing import Literal

import msgspec

from schemas.messages import Cause


class EventRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Table `events`, key: Livestorm's event id."""

    id: str
    title: str
    updated_at: int = 0
    """Unix s, Livestorm's."""
    language: str = ""
    fields: tuple[str, ...] = ()
    """Ids of the form's fields."""


class SessionRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Table `sessions`, key: Livestorm's session id. All times Unix s, 0: not set."""

    id: str
    workspace: str
    event: str
    status: str
    """upcoming, live, on_demand, past, past_not_started, canceled, draft."""
    timezone: str = "UTC"
    name: str = ""
    estimated_started_at: int = 0
    started_at: int = 0
    ended_at: int = 0
    canceled_at: int = 0
    updated_at: int = 0
    breakout: bool = False
    """A breakout room: no session of its own."""
    past: bool = False
    """It ended before its workspace was connected: it makes no Campaign."""
    orgs: tuple[str, ...] = ()
    """Orgs that have been told of it, or are about to be: a registration of another org (its workspace has moved, or was closed until now) has it told there too."""


class CampaignRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Table `campaigns`, key: `<org>|<session id>`. `campaign` or `why` is set; both where the org refuses what the Campaign should get now."""

    campaign: str = ""
    """The Campaign's Id, 18 characters."""
    why: Cause | None = None
    """Why there is none, or it is not kept up to date: past, breakout_room, or refused in the org's words."""
    version: int = 1
    statuses: tuple[str, ...] = ()
    """Labels that the Campaign has, as read back."""
    workspace: str = ""
    at: int = 0
    """Unix ms of this row."""
    title: str = ""
    """Digest of the name and date that Turnout gave it, so that a name given by hand is known and left alone."""
    status: str = ""
    """The Status that Turnout last saw or set on it."""


class AccountRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Table `accounts`, key: `<org>|<folded company>`. Exactly one of `account` and `why` is set."""

    account: str = ""
    why: Cause | None = None
    version: int = 1
    at: int = 0
    """Unix ms of this row."""
    confirmed_at: int = 0
    """Unix ms: when the Account was taken for gone, and was there; 0: never."""


class LaneRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Table `lanes`, key: `<stage>|<partition>|<lane>`: what the commit's metadata has no room for."""

    lane: str
    """`org:ID`, `org:ID/workspace:ID`, …, `…/email:<hash>`; `org:*` for more than one org's, `partition` for a whole one; `group` in the row that says that the group has committed."""
    state: str
    since: int
    """Unix ms."""
    oldest_at: int
    """Unix ms: the record's time at the cursor."""
    waiting: int = 0
    at_least: bool = False
    cause: str = ""
    next_try_at: int = 0
    mend: str = ""
    held: bool = False
    """Its messages are held in memory: they stand at or above the committed offset, and count there."""
    lost: bool = False
    """Nothing waits here: it tells of messages that the log lost before they were finished."""


class GroupRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Table `lanes`, key: `<stage>|<partition>|group`: that the group has committed here, and what it last did."""

    at: int
    """Unix ms."""
    offset: int
    metadata: str
    repeats: int = 0
    """How many messages at most a restart takes again since the metadata had no room for every cursor."""
    marked_until: int = 0
    """Not 0: what lies below was read again since the group's offsets were gone, and carries the mark of a replay until all of it is finished."""


class RecoveryRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Table `lanes`, key: `<stage>|<partition>|recovery`: how a partition whose offset something else moved shall go on."""

    way: Literal["assume-none", "restore"]
    at: int
    """Unix ms."""


class ReplayRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Table `controls`, key: the replay's id: run these ranges of a stage's topic again, beside the live reading."""

    id: str
    stage: str
    ranges: dict[str, tuple[int, int]]
    """Partition to first offset and end (exclusive)."""
    at: int
    """Unix ms."""
    org: str = ""
    """This and the next three: only messages that have it; empty: any."""
    workspace: str = ""
    session: str = ""
    key: str = ""
