"""How commands print: one JSON document, or text and tables for people. Colours only where the terminal and NO_COLOR allow."""

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """Adds `--json`, given on as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout, and nothing else there.")(command)


def console(*, stderr: bool = False) -> Console:
    """rich's console; it obeys NO_COLOR and knows whether it writes to a terminal. Texts are never read as markup."""
    made = Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)
    if not made.is_terminal:
        # A pipe or a file has no width to fold at.
        made.width = 400
    return made


def document(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Rows for people; `empty` is said where there is none."""
    rows = list(rows)
    if not rows:
        click.echo(empty)
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console().print(grid, soft_wrap=False)


def instant(unix_ms: int | float | None) -> str | None:
    """RFC 3339 in UTC; None for 0 and None."""
    if not unix_ms:
        return None
    return datetime.datetime.fromtimestamp(unix_ms / 1000, datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """Short for people: 45 s, 12 min, 3 h 5 min, 2 d 4 h."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def lines(values: Mapping[str, Any], indent: int = 2) -> None:
    """Names and values, nested ones further in."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            click.echo(f"{' ' * indent}{name}:")
            lines(value, indent + 2)
        else:
            click.echo(f"{' ' * indent}{name}: {value}")
