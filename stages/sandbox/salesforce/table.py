"""Records of one object in memory, found by id or by the value of any stored field. Knows no rules: whoever writes here has checked."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from stages.sandbox.salesforce.objects import TEXT_TYPES, Object

Changes = dict[str, list[Any]]
"""field: [old, new]"""


STAMPS = frozenset({"CreatedDate", "CreatedById", "LastModifiedDate", "LastModifiedById", "SystemModstamp"})
"""Set by the server; no change of theirs is told in a record's history."""

Entry = tuple[str, str, Changes]
"""When, by whom, what."""


class Record:
    """One record. `values` holds what is not null; deleted ones stay, for the recycle bin."""

    __slots__ = ("_born", "_first", "deleted", "history", "id", "values")

    def __init__(self, record_id: str, values: dict[str, Any], at: str = "", by: str = "") -> None:
        self.id = record_id
        self.values = values
        self.deleted = False
        self.history: list[Entry] = []
        """What came after the creation."""
        self._born = (at, by)
        self._first: dict[str, Any] | None = None

    def tell(self, entry: Entry) -> None:
        """Before the values change: from now on the creation differs from what the record holds."""
        if self._first is None:
            self._first = self._told()
        self.history.append(entry)

    def whole_history(self) -> list[Entry]:
        """From the creation on, which has null for all old values."""
        first = self._told() if self._first is None else self._first
        at, by = self._born
        return [(at, by, {field: [None, value] for field, value in first.items()}), *self.history]

    def _told(self) -> dict[str, Any]:
        return {field: value for field, value in self.values.items() if field not in STAMPS}


Bucket = Record | dict[Record, None]
"""Most values belong to one record: then it stands alone, which saves a dictionary for each."""


class Table:
    """Live records by id and by value, and the recycle bin. An index comes to be when a field is first looked up by value."""

    def __init__(self, object_: Object) -> None:
        self.object = object_
        self.live: dict[str, Record] = {}
        self.bin: dict[str, Record] = {}
        self._indexes: dict[str, dict[Any, Bucket]] = {}

    def get(self, record_id: str) -> Record | None:
        """Live or deleted."""
        return self.live.get(record_id) or self.bin.get(record_id)

    def everything(self) -> Iterator[Record]:
        yield from self.live.values()
        yield from self.bin.values()

    def insert(self, record: Record) -> None:
        self.live[record.id] = record
        for field, index in self._indexes.items():
            self._file(index, self._key(field, record.values.get(field)), record)

    def change(self, record: Record, new: dict[str, Any]) -> None:
        """Sets values; None empties. Also for deleted records, which are in no index."""
        for field, value in new.items():
            index = self._indexes.get(field)
            if index is not None and not record.deleted:
                self._unfile(index, self._key(field, record.values.get(field)), record)
                self._file(index, self._key(field, value), record)
            if value is None:
                record.values.pop(field, None)
            else:
                record.values[field] = value

    def delete(self, record: Record) -> None:
        """Into the recycle bin."""
        self.erase(record)
        record.deleted = True
        self.bin[record.id] = record

    def undelete(self, record: Record) -> None:
        """Back from the recycle bin, for a transaction that is rolled back."""
        del self.bin[record.id]
        record.deleted = False
        self.insert(record)

    def erase(self, record: Record) -> None:
        """As if it had never been."""
        del self.live[record.id]
        for field, index in self._indexes.items():
            self._unfile(index, self._key(field, record.values.get(field)), record)

    def forget_indexes(self) -> None:
        """After a field changed its kind: each index is built again when it is next asked for."""
        self._indexes.clear()

    def find(self, field: str, value: Any) -> Sequence[Record]:
        """Live records whose stored field equals `value` (canonical name; text regardless of case, unless the field minds it)."""
        bucket = self._index(field).get(self._key(field, value))
        if bucket is None:
            return ()
        return (bucket,) if isinstance(bucket, Record) else tuple(bucket)

    def count(self, field: str, values: Iterable[Any]) -> int:
        """How many records `find` would give for all these values together."""
        index = self._index(field)
        total = 0
        for value in values:
            bucket = index.get(self._key(field, value))
            if bucket is not None:
                total += 1 if isinstance(bucket, Record) else len(bucket)
        return total

    def _index(self, field: str) -> dict[Any, Bucket]:
        index = self._indexes.get(field)
        if index is None:
            index = self._indexes[field] = {}
            for record in self.live.values():
                self._file(index, self._key(field, record.values.get(field)), record)
        return index

    def _key(self, field: str, value: Any) -> Any:
        return fold(self.object, field)(value)

    @staticmethod
    def _file(index: dict[Any, Bucket], key: Any, record: Record) -> None:
        if key is None:
            return
        bucket = index.get(key)
        if bucket is None:
            index[key] = record
        elif isinstance(bucket, Record):
            index[key] = {bucket: None, record: None}
        else:
            bucket[record] = None

    @staticmethod
    def _unfile(index: dict[Any, Bucket], key: Any, record: Record) -> None:
        if key is None:
            return
        bucket = index[key]
        if isinstance(bucket, Record):
            del index[key]
            return
        del bucket[record]
        if not bucket:
            del index[key]


def fold(object_: Object, field: str) -> Callable[[Any], Any]:
    """How values of this field are made comparable: text to lower case, unless the field minds case; the rest as it is."""
    definition = object_.fields.get(field.lower())
    if definition is not None and definition.type in TEXT_TYPES and not definition.case_sensitive:
        return _lower
    return _same


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _same(value: Any) -> Any:
    return value
