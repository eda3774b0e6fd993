"""campaign-membership: adds each person to the session's Campaign, or advances the member that is there. Never backwards."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from pipeline.lanes import org_lane
from pipeline.messages import Message, headers
from pipeline.outcomes import Batch, Block, Drop, Emit, Out, Outcome, Reject, Wait
from schemas.messages import SCHEMA, Cause, Member, Registration, Session, Value, Written
from schemas.settings import FieldRule, Org, Workspace
from schemas.tables import CampaignRow
from stages import mapping, people, ranking, refusals, verdicts, writes
from stages.campaigns import NEVER, STATUS, event_unknown
from stages.reads import Record, known_fields, read
from stages.recency import Recall, only_fills
from stages.refusals import RunKey, Runs
from stages.rows import Tables, campaign_key
from stages.salesforce.causes import LOOK
from stages.salesforce.door import Describe, OrgDoor, Orgs, Trouble
from stages.salesforce.errors import SalesforceDoorError
from stages.salesforce.ids import full_id
from stages.salesforce.soql import chunks, in_list, select
from stages.verdicts import Verdicts
from stages.writes import Lost, Refused, Result, Saved, Unsent, Write

MEMBER: Final = "CampaignMember"
STAGE: Final = "campaign-membership"
BACK: Final = "matched"
"""Where sessions and people go whose record is gone: what create reads."""
ROUNDS: Final = 4
RETURNS: Final = 3
"""Most times that one message goes back because its person is gone."""
PEOPLE: Final = 400
"""Most people in one query for members."""

_Results = Mapping[RunKey, Sequence[tuple[Trouble, ...]]]
_FIELDS: Final = ("Id", "CampaignId", "ContactId", "LeadId", "Status", "HasResponded", "LastModifiedDate", "LastModifiedById")


@dataclasses.dataclass(slots=True)
class Case:
    """One registration on its way through a batch."""

    message: Message
    subject: Registration
    workspace: Workspace
    member: Member
    row: CampaignRow
    on_demand: bool
    written: dict[str, Value] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    only_fills: bool = False
    """It is too old to overwrite what the member holds."""

    @property
    def watches(self) -> bool:
        """Whether it goes to the replay field: a replay view, or attendance on demand."""
        return self.subject.action == "watched_replay" or (self.on_demand and self.subject.action == "attended")

    @property
    def rank(self) -> int:
        return ranking.REGISTERED if self.watches or self.on_demand else ranking.rank_of(self.subject.action)


@dataclasses.dataclass(slots=True)
class Group:
    """The registrations of a batch that lead to one member: two addresses can belong to one Contact."""

    campaign: str
    person: Member
    cases: list[Case]
    origins: set[str]
    """Converted Leads on which the membership may still hang."""
    held: Record | None = None
    labels: tuple[str, ...] = ()
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    last: tuple[Trouble, ...] = ()
    """Why the org refused it the last time."""
    gone: bool = False
    """The org has said once that what the write refers to is gone."""
    looked: bool = False
    was_new: bool = False
    """It was written without a look before."""

    @property
    def messages(self) -> list[Message]:
        return [case.message for case in self.cases]

    @property
    def key(self) -> tuple[str, str]:
        """Under what it is remembered."""
        return self.cases[0].message.org, f"{self.campaign}:{self.person.id}"


@dataclasses.dataclass(slots=True)
class _Scene:
    """What one batch works with."""

    made: Verdicts
    org: Org
    door: OrgDoor
    user: str
    describe: Describe
    outdated: bool = False
    """Members have turned out to be other than describe said when this round was written."""

    def open(self, groups: Iterable[Group]) -> list[Group]:
        return [group for group in groups if not self.made.has(group.cases[0].message)]


class CampaignMembership:
    """The step. `clock` gives Unix seconds."""

    def __init__(self, orgs: Orgs, tables: Tables, clock: Callable[[], float]) -> None:
        self._orgs, self._tables, self._clock = orgs, tables, clock
        self._recall = Recall()
        self._runs = Runs()

    async def __call__(self, batch: Batch) -> Sequence[Outcome]:
        made = Verdicts(batch)
        org = verdicts.org_of(made, self._tables)
        if org is not None:
            cases = [case for message, subject in verdicts.read(made) if (case := self._case(made, message, subject)) is not None]
            try:
                await self._work(made, org, cases)
            except SalesforceDoorError as error:
                made.fail((case.message for case in cases), error)
        return made.outcomes()

    def _case(self, made: Verdicts, message: Message, subject: Any) -> Case | None:
        """A registration whose Campaign is there; None where its outcome is clear without a call."""
        if not isinstance(subject, Registration) or subject.member is None:
            made.give(message, Reject((Cause(code="unreadable", message="Not a registration with its Contact or Lead"),)))
            return None
        workspace = verdicts.workspace_of(made, message, subject.workspace, self._tables)
        if workspace is None:
            return None
        key = campaign_key(subject.org, subject.session)
        row = self._tables.campaigns.get(key)
        if row is not None and row.campaign:
            session = self._tables.sessions.get(subject.session)
            on_demand = session is not None and session.status == "on_demand"
            return Case(message, subject, workspace, subject.member, row, on_demand)
        if row is not None and row.why is not None and row.why.code in NEVER:
            made.give(message, Drop(row.why.code))
        else:
            cause = self._unmade(subject.session) if row is None or row.why is None else row.why
            made.give(message, Wait(self._tables.campaigns.name, key, self._tables.campaigns.raw(key), cause))
        return None

    def _unmade(self, session_id: str) -> Cause:
        """Why there is no Campaign, where no row says it."""
        session = self._tables.sessions.get(session_id)
        return event_unknown(session) if session is not None and self._tables.events.get(session.event) is None else _unknown()

    async def _work(self, made: Verdicts, org: Org, cases: Sequence[Case]) -> None:
        if not cases:
            return
        door = self._orgs.door_for(made.batch.org, made.batch.guard)
        scene = _Scene(made, org, door, await door.user_id(), await door.describe(MEMBER))
        groups = _groups(cases)
        for _ in range(ROUNDS):
            groups = scene.open(groups)
            if not groups:
                return
            await self._round(scene, groups)
        for group in scene.open(groups):
            _give(scene, group, refusals.unsettled(group.last, group.cases[0].message))

    async def _round(self, scene: _Scene, groups: Sequence[Group]) -> None:
        """Look, decide, write, take in: two calls, or one where everybody is new."""
        await self._get_known(scene, groups)
        self._ask_for_campaigns(scene, groups)
        intents = [(group, write) for group in scene.open(groups) if (write := self._intent(scene, group)) is not None]
        new = [group for group, _ in intents if group.was_new]
        results, members = await writes.send_then_read(
            scene.door, scene.org, [write for _, write in intents], _member_queries(scene.describe, new), MEMBER
        )
        answered = [(group, write, result) for (group, write), result in zip(intents, results, strict=True)]
        await self._mend(scene, [(group, write) for group, write, result in answered if isinstance(result, Saved)])
        runs = self._note(answered)
        scene.outdated = False
        if any(isinstance(result, Refused) and refusals.doubts_describe(result.troubles) for result in results):
            before, scene.describe = scene.describe, await scene.door.describe(MEMBER, fresh=True)
            scene.outdated = scene.describe != before
        doubtful = _doubtful(new, members)
        for group, write, result in answered:
            if not (isinstance(result, Saved) and id(group) in doubtful):
                self._settle(scene, group, write, result, runs)

    async def _get_known(self, scene: _Scene, groups: Sequence[Group]) -> None:
        """What the Campaigns hold of these people; of those who are new nothing has to be asked."""
        for group in groups:
            group.was_new = self._is_new(group)
            group.labels = group.cases[0].row.statuses
        await self._look(scene, [group for group in groups if not group.was_new])
        for group in groups:
            group.looked = True

    def _note(self, answered: Iterable[tuple[Group, Write, Result]]) -> _Results:
        """The results by run, for the rule of an org that refuses nearly all."""
        runs: dict[RunKey, list[tuple[Trouble, ...]]] = {}
        for group, write, result in answered:
            if isinstance(result, Saved | Refused):
                runs.setdefault(_run(group, write), []).append(result.troubles if isinstance(result, Refused) else ())
                if not group.cases[0].message.tries:
                    self._runs.note(_run(group, write), runs[_run(group, write)][-1:])
        return runs

    def _is_new(self, group: Group) -> bool:
        """Whether there can't be a member yet, and the Campaign is known to have the label: then nothing has to be looked up before."""
        (first, *others) = group.cases
        label = ranking.label_of(first.rank, first.workspace.statuses)
        repeat = others or first.message.replay is not None or first.message.hold_creates_until_ms or self._recall.is_lost(group.key)
        return group.person.created and not group.looked and not repeat and ranking.spelled(label, first.row.statuses) is not None

    async def _look(self, scene: _Scene, groups: Sequence[Group]) -> None:
        """One composite: the members that are there, and the statuses that the Campaigns have now."""
        if groups:
            await people.fresh_fields(scene.door, lambda: self._ask(scene, groups), (MEMBER,))

    async def _ask(self, scene: _Scene, groups: Sequence[Group]) -> None:
        scene.describe = await scene.door.describe(MEMBER)
        queries = [*_member_queries(scene.describe, groups), *_status_queries(groups)]
        rows = [row for rows in await read(scene.door, queries, MEMBER) for row in rows]
        labels: dict[str, list[str]] = {}
        for row in rows:
            if "Label" in row:
                labels.setdefault(full_id(row["CampaignId"]), []).append(str(row["Label"]))
        members = _Members(row for row in rows if "Label" not in row)
        for group in groups:
            group.held = members.of(group)
            group.labels = tuple(labels.get(group.campaign, ()))

    def _ask_for_campaigns(self, scene: _Scene, groups: Sequence[Group]) -> None:
        """A Campaign without statuses is gone; one that lacks the label would silently give the default: create mends both."""
        asked: set[str] = set()
        for group in groups:
            for case in group.cases:
                label = ranking.label_of(case.rank, case.workspace.statuses)
                if ranking.spelled(label, group.labels) is not None:
                    continue
                known = case.row
                key = campaign_key(case.subject.org, case.subject.session)
                outs = (_session_again(case.subject, known.version),) if key not in asked else ()
                asked.add(key)
                cause = _gone() if not group.labels else _no_status(label)
                scene.made.give(case.message, Wait(self._tables.campaigns.name, key, self._tables.campaigns.raw(key), cause, outs=outs))
            group.cases = [case for case in group.cases if not scene.made.has(case.message)] or group.cases

    def _intent(self, scene: _Scene, group: Group) -> Write | None:
        """What to write for one member; None, with outcomes, where it is right already."""
        held = group.held
        state: dict[str, Any] = dict(held) if held is not None else {}
        values: dict[str, Value] = {}
        newest = 0
        for case in group.cases:
            outrun = case.subject.happened_at < newest
            case.written, case.left_out = self._changes(scene, group, case, state, outrun=outrun), case.left_out | group.refused
            newest = max(newest, case.subject.happened_at)
            values.update(case.written)
            state.update(case.written)
        if held is not None and not values:
            self._finish(scene, group, str(held["Id"]))
            return None
        if held is not None:
            return Write(MEMBER, values, str(held["Id"]))
        who = "ContactId" if group.person.object == people.CONTACT else "LeadId"
        return Write(MEMBER, {"CampaignId": group.campaign, who: group.person.id, **values})

    def _changes(self, scene: _Scene, group: Group, case: Case, state: Mapping[str, Any], *, outrun: bool) -> dict[str, Value]:
        """What one registration changes in a member that stands at `state` (empty: there is none yet).

        `outrun`: a later event came before it in this batch.
        """
        held = ranking.rank_held(state.get("Status"), bool(state.get("HasResponded")), case.workspace.statuses) if state else -1
        values: dict[str, Value] = {}
        rules = _rules(case, group)
        if state:
            case.only_fills = self._is_old(scene, group, case, state, held, outrun=outrun)
            draft = mapping.for_existing(rules, case.subject.attributes, scene.describe, state, only_fill=case.only_fills)
        else:
            case.only_fills = False
            draft = mapping.for_new(rules, case.subject.attributes, scene.describe)
        case.left_out = draft.left_out
        if case.rank > held and self._may_write(scene, case, group, "Status", state):
            # Not compared with describe's picklist, which knows nothing of the Campaign's own statuses.
            label = ranking.label_of(case.rank, case.workspace.statuses)
            values["Status"] = ranking.spelled(label, group.labels) or label
        values.update(draft.values)
        if case.watches:
            values.update(self._replay(scene, case, group, state))
        return values

    def _is_old(self, scene: _Scene, group: Group, case: Case, state: Mapping[str, Any], held: int, *, outrun: bool) -> bool:
        """Too old to overwrite a value; who attended has more to tell than that nobody came."""
        outdone = case.subject.action == "not_attended" and held == ranking.ATTENDED
        return outdone or only_fills(
            happened_at=case.subject.happened_at,
            replay=case.message.replay,
            remembered=outrun or self._recall.is_past(group.key, case.subject.happened_at, case.subject.id),
            record=state,
            edited_at=self._recall.edited_at(group.key, state, scene.user) if "LastModifiedDate" in state else 0,
            event_time_field=None,
            overwrote_at=self._recall.overwrote_at(group.key),
        )

    @staticmethod
    def _may_write(scene: _Scene, case: Case, group: Group, name: str, state: Mapping[str, Any]) -> bool:
        """Whether the org takes a field of Turnout's own; where it does not, that is told."""
        why = mapping.closed(scene.describe, name, creating=not state)
        if why is not None:
            case.left_out[name] = why
        return why is None and not refusals.is_left_out(name, group.refused)

    def _replay(self, scene: _Scene, case: Case, group: Group, state: Mapping[str, Any]) -> dict[str, Value]:
        name = case.workspace.objects.replay_status_field
        field = scene.describe.field(name)
        if not name or not self._may_write(scene, case, group, name, state) or field is None:
            return {}
        try:
            value, _ = mapping.fit(field, case.workspace.statuses.replay)
        except mapping.Unfit as unfit:
            case.left_out[field.name] = str(unfit)
            return {}
        return {} if mapping.same(field, state.get(field.name), value) else {field.name: value}

    async def _mend(self, scene: _Scene, saved: Sequence[tuple[Group, Write]]) -> None:
        """Members written for an address that isn't the record's own have two writers: read once more, and mended upwards only."""
        shared = [
            group
            for group, write in saved
            if "Status" in write.values and any(case.member.email not in ("", case.subject.email) for case in group.cases)
        ]
        if not shared:
            return
        await self._look(scene, shared)
        writing: list[Write] = []
        for group in shared:
            if group.held is None:
                continue
            case = max(group.cases, key=lambda one: one.rank)
            held = ranking.rank_held(group.held.get("Status"), bool(group.held.get("HasResponded")), case.workspace.statuses)
            label = ranking.spelled(ranking.label_of(case.rank, case.workspace.statuses), group.labels)
            if case.rank > held and label is not None:
                writing.append(Write(MEMBER, {"Status": label}, str(group.held["Id"])))
        await writes.send(scene.door, scene.org, writing)

    def _settle(
        self,
        scene: _Scene,
        group: Group,
        write: Write,
        result: Result,
        runs: _Results,
    ) -> None:
        """Outcomes for one member's registrations; none where the group goes into another round."""
        match result:
            case Saved(member_id):
                self._finish(scene, group, member_id)
            case Unsent(trouble):
                _give(scene, group, Block(org_lane(scene.made.batch.org), trouble.cause, trouble.retry_after_seconds))
            case Lost(trouble):
                self._recall.lost(group.key, trouble.cause)
                _give(scene, group, verdicts.lost(trouble))
            case Refused(troubles):
                group.last = troubles
                self._refused(scene, group, write, troubles, runs)

    def _refused(
        self,
        scene: _Scene,
        group: Group,
        write: Write,
        troubles: tuple[Trouble, ...],
        runs: _Results,
    ) -> None:
        if refusals.is_shut(scene.describe, troubles, runs[_run(group, write)], creating=not write.id):
            _give(scene, group, Block(org_lane(scene.made.batch.org), troubles[0].cause))
            return
        fields = refusals.leave_out(troubles, write.values)
        if fields is not None:
            group.refused.update(fields)
        elif refusals.doubts_describe(troubles) and scene.outdated:
            """The next round goes by what describe says now."""
        elif refusals.kind(troubles) == LOOK:
            self._changed(scene, group, troubles)
        else:
            self._refused_for_good(scene, group, write, troubles, runs)

    def _refused_for_good(self, scene: _Scene, group: Group, write: Write, troubles: tuple[Trouble, ...], runs: _Results) -> None:
        """No leaving out and no other look mends it."""
        run = _run(group, write)
        hits_nearly_all = self._runs.hits_nearly_all(run, troubles, runs[run])
        for case in group.cases:
            message = case.message
            outcome = refusals.outcome(troubles, message, message.shared_lanes[-1], hits_nearly_all=hits_nearly_all)
            if outcome is None:
                step = Written(stage=STAGE, at=self._now(), left_out=case.left_out, causes=tuple(one.cause for one in troubles))
                outcome = verdicts.rejected(troubles, (*case.subject.trail, step))
            scene.made.give(message, outcome)

    def _changed(self, scene: _Scene, group: Group, troubles: Sequence[Trouble]) -> None:
        """Already a member: look again. The person is gone: once more, then back to create, which finds who it is now."""
        if group.was_new or any(trouble.cause.code == "DUPLICATE_VALUE" for trouble in troubles):
            return
        if group.held is not None and not group.gone:
            group.gone = True
            return
        for case in group.cases:
            step = Written(stage=STAGE, at=self._now(), causes=tuple(trouble.cause for trouble in troubles))
            trail = (*case.subject.trail, step)
            if sum(one.stage == STAGE for one in trail) > RETURNS:
                scene.made.give(case.message, verdicts.rejected(troubles, trail))
                continue
            subject = msgspec.structs.replace(case.subject, found=None, member=None, trail=trail)
            scene.made.give(case.message, Emit(outs=(Out(BACK, msgspec.json.encode(subject)),), trail=trail))

    def _finish(self, scene: _Scene, group: Group, member_id: str) -> None:
        causes = self._recall.found(group.key)
        for case in group.cases:
            overwrote_at = 0 if case.only_fills else self._now()
            self._recall.applied(group.key, case.subject.happened_at, case.subject.id, overwrote_at=overwrote_at)
            step = Written(
                stage=STAGE,
                at=self._now(),
                salesforce={MEMBER: full_id(member_id), "Campaign": group.campaign, case.member.object: case.member.id},
                written=case.written,
                left_out=case.left_out,
                causes=causes,
            )
            scene.made.give(case.message, Emit(reason="synced", trail=(*case.subject.trail, step)))

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _groups(cases: Sequence[Case]) -> list[Group]:
    groups: dict[tuple[str, str], Group] = {}
    for case in cases:
        key = case.row.campaign, case.member.id
        group = groups.setdefault(key, Group(case.row.campaign, case.member, [], set()))
        group.cases.append(case)
        group.origins.update(full_id(one) for one in case.member.converted_from)
    return list(groups.values())


