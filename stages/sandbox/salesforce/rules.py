"""Rules that an admin of the stand-in org sets: what each kind must say, and the schema that follows from them. Refuses nothing itself."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stages.sandbox.salesforce import objects
from stages.sandbox.salesforce.countries import COUNTRIES, STATES
from stages.sandbox.salesforce.objects import PERSON_FIELDS, Field, Object


class RuleError(Exception):
    """The rule can't be taken; the text says what is wrong with it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """`spec` is what was posted; `pattern` its `when`, compiled."""

    id: str
    kind: str
    spec: Mapping[str, Any]
    pattern: Mapping[str, re.Pattern[str]] = dataclasses.field(default_factory=dict)

    @property
    def object(self) -> str:
        return str(self.spec.get("object", ""))

    def applies_to(self, object_: Object) -> bool:
        return self.object.lower() == object_.name.lower()

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Whether every pattern of `when` is found in the record; null reads as an empty text."""
        return all(pattern.search(_as_text(values.get(field))) for field, pattern in self.pattern.items())

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, **self.spec}


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


_KEYS: Mapping[str, tuple[Mapping[str, type | tuple[type, ...]], Mapping[str, type | tuple[type, ...]]]] = {
    "validation": ({"object": str, "message": str}, {"when": dict, "field": str}),
    "required-field": ({"object": str, "field": str}, {"when": dict}),
    "restricted-picklist": ({"object": str, "field": str, "values": list}, {}),
    "duplicate": ({"object": str, "fields": list, "action": str, "name": str}, {"message": str}),
    "field-permission": ({"object": str, "field": str}, {"read": bool, "write": bool}),
    "object-permission": ({"object": str}, {"create": bool, "read": bool, "update": bool}),
    "custom-field": (
        {"object": str, "field": str},
        {"type": str, "length": int, "unique": bool, "external_id": bool, "case_sensitive": bool, "values": list, "label": str},
    ),
    "delete-field": ({"object": str, "field": str}, {}),
    "daily-limit": ({"limit": int}, {}),
    "page-size": ({"size": int}, {}),
    "assignment": ({"owner": str}, {}),
    "lock-timeout": ({"ms": (int, float)}, {}),
    "person-accounts": ({}, {}),
    "edit-converted-leads": ({}, {}),
    "no-marketing-user": ({}, {}),
    "rotate-refresh-tokens": ({}, {}),
    "country-picklists": ({}, {}),
}
"""kind -> keys that it must have, keys that it may have."""

_BOUNDS: Mapping[tuple[str, str], tuple[int, int]] = {
    ("custom-field", "length"): (1, 131_072),
    ("daily-limit", "limit"): (0, 1_000_000_000),
    ("page-size", "size"): (1, 1_000_000),
    ("lock-timeout", "ms"): (0, 24 * 3_600_000),
}
"""The least and the most that a number can mean."""

_CUSTOM_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}__c")

RIGHTS = frozenset({"field-permission", "object-permission", "no-marketing-user"})
"""Kinds that only say what this API's users may."""

_CUSTOM_TYPES: Mapping[str, tuple[str, int]] = {
    "text": ("string", 255),
    "string": ("string", 255),
    "email": ("email", 80),
    "phone": ("phone", 40),
    "url": ("url", 255),
    "textarea": ("textarea", 255),
    "picklist": ("picklist", 255),
    "multipicklist": ("multipicklist", 4099),
    "checkbox": ("boolean", 0),
    "boolean": ("boolean", 0),
    "number": ("double", 0),
    "double": ("double", 0),
    "int": ("int", 0),
    "currency": ("currency", 0),
    "percent": ("percent", 0),
    "date": ("date", 0),
    "datetime": ("datetime", 0),
}
"""`type` of a custom-field rule -> describe's type and its length if none is said."""


def read(rule_id: str, spec: Any, standing: Sequence[Rule]) -> Rule:
    """Checks a posted rule against the org as the `standing` rules make it. Raises RuleError."""
    if not isinstance(spec, dict) or not isinstance(spec.get("kind"), str) or spec["kind"] not in _KEYS:
        raise RuleError(f"kind must be one of: {', '.join(_KEYS)}")
    kind = spec["kind"]
    needed, allowed = _KEYS[kind]
    for key, wanted in needed.items():
        if key not in spec:
            raise RuleError(f"a {kind} rule needs {key!r}")
        _check_type(kind, key, spec[key], wanted)
    for key, value in spec.items():
        if key in allowed:
            _check_type(kind, key, value, allowed[key])
        elif key not in needed and key != "kind":
            raise RuleError(f"a {kind} rule has no {key!r}")
    made = schema(standing)
    rule = Rule(rule_id, kind, dict(spec), _patterns(spec.get("when", {})))
    _check_against(rule, made)
    object_ = made.get(rule.object.lower())
    if object_ is None:
        return rule
    return dataclasses.replace(rule, pattern={object_.fields[field.lower()].name: pattern for field, pattern in rule.pattern.items()})


