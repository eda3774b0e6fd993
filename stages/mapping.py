"""Livestorm's attributes as Salesforce's fields: what fits a field, what differs from the record, what is left out and why. Pure."""

import dataclasses
import datetime
import math
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from schemas.messages import Value
from schemas.settings import FieldRule
from stages.livestorm.texts import clean
from stages.recency import datetime_text, milliseconds
from stages.salesforce.door import Describe, Field
from stages.salesforce.ids import is_id

_NUMBERS: Final = frozenset({"double", "currency", "percent"})
_WHOLE: Final = frozenset({"int", "long"})
_REFERENCES: Final = frozenset({"reference", "id"})
_WHOLE_OR_NOT_AT_ALL: Final = frozenset({"email", "phone", "url", "picklist", "combobox"})
"""Types of which a part is worth nothing: too long is left out, not cut."""
_YES: Final = frozenset({"true", "yes", "y", "1", "on"})
_NO: Final = frozenset({"false", "no", "n", "0", "off"})

NO_FIELD: Final = "the org has no such field, or hides it from Turnout's user"
READ_ONLY: Final = "Turnout's user may not write the field"


class Unfit(Exception):
    """A value that the field can't take; says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Draft:
    """Values to write, by the field's own name, and what was left out or cut, by field, with the reason."""

    values: dict[str, Value]
    left_out: dict[str, str]


def is_blank(value: Any) -> bool:
    """Nothing that could be written: null, no text, blanks and control characters only, an empty list."""
    if value is None:
        return True
    if isinstance(value, str):
        return not clean(value)
    return isinstance(value, list) and all(is_blank(item) for item in value)


def for_new(rules: Mapping[str, FieldRule], attributes: Mapping[str, Value], describe: Describe) -> Draft:
    """What a new record gets from the mapping."""
    draft = Draft({}, {})
    for name, rule in rules.items():
        field = _writable(name, rule, attributes, describe, draft, creating=True)
        if field is not None:
            _put(draft, field, attributes[rule.source])
    return draft


def for_existing(
    rules: Mapping[str, FieldRule], attributes: Mapping[str, Value], describe: Describe, record: Mapping[str, Any], *, only_fill: bool
) -> Draft:
    """What differs from the record and may be written. `only_fill`: the event is too old to overwrite, it fills what is empty."""
    draft = Draft({}, {})
    for name, rule in rules.items():
        if rule.write == "on-create":
            continue
        field = _writable(name, rule, attributes, describe, draft, creating=False)
        if field is None:
            continue
        held = record.get(field.name)
        if (only_fill or rule.write == "if-empty") and not is_blank(held):
            continue
        _put(draft, field, attributes[rule.source])
        if field.name in draft.values and same(field, held, draft.values[field.name]):
            del draft.values[field.name]
    return draft


def unread(rules: Mapping[str, FieldRule], attributes: Mapping[str, Value], describe: Describe, record: Mapping[str, Any]) -> bool:
    """Whether the record was read without a field that these attributes go to: what it holds is unknown, it must be read again."""
    names = (
        describe.field(name) for name, rule in rules.items() if rule.write != "on-create" and not is_blank(attributes.get(rule.source))
    )
    return any(field is not None and field.name not in record for field in names)


def closed(describe: Describe, name: str, *, creating: bool) -> str | None:
    """Why the field can't be written; None where it can.

    On an object that may not be written at all the fields' own rights tell nothing: the org answers for itself.
    """
    field = describe.field(name)
    if field is None:
        return NO_FIELD
    of_object, of_field = (describe.createable, field.createable) if creating else (describe.updateable, field.updateable)
    return READ_ONLY if of_object and not of_field else None


def fit(field: Field, value: Value) -> tuple[Value, str | None]:
    """The value as the field takes it, and what had to be done to it (None: nothing). Raises Unfit."""
    kind = field.type
    if kind == "boolean":
        return _flag(value), None
    if kind in _NUMBERS or kind in _WHOLE:
        number = _number(value)
        return (round(number) if kind in _WHOLE or number.is_integer() else number), None
    if kind in ("date", "datetime"):
        return _moment(value, kind), None
    if kind == "multipicklist":
        return ";".join(
            _listed(field, item) for item in (value if isinstance(value, list) else str(value).split(";")) if not is_blank(item)
        ), None
    told = text(value)
    if kind == "picklist":
        told = _listed(field, told)
    if kind in _REFERENCES and not is_id(told):
        raise Unfit("not an id of Salesforce")
    return _cut(field, told)


