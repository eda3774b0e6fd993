"""`turnout trace`: everything that happened to one person."""

from collections.abc import Sequence
from typing import Any

import click

from stages.commands import output, start
from stages.errors import TurnoutError


@click.command()
@click.argument("email")
@click.option("--workspace", metavar="W", help="Only what came from this workspace.")
@output.json_option
def trace(email: str, workspace: str | None, as_json: bool) -> None:
    """Everything that happened to that person, event by event, stage by stage. Exits 1 if nothing is known."""
    from schemas.messages import canonical_email
    from stages import connection
    from stages import trace as traces

    environment = start.environment()

    async def run() -> dict[str, Any]:
        async with connection.connected(environment) as transport:
            return await traces.trace(transport, list(connection.STAGE_TOPICS.items()), canonical_email(email), workspace)

    told = start.asynchronously(run)
    if as_json:
        output.document(told)
    elif told["events"]:
        _show(told["events"])
    if not told["events"]:
        source = f" from workspace {workspace}" if workspace else ""
        raise TurnoutError(f"nothing is known of {told['email']}: no event{source} within the topics' retention")


def _show(events: Sequence[dict[str, Any]]) -> None:
    rows = [(event["at"], event["stage"], event["workspace"], event["session"], event["outcome"], _details(event)) for event in events]
    output.table(("At", "Stage", "Workspace", "Session", "Outcome", "What"), rows, empty="")


def _details(event: dict[str, Any]) -> str:
    parts = [event["reason"]] if event["reason"] else []
    parts += [f"{name} {id}" for name, id in event["salesforce"].items()]
    parts += [f"{field} = {value!r}" for field, value in event["written"].items()]
    parts += [f"{field} left out: {why}" for field, why in event["left_out"].items()]
    parts += [f"{cause['code']}: {cause['message']}" for cause in event["causes"]]
    return "\n".join(parts)