def _check_type(kind: str, key: str, value: Any, wanted: type | tuple[type, ...]) -> None:
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise RuleError(f"{key!r} of a {kind} rule has the wrong type")
    if isinstance(value, list) and not all(isinstance(each, str) for each in value):
        raise RuleError(f"{key!r} of a {kind} rule is a list of texts")
    if isinstance(value, int | float) and (kind, key) in _BOUNDS:
        least, most = _BOUNDS[kind, key]
        if not least <= value <= most:
            raise RuleError(f"{key!r} of a {kind} rule is a number from {least} to {most}")


def _patterns(when: Mapping[str, Any]) -> dict[str, re.Pattern[str]]:
    try:
        return {field: re.compile(pattern) for field, pattern in when.items()}
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise RuleError(f"when: not a regular expression: {error}") from None


def _check_against(rule: Rule, standing: Mapping[str, Object]) -> None:
    if "object" not in rule.spec:
        return
    object_ = standing.get(rule.object.lower())
    if object_ is None:
        raise RuleError(f"no such object: {rule.object}")
    named = [*rule.spec.get("fields", ()), *rule.pattern]
    if "field" in rule.spec and rule.kind not in ("custom-field", "required-field"):
        named.append(rule.spec["field"])
    for field in named:
        if field.lower() not in object_.fields:
            raise RuleError(f"no such field: {object_.name}.{field}")
    is_custom = _CUSTOM_NAME.fullmatch(rule.spec.get("field", "")) is not None
    if rule.kind == "required-field" and rule.spec["field"].lower() not in object_.fields and not is_custom:
        raise RuleError(f"no such field: {object_.name}.{rule.spec['field']}")
    if rule.kind == "custom-field":
        if not is_custom:
            raise RuleError("the name of a custom field has letters, digits and underscores, and ends with __c")
        if rule.spec.get("type", "text").lower() not in _CUSTOM_TYPES:
            raise RuleError(f"type must be one of: {', '.join(_CUSTOM_TYPES)}")
    if rule.kind == "delete-field" and _is_own(object_.name, rule.spec["field"]):
        raise RuleError(f"field: {object_.name}.{rule.spec['field']} is Salesforce's own, which nobody can delete")
    if rule.kind == "restricted-picklist" and object_.fields[rule.spec["field"].lower()].type not in objects.TEXT_TYPES:
        raise RuleError(f"field: {object_.name}.{rule.spec['field']} is no text, which a picklist is")
    if rule.kind == "duplicate" and not rule.spec["fields"]:
        raise RuleError("fields: a duplicate rule compares at least one")
    if rule.kind == "duplicate" and rule.spec["action"] not in ("block", "alert"):
        raise RuleError('action must be "block" or "alert"')


def check_owner(rule: Rule, known: Callable[[str], str | None]) -> None:
    """Of a rule that names a user: that there is one. Raises RuleError."""
    if "owner" in rule.spec and known(rule.spec["owner"]) is None:
        raise RuleError(f"owner: no such user: {rule.spec['owner']}")


def _is_own(object_name: str, field_name: str) -> bool:
    """What the platform fills by itself, or can't do without."""
    field = objects.fresh()[object_name.lower()].fields.get(field_name.lower())
    if field is None or field.custom:
        return False
    written = field.createable or field.updateable
    return not written or not field.nillable or (object_name, field.name) == ("CampaignMember", "Status")


def schema(rules: Iterable[Rule]) -> dict[str, Object]:
    """The objects of an org with these rules, by lower-case name; later rules act on what earlier ones made."""
    made = dict(objects.fresh())
    ordered = list(rules)
    for rule in ordered:
        if rule.kind == "custom-field":
            _put(made, rule.object, _custom_field(rule))
        elif rule.kind == "required-field" and rule.spec["field"].lower() not in made[rule.object.lower()].fields:
            name = rule.spec["field"]
            _put(made, rule.object, Field(name, _custom_label(name), "string", 255))
    if any(rule.kind == "country-picklists" for rule in ordered):
        _add_countries(made)
    if any(rule.kind == "person-accounts" for rule in ordered):
        _add_person_accounts(made)
    for rule in ordered:
        _apply(rule, made)
    if any(rule.kind == "no-marketing-user" for rule in ordered):
        for name in ("campaign", "campaignmemberstatus"):
            made[name] = dataclasses.replace(made[name], createable=False, updateable=False, deletable=False)
    return made


