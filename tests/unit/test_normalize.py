"""normalize as a pure step over rows that the test gives."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import messages
from pipeline.messages import Message
from pipeline.outcomes import Batch, Drop, Emit, Out, Outcome, Reject, Retry, Wait
from pipeline.records import Record
from schemas import livestorm
from schemas.messages import Cause, Received, Registration, Session
from schemas.settings import FieldRule, Livestorm, Mapping, Workspace
from schemas.tables import EventRow, SessionRow
from stages.ingress import received as record_of
from stages.livestorm import sessions, webhook
from stages.livestorm.errors import LivestormError, LivestormUnavailable, TokenRefused
from stages.normalize import TOLD, Normalize

NOW = 1_793_000_000
SIGNED = NOW - 5
CONNECTED = 1_790_000_000


class Rows(dict[str, bytes]):
    """A table that the test fills."""


class Api:
    """Livestorm's API, as far as it has these."""

    def __init__(self, error: LivestormError | None = None, **resources: livestorm.Resource[Any]) -> None:
        self.error, self.resources = error, resources
        self.asked: list[str] = []

    async def _get(self, id: str) -> Any:
        self.asked.append(id)
        if self.error is not None:
            raise self.error
        return self.resources.get(id)

    async def session(self, workspace: Workspace, session: str) -> livestorm.Resource[livestorm.Session] | None:
        found: livestorm.Resource[livestorm.Session] | None = await self._get(session)
        return found

    async def event(self, workspace: Workspace, event: str) -> livestorm.Resource[livestorm.Event] | None:
        found: livestorm.Resource[livestorm.Event] | None = await self._get(event)
        return found


def workspace(**changes: Any) -> Workspace:
    told = Livestorm(organization_id="0a1b", webhook_secret="x", api_token=changes.pop("token", "token"))
    return Workspace(id="acme", org="acme-prod", livestorm=told, connected_at=CONNECTED, **changes)


class World:
    """The step with its tables; S1 of E1 is upcoming and known unless the test says otherwise."""

    def __init__(self, settings: Workspace | None = None, api: Api | None = None, *, session: SessionRow | None = None) -> None:
        self.settings = settings or workspace()
        self.workspaces, self.events, self.sessions = Rows(acme=msgspec.json.encode(self.settings)), Rows(), Rows()
        self.api = api
        self.now = float(NOW)
        self.events["E1"] = msgspec.json.encode(EventRow(id="E1", title="Season opener", updated_at=5, language="fr"))
        row = session or SessionRow(
            id="S1",
            orgs=("acme-prod",),
            workspace="acme",
            event="E1",
            status="upcoming",
            timezone="Europe/Paris",
            estimated_started_at=NOW + 900,
        )
        self.sessions["S1"] = msgspec.json.encode(row)
        self.step = Normalize(self.workspaces, self.events, self.sessions, ask=api, session_wait_seconds=86_400.0, clock=lambda: self.now)

    async def run(self, *batch: Message) -> list[Outcome]:
        outcomes = list(await self.step(Batch("acme-prod", batch, lambda: None)))
        assert len(outcomes) == len(batch)
        return outcomes

    async def one(self, message: Message) -> Outcome:
        (outcome,) = await self.run(message)
        return outcome

    async def tell(self, message: Message) -> Outcome:
        """Runs it, and writes the rows as the engine would."""
        outcome = await self.one(message)
        for row in getattr(outcome, "rows", ()):
            table = {"sessions": self.sessions, "events": self.events}[row.table]
            table[row.key] = row.value
        return outcome

    @property
    def session(self) -> SessionRow:
        return msgspec.json.decode(self.sessions["S1"], type=SessionRow)


def body(event: str, id: str, attributes: dict[str, Any]) -> bytes:
    meta = {"webhook": {"event": event, "organization_id": "0a1b"}}
    return msgspec.json.encode({"data": {"id": id, "attributes": attributes, "meta": meta}})


def message(event: str, id: str, attributes: dict[str, Any], **at: int) -> Message:
    """What the ingress makes of a webhook, as normalize reads it."""
    return incoming(body(event, id, attributes), **at)


def incoming(raw: bytes, **at: int) -> Message:
    taken = webhook.take(workspace(), raw, signed_at=at.get("signed_at", SIGNED) * 1000, received_at=NOW * 1000)
    assert isinstance(taken, webhook.Taken), taken
    outgoing = record_of(taken)
    return Message(Record("received", 0, 0, 0, outgoing.key, outgoing.value, outgoing.headers))


def followed(out: Out) -> Message:
    """What an output is when it comes back in."""
    return Message(Record(out.topic, 0, 0, 0, (out.key or "").encode(), out.value, out.headers or ()))


def person(event: str = "people.registered", detail: dict[str, Any] | None = None, **changes: Any) -> Message:
    told = {"session_id": "S1", "event_id": "E1", "updated_at": NOW - 60, **(detail or {})}
    attributes = {"role": "participant", "email": "ana@mill.example", "first_name": "Ana", "registrant_detail": told, **changes}
    return message(event, "p1", attributes)


