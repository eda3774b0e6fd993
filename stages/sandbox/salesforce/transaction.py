"""One user's writes within one (sub)request: stamps, history, and the way back. Checks nothing: `saving` has."""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stages.sandbox.salesforce.objects import Object
from stages.sandbox.salesforce.table import Changes, Record
from stages.sandbox.salesforce.values import utc_text

if TYPE_CHECKING:
    from stages.sandbox.salesforce.org import Org

SEED_DATE = "2020-01-01T00:00:00.000+0000"
"""When the seed's records were made, if it doesn't say: they have always been there."""


@dataclasses.dataclass
class Transaction:
    """`bound` is false for what isn't a request of the API: the seed, and the people in Salesforce's pages, whom no rights bind.

    `seeding` also lets read-only fields be set and leaves the org's rules out. `allow_save` and `assign` come from the
    duplicate-rule and the assignment header. All its writes have one time: that of the first.
    """

    org: "Org"
    by: str
    bound: bool = True
    seeding: bool = False
    allow_save: bool = False
    assign: bool = True
    undo: list[Callable[[], None]] = dataclasses.field(default_factory=list)
    created: set[str] = dataclasses.field(default_factory=set)

    def insert(self, object_: Object, values: Mapping[str, Any], record_id: str | None = None) -> Record:
        """A new record; stamps that `values` hold (a seed's) are kept."""
        table = self.org.table(object_)
        stamps = self._stamps_of(values)
        at = f"{stamps['CreatedDate'][:19]}.000000Z" if self.seeding else self.at
        record = Record(record_id or self.org.new_id(object_), {**stamps, **values}, at, self.by)
        table.insert(record)
        self.created.add(record.id)

        def back() -> None:
            table.erase(record)
            self.created.discard(record.id)

        self.undo.append(back)
        return record

    def change(self, object_: Object, record: Record, new: Mapping[str, Any], *, silent: bool = False) -> None:
        """Writes what differs, stamps the record, and tells its history, also of a write that changed nothing.

        `silent` is for values that the platform keeps up by itself: no stamp.
        """
        both = {field: [_seen(object_, field, value) for value in (record.values.get(field), new[field])] for field in new}
        changes: Changes = {field: [old, value] for field, (old, value) in both.items() if old != value}
        if silent and not changes:
            return
        self._write(object_, record, new, changes, stamped=not silent)

    def delete(self, object_: Object, record: Record, winner: str | None = None) -> None:
        """Into the recycle bin; `winner` is who a merge kept."""
        changes: Changes = {"IsDeleted": [False, True]}
        new: dict[str, Any] = {}
        if winner is not None:
            changes["MasterRecordId"] = [None, winner]
            new["MasterRecordId"] = winner
        self._write(object_, record, new, changes, stamped=True)
        table = self.org.table(object_)
        table.delete(record)
        self.undo.append(lambda: table.undelete(record))

    def roll_back(self, mark: int = 0) -> None:
        """Undoes everything since `undo` had the length `mark`, last first."""
        while len(self.undo) > mark:
            self.undo.pop()()

    def _write(self, object_: Object, record: Record, new: Mapping[str, Any], changes: Changes, *, stamped: bool) -> None:
        table = self.org.table(object_)
        written = {**new, **self._change_stamps} if stamped else dict(new)
        before = {field: record.values.get(field) for field in written}
        entry = (self.at, self.by, changes)
        record.tell(entry)
        table.change(record, written)

        def back() -> None:
            record.history.remove(entry)
            table.change(record, before)

        self.undo.append(back)

    @functools.cached_property
    def at(self) -> str:
        """The time of its writes as histories tell it."""
        return self._moment.isoformat(timespec="microseconds").replace("+00:00", "Z")

    @functools.cached_property
    def _moment(self) -> datetime.datetime:
        return self.org.now()

    @functools.cached_property
    def _change_stamps(self) -> dict[str, str]:
        moment = utc_text(self._moment)
        return {"LastModifiedDate": moment, "LastModifiedById": self.org.user_id(self.by), "SystemModstamp": moment}

    @functools.cached_property
    def _stamps(self) -> dict[str, str]:
        changed = self._change_stamps
        return {"CreatedDate": changed["LastModifiedDate"], "CreatedById": changed["LastModifiedById"], **changed}

    def _stamps_of(self, values: Mapping[str, Any]) -> dict[str, str]:
        if not self.seeding:
            return self._stamps
        created = values.get("CreatedDate", SEED_DATE)
        changed = values.get("LastModifiedDate", created)
        return {**self._stamps, "CreatedDate": created, "LastModifiedDate": changed, "SystemModstamp": changed}


def _seen(object_: Object, field: str, value: Any) -> Any:
    """As whoever reads the record sees it: an empty checkbox is false."""
    definition = object_.fields.get(field.lower())
    return definition.default if value is None and definition is not None else value
