"""What of aiokafka's own log is passed on: warnings and errors, each kind once in a while. Never hides an error that is not also raised."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Final

AGAIN_SECONDS: Final = 30.0
"""While a broker is away each client says so many times a second."""

ORDINARY: Final = ("because it is rebalancing",)
"""Warnings of aiokafka about what happens each time a member comes or goes."""


class Seldom(logging.Filter):
    """Lets one kind of message pass once in `again_seconds`, with the number of those that it held back."""

    def __init__(self, again_seconds: float = AGAIN_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._again_seconds = again_seconds
        self._clock = clock
        self._passed: dict[tuple[str, str], float] = {}
        self._held: dict[tuple[str, str], int] = {}
        self.silent = 0
        """Above 0 nothing passes: whoever raised it reports for itself."""
        self.last_words = ""
        """What was last held back by the silence."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = (record.name, str(record.msg))
        if self.silent:
            self.last_words = " ".join(record.getMessage().split())
            return False
        if record.levelno < logging.WARNING or any(words in kind[1] for words in ORDINARY):
            return False
        now = self._clock()
        if now - self._passed.get(kind, float("-inf")) < self._again_seconds:
            self._held[kind] = self._held.get(kind, 0) + 1
            return False
        self._passed[kind] = now
        held = self._held.pop(kind, 0)
        if held:
            record.msg = f"{record.msg} ({held} more like this before)"
        return True


_seldom: Final = Seldom()


def quieten() -> None:
    """For all of aiokafka's loggers. A filter on their parent would not see what they hand on."""
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and (name == "aiokafka" or name.startswith("aiokafka.")) and _seldom not in logger.filters:
            logger.addFilter(_seldom)


@contextlib.contextmanager
def silence() -> Iterator[Callable[[], str]]:
    """While a first broker is looked for, each failed attempt would be an error in the log. Gives what aiokafka last had to say."""
    _seldom.silent += 1
    _seldom.last_words = ""
    try:
        yield lambda: _seldom.last_words
    finally:
        _seldom.silent -= 1
