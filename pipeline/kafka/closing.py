"""How clients of aiokafka are started and ended so that nothing of them stays open, each within a bound, whatever the broker does."""

import asyncio
from typing import Any, Final

import anyio
import structlog

log = structlog.get_logger()

UNSTARTED_SECONDS: Final = 5.0
"""How long one that did not start may take to close."""


CANCELLED_SECONDS: Final = 1.0
"""How long a start that nobody wants any more may go on."""


async def begun(client: Any) -> None:
    """Starts a client. A start that is cancelled goes on for a moment: half-way it has a connection that no `stop` knows of (aiokafka 0.14)."""
    starting = asyncio.create_task(client.start())
    try:
        await asyncio.shield(starting)
    finally:
        if not starting.done():
            with anyio.CancelScope(shield=True):
                await asyncio.wait({starting}, timeout=CANCELLED_SECONDS)
                starting.cancel()
                await asyncio.wait({starting}, timeout=CANCELLED_SECONDS)
            if starting.done() and not starting.cancelled() and (error := starting.exception()) is not None:
                log.debug("a start that was cancelled failed", error=repr(error))


async def started(consumer: Any) -> None:
    """Starts it, and lets its tasks have their first step: one that is cancelled before it would end `stop` half-way (aiokafka 0.14)."""
    try:
        await begun(consumer)
        await asyncio.sleep(0)
    except BaseException:
        # Also where its task was cancelled, which would cancel the closing too.
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0)
            await closed(consumer, UNSTARTED_SECONDS)
        raise


async def closed(consumer: Any, seconds: float) -> None:
    """Leaves the group, if there is one, and closes; where that takes too long, the connections are closed under it."""
    stopping = asyncio.create_task(consumer.stop())
    done, _ = await asyncio.wait({stopping}, timeout=seconds)
    if not done:
        log.warning("a consumer did not leave in time; its group will notice by the session timeout", seconds=seconds)
        closing = asyncio.create_task(consumer._client.close())
        await asyncio.wait({stopping, closing}, timeout=seconds, return_when=asyncio.ALL_COMPLETED)
        stopping.cancel()
        closing.cancel()
        await asyncio.wait({stopping, closing})
    if not stopping.cancelled() and (error := stopping.exception()) is not None:
        log.warning("a consumer did not stop cleanly", error=repr(error))


async def ended(poll: "asyncio.Task[Any] | None") -> None:
    """Ends a poll that nobody waits for any more."""
    if poll is None:
        return
    poll.cancel()
    await asyncio.wait({poll})
    if not poll.cancelled() and (error := poll.exception()) is not None:
        log.debug("a poll ended with its reader", error=repr(error))
