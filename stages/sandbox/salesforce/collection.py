"""sObject Collections: up to 200 records in one request, saved one by one, answered in the order of the request."""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stages.sandbox.salesforce import ids, saving
from stages.sandbox.salesforce.objects import Field, Object
from stages.sandbox.salesforce.refusals import RecordRefusedError, RefusalError, refuse
from stages.sandbox.salesforce.request import Answer, Operation, Refused, Request, locks, target, transaction
from stages.sandbox.salesforce.rows import holders, key_field, shown
from stages.sandbox.salesforce.table import Record
from stages.sandbox.salesforce.transaction import Transaction

if TYPE_CHECKING:
    from stages.sandbox.salesforce.org import Org

MOST_RECORDS = 200
MOST_READ = 2_000
MOST_CHUNKS = 10

Row = tuple[Object | None, Mapping[str, Any], Record | None]
"""Its object (None: no such one), what is to be written, the record that stands."""
Save = Callable[[int], dict[str, Any]]
"""Saves the row at that position and gives its result; raises RecordRefusedError."""


def route(org: "Org", request: Request) -> Operation:
    """`composite/sobjects…`. Raises RefusalError."""
    segments = request.segments[2:]
    if len(segments) == 0:
        request.allow("POST", "PATCH", "DELETE")
        if request.method == "DELETE":
            return _delete(org, request)
        return _create(org, request) if request.method == "POST" else _update(org, request)
    object_ = org.schema.get(segments[0].lower())
    if object_ is None or not object_.readable:
        raise RefusalError("NOT_FOUND")
    if len(segments) == 1:
        request.allow("GET", "POST")
        return _read(org, request, object_)
    if len(segments) == 2:
        request.allow("PATCH")
        return _upsert(org, request, object_, key_field(object_, segments[1]))
    raise RefusalError("NOT_FOUND")


def _records(request: Request) -> tuple[list[Mapping[str, Any]], bool]:
    body = request.body
    if not isinstance(body, dict) or not isinstance(body.get("records"), list):
        raise RefusalError("JSON_PARSER_ERROR", "The HTTP entity body is required, but this request has no records.")
    records, all_or_none = body["records"], body.get("allOrNone", False)
    if not all(isinstance(record, dict) for record in records) or not isinstance(all_or_none, bool):
        raise RefusalError("JSON_PARSER_ERROR", "Unexpected character: records must be objects and allOrNone a boolean")
    if len(records) > MOST_RECORDS:
        raise _too_many()
    types = [_type(record).lower() for record in records]
    chunks = sum(1 for at, name in enumerate(types) if at == 0 or types[at - 1] != name)
    if chunks > MOST_CHUNKS:
        raise RefusalError(
            "LIMIT_EXCEEDED",
            f"Cannot have more than {MOST_CHUNKS} chunks in a single operation. Please rearrange the data to reduce chunking.",
        )
    return records, all_or_none


def _too_many(most: int = MOST_RECORDS) -> RefusalError:
    return RefusalError("EXCEEDED_ID_LIMIT", f"record limit reached. cannot submit more than {most} records into this operation")


def _type(record: Mapping[str, Any]) -> str:
    attributes = record.get("attributes")
    name = attributes.get("type") if isinstance(attributes, dict) else None
    return name if isinstance(name, str) else ""


def _create(org: "Org", request: Request) -> Operation:
    records, all_or_none = _records(request)
    tx = transaction(org, request)
    rows: list[Row] = [(org.schema.get(_type(record).lower()), record, None) for record in records]

    def save(at: int) -> dict[str, Any]:
        object_ = _writable(rows[at][0], records[at])
        return _success(saving.create(tx, object_, records[at]))

    return _operation(org, tx, rows, save, all_or_none)


def _update(org: "Org", request: Request) -> Operation:
    records, all_or_none = _records(request)
    tx = transaction(org, request)
    wanted = [_id(record) for record in records]
    rows = [_standing(org, record, record_id) for record, record_id in zip(records, wanted, strict=True)]
    twice = _repeated(ids.canonical(record_id or "") for record_id in wanted)

    def save(at: int) -> dict[str, Any]:
        object_ = _writable(rows[at][0], records[at])
        record_id = wanted[at]
        if record_id is None:
            raise refuse("MISSING_ARGUMENT", "Id not specified in an update call", ["Id"])
        if ids.canonical(record_id) in twice:
            raise refuse("DUPLICATE_VALUE", f"duplicate id specified: {record_id}", ["Id"])
        record = saving.locate(tx, object_, record_id)
        saving.update(tx, object_, record, records[at])
        return _success(record)

    return _operation(org, tx, rows, save, all_or_none)


def _upsert(org: "Org", request: Request, object_: Object, field: Field) -> Operation:
    records, all_or_none = _records(request)
    tx = transaction(org, request)
    keys = [_key(record, field) for record in records]
    twice = _repeated(_folded(key) for key in keys)
    found = [list(holders(org, object_, field, key)) if key is not None else [] for key in keys]
    rows: list[Row] = [(object_, record, standing[0] if standing else None) for record, standing in zip(records, found, strict=True)]

    def save(at: int) -> dict[str, Any]:
        key = keys[at]
        if _type(records[at]).lower() != object_.name.lower():
            raise refuse("INVALID_TYPE", f"The record is not of type {object_.name}", [])
        if key is None:
            raise refuse("MISSING_ARGUMENT", f"{field.name} not specified", [field.name])
        if _folded(key) in twice:
            raise refuse("DUPLICATE_VALUE", f"Duplicate external id specified: {key}", [field.name])
        # Looked up again: another write may have come between the reading of this request and its work.
        standing = holders(org, object_, field, key)
        if len(standing) > 1:
            raise refuse("DUPLICATE_EXTERNAL_ID", f"{field.name}: more than one record found for external id field: {key}", [field.name])
        if not standing:
            if field.name == "Id":
                raise refuse("INVALID_CROSS_REFERENCE_KEY", fields=["Id"])
            return {**_success(saving.create(tx, object_, records[at])), "created": True}
        saving.update(tx, object_, standing[0], records[at])
        return {**_success(standing[0]), "created": False}

    return _operation(org, tx, rows, save, all_or_none)


