"""Ends this process when its standard input ends: the tie of a child to whoever started it, which no kill of the starter can leave open."""

import os
import signal
import threading
import time
from typing import Final

GRACE_SECONDS: Final = 75.0
"""For a stop in two phases; then the process, and its group if it leads one, is killed."""


def hold() -> None:
    """Watches standard input in a thread of its own, for good."""
    threading.Thread(target=_watch, name="leash", daemon=True).start()


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
