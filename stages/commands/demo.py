"""`turnout demo`: all of the product on this machine, played through and checked."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from stages.commands import output, start

if TYPE_CHECKING:
    from stages.demo.performance import Report


@click.command()
@click.option("--registrants", type=click.IntRange(1, 1_000_000), default=500, show_default=True, help="How many registrations are played.")
@click.option("--once", is_flag=True, help="End after the check, also in a terminal.")
@click.option(
    "--log-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the parts' log lines go; without it, those of trouble are shown.",
)
@output.json_option
def demo(registrants: int, once: bool, log_file: Path | None, as_json: bool) -> int:
    """All of it on this machine, no settings needed.

    An embedded broker, sandbox orgs with some records in them, several workspaces, every stage, the console, and a webinar
    season played through signed webhooks. At the end the orgs are checked against what was played, person by person:
    exit 0 if they hold what they should. In a terminal and without --once it then stays until Ctrl-C.
    """
    import logging

    from stages.demo.performance import Performance

    given = start.environment(part="demo", level=logging.WARNING)
    stays = sys.stdout.isatty() and not once and not as_json

    async def stay(report: "Report", console: str) -> None:
        shown.end()
        if as_json:
            output.document(report)
        else:
            _tell(report)
        if stays:
            click.echo(f"\nThe console is at {console}  (Ctrl-C ends the demo)")
            await start.until_signal()

    with _sink(log_file) as sink, _Shown() as shown:
        report = start.interruptibly(Performance(registrants, given, shown, sink).run, stay)
    return 0 if report.ok else 1


class _Shown:
    """Progress on stderr: bars in a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._console: Console = output.console(stderr=True)
        self._live = self._console.is_terminal
        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=self._console, transient=True, disable=not self._live)
        self._taken: TaskID | None = None
        self._finished: TaskID | None = None

    def __enter__(self) -> "_Shown":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Takes the bars away; more than once does no harm."""
        self._bars.stop()

    def say(self, what: str) -> None:
        self._console.print(f"· {what}")

    def total(self, webhooks: int, events: int) -> None:
        self._taken = self._bars.add_task("webhooks taken", total=webhooks)
        self._finished = self._bars.add_task("events that are finished", total=events)

    def taken(self, webhooks: int) -> None:
        if self._taken is not None:
            self._bars.advance(self._taken, webhooks)

    def finished(self, events: int) -> None:
        if self._finished is not None:
            self._bars.update(self._finished, completed=events)


@contextlib.contextmanager
def _sink(log_file: Path | None) -> Iterator[Callable[[str, str], None]]:
    """Where the lines of the parts go."""
    if log_file is None:
        yield _troubles
        return
    with log_file.open("w", encoding="utf-8") as file:
        yield lambda name, line: print(f"{name}: {line}", file=file, flush=True)  # a file of log lines


def _troubles(name: str, line: str) -> None:
    """Errors of a part, and what it says as its last words."""
    if "[error" in line or "[critical" in line or '"level": "error"' in line or line.startswith(("turnout:", "Traceback")):
        click.echo(f"{name}: {line}", err=True)


def _tell(report: "Report") -> None:
    click.echo(
        f"\n{report.registrants} registrations at {report.sessions} sessions of {report.workspaces} workspaces, {report.orgs} orgs: "
        f"{report.events} webhooks, {report.accepted} accepted, in {report.seconds} s ({report.events_per_second} a second)."
    )
    rows = [("synced", "", report.synced)]
    rows += [("dropped", reason, count) for reason, count in sorted(report.dropped.items())]
    rows += [("rejected", cause, count) for cause, count in sorted(report.rejected.items())]
    output.table(("Became", "Why", "Events"), rows, empty="Nothing happened.")
    click.echo()
    names = ("Lead", "Contact", "Account", "Campaign", "CampaignMember")
    output.table(("Org", *names), [(org, *(held[name] for name in names)) for org, held in report.records.items()], empty="No org.")
    click.echo(f"\n{report.salesforce_calls} Salesforce calls.")
    if report.ok:
        click.echo("The orgs hold what they should: every person is accounted for.")
        return
    click.echo(f"{len(report.differences)} differences:")
    told = [(one.org, one.subject, one.kind, one.expected, one.found) for one in report.differences[:50]]
    output.table(("Org", "Who", "What", "Expected", "Found"), told, empty="None.")
