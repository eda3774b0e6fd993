"""One org's state: records, users, sessions, rules, faults, calls, locks. Speaks no HTTP and checks no record."""

import asyncio
import collections
import contextlib
import dataclasses
import datetime
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from stages.sandbox.salesforce import ids, rules
from stages.sandbox.salesforce.calls import CallLog
from stages.sandbox.salesforce.faults import Faults, Target
from stages.sandbox.salesforce.objects import Object
from stages.sandbox.salesforce.query import Result
from stages.sandbox.salesforce.rules import Rule
from stages.sandbox.salesforce.table import Record, Table

INTEGRATION_USER = "sandbox@example.com"
OTHER_USER = "other@example.com"
SALES_USER = "sales@example.com"
SEED_USER = "seed"
SECRET = "sandbox"
"""Client secret, password and first refresh token of the stand-in."""

DAILY_CALLS = 1_000_000
"""A fresh org's allowance: far above a real Developer org's 15,000, so that long tests end before it does. A rule sets another."""
LOCK_TIMEOUT_MS = 10_000
"""How long a write waits for a row that another one holds, as in Salesforce. A rule sets another."""
MOST_CURSORS = 200
"""Queries whose further pages can still be asked for; the oldest go first."""

_USERS = ((INTEGRATION_USER, "Integration User"), (OTHER_USER, "Other Software"), (SALES_USER, "Sales Person"))


@dataclasses.dataclass(slots=True)
class Cursor:
    """The rest of a query whose first page was given."""

    result: Result
    page_size: int
    version: str
    target: Target
    """What faults can be about, as of its first page."""