def session(event: str = "session.created", id: str = "S1", **changes: Any) -> Message:
    attributes = {
        "event_id": "E1",
        "status": "upcoming",
        "timezone": "Europe/Paris",
        "estimated_started_at": NOW + 900,
        "updated_at": NOW - 50,
        **changes,
    }
    return message(event, id, attributes)


def registration(outcome: Outcome) -> Registration:
    assert isinstance(outcome, Emit), outcome
    (out,) = outcome.outs
    assert (out.topic, out.key) == ("normalized", None)
    return msgspec.json.decode(out.value, type=Registration)


def dropped(outcome: Outcome) -> str:
    assert isinstance(outcome, Drop), outcome
    return outcome.reason


def rejected(outcome: Outcome) -> str:
    assert isinstance(outcome, Reject), outcome
    assert all(cause.message and cause.hint for cause in outcome.causes)
    return outcome.causes[0].code


async def test_a_registration_goes_on_under_its_address() -> None:
    message = person(detail={"fields": [{"id": "company", "value": "Acme"}, {"id": "team_size", "value": ["1", "2"], "custom": True}]})
    outcome = await World().one(message)
    told = registration(outcome)
    assert (told.action, told.email, told.person, told.session, told.event) == ("registered", "ana@mill.example", "p1", "S1", "E1")
    assert (told.workspace, told.org, told.id) == ("acme", "acme-prod", message.id)
    assert told.happened_at == (NOW - 60) * 1000
    assert told.attributes["company"] == "Acme"
    assert told.attributes["team_size"] == ["1", "2"]
    assert told.attributes["first_name"] == "Ana"
    assert told.attributes["event_title"] == "Season opener"
    assert isinstance(outcome, Emit)
    follows = followed(outcome.outs[0])
    assert (follows.id, follows.kind, follows.session, follows.event, follows.workspace) == (
        message.id,
        "registration",
        "S1",
        "E1",
        "acme",
    )
    assert (follows.happened_at, follows.received_at, follows.schema) == (told.happened_at, NOW * 1000, 1)


async def test_what_was_not_told_is_not_made_up() -> None:
    told = registration(
        await World().one(person(last_name="  ", detail={"fields": [{"id": "company", "value": None}, {"id": "city", "value": ""}]}))
    )
    assert not {"last_name", "company", "city", "utm_source", "attendance_minutes", "attended"} & told.attributes.keys()


async def test_numbers_that_come_as_text_are_understood() -> None:
    """F11."""
    detail = {
        "attendance_duration": "1800",
        "attendance_rate": "87.5",
        "created_at": 1793507400.0,
        "fields": [{"id": "vip", "value": True}, {"id": "seats", "value": 12}],
        "unknown": {"deep": 1},
    }
    told = registration(await World().one(person("people.attended", detail=detail, replay_view_detail={}, brand_new=[1])))
    assert told.attributes["attendance_duration"] == 1800
    assert told.attributes["attendance_minutes"] == 30
    assert told.attributes["attendance_rate"] == 87.5
    assert told.attributes["registered_at"] == "2026-11-01T04:30:00Z"
    assert (told.attributes["vip"], told.attributes["seats"]) == (True, 12)
    assert told.trail == ()


async def test_an_odd_value_costs_the_value_and_not_the_person() -> None:
    """F11: what was left out is told by its path."""
    detail = {
        "attendance_rate": "a lot",
        "attended": [],
        "fields": [{"id": "x", "value": {"a": 1}}, "no field", {"id": "city", "value": "Brest"}],
    }
    told = registration(await World().one(person("people.attended", detail=detail, questions_count={}, replay_view_detail="?")))
    assert told.attributes["city"] == "Brest"
    (written,) = told.trail
    below = "$.data.attributes.registrant_detail"
    assert set(written.left_out) == {
        f"{below}.attendance_rate", f"{below}.attended", f"{below}.fields[0].value", f"{below}.fields[1]", "$.data.attributes.questions_count",
    }  # fmt: skip


