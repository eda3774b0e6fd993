"""Records as the log has them. One record is immutable and knows its place."""

from typing import NamedTuple

Headers = tuple[tuple[str, bytes], ...]


class Record(NamedTuple):
    """One record read from the log. `topic` is the logical name, without the prefix."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Outgoing(NamedTuple):
    """One record to be written. `partition` None: by the key, murmur2 as in the Java client."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


class Ack(NamedTuple):
    """Where an acknowledged record landed."""

    partition: int
    offset: int


class Commit(NamedTuple):
    """What a group has committed for one partition: the offset, and every lagging cursor in the metadata."""

    offset: int
    metadata: str
