"""`turnout topics`: the topics and tables that must be there."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from stages.commands import output, start

if TYPE_CHECKING:
    from pipeline.topics import Problem


@click.group()
def topics() -> None:
    """Topics and tables in Kafka: what must be there, and making it so."""


@topics.command()
@output.json_option
def apply(as_json: bool) -> None:
    """Creates what is missing and sets what differs, and warns of what it can't mend. Never changes a number of partitions, never deletes."""
    from pipeline import topics as plan
    from stages import connection

    environment = start.environment()
    settings, specs = connection.kafka(environment), connection.topic_specs(environment)
    done = start.asynchronously(plan.apply, settings, specs)
    problems = start.asynchronously(plan.check, settings, specs)
    if as_json:
        output.document({"changes": done, "problems": problems})
        return
    for change in done:
        click.echo(str(change))
    if not done:
        click.echo("Every topic is as it should be.")
    _warn(problems)


@topics.command()
@output.json_option
def show(as_json: bool) -> int:
    """Shows every topic, and what is wrong with it. Exits 1 if a part couldn't work with what is there."""
    from pipeline import topics as plan
    from stages import connection

    environment = start.environment()
    settings, specs = connection.kafka(environment), connection.topic_specs(environment)
    found = start.asynchronously(plan.show, settings, specs)
    problems = start.asynchronously(plan.check, settings, specs)
    if as_json:
        output.document({"topics": {settings.topic(name): topic for name, topic in found.items()}, "problems": problems})
    else:
        rows = [
            (settings.topic(spec.name), topic.partitions, topic.replication, topic.configs.get("cleanup.policy", ""))
            if (topic := found.get(spec.name))
            else (settings.topic(spec.name), "missing", "", "")
            for spec in specs
        ]
        output.table(("Topic", "Partitions", "Replication", "Policy"), rows, empty="No topic.")
    # With --json, too: stdout is the document's, and an exit code of 1 has its reason on stderr.
    _warn(problems)
    return 1 if any(problem.severity == "error" for problem in problems) else 0


def _warn(problems: "Iterable[Problem]") -> None:
    from pipeline import topics as plan

    for problem in plan.grouped(problems):
        click.echo(f"{problem.severity}: {problem}", err=True)
