"""Leads, Contacts, Accounts: conversion, merges, edits by hand, person accounts, countries, owners."""

from typing import Any

import pytest

from tests.contract.test_salesforce_stand_in.client import Caller, Reply, collected, record


async def test_converting_a_lead_makes_a_contact_of_its_company_and_moves_memberships(acme: Caller) -> None:
    who = await acme.create("Lead", FirstName="Kim", LastName="Ito", Company="Kumo", Email="kim@kumo.example", City="Kyoto")
    campaign = await acme.create("Campaign", Name="W")
    member = await acme.create("CampaignMember", CampaignId=campaign, LeadId=who)
    made = await acme.switch("POST", "/convert", {"lead": who})
    (contact,), (account,), (lead,) = [await acme.records(name) for name in ("Contact", "Account", "Lead")]
    assert (contact["Id"], account["Id"]) == (made["contact"], made["account"])
    assert (contact["Name"], contact["Email"], contact["MailingCity"]) == ("Kim Ito", "kim@kumo.example", "Kyoto")
    assert (account["Name"], contact["AccountId"]) == ("Kumo", account["Id"])
    assert (lead["IsConverted"], lead["ConvertedContactId"], lead["ConvertedAccountId"]) == (True, contact["Id"], account["Id"])
    assert lead["Status"] == "Closed - Converted"
    assert lead["history"][-1]["by"] == "sales@example.com"
    (row,) = await acme.records("CampaignMember")
    assert (row["Id"], row["LeadId"], row["ContactId"]) == (member, who, contact["Id"])


async def test_converting_into_a_contact_who_is_a_member_already_leaves_one_member(acme: Caller) -> None:
    who = await acme.create("Lead", LastName="Ito", Company="Kumo")
    contact = await acme.create("Contact", LastName="Ito")
    campaign = await acme.create("Campaign", Name="W")
    await acme.create("CampaignMember", CampaignId=campaign, LeadId=who)
    kept = await acme.create("CampaignMember", CampaignId=campaign, ContactId=contact)
    await acme.switch("POST", "/convert", {"lead": who, "contact": contact})
    assert [row["Id"] for row in await acme.records("CampaignMember") if not row["IsDeleted"]] == [kept]
    assert len(await acme.records("Contact")) == 1


async def test_a_converted_lead_stays_in_queries_and_cannot_be_changed(acme: Caller) -> None:
    who = await acme.create("Lead", LastName="Ito", Company="Kumo", Email="kim@kumo.example")
    await acme.switch("POST", "/convert", {"lead": who})
    soql = "SELECT Id, IsConverted, ConvertedContact.LastName FROM Lead WHERE Email = 'kim@kumo.example'"
    (found,) = await acme.rows(soql)
    assert (found["IsConverted"], found["ConvertedContact"]["LastName"]) == (True, "Ito")
    reply = await acme.ask("PATCH", f"/sobjects/Lead/{who}", {"Title": "x"})
    assert (reply.status, reply.code, reply.message) == (400, "CANNOT_UPDATE_CONVERTED_LEAD", "cannot reference converted lead")
    await acme.rule("edit-converted-leads")
    assert (await acme.ask("PATCH", f"/sobjects/Lead/{who}", {"Title": "x"})).status == 204


async def test_a_merge_deletes_the_losers_names_the_winner_and_moves_memberships(acme: Caller) -> None:
    winner, loser = [await acme.create("Contact", LastName=name, Email="lee@dune.example") for name in "WL"]
    both, one = [await acme.create("Campaign", Name=name) for name in ("both", "one")]
    for campaign, who in ((both, winner), (both, loser), (one, loser)):
        await acme.create("CampaignMember", CampaignId=campaign, ContactId=who)
    await acme.switch("POST", "/merge", {"object": "Contact", "winner": winner, "losers": [loser]})
    soql = "SELECT Id, MasterRecordId FROM Contact WHERE IsDeleted = true"
    (gone,) = (await acme.query(soql, resource="queryAll")).body["records"]
    assert (gone["Id"], gone["MasterRecordId"]) == (loser, winner)
    members = [(row["CampaignId"], row["ContactId"]) for row in await acme.records("CampaignMember") if not row["IsDeleted"]]
    assert sorted(members) == sorted([(both, winner), (one, winner)])
    reply = await acme.ask("PATCH", f"/sobjects/Contact/{loser}", {"Title": "x"})
    assert (reply.status, reply.code) == (404, "ENTITY_IS_DELETED")


