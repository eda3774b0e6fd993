"""The plan of topics: pure."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import topics
from pipeline.kafka import KafkaSettings
from pipeline.metadata import LIMIT_CHARACTERS
from pipeline.topics import Change, Found, TopicSpec
from stages import flow

SETTINGS = KafkaSettings(prefix="p")

specs = st.builds(
    TopicSpec,
    name=st.sampled_from(["received", "orgs", "dead-letters"]),
    partitions=st.integers(1, 64),
    replication=st.integers(1, 3),
    compacted=st.booleans(),
    retention_hours=st.integers(1, 10_000),
    max_message_bytes=st.integers(1, 10**7),
)


def made(spec: TopicSpec) -> Found:
    """The topic as `apply` makes it."""
    return Found(spec.partitions, spec.replication, spec.configs(), spec.configs())


def test_a_log_is_kept_by_the_time_of_appending_for_its_hours() -> None:
    assert TopicSpec("received", 12, retention_hours=336).configs() == {
        "cleanup.policy": "delete",
        "retention.ms": str(14 * 24 * 3_600_000),
        "retention.bytes": "-1",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": "1048576",
    }


def test_a_table_is_compacted_and_kept_for_ever() -> None:
    configs = TopicSpec("orgs", 12, compacted=True).configs()
    assert configs["cleanup.policy"] == "compact"
    assert "retention.ms" not in configs
    assert "message.timestamp.type" not in configs


@pytest.mark.parametrize(("replication", "least"), [(1, None), (2, "1"), (3, "2"), (5, "2")])
def test_writing_goes_on_without_one_replica(replication: int, least: str | None) -> None:
    assert TopicSpec("received", 12, replication=replication).configs().get("min.insync.replicas") == least


@given(specs)
def test_what_was_made_as_planned_needs_no_change(spec: TopicSpec) -> None:
    assert topics.changes(SETTINGS, [spec], {spec.name: made(spec)}) == []
    assert topics.partition_problems(SETTINGS, [spec], {spec.name: made(spec)}) == []


@given(specs, specs)
def test_changes_lead_from_what_is_to_what_is_planned_and_then_end(spec: TopicSpec, other: TopicSpec) -> None:
    wanted = dataclasses.replace(spec, name=other.name)
    found = made(other)
    changes = topics.changes(SETTINGS, [wanted], {other.name: found})
    assert all(found.configs[change.setting] == change.before != change.after for change in changes)
    after = dataclasses.replace(found, configs={**found.configs, **{change.setting: change.after for change in changes}})
    assert topics.changes(SETTINGS, [wanted], {other.name: after}) == []


def test_a_setting_that_the_broker_does_not_know_is_left_alone() -> None:
    spec = TopicSpec("received", 1)
    configs = {key: value for key, value in spec.configs().items() if key != "message.timestamp.type"}
    assert topics.changes(SETTINGS, [spec], {"received": Found(1, 1, configs, {})}) == []


def test_few_replicas_never_make_a_topic_that_takes_no_writes() -> None:
    """`min.insync.replicas` 2 on a topic of one replica would stop all writing."""
    spec = TopicSpec("received", 1, replication=3)
    single = made(dataclasses.replace(spec, replication=1))
    configs = {**single.configs, "min.insync.replicas": "1"}
    assert topics.changes(SETTINGS, [spec], {"received": dataclasses.replace(single, configs=configs)}) == []


def test_what_is_missing_is_created_by_its_full_name() -> None:
    (change,) = topics.changes(SETTINGS, [TopicSpec("received", 12, replication=3)], {})
    assert change == Change("p.received", after="12 partitions, replication 3")
    assert str(change) == "p.received: created, 12 partitions, replication 3"


@given(specs, st.integers(1, 64))
def test_another_number_of_partitions_is_an_error_that_names_the_way(spec: TopicSpec, partitions: int) -> None:
    found = {spec.name: dataclasses.replace(made(spec), partitions=partitions)}
    problems = topics.partition_problems(SETTINGS, [spec], found)
    assert bool(problems) == (partitions != spec.partitions)
    for problem in problems:
        assert problem.severity == "error"
        assert "TURNOUT_TOPIC_PREFIX" in problem.mend
        assert "TURNOUT_PARTITIONS" in problem.mend


def test_what_is_wrong_in_the_same_way_is_told_once_with_all_names() -> None:
    planned = flow.topics(partitions=12, replication=1, retention_hours=1)
    found = {spec.name: dataclasses.replace(made(spec), partitions=6 if spec.name == "orgs" else 4) for spec in planned}
    told = topics.grouped(topics.partition_problems(SETTINGS, planned, found))
    assert {problem.found for problem in told} == {"has 4 partitions, not 12", "has 6 partitions, not 12"}
    assert sorted(name for problem in told for name in problem.subject.split(", ")) == sorted(f"p.{spec.name}" for spec in planned)


def test_what_is_not_as_planned_is_an_error_that_names_the_command() -> None:
    spec = TopicSpec("received", 1)
    missing = topics.problems(SETTINGS, [spec], {}, {})
    assert [(p.severity, p.found, p.mend) for p in missing] == [("error", "is missing", "run `turnout topics apply`")]
    short = {"received": made(dataclasses.replace(spec, retention_hours=1, replication=2))}
    (problem,) = topics.problems(SETTINGS, [spec], short, {})
    assert (problem.subject, problem.severity) == ("p.received", "error")
    assert "retention.ms is 3600000" in problem.found


def test_one_replica_and_fewer_than_planned_are_warnings() -> None:
    spec = TopicSpec("received", 1)
    (alone,) = topics.problems(SETTINGS, [spec], {"received": made(spec)}, {})
    assert (alone.severity, "one replica" in alone.found) == ("warning", True)
    wanted = dataclasses.replace(spec, replication=3)
    (fewer,) = topics.problems(SETTINGS, [wanted], {"received": made(dataclasses.replace(spec, replication=2))}, {})
    assert (fewer.severity, fewer.found) == ("warning", "has 2 replicas, not 3")


@pytest.mark.parametrize(("minutes", "warned"), [("20159", True), ("20160", False), ("20161", False)])
def test_offsets_that_are_forgotten_before_the_messages_that_a_stage_reads_are_warned_of(minutes: str, warned: bool) -> None:
    plan = [
        TopicSpec("received", 1, replication=2, retention_hours=336, cursors=True),
        TopicSpec("dead-letters", 1, replication=2, retention_hours=2160),
        TopicSpec("orgs", 1, replication=2, compacted=True, retention_hours=10**6),
    ]
    found = {spec.name: made(spec) for spec in plan}
    told = topics.problems(SETTINGS, plan, found, {"offsets.retention.minutes": minutes, "auto.create.topics.enable": "false"})
    assert [problem.severity for problem in told] == (["warning"] if warned else [])


@pytest.mark.parametrize(("characters", "warned"), [(str(LIMIT_CHARACTERS - 1), True), (str(LIMIT_CHARACTERS), False), ("4096", False)])
def test_a_broker_that_refuses_a_commit_of_full_size_is_warned_of(characters: str, warned: bool) -> None:
    told = topics.problems(SETTINGS, [], {}, {"offset.metadata.max.bytes": characters})
    assert [(problem.severity, str(LIMIT_CHARACTERS) in problem.mend) for problem in told] == ([("warning", True)] if warned else [])


def test_exactly_the_topics_that_stages_read_have_cursors() -> None:
    specs = flow.topics(partitions=1, replication=1, retention_hours=1)
    assert {spec.name for spec in specs if spec.cursors} == {topic for topic, _ in flow.STAGES.values()}


def test_a_broker_that_makes_topics_by_itself_is_warned_of() -> None:
    (problem,) = topics.problems(SETTINGS, [], {}, {"auto.create.topics.enable": "true"})
    assert (problem.subject, problem.severity) == ("broker", "warning")
