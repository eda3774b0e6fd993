"""Composite: subrequests in order, references between them, one call whatever is in it."""

from typing import Any

import pytest

from tests.contract.test_salesforce_stand_in.client import Caller, Reply, collected, lead, part, record

CREATE = {"LastName": "B", "Company": "C"}


def statuses(reply: Reply) -> list[int]:
    assert reply.status == 200, reply.body
    return [each["httpStatusCode"] for each in reply.body["compositeResponse"]]


def bodies(reply: Reply) -> list[Any]:
    return [each["body"] for each in reply.body["compositeResponse"]]


async def test_replies_come_in_order_with_their_own_status_and_reference(acme: Caller) -> None:
    made = await acme.create("Lead", **CREATE)
    reply = await acme.composite(
        part("GET", f"/query?q=SELECT Id FROM Lead WHERE Id = '{made}'", "found"),  # noqa: S608 — the test's own id
        part("PATCH", f"/sobjects/Lead/{made}", "changed", {"Title": "x"}),
        part("POST", "/sobjects/Lead", "refused", {"Company": "C"}),
        part("GET", "/sobjects/Leed/describe", "nowhere"),
        part("POST", "/composite/sobjects", "collection", collected(lead(), lead(LastName=None))),
    )
    assert statuses(reply) == [200, 204, 400, 404, 200]
    assert [each["referenceId"] for each in reply.body["compositeResponse"]] == ["found", "changed", "refused", "nowhere", "collection"]
    assert bodies(reply)[1] is None
    message = "Required fields are missing: [LastName]"
    assert bodies(reply)[2] == [{"message": message, "errorCode": "REQUIRED_FIELD_MISSING", "fields": ["LastName"]}]
    assert [result["success"] for result in bodies(reply)[4]] == [True, False]


async def test_it_is_one_call_of_the_allowance(acme: Caller) -> None:
    reply = await acme.composite(*(part("POST", "/sobjects/Lead", f"r{number}", CREATE) for number in range(25)))
    assert reply.headers["Sforce-Limit-Info"] == "api-usage=1/1000000"
    calls = await acme.calls()
    assert (calls["total"], calls["by_resource"]["composite"], len(calls["log"][-1]["subrequests"])) == (1, 1, 25)


async def test_references_reach_records_collections_and_queries(acme: Caller) -> None:
    await acme.create("Account", Name="Mill")
    reply = await acme.composite(
        part("POST", "/sobjects/Campaign", "campaign", {"Name": "W"}),
        part("POST", "/composite/sobjects", "leads", collected(lead(LastName="A"), lead(LastName="B"))),
        part("GET", "/query?q=SELECT Id FROM Account", "account"),
        part("POST", "/sobjects/Contact", "contact", {"LastName": "C", "AccountId": "@{account.records[0].Id}"}),
        part(
            "POST",
            "/composite/sobjects",
            "members",
            collected(
                record("CampaignMember", CampaignId="@{campaign.id}", LeadId="@{leads[1].id}"),
                record("CampaignMember", CampaignId="@{campaign.id}", ContactId="@{contact.id}"),
            ),
        ),
        part("GET", "/sobjects/Lead/@{leads[1].id}?fields=LastName", "again"),
        part("PATCH", "/sobjects/Contact/@{contact.id}", "title", {"Title": "of @{again.LastName}, indeed"}),
    )
    assert statuses(reply) == [201, 200, 200, 201, 200, 200, 204]
    assert [member["LeadOrContactId"] for member in await acme.records("CampaignMember")] == [
        bodies(reply)[1][1]["id"],
        bodies(reply)[3]["id"],
    ]
    (contact,) = await acme.records("Contact")
    assert (contact["Title"], contact["AccountId"]) == ("of B, indeed", bodies(reply)[2]["records"][0]["Id"])


@pytest.mark.parametrize(
    "text",
    ["@{leads[1].id}", "@{leads[5].id}", "@{leads[0].Id}", "@{nobody.id}", "@{later.id}", "my friend @{someone}", "an open @{brace", "@{}"],
)
async def test_a_reference_that_leads_nowhere_halts_its_subrequest_alone(acme: Caller, text: str) -> None:
    """Any text that holds `@{` is taken for a reference, wherever it stands."""
    reply = await acme.composite(
        part("POST", "/composite/sobjects", "leads", collected(lead(), lead(LastName=None))),
        part("POST", "/sobjects/Lead", "halted", CREATE | {"Title": text}),
        part("POST", "/sobjects/Lead", "later", CREATE),
    )
    assert statuses(reply) == [200, 400, 201]
    (error,) = bodies(reply)[1]
    assert error["errorCode"] == "PROCESSING_HALTED"
    assert error["message"].startswith("Invalid reference specified.")


async def test_a_halted_reference_names_what_was_missed(acme: Caller) -> None:
    reply = await acme.composite(part("POST", "/sobjects/Lead", "a", {}), part("PATCH", "/sobjects/Lead/@{a.id}", "b", {"Title": "x"}))
    assert bodies(reply)[1][0]["message"] == "Invalid reference specified. No value for id found in a"


async def test_nothing_of_a_failed_subrequest_can_be_referred_to(acme: Caller) -> None:
    reply = await acme.composite(
        part("POST", "/sobjects/Lead", "a", {}), part("POST", "/sobjects/Lead", "b", CREATE | {"Title": "@{a[0].message}"})
    )
    assert bodies(reply)[1][0]["errorCode"] == "PROCESSING_HALTED"


