"""create for companies: the Account of a name, found (the oldest) or made; the one writer of `accounts`. Asks for Accounts too."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from pipeline.messages import Message, headers
from pipeline.outcomes import Emit, Out, Outcome, Reject, Retry, Row, Wait
from schemas.messages import SCHEMA, Cause, Company, Registration, Value, Written, folded_company
from schemas.settings import Org
from schemas.tables import AccountRow
from stages import mapping, people, refusals, verdicts, writes
from stages.reads import Record, known_fields, read
from stages.rows import Tables, account_key
from stages.salesforce.causes import LOOK, TRANSIENT
from stages.salesforce.door import Describe, OrgDoor, Orgs, Trouble
from stages.salesforce.errors import OrgUnavailable, SalesforceDoorError
from stages.salesforce.ids import full_id
from stages.salesforce.soql import chunks, in_list, select
from stages.verdicts import Verdicts
from stages.writes import Lost, Refused, Saved, Unsent, Write

ACCOUNT: Final = "Account"
STAGE: Final = "create"
TOPIC: Final = "matched"
"""Where companies are asked for: what create reads."""
REFUSED_MS: Final = 600_000
"""A company that the org refused is asked for again after this time."""


def stand(tables: Tables, asker: Registration, name: str, now: int, asked: set[str]) -> str | Outcome:
    """The Account's id for a company, or what becomes of who asks: waits for it, or takes over the org's refusal.

    `asked`: companies that somebody of the same batch has asked for; one question is enough.
    """
    key = account_key(asker.org, folded_company(name))
    row = tables.accounts.get(key)
    if row is not None and row.account:
        return row.account
    if row is not None and row.why is not None and now - row.at < REFUSED_MS:
        return Reject((row.why,), asker.trail)
    return _wait(tables, asker, name, row.version if row is not None else 0, asked)


def dead(tables: Tables, asker: Registration, name: str, account: str, asked: set[str]) -> Outcome:
    """The Account of the row is gone: another is asked for, unless the row has a later one already."""
    row = tables.accounts.get(account_key(asker.org, folded_company(name)))
    if row is not None and row.account and row.account != account:
        return Retry(verdicts.LOOK_AGAIN_SECONDS, _unknown(), free=True)
    return _wait(tables, asker, name, row.version if row is not None else 0, asked)


def _wait(tables: Tables, asker: Registration, name: str, dead_version: int, asked: set[str]) -> Wait:
    key = account_key(asker.org, folded_company(name))
    outs = () if key in asked else (_question(asker, name, key, dead_version),)
    asked.add(key)
    return Wait(tables.accounts.name, key, tables.accounts.raw(key), _unknown(), outs=outs)


def _question(asker: Registration, name: str, key: str, dead_version: int) -> Out:
    folded = folded_company(name)
    identity = hashlib.sha256(f"{asker.id}\n{key}\n{dead_version}".encode()).hexdigest()[:32]
    company = Company(
        id=identity,
        workspace=asker.workspace,
        org=asker.org,
        name=" ".join(name.split()),
        folded=folded,
        happened_at=asker.happened_at,
        received_at=asker.received_at,
        dead_version=dead_version,
    )
    own = headers(
        id=identity,
        kind="company",
        workspace=asker.workspace,
        org=asker.org,
        session="",
        event="",
        happened_at=asker.happened_at,
        received_at=asker.received_at,
        schema=SCHEMA,
    )
    return Out(TOPIC, msgspec.json.encode(company), f"company:{asker.org}:{folded}", own)


def _unknown() -> Cause:
    hint = "Turnout looks for the company's Account, or makes it"
    return Cause(code="account_unknown", message="The Account of the person's company is not known yet", fields=("AccountId",), hint=hint)


@dataclasses.dataclass(slots=True)
class _Ask:
    """One company, with everyone who asked for it in this batch."""

    company: Company
    messages: list[Message]
    row: AccountRow | None
    name: str = ""
    """As the org stores it: cut to what Account.Name takes."""
    record: Record | None = None

    @property
    def record_id(self) -> str:
        """ "" where there is no Account yet."""
        return str(self.record["Id"]) if self.record is not None else ""


class Accounts:
    """Works the companies of a batch. `clock` gives Unix seconds."""

    def __init__(self, orgs: Orgs, tables: Tables, clock: Callable[[], float]) -> None:
        self._orgs, self._tables, self._clock = orgs, tables, clock

    async def __call__(self, made: Verdicts, org: Org, subjects: Sequence[tuple[Message, Company]]) -> None:
        asks = self._asks(made, subjects)
        if not asks:
            return
        try:
            await self._work(made, org, asks)
        except SalesforceDoorError as error:
            made.fail((message for ask in asks for message in ask.messages), error)

    def _asks(self, made: Verdicts, subjects: Sequence[tuple[Message, Company]]) -> list[_Ask]:
        """Companies whose Account isn't known, each once."""
        asks: dict[str, _Ask] = {}
        for message, company in subjects:
            row = self._tables.accounts.get(account_key(company.org, company.folded))
            if row is not None and row.account and row.version > company.dead_version:
                made.give(message, Emit(reason="account_known", trail=company.trail))
            elif company.folded in asks:
                asks[company.folded].messages.append(message)
            else:
                asks[company.folded] = _Ask(company, [message], row)
        return list(asks.values())

    async def _work(self, made: Verdicts, org: Org, asks: Sequence[_Ask]) -> None:
        door = self._orgs.door(made.batch.org)
        describe = await door.describe(ACCOUNT)
        await people.fresh_fields(door, lambda: _find(door, org, asks), (ACCOUNT,))
        describe = await door.describe(ACCOUNT)
        key = describe.field(org.account_key_field) if org.account_key_field else None
        writing: list[tuple[_Ask, Write]] = []
        for ask in asks:
            if ask.record is None and self._is_held(made, ask, guarded=key is not None and key.unique):
                continue
            values: dict[str, Value] = {} if ask.record is not None else {"Name": ask.name}
            held = ask.record.get(key.name) if ask.record is not None and key is not None else None
            if key is not None and mapping.is_blank(held) and (key.updateable if ask.record else key.createable):
                values[key.name] = mapping.fitting_text(key, ask.company.folded)
            if values:
                writing.append((ask, Write(ACCOUNT, values, ask.record_id)))
            else:
                self._give(made, ask, self._done(ask, ask.record_id, {}, "account_found"))
        results = await writes.send(door, org, [write for _, write in writing], made.batch.guard)
        for (ask, write), result in zip(writing, results, strict=True):
            self._give(made, ask, self._outcome(made, ask, write, result))

    def _is_held(self, made: Verdicts, ask: _Ask, *, guarded: bool) -> bool:
        """Whether a worker before may still be creating it."""
        until = max(message.hold_creates_until_ms for message in ask.messages)
        held = until - self._now()
        if held <= 0 or guarded:
            return False
        cause = Cause(code="creates_held", message="A worker before may still be creating this Account")
        self._give(made, ask, Retry(held / 1000, cause, free=True))
        return True

    def _give(self, made: Verdicts, ask: _Ask, outcome: Outcome) -> None:
        """The first of those who asked carries the row; the others are told that it is known."""
        for place, message in enumerate(ask.messages):
            first = place == 0 or not isinstance(outcome, Emit)
            made.give(message, outcome if first else Emit(reason="account_known"))

    def _outcome(self, made: Verdicts, ask: _Ask, write: Write, result: writes.Result) -> Outcome:
        match result:
            case Saved(record_id):
                return self._done(ask, record_id, dict(write.values), "account_keyed" if write.id else "account_created")
            case Unsent(trouble):
                return verdicts.failed(OrgUnavailable(trouble), ask.messages[0])
            case Lost(trouble):
                return verdicts.lost(trouble)
            case Refused(troubles):
                return self._refused(ask, write, troubles)

    def _refused(self, ask: _Ask, write: Write, troubles: tuple[Trouble, ...]) -> Outcome:
        """An update could only have filled the key: the Account is right without it. A creation is told to those who wait."""
        if write.id:
            left_out = dict.fromkeys(write.values, f"{troubles[0].cause.code}: {troubles[0].cause.message}")
            return self._done(ask, write.id, {}, "account_found", left_out)
        kind = refusals.kind(troubles)
        if kind in (LOOK, TRANSIENT):
            return verdicts.again(next(trouble for trouble in troubles if trouble.kind == kind), ask.messages[0])
        cause = troubles[0].cause
        row = AccountRow(why=cause, version=self._version(ask), at=self._now())
        trail = (*ask.company.trail, Written(stage=STAGE, at=self._now(), causes=tuple(trouble.cause for trouble in troubles)))
        return Emit(rows=(self._row(ask, row),), reason="account_refused", trail=trail)

    def _done(self, ask: _Ask, record_id: str, written: dict[str, Value], reason: str, left_out: dict[str, str] | None = None) -> Emit:
        row = AccountRow(account=full_id(record_id), version=self._version(ask), at=self._now())
        step = Written(stage=STAGE, at=self._now(), salesforce={ACCOUNT: row.account}, written=written, left_out=left_out or {})
        return Emit(rows=(self._row(ask, row),), reason=reason, trail=(*ask.company.trail, step))

    def _version(self, ask: _Ask) -> int:
        return max(ask.row.version if ask.row is not None else 0, ask.company.dead_version) + 1

    def _row(self, ask: _Ask, row: AccountRow) -> Row:
        return self._tables.accounts.row(account_key(ask.company.org, ask.company.folded), row)

    def _now(self) -> int:
        return int(self._clock() * 1000)


