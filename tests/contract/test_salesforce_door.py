"""The door against an org: the stand-in, or a real one that the environment names.

TURNOUT_TEST_SALESFORCE_LOGIN_URL chooses a real org, with _FLOW, _CLIENT_ID, _CLIENT_SECRET, _USERNAME, _PASSWORD, _PRIVATE_KEY_FILE and
_REFRESH_TOKEN beside it as the flow needs. It should be one to play with: Leads are made in it and deleted again. What needs the
switches of the stand-in is then skipped.
"""

import dataclasses
import os
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from schemas.settings import FieldRule, Mapping, Objects, Org, Statuses, Workspace
from schemas.settings import Livestorm as LivestormSettings
from stages.salesforce import soql
from stages.salesforce.causes import classify_all, errors_of
from stages.salesforce.check import CheckResult, check_org
from stages.salesforce.client import Door, Hooks
from stages.salesforce.door import Subrequest
from stages.salesforce.errors import CallRefused, OrgUnavailable, OutcomeUnknown
from stages.salesforce.ids import full_id
from stages.salesforce.orgs import Keep, OrgRegistry
from stages.salesforce.slots import Bounds
from stages.salesforce.tokens import LoginTimes
from stages.salesforce.wire import CallTimes
from stages.sandbox.salesforce import SandboxOrgs

ENVIRONMENT = "TURNOUT_TEST_SALESFORCE_"
REAL = os.environ.get(f"{ENVIRONMENT}LOGIN_URL", "")
DUPLICATES = {"Sforce-Duplicate-Rule-Header": "allowSave=true; includeRecordDetails=false; runAsCurrentUser=true"}
HEADERS = {"Sforce-Auto-Assign": "FALSE", **DUPLICATES}
QUICK = CallTimes(connect=2.0, read=1.0, total=2.0)
"""For answers that never come; all others may take what they take."""
sandbox_only = pytest.mark.skipif(bool(REAL), reason="needs the switches of the stand-in")


def settings(login_url: str, **changes: Any) -> Org:
    org = Org(
        id="acme",
        login_url=login_url,
        flow="client-credentials",
        client_id="turnout",
        client_secret="sandbox",
        username="sandbox@example.com",
    )
    org.password = org.refresh_token = "sandbox"
    return msgspec.structs.replace(org, **changes)


def real_settings() -> Org:
    def told(name: str) -> str:
        return os.environ.get(ENVIRONMENT + name, "")

    key_file = told("PRIVATE_KEY_FILE")
    fields = {
        "client_id": "CLIENT_ID",
        "client_secret": "CLIENT_SECRET",
        "username": "USERNAME",
        "password": "PASSWORD",
        "refresh_token": "REFRESH_TOKEN",
    }
    return msgspec.convert(
        {"id": "real", "login_url": REAL, "flow": told("FLOW") or "client-credentials"}
        | {field: told(name) for field, name in fields.items()}
        | {"private_key": Path(key_file).read_text() if key_file else ""},
        Org,
    )


class Rows:
    """The table `orgs` with one row, as the workers of one process share it; `kept` is what logins stored."""

    def __init__(self, org: Org) -> None:
        self.org = org
        self.kept: list[str] = []

    def get(self, key: str) -> bytes | None:
        return msgspec.json.encode(self.org)

    async def refresh_token(self, org: str, refresh_token: str) -> None:
        self.kept.append(refresh_token)
        self.org = msgspec.structs.replace(self.org, refresh_token=refresh_token)

    async def organization(self, org: str, organization_id: str) -> None:
        self.kept.append(organization_id)
        self.org = msgspec.structs.replace(self.org, organization_id=organization_id)

    def change(self, **changes: Any) -> None:
        """As `settings apply` does it."""
        self.org = msgspec.structs.replace(self.org, revision=self.org.revision + 1, **changes)


class Settings:
    """The table `orgs` with one row for each address: "0", "1", …"""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls

    def get(self, key: str) -> bytes | None:
        return msgspec.json.encode(settings(self._urls[int(key)]))


