"""Saving one record: every check in Salesforce's order, then what the platform does by itself. Never batches and never answers.

JSON types, fields and rights, values -> before-triggers -> references, required fields, validation rules, unique keys -> duplicate rules
-> save -> after-triggers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.sandbox.salesforce import campaigns, ids, people, values
from stages.sandbox.salesforce.objects import Field, Object
from stages.sandbox.salesforce.refusals import RecordRefusedError, RefusalError, refuse
from stages.sandbox.salesforce.rules import Rule
from stages.sandbox.salesforce.table import Record
from stages.sandbox.salesforce.transaction import Transaction

Body = Mapping[str, Any]


def create(tx: Transaction, object_: Object, body: Body) -> Record:
    """A new record. Raises RecordRefusedError."""
    if tx.bound and not object_.createable:
        raise _no_right(object_, "inserted")
    if tx.bound and any(name.lower() == "id" for name in body):
        raise refuse("INVALID_FIELD_FOR_INSERT_UPDATE", "cannot specify Id in an insert call", ["Id"])
    given = _read(tx, object_, body, creating=True)
    new = _defaults(tx, object_) | given
    people.before_create(tx, object_, new)
    campaigns.before_create(tx, object_, new)
    _check(tx, object_, None, new, new)
    record = tx.insert(object_, {field: value for field, value in new.items() if value is not None}, body.get("Id") if tx.seeding else None)
    people.after_create(tx, object_, record)
    campaigns.after_create(tx, object_, record)
    return record


def update(tx: Transaction, object_: Object, record: Record, body: Body) -> None:
    """Changes a record. Raises RecordRefusedError."""
    if tx.bound and not object_.updateable:
        raise _no_right(object_, "updated")
    if record.deleted:
        raise refuse("ENTITY_IS_DELETED", fields=[])
    people.before_touch(tx, object_, record)
    new = _read(tx, object_, body, creating=False)
    people.before_update(tx, object_, record, new)
    campaigns.before_update(tx, object_, record, new)
    _check(tx, object_, record, new, {**record.values, **new})
    tx.change(object_, record, new)
    people.after_update(tx, object_, record, new)
    campaigns.after_update(tx, object_, record, new)


def delete(tx: Transaction, object_: Object, record: Record) -> None:
    """Into the recycle bin, with what hangs on it. Raises RecordRefusedError."""
    if not object_.deletable:
        raise _no_right(object_, "deleted")
    if record.deleted:
        raise refuse("ENTITY_IS_DELETED", fields=[])
    campaigns.before_delete(tx, object_, record)
    people.before_delete(tx, object_, record)
    tx.delete(object_, record)


def locate(tx: Transaction, object_: Object, record_id: str) -> Record:
    """The record that an id in a row names. Raises RecordRefusedError."""
    canonical = ids.canonical(record_id)
    if canonical is None or not canonical.startswith(object_.key_prefix):
        raise refuse("MALFORMED_ID", f"{object_.label} ID: id value of incorrect type: {record_id}", ["Id"])
    record = tx.org.table(object_).get(canonical)
    if record is None:
        raise refuse("INVALID_CROSS_REFERENCE_KEY", fields=["Id"])
    return record


def _no_right(object_: Object, what: str) -> RecordRefusedError:
    return refuse("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", f"entity type cannot be {what}: {object_.label}", [])


def _read(tx: Transaction, object_: Object, body: Body, *, creating: bool) -> dict[str, Any]:
    fields: list[tuple[Field, Any]] = []
    unknown: list[RefusalError] = []
    closed: list[str] = []
    for name, value in body.items():
        lower = name.lower()
        if lower == "attributes" or lower == "id":
            continue
        field = object_.fields.get(lower)
        if field is None or (tx.bound and not field.readable):
            unknown.append(RefusalError("INVALID_FIELD", f"No such column '{name}' on sobject of type {object_.name}", []))
        elif (tx.bound and not (field.createable if creating else field.updateable)) or (
            not tx.seeding and not field.createable and not field.updateable and field.readable
        ):
            closed.append(field.name)
        else:
            fields.append((field, value))
    if unknown:
        raise RecordRefusedError(unknown[:1])
    if closed:
        raise refuse(
            "INVALID_FIELD_FOR_INSERT_UPDATE",
            f"Unable to create/update fields: {', '.join(closed)}. Please check the security settings of this field and verify that it is "
            "read/write for your profile or permission set.",
            closed,
        )
    return _values(fields)


def _values(fields: Sequence[tuple[Field, Any]]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    refusals: list[RefusalError] = []
    for field, value in fields:
        try:
            read[field.name] = values.stored(field, value)
        except RefusalError as refusal:
            refusals.append(refusal)
    if refusals:
        raise RecordRefusedError(refusals)
    return read


def _defaults(tx: Transaction, object_: Object) -> dict[str, Any]:
    found: dict[str, Any] = {field.name: field.default_value for field in object_.fields.values() if field.default_value is not None}
    if "ownerid" in object_.fields:
        found["OwnerId"] = tx.org.user_id(tx.by)
    return found


def _check(tx: Transaction, object_: Object, record: Record | None, new: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
    """`whole` is the record as it would be saved, `new` what is written to it now."""
    if tx.seeding:
        return
    _check_references(tx, object_, new)
    rules = [rule for rule in tx.org.rules.values() if rule.applies_to(object_)]
    _check_required(object_, record, new, whole, rules)
    _check_validation(whole, rules)
    _check_unique(tx, object_, record, new)
    _check_duplicates(tx, object_, record, whole, rules)


def _check_references(tx: Transaction, object_: Object, new: Mapping[str, Any]) -> None:
    for name, value in new.items():
        field = object_.fields[name.lower()]
        if value is None or not field.reference_to:
            continue
        parent = tx.org.schema[field.reference_to[0].lower()]
        if not value.startswith(parent.key_prefix):
            raise refuse("FIELD_INTEGRITY_EXCEPTION", f"{field.label}: id value of incorrect type: {value}", [field.name])
        if value not in tx.org.table(parent).live:
            raise refuse("INVALID_CROSS_REFERENCE_KEY", fields=[field.name])


def _check_required(
    object_: Object, record: Record | None, new: Mapping[str, Any], whole: Mapping[str, Any], rules: Sequence[Rule]
) -> None:
    missing = [
        field.name
        for field in object_.fields.values()
        if not field.nillable and whole.get(field.name) is None
        if field.name in new or (record is None and field.required)
    ]
    for rule in rules:
        if rule.kind == "required-field":
            name = object_.fields[rule.spec["field"].lower()].name if rule.spec["field"].lower() in object_.fields else rule.spec["field"]
            if name not in missing and whole.get(name) is None and rule.matches(whole):
                missing.append(name)
    if missing:
        raise refuse("REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(missing)}]", missing)


def _check_validation(whole: Mapping[str, Any], rules: Sequence[Rule]) -> None:
    broken = [rule for rule in rules if rule.kind == "validation" and rule.matches(whole)]
    if broken:
        raise RecordRefusedError(
            [
                RefusalError(
                    "FIELD_CUSTOM_VALIDATION_EXCEPTION", rule.spec["message"], [rule.spec["field"]] if "field" in rule.spec else []
                )
                for rule in broken
            ]
        )


def _check_unique(tx: Transaction, object_: Object, record: Record | None, new: Mapping[str, Any]) -> None:
    for name, value in new.items():
        if value is None or not object_.fields[name.lower()].unique:
            continue
        for other in tx.org.table(object_).find(name, value):
            if other is not record:
                message = f"duplicate value found: {name} duplicates value on record with id: {other.id[:15]}"
                raise refuse("DUPLICATE_VALUE", message, [])


def _check_duplicates(tx: Transaction, object_: Object, record: Record | None, whole: Mapping[str, Any], rules: Sequence[Rule]) -> None:
    for rule in rules:
        if rule.kind != "duplicate" or (rule.spec["action"] == "alert" and tx.allow_save):
            continue
        if record is not None and not _touches(object_, record, whole, rule):
            continue
        twins = _twins(tx, object_, record, whole, rule)
        if twins:
            refusal = RefusalError("DUPLICATES_DETECTED", rule.spec.get("message"), [])
            refusal.extra["duplicateResult"] = _duplicate_result(tx, object_, rule, refusal.message, twins)
            raise RecordRefusedError([refusal])


def _touches(object_: Object, record: Record, whole: Mapping[str, Any], rule: Rule) -> bool:
    """A changed record is only compared again where what the rule looks at has changed."""
    names = [object_.fields[field.lower()].name for field in rule.spec["fields"] if field.lower() in object_.fields]
    return any(record.values.get(name) != whole.get(name) for name in names)


def _twins(tx: Transaction, object_: Object, record: Record | None, whole: Mapping[str, Any], rule: Rule) -> list[Record]:
    names = [object_.fields[field.lower()].name for field in rule.spec["fields"] if field.lower() in object_.fields]
    if not names or any(whole.get(name) is None for name in names):
        return []
    table = tx.org.table(object_)
    rarest = min(names, key=lambda name: table.count(name, [whole[name]]))
    folded = [str(whole[name]).lower() for name in names]
    return [
        other
        for other in table.find(rarest, whole[rarest])
        if other is not record and [str(other.values.get(name)).lower() for name in names] == folded
    ]


def _duplicate_result(tx: Transaction, object_: Object, rule: Rule, message: str, twins: Sequence[Record]) -> dict[str, Any]:
    matches = [
        {
            "additionalInformation": [],
            "fieldDiffs": [],
            "matchConfidence": 100.0,
            "record": {"attributes": {"type": object_.name, "url": tx.org.url_of(object_, twin.id)}, "Id": twin.id},
        }
        for twin in twins
    ]
    return {
        "allowSave": rule.spec["action"] == "alert",
        "duplicateRule": rule.spec["name"],
        "duplicateRuleEntityType": object_.name,
        "errorMessage": message,
        "matchResults": [
            {
                "entityType": object_.name,
                "errors": [],
                "matchEngine": "ExactMatchEngine",
                "matchRecords": matches,
                "rule": rule.spec["name"],
                "size": len(matches),
                "success": True,
            }
        ],
    }
