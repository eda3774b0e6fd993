"""sObject Collections: up to 200 records, saved one by one, results in the order of the request."""

from typing import Any

from tests.contract.test_salesforce_stand_in.client import Caller, collected, lead, record


def codes(body: list[dict[str, Any]]) -> list[str | None]:
    """The code of each result, None for a success."""
    return [None if result["success"] else result["errors"][0]["statusCode"] for result in body]


async def test_each_record_has_its_result_in_its_place_and_one_failure_harms_no_other(acme: Caller) -> None:
    reply = await acme.create_all(lead(LastName="A"), lead(LastName=None), lead(LastName="C"))
    first, second, third = reply.body
    assert reply.status == 200
    message = "Required fields are missing: [LastName]"
    refused = {"statusCode": "REQUIRED_FIELD_MISSING", "message": message, "fields": ["LastName"]}
    assert second == {"success": False, "errors": [refused]}
    assert (first["success"], first["errors"], third["success"]) == (True, [], True)
    assert {row["Id"]: row["LastName"] for row in await acme.records("Lead")} == {first["id"]: "A", third["id"]: "C"}


async def test_all_or_none_rolls_the_innocent_back(acme: Caller) -> None:
    standing = await acme.create("Lead", LastName="Old", Company="C")
    reply = await acme.create_all(lead(), lead(LastName=None), all_or_none=True)
    assert codes(reply.body) == ["ALL_OR_NONE_OPERATION_ROLLED_BACK", "REQUIRED_FIELD_MISSING"]
    update = collected(record("Lead", id=standing, LastName="New"), record("Lead", id=standing[:-3] + "zzz"), all_or_none=True)
    assert codes((await acme.ask("PATCH", "/composite/sobjects", update)).body)[0] == "ALL_OR_NONE_OPERATION_ROLLED_BACK"
    (row,) = await acme.records("Lead")
    assert (row["LastName"], row["Name"], len(row["history"])) == ("Old", "Old", 1)
    assert await acme.values("SELECT Id FROM Lead WHERE LastName = 'Old'") == [standing]


async def test_all_or_none_brings_deleted_records_and_their_members_back(acme: Caller) -> None:
    campaign, who = await acme.create("Campaign", Name="W"), await acme.create("Lead", LastName="B", Company="C")
    await acme.create("CampaignMember", CampaignId=campaign, LeadId=who)
    reply = await acme.ask("DELETE", f"/composite/sobjects?ids={who},00Q000000000000EAA&allOrNone=true")
    assert codes(reply.body) == ["ALL_OR_NONE_OPERATION_ROLLED_BACK", "INVALID_CROSS_REFERENCE_KEY"]
    assert await acme.values("SELECT LeadId FROM CampaignMember WHERE Lead.LastName = 'b'") == [who]
    for name in ("Lead", "CampaignMember"):
        (row,) = await acme.records(name)
        assert (row["IsDeleted"], len(row["history"])) == (False, 1)


async def test_more_than_200_records_are_refused_whole(acme: Caller) -> None:
    assert (await acme.create_all(*(lead() for _ in range(200)))).status == 200
    reply = await acme.create_all(*(lead() for _ in range(201)))
    assert (reply.status, reply.code) == (400, "EXCEEDED_ID_LIMIT")
    assert len(await acme.records("Lead")) == 200


async def test_more_than_10_chunks_of_one_type_are_refused_whole(acme: Caller) -> None:
    pair = (lead(), record("Contact", LastName="B"))
    assert codes((await acme.create_all(*pair * 5)).body) == [None] * 10
    reply = await acme.create_all(*pair * 5, lead())
    assert (reply.status, "more than 10 chunks" in reply.message) == (400, True)


async def test_an_unknown_type_fails_its_own_record(acme: Caller) -> None:
    reply = await acme.create_all(lead(), record("Leed", LastName="B"))
    assert codes(reply.body) == [None, "INVALID_TYPE"]


async def test_update_names_each_record_by_its_id(acme: Caller) -> None:
    ids = [await acme.create("Lead", LastName=name, Company="C") for name in "AB"]
    records = [
        record("Lead", id=ids[1], Title="2"),
        record("Lead", Id=ids[0][:15], Title="1"),
        record("Lead", Title="3"),
        record("Lead", id="nonsense", Title="4"),
        record("Lead", id="00Q000000000000EAA", Title="5"),
    ]
    reply = await acme.ask("PATCH", "/composite/sobjects", collected(*records))
    assert codes(reply.body) == [None, None, "MISSING_ARGUMENT", "MALFORMED_ID", "INVALID_CROSS_REFERENCE_KEY"]
    assert [result["id"] for result in reply.body[:2]] == [ids[1], ids[0]]
    assert [row["Title"] for row in await acme.records("Lead")] == ["1", "2"]


