"""A made-up webinar season, whole and from a seed: orgs with records in them, workspaces, sessions, people, and every webhook in its order.

Pure. Plays nothing and checks nothing.
"""

import dataclasses
import datetime
import random
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

SessionKind = Literal["upcoming", "live", "on_demand", "past", "breakout"]
Fate = Literal["registered", "attended", "not_attended"]
Object = Literal["Contact", "Lead"]

HOUR: Final = 3600
DAY: Final = 24 * HOUR
EVENT_TIME_FIELD: Final = "Livestorm_Event_Time__c"
KEY_FIELD: Final = "Turnout_Key__c"
FALLBACK_COMPANY: Final = "[not provided]"

_FIRST: Final = (
    "Ada",
    "Alan",
    "Amira",
    "Anders",
    "Beatriz",
    "Chidi",
    "Chloé",
    "Daniel",
    "Elif",
    "Emeka",
    "Fatima",
    "Grace",
    "Hana",
    "Hugo",
    "Ines",
    "Ivan",
    "João",
    "Kenji",
    "Lena",
    "Léo",
    "Mei",
    "Nadia",
    "Noah",
    "Olga",
    "Omar",
    "Priya",
    "Rosa",
    "Sven",
    "Tariq",
    "Yuki",
)
_LAST: Final = (
    "Abara",
    "Berg",
    "Costa",
    "Dubois",
    "Eriksen",
    "Fischer",
    "García",
    "Haddad",
    "Ito",
    "Jensen",
    "Kaya",
    "Lopez",
    "Moreau",
    "Müller",
    "Nakamura",
    "Novak",
    "O'Neill",
    "Okafor",
    "Patel",
    "Petrov",
    "Quinn",
    "Rossi",
    "Silva",
    "Tanaka",
    "Usman",
    "Vega",
    "Weber",
    "Xu",
    "Yilmaz",
    "Zhang",
)
_COMPANIES: Final = ("Acorn Labs", "Blue Harbor", "Cobalt & Sons", "Dune Systems", "Ember Works", "Fjord Freight", "Granite Bank", "Hollow Oak", "Ivory Coast Trading", "Juniper Health")  # fmt: skip
_TITLES: Final = ("Engineer", "Head of Marketing", "Sales Manager", "CTO", "Analyst", "Product Owner", "Consultant")
_PLACES: Final = (("Paris", "France"), ("Berlin", "Germany"), ("Lagos", "Nigeria"), ("Osaka", "Japan"), ("Austin", "United States"))


@dataclasses.dataclass(frozen=True, slots=True)
class Person:
    """Someone at webinars. Texts may be blank, as forms leave them."""

    email: str
    first_name: str
    last_name: str
    company: str
    job_title: str
    city: str
    country: str
    phone: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Org:
    """A Salesforce org. `seed`: what is in it before, in the form of the sandbox; each record's Description is its name here."""

    id: str
    seed: dict[str, list[dict[str, Any]]]
    event_time_field: str = ""
    key_field: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Workspace:
    """A Livestorm workspace."""

    id: str
    org: str
    create: Literal["lead", "contact"]
    organization_id: str
    secret: str
    plan: str = "enterprise"

    @property
    def entitled(self) -> bool:
        return self.plan == "enterprise"


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """One session of one event. Times are Unix s, 0 where not set."""

    id: str
    event: str
    title: str
    workspace: str
    kind: SessionKind
    timezone: str
    starts_at: int
    ended_at: int
    parent: str = ""

    @property
    def makes_campaign(self) -> bool:
        return self.kind in ("upcoming", "live", "on_demand")


@dataclasses.dataclass(frozen=True, slots=True)
class Registration:
    """A person at a session. `at` is Unix s; `job_title` as told there."""

    id: str
    person: Person
    session: str
    at: int
    fate: Fate = "registered"
    watched: bool = False
    role: Literal["participant", "team_member"] = "participant"
    job_title: str = ""
    late: bool = False
    """Its own webhook comes after those of its attendance."""