def _put(made: dict[str, Object], object_name: str, field: Field) -> None:
    object_ = made[object_name.lower()]
    made[object_name.lower()] = dataclasses.replace(object_, fields={**object_.fields, field.name.lower(): field})


def _custom_label(name: str) -> str:
    return name.removesuffix("__c").replace("_", " ")


def _custom_field(rule: Rule) -> Field:
    spec = rule.spec
    kind, length = _CUSTOM_TYPES[spec.get("type", "text").lower()]
    length = spec.get("length", length)
    return Field(
        spec["field"],
        spec.get("label", _custom_label(spec["field"])),
        kind,
        length,
        nillable=kind != "boolean",
        defaulted=kind == "boolean",
        filterable=kind != "textarea" or length <= objects.LONG_TEXT_LENGTH,
        unique=spec.get("unique", False),
        external_id=spec.get("external_id", False),
        id_lookup=spec.get("external_id", False),
        case_sensitive=spec.get("case_sensitive", False),
        values=tuple(spec.get("values", ())),
    )


def _apply(rule: Rule, made: dict[str, Object]) -> None:
    key = rule.object.lower()
    object_ = made.get(key)
    if object_ is None:
        return
    spec = rule.spec
    field = object_.fields.get(str(spec.get("field", "")).lower())
    if rule.kind == "object-permission":
        made[key] = dataclasses.replace(
            object_,
            createable=object_.createable and spec.get("create", True),
            updateable=object_.updateable and spec.get("update", True),
            readable=object_.readable and spec.get("read", True),
        )
    elif field is None:
        return
    elif rule.kind == "delete-field":
        made[key] = dataclasses.replace(object_, fields={name: each for name, each in object_.fields.items() if each is not field})
    elif rule.kind == "restricted-picklist":
        kind = field.type if field.type == "multipicklist" else "picklist"
        _put(made, key, dataclasses.replace(field, type=kind, restricted=True, values=tuple(spec["values"])))
    elif rule.kind == "required-field" and not rule.pattern:
        _put(made, key, dataclasses.replace(field, nillable=False))
    elif rule.kind == "field-permission":
        read, write = spec.get("read", True), spec.get("write", True)
        changed = dataclasses.replace(
            field,
            readable=field.readable and read,
            createable=field.createable and read and write,
            updateable=field.updateable and read and write,
        )
        _put(made, key, changed)


def _add_countries(made: dict[str, Object]) -> None:
    labels = tuple(COUNTRIES.values())
    state_labels = tuple(dict.fromkeys(label for states in STATES.values() for label in states.values()))
    state_codes = tuple(dict.fromkeys(code for states in STATES.values() for code in states))
    for object_name, prefixes in ADDRESSES.items():
        for prefix in prefixes:
            for name, names, codes in (("Country", labels, tuple(COUNTRIES)), ("State", state_labels, state_codes)):
                plain = made[object_name].fields[f"{prefix}{name}".lower()]
                label = f"{prefix} {name}".strip()
                whole = f"{label}/Province" if name == "State" else label
                _put(made, object_name, dataclasses.replace(plain, type="picklist", values=names, label=whole))
                code = Field(f"{prefix}{name}Code", f"{whole} Code", "picklist", 10, values=codes)
                _put(made, object_name, code)


ADDRESSES: Mapping[str, tuple[str, ...]] = {"lead": ("",), "contact": ("Mailing", "Other"), "account": ("Billing", "Shipping")}
"""Object -> what stands before Country and State in its addresses."""


def _add_person_accounts(made: dict[str, Object]) -> None:
    contact, account = made["contact"], made["account"]
    flag = dataclasses.replace(objects.read_only("IsPersonAccount", "boolean", nillable=False), label="Is Person Account")
    _put(made, "account", flag)
    _put(made, "contact", flag)
    _put(made, "account", objects.lookup("PersonContactId", "Contact", createable=False, updateable=False))
    # The name may come from the person's names, so that describe can't call it required.
    _put(made, "account", dataclasses.replace(account.fields["name"], nillable=True))
    _put(made, "lead", dataclasses.replace(made["lead"].fields["company"], nillable=True))
    for name, source in person_fields(contact).items():
        if name.lower() not in account.fields:
            original = contact.fields[source.lower()]
            _put(made, "account", dataclasses.replace(original, name=name, nillable=True, unique=False, external_id=False, id_lookup=False))


def person_fields(contact: Object) -> dict[str, str]:
    """Field of a person account -> field of its Contact."""
    custom = {f"{field.name}pc".replace("__cpc", "__pc"): field.name for field in contact.fields.values() if field.custom}
    return {**PERSON_FIELDS, **custom}
