"""Campaigns, their member statuses and their members: what Salesforce does by itself."""

# Every SOQL here is put together from the test's own values.
# ruff: noqa: S608

from typing import Any

import pytest

from tests.contract.test_salesforce_stand_in.client import Caller, Reply, collected, lead, record


async def campaign(acme: Caller, *labels: str) -> str:
    made = await acme.create("Campaign", Name="Webinar", Type="Webinar")
    for label in labels:
        await acme.create("CampaignMemberStatus", CampaignId=made, Label=label)
    return made


async def person(acme: Caller) -> str:
    return await acme.create("Lead", LastName="B", Company="C")


async def statuses(acme: Caller, of: str) -> list[tuple[Any, ...]]:
    soql = f"SELECT Label, SortOrder, IsDefault, HasResponded FROM CampaignMemberStatus WHERE CampaignId = '{of}' ORDER BY SortOrder"
    return [tuple(row.values()) for row in await acme.rows(soql)]


async def status_id(acme: Caller, of: str, label: str) -> str:
    (found,) = await acme.values(f"SELECT Id FROM CampaignMemberStatus WHERE CampaignId = '{of}' AND Label = '{label}'")
    return str(found)


async def member(acme: Caller, **fields: Any) -> dict[str, Any]:
    made = await acme.create("CampaignMember", **fields)
    return next(row for row in await acme.records("CampaignMember") if row["Id"] == made)


async def test_a_campaign_comes_inactive_with_sent_and_responded(acme: Caller) -> None:
    made = await campaign(acme)
    assert await statuses(acme, made) == [("Sent", 1, True, False), ("Responded", 2, False, True)]
    (row,) = await acme.records("Campaign")
    assert (row["IsActive"], row["Status"], row["Type"]) == (False, "Planned", "Webinar")
    assert (await acme.describe("Campaign"))["fields"]["Name"]["length"] == 80


async def test_a_new_status_comes_last_and_a_new_default_takes_the_flag(acme: Caller) -> None:
    made = await campaign(acme)
    await acme.create("CampaignMemberStatus", CampaignId=made, Label="Registered", IsDefault=True)
    await acme.create("CampaignMemberStatus", CampaignId=made, Label="Attended", HasResponded=True, SortOrder=9)
    assert await statuses(acme, made) == [
        ("Sent", 1, False, False),
        ("Responded", 2, False, True),
        ("Registered", 3, True, False),
        ("Attended", 9, False, True),
    ]


@pytest.mark.parametrize("values", [{"Label": "SENT "}, {"Label": "New", "SortOrder": 2}])
async def test_labels_and_sort_orders_are_unique_in_a_campaign(acme: Caller, values: dict[str, Any]) -> None:
    made = await campaign(acme)
    assert (await acme.try_create("CampaignMemberStatus", CampaignId=made, **values)).code == "DUPLICATE_VALUE"


async def test_a_campaign_keeps_a_default_and_a_responded_status(acme: Caller) -> None:
    made = await campaign(acme)
    for label, body in (("Sent", {"IsDefault": False}), ("Responded", {"HasResponded": False})):
        reply = await acme.ask("PATCH", f"/sobjects/CampaignMemberStatus/{await status_id(acme, made, label)}", body)
        assert (reply.status, reply.code) == (400, "FIELD_INTEGRITY_EXCEPTION")
    for label in ("Sent", "Responded"):
        assert (await acme.ask("DELETE", f"/sobjects/CampaignMemberStatus/{await status_id(acme, made, label)}")).code == "DELETE_FAILED"


async def test_a_status_in_use_cannot_be_deleted_and_an_unused_one_can(acme: Caller) -> None:
    made = await campaign(acme, "Used", "Unused")
    await member(acme, CampaignId=made, LeadId=await person(acme), Status="used")
    used, unused = await status_id(acme, made, "Used"), await status_id(acme, made, "Unused")
    assert (await acme.ask("DELETE", f"/sobjects/CampaignMemberStatus/{used}")).code == "DELETE_FAILED"
    assert (await acme.ask("DELETE", f"/sobjects/CampaignMemberStatus/{unused}")).status == 204


