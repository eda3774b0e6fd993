"""`turnout cursors`: how partitions go on whose committed offsets something else than Turnout has moved."""

import click

from stages.commands import output, start


@click.group()
def cursors() -> None:
    """For partitions that stopped because something else moved their offsets (a reset tool, a mirror)."""


@cursors.command(name="assume-none")
@click.option("--stage", required=True, help="The stage whose partitions are stopped.")
@click.option("--partition", type=click.IntRange(0), multiple=True, help="Only these; default: all of the stage.")
@output.json_option
def assume_none(stage: str, partition: tuple[int, ...], as_json: bool) -> None:
    """Go on from where the offsets stand now: nothing was waiting below. What did wait there is lost."""
    _say("assume-none", stage, partition, as_json)


@cursors.command()
@click.option("--stage", required=True, help="The stage whose partitions are stopped.")
@click.option("--partition", type=click.IntRange(0), multiple=True, help="Only these; default: all of the stage.")
@output.json_option
def restore(stage: str, partition: tuple[int, ...], as_json: bool) -> None:
    """Go back to what Turnout itself committed last: nothing is lost, some is repeated."""
    _say("restore", stage, partition, as_json)


def _say(way: str, stage: str, partitions: tuple[int, ...], as_json: bool) -> None:
    from stages import cli, connection
    from stages import cursors as told

    if stage not in connection.STAGE_TOPICS:
        raise click.UsageError(cli.unknown("stage", stage, tuple(connection.STAGE_TOPICS)), click.get_current_context())
    environment = start.environment()

    async def run() -> list[int]:
        async with connection.connected(environment) as transport, connection.writing(transport) as writer:
            return await told.say(transport, writer, stage, connection.STAGE_TOPICS[stage], way, partitions)

    done = start.asynchronously(run)
    if as_json:
        output.document({"stage": stage, "way": way, "partitions": done})
    elif done:
        click.echo(f"{stage}: partitions {', '.join(map(str, done))} go on by {way}.")
    else:
        click.echo(f"{stage}: no partition was stopped; nothing to do.")
