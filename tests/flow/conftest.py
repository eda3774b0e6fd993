"""One running product for all flow tests: broker, sandbox orgs and every part, processes of their own. Each test has orgs of its own."""

import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio

from tests import brokers
from tests.brokers import bootstrap
from tests.flow import house as houses
from tests.flow import processes, watching
from tests.flow.house import House
from tests.flow.livestorm import new_id
from tests.flow.place import Place
from tests.flow.salesforce import Org
from tests.flow.watching import Topics

__all__ = ["bootstrap"]

ORGS: Final = 80


@dataclasses.dataclass(slots=True)
class Estate:
    """Sandbox orgs, each given out once."""

    urls: list[str]
    used: int = 0

    def take(self) -> tuple[str, str]:
        """A name and a URL."""
        number, self.used = self.used, self.used + 1
        return f"org-{number:02}", self.urls[number]


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


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60), connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest_asyncio.fixture
async def topics(house: House) -> AsyncIterator[Topics]:
    async with watching.listening(house.bootstrap, house.prefix, ("synced", "dead-letters")) as heard:
        yield heard


Open = Callable[..., Awaitable[Place]]


@pytest.fixture
def opened(house: House, estate: Estate, topics: Topics, http: aiohttp.ClientSession) -> Open:
    """Makes places: `await opened(create="contact")`; `org=place.org` puts a second workspace on an org that is there.

    `org_settings` and the tables of `[workspace.…]` (objects, mapping, statuses, livestorm) go into the settings file.
    """
    return opener(house, estate, topics, http)


def opener(house: House, estate: Estate, topics: Topics, http: aiohttp.ClientSession) -> Open:
    async def open(
        *, org: Org | None = None, org_settings: dict[str, Any] | None = None, livestorm: dict[str, Any] | None = None, **workspace: Any
    ) -> Place:
        settings: dict[str, list[dict[str, Any]]] = {}
        if org is None:
            name, url = estate.take()
            org = Org(name, url, http)
            settings["org"] = [
                {"id": name, "login_url": url, "flow": "client-credentials", "client_id": "turnout", "client_secret": "sandbox"}
                | (org_settings or {})
            ]
        place = Place(house, org, f"ws-{new_id()[:8]}", new_id(), new_id(), topics, http)
        told = {"organization_id": place.organization, "webhook_secret": place.secret} | (livestorm or {})
        settings["workspace"] = [{"id": place.workspace, "org": org.id, **workspace, "livestorm": told}]
        house.apply(settings)
        await _known(place)
        return place

    return open


async def _known(place: Place) -> None:
    """Until the ingress has heard of the workspace."""

    async def look() -> None:
        status, told, _ = await place.send(b"{}", signature="")
        assert status == 401, (status, told)

    await watching.eventually(look)


@pytest_asyncio.fixture
async def place(opened: Open) -> Place:
    """A workspace with the default settings, on an empty org."""
    return await opened()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test shows what the running product said last."""
    report: Any = yield
    running = getattr(item, "funcargs", {}).get("house")
    if report.failed and isinstance(running, House):
        for child in running.children:
            report.sections.append((f"turnout {' '.join(child.arguments)}", child.tail()))
    return report


@contextlib.contextmanager
def own_broker(folder: pathlib.Path) -> Iterator[str]:
    """A broker for one test alone, of the kind that the tests run on."""
    if brokers.kind() == brokers.APACHE:
        with brokers.apache.running(folder) as broker:
            yield broker.bootstrap
    else:
        with brokers.embedded(folder) as address:
            yield address
