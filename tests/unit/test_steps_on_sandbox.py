"""match, create and campaign-membership against the sandbox org: each rule of the flow as one test, from the message to the org's records."""

import random
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio.from_thread
import msgspec
import pytest
import pytest_asyncio

from pipeline.errors import LeaseLost
from pipeline.outcomes import Batch, Block, Drop, Emit, Reject, Retry, Wait
from schemas.messages import Action, Session, Value
from schemas.settings import FieldRule, Objects, Statuses
from schemas.tables import CampaignRow, EventRow
from stages.recency import retried
from tests.flow.salesforce import changes
from tests.unit.steps_line import Line, line, workspace


@pytest_asyncio.fixture
async def acme() -> AsyncIterator[Line]:
    async with line() as made:
        yield made


async def member_of(acme: Line, email: str, session: str = "S1", object: str = "Lead") -> dict[str, Any]:
    person = await acme.org.one(object, email)
    return await acme.org.member((await acme.org.campaign(session))["Id"], person)


def row_of(acme: Line, session: str = "S1") -> CampaignRow:
    return msgspec.json.decode(acme.tables["campaigns"].rows[f"acme-prod|{session}"], type=CampaignRow)


def left_out(acme: Line, email: str) -> dict[str, str]:
    """What was left out of the records of the address's last message that came through, with the reasons."""
    outcome = next(outcome for _, outcome in reversed(acme.of(email)) if isinstance(outcome, Emit))
    return {field: why for step in outcome.trail for field, why in step.left_out.items()}


def blocked(acme: Line) -> dict[str, str]:
    """Lanes that were blocked, with the code of their cause."""
    return {outcome.lane: outcome.cause.code for _, _, outcome in acme.seen if isinstance(outcome, Block)}


async def test_nobody_becomes_a_lead_and_a_member(acme: Line) -> None:
    acme.session()
    acme.person("a+b@mill.example", job_title="CTO")
    await acme.run()
    lead = await acme.org.one("Lead", "a+b@mill.example")
    assert (lead["FirstName"], lead["LastName"], lead["Company"], lead["Title"]) == ("Kim", "Ito", "Kumo KK", "CTO")
    assert (await member_of(acme, "a+b@mill.example"))["Status"] == "Registered"
    assert [stage for stage, _ in acme.of("a+b@mill.example")] == ["campaign-membership"]
    assert acme.causes() == []


async def test_a_contact_wins_over_a_lead_which_is_left_alone(acme: Line) -> None:
    await acme.org.seed(
        Contact=[{"Email": "a@mill.example", "LastName": "Old", "Title": "CFO"}],
        Lead=[{"Email": "a@mill.example", "LastName": "Old", "Company": "C"}],
    )
    acme.session()
    acme.person("a@mill.example", job_title="CTO")
    await acme.run()
    assert (await acme.org.one("Contact", "a@mill.example"))["Title"] == "CTO"
    assert changes(await acme.org.one("Lead", "a@mill.example")) == []
    assert (await member_of(acme, "a@mill.example", object="Contact"))["LeadId"] is None


async def test_fallbacks_are_for_creation_only(acme: Line) -> None:
    await acme.org.seed(Lead=[{"Email": "old@mill.example", "LastName": "Old", "Company": "Mill"}])
    acme.session()
    acme.person("new@mill.example", last_name=None, company="  ")
    acme.person("old@mill.example", last_name=None, company="")
    await acme.run()
    new, old = await acme.org.one("Lead", "new@mill.example"), await acme.org.one("Lead", "old@mill.example")
    assert (new["LastName"], new["Company"]) == ("new", "[not provided]")
    assert (old["LastName"], old["Company"]) == ("Old", "Mill")


async def test_a_name_of_control_characters_is_none_and_falls_back(acme: Line) -> None:
    """The org would drop them, and then refuse the record for the name that it lacks."""
    acme.session()
    acme.person("kim.ito@x.example", last_name="\x00", first_name="K\x00im", company=" \x1f ")
    await acme.run()
    lead = await acme.org.one("Lead", "kim.ito@x.example")
    assert (lead["FirstName"], lead["LastName"], lead["Company"]) == ("Kim", "kim.ito", "[not provided]")
    assert acme.causes() == []


async def test_the_oldest_wins_by_creation_then_id(acme: Line) -> None:
    twins = [{"Email": "a@mill.example", "LastName": f"L{n}", "CreatedDate": "2020-05-05T10:00:00.000+0000"} for n in range(3)]
    await acme.org.seed(
        Contact=[{"Email": "a@mill.example", "LastName": "Young", "CreatedDate": "2024-01-01T00:00:00.000+0000"}, *twins],
        Lead=[
            {"Email": "b@mill.example", "LastName": "B", "Company": "C", "CreatedDate": f"20{year}-01-01T00:00:00.000+0000"}
            for year in (24, 19, 21)
        ],
    )
    acme.session()
    acme.person("a@mill.example", job_title="CTO")
    acme.person("b@mill.example", job_title="CTO")
    await acme.run()
    written = [one for one in await acme.org.records("Contact") if one["Title"] == "CTO"]
    oldest = min(
        (one for one in await acme.org.records("Contact") if one["LastName"] != "Young" or one["Title"]), key=lambda one: str(one["Id"])
    )
    assert [one["Id"] for one in written] == [oldest["Id"]]
    lead = next(one for one in await acme.org.records("Lead") if one["Title"] == "CTO")
    assert lead["CreatedDate"].startswith("2019")


@pytest.mark.parametrize("apart", [False, True])
async def test_a_converted_lead_is_handled_through_its_contact(acme: Line, apart: bool) -> None:
    await acme.org.seed(
        Contact=[{"Id": "@kim", "Email": "kim@new-mail.example", "LastName": "Ito"}],
        Lead=[{"Email": "kim@old-mail.example", "LastName": "Ito", "Company": "C", "IsConverted": True, "ConvertedContactId": "@kim"}],
    )
    acme.restart(apart=apart)
    acme.session()
    acme.person("kim@old-mail.example", job_title="CEO")
    await acme.run()
    contact = await acme.org.one("Contact", "kim@new-mail.example")
    assert contact["Title"] == "CEO"
    assert contact["Email"] == "kim@new-mail.example"
    assert changes(await acme.org.one("Lead", "kim@old-mail.example")) == []
    members = await acme.org.records("CampaignMember")
    assert [one["ContactId"] for one in members] == [contact["Id"]]


async def test_a_contact_into_which_the_converted_leads_contact_was_merged_is_used(acme: Line) -> None:
    await acme.org.seed(
        Contact=[{"Id": "@a", "Email": "a@dune.example", "LastName": "Lee"}, {"Id": "@b", "Email": "b@dune.example", "LastName": "Lee"}],
        Lead=[{"Email": "old@dune.example", "LastName": "Lee", "Company": "C", "IsConverted": True, "ConvertedContactId": "@a"}],
    )
    loser, winner = await acme.org.one("Contact", "a@dune.example"), await acme.org.one("Contact", "b@dune.example")
    await acme.org._ask("POST", "/sandbox/merge", {"object": "Contact", "winner": winner["Id"], "losers": [loser["Id"]]})
    acme.session()
    acme.person("old@dune.example", job_title="CEO")
    await acme.run()
    assert (await acme.org.one("Contact", "b@dune.example"))["Title"] == "CEO"
    assert len(await acme.org.records("Lead")) == 1


async def test_a_merge_between_match_and_create_leads_to_the_survivor(acme: Line) -> None:
    await acme.org.seed(
        Contact=[
            {"Email": "lee@dune.example", "LastName": "Lee", "CreatedDate": "2019-01-01T00:00:00.000+0000"},
            {"Email": "lee@dune.example", "LastName": "Lee", "CreatedDate": "2021-01-01T00:00:00.000+0000"},
        ]
    )
    acme.session()
    await acme.run()
    acme.person("lee@dune.example", job_title="CEO")
    await acme.run_stage("match")
    loser, winner = sorted(await acme.org.records("Contact"), key=lambda one: str(one["CreatedDate"]))
    await acme.org._ask("POST", "/sandbox/merge", {"object": "Contact", "winner": winner["Id"], "losers": [loser["Id"]]})
    await acme.run()
    assert (await acme.org.one("Contact", "lee@dune.example"))["Title"] == "CEO"
    assert acme.causes() == []
    assert await acme.org.records("Lead") == []
    assert (await member_of(acme, "lee@dune.example", object="Contact"))["ContactId"] == winner["Id"]


async def test_a_merge_between_create_and_membership_leads_to_the_survivor(acme: Line) -> None:
    await acme.org.seed(
        Contact=[
            {"Email": "lee@dune.example", "LastName": "Lee", "CreatedDate": "2019-01-01T00:00:00.000+0000"},
            {"Email": "lee@dune.example", "LastName": "Lee", "CreatedDate": "2021-01-01T00:00:00.000+0000"},
        ]
    )
    acme.session()
    await acme.run()
    acme.person("lee@dune.example")
    await acme.run_stage("match")
    await acme.run_stage("create")
    loser, winner = sorted(await acme.org.records("Contact"), key=lambda one: str(one["CreatedDate"]))
    await acme.org._ask("POST", "/sandbox/merge", {"object": "Contact", "winner": winner["Id"], "losers": [loser["Id"]]})
    await acme.run()
    assert acme.causes() == []
    assert (await member_of(acme, "lee@dune.example", object="Contact"))["ContactId"] == winner["Id"]


async def test_with_create_contact_nobody_ever_becomes_a_lead_and_companies_become_one_account(acme: Line) -> None:
    acme.connect(workspace(create="contact"))
    acme.session()
    for number in range(60):
        acme.person(f"p{number}@acme.example", company=("Acme Ltd", " acme  ltd", "ACME LTD.")[number % 3])
    acme.person("alone@acme.example", company=" ")
    acme.person("unasked@acme.example", company=None)
    await acme.run()
    accounts = {one["Id"]: one["Name"] for one in await acme.org.records("Account")}
    assert len(accounts) == 2
    contacts = await acme.org.records("Contact")
    assert len(contacts) == 62
    assert await acme.org.records("Lead") == []
    dotted = {one["Email"] for one in contacts if accounts.get(one["AccountId"] or "", "").endswith(".")}
    assert dotted == {f"p{number}@acme.example" for number in range(60) if number % 3 == 2}
    assert [one["Email"] for one in contacts if one["AccountId"] is None] == ["alone@acme.example", "unasked@acme.example"]
    assert len(await acme.org.records("CampaignMember")) == 62


async def test_the_oldest_account_of_that_name_is_taken_whatever_its_case(acme: Line) -> None:
    await acme.org.seed(
        Account=[
            {"Name": "ACME ltd", "CreatedDate": "2022-01-01T00:00:00.000+0000"},
            {"Name": "Acme Ltd", "CreatedDate": "2018-01-01T00:00:00.000+0000"},
            {"Name": "Acme Ltd Holding", "CreatedDate": "2010-01-01T00:00:00.000+0000"},
        ]
    )
    acme.connect(workspace(create="contact"))
    acme.session()
    acme.person("p@acme.example", company="acme LTD")
    await acme.run()
    contact = await acme.org.one("Contact", "p@acme.example")
    account = next(one for one in await acme.org.records("Account") if one["Id"] == contact["AccountId"])
    assert account["CreatedDate"].startswith("2018")
    assert len(await acme.org.records("Account")) == 3


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ("Acme  Ltd", "Acme  Ltd"),
        ("Acme  Ltd", "acme ltd"),
        ("Acme\N{NO-BREAK SPACE}Ltd", "Acme Ltd"),
        ("Acme \t  Ltd", "ACME \t  ltd"),
        ("Acme  Mill Ltd", "Acme  Mill Ltd"),
    ],
)
async def test_an_account_is_the_one_of_that_name_whatever_the_blanks_in_it(acme: Line, held: str, told: str) -> None:
    """As who asks spells it, and where it has two blanks or no-break spaces, whoever asks; the oldest of all spellings is taken."""
    single = " ".join(told.split())
    await acme.org.seed(
        Account=[
            {"Name": held, "CreatedDate": "2018-01-01T00:00:00.000+0000"},
            {"Name": single, "CreatedDate": "2022-01-01T00:00:00.000+0000"},
        ]
    )
    acme.connect(workspace(create="contact"))
    acme.session()
    acme.person("p@acme.example", company=told)
    await acme.run()
    accounts = {one["Id"]: one["Name"] for one in await acme.org.records("Account")}
    assert accounts[(await acme.org.one("Contact", "p@acme.example"))["AccountId"]] == held
    assert len(accounts) == 2


