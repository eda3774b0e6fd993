"""Who registers at one workspace of a soak, for as long as it lasts: mostly new people, some of them again. Judges nothing."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

import aiohttp

from tests.bench.outcomes import BenchError
from tests.bench.stand import Stand
from tests.flow import livestorm
from tests.flow.livestorm import new_id

AGAIN: Final = 0.3
"""Share of registrations of somebody who has registered before, with another job title."""
RECENT: Final = 200
"""… and who was among the last so many."""
PAUSE_SECONDS: Final = 0.5


class People:
    """`told`: by address, the job titles in the order in which the ingress took them; the number in each counts up in the workspace."""

    def __init__(self, stand: Stand, seed: int) -> None:
        self.stand = stand
        self.told: dict[str, list[str]] = {}
        self.taken_ms: list[int] = []
        """When each was taken, Unix ms."""
        self.repeated = 0
        """Webhooks that were posted once more, since the answer was no 202."""
        self._random = random.Random(f"people {seed} {stand.workspace}")
        self._persons: dict[str, str] = {}
        self._last: dict[str, int] = {}
        """Unix s of each one's last registration: Livestorm tells times in whole seconds, and of two in one second none is later."""

    async def come(self, every_seconds: float, goes_on: Callable[[], bool]) -> None:
        """One after the other, evenly but for a fifth."""
        due = time.monotonic() + self._random.random() * every_seconds
        while goes_on():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self.one()
            due += every_seconds * self._random.uniform(0.8, 1.2)

    async def one(self) -> None:
        """One registers. Each is taken before the next is posted: what comes later happened later."""
        now = int(time.time())
        email, title = self._who(now), f"v{len(self.taken_ms):07d}"
        stand = self.stand
        attributes = livestorm.person(stand.session, stand.event, email, job_title=title, updated_at=now)
        person = self._persons.setdefault(email, new_id())
        told = livestorm.body(stand.organization, "people.registered", "people", person, attributes)
        await self._posted(livestorm.encode(told))
        self.told.setdefault(email, []).append(title)
        self.taken_ms.append(int(time.time() * 1000))
        self._last[email] = now

    def _who(self, now: int) -> str:
        if self._random.random() < AGAIN:
            known = list(self.told)[-RECENT:]
            again = self._random.choice(known) if known else ""
            if again and self._last[again] < now:
                return again
        return f"guest-{len(self.told):07d}@{self.stand.workspace}.example"

    async def _posted(self, body: bytes) -> None:
        while True:
            try:
                await self.stand.post(body)
            except (BenchError, aiohttp.ClientError, TimeoutError):
                self.repeated += 1
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return
