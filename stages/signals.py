"""The signals that stop a process which runs until it is stopped, and the exit code that follows from each. Handles none."""

import signal
from typing import Final

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
INTERRUPTED: Final = 130


def exit_code(number: int) -> int:
    """After that signal, once all is cleared up: 130 where someone pressed Ctrl-C, 0 where the process was told to end."""
    return INTERRUPTED if number == signal.SIGINT else 0
