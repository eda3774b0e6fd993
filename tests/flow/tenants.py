"""Who uses a house: an org and a workspace on it, as the settings file has them, and how a test moves in."""

import dataclasses
from typing import Any

import aiohttp

from tests.flow import watching
from tests.flow.house import House
from tests.flow.livestorm import new_id
from tests.flow.place import Place
from tests.flow.salesforce import Org
from tests.flow.watching import Topics


@dataclasses.dataclass(frozen=True, slots=True)
class Tenant:
    """One org, and one workspace on it."""

    org: str
    url: str
    workspace: str = dataclasses.field(default_factory=lambda: f"ws-{new_id()[:8]}")
    organization: str = dataclasses.field(default_factory=new_id)
    secret: str = dataclasses.field(default_factory=new_id)

    def org_table(self, **settings: Any) -> dict[str, Any]:
        told = {"id": self.org, "login_url": self.url, "flow": "client-credentials", "client_id": "turnout", "client_secret": "sandbox"}
        return told | settings

    def workspace_table(self, livestorm: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
        told = {"organization_id": self.organization, "webhook_secret": self.secret} | (livestorm or {})
        return {"id": self.workspace, "org": self.org, **settings, "livestorm": told}


async def moved_in(house: House, tenant: Tenant, topics: Topics, http: aiohttp.ClientSession) -> Place:
    """The place of a tenant, once the ingress has heard of it."""
    org = Org(tenant.org, tenant.url, http)
    place = Place(house, org, tenant.workspace, tenant.organization, tenant.secret, topics, http)

    async def look() -> None:
        status, told, _ = await place.send(b"{}", signature="")
        assert status == 401, (status, told)

    await watching.eventually(look)
    return place
