"""Who may have a call to Salesforce under way: bounds per org and for the process, so that orgs that hang never keep healthy ones waiting.

Knows no HTTP. A thread can't be cancelled, so a place is given back only when its thread has ended.
"""

import asyncio
import dataclasses
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter, WouldBlock

from schemas.messages import Cause
from stages.salesforce.causes import TRANSIENT
from stages.salesforce.door import Trouble
from stages.salesforce.errors import OrgUnavailable

NO_PLACE: Final = "no_place_for_a_call"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """Named bounds of one process. The three pools are apart, and together they are the most threads there ever are."""

    healthy: int = 32
    """Calls of orgs that answer, each in its first `slow_after_seconds`."""
    slow: int = 96
    """Calls that have run longer than that: they gave their healthy place back."""
    doubtful: int = 40
    """Calls of all orgs in doubt: at most a quarter of the threads."""
    per_org: int = 4
    per_org_while_slow: int = 2
    """An org with a slow call under way starts another only below this."""
    slow_after_seconds: float = 2.0
    longest_wait_seconds: float = 60.0
    """For a place; a call that gets none by then was not made."""

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

    @property
    def pressed(self) -> bool:
        """Half of the slow places are taken: many orgs hang at once, as when a part of Salesforce is down. Reads should give up early then."""
        return self._slow.borrowed_tokens * 2 >= self._slow.total_tokens

    async def run(self, gate: Gate, work: Callable[[], T]) -> T:
        """Runs blocking work of an org in a thread, in its turn. Raises OrgUnavailable where its turn did not come; then nothing was run.

        Cancellation takes effect while waiting, and after the thread has ended.
        """
        async with self._place(gate):
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=False, limiter=self._threads)

    @asynccontextmanager
    async def _place(self, gate: Gate) -> AsyncIterator[None]:
        try:
            with anyio.fail_after(self.bounds.longest_wait_seconds):
                await gate.enter()
                place = await self._taken(gate)
        except TimeoutError:
            raise OrgUnavailable(_no_place(self.bounds.longest_wait_seconds)) from None
        try:
            yield
        finally:
            place.end()
            gate.leave()

    async def _taken(self, gate: Gate) -> "_DoubtfulPlace | _Place":
        place = _DoubtfulPlace(self._doubtful) if gate.doubt else _Place(self._healthy, self._slow, gate, self.bounds.slow_after_seconds)
        try:
            await place.take()
        except BaseException:
            gate.leave()
            raise
        return place


def _no_place(seconds: float) -> Trouble:
    message = f"No call could be started for {seconds:.0f} s: too many are under way"
    hint = "Orgs that answer slowly hold the places of this process: start more of this part, or see which orgs are slow"
    return Trouble(kind=TRANSIENT, cause=Cause(code=NO_PLACE, message=message, hint=hint))


class _DoubtfulPlace:
    """One of the few that all orgs in doubt share."""

    def __init__(self, doubtful: CapacityLimiter) -> None:
        self._doubtful = doubtful

    async def take(self) -> None:
        await self._doubtful.acquire_on_behalf_of(self)

    def end(self) -> None:
        self._doubtful.release_on_behalf_of(self)


class _Place:
    """A healthy place that turns into a slow one when its call takes long."""

    def __init__(self, healthy: CapacityLimiter, slow: CapacityLimiter, gate: Gate, after_seconds: float) -> None:
        self._healthy, self._slow, self._gate, self._after = healthy, slow, gate, after_seconds
        self._is_slow = False
        self._timer: asyncio.TimerHandle | None = None

    async def take(self) -> None:
        await self._healthy.acquire_on_behalf_of(self)
        self._watch()

    def _watch(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._after, self._turn_slow)

    def _turn_slow(self) -> None:
        try:
            self._slow.acquire_on_behalf_of_nowait(self)
        except WouldBlock:
            # Every slow place is taken: it keeps the healthy one, since threads are bounded before all else.
            self._watch()
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