ODD: tuple[Any, ...] = (None, [], {}, "", True, 5, "x", {"webhook": {}}, [None])
"""What nobody expects in a place that holds something else."""
NEEDED = {"data.id", "data.attributes", "data.attributes.registrant_detail", "data.attributes.registrant_detail.session_id"}
"""Without these nobody knows who did what where."""
PLACES = [
    place
    for parent, shape in (
        ("", livestorm.Webhook),
        ("data.", livestorm.Resource),
        ("data.attributes.", livestorm.Person),
        ("data.attributes.registrant_detail.", livestorm.RegistrantDetail),
    )
    for field in msgspec.structs.fields(shape)
    if (place := parent + field.name) not in NEEDED | {"data"}
] + ["meta", "data.meta", "data.type", "data.attributes.created_at"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("event", sorted(webhook.ACTIONS))
async def test_whatever_stands_in_a_place_that_nobody_needs_the_person_is_synced(event: str, place: str) -> None:
    """F11."""
    for odd in ODD:
        told = {"session_id": "S1", "event_id": "E1", "updated_at": NOW - 60, "fields": [{"id": "email", "value": "ana@mill.example"}]}
        attributes = {"email": "ana@mill.example", "first_name": "Ana", "registrant_detail": told}
        whole = msgspec.json.decode(body(event, "p1", attributes))
        whole["meta"] = whole["data"]["meta"]
        target = whole
        *way, name = place.split(".")
        for step in way:
            target = target[step]
        target[name] = odd
        outcome = await World().one(incoming(msgspec.json.encode(whole)))
        if (name, odd) == ("is_guest_speaker", True):
            assert dropped(outcome) == "guest_speaker"
        else:
            synced = registration(outcome)
            assert (synced.email, synced.session, synced.event) == ("ana@mill.example", "S1", "E1"), odd
            assert synced.happened_at <= SIGNED * 1000, odd


@pytest.mark.parametrize("odd", ["nan", "inf", 1e300, -(10**15), NOW * 1000, "", "soon", "2026-11-01T04:30:00Z", True, {}, [1]])
async def test_a_time_that_is_no_moment_costs_that_value_and_nobody(odd: Any) -> None:
    """Milliseconds among them; the person is synced, and what was left out is named."""
    detail = {"created_at": odd, "updated_at": odd}
    told = registration(await World().one(person("people.watched_replay", detail=detail, replay_view_detail={"watched_at": odd})))
    assert told.happened_at == SIGNED * 1000
    assert not {"registered_at", "replay_watched_at"} & told.attributes.keys()
    left_out = {path: why for written in told.trail for path, why in written.left_out.items()}
    paths = ("$.data.attributes.registrant_detail.created_at", "$.data.attributes.replay_view_detail.watched_at")
    assert left_out == ({} if odd == "" else dict.fromkeys(paths, "expected Unix seconds"))


async def test_what_is_said_to_have_happened_after_it_was_signed_happened_when_it_was_signed() -> None:
    """Else every later event would only fill blanks, for ever."""
    ahead = 9_999_999_999
    assert registration(await World().one(person(detail={"updated_at": ahead}, updated_at=ahead))).happened_at == SIGNED * 1000
    assert registration(await World().one(person(detail={"updated_at": ahead}, updated_at=NOW - 70))).happened_at == (NOW - 70) * 1000
    ended = SessionRow(id="S1", workspace="acme", event="E1", status="past", ended_at=ahead, orgs=("acme-prod",))
    assert registration(await World(session=ended).one(person("people.attended"))).happened_at == SIGNED * 1000
    watched = {"watched_at": ahead}
    assert registration(await World().one(person("people.watched_replay", replay_view_detail=watched))).happened_at == SIGNED * 1000


async def test_a_session_or_an_event_that_is_said_to_have_changed_after_it_was_signed_can_change_again() -> None:
    world = World()
    await world.tell(session(name="first", updated_at=9_999_999_999, estimated_started_at=NOW + 86_400))
    assert (world.session.updated_at, world.session.estimated_started_at) == (SIGNED, NOW + 86_400)
    await world.tell(session(name="second", updated_at=SIGNED + 1))
    assert world.session.name == "second"
    await world.tell(message("event.published", "E1", {"title": "First", "updated_at": 9_999_999_999}))
    await world.tell(message("event.published", "E1", {"title": "Second", "updated_at": SIGNED + 1}))
    assert msgspec.json.decode(world.events["E1"], type=EventRow).title == "Second"


async def test_of_a_session_and_an_event_only_what_names_them_has_to_be_right() -> None:
    shapes: dict[str, Any] = {"session.created": livestorm.Session, "event.published": livestorm.Event}
    for event, shape in shapes.items():
        for field, odd in itertools.product(msgspec.structs.fields(shape), ODD):
            attributes = {"event_id": "E1", "title": "Season opener", "updated_at": NOW - 50, field.name: odd}
            outcome = await World().tell(message(event, "S1" if shape is livestorm.Session else "E1", attributes))
            assert not isinstance(outcome, Reject), (event, field.name, odd, outcome)


async def test_a_title_holds_no_control_characters() -> None:
    world = World()
    await world.tell(message("event.created", "E2", {"title": "\x00", "slug": "Season\x00 opener\x1f"}))
    assert msgspec.json.decode(world.events["E2"], type=EventRow).title == "Season opener"


async def test_zeros_of_engagement_say_nothing_at_registration() -> None:
    detail = {"attendance_duration": 0, "attended": False, "attendance_rate": None}
    early = registration(await World().one(person(detail=detail, messages_count=0)))
    assert not {"attendance_duration", "attendance_minutes", "attended", "messages_count"} & early.attributes.keys()
    after = registration(await World().one(person("people.not_attended", detail=detail, messages_count=0)))
    assert (after.attributes["attendance_minutes"], after.attributes["attended"], after.attributes["messages_count"]) == (0, False, 0)


async def test_what_is_no_address_is_told_in_the_cause() -> None:
    outcome = await World().one(person(email=" not an email "))
    assert isinstance(outcome, Reject)
    assert outcome.causes[0].message == "'not an email' is no email address: people are matched by email alone"


@pytest.mark.parametrize("address", [None, "", "   ", "n/a"])
async def test_without_an_address_it_is_rejected_with_a_cause(address: str | None) -> None:
    """F13; the others of the batch go on."""
    outcomes = await World().run(person(email=address), person())
    assert rejected(outcomes[0]) == "no_email"
    assert registration(outcomes[1]).email == "ana@mill.example"


async def test_an_address_that_is_only_in_the_answers_is_used() -> None:
    """F13."""
    told = registration(await World().one(person(email=None, detail={"fields": [{"id": "email", "value": " Only@Fields.Example "}]})))
    assert (told.email, told.attributes["email"]) == ("only@fields.example", "only@fields.example")


@pytest.mark.parametrize("detail", [None, {"session_id": None}])
async def test_without_a_session_it_is_rejected_with_a_cause(detail: Any) -> None:
    """F12: registrant_detail null."""
    attributes = {"email": "ana@mill.example", "registrant_detail": detail}
    assert rejected(await World().one(message("people.registered", "p1", attributes))) == "no_registration"


@pytest.mark.parametrize("watched", [{"watched_at": NOW - 30}, {"watched_at": str(NOW - 30)}])
async def test_a_replay_happened_when_it_was_watched(watched: Any) -> None:
    """F12."""
    told = registration(await World().one(person("people.watched_replay", replay_view_detail=watched)))
    assert (told.action, told.happened_at) == ("watched_replay", (NOW - 30) * 1000)


@pytest.mark.parametrize("watched", [{}, None, [], "yes"])
async def test_a_replay_without_its_time_happened_when_it_was_signed(watched: Any) -> None:
    assert registration(await World().one(person("people.watched_replay", replay_view_detail=watched))).happened_at == SIGNED * 1000


async def test_attendance_on_demand_happened_when_it_was_told() -> None:
    going_on = SessionRow(id="S1", workspace="acme", event="E1", status="on_demand", ended_at=CONNECTED - 400, orgs=("acme-prod",))
    assert registration(await World(session=going_on).one(person("people.attended"))).happened_at == SIGNED * 1000


async def test_attendance_happened_at_the_sessions_end() -> None:
    ended = SessionRow(id="S1", workspace="acme", event="E1", status="past", ended_at=NOW - 400, orgs=("acme-prod",))
    for event in ("people.attended", "people.not_attended"):
        assert registration(await World(session=ended).one(person(event))).happened_at == (NOW - 400) * 1000
        assert registration(await World().one(person(event))).happened_at == SIGNED * 1000


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"role": "team_member"}, "staff"),
        ({"registrant_detail": {"session_id": "S1", "is_guest_speaker": True}}, "guest_speaker"),
        ({"email": "x17@unknown.livestorm.co"}, "invented_address"),
        ({"email": "x17@Unknown.Livestorm.CO"}, "invented_address"),
    ],
)
async def test_who_is_no_registrant_is_dropped(changes: dict[str, Any], reason: str) -> None:
    attributes = {"email": "ana@mill.example", "registrant_detail": {"session_id": "S1"}, **changes}
    assert dropped(await World().one(message("people.registered", "p1", attributes))) == reason


