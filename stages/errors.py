"""Errors that end a command. Each says in one line what is wrong, and how to mend it.

TurnoutError             exit code 1: the work failed or found a difference
└── UsageError           exit code 2: wrong usage or settings
"""

from collections.abc import Iterator, Sequence


class TurnoutError(Exception):
    """The work failed. `str()` is one line for people, without personal data."""

    exit_code = 1


class UsageError(TurnoutError):
    """Wrong usage, environment or settings: nothing was tried. `problems` are all of them, one a line."""

    exit_code = 2

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join((str(self.args[0]), *(f"  {problem}" for problem in self.problems)))


def innermost(error: BaseException) -> BaseException:
    """The one error inside task groups, or one of several of a kind: what is shared fails in many places at once."""
    leaves = list(_leaves(error))
    return leaves[0] if len({type(leaf) for leaf in leaves}) == 1 else error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
