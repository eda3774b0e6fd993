"""Runs parsed SOQL over one org's records: names to fields, conditions to predicates, indexes instead of scans. Never writes."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from stages.sandbox.salesforce import campaigns, ids
from stages.sandbox.salesforce.objects import NUMBER_TYPES, TEXT_TYPES, Field, Object
from stages.sandbox.salesforce.refusals import RefusalError
from stages.sandbox.salesforce.soql import AllOf, AnyOf, Comparison, Condition, Like, Literal, Name, Negation, Query, Within, position
from stages.sandbox.salesforce.table import Record, fold

if TYPE_CHECKING:
    from stages.sandbox.salesforce.org import Org

Getter = Callable[[Record], Any]
Predicate = Callable[[Record], bool]
DEEPEST_PARENT = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One name of a query, understood: the lookups on the way, the object it ends at, its field."""

    relations: tuple[Field, ...]
    object: Object
    field: Field
    get: Getter


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """Records in order, and how each becomes a row of the reply."""

    object: Object
    records: Sequence[Record]
    total: int
    row: Callable[[Record], dict[str, Any]]


def value_of(org: "Org", object_: Object, field: Field, record: Record) -> Any:
    """What a reader sees in that field."""
    return getter(org, object_, field)(record)


def getter(org: "Org", object_: Object, field: Field) -> Getter:
    name = field.name
    if name == "Id":
        return lambda record: record.id
    if name == "IsDeleted":
        return lambda record: record.deleted
    if field.derived and object_.name == "CampaignMember":
        return lambda record: campaigns.derived(org, record, name)
    if field.derived:
        return lambda record: campaigns.counted(org, record.id, name)
    default = field.default
    return lambda record: record.values.get(name, default)


def object_named(org: "Org", name: str, text: str = "", at: int = 0) -> Object:
    """Raises RefusalError: INVALID_TYPE."""
    object_ = org.schema.get(name.lower())
    if object_ is None or not object_.readable:
        raise RefusalError(
            "INVALID_TYPE",
            (position(text, at) if text else "")
            + f"sObject type '{name}' is not supported. If you are attempting to use a custom object, be sure to append the '__c' after the "
            "entity name. Please reference your WSDL or the describe call for the appropriate names.",
        )
    return object_


def run(org: "Org", query: Query, *, deleted: bool, version: str) -> Result:
    """All records of the answer, unpaged; `version` stands in their urls. Raises RefusalError."""
    object_ = object_named(org, query.object.parts[0], query.text, query.object.start)
    runner = _Runner(org, query, object_, version)
    columns = [runner.column(path) for path in query.fields]
    runner.check_twice(columns)
    matches = runner.predicate(query.where) if query.where is not None else None
    orderings = [(runner.sortable(ordering.path), ordering) for ordering in query.orderings]
    records = runner.candidates(query.where, deleted)
    if matches is not None:
        records = [record for record in records if matches(record)]
    for column, ordering in reversed(orderings):
        records = _sorted(records, column, descending=ordering.descending, nulls_first=ordering.nulls_first)
    if not query.fields:
        total = len(records[query.offset :][: query.limit])
        return Result(object_, [], total, runner.row(columns))
    records = records[query.offset :]
    if query.limit is not None:
        records = records[: query.limit]
    return Result(object_, records, len(records), runner.row(columns))


