"""Which lanes are blocked, since when and why, and when each may be tried again. One board a stage and worker; pure but for its clock."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from pipeline.backoff import backoff_seconds
from schemas.messages import Cause


@dataclasses.dataclass(slots=True)
class Blocked:
    """One blocked lane."""

    lane: str
    cause: Cause
    since: float
    """When it began to be blocked: the board's clock, seconds."""
    attempt: int = 1
    next_try: float = 0.0
    probes_left: int = 0
    """How many messages may still go as the next probe, or the one under way."""
    probing: bool = False
    """Some of a probe went, and it was not answered yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Probing:
    """How blocked lanes are tried."""

    first_seconds: float = 1.0
    longest_seconds: float = 60.0
    messages: int = 25
    """How many messages one probe is: one batch."""
    answer_seconds: float = 60.0
    """After so long a probe without an answer (its partition went away) is given up."""
    well_seconds: float = 30.0
    """A lane that blocks again so soon after it was well goes on with its back-off where it stood."""


class Board:
    """See the module."""

    def __init__(self, clock: Callable[[], float], random: Callable[[], float], probing: Probing) -> None:
        self._clock, self._random, self._probing = clock, random, probing
        self.blocked: dict[str, Blocked] = {}
        self._recovered: dict[str, tuple[float, int]] = {}
        self._nudged: dict[str, float] = {}
        """When something about a lane was mended last. Such lanes are those of orgs and workspaces: few."""

    def block(self, lane: str, cause: Cause, at_least_seconds: float | None) -> bool:
        """The lane is blocked (still). False where it was known and no probe was under way: several messages of one batch say the same."""
        now = self._clock()
        known = self.blocked.get(lane)
        if known is not None and now < known.next_try and not known.probing:
            return False
        if known is None:
            well_at, attempt = self._recovered.pop(lane, (-1e9, 0))
            known = self.blocked[lane] = Blocked(lane, cause, now, attempt if now - well_at < self._probing.well_seconds else 0)
        known.attempt += 1
        known.cause = cause
        wait = backoff_seconds(
            known.attempt, self._random(), first_seconds=self._probing.first_seconds, longest_seconds=self._probing.longest_seconds
        )
        known.next_try = now + max(wait, at_least_seconds or 0.0)
        known.probes_left = self._probing.messages
        known.probing = False
        return True

    def well(self, lanes: Sequence[str]) -> list[str]:
        """Something of these lanes got through: those that were blocked are no longer. Returns them."""
        if not self.blocked:
            return []
        freed = [lane for lane in lanes if lane in self.blocked]
        if freed:
            now = self._clock()
            lately = now - self._probing.well_seconds
            self._recovered = {lane: known for lane, known in self._recovered.items() if known[0] >= lately}
            self._recovered.update((lane, (now, self.blocked.pop(lane).attempt)) for lane in freed)
        return freed

    def unasked(self, lane: str) -> None:
        """The probe of this lane ended without having called anybody: the next one may go at once."""
        blocked = self.blocked.get(lane)
        if blocked is not None and blocked.probing:
            blocked.next_try = self._clock()
            blocked.probes_left = self._probing.messages
            blocked.probing = False

    def restore(self, lane: str, cause: Cause, seconds: float) -> None:
        """The lane was blocked under an owner before, and may be tried in so many seconds: with a probe, and not with all that waits."""
        if lane not in self.blocked:
            now = self._clock()
            due = now + min(max(0.0, seconds), self._probing.longest_seconds)
            self.blocked[lane] = Blocked(lane, cause, now, next_try=due, probes_left=self._probing.messages)

    def stops(self, lanes: Sequence[str]) -> Blocked | None:
        """The widest of `lanes` that lets nothing through now; None lets one message through, as part of a probe where one is due."""
        due: list[Blocked] = []
        now = self._clock()
        for lane in lanes:
            blocked = self.blocked.get(lane)
            if blocked is None:
                continue
            if not self._is_due(blocked, now):
                return blocked
            due.append(blocked)
        for blocked in due:
            blocked.probes_left -= 1
            blocked.probing = True
        return None

    def is_open(self, lanes: Sequence[str]) -> bool:
        """Whether `stops` would let a message through, without letting it."""
        if not self.blocked:
            return True
        now = self._clock()
        return all(lane not in self.blocked or self._is_due(self.blocked[lane], now) for lane in lanes)

    def _is_due(self, blocked: Blocked, now: float) -> bool:
        if now >= blocked.next_try and blocked.probes_left <= 0:
            # The probe has gone, whole. Should its answer never come (its partition went away), the next one may go then.
            blocked.next_try = now + self._probing.answer_seconds
            blocked.probes_left = self._probing.messages
        return now >= blocked.next_try

    def in_doubt(self, lane: str) -> bool:
        """Whether the lane is blocked, or being probed."""
        return lane in self.blocked

    def nudge(self, prefix: str) -> None:
        """Something was mended: the lanes at or below `prefix` may be tried at once."""
        now = self._nudged[prefix] = self._clock()
        for lane, blocked in self.blocked.items():
            if lane == prefix or lane.startswith(prefix + "/"):
                blocked.next_try = min(blocked.next_try, now)
                blocked.probes_left = self._probing.messages

    def nudged_since(self, lane: str, moment: float) -> bool:
        """Whether something about this lane, or a wider one, was mended after `moment`."""
        wider = itertools.accumulate(lane.split("/"), "{}/{}".format)
        return any(self._nudged.get(one, moment) > moment for one in wider)

    def next_try(self) -> float | None:
        """The earliest time at which a blocked lane may be tried; None: none is blocked."""
        return min((blocked.next_try for blocked in self.blocked.values()), default=None)
