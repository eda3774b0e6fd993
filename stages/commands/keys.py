"""`turnout keys`: keys that encrypt the secrets of settings."""

import click

from stages import secrets
from stages.commands import output


@click.group()
def keys() -> None:
    """Keys that encrypt the secrets of settings."""


@keys.command()
@output.json_option
def new(as_json: bool) -> None:
    """Prints a new key for the secrets file.

    The file that TURNOUT_SECRET_KEYS_FILE names holds one key a line: the first one encrypts, all of them decrypt.
    """
    key = secrets.new_key()
    if as_json:
        output.document({"key": key})
    else:
        click.echo(key)