async def unkept(org: str, value: str) -> None:
    """What a login stores, where no test looks at it."""


class Switches:
    """The stand-in's own switches."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session

    async def __call__(self, method: str, path: str, body: object = None) -> Any:
        async with self._session.request(method, f"{self._url}/sandbox/{path}", json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return answer

    async def fault(self, fault: str, resource: str = "*", **more: object) -> str:
        answer = await self("POST", "faults", {"match": {"resource": resource} | more.pop("match", {}), "fault": fault, "times": 1} | more)  # type: ignore[operator]
        return str(answer["id"])

    async def calls(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self("GET", "calls")
        return answer

    async def resources(self) -> list[str]:
        return [entry["resource"] for entry in (await self.calls())["log"]]


@dataclasses.dataclass
class World:
    """One org with the registry that calls it."""

    rows: Rows
    registry: OrgRegistry
    observed: list[tuple[str, str, str]]
    left: list[int]

    @property
    def door(self) -> Door:
        return self.registry.door("acme")


def registry(rows: Rows, hooks: Hooks | None = None, **more: Any) -> OrgRegistry:
    times = LoginTimes(busy=(0.15, 0.3))
    return OrgRegistry(rows, lambda secret: secret, Keep(rows.refresh_token, rows.organization), hooks=hooks, login_times=times, **more)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    if REAL:
        yield REAL
        return
    async with SandboxOrgs(1) as orgs:
        yield orgs.urls[0]


@pytest.fixture
async def switch(url: str) -> AsyncIterator[Switches]:
    async with aiohttp.ClientSession() as session:
        yield Switches(url, session)


@pytest.fixture
def times() -> CallTimes | None:
    """A test may name some."""
    return None


@pytest.fixture
async def world(url: str, times: CallTimes | None) -> AsyncIterator[World]:
    observed: list[tuple[str, str, str]] = []
    left: list[int] = []
    hooks = Hooks(lambda org, resource, outcome, seconds: observed.append((org, resource, outcome)), lambda org, calls: left.append(calls))
    rows = Rows(real_settings() if REAL else settings(url))
    made = registry(rows, hooks, call_times=times)
    yield World(rows, made, observed, left)
    made.close()


@pytest.fixture
def door(world: World) -> Door:
    return world.door


def lead(email: str, **values: object) -> dict[str, object]:
    return {"attributes": {"type": "Lead"}, "LastName": "Ito", "Company": "Kumo KK", "Email": email} | values


def address(name: str = "jo") -> str:
    """One that no other run has used; with a plus, which must survive the way."""
    return f"{name}+{uuid.uuid4().hex[:12]}@pier.example"


async def create(door: Door, *records: dict[str, object]) -> list[str]:
    reply = await door.collections("POST", "composite/sobjects", {"allOrNone": False, "records": list(records)}, HEADERS)
    assert all(row["success"] for row in reply.body), reply.body
    return [row["id"] for row in reply.body]


async def delete(door: Door, ids: list[str]) -> None:
    await door.collections("DELETE", f"composite/sobjects?ids={','.join(ids)}&allOrNone=false", None, {})


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 (what is waited for happens in threads)
            await anyio.sleep(0.005)


class TestCalls:
    async def test_an_address_with_a_plus_is_found_in_a_plain_query_and_in_a_composite(self, door: Door) -> None:
        email = address()
        ids = await create(door, lead(email))
        query = soql.select(["Id", "Email"], "Lead", f"Email IN {soql.in_list([email])}", order=soql.OLDEST_FIRST)
        (reply,) = await door.composite([Subrequest("GET", soql.path_of_query(query))])
        plain = await door.query(query)
        await delete(door, ids)
        assert [row["Id"] for row in plain] == ids
        assert [row["Id"] for row in reply.body["records"]] == ids
        assert plain[0]["Email"] == email

    async def test_text_that_needs_escapes_comes_back_as_it_went(self, door: Door) -> None:
        company = f'O\'Hara \\ "Söhne" & Co. % _ {uuid.uuid4().hex[:8]}'
        ids = await create(door, lead(address(), Company=company), lead(address(), Company=f"{company} too"))
        same = await door.query(soql.select(["Id"], "Lead", f"Company = {soql.text(company)}"))
        alike = await door.query(soql.select(["Id"], "Lead", f"Company LIKE {soql.starts_with(company)}"))
        await delete(door, ids)
        assert [row["Id"] for row in same] == ids[:1]
        assert {row["Id"] for row in alike} == set(ids)

    async def test_a_query_of_hundreds_of_addresses_goes_through(self, door: Door) -> None:
        email = address()
        ids = await create(door, lead(email))
        values = [address("nobody") for _ in range(soql.LIST_VALUES - 1)] + [email]
        found = await door.query(soql.select(["Id"], "Lead", f"Email IN {soql.in_list(values)}"))
        await delete(door, ids)
        assert [row["Id"] for row in found] == ids

    async def test_a_deleted_record_is_seen_by_those_who_ask_for_it(self, door: Door) -> None:
        ids = await create(door, lead(address()))
        await delete(door, ids)
        query = soql.select(["Id", "IsDeleted"], "Lead", f"Id = {soql.text(ids[0])}")
        assert await door.query(query) == []
        assert [row["IsDeleted"] for row in await door.query(query, deleted=True)] == [True]

    async def test_one_bad_part_of_a_composite_does_not_touch_the_others(self, door: Door) -> None:
        good, bad = soql.path_of_query("SELECT Id FROM Lead LIMIT 1"), soql.path_of_query("SELECT Nope__c FROM Lead")
        first, second, third = await door.composite([Subrequest("GET", good), Subrequest("GET", bad), Subrequest("GET", good)])
        assert (first.status, second.status, third.status) == (200, 400, 200)
        (trouble,) = classify_all(errors_of(second.body), object_name="Lead", http_status=second.status)
        assert (trouble.cause.code, trouble.kind, trouble.leave_out) == ("INVALID_FIELD", "org", ("Nope__c",))

    async def test_a_collection_says_of_each_record_what_became_of_it(self, door: Door) -> None:
        email = address()
        rows = [lead(email), {"attributes": {"type": "Lead"}, "Company": "No name", "Email": address()}, lead("no address")]
        (reply,) = await door.composite([Subrequest("POST", "composite/sobjects", {"allOrNone": False, "records": rows}, HEADERS)])
        await delete(door, [row["id"] for row in reply.body if row["success"]])
        assert [row["success"] for row in reply.body] == [True, False, False]
        troubles = [classify_all(errors_of(row), object_name="Lead") for row in reply.body]
        assert [[trouble.cause.code for trouble in found] for found in troubles] == [
            [],
            ["REQUIRED_FIELD_MISSING"],
            ["INVALID_EMAIL_ADDRESS"],
        ]
        assert troubles[1][0].cause.fields == ("LastName",)

    async def test_a_wrong_query_is_the_calls_fault_and_quotes_nobody(self, door: Door) -> None:
        with pytest.raises(CallRefused) as raised:
            await door.query("SELECT Id FROM Lead WHERE Email = 'jo@pier.example' AND")
        assert raised.value.trouble.cause.code == "MALFORMED_QUERY"
        assert "pier" not in str(raised.value)

    async def test_the_user_and_the_org_have_full_ids(self, door: Door) -> None:
        user, organization = await door.user_id(), await door.organization_id()
        assert (user, organization) == (full_id(user), full_id(organization))
        assert (user[:3], organization[:3]) == ("005", "00D")

    async def test_a_describe_tells_lengths_and_rights(self, door: Door) -> None:
        describe = await door.describe("Lead")
        email, name = describe.field("email"), describe.field("LASTNAME")
        assert email is not None
        assert name is not None
        assert (email.type, email.length, email.filterable, name.length, name.nillable) == ("email", 80, True, 80, False)
        assert await door.describe("Lead") is describe

    async def test_each_reply_tells_how_many_calls_are_left(self, world: World) -> None:
        await world.door.query("SELECT Id FROM Lead LIMIT 1")
        limits = await world.door.limits()
        assert world.registry.calls_left("acme") == world.left[-1]
        assert limits["DailyApiRequests"]["Max"] >= world.left[-1] > 0
        assert world.observed[-1] == (world.door.org, "limits", "ok")

    async def test_the_organization_of_the_first_login_is_kept(self, world: World) -> None:
        assert await world.door.organization_id() == world.rows.org.organization_id


@sandbox_only
class TestPages:
    async def test_all_pages_are_read_of_a_query_and_of_what_a_composite_began(self, door: Door, switch: Switches) -> None:
        await switch("POST", "rules", {"kind": "page-size", "size": 3})
        ids = await create(door, *(lead(address()) for _ in range(8)))
        query = soql.select(["Id"], "Lead", order=soql.OLDEST_FIRST)
        assert {row["Id"] for row in await door.query(query)} == set(ids)
        (reply,) = await door.composite([Subrequest("GET", soql.path_of_query(query))])
        assert not reply.body["done"]
        rest = await door.follow(reply.body["nextRecordsUrl"])
        assert {row["Id"] for row in [*reply.body["records"], *rest]} == set(ids)


@sandbox_only
class TestLogins:
    @pytest.mark.parametrize("flow", ["client-credentials", "username-password", "refresh-token", "jwt-bearer"])
    async def test_each_flow_gets_a_token(self, world: World, flow: str) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        world.rows.change(flow=flow, private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
        assert (await world.door.user_id()).startswith("005")

    async def test_an_ended_session_is_renewed_and_the_write_done_once(self, door: Door, switch: Switches) -> None:
        await create(door, lead(address()))
        await switch("POST", "tokens/expire")
        await create(door, lead(address()))
        assert len((await switch("GET", "records/Lead"))["records"]) == 2

    async def test_a_session_that_ends_under_many_calls_is_renewed_once(self, door: Door, switch: Switches) -> None:
        await door.user_id()
        await switch("POST", "tokens/expire")
        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(door.query, "SELECT Id FROM Lead LIMIT 1")
        assert (await switch.resources()).count("token") == 2

    async def test_a_rotated_refresh_token_outlives_a_restart(self, world: World, switch: Switches) -> None:
        await switch("POST", "rules", {"kind": "rotate-refresh-tokens"})
        world.rows.change(flow="refresh-token")
        await world.door.user_id()
        restarted = registry(world.rows)
        await restarted.door("acme").user_id()
        restarted.close()
        assert len([value for value in world.rows.kept if not value.startswith("00D")]) == 2

    async def test_two_workers_that_refresh_at_once_both_go_on(self, world: World, switch: Switches) -> None:
        await switch("POST", "rules", {"kind": "rotate-refresh-tokens"})
        world.rows.change(flow="refresh-token")
        others = [registry(world.rows) for _ in range(2)]
        async with anyio.create_task_group() as group:
            for worker in (world.registry, *others):
                group.start_soon(worker.door("acme").query, "SELECT Id FROM Lead LIMIT 1")
        for worker in others:
            worker.close()

    async def test_withdrawn_access_costs_few_logins_and_ends_by_itself(self, world: World, switch: Switches) -> None:
        await switch(
            "POST",
            "faults",
            {"match": {"resource": "token"}, "fault": "invalid_grant", "message": "expired access/refresh token", "times": None},
        )
        for _ in range(20):
            with pytest.raises(OrgUnavailable) as raised:
                await world.door.query("SELECT Id FROM Lead LIMIT 1")
            assert raised.value.trouble.kind == "org"
        assert await switch.resources() == ["token"]
        await switch("DELETE", "faults")
        world.registry.forgive("acme")
        await world.door.query("SELECT Id FROM Lead LIMIT 1")

    async def test_a_wrong_password_is_tried_once_until_the_settings_are_applied_again(self, world: World, switch: Switches) -> None:
        world.rows.change(flow="username-password", password="wrong")
        for _ in range(5):
            with pytest.raises(OrgUnavailable):
                await world.door.user_id()
        assert await switch.resources() == ["token"]
        world.rows.change(password="sandbox")
        await world.door.user_id()

    async def test_another_organization_stops_the_org(self, world: World) -> None:
        world.rows.change(organization_id="00D000000000009")
        with pytest.raises(OrgUnavailable) as raised:
            await world.door.query("SELECT Id FROM Lead")
        assert raised.value.trouble.cause.code == "other_organization"


@sandbox_only
class TestTroubles:
    async def test_an_answer_lost_after_the_commit_is_an_unknown_outcome(self, door: Door, switch: Switches) -> None:
        await switch.fault("drop-after-commit", "composite")
        with pytest.raises(OutcomeUnknown):
            await door.composite([Subrequest("POST", "composite/sobjects", {"allOrNone": False, "records": [lead(address())]}, HEADERS)])
        assert len((await switch("GET", "records/Lead"))["records"]) == 1

    @pytest.mark.parametrize("times", [QUICK])
    async def test_a_read_that_never_ends_is_the_orgs_trouble(self, door: Door, switch: Switches) -> None:
        await switch.fault("timeout", "query")
        with pytest.raises(OrgUnavailable) as raised:
            await door.query("SELECT Id FROM Lead")
        assert (raised.value.trouble.cause.code, raised.value.trouble.kind) == ("timeout", "transient")

    async def test_an_org_that_is_down_is_in_doubt_until_it_answers(self, door: Door, switch: Switches) -> None:
        fault = await switch.fault("http-503", times=None)
        with pytest.raises(OrgUnavailable):
            await door.query("SELECT Id FROM Lead")
        assert door.health.gate.doubt
        await switch("DELETE", f"faults/{fault}")
        await door.query("SELECT Id FROM Lead")
        assert not door.health.gate.doubt

    async def test_too_many_at_once_and_none_left_today_are_told_apart(self, door: Door, switch: Switches) -> None:
        await switch.fault("REQUEST_LIMIT_EXCEEDED", "query", message="ConcurrentPerOrgLongTxn Limit exceeded")
        with pytest.raises(OrgUnavailable) as at_once:
            await door.query("SELECT Id FROM Lead")
        await door.query("SELECT Id FROM Lead")
        await switch.fault("REQUEST_LIMIT_EXCEEDED", "query", message="TotalRequests Limit exceeded.")
        with pytest.raises(OrgUnavailable) as today:
            await door.query("SELECT Id FROM Lead")
        with pytest.raises(OrgUnavailable):
            await door.query("SELECT Id FROM Lead")
        assert (at_once.value.trouble.kind, at_once.value.trouble.retry_after_seconds) == ("transient", 3.0)
        assert (today.value.trouble.kind, today.value.trouble.retry_after_seconds) == ("org", 900.0)
        assert (await switch.resources()).count("query") == 3

    async def test_the_reserve_is_left_to_others(self, door: Door, switch: Switches) -> None:
        await switch("POST", "rules", {"kind": "daily-limit", "limit": 10})
        for _ in range(8):
            await door.query("SELECT Id FROM Lead LIMIT 1")
        with pytest.raises(OrgUnavailable) as raised:
            await door.query("SELECT Id FROM Lead LIMIT 1")
        assert raised.value.trouble.cause.code == "daily_call_reserve"

    async def test_orgs_that_hang_do_not_hold_up_the_others(self) -> None:
        """Three orgs never answer in each of their places, more than the process has for calls that begin; the fourth is not slower for it."""
        bounds = Bounds(healthy=4, slow=12, doubtful=4, per_org=4, slow_after_seconds=0.05)
        # What hangs does so for longer than the fourth org is waited for.
        times = CallTimes(read=60.0, total=60.0, read_when_pressed=60.0)
        async with anyio.create_task_group() as group, SandboxOrgs(4) as orgs, aiohttp.ClientSession() as session:
            made = OrgRegistry(Settings(orgs.urls), lambda secret: secret, Keep(unkept, unkept), bounds=bounds, call_times=times)
            for number in "0123":
                await made.door(number).user_id()

            async def hang(number: str) -> None:
                with pytest.raises(OrgUnavailable):
                    await made.door(number).query("SELECT Id FROM Lead")

            for url in orgs.urls[:3]:
                await Switches(url, session).fault("timeout", "query", times=None)
            for number in "012":
                for _ in range(4):
                    group.start_soon(hang, number)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(30):
                for _ in range(10):
                    await made.door("3").query("SELECT Id FROM Lead")
        made.close()


WORKSPACE = Workspace(
    id="acme-emea",
    org="acme",
    livestorm=LivestormSettings(organization_id="l", webhook_secret="w"),
    mapping=Mapping(lead={"FirstName": FieldRule(source="first_name")}, contact={"FirstName": FieldRule(source="first_name")}),
)


async def checks(world: World, *workspaces: Workspace) -> dict[str, CheckResult]:
    rows = await check_org(world.door, world.rows.org, workspaces or (WORKSPACE,))
    assert len({row.check for row in rows}) == len(rows)
    assert all(row.mend for row in rows if not row.ok)
    return {row.check: row for row in rows}


def bad(rows: dict[str, CheckResult]) -> dict[str, str]:
    return {check: row.found for check, row in rows.items() if not row.ok}


@sandbox_only
class TestCheck:
    async def test_a_fresh_org_lacks_nothing(self, world: World) -> None:
        rows = await checks(world)
        assert bad(rows) == {}
        assert rows["marketing_user"].found == "yes"
        assert "person_key_field" in rows
        assert "Unique" in rows["person_key_field"].mend

    async def test_the_address_of_the_browser_is_told_with_the_right_form(self, world: World) -> None:
        world.rows.change(login_url="https://acme.lightning.force.com/")
        rows = await checks(world)
        assert list(rows) == ["login_url"]
        assert "https://acme.my.salesforce.com" in rows["login_url"].mend

    async def test_a_refused_login_is_told_and_nothing_else_tried(self, world: World) -> None:
        world.rows.change(client_secret="wrong")
        rows = await checks(world)
        assert list(rows) == ["login"]
        assert "client_secret" in rows["login"].mend

    async def test_an_org_without_marketing_user_is_told(self, world: World, switch: Switches) -> None:
        await switch("POST", "rules", {"kind": "no-marketing-user"})
        rows = await checks(world)
        assert bad(rows)["marketing_user"] == "no"
        assert bad(rows)["object CampaignMemberStatus"] == "not createable"
        assert "Marketing User" in rows["marketing_user"].mend

    async def test_a_mapped_field_that_is_gone_is_told(self, world: World, switch: Switches) -> None:
        await switch("POST", "rules", {"kind": "custom-field", "object": "Lead", "field": "Segment__c", "type": "string", "length": 20})
        rules = {"Segment__c": FieldRule(source="segment")}
        workspace = msgspec.structs.replace(WORKSPACE, mapping=Mapping(lead=rules))
        assert bad(await checks(world, workspace)) == {}
        await switch("POST", "rules", {"kind": "delete-field", "object": "Lead", "field": "Segment__c"})
        assert bad(await checks(world, workspace)) == {"mapping Lead.Segment__c": "not there or not visible"}

    async def test_a_field_that_the_user_may_not_write_is_told(self, world: World, switch: Switches) -> None:
        await switch("POST", "rules", {"kind": "field-permission", "object": "Lead", "field": "FirstName", "read": True, "write": False})
        assert bad(await checks(world)) == {"mapping Lead.FirstName": "read-only for Turnout's user"}

    async def test_an_object_that_the_user_may_not_create_is_told(self, world: World, switch: Switches) -> None:
        await switch("POST", "rules", {"kind": "object-permission", "object": "Campaign", "create": False, "read": True, "update": True})
        assert bad(await checks(world)) == {"object Campaign": "not createable"}

    async def test_a_replay_field_that_is_not_there_is_told(self, world: World) -> None:
        workspace = msgspec.structs.replace(WORKSPACE, objects=Objects(replay_status_field="Nope__c"))
        assert bad(await checks(world, workspace)) == {"replay_status_field CampaignMember.Nope__c": "not there or not visible"}

    async def test_a_replay_value_that_the_picklist_lacks_is_told(self, world: World, switch: Switches) -> None:
        rule = {"kind": "restricted-picklist", "object": "CampaignMember", "field": "Livestorm_Replay_Status__c", "values": ["Gesehen"]}
        await switch("POST", "rules", rule)
        assert list(bad(await checks(world))) == ["replay_status_field CampaignMember.Livestorm_Replay_Status__c"]

    async def test_key_fields_must_be_unique_external_ids(self, world: World, switch: Switches) -> None:
        for name, unique in (("Key__c", True), ("Weak__c", False)):
            for object_name in ("Lead", "Contact"):
                rule = {
                    "kind": "custom-field",
                    "object": object_name,
                    "field": name,
                    "type": "string",
                    "length": 80,
                    "unique": unique,
                    "external_id": unique,
                }
                await switch("POST", "rules", rule)
        world.rows.change(person_key_field="Key__c")
        assert bad(await checks(world)) == {}
        world.rows.change(person_key_field="Weak__c")
        found = bad(await checks(world))
        assert found == dict.fromkeys(("person_key_field Lead.Weak__c", "person_key_field Contact.Weak__c"), "not unique, no external id")

    async def test_the_event_time_field_must_be_a_datetime(self, world: World) -> None:
        world.rows.change(event_time_field="LastName")
        assert set(bad(await checks(world))) == {"event_time_field Lead.LastName", "event_time_field Contact.LastName"}

    async def test_an_empty_fallback_company_needs_person_accounts(self, world: World, switch: Switches) -> None:
        workspace = msgspec.structs.replace(WORKSPACE, objects=Objects(fallback_company=""))
        assert list(bad(await checks(world, workspace))) == ["fallback_company"]
        await switch("POST", "rules", {"kind": "person-accounts"})
        assert bad(await checks(world, workspace)) == {}

    async def test_a_campaign_type_that_a_restricted_picklist_lacks_is_told(self, world: World, switch: Switches) -> None:
        await switch("POST", "rules", {"kind": "restricted-picklist", "object": "Campaign", "field": "Type", "values": ["Konferenz"]})
        assert bad(await checks(world)) == {"field Campaign.Type": "lacks Webinar"}

    async def test_a_required_field_that_nothing_fills_is_told(self, world: World, switch: Switches) -> None:
        await switch("POST", "rules", {"kind": "custom-field", "object": "Lead", "field": "Region__c", "type": "string", "length": 20})
        await switch("POST", "rules", {"kind": "required-field", "object": "Lead", "field": "Region__c"})
        assert bad(await checks(world)) == {"required Lead.Region__c": "required, not mapped"}
        mapped = msgspec.structs.replace(WORKSPACE, mapping=Mapping(lead={"Region__c": FieldRule(source="region")}))
        assert bad(await checks(world, mapped)) == {}

    async def test_labels_that_salesforce_takes_for_the_same_are_told(self, world: World) -> None:
        workspace = msgspec.structs.replace(WORKSPACE, statuses=Statuses(attended="registered"))
        assert list(bad(await checks(world, workspace))) == ["statuses"]

    async def test_an_org_with_no_calls_left_is_told(self, world: World, switch: Switches) -> None:
        await switch("POST", "rules", {"kind": "daily-limit", "limit": 1})
        rows = await checks(world)
        assert any(not row.ok for row in rows.values())

    async def test_a_check_writes_nothing(self, world: World, switch: Switches) -> None:
        await checks(world)
        log = (await switch.calls())["log"]
        assert {entry["method"] for entry in log if entry["resource"] != "token"} == {"GET"}
