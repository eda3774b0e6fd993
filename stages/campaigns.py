"""create for sessions: each session's Campaign with its member statuses, found or made, and kept true; the one writer of `campaigns`."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from pipeline.messages import Message
from pipeline.outcomes import Block, Drop, Emit, Outcome, Retry, Row, Wait
from schemas.messages import Cause, Session, Value, Written
from schemas.settings import Org, Workspace
from schemas.tables import CampaignRow, EventRow, SessionRow
from stages import mapping, naming, people, ranking, refusals, verdicts, writes
from stages.naming import Title
from stages.reads import Record, known_fields, read
from stages.rows import Tables, campaign_key
from stages.salesforce.causes import LOOK, ORG, TRANSIENT
from stages.salesforce.door import Describe, Field, OrgDoor, Orgs, Trouble
from stages.salesforce.errors import CallRefused, OrgUnavailable, SalesforceDoorError
from stages.salesforce.ids import full_id
from stages.salesforce.soql import chunks, in_list, select
from stages.verdicts import Verdicts
from stages.writes import Lost, Refused, Result, Saved, Unsent, Write

CAMPAIGN: Final = "Campaign"
STATUS: Final = "CampaignMemberStatus"
STAGE: Final = "create"
PROBE_SECONDS: Final = 240.0
"""A Campaign that the org refuses is tried again at least this often: its registrants wait for it …"""
KNOWN_PROBE_SECONDS: Final = 1_800.0
"""… and a change of one that is there, for which nobody waits."""

PAST: Final = "past_session"
BREAKOUT: Final = "breakout_room"
DRAFT: Final = "draft_session"
NEVER: Final = frozenset({PAST, BREAKOUT})
"""Reasons for which there will be no Campaign, whatever comes."""

_WHY: Final = {
    PAST: "The session ended before the workspace was connected",
    BREAKOUT: "A breakout room is no session of its own",
    DRAFT: "The session is a draft",
}
_RIGHTS: Final = frozenset(
    {
        "NOT_FOUND",
        "INVALID_TYPE",
        "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY",
        "INSUFFICIENT_ACCESS_OR_READONLY",
        "INVALID_FIELD_FOR_INSERT_UPDATE",
    }
)
"""Codes that on a Campaign or its statuses mostly mean that Turnout's user may not write them."""
_RIGHTS_HINT: Final = "Tick 'Marketing User' on Turnout's user, and give it create and edit on Campaigns"

_FIELDS: Final = ("Id", "Name", "Description", "Status", "StartDate", "EndDate", "CreatedDate")
_STATUS_FIELDS: Final = ("Id", "CampaignId", "Label", "HasResponded", "IsDefault", "SortOrder")


@dataclasses.dataclass(slots=True)
class Case:
    """One session on its way through a batch."""

    message: Message
    subject: Session
    workspace: Workspace
    title: Title
    known: CampaignRow | None
    campaign: str = ""
    gone: bool = False
    """The row's Campaign is there no more."""
    record: Record | None = None
    written: dict[str, Value] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    causes: tuple[Cause, ...] = ()
    refused: tuple[Trouble, ...] = ()
    """Why the org took nothing of the last write."""
    statuses: list[Record] = dataclasses.field(default_factory=list)

    @property
    def session(self) -> str:
        return self.subject.session

    @property
    def trusted(self) -> CampaignRow | None:
        """The row, if it names a Campaign that was not looked for in vain. Its Id is kept whatever the org refuses: else a second one is made."""
        return self.known if self.known is not None and self.known.campaign and not self.gone else None

    @property
    def doubted(self) -> bool:
        """Somebody found the row's Campaign gone, or without a status."""
        return self.known is not None and self.known.version <= self.subject.dead_version


@dataclasses.dataclass(frozen=True, slots=True)
class _Scene:
    """What one batch works with."""

    made: Verdicts
    org: Org
    door: OrgDoor
    describe: Describe

    @property
    def key(self) -> Field | None:
        return self.describe.field(self.org.campaign_key_field) if self.org.campaign_key_field else None

    @property
    def marks(self) -> bool:
        """Whether a Campaign bears its session where Turnout's user can write and read it; else its name and date must tell."""
        return any(field is not None and field.createable for field in (self.describe.field("Description"), self.key))


