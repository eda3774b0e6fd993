"""The right of a group member to believe that its partitions are its own: a time, not a flag. Never asks the broker itself."""

import time
from collections.abc import Callable
from typing import Final

Clock = Callable[[], float]


def monotonic() -> float:
    """Seconds that go on while the process is stopped and, where the system can tell, while the machine sleeps."""
    return time.clock_gettime(BOOTTIME) if BOOTTIME is not None else time.monotonic()


BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)

NEVER: Final = float("-inf")


class Lease:
    """Half the session timeout from the sending of the last request that the coordinator accepted.

    The broker lets a silent member go after the whole session timeout, counted from the arrival of that request, so half of it
    from the sending is safe. During a rebalance heartbeats are still accepted, but the broker gives the partitions away when the
    rebalance timeout ends: from then on a renewal reaches no further than the last request before the rebalance plus that timeout.
    """

    __slots__ = ("_clock", "_held", "_rebalance_seconds", "_session_seconds", "_settled_at", "_until")

    def __init__(self, session_seconds: float, rebalance_seconds: float, clock: Clock = monotonic) -> None:
        self._session_seconds = session_seconds
        self._rebalance_seconds = rebalance_seconds
        self._clock = clock
        self._held = False
        self._settled_at = NEVER
        self._until = NEVER

    def begin(self) -> None:
        """Partitions were assigned; the first accepted request after this makes the lease."""
        self._held = True

    def renew(self, asked_at: float, *, settled: bool) -> None:
        """A request sent at `asked_at` was accepted; `settled`: no rebalance is under way."""
        if not self._held:
            return
        if settled:
            self._settled_at = max(self._settled_at, asked_at)
        until = min(asked_at + self._session_seconds / 2, self._settled_at + self._rebalance_seconds)
        self._until = max(self._until, until)

    def end(self) -> None:
        """The partitions are gone, or may be."""
        self._held = False
        self._settled_at = self._until = NEVER

    def seconds(self) -> float:
        """What is left of it; negative: nothing. May be asked from any thread."""
        return self._until - self._clock()
