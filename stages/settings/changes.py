"""Compares settings with the rows of `orgs` and `workspaces`, writes what differs, and shows rows with their secrets masked. Never shows a secret."""

import dataclasses
from collections.abc import Container, Iterable, Mapping
from typing import Any, Final, Literal, Protocol, TypeVar

import msgspec
import structlog

from pipeline.records import Outgoing
from pipeline.transport import Writer
from schemas.settings import ORG_SECRETS, WORKSPACE_SECRETS, Org, Workspace
from stages.errors import TurnoutError
from stages.rows import ORGS, WORKSPACES
from stages.secrets import SecretsError
from stages.settings.file import Mistake, Reference, Settings, SettingsError

log = structlog.get_logger()

MASK: Final = "***"
LOCKS_OUT: Final = "username-password"
"""A flow whose refused logins are not repeated until its settings are applied again, changed or not: so its row is always written."""
UNREADABLE: Final = "*** (no key fits)"

R = TypeVar("R", Org, Workspace)


class Cipher(Protocol):
    """What encrypts secrets; `stages.secrets.Secrets` does."""

    def encrypt(self, text: str) -> str: ...

    def decrypt(self, token: str) -> str:
        """Raises SecretsError."""

    def renewed(self, token: str) -> str:
        """The same secret under the key that encrypts now; `token` itself where it is so already. Raises SecretsError."""


class UnknownWorkspaceError(TurnoutError):
    """No such workspace in the table."""


@dataclasses.dataclass(frozen=True, slots=True)
class FieldChange:
    """One setting. `before` and `after` are plain values, None where there is none; secrets are masked."""

    field: str
    before: Any
    after: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one org or workspace."""

    subject: Literal["org", "workspace"]
    id: str
    kind: Literal["added", "changed", "removed", "unchanged"]
    fields: tuple[FieldChange, ...] = ()
    encrypted_anew: bool = False
    """It held secrets under an older key, and is written with all of them under the first one, whatever else changes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All changes, and the records that make them true."""

    changes: tuple[Change, ...]
    records: tuple[Outgoing, ...]


def plan(
    settings: Settings,
    orgs: Mapping[str, bytes],
    workspaces: Mapping[str, bytes],
    cipher: Cipher,
    *,
    now: int,
    prune: bool = False,
) -> Plan:
    """What applying would do. `orgs` and `workspaces` are the whole tables as they are; `now` is Unix s. Raises SettingsError.

    Secrets are compared in plain text, so applying the same file again changes no row, unless one holds a secret under a key that is not
    the first any more: that one is encrypted anew, in rows that the file leaves out too, so that the older key can go.
    """
    mistakes = unknown_orgs(settings.references, orgs, prune=prune)
    if mistakes:
        raise SettingsError(settings.path, mistakes)
    changes: list[Change] = []
    records: list[Outgoing] = []
    # Orgs first: whoever reads a workspace's row finds its org.
    for org in settings.orgs:
        _settle(changes, records, "org", ORGS, _org(org, orgs.get(org.id), cipher))
    for workspace in settings.workspaces:
        _settle(changes, records, "workspace", WORKSPACES, _workspace(workspace, workspaces.get(workspace.id), cipher, now))
    if prune:
        _remove(changes, records, "workspace", WORKSPACES, workspaces, {workspace.id for workspace in settings.workspaces})
        _remove(changes, records, "org", ORGS, orgs, {org.id for org in settings.orgs})
    else:
        _renew(changes, records, "org", ORGS, Org, orgs, {org.id for org in settings.orgs}, cipher)
        _renew(
            changes, records, "workspace", WORKSPACES, Workspace, workspaces, {workspace.id for workspace in settings.workspaces}, cipher
        )
    return Plan(tuple(changes), tuple(records))


def unknown_orgs(references: Iterable[Reference], applied: Container[str], *, prune: bool) -> list[Mistake]:
    """Of what the file leaves open, what is wrong: orgs that were not `applied` before either, or that `prune` would take away."""
    where = " in this file, and --prune removes all others" if prune else ", neither in this file nor applied before"
    return [
        Mistake(reference.line, reference.key, f'no org "{reference.org}"{where}')
        for reference in references
        if prune or reference.org not in applied
    ]


async def write(planned: Plan, writer: Writer) -> None:
    """Returns once all of it is durable. Raises TransportError."""
    await writer.send(planned.records)
    anew = sum(change.encrypted_anew for change in planned.changes)
    log.info("settings applied", written=len(planned.records), encrypted_anew=anew)


def show(orgs: Mapping[str, bytes], workspaces: Mapping[str, bytes]) -> dict[str, list[dict[str, Any]]]:
    """Every row, secrets masked: `{"orgs": […], "workspaces": […]}`, in order of ids. A row that can't be read is told as such."""
    return {
        "orgs": [_shown(Org, key, orgs[key]) for key in sorted(orgs)],
        "workspaces": [_shown(Workspace, key, workspaces[key]) for key in sorted(workspaces)],
    }


