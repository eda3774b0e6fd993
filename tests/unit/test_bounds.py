"""Bounds that rest on each other, and what only one place in the code may do: read from the code, so that no change can part them."""

import ast
import functools

import pytest

from pipeline.kafka import KafkaSettings
from pipeline.lanes import org_lane, session_lane, workspace_lane
from pipeline.memory import MemoryBroker, MemoryTransport
from pipeline.messages import Message, headers
from pipeline.metadata import LIMIT_CHARACTERS
from pipeline.outcomes import Batch, Drop, Outcome
from pipeline.records import Ack, Record
from pipeline.stage import Limits, OpenGate, Stage
from pipeline.tables import Tables
from schemas.messages import SCHEMA
from stages import flow
from stages.gate import PausedWorkspaces
from stages.salesforce.wire import CallTimes
from tests.compose import ROOT

CALL_SECONDS = 30.0
"""What the engine counts on as the longest call."""


# -- times --------------------------------------------------------------------------------------------


def test_whoever_lets_go_has_waited_for_its_calls_before_the_group_goes_on_without_it() -> None:
    """A call ends before the grace time, and the grace time before the rebalance does."""
    call, limits, kafka = CallTimes(), Limits(), KafkaSettings(bootstrap="nowhere:1")
    assert call.connect + call.read <= call.total < CALL_SECONDS
    assert CALL_SECONDS < limits.grace_seconds < kafka.rebalance_timeout_ms / 1000
    assert limits.grace_seconds + 10 < kafka.rebalance_timeout_ms / 1000, "and its last commit"


def test_whoever_takes_over_waits_for_longer_than_a_call_may_take() -> None:
    """The lease is asked as the bytes go: a call that was begun then ends within its deadline."""
    assert Limits().takeover_seconds > CALL_SECONDS


def test_a_lease_outlasts_several_heartbeats_and_a_full_memory_no_poll_interval() -> None:
    limits, kafka = Limits(), KafkaSettings(bootstrap="nowhere:1")
    assert kafka.heartbeat_interval_ms * 3 < kafka.session_timeout_ms / 2
    assert limits.poll_seconds * 1000 * 10 < kafka.max_poll_interval_ms


def test_commits_are_at_most_one_a_second_and_metadata_takes_three_quarters_of_what_kafka_does() -> None:
    assert Limits().commit_seconds == 1.0
    assert LIMIT_CHARACTERS == 4096 * 3 // 4


# -- one committer --------------------------------------------------------------------------------------


class _Calls(ast.NodeVisitor):
    """Every call of a file, with the function around it."""

    def __init__(self, path: str) -> None:
        self._path, self._around = path, ""
        self.found: list[tuple[str, str, ast.Call]] = []

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        around, self._around = self._around, node.name
        self.generic_visit(node)
        self._around = around

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Call(self, node: ast.Call) -> None:
        self.found.append((self._path, self._around, node))
        self.generic_visit(node)


@functools.cache
def _all_calls() -> list[tuple[str, str, ast.Call]]:
    found = []
    for package in ("pipeline", "stages"):
        for path in (ROOT / package).rglob("*.py"):
            visitor = _Calls(path.relative_to(ROOT).as_posix())
            visitor.visit(ast.parse(path.read_text()))
            found += visitor.found
    return found


def calls(name: str) -> list[tuple[str, str, ast.Call]]:
    """File, function around, and call, of every call of something with this name."""
    return [one for one in _all_calls() if name in (getattr(one[2].func, "attr", None), getattr(one[2].func, "id", None))]


def test_one_function_commits() -> None:
    """The worker's; below it the one call of Kafka's client, and above it the ledger's pure value."""
    found = {(path, function) for path, function, _ in calls("commit")}
    assert found == {("pipeline/worker.py", "_commit"), ("pipeline/kafka/group.py", "commit")}


