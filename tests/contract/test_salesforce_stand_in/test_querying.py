"""SOQL over HTTP: what it finds, how it answers, and in which words it refuses."""

# Every SOQL here is put together from the test's own values.
# ruff: noqa: S608

from typing import Any
from urllib.parse import quote

import pytest

from tests.contract.test_salesforce_stand_in.client import Caller, collected, lead, part


async def seeded(acme: Caller, **objects: list[dict[str, Any]]) -> None:
    await acme.switch("POST", "/reset", {"seed": objects})
    await acme.log_in()


async def test_records_come_with_attributes_and_every_selected_field_null_or_not(acme: Caller) -> None:
    made = await acme.create("Contact", LastName="Okafor")
    reply = await acme.query("SELECT Id, Email, Account.Name FROM Contact")
    url = f"/services/data/v62.0/sobjects/Contact/{made}"
    assert reply.body == {
        "totalSize": 1,
        "done": True,
        "records": [{"attributes": {"type": "Contact", "url": url}, "Id": made, "Email": None, "Account": None}],
    }


async def test_parents_are_nested_and_can_be_filtered_by(acme: Caller) -> None:
    account = await acme.create("Account", Name="Mill")
    await acme.create("Contact", LastName="Okafor", AccountId=account)
    await acme.create("Contact", LastName="Ito")
    found = await acme.rows("SELECT LastName, Account.Name, Account.Owner.Username FROM Contact WHERE account.name = 'mill'")
    attributes = {"type": "Account", "url": f"/services/data/v62.0/sobjects/Account/{account}"}
    owner = found[0]["Account"].pop("Owner")
    assert found == [{"LastName": "Okafor", "Account": {"attributes": attributes, "Name": "Mill"}}]
    assert owner["Username"] == "sandbox@example.com"


async def test_count_gives_the_total_and_no_records(acme: Caller) -> None:
    await acme.create_all(*(lead() for _ in range(3)))
    assert (await acme.query("SELECT COUNT() FROM Lead")).body == {"totalSize": 3, "done": True, "records": []}


async def test_field_and_object_names_are_canonical_in_replies_however_they_were_written(acme: Caller) -> None:
    await acme.create("Lead", lastname="B", COMPANY="C")
    assert await acme.rows("select LASTNAME, company from lead") == [{"LastName": "B", "Company": "C"}]


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("Email = 'A_WEBER@mill.example'", ["a"]),
        ("Email IN ('a_weber@mill.example', 'nobody@x.example')", ["a"]),
        ("Email IN ('a_weber@mill.example') AND LastName = 'x'", []),
        ("Email LIKE 'a_weber@%'", ["a", "ax"]),
        (r"Email LIKE 'a\_weber@%'", ["a"]),
        (r"Title LIKE '100\% sure'", ["a"]),
        (r"Title LIKE '%sure'", ["a"]),
        (r"LastName = 'O\'Keefe'", ["o"]),
        ("Title = null", ["ax", "o"]),
        ("Title = ''", ["ax", "o"]),
        ("Title != '100% sure'", ["ax", "o"]),
        ("LastName NOT IN ('Weber', 'Axweber')", ["o"]),
        ("NOT (LastName = 'weber' OR LastName = 'axweber')", ["o"]),
        ("(LastName = 'Weber' OR LastName LIKE 'O%') AND Title = null", ["o"]),
        ("NumberOfEmployees > 5", ["ax"]),
        ("NumberOfEmployees <= 5", ["a"]),
        ("NumberOfEmployees = 5.0", ["a"]),
        ("IsConverted = false AND Title != null", ["a"]),
        ("CreatedDate < 2020-01-01T00:00:00Z", ["ax"]),
        ("CreatedDate = 2019-05-05T02:00:00+02:00", ["ax"]),
        ("Email = null", ["o"]),
        ("Email IN (null)", ["o"]),
        ("LastName > 'B' AND LastName < 'P'", ["o"]),
    ],
)
async def test_conditions(acme: Caller, condition: str, found: list[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"Description": "a", "LastName": "Weber", "Email": "a_weber@mill.example", "Title": "100% sure", "NumberOfEmployees": 5},
        {"Description": "ax", "LastName": "Axweber", "Email": "axweber@mill.example", "NumberOfEmployees": 50},
        {"Description": "o", "LastName": "O'Keefe"},
    ]
    rows[1]["CreatedDate"] = "2019-05-05T00:00:00Z"
    await seeded(acme, Lead=[{"Company": "C", **row} for row in rows])
    assert await acme.values(f"SELECT Description FROM Lead WHERE {condition}") == found


async def test_ids_compare_in_15_and_18_characters(acme: Caller) -> None:
    made = await acme.create("Lead", LastName="B", Company="C")
    for written in (made, made[:15], made.lower()[:15] + made[15:]):
        assert await acme.values(f"SELECT Id FROM Lead WHERE Id = '{written}'") == [made]
    assert (await acme.query("SELECT Id FROM Lead WHERE Id = 'abc'")).code == "INVALID_QUERY_FILTER_OPERATOR"


