"""`turnout dead-letters`: what was refused, why, and what to do about it."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stages.commands import output, start
from stages.errors import TurnoutError

if TYPE_CHECKING:
    from pipeline.transport import Transport
    from schemas.messages import DeadLetter
    from stages.dead_letters import Choice

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def dead_letters() -> None:
    """Messages that were refused: each whole, with all its causes and a hint at the mend."""


def _choice_options(command: F) -> F:
    command = click.option("--cause", default="", metavar="CODE", help="Only those with this cause.")(command)
    command = click.option("--stage", default="", help="Only those of this stage.")(command)
    command = click.option("--workspace", default="", metavar="W", help="Only those of this workspace.")(command)
    return click.argument("ids", nargs=-1, metavar="[ID]...")(command)


def _choice(ids: tuple[str, ...], workspace: str, stage: str, cause: str) -> "Choice":
    from stages.dead_letters import Choice

    return Choice(ids, workspace, stage, cause)


def _told(context: click.Context, parameter: click.Parameter, reason: str) -> str:
    if not reason.strip():
        raise click.BadParameter("it is blank: say why nothing is to be done about them", context, parameter)
    return reason.strip()


@dead_letters.command("list")
@_choice_options
@output.json_option
def list_(ids: tuple[str, ...], workspace: str, stage: str, cause: str, as_json: bool) -> None:
    """Every letter that is open: neither retried nor discarded."""
    from stages import dead_letters as letters

    choice = _choice(ids, workspace, stage, cause)
    found = _load(choice)
    if as_json:
        output.document({"dead_letters": [letters.summary(letter) for letter in found]})
        return
    rows = [
        (
            one.id,
            output.instant(one.at),
            one.stage,
            one.workspace,
            one.email,
            "; ".join(f"{cause.code}: {cause.message}" for cause in one.causes),
        )
        for one in found
    ]
    output.table(
        ("Id", "At", "Stage", "Workspace", "Email", "Causes"),
        rows,
        empty="No dead letter fits." if _is_narrow(choice) else "No dead letters.",
    )


@dead_letters.command()
@click.argument("id")
@output.json_option
def show(id: str, as_json: bool) -> None:
    """One letter, with its message."""
    from stages import dead_letters as letters

    told = letters.detail(_load(_choice((id,), "", "", ""))[0])
    if as_json:
        output.document(told)
        return
    output.lines({name: value for name, value in told.items() if name not in ("causes", "message", "message_base64")}, 0)
    for cause in told["causes"]:
        click.echo(f"cause {cause['code']}: {cause['message']}")
        if cause["hint"]:
            click.echo(f"  to mend: {cause['hint']}")
    if told["message"] is None:
        click.echo(f"message (base64): {told['message_base64']}")
    else:
        output.document(told["message"])


@dead_letters.command()
@_choice_options
@click.option("--all", "everything", is_flag=True, help="All that are open.")
def retry(ids: tuple[str, ...], workspace: str, stage: str, cause: str, everything: bool) -> None:
    """Sends messages on their way again, those that are retried together in their order. Mend the cause first."""
    from stages import connection
    from stages import dead_letters as letters

    choice = _narrowed(_choice(ids, workspace, stage, cause), everything)
    environment = start.environment()

    async def run() -> tuple[int, list[str]]:
        async with connection.connected(environment) as transport, connection.writing(transport) as writer:
            table = (await connection.tables(transport, ("workspaces",)))["workspaces"]
            found = letters.chosen(await letters.load(transport), choice, (id for id, _ in table.items()))
            known = {one.id: one for one in connection.workspaces(table)}
            refused = await letters.retry(writer, found, known, int(time.time() * 1000))
            return len(found) - len(refused), [letter.id for letter in refused]

    sent, refused = start.asynchronously(run)
    click.echo(f"{sent} dead letters are on their way again.")
    if refused:
        raise TurnoutError(
            f"{len(refused)} can still not be read and stay open: {', '.join(refused)}; `turnout dead-letters show ID` says why"
        )


@dead_letters.command()
@_choice_options
@click.option("--all", "everything", is_flag=True, help="All that are open.")
@click.option("--reason", required=True, callback=_told, help="Why nothing is to be done about them; kept with the letters.")
def discard(ids: tuple[str, ...], workspace: str, stage: str, cause: str, everything: bool, reason: str) -> None:
    """Lays letters aside, with a reason."""
    from stages import connection
    from stages import dead_letters as letters

    choice = _narrowed(_choice(ids, workspace, stage, cause), everything)
    environment = start.environment()

    async def run() -> int:
        async with connection.connected(environment) as transport, connection.writing(transport) as writer:
            found = await _chosen(transport, choice)
            await letters.discard(writer, found, reason, int(time.time() * 1000))
            return len(found)

    click.echo(f"{start.asynchronously(run)} dead letters are discarded.")


def _narrowed(choice: "Choice", everything: bool) -> "Choice":
    if _is_narrow(choice) == everything:
        wrong = "--all goes with nothing else" if everything else "say which: ids, --workspace, --stage, --cause, or --all"
        raise click.UsageError(wrong, click.get_current_context())
    return choice


def _is_narrow(choice: "Choice") -> bool:
    return bool(choice.ids or choice.workspace or choice.stage or choice.cause)


def _load(choice: "Choice") -> "list[DeadLetter]":
    from stages import connection

    environment = start.environment()

    async def run() -> "list[DeadLetter]":
        async with connection.connected(environment) as transport:
            return await _chosen(transport, choice)

    return start.asynchronously(run)


async def _chosen(transport: "Transport", choice: "Choice") -> "list[DeadLetter]":
    from stages import connection
    from stages import dead_letters as letters

    known = (await connection.tables(transport, ("workspaces",)))["workspaces"].items() if choice.workspace else ()
    return letters.chosen(await letters.load(transport), choice, (id for id, _ in known))
