"""What the orgs should hold after a season, person by person, and what differs from what they do hold. Pure: reads what it is given.

It works from the season alone, by the product's written rules, and shares no code with the steps that it checks.
"""

import dataclasses
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from schemas.messages import Synced
from stages.demo.season import FALLBACK_COMPANY, HandEdit, Object, Org, Person, Registration, Season, Session, Workspace

Record = Mapping[str, Any]
Records = Mapping[str, Mapping[str, Sequence[Record]]]
"""Org, object, all its records, deleted ones too, each with its `history`."""

STATUS: Final = {"registered": "Registered", "not_attended": "Did not attend", "attended": "Attended"}
WATCHED: Final = "Watched"
REPLAY_FIELD: Final = "Livestorm_Replay_Status__c"
INVENTED: Final = "@unknown.livestorm.co"
CAMPAIGN_STATUS: Final = {"upcoming": "Planned", "live": "Completed"}


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be."""

    org: str
    subject: str
    """Whom or what it is about: an address, a Campaign's session, a count."""
    kind: str
    """missing, twice, extra, field, member, status, touched, campaign, account, count."""
    expected: Any
    found: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Tally:
    """What became of the season's events about people, each counted once however often it was delivered."""

    synced: int
    dropped: Mapping[str, int]
    rejected: Mapping[str, int]

    @property
    def total(self) -> int:
        return self.synced + sum(self.dropped.values()) + sum(self.rejected.values())


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """Someone who must be in an org: which object, the seeded record's name or None for a new one, and the memberships."""

    org: str
    address: str
    object: Object
    name: str | None
    values: Mapping[str, str]
    account: str | None
    """The company of the Account that it hangs on: "" none, None not looked at."""
    members: Mapping[str, tuple[str, str | None]]
    """Session to status and replay status."""


def tally(outcomes: Iterable[Synced]) -> Tally:
    """Counts final outcomes of registrations by message id; of several the last one told counts."""
    last = {outcome.id: outcome for outcome in outcomes if outcome.kind == "registration"}
    dropped = Counter(outcome.reason for outcome in last.values() if outcome.outcome == "dropped")
    rejected = Counter(cause.code for outcome in last.values() if outcome.outcome == "rejected" for cause in outcome.causes[:1])
    return Tally(sum(outcome.outcome == "emitted" for outcome in last.values()), dict(dropped), dict(rejected))


def expected_tally(season: Season) -> Tally:
    """By the rules: who is dropped or refused, and why."""
    synced, dropped, rejected = 0, Counter[str](), Counter[str]()
    for registration in season.registrations:
        told = 1 + (registration.fate != "registered") + registration.watched
        reason, cause = fate_of(season, registration)
        if reason:
            dropped[reason] += told
        elif cause:
            rejected[cause] += told
        else:
            synced += told
    return Tally(synced, dict(dropped), dict(rejected))


def fate_of(season: Season, registration: Registration) -> tuple[str, str]:
    """Why a registration is dropped, or refused; ("", ""): it goes to Salesforce."""
    session = _session(season, registration.session)
    address = canonical(registration.person.email)
    if not season.workspace(session.workspace).entitled:
        return "not_entitled", ""
    if registration.role == "team_member":
        return "staff", ""
    if not address:
        return "", "no_email"
    if address.endswith(INVENTED):
        return "invented_address", ""
    if session.kind == "breakout":
        return "breakout_room", ""
    return ("past_session", "") if session.kind == "past" else ("", "")


def differences(season: Season, records: Records, found: Tally) -> list[Difference]:
    """Everything that differs, in a stable order."""
    wanted = list(people(season))
    told: list[Difference] = []
    for org in season.orgs:
        told += _in_org(season, org, [one for one in wanted if one.org == org.id], _Org(records[org.id]))
    expected = expected_tally(season)
    if dict(expected.dropped) != dict(found.dropped):
        told.append(Difference("", "dropped", "count", dict(expected.dropped), dict(found.dropped)))
    if dict(expected.rejected) != dict(found.rejected):
        told.append(Difference("", "rejected", "count", dict(expected.rejected), dict(found.rejected)))
    if expected.synced != found.synced:
        told.append(Difference("", "synced", "count", expected.synced, found.synced))
    return told


def canonical(address: str) -> str:
    """An address as the product compares it."""
    return unicodedata.normalize("NFC", address.strip()).lower()


