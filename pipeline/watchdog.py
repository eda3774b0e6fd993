"""Whether live reading still brings what the log has. Pure; asks nobody and ends nothing itself.

A consumer can stop receiving and say nothing of it, while heartbeats, commits and `/healthz` go on.
"""


class Watchdog:
    """One a worker. Times are those of the event loop, in seconds."""

    def __init__(self, stuck_seconds: float, now: float) -> None:
        self._stuck_seconds = stuck_seconds
        self._moved_at = now
        self._answered_at = now
        self._behind = 0

    def moved(self, now: float) -> None:
        """Live reading brought something, or had no reason to: memory is full, a partition is new or pauses."""
        self._moved_at = now

    def answered(self, behind: int, now: float) -> None:
        """The log was asked, apart from live reading, by how many offsets it is ahead of it."""
        self._answered_at, self._behind = now, behind
        if not behind:
            self._moved_at = now

    def unanswered(self, now: float) -> None:
        """The log did not answer: nobody could have read, and a start anew would be of no use."""
        self._moved_at = now

    def trouble(self, now: float) -> str:
        """For /readyz; empty: none."""
        if now - self._answered_at > self._stuck_seconds:
            return f"the log has not answered for {now - self._answered_at:.0f} s"
        quiet = now - self._moved_at
        if self._behind and quiet > self._stuck_seconds:
            return f"live reading has brought nothing for {quiet:.0f} s, with {self._behind} messages to read"
        return ""

    def is_stuck(self, now: float) -> bool:
        """Whether only a start anew helps: nothing for twice the bound, though the log answers."""
        return bool(self._behind) and now - self._moved_at > 2 * self._stuck_seconds
