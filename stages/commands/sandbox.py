"""`turnout sandbox`: the stand-ins for the outside world, each a server of its own."""

from pathlib import Path
from typing import Any, Final

import click

from stages.commands import start
from stages.errors import TurnoutError, UsageError, innermost

LAST_PORT: Final = 65_535


@click.group()
def sandbox() -> None:
    """Stand-ins for Salesforce, Livestorm and Kafka, for trying and testing. Never for production."""


@sandbox.command()
@click.option("--port", type=click.IntRange(0, LAST_PORT), default=8091, show_default=True, help="The first org's port; 0: free ones.")
@click.option("--orgs", type=click.IntRange(1, 1_000), default=1, show_default=True, help="How many orgs, on ports from --port on.")
@click.option(
    "--seed", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON with the records that are there at the start."
)
@click.option("--latency-ms", type=click.IntRange(0, 60_000), default=0, show_default=True, help="How long each call takes at least.")
@start.leash_option
def salesforce(port: int, orgs: int, seed: Path | None, latency_ms: int, stop_with_stdin: bool) -> int:
    """A stand-in Salesforce org, or several in one process. Prints their addresses; runs until it is stopped."""
    if port + orgs - 1 > LAST_PORT:
        where = click.get_current_context()
        raise click.UsageError(f"{orgs} orgs from port {port} on would need ports over {LAST_PORT}: choose a lower --port", where)
    try:
        from stages.sandbox.salesforce import PortInUseError, SeedError, serve
    except ModuleNotFoundError as error:
        raise TurnoutError(f"the sandbox org needs {error.name}, which is not installed: pip install 'turnout[embedded]'") from None

    start.environment(part="sandbox-salesforce", stop_with_stdin=stop_with_stdin)
    try:
        return start.until_stopped(serve, port, orgs, seed, latency_ms)
    except BaseExceptionGroup as group:
        cause = innermost(group)
        if isinstance(cause, SeedError):
            raise UsageError(str(cause)) from None
        if isinstance(cause, PortInUseError):
            raise TurnoutError(f"{cause}; choose another with --port (0 picks free ones)") from None
        raise


@sandbox.command()
@click.option("--port", type=click.IntRange(0, LAST_PORT), default=8095, show_default=True, help="0: a free one.")
@click.option("--organization", default="sandbox", show_default=True, help="The Livestorm workspace's id.")
@click.option("--token", default="sandbox", show_default=True, help="The API token that it takes.")
@click.option("--secret", default="sandbox", show_default=True, help="What it signs webhooks with.")
@click.option("--webhooks", default="", metavar="URL", help="An address that is subscribed to every event from the start.")
@click.option(
    "--time-scale", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Waits before retries, times this."
)
@click.option("--calls-per-second", type=click.IntRange(1), default=5, show_default=True, help="The API's limit.")
@start.leash_option
def livestorm(port: int, stop_with_stdin: bool, **options: Any) -> int:
    """A stand-in Livestorm: its REST API, and signed webhooks. Prints its address; runs until it is stopped."""
    from stages.sandbox.livestorm.server import Options, serve

    start.environment(part="sandbox-livestorm", stop_with_stdin=stop_with_stdin)
    try:
        return start.until_stopped(serve, port, Options(**options))
    except BaseExceptionGroup as group:
        cause = innermost(group)
        if isinstance(cause, OSError):
            raise TurnoutError(f"can't listen on port {port}: {cause}; choose another with --port (0 picks a free one)") from None
        raise


@sandbox.command()
@click.option("--port", type=click.IntRange(0, LAST_PORT), default=9092, show_default=True, help="0: a free one.")
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