async def test_merged_accounts_hand_their_contacts_over(acme: Caller) -> None:
    winner, loser = [await acme.create("Account", Name=name) for name in ("Mill", "mill")]
    await acme.create("Contact", LastName="B", AccountId=loser)
    await acme.switch("POST", "/merge", {"object": "Account", "winner": winner, "losers": [loser]})
    assert await acme.values("SELECT AccountId FROM Contact") == [winner]


async def test_an_edit_is_a_change_by_someone_else(acme: Caller) -> None:
    made = await acme.create("Lead", LastName="B", Company="C", Title="CTO")
    await acme.switch("POST", "/edit", {"object": "Lead", "id": made, "values": {"Title": "CEO", "FirstName": "Ada"}})
    (row,) = await acme.records("Lead")
    creation, edit = row["history"]
    assert (creation["by"], creation["changes"]["Title"]) == ("sandbox@example.com", [None, "CTO"])
    assert edit["by"] == "sales@example.com"
    assert edit["changes"] == {"Title": ["CTO", "CEO"], "FirstName": [None, "Ada"], "Name": ["B", "Ada B"]}
    soql = "SELECT LastModifiedBy.Username FROM Lead"
    assert (await acme.rows(soql))[0]["LastModifiedBy"]["Username"] == "sales@example.com"


async def test_people_who_edit_are_bound_by_no_right(acme: Caller) -> None:
    made = await acme.create("Lead", LastName="B", Company="C")
    await acme.rule("field-permission", object="Lead", field="Title", read=False, write=False)
    await acme.rule("object-permission", object="Lead", update=False)
    await acme.switch("POST", "/edit", {"object": "Lead", "id": made, "values": {"Title": "CEO"}})
    assert (await acme.records("Lead"))[0]["Title"] == "CEO"


async def test_a_write_that_changes_nothing_shows_in_the_history_as_an_empty_change(acme: Caller) -> None:
    made = await acme.create("Lead", LastName="B", Company="C")
    await acme.ask("PATCH", f"/sobjects/Lead/{made}", {"LastName": "B", "DoNotCall": False, "Title": None})
    assert [entry["changes"] for entry in (await acme.records("Lead"))[0]["history"][1:]] == [{}]


async def test_a_checkbox_is_never_null_in_the_history(acme: Caller) -> None:
    made = await acme.create("Lead", LastName="B", Company="C", DoNotCall=True)
    await acme.ask("PATCH", f"/sobjects/Lead/{made}", {"DoNotCall": None})
    await acme.switch("POST", "/convert", {"lead": made})
    _, change, conversion = (await acme.records("Lead"))[0]["history"]
    assert (change["changes"], conversion["changes"]["IsConverted"]) == ({"DoNotCall": [True, False]}, [False, True])


async def test_a_new_lead_gets_the_assignment_rules_owner_unless_the_header_says_no(acme: Caller) -> None:
    await acme.rule("assignment", owner="sales@example.com")
    for headers in ({}, {"Sforce_Auto_Assign": "TRUE"}, {"Sforce_Auto_Assign": "FALSE"}):
        await acme.ask("POST", "/sobjects/Lead", {"LastName": "B", "Company": "C"}, **headers)
    owners = [row["Owner"]["Username"] for row in await acme.rows("SELECT Owner.Username FROM Lead ORDER BY Id")]
    assert owners == ["sales@example.com", "sales@example.com", "sandbox@example.com"]


