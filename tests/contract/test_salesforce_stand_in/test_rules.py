"""Rules that a test sets: each kind, what it refuses, what describe then shows, and that it goes without a trace."""

from typing import Any

import pytest

from tests.contract.test_salesforce_stand_in.client import Caller, lead

LEAD = {"LastName": "B", "Company": "C"}


async def test_a_validation_rule_refuses_what_matches_all_its_patterns_in_its_own_words(acme: Caller) -> None:
    await acme.rule("validation", object="lead", message="No Xylo.", when={"company": "^X", "Title": "^$"}, field="Company")
    reply = await acme.try_create("Lead", LastName="B", Company="Xylo")
    assert (reply.status, reply.body) == (
        400,
        [{"message": "No Xylo.", "errorCode": "FIELD_CUSTOM_VALIDATION_EXCEPTION", "fields": ["Company"]}],
    )
    made = await acme.create("Lead", LastName="B", Company="Xylo", Title="x")
    assert (await acme.ask("PATCH", f"/sobjects/Lead/{made}", {"Title": None})).code == "FIELD_CUSTOM_VALIDATION_EXCEPTION"


async def test_a_required_field_may_depend_on_others(acme: Caller) -> None:
    await acme.rule("required-field", object="Lead", field="Region__c", when={"Company": "^X"})
    results = (await acme.create_all(lead(), lead(Company="Xylo"), lead(Company="Xylo", Region__c="EMEA"))).body
    assert [result["success"] for result in results] == [True, False, True]
    assert results[1]["errors"] == [
        {"statusCode": "REQUIRED_FIELD_MISSING", "message": "Required fields are missing: [Region__c]", "fields": ["Region__c"]}
    ]
    assert (await acme.describe("Lead"))["fields"]["Region__c"]["nillable"]


async def test_an_unconditional_required_field_shows_in_describe(acme: Caller) -> None:
    await acme.rule("required-field", object="Lead", field="Title")
    assert not (await acme.describe("Lead"))["fields"]["Title"]["nillable"]
    assert (await acme.try_create("Lead", **LEAD)).body[0]["fields"] == ["Title"]


