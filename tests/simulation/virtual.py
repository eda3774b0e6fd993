"""An event loop whose clock jumps: nobody sleeps, and the order of everything follows from the seed alone."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class Deadlock(AssertionError):
    """Nothing is ready, and nothing is due: whoever waits would wait for ever."""


class _Selector(selectors.SelectSelector):
    """Looks at the loop's own sockets without waiting; in place of waiting the clock is put forward."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlock
        self.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time` is virtual seconds from 0. `at_turn` calls back at a turn of the loop: at any await point, not only when time passes."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self.turns = 0
        self._due: dict[int, list[Callable[[], object]]] = {}
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._virtual.now

    def at_turn(self, turn: int, call: Callable[[], object]) -> None:
        self._due.setdefault(max(turn, self.turns + 1), []).append(call)

    def _run_once(self) -> None:
        self.turns += 1
        for call in self._due.pop(self.turns, ()):
            call()
        super()._run_once()  # type: ignore[misc]


async def _end() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        if task is not None:
            task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, None]]) -> VirtualLoop:
    """Runs to the end on a loop of its own. An exception that nobody took fails the run."""
    loop = VirtualLoop()
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    try:
        loop.run_until_complete(main(loop))
    finally:
        loop.run_until_complete(_end())
        loop.close()
    if unhandled:
        raise AssertionError(f"nobody took: {unhandled[0]}")
    return loop
