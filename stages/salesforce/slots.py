"""Who may have a call to Salesforce under way: bounds per org and for the process, so that orgs that hang never keep healthy ones waiting.

Knows no HTTP. A thread can't be cancelled, so a place is given back only when its thread has ended.
"""

import asyncio
import dataclasses
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter, WouldBlock

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """Named bounds of one process. The three pools are apart, and together they are the most threads there ever are."""

    healthy: int = 24
    """Calls of orgs that answer, each in its first `slow_after_seconds`."""
    slow: int = 48
    """Calls that have run longer than that: they gave their healthy place back."""
    doubtful: int = 24
    """Calls of all orgs in doubt: a quarter of the threads."""
    per_org: int = 4
    per_org_while_slow: int = 2
    """An org with a slow call under way starts another only below this."""
    slow_after_seconds: float = 2.0

    @property
    def threads(self) -> int:
        return self.healthy + self.slow + self.doubtful


class Gate:
    """One org's calls. In doubt (the last call failed for the org as a whole) there is one at a time, until the first that succeeds."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._waiting: deque[anyio.Event] = deque()
        self.running = 0
        self.slow = 0
        self.doubt = False

    def _open(self) -> bool:
        if self.doubt:
            return self.running == 0
        return self.running < (self._bounds.per_org_while_slow if self.slow else self._bounds.per_org)

    async def enter(self) -> None:
        """Waits for its turn, first come first served; then the caller is running."""
        if self._open() and not self._waiting:
            self.running += 1
            return
        turn = anyio.Event()
        self._waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.leave()
            else:
                self._waiting.remove(turn)
                self._wake()
            raise

    def leave(self) -> None:
        self.running -= 1
        self._wake()

    def failed(self) -> None:
        """The org as a whole could not be worked with."""
        self.doubt = True

    def succeeded(self) -> None:
        """The org answered."""
        self.doubt = False
        self._wake()

    def turned_slow(self) -> None:
        self.slow += 1

    def slow_ended(self) -> None:
        self.slow -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._open():
            self.running += 1
            self._waiting.popleft().set()


class Slots:
    """All threads that call Salesforce in this process."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._threads = CapacityLimiter(self.bounds.threads)
        self._healthy = CapacityLimiter(self.bounds.healthy)
        self._slow = CapacityLimiter(self.bounds.slow)
        self._doubtful = CapacityLimiter(self.bounds.doubtful)

    def gate(self) -> Gate:
        """A new org's gate."""
        return Gate(self.bounds)

    async def run(self, gate: Gate, work: Callable[[], T]) -> T:
        """Runs blocking work of an org in a thread, in its turn. Cancellation takes effect while waiting, and after the thread has ended."""
        await gate.enter()
        try:
            async with self._place(gate):
                return await anyio.to_thread.run_sync(work, abandon_on_cancel=False, limiter=self._threads)
        finally:
            gate.leave()

    @asynccontextmanager
    async def _place(self, gate: Gate) -> AsyncIterator[None]:
        if gate.doubt:
            async with self._doubtful:
                yield
            return
        place = _Place(self._healthy, self._slow, gate, self.bounds.slow_after_seconds)
        await self._healthy.acquire_on_behalf_of(place)
        place.start()
        try:
            yield
        finally:
            place.end()


class _Place:
    """A healthy place that turns into a slow one when its call takes long."""

    def __init__(self, healthy: CapacityLimiter, slow: CapacityLimiter, gate: Gate, after_seconds: float) -> None:
        self._healthy, self._slow, self._gate, self._after = healthy, slow, gate, after_seconds
        self._is_slow = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._after, self._turn_slow)

    def _turn_slow(self) -> None:
        try:
            self._slow.acquire_on_behalf_of_nowait(self)
        except WouldBlock:
            # Every slow place is taken: it keeps the healthy one, since threads are bounded before all else.
            self.start()
            return
        self._is_slow = True
        self._healthy.release_on_behalf_of(self)
        self._gate.turned_slow()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._is_slow:
            self._slow.release_on_behalf_of(self)
            self._gate.slow_ended()
        else:
            self._healthy.release_on_behalf_of(self)