async def test_order_is_by_several_fields_with_nulls_first_unless_told(acme: Caller) -> None:
    for last, title in (("B", None), ("a", "z"), ("B", "x"), ("C", "y")):
        await acme.create("Lead", LastName=last, Company="C", Title=title)
    ordered = "SELECT LastName, Title FROM Lead ORDER BY"
    assert [(row["LastName"], row["Title"]) for row in await acme.rows(f"{ordered} LastName, Title DESC NULLS LAST")] == [
        ("a", "z"),
        ("B", "x"),
        ("B", None),
        ("C", "y"),
    ]
    assert [row["LastName"] for row in await acme.rows(f"{ordered} LastName DESC, Id")] == ["C", "B", "B", "a"]
    assert [row["Title"] for row in await acme.rows(f"{ordered} Title")] == [None, "x", "y", "z"]
    assert [row["Title"] for row in await acme.rows(f"{ordered} Title LIMIT 2 OFFSET 1")] == ["x", "y"]


async def test_records_of_one_collection_share_their_created_date_in_whole_seconds(acme: Caller) -> None:
    await acme.create_all(lead(), lead())
    first, second = await acme.values("SELECT CreatedDate FROM Lead ORDER BY CreatedDate ASC, Id ASC")
    assert first == second
    assert first.endswith(".000+0000")


async def test_pages_are_followed_by_their_url_and_the_total_is_of_all(acme: Caller) -> None:
    await acme.create_all(*(lead(Title=f"{number:02}") for number in range(5)))
    await acme.rule("page-size", size=2)
    page = (await acme.query("SELECT Title FROM Lead ORDER BY Title")).body
    titles = []
    sizes = []
    while True:
        titles += [record["Title"] for record in page["records"]]
        sizes.append((page["totalSize"], page["done"], len(page["records"])))
        if page["done"]:
            break
        page = (await acme.ask("GET", page["nextRecordsUrl"])).body
    assert titles == ["00", "01", "02", "03", "04"]
    assert sizes == [(5, False, 2), (5, False, 2), (5, True, 1)]
    assert "nextRecordsUrl" not in page


async def test_a_page_holds_2000_records_or_as_many_as_the_header_wants(acme: Caller) -> None:
    for _ in range(11):
        await acme.create_all(*(lead() for _ in range(200)))
    page = (await acme.query("SELECT Id FROM Lead")).body
    assert (page["totalSize"], len(page["records"])) == (2200, 2000)
    page = (await acme.query("SELECT Id FROM Lead", Sforce_Query_Options="batchSize=250")).body
    assert len(page["records"]) == 250
    assert page["nextRecordsUrl"].endswith("-250")


async def test_an_unknown_locator_is_refused(acme: Caller) -> None:
    assert (await acme.ask("GET", "/query/01gS00000000000AAA-2000")).code == "INVALID_QUERY_LOCATOR"


async def test_only_query_all_sees_the_recycle_bin(acme: Caller) -> None:
    made = await acme.create("Lead", LastName="B", Company="C", Email="b@c.example")
    await acme.ask("DELETE", f"/sobjects/Lead/{made}")
    soql = "SELECT Id, IsDeleted FROM Lead WHERE Email = 'b@c.example'"
    assert (await acme.query(soql)).body["totalSize"] == 0
    (found,) = (await acme.query(soql, resource="queryAll")).body["records"]
    assert (found["Id"], found["IsDeleted"]) == (made, True)


@pytest.mark.parametrize(
    ("soql", "code"),
    [
        ("SELECT Id FROM Lead WHERE Email IN ()", "MALFORMED_QUERY"),
        (r"SELECT Id FROM Lead WHERE Email = 'a\qb'", "MALFORMED_QUERY"),
        (r"SELECT Id FROM Lead WHERE Email = 'a\_b'", "MALFORMED_QUERY"),
        ("SELECT Id FROM Lead WHERE Email = 'a' AND Title = 'b' OR Title = 'c'", "MALFORMED_QUERY"),
        ("SELECT Id FROM", "MALFORMED_QUERY"),
        ("SELECT Id, Id FROM Lead", "MALFORMED_QUERY"),
        ("SELECT Id FROM Lead WHERE Email = 'open", "MALFORMED_QUERY"),
        ("", "MALFORMED_QUERY"),
        (f"SELECT Id FROM Lead WHERE Email = '{'x' * 4001}'", "MALFORMED_QUERY"),
        ("SELECT Id FROM Leed", "INVALID_TYPE"),
        ("SELECT Emale FROM Lead", "INVALID_FIELD"),
        ("SELECT Id FROM Lead WHERE Emale = 'a'", "INVALID_FIELD"),
        ("SELECT Id FROM Lead ORDER BY Emale", "INVALID_FIELD"),
        ("SELECT Boss.Name FROM Lead", "INVALID_FIELD"),
        ("SELECT Id FROM Lead WHERE Description = 'a'", "INVALID_FIELD"),
        ("SELECT Id FROM Lead WHERE Email = 5", "INVALID_FIELD"),
        ("SELECT Id FROM Lead WHERE CreatedDate > '2026-01-01'", "INVALID_FIELD"),
        ("SELECT Id FROM Lead OFFSET 2001", "NUMBER_OUTSIDE_VALID_RANGE"),
    ],
)
async def test_what_is_refused(acme: Caller, soql: str, code: str) -> None:
    reply = await acme.query(soql)
    assert (reply.status, reply.code) == (400, code)


