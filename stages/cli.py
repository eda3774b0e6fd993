"""The command `turnout`: finds the subcommand, runs it, and turns every end into one line and an exit code. Does no work itself."""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

import click

from stages.errors import TurnoutError, innermost

COMMANDS: Final = {
    "demo": "stages.commands.demo:demo",
    "up": "stages.commands.up:up",
    "run": "stages.commands.run:run",
    "topics": "stages.commands.topics:topics",
    "keys": "stages.commands.keys:keys",
    "settings": "stages.commands.settings:settings",
    "workspace": "stages.commands.workspace:workspace",
    "check": "stages.commands.check:check",
    "lag": "stages.commands.lag:lag",
    "trace": "stages.commands.trace:trace",
    "dead-letters": "stages.commands.dead_letters:dead_letters",
    "replay": "stages.commands.replay:replay",
    "cursors": "stages.commands.cursors:cursors",
    "sandbox": "stages.commands.sandbox:sandbox",
}
"""Name to `module:attribute`; a module is imported when its command is asked for."""


class Commands(click.Group):
    """A group whose subcommands are imported on demand, and whose unknown names are answered with the nearest known one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, attribute = target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101  # a wrong entry in COMMANDS is a bug, seen by the first test
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(unknown("command", args[0], tuple(COMMANDS)), ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="turnout", message="%(prog)s %(version)s")
def turnout() -> None:
    """Keeps Salesforce true to what happened at your Livestorm webinars.

    `turnout demo` shows all of it on this machine. Settings come from the environment and from `turnout settings apply`.
    """


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """What to say to a name that is none of the known ones."""
    near = difflib.get_close_matches(name, known, 1)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    return f"no such {kind}: {name!r}{meant} Known are: {', '.join(known)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exit codes: 0 done · 1 failed or a difference · 2 wrong usage or settings · 130 interrupted."""
    try:
        code = turnout.main(args=None if arguments is None else list(arguments), prog_name="turnout", standalone_mode=False)
    except BaseException as error:  # noqa: BLE001  # every end, also Ctrl-C, becomes an exit code here and nowhere else
        sys.exit(_explain(error))
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: BaseException) -> int:
    """Says on stderr what ended the command, and returns the exit code."""
    error = innermost(error)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return 130
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if isinstance(error, click.ClickException):
        hint = f" (see `{error.ctx.command_path} --help`)" if isinstance(error, click.UsageError) and error.ctx else ""
        click.echo(f"turnout: {error.format_message()}{hint}", err=True)
        return 2 if isinstance(error, click.UsageError) else 1
    if isinstance(error, TurnoutError):
        click.echo(f"turnout: {error}", err=True)
        return error.exit_code
    if _is_expected(error):
        click.echo(f"turnout: {error}", err=True)
        return 1
    from stages.logs import without_addresses  # here, so that a good start does not pay for it

    trace = "".join(traceback.format_exception(error))
    click.echo(without_addresses(None, "", {"trace": trace})["trace"], err=True)
    click.echo(f"turnout: this should not happen: {type(error).__name__}; please report it with the lines above", err=True)
    return 1


def _is_expected(error: BaseException) -> bool:
    """Errors whose text is meant for people. Their packages are already imported if one of theirs was raised."""
    for module, name in (
        ("pipeline.errors", "PipelineError"),
        ("stages.salesforce.errors", "SalesforceDoorError"),
        ("stages.secrets", "SecretsError"),
    ):
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(error, getattr(loaded, name)):
            return True
    return False


if __name__ == "__main__":
    main()