async def test_a_domain_that_only_ends_alike_is_somebodys_own() -> None:
    assert registration(await World().one(person(email="a@notunknown.livestorm.co.example"))).email == "a@notunknown.livestorm.co.example"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"enabled": False}, "disabled"),
        ({"plan": "pro"}, "not_entitled"),
        ({"salesforce_addon": False}, "not_entitled"),
    ],
)
async def test_a_workspace_that_may_not_is_dropped_and_its_rows_are_kept(changes: dict[str, Any], reason: str) -> None:
    world = World(workspace(**changes))
    assert dropped(await world.one(person())) == reason
    assert dropped(await world.one(person(email=None))) == reason
    assert dropped(await world.tell(session(name="kept"))) == reason
    assert world.session.name == "kept"
    assert dropped(await world.tell(message("event.created", "E2", {"title": "Kept"}))) == reason
    assert "E2" in world.events


async def test_the_plan_is_read_without_regard_to_case() -> None:
    assert registration(await World(workspace(plan=" Enterprise")).one(person())).email


async def test_a_session_that_ended_before_the_connection_is_past() -> None:
    past = SessionRow(id="S1", workspace="acme", event="E1", status="past", ended_at=CONNECTED - 1)
    assert dropped(await World(session=past).one(person())) == "past_session"
    just = SessionRow(id="S1", workspace="acme", event="E1", status="past", ended_at=CONNECTED, orgs=("acme-prod",))
    assert registration(await World(session=just).one(person())).session == "S1"