def test_no_consumer_commits_by_itself_or_jumps_where_it_knows_no_place() -> None:
    """Auto-commit wipes the metadata; any reset but none jumps without a sound."""
    consumers = calls("AIOKafkaConsumer")
    assert len(consumers) >= 3
    for path, _, call in consumers:
        told = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg in ("enable_auto_commit", "auto_offset_reset")}  # fmt: skip
        assert told == {"enable_auto_commit": False, "auto_offset_reset": "none"}, path


def test_no_transaction_and_no_producer_that_is_not_idempotent() -> None:
    """aiokafka fences transactions not by the group's generation."""
    producers = calls("AIOKafkaProducer")
    assert len(producers) == 1
    told = {keyword.arg: keyword.value for _, _, call in producers for keyword in call.keywords}
    assert ast.literal_eval(told["enable_idempotence"]) is True
    assert "transactional_id" not in told
    assert not [path for path, _, _ in calls("send_offsets_to_transaction")]


# -- the lanes of the flow --------------------------------------------------------------------------------


async def nothing(batch: Batch) -> list[Outcome]:
    return [Drop("nothing")] * len(batch.messages)


def message(stage: Stage, kind: str, workspace: str = "emea") -> Message:
    head = headers(id="1", kind=kind, workspace=workspace, org="acme", session="s1", event="e1", happened_at=0, received_at=0, schema=SCHEMA)  # fmt: skip
    read = Message(Record(stage.reads, 0, 0, 0, b"ada@mill.example", b"", head))
    read.shared_lanes = stage.shared_lanes(read)
    return read


@pytest.mark.parametrize("name", flow.STAGES)
def test_what_others_wait_for_is_urgent_and_a_company_is_no_workspaces(name: str) -> None:
    """A company that was passed over for one workspace's sake would keep those of another waiting, which is a deadlock."""
    stage = flow.stage(name, nothing, OpenGate())
    org, workspace = org_lane("acme"), workspace_lane("acme", "emea")
    assert message(stage, "company").shared_lanes == (org,)
    assert message(stage, "session").shared_lanes == message(stage, "event").shared_lanes == (org, workspace)
    assert [stage.urgent(message(stage, kind)) for kind in ("session", "event", "company", "registration")] == [True, True, True, False]
    assert message(stage, "registration").shared_lanes[:2] == (org, workspace)


def test_a_session_is_a_lane_and_a_campaign_one_call_at_a_time_where_members_are_written() -> None:
    stage = flow.stage("campaign-membership", nothing, OpenGate())
    registration = message(stage, "registration")
    assert registration.shared_lanes[-1] == session_lane("acme", "emea", "s1") == stage.waiting_lane(registration)
    assert stage.serial(registration) == "s1"
    assert stage.last


# -- paused by hand -----------------------------------------------------------------------------------------


def test_a_paused_workspace_is_closed_by_its_row_and_its_companies_are_not() -> None:
    table = Tables(MemoryTransport(MemoryBroker()), ["workspaces"])["workspaces"]
    table.written("emea", b'{"id":"emea","org":"acme","livestorm":{"organization_id":"x","webhook_secret":"y"},"paused":true}', Ack(0, 0))
    gate = PausedWorkspaces(table)
    stage = flow.stage("create", nothing, gate)
    closed = gate.closed(message(stage, "registration"))
    assert closed is not None
    assert (closed.lane, closed.state) == (workspace_lane("acme", "emea"), "paused")
    assert "`turnout workspace resume emea`" in closed.cause.hint
    assert gate.closed(message(stage, "session")) is not None
    assert gate.closed(message(stage, "company")) is None
    assert gate.closed(message(stage, "registration", "apac")) is None
    assert gate.lane_closed(closed.lane)
    assert not gate.lane_closed(org_lane("acme"))
    table.written("emea", b'{"id":"emea","org":"acme","livestorm":{"organization_id":"x","webhook_secret":"y"}}', Ack(0, 1))
    assert gate.closed(message(stage, "registration")) is None
    assert not gate.lane_closed(closed.lane)