@dataclasses.dataclass(frozen=True, slots=True)
class HandEdit:
    """Someone changes a record in Salesforce's pages, after the registration happened and before it arrives."""

    org: str
    object: Object
    name: str
    values: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook, to be signed when it is posted."""

    workspace: str
    body: bytes
    person: bool
    """About a person at a session: one final outcome each."""


@dataclasses.dataclass(frozen=True, slots=True)
class Season:
    """All of it. `acts` are played one after the other; within an act webhooks may overtake each other."""

    orgs: tuple[Org, ...]
    workspaces: tuple[Workspace, ...]
    sessions: tuple[Session, ...]
    registrations: tuple[Registration, ...]
    hand_edits: tuple[HandEdit, ...]
    acts: tuple[tuple[Delivery, ...], ...]
    failing_org: str
    """The one that is down from the second act on, until the third is half played."""

    def workspace(self, id: str) -> Workspace:
        return next(workspace for workspace in self.workspaces if workspace.id == id)

    def distinct(self) -> int:
        """Webhooks about people that are no repeats of others."""
        return len({(delivery.workspace, delivery.body) for act in self.acts for delivery in act if delivery.person})

    def events(self) -> int:
        """Webhooks in all, repeats too."""
        return sum(map(len, self.acts))


WORKSPACES: Final = (
    ("acme-emea", "acme", "lead", "enterprise"),
    ("acme-americas", "acme", "lead", "enterprise"),
    ("globex", "globex", "contact", "enterprise"),
    ("initech", "initech", "lead", "enterprise"),
    ("umbrella", "initech", "lead", "business"),
)
"""Id, org, what it creates, plan. Two on one org; one without entitlement."""


def workspaces(seed: int) -> tuple[Workspace, ...]:
    """The season's workspaces; known before its orgs are filled, for their settings."""
    chance = random.Random(f"workspaces {seed}")
    return tuple(
        Workspace(id, org, create, _uuid(chance), f"{chance.getrandbits(128):032x}", plan)  # type: ignore[arg-type]  # a table of literals
        for id, org, create, plan in WORKSPACES
    )


def generate(registrants: int, now: int, seed: int = 1) -> Season:
    """A season of that many registrations; `now` is Unix s, not before the workspaces were connected. Equal arguments, equal season."""
    chance = random.Random(f"season {seed}")
    places = workspaces(seed)
    sessions = tuple(session for workspace in places for session in _sessions(chance, workspace, now))
    crowd = _Crowd(chance, places, sessions, now)
    registrations = tuple(crowd.registrations(registrants))
    orgs = tuple(
        Org(
            id,
            crowd.seeds(id),
            event_time_field=EVENT_TIME_FIELD if id == "acme" else "",
            key_field=KEY_FIELD if id == "globex" else "",
        )
        for id in ("acme", "globex", "initech")
    )
    script = _Script(chance, places, sessions, registrations, now)
    return Season(orgs, places, sessions, registrations, tuple(crowd.hand_edits), script.acts(), failing_org="initech")


def _sessions(chance: random.Random, workspace: Workspace, now: int) -> Iterator[Session]:
    hour = now - now % HOUR
    plan: tuple[tuple[SessionKind, str, int, int], ...] = (
        ("upcoming", "Roadmap preview", hour + 5 * DAY, 0),
        ("live", "Getting started", now - HOUR, now + 1),
        ("on_demand", "The recorded tour", 0, 0),
        ("past", "Last year in review", hour - 60 * DAY, hour - 60 * DAY + HOUR),
    )
    if not workspace.entitled:
        plan = plan[:1]
    live = ""
    for kind, title, starts_at, ended_at in plan:
        zone = chance.choice(("Europe/Paris", "America/New_York", "Asia/Tokyo", "UTC"))
        session = Session(_uuid(chance), _uuid(chance), f"{title} ({workspace.id})", workspace.id, kind, zone, starts_at, ended_at)
        live = session.id if kind == "live" else live
        yield session
    if live:
        yield Session(_uuid(chance), _uuid(chance), "Break-out: questions", workspace.id, "breakout", "UTC", now - HOUR, now + 1, live)


