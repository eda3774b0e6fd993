"""The three steps on one sandbox org, run by a few lines instead of the engine: batches, tables that a row shows in at once, waits, retries.

It keeps order by running stage after stage, and has no log, no partitions and no crash; those are the engine's own tests' matter.
"""

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from collections.abc import Mapping as MappingOf
from typing import Any

import aiohttp
import msgspec

from pipeline.messages import Message, headers
from pipeline.outcomes import Batch, Block, Drop, Emit, Out, Outcome, Reject, Retry, Step, Wait
from pipeline.records import Record
from schemas.messages import SCHEMA, Action, Registration, Session, Subject, Value, canonical_email
from schemas.settings import FieldRule, Livestorm, Mapping, Objects, Org, Statuses, Workspace
from schemas.tables import EventRow, SessionRow
from stages.campaign_membership import CampaignMembership
from stages.create import Create
from stages.flow import shared_lanes
from stages.match import Match
from stages.rows import tables
from stages.salesforce.errors import CallRefused
from stages.salesforce.orgs import Keep, OrgRegistry
from stages.sandbox.salesforce import SandboxOrgs
from stages.settings import defaults
from tests.flow.salesforce import Org as SandboxOrg

ORG = "acme-prod"
WORKSPACE = "acme"
STAGES = {"normalized": "match", "matched": "create", "resolved": "campaign-membership"}


def workspace(
    id: str = WORKSPACE,
    *,
    create: Any = "lead",
    fallback_company: str = "[not provided]",
    statuses: Statuses | None = None,
    lead: dict[str, FieldRule] | None = None,
    contact: dict[str, FieldRule] | None = None,
    campaign_member: dict[str, FieldRule] | None = None,
) -> Workspace:
    mapping = Mapping(
        lead=defaults.merged(defaults.LEAD, lead or {}),
        contact=defaults.merged(defaults.CONTACT, contact or {}),
        campaign_member=defaults.merged({}, campaign_member or {}),
    )
    return Workspace(
        id=id,
        org=ORG,
        livestorm=Livestorm(organization_id=f"o-{id}", webhook_secret="s"),
        objects=Objects(create=create, fallback_company=fallback_company),
        statuses=statuses or Statuses(),
        mapping=mapping,
    )


class Rows:
    """A table in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.rows.get(key)


@dataclasses.dataclass
class Entry:
    """A message in a stage's queue."""

    stage: str
    message: Message
    wait: Wait | None = None


