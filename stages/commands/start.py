"""What commands begin with: the environment, the log, the tie to the process that started them, an event loop, a connection."""

import gc
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, TypeVarTuple

import anyio
import click

from stages import environment as environments
from stages import leash, logs, signals
from stages.environment import Environment

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
A = TypeVarTuple("A")

COLLECTED_EACH: Final = (20_000, 20, 20)
"""Python looks for cycles after so many new objects, and less often among older ones. Its own 700 would look through the thousands of
messages that a worker holds for each few hundred that it reads."""


def leash_option(command: F) -> F:
    """Adds `--stop-with-stdin`."""
    return click.option(
        "--stop-with-stdin", is_flag=True, help="Stop when standard input ends, as when the process that started this one is gone."
    )(command)


def environment(*, part: str = "", stop_with_stdin: bool = False, level: int | None = None) -> Environment:
    """Reads the environment and sets up the log. Raises UsageError."""
    settings = environments.read()
    if level is None:
        logs.configure(settings.log, part=part)
    else:
        logs.configure(settings.log, part=part, level=level)
    if stop_with_stdin:
        leash.hold()
    return settings


def asynchronously(function: Callable[[*A], Awaitable[T]], *arguments: *A) -> T:
    """Runs it in an event loop of its own. What was made until now stays, so no search for cycles goes through it."""
    gc.freeze()
    gc.set_threshold(*COLLECTED_EACH)
    return anyio.run(function, *arguments)


def until_stopped(function: Callable[[*A], Awaitable[Any]], *arguments: *A) -> int:
    """Runs it in an event loop of its own until SIGTERM or SIGINT cancels it, or it ends. Returns the exit code: 130 after SIGINT, else 0."""
    code = 0

    async def stop_on_signal(scope: anyio.CancelScope) -> None:
        nonlocal code
        code = signals.exit_code(await until_signal())
        scope.cancel()

    async def run() -> int:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_on_signal, tasks.cancel_scope)
            await function(*arguments)
            tasks.cancel_scope.cancel()
        return code

    return asynchronously(run)


def interruptibly(function: Callable[[*A], Awaitable[T]], *arguments: *A) -> T:
    """Runs it in an event loop of its own. SIGTERM and SIGINT cancel it, so that it clears up, and then raise KeyboardInterrupt."""
    results: list[T] = []

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_on_signal, tasks.cancel_scope)
            results.append(await function(*arguments))
            tasks.cancel_scope.cancel()

    asynchronously(run)
    if not results:
        raise KeyboardInterrupt
    return results[0]


async def until_signal() -> int:
    """Returns at the next SIGTERM or SIGINT: which of them."""
    with anyio.open_signal_receiver(*signals.STOPPING) as received:
        async for number in received:
            return number
    raise AssertionError("the stream of signals never ends")


async def _cancel_on_signal(scope: anyio.CancelScope) -> None:
    await until_signal()
    scope.cancel()
