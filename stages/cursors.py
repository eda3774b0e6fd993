"""Says how stopped partitions shall go on. Moves no offset itself: the worker that holds the partition does."""

import random
import time
from collections.abc import Sequence
from typing import Literal, cast

import msgspec

from pipeline.delivery import deliver
from pipeline.errors import MetadataError
from pipeline.metadata import decode
from pipeline.records import Commit, Outgoing
from pipeline.transport import Transport, Writer
from pipeline.worker import LANES
from schemas.tables import RecoveryRow


async def say(transport: Transport, writer: Writer, stage: str, topic: str, way: str, only: Sequence[int]) -> list[int]:
    """Writes the word for every stopped partition (of `only`, where given); gives their numbers. Durable when it returns."""
    committed = await transport.cluster.committed(stage)
    stopped = sorted(
        partition
        for (of, partition), commit in committed.items()
        if of == topic and (not only or partition in only) and not _is_ours(commit)
    )  # fmt: skip
    row = msgspec.json.encode(RecoveryRow(way=cast(Literal["assume-none", "restore"], way), at=int(time.time() * 1000)))
    records = [Outgoing(LANES, f"{stage}|{partition}|recovery".encode(), row) for partition in stopped]
    if records:
        await deliver(writer, records, too_large=lambda index: (), random=random.random, replaced=lambda: None)
    return stopped


def _is_ours(commit: Commit) -> bool:
    try:
        decode(commit.metadata)
    except MetadataError:
        return False
    return True