async def test_a_breakout_room_is_no_session() -> None:
    world = World()
    assert dropped(await world.tell(session(breakout_room_parent_session_id="S0"))) == "breakout_room"
    assert world.session.breakout
    assert dropped(await world.one(person())) == "breakout_room"


async def test_an_unknown_session_is_waited_for_and_asked_for() -> None:
    """The engine asks once for all who wait, and again after a while."""
    world = World()
    outcomes = await world.run(*(person(email=f"a{count}@mill.example", detail={"session_id": "S9"}) for count in range(3)))
    waits = [outcome for outcome in outcomes if isinstance(outcome, Wait)]
    assert len(waits) == 3
    assert {(wait.table, wait.key, wait.seen, wait.longest_seconds) for wait in waits} == {("sessions", "S9", None, 86_400.0)}
    assert {wait.again_seconds for wait in waits} == {300}
    for wait in waits:
        (wanted,) = wait.outs
        assert (wanted.topic, wanted.key) == ("received", "session:S9")
        asks = followed(wanted)
        assert (asks.kind, asks.session, asks.event, asks.workspace) == ("session", "S9", "E1", "acme")


@pytest.mark.parametrize(("token", "words"), [("token", "Turnout asks Livestorm, and"), ("", "Set livestorm.api_token")])
async def test_who_waits_for_a_session_is_told_to_set_a_token_only_where_there_is_none(token: str, words: str) -> None:
    outcome = await World(workspace(token=token)).one(person(detail={"session_id": "S9"}))
    assert isinstance(outcome, Wait)
    assert outcome.cause.hint.startswith(words)
    assert "retry" not in outcome.cause.hint, "it waits: there is nothing to retry"


async def wanted_session(world: World) -> Message:
    outcome = await world.one(person(detail={"session_id": "S9"}))
    assert isinstance(outcome, Wait)
    return followed(outcome.outs[0])


async def test_a_wanted_session_is_fetched_by_its_one_writer() -> None:
    api = Api(S9=livestorm.Resource("S9", livestorm.Session(event_id="E1", status="live", updated_at=7)))
    world = World(api=api)
    outcome = await world.tell(await wanted_session(world))
    assert isinstance(outcome, Emit)
    assert [row.key for row in outcome.rows] == ["S9"]
    told = msgspec.json.decode(outcome.outs[0].value, type=Session)
    assert (told.session, told.event, told.title, told.updated_at) == ("S9", "E1", "Season opener", 7)
    assert registration(await world.one(person(detail={"session_id": "S9"}))).session == "S9"
    assert api.asked == ["S9"]


async def test_a_wanted_session_that_is_known_by_now_is_not_asked_for() -> None:
    api = Api()
    world = World(api=api)
    wanted = await wanted_session(world)
    world.sessions["S9"] = world.sessions["S1"]
    assert dropped(await world.one(wanted)) == "already_known"
    assert not api.asked


async def test_without_a_token_nobody_is_asked() -> None:
    api = Api()
    world = World(api=api)
    wanted = await wanted_session(world)
    world.workspaces["acme"] = msgspec.json.encode(workspace(token=""))
    assert dropped(await world.one(wanted)) == "no_token"
    waiting = await world.one(person(detail={"session_id": "S9"}))
    assert isinstance(waiting, Wait)
    assert (waiting.outs, api.asked) == ((), [])


async def test_what_livestorm_does_not_have_is_dropped() -> None:
    world = World(api=Api())
    assert dropped(await world.one(await wanted_session(world))) == "session_not_found"


async def test_while_livestorm_is_down_it_is_asked_again_later() -> None:
    world = World(api=Api(LivestormUnavailable(Cause("livestorm_unavailable", "503", (), "wait"), status=503, retry_after_seconds=40.0)))
    outcome = await world.one(await wanted_session(world))
    assert isinstance(outcome, Retry)
    assert (outcome.after_seconds, outcome.free) == (40.0, True)
    world.now += 86_500
    late = await world.one(await wanted_session(World(api=world.api)))
    assert dropped(late) == "no_longer_wanted"


async def test_a_refused_token_is_a_dead_letter_with_its_hint() -> None:
    world = World(api=Api(TokenRefused(Cause("livestorm_token_refused", "401", (), "make a new one"), status=401)))
    wanted = await wanted_session(world)
    assert rejected(await world.one(wanted)) == "livestorm_token_refused"
    assert await world.one(wanted) == Drop("livestorm_token_refused"), "one dead letter says it, however often it is asked"
    world.workspaces["acme"] = msgspec.json.encode(workspace(token="another"))
    assert rejected(await world.one(wanted)) == "livestorm_token_refused"


