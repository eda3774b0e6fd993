"""The switches: the log of calls, records with their history, the seed, and orgs that stand side by side."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stages.sandbox.salesforce import PortInUseError, SandboxOrgs, SeedError, calls
from stages.sandbox.salesforce.orgs import read_seed
from tests.contract.test_salesforce_stand_in.client import Caller, collected, lead, part, record

LEAD = {"LastName": "B", "Company": "C"}


async def test_the_root_answers_and_lists_the_switches(acme: Caller) -> None:
    told = await acme.switch("GET", "")
    assert told["ready"] is True
    assert "GET|DELETE /sandbox/calls" in told["switches"]


async def test_a_switch_that_is_not_there_is_a_404(acme: Caller) -> None:
    for method, path in (
        ("GET", "nothing"),
        ("POST", "calls"),
        ("GET", "records/Leed"),
        ("DELETE", "rules/rule-99"),
        ("DELETE", "faults/fault-99"),
        ("PUT", "faults"),
    ):
        async with acme.http.request(method, f"{acme.org.base_url}/sandbox/{path}") as response:
            assert (response.status, "error" in await response.json()) == (404, True)


@pytest.mark.parametrize(
    ("switch", "body", "said"),
    [
        ("rules", b"{", "not JSON"),
        ("faults", b"\xff", "not JSON"),
        ("rules", b"[" * 100_000, "not JSON"),
        ("reset", b"[]", "keys are: seed"),
        ("reset", b'{"sed": {}}', "keys are: seed"),
        ("reset", b'{"seed": 5}', "a seed is"),
        ("reset", b'{"seed": {"Lead": [{"LastName": "x", "Id": ["a"]}]}}', "Id is an id"),
        ("reset", b'{"seed": {"Lead": [{"LastName": "x", "CreatedDate": "0001-01-01T00:00:00+14:00"}]}}', "datetime"),
        ("reset", b'{"seed": {"Lead": [{"LastName": "x", "NumberOfEmployees": 1e300}]}}', "NUMBER_OUTSIDE_VALID_RANGE"),
        ("reset", b'{"seed": {"rules": [{"kind": "assignment", "owner": "nobody"}]}}', "no such user: nobody"),
        ("convert", b"5", "keys are: contact, lead"),
        ("convert", b"{}", '"lead" is needed'),
        ("convert", b'{"lead": ["x"]}', '"lead" is needed'),
        ("merge", b'{"object": 5}', '"object" is needed'),
        ("merge", b'{"object": "Lead", "winner": "x", "losers": [5]}', '"losers" is a list of ids'),
        ("edit", b'{"object": "Lead", "values": {}}', '"id" is needed'),
        ("edit", b'{"object": "Lead", "id": "x", "values": []}', '"values" is an object'),
    ],
)
async def test_a_body_that_makes_no_sense_is_refused_in_json_and_changes_nothing(acme: Caller, switch: str, body: bytes, said: str) -> None:
    await acme.create("Lead", **LEAD)
    async with acme.http.post(f"{acme.org.base_url}/sandbox/{switch}", data=body) as response:
        assert (response.status, said in (await response.json())["error"]) == (400, True)
    assert len(await acme.records("Lead")) == 1


async def test_each_call_has_its_line_and_a_composite_one_with_its_subrequests(acme: Caller) -> None:
    await acme.composite(
        part(
            "POST",
            "/composite/sobjects",
            "a",
            collected(lead(), record("Contact", LastName="B"), lead(LastName=None)),
            Sforce_Auto_Assign="FALSE",
        ),
        part("GET", "/query?q=SELECT Id FROM Lead", "b"),
    )
    line = (await acme.calls())["log"][-1]
    assert line.pop("at").endswith("Z")
    assert line["headers"].pop("Content-Type") == "application/json"
    assert "Authorization" not in line.pop("headers")
    first, second = line.pop("subrequests")
    assert line == {
        "method": "POST",
        "resource": "composite",
        "url": "/services/data/v62.0/composite",
        "user": "sandbox@example.com",
        "status": 200,
        "records": 4,
        "objects": {"Lead": 3, "Contact": 1},
        "errors": {"REQUIRED_FIELD_MISSING": 1},
    }
    assert first == {
        "method": "POST",
        "url": "/services/data/v62.0/composite/sobjects",
        "resource": "collections",
        "status": 200,
        "objects": {"Lead": 2, "Contact": 1},
        "errors": {"REQUIRED_FIELD_MISSING": 1},
        "headers": {"Sforce-Auto-Assign": "FALSE"},
    }
    assert (second["resource"], second["status"], second["objects"]) == ("query", 200, {"Lead": 1})


async def test_totals_are_by_resource_count_the_refused_and_leave_tokens_out(acme: Caller) -> None:
    await acme.query("SELECT Id FROM Leed")
    await acme.try_create("Lead", **LEAD)
    await acme.create_all(lead())
    await acme.ask("GET", "/sobjects/Lead/describe")
    await acme.ask("GET", "/limits")
    acme.token = "dead"
    await acme.ask("GET", "/limits")
    told = await acme.calls()
    assert told["errors"] == {"INVALID_TYPE": 1, "INVALID_SESSION_ID": 1}
    resources = {"token": 1, "query": 1, "sobjects": 1, "collections": 1, "describe": 1, "limits": 2}
    assert (told["total"], told["by_resource"]) == (6, resources)
    lines = [(entry["resource"], entry["user"], entry["status"]) for entry in told["log"]]
    assert lines[0] == ("token", "sandbox@example.com", 200)
    assert lines[-1] == ("limits", None, 401)
    await acme.switch("DELETE", "/calls")
    assert await acme.calls() == {"total": 0, "by_resource": {}, "errors": {}, "dropped_from_log": 0, "log": []}


async def test_the_log_is_bounded_and_its_totals_stay_right(acme: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "LARGEST_LOG_BYTES", 30_000)
    for _ in range(20):
        await acme.query("SELECT Id FROM Leed")
    told = await acme.calls()
    assert (told["total"], told["by_resource"]["query"], told["errors"]) == (20, 20, {"INVALID_TYPE": 20})
    assert 0 < len(told["log"]) < 20
    assert len(told["log"]) + told["dropped_from_log"] == 21


async def test_no_secret_is_in_the_log(acme: Caller) -> None:
    await acme.ask("GET", "/limits")
    assert acme.token not in json.dumps(await acme.calls())


async def test_histories_begin_with_the_creation_and_tell_every_change_by_whom(acme: Caller) -> None:
    made = await acme.create("Lead", **LEAD, Email="B@c.example")
    await acme.ask("PATCH", f"/sobjects/Lead/{made}", {"Title": "x"})
    await acme.ask("DELETE", f"/sobjects/Lead/{made}")
    (row,) = await acme.records("Lead")
    assert row["IsDeleted"] is True
    creation, change, deletion = row["history"]
    assert {field: creation["changes"][field] for field in ("Email", "Status", "Name")} == {
        "Email": [None, "b@c.example"],
        "Status": [None, "Open - Not Contacted"],
        "Name": [None, "B"],
    }
    assert not {"CreatedDate", "SystemModstamp", "LastModifiedDate", "Title"} & set(creation["changes"])
    assert (change["changes"], deletion["changes"]) == ({"Title": [None, "x"]}, {"IsDeleted": [False, True]})
    assert {entry["by"] for entry in row["history"]} == {"sandbox@example.com"}
    assert sorted(entry["at"] for entry in row["history"]) == [entry["at"] for entry in row["history"]]


async def test_records_show_every_field_also_hidden_ones(acme: Caller) -> None:
    await acme.create("Lead", **LEAD, Title="x")
    shown = set((await acme.describe("Lead"))["fields"])
    await acme.rule("field-permission", object="Lead", field="Title", read=False)
    (row,) = await acme.records("Lead")
    assert (set(row) - {"history"}, row["Title"]) == (shown, "x")


SEED: dict[str, list[dict[str, Any]]] = {
    "Lead": [
        {"LastName": "Old", "Company": "C", "Email": "Kim@Old.example", "IsConverted": True, "ConvertedContactId": "@kim"},
        {"Id": "@lea", "LastName": "Lea", "Company": "C"},
    ],
    "CampaignMember": [{"CampaignId": "@webinar", "LeadId": "@lea", "Status": "Registered"}],
    "CampaignMemberStatus": [
        {"CampaignId": "@webinar", "Label": "Registered", "IsDefault": True},
        {"CampaignId": "@webinar", "Label": "Responded", "SortOrder": 8},
    ],
    "Campaign": [{"Id": "@webinar", "Name": "W"}],
    "Contact": [{"Id": "@kim", "LastName": "Kim", "AccountId": "@mill", "CreatedDate": "2019-03-04T05:06:07Z"}],
    "Account": [{"Id": "@mill", "Name": "Mill"}],
}


async def test_a_seed_may_set_read_only_fields_and_refer_by_name_forward_too(http: aiohttp.ClientSession) -> None:
    async with SandboxOrgs(1, seed_data=SEED) as orgs:
        acme = Caller(orgs.orgs[0], http)
        (account,), (contact,), (converted, lea) = [await acme.records(name) for name in ("Account", "Contact", "Lead")]
        assert (contact["AccountId"], converted["ConvertedContactId"]) == (account["Id"], contact["Id"])
        assert (contact["CreatedDate"], contact["LastModifiedDate"]) == ("2019-03-04T05:06:07.000+0000",) * 2
        assert (converted["Email"], converted["IsConverted"]) == ("kim@old.example", True)
        assert [entry["by"] for entry in contact["history"]] == ["seed"]
        (member,) = await acme.records("CampaignMember")
        assert (member["LeadId"], member["Status"]) == (lea["Id"], "Registered")
        statuses = [(row["Label"], row["SortOrder"], row["IsDefault"]) for row in await acme.records("CampaignMemberStatus")]
        assert sorted(statuses) == [("Registered", 3, True), ("Responded", 8, False), ("Sent", 1, False)]


async def test_a_reset_goes_back_to_the_seed_without_faults_rules_and_calls(http: aiohttp.ClientSession) -> None:
    own: dict[str, Any] = SEED | {"rules": [{"kind": "custom-field", "object": "Lead", "field": "Key__c"}]}
    async with SandboxOrgs(1, seed_data=own) as orgs:
        acme = Caller(orgs.orgs[0], http)
        await acme.log_in()
        before = [row["LastName"] for row in await acme.records("Lead")]
        await acme.create("Lead", **LEAD)
        await acme.fault("UNKNOWN_EXCEPTION", None, resource="*")
        await acme.rule("page-size", size=1)
        await acme.switch("POST", "/reset")
        assert [row["LastName"] for row in await acme.records("Lead")] == before
        assert (await acme.switch("GET", "/faults"))["faults"] == []
        assert [rule["kind"] for rule in (await acme.switch("GET", "/rules"))["rules"]] == ["custom-field"]
        assert (await acme.calls())["total"] == 0
        assert (await acme.ask("GET", "/limits")).status == 401
        await acme.log_in()
        assert (await acme.ask("GET", "/limits")).headers["Sforce-Limit-Info"] == "api-usage=1/1000000"


async def test_a_seed_with_mistakes_is_refused_with_all_of_them(http: aiohttp.ClientSession) -> None:
    wrong = {"Lead": [{"LastName": "x", "Titel": "y"}, {"City": "z" * 41}], "Leed": [], "rules": [{"kind": "nonsense"}]}
    with pytest.raises(SeedError) as told:
        async with SandboxOrgs(1, seed_data=wrong):
            pass
    assert [part in str(told.value) for part in ("Titel", "STRING_TOO_LONG", "no such object: Leed", "kind must be")] == [True] * 4


def test_a_seed_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for path in (broken, tmp_path / "missing.json"):
        with pytest.raises(SeedError, match=path.name):
            read_seed(path)


async def test_orgs_of_one_process_have_ports_records_and_ids_of_their_own(http: aiohttp.ClientSession) -> None:
    seeds = [{"Lead": [{"LastName": "First", "Company": "C"}]}, {"Lead": [{"LastName": "Second", "Company": "C"}]}]
    async with SandboxOrgs(2, seed_data=seeds) as orgs:
        first, second = [Caller(org, http) for org in orgs.orgs]
        assert len(set(orgs.urls)) == 2
        await first.log_in()
        second.token = first.token
        assert (await second.ask("GET", "/limits")).status == 401
        await second.log_in()
        rows = [(await caller.records("Lead"))[0] for caller in (first, second)]
        assert [row["LastName"] for row in rows] == ["First", "Second"]
        assert rows[0]["Id"] != rows[1]["Id"]
        reply = await second.ask("GET", f"/sobjects/Lead/{rows[0]['Id']}")
        assert (reply.status, reply.code) == (404, "NOT_FOUND")


async def test_a_taken_port_is_named_and_leaves_nothing_open() -> None:
    """Whichever of several it is."""
    async with SandboxOrgs(1) as orgs:
        port = int(orgs.urls[0].rpartition(":")[2])
        for _ in range(2):
            with pytest.raises(PortInUseError, match=f"port {port}: "):
                async with SandboxOrgs(2, port=port - 1):
                    pass