class Campaigns:
    """Works the sessions of a batch. `clock` gives Unix seconds; `wait_seconds` bounds the wait for a session's row, whose writer tells it again."""

    def __init__(self, orgs: Orgs, tables: Tables, clock: Callable[[], float], wait_seconds: float | None) -> None:
        self._orgs, self._tables, self._clock, self._wait_seconds = orgs, tables, clock, wait_seconds

    async def __call__(self, made: Verdicts, org: Org, subjects: Sequence[tuple[Message, Session]]) -> None:
        cases = [case for message, subject in subjects if (case := self._case(made, message, subject)) is not None]
        if not cases:
            return
        try:
            await self._work(made, org, cases)
        except CallRefused as error:
            if made.splits(error):
                raise
            for case in _open(made, cases):
                made.give(case.message, self._refused(case, (error.trouble,)))
        except SalesforceDoorError as error:
            made.fail((case.message for case in cases), error)

    def _case(self, made: Verdicts, message: Message, subject: Session) -> Case | None:
        """The session with all that its Campaign needs to be known; None where its outcome is clear without a call."""
        workspace = verdicts.workspace_of(made, message, subject.workspace, self._tables)
        if workspace is None:
            return None
        session = self._tables.sessions.get(subject.session)
        if session is None:
            cause = Cause(code="session_unknown", message="The session is not known yet")
            raw = self._tables.sessions.raw(subject.session)
            made.give(message, Wait(self._tables.sessions.name, subject.session, raw, cause, longest_seconds=self._wait_seconds))
            return None
        if session.updated_at < subject.updated_at:
            # This reader of the table is behind the one that made the message: with the older row the Campaign would stay as it was.
            raw = self._tables.sessions.raw(subject.session)
            cause = Cause(code="session_behind", message="A later state of the session is on its way to this worker")
            made.give(message, Wait(self._tables.sessions.name, subject.session, raw, cause, longest_seconds=self._wait_seconds))
            return None
        known = self._tables.campaigns.get(campaign_key(subject.org, subject.session))
        code = _never(session)
        if code is not None and not (known is not None and known.campaign):
            made.give(message, Drop(code, self._rows(subject, known, CampaignRow(why=Cause(code=code, message=_WHY[code])))))
            return None
        event = self._tables.events.get(session.event)
        if event is None:
            # Normalize knew the event before it told the session: the row is on its way.
            raw = self._tables.events.raw(session.event)
            made.give(message, Wait(self._tables.events.name, session.event, raw, event_unknown(session)))
            return None
        at = subject.title_at or event.updated_at
        if subject.title and (at, message.replay is None) > (event.updated_at, False):
            # For the same reason the message's own title counts, unless it comes again: then the table may know a later one.
            event = msgspec.structs.replace(event, title=subject.title)
        return self._unsettled(made, message, subject, workspace, session, event, known)

    def _unsettled(
        self,
        made: Verdicts,
        message: Message,
        subject: Session,
        workspace: Workspace,
        session: SessionRow,
        event: EventRow,
        known: CampaignRow | None,
    ) -> Case | None:
        case = Case(message, subject, workspace, naming.title(session, event), known)
        if case.trusted is not None and _is_settled(case, case.trusted):
            made.give(message, Emit(reason="campaign_known", trail=subject.trail))
            return None
        return case

    async def _work(self, made: Verdicts, org: Org, cases: Sequence[Case]) -> None:
        door = self._orgs.door_for(made.batch.org, made.batch.guard)
        mended = any(case.known is not None and case.known.why is not None for case in cases)
        scene = _Scene(made, org, door, await door.describe(CAMPAIGN, fresh=mended))
        await self._find(scene, cases)
        await self._write(scene, cases)
        await self._set_statuses(scene, _open(made, cases))
        for case in _open(made, cases):
            made.give(case.message, self._done(case))

    async def _find(self, scene: _Scene, cases: Sequence[Case]) -> None:
        """One query: the Campaigns of these rows, and those of the name, the date or the key; the mark or the key says whose one is."""
        key = scene.key.name if scene.key is not None else ""
        fields = known_fields(scene.describe, (*_FIELDS, key))
        by_session = {case.session: case for case in cases}
        queries = [
            select(fields, CAMPAIGN, _where(scene.describe, [by_session[one] for one in chunk], key))
            for chunk in chunks(by_session, count=50)
        ]
        records = [record for rows in await read(scene.door, queries, CAMPAIGN) for record in rows]
        for record in records:
            record["Id"] = full_id(record["Id"])
        for case in cases:
            row = case.trusted
            found = [record for record in records if row is not None and record["Id"] == row.campaign]
            case.gone = row is not None and not found
            found = found or [record for record in records if _is_of(record, case.session, key)]
            if not found and not scene.marks:
                found = [record for record in records if _is_unmarked(record, key) and _is_called(record, case.title)]
            case.record = min(found, key=people.age, default=None)
            case.campaign = str(case.record["Id"]) if case.record is not None else ""

    async def _write(self, scene: _Scene, cases: Sequence[Case]) -> None:
        """Makes what is missing, updates what differs; a field that the org refuses is left out, and the rest sent again."""
        pending = [(case, write) for case in cases if (write := self._intent(scene, case)) is not None]
        while pending:
            made = [case for case, write in pending if not write.id]
            results, statuses = await writes.send_then_read(
                scene.door, scene.org, [write for _, write in pending], _statuses_by_name(made), STATUS
            )
            again = []
            for (case, write), result in zip(pending, results, strict=True):
                lesser = _settle(scene, case, write, result)
                if lesser is not None:
                    again.append((case, lesser))
            _share(made, statuses or ())
            pending = again
        for case in _open(scene.made, cases):
            if not case.campaign:
                scene.made.give(case.message, self._refused(case, case.refused or _nothing_left()))

    def _intent(self, scene: _Scene, case: Case) -> Write | None:
        values = _values(scene, case)
        if case.record is not None:
            return Write(CAMPAIGN, values, case.campaign) if values else None
        held = case.message.hold_creates_until_ms - self._now()
        if held > 0 and not (scene.key is not None and scene.key.unique):
            cause = Cause(code="creates_held", message="A worker before may still be creating this Campaign")
            scene.made.give(case.message, Retry(held / 1000, cause, free=True))
            return None
        return Write(CAMPAIGN, values)

    async def _set_statuses(self, scene: _Scene, cases: Sequence[Case]) -> None:
        """The member statuses are on the Campaign before its first member: read, the missing made, read back."""
        lacking = [
            case
            for case in cases
            if case.trusted is None or case.trusted.why is not None or case.doubted or _lacks(case.trusted, case.workspace)
        ]
        if not lacking:
            return
        unread = [case for case in lacking if not case.statuses]
        _share(unread, await _read_statuses(scene, unread))
        intents = [(case, write) for case in lacking for write in _status_writes(case)]
        written = [case for case in lacking if any(one is case for one, _ in intents)]
        if not intents:
            return
        results, statuses = await writes.send_then_read(
            scene.door, scene.org, [write for _, write in intents], _statuses_of(written), STATUS
        )
        for (case, _), result in zip(intents, results, strict=True):
            self._settle_status(scene, case, result)
        refused = {case.session: result.troubles for (case, _), result in zip(intents, results, strict=True) if isinstance(result, Refused)}
        written = _open(scene.made, written)
        _share(written, statuses if statuses is not None else await _read_statuses(scene, written))
        for case in written:
            missing = [label for label in ranking.labels(case.workspace.statuses) if ranking.spelled(label, _labels(case)) is None]
            if missing:
                cause = Cause(code="statuses_missing", message=f"The Campaign has no member status {', '.join(missing)}")
                scene.made.give(case.message, self._refused(case, refused.get(case.session, (Trouble(LOOK, cause),))))

    def _settle_status(self, scene: _Scene, case: Case, result: Result) -> None:
        match result:
            case Unsent(trouble):
                scene.made.give(case.message, verdicts.failed(OrgUnavailable(trouble), case.message))
            case Lost(trouble):
                scene.made.give(case.message, verdicts.lost(trouble))
            case Refused(troubles) if refusals.kind(troubles) != LOOK:
                scene.made.give(case.message, self._refused(case, troubles))
            case Saved() | Refused():
                """Somebody was faster, at worst: what is there now is read back."""

    def _done(self, case: Case) -> Outcome:
        row = CampaignRow(
            campaign=case.campaign,
            statuses=tuple(_labels(case)) if case.statuses else (case.trusted.statuses if case.trusted is not None else ()),
            title=_title_digest(case),
            status=_status(case),
        )
        if case.refused:
            return self._refused(case, case.refused, row)
        reason = "campaign_created" if case.record is None else "campaign_updated" if case.written else "campaign_known"
        step = Written(
            stage=STAGE,
            at=self._now(),
            salesforce={CAMPAIGN: case.campaign},
            written=case.written,
            left_out=case.left_out,
            causes=case.causes,
        )
        return Emit(rows=self._rows(case.subject, case.known, row), reason=reason, trail=(*case.subject.trail, step))

    def _refused(self, case: Case, troubles: Sequence[Trouble], row: CampaignRow | None = None) -> Outcome:
        """The session is probed, never rejected: the row says why, so that who waits and who looks can tell.

        `row`, by default the trusted one, keeps what is known: members of a Campaign that is there don't wait.
        """
        trouble = refusals.leading(troubles)
        cause = trouble.cause
        if trouble.kind == TRANSIENT and cause.code in verdicts.NEVER_THE_MESSAGE:
            return verdicts.again(trouble, case.message)
        if cause.code in _RIGHTS:
            cause = msgspec.structs.replace(cause, hint=f"{_RIGHTS_HINT}. {cause.hint}")
        told = msgspec.structs.replace(row or case.trusted or CampaignRow(), why=cause)
        seconds = trouble.retry_after_seconds or verdicts.LOOK_AGAIN_SECONDS
        if trouble.kind not in (LOOK, TRANSIENT):
            # As long again as it was refused already: a rule that nobody mends must not eat the org's calls.
            refused_ms = self._now() - case.known.at if case.known is not None and case.known.why is not None else 0
            seconds = min(refused_ms / 1000, KNOWN_PROBE_SECONDS if told.campaign else PROBE_SECONDS)
        return Block(case.message.lanes[-1], cause, seconds, rows=self._rows(case.subject, case.known, told))

    def _rows(self, subject: Session, known: CampaignRow | None, row: CampaignRow) -> tuple[Row, ...]:
        """The row with its version, unless the table says the same already."""
        row.workspace = subject.workspace
        if known is not None and known.version > subject.dead_version:
            row.version, row.at = known.version, known.at
            if row == known:
                return ()
        row.version = max(known.version if known is not None else 0, subject.dead_version) + 1
        row.at = self._now()
        return (self._tables.campaigns.row(campaign_key(subject.org, subject.session), row),)

    def _now(self) -> int:
        return int(self._clock() * 1000)


