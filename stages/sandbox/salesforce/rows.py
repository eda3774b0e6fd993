"""One record over REST: create, read, update, upsert, delete, and the errors these answer with. Never more than one."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stages.sandbox.salesforce import describe, ids, saving
from stages.sandbox.salesforce.faults import Target
from stages.sandbox.salesforce.objects import Field, Object
from stages.sandbox.salesforce.query import getter
from stages.sandbox.salesforce.refusals import RecordRefusedError, RefusalError
from stages.sandbox.salesforce.request import Answer, Operation, Refused, Request, locks, target, transaction
from stages.sandbox.salesforce.table import Record

if TYPE_CHECKING:
    from stages.sandbox.salesforce.org import Org

FIRST_VERSION_WITH_UPSERT_BODY = 46


def route(org: "Org", request: Request) -> Operation:
    """`sobjects/…`. Raises RefusalError."""
    segments = request.segments[1:]
    if not segments:
        request.allow("GET", "HEAD")
        return Operation("sobjects", lambda _: _all_objects(org, request))
    object_ = _object(org, segments[0])
    if len(segments) == 1:
        request.allow("GET", "HEAD", "POST")
        if request.method == "POST":
            return _create(org, request, object_)
        about = {"objectDescribe": describe.summary(object_, request.version), "recentItems": []}
        return Operation("sobjects", lambda _: Answer(200, about), [Target(object_.name)])
    if segments[1].lower() == "describe" and len(segments) == 2:
        request.allow("GET", "HEAD")
        return Operation("describe", lambda _: Answer(200, describe.whole(object_, request.version)), [Target(object_.name)])
    if len(segments) == 2:
        request.allow("GET", "HEAD", "PATCH", "DELETE")
        return _by_id(org, request, object_, segments[1])
    if len(segments) == 3:
        request.allow("GET", "HEAD", "PATCH", "DELETE")
        return _by_key(org, request, object_, segments[1], segments[2])
    raise RefusalError("NOT_FOUND")


def _object(org: "Org", name: str) -> Object:
    object_ = org.schema.get(name.lower())
    if object_ is None or not object_.readable:
        raise RefusalError("NOT_FOUND")
    return object_


def _all_objects(org: "Org", request: Request) -> Answer:
    every = [describe.summary(object_, request.version) for object_ in org.schema.values() if object_.readable]
    return Answer(200, {"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": every})


def fields_of(request: Request) -> Mapping[str, Any]:
    """The body of a write. Raises RefusalError: JSON_PARSER_ERROR."""
    if not isinstance(request.body, dict):
        raise RefusalError("JSON_PARSER_ERROR", "The HTTP entity body is required, but this request has no entity body.")
    return request.body


def _writing(org: "Org", object_: Object, body: Mapping[str, Any], record: Record | None, work: Any) -> Operation:
    def guarded(refused: Refused) -> Answer:
        if 0 in refused:
            raise RecordRefusedError([refused[0]])
        answer: Answer = work()
        return answer

    return Operation("sobjects", guarded, [target(org, object_, body, record)], [locks(object_, body, record)])


def _create(org: "Org", request: Request, object_: Object) -> Operation:
    body = fields_of(request)
    tx = transaction(org, request)
    return _writing(org, object_, body, None, lambda: _created(org, request, object_, _save_new(tx, object_, body)))


def _save_new(tx: Any, object_: Object, body: Mapping[str, Any]) -> Record:
    try:
        return saving.create(tx, object_, body)
    except RecordRefusedError:
        tx.roll_back()
        raise


def _created(org: "Org", request: Request, object_: Object, record: Record, extra: Mapping[str, Any] | None = None) -> Answer:
    url = org.url_of(object_, record.id, request.version)
    return Answer(201, {"id": record.id, "success": True, "errors": [], **(extra or {})}, {"Location": url}, {object_.name: 1})


def _by_id(org: "Org", request: Request, object_: Object, text: str) -> Operation:
    canonical = ids.canonical(text)
    if canonical is None or not canonical.startswith(object_.key_prefix):
        raise RefusalError("MALFORMED_ID", f"{object_.label} ID: id value of incorrect type: {text}", ["Id"])
    record = org.table(object_).get(canonical)
    if record is None:
        raise RefusalError("NOT_FOUND", "Provided external ID field does not exist or is not accessible: " + text)
    if record.deleted:
        raise RefusalError("ENTITY_IS_DELETED", fields=[])
    return _on_record(org, request, object_, record)


def _on_record(org: "Org", request: Request, object_: Object, record: Record) -> Operation:
    if request.method in ("GET", "HEAD"):
        chosen = _chosen(object_, request.parameters.get("fields"))
        return Operation(
            "sobjects",
            lambda _: Answer(200, shown(org, object_, record, chosen, request.version), objects={object_.name: 1}),
            [target(org, object_, {}, record)],
        )
    tx = transaction(org, request)
    if request.method == "DELETE":
        return _writing(org, object_, {}, record, lambda: _deleted(tx, object_, record))
    body = fields_of(request)
    if any(name.lower() == "id" for name in body):
        raise RefusalError("INVALID_FIELD", "The Id field should not be specified in the sobject data.")
    return _writing(org, object_, body, record, lambda: _updated(tx, object_, record, body))


def _deleted(tx: Any, object_: Object, record: Record) -> Answer:
    try:
        saving.delete(tx, object_, record)
    except RecordRefusedError:
        tx.roll_back()
        raise
    return Answer(204, None, objects={object_.name: 1})


def _updated(tx: Any, object_: Object, record: Record, body: Mapping[str, Any]) -> Answer:
    try:
        saving.update(tx, object_, record, body)
    except RecordRefusedError:
        tx.roll_back()
        raise
    return Answer(204, None, objects={object_.name: 1})


def key_field(object_: Object, name: str) -> Field:
    """The field that an upsert goes by. Raises RefusalError: NOT_FOUND."""
    field = object_.field(name)
    if field is None or not (field.external_id or field.id_lookup):
        raise RefusalError("NOT_FOUND", f"Provided external ID field does not exist or is not accessible: {name}")
    return field


def holders(org: "Org", object_: Object, field: Field, value: Any) -> Sequence[Record]:
    """Live records with that key."""
    if field.name == "Id":
        canonical = ids.canonical(str(value))
        record = org.table(object_).live.get(canonical) if canonical else None
        return [record] if record is not None else []
    return org.table(object_).find(field.name, value)


def _by_key(org: "Org", request: Request, object_: Object, field_name: str, value: str) -> Operation:
    field = key_field(object_, field_name)
    found = holders(org, object_, field, value)
    if len(found) > 1:
        urls = [org.url_of(object_, record.id, request.version) for record in found]
        about = [target(org, object_, {}, record) for record in found]
        return Operation("sobjects", lambda _: Answer(300, urls, objects={object_.name: len(urls)}), about)
    if request.method != "PATCH":
        if not found:
            raise RefusalError("NOT_FOUND")
        return _on_record(org, request, object_, found[0])
    body = fields_of(request)
    if any(name.lower() == field.name.lower() for name in body):
        raise RefusalError("INVALID_FIELD", f"The {field.name} field should not be specified in the sobject data.")
    tx = transaction(org, request)
    whole = {**body, field.name: value}

    def work() -> Answer:
        # Looked up again: another write may have come between the reading of this request and its work.
        standing = holders(org, object_, field, value)
        with_body = float(request.version) >= FIRST_VERSION_WITH_UPSERT_BODY
        if not standing:
            if request.parameters.get("updateOnly", "").lower() == "true":
                raise RefusalError("NOT_FOUND")
            return _created(org, request, object_, _save_new(tx, object_, whole), {"created": True} if with_body else {})
        answer = _updated(tx, object_, standing[0], body)
        if not with_body:
            return answer
        return Answer(200, {"id": standing[0].id, "success": True, "errors": [], "created": False}, objects=answer.objects)

    return _writing(org, object_, whole, found[0] if found else None, work)


def _chosen(object_: Object, names: str | None) -> list[Field]:
    if names is None:
        return [field for field in object_.fields.values() if field.readable]
    chosen = []
    for name in names.split(","):
        field = object_.field(name.strip())
        if field is None:
            raise RefusalError("INVALID_FIELD", f"No such column '{name.strip()}' on sobject of type {object_.name}")
        chosen.append(field)
    return chosen


def shown(org: "Org", object_: Object, record: Record, fields: Sequence[Field], version: str) -> dict[str, Any]:
    """A record as a read gives it: its attributes, the wanted fields, and Id."""
    made: dict[str, Any] = {"attributes": {"type": object_.name, "url": org.url_of(object_, record.id, version)}}
    made |= {field.name: getter(org, object_, field)(record) for field in fields}
    made.setdefault("Id", record.id)
    return made
