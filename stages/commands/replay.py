"""`turnout replay`: runs part of a stage's topic again while everything goes on."""

import datetime
import time

import anyio
import click

from stages.commands import output, start

LOOK_SECONDS = 0.5


class Instant(click.ParamType[int]):
    """RFC 3339, UTC unless it says otherwise; gives Unix ms."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            at = datetime.datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time; write it like 2026-01-31T08:00:00Z", param, ctx)
        return int((at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp() * 1000)


@click.command()
@click.option("--stage", required=True, help="normalize, match, create or campaign-membership.")
@click.option("--from", "from_ms", required=True, type=Instant(), help="From this time on (when the record came into the topic).")
@click.option("--to", "to_ms", type=Instant(), help="Up to this time; default: now.")
@click.option("--workspace", default="", help="Only this workspace.")
@click.option("--session", default="", help="Only this session.")
@click.option("--email", default="", help="Only this person.")
@click.option("--no-wait", is_flag=True, help="Ask for it and leave; `turnout lag` shows how far it is.")
@output.json_option
def replay(stage: str, from_ms: int, to_ms: int | None, workspace: str, session: str, email: str, no_wait: bool, as_json: bool) -> None:
    """Runs part of a topic again while everything goes on: the same steps, marked as a replay, so that what is right stays as it is."""
    from pipeline.tables import Tables
    from pipeline.worker import LANES
    from schemas.messages import canonical_email
    from stages import cli, connection
    from stages import replay as replays

    if stage not in connection.STAGE_TOPICS:
        raise click.UsageError(cli.unknown("stage", stage, tuple(connection.STAGE_TOPICS)), click.get_current_context())
    now_ms = int(time.time() * 1000)
    if from_ms >= (now_ms if to_ms is None else to_ms):
        until = "now" if to_ms is None else output.instant(to_ms)
        raise click.UsageError(f"nothing lies between --from {output.instant(from_ms)} and --to {until}", click.get_current_context())
    wanted = replays.Wanted(stage, from_ms, to_ms, workspace=workspace, session=session, key=canonical_email(email) if email else "")
    environment = start.environment()
    console = output.console(stderr=True)
    # One line that is written over again and again: only a terminal can show it.
    shows_progress = console.is_terminal and not as_json and not no_wait

    async def run() -> dict[str, object]:
        async with connection.connected(environment) as transport, anyio.create_task_group() as tasks:
            if workspace:
                connection.workspace((await connection.tables(transport, ("workspaces",)))["workspaces"], workspace)
            row = await replays.plan(transport, connection.STAGE_TOPICS[stage], wanted, now_ms)
            tables = Tables(transport, [LANES])
            await tasks.start(tables.run)
            if row.ranges:
                async with connection.writing(transport) as writer:
                    await replays.ask(writer, row)
            while not no_wait and not replays.is_done(row, tables[LANES]):
                if shows_progress:
                    told = replays.progress(row, tables[LANES])
                    console.print(f"\r{told.total - told.left} of {told.total} messages looked at", end="")
                await anyio.sleep(LOOK_SECONDS)
            if shows_progress:
                console.print()
            told = replays.progress(row, tables[LANES])
            tasks.cancel_scope.cancel()
        return {"id": row.id, "stage": stage, "messages": told.total, "left": told.left, "done": told.left == 0}

    told = start.asynchronously(run)
    if as_json:
        output.document(told)
    elif told["done"]:
        click.echo(f"Replay {told['id']}: {told['messages']} messages looked at; done.")
    else:
        click.echo(f"Replay {told['id']} was asked for: {told['messages']} messages; `turnout lag` shows how far it is.")