async def _find(door: OrgDoor, org: Org, asks: Sequence[_Ask]) -> None:
    """One composite: the oldest Account of each name, and where none has the name, the one with the key."""
    describe = await door.describe(ACCOUNT)
    fields = known_fields(describe, ("Id", "Name", "CreatedDate", org.account_key_field or "Id", "IsPersonAccount"))
    key = known_fields(describe, (org.account_key_field,)) if org.account_key_field else []
    name = describe.field("Name")
    by_name: dict[str, _Ask] = {}
    for ask in asks:
        ask.name = mapping.fitting_text(name, ask.company.name) if name is not None else ask.company.name
        by_name[ask.name] = ask
    queries = [select(fields, ACCOUNT, _where(describe, chunk, by_name, key)) for chunk in chunks(by_name, characters=25_000)]
    records = [record for rows in await read(door, queries, ACCOUNT) for record in rows]
    for record in records:
        record["Id"] = full_id(record["Id"])
    for ask in asks:
        named = [record for record in records if folded_company(str(record.get("Name") or "")) == folded_company(ask.name)]
        keyed = [record for record in records if key and record.get(key[0]) == ask.company.folded]
        ask.record = min(named or keyed, key=people.age, default=None)


def _where(describe: Describe, chunk: Sequence[str], by_name: dict[str, _Ask], key: Sequence[str]) -> str:
    where = f"Name IN {in_list(chunk)}"
    if key:
        where = f"({where} OR {key[0]} IN {in_list([by_name[name].company.folded for name in chunk])})"
    return f"{where} AND IsPersonAccount = false" if describe.field("IsPersonAccount") is not None else where