class Org:
    """`number` tells orgs of one process apart: their ids never meet. `base_url` is known once its port is open."""

    def __init__(self, number: int, seed: Mapping[str, Any], latency_ms: float, clock: Callable[[], float] = time.time) -> None:
        self.number = number
        self.seed = seed
        self.latency_ms = latency_ms
        self.base_url = ""
        self.stopping = asyncio.Event()
        self._clock = clock
        self.epoch = 0
        """Counts resets: work that began before one must not end after it."""
        self._schema_changed = 0
        self.empty()

    def empty(self) -> None:
        """No records but the org's own, no sessions, rules, faults, calls."""
        self.rules: dict[str, Rule] = {}
        self.faults = Faults()
        self.calls = CallLog()
        self.used_today = 0
        self.sessions: dict[str, str] = {}
        self.refresh_tokens: dict[str, str] = {SECRET: INTEGRATION_USER}
        self.refreshing: set[str] = set()
        self.cursors: collections.OrderedDict[str, Cursor] = collections.OrderedDict()
        self.locks = Locks()
        self._numbers = itertools.count(1)
        self._names = itertools.count(1)
        self.epoch += 1
        self._tables: dict[str, Table] = {}
        self._users: dict[str, str] = {}
        self.rules_changed()
        self._make_own_records()

    def rules_changed(self) -> None:
        self.schema = rules.schema(self.rules.values())
        """As the API's users see it."""
        self.plain_schema = rules.schema(rule for rule in self.rules.values() if rule.kind not in rules.RIGHTS)
        """As it is, whatever rights say."""
        self._last_rules = {rule.kind: rule for rule in self.rules.values()}
        for name, table in self._tables.items():
            table.object = self.schema[name]
            table.forget_indexes()
        # A Last-Modified has whole seconds: each change gets a later one, or a describe of the same second would count as current.
        self._schema_changed = max(self._schema_changed + 1, int(self._clock()))
        if "user" in self._tables:
            self._show_marketing_user()

    @property
    def schema_changed(self) -> int:
        """Unix seconds of the last change to objects and fields."""
        return self._schema_changed

    def now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)

    def table(self, object_: Object) -> Table:
        key = object_.name.lower()
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = Table(object_)
        return table

    def find(self, object_name: str, record_id: str) -> Record | None:
        """A live or deleted record."""
        return self.table(self.schema[object_name.lower()]).get(record_id)

    def new_id(self, object_: Object) -> str:
        return ids.make(object_.key_prefix, f"S{ids.base62(self.number % 3844, 2)}", next(self._numbers))

    def name(self, prefix: str) -> str:
        """A short name for a rule or a fault."""
        return f"{prefix}{next(self._names)}"

    def url_of(self, object_: Object, record_id: str, version: str = "62.0") -> str:
        return f"/services/data/v{version}/sobjects/{object_.name}/{record_id}"

    # users

    @property
    def id(self) -> str:
        return self._organization

    def user_id(self, user: str) -> str:
        """Id of a user named by username or id; the seed's is the sales person's. A name that nobody has becomes a user."""
        return self.known_user_id(user) or self.add_user(user, user)

    def known_user_id(self, user: str) -> str | None:
        """The same, None for a name that nobody has."""
        if user in self._users:
            return self._users[user]
        canonical = ids.canonical(user)
        return canonical if canonical is not None and canonical in self.table(self.schema["user"]).live else None

    def has_user(self, username: Any) -> bool:
        return username in self._users

    def add_user(self, username: str, name: str, record_id: str | None = None) -> str:
        user_object = self.schema["user"]
        record = Record(record_id or self.new_id(user_object), {"Username": username, "Name": name, "LastName": name, "Email": username})
        record.values |= {"IsActive": True, "UserPermissionsMarketingUser": True}
        self.table(user_object).insert(record)
        self._users[username] = record.id
        return record.id

    def username(self, user_id: str) -> str:
        record = self.find("User", user_id)
        return user_id if record is None else str(record.values.get("Username", user_id))

    def _make_own_records(self) -> None:
        organization = self.schema["organization"]
        self._organization = self.new_id(organization)
        values = {"Name": f"Sandbox {self.number}", "OrganizationType": "Developer Edition", "IsSandbox": False}
        self.table(organization).insert(Record(self._organization, values))
        for username, name in _USERS:
            self.add_user(username, name)
        self._users[SEED_USER] = self._users[SALES_USER]

    def _show_marketing_user(self) -> None:
        user = self.find("User", self._users[INTEGRATION_USER])
        if user is not None:
            self.table(self.schema["user"]).change(user, {"UserPermissionsMarketingUser": not self.has("no-marketing-user")})

    # rules

    def last_rule(self, kind: str) -> Rule | None:
        """Of several of a kind the latest holds."""
        return self._last_rules.get(kind)

    def has(self, kind: str) -> bool:
        return self.last_rule(kind) is not None

    @property
    def daily_limit(self) -> int:
        rule = self.last_rule("daily-limit")
        return DAILY_CALLS if rule is None else int(rule.spec["limit"])

    @property
    def lock_timeout_seconds(self) -> float:
        rule = self.last_rule("lock-timeout")
        return (LOCK_TIMEOUT_MS if rule is None else float(rule.spec["ms"])) / 1000

    # sessions

    def open_session(self, username: str) -> str:
        token = f"{self._organization[:15]}!{secrets.token_urlsafe(48).replace('-', '.')}"
        self.sessions[token] = username
        return token

    def new_refresh_token(self, old: str) -> str:
        token = f"5Aep{secrets.token_urlsafe(40)}"
        self.refresh_tokens[token] = self.refresh_tokens.pop(old)
        return token

    # query cursors

    def keep_cursor(self, cursor: Cursor) -> str:
        locator = f"01gS{ids.base62(next(self._numbers), 11)}AAA"
        self.cursors[locator] = cursor
        while len(self.cursors) > MOST_CURSORS:
            self.cursors.popitem(last=False)
        return locator


class Locks:
    """Row locks: who comes first holds, the others wait in turn."""

    def __init__(self) -> None:
        self._held: dict[str, asyncio.Lock] = {}
        self._wanted: collections.Counter[str] = collections.Counter()

    @contextlib.asynccontextmanager
    async def hold(self, rows: Iterable[str], timeout_seconds: float) -> AsyncIterator[frozenset[str]]:
        """Holds these rows, and yields those that could not be had in time. Always in one order, so that two writes never wait crosswise."""
        held: list[str] = []
        missed: set[str] = set()
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        wanted = sorted(set(rows))
        self._wanted.update(wanted)
        try:
            for row in wanted:
                lock = self._held.setdefault(row, asyncio.Lock())
                try:
                    async with asyncio.timeout_at(deadline):
                        await lock.acquire()
                    held.append(row)
                except TimeoutError:
                    missed.add(row)
            yield frozenset(missed)
        finally:
            for row in held:
                self._held[row].release()
            for row in wanted:
                self._wanted[row] -= 1
                if not self._wanted[row]:
                    del self._wanted[row]
                    self._held.pop(row, None)
