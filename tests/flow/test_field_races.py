"""What others met in the field: webhooks that arrive together, with three workers of each stage (F26, F27)."""

import asyncio
import random
from collections.abc import Iterator, Sequence

import aiohttp
import pytest

from stages import installation
from stages.environment import Address
from tests.flow import house as houses
from tests.flow import watching
from tests.flow.conftest import Estate
from tests.flow.house import House
from tests.flow.tenants import moved_in
from tests.flow.watching import eventually

WORKERS = 3


@pytest.fixture(scope="module")
def three(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house of its own: an ingress, and three processes of every stage."""
    with houses.built(bootstrap, tmp_path_factory.mktemp("three")) as house:
        house.start(("ingress", "console"))
        addresses = [Address(installation.HOST, port) for port in installation.free_ports(WORKERS)]
        # One after the other: the embedded broker's groups lose members that join at the same moment.
        for address in addresses:
            house.start(houses.STAGES, METRICS=str(address))
        asyncio.run(_joined(addresses))
        yield house


async def _joined(addresses: Sequence[Address]) -> None:
    """Partitions that go from one worker to the next while a test runs may repeat work, which is not what these tests are about."""
    async with aiohttp.ClientSession() as http:
        await installation.ready(http, {str(address): address for address in addresses})


@pytest.mark.timeout(240)
async def test_f26_six_sessions_within_20_ms_are_one_lead_with_three_workers(
    three: House, estate: Estate, http: aiohttp.ClientSession
) -> None:
    """200 new people, six registrations each on six connections at once: 200 Leads and 1,200 members."""
    tenant = estate.take()
    await asyncio.to_thread(three.apply, {"org": [tenant.org_table()], "workspace": [tenant.workspace_table()]})
    async with watching.listening(three.bootstrap, three.prefix, ("synced", "dead-letters")) as heard:
        place = await moved_in(three, tenant, heard, http)
        sessions = [await place.session(f"Session {number}") for number in range(6)]
        emails = [f"guest{number}@busy.example" for number in range(200)]
        for email in emails:
            await asyncio.gather(*(place.registered(session, email) for session in random.sample(sessions, 6)))

        async def all_there() -> None:
            assert len(await place.org.records("CampaignMember")) >= 1200

        await eventually(all_there, 150)
        await place.synced()
        leads = await place.org.records("Lead")
        twins = {
            email: told for email in emails if len(told := [lead["history"][0]["at"] for lead in leads if lead["Email"] == email]) != 1
        }
        assert not twins, twins
        members = await place.org.records("CampaignMember")
        campaigns = {(await place.org.campaign(session.id))["Id"] for session in sessions}
        pairs = {(member["LeadId"], member["CampaignId"]) for member in members}
        assert len(members) == len(pairs) == 1200
        assert pairs == {(lead["Id"], campaign) for lead in leads for campaign in campaigns}
        assert [call for call in (await place.org.calls())["log"] if "DUPLICATE_VALUE" in call["errors"]] == []


@pytest.mark.timeout(240)
async def test_f27_one_new_company_is_one_account_with_three_workers(three: House, estate: Estate, http: aiohttp.ClientSession) -> None:
    """120 new people of it at once, over all partitions: whoever asks, one writer looks for the Account and makes it."""
    tenant = estate.take()
    workspace = tenant.workspace_table(objects={"create": "contact"})
    await asyncio.to_thread(three.apply, {"org": [tenant.org_table()], "workspace": [workspace]})
    async with watching.listening(three.bootstrap, three.prefix, ("synced", "dead-letters")) as heard:
        place = await moved_in(three, tenant, heard, http)
        session = await place.session()
        await place.followed(session)
        emails = [f"maker{number}@acme.example" for number in range(120)]
        await place.crowd([place.about("people.registered", session, email, company="Acme Ltd") for email in emails], at_once=120)
        await place.synced(seconds=150)
        [account] = await place.org.records("Account")
        contacts = await place.org.records("Contact")
        assert sorted(contact["Email"] for contact in contacts) == sorted(emails)
        assert {contact["AccountId"] for contact in contacts} == {account["Id"]}