@pytest.mark.parametrize("key_length", [None, 255, 80])
async def test_a_company_however_long_its_name_is_one_account_and_its_people_arrive(key_length: int | None) -> None:
    """By as much of the name as Account.Name takes, for who asks, who looks and who makes it: also where a key takes less."""
    told = "O'Brien Mill " * 400
    async with line(account_key_field="Key__c" if key_length else "") as acme:
        if key_length:
            await acme.org.rule("custom-field", object="Account", field="Key__c", type="text", length=key_length, unique=True)
        acme.connect(workspace(create="contact"))
        acme.session()
        acme.person("one@mill.example", company=told)
        acme.person("two@mill.example", company=f"{told.upper()} & Sons".replace(" ", "  "))
        await acme.run()
        acme.restart()
        acme.tables["accounts"].rows.clear()
        acme.person("three@mill.example", company=told)
        await acme.run()
        assert (acme.causes(), await acme.org.errors()) == ([], set())
        [account] = await acme.org.records("Account")
        assert account["Name"].lower() == told[:255].rstrip().lower()
        contacts = await acme.org.records("Contact")
        assert [one["AccountId"] for one in contacts] == [account["Id"]] * 3
        assert len(await acme.org.records("CampaignMember")) == 3


async def test_a_thousand_companies_with_long_names_are_looked_for_in_queries_that_the_org_takes() -> None:
    """Five to a call, and one more call makes the Accounts."""
    async with line(account_key_field="Key__c") as acme:
        await acme.org.rule("custom-field", object="Account", field="Key__c", type="text", length=255, unique=True)
        acme.connect(workspace(create="contact"))
        acme.session()
        await acme.run()
        for number in range(1_000):
            acme.person(f"p{number}@mill.example", company=f"{number} " + "O'Brien " * 500)
        await acme.run_stage("match")
        await acme.run_stage("create")
        await acme.run_stage("match")
        await acme.org.forget_calls()
        await acme.run_stage("create", limit=1_000)
        assert await acme.calls() == 5 + 1
        await acme.run()
        assert (acme.causes(), await acme.org.errors()) == ([], set())
        assert len({one["AccountId"] for one in await acme.org.records("Contact")}) == 1_000


async def test_a_session_whatever_the_length_of_its_id_has_its_campaign() -> None:
    """No field that is searched holds so long a text: what is asked for is cut, and finds nothing."""
    async with line(campaign_key_field="Key__c") as acme:
        await acme.org.rule("custom-field", object="Campaign", field="Key__c", type="text", length=255, unique=True)
        acme.session("S'" * 3_000)
        await acme.run()
        assert len(await acme.org.records("Campaign")) == 1


async def test_an_account_that_was_merged_away_is_followed_to_the_one_that_was_kept(acme: Line) -> None:
    """Over two merges; the field of the key makes no difference."""
    await acme.org.seed(Account=[{"Name": "Other"}, {"Name": "Last"}])
    acme.connect(workspace(create="contact"))
    acme.session()
    acme.person("one@acme.example", company="Acme")
    await acme.run()
    accounts = {one["Name"]: one["Id"] for one in await acme.org.records("Account")}
    for loser, winner in (("Acme", "Other"), ("Other", "Last")):
        await acme.org.merge("Account", accounts[winner], accounts[loser])
    acme.person("two@acme.example", company="Acme")
    acme.person("three@acme.example", company="acme")
    await acme.run()
    assert acme.causes() == []
    assert {one["AccountId"] for one in await acme.org.records("Contact")} == {accounts["Last"]}
    assert [one["Name"] for one in await acme.org.records("Account")] == ["Last"]


async def test_an_account_that_is_there_is_not_taken_for_gone_time_and_again(acme: Line) -> None:
    """Something else is gone that the Contact refers to: it is tried as often as any other, and no more calls are spent on the Account."""
    acme.connect(workspace(create="contact", contact={"OwnerId": FieldRule(source="owner")}))
    acme.session()
    acme.person("one@acme.example", company="Acme", owner="005000000000123AAA")
    await acme.run()
    assert await acme.org.errors() == {"INVALID_CROSS_REFERENCE_KEY"}
    assert [message.kind for _, message, _ in acme.final if message.kind == "company"] == ["company"] * 2
    [one] = [entry.message for entry in acme.queue]
    assert one.tries > 5
    assert len(await acme.org.records("Account")) == 1


async def test_a_company_told_as_several_texts_or_a_number_becomes_an_account_as_it_becomes_a_leads_company(acme: Line) -> None:
    acme.connect(workspace(create="contact"), workspace("leads"))
    acme.session()
    acme.session("S2", workspace="leads")
    companies: list[Value] = [["Acme", "Mill"], 42, True]
    for place, company in enumerate(companies):
        acme.person(f"contact{place}@acme.example", company=company)
        acme.person(f"lead{place}@acme.example", session="S2", workspace="leads", company=company)
    await acme.run()
    accounts = {one["Id"]: one["Name"] for one in await acme.org.records("Account")}
    assert [accounts[one["AccountId"]] for one in await acme.org.records("Contact")] == ["Acme; Mill", "42", "true"]
    assert [one["Company"] for one in await acme.org.records("Lead")] == ["Acme; Mill", "42", "true"]


@pytest.mark.parametrize(
    "code",
    [
        "STORAGE_LIMIT_EXCEEDED",
        "REQUEST_LIMIT_EXCEEDED",
        "API_CURRENTLY_DISABLED",
        "INVALID_TYPE",
        "INVALID_FIELD",
        "DUPLICATE_EXTERNAL_ID",
    ],
)
async def test_what_is_wrong_with_the_whole_org_is_no_companys_fault(acme: Line, code: str) -> None:
    acme.connect(workspace(create="contact"))
    acme.session()
    await acme.org.fault(code, resource="collections", object="Account")
    acme.person("one@acme.example", company="Acme")
    await acme.run(3)
    blocks = [outcome for _, _, outcome in acme.seen if isinstance(outcome, Block)]
    assert {(block.lane, block.cause.code) for block in blocks} == {("org:acme-prod", code)}
    assert acme.tables["accounts"].rows == {}
    await acme.org.heal()
    await acme.run()
    assert acme.causes() == []
    assert (await acme.org.one("Contact", "one@acme.example"))["AccountId"]


async def test_where_no_account_may_be_made_the_org_waits_and_goes_on_by_itself(acme: Line) -> None:
    acme.connect(workspace(create="contact"))
    acme.session()
    rule = await acme.org.rule("object-permission", object="Account", create=False)
    acme.person("one@acme.example", company="Acme")
    await acme.run(3)
    blocks = [outcome for _, _, outcome in acme.seen if isinstance(outcome, Block)]
    assert {(block.lane, block.cause.code) for block in blocks} == {("org:acme-prod", "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY")}
    await acme.org.drop_rule(rule)
    acme.person("two@acme.example", company="Acme")
    await acme.run()
    assert acme.causes() == []
    [account] = await acme.org.records("Account")
    assert {one["AccountId"] for one in await acme.org.records("Contact")} == {account["Id"]}


async def test_a_rule_that_refuses_every_company_stops_the_org_and_not_each_company(acme: Line) -> None:
    acme.connect(workspace(create="contact"))
    acme.session()
    rule = await acme.org.rule("validation", object="Account", message="No new companies", when={"Name": "Mill"})
    for number in range(25):
        acme.person(f"p{number}@mill.example", company=f"Mill {number}")
    await acme.run(2)
    await acme.org.drop_rule(rule)
    await acme.run()
    assert acme.causes() == []
    assert len(await acme.org.records("Account")) == 25


async def test_a_company_is_never_given_up_while_its_trouble_may_pass(acme: Line) -> None:
    """However often it was tried; then those who wait for it go on."""
    acme.connect(workspace(create="contact"))
    acme.session()
    await acme.org.fault("UNKNOWN_EXCEPTION", resource="collections", object="Account")
    acme.person("one@acme.example", company="Acme")
    await acme.run(12)
    assert [(stage, message.kind) for stage, message, _ in acme.final if message.kind == "company"] == []
    assert max(entry.message.tries for entry in acme.queue) == 0
    await acme.org.heal()
    await acme.run()
    assert (await acme.org.one("Contact", "one@acme.example"))["AccountId"]


@pytest.mark.parametrize("right", [{"write": False}, {"read": False}])
async def test_a_contact_whose_account_may_not_be_set_is_made_without_it(acme: Line, right: dict[str, bool]) -> None:
    acme.connect(workspace(create="contact"))
    acme.session()
    await acme.org.rule("field-permission", object="Contact", field="AccountId", **right)
    acme.person("one@acme.example", company="Acme")
    await acme.run()
    assert (acme.causes(), acme.queue) == ([], [])
    assert (await acme.org.one("Contact", "one@acme.example"))["AccountId"] is None


async def account_keys(acme: Line) -> dict[str, str | None]:
    return {one["Name"]: one["Key__c"] for one in await acme.org.records("Account")}


@pytest.mark.parametrize("right", [{"write": False}, {"read": False}])
async def test_a_key_that_may_not_be_written_is_left_out_and_the_account_made_without_it(right: dict[str, bool]) -> None:
    """Told of the Account; what describe said before is forgotten."""
    async with line(account_key_field="Key__c") as acme:
        await acme.org.rule("custom-field", object="Account", field="Key__c", type="text", unique=True, external_id=True)
        acme.connect(workspace(create="contact"))
        acme.session()
        acme.person("one@acme.example", company="Acme")
        await acme.run()
        await acme.org.rule("field-permission", object="Account", field="Key__c", **right)
        for company in ("Mill", "Dune"):
            acme.person(f"one@{company}.example", company=company)
            await acme.run()
        assert acme.causes() == []
        assert await account_keys(acme) == {"Acme": "acme", "Mill": None, "Dune": None}
        codes = await acme.org.errors()
        assert len(codes) == 1, codes


async def test_where_another_account_has_the_key_the_account_is_made_without_it() -> None:
    """Here since the field takes the beginning of their names only; it may also be one that Turnout's user can't see."""
    async with line(account_key_field="Key__c") as acme:
        await acme.org.rule("custom-field", object="Account", field="Key__c", type="text", length=4, unique=True, external_id=True)
        acme.connect(workspace(create="contact"))
        acme.session()
        acme.person("one@kumo.example", company="Kumo Mill")
        acme.person("two@kumo.example", company="Kumo Dune")
        await acme.run()
        assert acme.causes() == []
        assert await account_keys(acme) in ({"Kumo Mill": "kumo", "Kumo Dune": None}, {"Kumo Mill": None, "Kumo Dune": "kumo"})


async def test_an_account_that_came_between_the_look_and_the_write_is_found_by_its_key() -> None:
    """As one does whose call was given up, and is done all the same."""
    async with line(account_key_field="Key__c") as acme:
        await acme.org.seed(Lead=[{"Email": "lead@acme.example", "LastName": "Old", "Company": "Acme"}])
        await acme.org.rule("custom-field", object="Account", field="Key__c", type="text", unique=True, external_id=True)

        async def made_meanwhile() -> None:
            if not await acme.org.records("Account"):
                await acme.org.convert((await acme.org.one("Lead", "lead@acme.example"))["Id"])
                [account] = await acme.org.records("Account")
                await acme.org.edit("Account", account["Id"], Key__c="acme")

        acme.connect(workspace(create="contact"))
        acme.session()
        acme.person("one@acme.example", company="Acme")
        await acme.run_stage("match")
        await acme.run_stage("create")
        await acme.run_stage("match")
        [company] = [entry.message for entry in acme.queue if entry.message.kind == "company"]
        [outcome] = await acme.steps["create"](Batch(company.org, [company], lambda: anyio.from_thread.run(made_meanwhile)))
        assert isinstance(outcome, Emit)
        assert outcome.reason == "account_found"
        assert await account_keys(acme) == {"Acme": "acme"}


