"""Keeps a consumer from asking again and again where a broker answers empty at once instead of waiting for records to come.

Apache Kafka holds an empty answer back for `fetch.max.wait.ms`; the embedded broker doesn't, and each consumer of an idle topic would
take most of a core. One private name of aiokafka 0.14 is used here: the client's `send`, which every fetch goes through.
"""

import asyncio
from typing import Any, Final

FETCH_API_KEY: Final = 1
FIRST_PAUSE_SECONDS: Final = 0.005
LONGEST_PAUSE_SECONDS: Final = 0.1


def paced(consumer: Any, max_wait_seconds: float) -> None:
    """Empty answers that come early are held back a little, twice as long each time, up to `LONGEST_PAUSE_SECONDS`."""
    client = consumer._client
    send = client.send
    pauses: dict[Any, float] = {}

    async def send_paced(node_id: Any, request: Any, **options: Any) -> Any:
        if getattr(request, "API_KEY", None) != FETCH_API_KEY:
            return await send(node_id, request, **options)
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        response = await send(node_id, request, **options)
        if loop.time() - asked_at >= max_wait_seconds / 2 or _has_something(response):
            pauses.pop(node_id, None)
        else:
            pause = pauses[node_id] = min(pauses.get(node_id, FIRST_PAUSE_SECONDS / 2) * 2, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)
        return response

    client.send = send_paced


def _has_something(response: Any) -> bool:
    """Records, or an error that must be seen at once."""
    return any(partition[1] or partition[-1] for _, partitions in response.topics for partition in partitions)
