"""What happens at the webinars of one chaos run, whole and from a seed: orgs, workspaces, sessions, people, and every webhook. Pure; plays nothing."""

import dataclasses
import random
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from tests.flow import livestorm

Fate = Literal["synced", "staff", "no_email"]

PERSON_KEY: Final = "Turnout_Key__c"
CAMPAIGN_KEY: Final = "Turnout_Session__c"
ACCOUNT_KEY: Final = "Turnout_Account__c"
EVENT_TIME: Final = "Turnout_Event_Time__c"
DOMAIN: Final = "chaos.example"
"""Of every address, so that none can be in a log by accident."""
COMPANIES: Final = ("Harbour Ltd", "Dune Systems", "Ember  Works")
REGISTRANTS: Final = 9
"""Of one session."""
SESSION_SECONDS: Final = 40
"""One session more for each workspace and so many seconds."""
REPEATED: Final = 0.2
LATE: Final = 0.15


@dataclasses.dataclass(frozen=True, slots=True)
class Org:
    """`keyed`: unique keys on people, Campaigns and Accounts. `timed`: a field for the time of the event that set the values."""

    id: str
    keyed: bool
    timed: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Workspace:
    id: str
    org: str
    create: Literal["lead", "contact"]
    organization: str
    secret: str


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """Times are seconds from the start."""

    id: str
    event: str
    title: str
    workspace: str
    created_at: int
    started_at: int
    ended_at: int
    closes_at: int


@dataclasses.dataclass(frozen=True, slots=True)
class Deed:
    """What one person did at one session. `sequence` counts what is told of one address in one org, in the order in which it happened."""

    trigger: str
    person: str
    session: str
    workspace: str
    org: str
    email: str
    """Canonical; empty: none was told."""
    fate: Fate
    at: int
    """Seconds from the start."""
    sequence: int = 0

    @property
    def value(self) -> str:
        """What the changing field says."""
        return f"v{self.sequence:05d}"


@dataclasses.dataclass(frozen=True, slots=True)
class Webhook:
    """One delivery: `at` seconds from the start. Repeats are deliveries of their own, of the same body."""

    at: float
    workspace: str
    body: bytes
    deed: Deed | None
    repeat: bool = False
    late: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Story:
    """`base` is Unix s: the start."""

    seconds: float
    base: int
    orgs: tuple[Org, ...]
    workspaces: tuple[Workspace, ...]
    sessions: tuple[Session, ...]
    deeds: tuple[Deed, ...]
    webhooks: tuple[Webhook, ...]
    seeded: Mapping[str, Mapping[str, Literal["Contact", "Lead"]]]
    """By org: addresses that were in it before, and as what."""

    def org(self, id: str) -> Org:
        return next(org for org in self.orgs if org.id == id)

    def seed(self, org: str) -> dict[str, list[dict[str, Any]]]:
        """What is in an org before."""
        records: dict[str, list[dict[str, Any]]] = {"Contact": [], "Lead": []}
        for email, name in self.seeded[org].items():
            company = {"Company": "Known before"} if name == "Lead" else {}
            records[name].append({"Email": email, "FirstName": "Known", "LastName": "Before", **company})
        return records


