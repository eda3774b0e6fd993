"""Errors that end a command. Each says in one line what is wrong, and how to mend it.

TurnoutError             exit code 1: the work failed or found a difference
└── UsageError           exit code 2: wrong usage or settings
"""

from collections.abc import Sequence


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
    """The one error inside task groups, where there is but one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
