"""Keeps in an org's row what its login brings: a rotated refresh token, the organization id. Changes nothing that the file says."""

from collections.abc import Callable

import msgspec

from pipeline.outcomes import Table
from pipeline.records import Outgoing
from pipeline.transport import Writer
from schemas.settings import Org
from stages.rows import ORGS
from stages.salesforce.errors import UnknownOrg
from stages.settings.changes import Cipher


class LoginKeeper:
    """Each method returns once it is durable. The row's `revision` stays, for no setting changed. Raises UnknownOrg, TransportError."""

    def __init__(self, orgs: Table, writer: Writer, cipher: Cipher) -> None:
        self._orgs, self._writer, self._cipher = orgs, writer, cipher

    async def refresh_token(self, org: str, refresh_token: str) -> None:
        """A new refresh token, in plain text; the one that the file gave stays known, so that applying the file again does not bring it back."""

        def rotate(row: Org) -> None:
            row.refresh_token_applied = row.refresh_token_applied or row.refresh_token
            row.refresh_token = self._cipher.encrypt(refresh_token)

        await self._change(org, rotate)

    async def organization(self, org: str, organization_id: str) -> None:
        """The organization id that a login led to."""

        def note(row: Org) -> None:
            row.organization_id = organization_id

        await self._change(org, note)

    async def _change(self, org: str, change: Callable[[Org], None]) -> None:
        raw = self._orgs.get(org)
        if raw is None:
            raise UnknownOrg(org)
        row = msgspec.json.decode(raw, type=Org)
        change(row)
        await self._writer.send([Outgoing(ORGS, org.encode(), msgspec.json.encode(row))])
