"""What a person told, as mappable attributes by Livestorm's id; pure. Never makes a blank up, and never fails over an odd value: it is left out, and named."""

import contextlib
import datetime
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from schemas.livestorm import Person, RegistrantDetail, seconds, within
from schemas.messages import Value, canonical_email
from stages.livestorm.texts import clean

INVENTED_DOMAIN: Final = "unknown.livestorm.co"
"""Livestorm invents an address there for people at public events."""

_ADDRESS: Final = re.compile(r"[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f.]+(\.[^@\s\x00-\x1f\x7f.]+)+")
_ADDRESS_MAX: Final = 320

_ROOT: Final = "$.data.attributes"
_DETAIL: Final = "$.data.attributes.registrant_detail"

_DURATION: Final = "attendance_duration"
_DETAIL_TEXTS: Final = (
    "referrer", "utm_source", "utm_medium", "utm_term", "utm_content", "utm_campaign",
    "browser_name", "os_name", "ip_city", "ip_country_code", "ip_country_name", "registration_type",
)  # fmt: skip
_DETAIL_NUMBERS: Final = ("attendance_rate", _DURATION)
_DETAIL_FLAGS: Final = ("attended", "has_viewed_replay", "is_highlighted")
_PERSON_COUNTS: Final = ("messages_count", "questions_count", "votes_count", "up_votes_count")
_NAMES: Final = ("first_name", "last_name")

ENGAGEMENT: Final = frozenset((*_DETAIL_NUMBERS, "attendance_minutes", "attended", "has_viewed_replay", *_PERSON_COUNTS))
"""What only attendance gives; nothing of it is true yet when somebody registers."""

MAPPABLE: Final = frozenset((
    *_NAMES, "email", "timezone", *_DETAIL_TEXTS, *_DETAIL_FLAGS, *_DETAIL_NUMBERS, *_PERSON_COUNTS, "attendance_minutes",
    "registered_at", "replay_watched_at", "person_id", "session_id", "session_name", "session_status", "session_timezone",
    "session_starts_at", "session_ended_at", "event_id", "event_title", "event_language",
))  # fmt: skip
"""Attributes that Turnout knows by itself. Beside them: the id of every field of a form, standard (company, job_title …) or custom."""


class Odd(Exception):
    """A value that can't be read as what it should be. `str()` says what was expected and found, without the value."""


def plausible_address(value: object) -> str | None:
    """The canonical email, or None where the value is no address at all (absent, blank, "n/a", not even text).

    Deliberately lax: whether an address is a good one is for the org to say.
    """
    if not isinstance(value, str):
        return None
    address = canonical_email(clean(value))
    return address if len(address) <= _ADDRESS_MAX and _ADDRESS.fullmatch(address) else None


def is_invented(address: str) -> bool:
    """Whether Livestorm made this address up: never match or create on it."""
    domain = address.rpartition("@")[2]
    return domain == INVENTED_DOMAIN or domain.endswith("." + INVENTED_DOMAIN)


def address_of(person: Person) -> str | None:
    """The person's canonical email: from its attributes, else from the form's answers."""
    return next((address for told in _told_addresses(person) if (address := plausible_address(told)) is not None), None)


def no_address(person: Person) -> str:
    """What somebody without an email has told in its place; "" for nothing."""
    return next((told.strip()[:_ADDRESS_MAX] for told in _told_addresses(person) if isinstance(told, str) and told.strip()), "")


def _told_addresses(person: Person) -> Iterator[object]:
    yield person.email
    if person.registrant_detail is not None:
        answers, _ = _answers(person.registrant_detail)
        yield answers.get("email")


def watched_at(person: Person) -> int:
    """Unix s of the replay view; 0 where it isn't told, or is no moment."""
    return seconds(within(person.replay_view_detail, "watched_at"))


def read(person: Person, person_id: str, address: str, *, engaged: bool) -> tuple[dict[str, Value], dict[str, str]]:
    """All that the person told, by attribute id, and what was left out, by its path, with the reason.

    Answers to the form win over what Livestorm measured, a person's own names over the answers. Blanks are nothing told.
    `engaged` false (a registration): zeros of attendance and engagement are left away, for they only say "not yet".
    """
    detail = person.registrant_detail or RegistrantDetail()
    found, odd = _measured(person, detail)
    answers, odd_answers = _answers(detail)
    found.update(answers)
    for name in _NAMES:
        _take(found, odd, name, f"{_ROOT}.{name}", getattr(person, name), _text)
    found["email"] = address
    found["person_id"] = person_id
    if not engaged:
        found = {name: value for name, value in found.items() if value or name not in ENGAGEMENT}
    return found, odd | odd_answers


