"""The engine's errors.

PipelineError
├── TransportError            the log did not do what was asked
│   ├── TopicMissing          a topic that must exist does not
│   ├── NotAllowed            a right is missing in Kafka
│   ├── OffsetOutOfRange      a position below the log's start (or past its end)
│   ├── CommitRefused         this member no longer owns what it wanted to commit
│   ├── WriteError            records were not acknowledged
│   └── RecordTooLarge        a record over what its topic takes
├── MetadataError             a commit's metadata that is not ours or cannot be read
├── Stuck                     live reading has stopped for good; only a start anew helps
└── LeaseLost                 the right to call has ended; nothing was sent
"""


class PipelineError(Exception):
    """Whatever the engine raises on purpose."""


class TransportError(PipelineError):
    """The log did not do what was asked. `retryable`: the same call may succeed later."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class TopicMissing(TransportError):
    """A topic that must exist does not."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic} is missing: run `turnout topics apply`", retryable=False)
        self.topic = topic


class NotAllowed(TransportError):
    """A right is missing in Kafka: asking again does not mend it, so whoever meets it while working ends. `right`: "Read on the topic x"."""

    def __init__(self, what: str, right: str) -> None:
        super().__init__(
            f"{what}: Kafka does not let this user: it lacks {right} (docs/kafka-rights.md lists what each part needs)", retryable=False
        )
        self.right = right


class OffsetOutOfRange(TransportError):
    """A position outside the log."""

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        super().__init__(f"{topic}/{partition}: offset {offset} is outside the log", retryable=False)
        self.topic, self.partition, self.offset = topic, partition, offset


class CommitRefused(TransportError):
    """The group has moved on without this member."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


class WriteError(TransportError):
    """Records were not acknowledged; some may have landed."""


class RecordTooLarge(TransportError):
    """A record over what its topic takes. Nothing of it landed."""

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message, retryable=False)
        self.index = index
        """Which of the records given to `send`."""


class MetadataError(PipelineError):
    """A commit's metadata that is not ours or cannot be read."""


class LeaseLost(PipelineError):
    """The right to call has ended; nothing was sent."""


class Stuck(PipelineError):
    """Live reading has stopped for good, though the log answers: the process ends, and its supervisor starts it again."""
