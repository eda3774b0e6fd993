"""An org's daily API calls as its replies tell them, and the reserve that is left to the org's other integrations. Asks nothing."""

import dataclasses
import re
from collections.abc import Callable

from schemas.messages import Cause
from stages.salesforce.causes import DAILY_PROBE_SECONDS, ORG
from stages.salesforce.door import Trouble

_USAGE = re.compile(r"(?:^|[\s;,])api-usage=(\d+)/(\d+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Calls used in the last 24 hours, by everyone, and how many the org may make."""

    used: int
    total: int


def usage_of(header: str | None) -> Usage | None:
    """Reads `Sforce-Limit-Info: api-usage=18/15000; per-app-api-usage=17/250(appName=x)`; None where it tells none."""
    found = _USAGE.search(header or "")
    return Usage(int(found[1]), int(found[2])) if found else None


class Allowance:
    """What is known of one org's allowance. Past the reserve one call each 15 minutes finds out whether there are calls again."""

    def __init__(self, clock: Callable[[], float], probe_seconds: float = DAILY_PROBE_SECONDS) -> None:
        self._clock = clock
        self._probe_seconds = probe_seconds
        self._probe_at: float | None = None
        self._exhausted = False
        self.usage: Usage | None = None

    @property
    def left(self) -> int | None:
        """Calls left today; None before the first reply."""
        return None if self.usage is None else max(0, self.usage.total - self.usage.used)

    def tell(self, usage: Usage) -> None:
        """A reply told it."""
        self.usage = usage
        self._exhausted = False

    def exhausted(self) -> None:
        """The org refused a call because none is left."""
        self._exhausted = True
        self._probe_at = self._clock() + self._probe_seconds

    def reset(self) -> None:
        """The next call may go out whatever is known: someone changed the settings."""
        self._probe_at = self._clock()

    def trouble(self, reserve: float) -> Trouble | None:
        """Why no call may be made now, or None: then one may, and past the reserve that one is the probe."""
        spent = self.usage is not None and self.usage.used >= self.usage.total * (1 - reserve)
        if not (spent or self._exhausted):
            self._probe_at = None
            return None
        now = self._clock()
        if self._probe_at is None:
            self._probe_at = now + self._probe_seconds
        if now >= self._probe_at:
            self._probe_at = now + self._probe_seconds
            return None
        return Trouble(kind=ORG, cause=_cause(self.usage, reserve), retry_after_seconds=self._probe_at - now)


def _cause(usage: Usage | None, reserve: float) -> Cause:
    told = f"{usage.used} of {usage.total} daily API calls are used" if usage else "The org's daily API calls are used up"
    return Cause(
        code="daily_call_reserve",
        message=f"{told}; {reserve:.0%} are left to others",
        hint="Wait, buy more calls, lower daily_call_reserve, or find out in Setup > API usage who uses them",
    )
