"""`turnout lag`: what each stage has not finished, and which lanes wait and why."""

from typing import Any

import anyio
import click

from stages.commands import output, start

WATCH_SECONDS = 2.0


@click.command()
@click.option("--watch", is_flag=True, help="Show it again every 2 seconds, until Ctrl-C.")
@output.json_option
def lag(watch: bool, as_json: bool) -> None:
    """What each stage has not finished: in messages and in seconds, and per lane what waits, since when and why."""
    from stages import connection
    from stages import lag as lags

    if watch and as_json:
        raise click.UsageError("--watch and --json don't go together: --json is one document", click.get_current_context())
    environment = start.environment()

    async def run() -> None:
        async with connection.connected(environment) as transport:
            while True:
                told = await lags.lag(transport, connection.STAGE_TOPICS)
                if as_json:
                    output.document(told)
                else:
                    if watch:
                        click.clear()
                    show(told)
                if not watch:
                    return
                await anyio.sleep(WATCH_SECONDS)

    start.asynchronously(run)


def show(told: dict[str, Any]) -> None:
    """The document, for people."""
    rows = [(stage["stage"], stage["unfinished"], output.duration(stage["oldest_age_seconds"])) for stage in told["stages"]]
    output.table(
        ("Stage", "Unfinished", "Oldest"), [*rows, ("all", told["unfinished"], output.duration(told["oldest_age_seconds"]))], empty=""
    )
    if told["lanes"]:
        click.echo()
        columns = ("stage", "partition", "lane", "state", "waiting", "since", "cause", "next_try_at", "mend")
        lanes = [[_at_least(lane) if name == "waiting" else lane[name] for name in columns] for lane in told["lanes"]]
        output.table([name.replace("_", " ").capitalize() for name in columns], lanes, empty="")
    for stage in told["stages"]:
        for partition in stage["partitions"]:
            if repeats := partition.get("repeats_after_restart"):
                click.echo(
                    f"\n{stage['stage']}, partition {partition['partition']}: more lanes wait than a commit has room for, "
                    f"so that a restart takes up to {repeats:,} finished messages again. It changes nothing that is right."
                )


def _at_least(lane: dict[str, Any]) -> str:
    return f"{'at least ' if lane['at_least'] else ''}{lane['waiting']}"
