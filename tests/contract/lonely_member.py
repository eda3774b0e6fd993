"""A process with one member of a group, to be stopped and woken from outside: says what it believes the moment it wakes.

    python -m tests.contract.lonely_member BOOTSTRAP PREFIX SESSION_TIMEOUT_MS

Prints `assigned` once it holds partitions; then, after a pause of its whole process, one JSON document: its lease at waking, what
became of a commit, and whether it had heard of a revoke by then.
"""

import asyncio
import json
import sys
import time
from typing import Final

from pipeline.errors import TransportError
from pipeline.kafka import KafkaSettings, KafkaTransport
from pipeline.records import Commit

PAUSE_SECONDS: Final = 2.5
"""Between two steps of the loop; no scheduler makes a process wait that long."""


class Listener:
    def __init__(self) -> None:
        self.partitions: frozenset[int] = frozenset()
        self.revokes = 0
        self.assigned_once = asyncio.Event()

    async def revoked(self, partitions: frozenset[int]) -> None:
        self.revokes += 1

    async def assigned(self, partitions: frozenset[int]) -> None:
        self.partitions = partitions
        self.assigned_once.set()


async def main(bootstrap: str, prefix: str, session_timeout_ms: int) -> None:
    settings = KafkaSettings(bootstrap=bootstrap, prefix=prefix, session_timeout_ms=session_timeout_ms, heartbeat_interval_ms=200)
    transport = KafkaTransport(settings)
    await transport.start()
    listener = Listener()
    reader = transport.group_reader("received", "stage", listener)
    await reader.start()
    await listener.assigned_once.wait()
    before = time.monotonic()
    sys.stdout.write(f"assigned {reader.lease_seconds()}\n")
    sys.stdout.flush()
    while time.monotonic() - before < PAUSE_SECONDS:
        before = time.monotonic()
        await asyncio.sleep(0.01)
    found: dict[str, object] = {"lease": reader.lease_seconds(), "revokes": listener.revokes, "believed": sorted(listener.partitions)}
    try:
        await reader.commit({partition: Commit(0, "stale") for partition in listener.partitions})
        found["commit"] = "accepted"
    except TransportError as error:
        found["commit"] = type(error).__name__
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    await reader.stop()
    await transport.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