async def test_without_its_key_an_account_is_not_made_while_a_worker_before_may_still_be_making_it() -> None:
    async with line(account_key_field="Key__c") as acme:
        await acme.org.rule("custom-field", object="Account", field="Key__c", type="text", unique=True, external_id=True)
        acme.connect(workspace(create="contact"))
        acme.session()
        acme.person("one@acme.example", company="Acme")
        await acme.run()
        await acme.org.rule("field-permission", object="Account", field="Key__c", write=False)
        acme.person("one@mill.example", company="Mill")
        await acme.run(1)
        [company] = [entry.message for entry in acme.queue if entry.message.kind == "company"]
        company.hold_creates_until_ms = int(time.time() * 1000) + 60_000
        await acme.run(2)
        assert list(await account_keys(acme)) == ["Acme"]
        company.hold_creates_until_ms = 0
        await acme.run()
        assert await account_keys(acme) == {"Acme": "acme", "Mill": None}


@pytest.mark.parametrize(("later", "replay", "asked"), [(5, None, False), (5, "r1", False), (5, "retry:1:2", True), (90, None, True)])
async def test_a_refused_company_is_asked_for_again_after_a_minute_or_by_a_dead_letter_that_is_retried(
    acme: Line, later: float, replay: str | None, asked: bool
) -> None:
    late = 0.0
    acme.clock = lambda: time.time() + late
    acme.restart()
    acme.connect(workspace(create="contact"))
    acme.session()
    rule = await acme.org.rule("validation", object="Account", message="No companies from Mars", when={"Name": "Mars"})
    acme.person("one@mars.example", company="Mars")
    await acme.run()
    late = later
    for mended in (False, True):
        if mended:
            await acme.org.drop_rule(rule)
        await acme.org.forget_calls()
        acme.person("one@mars.example", company="Mars", replay=replay)
        await acme.run()
        assert (await acme.org.written()).get("Account", 0) == asked
        late += later
    assert len(acme.causes()) == (2 if asked else 3)


async def test_a_company_that_the_org_refuses_is_the_cause_of_who_waits_for_it(acme: Line) -> None:
    await acme.org.rule("validation", object="Account", message="No companies from Mars", when={"Name": "Mars"})
    acme.connect(workspace(create="contact"))
    acme.session()
    acme.person("one@mars.example", company="Mars Inc")
    acme.person("two@acme.example", company="Acme")
    await acme.run()
    assert acme.causes() == ["FIELD_CUSTOM_VALIDATION_EXCEPTION"]
    assert [one["Email"] for one in await acme.org.records("Contact")] == ["two@acme.example"]


async def test_a_session_makes_one_campaign_with_its_statuses(acme: Line) -> None:
    acme.session(timezone="America/Los_Angeles")
    await acme.run()
    campaign = await acme.org.campaign("S1")
    assert campaign["Name"] == "Autumn review - 2026-10-31 21:30 America/Los_Angeles"
    assert (campaign["Type"], campaign["Status"], campaign["IsActive"]) == ("Webinar", "Planned", True)
    assert campaign["StartDate"] == campaign["EndDate"] == "2026-10-31"
    statuses = await acme.org.records("CampaignMemberStatus")
    assert {one["Label"]: one["HasResponded"] for one in statuses} == {
        "Sent": False, "Responded": True, "Registered": False, "Did not attend": False, "Attended": True,
    }  # fmt: skip
    assert [one["Label"] for one in statuses if one["IsDefault"]] == ["Registered"]
    assert len({one["SortOrder"] for one in statuses}) == len(statuses)


async def test_the_campaigns_status_follows_the_session_and_never_goes_back(acme: Line) -> None:
    acme.session()
    await acme.run()
    steps: list[tuple[dict[str, Any], str]] = [
        ({"status": "live", "started_at": 1793507400}, "In Progress"),
        ({"status": "past", "started_at": 1793507400, "ended_at": 1793511000}, "Completed"),
        ({"status": "live", "started_at": 1793507400}, "Completed"),
    ]
    for row, expected in steps:
        acme.session(**row)
        await acme.run()
        assert (await acme.org.campaign("S1"))["Status"] == expected


async def test_a_session_told_twice_costs_no_second_call(acme: Line) -> None:
    acme.session()
    await acme.run()
    await acme.org.forget_calls()
    acme.session()
    acme.restart()
    await acme.run()
    assert await acme.calls() == 0


async def test_a_campaign_is_found_again_though_its_table_was_lost(acme: Line) -> None:
    acme.session()
    acme.person("a@mill.example")
    await acme.run()
    acme.tables["campaigns"].rows.clear()
    acme.restart()
    acme.session()
    acme.person("b@mill.example")
    await acme.run()
    assert len(await acme.org.records("Campaign")) == 1
    assert len(await acme.org.records("CampaignMemberStatus")) == 5
    assert len(await acme.org.records("CampaignMember")) == 2
    assert changes(await acme.org.campaign("S1")) == []


async def test_a_moved_session_moves_its_campaign_unless_someone_named_it_by_hand(acme: Line) -> None:
    acme.session("S1")
    acme.session("S2")
    await acme.run()
    await acme.org.edit("Campaign", (await acme.org.campaign("S2"))["Id"], Name="Our best webinar")
    for session in ("S1", "S2"):
        acme.session(session, title="Winter review", estimated_started_at=1793593800)
    await acme.run()
    assert (await acme.org.campaign("S1"))["Name"] == "Winter review - 2026-11-02 05:30 Europe/Paris"
    assert (await acme.org.campaign("S1"))["StartDate"] == "2026-11-02"
    assert (await acme.org.campaign("S2"))["Name"] == "Our best webinar"


async def test_an_end_that_was_set_by_hand_stays_unless_the_session_moves_past_it(acme: Line) -> None:
    acme.session()
    await acme.run()
    campaign = await acme.org.campaign("S1")
    await acme.org.edit("Campaign", campaign["Id"], EndDate="2026-11-04")
    acme.session(status="live", started_at=1793507400)
    await acme.run()
    campaign = await acme.org.campaign("S1")
    assert (campaign["StartDate"], campaign["EndDate"], campaign["Status"]) == ("2026-11-01", "2026-11-04", "In Progress")
    for begins, dates in ((1793593800, ("2026-11-02", "2026-11-04")), (1794112200, ("2026-11-08", "2026-11-08"))):
        acme.session(status="live", started_at=1793507400, estimated_started_at=begins)
        await acme.run()
        campaign = await acme.org.campaign("S1")
        assert (campaign["StartDate"], campaign["EndDate"]) == dates


async def test_a_status_that_was_set_back_by_hand_stays_until_the_session_goes_on(acme: Line) -> None:
    acme.session(status="live", started_at=1793507400)
    await acme.run()
    await acme.org.edit("Campaign", (await acme.org.campaign("S1"))["Id"], Status="Planned")
    acme.session(status="live", started_at=1793507400, title="Winter review")
    await acme.run()
    campaign = await acme.org.campaign("S1")
    assert (campaign["Name"], campaign["Status"]) == ("Winter review - 2026-11-01 05:30 Europe/Paris", "Planned")
    acme.session(status="past", started_at=1793507400, ended_at=1793511000, title="Winter review")
    await acme.run()
    assert (await acme.org.campaign("S1"))["Status"] == "Completed"


async def test_a_known_campaign_outlives_a_refusal_to_show_it_and_its_members_go_on(acme: Line) -> None:
    """Renamed and moved, it could be found by its id alone."""
    acme.session()
    await acme.run()
    campaign = await acme.org.campaign("S1")
    await acme.org.edit("Campaign", campaign["Id"], Name="Our best webinar", Description="See you there")
    fault = await acme.org.fault("INVALID_TYPE", resource="query", object="Campaign", message="Not for you")
    acme.session(estimated_started_at=1793593800)
    acme.person("a@x.example")
    await acme.run(rounds=3)
    row = row_of(acme)
    assert (row.campaign, row.statuses != (), row.why is not None) == (campaign["Id"], True, True)
    assert len(await acme.org.records("CampaignMember")) == 1
    await acme.org.drop_fault(fault)
    await acme.run()
    assert [one["Id"] for one in await acme.org.records("Campaign")] == [campaign["Id"]]
    assert row_of(acme).why is None


async def test_a_known_campaign_that_lost_a_status_is_not_made_twice(acme: Line) -> None:
    """Who misses a status has create look again: by the id, whatever was made of name and Description."""
    acme.session()
    await acme.run()
    campaign = await acme.org.campaign("S1")
    await acme.org.edit("Campaign", campaign["Id"], Name="Our best webinar", Description="See you there", StartDate=None, EndDate=None)
    status = next(one for one in await acme.org.records("CampaignMemberStatus") if one["Label"] == "Attended")
    async with acme.org.http.delete(*await rest(acme, f"sobjects/CampaignMemberStatus/{status['Id']}")) as answer:
        assert answer.status == 204
    acme.person("a@x.example", "attended")
    await acme.run()
    assert [one["Id"] for one in await acme.org.records("Campaign")] == [campaign["Id"]]
    assert [one["Status"] for one in await acme.org.records("CampaignMember")] == ["Attended"]


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ({"kind": "validation", "message": "Not now", "when": {"Status": "Completed"}}, "FIELD_CUSTOM_VALIDATION_EXCEPTION"),
        ({"kind": "object-permission", "create": True, "read": True, "update": False}, "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY"),
    ],
)
async def test_a_refused_change_of_a_campaign_is_told_and_made_up_for_while_members_go_on(
    acme: Line, rule: dict[str, Any], code: str
) -> None:
    acme.session()
    await acme.run()
    campaign = await acme.org.campaign("S1")
    id = await acme.org.rule(object="Campaign", **rule)
    acme.session(status="past", started_at=1793507400, ended_at=1793511000)
    acme.person("a@x.example", "attended")
    await acme.run(rounds=3)
    row = row_of(acme)
    assert row.why is not None
    assert (row.why.code, row.campaign) == (code, campaign["Id"])
    assert (await member_of(acme, "a@x.example"))["Status"] == "Attended"
    blocks = {(message.key, outcome.lane) for _, message, outcome in acme.seen if isinstance(outcome, Block)}
    assert [(key, lane.rpartition("/")[2].partition(":")[0]) for key, lane in blocks] == [("session:S1", "email")]
    await acme.org.drop_rule(id)
    await acme.run()
    assert (await acme.org.campaign("S1"))["Status"] == "Completed"
    assert row_of(acme).why is None


@pytest.mark.parametrize("field", ["Description", "StartDate", "EndDate", "Type", "Status", "IsActive"])
@pytest.mark.parametrize("right", [{"read": False, "write": False}, {"read": True, "write": False}])
async def test_a_campaign_with_a_field_that_is_closed_to_us_is_made_once_and_found_again(
    acme: Line, field: str, right: dict[str, bool]
) -> None:
    """Its mark or its date may be what can't be written or read: then the name, with date and time in it, tells that it is there."""
    await acme.org.rule("field-permission", object="Campaign", field=field, **right)
    await acme.org.fault("drop-after-commit", times=1, resource="collections", object="Campaign")
    acme.session("S1")
    acme.session("S2", estimated_started_at=1793593800)
    acme.person("a@x.example")
    await acme.run()
    acme.tables["campaigns"].rows.clear()
    acme.session("S1")
    acme.session("S2", estimated_started_at=1793593800)
    await acme.run()
    acme.session("S1", title="Winter review")
    await acme.run()
    names = [one["Name"] for one in await acme.org.records("Campaign")]
    assert sorted(names) == ["Autumn review - 2026-11-02 05:30 Europe/Paris", "Winter review - 2026-11-01 05:30 Europe/Paris"]
    assert len(await acme.org.records("CampaignMember")) == 1


async def test_a_campaign_of_which_only_the_name_can_be_written_is_made(acme: Line) -> None:
    for field in ("Description", "StartDate", "EndDate", "Type", "Status", "IsActive"):
        await acme.org.rule("field-permission", object="Campaign", field=field, read=True, write=False)
    acme.session()
    acme.person("a@x.example")
    await acme.run()
    assert len(await acme.org.records("CampaignMember")) == 1