def make(seed: int, seconds: float, base: int, orgs: int = 4) -> Story:
    """The story of that seed; only its times hang on `base`."""
    draw = random.Random(f"story {seed}")
    halls = tuple(Org(f"org-{number}", keyed=number % 2 == 0, timed=number % 4 != 1) for number in range(orgs))
    workspaces = tuple(_workspaces(draw, halls))
    sessions = tuple(_sessions(draw, workspaces, seconds))
    people = [f"guest{number}@{DOMAIN}" for number in range(max(20, len(sessions) * 2))]
    deeds = tuple(_in_order(_deeds(draw, workspaces, sessions, people)))
    places = {workspace.id: workspace for workspace in workspaces}
    rooms = {session.id: session for session in sessions}
    told = [
        *_told_of_sessions(sessions, places, base),
        *(_told_of(deed, rooms[deed.session], places[deed.workspace], base) for deed in deeds),
    ]
    webhooks = tuple(sorted(_delivered(draw, told, seconds), key=lambda webhook: webhook.at))
    seeded = {org.id: {email: draw.choice(("Contact", "Lead")) for email in draw.sample(people, len(people) // 5)} for org in halls}
    return Story(seconds, base, halls, workspaces, sessions, deeds, webhooks, seeded)  # type: ignore[arg-type]  # choice widens the literals


def _id(draw: random.Random) -> str:
    return str(uuid.UUID(int=draw.getrandbits(128), version=4))


def _workspaces(draw: random.Random, orgs: tuple[Org, ...]) -> Iterator[Workspace]:
    """One on each org, and a second one on the first two: one keyed, one not."""
    for number, org in enumerate((*orgs, *orgs[:2])):
        create: Literal["lead", "contact"] = "contact" if number % 3 == 1 else "lead"
        yield Workspace(f"ws-{number}", org.id, create, _id(draw), _id(draw))


def _sessions(draw: random.Random, workspaces: tuple[Workspace, ...], seconds: float) -> Iterator[Session]:
    """Every end is a second of its own: what happened then is told apart by its time."""
    ends: set[int] = set()
    count = max(2, round(seconds / SESSION_SECONDS))
    span = max(12.0, min(120.0, seconds * 0.7))
    for workspace in workspaces:
        for number in range(count):
            begins = draw.uniform(0, max(0.0, seconds - span)) if count > 2 else number * max(0.0, seconds - span)
            ended = round(begins + span * draw.uniform(0.5, 0.7))
            while ended in ends:
                ended += 1
            ends.add(ended)
            started = round(begins + span * 0.4)
            yield Session(
                _id(draw), _id(draw), f"Webinar {workspace.id}.{number}", workspace.id, round(begins), started, ended, round(begins + span)
            )


def _deeds(draw: random.Random, workspaces: tuple[Workspace, ...], sessions: tuple[Session, ...], people: list[str]) -> Iterator[Deed]:
    """In any order; no two of one address in one org in the same second."""
    orgs = {workspace.id: workspace.org for workspace in workspaces}
    taken: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    ends = {session.ended_at for session in sessions}

    def moment(org: str, email: str, first: float, last: float) -> int:
        at = round(draw.uniform(first, last))
        while at in taken[org, email] or at in ends:
            at += 1
        taken[org, email].add(at)
        return at

    for session in sessions:
        org = orgs[session.workspace]
        for email in draw.sample(people, min(REGISTRANTS, len(people))):
            person = _id(draw)

            def did(trigger: str, at: int, fate: Fate = "synced", *, person: str = person, email: str = email) -> Deed:
                return Deed(f"people.{trigger}", person, session.id, session.workspace, org, email, fate, at)  # noqa: B023  # used within the round

            for _ in range(draw.choice((1, 1, 1, 2, 3))):
                yield did("registered", moment(org, email, session.created_at, session.started_at))
            yield did("attended" if draw.random() < 0.6 else "not_attended", session.ended_at)
            if draw.random() < 0.35:
                yield did("watched_replay", moment(org, email, session.ended_at + 1, session.closes_at))
        at = round(draw.uniform(session.created_at, session.started_at))
        yield Deed("people.registered", _id(draw), session.id, session.workspace, org, f"staff@{DOMAIN}", "staff", at)
        if draw.random() < 0.3:
            yield Deed("people.registered", _id(draw), session.id, session.workspace, org, "", "no_email", at)


def _in_order(deeds: Iterator[Deed]) -> Iterator[Deed]:
    """Each with its number among those of its address in its org."""
    counted: defaultdict[tuple[str, str], int] = defaultdict(int)
    for deed in sorted(deeds, key=lambda deed: (deed.at, deed.person, deed.trigger)):
        counted[deed.org, deed.email] += 1
        yield dataclasses.replace(deed, sequence=counted[deed.org, deed.email])


def _told_of_sessions(sessions: tuple[Session, ...], places: Mapping[str, Workspace], base: int) -> Iterator[Webhook]:
    for session in sessions:
        workspace = places[session.workspace]
        at = base + session.created_at
        yield _webhook(
            session.created_at, workspace, "event.published", "events", session.event, livestorm.event(session.title, updated_at=at)
        )
        # The end stands in every body, so that the time of what happened there never hangs on which webhook comes first.
        times = {"estimated_started_at": base + session.started_at, "ended_at": base + session.ended_at}
        for moment, trigger, status in (
            (session.created_at, "session.created", "upcoming"),
            (session.started_at, "session.started", "live"),
            (session.ended_at, "session.ended", "past"),
        ):
            started = base + session.started_at if status != "upcoming" else 0
            attributes = livestorm.session(session.event, status=status, started_at=started, updated_at=base + moment, **times)
            yield _webhook(moment, workspace, trigger, "sessions", session.id, attributes)


def _told_of(deed: Deed, session: Session, workspace: Workspace, base: int) -> Webhook:
    at = base + deed.at
    number = sum(map(ord, deed.email))
    spelled = f" {deed.email.upper()}" if deed.sequence % 7 == 3 else deed.email
    told: dict[str, Any] = {"job_title": deed.value, "company": COMPANIES[number % len(COMPANIES)], "updated_at": at}
    if deed.trigger == "people.attended":
        told |= {"attended": True, "attendance_rate": 80, "attendance_duration": 2880}
    if deed.trigger == "people.watched_replay":
        told |= {"has_viewed_replay": True, "replay_view_detail": {"watched_at": at}}
    if deed.fate == "staff":
        told["role"] = "team_member"
    attributes = livestorm.person(session.id, session.event, spelled or None, **told)
    return _webhook(deed.at, workspace, deed.trigger, "people", deed.person, attributes, deed)


def _webhook(
    at: float, workspace: Workspace, trigger: str, type: str, id: str, attributes: Mapping[str, Any], deed: Deed | None = None
) -> Webhook:
    return Webhook(at, workspace.id, livestorm.encode(livestorm.body(workspace.organization, trigger, type, id, attributes)), deed)


def _delivered(draw: random.Random, told: list[Webhook], seconds: float) -> Iterator[Webhook]:
    """Some come late, and so after what happened later; some come again."""
    for webhook in told:
        late = draw.random() < LATE
        first = dataclasses.replace(webhook, at=webhook.at + (draw.uniform(2, 15) if late else draw.random()), late=late)
        yield first
        if draw.random() < REPEATED:
            yield dataclasses.replace(first, at=first.at + draw.uniform(0.5, min(90.0, max(5.0, seconds * 0.3))), repeat=True)
