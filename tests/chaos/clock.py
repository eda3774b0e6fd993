"""The time of a chaos run. It stands still while the broker comes up again, which on a busy machine can take longer than all the rest."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Final

LOOK_SECONDS: Final = 0.2


class Clock:
    """Seconds since it was made, without those in which it stood."""

    def __init__(self) -> None:
        self._began, self._stood, self._stands_since = time.monotonic(), 0.0, 0.0

    @property
    def now(self) -> float:
        return (self._stands_since or time.monotonic()) - self._began - self._stood

    async def until(self, moment: float) -> None:
        while (left := moment - self.now) > 0:  # noqa: ASYNC110  # time that may stand is asked, not waited for
            await asyncio.sleep(min(left, LOOK_SECONDS))

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """Stands still for so long; not to be nested."""
        self._stands_since = time.monotonic()
        try:
            yield
        finally:
            self._stood += time.monotonic() - self._stands_since
            self._stands_since = 0.0
