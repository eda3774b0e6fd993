"""The job as a Quix Streams application: one message after the other, outputs produced in the background; a checkpoint a second flushes the
producer, and commits the offsets once all its outputs are acknowledged."""

from typing import Any

from quixstreams import Application

from tests.bench.job import Speeds, Watch, decode, encode
from tests.bench.others.order import Order, taken, told

CHECKPOINT_SECONDS = 1.0
"""As often as the engine commits."""


class Timed(Application):
    """Its loop ends with a checkpoint of what is left; what comes after, leaving the group and closing, is no part of the job."""

    watch: Watch

    def _run_dataframe(self, sink: Any = None) -> None:
        super()._run_dataframe(sink)
        self.watch.end()


def run(order: Order) -> Speeds:
    watch = Watch()

    def hop(value: bytes) -> bytes:
        watch.begin()
        return encode(decode(value))

    app = Timed(
        broker_address=order.bootstrap,
        consumer_group=order.group,
        auto_offset_reset="earliest",
        commit_interval=CHECKPOINT_SECONDS,
        auto_create_topics=False,
        use_changelog_topics=False,
        producer_extra_config={"acks": "all", "enable.idempotence": True, "compression.type": "lz4"},
        loglevel=None,
    )
    app.watch = watch
    reads = app.topic(order.reads, key_deserializer="bytes", value_deserializer="bytes")
    writes = app.topic(order.writes, key_serializer="bytes", value_serializer="bytes")
    app.dataframe(reads).apply(hop).to_topic(writes)
    app.run(count=order.messages, collect=False)
    return watch.speeds(order.messages)


if __name__ == "__main__":
    told(run(taken()))
