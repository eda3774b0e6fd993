"""One value of one field: from what a request says to what is stored, or the refusal. Knows no other field and no other record."""

import datetime
import math
import re
from collections.abc import Callable
from typing import Any

from stages.sandbox.salesforce import ids
from stages.sandbox.salesforce.objects import TEXT_TYPES, Field
from stages.sandbox.salesforce.refusals import RefusalError

_BLANKS = " \t\r\n\f\v\0"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_EMAIL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")


def utc_text(moment: datetime.datetime) -> str:
    """A datetime as Salesforce writes it: UTC, whole seconds, milliseconds always 000."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000+0000")


def datetime_text(text: str) -> str:
    """An ISO datetime with an offset or Z, in Salesforce's form. Raises ValueError."""
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return utc_text(moment)


def stored(field: Field, value: Any) -> Any:
    """What is stored for `value`; None for null, an empty text and blanks. Raises RefusalError."""
    if value is None or value == "":
        return False if field.type == "boolean" else None
    if isinstance(value, (dict, list)):
        raise RefusalError("INVALID_TYPE_ON_FIELD_IN_RECORD", f"{field.label}: value not of required type: {value}", [field.name])
    reader: Callable[[Field, Any], Any] = _READERS.get(field.type, _text)
    return reader(field, value)


def _wrong_type(field: Field, wanted: str, value: Any) -> RefusalError:
    kinds: dict[type, str] = {bool: f"VALUE_{str(value).upper()}", int: "VALUE_NUMBER_INT", float: "VALUE_NUMBER_FLOAT"}
    kind = kinds.get(type(value), "VALUE_STRING")
    return RefusalError(
        "JSON_PARSER_ERROR",
        f"Cannot deserialize instance of {wanted} from {kind} value {value} or request may be missing a required field",
        [field.name],
    )


def _text(field: Field, value: Any) -> str | None:
    if not isinstance(value, str):
        raise _wrong_type(field, "string", value)
    kept = value.strip(_BLANKS)
    if len(kept) > field.length:
        raise RefusalError("STRING_TOO_LONG", f"{field.label}: data value too large: {kept} (max length={field.length})", [field.name])
    return kept or None


def _email(field: Field, value: Any) -> str | None:
    kept = _text(field, value)
    if kept is not None and _EMAIL.fullmatch(kept) is None:
        raise RefusalError("INVALID_EMAIL_ADDRESS", f"{field.label}: invalid email address: {kept}", [field.name])
    return None if kept is None else kept.lower()


def _picklist(field: Field, value: Any) -> str | None:
    kept = _text(field, value)
    if kept is not None and field.restricted and kept not in field.values:
        raise _bad_choice(field, kept)
    return kept


def _multipicklist(field: Field, value: Any) -> str | None:
    kept = _text(field, value)
    for choice in (kept or "").split(";") if field.restricted else ():
        if choice and choice not in field.values:
            raise _bad_choice(field, choice)
    return kept


def _bad_choice(field: Field, choice: str) -> RefusalError:
    code = "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"
    return RefusalError(code, f"{field.label}: bad value for restricted picklist field: {choice}", [field.name])


def _boolean(field: Field, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _wrong_type(field, "boolean", value)


def _number(field: Field, value: Any) -> int | float:
    if isinstance(value, bool):
        raise _wrong_type(field, field.type, value)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise _wrong_type(field, field.type, value) from None
    if not math.isfinite(number) or (field.type == "int" and not number.is_integer()):
        raise _wrong_type(field, field.type, value)
    if field.type == "int" and abs(number) >= 2**31:
        message = f"{field.label}: value outside of valid range on numeric field: {value}"
        raise RefusalError("NUMBER_OUTSIDE_VALID_RANGE", message, [field.name])
    return int(number) if field.type == "int" else number


def _date(field: Field, value: Any) -> str:
    try:
        return datetime.date.fromisoformat(value).isoformat()
    except (TypeError, ValueError):
        raise _wrong_type(field, "date", value) from None


def _datetime(field: Field, value: Any) -> str:
    try:
        return datetime_text(value)
    except (TypeError, ValueError, OverflowError):
        raise _wrong_type(field, "datetime", value) from None


def _reference(field: Field, value: Any) -> str | None:
    if not isinstance(value, str):
        raise _wrong_type(field, "string", value)
    kept = value.strip(_BLANKS)
    if not kept:
        return None
    canonical = ids.canonical(kept)
    if canonical is None:
        raise RefusalError("MALFORMED_ID", f"{field.label}: id value of incorrect type: {kept}", [field.name])
    return canonical


_READERS: dict[str, Callable[[Field, Any], Any]] = {
    **dict.fromkeys(TEXT_TYPES, _text),
    "email": _email,
    "picklist": _picklist,
    "multipicklist": _multipicklist,
    "boolean": _boolean,
    "int": _number,
    "double": _number,
    "currency": _number,
    "percent": _number,
    "date": _date,
    "datetime": _datetime,
    "reference": _reference,
    "id": _reference,
}