def event_unknown(session: SessionRow) -> Cause:
    """Why a session has no Campaign yet."""
    message = f"Livestorm has not told of event {session.event} yet, after which the session's Campaign is named"
    return Cause(code="unknown_event", message=message, hint="Turnout makes the Campaign as soon as the event is told")


def _nothing_left() -> tuple[Trouble, ...]:
    return (Trouble(ORG, Cause(code="no_field_writable", message="The org takes no field of a Campaign", hint=_RIGHTS_HINT)),)


def _settle(scene: _Scene, case: Case, write: Write, result: Result) -> Write | None:
    """Takes in one result; the same write with a field less where that may help."""
    match result:
        case Saved(record_id):
            case.campaign = record_id
            case.written.update(write.values)
        case Unsent(trouble):
            scene.made.give(case.message, verdicts.failed(OrgUnavailable(trouble), case.message))
        case Lost(trouble):
            scene.made.give(case.message, verdicts.lost(trouble))
        case Refused(troubles):
            return _lesser(case, write, troubles)
    return None


def _lesser(case: Case, write: Write, troubles: tuple[Trouble, ...]) -> Write | None:
    case.causes = tuple(trouble.cause for trouble in troubles)
    fields = refusals.leave_out(troubles, write.values)
    if fields is None:
        case.refused = troubles
        return None
    case.left_out.update(fields)
    values = {name: value for name, value in write.values.items() if name not in fields}
    return Write(CAMPAIGN, values, write.id) if values else None