@dataclasses.dataclass
class Line:
    """See the module. `final` holds what became of each message; `seen` every outcome in order, retries and waits too."""

    org: SandboxOrg
    registry: OrgRegistry
    tables: dict[str, Rows]
    clock: Callable[[], float] = time.time
    batch_size: int = 1000
    queue: list[Entry] = dataclasses.field(default_factory=list)
    final: list[tuple[str, Message, Outcome]] = dataclasses.field(default_factory=list)
    seen: list[tuple[str, Message, Outcome]] = dataclasses.field(default_factory=list)
    offset: int = 0

    def __post_init__(self) -> None:
        self.restart()

    def restart(self, *, apart: bool = False) -> None:
        """New processes, which remember nothing. `apart`: match runs in another one than create."""
        typed = tables(self.tables)
        worker = f"worker-{self.offset}"
        self.steps: dict[str, Step] = {
            "match": Match(self.registry, typed, self.clock, worker),
            "create": Create(self.registry, typed, self.clock, f"{worker}-other" if apart else worker),
            "campaign-membership": CampaignMembership(self.registry, typed, self.clock),
        }

    def put(self, table: str, key: str, row: Any) -> None:
        self.tables[table].rows[key] = msgspec.json.encode(row)

    def connect(self, *workspaces: Workspace) -> None:
        for one in workspaces:
            self.put("workspaces", one.id, one)

    def set_org(self, **changes: Any) -> None:
        row = msgspec.json.decode(self.tables["orgs"].rows[ORG], type=Org)
        self.put("orgs", ORG, msgspec.structs.replace(row, **changes))

    def session(
        self, id: str = "S1", *, title: str = "Autumn review", workspace: str = WORKSPACE, tell: bool = True, **changes: Any
    ) -> None:
        """A session that normalize knows, and its message."""
        told: dict[str, Any] = {"status": "upcoming", "timezone": "Europe/Paris", "estimated_started_at": 1793507400} | changes
        self.put("events", f"E-{id}", EventRow(id=f"E-{id}", title=title))
        self.put("sessions", id, SessionRow(id=id, workspace=workspace, event=f"E-{id}", **told))
        if tell:
            self.offset += 1
            now = int(self.clock() * 1000)
            subject = Session(
                id=f"m{self.offset}", session=id, event=f"E-{id}", workspace=workspace, org=ORG, happened_at=now, received_at=now
            )
            self.send("normalized", subject, f"session:{id}", "session", id)

    def person(
        self,
        email: str,
        action: Action = "registered",
        *,
        session: str = "S1",
        workspace: str = WORKSPACE,
        at: float = 0.0,
        id: str = "",
        replay: str | None = None,
        more: MappingOf[str, Value] | None = None,
        **attributes: Value,
    ) -> None:
        """A registration's message. `at`: seconds from now; names are made up unless given; `more` are further attributes."""
        self.offset += 1
        told: dict[str, Value] = {"first_name": "Kim", "last_name": "Ito", "company": "Kumo KK", **(more or {}), **attributes}
        subject = Registration(
            id=id or f"m{self.offset}",
            action=action,
            workspace=workspace,
            org=ORG,
            session=session,
            event=f"E-{session}",
            email=canonical_email(email),
            person=f"p{self.offset}",
            happened_at=int((self.clock() + at) * 1000),
            received_at=int(self.clock() * 1000),
            attributes={name: value for name, value in told.items() if value is not None},
        )
        self.send("normalized", subject, subject.email, "registration", session, replay)

    def send(self, topic: str, subject: Subject, key: str, kind: str, session: str, replay: str | None = None) -> None:
        own = headers(
            id=subject.id, kind=kind, workspace=subject.workspace, org=subject.org, session=session, event="", happened_at=subject.happened_at,
            received_at=subject.received_at, schema=SCHEMA, replay=replay,
        )  # fmt: skip
        self.enqueue(topic, key, msgspec.json.encode(subject), own)

    def enqueue(self, topic: str, key: str, value: bytes, own: Any) -> None:
        self.offset += 1
        message = Message(Record(topic, 0, self.offset, int(self.clock() * 1000), key.encode(), value, own))
        message.held_since_ms = 1
        message.shared_lanes = shared_lanes(STAGES[topic])(message)
        self.queue.append(Entry(STAGES[topic], message))

    async def run(self, rounds: int = 12) -> None:
        """Runs every stage until nothing moves any more. Retries and blocked lanes are tried again at once, in the next round."""
        for _ in range(rounds):
            for stage in ("match", "create", "campaign-membership"):
                await self.run_stage(stage)
            if not [entry for entry in self.queue if self.is_ready(entry)]:
                return

    async def run_stage(self, stage: str, limit: int | None = None) -> None:
        ready = [entry for entry in self.queue if entry.stage == stage and self.is_ready(entry)][:limit]
        while ready:
            batch: list[Entry] = []
            rest: list[Entry] = []
            keys: set[str] = set()
            for entry in ready:
                fits = entry.message.key not in keys and len(batch) < self.batch_size
                (batch if fits else rest).append(entry)
                keys.add(entry.message.key)
            await self.run_batch(stage, batch)
            ready = rest

    async def run_batch(self, stage: str, batch: list[Entry]) -> None:
        try:
            outcomes = await self.steps[stage](Batch(ORG, [entry.message for entry in batch], lambda: None))
        except CallRefused:
            middle = len(batch) // 2
            assert middle, "what is refused alone has an outcome"
            for half in (batch[:middle], batch[middle:]):
                await self.run_batch(stage, half)
            return
        assert len(outcomes) == len(batch)
        for entry, outcome in zip(batch, outcomes, strict=True):
            self.queue.remove(entry)
            self.seen.append((stage, entry.message, outcome))
            for row in getattr(outcome, "rows", ()):
                assert row.value is not None
                self.tables[row.table].rows[row.key] = row.value
            self.take(entry, outcome)

    def take(self, entry: Entry, outcome: Outcome) -> None:
        entry.message.tries += isinstance(outcome, Retry) and not outcome.free
        match outcome:
            case Emit(outs=outs):
                self.produce(entry, outs)
                if not outs:
                    self.final.append((entry.stage, entry.message, outcome))
            case Drop() | Reject():
                self.final.append((entry.stage, entry.message, outcome))
            case Wait(outs=outs):
                asked = entry.wait is not None and (entry.wait.table, entry.wait.key, entry.wait.seen) == (
                    outcome.table,
                    outcome.key,
                    outcome.seen,
                )
                self.produce(entry, () if asked else outs)
                entry.message.waited_since_ms = entry.message.waited_since_ms or int(self.clock() * 1000)
                self.queue.append(Entry(entry.stage, entry.message, outcome))
            case Retry():
                self.queue.append(Entry(entry.stage, entry.message))
            case Block(lane=lane):
                assert lane in entry.message.lanes
                self.queue.append(Entry(entry.stage, entry.message))

    def produce(self, entry: Entry, outs: tuple[Out, ...]) -> None:
        for out in outs:
            self.enqueue(out.topic, out.key or entry.message.key, out.value, out.headers or entry.message.headers)

    def is_ready(self, entry: Entry) -> bool:
        return entry.wait is None or self.tables[entry.wait.table].get(entry.wait.key) != entry.wait.seen

    def of(self, email: str) -> list[tuple[str, Outcome]]:
        """What became of an address's messages, in order."""
        return [(stage, outcome) for stage, message, outcome in self.final if message.key == email]

    def causes(self) -> list[str]:
        """Codes of all dead letters."""
        return [cause.code for _, _, outcome in self.final if isinstance(outcome, Reject) for cause in outcome.causes]

    async def calls(self) -> int:
        """Calls against the allowance, describes left out: they are kept for an hour."""
        told = await self.org.calls()
        return int(told["total"]) - int(told["by_resource"].get("describe", 0))


async def _unkept(org: str, value: str) -> None:
    """Nothing is kept here."""


@contextlib.asynccontextmanager
async def line(**changes: Any) -> AsyncIterator[Line]:
    """A fresh org with one workspace connected, and the steps on it; `changes` of the org's settings."""
    async with SandboxOrgs() as sandbox, aiohttp.ClientSession() as http:
        held = {name: Rows() for name in ("orgs", "workspaces", "events", "sessions", "campaigns", "accounts")}
        settings: dict[str, Any] = {"flow": "client-credentials", "client_id": "c", "client_secret": "sandbox"} | changes
        held["orgs"].rows[ORG] = msgspec.json.encode(Org(id=ORG, login_url=sandbox.urls[0], **settings))
        registry = OrgRegistry(held["orgs"], lambda secret: secret, Keep(_unkept, _unkept))
        made = Line(SandboxOrg(ORG, sandbox.urls[0], http), registry, held)
        made.connect(workspace())
        try:
            yield made
        finally:
            registry.close()