def _give(scene: _Scene, group: Group, outcome: Outcome) -> None:
    for message in group.messages:
        scene.made.give(message, outcome)


class _Members:
    """Members that were read, found by Campaign and person: each row is looked at once, however many ask."""

    def __init__(self, rows: Iterable[Record]) -> None:
        self._rows: dict[tuple[str, str, str], Record] = {}
        for row in rows:
            campaign = full_id(row["CampaignId"])
            for name in ("ContactId", "LeadId"):
                if row.get(name):
                    self._rows.setdefault((campaign, name, full_id(row[name])), row)

    def of(self, group: Group) -> Record | None:
        """The member that is this person; where a converted Lead's member stands beside the Contact's, the Contact's."""
        own = "ContactId" if group.person.object == people.CONTACT else "LeadId"
        places = [(own, group.person.id), *(("LeadId", former) for former in sorted(group.origins))]
        found = (self._rows.get((group.campaign, name, id)) for name, id in places)
        return next((row for row in found if row is not None), None)


def _doubtful(groups: Sequence[Group], members: Sequence[Record] | None) -> set[int]:
    """Groups (by `id()`) whose member, read right after the write, has another status than was written: a label that is there no more
    silently gives the Campaign's default. Where nothing was read, what the table says of the labels is believed.
    """
    doubtful: set[int] = set()
    known = _Members(members or ())
    for group in groups:
        held = known.of(group)
        wanted = group.cases[0].written.get("Status")
        if held is not None and wanted is not None and held.get("Status") != wanted:
            doubtful.add(id(group))
    return doubtful