class _Crowd:
    """Makes people and their registrations, and remembers whom the orgs know already."""

    def __init__(self, chance: random.Random, places: Sequence[Workspace], sessions: Sequence[Session], now: int) -> None:
        self._chance = chance
        self._places = {workspace.id: workspace for workspace in places}
        self._sessions = {(session.workspace, session.kind): session for session in sessions}
        self._now = now
        self._count = 0
        self._seeds: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.hand_edits: list[HandEdit] = []

    def seeds(self, org: str) -> dict[str, list[dict[str, Any]]]:
        return self._seeds.get(org, {})

    def registrations(self, wanted: int) -> list[Registration]:
        """The special ones first, then as many ordinary ones as are wanted."""
        made: list[Registration] = []
        for one in self._all():
            if len(made) == wanted:
                break
            made.append(one)
        return made

    def _all(self) -> Iterator[Registration]:
        for workspace in ("acme-emea", "globex", "initech"):
            yield from self._strangers(workspace)
            yield from self._known(workspace)
            yield from self._blanks(workspace)
        yield from self._edited()
        yield from self._many_sessions()
        yield from self._retitled()
        yield from self._not_entitled()
        while True:
            yield from self._ordinary()

    def _person(self, workspace: str, **known: str) -> Person:
        self._count += 1
        first, last = self._chance.choice(_FIRST), self._chance.choice(_LAST)
        city, country = self._chance.choice(_PLACES)
        values = {
            "email": f"guest{self._count}.{_ascii(last)}@{_ascii(workspace)}.example",
            "first_name": first,
            "last_name": last,
            "company": self._chance.choice(_COMPANIES),
            "job_title": self._chance.choice(_TITLES),
            "city": city,
            "country": country,
            "phone": f"+1 555 {self._count:07d}",
        }
        return Person(**{**values, **known})

    def _at(self, workspace: str, kind: SessionKind, person: Person, **known: Any) -> Registration:
        session = self._sessions[workspace, kind]
        at = self._now - self._chance.randrange(4 * HOUR, 8 * HOUR)
        return Registration(
            **{"id": _uuid(self._chance), "person": person, "session": session.id, "at": at, "job_title": person.job_title, **known}
        )

    def _ordinary(self) -> Iterator[Registration]:
        """One person at one session, who may go to another one too; some use different spellings of their address."""
        chance = self._chance
        workspace = chance.choice(("acme-emea", "acme-emea", "acme-americas", "globex", "globex", "initech"))
        person = self._person(workspace)
        kind: SessionKind = chance.choices(("live", "upcoming", "on_demand", "past", "breakout"), (60, 20, 14, 3, 3))[0]
        if chance.random() < 0.12:
            self._make_known(workspace, person, chance.choice(("Lead", "Contact")))
        yield self._fated(workspace, kind, person)
        if chance.random() < 0.15:
            other: SessionKind = "upcoming" if kind != "upcoming" else "live"
            shouted = dataclasses.replace(person, email=f" {person.email.upper()} ")
            yield self._fated(workspace, other, shouted)
        if workspace == "acme-emea" and chance.random() < 0.1:
            yield self._fated("acme-americas", "upcoming", person)

    def _fated(self, workspace: str, kind: SessionKind, person: Person) -> Registration:
        chance = self._chance
        fate: Fate = "registered"
        if kind in ("live", "past", "breakout"):
            fate = chance.choices(("attended", "not_attended", "registered"), (60, 35, 5))[0]
        watched = chance.random() < {"on_demand": 0.6, "live": 0.2}.get(kind, 0.0)
        return self._at(workspace, kind, person, fate=fate, watched=watched, late=kind == "live" and chance.random() < 0.03)

    def _strangers(self, workspace: str) -> Iterator[Registration]:
        """Who must never be in Salesforce: staff, invented addresses, people without an email."""
        staff = self._person(workspace)
        yield self._at(workspace, "live", staff, role="team_member", fate="attended")
        yield self._at(workspace, "live", self._person(workspace, email=f"u{self._count}@unknown.livestorm.co"), fate="attended")
        yield self._at(workspace, "live", self._person(workspace, email=""), fate="not_attended")
        yield self._at(workspace, "past", self._person(workspace), fate="attended")
        yield self._at(workspace, "breakout", self._person(workspace), fate="attended")

    def _blanks(self, workspace: str) -> Iterator[Registration]:
        """Forms that were not filled in."""
        yield self._at(workspace, "live", self._person(workspace, company="", last_name=""), fate="attended")
        yield self._at(workspace, "upcoming", self._person(workspace, company="  ", job_title=""))

    def _known(self, workspace: str) -> Iterator[Registration]:
        """Whom the org knows already, in every way that matters."""
        for how in ("Lead", "Contact", "both", "two Leads", "two Contacts", "converted", "converted elsewhere"):
            person = self._person(workspace)
            self._make_known(workspace, person, how)
            yield self._at(workspace, "live", person, fate="attended", watched=how == "converted")

    def _edited(self) -> Iterator[Registration]:
        """Someone whose Contact is changed by hand before the news arrive. In the org that has a field for the event's time:
        without one, a repeat after a crash can't be told from news.
        """
        person = self._person("acme-emea")
        name = self._make_known("acme-emea", person, "Contact")
        self.hand_edits.append(HandEdit("acme", "Contact", name, {"Title": "Chosen by hand"}))
        yield self._at("acme-emea", "upcoming", person)

    def _many_sessions(self) -> Iterator[Registration]:
        """One person at every session of two workspaces on one org."""
        person = self._person("acme-emea")
        for workspace in ("acme-emea", "acme-americas"):
            for kind in ("upcoming", "live", "on_demand"):
                yield self._fated(workspace, kind, person)

    def _retitled(self) -> Iterator[Registration]:
        """People with a new job at their second registration, whose webhooks come in any order."""
        for _ in range(5):
            person = self._person("acme-emea", job_title="Intern")
            yield self._at("acme-emea", "on_demand", person, at=self._now - 3 * DAY)
            yield self._at("acme-emea", "upcoming", person, at=self._now - 2 * HOUR, job_title="Director")

    def _not_entitled(self) -> Iterator[Registration]:
        for _ in range(4):
            yield self._at("umbrella", "upcoming", self._person("umbrella"))

    def _make_known(self, workspace: str, person: Person, how: str) -> str:
        """Puts the person into the workspace's org beforehand. Returns the name of the record that must win."""
        org = self._places[workspace].org
        tag = f"{org}-{self._count}"
        old = {"FirstName": person.first_name, "LastName": person.last_name, "Email": person.email, "Title": "Trainee"}
        contact = {**old, "MailingCity": "Old Town"}
        lead = {**old, "Company": person.company.strip() or "Sole trader", "Status": "Open - Not Contacted"}
        match how:
            case "Lead":
                self._add(org, "Lead", f"{tag}-oldest", lead, 300)
            case "Contact":
                self._add(org, "Contact", f"{tag}-oldest", contact, 300)
            case "both":
                self._add(org, "Lead", f"{tag}-beside", lead, 500)
                self._add(org, "Contact", f"{tag}-oldest", contact, 300)
            case "two Leads":
                self._add(org, "Lead", f"{tag}-younger", lead, 100)
                self._add(org, "Lead", f"{tag}-oldest", lead, 400)
            case "two Contacts":
                self._add(org, "Contact", f"{tag}-younger", contact, 100)
                self._add(org, "Contact", f"{tag}-oldest", contact, 400)
            case "converted" | "converted elsewhere":
                if how == "converted elsewhere":
                    contact["Email"] = f"private.{person.email}"
                self._add(org, "Contact", f"{tag}-oldest", {**contact, "Id": f"@{tag}"}, 200)
                converted = {"IsConverted": True, "ConvertedContactId": f"@{tag}", "ConvertedDate": _day(self._now - 200 * DAY)}
                self._add(org, "Lead", f"{tag}-converted", {**lead, **converted}, 400)
            case _:
                raise ValueError(how)
        return f"{tag}-oldest"

    def _add(self, org: str, object: str, name: str, values: Mapping[str, Any], age_days: int) -> None:
        created = _instant(self._now - age_days * DAY)
        record = {**values, "Description": name, "CreatedDate": created, "LastModifiedDate": created}
        if object == "Lead" and values.get("IsConverted"):
            del record["Status"]
        self._seeds.setdefault(org, {}).setdefault(object, []).append(record)


