"""Applying and checking the plan of topics on a broker."""

import asyncio
import dataclasses
import random

import pytest

from pipeline import topics
from pipeline.errors import RecordTooLarge, TransportError
from pipeline.kafka import KafkaSettings, KafkaTransport
from pipeline.records import Outgoing
from pipeline.topics import Change, TopicSpec
from tests.contract import logs

SPECS = (
    TopicSpec("received", 3, retention_hours=48),
    TopicSpec("orgs", 3, compacted=True),
    TopicSpec("dead-letters", 3, max_message_bytes=4 * topics.MIB),
)


@pytest.fixture
def settings(bootstrap: str, prefix: str) -> KafkaSettings:
    return KafkaSettings(bootstrap=bootstrap, prefix=prefix)


def of_topics(found: list[topics.Problem]) -> list[topics.Problem]:
    return [problem for problem in found if problem.severity == "error"]


async def test_what_is_missing_is_told_then_made_then_left_alone(settings: KafkaSettings) -> None:
    assert [problem.found for problem in of_topics(await topics.check(settings, SPECS))] == ["is missing"] * 3
    made = await topics.apply(settings, SPECS)
    assert [change.topic for change in made] == [settings.topic(spec.name) for spec in SPECS]
    assert of_topics(await topics.check(settings, SPECS)) == []
    assert await topics.apply(settings, SPECS) == []
    found = await topics.show(settings, SPECS)
    assert {name: topic.partitions for name, topic in found.items()} == {"received": 3, "orgs": 3, "dead-letters": 3}
    assert found["received"].configs["message.timestamp.type"] == "LogAppendTime"
    assert found["orgs"].configs["cleanup.policy"] == "compact"


async def test_more_replicas_than_brokers_are_refused_with_the_brokers_and_the_setting(settings: KafkaSettings) -> None:
    with pytest.raises(TransportError, match=rf"Kafka has \d+ \(.*{settings.bootstrap}.*TURNOUT_REPLICATION"):
        await topics.apply(settings, [TopicSpec("received", 3, replication=9)])


async def test_a_setting_that_differs_is_told_and_set_and_no_other_is_touched(settings: KafkaSettings) -> None:
    await topics.apply(settings, SPECS)
    changed = (dataclasses.replace(SPECS[0], retention_hours=72), *SPECS[1:])
    (problem,) = of_topics(await topics.check(settings, changed))
    assert "retention.ms" in problem.found
    before = (await topics.show(settings, SPECS))["received"]
    assert await topics.apply(settings, changed) == [Change(settings.topic("received"), "retention.ms", "172800000", "259200000")]

    async def changes() -> bool:
        return (await topics.show(settings, SPECS))["received"].configs["retention.ms"] != before.configs["retention.ms"]

    # A broker takes a setting over a little after it has said yes.
    await logs.until(changes)
    after = (await topics.show(settings, SPECS))["received"]
    assert dict(after.configs) == {**before.configs, "retention.ms": "259200000"}


async def test_another_number_of_partitions_is_refused_before_anything_changes(settings: KafkaSettings) -> None:
    await topics.apply(settings, SPECS[:1])
    wanted = (dataclasses.replace(SPECS[0], partitions=6, retention_hours=1), *SPECS[1:])
    with pytest.raises(TransportError, match=r"has 3 partitions, not 6.*TURNOUT_TOPIC_PREFIX"):
        await topics.apply(settings, wanted)
    found = await topics.show(settings, SPECS)
    assert found.keys() == {"received"}
    assert found["received"].configs["retention.ms"] == str(48 * topics.HOUR_MS)


async def test_several_parts_may_apply_at_once(settings: KafkaSettings) -> None:
    made = await asyncio.gather(*(topics.apply(settings, SPECS) for _ in range(4)))
    assert any(made)
    assert of_topics(await topics.check(settings, SPECS)) == []


async def test_dead_letters_take_what_the_topic_before_refused(settings: KafkaSettings) -> None:
    await topics.apply(settings, SPECS)
    transport = KafkaTransport(settings)
    await transport.start()
    value = random.Random(3).randbytes(topics.MIB + 10_000)
    async with logs.writer(transport) as writer:
        with pytest.raises(RecordTooLarge):
            await writer.send([Outgoing("received", b"k", value)])
        assert len(await writer.send([Outgoing("dead-letters", b"k", value)])) == 1
    await transport.stop()
