"""One fresh stand-in org for each test, and a caller who is logged in."""

from collections.abc import AsyncIterator

import aiohttp
import pytest_asyncio

from stages.sandbox.salesforce import SandboxOrgs
from tests.contract.test_salesforce_stand_in.client import Caller


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    # Cut connections must show as such: nothing is sent again unasked.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        yield session


@pytest_asyncio.fixture
async def acme(http: aiohttp.ClientSession) -> AsyncIterator[Caller]:
    async with SandboxOrgs(1) as orgs:
        caller = Caller(orgs.orgs[0], http)
        await caller.log_in()
        yield caller
