"""Reads a settings file and checks all of it: every mistake at once, each with its line and key. Writes nothing.

SettingsError    the file can't be used; `mistakes` says all that is wrong (a UsageError: exit code 2)
"""

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from schemas.settings import FieldRule, Flow, Livestorm, Objects, Org, Statuses, Workspace
from schemas.settings import Mapping as FieldMapping
from stages import ranking
from stages.errors import UsageError
from stages.salesforce.logins import login_url_problem
from stages.settings import defaults, places
from stages.settings.defaults import Entry

NEEDS: Final[dict[Flow, tuple[str, ...]]] = {
    "jwt-bearer": ("client_id", "username", "private_key"),
    "client-credentials": ("client_id", "client_secret"),
    "refresh-token": ("client_id", "refresh_token"),
    "username-password": ("client_id", "client_secret", "username", "password"),
}
"""What each flow logs in with."""

_REFERENCES: Final = frozenset(
    ("client_id", "client_secret", "username", "password", "private_key", "refresh_token", "organization_id", "webhook_secret", "api_token")
)
"""Keys whose value may be `env:NAME` or `file:PATH`."""
_ORG_KEPT: Final = frozenset(("organization_id", "refresh_token_applied", "revision"))
_WORKSPACE_KEPT: Final = frozenset(("paused", "connected_at", "revision"))
"""Fields of a row that are not the file's to say."""
_RESERVED: Final = {
    "lead": frozenset(("id", "email")),
    "contact": frozenset(("id", "email", "accountid")),
    "campaign_member": frozenset(("id", "campaignid", "contactid", "leadid", "status", "hasresponded")),
}
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_API_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")
_VERSION: Final = re.compile(r"[1-9][0-9]{1,2}\.0")
OLDEST_VERSION: Final = 52.0
"""Before it duplicate rules can't be respected. Salesforce itself answers 410 to all up to 30.0 since Summer '25."""


S = TypeVar("S", bound=msgspec.Struct)


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One thing that is wrong. `line` from 1; 0 where the file as a whole is meant."""

    line: int
    key: str
    message: str

    def __str__(self) -> str:
        if not self.line:
            return self.message
        return f"line {self.line}: {self.key}: {self.message}" if self.key else f"line {self.line}: {self.message}"


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """A workspace's `org` that the file itself does not hold. Whether it was applied before is for the tables to say."""

    line: int
    key: str
    org: str


class SettingsError(UsageError):
    """The file can't be used. Nothing was changed. `references`: what may be wrong with it beside its mistakes."""

    def __init__(self, path: Path, mistakes: Sequence[Mistake], references: Sequence[Reference] = ()) -> None:
        self.path = path
        self.mistakes = tuple(sorted(mistakes))
        self.references = tuple(references)
        if not self.mistakes[0].line:
            super().__init__(f"{path}: {self.mistakes[0]}")
            return
        count = f"{len(mistakes)} mistakes" if len(mistakes) != 1 else "one mistake"
        super().__init__(f"{path}: {count}, nothing was changed", [str(mistake) for mistake in self.mistakes])


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """A file that is right as far as it goes: secrets in plain text, mapping merged with the defaults."""

    path: Path
    orgs: tuple[Org, ...]
    workspaces: tuple[Workspace, ...]
    references: tuple[Reference, ...]

    def __repr__(self) -> str:
        return f"Settings({str(self.path)!r}, {len(self.orgs)} orgs, {len(self.workspaces)} workspaces)"