def _member_queries(describe: Describe, groups: Sequence[Group]) -> list[str]:
    names = {name for group in groups for case in group.cases for name in _fields_of(case)}
    fields = known_fields(describe, (*_FIELDS, *sorted(names)))
    queries: list[str] = []
    by_person: dict[str, list[Group]] = {}
    for group in groups:
        for one in (group.person.id, *sorted(group.origins)):
            by_person.setdefault(one, []).append(group)
    for chunk in chunks(by_person, characters=30_000, count=PEOPLE):
        campaigns = sorted({group.campaign for one in chunk for group in by_person[one]})
        kinds: dict[Literal["ContactId", "LeadId"], list[str]] = {
            "ContactId": [one for one in chunk if one.startswith("003")],
            "LeadId": [one for one in chunk if not one.startswith("003")],
        }
        who = " OR ".join(f"{name} IN {in_list(ids)}" for name, ids in kinds.items() if ids)
        queries.append(select(fields, MEMBER, f"CampaignId IN {in_list(campaigns)} AND ({who})"))
    return queries


def _status_queries(groups: Sequence[Group]) -> list[str]:
    campaigns = dict.fromkeys(group.campaign for group in groups)
    return [select(("CampaignId", "Label"), STATUS, f"CampaignId IN {in_list(chunk)}") for chunk in chunks(campaigns, count=30)]