async def test_a_session_goes_on_with_its_row() -> None:
    world = World()
    outcome = await world.tell(session(status="upcoming", name=" Morning "))
    assert isinstance(outcome, Emit)
    (out,) = outcome.outs
    told = msgspec.json.decode(out.value, type=Session)
    assert (out.topic, told.session, told.event, told.workspace, told.org) == ("normalized", "S1", "E1", "acme", "acme-prod")
    assert (told.title, told.updated_at) == ("Season opener", NOW - 50)
    assert (world.session.name, world.session.timezone, world.session.workspace) == ("Morning", "Europe/Paris", "acme")


async def test_a_session_whose_event_is_unknown_has_its_row_at_once_and_its_campaign_waits() -> None:
    world = World()
    del world.events["E1"]
    first = await world.tell(session(name="known"))
    assert isinstance(first, Emit)
    assert world.session.name == "known"
    assert registration(await world.one(person())).session == "S1"
    (out,) = first.outs
    assert (out.topic, out.key) == ("received", "session:S1")
    told = followed(out)
    assert msgspec.json.decode(told.value, type=Received).trigger == TOLD
    waiting = await world.one(told)
    assert isinstance(waiting, Wait)
    assert (waiting.table, waiting.key, waiting.longest_seconds) == ("events", "E1", 86_400.0)
    (wanted,) = waiting.outs
    assert (wanted.topic, wanted.key) == ("received", "event:E1")
    late = await world.tell(message("event.created", "E1", {"title": "Late"}))
    assert isinstance(late, Emit)
    assert [(out.topic, out.key) for out in late.outs] == [("received", "session:S1")], "also if its session was refused meanwhile"
    assert isinstance(await world.one(followed(late.outs[0])), Emit)
    after = await world.one(told)
    assert isinstance(after, Emit)
    assert msgspec.json.decode(after.outs[0].value, type=Session).title == "Late"


async def test_a_wanted_event_is_fetched() -> None:
    api = Api(E1=livestorm.Resource("E1", livestorm.Event(title="From the API", fields=[{"id": "email"}, {"id": "company"}, 5])))
    world = World(api=api)
    del world.events["E1"]
    told = await world.tell(session())
    assert isinstance(told, Emit)
    waiting = await world.one(followed(told.outs[0]))
    assert isinstance(waiting, Wait)
    outcome = await world.tell(followed(waiting.outs[0]))
    assert isinstance(outcome, Emit)
    row = msgspec.json.decode(world.events["E1"], type=EventRow)
    assert (row.title, row.fields) == ("From the API", ("email", "company"))


async def test_an_event_ends_its_way_and_an_older_one_changes_nothing() -> None:
    world = World()
    outcome = await world.tell(message("event.published", "E2", {"title": "New", "language": "de", "updated_at": 20}))
    assert isinstance(outcome, Emit)
    assert (outcome.outs, outcome.reason) == ((), "event_known")
    await world.tell(message("event.created", "E2", {"title": "Old", "updated_at": 19}))
    assert msgspec.json.decode(world.events["E2"], type=EventRow) == EventRow(id="E2", title="New", language="de", updated_at=20)


async def test_an_event_without_a_title_is_called_by_what_it_has() -> None:
    world = World()
    await world.tell(message("event.created", "E2", {"title": " ", "slug": "season-opener"}))
    assert msgspec.json.decode(world.events["E2"], type=EventRow).title == "season-opener"


async def test_a_renamed_event_tells_no_session_of_another_organization() -> None:
    """Ids are Livestorm's, and unique; where another organization's workspace has the same one, its orgs are told nothing."""
    world = World()
    other = Workspace(id="other", org="other-org", livestorm=Livestorm(organization_id="9f8e", webhook_secret="x"))
    world.workspaces["other"] = msgspec.json.encode(other)
    world.sessions["S2"] = msgspec.json.encode(SessionRow(id="S2", orgs=("other-org",), workspace="other", event="E1", status="upcoming"))
    outcome = await world.tell(message("event.published", "E1", {"title": "Renamed", "updated_at": NOW}))
    assert isinstance(outcome, Emit)
    assert [out.key for out in outcome.outs] == ["session:S1"]


async def test_a_renamed_event_tells_each_of_its_sessions_again() -> None:
    world = World()
    world.sessions["S2"] = msgspec.json.encode(SessionRow(id="S2", workspace="acme", event="E1", status="live"))
    world.sessions["S3"] = msgspec.json.encode(SessionRow(id="S3", workspace="acme", event="E3", status="live"))
    before = world.events["E1"]
    outcome = await world.tell(message("event.polled", "E1", {"title": "Grand opener", "updated_at": 30}))
    assert isinstance(outcome, Emit)
    assert {out.key for out in outcome.outs} == {"session:S1", "session:S2"}
    told = followed(outcome.outs[0])
    new, world.events["E1"] = world.events["E1"], before
    behind = await world.one(told)
    assert isinstance(behind, Wait)
    assert (behind.table, behind.key, behind.seen) == ("events", "E1", before)
    world.events["E1"] = new
    after = await world.one(told)
    assert isinstance(after, Emit)
    assert msgspec.json.decode(after.outs[0].value, type=Session).title == "Grand opener"


