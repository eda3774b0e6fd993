"""The tables as the steps read them: typed rows, decoded once, and the keys under which they stand. Never writes a row."""

import dataclasses
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

import msgspec
import structlog

from pipeline.outcomes import Row, Table
from schemas.settings import Org, Workspace
from schemas.tables import AccountRow, CampaignRow, EventRow, SessionRow

ORGS: Final = "orgs"
WORKSPACES: Final = "workspaces"
EVENTS: Final = "events"
SESSIONS: Final = "sessions"
CAMPAIGNS: Final = "campaigns"
ACCOUNTS: Final = "accounts"

DECODED: Final = 4_096
"""Most rows of one table that are kept decoded."""

log = structlog.get_logger()
T = TypeVar("T", bound=msgspec.Struct)


def campaign_key(org: str, session: str) -> str:
    """Key of a row of `campaigns`."""
    return f"{org}|{session}"


def account_key(org: str, folded: str) -> str:
    """Key of a row of `accounts`; `folded` by `schemas.messages.folded_company`."""
    return f"{org}|{folded}"


class Rows(Generic[T]):
    """One table, its rows decoded as `shape`. A row that can't be read counts as missing, and is logged: who writes it writes it anew."""

    def __init__(self, name: str, table: Table, shape: type[T]) -> None:
        self.name = name
        self._table, self._decoder = table, msgspec.json.Decoder(shape)
        self._decoded: dict[str, tuple[bytes, T | None]] = {}

    def raw(self, key: str) -> bytes | None:
        return self._table.get(key)

    def get(self, key: str) -> T | None:
        raw = self._table.get(key)
        if raw is None:
            return None
        known = self._decoded.get(key)
        if known is not None and known[0] == raw:
            return known[1]
        row = self._read(key, raw)
        if len(self._decoded) >= DECODED:
            del self._decoded[next(iter(self._decoded))]
        self._decoded[key] = (raw, row)
        return row

    def _read(self, key: str, raw: bytes) -> T | None:
        try:
            return self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("table_row_unreadable", table=self.name, key=key, why=str(error))
            return None

    def row(self, key: str, value: T) -> Row:
        """The row as an outcome carries it."""
        return Row(self.name, key, msgspec.json.encode(value))


@dataclasses.dataclass(frozen=True, slots=True)
class Tables:
    """What the steps look up. Secrets in `orgs` and `workspaces` stay encrypted: no step needs one."""

    orgs: Rows[Org]
    workspaces: Rows[Workspace]
    events: Rows[EventRow]
    sessions: Rows[SessionRow]
    campaigns: Rows[CampaignRow]
    accounts: Rows[AccountRow]


class _Absent:
    """A table that this process does not read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def get(self, key: str) -> bytes | None:
        raise LookupError(f"the table {self._name} is not read here")


def tables(read: Mapping[str, Table]) -> Tables:
    """The typed views, by the names of the tables. One that is not given may not be asked: LookupError."""

    def rows(name: str, shape: type[T]) -> Rows[T]:
        return Rows(name, read[name] if name in read else _Absent(name), shape)

    return Tables(
        orgs=rows(ORGS, Org),
        workspaces=rows(WORKSPACES, Workspace),
        events=rows(EVENTS, EventRow),
        sessions=rows(SESSIONS, SessionRow),
        campaigns=rows(CAMPAIGNS, CampaignRow),
        accounts=rows(ACCOUNTS, AccountRow),
    )