async def test_the_same_id_twice_in_one_update_is_refused(acme: Caller) -> None:
    made = await acme.create("Lead", LastName="B", Company="C")
    other = await acme.create("Lead", LastName="D", Company="C")
    twice = [record("Lead", id=each, Title="x") for each in (made, other, made[:15])]
    reply = await acme.ask("PATCH", "/composite/sobjects", collected(*twice))
    assert codes(reply.body) == ["DUPLICATE_VALUE", None, "DUPLICATE_VALUE"]


async def test_an_update_of_a_deleted_record_says_so(acme: Caller) -> None:
    made = await acme.create("Lead", LastName="B", Company="C")
    await acme.ask("DELETE", f"/sobjects/Lead/{made}")
    reply = await acme.ask("PATCH", "/composite/sobjects", collected(record("Lead", id=made, Title="x")))
    assert codes(reply.body) == ["ENTITY_IS_DELETED"]


async def upsert(acme: Caller, *records: dict[str, Any]) -> list[dict[str, Any]]:
    reply = await acme.ask("PATCH", "/composite/sobjects/Lead/Key__c", collected(*records))
    assert reply.status == 200, reply.body
    return list(reply.body)


async def test_upsert_tells_what_it_created(acme: Caller) -> None:
    await acme.rule("custom-field", object="Lead", field="Key__c", unique=True, external_id=True)
    made = await acme.create("Lead", LastName="B", Company="C", Key__c="k1")
    results = await upsert(acme, lead(Key__c="K1", Title="x"), lead(Key__c="k2"), lead(), record("Contact", LastName="B", Key__c="k3"))
    assert codes(results) == [None, None, "MISSING_ARGUMENT", "INVALID_TYPE"]
    assert [(result.get("id") == made, result.get("created")) for result in results[:2]] == [(True, False), (False, True)]


async def test_the_same_external_id_twice_in_one_upsert_fails_every_such_row(acme: Caller) -> None:
    await acme.rule("custom-field", object="Lead", field="Key__c", unique=True, external_id=True)
    results = await upsert(acme, lead(Key__c="k"), lead(Key__c="other"), lead(Key__c="k"))
    assert codes(results) == ["DUPLICATE_VALUE", None, "DUPLICATE_VALUE"]
    assert results[0]["errors"][0]["message"] == "Duplicate external id specified: k"


async def test_an_external_id_that_several_have_is_told(acme: Caller) -> None:
    await acme.rule("custom-field", object="Lead", field="Key__c", external_id=True)
    await acme.create_all(lead(Key__c="k"), lead(Key__c="k"))
    assert codes(await upsert(acme, lead(Key__c="k"))) == ["DUPLICATE_EXTERNAL_ID"]


async def test_a_unique_value_twice_in_one_create_saves_the_first(acme: Caller) -> None:
    await acme.rule("custom-field", object="Lead", field="Key__c", unique=True, external_id=True)
    reply = await acme.create_all(lead(Key__c="k"), lead(Key__c="k"))
    assert codes(reply.body) == [None, "DUPLICATE_VALUE"]
    assert reply.body[1]["errors"][0]["message"].endswith(reply.body[0]["id"][:15])


async def test_records_are_read_by_ids_in_their_order_with_null_for_the_missing(acme: Caller) -> None:
    ids = [await acme.create("Lead", LastName=name, Company="C") for name in "AB"]
    await acme.ask("DELETE", f"/sobjects/Lead/{ids[0]}")
    reply = await acme.ask("POST", "/composite/sobjects/Lead", {"ids": [ids[1], ids[0]], "fields": ["LastName"]})
    assert [row and row["LastName"] for row in reply.body] == ["B", None]


async def test_records_are_deleted_by_ids(acme: Caller) -> None:
    ids = [await acme.create("Lead", LastName=name, Company="C") for name in "AB"]
    reply = await acme.ask("DELETE", f"/composite/sobjects?ids={ids[0]},00Q000000000000EAA,{ids[1]}&allOrNone=false")
    assert codes(reply.body) == [None, "INVALID_CROSS_REFERENCE_KEY", None]
    assert all(row["IsDeleted"] for row in await acme.records("Lead"))


async def test_duplicate_results_stay_out_of_collections(acme: Caller) -> None:
    await acme.create("Lead", LastName="B", Company="C")
    await acme.rule("duplicate", object="Lead", fields=["LastName"], action="alert", name="Twins")
    (result,) = (await acme.create_all(lead(LastName="b"))).body
    assert result["errors"] == [{"statusCode": "DUPLICATES_DETECTED", "message": "Use one of these records?", "fields": []}]
