"""normalize: Livestorm's shape to ours. Says who is not for Salesforce, keeps the rows of `events` and `sessions`; calls no Salesforce."""

import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Protocol

import anyio
import anyio.lowlevel
import msgspec

from pipeline import messages
from pipeline.messages import Message
from pipeline.outcomes import Batch, Drop, Emit, Out, Outcome, Reject, Retry, Table, Wait
from schemas import livestorm
from schemas.messages import SCHEMA, Cause, Received, Registration, Session, Written
from schemas.settings import Workspace
from schemas.tables import EventRow, SessionRow
from stages.livestorm import attributes, webhook
from stages.livestorm import sessions as livesessions
from stages.livestorm.errors import LivestormError, ScopeMissing, TokenRefused
from stages.recency import is_retry
from stages.rows import EVENTS, SESSIONS, WORKSPACES, Rows

STAGE: Final = "normalize"
TOLD: Final = "session.told"
"""Trigger of a session's second message: its row is written, and its event is waited for."""

_WORKSPACE_WAIT_SECONDS: Final = 60.0
"""Settings that were applied a moment ago may not have reached this worker yet."""
_TOLD_AGAIN_SECONDS: Final = 60.0
"""A session is told in another org at most this often by one worker."""
_ASKED_AGAIN_SECONDS: Final = (300.0, 21_600.0)
"""Livestorm is asked again for what it did not know after as long as was waited already, within these: calls to it are few."""
_REMEMBERED: Final = 50_000
_SCANNED_AT_ONCE: Final = 20_000
"""Rows that are gone through before others get their turn."""


class Told(msgspec.Struct, omit_defaults=True):
    """Body of a session's second message."""

    event_updated_at: int = 0
    """Unix s: the row of `events` must be at least as new."""


class Ask(Protocol):
    """Livestorm's REST API, for what webhooks did not tell. Raises LivestormError; None: Livestorm has no such thing (404)."""

    async def session(self, workspace: Workspace, session: str) -> livestorm.Resource[livestorm.Session] | None: ...

    async def event(self, workspace: Workspace, event: str) -> livestorm.Resource[livestorm.Event] | None: ...


class ScannedTable(Table, Protocol):
    """A table that can also be gone through."""

    def items(self) -> Iterable[tuple[str, bytes]]:
        """A snapshot of all rows."""


