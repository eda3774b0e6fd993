"""One running product for all flow tests: broker, sandbox orgs and every part, processes of their own. Each test has orgs of its own."""

import dataclasses
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio

from tests.brokers import bootstrap
from tests.flow import house as houses
from tests.flow import processes, watching
from tests.flow.house import House
from tests.flow.place import Place
from tests.flow.salesforce import Org
from tests.flow.tenants import Tenant, moved_in
from tests.flow.watching import Topics

__all__ = ["bootstrap"]

ORGS: Final = 120
PLAIN: Final = 80
TEST_SECONDS: Final = 300.0
"""More than any wait within a test: it is that wait that says what did not come."""


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of this folder without a time of their own get the same one."""
    here = pathlib.Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A failed test shows what the running product said last."""
    report: Any = yield
    for running in getattr(item, "funcargs", {}).values() if report.failed else ():
        for child in running.children if isinstance(running, House) else ():
            report.sections.append((f"turnout {' '.join(child.arguments)}", child.tail()))
    return report
