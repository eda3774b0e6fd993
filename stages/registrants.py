"""create for registrations: the Contact or Lead of one address gets its mapped values, or is made. One writer of Leads and Contacts."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from pipeline.lanes import org_lane
from pipeline.messages import Message
from pipeline.outcomes import Block, Emit, Out, Outcome, Reject, Retry
from schemas.messages import Cause, Member, Registration, Value, Written, canonical_email
from schemas.settings import FieldRule, Org, Workspace
from stages import accounts, mapping, people, person_accounts, refusals, verdicts, writes
from stages.mapping import Draft
from stages.people import CONTACT, LEAD, Sighting
from stages.person_accounts import ACCOUNT
from stages.recency import Recall, datetime_text, milliseconds, only_fills
from stages.refusals import RunKey, Runs
from stages.rows import Tables
from stages.salesforce.causes import LOOK, existing_id
from stages.salesforce.door import Describe, OrgDoor, Orgs, Trouble
from stages.salesforce.errors import OrgUnavailable, SalesforceDoorError
from stages.verdicts import Verdicts
from stages.writes import Lost, Refused, Result, Saved, Unsent, Write

OUT: Final = "resolved"
STAGE: Final = "create"
FRESH_MS: Final = 10_000
"""A read may be this old and still be trusted, if nothing speaks against it."""
ROUNDS: Final = 5
"""Most times that one message is looked at, written and mended within one batch."""

Name = Literal["Contact", "Lead"]


@dataclasses.dataclass(slots=True)
class Plan:
    """One registration on its way through a batch."""

    message: Message
    subject: Registration
    workspace: Workspace
    sighting: Sighting | None
    fresh: bool
    """Whether `sighting` may be acted on."""
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    """Fields that the org refused, with its words."""
    draft: Draft = dataclasses.field(default_factory=lambda: Draft({}, {}))
    account: str = ""
    known_ids: tuple[str, ...] = ()
    only_fills: bool = False
    """It is too old to overwrite what the record holds."""
    doubled: bool = False
    """A DUPLICATE_VALUE was met while nobody was found."""
    last: tuple[Trouble, ...] = ()

    def is_refused(self, field: str) -> bool:
        return refusals.is_left_out(field, self.refused)

    @property
    def creates(self) -> Name:
        return CONTACT if self.workspace.objects.create == "contact" else LEAD

    @property
    def company(self) -> str:
        """Whose Account a new Contact belongs to; "" where it has none."""
        return mapping.text(self.subject.attributes.get("company")) if self.creates == CONTACT else ""


@dataclasses.dataclass(frozen=True, slots=True)
class _Scene:
    """What one batch works with."""

    made: Verdicts
    org: Org
    door: OrgDoor
    user: str
    describes: dict[str, Describe]
    asked: set[str] = dataclasses.field(default_factory=set)
    """Companies whose Account was asked for in this batch."""
    outdated: set[str] = dataclasses.field(default_factory=set)
    """Objects that have turned out to be other than describe said when this round was written."""


class Registrants:
    """Works the registrations of a batch. `clock` gives Unix seconds; `worker` names this process."""

    def __init__(self, orgs: Orgs, tables: Tables, clock: Callable[[], float], worker: str) -> None:
        self._orgs, self._tables, self._clock, self._worker = orgs, tables, clock, worker
        self._recall = Recall()
        self._runs = Runs()

    async def __call__(self, made: Verdicts, org: Org, subjects: Sequence[tuple[Message, Registration]]) -> None:
        plans = [plan for message, subject in subjects if (plan := self._plan(made, message, subject)) is not None]
        if not plans:
            return
        try:
            await self._work(made, org, plans)
        except SalesforceDoorError as error:
            made.fail((plan.message for plan in plans), error)

    def _plan(self, made: Verdicts, message: Message, subject: Registration) -> Plan | None:
        workspace = verdicts.workspace_of(made, message, subject.workspace, self._tables)
        if workspace is None:
            return None
        found = subject.found
        sighting = Sighting(found.object, found.record, found.converted_from) if found is not None and found.object is not None else None
        return Plan(message, subject, workspace, sighting, self._is_fresh(message, subject))

    def _is_fresh(self, message: Message, subject: Registration) -> bool:
        """Whether match's read may be acted on: this process made it, lately, since it holds the partition, and wrote nothing since."""
        found, address = subject.found, _address(message.org, subject.email)
        return (
            found is not None
            and found.worker == self._worker
            and 0 <= self._now() - found.read_at < FRESH_MS
            and 0 < message.held_since_ms <= found.read_at
            and not message.hold_creates_until_ms
            and not self._recall.wrote_since(address, found.read_at)
            and not self._recall.is_lost(address)
        )

    async def _work(self, made: Verdicts, org: Org, plans: Sequence[Plan]) -> None:
        door = self._orgs.door_for(made.batch.org, made.batch.guard)
        describes = {name: await door.describe(name) for name in (CONTACT, LEAD)}
        scene = _Scene(made, org, door, await door.user_id(), describes)
        pending = list(plans)
        for _ in range(ROUNDS):
            await self._look(scene, [plan for plan in pending if not plan.fresh])
            await self._describe_accounts(scene, pending)
            intents = self._intents(scene, pending)
            await self._write(scene, intents)
            pending = [plan for plan in pending if not made.has(plan.message)]
            if not pending:
                return
        for plan in pending:
            made.give(plan.message, refusals.unsettled(plan.last, plan.message))

    async def _look(self, scene: _Scene, plans: Sequence[Plan]) -> None:
        if not plans:
            return
        ids = {plan.subject.email: (*plan.known_ids, *([plan.sighting.id] if plan.sighting else ())) for plan in plans}
        wanted = people.wanted(scene.org, (plan.workspace for plan in plans))
        seen = await people.look(scene.door, scene.org, ids, wanted)
        for name in (CONTACT, LEAD):
            scene.describes[name] = await scene.door.describe(name)
        for plan in plans:
            plan.sighting, plan.fresh = seen.get(plan.subject.email), True

    async def _describe_accounts(self, scene: _Scene, plans: Sequence[Plan]) -> None:
        """Only orgs with Person Accounts need it."""
        if ACCOUNT not in scene.describes and any(plan.sighting and person_accounts.is_person(plan.sighting.record) for plan in plans):
            scene.describes[ACCOUNT] = await scene.door.describe(ACCOUNT)

    def _intents(self, scene: _Scene, plans: Sequence[Plan]) -> list[tuple[Plan, Write]]:
        """What to write; those with nothing to write get their outcome. No record twice: the second one's turn comes after a look."""
        intents: list[tuple[Plan, Write]] = []
        taken: set[str] = set()
        for plan in plans:
            if plan.sighting is not None and plan.sighting.id in taken:
                plan.fresh = False
                continue
            write = self._create(scene, plan) if plan.sighting is None else self._update(scene, plan, plan.sighting)
            if write is not None:
                intents.append((plan, write))
                # A Person Account's record is written under another id than the one that was found.
                taken.update({write.id, plan.sighting.id} if plan.sighting is not None else ())
        return intents

    def _update(self, scene: _Scene, plan: Plan, sighting: Sighting) -> Write | None:
        describe = scene.describes[sighting.object]
        rules = _rules(plan, sighting.object)
        if mapping.unread(rules, plan.subject.attributes, describe, sighting.record):
            plan.fresh = False
            return None
        time_field = _own_name(describe, scene.org.event_time_field)
        edited_at = self._recall.edited_at((plan.message.org, sighting.id), sighting.record, scene.user)
        only_fill = plan.only_fills = only_fills(
            happened_at=plan.subject.happened_at,
            replay=plan.message.replay,
            remembered=self._is_past(plan, sighting.id),
            record=sighting.record,
            edited_at=edited_at,
            event_time_field=time_field,
            overwrote_at=max(self._recall.overwrote_at(key) for key in _keys(plan, sighting.id)),
        )
        draft = mapping.for_existing(rules, plan.subject.attributes, describe, sighting.record, only_fill=only_fill)
        if people.has_address(sighting.record, plan.subject.email):
            self._key(scene, plan, draft, describe, sighting.record)
        if draft.values and time_field is not None:
            # A change by hand is hidden by any write of ours: its time stands for it, so that it still counts after a restart.
            by_hand = edited_at > max(plan.subject.happened_at, milliseconds(sighting.record.get(time_field)) or 0)
            if by_hand or not only_fill or mapping.is_blank(sighting.record.get(time_field)):
                set_at = edited_at if by_hand else plan.subject.happened_at
                _own(draft, plan, describe, time_field, datetime_text(set_at), creating=False)
        is_person = sighting.object == CONTACT and person_accounts.is_person(sighting.record)
        if is_person:
            draft = _without(plan, person_accounts.on_account(draft, scene.describes[ACCOUNT]))
        draft.left_out.update(plan.refused)
        plan.draft = draft
        if not draft.values:
            scene.made.give(plan.message, self._resolved(plan, sighting.object, sighting.id))
            return None
        if is_person:
            return Write(ACCOUNT, draft.values, str(sighting.record["AccountId"]))
        return Write(sighting.object, draft.values, sighting.id)

    def _create(self, scene: _Scene, plan: Plan) -> Write | None:
        plan.only_fills = False
        name = plan.creates
        describe = scene.describes[name]
        outcome = self._not_creatable(scene, plan, describe)
        if outcome is not None:
            scene.made.give(plan.message, outcome)
            return None
        draft = mapping.for_new(_rules(plan, name), plan.subject.attributes, describe)
        draft.values["Email"] = plan.subject.email
        _fall_back(draft, plan, describe, name)
        if plan.company:
            _own(draft, plan, describe, "AccountId", plan.account, creating=True)
        self._key(scene, plan, draft, describe, {})
        time_field = _own_name(describe, scene.org.event_time_field)
        if time_field is not None:
            _own(draft, plan, describe, time_field, datetime_text(plan.subject.happened_at), creating=True)
        draft.left_out.update(plan.refused)
        plan.draft = draft
        return Write(name, draft.values)

    def _not_creatable(self, scene: _Scene, plan: Plan, describe: Describe) -> Outcome | None:
        """Why the record can't be made now; None where it can, and then its Account is known."""
        held = plan.message.hold_creates_until_ms - self._now()
        if held > 0 and not _is_guarded(describe, scene.org):
            return Retry(held / 1000, _creates_held(), free=True)
        email = describe.field("Email")
        if email is not None and email.length and len(plan.subject.email) > email.length:
            hint = "Correct the address in Livestorm"
            return Reject(
                (Cause(code="email_too_long", message=f"Salesforce takes {email.length} characters", fields=("Email",), hint=hint),)
            )
        plan.account = ""
        if not plan.company or plan.is_refused("AccountId") or mapping.closed(describe, "AccountId", creating=True):
            return None
        standing = accounts.stand(self._tables, plan.message, plan.subject, plan.company, self._now(), scene.asked)
        if isinstance(standing, str):
            plan.account = standing
            return None
        return standing

    def _key(self, scene: _Scene, plan: Plan, draft: Draft, describe: Describe, record: Mapping[str, Value]) -> None:
        """The unique key, where the org has the field and the record none."""
        name = _own_name(describe, scene.org.person_key_field)
        if name is not None and mapping.is_blank(record.get(name)) and (not record or name in record):
            _own(draft, plan, describe, name, plan.subject.email, creating=not record)

    async def _write(self, scene: _Scene, intents: Sequence[tuple[Plan, Write]]) -> None:
        try:
            results = await writes.send(scene.door, scene.org, [write for _, write in intents])
        finally:
            # When it has ended, not when it was sent: a read that began in between may have missed it.
            now = self._now()
            for plan, write in intents:
                for key in _keys(plan, write.id):
                    self._recall.writes(key, now)
        runs: dict[RunKey, list[tuple[Trouble, ...]]] = {}
        for (plan, write), result in zip(intents, results, strict=True):
            if isinstance(result, Saved | Refused):
                troubles = result.troubles if isinstance(result, Refused) else ()
                runs.setdefault(_run(scene, write), []).append(troubles)
                if not plan.message.tries:
                    self._runs.note(_run(scene, write), [troubles])
        answered = [(plan, write, result) for (plan, write), result in zip(intents, results, strict=True)]
        doubted = {
            write.object for _, write, result in answered if isinstance(result, Refused) and refusals.doubts_describe(result.troubles)
        }
        scene.outdated.clear()
        for name in sorted(doubted):
            before, scene.describes[name] = scene.describes[name], await scene.door.describe(name, fresh=True)
            if scene.describes[name] != before:
                scene.outdated.add(name)
        for plan, write, result in answered:
            outcome = self._outcome(scene, plan, write, result, runs)
            if outcome is not None:
                scene.made.give(plan.message, outcome)

    def _outcome(
        self, scene: _Scene, plan: Plan, write: Write, result: Result, runs: Mapping[RunKey, Sequence[tuple[Trouble, ...]]]
    ) -> Outcome | None:
        """The outcome of one write; None where the plan goes into another round."""
        match result:
            case Saved(record_id):
                if plan.sighting is not None:
                    return self._resolved(plan, plan.sighting.object, plan.sighting.id)
                return self._resolved(plan, plan.creates, record_id)
            case Unsent(trouble):
                return verdicts.failed(OrgUnavailable(trouble), plan.message)
            case Lost(trouble):
                self._recall.lost(_address(plan.message.org, plan.subject.email), trouble.cause)
                return verdicts.lost(trouble)
            case Refused(troubles):
                plan.last = troubles
                return self._refused(scene, plan, write, troubles, runs)

    def _refused(
        self,
        scene: _Scene,
        plan: Plan,
        write: Write,
        troubles: tuple[Trouble, ...],
        runs: Mapping[RunKey, Sequence[tuple[Trouble, ...]]],
    ) -> Outcome | None:
        lane = org_lane(plan.message.org)
        run = _run(scene, write)
        if refusals.is_shut(scene.describes[write.object], troubles, runs[run], creating=not write.id):
            return Block(lane, troubles[0].cause)
        fields = refusals.leave_out(troubles, write.values)
        if fields is not None:
            plan.refused.update(fields)
            return None
        if refusals.doubts_describe(troubles) and write.object in scene.outdated:
            return None
        if refusals.kind(troubles) == LOOK:
            return self._changed(scene, plan, write, troubles)
        outcome = refusals.outcome(troubles, plan.message, lane, hits_nearly_all=self._runs.hits_nearly_all(run, troubles, runs[run]))
        if outcome is not None:
            return outcome
        written = self._written(plan, {}, tuple(trouble.cause for trouble in troubles))
        return verdicts.rejected(troubles, (*plan.subject.trail, written))

    def _changed(self, scene: _Scene, plan: Plan, write: Write, troubles: Sequence[Trouble]) -> Outcome | None:
        """The world has changed: look again, or for what the record refers to."""
        plan.fresh = False
        codes = {trouble.cause.code for trouble in troubles}
        doubled = "DUPLICATE_VALUE" in codes
        if write.id == "" and "AccountId" in write.values and not doubled:
            outcome = accounts.dead(self._tables, plan.subject, plan.company, plan.account, self._now(), scene.asked)
            if outcome is not None:
                return outcome
        if doubled and write.id == "":
            if plan.doubled:
                return verdicts.rejected(troubles, plan.subject.trail)
            plan.doubled = True
            plan.known_ids = tuple(one for trouble in troubles if (one := existing_id(trouble.cause.message)) is not None)
        elif doubled:
            fields = _doubled(scene, write, troubles)
            plan.refused.update(dict.fromkeys(fields, f"DUPLICATE_VALUE: {troubles[0].cause.message}"))
        return None

    def _resolved(self, plan: Plan, object_name: Name, record_id: str) -> Emit:
        """The subject goes on with the record that it turned out to be."""
        sighting = plan.sighting
        own = sighting.record.get("Email") if sighting is not None else None
        for key in _keys(plan, record_id):
            self._recall.applied(key, plan.subject.happened_at, plan.subject.id, overwrote_at=0 if plan.only_fills else self._now())
        ids = {object_name: record_id} | ({"Account": plan.account} if plan.account and "AccountId" in plan.draft.values else {})
        trail = (*plan.subject.trail, self._written(plan, ids))
        member = Member(
            object=object_name,
            id=record_id,
            email=canonical_email(own) if isinstance(own, str) else plan.subject.email,
            converted_from=sighting.converted_from if sighting is not None else (),
            created=sighting is None,
        )
        subject = msgspec.structs.replace(plan.subject, found=None, member=member, trail=trail)
        return Emit(outs=(Out(OUT, msgspec.json.encode(subject)),), trail=trail)

    def _written(self, plan: Plan, ids: dict[str, str], causes: tuple[Cause, ...] = ()) -> Written:
        lost = self._recall.found(_address(plan.message.org, plan.subject.email))
        values = plan.draft.values if ids else {}
        return Written(stage=STAGE, at=self._now(), salesforce=ids, written=values, left_out=plan.draft.left_out, causes=(*lost, *causes))

    def _is_past(self, plan: Plan, record_id: str) -> bool:
        return any(self._recall.is_past(key, plan.subject.happened_at, plan.subject.id) for key in _keys(plan, record_id))

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _address(org: str, email: str) -> tuple[str, str]:
    return org, email


