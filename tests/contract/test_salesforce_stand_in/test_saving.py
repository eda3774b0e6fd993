"""One record at a time: what is stored, what is refused, in which order and in which words; and the rows' own HTTP."""

import gzip
from typing import Any

import pytest

from tests.contract.test_salesforce_stand_in.client import Caller, Reply


async def test_a_created_record_answers_201_with_its_id_and_where_it_is(acme: Caller) -> None:
    reply = await acme.try_create("Lead", LastName="B", Company="C")
    made = reply.body["id"]
    assert (reply.status, reply.body) == (201, {"id": made, "success": True, "errors": []})
    assert (made[:3], len(made), reply.headers["Location"]) == ("00Q", 18, f"/services/data/v62.0/sobjects/Lead/{made}")


async def test_a_record_is_read_changed_and_deleted(acme: Caller) -> None:
    made = await acme.create("Lead", LastName="B", Company="C")
    path = f"/sobjects/Lead/{made}"
    changed = await acme.ask("PATCH", path, {"Title": "CTO"})
    assert (changed.status, changed.body) == (204, None)
    read = await acme.ask("GET", f"{path}?fields=title,Status")
    del read.body["attributes"]
    assert read.body == {"Title": "CTO", "Status": "Open - Not Contacted", "Id": made}
    assert (await acme.ask("DELETE", path)).status == 204
    for method in ("GET", "PATCH", "DELETE"):
        gone = await acme.ask(method, path, {"Title": "x"} if method == "PATCH" else None)
        assert (gone.status, gone.body) == (404, [{"message": "entity is deleted", "errorCode": "ENTITY_IS_DELETED", "fields": []}])


async def test_the_server_stamps_what_it_makes_and_changes(acme: Caller) -> None:
    made = await acme.create("Lead", LastName="B", Company="C")
    (row,) = await acme.records("Lead")
    user = row["CreatedById"]
    assert user.startswith("005")
    assert (row["OwnerId"], row["LastModifiedById"]) == (user, user)
    assert row["CreatedDate"] == row["LastModifiedDate"] == row["SystemModstamp"]
    await acme.switch("POST", "/edit", {"object": "Lead", "id": made, "values": {"Title": "x"}})
    (row,) = await acme.records("Lead")
    assert row["LastModifiedById"] not in (user, None)
    assert row["CreatedById"] == user


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"Title": "  CTO \t\n"}, {"Title": "CTO"}),
        ({"Title": "\u00a0CTO\u00a0"}, {"Title": "\u00a0CTO\u00a0"}),
        ({"Title": ""}, {"Title": None}),
        ({"Title": "   "}, {"Title": None}),
        ({"Email": "  Marta.Kovac+x@Firma.EXAMPLE "}, {"Email": "marta.kovac+x@firma.example"}),
        ({"Email": "o'keefe@harbour.example"}, {"Email": "o'keefe@harbour.example"}),
        ({"Title": "é" * 128}, {"Title": "é" * 128}),
        ({"LeadSource": "Livestorm"}, {"LeadSource": "Livestorm"}),
        ({"NumberOfEmployees": 12}, {"NumberOfEmployees": 12}),
        ({"DoNotCall": True}, {"DoNotCall": True}),
        ({"DoNotCall": None}, {"DoNotCall": False}),
        ({"FirstName": "Ada", "LastName": "King"}, {"Name": "Ada King"}),
        ({"FirstName": None, "LastName": "King"}, {"Name": "King"}),
    ],
)
async def test_what_is_stored(acme: Caller, given: dict[str, Any], stored: dict[str, Any]) -> None:
    await acme.create("Lead", **{"LastName": "B", "Company": "C"} | given)
    (row,) = await acme.records("Lead")
    assert {field: row[field] for field in stored} == stored


async def test_null_and_empty_clear(acme: Caller) -> None:
    made = await acme.create("Lead", LastName="B", Company="C", Title="x", City="y")
    await acme.ask("PATCH", f"/sobjects/Lead/{made}", {"Title": None, "City": ""})
    (row,) = await acme.records("Lead")
    assert (row["Title"], row["City"]) == (None, None)


