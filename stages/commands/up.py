"""`turnout up`: every part, each in a process of its own."""

from pathlib import Path

import click

from stages.commands import start


@click.command()
@click.option("--embedded", is_flag=True, help="Start the embedded broker too, at the address of TURNOUT_KAFKA_BOOTSTRAP.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the embedded broker keeps its log; by default in the user's data directory.",
)
def up(embedded: bool, data_dir: Path | None) -> int:
    """Every part, each a process of its own, started again when it dies.

    Creates or checks the topics first. SIGTERM and Ctrl-C stop in two phases: what is in flight is finished and committed.
    """
    from stages import ensemble

    if data_dir is not None and not embedded:
        raise click.UsageError("--data-dir is for the embedded broker: add --embedded", click.get_current_context())
    environment = start.environment(part="up")
    return start.asynchronously(ensemble.run, environment, ensemble.prefixed(environment.log), embedded, data_dir)
