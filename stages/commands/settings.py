"""`turnout settings`: orgs and workspaces from a TOML file into their tables."""

from pathlib import Path
from typing import Any

import click

from stages.commands import output, start


@click.group()
def settings() -> None:
    """Orgs and workspaces, from a TOML file."""


@settings.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--prune", is_flag=True, help="Remove the orgs and workspaces that the file leaves out.")
@output.json_option
def apply(file: Path, dry_run: bool, prune: bool, as_json: bool) -> None:
    """Checks FILE whole, then writes what differs and prints it. What the file leaves out stays, unless --prune.

    After a change of keys all secrets are encrypted anew under the first one, and how many rows that were is told.
    """
    from stages import connection

    environment = start.environment()

    async def run() -> list[Any]:
        return list(await connection.apply_settings(environment, file, dry_run=dry_run, prune=prune))

    changes = start.asynchronously(run)
    anew = sum(change.encrypted_anew for change in changes)
    if as_json:
        output.document({"dry_run": dry_run, "changes": changes, "encrypted_anew": anew})
        return
    for change in changes:
        click.echo(f"{change.subject} {change.id}: {'would be ' if dry_run and change.kind != 'unchanged' else ''}{change.kind}")
        if change.kind == "changed":
            for field in change.fields:
                click.echo(f"  {field.field}: {field.before!r} -> {field.after!r}")
    if anew:
        click.echo(f"rows with secrets under an older key, {'to be ' if dry_run else ''}encrypted anew under the first: {anew}")


@settings.command()
@output.json_option
def show(as_json: bool) -> None:
    """Every org and workspace as it is in force, secrets masked."""
    from stages import connection
    from stages.rows import ORGS, WORKSPACES
    from stages.settings import changes

    environment = start.environment()

    async def run() -> dict[str, Any]:
        async with connection.connected(environment) as transport:
            tables = await connection.tables(transport, (ORGS, WORKSPACES))
            return changes.show(dict(tables[ORGS].items()), dict(tables[WORKSPACES].items()))

    told = start.asynchronously(run)
    if as_json:
        output.document(told)
        return
    for kind, rows in (("org", told["orgs"]), ("workspace", told["workspaces"])):
        for row in rows:
            click.echo(f"{kind} {row['id']}")
            output.lines({name: value for name, value in row.items() if name != "id"})
    if not told["orgs"] and not told["workspaces"]:
        click.echo("No settings were applied yet: `turnout settings apply FILE`.")
