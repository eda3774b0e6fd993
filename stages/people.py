"""Who has an address in an org: the Contact, else the Lead, else nobody; the oldest wins, converted Leads are followed. Writes nothing."""

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, cast

from schemas.messages import Cause, Value, canonical_email
from schemas.settings import Org, Workspace
from stages.reads import Record, is_field_missing, known_fields, read, read_deleted
from stages.recency import milliseconds
from stages.salesforce.door import Describe, OrgDoor, Trouble
from stages.salesforce.errors import CallRefused, OrgUnavailable
from stages.salesforce.ids import full_id
from stages.salesforce.soql import chunks, in_list, select

CONTACT: Final = "Contact"
LEAD: Final = "Lead"
ADDRESS_CHARACTERS: Final = 255
"""No record of any org has a longer address: it is not asked for."""
MERGES: Final = 5
"""Most merges after each other that are followed."""
ADDRESSES: Final = 500
"""Most addresses in one query; two objects with two such queries each fit one composite."""

_ALWAYS: Final = ("Id", "Email", "CreatedDate", "LastModifiedDate", "LastModifiedById")
_OF_CONTACTS: Final = ("AccountId", "IsPersonAccount")
_OF_LEADS: Final = ("IsConverted", "ConvertedContactId")
_OF_DELETED: Final = ("IsDeleted", "MasterRecordId")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Sighting:
    """The record that wins for one address. `converted_from`: ids of Leads that were converted to this Contact."""

    object: Literal["Contact", "Lead"]
    record: dict[str, Value]
    converted_from: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return str(self.record["Id"])


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """The fields to read beside those that matching needs."""

    contact: frozenset[str]
    lead: frozenset[str]


def wanted(org: Org, workspaces: Iterable[Workspace]) -> Wanted:
    """Every mapped field of these workspaces, and the org's own key and time."""
    own = frozenset(name for name in (org.person_key_field, org.event_time_field) if name)
    contact, lead = set(own), set(own)
    for workspace in workspaces:
        contact.update(workspace.mapping.contact)
        lead.update(workspace.mapping.lead)
    return Wanted(frozenset(contact), frozenset(lead))


async def look(door: OrgDoor, org: Org, addresses: Mapping[str, Sequence[str]], fields: Wanted) -> dict[str, Sighting]:
    """One composite (for up to 1,000 addresses, and one query more where a converted Lead's Contact must be followed).

    `addresses`: canonical email to ids that are believed to be this person's, so that they come with the same call.
    Raises the door's errors; OrgUnavailable where the org can't be searched by Email.
    """
    return await fresh_fields(door, lambda: _look(door, org, addresses, fields))


async def fresh_fields(door: OrgDoor, ask: Callable[[], Awaitable[T]], objects: Sequence[str] = (CONTACT, LEAD)) -> T:
    """Asks, and once more with fresh describes where a field has gone since."""
    try:
        return await ask()
    except CallRefused as error:
        if not is_field_missing(error):
            raise
    for name in objects:
        await door.describe(name, fresh=True)
    return await ask()


