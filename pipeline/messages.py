"""A record as a step sees it: its place, its headers read, its lanes known; the body still bytes."""

from collections.abc import Callable
from typing import Final

from pipeline.records import Headers, Record

ID: Final = "id"
KIND: Final = "kind"
WORKSPACE: Final = "workspace"
ORG: Final = "org"
SESSION: Final = "session"
EVENT: Final = "event"
HAPPENED_AT: Final = "happened-at"
RECEIVED_AT: Final = "received-at"
SCHEMA: Final = "schema"
REPLAY: Final = "replay"


class Message:
    """One message of a batch. Read-only for steps."""

    __slots__ = ("event", "happened_at", "held_since_ms", "hold_creates_until_ms", "id", "key", "kind", "lanes", "org", "received_at", "record", "replay", "schema", "session", "tries", "urgent", "waited_since_ms", "workspace")

    def __init__(self, record: Record) -> None:
        headers = dict(record.headers)
        empty = b""
        self.record = record
        self.key = (record.key or empty).decode()
        self.id = headers.get(ID, empty).decode()
        self.kind = headers.get(KIND, empty).decode()
        self.workspace = headers.get(WORKSPACE, empty).decode()
        self.org = headers.get(ORG, empty).decode()
        self.session = headers.get(SESSION, empty).decode()
        self.event = headers.get(EVENT, empty).decode()
        self.happened_at = int(headers.get(HAPPENED_AT, b"0"))
        self.received_at = int(headers.get(RECEIVED_AT, b"0"))
        self.schema = int(headers.get(SCHEMA, b"0"))
        replay = headers.get(REPLAY)
        self.replay = replay.decode() if replay is not None else None
        self.tries = 0
        """How often a step was run with this message before, in this worker."""
        self.waited_since_ms = 0
        """Unix ms since when it waits for a row; 0: it does not."""
        self.held_since_ms = 0
        """Unix ms since when this worker has held the partition."""
        self.hold_creates_until_ms = 0
        """Not 0: an owner before may still have a create of this message under way; until then (Unix ms) nothing without a unique key is created."""
        self.lanes: tuple[str, ...] = ()
        """Names of its lanes, wide to narrow; the whole is its order key."""
        self.urgent = False
        """Never passed over for BUSY: others wait for it."""

    @property
    def value(self) -> bytes:
        return self.record.value or b""

    @property
    def headers(self) -> Headers:
        return self.record.headers


def headers(
    *, id: str, kind: str, workspace: str, org: str, session: str, event: str, happened_at: int, received_at: int, schema: int, replay: str | None = None
) -> Headers:
    """Headers of a stage topic; times are Unix ms."""
    rows = [
        (ID, id.encode()), (KIND, kind.encode()), (WORKSPACE, workspace.encode()), (ORG, org.encode()),
        (SESSION, session.encode()), (EVENT, event.encode()), (HAPPENED_AT, b"%d" % happened_at),
        (RECEIVED_AT, b"%d" % received_at), (SCHEMA, b"%d" % schema),
    ]  # fmt: skip
    if replay is not None:
        rows.append((REPLAY, replay.encode()))
    return tuple(rows)


LaneNames = Callable[[Message], tuple[str, ...]]
