"""One hop of the engine against a bare aiokafka loop: same run, same messages and headers, runs alternating, on the embedded broker.

Bare: consume, decode, encode, produce to the input's partition, await, commit. Engine: a worker whose step does the same decoding and
encoding, with lanes, exclusion, batches, ledger and commits with their metadata. A topic is filled once; each run reads all of it.
"""

import argparse
import asyncio
import cProfile
import functools
import gc
import pstats
import random
import sys
import time
from collections.abc import Sequence
from typing import Final

import anyio
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from pipeline import messages, topics
from pipeline.kafka import KafkaSettings, KafkaTransport
from pipeline.lanes import org_lane, session_lane, workspace_lane
from pipeline.messages import Message
from pipeline.outcomes import Batch, Emit, Out, Outcome
from pipeline.records import Outgoing
from pipeline.stage import OpenGate, SilentObserver, Stage
from pipeline.tables import Tables
from pipeline.worker import Worker
from schemas.messages import SCHEMA, Registration
from stages import flow
from stages.commands.start import COLLECTED_EACH
from stages.sandbox.broker import EmbeddedBroker
from tests.bench import figures
from tests.bench.figures import Figure
from tests.bench.job import Speeds, Watch, decode, encode

PARTITIONS: Final = 4
READS: Final = "normalized"
ORGS: Final = 20
TABLES: Final = ("lanes", "controls")
ENOUGH: Final = 0.6


@functools.lru_cache
def _lanes(org: str, workspace: str, session: str) -> tuple[str, ...]:
    return (org_lane(org), workspace_lane(org, workspace), session_lane(org, workspace, session))


def _registration(number: int, draw: random.Random) -> Outgoing:
    org = f"org-{draw.randrange(ORGS)}"
    workspace, session = f"{org}-ws{draw.randrange(2)}", f"session-{draw.randrange(6)}"
    email = f"person.{draw.randrange(20_000)}@example.com"
    registration = Registration(
        id=f"{number:032x}", action="registered", workspace=workspace, org=org, session=session, event="event-1", email=email,
        person=f"{number:036x}", happened_at=1_700_000_000_000 + number, received_at=1_700_000_000_000 + number,
        attributes={
            "first_name": "Ada", "last_name": f"Lovelace {number}", "company": "Analytical Engines Ltd", "job_title": "Countess",
            "industry": "Computing", "team_size": "11-50", "country": "GB", "phone": "+44 20 7946 0000", "utm_source": "newsletter",
            "website": "https://engines.example.com", "registered_timezone": "Europe/London",
        },
    )  # fmt: skip
    headers = messages.headers(
        id=registration.id, kind="registration", workspace=workspace, org=org, session=session, event="event-1",
        happened_at=registration.happened_at, received_at=registration.received_at, schema=SCHEMA,
    )  # fmt: skip
    return Outgoing(READS, email.encode(), encode(registration), headers)


async def fill(transport: KafkaTransport, count: int) -> None:
    draw = random.Random(1)
    writer = transport.writer()
    await writer.start()
    try:
        for first in range(0, count, 5_000):
            await writer.send([_registration(number, draw) for number in range(first, min(count, first + 5_000))])
    finally:
        await writer.stop()


async def bare(settings: KafkaSettings, run: int, count: int) -> Speeds:
    """How fast the loop is."""
    reads, writes = settings.topic(READS), settings.topic(f"bare-{run}")
    consumer = AIOKafkaConsumer(
        reads,
        **settings.connection(),
        group_id=settings.group(f"bare-{run}"),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_bytes=settings.fetch_max_bytes,
        max_partition_fetch_bytes=settings.max_partition_fetch_bytes,
    )
    producer = AIOKafkaProducer(
        **settings.connection(), acks="all", enable_idempotence=True, compression_type="lz4", max_batch_size=settings.batch_bytes
    )
    await consumer.start()
    await producer.start()
    watch, done = Watch(), 0
    try:
        while done < count:
            polled = await consumer.getmany(timeout_ms=200, max_records=1_000)
            if polled:
                watch.begin()
            sent = []
            for place, rows in polled.items():
                for row in rows:
                    value = encode(decode(row.value))
                    sent.append(await producer.send(writes, value, key=row.key, partition=place.partition, headers=list(row.headers)))
            await asyncio.gather(*sent)
            if sent:
                await consumer.commit()
            done += len(sent)
        watch.end()
        return watch.speeds(count)
    finally:
        await consumer.stop()
        await producer.stop()


