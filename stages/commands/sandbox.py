"""`turnout sandbox`: the stand-ins for the outside world, each a server of its own."""

from pathlib import Path

import click

from stages.commands import start


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
def salesforce(port: int, orgs: int, seed: Path | None, latency_ms: int, stop_with_stdin: bool) -> None:
    """A stand-in Salesforce org, or several in one process. Prints their addresses; runs until it is stopped."""
    from stages.sandbox.salesforce import server

    start.environment(part="sandbox-salesforce", stop_with_stdin=stop_with_stdin)
    start.asynchronously(server.serve, port, orgs, seed, latency_ms)


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
