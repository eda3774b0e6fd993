"""create for companies: the Account of a name, found (the oldest) or made; the one writer of `accounts`. Asks for Accounts too."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from pipeline.lanes import org_lane
from pipeline.messages import Message, headers
from pipeline.outcomes import Block, Emit, Out, Outcome, Reject, Retry, Row, Wait
from schemas.messages import SCHEMA, Cause, Company, Registration, Value, Written, folded_company
from schemas.settings import Org
from schemas.tables import AccountRow
from stages import mapping, people, refusals, verdicts, writes
from stages.reads import Record, known_fields, read
from stages.recency import is_retry
from stages.refusals import RunKey, Runs
from stages.rows import Tables, account_key
from stages.salesforce.causes import LOOK, ORG, RECORD, TRANSIENT
from stages.salesforce.door import Describe, Field, OrgDoor, Orgs, Trouble
from stages.salesforce.errors import OrgUnavailable, OutcomeUnknown, SalesforceDoorError
from stages.salesforce.ids import full_id
from stages.salesforce.soql import groups, in_list, select
from stages.verdicts import Verdicts
from stages.writes import Lost, Refused, Result, Saved, Unsent, Write

ACCOUNT: Final = "Account"
STAGE: Final = "create"
TOPIC: Final = "matched"
"""Where companies are asked for: what create reads."""
REFUSED_MS: Final = 60_000
"""A company that the org refused is asked for again after this time: the org may have been mended."""

NAME_CHARACTERS: Final = 255
"""Length of Account.Name. A longer name is cut before it is folded, so that it is one company for who asks, who looks and who makes it."""
BLANKS: Final = (" ", "  ", "\N{NO-BREAK SPACE}")
"""Between the words of a name that is looked for, beside what who asks has typed. LIKE would find any blanks, but the company `S A` of one
registrant would then read every Account that begins with S and ends with A; equality costs the org nothing, however many Accounts it has."""

ASKED_AGAIN_SECONDS: Final = 3_600.0
"""A question that ended as a dead letter leaves nobody waiting for ever. Seldom: while an org is down questions only pile up."""

CONFIRMED_MS: Final = 60_000
"""An Account that was found to be there is not taken for gone again within this time."""


def stand(tables: Tables, message: Message, asker: Registration, name: str, now: int, asked: set[str]) -> str | Outcome:
    """The Account's id for a company, or what becomes of who asks: waits for it, or takes over the org's refusal.

    `asked`: companies that somebody of the same batch has asked for; one question is enough.
    """
    key = _key(asker, name)
    row = tables.accounts.get(key)
    if row is not None and row.account:
        return row.account
    if row is not None and row.why is not None and now - row.at < REFUSED_MS and not _asks_anew(message):
        return Reject((row.why,), asker.trail)
    return _wait(tables, asker, name, row.version if row is not None else 0, asked)


def dead(tables: Tables, asker: Registration, name: str, account: str, now: int, asked: set[str]) -> Outcome | None:
    """The Account of the row seems to be gone: another is asked for, unless the row has a later one already.

    None where it was looked for lately, and is there: something else is gone that the record refers to.
    """
    row = tables.accounts.get(_key(asker, name))
    if row is not None and row.account and row.account != account:
        return Retry(verdicts.LOOK_AGAIN_SECONDS, _unknown(), free=True)
    if row is not None and now - row.confirmed_at < CONFIRMED_MS:
        return None
    return _wait(tables, asker, name, row.version if row is not None else 0, asked)


def _asks_anew(message: Message) -> bool:
    """A dead letter that is retried, which takes no refusal from before: whoever retried it has mended the org. It waits for an answer once."""
    return message.replay is not None and is_retry(message.replay) and not message.waited_since_ms


def _single_spaced(name: str) -> str:
    """As a new Account gets it."""
    return " ".join(name.split())[:NAME_CHARACTERS].rstrip()


def _key(asker: Registration, name: str) -> str:
    return account_key(asker.org, folded_company(_single_spaced(name)))


def _wait(tables: Tables, asker: Registration, name: str, dead_version: int, asked: set[str]) -> Wait:
    key = _key(asker, name)
    outs = () if key in asked else (_question(asker, name, key, dead_version),)
    asked.add(key)
    return Wait(tables.accounts.name, key, tables.accounts.raw(key), _unknown(), outs=outs, again_seconds=ASKED_AGAIN_SECONDS)


def _question(asker: Registration, name: str, key: str, dead_version: int) -> Out:
    folded = folded_company(_single_spaced(name))
    identity = hashlib.sha256(f"{asker.id}\n{key}\n{dead_version}".encode()).hexdigest()[:32]
    company = Company(
        id=identity,
        workspace=asker.workspace,
        org=asker.org,
        name=name if len(name) <= NAME_CHARACTERS else _single_spaced(name),
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
    """As a new Account gets it: with single blanks, cut to what Account.Name takes."""
    record: Record | None = None
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def record_id(self) -> str:
        """ "" where there is no Account yet."""
        return str(self.record["Id"]) if self.record is not None else ""


class Accounts:
    """Works the companies of a batch. `clock` gives Unix seconds."""

    def __init__(self, orgs: Orgs, tables: Tables, clock: Callable[[], float]) -> None:
        self._orgs, self._tables, self._clock = orgs, tables, clock
        self._runs = Runs()

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
        door = self._orgs.door_for(made.batch.org, made.batch.guard)
        if not (await door.describe(ACCOUNT)).createable:
            # It may have been mended since.
            await door.describe(ACCOUNT, fresh=True)
        await people.fresh_fields(door, lambda: _find(door, org, asks), (ACCOUNT,))
        key = _key_field(await door.describe(ACCOUNT), org)
        pending = [(ask, write) for ask in asks if (write := self._intent(made, ask, key)) is not None]
        while pending:
            results = await writes.send(door, org, [write for _, write in pending])
            await self._look_again(made, door, org, pending, results)
            pending = await self._settle_all(made, door, pending, results)

    def _intent(self, made: Verdicts, ask: _Ask, key: Field | None) -> Write | None:
        """What to write: a new Account, or the key of one that has none; None, with outcomes, where there is nothing to do now."""
        guarded = key is not None and key.unique and key.createable
        if ask.record is None and not guarded and self._is_held(made, ask):
            return None
        values: dict[str, Value] = {} if ask.record is not None else {"Name": ask.name}
        held = ask.record.get(key.name) if ask.record is not None and key is not None else None
        if key is not None and mapping.is_blank(held) and (key.updateable if ask.record else key.createable):
            values[key.name] = mapping.fitting_text(key, ask.company.folded)
        if values:
            return Write(ACCOUNT, values, ask.record_id)
        _tell(made, ask, self._done(ask, ask.record_id, {}, "account_found"))
        return None

    def _is_held(self, made: Verdicts, ask: _Ask) -> bool:
        """Whether a worker before may still be creating it."""
        held = max(message.hold_creates_until_ms for message in ask.messages) - self._now()
        if held <= 0:
            return False
        cause = Cause(code="creates_held", message="A worker before may still be creating this Account")
        _give(made, ask, lambda _: Retry(held / 1000, cause, free=True))
        return True

    async def _look_again(
        self, made: Verdicts, door: OrgDoor, org: Org, sent: Sequence[tuple[_Ask, Write]], results: Sequence[Result]
    ) -> None:
        """Where the org has the key already: the Account may be there since the look before, made by a call whose answer was lost."""
        doubled = [ask for (ask, write), result in zip(sent, results, strict=True) if not write.id and _is_doubled(result)]
        if doubled:
            await _find(door, org, doubled)
        for ask in doubled:
            if ask.record is not None:
                _tell(made, ask, self._done(ask, ask.record_id, {}, "account_found"))

    async def _settle_all(
        self, made: Verdicts, door: OrgDoor, sent: Sequence[tuple[_Ask, Write]], results: Sequence[Result]
    ) -> list[tuple[_Ask, Write]]:
        """Takes in the results; what is to be sent again, each with a field less."""
        refused = [result.troubles for result in results if isinstance(result, Refused)]
        # Rights on the object and on a field may be others than describe said.
        stale = any(refusals.doubts_describe(troubles) for troubles in refused)
        describe = await door.describe(ACCOUNT, fresh=stale)
        created = [
            result.troubles if isinstance(result, Refused) else ()
            for (_, write), result in zip(sent, results, strict=True)
            if not write.id and isinstance(result, Saved | Refused)
        ]
        # A company whose trouble may pass comes again and again: it counts once, when it is refused or made.
        self._runs.note(_run(made), [one for one in created if not one or refusals.kind(one) in (RECORD, ORG)])
        again = []
        for (ask, write), result in zip(sent, results, strict=True):
            match result:
                case Saved(record_id):
                    _tell(made, ask, self._done(ask, record_id, dict(write.values), "account_keyed" if write.id else "account_created"))
                case Unsent(trouble):
                    _give(made, ask, functools.partial(verdicts.failed, OrgUnavailable(trouble)))
                case Lost(trouble):
                    _give(made, ask, functools.partial(verdicts.failed, OutcomeUnknown(trouble)))
                case Refused(troubles) if not made.has(ask.messages[0]):
                    lesser = self._lesser(made, ask, write, troubles)
                    if lesser is not None:
                        again.append((ask, lesser))
                    elif not made.has(ask.messages[0]):
                        self._refuse(made, ask, troubles, describe, created)
        return again

    def _lesser(self, made: Verdicts, ask: _Ask, write: Write, troubles: tuple[Trouble, ...]) -> Write | None:
        """The same write without the fields that the org refuses, where it is worth sending."""
        fields = refusals.leave_out(troubles, write.values)
        if fields is None and (write.id or _is_doubled(Refused(troubles))):
            # Without its key an Account is right, too: another one, which can't be found, may have it.
            words = f"{troubles[0].cause.code}: {troubles[0].cause.message}"
            fields = dict.fromkeys((name for name in write.values if name != "Name"), words)
        if not fields:
            return None
        ask.left_out.update(fields)
        values = {name: value for name, value in write.values.items() if name not in fields}
        if not values:
            _tell(made, ask, self._done(ask, write.id, {}, "account_found"))
        elif write.id or not self._is_held(made, ask):
            return dataclasses.replace(write, values=values)
        return None

    def _refuse(
        self, made: Verdicts, ask: _Ask, troubles: tuple[Trouble, ...], describe: Describe, created: Sequence[tuple[Trouble, ...]]
    ) -> None:
        """No Account is made. What is the org's own fault stops the org; this company's alone is told to those who wait for it."""
        trouble = refusals.leading(troubles)
        shut = refusals.is_shut(describe, troubles, created, creating=True)
        if trouble.kind in (LOOK, TRANSIENT):
            _give(made, ask, functools.partial(verdicts.again, trouble))
        elif trouble.kind == ORG or shut or self._runs.hits_nearly_all(_run(made), troubles, created):
            _give(made, ask, lambda message: Block(org_lane(message.org), trouble.cause, trouble.retry_after_seconds))
        else:
            row = AccountRow(why=trouble.cause, version=self._version(ask), at=self._now())
            step = Written(stage=STAGE, at=self._now(), causes=tuple(one.cause for one in troubles))
            _tell(made, ask, Emit(rows=(self._row(ask, row),), reason="account_refused", trail=(*ask.company.trail, step)))

    def _done(self, ask: _Ask, record_id: str, written: dict[str, Value], reason: str) -> Emit:
        account, now = full_id(record_id), self._now()
        confirmed = ask.row is not None and ask.row.account == account
        row = AccountRow(account=account, version=self._version(ask), at=now, confirmed_at=now if confirmed else 0)
        step = Written(stage=STAGE, at=now, salesforce={ACCOUNT: account}, written=written, left_out=ask.left_out)
        return Emit(rows=(self._row(ask, row),), reason=reason, trail=(*ask.company.trail, step))

    def _version(self, ask: _Ask) -> int:
        return max(ask.row.version if ask.row is not None else 0, ask.company.dead_version) + 1

    def _row(self, ask: _Ask, row: AccountRow) -> Row:
        return self._tables.accounts.row(account_key(ask.company.org, ask.company.folded), row)

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _tell(made: Verdicts, ask: _Ask, known: Emit) -> None:
    """The first of those who asked carries the row; the others are told that it is known."""
    for place, message in enumerate(ask.messages):
        made.give(message, known if place == 0 else Emit(reason="account_known"))


def _give(made: Verdicts, ask: _Ask, decide: Callable[[Message], Outcome]) -> None:
    """Each of those who asked has a lane of its own."""
    for message in ask.messages:
        made.give(message, decide(message))


def _is_doubled(result: Result) -> bool:
    return isinstance(result, Refused) and any(trouble.cause.code == "DUPLICATE_VALUE" for trouble in result.troubles)


def _run(made: Verdicts) -> RunKey:
    return made.batch.org, ACCOUNT, True


def _key_field(describe: Describe, org: Org) -> Field | None:
    """The field of the key, where Accounts can be looked for by it."""
    field = describe.field(org.account_key_field) if org.account_key_field else None
    return field if field is not None and field.filterable else None


async def _find(door: OrgDoor, org: Org, asks: Sequence[_Ask]) -> None:
    """One composite: the oldest Account of each name, and where none has the name, the one with the key.

    The Account of a row that is said to be gone may have been merged: then it is the one that was kept, whatever its name.
    """
    describe = await door.describe(ACCOUNT)
    field = _key_field(describe, org)
    key = [field.name] if field is not None else []
    fields = known_fields(describe, ("Id", "Name", "CreatedDate", *key, "IsPersonAccount"))
    gone = {ask.row.account for ask in asks if ask.row is not None and ask.row.account}
    followed = await people.follow(door, sorted(gone), fields, describe)
    name = describe.field("Name")
    for ask in asks:
        spaced = _single_spaced(ask.company.name)
        ask.name = mapping.fitting_text(name, spaced) if name is not None else spaced
    chunks = groups(asks, lambda ask: (*_spellings(ask), *_whole_key(ask, field)))
    queries = [select(fields, ACCOUNT, _where(describe, chunk, field)) for chunk in chunks]
    records = [record for rows in await read(door, queries, ACCOUNT) for record in rows]
    for record in records:
        record["Id"] = full_id(record["Id"])
    named, keyed = _by_company(records, "Name"), _by_company(records, *key)
    for ask in asks:
        kept = people.survivor(ask.row.account, followed) if ask.row is not None else None
        found = named.get(folded_company(ask.name)) or keyed.get(ask.company.folded, [])
        ask.record = kept or min(found, key=people.age, default=None)


def _spellings(ask: _Ask) -> dict[str, None]:
    """Names under which its Account may stand. Case makes no difference to the org."""
    words = ask.name.split()
    return dict.fromkeys((ask.company.name, *(blank.join(words) for blank in BLANKS)))


def _whole_key(ask: _Ask, field: Field | None) -> tuple[str, ...]:
    """The key, unless the field has to cut it: then another company may have the same."""
    folded = ask.company.folded
    return (folded,) if field is not None and mapping.fitting_text(field, folded) == folded else ()


def _where(describe: Describe, asks: Sequence[_Ask], field: Field | None) -> str:
    where = f"Name IN {in_list([name for ask in asks for name in _spellings(ask)])}"
    keys = [key for ask in asks for key in _whole_key(ask, field)]
    if field is not None and keys:
        where = f"({where} OR {field.name} IN {in_list(keys)})"
    return f"{where} AND IsPersonAccount = false" if describe.field("IsPersonAccount") is not None else where


def _by_company(records: Iterable[Record], *fields: str) -> dict[str, list[Record]]:
    """The records by what one of their fields says, folded."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        for name in fields:
            rows.setdefault(folded_company(str(record.get(name) or "")), []).append(record)
    return rows
