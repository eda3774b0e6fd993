"""Tries orgs for `turnout check`: which ones a name means, and that what waits for a mended org goes on. The checks are `salesforce.check`'s."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set

import msgspec

from pipeline.records import Outgoing
from pipeline.tables import Table, readable
from pipeline.transport import Transport, Writer
from schemas.settings import Org, Workspace
from stages import connection, secrets
from stages.environment import Environment
from stages.errors import UsageError
from stages.rows import ORGS, WORKSPACES
from stages.salesforce.check import CheckResult, check_org
from stages.salesforce.orgs import Keep, OrgRegistry
from stages.settings import logins
from stages.settings.changes import Cipher


async def check(
    environment: Environment, transport: Transport, name: str | None, *, accept_organization: bool = False
) -> list[CheckResult]:
    """Every row of every check. Raises UsageError where `name` is neither an org nor a workspace.

    `accept_organization`: the organization that a login leads to now is the right one, whichever was seen before.
    """
    tables = await connection.tables(transport, (ORGS, WORKSPACES))
    orgs = {key: row for key, value in tables[ORGS].items() if (row := readable(ORGS, key, value, Org)) is not None}
    workspaces = connection.workspaces(tables[WORKSPACES])
    cipher = secrets.load(environment.secret_keys_file)
    wanted = meant(name, orgs, workspaces)
    async with connection.writing(transport) as writer:
        kept = _Rows(tables[ORGS], writer, cipher, accepts=set(wanted) if accept_organization else set())
        registry = OrgRegistry(kept, cipher.decrypt, Keep(refresh_token=kept.refresh_token, organization=kept.organization))
        results: list[CheckResult] = []
        try:
            for org in wanted:
                found = await check_org(registry.door(org), orgs[org], [one for one in workspaces if one.org == org])
                results += found
                if all(result.ok for result in found):
                    await kept.touch(org)
        finally:
            registry.close()
    return results


class _Rows:
    """The table `orgs`, and writes to it: what a login must keep, and the same again, at which whoever waits for the org tries at once.

    An org of `accepts` is read as if no organization had been seen yet. Its row changes only once a login has worked.
    """

    def __init__(self, table: Table, writer: Writer, cipher: Cipher, accepts: Set[str]) -> None:
        self._table, self._writer, self._cipher, self._accepts = table, writer, cipher, accepts

    def get(self, key: str) -> bytes | None:
        value = self._table.get(key)
        row = readable(ORGS, key, value, Org) if key in self._accepts else None
        return value if row is None else msgspec.json.encode(msgspec.structs.replace(row, organization_id=""))

    async def refresh_token(self, org: str, token: str) -> None:
        await self._change(org, lambda row: logins.rotated(row, token, self._cipher))

    async def organization(self, org: str, organization: str) -> None:
        await self._change(org, lambda row: msgspec.structs.replace(row, organization_id=organization))

    async def touch(self, org: str) -> None:
        await self._change(org, lambda row: row)

    async def _change(self, org: str, change: Callable[[Org], Org]) -> None:
        """Durable when it returns."""
        known = readable(ORGS, org, self._table.get(org), Org)
        if known is None:
            return
        row = msgspec.json.encode(change(known))
        acks = await self._writer.send([Outgoing(ORGS, org.encode(), row)])
        self._table.written(org, row, acks[0])


def meant(name: str | None, orgs: Mapping[str, Org], workspaces: Sequence[Workspace]) -> list[str]:
    """Ids of the orgs that a name means; all without one."""
    if name is None:
        return sorted(orgs)
    if name in orgs:
        return [name]
    for workspace in workspaces:
        if workspace.id == name:
            return [workspace.org]
    known: Iterable[str] = (*sorted(orgs), *sorted(workspace.id for workspace in workspaces))
    raise UsageError(f"there is no org or workspace {name!r}; known are: {', '.join(known) or 'none, apply settings first'}")