def _open(made: Verdicts, cases: Iterable[Case]) -> list[Case]:
    return [case for case in cases if not made.has(case.message)]


def _statuses_of(cases: Sequence[Case]) -> list[str]:
    campaigns = dict.fromkeys(case.campaign for case in cases)
    return [select(_STATUS_FIELDS, STATUS, f"CampaignId IN {in_list(chunk)}") for chunk in chunks(campaigns, count=30)]


def _statuses_by_name(cases: Sequence[Case]) -> list[str]:
    """For the very call that makes the Campaigns, when their ids are not known yet."""
    names = dict.fromkeys(case.title.name for case in cases)
    return [select(_STATUS_FIELDS, STATUS, f"Campaign.Name IN {in_list(chunk)}") for chunk in chunks(names, count=30)]


async def _read_statuses(scene: _Scene, cases: Sequence[Case]) -> list[Record]:
    return [record for records in await read(scene.door, _statuses_of(cases), STATUS) for record in records]


def _share(cases: Sequence[Case], statuses: Iterable[Record]) -> None:
    """Each Campaign its own statuses."""
    of: dict[str, list[Record]] = {}
    for record in statuses:
        of.setdefault(full_id(record["CampaignId"]), []).append(record)
    for case in cases:
        case.statuses = of.get(case.campaign, [])


