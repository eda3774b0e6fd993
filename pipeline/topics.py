"""The topics that must be there: what is planned, what differs, and the creating of them. Never changes a number of partitions, never deletes."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from aiokafka import errors
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from pipeline.errors import TransportError
from pipeline.kafka import KafkaCluster, KafkaSettings, KafkaTransport
from pipeline.kafka.asking import RESOURCES, answered, translated
from pipeline.metadata import LIMIT_CHARACTERS

HOUR_MS: Final = 3_600_000
MIB: Final = 1024 * 1024
TABLE_SEGMENT_BYTES: Final = 64 * MIB
"""A table is read whole at a start, and what stands in its open segment is never compacted."""

ALTERABLE_SOURCE: Final = 1
"""DescribeConfigs' source of a value that was set on the topic itself."""

SETTLE_SECONDS: Final = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic by its logical name. Compacted: a table, kept for ever; else a log that is kept for `retention_hours`."""

    name: str
    partitions: int
    replication: int = 1
    compacted: bool = False
    retention_hours: int = 336
    max_message_bytes: int = 1 * MIB
    cursors: bool = False
    """A stage reads it: its group's offsets must outlive its messages."""

    def configs(self) -> dict[str, str]:
        """Kafka's settings of the topic.

        A log's time is the time of appending: what waited for days in one stage must not be expired on arrival in the next.
        """
        configs = {"max.message.bytes": str(self.max_message_bytes)}
        if self.replication > 1:
            # One replica may be away without stopping the writing; with two of three, an acknowledged record survives a broker.
            configs["min.insync.replicas"] = str(min(2, self.replication - 1))
        if self.compacted:
            return configs | {"cleanup.policy": "compact", "segment.bytes": str(TABLE_SEGMENT_BYTES)}
        return configs | {
            "cleanup.policy": "delete",
            "retention.ms": str(self.retention_hours * HOUR_MS),
            "retention.bytes": "-1",
            "message.timestamp.type": "LogAppendTime",
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A topic as the broker has it. `configs`: every value it knows; `own`: those that were set on the topic."""

    partitions: int
    replication: int
    configs: Mapping[str, str]
    own: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What `apply` did: a topic created (`setting` empty), or a setting changed."""

    topic: str
    setting: str = ""
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        return f"{self.topic}: {self.setting} {self.before} -> {self.after}" if self.setting else f"{self.topic}: created, {self.after}"


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """What is not as it should be, and the way to mend it."""

    subject: str
    severity: Literal["error", "warning"]
    found: str
    mend: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.found}: {self.mend}"


def grouped(problems: Iterable[Problem]) -> list[Problem]:
    """For people: topics of which the same is to be said become one subject."""
    alike: dict[Problem, list[str]] = {}
    for problem in problems:
        alike.setdefault(dataclasses.replace(problem, subject=""), []).append(problem.subject)
    return [dataclasses.replace(problem, subject=", ".join(subjects)) for problem, subjects in alike.items()]


# The plan: pure.


def changes(settings: KafkaSettings, specs: Sequence[TopicSpec], found: Mapping[str, Found]) -> list[Change]:
    """What has to be done. Topics in `found` are by logical name, those in a Change by full name."""
    planned = []
    for spec in specs:
        name = settings.topic(spec.name)
        topic = found.get(spec.name)
        if topic is None:
            planned.append(Change(name, after=f"{spec.partitions} partitions, replication {spec.replication}"))
            continue
        # The number of replicas stays what it is, and what hangs on it goes by that.
        for key, value in dataclasses.replace(spec, replication=topic.replication).configs().items():
            before = topic.configs.get(key)
            # A broker that does not report a setting does not have it.
            if before is not None and before != value:
                planned.append(Change(name, key, before, value))
    return planned


def problems(settings: KafkaSettings, specs: Sequence[TopicSpec], found: Mapping[str, Found], broker: Mapping[str, str]) -> list[Problem]:
    """What is wrong with topics and broker; errors keep a part from starting, warnings do not."""
    return [
        *partition_problems(settings, specs, found),
        *(_undone(change) for change in changes(settings, specs, found)),
        *_replication_problems(settings, specs, found),
        *_broker_problems(specs, broker),
    ]


def partition_problems(settings: KafkaSettings, specs: Sequence[TopicSpec], found: Mapping[str, Found]) -> list[Problem]:
    """Topics with another number of partitions than planned: cursors and the places of keys hang on it."""
    mend = (
        "a number of partitions never changes under live cursors: set TURNOUT_PARTITIONS to what is there; "
        "or stop taking webhooks, let every stage drain, and start on a new TURNOUT_TOPIC_PREFIX"
    )
    return [
        Problem(settings.topic(spec.name), "error", f"has {topic.partitions} partitions, not {spec.partitions}", mend)
        for spec in specs
        if (topic := found.get(spec.name)) is not None and topic.partitions != spec.partitions
    ]


