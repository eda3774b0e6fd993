"""One running product for all flow tests: broker, sandbox orgs and every part, processes of their own. Each test has orgs of its own."""

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio

from tests.brokers import bootstrap
from tests.flow import house as houses
from tests.flow import processes, watching
from tests.flow.house import House
from tests.flow.livestorm import new_id
from tests.flow.place import Place
from tests.flow.salesforce import Org
from tests.flow.watching import Topics

__all__ = ["bootstrap"]

ORGS: Final = 120
PLAIN: Final = 80


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


@dataclasses.dataclass(slots=True)
class Estate:
    """Sandbox orgs, each given out once."""

    urls: list[str]
    used: int = 0

    def take(self) -> Tenant:
        number, self.used = self.used, self.used + 1
        return Tenant(f"org-{number:03}", self.urls[number])


@pytest.fixture(scope="session")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    said = tmp_path_factory.mktemp("orgs") / "orgs.log"
    arguments = ["sandbox", "salesforce", "--port", "0", "--orgs", str(ORGS)]
    with processes.running(arguments, processes.environment(), said, r"sandbox salesforce ready: (.+)") as (_, ready):
        yield Estate(ready.group(1).split())


@pytest.fixture(scope="session")
def house(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """All parts in one process."""
    with houses.built(bootstrap, tmp_path_factory.mktemp("house")) as built:
        built.start(houses.ALL)
        yield built


@pytest.fixture(scope="session")
def plain(house: House, estate: Estate) -> list[Tenant]:
    """Tenants with the default settings, applied at once; each is to be taken once."""
    tenants = [estate.take() for _ in range(PLAIN)]
    house.apply({"org": [one.org_table() for one in tenants], "workspace": [one.workspace_table() for one in tenants]})
    return tenants


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60), connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest_asyncio.fixture
async def topics(house: House) -> AsyncIterator[Topics]:
    async with watching.listening(house.bootstrap, house.prefix, ("synced", "dead-letters")) as heard:
        yield heard


@pytest_asyncio.fixture
async def place(house: House, plain: list[Tenant], topics: Topics, http: aiohttp.ClientSession) -> Place:
    """A workspace with the default settings, on an empty org."""
    return await moved_in(house, plain.pop(), topics, http)


Open = Callable[..., Awaitable[Place]]


@pytest.fixture
def opened(house: House, estate: Estate, topics: Topics, http: aiohttp.ClientSession) -> Open:
    """Makes places: `await opened(objects={"create": "contact"})`; `org=place.org` puts a second workspace on an org that is there.

    `org_settings` and the tables of `[workspace.…]` (objects, mapping, statuses, livestorm) go into the settings file.
    """
    return opener(house, estate, topics, http)


def opener(house: House, estate: Estate, topics: Topics, http: aiohttp.ClientSession) -> Open:
    async def open(*, org: Org | None = None, org_settings: dict[str, Any] | None = None, **workspace: Any) -> Place:
        tenant = estate.take() if org is None else Tenant(org.id, org.url)
        orgs = [tenant.org_table(**(org_settings or {}))] if org is None else []
        house.apply({"org": orgs, "workspace": [tenant.workspace_table(**workspace)]})
        return await moved_in(house, tenant, topics, http)

    return open


async def moved_in(house: House, tenant: Tenant, topics: Topics, http: aiohttp.ClientSession) -> Place:
    """The place of a tenant, once the ingress has heard of it."""
    org = Org(tenant.org, tenant.url, http)
    place = Place(house, org, tenant.workspace, tenant.organization, tenant.secret, topics, http)

    async def look() -> None:
        status, told, _ = await place.send(b"{}", signature="")
        assert status == 401, (status, told)

    await watching.eventually(look)
    return place


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A failed test shows what the running product said last."""
    report: Any = yield
    running = getattr(item, "funcargs", {}).get("house")
    if report.failed and isinstance(running, House):
        for child in running.children:
            report.sections.append((f"turnout {' '.join(child.arguments)}", child.tail()))
    return report