class _Script:
    """Turns what happened into webhooks, in an order that the world might give them."""

    def __init__(
        self,
        chance: random.Random,
        places: Sequence[Workspace],
        sessions: Sequence[Session],
        registrations: Sequence[Registration],
        now: int,
    ) -> None:
        self._chance = chance
        self._places = {workspace.id: workspace for workspace in places}
        self._sessions = {session.id: session for session in sessions}
        self._registrations = registrations
        self._now = now

    def acts(self) -> tuple[tuple[Delivery, ...], ...]:
        registered = [self._person(one, "people.registered") for one in self._registrations if not one.late]
        cut = len(registered) * 2 // 3
        opening = [*self._told("created"), *registered[:cut]]
        middle = [*self._told("started"), *registered[cut:], *self._told("ended"), *self._attendances()]
        late = [self._person(one, "people.registered") for one in self._registrations if one.late]
        replays = [self._person(one, "people.watched_replay") for one in self._registrations if one.watched]
        repeats = [one for one in (*opening, *middle) if self._chance.random() < 0.05]
        return (self._shuffled(opening), self._shuffled(middle), self._shuffled([*late, *replays, *repeats]))

    def _shuffled(self, deliveries: list[Delivery]) -> tuple[Delivery, ...]:
        """Everything may be overtaken, by up to 200 others; a few come twice at once."""
        order = sorted(range(len(deliveries)), key=lambda place: place + self._chance.uniform(0, 200))
        twice = ((deliveries[place],) * (2 if self._chance.random() < 0.03 else 1) for place in order)
        return tuple(delivery for several in twice for delivery in several)

    def _attendances(self) -> Iterator[Delivery]:
        for one in self._registrations:
            if one.fate != "registered":
                yield self._person(one, f"people.{one.fate}")

    def _told(self, what: Literal["created", "started", "ended"]) -> Iterator[Delivery]:
        for session in self._sessions.values():
            if what == "created":
                yield self._delivery(session.workspace, "event.published", session.event, "events", _event(session, self._now))
            if what == "created" or session.kind in ("live", "breakout"):
                attributes = _session(session, what, self._now)
                yield self._delivery(session.workspace, f"session.{what}", session.id, "sessions", attributes)

    def _person(self, one: Registration, trigger: str) -> Delivery:
        session = self._sessions[one.session]
        attributes = _attributes(one, session, trigger, self._now)
        return self._delivery(session.workspace, trigger, one.id, "people", attributes, person=True)

    def _delivery(self, workspace: str, trigger: str, id: str, type: str, attributes: dict[str, Any], *, person: bool = False) -> Delivery:
        webhook = {"event": trigger, "organization_id": self._places[workspace].organization_id}
        body = {"data": {"id": id, "type": type, "attributes": attributes, "meta": {"webhook": webhook}}}
        return Delivery(workspace, msgspec.json.encode(body), person)


