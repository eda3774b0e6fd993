"""`turnout sandbox`: the stand-ins for the outside world, each a server of its own."""

from pathlib import Path

import click

from stages.commands import start
from stages.errors import TurnoutError, UsageError, innermost


@click.group()
def sandbox() -> None:
    """Stand-ins for Salesforce and Kafka, for trying and testing. Never for production."""


@sandbox.command()
@click.option("--port", type=click.IntRange(0, 65_535), default=8091, show_default=True, help="The first org's port; 0: free ones.")
@click.option("--orgs", type=click.IntRange(1, 1_000), default=1, show_default=True, help="How many orgs, on ports from --port on.")
@click.option(
    "--seed", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON with the records that are there at the start."
)
@click.option("--latency-ms", type=click.IntRange(0, 60_000), default=0, show_default=True, help="How long each call takes at least.")
@start.leash_option
def salesforce(port: int, orgs: int, seed: Path | None, latency_ms: int, stop_with_stdin: bool) -> int:
    """A stand-in Salesforce org, or several in one process. Prints their addresses; runs until it is stopped."""
    try:
        from stages.sandbox.salesforce import SeedError, serve
    except ModuleNotFoundError as error:
        raise TurnoutError(f"the sandbox org needs {error.name}, which is not installed: pip install 'turnout[embedded]'") from None

    start.environment(part="sandbox-salesforce", stop_with_stdin=stop_with_stdin)
    try:
        return start.until_stopped(serve, port, orgs, seed, latency_ms)
    except BaseExceptionGroup as group:
        cause = innermost(group)
        if isinstance(cause, SeedError):
            raise UsageError(str(cause)) from None
        if isinstance(cause, OSError):
            raise TurnoutError(f"can't listen on port {port}: {cause}; choose another with --port (0 picks a free one)") from None
        raise


@sandbox.command()
@click.option("--port", type=click.IntRange(0, 65_535), default=9092, show_default=True, help="0: a free one.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to keep the log; without it, a directory that goes with the broker.",
)
@start.leash_option
def broker(port: int, data_dir: Path | None, stop_with_stdin: bool) -> int:
    """The embedded broker: speaks Kafka's protocol, for one machine. Prints its address; its processes end with it."""
    from stages.sandbox import broker as embedded

    start.environment(part="sandbox-broker", stop_with_stdin=stop_with_stdin)
    return start.asynchronously(embedded.serve, port, data_dir)