def people(season: Season) -> Iterator[Wanted]:
    """Who must be in which org, by the rules, from what the orgs held before and who registered."""
    groups: dict[tuple[str, str], list[Registration]] = defaultdict(list)
    for registration in season.registrations:
        if fate_of(season, registration) == ("", ""):
            workspace = season.workspace(_session(season, registration.session).workspace)
            groups[workspace.org, canonical(registration.person.email)].append(registration)
    orgs = {org.id: org for org in season.orgs}
    edits = {(edit.org, edit.object, edit.name): edit for edit in season.hand_edits}
    for (org, address), registrations in groups.items():
        workspace = season.workspace(_session(season, registrations[0].session).workspace)
        known = winner(orgs[org], address)
        object: Object = known[0] if known else "Contact" if workspace.create == "contact" else "Lead"
        name = known[1] if known else None
        person = registrations[0].person
        values = _values(object, person, registrations, new=known is None)
        if known is not None and (edit := edits.get((org, object, known[1]))) is not None:
            # Its news are older than the edit: they only fill what is empty.
            before = next(row for row in orgs[org].seed[object] if row["Description"] == known[1])
            values |= {field: before[field] for field in values.keys() & before.keys()} | edit.values
        account = " ".join(person.company.split()).lower() if known is None and object == "Contact" else None
        yield Wanted(org, address, object, name, values, account, _members(registrations))


def winner(org: Org, address: str) -> tuple[Object, str] | None:
    """Whom an address means among the seeded records: oldest Contact, else oldest Lead, converted ones followed."""
    contacts = _oldest_first(row for row in org.seed.get("Contact", []) if canonical(row["Email"]) == address)
    if contacts:
        return "Contact", contacts[0]["Description"]
    leads = _oldest_first(row for row in org.seed.get("Lead", []) if canonical(row["Email"]) == address)
    if not leads:
        return None
    if not leads[0].get("IsConverted"):
        return "Lead", leads[0]["Description"]
    target = next(row for row in org.seed["Contact"] if row.get("Id") == leads[0]["ConvertedContactId"])
    return "Contact", target["Description"]


def _oldest_first(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: str(row["CreatedDate"]))


def _values(object: Object, person: Person, registrations: Sequence[Registration], *, new: bool) -> dict[str, str]:
    """What the mapped fields must hold: what was told last, blanks never, fallbacks on new records only."""
    latest = max(registrations, key=lambda registration: registration.at)
    city, country = ("MailingCity", "MailingCountry") if object == "Contact" else ("City", "Country")
    told = {
        "FirstName": person.first_name,
        "LastName": person.last_name,
        "Title": latest.job_title,
        "Phone": person.phone,
        city: person.city,
        country: person.country,
    }
    if object == "Lead":
        told["Company"] = person.company
    values = {field: value.strip() for field, value in told.items() if value.strip()}
    if new:
        values["Email"] = canonical(person.email)
        values.setdefault("LastName", canonical(person.email).partition("@")[0])
        if object == "Lead":
            values.setdefault("Company", FALLBACK_COMPANY)
    return values


def _members(registrations: Sequence[Registration]) -> dict[str, tuple[str, str | None]]:
    order = list(STATUS)
    members: dict[str, tuple[str, str | None]] = {}
    for registration in registrations:
        status, replay = STATUS[registration.fate], WATCHED if registration.watched else None
        if registration.session in members:
            before, watched = members[registration.session]
            status = max(before, status, key=lambda label: order.index(_fate(label)))
            replay = replay or watched
        members[registration.session] = (status, replay)
    return members


def _fate(label: str) -> str:
    return next(fate for fate, known in STATUS.items() if known == label)


def _session(season: Season, id: str) -> Session:
    return next(session for session in season.sessions if session.id == id)


class _Org:
    """One org's records, the deleted ones aside, by what they are looked for."""

    def __init__(self, records: Mapping[str, Sequence[Record]]) -> None:
        live = {name: [row for row in rows if not row.get("IsDeleted")] for name, rows in records.items()}
        self.contacts, self.leads = live.get("Contact", []), live.get("Lead", [])
        self.accounts = {str(row["Id"]): row for row in live.get("Account", [])}
        self.campaigns = live.get("Campaign", [])
        self.members = live.get("CampaignMember", [])
        self.by_name = {(object, str(row["Description"])): row for object, row in self.everyone() if row.get("Description")}
        self.by_address: dict[str, list[tuple[Object, Record]]] = defaultdict(list)
        for object, row in self.everyone():
            self.by_address[canonical(row.get("Email") or "")].append((object, row))
        self.memberships: dict[str, list[Record]] = defaultdict(list)
        for row in self.members:
            self.memberships[str(row.get("ContactId") or row.get("LeadId"))].append(row)
        self.session_of = {str(row["Id"]): str(row.get("Description") or "").rpartition(" ")[2] for row in self.campaigns}

    def everyone(self) -> Iterator[tuple[Object, Record]]:
        yield from (("Contact", row) for row in self.contacts)
        yield from (("Lead", row) for row in self.leads)


def _in_org(season: Season, org: Org, wanted: Sequence[Wanted], held: _Org) -> Iterator[Difference]:
    for one in wanted:
        yield from _person(org, one, held)
    yield from _nobody_else(org, wanted, held)
    yield from _left_alone(org, {(one.object, one.name) for one in wanted}, season.hand_edits, held)
    places = {workspace.id: workspace for workspace in season.workspaces if workspace.org == org.id}
    yield from _campaigns(org, [session for session in season.sessions if session.workspace in places], places, held)
    yield from _accounts(org, held)
    expected = sum(len(one.members) for one in wanted)
    if len(held.members) != expected:
        yield Difference(org.id, "CampaignMember", "count", expected, len(held.members))