def _keys(plan: Plan, record_id: str) -> list[tuple[str, str]]:
    """Under what a write is remembered: the address, and the record, since two addresses can lead to one."""
    keys = [_address(plan.message.org, plan.subject.email)]
    return [*keys, (plan.message.org, record_id)] if record_id else keys


def _run(scene: _Scene, write: Write) -> RunKey:
    return scene.made.batch.org, write.object, write.id == ""


def _rules(plan: Plan, name: str) -> dict[str, FieldRule]:
    rules = plan.workspace.mapping.contact if name == CONTACT else plan.workspace.mapping.lead
    return {field: rule for field, rule in rules.items() if field.lower() != "email" and not plan.is_refused(field)}


def _without(plan: Plan, draft: Draft) -> Draft:
    """Without the fields that the org refused before."""
    return Draft({name: value for name, value in draft.values.items() if not plan.is_refused(name)}, draft.left_out)


def _doubled(scene: _Scene, write: Write, troubles: Sequence[Trouble]) -> list[str]:
    """The fields whose value another record holds already: as the org names them, else the unique ones."""
    named = {field.lower() for trouble in troubles for field in trouble.cause.fields}
    key, describe = scene.org.person_key_field, scene.describes[write.object]
    unique = {field.name.lower() for field in describe.fields.values() if field.unique}
    unique |= {key.lower(), person_accounts.name_on_account(key).lower()}
    fields = [name for name in write.values if name.lower() in named] or [name for name in write.values if name.lower() in unique]
    # It may be one that a trigger sets: then the record can't be written at all, and the person goes on as it is.
    return fields or list(write.values)


