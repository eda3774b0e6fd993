"""One user's writes within one (sub)request: stamps, history, and the way back. Checks nothing: `saving` has."""

import dataclasses
import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stages.sandbox.salesforce.objects import Object
from stages.sandbox.salesforce.table import Changes, Record
from stages.sandbox.salesforce.values import utc_text

if TYPE_CHECKING:
    from stages.sandbox.salesforce.org import Org

STAMPS = frozenset({"CreatedDate", "CreatedById", "LastModifiedDate", "LastModifiedById", "SystemModstamp"})
"""Set by the server; no change of theirs is told in a record's history."""


@dataclasses.dataclass(slots=True)
class Transaction:
    """`bound` is false for what isn't a request of the API: the seed, and the people in Salesforce's pages, whom no rights bind.

    `seeding` also lets read-only fields be set and leaves the org's rules out. `allow_save` and `assign` come from the
    duplicate-rule and the assignment header.
    """

    org: "Org"
    by: str
    bound: bool = True
    seeding: bool = False
    allow_save: bool = False
    assign: bool = True
    undo: list[Callable[[], None]] = dataclasses.field(default_factory=list)
    created: set[str] = dataclasses.field(default_factory=set)

    def insert(self, object_: Object, values: dict[str, Any], record_id: str | None = None) -> Record:
        """A new record; stamps that `values` hold (a seed's) are kept."""
        table = self.org.table(object_)
        told = {field: [None, value] for field, value in values.items() if field not in STAMPS}
        record = Record(record_id or self.org.new_id(object_), {**self._stamps(), **values})
        record.history.append((self._at(), self.by, told))
        table.insert(record)
        self.created.add(record.id)

        def back() -> None:
            table.erase(record)
            self.created.discard(record.id)

        self.undo.append(back)
        return record

    def change(self, object_: Object, record: Record, new: dict[str, Any], *, silent: bool = False) -> None:
        """Writes what differs, stamps the record, and tells its history, also of a write that changed nothing.

        `silent` is for values that the platform keeps up by itself: no stamp.
        """
        table = self.org.table(object_)
        old = {field: record.values.get(field) for field in new}
        changes: Changes = {field: [old[field], value] for field, value in new.items() if old[field] != value}
        if silent and not changes:
            return
        stamps = {} if silent else {key: value for key, value in self._stamps().items() if not key.startswith("Created")}
        before = {**old, **{key: record.values.get(key) for key in stamps}}
        entry = (self._at(), self.by, changes)
        record.history.append(entry)
        table.change(record, {**new, **stamps})

        def back() -> None:
            record.history.remove(entry)
            table.change(record, before)

        self.undo.append(back)

    def delete(self, object_: Object, record: Record, winner: str | None = None) -> None:
        """Into the recycle bin; `winner` is who a merge kept."""
        table = self.org.table(object_)
        entry: tuple[str, str, Changes] = (self._at(), self.by, {"IsDeleted": [False, True]})
        new = {key: value for key, value in self._stamps().items() if not key.startswith("Created")}
        if winner is not None:
            entry[2]["MasterRecordId"] = [None, winner]
            new["MasterRecordId"] = winner
        before = {key: record.values.get(key) for key in new}
        record.history.append(entry)
        table.change(record, new)
        table.delete(record)

        def back() -> None:
            record.history.remove(entry)
            table.undelete(record)
            table.change(record, before)

        self.undo.append(back)

    def roll_back(self, mark: int = 0) -> None:
        """Undoes everything since `undo` had the length `mark`, last first."""
        while len(self.undo) > mark:
            self.undo.pop()()

    def _at(self) -> str:
        return self.org.now().astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

    def _stamps(self) -> dict[str, str]:
        moment, user = utc_text(self.org.now()), self.org.user_id(self.by)
        return {
            "CreatedDate": moment,
            "CreatedById": user,
            "LastModifiedDate": moment,
            "LastModifiedById": user,
            "SystemModstamp": moment,
        }