async def test_a_session_that_was_told_while_its_workspace_was_closed_is_told_when_it_opens() -> None:
    world = World(workspace(enabled=False), session=SessionRow(id="S1", workspace="acme", event="E1", status="upcoming"))
    assert dropped(await world.tell(session())) == "disabled"
    world.workspaces["acme"] = msgspec.json.encode(workspace())
    outcomes = await world.run(*(person(email=f"a{count}@mill.example") for count in range(3)))
    outs = [out for outcome in outcomes if isinstance(outcome, Emit) for out in outcome.outs]
    (told,) = [out for out in outs if out.topic == "received"]
    assert (told.key, len(outs)) == ("session:S1", 4)
    after = await world.tell(followed(told))
    assert isinstance(after, Emit)
    assert msgspec.json.decode(after.outs[0].value, type=Session).org == "acme-prod"
    assert world.session.orgs == ("acme-prod",)
    world.now += 1_000
    assert registration(await world.one(person())).session == "S1"


async def test_a_session_whose_workspace_has_moved_is_told_in_the_new_org_too() -> None:
    world = World(session=SessionRow(id="S1", workspace="acme", event="E1", status="upcoming", orgs=("old-org",)))
    outcome = await world.one(person())
    assert isinstance(outcome, Emit)
    await world.tell(followed(outcome.outs[1]))
    assert world.session.orgs == ("old-org", "acme-prod")
    await world.tell(session(name="later", updated_at=NOW))
    assert (world.session.name, world.session.orgs) == ("later", ("old-org", "acme-prod"))


async def test_a_mapping_that_needs_the_event_waits_for_it() -> None:
    world = World()
    del world.events["E1"]
    assert registration(await world.one(person())).attributes.get("event_title") is None
    needs = World(workspace(mapping=Mapping(campaign_member={"Title__c": FieldRule(source="event_title")})))
    del needs.events["E1"]
    waiting = await needs.one(person())
    assert isinstance(waiting, Wait)
    assert (waiting.table, waiting.key) == ("events", "E1")


async def test_a_workspace_whose_settings_have_not_come_yet_is_waited_for() -> None:
    world = World()
    del world.workspaces["acme"]
    outcome = await world.one(person())
    assert isinstance(outcome, Wait)
    assert (outcome.table, outcome.key, outcome.cause.code) == ("workspaces", "acme", "unknown_workspace")


async def test_what_cannot_be_read_harms_nobody_else() -> None:
    world = World()
    broken = Message(Record("received", 0, 0, 0, b"k", b"\xff", messages.headers(
        id="i", kind="registration", workspace="acme", org="acme-prod", session="S1", event="E1", happened_at=1, received_at=1, schema=1,
    )))  # fmt: skip
    outcomes = await world.run(broken, person())
    assert rejected(outcomes[0]) == "unreadable"
    assert registration(outcomes[1]).email


async def test_a_row_that_cannot_be_read_is_made_anew() -> None:
    world = World()
    world.sessions["S1"] = b"broken"
    waiting = await world.one(person())
    assert isinstance(waiting, Wait)
    assert waiting.seen == b"broken"
    await world.tell(session())
    assert registration(await world.one(person())).session == "S1"


async def test_a_workspaces_row_that_cannot_be_read_is_waited_for_as_long_as_it_takes() -> None:
    world = World()
    world.workspaces["acme"] = b'{"id":5}'
    outcome = await world.one(person())
    assert isinstance(outcome, Wait)
    assert (outcome.table, outcome.key, outcome.seen, outcome.longest_seconds) == ("workspaces", "acme", b'{"id":5}', None)
    world.workspaces["acme"] = msgspec.json.encode(workspace())
    assert registration(await world.one(person())).email


async def test_the_mark_of_a_replay_stays() -> None:
    message = person()
    replayed = Message(msgspec.structs.replace(message.record, headers=(*message.record.headers, (messages.REPLAY, b"r1"))))
    outcome = await World().one(replayed)
    assert isinstance(outcome, Emit)
    assert followed(outcome.outs[0]).replay == "r1"


# Rows of sessions: what is true does not go back


def snapshot(**values: Any) -> SessionRow:
    return SessionRow(**{"id": "S1", "workspace": "acme", "event": "E1", "status": "upcoming", **values})


def test_an_older_snapshot_changes_nothing_that_is_newer() -> None:
    newer = snapshot(updated_at=20, estimated_started_at=900, name="new")
    older = snapshot(updated_at=10, estimated_started_at=100, name="old", timezone="Asia/Tokyo")
    assert sessions.merge(newer, older, connected_at=0) == newer


def test_a_later_snapshot_reschedules() -> None:
    row = sessions.merge(
        snapshot(updated_at=10, estimated_started_at=100), snapshot(updated_at=20, estimated_started_at=900), connected_at=0
    )
    assert row.estimated_started_at == 900