def _never(session: SessionRow) -> str | None:
    """Why a session makes no Campaign; a draft may make one later."""
    if session.breakout:
        return BREAKOUT
    if session.past:
        return PAST
    return DRAFT if session.status == "draft" else None


def _is_settled(case: Case, row: CampaignRow) -> bool:
    """Whether the row tells that the Campaign is right already."""
    same = row.title == case.title.digest() and row.status == case.title.status
    return same and row.why is None and not case.doubted and not _lacks(row, case.workspace)


def _lacks(row: CampaignRow, workspace: Workspace) -> bool:
    return any(ranking.spelled(label, row.statuses) is None for label in ranking.labels(workspace.statuses))


def _labels(case: Case) -> list[str]:
    return [str(record["Label"]) for record in case.statuses]


def _is_of(record: Record, session: str, key: str) -> bool:
    return naming.is_marked(record.get("Description"), session) or record.get(key) == session


def _is_unmarked(record: Record, key: str) -> bool:
    """Whether it says of no session that it is its own."""
    return not naming.bears_mark(record.get("Description")) and not record.get(key)


def _is_called(record: Record, title: Title) -> bool:
    """By the very name and, as far as the org shows one, the very date."""
    return record.get("Name") == title.name and (record.get("StartDate") or title.date) == title.date


def _where(describe: Describe, cases: Sequence[Case], key: str) -> str:
    """By all that the org lets Turnout's user ask for."""
    wanted = {
        "Id": {case.trusted.campaign for case in cases if case.trusted is not None},
        "Name": {case.title.name for case in cases},
        "StartDate": {case.title.date for case in cases if case.title.date},
        key: {case.session for case in cases},
    }
    parts: list[str] = []
    for name, values in wanted.items():
        field = describe.field(name)
        if values and field is not None and field.filterable:
            listed = f"({','.join(sorted(values))})" if field.type == "date" else in_list(sorted(values))
            parts.append(f"{field.name} IN {listed}")
    return " OR ".join(parts)


def _digest(record: Record) -> str:
    return naming.digest(str(record.get("Name") or ""), str(record.get("StartDate") or ""))