async def test_where_marks_are_written_a_campaign_of_the_same_name_and_date_is_another_ones(acme: Line) -> None:
    await acme.org.seed(Campaign=[{"Name": "Autumn review - 2026-11-01 05:30 Europe/Paris", "StartDate": "2026-11-01"}])
    acme.session("S1")
    acme.session("S2")
    await acme.run()
    assert len(await acme.org.records("Campaign")) == 3


@pytest.mark.parametrize("object", ["Campaign", "CampaignMemberStatus"])
@pytest.mark.parametrize(
    "code", ["UNKNOWN_EXCEPTION", "ENTITY_IS_LOCKED", "INVALID_CROSS_REFERENCE_KEY", "DUPLICATE_VALUE", "ALREADY_IN_PROCESS"]
)
async def test_whatever_refuses_a_session_is_told_and_costs_it_no_try(acme: Line, object: str, code: str) -> None:
    await acme.org.fault(code, resource="collections", object=object)
    acme.session()
    acme.person("a@x.example")
    await acme.run(rounds=3)
    row = row_of(acme)
    assert row.why is not None
    assert (row.why.code, row.campaign) == (code, "")
    assert [entry.message.tries for entry in acme.queue if entry.message.kind == "session"] == [0]
    await acme.org.heal()
    await acme.run()
    assert (await member_of(acme, "a@x.example"))["Status"] == "Registered"
    assert acme.causes() == []


async def test_a_query_that_is_refused_for_many_sessions_stops_only_the_one_at_fault(acme: Line) -> None:
    await acme.org.fault("MALFORMED_QUERY", resource="query", email="odd@mill.example")
    for name in ("S1", "S2", "S3", "S4"):
        acme.session(name, title="odd@mill.example" if name == "S1" else "Autumn review")
    await acme.run(rounds=1)
    assert sorted(message.key for _, message, outcome in acme.seen if isinstance(outcome, Block)) == ["session:S1"]
    assert len(await acme.org.records("Campaign")) == 3
    await acme.org.heal()
    await acme.run()
    assert len(await acme.org.records("Campaign")) == 4


@pytest.mark.parametrize(("row", "reason"), [({"past": True}, "past_session"), ({"breakout": True}, "breakout_room")])
async def test_past_sessions_and_breakout_rooms_make_no_campaign_and_their_people_are_dropped(
    acme: Line, row: dict[str, Any], reason: str
) -> None:
    acme.session(**row)
    acme.person("a@mill.example", "attended")
    await acme.run()
    assert await acme.org.records("Campaign") == []
    dropped = [outcome for _, _, outcome in acme.final if isinstance(outcome, Drop)]
    assert [one.reason for one in dropped] == [reason, reason]


async def test_statuses_of_the_settings_are_compared_without_case_and_blanks(acme: Line) -> None:
    acme.connect(workspace(statuses=Statuses(attended="responded ", registered="SENT")))
    acme.session()
    acme.person("a@mill.example", "attended")
    await acme.run()
    statuses = await acme.org.records("CampaignMemberStatus")
    assert {one["Label"]: one["HasResponded"] for one in statuses} == {"Sent": False, "Responded": True, "Did not attend": False}
    member = await member_of(acme, "a@mill.example")
    assert (member["Status"], member["HasResponded"]) == ("Responded", True)


async def test_a_lost_answer_to_each_write_makes_nothing_twice(acme: Line) -> None:
    for object in ("Campaign", "CampaignMemberStatus", "Lead", "CampaignMember"):
        await acme.org.fault("drop-after-commit", times=1, resource="collections", object=object)
    acme.session()
    for number in range(20):
        acme.person(f"p{number}@mill.example")
    await acme.run()
    counts = {name: len(await acme.org.records(name)) for name in ("Lead", "Campaign", "CampaignMember", "CampaignMemberStatus")}
    assert counts == {"Lead": 20, "Campaign": 1, "CampaignMember": 20, "CampaignMemberStatus": 5}
    assert acme.causes() == []
    trails = [outcome.trail for _, _, outcome in acme.final if isinstance(outcome, Emit)]
    assert any(cause.code == "connection_failed" for trail in trails for step in trail for cause in step.causes)


async def test_a_lost_answer_with_a_key_field_makes_nothing_twice() -> None:
    async with line(person_key_field="Turnout_Key__c") as acme:
        for object in ("Lead", "Contact"):
            await acme.org.rule(
                "custom-field", object=object, field="Turnout_Key__c", type="string", length=255, unique=True, external_id=True
            )
        await acme.org.fault("drop-after-commit", times=1, resource="collections", object="Lead")
        acme.session()
        for number in range(20):
            acme.person(f"p{number}@mill.example")
        await acme.run()
        leads = await acme.org.records("Lead")
        assert len(leads) == 20
        assert all(one["Turnout_Key__c"] == one["Email"] for one in leads)
        assert acme.causes() == []


async def test_a_key_that_is_there_already_is_looked_up_and_used() -> None:
    async with line(person_key_field="Turnout_Key__c") as acme:
        for object in ("Lead", "Contact"):
            await acme.org.rule(
                "custom-field", object=object, field="Turnout_Key__c", type="string", length=255, unique=True, external_id=True
            )
        acme.session()
        acme.person("old@mill.example")
        await acme.run()
        lead = await acme.org.one("Lead", "old@mill.example")
        await acme.org.edit("Lead", lead["Id"], Email="new@mill.example")
        acme.restart()
        acme.person("old@mill.example", "attended", at=60)
        await acme.run()
        assert len(await acme.org.records("Lead")) == 1
        assert [one["Status"] for one in await acme.org.records("CampaignMember")] == ["Attended"]


async def test_a_key_that_another_record_holds_is_left_out_alone() -> None:
    async with line(person_key_field="Turnout_Key__c") as acme:
        await acme.org.seed(
            Lead=[
                {"Email": "a@mill.example", "LastName": "Old", "Company": "C"},
                {"Email": "b@mill.example", "LastName": "B", "Company": "C"},
            ]
        )
        await acme.org.rule("custom-field", object="Lead", field="Turnout_Key__c", type="string", length=255, unique=True)
        other = await acme.org.one("Lead", "b@mill.example")
        await acme.org.edit("Lead", other["Id"], Turnout_Key__c="a@mill.example")
        acme.session()
        acme.person("a@mill.example", job_title="CTO")
        await acme.run()
        lead = await acme.org.one("Lead", "a@mill.example")
        assert (lead["Title"], lead["Turnout_Key__c"]) == ("CTO", None)
        assert "duplicate value found" in left_out(acme, "a@mill.example")["Turnout_Key__c"]


async def test_a_matched_record_gets_its_key_if_it_has_none() -> None:
    async with line(person_key_field="Turnout_Key__c") as acme:
        await acme.org.seed(Lead=[{"Email": "a@mill.example", "LastName": "Ito", "FirstName": "Kim", "Company": "Kumo KK"}])
        await acme.org.rule("custom-field", object="Lead", field="Turnout_Key__c", type="string", length=255, unique=True)
        acme.session()
        acme.person("A@mill.example")
        await acme.run()
        assert (await acme.org.one("Lead", "a@mill.example"))["Turnout_Key__c"] == "a@mill.example"


async def test_what_is_right_is_not_written_again(acme: Line) -> None:
    acme.session()
    acme.person("a@mill.example", id="one")
    acme.person("a@mill.example", "attended", at=1, id="two")
    await acme.run()
    await acme.org.forget_calls()
    for restart in (False, True):
        if restart:
            acme.restart()
        acme.person("a@mill.example", id="one")
        acme.person("a@mill.example", "attended", at=1, id="two")
        acme.session()
        await acme.run()
    assert await acme.org.written() == {}
    assert (await member_of(acme, "a@mill.example"))["Status"] == "Attended"


async def test_a_difference_in_case_only_is_not_written(acme: Line) -> None:
    await acme.org.seed(Lead=[{"Email": "Marta.Kovac@Firma.Example", "FirstName": "Marta", "LastName": "Kovac", "Company": "Firma"}])
    acme.session()
    acme.person("marta.kovac@firma.example", first_name="Marta", last_name="Kovac", company="FIRMA")
    await acme.run()
    assert "Lead" not in await acme.org.written()
    assert len(await acme.org.records("Lead")) == 1


async def test_quotes_wildcards_and_plus_tags_find_their_own_record(acme: Line) -> None:
    await acme.org.seed(
        Lead=[{"Email": "siobhan.o'keefe@harbour.example", "LastName": "O'Keefe", "Company": "H"}],
        Contact=[
            {"Email": "a_weber@mill.example", "LastName": "Weber", "CreatedDate": "2024-01-01T00:00:00.000+0000"},
            {"Email": "axweber@mill.example", "LastName": "Weber", "CreatedDate": "2019-01-01T00:00:00.000+0000"},
            {"Email": "kim+news@mill.example", "LastName": "Plus"},
        ],
    )
    acme.session()
    for email in ("siobhan.o'keefe@harbour.example", "a_weber@mill.example", "100%off@mill.example", "kim+news@mill.example"):
        acme.person(email, job_title="CTO")
        acme.person(email, "attended", at=1, job_title="CTO")
    await acme.run()
    assert len(await acme.org.records("Lead")) == 2
    assert (await acme.org.one("Contact", "a_weber@mill.example"))["Title"] == "CTO"
    assert (await acme.org.one("Contact", "axweber@mill.example"))["Title"] is None
    assert (await acme.org.one("Contact", "kim+news@mill.example"))["Title"] == "CTO"
    assert [one["Status"] for one in await acme.org.records("CampaignMember")] == ["Attended"] * 4
    assert acme.causes() == []


async def test_text_that_looks_like_a_reference_is_stored_as_it_is(acme: Line) -> None:
    acme.session(title="Why @{name} matters")
    acme.person("a@mill.example", first_name="@{leads[0].id}")
    acme.person("b@mill.example")
    await acme.run()
    assert (await acme.org.one("Lead", "a@mill.example"))["FirstName"] == "@{leads[0].id}"
    assert (await acme.org.campaign("S1"))["Name"].startswith("Why @{name} matters")
    assert len(await acme.org.records("CampaignMember")) == 2


async def test_one_refused_record_leaves_its_batch_mates_alone(acme: Line) -> None:
    acme.session()
    await acme.org.rule("validation", object="Lead", message="No competitors", when={"Company": "^Rival"})
    for number in range(7):
        acme.person(f"p{number}@mill.example", company="Rival Inc" if number == 3 else "Mill")
    await acme.run()
    assert acme.causes() == ["FIELD_CUSTOM_VALIDATION_EXCEPTION"]
    ((stage, outcome),) = acme.of("p3@mill.example")
    assert isinstance(outcome, Reject)
    assert (stage, outcome.causes[0].message) == ("create", "No competitors")
    assert outcome.causes[0].hint
    assert len(await acme.org.records("CampaignMember")) == 6
    for number in (0, 1, 2, 4, 5, 6):
        ((_, done),) = acme.of(f"p{number}@mill.example")
        assert isinstance(done, Emit)
        lead = await acme.org.one("Lead", f"p{number}@mill.example")
        assert [step.salesforce["Lead"] for step in done.trail] == [lead["Id"], lead["Id"]]


async def test_an_address_that_the_org_refuses_is_one_dead_letter(acme: Line) -> None:
    acme.session()
    for number in range(6):
        acme.person(f"p{number}@mill.example")
    acme.person("jörg..weiss@fluss.example")
    await acme.run()
    assert acme.causes() == ["INVALID_EMAIL_ADDRESS"]
    assert len(await acme.org.records("CampaignMember")) == 6


async def test_a_country_that_the_org_does_not_know_is_left_out_and_told(acme: Line) -> None:
    acme.session()
    await acme.run()
    await acme.org.rule("restricted-picklist", object="Lead", field="Country", values=["Germany", "France"])
    for email, country in (("a@x.example", "Deutschland"), ("b@x.example", "germany"), ("c@x.example", "Germany")):
        acme.person(email, country=country)
    await acme.run()
    assert [(await acme.org.one("Lead", f"{name}@x.example"))["Country"] for name in "abc"] == [None, "Germany", "Germany"]
    ((_, outcome),) = acme.of("a@x.example")
    assert isinstance(outcome, Emit)
    assert "Country" in outcome.trail[0].left_out