def test_started_and_ended_count_whatever_the_body_says() -> None:
    resource = livestorm.Resource("S1", livestorm.Session(event_id="E1", status="upcoming", updated_at=10))
    started = sessions.snapshot(resource, "session.started", workspace="acme", signed_at=100)
    ended = sessions.snapshot(resource, "session.ended", workspace="acme", signed_at=200)
    assert (started.status, started.started_at) == ("live", 100)
    assert (ended.status, ended.ended_at) == ("past", 200)
    for first, second in ((started, ended), (ended, started)):
        row = sessions.merge(sessions.merge(None, first, connected_at=0), second, connected_at=0)
        assert (row.status, row.started_at, row.ended_at) == ("past", 100, 200)


def test_a_live_session_that_is_canceled_and_an_on_demand_one_keep_their_names() -> None:
    assert (
        sessions.merge(
            snapshot(status="live", updated_at=1), snapshot(status="canceled", canceled_at=5, updated_at=2), connected_at=0
        ).status
        == "canceled"
    )
    resource = livestorm.Resource("S1", livestorm.Session(event_id="E1", status="on_demand", updated_at=10))
    assert sessions.snapshot(resource, "session.ended", workspace="acme", signed_at=5).status == "on_demand"


def test_a_session_on_demand_is_never_past_whatever_end_it_is_told_with() -> None:
    row = sessions.merge(None, snapshot(status="on_demand", ended_at=20, updated_at=1), connected_at=1000)
    assert (row.past, row.status) == (False, "on_demand")


def test_a_zone_that_nobody_knows_is_utc() -> None:
    for zone in ("Mars/Olympus", "", None, "../etc/passwd"):
        resource = livestorm.Resource("S1", livestorm.Session(event_id="E1", timezone=zone))
        assert sessions.snapshot(resource, "session.created", workspace="acme", signed_at=5).timezone == "UTC"


def test_an_event_may_stand_in_the_relationships() -> None:
    resource = livestorm.Resource("S1", livestorm.Session(), relationships={"event": {"data": {"id": "E7", "type": "events"}}})
    assert sessions.snapshot(resource, "session.created", workspace="acme", signed_at=5).event == "E7"


STATUSES = st.sampled_from(["draft", "upcoming", "live", "past", "past_not_started", "canceled", "on_demand", "brand_new"])
SNAPSHOTS = st.builds(
    snapshot, status=STATUSES, updated_at=st.integers(1, 5), started_at=st.sampled_from([0, 10]), ended_at=st.sampled_from([0, 20]),
    estimated_started_at=st.integers(1, 3),
)  # fmt: skip


@given(st.lists(SNAPSHOTS, min_size=1, max_size=6))
def test_repeats_change_nothing_and_the_end_is_never_forgotten(told: list[SessionRow]) -> None:
    row: SessionRow | None = None
    ended = False
    for fresh in told:
        before = row
        row = sessions.merge(row, fresh, connected_at=0)
        assert sessions.merge(row, fresh, connected_at=0) == row
        assert before is None or row.updated_at >= before.updated_at
        ended = ended or bool(fresh.ended_at)
        assert bool(row.ended_at) is ended
        assert not (ended and row.status in ("live", "upcoming", "draft"))


@given(st.lists(SNAPSHOTS, min_size=2, max_size=4, unique_by=lambda row: row.updated_at))
def test_the_order_of_arrival_does_not_matter_to_what_the_latest_says(told: list[SessionRow]) -> None:
    rows = []
    for order in itertools.permutations(told):
        row: SessionRow | None = None
        for fresh in order:
            row = sessions.merge(row, fresh, connected_at=15)
        assert row is not None
        rows.append((row.status, row.updated_at, row.started_at, row.ended_at, row.estimated_started_at, row.past))
    assert len(set(rows)) == 1


async def test_what_livestorm_answers_is_as_of_the_answer_however_old_the_question_is() -> None:
    """Else what it says would lie ahead, and count as not told."""
    api = Api(S9=livestorm.Resource("S9", livestorm.Session(event_id="E1", status="live", updated_at=NOW + 3_000)))
    world = World(api=api)
    wanted = await wanted_session(world)
    world.now += 3_600
    outcome = await world.tell(wanted)
    assert isinstance(outcome, Emit)
    assert msgspec.json.decode(world.sessions["S9"], type=SessionRow).updated_at == NOW + 3_000


async def test_the_longer_a_session_is_waited_for_the_seldomer_it_is_asked_for() -> None:
    world = World()
    first = await world.one(person(detail={"session_id": "S9"}))
    world.now += 7_200
    later = await world.one(person(detail={"session_id": "S9"}))
    world.now += 86_400
    last = await world.one(person(detail={"session_id": "S9"}))
    assert all(isinstance(each, Wait) for each in (first, later, last))
    assert [each.again_seconds for each in (first, later, last) if isinstance(each, Wait)] == [300, pytest.approx(7_200, abs=10), 21_600]