def _is_ours(case: Case) -> bool:
    """Whether the org still holds the name and date that Turnout gave."""
    return case.record is None or (case.trusted is not None and case.trusted.title == _digest(case.record))


def _title_digest(case: Case) -> str:
    """What the next message compares with: the name and date that Turnout gave, or "" where people gave theirs."""
    after = {**(case.record or {}), **case.written}
    if _is_ours(case) or _is_called(after, case.title):
        return _digest(after)
    return case.trusted.title if case.trusted is not None else ""


def _status(case: Case) -> str:
    """What the next message compares with: the status that is wanted, unless the org refused it."""
    if case.refused or "Status" in case.left_out:
        return str((case.record or {}).get("Status") or "")
    return case.title.status


def _values(scene: _Scene, case: Case) -> dict[str, Value]:
    """What the Campaign gets: all of it when it is made; later its status onwards, and a name and date that nobody changed by hand."""
    title, record = case.title, case.record
    wanted: dict[str, Value] = {"Status": title.status}
    if record is None:
        wanted.update(Name=title.name, Type=naming.TYPE, IsActive=True, Description=naming.mark(case.session))
    if title.date:
        wanted.update(StartDate=title.date, EndDate=title.date)
    if record is not None:
        wanted = _differing(wanted, case, record)
    key = scene.key
    if key is not None and (record is None or mapping.is_blank(record.get(key.name))):
        wanted[key.name] = case.session
    return _fitting(scene.describe, wanted, case)


def _differing(wanted: dict[str, Value], case: Case, record: Record) -> dict[str, Value]:
    given = case.trusted is not None and case.trusted.status == case.title.status
    if given or not naming.advances(record.get("Status"), case.title.status):
        del wanted["Status"]
    if not _is_ours(case):
        return {name: value for name, value in wanted.items() if name == "Status" or mapping.is_blank(record.get(name))}
    end = str(record.get("EndDate") or "")
    if end not in ("", record.get("StartDate")) and end >= case.title.date:
        # Turnout gives both the same: this end was set by hand, and stands as long as it isn't before the start.
        wanted.pop("EndDate", None)
    return {name: value for name, value in {**wanted, "Name": case.title.name}.items() if record.get(name) != value}


def _fitting(describe: Describe, wanted: dict[str, Value], case: Case) -> dict[str, Value]:
    """The values that the org's Campaign takes; the name always goes, so that the org itself says what is wrong."""
    values: dict[str, Value] = {}
    for name, value in wanted.items():
        field = describe.field(name)
        if field is None:
            case.left_out[name] = mapping.NO_FIELD
            continue
        try:
            values[field.name], _ = mapping.fit(field, value)
        except mapping.Unfit as unfit:
            case.left_out[field.name] = str(unfit)
    return values


def _status_writes(case: Case) -> list[Write]:
    """Statuses to make, above the highest, and those of ours to mend: only attended counts as responded, registered is the default."""
    held = {ranking.folded(str(record["Label"])): record for record in case.statuses}
    order = max((int(record.get("SortOrder") or 0) for record in case.statuses), default=0)
    made: list[Write] = []
    for place, (label, responded) in enumerate(ranking.labels(case.workspace.statuses).items()):
        record = held.get(ranking.folded(label))
        if record is None:
            order += 1
            values: dict[str, Value] = {"CampaignId": case.campaign, "Label": label, "HasResponded": responded, "SortOrder": order}
            made.append(Write(STATUS, values | ({"IsDefault": True} if place == 0 else {})))
        elif case.trusted is None:
            changed = _changed(record, responded=responded, default=place == 0)
            made += [Write(STATUS, changed, str(record["Id"]))] if changed else []
    return made


def _changed(record: dict[str, Any], *, responded: bool, default: bool) -> dict[str, Value]:
    """What differs in a status of a Campaign that Turnout sees for the first time."""
    changed: dict[str, Value] = {}
    if bool(record.get("HasResponded")) != responded:
        changed["HasResponded"] = responded
    if default and not record.get("IsDefault"):
        changed["IsDefault"] = True
    return changed
