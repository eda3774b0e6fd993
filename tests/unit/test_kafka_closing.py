"""A client that is cancelled while it starts leaves nothing open."""

import asyncio

import anyio
import pytest

from pipeline.kafka.closing import begun, started


class Consumer:
    """Starts and stops in a step each, as aiokafka's does."""

    def __init__(self) -> None:
        self.running = False
        self.stopped = False

    async def start(self) -> None:
        await asyncio.sleep(0)
        self.running = True

    async def stop(self) -> None:
        await asyncio.sleep(0)
        self.stopped = True


@pytest.mark.parametrize("steps", range(1, 4))
async def test_one_that_is_cancelled_while_it_starts_is_closed(steps: int) -> None:
    consumer = Consumer()
    returned = False
    async with anyio.create_task_group() as tasks:

        async def start() -> None:
            nonlocal returned
            await started(consumer)
            returned = True

        tasks.start_soon(start)
        for _ in range(steps):
            await asyncio.sleep(0)
        tasks.cancel_scope.cancel()
    assert consumer.stopped != returned


@pytest.mark.parametrize("steps", range(1, 4))
async def test_a_start_that_is_cancelled_comes_to_where_its_connection_is_known(steps: int) -> None:
    """aiokafka asks for the brokers on a connection that its client does not know before the answer."""

    class Client(Consumer):
        opened = False

        async def start(self) -> None:
            self.opened = True
            for _ in range(5):
                await asyncio.sleep(0)
            self.running = True

    client = Client()
    task = asyncio.create_task(begun(client))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert client.running == client.opened