@lru_cache(maxsize=4_096)
def instant(unix_seconds: int) -> str:
    """RFC 3339 in UTC, as Salesforce takes a datetime."""
    return datetime.datetime.fromtimestamp(unix_seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _measured(person: Person, detail: RegistrantDetail) -> tuple[dict[str, Value], dict[str, str]]:
    found: dict[str, Value] = {}
    odd: dict[str, str] = {}
    _take(found, odd, "timezone", f"{_ROOT}.timezone", person.timezone, _text)
    for name in _PERSON_COUNTS:
        _take(found, odd, name, f"{_ROOT}.{name}", getattr(person, name), _number)
    for names, reader in ((_DETAIL_TEXTS, _text), (_DETAIL_NUMBERS, _number), (_DETAIL_FLAGS, _flag)):
        for name in names:
            _take(found, odd, name, f"{_DETAIL}.{name}", getattr(detail, name), reader)
    duration = found.get(_DURATION)
    if isinstance(duration, int | float):
        found["attendance_minutes"] = int(duration // 60)
    _take(found, odd, "registered_at", f"{_DETAIL}.created_at", detail.created_at, _moment)
    watched = within(person.replay_view_detail, "watched_at")
    _take(found, odd, "replay_watched_at", f"{_ROOT}.replay_view_detail.watched_at", watched, _moment)
    return found, odd


def _answers(detail: RegistrantDetail) -> tuple[dict[str, Value], dict[str, str]]:
    """Answers to the form by field id; of doubles the last that isn't blank."""
    found: dict[str, Value] = {}
    odd: dict[str, str] = {}
    fields = detail.fields
    if not isinstance(fields, list):
        return found, {} if fields is None else {f"{_DETAIL}.fields": f"expected a list, found {_kind(fields)}"}
    for at, field in enumerate(fields):
        name = field.get("id") if isinstance(field, dict) else None
        if not isinstance(name, str) or not name:
            odd[f"{_DETAIL}.fields[{at}]"] = "expected an object with an id"
            continue
        try:
            value = _answer(field.get("value"))
        except Odd as error:
            odd[f"{_DETAIL}.fields[{at}].value"] = str(error)
            continue
        if value is not None:
            found[name] = value
    return found, odd


def _take(found: dict[str, Value], odd: dict[str, str], name: str, path: str, raw: Any, reader: Callable[[Any], Value]) -> None:
    """One value, which stands at `path`, if there is any."""
    if raw is None:
        return
    try:
        value = reader(raw)
    except Odd as error:
        odd[path] = str(error)
        return
    if value is not None:
        found[name] = value


def _text(raw: Any) -> str | None:
    if raw is None:
        return None
    if isinstance(raw, str):
        return raw if clean(raw) else None
    if isinstance(raw, bool | int | float):
        return str(raw).lower() if isinstance(raw, bool) else str(raw)
    raise Odd(f"expected text, found {_kind(raw)}")


def _number(raw: Any) -> int | float | None:
    if raw is None or (isinstance(raw, str) and raw.strip().lower() in ("", "null")):
        return None
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise Odd(f"expected a number, found {_kind(raw)}")
    try:
        number = float(raw)
    except (ValueError, OverflowError):
        raise Odd(f"expected a number, found {_kind(raw)}") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise Odd("expected a finite number")
    return int(number) if number.is_integer() else number


def _moment(raw: Any) -> str | None:
    if at := seconds(raw):
        return instant(at)
    with contextlib.suppress(Odd):
        if not _number(raw):
            return None
    raise Odd("expected Unix seconds")


def _flag(raw: Any) -> bool | None:
    if raw is None or isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and not raw.strip():
        return None
    flag = _FLAGS.get(str(raw).strip().lower()) if isinstance(raw, str | int) else None
    if flag is None:
        raise Odd(f"expected true or false, found {_kind(raw)}")
    return flag


_FLAGS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def is_true(raw: Any) -> bool:
    """Whether a value that should be a flag says yes; an odd one doesn't."""
    try:
        return bool(_flag(raw))
    except Odd:
        return False


def _answer(raw: Any) -> Value:
    """A field's value is text, null or a list of texts; numbers and flags are taken as they are."""
    if isinstance(raw, bool | int | float):
        return raw
    if isinstance(raw, list):
        texts = [text for item in raw if (text := _text(item)) is not None]
        return texts or None
    return _text(raw)


def _kind(raw: Any) -> str:
    kinds: Mapping[type, str] = {
        str: "other text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(raw), type(raw).__name__)