class _Finished(SilentObserver):
    def __init__(self, count: int, watch: Watch) -> None:
        self._left, self._watch = count, watch
        self.all = asyncio.Event()

    def outcome(self, stage: str, org: str, outcome: str, reason: str, count: int) -> None:
        self._left -= count
        if self._left <= 0 and not self.all.is_set():
            self._watch.end()
            self.all.set()


async def engine(transport: KafkaTransport, run: int, count: int) -> Speeds:
    """How fast a worker is."""
    writes, watch = f"engine-{run}", Watch()

    async def step(batch: Batch) -> Sequence[Outcome]:
        return [Emit((Out(writes, encode(decode(message.value))),)) for message in batch.messages]

    def shared_lanes(message: Message) -> tuple[str, ...]:
        watch.begin()
        return _lanes(message.org, message.workspace, message.session)

    observer = _Finished(count, watch)
    # As the flow's stage that calls no org runs: with calls, batches wait to be filled.
    limits = flow.stage("normalize", step, OpenGate()).limits
    stage = Stage(name=f"engine-{run}", reads=READS, step=step, shared_lanes=shared_lanes, limits=limits)
    tables = Tables(transport, TABLES)
    async with anyio.create_task_group() as group:
        await group.start(tables.run)
        worker = Worker(stage, transport, tables, observer, random=random.random)
        await group.start(worker.run)
        await observer.all.wait()
        await worker.stop()
        group.cancel_scope.cancel()
    return watch.speeds(count)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="one run of the engine, where its time goes, on stderr")


async def measure(options: argparse.Namespace) -> Sequence[Figure]:
    count, runs = options.messages, options.runs
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    # As every part of the product runs.
    gc.freeze()
    gc.set_threshold(*COLLECTED_EACH)
    async with EmbeddedBroker() as broker:
        settings = KafkaSettings(bootstrap=broker.bootstrap, prefix="hop")
        specs = [topics.TopicSpec(name, PARTITIONS) for name in (READS, "synced", "dead-letters")]
        specs += [topics.TopicSpec(f"{arm}-{run}", PARTITIONS) for arm in ("bare", "engine") for run in range(runs + 1)]
        specs += [topics.TopicSpec(table, 1, compacted=True) for table in TABLES]
        await topics.apply(settings, specs)
        transport = KafkaTransport(settings)
        await transport.start()
        try:
            await fill(transport, count)
            if options.profile:
                await _profile(transport, runs, count)
            plain: list[Speeds] = []
            ours: list[Speeds] = []
            for run in range(runs):
                plain.append(await bare(settings, run, count))
                ours.append(await engine(transport, run, count))
        finally:
            await transport.stop()
    found = []
    for name, place in (("", 0), (", by processor time", 1)):
        bares, engines = [speeds[place] for speeds in plain], [speeds[place] for speeds in ours]
        ratio = figures.median(engines) / figures.median(bares)
        found += [
            Figure(f"bare aiokafka loop{name}", figures.median(bares), "messages/s", note=spread(bares)),
            Figure(f"one hop of the engine{name}", figures.median(engines), "messages/s", note=spread(engines)),
            Figure(f"ratio{name}", ratio, "", f"at least {ENOUGH:g}", ratio >= ENOUGH, f"{runs} alternating runs of {count:,} messages"),
        ]
    return found


async def _profile(transport: KafkaTransport, run: int, count: int) -> None:
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    try:
        await engine(transport, run, count)
    finally:
        profile.disable()
    pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(90)


def spread(values: Sequence[float]) -> str:
    return f"{min(values):,.0f} to {max(values):,.0f}"


if __name__ == "__main__":
    raise SystemExit(figures.main("hop", __doc__, measure, _arguments))
