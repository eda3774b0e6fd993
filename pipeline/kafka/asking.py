"""How a question to Kafka ends: an answer, or an error of ours within a deadline. Never lets an error of the client out."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Final, TypeVar

from aiokafka import errors

from pipeline.errors import CommitRefused, NotAllowed, TransportError

T = TypeVar("T")

NOT_OURS: Final = (
    errors.CommitFailedError,
    errors.IllegalGenerationError,
    errors.UnknownMemberIdError,
    errors.RebalanceInProgressError,
    errors.IllegalStateError,
)
"""What says that the group went on without this member; IllegalStateError: the partition is not assigned."""

FENCED_INSTANCE_ID: Final = 82
"""Kafka's error code where a static member was replaced; aiokafka 0.14 has no class for it."""

RESOURCES: Final = {
    errors.TopicAuthorizationFailedError: "topic",
    errors.GroupAuthorizationFailedError: "group",
    errors.ClusterAuthorizationFailedError: "cluster",
}
"""What a user lacks a right on. Kafka does not say which right: that is known by what was asked."""

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0


def translated(what: str, error: BaseException, operation: str = "Describe") -> TransportError:
    """An error of the client as one of ours. `operation`: Kafka's name of what one must be allowed to do for it."""
    if isinstance(error, TransportError):
        return error
    resource = RESOURCES.get(type(error))
    if resource is not None:
        return NotAllowed(what, f"{operation} on the {resource}{_names(error)}")
    if isinstance(error, NOT_OURS) or getattr(error, "errno", None) == FENCED_INSTANCE_ID:
        # The text of aiokafka's CommitFailedError is a page of advice; what happened is its cause.
        return CommitRefused(f"{what}: the group went on without this member ({type(error.__cause__ or error).__name__})")
    retryable = bool(getattr(error, "retriable", False)) or isinstance(error, (OSError, TimeoutError, errors.KafkaTimeoutError))
    name = type(error).__name__
    # aiokafka's own errors begin with their name.
    told = str(error) if str(error).startswith(name) else f"{name}: {error}"
    return TransportError(f"{what}: Kafka can't do that now ({told})" if retryable else f"{what}: {told}", retryable=retryable)


def _names(error: BaseException) -> str:
    """The names of topics or of a group that the client has put into the error."""
    told = [name for arg in error.args for name in ([arg] if isinstance(arg, str) else arg if isinstance(arg, Iterable) else ())]
    return f" {', '.join(sorted(map(str, told)))}" if told else ""


@contextlib.contextmanager
def translating(what: str, operation: str = "Describe") -> Iterator[None]:
    try:
        yield
    except (errors.KafkaError, OSError) as error:
        raise translated(what, error, operation) from error


@contextlib.asynccontextmanager
async def within(seconds: float, what: str, operation: str = "Describe") -> AsyncIterator[None]:
    """Ends with an answer or a TransportError within `seconds`."""
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            with translating(what, operation):
                yield
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise TransportError(f"{what}: Kafka gave no answer within {seconds:g} s") from error


async def answered(ask: Callable[[], Awaitable[T]], seconds: float, what: str, operation: str = "Describe") -> T:
    """Asks until there is an answer, an error that asking again does not mend, or `seconds` have passed."""
    pause = FIRST_PAUSE_SECONDS
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    while True:
        try:
            async with within(max(0.001, ends - loop.time()), what, operation):
                return await ask()
        except TransportError as error:
            if not error.retryable or loop.time() + pause >= ends:
                raise
        await asyncio.sleep(pause * (0.5 + random.random()))
        pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