def _delete(org: "Org", request: Request) -> Operation:
    wanted = [part.strip() for part in request.parameters.get("ids", "").split(",") if part.strip()]
    if not wanted:
        raise RefusalError("MISSING_ARGUMENT", "ids not specified in a delete call")
    if len(wanted) > MOST_RECORDS:
        raise _too_many()
    all_or_none = request.parameters.get("allOrNone", "false").lower() == "true"
    tx = transaction(org, request)
    rows = [_standing(org, {}, record_id) for record_id in wanted]

    def save(at: int) -> dict[str, Any]:
        object_ = rows[at][0]
        if object_ is None:
            raise refuse("MALFORMED_ID", f"malformed id {wanted[at]}", [])
        record = saving.locate(tx, object_, wanted[at])
        saving.delete(tx, object_, record)
        return _success(record)

    return _operation(org, tx, rows, save, all_or_none)


def _read(org: "Org", request: Request, object_: Object) -> Operation:
    asked: Any = request.body
    if request.method == "GET":
        asked = {key: request.parameters.get(key, "").split(",") for key in ("ids", "fields")}
    wanted, names = (asked.get("ids"), asked.get("fields")) if isinstance(asked, dict) else (None, None)
    if not isinstance(wanted, list) or not isinstance(names, list):
        raise RefusalError("JSON_PARSER_ERROR", "The HTTP entity body needs ids and fields.")
    if len(wanted) > MOST_READ:
        raise _too_many(MOST_READ)
    fields = []
    for name in names:
        field = object_.field(str(name))
        if field is None:
            raise RefusalError("INVALID_FIELD", f"No such column '{name}' on sobject of type {object_.name}")
        fields.append(field)

    def found() -> list[Record | None]:
        table = org.table(object_)
        return [table.live.get(ids.canonical(str(each)) or "") for each in wanted]

    def work(_: Refused) -> Answer:
        body = [None if record is None else shown(org, object_, record, fields, request.version) for record in found()]
        return Answer(200, body, objects={object_.name: len(body)})

    return Operation("collections", work, [target(org, object_, {}, record) for record in found()])


def _id(record: Mapping[str, Any]) -> str | None:
    for name, value in record.items():
        if name.lower() == "id" and value is not None:
            return str(value)
    return None


def _key(record: Mapping[str, Any], field: Field) -> Any:
    for name, value in record.items():
        if name.lower() == field.name.lower():
            return value.strip() or None if isinstance(value, str) else value
    return None


def _folded(key: Any) -> Any:
    return key.lower() if isinstance(key, str) else key


def _repeated(keys: Iterable[Any]) -> set[Any]:
    counted = collections.Counter(key for key in keys if key is not None and key != "")
    return {key for key, times in counted.items() if times > 1}


def _standing(org: "Org", body: Mapping[str, Any], record_id: str | None) -> Row:
    canonical = ids.canonical(record_id or "")
    named = org.schema.get(_type(body).lower())
    if canonical is None:
        return named, body, None
    object_ = named or next((each for each in org.schema.values() if canonical.startswith(each.key_prefix)), None)
    return object_, body, org.table(object_).get(canonical) if object_ is not None else None


def _writable(object_: Object | None, record: Mapping[str, Any]) -> Object:
    if object_ is None or not object_.readable:
        name = _type(record)
        message = (
            f"sObject type '{name}' is not supported. If you are attempting to use a custom object, be sure to append the '__c' after the "
            "entity name. Please reference your WSDL or the describe call for the appropriate names."
        )
        raise refuse("INVALID_TYPE", message, [])
    return object_


def _success(record: Record) -> dict[str, Any]:
    return {"id": record.id, "success": True, "errors": []}


def _operation(org: "Org", tx: Transaction, rows: Sequence[Row], save: Save, all_or_none: bool) -> Operation:
    def work(refused: Refused) -> Answer:
        results = [_saved(tx, save, at, refused) for at in range(len(rows))]
        if all_or_none and not all(result["success"] for result in results):
            tx.roll_back()
            results = [_rolled_back() if result["success"] else result for result in results]
        counted = collections.Counter(object_.name for object_, _, _ in rows if object_ is not None)
        return Answer(200, results, objects=counted)

    known = [(object_ or _NO_OBJECT, body, record) for object_, body, record in rows]
    return Operation(
        "collections",
        work,
        [target(org, object_, body, record) for object_, body, record in known],
        [locks(object_, body, record) for object_, body, record in known],
    )


_NO_OBJECT = Object("", "", "", {})


def _saved(tx: Transaction, save: Save, at: int, refused: Refused) -> dict[str, Any]:
    mark = len(tx.undo)
    try:
        if at in refused:
            raise RecordRefusedError([refused[at]])
        return save(at)
    except RecordRefusedError as error:
        tx.roll_back(mark)
        return {"success": False, "errors": error.as_collection()}


def _rolled_back() -> dict[str, Any]:
    message = "Record rolled back because not all records were valid and the request was using AllOrNone header"
    error = RefusalError("ALL_OR_NONE_OPERATION_ROLLED_BACK", message, [])
    return {"success": False, "errors": [error.as_collection()]}
