"""Whether reading still brings what the log has, of each partition, and whether commits go on. Pure; asks nobody and ends nothing itself.

A consumer can stop receiving, from one partition or from all, and say nothing of it, while heartbeats, commits and `/healthz` go on.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple


class Place(NamedTuple):
    """One reader, or the commits, in one partition."""

    reader: Literal["live", "sweep", "table", "commit"]
    partition: int
    table: str = ""


class Sight(NamedTuple):
    """How it stands there."""

    position: int
    """Another one whenever something was brought."""
    behind: int
    """How much there is to bring; 0: it has no reason to move."""
    rests: bool = False
    """It does not read now, on purpose: this time does not count."""
    reason: str = ""
    """Why it does not move, where that is known."""
    lasts: bool = False
    """A start anew would find it as it is."""


_TOLD: Final = {
    "live": "live reading has brought nothing from partition {} for {:.0f} s, with {} messages to read",
    "sweep": "the sweep has brought nothing from partition {} for {:.0f} s, with {} lanes to serve",
    "table": "reading the table {table} has brought nothing from partition {} for {:.0f} s, with {} records to read",
    "commit": "nothing of partition {} was committed for {:.0f} s, with {} changes to commit",
}


class Watchdog:
    """One a worker, and one for the tables. Times are those of the event loop, in seconds."""

    def __init__(self, stuck_seconds: float, now: float, silent_seconds: float | None = None) -> None:
        """`silent_seconds`: for how long the log may give no answer; as long as reading may bring nothing where it is not given."""
        self._stuck_seconds = stuck_seconds
        self._silent_seconds = stuck_seconds if silent_seconds is None else silent_seconds
        self._silence = ""
        self._answered_at = self._seen_at = now
        self._sights: Mapping[Place, Sight] = {}
        self._quiet: dict[Place, float] = {}
        """For how long each place has brought nothing, though it should have."""
        self.moved: frozenset[Place] = frozenset()
        """Where something was brought of late, or nothing is left to bring."""

    def answered(self, sights: Mapping[Place, Sight], now: float) -> None:
        """The log was asked, apart from these readers. A place that is not named is watched no more."""
        # After a pause of the whole process nobody could have moved.
        passed, last = min(now - self._seen_at, self._stuck_seconds), self._sights
        quiet: dict[Place, float] = {}
        for place, sight in sights.items():
            before = last.get(place, sight)
            starts = place not in last or before.position != sight.position or not before.behind or not sight.behind
            quiet[place] = 0.0 if starts else self._quiet[place] + (0.0 if before.rests or sight.rests else passed)
        self.moved = frozenset(
            place for place, sight in sights.items() if not sight.behind or last.get(place, sight).position != sight.position
        )
        self._sights, self._quiet = dict(sights), quiet
        self._answered_at = self._seen_at = now
        self._silence = ""

    def unanswered(self, now: float, error: str = "") -> None:
        """The log did not answer: nobody could have read, and a start anew would be of no use."""
        self._seen_at, self._quiet, self._silence = now, dict.fromkeys(self._quiet, 0.0), error

    def stalled(self) -> dict[Place, str]:
        """Where nothing came for longer than the bound, with a sentence for each; the longest first."""
        places = sorted(
            (place for place, quiet in self._quiet.items() if quiet > self._stuck_seconds), key=lambda place: -self._quiet[place]
        )
        return {place: self._told(place) for place in places}

    def trouble(self, now: float) -> str:
        """For /readyz; empty: none."""
        if now - self._answered_at > self._silent_seconds:
            told = f"the log has not answered for {now - self._answered_at:.0f} s"
            return f"{told}: {self._silence}" if self._silence else told
        return next(iter(self.stalled().values()), "")

    def is_stuck(self) -> bool:
        """Whether only a start anew helps: nothing for twice the bound, though the log answers."""
        quiet = (seconds for place, seconds in self._quiet.items() if not self._sights[place].lasts)
        return max(quiet, default=0.0) > 2 * self._stuck_seconds

    def _told(self, place: Place) -> str:
        sight = self._sights[place]
        told = _TOLD[place.reader].format(place.partition, self._quiet[place], sight.behind, table=place.table)
        return f"{told}: {sight.reason}" if sight.reason else told
