"""Faults on demand, row locks and the time that calls take. Every wait is for a condition: a call that has come, a reply that is there."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from stages.sandbox.salesforce import SandboxOrgs
from tests.contract.test_salesforce_stand_in.client import Caller, Reply, collected, lead, part, record

LEAD = {"LastName": "B", "Company": "C"}


async def arrived(acme: Caller, calls: int) -> None:
    """Until the org has got that many calls."""
    async with asyncio.timeout(30):
        while acme.org.calls.total < calls:  # noqa: ASYNC110 — the org tells nobody of its calls
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("SERVER_UNAVAILABLE", 503),
        ("UNKNOWN_EXCEPTION", 500),
        ("REQUEST_LIMIT_EXCEEDED", 403),
        ("API_DISABLED_FOR_ORG", 403),
        ("INVALID_SESSION_ID", 401),
        ("QUERY_TIMEOUT", 400),
    ],
)
async def test_an_error_code_hits_a_whole_request_of_its_resource_and_nothing_else(acme: Caller, code: str, status: int) -> None:
    await acme.fault(code, resource="query", message="As told.")
    assert (await acme.ask("GET", "/limits")).status == 200
    reply = await acme.query("SELECT Id FROM Lead")
    assert (reply.status, reply.code, reply.message) == (status, code, "As told.")
    assert (await acme.query("SELECT Id FROM Lead")).status == 200


async def test_a_star_is_every_resource_but_the_token(acme: Caller) -> None:
    await acme.fault("SERVER_UNAVAILABLE", None, resource="*")
    assert (await acme.log_in()).status == 200
    for path in ("/limits", "/sobjects/Lead/describe", "/query?q=x"):
        assert (await acme.ask("GET", path)).status == 503
    assert (await acme.composite(part("POST", "/sobjects/Lead", "a", LEAD))).status == 503


async def test_a_token_fault_is_an_object(acme: Caller) -> None:
    await acme.fault("invalid_grant", resource="token", message="expired access/refresh token")
    reply = await acme.log_in()
    assert (reply.status, reply.body) == (400, {"error": "invalid_grant", "error_description": "expired access/refresh token"})
    assert (await acme.log_in()).status == 200


async def test_a_resource_matches_inside_a_composite_too(acme: Caller) -> None:
    await acme.fault("QUERY_TIMEOUT", resource="query")
    reply = await acme.composite(part("GET", "/query?q=SELECT Id FROM Lead", "a"), part("GET", "/query?q=SELECT Id FROM Lead", "b"))
    assert [each["httpStatusCode"] for each in reply.body["compositeResponse"]] == [400, 200]


async def test_with_an_object_or_an_email_a_code_hits_the_records_that_match(acme: Caller) -> None:
    await acme.fault("UNABLE_TO_LOCK_ROW", None, resource="collections", object="Contact")
    await acme.fault("INVALID_EMAIL_ADDRESS", None, resource="*", email="Second@x.example")
    rows = [lead(Email="first@x.example"), lead(Email="SECOND@x.example"), record("Contact", LastName="B"), lead()]
    for reply in (await acme.create_all(*rows), await inside(acme, rows)):
        codes = [result["errors"][0]["statusCode"] if result["errors"] else None for result in reply.body]
        assert codes == [None, "INVALID_EMAIL_ADDRESS", "UNABLE_TO_LOCK_ROW", None]
    reply = await acme.try_create("Lead", **LEAD, Email="second@x.example")
    assert (reply.status, reply.code) == (400, "INVALID_EMAIL_ADDRESS")
    assert (await acme.query("SELECT Id FROM Lead WHERE Email = 'second@x.example'")).code == "INVALID_EMAIL_ADDRESS"


async def inside(acme: Caller, rows: list[dict[str, Any]]) -> Reply:
    reply = await acme.composite(part("POST", "/composite/sobjects", "a", collected(*rows)))
    (only,) = reply.body["compositeResponse"]
    return Reply(only["httpStatusCode"], only["body"], {})


async def test_an_email_reaches_updates_by_id_and_members_of_that_person(acme: Caller) -> None:
    who = await acme.create("Lead", **LEAD, Email="o'keefe@x.example")
    campaign = await acme.create("Campaign", Name="W")
    await acme.fault("ENTITY_IS_LOCKED", None, resource="*", email="o'keefe@x.example")
    assert (await acme.ask("PATCH", f"/sobjects/Lead/{who}", {"Title": "x"})).code == "ENTITY_IS_LOCKED"
    assert (await acme.try_create("CampaignMember", CampaignId=campaign, LeadId=who)).code == "ENTITY_IS_LOCKED"
    assert (await acme.query(r"SELECT Id FROM Lead WHERE Email = 'o\'keefe@x.example'")).code == "ENTITY_IS_LOCKED"


async def test_an_object_is_found_in_every_kind_of_request_about_it(acme: Caller) -> None:
    made = await acme.create("Lead", **LEAD, Email="a@b.example")
    await acme.rule("page-size", size=1)
    await acme.create("Lead", **LEAD)
    more = (await acme.query("SELECT Id FROM Lead")).body["nextRecordsUrl"]
    modified = (await acme.ask("GET", "/sobjects/Lead/describe")).headers["Last-Modified"]
    await acme.fault("UNKNOWN_EXCEPTION", None, resource="*", object="Lead")
    about: list[tuple[str, str, Any]] = [
        ("GET", "/sobjects/Lead", None),
        ("GET", "/sobjects/Lead/describe", None),
        ("POST", "/sobjects/Lead", LEAD),
        ("GET", f"/sobjects/Lead/{made}", None),
        ("PATCH", f"/sobjects/Lead/{made}", {"Title": "x"}),
        ("DELETE", f"/sobjects/Lead/{made}", None),
        ("GET", "/sobjects/Lead/Email/a@b.example", None),
        ("GET", f"/composite/sobjects/Lead?ids={made}&fields=Id", None),
        ("GET", "/query?q=SELECT+Id+FROM+lead", None),
        ("GET", more.removeprefix("/services/data/v62.0"), None),
    ]
    assert [(path, (await acme.ask(method, path, body)).status) for method, path, body in about] == [(path, 500) for _, path, _ in about]
    assert (await acme.ask("GET", "/sobjects/Lead/describe", If_Modified_Since=modified)).status == 500
    reply = await acme.composite(part("GET", "/sobjects/Lead/describe", "a"), part("GET", "/sobjects/Contact/describe", "b"))
    assert [each["httpStatusCode"] for each in reply.body["compositeResponse"]] == [500, 200]
    assert (await acme.ask("GET", "/sobjects/Contact/describe")).status == 200


async def test_times_counts_hits_and_a_standing_fault_can_be_looked_at(acme: Caller) -> None:
    fault = await acme.fault("UNABLE_TO_LOCK_ROW", 3, resource="collections", object="Lead")
    results = (await acme.create_all(*(lead() for _ in range(5)))).body
    assert [result["success"] for result in results] == [False, False, False, True, True]
    told = await acme.switch("GET", f"/faults/{fault}")
    assert (told["hits"], told["left"], told["fault"]) == (3, 0, "UNABLE_TO_LOCK_ROW")


async def test_a_share_hits_about_that_many(acme: Caller) -> None:
    await acme.fault("UNABLE_TO_LOCK_ROW", None, resource="collections", object="Lead", share=0.3)
    results = [result for _ in range(5) for result in (await acme.create_all(*(lead() for _ in range(200)))).body]
    assert 200 < sum(not result["success"] for result in results) < 400


async def test_faults_go_one_by_one_or_all(acme: Caller) -> None:
    first = await acme.fault("UNKNOWN_EXCEPTION", None, resource="limits")
    await acme.fault("UNKNOWN_EXCEPTION", None, resource="query")
    await acme.switch("DELETE", f"/faults/{first}")
    assert (await acme.ask("GET", "/limits")).status == 200
    assert len((await acme.switch("GET", "/faults"))["faults"]) == 1
    await acme.switch("DELETE", "/faults")
    assert (await acme.query("SELECT Id FROM Lead")).status == 200


async def test_a_503_comes_from_the_edge_as_html_and_does_nothing(acme: Caller) -> None:
    await acme.fault("http-503", resource="collections", object="Lead")
    reply = await acme.composite(
        part("POST", "/sobjects/Contact", "a", {"LastName": "B"}), part("POST", "/composite/sobjects", "b", collected(lead()))
    )
    assert (reply.status, reply.headers["Content-Type"].partition(";")[0]) == (503, "text/html")
    assert "api-usage=" in reply.headers["Sforce-Limit-Info"]
    assert await acme.records("Lead") == await acme.records("Contact") == []


@pytest.mark.parametrize(("status", "title"), [(429, "Too Many Requests"), (500, "Internal Server Error"), (599, "Error")])
async def test_any_status_can_come_from_the_edge(acme: Caller, status: int, title: str) -> None:
    await acme.fault(f"http-{status}", resource="limits")
    reply = await acme.ask("GET", "/limits")
    assert (reply.status, title in reply.body) == (status, True)


async def test_after_drop_the_work_is_done_and_no_answer_came(acme: Caller) -> None:
    await acme.fault("drop-after-commit", resource="collections", object="Lead")
    await acme.create_all(record("Contact", LastName="B"))
    with pytest.raises(aiohttp.ClientConnectionError):
        await acme.composite(part("POST", "/composite/sobjects", "a", collected(lead(), lead())))
    assert len(await acme.records("Lead")) == 2
    assert (await acme.create_all(lead())).status == 200


async def test_a_timeout_never_answers_and_does_nothing(acme: Caller) -> None:
    await acme.fault("timeout", resource="sobjects")
    waiting = asyncio.ensure_future(acme.try_create("Lead", **LEAD))
    await arrived(acme, 1)
    assert (await acme.try_create("Contact", LastName="B")).status == 201
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await acme.records("Lead") == []


async def test_a_slow_call_takes_its_time_before_the_work_and_holds_up_no_other(acme: Caller) -> None:
    await acme.fault("slow:2000", resource="sobjects", object="Lead")
    began = time.monotonic()
    slow = asyncio.ensure_future(acme.try_create("Lead", **LEAD))
    await arrived(acme, 1)
    assert (await acme.try_create("Contact", LastName="B")).status == 201
    assert (slow.done(), await acme.records("Lead")) == (False, [])
    assert (await slow).status == 201
    assert time.monotonic() - began >= 2.0


async def test_a_slow_composite_is_slow_as_a_whole(acme: Caller) -> None:
    await acme.fault("slow:200", resource="composite")
    began = time.monotonic()
    assert (await acme.composite(part("POST", "/sobjects/Lead", "a", LEAD))).status == 200
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize(
    "spec",
    [
        {"match": {"resource": "nothing"}, "fault": "X"},
        {"match": {"resource": "*"}},
        {"match": {"resource": "*"}, "fault": "slow:soon"},
        {"match": {"resource": "*"}, "fault": "slow:\u00b2"},
        {"match": {"resource": "*"}, "fault": "slow:99999999999"},
        {"match": {"resource": "*"}, "fault": "http-200"},
        {"match": {"resource": "*"}, "fault": "http-50"},
        {"match": {"resource": "*"}, "fault": "down"},
        {"match": {"resource": "*"}, "fault": ["X"]},
        {"match": {"resource": ["a"]}, "fault": "X"},
        {"match": {"resource": "*"}, "fault": "X", "times": -1},
        {"match": {"resource": "*"}, "fault": "X", "times": 1e30},
        {"match": {"resource": "*"}, "fault": "X", "message": 5},
        {"match": {"resource": "*", "object": "Leed"}, "fault": "X"},
        {"match": {"resource": "*", "object": 5}, "fault": "X"},
        {"match": {"resource": "*", "email": " "}, "fault": "X"},
        {"match": {"resource": "limits", "object": "Lead"}, "fault": "X"},
        {"match": {"resource": "token", "email": "a@b.example"}, "fault": "invalid_grant"},
        {"match": [], "fault": "X"},
        {"match": {"resource": "*"}, "fault": "X", "share": 2},
        {"match": {"resource": "*", "field": "x"}, "fault": "X"},
    ],
)
async def test_a_fault_that_makes_no_sense_is_refused(acme: Caller, spec: dict[str, Any]) -> None:
    async with acme.http.post(f"{acme.org.base_url}/sandbox/faults", json=spec) as response:
        assert (response.status, "error" in await response.json()) == (400, True)


async def members(acme: Caller, campaign: str, *people: str) -> Reply:
    return await acme.create_all(*(record("CampaignMember", CampaignId=campaign, LeadId=who) for who in people))


async def test_of_two_overlapping_writes_to_one_campaign_the_later_waits(acme: Caller) -> None:
    campaign = await acme.create("Campaign", Name="W")
    people = [await acme.create("Lead", **LEAD) for _ in range(2)]
    await acme.fault("slow:100", resource="collections")
    first = asyncio.ensure_future(members(acme, campaign, people[0]))
    await arrived(acme, 4)
    assert (await members(acme, campaign, people[1])).body[0]["success"]
    assert first.done() or (await first).body[0]["success"]
    assert [row["LeadId"] for row in await acme.records("CampaignMember")] == people


async def test_a_lock_that_is_held_too_long_refuses_the_rows_that_want_it_and_no_others(acme: Caller) -> None:
    await acme.rule("lock-timeout", ms=20)
    held, free = [await acme.create("Campaign", Name=name) for name in ("held", "free")]
    people = [await acme.create("Lead", **LEAD) for _ in range(3)]
    await acme.fault("slow:2000", resource="collections")
    first = asyncio.ensure_future(members(acme, held, people[0]))
    await arrived(acme, 6)
    rows = [record("CampaignMember", CampaignId=campaign, LeadId=people[1]) for campaign in (held, free)]
    refused, saved = (await acme.create_all(*rows)).body
    assert not first.done()
    (error,) = refused["errors"]
    assert error["statusCode"] == "UNABLE_TO_LOCK_ROW"
    assert error["message"].startswith("unable to obtain exclusive access to this record or 1 records: 701")
    assert saved["success"]
    assert (await first).body[0]["success"]
    assert (await members(acme, held, people[2])).body[0]["success"]


async def test_contacts_of_one_account_lock_it_and_others_do_not(acme: Caller) -> None:
    await acme.rule("lock-timeout", ms=20)
    account = await acme.create("Account", Name="Mill")
    await acme.fault("slow:2000", resource="collections")
    first = asyncio.ensure_future(acme.create_all(record("Contact", LastName="A", AccountId=account)))
    await arrived(acme, 2)
    second = await acme.create_all(record("Contact", LastName="B", AccountId=account), record("Contact", LastName="C"))
    assert [result["success"] for result in second.body] == [False, True]
    assert (await first).body[0]["success"]


async def test_latency_comes_before_the_work_with_the_rows_locked(http: aiohttp.ClientSession) -> None:
    seed: dict[str, Any] = {
        "Campaign": [{"Id": "@w", "Name": "W"}],
        "Lead": [{"Id": "@a", "LastName": "A", "Company": "C"}, {"Id": "@b", "LastName": "B", "Company": "C"}],
        "rules": [{"kind": "lock-timeout", "ms": 20}],
    }
    async with SandboxOrgs(1, seed_data=seed, latency_ms=2000) as orgs:
        caller = Caller(orgs.orgs[0], http)
        await caller.log_in()
        (campaign,), people = [[row["Id"] for row in await caller.records(name)] for name in ("Campaign", "Lead")]
        first = asyncio.ensure_future(members(caller, campaign, people[0]))
        await arrived(caller, 1)
        assert await caller.records("CampaignMember") == []
        second = await members(caller, campaign, people[1])
        assert second.body[0]["errors"][0]["statusCode"] == "UNABLE_TO_LOCK_ROW"
        assert (await first).body[0]["success"]


async def test_latency_is_spent_once_a_call_and_by_refused_calls_too(http: aiohttp.ClientSession) -> None:
    """A composite of 25 would take 5 s were it spent for each part."""
    async with SandboxOrgs(1, latency_ms=200) as orgs:
        caller = Caller(orgs.orgs[0], http)
        began = time.monotonic()
        await caller.log_in()
        assert time.monotonic() - began >= 0.2
        began = time.monotonic()
        reply = await caller.composite(*(part("POST", "/sobjects/Lead", f"l{number}", LEAD) for number in range(25)))
        assert 0.2 <= time.monotonic() - began < 5.0
        assert [each["httpStatusCode"] for each in reply.body["compositeResponse"]] == [201] * 25
        caller.token = "dead"
        began = time.monotonic()
        assert (await caller.ask("GET", "/limits")).status == 401
        assert time.monotonic() - began >= 0.2