async def _look(door: OrgDoor, org: Org, addresses: Mapping[str, Sequence[str]], fields: Wanted) -> dict[str, Sighting]:
    contact, lead = await door.describe(CONTACT), await door.describe(LEAD)
    _searchable(contact, lead)
    contact_fields = known_fields(contact, (*_ALWAYS, *_OF_CONTACTS, *sorted(fields.contact)))
    lead_fields = known_fields(lead, (*_ALWAYS, *_OF_LEADS, *sorted(fields.lead)))
    keys = {name: _key_field(describe, org) for name, describe in ((CONTACT, contact), (LEAD, lead))}
    queries: list[tuple[str, str]] = []
    for chunk in chunks((a for a in addresses if len(a) <= ADDRESS_CHARACTERS), characters=25_000, count=ADDRESSES):
        for name, columns in ((CONTACT, contact_fields), (LEAD, lead_fields)):
            queries.append((name, select(columns, name, _where(name, chunk, addresses, keys[name]))))
    found: dict[str, list[Record]] = {CONTACT: [], LEAD: []}
    for (name, _), records in zip(queries, await read(door, [soql for _, soql in queries]), strict=True):
        found[name] += records
    contacts, leads = _by_id(found[CONTACT]), _by_id(found[LEAD])
    missing = {
        row["ConvertedContactId"] for row in leads.values() if row.get("ConvertedContactId") and row["ConvertedContactId"] not in contacts
    }
    followed = dict(contacts)
    followed.update(await follow(door, sorted(missing - _needless(addresses, contacts, leads)), contact_fields, contact))
    contacts_of, leads_of = _by_address(contacts.values(), keys[CONTACT]), _by_address(leads.values(), keys[LEAD])
    sightings = (
        (address, choose(address, _Seen(contacts_of.get(address, ()), leads_of.get(address, ()), followed, keys))) for address in addresses
    )
    return {address: sighting for address, sighting in sightings if sighting is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    contacts: Sequence[Record]
    leads: Sequence[Record]
    followed: Mapping[str, Record]
    """Contacts by id, deleted ones with their MasterRecordId too."""
    keys: Mapping[str, str | None]


def choose(address: str, seen: "_Seen") -> Sighting | None:
    """The record for an address among those that were read; equality is ours, the org's own comparison is only a first sieve."""
    contacts = [row for row in seen.contacts if has_address(row, address)]
    leads = sorted((row for row in seen.leads if has_address(row, address)), key=age)
    if not contacts and not leads:
        contacts = [row for row in seen.contacts if _has_key(row, address, seen.keys[CONTACT])]
        leads = sorted((row for row in seen.leads if _has_key(row, address, seen.keys[LEAD])), key=age)
    if contacts:
        return _as_contact(min(contacts, key=age), leads, seen)
    for row in leads:
        if not row.get("IsConverted"):
            return Sighting(LEAD, row)
        kept = survivor(row.get("ConvertedContactId"), seen.followed)
        if kept is not None:
            return _as_contact(kept, leads, seen)
    return None


def has_address(record: Mapping[str, Any], address: str) -> bool:
    return isinstance(record.get("Email"), str) and canonical_email(record["Email"]) == address


def age(record: Mapping[str, Any]) -> tuple[int, str]:
    """Oldest first: CreatedDate, then Id (records of one collection share their second)."""
    return milliseconds(record.get("CreatedDate")) or 0, str(record["Id"])


def _as_contact(contact: Record, leads: Sequence[Record], seen: _Seen) -> Sighting:
    origins = (row for row in leads if row.get("IsConverted") and _leads_to(row.get("ConvertedContactId"), contact, seen.followed))
    return Sighting(CONTACT, cast(dict[str, Value], contact), tuple(str(row["Id"]) for row in origins))


def _leads_to(contact_id: Any, contact: Record, followed: Mapping[str, Record]) -> bool:
    kept = survivor(contact_id, followed)
    return kept is not None and kept["Id"] == contact["Id"]


def survivor(record_id: Any, followed: Mapping[str, Record]) -> Record | None:
    """The record itself, or the one that it was merged into; None where it is gone."""
    for _ in range(MERGES):
        record = followed.get(record_id) if isinstance(record_id, str) else None
        if record is None or not record.get("IsDeleted"):
            return record
        record_id = record.get("MasterRecordId")
    return None


def _needless(addresses: Mapping[str, Sequence[str]], contacts: Mapping[str, Record], leads: Mapping[str, Record]) -> set[str]:
    """Contacts that nobody needs, since the Leads that led to them have a Contact of their own address."""
    with_contact = {address for row in contacts.values() if (address := canonical_email(row.get("Email") or "")) in addresses}
    needed: set[str] = set()
    needless: set[str] = set()
    for row in leads.values():
        if (target := row.get("ConvertedContactId")) and canonical_email(row.get("Email") or "") in with_contact:
            needless.add(target)
        elif target:
            needed.add(target)
    return needless - needed


async def follow(door: OrgDoor, ids: Sequence[str], columns: Sequence[str], describe: Describe) -> dict[str, Record]:
    """Records of one object by id, deleted ones too, and those that they were merged into."""
    fields = [*columns, *known_fields(describe, _OF_DELETED)]
    found: dict[str, Record] = {}
    missing = [one for one in ids if one]
    for _ in range(MERGES):
        if not missing:
            break
        for chunk in chunks(missing):
            found.update(_by_id(await read_deleted(door, select(fields, describe.name, f"Id IN {in_list(chunk)}"))))
        masters = {row.get("MasterRecordId") for row in found.values() if row.get("IsDeleted")}
        missing = sorted(one for one in masters if one and one not in found)
    return found


def _where(name: str, chunk: Sequence[str], addresses: Mapping[str, Sequence[str]], key: str | None) -> str:
    prefix = "003" if name == CONTACT else "00Q"
    ids = sorted({one for address in chunk for one in addresses[address] if one.startswith(prefix)})
    where = f"Email IN {in_list(chunk)}"
    if ids:
        where += f" OR Id IN {in_list(ids)}"
    if key is not None:
        where += f" OR {key} IN {in_list(chunk)}"
    return where


def _key_field(describe: Describe, org: Org) -> str | None:
    field = describe.field(org.person_key_field) if org.person_key_field else None
    return field.name if field is not None and field.filterable else None


def _by_address(records: Iterable[Record], key: str | None) -> dict[str, list[Record]]:
    """The records by the addresses under which they may be chosen: each is looked at once, however many addresses a batch has."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        told = (record.get(name) for name in ("Email", key) if name is not None)
        for address in {canonical_email(one) for one in told if isinstance(one, str)}:
            rows.setdefault(address, []).append(record)
    return rows


def _has_key(record: Mapping[str, Any], address: str, key: str | None) -> bool:
    held = record.get(key) if key is not None else None
    return isinstance(held, str) and canonical_email(held) == address


def _searchable(*describes: Describe) -> None:
    for describe in describes:
        field = describe.field("Email")
        if field is None or not field.filterable:
            hint = "Let Turnout's user see the field; with Shield use deterministic encryption for it"
            cause = Cause(code="email_not_searchable", message=f"{describe.name}.Email can't be searched", fields=("Email",), hint=hint)
            raise OrgUnavailable(Trouble("org", cause))


def _by_id(records: Iterable[Record]) -> dict[str, Record]:
    rows: dict[str, Record] = {}
    for record in records:
        record["Id"] = full_id(record["Id"])
        rows[record["Id"]] = record
    return rows
