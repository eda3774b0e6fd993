"""One hop of the engine against other frameworks: `make bench-others`. Same broker, messages, headers and job, arms by turns in one run.

Every arm reads a whole topic, decodes and encodes each message, writes it with its key and headers to the same partition, and commits only
what is acknowledged. The others run as processes of an environment of their own (`--python`), pinned in others-requirements.txt.
"""

import argparse
import asyncio
import json
import os
import pathlib
import sys
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import structlog

from pipeline import topics
from pipeline.kafka import KafkaSettings, KafkaTransport
from pipeline.records import Record
from tests import brokers
from tests.bench import hop
from tests.bench.figures import Figure, main, median, tell
from tests.bench.ground import on_broker
from tests.bench.job import Speeds
from tests.bench.others.order import Order
from tests.bench.outcomes import BenchError

ROOT: Final = pathlib.Path(__file__).parents[3]
OURS: Final = "the engine"
BARE: Final = "a bare aiokafka loop"
FASTSTREAM: Final = "FastStream"
QUIX: Final = "Quix Streams"
MODULES: Final = {FASTSTREAM: "tests.bench.others.with_faststream", QUIX: "tests.bench.others.with_quix"}
HOWS: Final = {
    OURS: "batches; commits each second what is acknowledged, with a cursor for each lane that waits",
    BARE: "polls of up to 1,000; outputs of a poll awaited together, then a commit",
    FASTSTREAM: "message by message: output awaited, then a commit of its own (AckPolicy.MANUAL, ack() at the end)",
    QUIX: "message by message on librdkafka, outputs in the background; a checkpoint each second flushes, then commits",
}
LONGEST_SECONDS: Final = 300.0
FETCH_RECORDS: Final = 5_000


async def measure(options: argparse.Namespace) -> Sequence[Figure]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    found: defaultdict[str, list[Speeds]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder:
        async with on_broker(pathlib.Path(folder) / "broker", options.broker) as bootstrap:
            settings = KafkaSettings(bootstrap=bootstrap, prefix="hop")
            # FastStream commits each message, and is given fewer of them: a topic of their own.
            few = KafkaSettings(bootstrap=bootstrap, prefix="few")
            await topics.apply(settings, _specs(options.runs))
            await topics.apply(few, _specs(options.runs))
            for place, count in ((settings, options.messages), (few, options.single)):
                await _filled(place, count)
            transport = KafkaTransport(settings)
            await transport.start()
            try:
                for run in range(options.runs):
                    found[OURS].append(await hop.engine(transport, run, options.messages))
                    found[QUIX].append(await _other(QUIX, options.python, settings, run, options.messages))
                    found[BARE].append(await hop.bare(settings, run, options.messages))
                    found[FASTSTREAM].append(await _other(FASTSTREAM, options.python, few, run, options.single))
                    tell(", ".join(f"{arm} {speeds[-1].passed:,.0f} a second" for arm, speeds in found.items()))
            finally:
                await transport.stop()
    counts = {FASTSTREAM: options.single}
    return [
        figure
        for arm, speeds in found.items()
        for figure in (
            Figure(arm, median([one.passed for one in speeds]), "messages/s", note=f"{counts.get(arm, options.messages):,} messages, {options.runs} runs; {HOWS[arm]}"),
            Figure(f"… {arm}, by processor time", median([one.worked for one in speeds]), "messages/s", note=hop.spread([one.worked for one in speeds])),
        )
    ]  # fmt: skip


def _specs(runs: int) -> list[topics.TopicSpec]:
    specs = [topics.TopicSpec(name, hop.PARTITIONS) for name in (hop.READS, "synced", "dead-letters")]
    specs += [topics.TopicSpec(f"{arm}-{run}", hop.PARTITIONS) for arm in ("bare", "engine", "other") for run in range(runs)]
    return specs + [topics.TopicSpec(table, 1, compacted=True) for table in hop.TABLES]


async def _filled(settings: KafkaSettings, count: int) -> None:
    transport = KafkaTransport(settings)
    await transport.start()
    try:
        await hop.fill(transport, count)
    finally:
        await transport.stop()


async def _other(arm: str, python: str, settings: KafkaSettings, run: int, count: int) -> Speeds:
    """One run of another framework, in a process of its environment. Raises BenchError."""
    writes = f"other-{run}"
    order = Order(settings.bootstrap, settings.topic(hop.READS), settings.topic(writes), f"{settings.prefix}-{uuid.uuid4().hex[:8]}", count)
    process = await asyncio.create_subprocess_exec(
        python, "-m", MODULES[arm], json.dumps(order._asdict()),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )  # fmt: skip
    try:
        said, errors = await asyncio.wait_for(process.communicate(), LONGEST_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise BenchError(f"{arm} ended with {process.returncode}:\n{errors.decode(errors='replace')[-3000:]}")
    await _checked(settings, writes, arm)
    return Speeds(**json.loads(said.splitlines()[-1]))


async def _checked(settings: KafkaSettings, writes: str, arm: str) -> None:
    """In each partition the same messages in the same order, with their headers (and perhaps others). Raises BenchError."""
    transport = KafkaTransport(settings)
    await transport.start()
    try:
        taken, given = await _held(transport, hop.READS), await _held(transport, writes)
    finally:
        await transport.stop()
    for place in taken.keys() | given.keys():
        before, after = taken[place], given[place]
        same = len(before) == len(after) and all(
            (one.key, one.value) == (other.key, other.value) and set(one.headers) <= set(other.headers)
            for one, other in zip(before, after, strict=True)
        )
        if not same:
            raise BenchError(f"{arm} did not pass on the {len(before)} messages of partition {place} as they are: it wrote {len(after)}")


async def _held(transport: KafkaTransport, topic: str) -> defaultdict[int, list[Record]]:
    """What a topic holds, by partition."""
    bounds = await transport.cluster.offsets(topic)
    reader = transport.reader()
    await reader.start()
    found: defaultdict[int, list[Record]] = defaultdict(list)
    try:
        reader.assign({(topic, number): first for number, (first, _) in bounds.items()})
        while any(reader.position(topic, number) < end for number, (_, end) in bounds.items()):
            for record in await reader.fetch(0.5, FETCH_RECORDS):
                found[record.partition].append(record)
    finally:
        await reader.stop()
    return found


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--python", required=True, help="interpreter of the environment with the other frameworks")
    parser.add_argument("--broker", choices=(brokers.APACHE, brokers.EMBEDDED), default=brokers.APACHE)
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--single", type=int, default=4_000, help="messages for FastStream, which commits each")
    parser.add_argument("--runs", type=int, default=3)


if __name__ == "__main__":
    sys.exit(main("others", __doc__, measure, arguments))
