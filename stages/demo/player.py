"""Posts a season's webhooks, each signed when it goes out, a bounded number at once; tries again what the ingress could not take."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import aiohttp
import anyio

from stages.demo.season import Delivery
from stages.errors import TurnoutError
from stages.livestorm.signature import HEADER, sign

AT_ONCE: Final = 64
PATIENCE_SECONDS: Final = 120.0
"""How long one webhook is tried."""
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0


class PlayError(TurnoutError):
    """The ingress refused a webhook, or could not be reached for too long."""


@dataclasses.dataclass(slots=True)
class Player:
    """`url` is the ingress's, `secrets` are by workspace. `accepted` counts what was answered with 202, `tried` every request."""

    session: aiohttp.ClientSession
    url: str
    secrets: Mapping[str, str]
    progress: Callable[[int], None] = lambda accepted: None
    """Called with the number of webhooks just taken."""
    accepted: int = 0
    tried: int = 0

    async def play(self, deliveries: Iterable[Delivery]) -> None:
        """Returns when all are taken. Raises PlayError."""
        queue = iter(deliveries)
        async with anyio.create_task_group() as group:
            for _ in range(AT_ONCE):
                group.start_soon(self._play_some, queue)

    async def _play_some(self, queue: Iterator[Delivery]) -> None:
        for delivery in queue:
            await self._post(delivery)

    async def _post(self, delivery: Delivery) -> None:
        ends = time.monotonic() + PATIENCE_SECONDS
        pause = FIRST_PAUSE_SECONDS
        while (trouble := await self._try(delivery)) is not None:
            if time.monotonic() + pause > ends:
                raise PlayError(f"the ingress did not take a webhook within {PATIENCE_SECONDS:g} s: {trouble}")
            await anyio.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
        self.accepted += 1
        self.progress(1)

    async def _try(self, delivery: Delivery) -> str | None:
        """None: it is taken; else why it may be tried again. Raises PlayError for a refusal."""
        self.tried += 1
        headers = {HEADER: sign(self.secrets[delivery.workspace], int(time.time()), delivery.body), "Content-Type": "application/json"}
        try:
            async with self.session.post(f"{self.url}/livestorm/{delivery.workspace}", data=delivery.body, headers=headers) as answer:
                if answer.status == 202:
                    return None
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__
        # Right after its settings were applied an ingress may not have read them yet.
        if answer.status in (404, 503):
            return f"{answer.status} {text}"
        raise PlayError(f"the ingress refused a webhook of {delivery.workspace}: {answer.status} {text}")