def _event(session: Session, now: int) -> dict[str, Any]:
    return {
        "title": session.title,
        "slug": session.id,
        "language": "en",
        "status": "published",
        "scheduling_status": "upcoming",
        "created_at": now - 90 * DAY,
        "updated_at": now - 80 * DAY,
        "fields": [{"id": name, "type": "text", "order": order, "required": True} for order, name in enumerate(_FORM)],
    }


_FORM: Final = ("email", "first_name", "last_name", "company", "job_title", "city", "country", "phone")


def _session(session: Session, what: str, now: int) -> dict[str, Any]:
    over = session.kind == "past" or what == "ended"
    running = what == "started"
    status = "past" if over else "live" if running else "on_demand" if session.kind == "on_demand" else "upcoming"
    return {
        "event_id": session.event,
        "status": status,
        "timezone": session.timezone,
        "name": None,
        "estimated_started_at": session.starts_at,
        "started_at": session.starts_at if over or running else 0,
        "ended_at": session.ended_at if over else 0,
        "canceled_at": 0,
        "created_at": now - 70 * DAY,
        "updated_at": session.ended_at if over else session.starts_at if running else now - 69 * DAY,
        "breakout_room_parent_session_id": session.parent or None,
    }


def _attributes(one: Registration, session: Session, trigger: str, now: int) -> dict[str, Any]:
    person = one.person
    later = trigger != "people.registered"
    answers = {
        "email": person.email,
        "first_name": person.first_name,
        "last_name": person.last_name,
        "company": person.company,
        "job_title": one.job_title,
        "city": person.city,
        "country": person.country,
        "phone": person.phone,
    }
    attended = later and one.fate == "attended"
    watched = trigger == "people.watched_replay"
    updated_at = now + 2 if later else one.at
    return {
        "role": one.role,
        "created_at": one.at,
        "updated_at": updated_at,
        "timezone": session.timezone,
        "first_name": person.first_name,
        "last_name": person.last_name,
        "email": person.email or None,
        "registrant_detail": {
            "event_id": session.event,
            "session_id": session.id,
            "created_at": one.at,
            "updated_at": updated_at,
            "fields": [{"id": name, "type": "text", "value": value, "required": True} for name, value in answers.items()],
            "utm_source": "newsletter",
            "password_key": "open-sesame",
            "connection_link": "https://app.livestorm.example/join?key=open-sesame",
            "attended": attended,
            "attendance_rate": 80 if attended else None,
            "attendance_duration": 2_880 if attended else 0,
            "has_viewed_replay": watched,
            "registration_type": "form",
            "is_guest_speaker": False,
        },
        "messages_count": 2 if attended else 0,
        "replay_view_detail": {"watched_at": now + 2} if watched else None,
    }


