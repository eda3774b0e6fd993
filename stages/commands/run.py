"""`turnout run`: some parts in this process, until SIGTERM or Ctrl-C."""

import click

from stages.commands import start


@click.command()
@click.argument("parts", nargs=-1, metavar="PART...")
@start.leash_option
def run(parts: tuple[str, ...], stop_with_stdin: bool) -> int:
    """Runs some parts in this process: ingress, normalize, match, create, campaign-membership, console.

    Start more of one to scale it. SIGTERM and Ctrl-C stop in two phases: what is in flight is finished and committed first.
    """
    from stages import flow
    from stages.cli import unknown

    if not parts:
        raise click.UsageError(f"name at least one part: {', '.join(flow.PARTS)}", click.get_current_context())
    for part in parts:
        if part not in flow.PARTS:
            raise click.UsageError(unknown("part", part, tuple(flow.PARTS)), click.get_current_context())
    from stages.parts import run_parts

    environment = start.environment(part="+".join(parts), stop_with_stdin=stop_with_stdin)
    return start.asynchronously(run_parts, environment, list(dict.fromkeys(parts)))
