"""A record as a step sees it: its place, its headers read, its lanes known; the body still bytes."""

from typing import Final

from pipeline.lanes import LaneKey, key_lane, lane_key, narrowest_key
from pipeline.records import Headers, Record
from schemas.messages import Cause

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

_LARGEST: Final = 2**53


class Message:
    """One message of a batch. Read-only for steps."""

    __slots__ = (
        "event", "happened_at", "held_since_ms", "hold_creates_until_ms", "id", "key", "kind", "org", "received_at", "record", "refusal", "replay",
        "schema", "session", "shared_lanes", "tries", "urgent", "waited_since_ms", "workspace",
    )  # fmt: skip

    def __init__(self, record: Record) -> None:
        self.record = record
        self.refusal: Cause | None = None
        """Set: no step sees this message; it is refused with this cause."""
        self.tries = 0
        """How often a step was run with this message before, in this worker."""
        self.waited_since_ms = 0
        """Unix ms since when it waits for a row; 0: it does not."""
        self.held_since_ms = 0
        """Unix ms since when this worker has held the partition."""
        self.hold_creates_until_ms = 0
        """Not 0: an owner before may still have a create of this message under way; until then (Unix ms) nothing without a unique key is created."""
        self.shared_lanes: tuple[str, ...] = ()
        """Names of the lanes that it shares with others, wide to narrow."""
        self.urgent = False
        """Never passed over for BUSY: others wait for it."""
        try:
            self._read(record.key or b"", dict(record.headers))
        except (ValueError, AttributeError, TypeError) as error:
            # The last two: a header of ours that is null.
            self.refusal = Cause(
                code="unreadable_record",
                message=f"The record's key or headers can't be read: {error}",
                hint="Something else than Turnout wrote it: see its bytes.",
            )
            self._read(b"", {})

    def _read(self, key: bytes, headers: dict[str, bytes]) -> None:
        get = headers.get
        self.key = key.decode()
        self.id = get(ID, b"").decode()
        self.kind = get(KIND, b"").decode()
        self.workspace = get(WORKSPACE, b"").decode()
        self.org = get(ORG, b"").decode()
        self.session = get(SESSION, b"").decode()
        self.event = get(EVENT, b"").decode()
        self.happened_at = int(get(HAPPENED_AT, b"0"))
        self.received_at = int(get(RECEIVED_AT, b"0"))
        self.schema = int(get(SCHEMA, b"0"))
        if not (-_LARGEST < self.happened_at < _LARGEST and -_LARGEST < self.received_at < _LARGEST):
            raise ValueError("a time that is none")
        replay = get(REPLAY)
        self.replay = None if replay is None else replay.decode()

    @property
    def lanes(self) -> tuple[str, ...]:
        """Names of its lanes, wide to narrow; the whole is its order key."""
        return (*self.shared_lanes, key_lane(self.shared_lanes[-1], self.key))

    @property
    def lane_key(self) -> LaneKey:
        """Key of its narrowest lane."""
        return narrowest_key(self.shared_lanes, self.key)

    def key_of(self, lane: str) -> LaneKey:
        """Key of one of its lanes, by full name. Raises ValueError for a lane that is not its own."""
        if lane in self.shared_lanes:
            return lane_key(self.shared_lanes[: self.shared_lanes.index(lane) + 1])
        if lane == self.lanes[-1]:
            return self.lane_key
        raise ValueError(f"{lane} is no lane of a message of {self.shared_lanes[-1]}")

    @property
    def value(self) -> bytes:
        return self.record.value or b""

    @property
    def headers(self) -> Headers:
        return self.record.headers


def headers(
    *,
    id: str,
    kind: str,
    workspace: str,
    org: str,
    session: str,
    event: str,
    happened_at: int,
    received_at: int,
    schema: int,
    replay: str | None = None,
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
