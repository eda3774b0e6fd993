"""Takes members out of the embedded broker's groups whose process is gone: the broker itself never notices (noida-db 0.2.3).

Apache Kafka does so when a member has been silent for its session timeout. Here everything runs on one machine, and a member's client id
ends with its process id. Does nothing about a process that is there and silent.
"""

import asyncio
import os
from typing import Final

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

from pipeline.kafka.settings import process_of

log = structlog.get_logger()

LOOK_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 6.0
"""How long a process must have been gone: less than this, and its successor may just be taking its place."""


async def watch(bootstrap: str) -> None:
    """Looks for ever; whatever the broker does not answer is looked for again."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5_000)
    await admin.start()
    gone_since: dict[tuple[str, str], float] = {}
    try:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await _look(admin, gone_since)
            except (KafkaError, OSError, TimeoutError, LookupError) as error:
                log.debug("the broker's groups can't be looked at now", error=repr(error))
    finally:
        await admin.close()


async def _look(admin: AIOKafkaAdminClient, gone_since: dict[tuple[str, str], float]) -> None:
    now = asyncio.get_running_loop().time()
    seen: set[tuple[str, str]] = set()
    for group, _ in await admin.list_consumer_groups():
        for response in await admin.describe_consumer_groups([group]):
            for member, client in ((row[0], row[1]) for found in response.groups for row in found[5]):
                process = process_of(client)
                if process is None or _lives(process):
                    continue
                seen.add((group, member))
                if now - gone_since.setdefault((group, member), now) >= PATIENCE_SECONDS:
                    node = await admin.find_coordinator(group)
                    await admin._client.send(node, LeaveGroupRequest(group, member))
                    log.warning("a member whose process is gone was taken out of its group", group=group, process=process)
    for place in gone_since.keys() - seen:
        del gone_since[place]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_dead_child(process)


def _is_dead_child(process: int) -> bool:
    """Ended, and not yet waited for by whoever started it."""
    try:
        with open(f"/proc/{process}/stat", "rb") as status:
            return status.read().rpartition(b") ")[2].startswith(b"Z")
    except OSError:
        return False