def _fields_of(case: Case) -> set[str]:
    replay = case.workspace.objects.replay_status_field
    return set(case.workspace.mapping.campaign_member) | ({replay} if replay else set())


def _rules(case: Case, group: Group) -> dict[str, FieldRule]:
    refused = {name.lower() for name in group.refused} | {"status", case.workspace.objects.replay_status_field.lower()}
    return {name: rule for name, rule in case.workspace.mapping.campaign_member.items() if name.lower() not in refused}


def _run(group: Group, write: Write) -> RunKey:
    """Members of one session are a run: the rule that refuses them may be the Campaign's."""
    return group.cases[0].message.shared_lanes[-1], MEMBER, write.id == ""


def _session_again(subject: Registration, version: int) -> Out:
    """The session once more, told that the Campaign of this version of the row is gone or lacks a status."""
    identity = hashlib.sha256(f"{subject.org}\n{subject.session}\n{version}".encode()).hexdigest()[:32]
    session = Session(
        id=identity,
        session=subject.session,
        event=subject.event,
        workspace=subject.workspace,
        org=subject.org,
        happened_at=subject.happened_at,
        received_at=subject.received_at,
        dead_version=version,
    )
    own = headers(
        id=identity,
        kind="session",
        workspace=subject.workspace,
        org=subject.org,
        session=subject.session,
        event="",
        happened_at=subject.happened_at,
        received_at=subject.received_at,
        schema=SCHEMA,
    )
    return Out(BACK, msgspec.json.encode(session), f"session:{subject.session}", own)


def _unknown() -> Cause:
    hint = "Turnout makes the Campaign as soon as the session is known"
    return Cause(code="campaign_unknown", message="The session's Campaign is not there yet", hint=hint)


def _gone() -> Cause:
    return Cause(code="campaign_gone", message="The session's Campaign was deleted", hint="Turnout makes another one")


def _no_status(label: str) -> Cause:
    return Cause(code="status_missing", message=f"The Campaign has no member status '{label}'", hint="Turnout adds it")
