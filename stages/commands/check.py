"""`turnout check`: tries orgs, and says how to mend what is missing."""

from typing import Any

import click

from stages.commands import output, start


@click.command()
@click.argument("name", required=False, metavar="[ORG or WORKSPACE]")
@click.option(
    "--accept-organization",
    is_flag=True,
    help="The organization that the org's login leads to now is the right one, though another was seen before (a new sandbox, say).",
)
@output.json_option
def check(name: str | None, accept_organization: bool, as_json: bool) -> int:
    """Tries every org, or one, or that of one workspace.

    Login, permissions, objects, fields with their rights, statuses, calls that are left; and how to mend what is missing. What
    waits for an org that passes is tried at once. Exits 1 if anything is wrong.
    """
    from stages import checking, connection

    if accept_organization and name is None:
        raise click.UsageError("--accept-organization wants the ORG that it is about", click.get_current_context())
    environment = start.environment()

    async def run() -> list[Any]:
        async with connection.connected(environment) as transport:
            return list(await checking.check(environment, transport, name, accept_organization=accept_organization))

    results = start.asynchronously(run)
    ok = all(result.ok for result in results)
    if as_json:
        output.document({"ok": ok, "checks": results})
    else:
        rows = [("ok" if result.ok else "FAILED", result.subject, result.check, result.found, result.mend) for result in results]
        output.table(
            ("", "Subject", "Check", "Found", "To mend"), rows, empty="No settings were applied yet: `turnout settings apply FILE`."
        )
    return 0 if ok else 1