async def person_account(acme: Caller, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    await acme.create("Account", **{"FirstName": "Ada", "LastName": "King", "PersonEmail": "Ada@king.example"} | fields)
    return (await acme.records("Account"))[-1], (await acme.records("Contact"))[-1]


async def test_a_person_account_is_an_account_and_its_one_contact(acme: Caller) -> None:
    await acme.rule("custom-field", object="Contact", field="Region__c")
    await acme.rule("person-accounts")
    account, contact = await person_account(acme, PersonTitle="CTO", Region__pc="EMEA")
    assert (account["IsPersonAccount"], account["PersonContactId"], account["Name"]) == (True, contact["Id"], "Ada King")
    assert (contact["IsPersonAccount"], contact["AccountId"], contact["Email"]) == (True, account["Id"], "ada@king.example")
    assert (contact["Title"], contact["Region__c"], contact["Name"]) == ("CTO", "EMEA", "Ada King")


async def test_a_person_account_is_written_on_the_account_and_its_names_never_on_the_contact(acme: Caller) -> None:
    await acme.rule("person-accounts")
    account, contact = await person_account(acme)
    await acme.ask("PATCH", f"/sobjects/Account/{account['Id']}", {"LastName": "Lovelace", "PersonTitle": "Countess"})
    assert await acme.rows("SELECT Name, Title FROM Contact") == [{"Name": "Ada Lovelace", "Title": "Countess"}]
    assert await acme.values("SELECT Name FROM Account WHERE IsPersonAccount = true") == ["Ada Lovelace"]
    reply = await acme.ask("PATCH", f"/sobjects/Contact/{contact['Id']}", {"LastName": "Other"})
    assert reply.code == "INVALID_FIELD_FOR_INSERT_UPDATE"
    await acme.ask("PATCH", f"/sobjects/Contact/{contact['Id']}", {"Title": "Analyst"})
    assert await acme.values("SELECT PersonTitle FROM Account") == ["Analyst"]


async def test_with_person_accounts_a_lead_needs_no_company_and_a_business_account_still_its_name(acme: Caller) -> None:
    assert (await acme.try_create("Lead", LastName="B")).code == "REQUIRED_FIELD_MISSING"
    await acme.rule("person-accounts")
    assert (await acme.describe("Lead"))["fields"]["Company"]["nillable"]
    assert (await acme.try_create("Lead", LastName="B")).status == 201
    assert (await acme.try_create("Account", Phone="1")).code == "REQUIRED_FIELD_MISSING"
    business = await acme.create("Account", Name="Mill")
    assert await acme.values("SELECT Id FROM Account WHERE IsPersonAccount = false") == [business]


COUNTRY = (
    "There's a problem with this country, even though it may appear correct. "
    "Please select a country/territory from the list of valid countries.: "
)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"Country": "Germany"}, ("Germany", "DE", None, None)),
        ({"Country": "germany"}, ("Germany", "DE", None, None)),
        ({"CountryCode": "de"}, ("Germany", "DE", None, None)),
        ({"CountryCode": "US", "State": "Texas"}, ("United States", "US", "Texas", "TX")),
        ({"Country": "United States", "StateCode": "TX"}, ("United States", "US", "Texas", "TX")),
        ({"Country": None}, (None, None, None, None)),
    ],
)
async def test_country_picklists_keep_label_and_code_alike(acme: Caller, given: dict[str, str], stored: tuple[str | None, ...]) -> None:
    await acme.rule("country-picklists")
    await acme.create("Lead", LastName="B", Company="C", **given)
    assert [tuple(row.values()) for row in await acme.rows("SELECT Country, CountryCode, State, StateCode FROM Lead")] == [stored]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"Country": "Deutschland"}, COUNTRY + "Country"),
        ({"CountryCode": "XX"}, COUNTRY + "Country"),
        (
            {"Country": "Germany", "State": "Bavaria"},
            COUNTRY.replace("country/territory", "state").replace("country", "state").replace("countries", "states"),
        ),
        ({"State": "Texas"}, "A country/territory must be specified before specifying a state value for field: State/Province"),
    ],
)
async def test_a_place_that_is_not_listed_is_refused(acme: Caller, given: dict[str, str], message: str) -> None:
    await acme.rule("country-picklists")
    reply = await acme.try_create("Lead", LastName="B", Company="C", **given)
    assert (reply.status, reply.code) == (400, "FIELD_INTEGRITY_EXCEPTION")
    assert reply.message.startswith(message)


async def test_country_picklists_show_in_describe_and_are_named_for_contacts_too(acme: Caller) -> None:
    assert "CountryCode" not in (await acme.describe("Lead"))["fields"]
    await acme.rule("country-picklists")
    fields = (await acme.describe("Contact"))["fields"]
    assert (fields["MailingCountry"]["type"], fields["MailingCountryCode"]["type"]) == ("picklist", "picklist")
    reply = await acme.try_create("Contact", LastName="B", MailingCountry="Deutschland")
    assert reply.message == COUNTRY + "Mailing Country"


def fields_of(reply: Reply) -> list[str]:
    return list(reply.body[0]["fields"])


async def test_an_unlisted_country_names_its_field(acme: Caller) -> None:
    await acme.rule("country-picklists")
    assert fields_of(await acme.try_create("Contact", LastName="B", MailingCountryCode="XX")) == ["MailingCountry"]
    body = collected(record("Contact", LastName="B", MailingCountry="Deutschland"))
    (result,) = (await acme.ask("POST", "/composite/sobjects", body)).body
    assert result["errors"][0]["fields"] == ["MailingCountry"]