async def test_long_values_are_cut_and_not_written_again(acme: Line) -> None:
    acme.session()
    long = {"city": "Great Haverbury-upon-Lyne, Metropolitan County of Westmarsh", "job_title": "T" * 200, "last_name": "L" * 90}
    acme.person("a@x.example", more=long)
    await acme.run()
    lead = await acme.org.one("Lead", "a@x.example")
    assert (len(lead["City"]), len(lead["Title"]), len(lead["LastName"])) == (39, 128, 80)
    await acme.org.forget_calls()
    acme.restart()
    acme.person("a@x.example", at=5, more=long)
    await acme.run()
    assert await acme.org.written() == {}


async def test_a_mapped_field_that_was_deleted_is_left_out_and_told(acme: Line) -> None:
    await acme.org.text_field("Lead", "Segment__c")
    acme.connect(workspace(lead={"Segment__c": FieldRule(source="segment")}))
    acme.session()
    acme.person("a@x.example", segment="A")
    await acme.run()
    await acme.org.rule("delete-field", object="Lead", field="Segment__c")
    acme.person("a@x.example", segment="B", at=5)
    acme.person("b@x.example", segment="B", job_title="CTO")
    await acme.run()
    assert acme.causes() == []
    assert (await acme.org.one("Lead", "b@x.example"))["Title"] == "CTO"
    ((_, outcome),) = acme.of("b@x.example")
    assert isinstance(outcome, Emit)
    assert list(outcome.trail[0].left_out) == ["Segment__c"]


async def test_a_value_that_a_later_event_or_a_hand_set_does_not_go_back(acme: Line) -> None:
    acme.session()
    acme.person("a@x.example", at=20, job_title="CEO")
    acme.person("a@x.example", at=10, job_title="Intern", city="Bern")
    await acme.run()
    lead = await acme.org.one("Lead", "a@x.example")
    assert (lead["Title"], lead["City"]) == ("CEO", "Bern")
    await acme.org.edit("Lead", lead["Id"], Title="By hand")
    acme.restart()
    acme.person("a@x.example", at=-60, job_title="CEO")
    await acme.run()
    assert (await acme.org.one("Lead", "a@x.example"))["Title"] == "By hand"


async def test_a_replayed_event_fills_and_never_overwrites(acme: Line) -> None:
    acme.session()
    acme.person("a@x.example", at=20, job_title="CEO")
    await acme.run()
    acme.restart()
    acme.person("a@x.example", at=10, job_title="Intern", city="Bern", replay="r1")
    await acme.run()
    lead = await acme.org.one("Lead", "a@x.example")
    assert (lead["Title"], lead["City"]) == ("CEO", "Bern")


async def test_a_retried_dead_letter_brings_back_nothing_that_was_set_since(acme: Line) -> None:
    """Neither on the Lead nor on the member; what is still empty it fills."""
    await acme.org.rule("custom-field", object="CampaignMember", field="Region__c", type="string", length=80)
    acme.connect(workspace(campaign_member={"Region__c": FieldRule(source="region")}))
    acme.session()
    acme.person("a@x.example", at=20, job_title="CEO", region="EMEA")
    await acme.run()
    acme.restart()
    acme.person("a@x.example", at=10, job_title="Intern", city="Bern", region="APAC", replay=retried(int((time.time() - 600) * 1000), 1))
    await acme.run()
    lead = await acme.org.one("Lead", "a@x.example")
    assert (lead["Title"], lead["City"]) == ("CEO", "Bern")
    assert (await member_of(acme, "a@x.example"))["Region__c"] == "EMEA"


async def test_retried_dead_letters_set_in_their_order_what_nothing_has_changed_since(acme: Line) -> None:
    """Turnout itself had set the value before, long before they were refused."""
    acme.session()
    long_ago = "2024-01-01T00:00:00.000+0000"
    await acme.org.seed(
        Lead=[
            {"Email": "a@x.example", "LastName": "A", "Company": "C", "Title": "Old", "CreatedDate": long_ago, "LastModifiedDate": long_ago}
        ]
    )
    for refused, title in ((600, "Senior"), (590, "Chief")):
        acme.person("a@x.example", at=-refused - 10, job_title=title, replay=retried(int((time.time() - refused) * 1000), 1))
    await acme.run()
    lead = await acme.org.one("Lead", "a@x.example")
    assert [entry["changes"]["Title"][1] for entry in lead["history"] if "Title" in entry["changes"]] == ["Old", "Senior", "Chief"]


async def test_with_a_time_field_only_a_later_event_overwrites() -> None:
    async with line(event_time_field="Event_Time__c") as acme:
        for object in ("Lead", "Contact"):
            await acme.org.rule("custom-field", object=object, field="Event_Time__c", type="datetime")
        acme.session()
        for at, title in ((20, "CEO"), (10, "Intern"), (30, "Chair")):
            acme.restart()
            acme.person("a@x.example", at=at, job_title=title)
            await acme.run()
        lead = await acme.org.one("Lead", "a@x.example")
        assert lead["Title"] == "Chair"
        assert lead["Event_Time__c"] is not None


@pytest.mark.parametrize("order", ["rna", "anr", "nar", "arn", "ran"])
async def test_the_status_only_goes_upwards_in_any_order(acme: Line, order: str) -> None:
    acme.session()
    actions: dict[str, Any] = {"r": "registered", "n": "not_attended", "a": "attended"}
    for letter in order:
        acme.person("a@x.example", actions[letter])
        await acme.run()
    member = await member_of(acme, "a@x.example")
    assert (member["Status"], member["HasResponded"]) == ("Attended", True)


async def test_a_replay_view_sets_its_field_and_leaves_the_status_alone(acme: Line) -> None:
    acme.session()
    acme.person("a@x.example", "not_attended")
    await acme.run()
    acme.person("a@x.example", "watched_replay", at=5)
    acme.person("b@x.example", "watched_replay", at=5)
    await acme.run()
    first, second = await member_of(acme, "a@x.example"), await member_of(acme, "b@x.example")
    assert (first["Status"], first["Livestorm_Replay_Status__c"]) == ("Did not attend", "Watched")
    assert (second["Status"], second["Livestorm_Replay_Status__c"]) == ("Registered", "Watched")


@pytest.mark.parametrize("field", ["Livestorm_Replay_Status__c", "livestorm_replay_status__C"])
@pytest.mark.parametrize("rule", [{"kind": "field-permission", "write": False}, {"kind": "restricted-picklist", "values": ["Seen"]}])
async def test_a_replay_field_that_the_org_refuses_is_left_out_however_it_is_spelled(acme: Line, field: str, rule: dict[str, Any]) -> None:
    acme.connect(msgspec.structs.replace(workspace(), objects=Objects(replay_status_field=field)))
    acme.session()
    acme.person("a@x.example")
    await acme.run()
    await acme.org.rule(object="CampaignMember", field="Livestorm_Replay_Status__c", **rule)
    for email in ("a@x.example", "b@x.example"):
        acme.person(email, "watched_replay", at=5)
    await acme.run()
    for email in ("a@x.example", "b@x.example"):
        member = await member_of(acme, email)
        assert (member["Status"], member["Livestorm_Replay_Status__c"]) == ("Registered", None)
        assert field.lower() in {name.lower() for name in left_out(acme, email)}
    assert acme.queue == []


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "field-permission", "write": False},
        {"kind": "field-permission", "read": False},
        {"kind": "restricted-picklist", "values": ["Sent"]},
    ],
)
async def test_a_status_that_the_org_refuses_is_left_out_and_the_rest_is_written(acme: Line, rule: dict[str, Any]) -> None:
    await acme.org.text_field("CampaignMember", "Minutes__c")
    acme.connect(workspace(campaign_member={"Minutes__c": FieldRule(source="attendance_minutes")}))
    acme.session()
    acme.person("old@x.example")
    await acme.run()
    await acme.org.rule(object="CampaignMember", field="Status", **rule)
    for email in ("old@x.example", "new@x.example"):
        acme.person(email, "attended", at=5, attendance_minutes="42")
    await acme.run()
    for email in ("old@x.example", "new@x.example"):
        member = await member_of(acme, email)
        assert (member["Status"], member["Minutes__c"]) == ("Registered", "42")
        assert "Status" in left_out(acme, email)
    assert acme.queue == []
    assert acme.causes() == []


async def test_where_the_rounds_run_out_the_orgs_last_words_are_the_cause(acme: Line) -> None:
    acme.session()
    await acme.org.fault("DUPLICATE_VALUE", resource="collections", object="CampaignMember", message="Already a campaign member.")
    acme.person("a@x.example")
    await acme.run(rounds=1)
    assert {outcome.cause.message for _, _, outcome in acme.seen if isinstance(outcome, Retry)} == {"Already a campaign member."}


async def test_attendance_on_demand_goes_to_the_replay_field(acme: Line) -> None:
    acme.session(status="on_demand", estimated_started_at=0)
    acme.person("a@x.example", "attended")
    await acme.run()
    member = await member_of(acme, "a@x.example")
    assert (member["Status"], member["Livestorm_Replay_Status__c"]) == ("Registered", "Watched")


async def test_engagement_goes_to_mapped_fields_of_the_member(acme: Line) -> None:
    await acme.org.rule("custom-field", object="CampaignMember", field="Minutes__c", type="double")
    acme.connect(workspace(campaign_member={"Minutes__c": FieldRule(source="attendance_minutes")}))
    acme.session()
    acme.person("a@x.example", "attended", attendance_minutes=42)
    await acme.run()
    acme.person("a@x.example", "not_attended", attendance_minutes=0)
    await acme.run()
    assert (await member_of(acme, "a@x.example"))["Minutes__c"] == 42


async def test_a_foreign_status_that_counts_as_responded_is_left_alone(acme: Line) -> None:
    acme.session()
    acme.person("a@x.example")
    acme.person("b@x.example")
    await acme.run()
    await acme.org.edit("CampaignMember", (await member_of(acme, "a@x.example"))["Id"], Status="Responded")
    await acme.org.edit("CampaignMember", (await member_of(acme, "b@x.example"))["Id"], Status="Sent")
    acme.person("a@x.example", "attended")
    acme.person("b@x.example", "attended")
    await acme.run()
    assert (await member_of(acme, "a@x.example"))["Status"] == "Responded"
    assert (await member_of(acme, "b@x.example"))["Status"] == "Attended"


async def test_two_addresses_of_one_contact_are_one_member_in_one_batch(acme: Line) -> None:
    await acme.org.seed(
        Contact=[{"Id": "@kim", "Email": "kim@new.example", "LastName": "Ito"}],
        Lead=[{"Email": "kim@old.example", "LastName": "Ito", "Company": "C", "IsConverted": True, "ConvertedContactId": "@kim"}],
    )
    acme.session()
    acme.person("kim@old.example", "attended", at=10)
    acme.person("kim@new.example", "registered")
    for number in range(30):
        acme.person(f"p{number}@x.example")
    await acme.run()
    assert (await member_of(acme, "kim@new.example", object="Contact"))["Status"] == "Attended"
    assert len(await acme.org.records("CampaignMember")) == 31
    assert acme.causes() == []
    refused = [one for one in await acme.org.requests() if (one["status"] or 0) >= 400]
    assert refused == []


async def test_one_person_in_six_sessions_and_two_workspaces_is_one_lead(acme: Line) -> None:
    acme.connect(workspace("acme"), workspace("acme-us"))
    for number in range(6):
        acme.session(f"S{number}", workspace="acme" if number % 2 else "acme-us")
        acme.person("new@x.example", session=f"S{number}", workspace="acme" if number % 2 else "acme-us")
    await acme.run()
    assert len(await acme.org.records("Lead")) == 1
    assert len(await acme.org.records("CampaignMember")) == 6