def masked_org(org: Org) -> dict[str, Any]:
    """All settings of an org, defaults too, secrets masked."""
    return _masked(org, _ORG_MASKED)


def masked_workspace(workspace: Workspace) -> dict[str, Any]:
    """All settings of a workspace, defaults too, secrets masked."""
    return _masked(workspace, _WORKSPACE_MASKED)


def paused(id: str, raw: bytes | None, pause: bool) -> Outgoing | None:
    """The row that pauses or resumes a workspace; None: it is so already. Raises UnknownWorkspaceError."""
    if raw is None:
        raise UnknownWorkspaceError(f"there is no workspace {id}: `turnout workspace list` names them")
    row = _known(Workspace, raw)
    if row is None:
        raise UnknownWorkspaceError(f"the row of workspace {id} can't be read: apply its settings again")
    if row.paused is pause:
        return None
    return _record(WORKSPACES, id, msgspec.structs.replace(row, paused=pause, revision=row.revision + 1))


async def set_paused(id: str, pause: bool, workspaces: Mapping[str, bytes], writer: Writer) -> bool:
    """Pauses or resumes; whether that changed anything. Raises UnknownWorkspaceError, TransportError."""
    record = paused(id, workspaces.get(id), pause)
    if record is not None:
        await writer.send([record])
    return record is not None