async def test_a_restricted_picklist_takes_its_values_only(acme: Caller) -> None:
    rule = await acme.rule("restricted-picklist", object="Lead", field="Country", values=["Germany", "France"])
    field = (await acme.describe("Lead"))["fields"]["Country"]
    assert (field["type"], field["restrictedPicklist"], [value["value"] for value in field["picklistValues"]]) == (
        "picklist",
        True,
        ["Germany", "France"],
    )
    for country, code in (
        ("Deutschland", "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        ("germany", "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
    ):
        reply = await acme.try_create("Lead", **LEAD, Country=country)
        assert (reply.code, reply.message) == (code, f"Country: bad value for restricted picklist field: {country}")
    assert (await acme.try_create("Lead", **LEAD, Country="Germany")).status == 201
    await acme.switch("DELETE", f"/rules/{rule}")
    assert (await acme.try_create("Lead", **LEAD, Country="Deutschland")).status == 201


async def test_a_blocking_duplicate_rule_names_its_matches_and_no_header_passes_it(acme: Caller) -> None:
    twin = await acme.create("Lead", LastName="Ito", Company="Kumo KK", Email="a.ito@kumo.example")
    await acme.rule("duplicate", object="Lead", fields=["LastName", "Company"], action="block", name="Kumo_Rule")
    allow = {"Sforce_Duplicate_Rule_Header": "allowSave=true"}
    reply = await acme.ask("POST", "/sobjects/Lead", {"LastName": "ITO", "Company": "kumo kk"}, **allow)
    (error,) = reply.body
    assert (reply.status, error["errorCode"], error["message"]) == (400, "DUPLICATES_DETECTED", "Use one of these records?")
    result = error["duplicateResult"]
    assert (result["allowSave"], result["duplicateRule"], result["duplicateRuleEntityType"]) == (False, "Kumo_Rule", "Lead")
    assert [match["record"]["Id"] for match in result["matchResults"][0]["matchRecords"]] == [twin]
    assert (await acme.try_create("Lead", LastName="Ito", Company="Other")).status == 201


async def test_an_alerting_duplicate_rule_lets_a_save_pass_that_asks_for_it(acme: Caller) -> None:
    await acme.create("Lead", **LEAD)
    await acme.rule("duplicate", object="Lead", fields=["LastName"], action="alert", name="Twins")
    assert (await acme.try_create("Lead", **LEAD)).body[0]["duplicateResult"]["allowSave"]
    for value, status in (("allowSave=false", 400), ("allowSave=true; runAsCurrentUser=true", 201)):
        assert (await acme.ask("POST", "/sobjects/Lead", LEAD, Sforce_Duplicate_Rule_Header=value)).status == status


async def test_a_change_is_compared_again_only_where_it_touches_what_the_rule_looks_at(acme: Caller) -> None:
    first, _ = [await acme.create("Lead", **LEAD) for _ in range(2)]
    await acme.rule("duplicate", object="Lead", fields=["LastName"], action="block", name="Twins")
    assert (await acme.ask("PATCH", f"/sobjects/Lead/{first}", {"Title": "x"})).status == 204
    assert (await acme.ask("PATCH", f"/sobjects/Lead/{first}", {"LastName": "D"})).status == 204
    assert (await acme.ask("PATCH", f"/sobjects/Lead/{first}", {"LastName": "B"})).code == "DUPLICATES_DETECTED"


async def test_a_hidden_field_is_nowhere(acme: Caller) -> None:
    await acme.create("Lead", **LEAD, Title="x")
    rule = await acme.rule("field-permission", object="Lead", field="Title", read=False, write=False)
    assert "Title" not in (await acme.describe("Lead"))["fields"]
    assert (await acme.query("SELECT Title FROM Lead")).code == "INVALID_FIELD"
    assert (await acme.query("SELECT Id FROM Lead WHERE Title = 'x'")).code == "INVALID_FIELD"
    assert (await acme.try_create("Lead", **LEAD, Title="x")).code == "INVALID_FIELD"
    await acme.switch("DELETE", f"/rules/{rule}")
    assert await acme.values("SELECT Title FROM Lead WHERE Title = 'x'") == ["x"]


async def test_a_read_only_field_is_seen_and_not_written(acme: Caller) -> None:
    await acme.rule("field-permission", object="Lead", field="Title", read=True, write=False)
    field = (await acme.describe("Lead"))["fields"]["Title"]
    assert (field["createable"], field["updateable"]) == (False, False)
    reply = await acme.try_create("Lead", **LEAD, Title="x")
    assert (reply.code, reply.body[0]["fields"]) == ("INVALID_FIELD_FOR_INSERT_UPDATE", ["Title"])
    assert reply.message.startswith("Unable to create/update fields: Title. Please check the security settings of this field")


async def test_object_permissions(acme: Caller) -> None:
    made = await acme.create("Lead", **LEAD)
    rule = await acme.rule("object-permission", object="Lead", create=False, read=True, update=False)
    shown = await acme.describe("Lead")
    assert (shown["createable"], shown["updateable"], shown["queryable"]) == (False, False, True)
    assert (await acme.try_create("Lead", **LEAD)).code == "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY"
    assert (await acme.ask("PATCH", f"/sobjects/Lead/{made}", {"Title": "x"})).code == "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY"
    await acme.switch("DELETE", f"/rules/{rule}")
    await acme.rule("object-permission", object="Lead", read=False)
    assert (await acme.query("SELECT Id FROM Lead")).code == "INVALID_TYPE"
    assert (await acme.ask("GET", "/sobjects/Lead/describe")).status == 404
    assert (await acme.create_all(lead())).body[0]["errors"][0]["statusCode"] == "INVALID_TYPE"


@pytest.mark.parametrize(
    ("kind", "given", "stored", "described"),
    [
        ("text", "x", "x", "string"),
        ("email", "A@B.example", "a@b.example", "email"),
        ("checkbox", True, True, "boolean"),
        ("number", 1.5, 1.5, "double"),
        ("int", 3, 3, "int"),
        ("date", "2026-01-02", "2026-01-02", "date"),
        ("datetime", "2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05.000+0000", "datetime"),
        ("datetime", "2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05.000+0000", "datetime"),
        ("multipicklist", "a;b", "a;b", "multipicklist"),
        ("textarea", "x\ny", "x\ny", "textarea"),
    ],
)
async def test_custom_fields(acme: Caller, kind: str, given: Any, stored: Any, described: str) -> None:
    await acme.rule("custom-field", object="Lead", field="Extra__c", type=kind)
    field = (await acme.describe("Lead"))["fields"]["Extra__c"]
    assert (field["type"], field["custom"]) == (described, True)
    await acme.create("Lead", **LEAD, Extra__c=given)
    assert await acme.values("SELECT Extra__c FROM Lead") == [stored]


async def test_a_custom_field_has_the_length_that_was_asked_for(acme: Caller) -> None:
    await acme.rule("custom-field", object="Lead", field="Extra__c", type="text", length=3)
    assert (await acme.try_create("Lead", **LEAD, Extra__c="four")).code == "STRING_TOO_LONG"


async def test_a_deleted_field_is_gone_for_everyone_until_it_is_back_with_its_values(acme: Caller) -> None:
    await acme.rule("custom-field", object="Lead", field="Segment__c")
    await acme.create("Lead", **LEAD, Segment__c="x")
    rule = await acme.rule("delete-field", object="Lead", field="Segment__c")
    reply = await acme.query("SELECT Segment__c FROM Lead")
    assert (reply.code, "No such column 'Segment__c' on entity 'Lead'" in reply.message) == ("INVALID_FIELD", True)
    assert "Segment__c" not in (await acme.records("Lead"))[0]
    await acme.switch("DELETE", f"/rules/{rule}")
    assert await acme.values("SELECT Segment__c FROM Lead") == ["x"]


async def test_the_daily_limit_counts_calls_and_is_told_on_every_reply(acme: Caller) -> None:
    await acme.rule("daily-limit", limit=3)
    used = [(await acme.ask("GET", "/limits")).headers["Sforce-Limit-Info"] for _ in range(3)]
    assert used == ["api-usage=1/3", "api-usage=2/3", "api-usage=3/3"]
    over = await acme.ask("GET", "/limits")
    assert (over.status, over.body) == (403, [{"message": "TotalRequests Limit exceeded.", "errorCode": "REQUEST_LIMIT_EXCEEDED"}])
    assert over.headers["Sforce-Limit-Info"] == "api-usage=3/3"
    assert (await acme.calls())["total"] == 4
    assert (await acme.log_in()).status == 200
    await acme.rule("daily-limit", limit=10)
    assert (await acme.ask("GET", "/limits")).body["DailyApiRequests"] == {"Max": 10, "Remaining": 6}


async def test_rules_are_listed_and_all_go_at_once(acme: Caller) -> None:
    spec: dict[str, Any] = {"kind": "page-size", "size": 2}
    made = await acme.rule(**spec)
    assert (await acme.switch("GET", "/rules"))["rules"] == [{"id": made, **spec}]
    assert await acme.switch("GET", f"/rules/{made}") == {"id": made, **spec}
    await acme.switch("DELETE", "/rules")
    assert (await acme.switch("GET", "/rules"))["rules"] == []


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"kind": "nonsense"}, "kind must be one of"),
        ({"kind": "validation", "object": "Lead"}, "needs 'message'"),
        ({"kind": "validation", "object": "Leed", "message": "No."}, "no such object: Leed"),
        ({"kind": "validation", "object": "Lead", "message": "No.", "when": {"Titel": "x"}}, "no such field: Lead.Titel"),
        ({"kind": "validation", "object": "Lead", "message": "No.", "when": {"Title": "("}}, "not a regular expression"),
        ({"kind": "daily-limit", "limit": True}, "'limit' of a daily-limit rule has the wrong type"),
        ({"kind": "daily-limit", "limit": 1, "per": "day"}, "has no 'per'"),
        ({"kind": "custom-field", "object": "Lead", "field": "Region"}, "ends with __c"),
        ({"kind": "custom-field", "object": "Lead", "field": "R__c", "type": "formula"}, "type must be one of"),
        ({"kind": "duplicate", "object": "Lead", "fields": ["Title"], "action": "ask", "name": "N"}, "action must be"),
        (
            {"kind": "duplicate", "object": "Lead", "fields": [1], "action": "block", "name": "N"},
            "'fields' of a duplicate rule is a list of",
        ),
        ({"kind": "duplicate", "object": "Lead", "fields": [], "action": "block", "name": "N"}, "fields: "),
        ({"kind": ["a"]}, "kind must be one of"),
        ({"kind": "validation", "object": "Lead", "message": "No.", "when": {"Title": "a{99999999999}"}}, "not a regular expression"),
        ({"kind": "daily-limit", "limit": -5}, "'limit'"),
        ({"kind": "page-size", "size": 0}, "'size'"),
        ({"kind": "page-size", "size": -1}, "'size'"),
        ({"kind": "lock-timeout", "ms": -1}, "'ms'"),
        ({"kind": "custom-field", "object": "Lead", "field": "R__c", "length": -3}, "'length'"),
        ({"kind": "custom-field", "object": "Lead", "field": "a b__c"}, "letters, digits and underscores"),
        ({"kind": "delete-field", "object": "Lead", "field": "Id"}, "Lead.Id is Salesforce's own"),
        ({"kind": "delete-field", "object": "Contact", "field": "lastname"}, "Salesforce's own"),
        ({"kind": "restricted-picklist", "object": "Lead", "field": "DoNotCall", "values": ["x"]}, "no text"),
        ({"kind": "assignment", "owner": "nobody@example.com"}, "no such user: nobody@example.com"),
    ],
)
async def test_a_rule_that_makes_no_sense_is_refused_with_the_reason(acme: Caller, spec: dict[str, Any], said: str) -> None:
    async with acme.http.post(f"{acme.org.base_url}/sandbox/rules", json=spec) as response:
        assert (response.status, said in (await response.json())["error"]) == (400, True)
    assert (await acme.switch("GET", "/rules"))["rules"] == []
