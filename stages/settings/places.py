"""On which line of a TOML file each key stands. Pure; expects a file that parses.

`tomllib` reads values but tells no places, so each statement (the fewest lines that parse by themselves) is read once more.
"""

import tomllib
from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]
"""Keys and, for arrays of tables, indices from 0: `("workspace", 1, "livestorm", "api_token")`."""


def places(text: str) -> dict[Path, int]:
    """Line (from 1) of every key, table header and entry of an array of tables."""
    found: dict[Path, int] = {}
    entries: dict[Path, int] = {}
    table: Path = ()
    for line, statement in _statements(text.splitlines()):
        if statement.startswith("["):
            names, is_entry = _header(statement)
            table = _resolved(names, entries, is_entry)
            found.setdefault(table, line)
        else:
            for keys in _keys(tomllib.loads(statement)):
                found.setdefault(_under(table, keys), line)
    return found


def spelled(path: Path) -> str:
    """The path as people write it, entries counted from 1: `workspace[2].livestorm.api_token`."""
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _statements(lines: list[str]) -> Iterator[tuple[int, str]]:
    at = 0
    while at < len(lines):
        start, statement = at, lines[at].strip()
        at += 1
        if not statement or statement.startswith("#"):
            continue
        while not _parses(statement) and at < len(lines):
            statement += "\n" + lines[at]
            at += 1
        yield start + 1, statement


def _parses(statement: str) -> bool:
    try:
        tomllib.loads(statement)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _header(statement: str) -> tuple[tuple[str, ...], bool]:
    """The names of a table header, and whether it is an entry of an array."""
    names: list[str] = []
    node: Any = tomllib.loads(statement)
    while isinstance(node, dict) and node:
        name, node = next(iter(node.items()))
        names.append(name)
    return tuple(names), isinstance(node, list)


def _resolved(names: tuple[str, ...], entries: dict[Path, int], is_entry: bool) -> Path:
    path: Path = ()
    for depth, name in enumerate(names, 1):
        path = (*path, name)
        if depth == len(names) and is_entry:
            entries[path] = entries.get(path, -1) + 1
        if path in entries:
            path = (*path, entries[path])
    return path


def _keys(node: dict[str, Any]) -> Iterator[Path]:
    for name, value in node.items():
        yield (name,)
        if isinstance(value, dict):
            for below in _keys(value):
                yield (name, *below)


def _under(table: Path, keys: Path) -> Path:
    return (*table, *keys)