def same(field: Field, held: Any, value: Value) -> bool:
    """Whether the record holds the value already. Case, outer blanks and the kind of line break make no difference in texts."""
    if is_blank(held) or is_blank(value):
        return is_blank(held) and is_blank(value)
    if field.type == "boolean" or isinstance(held, bool) or isinstance(value, bool):
        return bool(held == value)
    if field.type in _NUMBERS or field.type in _WHOLE:
        try:
            return math.isclose(float(held), float(value), rel_tol=1e-9, abs_tol=1e-6)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return False
    if field.type == "datetime":
        return milliseconds(held) == milliseconds(value)
    if field.type == "multipicklist":
        return {_folded(item) for item in str(held).split(";")} == {_folded(item) for item in str(value).split(";")}
    return _folded(str(held)) == _folded(str(value))


def fitting_text(field: Field, text: str) -> str:
    """The text, cut to what the field takes, without a reason: for names that Turnout makes itself."""
    return _cut_text(text, field.length)


def _writable(
    name: str, rule: FieldRule, attributes: Mapping[str, Value], describe: Describe, draft: Draft, *, creating: bool
) -> Field | None:
    if is_blank(attributes.get(rule.source)):
        return None
    field, why = describe.field(name), closed(describe, name, creating=creating)
    if why is None:
        return field
    draft.left_out[field.name if field is not None else name] = why
    return None


def _put(draft: Draft, field: Field, value: Value) -> None:
    try:
        draft.values[field.name], remark = fit(field, value)
    except Unfit as unfit:
        draft.left_out[field.name] = str(unfit)
        return
    if remark is not None:
        draft.left_out[field.name] = remark


def text(value: Value) -> str:
    """Any value as text: what Livestorm sends for one attribute may be a text, a number, or several texts. "" for a blank one."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "; ".join(cleaned for item in value if (cleaned := clean(item)))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return clean(str(value))


def _cut(field: Field, text: str) -> tuple[str, str | None]:
    if not field.length or len(text) <= field.length:
        return text, None
    if field.type in _WHOLE_OR_NOT_AT_ALL:
        raise Unfit(f"{len(text)} characters, the field takes {field.length}")
    return _cut_text(text, field.length), f"cut from {len(text)} to {field.length} characters"


def _cut_text(text: str, length: int) -> str:
    return text if not length or len(text) <= length else text[:length].rstrip()


def _listed(field: Field, text: str) -> str:
    """The picklist's own spelling of the value."""
    text = clean(text)
    wanted = _folded(text)
    for listed in field.picklist_values:
        if _folded(listed) == wanted:
            return listed
    if field.restricted_picklist and field.picklist_values:
        raise Unfit(f"'{text}' is not a value of the picklist: add it there, or take the field out of the mapping")
    return text


def _flag(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    word = text(value).lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise Unfit("neither yes nor no")


def _number(value: Value) -> float:
    if isinstance(value, bool):
        raise Unfit("not a number")
    try:
        number = float(text(value))
    except ValueError:
        raise Unfit("not a number") from None
    if not math.isfinite(number):
        raise Unfit("not a number")
    return number


def _moment(value: Value, kind: str) -> str:
    """A date or a datetime, from ISO 8601 or Unix seconds."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            ms: int | None = round(value * 1000)
        else:
            told = text(value)
            if kind == "date" and len(told) == 10:
                return datetime.date.fromisoformat(told).isoformat()
            ms = milliseconds(told)
        if ms is None:
            raise Unfit("not a time")
        written = datetime_text(ms)
    except (ValueError, OverflowError, OSError):
        raise Unfit("not a time") from None
    return written[:10] if kind == "date" else written


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip().replace("\r\n", "\n").replace("\r", "\n")).lower()