def _undone(change: Change) -> Problem:
    mend = "run `turnout topics apply`"
    if not change.setting:
        return Problem(change.topic, "error", "is missing", mend)
    return Problem(change.topic, "error", f"{change.setting} is {change.before}, not {change.after}", mend)


def _replication_problems(settings: KafkaSettings, specs: Sequence[TopicSpec], found: Mapping[str, Found]) -> list[Problem]:
    told = []
    alone = [spec.name for spec in specs if (topic := found.get(spec.name)) is not None and topic.replication <= 1]
    if alone:
        subject = f"{settings.prefix}.{{{','.join(alone)}}}"
        told.append(
            Problem(
                subject,
                "warning",
                "have one replica",
                "what one broker loses is lost: in production, TURNOUT_REPLICATION=3 on three brokers",
            )
        )
    for spec in specs:
        topic = found.get(spec.name)
        if topic is not None and 1 < topic.replication < spec.replication:
            mend = "reassign its replicas with kafka-reassign-partitions"
            told.append(Problem(settings.topic(spec.name), "warning", f"has {topic.replication} replicas, not {spec.replication}", mend))
    return told


def _broker_problems(specs: Sequence[TopicSpec], broker: Mapping[str, str]) -> list[Problem]:
    told = []
    longest = max((spec.retention_hours for spec in specs if spec.cursors), default=0)
    minutes = broker.get("offsets.retention.minutes")
    if minutes is not None and int(minutes) < longest * 60:
        mend = f"set it to {longest * 60} or more: a group that is away for longer forgets its cursors while its messages are still there"
        told.append(
            Problem(
                "broker",
                "warning",
                f"offsets.retention.minutes is {minutes}, less than the {longest} h of the topics that stages read",
                mend,
            )
        )
    characters = broker.get("offset.metadata.max.bytes")
    if characters is not None and int(characters) < LIMIT_CHARACTERS:
        mend = f"set it to {LIMIT_CHARACTERS} or more (Kafka's default is 4096): a commit with more cursors than that takes is refused"
        told.append(Problem("broker", "warning", f"offset.metadata.max.bytes is {characters}, a commit may take {LIMIT_CHARACTERS}", mend))
    if broker.get("auto.create.topics.enable") == "true":
        mend = "set it to false: a topic that is deleted while a part runs would come back with the broker's defaults"
        told.append(Problem("broker", "warning", "auto.create.topics.enable is true", mend))
    return told


# The doing.


async def apply(settings: KafkaSettings, specs: Sequence[TopicSpec]) -> list[Change]:
    """Creates what is missing and sets what differs; what was done. Safe to run from several processes at once.

    Raises TransportError, before anything is changed, where a topic has another number of partitions.
    """
    async with _connected(settings) as cluster:
        found = await _found(cluster, settings, specs)
        _refuse(partition_problems(settings, specs, found))
        planned = changes(settings, specs, found)
        missing = [spec for spec in specs if spec.name not in found]
        if missing:
            await _create(cluster, settings, missing)
        for spec in specs:
            altered = {change.setting: change.after for change in planned if change.setting and change.topic == settings.topic(spec.name)}
            if altered:
                await _alter(cluster, settings.topic(spec.name), dict(found[spec.name].own) | altered)
        if missing:
            _refuse(partition_problems(settings, specs, await _settled(cluster, settings, specs)))
        return planned


async def check(settings: KafkaSettings, specs: Sequence[TopicSpec]) -> list[Problem]:
    """What is not as planned. Changes nothing."""
    async with _connected(settings) as cluster:
        return problems(settings, specs, await _found(cluster, settings, specs), await _broker(cluster))


async def show(settings: KafkaSettings, specs: Sequence[TopicSpec]) -> dict[str, Found]:
    """Those of the topics that are there, by logical name."""
    async with _connected(settings) as cluster:
        return await _found(cluster, settings, specs)


@contextlib.asynccontextmanager
async def _connected(settings: KafkaSettings) -> AsyncIterator[KafkaCluster]:
    transport = KafkaTransport(settings)
    await transport.start()
    try:
        yield transport.cluster
    finally:
        await transport.stop()


def _refuse(found: Sequence[Problem]) -> None:
    if found:
        raise TransportError("; ".join(map(str, grouped(found))), retryable=False)


