"""What others met in the field: the groups' offsets are gone, and everything is read anew (F40), seen from outside."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import DeleteGroupsRequest

from tests.flow import house as houses
from tests.flow import watching
from tests.flow.conftest import Estate
from tests.flow.house import House
from tests.flow.place import Place
from tests.flow.salesforce import Org
from tests.flow.tenants import moved_in
from tests.flow.watching import eventually

OBJECTS = ("Lead", "Contact", "Account", "Campaign", "CampaignMemberStatus", "CampaignMember")


@pytest.fixture
def own(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house that the test may stop."""
    with houses.built(bootstrap, tmp_path_factory.mktemp("own")) as house:
        house.start(houses.ALL)
        yield house


async def forget_offsets(house: House) -> None:
    """As after the retention of a group's offsets: every stage's group is gone."""
    admin = AIOKafkaAdminClient(bootstrap_servers=house.bootstrap)
    await admin.start()
    try:
        for stage in houses.STAGES:
            group = f"{house.prefix}.{stage}"
            response = await admin._send_request(DeleteGroupsRequest([group]), await admin.find_coordinator(group))
            assert [code for _, code in response.results] == [0], response
    finally:
        await admin.close()


async def everything(org: Org) -> dict[str, list[dict[str, Any]]]:
    return {name: await org.records(name, deleted=True) for name in OBJECTS}


async def season(place: Place) -> None:
    """People with every status, changed by later events, and by hand."""
    now = int(time.time())
    first, second = await place.session("One"), await place.session("Two")
    await place.ended(first)
    emails = [f"guest{number}@again.example" for number in range(24)]
    for number, email in enumerate(emails):
        await place.registered(first, email, job_title="Mate", company="Harbour", updated_at=now - 3_000)
        if number % 2:
            await place.registered(second, email, job_title="Captain", city="Kiel", updated_at=now - 1_000)
        if number % 4 == 3:
            await place.watched(first, email)
        else:
            await (place.not_attended, place.attended)[number % 2](first, email)
    await place.registered(first, "con@again.example", job_title="Pilot")
    await place.synced()
    await place.followed(first, count=2)
    await place.followed(second)
    edited = await place.org.one("Lead", emails[0])
    await place.org.edit("Lead", edited["Id"], Title="Admiral")


async def test_f40_everything_read_anew_changes_nothing_in_salesforce(own: House, estate: Estate, http: aiohttp.ClientSession) -> None:
    """The offsets of all stages are deleted, and workers that remember nothing start: no record is written, with an event time field or without."""
    plain, timed = estate.take(), estate.take()
    orgs = [plain.org_table(), timed.org_table(event_time_field="Event_Time__c")]
    await asyncio.to_thread(own.apply, {"org": orgs, "workspace": [plain.workspace_table(), timed.workspace_table()]})
    async with watching.listening(own.bootstrap, own.prefix, ("synced", "dead-letters")) as heard:
        places = [await moved_in(own, tenant, heard, http) for tenant in (plain, timed)]
        for place in places:
            await place.org.seed(Contact=[{"Email": "con@again.example", "LastName": "Tact", "Title": "Trainee"}])
        for object in ("Lead", "Contact"):
            await places[1].org.rule("custom-field", object=object, field="Event_Time__c", type="datetime")
        for place in places:
            await season(place)
        assert all(lead["Event_Time__c"] for lead in await places[1].org.records("Lead"))
        before = [await everything(place.org) for place in places]
        await asyncio.to_thread(own.stop)
        await forget_offsets(own)
        for place in places:
            await place.org.forget_calls()
        await asyncio.to_thread(own.start, houses.ALL)

        async def read_anew() -> None:
            assert all(len(place.outcomes()) >= 2 * place.told for place in places)
            assert (await places[0].lag())["unfinished"] == 0

        await eventually(read_anew, 120)
        for place, records in zip(places, before, strict=True):
            assert await everything(place.org) == records
            assert await place.org.written() == {}
            assert place.dead_letters() == []