class Normalize:
    """The step. `session_wait_seconds`: longest wait of a person for a session or event that nobody has told of; `clock`: Unix seconds."""

    def __init__(
        self,
        workspaces: Table,
        events: Table,
        sessions: ScannedTable,
        *,
        ask: Ask | None = None,
        session_wait_seconds: float = 86_400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._workspaces = Rows(WORKSPACES, workspaces, Workspace)
        self._events = Rows(EVENTS, events, EventRow)
        self._sessions = Rows(SESSIONS, sessions, SessionRow)
        self._all_sessions = sessions
        self._ask = ask
        self._wait_seconds = session_wait_seconds
        self._clock = clock
        self._asked: dict[str, float] = {}
        self._useless: dict[str, tuple[Workspace, str]] = {}
        """Settings with whose token Livestorm's API can't be asked, and why: one dead letter has told it."""

    async def __call__(self, batch: Batch) -> Sequence[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(batch.messages)
        async with anyio.create_task_group() as asking:
            for place, message in enumerate(batch.messages):
                decided = self._decide(message)
                if isinstance(decided, Coroutine):
                    asking.start_soon(self._settle, outcomes, place, decided)
                else:
                    outcomes[place] = decided
        return [outcome for outcome in outcomes if outcome is not None]

    async def _settle(self, outcomes: list[Outcome | None], place: int, asking: Coroutine[Any, Any, Outcome]) -> None:
        outcomes[place] = await asking

    def _decide(self, message: Message) -> Outcome | Coroutine[Any, Any, Outcome]:
        try:
            received = _RECEIVED.decode(message.value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Reject((Cause("unreadable", f"The record of `received` can't be read: {error}", (), _UPDATE_HINT),))
        try:
            return self._workspace(message, received)
        except webhook.Refused as refused:
            return Reject((refused.cause,))

    def _workspace(self, message: Message, received: Received) -> Outcome | Coroutine[Any, Any, Outcome]:
        workspace = self._workspaces.get(received.workspace)
        if workspace is None:
            return self._wait_for_settings(received.workspace)
        if received.trigger == webhook.WANTED:
            return self._wanted(message, received, workspace)
        if received.trigger == TOLD:
            return self._told(message, received, workspace)
        match webhook.kind_of(received.trigger):
            case "registration":
                return self._registration(message, received, workspace)
            case "session":
                return self._session(message, received, workspace, _read(received, _SESSION))
            case "event":
                return self._event(message, received, workspace, _read(received, _EVENT))
            case None:
                return Drop("unknown_event")

    def _wait_for_settings(self, workspace: str) -> Wait:
        raw = self._workspaces.raw(workspace)
        if raw is None:
            cause = Cause(
                "unknown_workspace", f"There are no settings for workspace {workspace}", (), "Apply its settings, then retry the message."
            )
            return Wait(WORKSPACES, workspace, None, cause, longest_seconds=_WORKSPACE_WAIT_SECONDS)
        cause = Cause(
            "unreadable_row", f"The row of workspace {workspace} can't be read", (), "Apply its settings: that writes the row anew."
        )
        return Wait(WORKSPACES, workspace, raw, cause)

    # Registrations

    def _registration(self, message: Message, received: Received, workspace: Workspace) -> Outcome:
        if reason := closed(workspace):
            return Drop(reason)
        told = _read(received, _PERSON)
        person: livestorm.Person = told.attributes
        if reason := stranger(person):
            return Drop(reason)
        address = attributes.address_of(person)
        if address is None:
            told_instead = attributes.no_address(person)
            return Reject((_not_an_email(told_instead) if told_instead else _NO_EMAIL,))
        if attributes.is_invented(address):
            return Drop("invented_address")
        detail = person.registrant_detail
        if detail is None or not detail.session_id:
            return Reject((_NO_SESSION,))
        session = self._sessions.get(detail.session_id)
        if session is None:
            return self._wait_for_session(received, workspace, detail.session_id, livestorm.text(detail.event_id))
        if reason := livesessions.closed(session, workspace):
            return Drop(reason)
        event_id = session.event or livestorm.text(detail.event_id)
        event = self._events.get(event_id)
        if event is None and maps_event(workspace):
            return self._wait_for_event(received, workspace, session.id, event_id)
        return self._registered(message, received, told, address, session, event_id, event)

    def _registered(
        self,
        message: Message,
        received: Received,
        told: livestorm.Resource[livestorm.Person],
        address: str,
        session: SessionRow,
        event_id: str,
        event: EventRow | None,
    ) -> Emit:
        action = webhook.ACTIONS[received.trigger]
        values, odd = attributes.read(told.attributes, told.id, address, engaged=action != "registered")
        registration = Registration(
            id=received.id,
            action=action,
            workspace=received.workspace,
            org=received.org,
            session=session.id,
            event=event_id,
            email=address,
            person=told.id,
            happened_at=webhook.happened_at(
                received.trigger, told.attributes, session_ended_at=livesessions.end_of(session), signed_at=received.signed_at
            ),
            received_at=received.received_at,
            attributes=livesessions.context(session, event) | values,
            trail=(Written(stage=STAGE, at=self._now_ms(), left_out=odd),) if odd else (),
        )
        out = _out(message, "normalized", address, "registration", registration)
        return Emit((out, *self._untold(message, received, session)))

    def _untold(self, message: Message, received: Received, row: SessionRow) -> tuple[Out, ...]:
        """Has the session told in this org too, if it never was: else its registrants would wait for a Campaign that nobody makes."""
        if received.org in row.orgs or not self._ask_for(f"{received.org}|{row.id}"):
            return ()
        told = msgspec.structs.replace(received, id=f"{received.id}-session", trigger=TOLD, body=msgspec.Raw(b"{}"))
        return (_received(told, f"session:{row.id}", "session", row.id, row.event, message.happened_at, message.replay),)

    # Sessions

    def _session(self, message: Message, received: Received, workspace: Workspace, told: livestorm.Resource[livestorm.Session]) -> Outcome:
        known = self._sessions.get(told.id)
        fresh = livesessions.snapshot(told, received.trigger, workspace=received.workspace, signed_at=received.signed_at // 1000)
        if not fresh.event and not (known and known.event):
            return Reject((_NO_EVENT,))
        row = livesessions.merge(known, fresh, connected_at=workspace.connected_at)
        if reason := closed(workspace) or livesessions.closed(row, workspace):
            return Drop(reason, (self._sessions.row(row.id, row),))
        row = livesessions.told(row, received.org)
        rows = (self._sessions.row(row.id, row),)
        event = self._events.get(row.event)
        if event is None:
            # The row is for those who wait for the session, at once; its Campaign needs the event's title.
            told_message = msgspec.structs.replace(received, trigger=TOLD, body=msgspec.Raw(b"{}"))
            return Emit(
                (_received(told_message, f"session:{row.id}", "session", row.id, row.event, message.happened_at, message.replay),), rows
            )
        return Emit((self._session_out(message, received, row, event),), rows)

    def _told(self, message: Message, received: Received, workspace: Workspace) -> Outcome:
        row = self._sessions.get(message.session)
        if row is None:
            return self._wait_for_session(received, workspace, message.session, message.event)
        if reason := closed(workspace) or livesessions.closed(row, workspace):
            return Drop(reason)
        event = self._events.get(row.event)
        if event is None or event.updated_at < _TOLD.decode(received.body).event_updated_at:
            # Once it is told after all, it tells its sessions again.
            return self._wait_for_event(received, workspace, row.id, row.event)
        rows = () if received.org in row.orgs else (self._sessions.row(row.id, livesessions.told(row, received.org)),)
        return Emit((self._session_out(message, received, row, event),), rows)

    def _session_out(self, message: Message, received: Received, row: SessionRow, event: EventRow) -> Out:
        session = Session(
            id=received.id,
            session=row.id,
            event=row.event,
            workspace=received.workspace,
            org=received.org,
            happened_at=message.happened_at or received.signed_at,
            received_at=received.received_at,
            title=event.title,
            title_at=event.updated_at,
            updated_at=row.updated_at,
        )
        return _out(message, "normalized", f"session:{row.id}", "session", session)

    # Events

    def _event(
        self, message: Message, received: Received, workspace: Workspace, told: livestorm.Resource[livestorm.Event]
    ) -> Outcome | Coroutine[Any, Any, Outcome]:
        known = self._events.get(told.id)
        row = livesessions.event_row(told, known, signed_at=received.signed_at // 1000)
        rows = (self._events.row(row.id, row),)
        if reason := closed(workspace):
            return Drop(reason, rows)
        if known is None or known.title != row.title:
            return self._titled(message, received, workspace, row, "event_known" if known is None else "event_renamed")
        return Emit((), rows, reason="event_known")

    async def _titled(self, message: Message, received: Received, workspace: Workspace, row: EventRow, reason: str) -> Outcome:
        """The Campaigns of the event's sessions have its title in their names: each session is told again, by its one writer.

        For a title that is the first, too: a session may have waited for it until it was refused.
        """
        body = msgspec.Raw(msgspec.json.encode(Told(event_updated_at=row.updated_at)))
        outs = []
        for session in await self._sessions_of(row.id, workspace):
            told = msgspec.structs.replace(received, id=f"{received.id}-{session}", trigger=TOLD, body=body)
            outs.append(_received(told, f"session:{session}", "session", session, row.id, message.happened_at, message.replay))
        return Emit(tuple(outs), (self._events.row(row.id, row),), reason=reason)

    async def _sessions_of(self, event: str, workspace: Workspace) -> list[str]:
        """Ids of the event's sessions, none of another organization's: nobody tells its orgs of anything but itself.

        Goes through the whole table, which is worth no index: events are seldom new or renamed.
        """
        mark = b'"event":' + msgspec.json.encode(event)
        found = []
        for count, (id, raw) in enumerate(self._all_sessions.items()):
            if mark in raw and (row := self._sessions.get(id)) is not None and row.event == event and self._is_of(row, workspace):
                found.append(id)
            if count % _SCANNED_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
        return found

    def _is_of(self, row: SessionRow, workspace: Workspace) -> bool:
        """Whether a session is one of the workspace's organization, as far as the settings tell."""
        owner = self._workspaces.get(row.workspace)
        return owner is None or owner.livestorm.organization_id == workspace.livestorm.organization_id

    # What somebody waits for

    def _wanted(self, message: Message, received: Received, workspace: Workspace) -> Outcome | Coroutine[Any, Any, Outcome]:
        known = self._sessions.get(message.session) if message.session else self._events.get(message.event)
        if known is not None:
            return Drop("already_known")
        if reason := closed(workspace):
            return Drop(reason)
        if self._ask is None or not workspace.livestorm.api_token:
            return Drop("no_token")
        if self._clock() - received.received_at / 1000 > self._wait_seconds:
            return Drop("no_longer_wanted")
        return self._fetch(self._ask, message, received, workspace)

    async def _fetch(self, ask: Ask, message: Message, received: Received, workspace: Workspace) -> Outcome:
        try:
            if message.session:
                session = await ask.session(workspace, message.session)
                received = self._heard(received, workspace)
                if session is None:
                    return Drop("session_not_found")
                return self._session(message, received, workspace, session)
            event = await ask.event(workspace, message.event)
            received = self._heard(received, workspace)
            if event is None:
                return Drop("event_not_found")
            decided = self._event(message, received, workspace, event)
            return await decided if isinstance(decided, Coroutine) else decided
        except LivestormError as error:
            if error.retry_after_seconds is None:
                return self._refused(message, workspace, error)
            return Retry(error.retry_after_seconds, error.cause, free=True)
        except webhook.Refused as refused:
            return Reject((refused.cause,))

    def _heard(self, received: Received, workspace: Workspace) -> Received:
        """Livestorm answered: what it says is as of now, however long ago the question was."""
        self._useless.pop(workspace.id, None)
        return msgspec.structs.replace(received, signed_at=self._now_ms())

    def _refused(self, message: Message, workspace: Workspace, error: LivestormError) -> Outcome:
        """The API can't be asked with this token: one dead letter says so, however often it is asked."""
        if isinstance(error, TokenRefused | ScopeMissing):
            known = (workspace, error.cause.code)
            if self._useless.get(workspace.id) == known and not is_retry(message.replay or ""):
                return Drop(error.cause.code)
            self._useless[workspace.id] = known
        return Reject((error.cause,))

    def _wait_for_session(self, received: Received, workspace: Workspace, session: str, event: str) -> Wait:
        cause = Cause("unknown_session", f"Livestorm has not told of session {session} yet", (), _wait_hint(workspace))
        return self._wait(self._sessions, session, cause, received, workspace, f"session:{session}", "session", session, event)

    def _wait_for_event(self, received: Received, workspace: Workspace, session: str, event: str) -> Wait:
        cause = Cause("unknown_event", f"Livestorm has not told of event {event} of session {session} yet", (), _wait_hint(workspace))
        return self._wait(self._events, event, cause, received, workspace, f"event:{event}", "event", "", event)

    def _wait(
        self,
        rows: Rows[Any],
        row: str,
        cause: Cause,
        received: Received,
        workspace: Workspace,
        key: str,
        kind: str,
        session: str,
        event: str,
    ) -> Wait:
        wanted: tuple[Out, ...] = ()
        if workspace.livestorm.api_token:
            message = Received(
                id=f"wanted-{row}",
                workspace=received.workspace,
                org=received.org,
                trigger=webhook.WANTED,
                received_at=self._now_ms(),
                signed_at=self._now_ms(),
            )
            wanted = (_received(message, key, kind, session, event, message.signed_at, None),)
        shortest, longest = _ASKED_AGAIN_SECONDS
        again = min(longest, max(shortest, self._clock() - received.received_at / 1000))
        return Wait(rows.name, row, rows.raw(row), cause, wanted, self._wait_seconds, again_seconds=again)

    def _ask_for(self, key: str) -> bool:
        """Whether nobody in this worker asked for it a moment ago: of a thousand who register for one session one asks."""
        now = self._clock()
        if now - self._asked.get(key, -_TOLD_AGAIN_SECONDS) < _TOLD_AGAIN_SECONDS:
            return False
        self._asked.pop(key, None)
        if len(self._asked) >= _REMEMBERED:
            del self._asked[next(iter(self._asked))]
        self._asked[key] = now
        return True

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def closed(workspace: Workspace) -> str | None:
    """Why nothing of a workspace goes to Salesforce; None: it may."""
    if not workspace.enabled:
        return "disabled"
    if workspace.plan.strip().lower() != "enterprise" or not workspace.salesforce_addon:
        return "not_entitled"
    return None


def stranger(person: livestorm.Person) -> str | None:
    """Why somebody is no registrant: staff, or a guest who speaks; None: a registrant."""
    if isinstance(person.role, str) and person.role.strip().lower() == "team_member":
        return "staff"
    detail = person.registrant_detail
    return "guest_speaker" if detail is not None and attributes.is_true(detail.is_guest_speaker) else None


def maps_event(workspace: Workspace) -> bool:
    """Whether the workspace's mapping needs what only the row of `events` tells."""
    mapping = workspace.mapping
    return any(
        rule.source in livesessions.OF_EVENT
        for rules in (mapping.lead, mapping.contact, mapping.campaign_member)
        for rule in rules.values()
    )


_RECEIVED: Final = msgspec.json.Decoder(Received)
_TOLD: Final = msgspec.json.Decoder(Told)
_PERSON: Final[msgspec.json.Decoder[livestorm.Webhook[livestorm.Person]]] = msgspec.json.Decoder(
    livestorm.Webhook[livestorm.Person], strict=False
)
_SESSION: Final[msgspec.json.Decoder[livestorm.Webhook[livestorm.Session]]] = msgspec.json.Decoder(
    livestorm.Webhook[livestorm.Session], strict=False
)
_EVENT: Final[msgspec.json.Decoder[livestorm.Webhook[livestorm.Event]]] = msgspec.json.Decoder(
    livestorm.Webhook[livestorm.Event], strict=False
)

_UPDATE_HINT: Final = "Another version of Turnout, or other software, wrote it. Update Turnout, then retry the message."
_NO_EMAIL: Final = Cause(
    "no_email",
    "The person has no email address: people are matched by email alone",
    ("email",),
    "Make the email mandatory on the registration form, or enter the person in Salesforce by hand; then discard the message.",
)


def _not_an_email(told: str) -> Cause:
    return Cause(
        "no_email",
        f"{told!r} is no email address: people are matched by email alone",
        ("email",),
        "Enter the person in Salesforce by hand, with the right address; then discard the message.",
    )


def _wait_hint(workspace: Workspace) -> str:
    """For who waits; and for the dead letter of who has waited for too long."""
    if workspace.livestorm.api_token:
        return "Turnout asks Livestorm, and goes on once it is told. If that lasts, look in Livestorm whether it is still there."
    return "Set livestorm.api_token in the workspace's settings: then Turnout asks Livestorm, and what waits goes on once it is told."


_NO_SESSION: Final = Cause(
    "no_registration",
    "The body does not say which session the person registered for",
    ("$.data.attributes.registrant_detail.session_id",),
    "Look in Livestorm where the person belongs, and enter them in Salesforce by hand; then discard the message.",
)
_NO_EVENT: Final = Cause(
    "no_event",
    "The body does not say which event the session belongs to",
    ("$.data.attributes.event_id",),
    "With livestorm.api_token set Turnout asks for the session when a registration needs it. Discard the message.",
)


def _read(received: Received, decoder: msgspec.json.Decoder[Any]) -> Any:
    """The resource of a body. Raises webhook.Refused with the path of what is wrong."""
    try:
        return decoder.decode(received.body).data
    except msgspec.ValidationError as error:
        raise webhook.Refused(webhook.unexpected(error)) from None


def _out(message: Message, topic: str, key: str, kind: str, subject: Registration | Session) -> Out:
    headers = messages.headers(
        id=subject.id,
        kind=kind,
        workspace=subject.workspace,
        org=subject.org,
        session=subject.session,
        event=subject.event,
        happened_at=subject.happened_at,
        received_at=subject.received_at,
        schema=max(SCHEMA, message.schema),
        replay=message.replay,
    )
    return Out(topic, msgspec.json.encode(subject), None if key == message.key else key, headers)


def _received(received: Received, key: str, kind: str, session: str, event: str, happened_at: int, replay: str | None) -> Out:
    headers = messages.headers(
        id=received.id,
        kind=kind,
        workspace=received.workspace,
        org=received.org,
        session=session,
        event=event,
        happened_at=happened_at,
        received_at=received.received_at,
        schema=SCHEMA,
        replay=replay,
    )
    return Out("received", msgspec.json.encode(received), key, headers)