REFUSED: list[tuple[dict[str, Any], str, str, list[str]]] = [
    ({"LastName": None}, "REQUIRED_FIELD_MISSING", "Required fields are missing: [LastName]", ["LastName"]),
    (
        {"LastName": None, "Company": " "},
        "REQUIRED_FIELD_MISSING",
        "Required fields are missing: [LastName, Company]",
        ["LastName", "Company"],
    ),
    ({"City": "x" * 41}, "STRING_TOO_LONG", f"City: data value too large: {'x' * 41} (max length=40)", ["City"]),
    ({"Email": "jorg..weiss@fluss.example"}, "INVALID_EMAIL_ADDRESS", "Email: invalid email address: jorg..weiss@fluss.example", ["Email"]),
    ({"Email": "jörg@fluss.example"}, "INVALID_EMAIL_ADDRESS", "Email: invalid email address: jörg@fluss.example", ["Email"]),
    ({"Email": "nobody"}, "INVALID_EMAIL_ADDRESS", "Email: invalid email address: nobody", ["Email"]),
    ({"Emale": "a@b.example"}, "INVALID_FIELD", "No such column 'Emale' on sobject of type Lead", []),
    ({"Title": 12}, "JSON_PARSER_ERROR", "Cannot deserialize instance of string from VALUE_NUMBER_INT value 12", ["Title"]),
    ({"Title": True}, "JSON_PARSER_ERROR", "Cannot deserialize instance of string from VALUE_TRUE", ["Title"]),
    ({"Title": ["x"]}, "INVALID_TYPE_ON_FIELD_IN_RECORD", "Title: value not of required type", ["Title"]),
    ({"DoNotCall": "yes"}, "JSON_PARSER_ERROR", "Cannot deserialize instance of boolean from VALUE_STRING", ["DoNotCall"]),
    ({"NumberOfEmployees": "many"}, "JSON_PARSER_ERROR", "Cannot deserialize instance of int from VALUE_STRING", ["NumberOfEmployees"]),
    (
        {"CreatedDate": "2020-01-01T00:00:00Z"},
        "INVALID_FIELD_FOR_INSERT_UPDATE",
        "Unable to create/update fields: CreatedDate.",
        ["CreatedDate"],
    ),
    (
        {"ConvertedContactId": None},
        "INVALID_FIELD_FOR_INSERT_UPDATE",
        "Unable to create/update fields: ConvertedContactId.",
        ["ConvertedContactId"],
    ),
    ({"OwnerId": "abc"}, "MALFORMED_ID", "Owner ID: id value of incorrect type: abc", ["OwnerId"]),
    (
        {"OwnerId": "001000000000000AAA"},
        "FIELD_INTEGRITY_EXCEPTION",
        "Owner ID: id value of incorrect type: 001000000000000AAA",
        ["OwnerId"],
    ),
    ({"OwnerId": "005000000000000AAA"}, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", ["OwnerId"]),
    ({"Id": "00Q000000000000EAA"}, "INVALID_FIELD_FOR_INSERT_UPDATE", "cannot specify Id in an insert call", ["Id"]),
]


@pytest.mark.parametrize(("given", "code", "message", "fields"), REFUSED)
async def test_what_is_refused_on_create(acme: Caller, given: dict[str, Any], code: str, message: str, fields: list[str]) -> None:
    reply = await acme.try_create("Lead", **{"LastName": "B", "Company": "C"} | given)
    assert (reply.status, reply.code, reply.body[0]["fields"]) == (400, code, fields)
    assert reply.message.startswith(message)
    assert await acme.records("Lead") == []


async def test_all_wrong_values_of_a_record_are_told_together_and_before_rules(acme: Caller) -> None:
    await acme.rule("validation", object="Lead", message="No.", when={"LastName": "."})
    reply = await acme.try_create("Lead", LastName="x" * 81, Email="nobody")
    assert [error["errorCode"] for error in reply.body] == ["STRING_TOO_LONG", "INVALID_EMAIL_ADDRESS"]


async def test_required_fields_come_before_validation_rules_and_those_before_duplicate_rules(acme: Caller) -> None:
    await acme.create("Lead", LastName="B", Company="C")
    await acme.rule("duplicate", object="Lead", fields=["LastName"], action="block", name="Twins")
    rule = await acme.rule("validation", object="Lead", message="No.", when={"LastName": "."})
    assert (await acme.try_create("Lead", LastName="B")).code == "REQUIRED_FIELD_MISSING"
    assert (await acme.try_create("Lead", LastName="B", Company="C")).code == "FIELD_CUSTOM_VALIDATION_EXCEPTION"
    await acme.switch("DELETE", f"/rules/{rule}")
    assert (await acme.try_create("Lead", LastName="B", Company="C")).code == "DUPLICATES_DETECTED"


async def test_a_deleted_parent_is_an_invalid_cross_reference(acme: Caller) -> None:
    account = await acme.create("Account", Name="Mill")
    await acme.ask("DELETE", f"/sobjects/Account/{account}")
    assert (await acme.try_create("Contact", LastName="B", AccountId=account)).code == "INVALID_CROSS_REFERENCE_KEY"


def error(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.code


async def test_ids_in_row_urls(acme: Caller) -> None:
    assert error(await acme.ask("GET", "/sobjects/Lead/00Q000000000000EAA")) == (404, "NOT_FOUND")
    unknown = await acme.ask("PATCH", "/sobjects/Lead/00Q000000000000EAA", {"Title": "x"})
    assert (unknown.status, unknown.message[:67]) == (404, "Provided external ID field does not exist or is not accessible: 00Q")
    for wrong in ("001000000000000AAA", "nonsense"):
        assert error(await acme.ask("GET", f"/sobjects/Lead/{wrong}")) == (400, "MALFORMED_ID")
        assert error(await acme.ask("PATCH", f"/sobjects/Lead/{wrong}", {"Title": "x"})) == (400, "MALFORMED_ID")
    made = await acme.create("Lead", LastName="B", Company="C")
    assert (await acme.ask("PATCH", f"/sobjects/Lead/{made[:15]}", {"Title": "x"})).status == 204
    assert error(await acme.ask("PATCH", f"/sobjects/Lead/{made}", {"Id": made})) == (400, "INVALID_FIELD")


async def test_paths_and_methods_that_are_not_there(acme: Caller) -> None:
    for path in ("/sobjects/Leed", "/nothing", "/composite/batch", "/sobjects/Leed/describe"):
        reply = await acme.ask("GET", path)
        assert (reply.status, reply.body) == (404, [{"message": "The requested resource does not exist", "errorCode": "NOT_FOUND"}])
    assert error(await acme.ask("GET", "/limits", version="30.0")) == (404, "NOT_FOUND")
    assert error(await acme.ask("PUT", "/sobjects/Lead", {})) == (405, "METHOD_NOT_ALLOWED")
    assert error(await acme.ask("DELETE", "/limits")) == (405, "METHOD_NOT_ALLOWED")


async def test_a_body_must_be_json(acme: Caller) -> None:
    url, headers = f"{acme.org.base_url}/services/data/v62.0/sobjects/Lead", {"Authorization": f"Bearer {acme.token}"}
    for body, kind, expected in (
        (b"{", "application/json", (400, "JSON_PARSER_ERROR")),
        (b"a=b", "text/plain", (415, "UNSUPPORTED_MEDIA_TYPE")),
    ):
        async with acme.http.post(url, headers=headers | {"Content-Type": kind}, data=body) as response:
            assert (response.status, (await response.json())[0]["errorCode"]) == expected


async def test_a_body_may_be_gzipped(acme: Caller) -> None:
    url = f"{acme.org.base_url}/services/data/v62.0/sobjects/Lead"
    headers = {"Authorization": f"Bearer {acme.token}", "Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with acme.http.post(url, headers=headers, data=gzip.compress(b'{"LastName": "B", "Company": "C"}')) as response:
        assert response.status == 201


async def with_key(acme: Caller, *, unique: bool = True) -> None:
    await acme.rule("custom-field", object="Lead", field="Key__c", type="text", length=80, unique=unique, external_id=True)


async def test_upsert_creates_then_updates(acme: Caller) -> None:
    await with_key(acme)
    made = await acme.ask("PATCH", "/sobjects/Lead/Key__c/a%40b.example", {"LastName": "B", "Company": "C"})
    assert (made.status, made.body["created"]) == (201, True)
    again = await acme.ask("PATCH", "/sobjects/Lead/key__C/A%40b.example", {"Title": "x"})
    assert (again.status, again.body) == (200, {"id": made.body["id"], "success": True, "errors": [], "created": False})
    before_46 = await acme.ask("PATCH", "/sobjects/Lead/Key__c/a%40b.example", {"Title": "y"}, version="45.0")
    assert (before_46.status, before_46.body) == (204, None)
    (row,) = await acme.records("Lead")
    assert (row["Key__c"], row["Title"]) == ("a@b.example", "y")


async def test_upsert_refuses_its_key_in_the_body_and_with_update_only_creates_nothing(acme: Caller) -> None:
    await with_key(acme)
    assert error(await acme.ask("PATCH", "/sobjects/Lead/Key__c/k", {"Key__c": "k"})) == (400, "INVALID_FIELD")
    assert error(await acme.ask("PATCH", "/sobjects/Lead/Key__c/k?updateOnly=true", {"LastName": "B", "Company": "C"})) == (
        404,
        "NOT_FOUND",
    )
    assert error(await acme.ask("PATCH", "/sobjects/Lead/Title/k", {"LastName": "B"})) == (404, "NOT_FOUND")
    assert await acme.records("Lead") == []


async def test_upsert_with_several_matches_answers_300_and_their_urls_and_writes_nothing(acme: Caller) -> None:
    await with_key(acme, unique=False)
    made = [await acme.create("Lead", LastName="B", Company="C", Key__c="k") for _ in range(2)]
    reply = await acme.ask("PATCH", "/sobjects/Lead/Key__c/k", {"Title": "x"})
    assert (reply.status, reply.body) == (300, [f"/services/data/v62.0/sobjects/Lead/{each}" for each in made])
    assert [row["Title"] for row in await acme.records("Lead")] == [None, None]


async def test_a_unique_key_twice_names_the_other_record_in_15_characters(acme: Caller) -> None:
    await with_key(acme)
    made = await acme.create("Lead", LastName="B", Company="C", Key__c="k")
    reply = await acme.try_create("Lead", LastName="B", Company="C", Key__c="K")
    assert (reply.status, reply.code) == (400, "DUPLICATE_VALUE")
    assert reply.message == f"duplicate value found: Key__c duplicates value on record with id: {made[:15]}"


async def test_the_key_of_a_deleted_record_is_free_again(acme: Caller) -> None:
    await with_key(acme)
    made = await acme.create("Lead", LastName="B", Company="C", Key__c="k")
    await acme.ask("DELETE", f"/sobjects/Lead/{made}")
    assert await acme.create("Lead", LastName="B", Company="C", Key__c="k") != made


async def test_describe_tells_lengths_and_flags(acme: Caller) -> None:
    lead = await acme.describe("Lead")
    assert (lead["name"], lead["keyPrefix"], lead["createable"], lead["updateable"], lead["queryable"]) == ("Lead", "00Q", True, True, True)
    flags = ("type", "length", "nillable", "createable", "updateable", "defaultedOnCreate", "filterable", "idLookup", "unique")
    shown = {
        name: tuple(lead["fields"][name][flag] for flag in flags) for name in ("LastName", "Email", "Description", "IsConverted", "Id")
    }
    assert shown == {
        "LastName": ("string", 80, False, True, True, False, True, False, False),
        "Email": ("email", 80, True, True, True, False, True, True, False),
        "Description": ("textarea", 32000, True, True, True, False, False, False, False),
        "IsConverted": ("boolean", 0, False, True, False, True, True, False, False),
        "Id": ("id", 18, False, False, False, True, True, True, False),
    }
    required = {
        name for name, field in lead["fields"].items() if field["createable"] and not field["nillable"] and not field["defaultedOnCreate"]
    }
    assert required == {"LastName", "Company"}
    status = lead["fields"]["Status"]
    assert status["picklistValues"][0] == {
        "active": True,
        "defaultValue": True,
        "label": "Open - Not Contacted",
        "validFor": None,
        "value": "Open - Not Contacted",
    }


async def test_a_fresh_org_has_the_replay_field_and_no_person_accounts(acme: Caller) -> None:
    member = await acme.describe("CampaignMember")
    assert member["fields"]["Livestorm_Replay_Status__c"]["createable"]
    assert "IsPersonAccount" not in (await acme.describe("Account"))["fields"]
    assert (await acme.query("SELECT IsPersonAccount FROM Account")).code == "INVALID_FIELD"


async def test_a_describe_that_has_not_changed_is_a_304_and_one_that_has_is_not(acme: Caller) -> None:
    first = await acme.ask("GET", "/sobjects/Lead/describe")
    stamp = first.headers["Last-Modified"]
    same = await acme.ask("GET", "/sobjects/Lead/describe", If_Modified_Since=stamp)
    assert (same.status, same.body) == (304, None)
    await acme.rule("custom-field", object="Lead", field="Region__c")
    changed = await acme.ask("GET", "/sobjects/Lead/describe", If_Modified_Since=stamp)
    assert changed.status == 200
    assert "Region__c" in {field["name"] for field in changed.body["fields"]}
