"""The job as a FastStream subscriber: one message after the other; each output is awaited, then the offset is committed (AckPolicy.ACK)."""

import asyncio
import logging

from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage

from tests.bench.job import Speeds, Watch, decode, encode
from tests.bench.others.order import Order, taken, told


async def run(order: Order) -> Speeds:
    watch, finished = Watch(), asyncio.Event()
    broker = KafkaBroker(order.bootstrap, acks="all", enable_idempotence=True, compression_type="lz4", logger=None)
    done = 0

    # The body stays as it came: the job decodes it itself, as in every arm.
    async def raw(message: KafkaMessage) -> bytes:
        body: bytes = message.body
        return body

    @broker.subscriber(order.reads, group_id=order.group, auto_offset_reset="earliest", ack_policy=AckPolicy.MANUAL, decoder=raw)
    async def hop(body: bytes, message: KafkaMessage) -> None:
        nonlocal done
        watch.begin()
        record = message.raw_message
        await broker.publish(encode(decode(body)), order.writes, key=record.key, partition=record.partition, headers=message.headers)
        await message.ack()
        done += 1
        if done == order.messages:
            watch.end()
            finished.set()

    async with broker:
        await broker.start()
        await finished.wait()
    return watch.speeds(order.messages)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    told(asyncio.run(run(taken())))
