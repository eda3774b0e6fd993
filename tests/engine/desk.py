"""A step for the engine's tests: it passes messages on, and can be told whose org is down, slow, or a fault. Takes note of every run."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence

from pipeline.errors import LeaseLost
from pipeline.messages import Message
from pipeline.outcomes import Batch, Block, Emit, Out, Outcome, Reject, Retry, Wait
from schemas.messages import Cause

DOWN = Cause(code="org_down", message="The org does not answer.", hint="Wait.")
REFUSED = Cause(code="refused", message="The org refuses this record.")
RESTING = Cause(code="not_now", message="Try again later.")
MISSING = Cause(code="row_missing", message="The row isn't there yet.")


class Desk:
    """Passes on to `out` whatever nothing below stands against. Messages whose key is `company:…` make the row that others wait for."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        """Orgs that do not answer."""
        self.broken: set[str] = set()
        """Keys for which the step raises, and with it for the whole batch."""
        self.refused: set[str] = set()
        self.resting: set[str] = set()
        """Ids that are to be tried again, without counting a try."""
        self.rest_seconds = 0.2
        self.waiting: set[str] = set()
        """Orgs whose messages wait for the row `<org>` of the table `rows`."""
        self.longest_wait_seconds: float | None = None
        self.slow_seconds: dict[str, float] = {}
        """By org; the empty name is for all others."""
        self.shut: dict[str, asyncio.Event] = {}
        """By org: calls hang until it is set."""
        self.row: dict[str, bytes] = {}
        """What the table `rows` has, kept by the test's worker."""
        self.runs: list[tuple[str, tuple[str, ...]]] = []
        """Org and ids of each run, in the order of their beginnings."""
        self.calls: list[Message] = []
        """What went out, in order: the guard has let it pass."""
        self.refused_by_guard: list[Message] = []
        self.side_by_side: list[tuple[str, str]] = []
        """Exclusion keys that were in flight twice at once: must stay empty."""
        self.in_flight: Counter[tuple[str, str]] = Counter()
        self.most_in_flight: Counter[str] = Counter()
        """By org: the most messages in flight at once."""

    async def __call__(self, batch: Batch) -> Sequence[Outcome]:
        self.runs.append((batch.org, tuple(message.id for message in batch.messages)))
        keys = [(batch.org, message.key) for message in batch.messages]
        self.in_flight.update(keys)
        self.side_by_side += [key for key in keys if self.in_flight[key] > 1]
        now = sum(count for (org, _), count in self.in_flight.items() if org == batch.org)
        self.most_in_flight[batch.org] = max(self.most_in_flight[batch.org], now)
        try:
            return await self._decide(batch)
        finally:
            self.in_flight -= Counter(keys)

    async def _decide(self, batch: Batch) -> Sequence[Outcome]:
        if any(message.key in self.broken for message in batch.messages):
            raise RuntimeError("the step knows no such thing")
        seconds = self.slow_seconds.get(batch.org, self.slow_seconds.get("", 0.0))
        if seconds:
            await asyncio.sleep(seconds)
        if batch.org in self.shut:
            await self.shut[batch.org].wait()
        if batch.org in self.down:
            return [Block(f"org:{batch.org}", DOWN)] * len(batch.messages)
        try:
            await asyncio.to_thread(batch.guard)
        except LeaseLost:
            self.refused_by_guard += batch.messages
            raise
        return [self._outcome(message) for message in batch.messages]

    def _outcome(self, message: Message) -> Outcome:
        if message.id in self.resting:
            return Retry(self.rest_seconds, RESTING, free=True)
        if message.key in self.refused:
            return Reject((REFUSED,))
        if message.org in self.waiting and message.kind != "company":
            seen = self.row.get(message.org)
            if seen is None:
                return Wait("rows", message.org, None, MISSING, longest_seconds=self.longest_wait_seconds)
        self.calls.append(message)
        return Emit((Out("out", message.value),))

    def numbers(self, org: str | None = None) -> dict[str, list[int]]:
        """By key, the numbers that went out, in order."""
        found: defaultdict[str, list[int]] = defaultdict(list)
        for message in self.calls:
            if org is None or message.org == org:
                found[message.key].append(int(message.id))
        return dict(found)