async def test_a_refused_campaign_is_told_and_probed_while_people_are_written_and_others_go_on(acme: Line) -> None:
    rule = await acme.org.rule("validation", object="Campaign", message="Name the budget", when={"Name": "^Secret"})
    acme.session("S1", title="Secret plans")
    acme.session("S2")
    acme.person("a@x.example", session="S1")
    acme.person("a@x.example", "attended", session="S1", at=5)
    acme.person("b@x.example", session="S2")
    await acme.run(rounds=3)
    row = row_of(acme)
    assert row.why is not None
    assert (row.why.code, row.why.message) == ("FIELD_CUSTOM_VALIDATION_EXCEPTION", "Name the budget")
    assert len(await acme.org.records("Lead")) == 2
    assert [one["Status"] for one in await acme.org.records("CampaignMember")] == ["Registered"]
    blocked = [(message.key, outcome.lane) for _, message, outcome in acme.seen if isinstance(outcome, Block)]
    assert {key for key, _ in blocked} == {"session:S1"}
    assert all(lane.startswith("org:acme-prod/workspace:acme/email:") for _, lane in blocked)
    await acme.org.drop_rule(rule)
    await acme.run()
    assert (await member_of(acme, "a@x.example", "S1"))["Status"] == "Attended"
    assert acme.causes() == []


@pytest.mark.parametrize("right", [{"create": False, "read": True, "update": False}, {"create": False, "read": False, "update": False}])
@pytest.mark.parametrize("object", ["Campaign", "CampaignMemberStatus"])
async def test_without_the_right_there_is_no_campaign_until_it_is_given(acme: Line, object: str, right: dict[str, bool]) -> None:
    rule = await acme.org.rule("object-permission", object=object, **right)
    acme.session()
    acme.person("a@x.example")
    await acme.run(rounds=3)
    row = row_of(acme)
    assert row.why is not None
    assert "Marketing User" in row.why.hint
    assert len(await acme.org.records("Lead")) == 1
    await acme.org.drop_rule(rule)
    await acme.run()
    assert (await member_of(acme, "a@x.example"))["Status"] == "Registered"


async def test_without_marketing_user_the_hint_names_it_and_all_arrives_once_it_is_given(acme: Line) -> None:
    rule = await acme.org.rule("no-marketing-user")
    acme.session()
    acme.person("a@x.example")
    await acme.run(rounds=3)
    row = row_of(acme)
    assert row.why is not None
    assert "Marketing User" in row.why.hint
    assert len(await acme.org.records("Lead")) == 1
    await acme.org.drop_rule(rule)
    await acme.run()
    assert (await member_of(acme, "a@x.example"))["Status"] == "Registered"


async def test_a_campaign_that_was_deleted_is_made_again(acme: Line) -> None:
    acme.session()
    acme.person("a@x.example")
    await acme.run()
    async with acme.org.http.delete(*await rest(acme, f"sobjects/Campaign/{(await acme.org.campaign('S1'))['Id']}")) as answer:
        assert answer.status == 204
    acme.person("b@x.example")
    acme.person("c@x.example")
    await acme.run()
    assert (await member_of(acme, "b@x.example"))["Status"] == "Registered"
    assert (await member_of(acme, "c@x.example"))["Status"] == "Registered"
    assert acme.causes() == []


async def test_a_session_waits_for_its_event_as_long_as_it_takes_and_its_people_are_told_why(acme: Line) -> None:
    """Nobody else would tell it again: rejected, its people would wait for ever."""
    acme.session()
    told = acme.tables["events"].rows.pop("E-S1")
    acme.person("a@x.example")
    await acme.run()
    waits = {stage: outcome for stage, _, outcome in acme.seen if isinstance(outcome, Wait)}
    assert waits["create"].longest_seconds is None
    assert {outcome.cause.code for outcome in waits.values()} == {"unknown_event"}
    assert "E-S1" in waits["campaign-membership"].cause.message
    acme.tables["events"].rows["E-S1"] = b"unreadable"
    await acme.run()
    assert not [entry for entry in acme.queue if acme.is_ready(entry)], (
        "a row that can't be read is waited for, and not asked for all the time"
    )
    acme.tables["events"].rows["E-S1"] = told
    await acme.run()
    assert (await member_of(acme, "a@x.example"))["Status"] == "Registered"


async def test_a_label_that_the_settings_changed_to_is_added_before_it_is_written(acme: Line) -> None:
    acme.session()
    acme.person("a@x.example")
    await acme.run()
    acme.connect(workspace(statuses=Statuses(attended="Was there")))
    acme.person("a@x.example", "attended")
    await acme.run()
    member = await member_of(acme, "a@x.example")
    assert (member["Status"], member["HasResponded"]) == ("Was there", True)
    assert len(await acme.org.records("Campaign")) == 1


@pytest.mark.parametrize("fault", ["http-503", "REQUEST_LIMIT_EXCEEDED", "SERVER_UNAVAILABLE"])
async def test_an_org_that_is_down_blocks_its_lane_and_loses_nothing(acme: Line, fault: str) -> None:
    acme.session()
    await acme.run()
    await acme.org.fault(fault)
    for number in range(5):
        acme.person(f"p{number}@x.example")
    await acme.run(rounds=2)
    assert {type(outcome).__name__ for _, message, outcome in acme.seen if message.kind == "registration"} == {"Block"}
    assert {outcome.lane for _, _, outcome in acme.seen if isinstance(outcome, Block)} == {"org:acme-prod"}
    await acme.org.heal()
    acme.registry.forgive("acme-prod")
    await acme.run()
    assert len(await acme.org.records("CampaignMember")) == 5
    assert acme.causes() == []


async def test_locked_rows_are_tried_again_and_never_become_dead_letters(acme: Line) -> None:
    acme.session()
    await acme.run()
    await acme.org.fault("UNABLE_TO_LOCK_ROW", object="CampaignMember", share=0.3, times=60)
    for number in range(100):
        acme.person(f"p{number}@x.example")
    await acme.run(rounds=40)
    assert len(await acme.org.records("CampaignMember")) == 100
    assert acme.causes() == []
    assert all(outcome.free for _, _, outcome in acme.seen if isinstance(outcome, Retry))


async def test_a_rule_of_the_org_that_refuses_nearly_everyone_stops_the_lane(acme: Line) -> None:
    acme.session()
    rule = await acme.org.rule("required-field", object="Lead", field="Website")
    for number in range(100):
        acme.person(f"p{number}@x.example")
    await acme.run(rounds=2)
    assert acme.causes() == []
    assert {outcome.lane for _, _, outcome in acme.seen if isinstance(outcome, Block)} == {"org:acme-prod"}
    await acme.org.drop_rule(rule)
    await acme.run()
    assert len(await acme.org.records("CampaignMember")) == 100


async def test_without_the_right_to_make_leads_one_alone_waits_with_its_org_and_known_ones_are_written(acme: Line) -> None:
    """However few come: describe says that it is the org's setup, and is asked once for a batch."""
    await acme.org.seed(Lead=[{"Email": "old@x.example", "LastName": "Old", "Company": "C"}])
    rule = await acme.org.rule("object-permission", object="Lead", create=False)
    acme.session()
    acme.person("old@x.example", job_title="CTO")
    acme.person("new@x.example")
    await acme.run(rounds=3)
    assert acme.causes() == []
    blocks = [outcome for _, _, outcome in acme.seen if isinstance(outcome, Block)]
    assert {outcome.lane for outcome in blocks} == {"org:acme-prod"}
    assert all(outcome.cause.hint for outcome in blocks)
    assert (await acme.org.one("Lead", "old@x.example"))["Title"] == "CTO"
    await acme.org.drop_rule(rule)
    await acme.run()
    assert acme.causes() == []
    assert len(await acme.org.records("CampaignMember")) == 2


@pytest.mark.parametrize(
    ("object", "right"),
    [
        ("Lead", {"update": False}),
        ("Contact", {"update": False}),
        ("CampaignMember", {"create": False}),
        ("CampaignMember", {"update": False}),
    ],
)
async def test_without_the_right_on_an_object_one_alone_waits_with_its_org_until_it_is_given(
    acme: Line, object: str, right: dict[str, bool]
) -> None:
    await acme.org.seed(
        Contact=[{"Email": "c@x.example", "LastName": "C"}], Lead=[{"Email": "l@x.example", "LastName": "L", "Company": "C"}]
    )
    acme.session()
    if right == {"update": False}:
        acme.person("c@x.example", at=-60)
        acme.person("l@x.example", at=-60)
    await acme.run()
    acme.final.clear()
    rule = await acme.org.rule("object-permission", object=object, **right)
    acme.person("c@x.example", "attended", job_title="CTO")
    acme.person("l@x.example", "attended", job_title="CTO")
    await acme.run(rounds=8)
    assert acme.causes() == []
    assert blocked(acme) == {"org:acme-prod": "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY"}
    assert all(entry.message.tries == 0 for entry in acme.queue)
    await acme.org.drop_rule(rule)
    await acme.run()
    assert [one["Status"] for one in await acme.org.records("CampaignMember")] == ["Attended", "Attended"]
    assert (await acme.org.one("Contact", "c@x.example"))["Title"] == (await acme.org.one("Lead", "l@x.example"))["Title"] == "CTO"


@pytest.mark.parametrize(
    ("create", "object", "field"),
    [
        ("lead", "Lead", "Email"),
        ("contact", "Contact", "Email"),
        ("lead", "CampaignMember", "LeadId"),
        ("contact", "CampaignMember", "ContactId"),
        ("lead", "CampaignMember", "CampaignId"),
    ],
)
async def test_where_a_field_that_must_be_there_may_not_be_written_one_alone_waits_with_its_org(
    acme: Line, create: str, object: str, field: str
) -> None:
    acme.connect(workspace(create=create))
    acme.session()
    await acme.run()
    rule = await acme.org.rule("field-permission", object=object, field=field, write=False)
    acme.person("a@x.example")
    await acme.run(rounds=8)
    assert acme.causes() == []
    blocks = [outcome for _, _, outcome in acme.seen if isinstance(outcome, Block)]
    assert {block.lane for block in blocks} == {"org:acme-prod"}
    assert all(field in block.cause.message for block in blocks)
    assert all(entry.message.tries == 0 for entry in acme.queue)
    await acme.org.drop_rule(rule)
    await acme.run()
    assert len(await acme.org.records("CampaignMember")) == 1


@pytest.mark.parametrize("right", [{"read": False}, {"write": False}])
async def test_a_required_field_that_may_not_be_written_stops_the_org_and_not_each_person(acme: Line, right: dict[str, bool]) -> None:
    acme.connect(workspace(lead={"Region__c": FieldRule(source="region")}))
    acme.session()
    await acme.org.rule("required-field", object="Lead", field="Region__c")
    rule = await acme.org.rule("field-permission", object="Lead", field="Region__c", **right)
    acme.person("a@x.example", region="North")
    await acme.run(rounds=8)
    assert acme.causes() == []
    assert blocked(acme) == {"org:acme-prod": "REQUIRED_FIELD_MISSING"}
    await acme.org.drop_rule(rule)
    await acme.run()
    assert (await acme.org.one("Lead", "a@x.example"))["Region__c"] == "North"


@pytest.mark.parametrize("known", ["before", "at once"])
@pytest.mark.parametrize("right", [{"read": False}, {"write": False}])
async def test_a_contact_is_made_without_an_account_where_the_field_may_not_be_written(
    acme: Line, right: dict[str, bool], known: str
) -> None:
    acme.connect(workspace(create="contact"))
    acme.session()
    if known == "before":
        acme.person("a@x.example")
    await acme.run()
    await acme.org.rule("field-permission", object="Contact", field="AccountId", **right)
    acme.person("b@x.example", job_title="CTO")
    await acme.run()
    contact = await acme.org.one("Contact", "b@x.example")
    assert (contact["AccountId"], contact["Title"]) == (None, "CTO")
    assert "AccountId" in left_out(acme, "b@x.example")
    assert acme.causes() == []


async def test_a_transient_trouble_of_nearly_all_records_stops_the_lane_and_counts_no_more_tries(acme: Line) -> None:
    acme.session()
    fault = await acme.org.fault("UNKNOWN_EXCEPTION", resource="collections", object="Lead")
    for number in range(30):
        acme.person(f"p{number}@x.example")
    await acme.run(rounds=8)
    assert blocked(acme) == {"org:acme-prod": "UNKNOWN_EXCEPTION"}
    assert {entry.message.tries for entry in acme.queue if entry.message.kind == "registration"} == {0}
    await acme.org.drop_fault(fault)
    await acme.org.fault("REQUEST_RUNNING_TOO_LONG", resource="collections", object="CampaignMember", times=60)
    await acme.run()
    assert blocked(acme)["org:acme-prod/workspace:acme/session:S1"] == "REQUEST_RUNNING_TOO_LONG"
    assert len(await acme.org.records("CampaignMember")) == 30
    assert acme.causes() == []


