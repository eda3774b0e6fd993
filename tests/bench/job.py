"""The job of one hop, and the watch that times it: decode a person's registration, encode it again. Needs only msgspec and the schemas,
so that other frameworks can do the very same in an environment of their own."""

import time
from typing import NamedTuple

import msgspec

from schemas.messages import Subject

decode = msgspec.json.Decoder(Subject).decode
encode = msgspec.json.Encoder().encode


class Speeds(NamedTuple):
    """Messages per second that passed, and per second of this process's processor time: the broker and others on the machine left out."""

    passed: float
    worked: float


class Watch:
    """From the first record that was read to the last acknowledgement."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None
        self._ended = (0.0, 0.0)

    def begin(self) -> None:
        """At each record: only the first one counts."""
        if self._began is None:
            self._began = (time.perf_counter(), time.process_time())

    def end(self) -> None:
        self._ended = (time.perf_counter(), time.process_time())

    def speeds(self, count: int) -> Speeds:
        began = self._began or (0.0, 0.0)
        return Speeds(count / (self._ended[0] - began[0]), count / (self._ended[1] - began[1]))