_ORG_MASKED: Final = frozenset(ORG_SECRETS)
_WORKSPACE_MASKED: Final = frozenset(f"livestorm.{name}" for name in WORKSPACE_SECRETS)
_NOT_TOLD: Final = frozenset(("revision", "connected_at", "organization_id", "refresh_token_applied"))
"""Fields of a row that Turnout keeps by itself: no change of settings."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Settled:
    """One row: what it will be, and what changes."""

    id: str
    row: Org | Workspace | None
    kind: Literal["added", "changed", "unchanged"]
    fields: tuple[FieldChange, ...]
    encrypted_anew: bool = False


def _settle(changes: list[Change], records: list[Outgoing], subject: Literal["org", "workspace"], table: str, settled: _Settled) -> None:
    changes.append(Change(subject, settled.id, settled.kind, settled.fields, settled.encrypted_anew))
    if settled.row is not None:
        records.append(_record(table, settled.id, settled.row))


def _remove(
    changes: list[Change],
    records: list[Outgoing],
    subject: Literal["org", "workspace"],
    table: str,
    rows: Mapping[str, bytes],
    kept: set[str],
) -> None:
    for id in sorted(rows.keys() - kept):
        changes.append(Change(subject, id, "removed"))
        records.append(Outgoing(table, id.encode(), None))


def _renew(
    changes: list[Change],
    records: list[Outgoing],
    subject: Literal["org", "workspace"],
    table: str,
    shape: type[R],
    rows: Mapping[str, bytes],
    settled: set[str],
    cipher: Cipher,
) -> None:
    """Rows that the file leaves out stay what they are, but for the key of their secrets."""
    for id in sorted(rows.keys() - settled):
        known = _known(shape, rows[id])
        if known is not None and (row := _renewed(known, cipher)) is not None:
            _settle(changes, records, subject, table, _Settled(id, row, "unchanged", (), encrypted_anew=True))


def _org(wanted: Org, raw: bytes | None, cipher: Cipher) -> _Settled:
    known = _known(Org, raw)
    before = None if known is None else _applied(known, cipher)
    after = msgspec.structs.replace(wanted, organization_id=known.organization_id if known else "")
    fields = _differences(before, after, _ORG_MASKED)
    kind: Literal["added", "changed", "unchanged"] = "added" if known is None else "changed" if fields else "unchanged"
    renewed = None if known is None else _renewed(known, cipher)
    anew = renewed is not None
    if kind == "unchanged" and after.flow != LOCKS_OUT:
        return _Settled(wanted.id, renewed, kind, (), anew)
    after.revision = known.revision + 1 if known else 1
    for name in ORG_SECRETS:
        setattr(after, name, _sealed(getattr(after, name), cipher))
    after.refresh_token_applied = after.refresh_token
    if known is not None and before is not None and before.refresh_token == wanted.refresh_token:
        kept = renewed or known
        after.refresh_token, after.refresh_token_applied = kept.refresh_token, kept.refresh_token_applied
    return _Settled(wanted.id, after, kind, fields, anew)


def _workspace(wanted: Workspace, raw: bytes | None, cipher: Cipher, now: int) -> _Settled:
    known = _known(Workspace, raw)
    before = None if known is None else _opened_workspace(known, cipher)
    after = msgspec.structs.replace(
        wanted,
        livestorm=msgspec.structs.replace(wanted.livestorm),
        connected_at=known.connected_at if known and known.connected_at else now,
        paused=known.paused if known else False,
    )
    fields = _differences(before, after, _WORKSPACE_MASKED)
    renewed = None if known is None else _renewed(known, cipher)
    anew = renewed is not None
    if before is not None and not fields:
        return _Settled(wanted.id, renewed, "unchanged", (), anew)
    after.revision = known.revision + 1 if known else 1
    for name in WORKSPACE_SECRETS:
        setattr(after.livestorm, name, _sealed(getattr(after.livestorm, name), cipher))
    return _Settled(wanted.id, after, "added" if known is None else "changed", fields, anew)


def _known(shape: type[R], raw: bytes | None) -> R | None:
    """The row as it is; one that can't be read counts as none, and is written anew."""
    try:
        return None if raw is None else msgspec.json.decode(raw, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("a row of settings can't be read and is written anew", shape=shape.__name__, error=str(error))
        return None


def _applied(row: Org, cipher: Cipher) -> Org:
    """The org as the file gave it, secrets open. Its refresh token may have been rotated since: the one that was applied counts."""
    opened = {name: _opened(getattr(row, name), cipher) for name in ORG_SECRETS}
    opened["refresh_token"] = _opened(row.refresh_token_applied or row.refresh_token, cipher)
    return msgspec.structs.replace(row, **opened)


def _opened_workspace(row: Workspace, cipher: Cipher) -> Workspace:
    opened = {name: _opened(getattr(row.livestorm, name), cipher) for name in WORKSPACE_SECRETS}
    return msgspec.structs.replace(row, livestorm=msgspec.structs.replace(row.livestorm, **opened))


def _opened(token: str, cipher: Cipher) -> str:
    """A secret's plain text. One that no key fits counts as another one, so that applying writes it anew."""
    if not token:
        return ""
    try:
        return cipher.decrypt(token)
    except SecretsError:
        return UNREADABLE


def _renewed(row: R, cipher: Cipher) -> R | None:
    """The row with every secret under the first key; None: it is so already. `revision` stays: no setting changed, and no session ends."""
    if isinstance(row, Workspace):
        livestorm = msgspec.structs.replace(
            row.livestorm, **{name: _renewed_token(getattr(row.livestorm, name), cipher) for name in WORKSPACE_SECRETS}
        )
        return None if livestorm == row.livestorm else msgspec.structs.replace(row, livestorm=livestorm)
    tokens = {name: _renewed_token(getattr(row, name), cipher) for name in (*ORG_SECRETS, "refresh_token_applied")}
    renewed = msgspec.structs.replace(row, **tokens)
    return None if renewed == row else renewed


def _renewed_token(token: str, cipher: Cipher) -> str:
    """One that no key fits stays: nobody could say what to encrypt, and whoever needs it says so."""
    if not token:
        return ""
    try:
        return cipher.renewed(token)
    except SecretsError:
        return token


def _sealed(secret: str, cipher: Cipher) -> str:
    return cipher.encrypt(secret) if secret else ""


def _differences(before: Org | Workspace | None, after: Org | Workspace, masked: frozenset[str]) -> tuple[FieldChange, ...]:
    old = {} if before is None else _flat(before)
    new = _flat(after)

    def told(values: Mapping[str, Any], name: str) -> Any:
        value = values.get(name)
        return MASK if name in masked and value else value

    return tuple(
        FieldChange(name, told(old, name), told(new, name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name not in _NOT_TOLD
    )


def _flat(row: msgspec.Struct, prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted name; a mapping's rules whole."""
    flat: dict[str, Any] = {}
    for name in row.__struct_fields__:
        value = getattr(row, name)
        if isinstance(value, dict):
            flat |= {f"{prefix}{name}.{field}": msgspec.to_builtins(rule) for field, rule in value.items()}
        elif isinstance(value, msgspec.Struct):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _shown(shape: type[R], key: str, raw: bytes) -> dict[str, Any]:
    row = _known(shape, raw)
    if row is None:
        return {"id": key, "problem": "the row can't be read: apply its settings again"}
    return _masked(row, _ORG_MASKED if shape is Org else _WORKSPACE_MASKED)


def _masked(row: msgspec.Struct, masked: frozenset[str], prefix: str = "") -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name in row.__struct_fields__:
        value = getattr(row, name)
        if prefix + name == "refresh_token_applied":
            continue
        if f"{prefix}{name}" in masked:
            shown[name] = MASK if value else ""
        elif isinstance(value, dict):
            shown[name] = {field: {"from": rule.source, "write": rule.write} for field, rule in value.items()}
        elif isinstance(value, msgspec.Struct):
            shown[name] = _masked(value, masked, f"{prefix}{name}.")
        else:
            shown[name] = value
    return shown


def _record(table: str, key: str, row: msgspec.Struct) -> Outgoing:
    return Outgoing(table, key.encode(), msgspec.json.encode(row))