async def test_the_same_text_in_a_plain_collection_is_only_text(acme: Caller) -> None:
    await acme.create_all(lead(Title="@{someone}"))
    assert (await acme.records("Lead"))[0]["Title"] == "@{someone}"


async def test_more_than_25_subrequests_are_one_refusal_without_a_reference(acme: Caller) -> None:
    reply = await acme.composite(*(part("POST", "/sobjects/Lead", f"r{number}", CREATE) for number in range(26)))
    assert statuses(reply) == [400]
    (only,) = reply.body["compositeResponse"]
    assert (only["referenceId"], only["body"][0]["errorCode"]) == (None, "LIMIT_EXCEEDED")
    assert await acme.records("Lead") == []


async def test_more_than_5_queries_and_collections_are_refused_alike(acme: Caller) -> None:
    queries = [part("GET", "/query?q=SELECT Id FROM Lead", f"q{number}") for number in range(3)]
    writes = [part("POST", "/composite/sobjects", f"w{number}", collected(lead())) for number in range(3)]
    assert statuses(await acme.composite(*queries, *writes[:2])) == [200] * 5
    reply = await acme.composite(*queries, *writes)
    assert bodies(reply)[0][0]["errorCode"] == "LIMIT_EXCEEDED"
    assert len(await acme.records("Lead")) == 2


async def test_a_reference_id_must_be_a_word_and_unique(acme: Caller) -> None:
    for names in (("a", "a"), ("a-b", "c"), ("", "c")):
        reply = await acme.composite(*(part("POST", "/sobjects/Lead", name, CREATE) for name in names))
        assert reply.status == 400
    assert await acme.records("Lead") == []
    assert statuses(await acme.composite(*(part("POST", "/sobjects/Lead", name, CREATE) for name in ("a", "A")))) == [201, 201]


@pytest.mark.parametrize("name", ["Accept", "authorization", "Content_Type"])
async def test_inherited_headers_may_not_be_repeated(acme: Caller, name: str) -> None:
    reply = await acme.composite(part("POST", "/sobjects/Lead", "a", CREATE, **{name: "x"}), part("POST", "/sobjects/Lead", "b", CREATE))
    assert statuses(reply) == [400, 201]


async def test_duplicate_and_assignment_headers_count_only_in_the_subrequest_itself(acme: Caller) -> None:
    await acme.create("Lead", **CREATE)
    await acme.rule("duplicate", object="Lead", fields=["LastName"], action="alert", name="Twins")
    allow = {"Sforce_Duplicate_Rule_Header": "allowSave=true; includeRecordDetails=false"}
    body = {"compositeRequest": [part("POST", "/sobjects/Lead", "a", CREATE), part("POST", "/sobjects/Lead", "b", CREATE, **allow)]}
    reply = await acme.ask("POST", "/composite", body, **allow)
    assert statuses(reply) == [400, 201]
    entry = (await acme.calls())["log"][-1]
    assert [list(each["headers"]) for each in entry["subrequests"]] == [[], ["Sforce-Duplicate-Rule-Header"]]


async def test_all_or_none_rolls_back_everything_and_overrides_the_inner_flags(acme: Caller) -> None:
    standing = await acme.create("Lead", **CREATE)
    reply = await acme.composite(
        part("PATCH", f"/sobjects/Lead/{standing}", "first", {"Title": "x"}),
        part("POST", "/composite/sobjects", "second", collected(lead(), lead(LastName=None))),
        part("POST", "/sobjects/Lead", "third", CREATE),
        allOrNone=True,
    )
    assert statuses(reply) == [400, 200, 400]
    assert [result["errors"][0]["statusCode"] for result in bodies(reply)[1]] == [
        "ALL_OR_NONE_OPERATION_ROLLED_BACK",
        "REQUIRED_FIELD_MISSING",
    ]
    halted = [body[0] for body in (bodies(reply)[0], bodies(reply)[2])]
    assert {error["errorCode"] for error in halted} == {"PROCESSING_HALTED"}
    assert halted[0]["message"] == "The transaction was rolled back since another operation in the same transaction failed."
    (row,) = await acme.records("Lead")
    assert (row["Title"], len(row["history"])) == (None, 1)


async def test_a_plus_in_a_subrequests_url_is_a_space_unless_encoded(acme: Caller) -> None:
    await acme.create("Lead", **CREATE, Email="a+b@c.example")
    reply = await acme.composite(
        part("GET", "/query?q=SELECT Id FROM Lead WHERE Email = 'a+b@c.example'", "lost"),
        part("GET", "/query?q=SELECT Id FROM Lead WHERE Email = 'a%2Bb@c.example'", "found"),
    )
    assert [body["totalSize"] for body in bodies(reply)] == [0, 1]


async def test_what_may_not_stand_in_a_composite(acme: Caller) -> None:
    reply = await acme.composite(part("GET", "/limits", "a"), part("POST", "/composite", "b", {"compositeRequest": []}))
    assert statuses(reply) == [400, 400]
    malformed: list[Any] = [[], {}, {"compositeRequest": [1]}, {"compositeRequest": [{"method": "GET"}]}]
    for body in malformed:
        assert (await acme.ask("POST", "/composite", body)).status == 400