async def _found(cluster: KafkaCluster, settings: KafkaSettings, specs: Sequence[TopicSpec]) -> dict[str, Found]:
    described = await cluster.described([settings.topic(spec.name) for spec in specs])
    rows = await _configs(cluster, ConfigResourceType.TOPIC, list(described))
    return {
        settings.logical(name): Found(
            partitions=len(partitions),
            replication=min((len(partition["replicas"]) for partition in partitions), default=0),
            configs={key: value for key, (value, _) in rows[name].items()},
            own={key: value for key, (value, own) in rows[name].items() if own},
        )
        for name, partitions in described.items()
    }


async def _broker(cluster: KafkaCluster) -> dict[str, str]:
    nodes = [str(broker["node_id"]) for broker in await _brokers(cluster)]
    rows = await _configs(cluster, ConfigResourceType.BROKER, nodes[:1])
    return {key: value for configs in rows.values() for key, (value, _) in configs.items()}


async def _brokers(cluster: KafkaCluster) -> list[dict[str, Any]]:
    described = await answered(cluster.admin.describe_cluster, SETTLE_SECONDS, "description of the cluster")
    brokers: list[dict[str, Any]] = described["brokers"]
    return brokers


async def _configs(cluster: KafkaCluster, kind: ConfigResourceType, names: Sequence[str]) -> dict[str, dict[str, tuple[str, bool]]]:
    """By resource and setting: its value, and whether it was set on the resource itself."""
    if not names:
        return {}
    resources = [ConfigResource(kind, name) for name in names]
    responses = await answered(
        lambda: cluster.admin.describe_configs(resources), SETTLE_SECONDS, f"settings of {', '.join(names)}", "DescribeConfigs"
    )
    found: dict[str, dict[str, tuple[str, bool]]] = {}
    for response in responses:
        for error_code, message, _, name, entries in response.resources:
            _raise(error_code, name, f"settings of {name}: {message}", "DescribeConfigs")
            found[name] = {entry[0]: (entry[1], entry[3] == ALTERABLE_SOURCE) for entry in entries if entry[1] is not None}
    return found


async def _create(cluster: KafkaCluster, settings: KafkaSettings, specs: Sequence[TopicSpec]) -> None:
    topics = [NewTopic(settings.topic(spec.name), spec.partitions, spec.replication, topic_configs=spec.configs()) for spec in specs]
    response = await answered(lambda: cluster.admin.create_topics(topics), SETTLE_SECONDS, "creating topics", "Create")
    for row in response.topic_errors:
        name, error_code, message = row[0], row[1], row[2] if len(row) > 2 else ""
        if errors.for_code(error_code) is errors.InvalidReplicationFactorError:
            raise TransportError(await _too_few_brokers(cluster, name, specs), retryable=False)
        # Another part of ours may have been quicker; what it made is compared afterwards.
        if errors.for_code(error_code) is not errors.TopicAlreadyExistsError:
            _raise(error_code, name, f"creating {name}: {message}", "Create")


async def _too_few_brokers(cluster: KafkaCluster, name: str, specs: Sequence[TopicSpec]) -> str:
    there = [f"{broker['host']}:{broker['port']}" for broker in await _brokers(cluster)]
    return (
        f"creating {name}: {max(spec.replication for spec in specs)} replicas need as many brokers, and Kafka has "
        f"{len(there)} ({', '.join(there)}): start more, or set TURNOUT_REPLICATION to {len(there)} at most"
    )


async def _alter(cluster: KafkaCluster, name: str, configs: dict[str, str]) -> None:
    """Sets all of the topic's own settings: the request replaces them as a whole."""
    resource = ConfigResource(ConfigResourceType.TOPIC, name, configs)
    responses: list[Any] = await answered(
        lambda: cluster.admin.alter_configs([resource]), SETTLE_SECONDS, f"changing {name}", "AlterConfigs"
    )
    for response in responses:
        for error_code, message, *_ in response.resources:
            _raise(error_code, name, f"changing {name}: {message}", "AlterConfigs")


async def _settled(cluster: KafkaCluster, settings: KafkaSettings, specs: Sequence[TopicSpec]) -> dict[str, Found]:
    """Once every topic is there and each partition has a leader."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + SETTLE_SECONDS
    names = [settings.topic(spec.name) for spec in specs]
    while True:
        described = await cluster.described(names)
        if all(name in described and all(p["leader"] >= 0 for p in described[name]) for name in names):
            return await _found(cluster, settings, specs)
        if loop.time() > ends:
            raise TransportError(f"the new topics have no leaders after {SETTLE_SECONDS:g} s: are all brokers up?")
        await asyncio.sleep(0.1)


def _raise(error_code: int, name: str, what: str, operation: str) -> None:
    error = errors.for_code(error_code)
    if error in RESOURCES:
        raise translated(what, error(name) if RESOURCES[error] == "topic" else error(), operation)
    if error is not errors.NoError:
        raise TransportError(f"{what} ({error.__name__})", retryable=bool(error.retriable))