async def test_at_most_50_statuses(acme: Caller) -> None:
    made = await campaign(acme)
    records = [record("CampaignMemberStatus", CampaignId=made, Label=f"L{number}") for number in range(49)]
    reply = await acme.create_all(*records)
    assert [result["success"] for result in reply.body] == [True] * 48 + [False]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"Status": "responded"}, ("Responded", True)),
        ({"Status": "Sent"}, ("Sent", False)),
        ({"Status": "Unheard of"}, ("Sent", False)),
        ({}, ("Sent", False)),
        ({"Status": None}, ("Sent", False)),
    ],
)
async def test_an_unknown_status_silently_becomes_the_default(acme: Caller, given: dict[str, Any], stored: tuple[str, bool]) -> None:
    row = await member(acme, CampaignId=await campaign(acme), LeadId=await person(acme), **given)
    assert (row["Status"], row["HasResponded"]) == stored
    assert (row["FirstRespondedDate"] is not None) == stored[1]


async def test_has_responded_follows_the_status_and_the_first_response_stays(acme: Caller) -> None:
    made = await campaign(acme)
    row = await member(acme, CampaignId=made, LeadId=await person(acme))
    path = f"/sobjects/CampaignMember/{row['Id']}"
    for status, responded in (("Responded", True), ("Sent", False), ("nonsense", False), ("Responded", True)):
        assert (await acme.ask("PATCH", path, {"Status": status})).status == 204
        (row,) = await acme.records("CampaignMember")
        assert (row["HasResponded"], len(row["FirstRespondedDate"])) == (responded, 10)
    assert (await acme.ask("PATCH", path, {"HasResponded": True})).code == "INVALID_FIELD_FOR_INSERT_UPDATE"


async def test_who_a_member_is_cannot_be_changed(acme: Caller) -> None:
    made = await campaign(acme)
    row = await member(acme, CampaignId=made, LeadId=await person(acme))
    for field, value in (("CampaignId", made), ("LeadId", row["LeadId"]), ("ContactId", None)):
        reply = await acme.ask("PATCH", f"/sobjects/CampaignMember/{row['Id']}", {field: value})
        assert reply.code == "INVALID_FIELD_FOR_INSERT_UPDATE"


async def test_with_both_ids_only_the_contact_counts(acme: Caller) -> None:
    contact = await acme.create("Contact", LastName="B")
    row = await member(acme, CampaignId=await campaign(acme), LeadId=await person(acme), ContactId=contact)
    assert (row["LeadId"], row["ContactId"], row["LeadOrContactId"], row["Type"]) == (None, contact, contact, "Contact")


async def test_a_member_needs_a_campaign_and_a_person(acme: Caller) -> None:
    made = await campaign(acme)
    assert (await acme.try_create("CampaignMember", CampaignId=made)).code == "REQUIRED_FIELD_MISSING"
    assert (await acme.try_create("CampaignMember", LeadId=await person(acme))).code == "REQUIRED_FIELD_MISSING"


async def test_a_second_member_is_refused_and_changes_nothing(acme: Caller) -> None:
    made, who = await campaign(acme), await person(acme)
    await member(acme, CampaignId=made, LeadId=who)
    reply = await acme.try_create("CampaignMember", CampaignId=made, LeadId=who, Status="Responded")
    assert (reply.status, reply.code, reply.message) == (400, "DUPLICATE_VALUE", "Already a campaign member.")
    (row,) = await acme.records("CampaignMember")
    assert row["Status"] == "Sent"


async def test_the_same_person_twice_in_one_call_is_told_in_other_words(acme: Caller) -> None:
    made, who = await campaign(acme), await person(acme)
    twice = [record("CampaignMember", CampaignId=made, LeadId=who) for _ in range(2)]
    first, second = (await acme.create_all(*twice)).body
    assert first["success"]
    assert second["errors"][0]["statusCode"] == "DUPLICATE_VALUE"
    assert second["errors"][0]["message"] == f"Attempted to add an entity '{who}' to a campaign '{made}' more than once."


async def test_a_deleted_member_does_not_stop_a_new_one(acme: Caller) -> None:
    made, who = await campaign(acme), await person(acme)
    row = await member(acme, CampaignId=made, LeadId=who)
    await acme.ask("DELETE", f"/sobjects/CampaignMember/{row['Id']}")
    assert (await member(acme, CampaignId=made, LeadId=who))["Id"] != row["Id"]