def settings(season_workspaces: Iterable[Workspace], login_urls: Mapping[str, str]) -> str:
    """The settings file of the season, with each org at its address; its secrets are those of the sandbox."""
    blocks = []
    for org, url in login_urls.items():
        block = [
            "[[org]]",
            f'id = "{org}"',
            f'login_url = "{url}"',
            'flow = "client-credentials"',
            'client_id = "demo"',
            'client_secret = "sandbox"',
        ]
        if org == "acme":
            block.append(f'event_time_field = "{EVENT_TIME_FIELD}"')
        if org == "globex":
            block.append(f'person_key_field = "{KEY_FIELD}"')
        blocks.append("\n".join(block))
    blocks.extend(
        f'[[workspace]]\nid = "{one.id}"\norg = "{one.org}"\nplan = "{one.plan}"\n'
        f'[workspace.livestorm]\norganization_id = "{one.organization_id}"\nwebhook_secret = "{one.secret}"\n'
        f'[workspace.objects]\ncreate = "{one.create}"'
        for one in season_workspaces
    )
    return "\n\n".join(blocks) + "\n"


def rules(org: str) -> list[dict[str, Any]]:
    """The custom fields that an org has beside those of a fresh one, as rules of the sandbox."""
    if org == "acme":
        return [{"kind": "custom-field", "object": name, "field": EVENT_TIME_FIELD, "type": "datetime"} for name in ("Lead", "Contact")]
    if org == "globex":
        field = {"field": KEY_FIELD, "type": "string", "length": 255, "unique": True, "external_id": True}
        return [{"kind": "custom-field", "object": name, **field} for name in ("Lead", "Contact")]
    return []


def _uuid(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def _ascii(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isascii() and letter.isalnum()) or "x"


def _instant(unix: int) -> str:
    return datetime.datetime.fromtimestamp(unix, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000+0000")


def _day(unix: int) -> str:
    return datetime.datetime.fromtimestamp(unix, datetime.UTC).strftime("%Y-%m-%d")
