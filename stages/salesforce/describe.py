"""What an org's objects look like to Turnout's user: reads `describe`, and keeps it for a while. Sends nothing itself."""

import dataclasses
import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio

from stages.salesforce.door import Describe, Field

KEPT_SECONDS: Final = 3600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Fetched:
    """An answer to a describe call; `body` None: not modified since (304)."""

    body: Mapping[str, Any] | None
    last_modified: str = ""


Fetch = Callable[[str, str], Awaitable[Fetched]]
"""Asks the org for an object: its name, and the Last-Modified of what is known ("": nothing is)."""


def parse(body: Mapping[str, Any]) -> Describe:
    """Salesforce's describe result as we use it. A key that is missing (an old API version) reads as the cautious value."""
    fields = (_field(row) for row in body.get("fields") or ())
    return Describe(
        name=str(body["name"]),
        createable=bool(body.get("createable")),
        updateable=bool(body.get("updateable")),
        fields={field.name.lower(): field for field in fields},
    )


@functools.lru_cache(maxsize=20_000)
def _shared(field: Field) -> Field:
    """The same field for all orgs that have it alike, as with most standard fields: describes are what an org's door holds most memory for."""
    return field


def _field(row: Mapping[str, Any]) -> Field:
    field = Field(
        name=str(row["name"]),
        type=str(row.get("type", "string")),
        length=int(row.get("length") or 0),
        createable=bool(row.get("createable")),
        updateable=bool(row.get("updateable")),
        nillable=bool(row.get("nillable")),
        filterable=bool(row.get("filterable")),
        defaulted_on_create=bool(row.get("defaultedOnCreate")),
        unique=bool(row.get("unique")),
        external_id=bool(row.get("externalId")),
        case_sensitive=bool(row.get("caseSensitive")),
        restricted_picklist=bool(row.get("restrictedPicklist")),
        picklist_values=tuple(str(value["value"]) for value in row.get("picklistValues") or () if value.get("active", True)),
    )
    return _shared(field)


@dataclasses.dataclass(slots=True)
class _Kept:
    describe: Describe
    last_modified: str
    at: float


class Describes:
    """One org's describe results. Those who ask for the same object together share one call."""

    def __init__(self, fetch: Fetch, *, kept_seconds: float = KEPT_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._kept_seconds, self._clock = fetch, kept_seconds, clock
        self._kept: dict[str, _Kept] = {}
        self._lock = anyio.Lock()

    async def get(self, object_name: str, *, fresh: bool = False) -> Describe:
        """`fresh` asks the org again, unless someone did so while this call waited."""
        asked_at = self._clock()
        kept = self._kept.get(object_name)
        if kept is not None and not fresh and asked_at - kept.at < self._kept_seconds:
            return kept.describe
        async with self._lock:
            kept = self._kept.get(object_name)
            if kept is not None and kept.at >= (asked_at if fresh else asked_at - self._kept_seconds):
                return kept.describe
            return await self._ask(object_name, kept)

    async def _ask(self, object_name: str, kept: _Kept | None) -> Describe:
        began = self._clock()
        fetched = await self._fetch(object_name, kept.last_modified if kept is not None else "")
        if fetched.body is None and kept is not None:
            kept.at = began
            return kept.describe
        if fetched.body is None:
            raise ValueError("an answer of 'not modified' to a question without a date")
        self._kept[object_name] = _Kept(parse(fetched.body), fetched.last_modified, began)
        return self._kept[object_name].describe