async def test_a_refusal_says_where(acme: Caller) -> None:
    reply = await acme.query("SELECT Id,\nEmale FROM Lead")
    assert "ERROR at Row:2:Column:1\nNo such column 'Emale' on entity 'Lead'" in reply.message
    assert "ERROR at Row:1:Column:16\nsObject type 'Leed' is not supported" in (await acme.query("SELECT Id FROM Leed")).message
    assert (
        "field 'Description' can not be filtered in a query call"
        in (await acme.query("SELECT Id FROM Lead WHERE Description = 'a'")).message
    )


async def test_a_plus_in_the_url_is_a_space(acme: Caller) -> None:
    await acme.create("Lead", LastName="B", Company="C", Email="a+b@c.example")
    soql = "SELECT Email FROM Lead WHERE Email = 'a+b@c.example'"
    lost = await acme.ask("GET", "/query?q=" + soql.replace(" ", "+"))
    assert lost.body["totalSize"] == 0
    assert (await acme.query(soql)).body["totalSize"] == 1


async def test_a_uri_over_16384_bytes_is_a_414_and_with_its_headers_a_431(acme: Caller) -> None:
    def long(length: int) -> str:
        return "SELECT Id FROM Lead WHERE LastName IN ('" + "','".join(["x" * 100] * (length // 100)) + "')"

    assert (await acme.query(long(15_000))).status == 200
    reply = await acme.query(long(17_000))
    assert (reply.status, "Sforce-Limit-Info" in reply.headers) == (414, True)
    assert (await acme.query(long(13_000), X_Padding="y" * 4_000)).status == 431


async def test_soql_over_100000_characters_is_refused_even_in_a_composite(acme: Caller) -> None:
    for values, status in ((101, 400), (99, 200)):
        text = "SELECT Id FROM Lead WHERE LastName IN ('" + "','".join(["x" * 997] * values) + "')"
        reply = await acme.composite(part("GET", "/query?q=" + quote(text, safe=""), "q"))
        assert reply.body["compositeResponse"][0]["httpStatusCode"] == status


async def test_a_campaigns_members_are_found_by_lead_or_contact(acme: Caller) -> None:
    campaign = await acme.create("Campaign", Name="W")
    person = await acme.create("Lead", LastName="B", Company="C", Email="b@c.example", City="Lyon")
    member = await acme.create("CampaignMember", CampaignId=campaign, LeadId=person)
    (row,) = await acme.rows(
        f"SELECT Id, LeadOrContactId, Type, Email, City, CompanyOrAccount, Lead.Company, Campaign.Name FROM CampaignMember "
        f"WHERE CampaignId = '{campaign}' AND LeadOrContactId IN ('{person[:15]}')"
    )
    told = {name: value for name, value in row.items() if not isinstance(value, dict)}
    told_of = {"LeadOrContactId": person, "Type": "Lead", "Email": "b@c.example", "City": "Lyon", "CompanyOrAccount": "C"}
    assert told == {"Id": member, **told_of}
    assert (row["Lead"]["Company"], row["Campaign"]["Name"]) == ("C", "W")


async def test_the_org_and_its_users_can_be_asked_for(acme: Caller) -> None:
    assert await acme.values("SELECT Id FROM Organization") == [acme.org.id]
    users = "SELECT Username, Name, IsActive, UserPermissionsMarketingUser FROM User WHERE Username = 'SANDBOX@example.com'"
    assert [tuple(row.values()) for row in await acme.rows(users)] == [("sandbox@example.com", "Integration User", True, True)]
    assert acme.org.id.startswith("00D")


async def test_a_query_inside_a_collection_of_calls_pages_too(acme: Caller) -> None:
    await acme.ask("POST", "/composite/sobjects", collected(lead(), lead(), lead()))
    await acme.rule("page-size", size=2)
    reply = await acme.composite(part("GET", "/query?q=SELECT Id FROM Lead", "q"))
    page = reply.body["compositeResponse"][0]["body"]
    assert (page["done"], len(page["records"])) == (False, 2)
    assert len((await acme.ask("GET", page["nextRecordsUrl"])).body["records"]) == 1
