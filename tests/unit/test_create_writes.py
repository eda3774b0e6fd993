"""Packing of writes into calls, and one result for each record, by its place."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LeaseLost
from schemas.messages import Cause
from schemas.settings import Org
from stages import writes
from stages.salesforce.door import Describe, Reply, Subrequest, Trouble
from stages.salesforce.errors import OrgUnavailable, OutcomeUnknown
from stages.salesforce.ids import full_id
from stages.writes import Lost, Refused, Saved, Unsent, Write

ORG = Org(id="acme", login_url="http://127.0.0.1:1", flow="client-credentials")


def the_id(number: int, prefix: str = "00Q") -> str:
    return full_id(f"{prefix}{number:012d}")


Answer = Callable[[Mapping[str, Any]], Any]


class Door:
    """Answers each record by a function of it; keeps the calls."""

    org, api_version = "acme", "62.0"

    def __init__(self, answer: Answer | None = None) -> None:
        self.calls: list[list[Subrequest]] = []
        self.fail: dict[int, Exception] = {}
        self._answer = answer or self._save

    @staticmethod
    def _save(record: Mapping[str, Any]) -> Any:
        return {"id": record.get("id") or the_id(record["N"]), "success": True, "errors": []}

    async def composite(self, subrequests: Sequence[Subrequest]) -> Sequence[Reply]:
        self.calls.append(list(subrequests))
        if (error := self.fail.get(len(self.calls))) is not None:
            raise error
        return [self._reply(part) for part in subrequests]

    async def collections(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Reply:
        (reply,) = await self.composite([Subrequest(method, path, body, headers)])
        return reply

    def _reply(self, part: Subrequest) -> Reply:
        if part.method == "GET":
            return Reply(200, {"done": True, "records": [{"Id": the_id(1, "01Y"), "attributes": {}}]})
        rows = [self._answer(record) for record in part.body["records"]]
        refusal = next((row for row in rows if isinstance(row, Reply)), None)
        return refusal or Reply(200, rows)

    async def query(self, soql: str, *, deleted: bool = False) -> Sequence[dict[str, Any]]:
        raise NotImplementedError

    async def follow(self, next_records_url: str) -> Sequence[dict[str, Any]]:
        raise NotImplementedError

    async def describe(self, object_name: str, *, fresh: bool = False) -> Describe:
        raise NotImplementedError

    async def user_id(self) -> str:
        raise NotImplementedError


def bodies(door: Door) -> list[list[dict[str, Any]]]:
    return [part.body["records"] for call in door.calls for part in call if part.method != "GET"]


@given(st.lists(st.tuples(st.sampled_from(["Lead", "Contact"]), st.booleans(), st.booleans()), max_size=60))
async def test_each_result_is_that_of_its_own_record_whatever_the_order_and_the_kinds(asked: list[tuple[str, bool, bool]]) -> None:
    def answer(record: Mapping[str, Any]) -> Any:
        if record["Bad"]:
            return {"success": False, "errors": [{"statusCode": "INVALID_EMAIL_ADDRESS", "message": str(record["N"]), "fields": []}]}
        return {"id": record.get("id") or the_id(record["N"]), "success": True, "errors": []}

    door = Door(answer)
    sent = [Write(kind, {"N": n, "Bad": bad}, the_id(n) if old else "") for n, (kind, old, bad) in enumerate(asked)]
    results = await writes.send(door, ORG, sent)
    for n, ((_, _, bad), result) in enumerate(zip(asked, results, strict=True)):
        if bad:
            assert isinstance(result, Refused)
            assert result.troubles[0].cause.message == str(n)
        else:
            assert result == Saved(the_id(n))


async def test_a_thousand_records_are_one_call_in_collections_of_two_hundred_sorted_by_type() -> None:
    door = Door()
    await writes.send(door, ORG, [Write("Lead" if n % 2 else "Contact", {"N": n}) for n in range(1000)])
    assert len(door.calls) == 1
    assert [len(records) for records in bodies(door)] == [200] * 5
    for records in bodies(door):
        kinds = [record["attributes"]["type"] for record in records]
        assert kinds == sorted(kinds)


async def test_creations_and_updates_go_apart_with_headers_of_their_own() -> None:
    door = Door()
    org = Org(id="acme", login_url="x", flow="client-credentials", assignment_rules=True, duplicate_rules="save")
    await writes.send(door, org, [Write("Lead", {"N": 1}), Write("Lead", {"N": 2}, the_id(2))])
    (created, updated) = door.calls[0]
    assert (created.method, created.headers["Sforce-Auto-Assign"]) == ("POST", "TRUE")
    assert (updated.method, updated.headers["Sforce-Auto-Assign"]) == ("PATCH", "FALSE")
    assert created.headers["Sforce-Duplicate-Rule-Header"].startswith("allowSave=true")


async def test_by_default_no_assignment_rule_runs_and_no_duplicate_rule_is_passed() -> None:
    door = Door()
    await writes.send(door, ORG, [Write("Lead", {"N": 1})])
    assert door.calls[0][0].headers == {"Sforce-Auto-Assign": "FALSE"}


async def test_text_that_looks_like_a_reference_goes_by_a_plain_call() -> None:
    door = Door()
    await writes.send(door, ORG, [Write("Lead", {"N": 1, "FirstName": "@{x.id}"}), Write("Lead", {"N": 2})])
    assert [len(call) for call in door.calls] == [1, 1]
    assert [[record["N"] for record in records] for records in bodies(door)] == [[2], [1]]


async def test_a_reply_that_names_another_record_is_not_taken_for_success() -> None:
    door = Door(lambda record: {"id": the_id(99), "success": True, "errors": []})
    (result,) = await writes.send(door, ORG, [Write("Lead", {"N": 1}, the_id(1))])
    assert isinstance(result, Lost)
    assert result.trouble.cause.code == writes.WRONG_ID


@pytest.mark.parametrize("row", [{"success": True}, {"success": True, "id": "nonsense"}, None, "x"])
async def test_a_reply_without_a_readable_id_leaves_the_outcome_open(row: Any) -> None:
    (result,) = await writes.send(Door(lambda record: row), ORG, [Write("Lead", {"N": 1})])
    assert isinstance(result, Lost)


async def test_one_call_that_is_lost_does_not_lose_the_results_of_the_others() -> None:
    door = Door()
    door.fail[2] = OutcomeUnknown(Trouble("transient", Cause(code="timeout", message="")))
    results = await writes.send(door, ORG, [Write("Lead", {"N": n}) for n in range(2500)])
    assert [type(result).__name__ for result in results] == ["Saved"] * 1000 + ["Lost"] * 1000 + ["Saved"] * 500


async def test_after_an_org_is_found_to_be_down_nothing_more_is_sent() -> None:
    door = Door()
    door.fail[2] = OrgUnavailable(Trouble("org", Cause(code="REQUEST_LIMIT_EXCEEDED", message="")))
    results = await writes.send(door, ORG, [Write("Lead", {"N": n}) for n in range(2500)])
    assert len(door.calls) == 2
    assert [isinstance(result, Unsent) for result in results] == [False] * 1000 + [True] * 1500


async def test_a_collection_refused_whole_for_one_records_text_is_sent_again_in_halves() -> None:
    """Salesforce could not read one record, and so refused all: its mates must not suffer."""
    refusal = Reply(400, [{"errorCode": "JSON_PARSER_ERROR", "message": "Cannot deserialize", "fields": []}])
    door = Door(lambda record: refusal if record["N"] == 37 else Door._save(record))
    results = await writes.send(door, ORG, [Write("Lead", {"N": n}) for n in range(100)])
    assert [n for n, result in enumerate(results) if not isinstance(result, Saved)] == [37]
    assert isinstance(results[37], Refused)
    assert len(door.calls) < 20


async def test_a_collection_refused_whole_for_the_orgs_fault_is_not_split() -> None:
    refusal = Reply(400, [{"errorCode": "INVALID_TYPE", "message": "sObject type 'Lead' is not supported"}])
    door = Door(lambda record: refusal)
    results = await writes.send(door, ORG, [Write("Lead", {"N": n}) for n in range(100)])
    assert len(door.calls) == 1
    assert all(isinstance(result, Refused) and result.troubles[0].kind == "org" for result in results)


async def test_a_body_that_does_not_fit_what_was_sent_tells_nothing() -> None:
    class Short(Door):
        def _reply(self, part: Subrequest) -> Reply:
            return Reply(200, [])

    (result,) = await writes.send(Short(), ORG, [Write("Lead", {"N": 1})])
    assert isinstance(result, Lost)


async def test_a_lost_lease_is_raised_and_nothing_more_is_sent() -> None:
    door = Door()
    door.fail[2] = LeaseLost()
    with pytest.raises(LeaseLost):
        await writes.send(door, ORG, [Write("Lead", {"N": n}) for n in range(2500)])
    assert len(door.calls) == 2


async def test_a_query_rides_in_the_call_of_the_writes_where_all_fits() -> None:
    door = Door()
    results, records = await writes.send_then_read(door, ORG, [Write("Lead", {"N": 1})], ["SELECT Id FROM Lead"], "Lead")
    assert results == [Saved(the_id(1))]
    assert records == [{"Id": the_id(1, "01Y")}]
    assert [part.method for part in door.calls[0]] == ["POST", "GET"]
    _, unread = await writes.send_then_read(door, ORG, [Write("Lead", {"N": n}) for n in range(1000)], ["SELECT Id FROM Lead"], "Lead")
    assert unread is None


@given(st.lists(st.integers(0, 400_000), max_size=40))
async def test_no_call_outgrows_what_salesforce_takes(sizes: list[int]) -> None:
    door = Door()
    sent = [Write("Lead", {"N": n, "Description": "x" * size}) for n, size in enumerate(sizes)]
    results = await writes.send(door, ORG, sent)
    assert all(isinstance(result, Saved) for result in results)
    for call in door.calls:
        total = sum(len(record["Description"]) for part in call for record in part.body["records"])
        assert total <= writes.CALL_BYTES or sum(len(part.body["records"]) for part in call) == 1