async def test_a_person_or_campaign_takes_its_members_along_when_deleted(acme: Caller) -> None:
    made, who = await campaign(acme), await person(acme)
    await member(acme, CampaignId=made, LeadId=who)
    await acme.ask("DELETE", f"/sobjects/Lead/{who}")
    assert [row["IsDeleted"] for row in await acme.records("CampaignMember")] == [True]
    await member(acme, CampaignId=made, LeadId=await person(acme))
    await acme.ask("DELETE", f"/sobjects/Campaign/{made}")
    assert {row["IsDeleted"] for row in (*await acme.records("CampaignMember"), *await acme.records("CampaignMemberStatus"))} == {True}


async def test_the_platform_counts_members(acme: Caller) -> None:
    made = await campaign(acme)
    await member(acme, CampaignId=made, LeadId=await person(acme), Status="Responded")
    await member(acme, CampaignId=made, ContactId=await acme.create("Contact", LastName="D"))
    await member(acme, CampaignId=made, LeadId=await person(acme))
    (counts,) = await acme.rows("SELECT NumberOfLeads, NumberOfContacts, NumberOfResponses FROM Campaign")
    assert tuple(counts.values()) == (2, 1, 1)


async def test_a_converted_lead_is_refused_as_a_member(acme: Caller) -> None:
    who = await person(acme)
    await acme.switch("POST", "/convert", {"lead": who})
    reply = await acme.try_create("CampaignMember", CampaignId=await campaign(acme), LeadId=who)
    assert (reply.status, reply.code, reply.message) == (400, "CANNOT_UPDATE_CONVERTED_LEAD", "cannot reference converted lead")


async def test_without_marketing_user_campaigns_cannot_be_written_but_members_can(acme: Caller) -> None:
    made, who = await campaign(acme), await person(acme)
    flag = "SELECT UserPermissionsMarketingUser FROM User WHERE Username = 'sandbox@example.com'"
    assert await acme.values(flag) == [True]
    rule = await acme.rule("no-marketing-user")
    assert await acme.values(flag) == [False]
    assert not (await acme.describe("Campaign"))["createable"]
    assert not (await acme.describe("CampaignMemberStatus"))["createable"]

    def refused(reply: Reply) -> bool:
        return (reply.status, reply.code) == (400, "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY")

    assert refused(await acme.try_create("Campaign", Name="Other"))
    assert refused(await acme.ask("PATCH", f"/sobjects/Campaign/{made}", {"Name": "Other"}))
    assert refused(await acme.try_create("CampaignMemberStatus", CampaignId=made, Label="New"))
    assert (await acme.try_create("CampaignMember", CampaignId=made, LeadId=who)).status == 201
    await acme.switch("DELETE", f"/rules/{rule}")
    assert await acme.values(flag) == [True]


async def test_a_renamed_status_takes_its_members_along(acme: Caller) -> None:
    made = await campaign(acme, "Attended")
    await member(acme, CampaignId=made, LeadId=await person(acme), Status="Attended")
    await acme.ask(
        "PATCH", f"/sobjects/CampaignMemberStatus/{await status_id(acme, made, 'Attended')}", {"Label": "Was there", "HasResponded": True}
    )
    (row,) = await acme.records("CampaignMember")
    assert (row["Status"], row["HasResponded"]) == ("Was there", True)


async def test_members_of_one_collection_keep_their_places(acme: Caller) -> None:
    made = await campaign(acme)
    people = [result["id"] for result in (await acme.create_all(*(lead() for _ in range(3)))).body]
    await member(acme, CampaignId=made, LeadId=people[1])
    body = collected(*(record("CampaignMember", CampaignId=made, LeadId=who) for who in people))
    results = (await acme.ask("POST", "/composite/sobjects", body)).body
    assert [result["success"] for result in results] == [True, False, True]
    members = {row["Id"]: row["LeadId"] for row in await acme.records("CampaignMember")}
    assert [members[results[at]["id"]] for at in (0, 2)] == [people[0], people[2]]
