"""Records as the log has them. One record is immutable and knows its place.

None of them can be part of a cycle, and there are many: the collector leaves them alone (`gc=False`)."""

import msgspec

Headers = tuple[tuple[str, bytes], ...]


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record read from the log. `topic` is the logical name, without the prefix."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One record to be written. `partition` None: by the key, murmur2 as in the Java client."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


class Ack(msgspec.Struct, frozen=True, gc=False):
    """Where an acknowledged record landed."""

    partition: int
    offset: int


class Commit(msgspec.Struct, frozen=True, gc=False):
    """What a group has committed for one partition: the offset, and every lagging cursor in the metadata."""

    offset: int
    metadata: str