async def test_a_transient_trouble_of_one_record_is_its_own_try(acme: Line) -> None:
    acme.session()
    await acme.org.fault("UNKNOWN_EXCEPTION", resource="collections", object="Lead", email="p0@x.example", times=2)
    for number in range(30):
        acme.person(f"p{number}@x.example")
    await acme.run()
    assert blocked(acme) == {}
    assert len([1 for _, _, outcome in acme.seen if isinstance(outcome, Retry)]) == 2
    assert len(await acme.org.records("CampaignMember")) == 30


@pytest.mark.parametrize("object", ["Lead", "CampaignMember"])
async def test_a_session_that_ended_under_one_record_costs_it_no_try(acme: Line, object: str) -> None:
    acme.session()
    await acme.org.fault("INVALID_SESSION_ID", resource="collections", object=object, times=1)
    acme.person("a@x.example")
    await acme.run()
    assert [outcome.reason for _, outcome in acme.of("a@x.example") if isinstance(outcome, Emit)] == ["synced"]
    assert all(outcome.free for _, _, outcome in acme.seen if isinstance(outcome, Retry))


async def test_creates_are_held_after_an_unclean_take_over_and_looked_for_first(acme: Line) -> None:
    acme.session()
    await acme.run()
    acme.person("a@x.example")
    await acme.run_stage("match")
    (entry,) = acme.queue
    entry.message.hold_creates_until_ms = int(acme.clock() * 1000) + 60_000
    await acme.run_stage("create", limit=1)
    (_, _, outcome) = acme.seen[-1]
    assert isinstance(outcome, Retry)
    assert outcome.free
    assert 50 < outcome.after_seconds <= 60
    assert await acme.org.records("Lead") == []


async def test_one_by_one_a_registrant_takes_three_calls_and_a_crowd_no_more(acme: Line) -> None:
    acme.session()
    acme.person("first@x.example")
    await acme.run()
    await acme.org.forget_calls()
    for number in range(5):
        acme.person(f"p{number}@x.example")
        await acme.run()
    assert await acme.calls() == 15
    await acme.org.forget_calls()
    for number in range(5):
        acme.person(f"p{number}@x.example", "attended")
        await acme.run()
    assert await acme.calls() == 15
    await acme.org.forget_calls()
    for number in range(1000):
        acme.person(f"q{number}@x.example")
    await acme.run()
    assert await acme.calls() == 3
    assert len(await acme.org.records("CampaignMember")) == 1006


async def test_in_processes_apart_create_looks_again_and_a_registrant_takes_four_calls(acme: Line) -> None:
    acme.restart(apart=True)
    acme.session()
    acme.person("first@x.example")
    await acme.run()
    await acme.org.forget_calls()
    for number in range(5):
        acme.person(f"p{number}@x.example")
        await acme.run()
    assert await acme.calls() == 20


async def test_a_label_that_was_deleted_by_hand_is_noticed_by_who_is_new(acme: Line) -> None:
    """An unknown status silently gives the default: the member is read in the very call that writes it."""
    acme.session()
    await acme.run()
    status = next(one for one in await acme.org.records("CampaignMemberStatus") if one["Label"] == "Attended")
    async with acme.org.http.delete(*await rest(acme, f"sobjects/CampaignMemberStatus/{status['Id']}")) as answer:
        assert answer.status == 204
    acme.person("a@x.example", "attended")
    await acme.run()
    assert (await member_of(acme, "a@x.example"))["Status"] == "Attended"
    assert acme.causes() == []


async def test_a_new_session_takes_few_calls(acme: Line) -> None:
    acme.session("S0")
    await acme.run()
    await acme.org.forget_calls()
    acme.session("S1")
    await acme.run()
    assert await acme.calls() == 3


async def test_a_person_account_is_written_through_its_account(acme: Line) -> None:
    person = {"FirstName": "Kim", "LastName": "Ito", "PersonEmail": "kim@home.example", "LastModifiedDate": "2020-01-01T00:00:00.000+0000"}
    await acme.org._ask("POST", "/sandbox/reset", {"seed": {"rules": [{"kind": "person-accounts"}], "Account": [person]}})
    acme.session()
    acme.person("kim@home.example", job_title="CTO", city="Bern")
    await acme.run()
    assert acme.causes() == []
    (account,) = await acme.org.records("Account")
    assert (account["PersonTitle"], account["PersonMailingCity"]) == ("CTO", "Bern")
    assert [one["ContactId"] for one in await acme.org.records("CampaignMember")] == [account["PersonContactId"]]
    assert "Contact" not in await acme.org.written()


async def test_two_addresses_of_one_person_account_in_one_batch_are_both_written(acme: Line) -> None:
    person = {"Id": "@account", "LastName": "Ito", "PersonEmail": "kim@home.example", "PersonContactId": "@contact"}
    former = {"Email": "kim@work.example", "LastName": "Ito", "Company": "C", "IsConverted": True, "ConvertedContactId": "@contact"}
    seed = {"rules": [{"kind": "person-accounts"}], "Account": [person], "Lead": [former]}
    await acme.org._ask("POST", "/sandbox/reset", {"seed": seed})
    acme.session()
    acme.person("kim@home.example", job_title="CTO")
    acme.person("kim@work.example", at=5, job_title="CTO", city="Bern")
    await acme.run()
    (account,) = await acme.org.records("Account")
    assert (account["FirstName"], account["PersonTitle"], account["PersonMailingCity"]) == ("Kim", "CTO", "Bern")
    assert "DUPLICATE_VALUE" not in await acme.org.errors()
    assert acme.causes() == []


async def test_an_org_with_person_accounts_takes_leads_without_a_company(acme: Line) -> None:
    await acme.org.rule("person-accounts")
    acme.connect(workspace(fallback_company=""))
    acme.session()
    acme.person("a@x.example", company=None)
    await acme.run()
    assert (await acme.org.one("Lead", "a@x.example"))["Company"] is None


async def test_without_fallback_and_person_accounts_the_dead_letter_names_the_field(acme: Line) -> None:
    acme.connect(workspace(fallback_company=""))
    acme.session()
    acme.person("a@x.example", company=None)
    await acme.run()
    ((_, outcome),) = acme.of("a@x.example")
    assert isinstance(outcome, Reject)
    assert (outcome.causes[0].code, outcome.causes[0].fields) == ("REQUIRED_FIELD_MISSING", ("Company",))


async def test_a_duplicate_rule_is_a_dead_letter_unless_the_setting_lets_alerts_pass(acme: Line) -> None:
    rule = {"object": "Lead", "fields": ["LastName", "Company"], "name": "Same name and company"}
    await acme.org.seed(Lead=[{"Email": "a.ito@kumo.example", "LastName": "Ito", "Company": "Kumo KK"}])
    id = await acme.org.rule("duplicate", action="block", **rule)
    acme.session()
    acme.person("b.ito@kumo.example")
    acme.person("c@kumo.example", last_name="Mori")
    await acme.run()
    assert acme.causes() == ["DUPLICATES_DETECTED"]
    assert len(await acme.org.records("Lead")) == 2
    await acme.org.drop_rule(id)
    await acme.org.rule("duplicate", action="alert", **rule)
    acme.set_org(duplicate_rules="save")
    acme.person("d.ito@kumo.example")
    await acme.run()
    assert len(await acme.org.records("Lead")) == 3
    assert acme.causes() == ["DUPLICATES_DETECTED"]


async def test_assignment_rules_run_only_where_the_setting_says_so(acme: Line) -> None:
    acme.session()
    acme.person("a@x.example")
    await acme.run()
    heads = [one["headers"] for one in await acme.org.requests() if one["method"] != "GET" and "Lead" in (one["objects"] or {})]
    assert heads
    assert all({name.lower(): value for name, value in head.items()}["sforce-auto-assign"] == "FALSE" for head in heads)


async def test_settings_that_can_not_be_read_are_waited_for(acme: Line) -> None:
    acme.session()
    await acme.run()
    good = acme.tables["workspaces"].rows["acme"]
    acme.tables["workspaces"].rows["acme"] = b'{"id": 1}'
    acme.person("a@x.example")
    await acme.run()
    assert acme.queue[0].wait is not None
    assert acme.queue[0].wait.cause.code == "unreadable_settings"
    acme.tables["workspaces"].rows["acme"] = good
    await acme.run()
    assert len(await acme.org.records("CampaignMember")) == 1


async def test_nothing_to_update_never_means_nothing_to_add(acme: Line) -> None:
    await acme.org.seed(
        Contact=[{"Email": "contact@x.example", "FirstName": "Kim", "LastName": "Ito"}],
        Lead=[
            {"Email": "same@x.example", "FirstName": "Kim", "LastName": "Ito", "Company": "Kumo KK"},
            {"Email": "other@x.example", "FirstName": "Sam", "LastName": "Mori", "Company": "Elsewhere"},
            {"Email": "refused@x.example", "FirstName": "Kim", "LastName": "Ito", "Company": "Rival"},
        ],
    )
    await acme.org.rule("validation", object="Lead", message="Hands off", when={"Email": "^refused"})
    acme.session()
    emails = ["new@x.example", "same@x.example", "other@x.example", "contact@x.example", "refused@x.example"]
    for email in emails:
        acme.person(email)
    await acme.run()
    assert acme.causes() == ["FIELD_CUSTOM_VALIDATION_EXCEPTION"]
    assert len(await acme.org.records("CampaignMember")) == 4
    ((_, outcome),) = acme.of("refused@x.example")
    assert isinstance(outcome, Reject)


async def test_a_worker_that_lost_its_partition_writes_nothing(acme: Line) -> None:
    acme.session()
    await acme.run()
    acme.person("a@x.example")
    await acme.run_stage("match")

    def lost() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        await acme.steps["create"](Batch("acme-prod", [entry.message for entry in acme.queue], lost))
    assert await acme.org.records("Lead") == []


async def test_an_org_that_is_not_in_the_settings_is_waited_for(acme: Line) -> None:
    row = acme.tables["orgs"].rows.pop("acme-prod")
    acme.session()
    acme.person("a@x.example")
    await acme.run()
    assert {type(outcome).__name__ for _, _, outcome in acme.seen} == {"Wait"}
    acme.tables["orgs"].rows["acme-prod"] = row
    await acme.run()
    assert len(await acme.org.records("CampaignMember")) == 1


async def test_a_message_that_can_not_be_read_is_rejected_and_its_mates_go_on(acme: Line) -> None:
    acme.session()
    acme.person("a@x.example")
    acme.person("b@x.example")
    broken = acme.queue[-1].message
    broken.record = msgspec.structs.replace(broken.record, value=b'{"kind":"registration"}')
    await acme.run()
    assert acme.causes() == ["unreadable"]
    assert len(await acme.org.records("CampaignMember")) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_order_repeats_and_restarts_the_latest_event_and_the_highest_status_stand(seed: int) -> None:
    """With a time field nothing has to be remembered: each event in any order, some twice, workers that forget all in between."""
    chance = random.Random(seed)
    async with line(event_time_field="Event_Time__c") as acme:
        for object in ("Lead", "Contact"):
            await acme.org.rule("custom-field", object=object, field="Event_Time__c", type="datetime")
        acme.session("S1")
        acme.session("S2")
        people = {f"p{number}@x.example": chance.sample(range(1, 60), 5) for number in range(6)}
        actions: tuple[Action, ...] = ("registered", "not_attended", "attended", "watched_replay", "registered")
        events = [
            (email, actions[place], f"S{place % 2 + 1}", at, f"{email}-{place}")
            for email, times in people.items()
            for place, at in enumerate(times)
        ]
        events += chance.sample(events, 10)
        chance.shuffle(events)
        begun = acme.clock()
        for place, (email, action, session, at, id) in enumerate(events):
            acme.person(email, action, session=session, at=at - (acme.clock() - begun), id=id, job_title=f"T{at}")
            if place % 4 == 3:
                await acme.run()
                acme.restart(apart=chance.random() < 0.5)
        await acme.run()
        assert acme.causes() == []
        assert len(await acme.org.records("Lead")) == len(people)
        for email, times in people.items():
            lead = await acme.org.one("Lead", email)
            assert lead["Title"] == f"T{max(times)}"
            first, second = await member_of(acme, email, "S1"), await member_of(acme, email, "S2")
            assert first["Status"] == "Attended"
            assert (second["Status"], second["Livestorm_Replay_Status__c"]) == ("Did not attend", "Watched")
            ranks = [change["Status"] for change in changes(first) if "Status" in change]
            assert all(change != ["Attended", "Registered"] for change in ranks)


