"""Kafka behind the seams of `pipeline.transport`, over aiokafka. Nothing outside this package and `pipeline.topics` imports aiokafka's clients."""

import asyncio

from pipeline.errors import TransportError
from pipeline.kafka.cluster import KafkaCluster
from pipeline.kafka.group import KafkaGroupReader
from pipeline.kafka.lease import Lease
from pipeline.kafka.quiet import quieten, silence
from pipeline.kafka.reader import KafkaReader
from pipeline.kafka.settings import KafkaSettings
from pipeline.kafka.writer import KafkaWriter, partition_of
from pipeline.transport import READER_BYTES, Rebalanced

__all__ = ["KafkaCluster", "KafkaGroupReader", "KafkaReader", "KafkaSettings", "KafkaTransport", "KafkaWriter", "Lease", "partition_of"]

RETRY_SECONDS = 0.2


class KafkaTransport:
    """Implements `pipeline.transport.Transport`. One for the process; its parts are started and stopped by who asks for them."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.cluster = KafkaCluster(settings)

    async def start(self) -> None:
        quieten()
        loop = asyncio.get_running_loop()
        ends = loop.time() + self.settings.connect_timeout_seconds
        with silence() as last_words:
            while True:
                try:
                    async with asyncio.timeout_at(ends):
                        await self.cluster.start()
                    return
                except (TransportError, TimeoutError) as error:
                    await self.cluster.stop()
                    if loop.time() + RETRY_SECONDS >= ends:
                        raise self._unreachable(last_words()) from error
                await asyncio.sleep(RETRY_SECONDS)

    async def stop(self) -> None:
        await self.cluster.stop()

    def group_reader(self, topic: str, group: str, listener: Rebalanced) -> KafkaGroupReader:
        return KafkaGroupReader(self.settings, self.cluster, topic, group, listener)

    def reader(self, max_bytes: int = READER_BYTES) -> KafkaReader:
        return KafkaReader(self.settings, self.cluster, max_bytes)

    def writer(self) -> KafkaWriter:
        return KafkaWriter(self.settings, self.cluster.partitions)

    def _unreachable(self, last_words: str) -> TransportError:
        return TransportError(
            f"no Kafka broker answers at {self.settings.bootstrap} (tried for {self.settings.connect_timeout_seconds:g} s"
            f"{f'; {last_words}' if last_words else ''}): start one (`turnout sandbox broker`), or set TURNOUT_KAFKA_BOOTSTRAP"
        )
