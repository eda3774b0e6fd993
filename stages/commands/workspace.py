"""`turnout workspace`: workspaces, their health, and pausing them."""

from typing import Any

import click

from stages.commands import output, start


@click.group()
def workspace() -> None:
    """Workspaces: settings, health, sessions without a Campaign; pausing and resuming."""


@workspace.command("list")
@output.json_option
def list_(as_json: bool) -> None:
    """Every workspace with its health."""
    from stages import connection, lag, workspaces

    environment = start.environment()

    async def run() -> list[dict[str, Any]]:
        async with connection.connected(environment) as transport:
            tables = await connection.tables(transport, ("workspaces",))
            told = await lag.lag(transport, connection.STAGE_TOPICS)
            return workspaces.overview(connection.workspaces(tables["workspaces"]), told["lanes"])

    found = start.asynchronously(run)
    if as_json:
        output.document({"workspaces": found})
        return
    rows = [
        (one["id"], one["name"], one["org"], *(one["health"][name] for name in ("state", "waiting", "org_waiting", "reason")))
        for one in found
    ]
    output.table(
        ("Id", "Name", "Org", "Health", "Waiting", "In its org", "Why"),
        rows,
        empty="No settings were applied yet: `turnout settings apply FILE`.",
    )


@workspace.command()
@click.argument("id")
@output.json_option
def show(id: str, as_json: bool) -> None:
    """One workspace: its settings, secrets masked, its health, and its sessions."""
    from stages import connection, lag, workspaces

    environment = start.environment()

    async def run() -> dict[str, Any]:
        async with connection.connected(environment) as transport:
            tables = await connection.tables(transport, ("workspaces", "sessions", "events", "campaigns"))
            told = await lag.lag(transport, connection.STAGE_TOPICS)
            rows = [dict(tables[name].items()) for name in ("sessions", "events", "campaigns")]
            return workspaces.detail(connection.workspace(tables["workspaces"], id), told["lanes"], *rows)

    told = start.asynchronously(run)
    if as_json:
        output.document(told)
        return
    output.lines({name: value for name, value in told.items() if name not in ("health", "sessions")}, 0)
    click.echo(f"health: {told['health']['state']} {told['health']['reason']}".rstrip())
    click.echo()
    columns = ("title", "starts_at", "timezone", "status", "campaign", "problem")
    rows = [[session[name] for name in columns] for session in told["sessions"]]
    output.table([name.replace("_", " ").capitalize() for name in columns], rows, empty="No session is known yet.")


@workspace.command()
@click.argument("id")
def pause(id: str) -> None:
    """Stops working on the workspace's events; they wait, in order."""
    _set(id, paused=True)


@workspace.command()
@click.argument("id")
def resume(id: str) -> None:
    """Goes on with what waited."""
    _set(id, paused=False)


def _set(id: str, *, paused: bool) -> None:
    from stages import connection
    from stages.settings import changes

    environment = start.environment()

    async def run() -> bool:
        async with connection.connected(environment) as transport:
            tables = await connection.tables(transport, ("workspaces",))
            connection.workspace(tables["workspaces"], id)
            async with connection.writing(transport) as writer:
                return await changes.set_paused(id, paused, dict(tables["workspaces"].items()), writer)

    changed = start.asynchronously(run)
    click.echo(f"{id} is {'paused' if paused else 'running'}{'' if changed else ' already'}.")