def _own_name(describe: Describe, name: str) -> str | None:
    field = describe.field(name) if name else None
    return field.name if field is not None else None


def _own(draft: Draft, plan: Plan, describe: Describe, name: str, value: str, *, creating: bool) -> None:
    """A field of Turnout's own, where it may be written; else it is told."""
    why = mapping.closed(describe, name, creating=creating)
    if why is not None:
        draft.left_out[name] = why
    elif not plan.is_refused(name):
        draft.values[name] = value


def _fall_back(draft: Draft, plan: Plan, describe: Describe, name: Name) -> None:
    """What the org must have, and nobody told."""
    fallbacks = {"LastName": plan.subject.email.partition("@")[0]}
    if name == LEAD:
        fallbacks["Company"] = plan.workspace.objects.fallback_company
    for field_name, text in fallbacks.items():
        field = describe.field(field_name)
        if field is not None and field.createable and text.strip() and mapping.is_blank(draft.values.get(field.name)):
            draft.values[field.name] = mapping.fitting_text(field, text.strip())


def _is_guarded(describe: Describe, org: Org) -> bool:
    """Whether a second record for the same address would be refused by the org itself."""
    field = describe.field(org.person_key_field) if org.person_key_field else None
    return field is not None and field.unique and field.createable


def _creates_held() -> Cause:
    hint = "A unique person_key_field in the org makes this wait needless"
    return Cause(code="creates_held", message="A worker before may still be creating this record", hint=hint)
