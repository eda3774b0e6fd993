"""A member of a group that is killed leaves its partitions to others, on the embedded broker too."""

import asyncio
import os
import subprocess
import sys

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from stages.sandbox import bereft
from stages.sandbox.broker import EmbeddedBroker

MEMBER = """
import asyncio, sys
from aiokafka import AIOKafkaConsumer
from pipeline.kafka.settings import member_name

async def main():
    async with AIOKafkaConsumer("t", bootstrap_servers=sys.argv[1], group_id="g", client_id=member_name("turnout")):
        print("joined", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def _members(admin: AIOKafkaAdminClient) -> list[str]:
    (response,) = await admin.describe_consumer_groups(["g"])
    return [row[1] for found in response.groups for row in found[5]]


async def test_a_member_whose_process_was_killed_is_taken_out_of_its_group() -> None:
    async with EmbeddedBroker() as broker:
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic("t", 2, 1)])
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", MEMBER, broker.bootstrap, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert process.stdout is not None
            assert b"joined" in await asyncio.wait_for(process.stdout.readline(), 30)
            assert await _members(admin) == [f"turnout@{process.pid}"]
            process.kill()
            await process.wait()
            async with asyncio.timeout(bereft.PATIENCE_SECONDS + 30):
                while await _members(admin):  # noqa: ASYNC110  # the broker tells nobody
                    await asyncio.sleep(0.2)
        finally:
            await admin.close()


def test_a_process_that_runs_is_not_taken_for_dead() -> None:
    assert bereft._lives(os.getpid())
