"""What `turnout check` keeps of an org, on the sandbox org."""

import pathlib
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest

from pipeline.memory import MemoryBroker
from pipeline.records import Outgoing
from schemas.settings import Flow, Org
from stages import checking, flow, secrets
from stages.environment import Environment
from stages.sandbox.salesforce import SandboxOrgs
from stages.secrets import Secrets

ELSEWHERE = "00D00000000EA7UEAW"


class Place:
    """One org's row in a table in memory, and the sandbox org that its login leads to."""

    def __init__(self, url: str, folder: pathlib.Path) -> None:
        self.url, self.keys = url, folder / "keys"
        key = secrets.new_key()
        self.keys.write_text(key)
        self.keys.chmod(0o600)
        self.cipher = Secrets([key], "test")
        self.broker = MemoryBroker()
        for spec in flow.topics(partitions=1, replication=1, retention_hours=336):
            self.broker.create_topic(spec.name, 1)

    async def applied(self, how: Flow = "client-credentials", organization_id: str = "") -> None:
        sealed = self.cipher.encrypt("sandbox")
        org = Org(id="acme", login_url=self.url, flow=how, client_id="turnout", organization_id=organization_id, client_secret=sealed)
        org = msgspec.structs.replace(org, refresh_token=sealed)
        writer = self.broker.transport().writer()
        await writer.start()
        await writer.send([Outgoing("orgs", b"acme", msgspec.json.encode(org))])

    async def check(self, *, accept: bool = False) -> dict[str, bool]:
        """Whether each check passed."""
        environment = Environment(secret_keys_file=self.keys)
        results = await checking.check(environment, self.broker.transport(), "acme", accept_organization=accept)
        return {result.check: result.ok for result in results}

    @property
    def row(self) -> Org:
        value = self.broker.records("orgs")[-1].value
        assert value is not None
        return msgspec.json.decode(value, type=Org)


@pytest.fixture
async def place(tmp_path: pathlib.Path) -> AsyncIterator[Place]:
    async with SandboxOrgs() as sandbox:
        yield Place(sandbox.urls[0], tmp_path)


async def test_another_organization_fails_until_someone_says_that_it_is_right(place: Place) -> None:
    await place.applied(organization_id=ELSEWHERE)
    assert await place.check() == {"login": False}
    assert place.row.organization_id == ELSEWHERE
    assert (await place.check(accept=True))["login"]
    accepted = place.row.organization_id
    assert accepted not in ("", ELSEWHERE)
    assert (await place.check())["login"]
    assert place.row.organization_id == accepted


async def test_a_login_that_fails_accepts_nothing(place: Place) -> None:
    """Else whatever organization a later login leads to would be taken for the right one."""
    await place.applied(organization_id=ELSEWHERE)
    place.url = "http://127.0.0.1:9"
    await place.applied(organization_id=ELSEWHERE)
    assert await place.check(accept=True) == {"login": False}
    assert place.row.organization_id == ELSEWHERE


async def test_a_refresh_token_that_a_check_rotates_is_kept_and_the_files_stays_known(place: Place) -> None:
    """Else applying the same file again would bring back the dead one."""
    async with aiohttp.ClientSession() as http, http.post(f"{place.url}/sandbox/rules", json={"kind": "rotate-refresh-tokens"}) as answer:
        assert answer.status == 200
    await place.applied("refresh-token")
    assert (await place.check())["login"]
    assert place.cipher.decrypt(place.row.refresh_token_applied) == "sandbox"
    assert place.cipher.decrypt(place.row.refresh_token) != "sandbox"