@pytest.mark.parametrize("was_there", [False, True])
async def test_a_lead_converted_before_its_membership_is_handled_through_its_contact(acme: Line, was_there: bool) -> None:
    if was_there:
        await acme.org.seed(Lead=[{"Email": "a@x.example", "FirstName": "Kim", "LastName": "Ito", "Company": "Kumo KK"}])
    acme.session()
    await acme.run()
    acme.person("a@x.example")
    await acme.run_stage("match")
    await acme.run_stage("create")
    lead = await acme.org.one("Lead", "a@x.example")
    await acme.org._ask("POST", "/sandbox/convert", {"lead": lead["Id"]})
    await acme.run()
    acme.person("a@x.example", "attended", at=5)
    await acme.run()
    assert acme.causes() == []
    (contact,) = await acme.org.records("Contact")
    members = await acme.org.records("CampaignMember")
    assert [(one["ContactId"], one["Status"]) for one in members] == [(contact["Id"], "Attended")]


async def test_a_member_that_moved_to_the_contact_by_conversion_is_advanced_not_doubled(acme: Line) -> None:
    acme.session()
    acme.person("a@x.example")
    await acme.run()
    lead = await acme.org.one("Lead", "a@x.example")
    await acme.org._ask("POST", "/sandbox/convert", {"lead": lead["Id"]})
    acme.restart()
    acme.person("a@x.example", "attended", at=5)
    await acme.run()
    (member,) = await acme.org.records("CampaignMember")
    (contact,) = await acme.org.records("Contact")
    assert (member["ContactId"], member["Status"]) == (contact["Id"], "Attended")
    assert len(await acme.org.records("Lead")) == 1


async def test_a_lead_deleted_before_its_membership_is_made_again(acme: Line) -> None:
    acme.session()
    await acme.run()
    acme.person("a@x.example")
    await acme.run_stage("match")
    await acme.run_stage("create")
    lead = await acme.org.one("Lead", "a@x.example")
    async with acme.org.http.delete(*await rest(acme, f"sobjects/Lead/{lead['Id']}")) as answer:
        assert answer.status == 204
    await acme.run()
    assert acme.causes() == []
    assert (await member_of(acme, "a@x.example"))["Status"] == "Registered"


async def rest(acme: Line, path: str) -> tuple[str]:
    """The address of a REST call, with a token that a person's other software would have."""
    form = {"grant_type": "client_credentials", "client_id": "x", "client_secret": "sandbox"}
    async with acme.org.http.post(f"{acme.org.url}/services/oauth2/token", data=form) as answer:
        token = (await answer.json(content_type=None))["access_token"]
    acme.org.http.headers["Authorization"] = f"Bearer {token}"
    return (f"{acme.org.url}/services/data/v62.0/{path}",)


@pytest.mark.parametrize("match", [{}, {"resource": "query"}, {"resource": "composite"}, {"resource": "query", "object": "Lead"}])
async def test_an_org_that_fails_inside_waits_as_one_that_is_down(acme: Line, match: dict[str, Any]) -> None:
    """However long it lasts, and whatever it fails at: no tries of anybody's."""
    acme.session()
    await acme.run()
    await acme.org.fault("UNKNOWN_EXCEPTION", **match)
    for number in range(5):
        acme.person(f"a{number}@mill.example")
    await acme.run()
    assert {type(outcome) for stage, message, outcome in acme.seen if message.kind == "registration"} == {Block}
    await acme.org.heal()
    await acme.run()
    assert len(await acme.org.records("CampaignMember")) == 5


async def test_a_query_that_fails_for_one_address_costs_the_others_nothing(acme: Line) -> None:
    acme.session()
    await acme.run()
    await acme.org.fault("UNKNOWN_EXCEPTION", resource="query", email="odd@mill.example", message="ErrorId 1")
    for email in ("a@mill.example", "b@mill.example", "odd@mill.example", "c@mill.example"):
        acme.person(email)
    await acme.run()
    assert sorted(lead["Email"] for lead in await acme.org.records("Lead")) == ["a@mill.example", "b@mill.example", "c@mill.example"]
    [outcome] = {outcome for _, message, outcome in acme.seen if message.key == "odd@mill.example"}
    assert isinstance(outcome, Retry)
    assert (outcome.cause.message, outcome.free) == ("ErrorId 1", False)


@pytest.mark.parametrize("resource", ["query", "collections"])
async def test_a_session_that_ends_between_the_parts_of_a_call_is_nobodys_fault(acme: Line, resource: str) -> None:
    acme.session()
    await acme.run()
    for times in (1, 3):
        await acme.org.fault("INVALID_SESSION_ID", resource=resource, times=times)
        acme.person(f"a{times}@mill.example")
        await acme.run()
        assert [stage for stage, _ in acme.of(f"a{times}@mill.example")] == ["campaign-membership"]
    assert acme.causes() == []
    assert all(outcome.free for _, _, outcome in acme.seen if isinstance(outcome, Retry))


async def test_a_session_is_never_refused_for_what_the_org_does(acme: Line) -> None:
    """An org that fails inside, at the Campaigns themselves."""
    await acme.org.fault("UNKNOWN_EXCEPTION", resource="collections", object="Campaign")
    acme.session()
    await acme.run()
    assert acme.final == []
    await acme.org.heal()
    await acme.run()
    assert (await acme.org.campaign("S1"))["Status"] == "Planned"


@pytest.mark.parametrize("field", ["", "Event_Time__c"])
async def test_a_value_set_by_hand_outlives_every_event_from_before(field: str) -> None:
    """Also where one of them fills another field, after which the record's last change is Turnout's; with a time field, after a restart too."""
    async with line(event_time_field=field) as acme:
        if field:
            await acme.org.rule("custom-field", object="Lead", field=field, type="datetime")
        acme.session()
        acme.person("a@mill.example", at=-7200, job_title="Junior")
        await acme.run()
        lead = await acme.org.one("Lead", "a@mill.example")
        await acme.org.edit("Lead", lead["Id"], Title="By hand")
        acme.person("a@mill.example", at=-3600, job_title="Senior", phone="123")
        await acme.run()
        if field:
            acme.restart()
        acme.person("a@mill.example", at=-1800, job_title="Chief")
        await acme.run()
        lead = await acme.org.one("Lead", "a@mill.example")
        assert (lead["Title"], lead["Phone"]) == ("By hand", "123")
        acme.person("a@mill.example", at=60, job_title="President")
        await acme.run()
        assert (await acme.org.one("Lead", "a@mill.example"))["Title"] == "President"


async def test_a_members_value_set_by_hand_outlives_every_event_from_before(acme: Line) -> None:
    await acme.org.text_field("CampaignMember", "Source__c")
    acme.connect(workspace(campaign_member={"Source__c": FieldRule(source="utm_source")}))
    acme.session()
    acme.person("a@mill.example", at=-7200, utm_source="mail")
    await acme.run()
    member = await member_of(acme, "a@mill.example")
    await acme.org.edit("CampaignMember", member["Id"], Source__c="By hand")
    acme.person("a@mill.example", "attended", at=-3600, utm_source="ad")
    acme.person("a@mill.example", "watched_replay", at=-1800, utm_source="blog")
    await acme.run()
    member = await member_of(acme, "a@mill.example")
    assert (member["Status"], member["Source__c"]) == ("Attended", "By hand")


async def test_a_session_that_comes_again_brings_no_older_title_back(acme: Line) -> None:
    """Its message carries the title for a reader of `events` that is behind; one that is ahead knows better."""
    acme.session(title="Final title")
    acme.put("events", "E-S1", EventRow(id="E-S1", title="Final title", updated_at=20))
    for title, title_at, expected in (("Draft title", 10, "Final title"), ("Newest title", 30, "Newest title")):
        now = int(acme.clock() * 1000)
        told = Session(
            id=title, session="S1", event="E-S1", workspace="acme", org="acme-prod", happened_at=now, received_at=now, title=title, title_at=title_at
        )  # fmt: skip
        acme.send("normalized", told, "session:S1", "session", "S1")
        await acme.run()
        assert str((await acme.org.campaign("S1"))["Name"]).startswith(expected)


async def one_of_thirty_is_refused(acme: Line, code: str) -> None:
    """The first, of a company of its own; with this code, and nobody else."""
    for number in range(30):
        acme.person(f"p{number}@x.example", company="French SA" if number == 0 else "Kumo KK")
    await acme.run()
    assert blocked(acme) == {}
    assert acme.causes() == [code]
    assert [type(outcome) for _, outcome in acme.of("p0@x.example")] == [Reject]
    assert len(await acme.org.records("Lead")) == 29


async def test_one_persons_fields_that_are_refused_stop_nobody_else(acme: Line) -> None:
    """Though the code is one of the org's setup, and the field one that is never left out."""
    acme.session()
    words = "Unable to create/update fields: LastName. Please check the security settings of this field."
    await acme.org.fault("INVALID_FIELD_FOR_INSERT_UPDATE", resource="collections", object="Lead", email="p0@x.example", message=words)
    await one_of_thirty_is_refused(acme, "INVALID_FIELD_FOR_INSERT_UPDATE")


async def test_a_field_that_only_some_must_have_stops_nobody_else(acme: Line) -> None:
    acme.session()
    await acme.org.text_field("Lead", "Region__c")
    await acme.org.rule("field-permission", object="Lead", field="Region__c", read=False, write=False)
    await acme.org.rule("required-field", object="Lead", field="Region__c", when={"Company": "^French"})
    await one_of_thirty_is_refused(acme, "REQUIRED_FIELD_MISSING")


async def test_a_few_people_at_whom_the_org_fails_stop_nobody_else(acme: Line) -> None:
    """However often each is tried: a run is one of people."""
    acme.session()
    await acme.run()
    for number in range(4):
        await acme.org.fault("UNKNOWN_EXCEPTION", resource="collections", object="Lead", email=f"bad{number}@x.example")
        acme.person(f"bad{number}@x.example")
        for _ in range(6):
            await acme.run(rounds=1)
    assert blocked(acme) == {}


async def test_a_double_that_names_no_field_costs_the_values_and_not_the_person(acme: Line) -> None:
    acme.session()
    acme.person("a@x.example")
    await acme.run()
    words = "duplicate value found: <unknown> duplicates value on record with id: <unknown>"
    await acme.org.fault("DUPLICATE_VALUE", resource="collections", object="Lead", message=words)
    acme.person("a@x.example", "attended", at=5, job_title="CTO")
    await acme.run()
    assert (await member_of(acme, "a@x.example"))["Status"] == "Attended"
    assert left_out(acme, "a@x.example") == {"Title": f"DUPLICATE_VALUE: {words}"}


async def test_a_change_of_a_campaign_that_the_org_refuses_for_long_is_tried_ever_more_seldom() -> None:
    """At most every half hour, and a Campaign that can't be made, for which people wait, every four minutes; each call is the org's."""
    now = time.time()
    async with line() as acme:
        acme.clock = lambda: now
        acme.restart()
        acme.session()
        await acme.run()
        await acme.org.rule("validation", object="Campaign", message="A completed Campaign can't be changed", when={"Status": "^Completed"})
        await acme.org.rule("validation", object="Campaign", message="Budget is needed", when={"Name": "^Spring"})
        acme.session(status="past", ended_at=int(now))
        acme.session("S2", title="Spring review")
        waits: dict[str, list[float]] = {"session:S1": [], "session:S2": []}
        for after in (0, 60, 240, 7_200):
            now += after
            acme.seen.clear()
            await acme.run(rounds=1)
            for _, message, outcome in acme.seen:
                if isinstance(outcome, Block):
                    waits[message.key].append(outcome.at_least_seconds or 0)
        assert waits == {"session:S1": [0, 60, 300, 1_800], "session:S2": [0, 60, 240, 240]}