def _person(org: Org, one: Wanted, held: _Org) -> Iterator[Difference]:
    record = _record(one, held)
    if record is None:
        yield Difference(org.id, one.address, "missing", one.object, [object for object, _ in held.by_address.get(one.address, [])])
        return
    for field, value in one.values.items():
        if record.get(field) != value:
            yield Difference(org.id, one.address, "field", {field: value}, record.get(field))
    yield from _account(org, one, record, held)
    found: dict[str, tuple[Any, Any]] = {}
    for row in held.memberships.get(str(record["Id"]), []):
        session = held.session_of.get(str(row["CampaignId"]), "")
        if session in found:
            yield Difference(org.id, one.address, "twice", "one membership of a session", session)
        found[session] = (row.get("Status"), row.get(REPLAY_FIELD))
    for session, expected in one.members.items():
        if found.get(session) != expected:
            yield Difference(org.id, one.address, "status" if session in found else "member", {session: expected}, found.get(session))
    for session in found.keys() - one.members.keys():
        yield Difference(org.id, one.address, "extra", "no membership", session)


def _record(one: Wanted, held: _Org) -> Record | None:
    if one.name is not None:
        return held.by_name.get((one.object, one.name))
    made = [row for object, row in held.by_address.get(one.address, []) if object == one.object and _maker(row) != "seed"]
    return made[0] if made else None


def _account(org: Org, one: Wanted, record: Record, held: _Org) -> Iterator[Difference]:
    if one.account is None:
        return
    account = held.accounts.get(str(record.get("AccountId")))
    found = "" if account is None else " ".join(str(account["Name"]).split()).lower()
    if found != one.account:
        yield Difference(org.id, one.address, "account", one.account, found)


def _nobody_else(org: Org, wanted: Sequence[Wanted], held: _Org) -> Iterator[Difference]:
    """As many records of an address as there were before, and one more where it was nobody's."""
    before = Counter(canonical(row["Email"]) for rows in (org.seed.get("Contact", []), org.seed.get("Lead", [])) for row in rows)
    expected = before + Counter(one.address for one in wanted if one.name is None)
    for address in sorted(expected.keys() | held.by_address.keys()):
        found = len(held.by_address.get(address, []))
        if found != expected[address]:
            kind = "extra" if not expected[address] else "twice" if found > expected[address] else "missing"
            yield Difference(org.id, address, kind, expected[address], found)


def _left_alone(org: Org, wanted: set[tuple[Object, str | None]], edits: Sequence[HandEdit], held: _Org) -> Iterator[Difference]:
    """Records that lost against an older one, converted Leads, people who did not register: nothing was written to them."""
    for (object, name), row in held.by_name.items():
        if (object, name) not in wanted and _maker(row) == "seed" and len(row["history"]) > 1:
            if any(edit.org == org.id and edit.name == name for edit in edits) and len(row["history"]) == 2:
                continue
            yield Difference(org.id, name, "touched", "left alone", [entry["changes"] for entry in row["history"][1:]])


def _campaigns(org: Org, sessions: Sequence[Session], places: Mapping[str, Workspace], held: _Org) -> Iterator[Difference]:
    found: dict[str, list[Record]] = defaultdict(list)
    for row in held.campaigns:
        found[held.session_of[str(row["Id"])]].append(row)
    for session in sessions:
        rows = found.pop(session.id, [])
        expected = int(session.makes_campaign and places[session.workspace].entitled)
        if len(rows) != expected:
            yield Difference(org.id, f"{session.title} ({session.kind})", "campaign", expected, len(rows))
        for row in rows[:expected]:
            yield from _campaign(org, session, row)
    for id, rows in found.items():
        yield Difference(org.id, id, "campaign", 0, len(rows))


def _campaign(org: Org, session: Session, row: Record) -> Iterator[Difference]:
    expected = {"Type": "Webinar", "Status": CAMPAIGN_STATUS.get(session.kind, row.get("Status"))}
    found = {field: row.get(field) for field in expected}
    if found != expected:
        yield Difference(org.id, session.title, "campaign", expected, found)
    if not str(row["Name"]).startswith(session.title[:40]):
        yield Difference(org.id, session.title, "campaign", session.title, row["Name"])


def _accounts(org: Org, held: _Org) -> Iterator[Difference]:
    names = Counter(" ".join(str(row["Name"]).split()).lower() for row in held.accounts.values())
    for name, count in names.items():
        if count > 1:
            yield Difference(org.id, name, "twice", "one Account", count)


def _maker(record: Record) -> str:
    return str(record["history"][0]["by"])


def counts(records: Records) -> dict[str, dict[str, int]]:
    """How many live records each org holds, by object; a converted Lead is a Contact's."""
    objects = ("Lead", "Contact", "Account", "Campaign", "CampaignMember")
    return {org: {name: sum(not row.get("IsDeleted") for row in held.get(name, ())) for name in objects} for org, held in records.items()}
