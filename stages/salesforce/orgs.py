"""All orgs of the settings table: makes their doors on demand, anew when the settings change, and closes those long unused."""

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from pipeline.outcomes import Table
from schemas.messages import Cause
from schemas.settings import ORG_SECRETS, Org
from stages.errors import TurnoutError
from stages.salesforce import wire
from stages.salesforce.allowance import Allowance
from stages.salesforce.causes import ORG
from stages.salesforce.client import Door, Health, Hooks, Leased
from stages.salesforce.door import Guard, OrgDoor, Trouble
from stages.salesforce.errors import OrgUnavailable, UnknownOrg
from stages.salesforce.slots import Bounds, Slots
from stages.salesforce.tokens import LoginTimes, TokenDoor

DOORS: Final = 256
"""Most doors that are kept open, each with its connections and describe results. Tokens and health are kept for every org."""

OpenSecret = Callable[[str], str]
"""The plain text of an encrypted secret of a row. Raises stages.errors.TurnoutError where no key fits."""


@dataclasses.dataclass(frozen=True, slots=True)
class Keep:
    """Writes to the table `orgs`, each returning once durable. Neither counts up the row's `revision`, which would end the session."""

    refresh_token: Callable[[str, str], Awaitable[None]]
    """org, the new refresh token in plain text."""
    organization: Callable[[str, str], Awaitable[None]]
    """org, the organization id that the first login led to."""


class TableRow:
    """One row of the table, secrets open."""

    def __init__(self, org: str, table: Table, open_secret: OpenSecret, keep: Keep) -> None:
        self._org, self._table, self._open, self._keep = org, table, open_secret, keep

    def raw(self) -> Org:
        """With its secrets still encrypted."""
        value = self._table.get(self._org)
        if value is None:
            raise UnknownOrg(self._org)
        try:
            return msgspec.json.decode(value, type=Org)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _unreadable(f"The org's row can't be read: {error}", "Apply the settings again") from error

    def read(self) -> Org:
        """Raises UnknownOrg, and OrgUnavailable where the row or a secret in it can't be read."""
        org = self.raw()
        try:
            return msgspec.structs.replace(org, **{name: self._open(getattr(org, name)) for name in ORG_SECRETS if getattr(org, name)})
        except TurnoutError as error:
            raise _unreadable(str(error), "Use the keys file that the settings were applied with, or apply them again") from error

    async def store_refresh_token(self, refresh_token: str) -> None:
        await self._keep.refresh_token(self._org, refresh_token)

    async def store_organization(self, organization_id: str) -> None:
        await self._keep.organization(self._org, organization_id)


@dataclasses.dataclass(slots=True)
class _Known:
    """What is kept of an org as long as it is in the table: small, and dear to get again."""

    value: bytes
    """The row that was looked at last: the same bytes mean the same door, without decoding."""
    settings: Org
    tokens: TokenDoor
    health: Health


class OrgRegistry:
    """Implements `stages.salesforce.door.Orgs`."""

    def __init__(
        self,
        table: Table,
        open_secret: OpenSecret,
        keep: Keep,
        *,
        hooks: Hooks | None = None,
        bounds: Bounds | None = None,
        call_times: wire.CallTimes | None = None,
        login_times: LoginTimes | None = None,
        doors: int = DOORS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table, self._open, self._keep = table, open_secret, keep
        self._hooks = hooks or Hooks()
        self._slots = Slots(bounds)
        self._call_times, self._login_times, self._most_doors, self._clock = call_times, login_times, doors, clock
        self._known: dict[str, _Known] = {}
        self._doors: OrderedDict[str, Door] = OrderedDict()

    def door(self, org: str) -> Door:
        """The org's door by its present settings. Raises UnknownOrg, and OrgUnavailable where the row can't be read."""
        known = self._look(org)
        door = self._doors.get(org)
        if door is None:
            door = self._doors[org] = self._make(org, known)
        self._doors.move_to_end(org)
        while len(self._doors) > self._most_doors:
            self._close(next(iter(self._doors)))
        return door

    def door_for(self, org: str, guard: Guard) -> OrgDoor:
        """As `door`, for one batch: each call about records asks `guard` just before its bytes."""
        return Leased(self.door(org), guard)

    def calls_left(self, org: str) -> int | None:
        """Daily API calls left as the org's last reply told; None while nothing is known."""
        known = self._known.get(org)
        return known.health.allowance.left if known is not None else None

    def forgive(self, org: str) -> None:
        """The org's next login and call may be tried at once: someone says that it was mended."""
        known = self._known.get(org)
        if known is not None:
            known.health.allowance.reset()
            known.tokens.forgive()

    def close(self) -> None:
        """Closes every door's idle connections."""
        for org in list(self._doors):
            self._close(org)

    def _look(self, org: str) -> _Known:
        """What is known of the org, by its row as it is now."""
        value = self._table.get(org)
        if value is None:
            self._close(org)
            self._known.pop(org, None)
            raise UnknownOrg(org)
        known = self._known.get(org)
        if known is not None and known.value == value:
            return known
        row = TableRow(org, self._table, self._open, self._keep)
        settings = _lasting(row.raw())
        if known is not None and known.settings == settings:
            known.value = value
            return known
        self._close(org)
        health = known.health if known is not None else Health(self._slots.gate(), Allowance(self._clock))
        health.allowance.reset()
        self._known[org] = _Known(value, settings, self._tokens(org, row, health), health)
        return self._known[org]

    def _tokens(self, org: str, row: TableRow, health: Health) -> TokenDoor:
        async def run(work: Callable[[], Any]) -> Any:
            return await self._slots.run(health.gate, work)

        def observe(outcome: str, seconds: float) -> None:
            self._hooks.observe(org, "token", outcome, seconds)

        return TokenDoor(row, run, times=self._login_times, clock=self._clock, observe=observe)

    def _make(self, org: str, known: _Known) -> Door:
        settings = known.settings
        return Door(
            org, settings.api_version, settings.daily_call_reserve, known.tokens, self._slots, known.health,
            hooks=self._hooks, times=self._call_times, clock=self._clock,
        )  # fmt: skip

    def _close(self, org: str) -> None:
        door = self._doors.pop(org, None)
        if door is not None:
            door.close()


def _lasting(org: Org) -> Org:
    """What a door is built from: without what logins themselves store in the row."""
    return msgspec.structs.replace(org, refresh_token="", refresh_token_applied="", organization_id="")


def _unreadable(message: str, hint: str) -> OrgUnavailable:
    return OrgUnavailable(Trouble(kind=ORG, cause=Cause(code="settings_unreadable", message=message, hint=hint)))