class _Runner:
    def __init__(self, org: "Org", query: Query, object_: Object, version: str) -> None:
        self.org = org
        self.version = version
        self.query = query
        self.object = object_

    def column(self, path: Name) -> Column:
        object_ = self.object
        relations: list[Field] = []
        parts = path.parts
        if len(parts) > 1 and parts[0].lower() == self.object.name.lower() and self.object.relation(parts[0]) is None:
            parts = parts[1:]
        for part in parts[:-1]:
            relation = object_.relation(part)
            if relation is None or len(relations) >= DEEPEST_PARENT:
                message = f"Didn't understand relationship '{part}' in field path. If you are attempting to use a custom relationship, be sure to "
                raise self._invalid(path, message + "append the '__r' after the custom relationship name.")
            relations.append(relation)
            object_ = object_named(self.org, relation.reference_to[0], self.query.text, path.start)
        field = object_.field(parts[-1])
        if field is None:
            raise self._invalid(
                path,
                f"No such column '{parts[-1]}' on entity '{object_.name}'. If you are attempting to use a custom field, be sure to append the "
                "'__c' after the custom field name. Please reference your WSDL or the describe call for the appropriate names.",
            )
        return Column(tuple(relations), object_, field, self._through(relations, object_, field))

    def _through(self, relations: Sequence[Field], object_: Object, field: Field) -> Getter:
        last = getter(self.org, object_, field)
        if not relations:
            return last
        hops = [self._hop(relation) for relation in relations]

        def get(record: Record) -> Any:
            for hop in hops:
                parent = hop(record)
                if parent is None:
                    return None
                record = parent
            return last(record)

        return get

    def _hop(self, relation: Field) -> Callable[[Record], Record | None]:
        table = self.org.table(self.org.schema[relation.reference_to[0].lower()])
        name = relation.name

        def hop(record: Record) -> Record | None:
            parent = record.values.get(name)
            return None if parent is None else table.get(parent)

        return hop

    def check_twice(self, columns: Sequence[Column]) -> None:
        seen = set()
        for column in columns:
            key = (*(relation.name for relation in column.relations), column.field.name)
            if key in seen:
                raise RefusalError("MALFORMED_QUERY", f"duplicate field selected: {column.field.name}")
            seen.add(key)

    def filterable(self, path: Name) -> Column:
        column = self.column(path)
        if not column.field.filterable:
            raise self._invalid(path, f"field '{column.field.name}' can not be filtered in a query call")
        return column

    def sortable(self, path: Name) -> Column:
        column = self.column(path)
        if not column.field.filterable:
            raise self._invalid(path, f"field '{column.field.name}' can not be sorted in a query call")
        return column

    def predicate(self, condition: Condition) -> Predicate:
        match condition:
            case AllOf(conditions):
                parts = [self.predicate(each) for each in conditions]
                return lambda record: all(part(record) for part in parts)
            case AnyOf(conditions):
                parts = [self.predicate(each) for each in conditions]
                return lambda record: any(part(record) for part in parts)
            case Negation(inner):
                opposite = self.predicate(inner)
                return lambda record: not opposite(record)
            case Comparison(path, operator, literal):
                return self._comparison(self.filterable(path), path, operator, literal)
            case Like(path, pattern):
                return self._like(path, pattern)
            case Within(path, literals, negated):
                return self._within(path, literals, negated)

    def _comparison(self, column: Column, path: Name, operator: str, literal: Literal) -> Predicate:
        wanted, key, get = self._wanted(column, path, literal), fold(column.object, column.field.name), column.get
        if operator == "=":
            return lambda record: key(get(record)) == wanted
        if operator == "!=":
            return lambda record: key(get(record)) != wanted
        if wanted is None or column.field.type == "boolean":
            raise RefusalError("INVALID_QUERY_FILTER_OPERATOR", f"invalid operator on field {column.field.name}")
        compare = _ORDER[operator]
        return lambda record: (found := get(record)) is not None and compare(key(found), wanted)

    def _like(self, path: Name, pattern: Any) -> Predicate:
        column = self.filterable(path)
        if column.field.type not in TEXT_TYPES:
            raise RefusalError("INVALID_QUERY_FILTER_OPERATOR", position(self.query.text, path.start) + "invalid operator on id field")
        get = column.get
        return lambda record: pattern.fullmatch(get(record) or "") is not None

    def _within(self, path: Name, literals: Sequence[Literal], negated: bool) -> Predicate:
        column = self.filterable(path)
        key, get = fold(column.object, column.field.name), column.get
        wanted = {self._wanted(column, path, literal) for literal in literals}
        if negated:
            return lambda record: key(get(record)) not in wanted
        return lambda record: key(get(record)) in wanted

    def _wanted(self, column: Column, path: Name, literal: Literal) -> Any:
        """The literal as it compares with what the column gives; refused where their kinds don't fit."""
        field = column.field
        if literal.kind == "null":
            return None
        if field.type in ("id", "reference"):
            return self._wanted_id(column, literal)
        fits = (
            (field.type in TEXT_TYPES and literal.kind == "string")
            or (field.type in NUMBER_TYPES and literal.kind == "number")
            or (field.type == "date" and literal.kind == "date")
            or (field.type == "datetime" and literal.kind == "datetime")
            or (field.type == "boolean" and literal.kind == "boolean")
        )
        if not fits:
            quoted = " and should be enclosed in quotes" if field.type in TEXT_TYPES else " and should not be enclosed in quotes"
            kind = "string" if field.type in TEXT_TYPES else "dateTime" if field.type == "datetime" else field.type
            message = f"value of filter criterion for field '{field.name}' must be of type {kind}"
            raise self._invalid(path, message + (quoted if (literal.kind == "string") != (field.type in TEXT_TYPES) else ""))
        if literal.value == "":
            return None
        return fold(column.object, field.name)(literal.value)

    def _wanted_id(self, column: Column, literal: Literal) -> Any:
        if literal.kind == "string" and literal.value == "":
            return None
        canonical = ids.canonical(literal.value) if literal.kind == "string" else None
        if canonical is None:
            raise RefusalError("INVALID_QUERY_FILTER_OPERATOR", f"invalid ID field: {literal.value}")
        return canonical

    def candidates(self, where: Condition | None, deleted: bool) -> list[Record]:
        """Few records that hold every match, in the order of their ids; all of them where no index helps."""
        table = self.org.table(self.object)
        found = self._cheapest(where) if where is not None else None
        if found is None:
            return list(table.everything()) if deleted else list(table.live.values())
        records = list(dict.fromkeys(found[1]()))
        records.sort(key=_by_id)
        return [*records, *table.bin.values()] if deleted else records

    def _cheapest(self, condition: Condition) -> tuple[int, Callable[[], Iterable[Record]]] | None:
        """How many records an index would give, and the way to get them; None where only a scan helps."""
        match condition:
            case AllOf(conditions):
                costs = [cost for cost in map(self._cheapest, conditions) if cost is not None]
                return min(costs, key=lambda cost: cost[0]) if costs else None
            case AnyOf(conditions):
                every = [self._cheapest(each) for each in conditions]
                known = [cost for cost in every if cost is not None]
                if len(known) < len(every):
                    return None
                return sum(cost[0] for cost in known), lambda: (record for cost in known for record in cost[1]())
            case Comparison(path, "=", literal):
                return self._by_index(path, [literal])
            case Within(path, literals, False):
                return self._by_index(path, literals)
        return None

    def _by_index(self, path: Name, literals: Sequence[Literal]) -> tuple[int, Callable[[], Iterable[Record]]] | None:
        column = self.column(path)
        both = column.field.name == "LeadOrContactId"
        if column.relations or (column.field.derived and not both) or column.field.type == "boolean":
            return None
        wanted = [self._wanted(column, path, literal) for literal in literals]
        table, name = self.org.table(self.object), column.field.name
        if None in wanted:
            return None
        if name == "Id":
            return len(wanted), lambda: (table.live[each] for each in wanted if each in table.live)
        names = ("ContactId", "LeadId") if both else (name,)
        return (
            sum(table.count(each, wanted) for each in names),
            lambda: (record for field in names for each in wanted for record in table.find(field, each)),
        )

    def row(self, columns: Sequence[Column]) -> Callable[[Record], dict[str, Any]]:
        org, object_ = self.org, self.object
        plain = all(not column.relations for column in columns)
        getters = [(column.field.name, column.get) for column in columns]
        prefix = org.url_of(object_, "", self.version)
        name = object_.name

        def flat(record: Record) -> dict[str, Any]:
            made: dict[str, Any] = {"attributes": {"type": name, "url": prefix + record.id}}
            for field, get in getters:
                made[field] = get(record)
            return made

        if plain:
            return flat
        return lambda record: self._nested(columns, record)

    def _nested(self, columns: Sequence[Column], record: Record) -> dict[str, Any]:
        made = self._attributed(self.object, record)
        for column in columns:
            place, current, object_ = made, record, self.object
            for relation in column.relations:
                object_ = self.org.schema[relation.reference_to[0].lower()]
                parent = self._hop(relation)(current)
                key = relation.relationship or ""
                if parent is None:
                    place[key] = None
                    break
                place = place.setdefault(key, self._attributed(object_, parent))
                current = parent
            else:
                place[column.field.name] = value_of(self.org, object_, column.field, current)
        return made

    def _attributed(self, object_: Object, record: Record) -> dict[str, Any]:
        return {"attributes": {"type": object_.name, "url": self.org.url_of(object_, record.id, self.version)}}

    def _invalid(self, path: Name, message: str) -> RefusalError:
        return RefusalError("INVALID_FIELD", position(self.query.text, path.start) + message)


def _by_id(record: Record) -> str:
    return record.id


def _sorted(records: list[Record], column: Column, *, descending: bool, nulls_first: bool) -> list[Record]:
    key, get = fold(column.object, column.field.name), column.get
    nulls = [record for record in records if get(record) is None]
    rest = [record for record in records if get(record) is not None]
    rest.sort(key=lambda record: key(get(record)), reverse=descending)
    return nulls + rest if nulls_first else rest + nulls


_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: bool(a < b),
    ">": lambda a, b: bool(a > b),
    "<=": lambda a, b: bool(a <= b),
    ">=": lambda a, b: bool(a >= b),
}