def load_file(path: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Reads and checks. `environ` resolves `env:NAME` (the process's own by default); `file:PATH` is relative to the file. Raises SettingsError."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(path, [Mistake(0, "", f"can't be read: {error.strerror or error}")]) from None
    except UnicodeDecodeError as error:
        raise SettingsError(path, [Mistake(0, "", f"is not UTF-8 at byte {error.start}")]) from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(path, [_syntax(str(error), text)]) from None
    reading = _Reading(path, places.places(text), os.environ if environ is None else environ)
    settings = reading.settings(document)
    if reading.mistakes:
        raise SettingsError(path, reading.mistakes, settings.references)
    return settings


def _syntax(error: str, text: str) -> Mistake:
    place = re.search(r" \(at line ([0-9]+), column ([0-9]+)\)", error)
    if place is None:
        return Mistake(text.count("\n") + 1, "", f"not TOML: {error}")
    return Mistake(int(place[1]), "", f"not TOML: {error[: place.start()]} (column {place[2]})")


class _Reading:
    """One pass over one file; collects mistakes instead of raising."""

    def __init__(self, path: Path, lines: Mapping[places.Path, int], environ: Mapping[str, str]) -> None:
        self.mistakes: list[Mistake] = []
        self._path = path
        self._lines = lines
        self._environ = environ

    def settings(self, document: Mapping[str, Any]) -> Settings:
        self._unknown(document, ("org", "workspace"), ())
        if not document:
            self.mistakes.append(Mistake(1, "", "no [[org]] and no [[workspace]]"))
        orgs = [self._org(entry, ("org", at)) for at, entry in self._entries(document, "org")]
        workspaces = [self._workspace(entry, ("workspace", at)) for at, entry in self._entries(document, "workspace")]
        self._doubles(document, "org")
        self._doubles(document, "workspace")
        return Settings(
            self._path,
            tuple(org for org in orgs if org is not None),
            tuple(workspace for workspace in workspaces if workspace is not None),
            self._references(document),
        )

    # Orgs

    def _org(self, entry: Mapping[str, Any], path: places.Path) -> Org | None:
        values = self._values(entry, Org, path, required=("id", "login_url", "flow"), kept=_ORG_KEPT)
        self._check(values, path, "id", _id_fault)
        self._check(values, path, "login_url", _url_fault)
        self._check(values, path, "login_url", lambda url: None if _url_fault(url) else _login_fault(url, values.get("flow", "")))
        self._check(values, path, "api_version", _version_fault)
        self._check(values, path, "daily_call_reserve", lambda share: None if 0 <= share < 1 else "a share: from 0 up to, but not, 1")
        for name in ("person_key_field", "campaign_key_field", "account_key_field", "event_time_field"):
            self._check(values, path, name, _field_fault)
        self._check(values, path, "private_key", _key_fault)
        flow = values.get("flow")
        for name in NEEDS.get(flow, ()) if flow else ():
            if name not in entry:
                self._wrong(path, name, f'flow "{flow}" needs it')
            elif values.get(name) == "":
                self._wrong((*path, name), "", f'flow "{flow}" needs it, and it is empty')
        return _made(Org, values)

    # Workspaces

    def _workspace(self, entry: Mapping[str, Any], path: places.Path) -> Workspace | None:
        flat = {name: value for name, value in entry.items() if name not in ("livestorm", "objects", "mapping", "statuses")}
        values = self._values(
            flat, Workspace, path, required=("id", "org"), kept=_WORKSPACE_KEPT, tables=("livestorm", "objects", "mapping", "statuses")
        )
        self._check(values, path, "id", _id_fault)
        self._check(values, path, "plan", lambda text: None if text.strip() else "empty")
        objects = self._objects(self._table(entry, path, "objects"), (*path, "objects"))
        nested = {
            "livestorm": self._livestorm(self._table(entry, path, "livestorm"), (*path, "livestorm")),
            "objects": objects,
            "mapping": self._mapping(self._table(entry, path, "mapping"), (*path, "mapping"), objects),
            "statuses": self._statuses(self._table(entry, path, "statuses"), (*path, "statuses")),
        }
        values |= {name: value for name, value in nested.items() if value is not None}
        values["name"] = values.get("name") or values.get("id", "")
        return _made(Workspace, values)

    def _livestorm(self, entry: Mapping[str, Any], path: places.Path) -> Livestorm | None:
        values = self._values(entry, Livestorm, path, required=("organization_id", "webhook_secret"))
        for name in ("organization_id", "webhook_secret"):
            self._check(values, path, name, lambda text: None if text.strip() else "empty")
        self._check(values, path, "signature_tolerance_seconds", lambda seconds: None if seconds > 0 else "at least 1")
        self._check(values, path, "base_url", _url_fault)
        return _made(Livestorm, values)

    def _objects(self, entry: Mapping[str, Any], path: places.Path) -> Objects | None:
        values = self._values(entry, Objects, path)
        self._check(values, path, "replay_status_field", _field_fault)
        return _made(Objects, values)

    def _statuses(self, entry: Mapping[str, Any], path: places.Path) -> Statuses | None:
        values = self._values(entry, Statuses, path)
        for name in values:
            self._check(values, path, name, lambda text: None if text.strip() else "empty")
        statuses = _made(Statuses, values)
        if statuses is not None:
            labels: dict[str, str] = {}
            for name in ("registered", "attended", "not_attended"):
                self._check(values, path, name, _label_fault)
                label = ranking.folded(getattr(statuses, name))
                if label in labels:
                    self._wrong(path, name, f"the same label as {labels[label]}: a status could not be told from the other")
                labels[label] = name
        return statuses

    def _mapping(self, entry: Mapping[str, Any], path: places.Path, objects: Objects | None) -> FieldMapping:
        self._unknown(entry, tuple(defaults.BY_OBJECT), path)
        rules: dict[str, dict[str, FieldRule]] = {}
        for name, known in defaults.BY_OBJECT.items():
            reserved = _RESERVED[name]
            if name == "campaign_member" and objects is not None and objects.replay_status_field:
                reserved |= {objects.replay_status_field.lower()}
            entries = self._rules(self._table(entry, path, name), (*path, name), known, reserved)
            rules[name] = defaults.merged(known, entries)
        return FieldMapping(**rules)

    def _rules(self, entry: Mapping[str, Any], path: places.Path, known: Mapping[str, str], reserved: frozenset[str]) -> dict[str, Entry]:
        rules: dict[str, Entry] = {}
        seen: dict[str, str] = {}
        for field, value in entry.items():
            folded = field.lower()
            if not _API_NAME.fullmatch(field):
                self._wrong(path, field, "not the API name of a Salesforce field (letters, digits, _; like Region__c)")
            elif folded in reserved:
                self._wrong(path, field, "is not to be mapped: Turnout writes it by itself")
            elif folded in seen:
                self._wrong(path, field, f"the same field as {seen[folded]}: Salesforce ignores case")
            elif value is False:
                if folded not in {name.lower() for name in known}:
                    self._wrong(path, field, "false takes a default away, and there is no default for it" + _did_you_mean(field, known))
                rules[field] = None
            else:
                rule = self._rule(value, (*path, field))
                if rule is not None:
                    rules[field] = rule
            seen.setdefault(folded, field)
        return rules

    def _rule(self, value: Any, path: places.Path) -> FieldRule | None:
        if isinstance(value, str):
            value = {"from": value}
        if not isinstance(value, dict):
            self._wrong(path, "", 'write an attribute ("region"), { from = "…", write = "…" }, or false')
            return None
        values = self._values(value, FieldRule, path, required=("from",))
        self._check(values, path, "from", lambda text: None if text.strip() else "empty")
        return _made(FieldRule, values)

    # Any table

    def _entries(self, document: Mapping[str, Any], name: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
        entries = document.get(name, [])
        if not isinstance(entries, list):
            self._wrong((), name, f"write [[{name}]], with two brackets")
            return []
        return [(at, entry) for at, entry in enumerate(entries) if self._is_table(entry, (name, at))]

    def _is_table(self, entry: Any, path: places.Path) -> bool:
        if not isinstance(entry, dict):
            self._wrong(path, "", "expected a table")
        return isinstance(entry, dict)

    def _table(self, entry: Mapping[str, Any], path: places.Path, name: str) -> Mapping[str, Any]:
        table = entry.get(name, {})
        return table if self._is_table(table, (*path, name)) else {}

    def _values(
        self,
        entry: Mapping[str, Any],
        shape: type[msgspec.Struct],
        path: places.Path,
        *,
        required: Sequence[str] = (),
        kept: frozenset[str] = frozenset(),
        tables: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The values that are right, by the name in the file; what is missing, unknown or of the wrong type is a mistake."""
        fields = {field.encode_name: field for field in msgspec.structs.fields(shape) if field.encode_name not in kept}
        self._unknown(entry, tuple(fields), path, kept)
        for name in required:
            if name not in entry:
                self._wrong(path, name, "required, and missing")
        values: dict[str, Any] = {}
        for name, value in entry.items():
            if name not in fields or name in tables:
                continue
            resolved = self._resolved(value, (*path, name)) if name in _REFERENCES else value
            if resolved is None:
                continue
            try:
                values[name] = msgspec.convert(resolved, fields[name].type)
            except msgspec.ValidationError:
                self._wrong(path, name, _type_fault(value, fields[name].type))
        return values

    def _resolved(self, value: Any, path: places.Path) -> Any:
        """What `env:NAME` or `file:PATH` stands for; None after a mistake."""
        if not isinstance(value, str) or not value.startswith(("env:", "file:")):
            return value
        scheme, _, name = value.partition(":")
        try:
            text = self._environ[name] if scheme == "env" else (self._path.parent / name).read_text("utf-8")
        except KeyError:
            return self._wrong(path, "", f"the environment has no {name or 'name after env:'}")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            return self._wrong(path, "", f"file {name} can't be read: {reason}")
        text = text.rstrip("\r\n")
        return text if text.strip() else self._wrong(path, "", f"{value} is empty")

    def _check(self, values: dict[str, Any], path: places.Path, name: str, fault: Callable[[Any], str | None]) -> None:
        if name in values and (message := fault(values[name])) is not None:
            self._wrong(path, name, message)

    def _unknown(self, entry: Mapping[str, Any], known: Sequence[str], path: places.Path, kept: frozenset[str] = frozenset()) -> None:
        for name in entry:
            if name in kept:
                hint = "; use `turnout workspace pause` and `resume`" if name == "paused" else ""
                self._wrong(path, name, f"not for the file: Turnout keeps it by itself{hint}")
            elif name not in known:
                self._wrong(path, name, "unknown key" + _did_you_mean(name, known))

    def _doubles(self, document: Mapping[str, Any], name: str) -> None:
        seen: dict[str, int] = {}
        for at, entry in self._entries_quietly(document, name):
            id = entry.get("id")
            if isinstance(id, str):
                if id in seen:
                    self._wrong((name, at), "id", f'"{id}" is also the id of the {name} on line {self._line((name, seen[id]))}')
                seen.setdefault(id, at)

    def _entries_quietly(self, document: Mapping[str, Any], name: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
        entries = document.get(name, [])
        return [(at, entry) for at, entry in enumerate(entries) if isinstance(entry, dict)] if isinstance(entries, list) else []

    def _references(self, document: Mapping[str, Any]) -> tuple[Reference, ...]:
        """By what is written, so that an org with mistakes counts as one that is there."""
        here = {entry.get("id") for _, entry in self._entries_quietly(document, "org")}
        named = [(("workspace", at, "org"), entry.get("org")) for at, entry in self._entries_quietly(document, "workspace")]
        return tuple(
            Reference(self._line(path), places.spelled(path), org) for path, org in named if isinstance(org, str) and org not in here
        )

    def _line(self, path: places.Path) -> int:
        """The line of a key; where it is missing that of the table it should be in."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def _wrong(self, path: places.Path, name: str, message: str) -> None:
        whole = (*path, name) if name else path
        self.mistakes.append(Mistake(self._line(whole), places.spelled(whole), message))


def _made(shape: type[S], values: Mapping[str, Any]) -> S | None:
    """The Struct, or None where something it can't do without is missing (which is a mistake already)."""
    try:
        return msgspec.convert(dict(values), shape)
    except msgspec.ValidationError:
        return None


def _id_fault(id: str) -> str | None:
    return None if _ID.fullmatch(id) else "letters, digits, '.', '_' and '-', at most 100, beginning with a letter or digit"


def _field_fault(name: str) -> str | None:
    return None if not name or _API_NAME.fullmatch(name) else "not the API name of a Salesforce field"


def _url_fault(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "not a URL"
    if parts.scheme not in ("https", "http") or not host or parts.username is not None or parts.query or parts.fragment:
        return "not a URL (https://host, without user, ? and #)"
    if parts.scheme == "http" and not _is_near(host):
        return (
            "http:// is for a sandbox on this machine or in this network alone (localhost, 127.0.0.1, a name without dots); write https://"
        )
    return None


def _version_fault(version: str) -> str | None:
    if not _VERSION.fullmatch(version):
        return 'write it like "62.0"'
    if float(version) >= OLDEST_VERSION:
        return None
    return f"too old: Turnout needs {OLDEST_VERSION} or later, since duplicate rules can't be respected before; Salesforce has retired all up to 30.0"


def _label_fault(label: str) -> str | None:
    characters = len(ranking.trimmed(label))
    most = ranking.LABEL_CHARACTERS
    return None if characters <= most else f"{characters} characters: the status of a Campaign Member takes {most}"


def _login_fault(url: str, flow: str) -> str | None:
    problem = login_url_problem(url, flow)
    return None if problem is None else f"{problem.message}; {problem.hint}"


def _is_near(host: str) -> bool:
    """A loopback address, or a name without dots: only a private network (one of containers, say) resolves such a name."""
    return host.startswith("127.") or host.endswith(".localhost") or ("." not in host and ":" not in host) or host == "::1"


def _key_fault(pem: str) -> str | None:
    if not pem:
        return None
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "not a private key in PEM form without a passphrase"
    return None if isinstance(key, RSAPrivateKey) else "not an RSA key: Salesforce takes RS256 alone"


_KINDS: Final[dict[type, str]] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


def _type_fault(value: Any, expected: Any) -> str:
    if get_origin(expected) is Literal:
        options = [str(option) for option in get_args(expected)]
        shown = ", ".join(f'"{option}"' for option in options)
        return f"one of {shown}" + (_did_you_mean(value, options) if isinstance(value, str) else "")
    return f"expected {_KINDS.get(expected, 'something else')}, found {_KINDS.get(type(value), type(value).__name__)}"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    folded = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), folded, 1, 0.6)
    return f'; did you mean "{folded[close[0]]}"?' if close else ""
