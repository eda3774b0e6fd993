"""The seam to one Salesforce org, as the steps see it. `stages.salesforce.client` implements it over simple-salesforce."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from schemas.messages import Cause

Guard = Callable[[], None]
"""Called in the worker thread just before the bytes of a call go out; raises pipeline.errors.LeaseLost where the right to call has ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subrequest:
    """One part of a composite call. `path` begins after `/services/data/vXX.X/`, already percent-encoded."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one subrequest: HTTP status and parsed body (None for 204)."""

    status: int
    body: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field as `describe` shows it to Turnout's user; a field hidden from the user is absent."""

    name: str
    type: str
    length: int
    createable: bool
    updateable: bool
    nillable: bool
    filterable: bool
    defaulted_on_create: bool
    unique: bool
    external_id: bool
    case_sensitive: bool
    restricted_picklist: bool
    picklist_values: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Describe:
    """One object as `describe` shows it. Field names are looked up without regard to case."""

    name: str
    createable: bool
    updateable: bool
    fields: Mapping[str, Field]
    """By lower-case name."""

    def field(self, name: str) -> Field | None:
        return self.fields.get(name.lower())


class OrgDoor(Protocol):
    """One org, for one batch. Every method may raise the errors of `stages.salesforce.errors`; calls are bounded in time and number.

    No call about records begins once the batch's lease has ended: then pipeline.errors.LeaseLost is raised.
    """

    org: str
    api_version: str

    async def composite(self, subrequests: Sequence[Subrequest]) -> Sequence[Reply]:
        """One call. At most 5 queries and collections together; replies in the order of the subrequests.

        allOrNone and collateSubrequests are false. Each subrequest carries its own headers (duplicate rules, assignment).
        """

    async def collections(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Reply:
        """One plain call outside a composite: for records whose text holds `@{`, which a composite would take for a reference."""

    async def query(self, soql: str, *, deleted: bool = False) -> Sequence[dict[str, Any]]:
        """All pages of one query."""

    async def follow(self, next_records_url: str) -> Sequence[dict[str, Any]]:
        """The remaining pages of a query that a composite began (`done` false)."""

    async def describe(self, object_name: str, *, fresh: bool = False) -> Describe:
        """Cached; `fresh` asks the org."""

    async def user_id(self) -> str:
        """Id, 18 characters, of the user that Turnout writes as."""


class Orgs(Protocol):
    """All orgs that are known. Doors are made on demand and closed when long unused."""

    def door_for(self, org: str, guard: Guard) -> OrgDoor:
        """The org's door for a batch that may call for as long as `guard` does not raise. Raises UnknownOrg."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """What an error of Salesforce means for us; the value of the error classification."""

    kind: str
    """record (this record is wrong) · org (its setup is wrong: the lane waits) · transient · look (look again, the world changed)."""
    cause: Cause
    retry_after_seconds: float | None = None
    """Shortest time until the next try; None leaves it to the back-off."""
    leave_out: tuple[str, ...] = ()
    """Fields without which the rest of the record can be written (as the org named them); never Email."""
    org_rule: bool = False
    """Of kind record, but a rule of the org's own refused it: where that hits nearly all of a run, it is the org's lane that waits."""
    known: bool = True
    """False: a code that the table does not have; taken for the record's fault and counted."""
