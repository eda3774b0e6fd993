"""SOQL text: literals with their escapes, lists cut to what one query takes, and the path that carries a query. Never sends one."""

import datetime
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar
from urllib.parse import quote

QUERY_CHARACTERS: Final = 60_000
"""Most characters that we put into one query. Salesforce takes 100,000, and says that expansion can hit its own limits earlier."""
TEXT_CHARACTERS: Final = 2_000
"""Most characters of one text: Salesforce takes 4,000 in quotes, and each may need an escape."""
URI_BYTES: Final = 12_000
"""Longest path for a GET; Salesforce takes 16,384 bytes with the headers. What is longer goes in the body of a composite."""
LIST_VALUES: Final = 500
"""Most values in one IN list: one query then answers in one page even where a few of them have doubles."""

_ESCAPES: Final = str.maketrans(
    {"\\": r"\\", "'": r"\'", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\b": r"\b", "\f": r"\f"}
)  # fmt: skip
_NAME: Final = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", re.ASCII)

T = TypeVar("T")

Literal = str | bool | int | float | datetime.datetime | datetime.date | None


def text(value: str) -> str:
    """A quoted text. One that is too long is cut, and equals no record's all the same: what can be searched and written holds 255 characters."""
    return f"'{value[:TEXT_CHARACTERS].translate(_ESCAPES)}'"


def literal(value: Literal) -> str:
    """The value as SOQL writes it. Datetimes must have a zone, and are written in UTC with `Z`."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return text(value)
        case datetime.datetime():
            if value.tzinfo is None:
                raise ValueError("a datetime without a zone")
            return value.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        case datetime.date():
            return value.isoformat()
        case _:
            return repr(value)


def starts_with(value: str) -> str:
    """The quoted pattern for LIKE that finds texts beginning with the value, wildcards in it taken as they stand."""
    return f"'{value.translate(_ESCAPES).replace('%', chr(92) + '%').replace('_', chr(92) + '_')}%'"


def contains(value: str) -> str:
    """The quoted pattern for LIKE that finds texts holding the value."""
    return "'%" + starts_with(value)[1:]


def in_list(values: Sequence[Literal]) -> str:
    """`('a','b')`. ValueError for no values: Salesforce refuses an empty list."""
    if not values:
        raise ValueError("an IN list without values")
    return f"({','.join(literal(value) for value in values)})"


def name(identifier: str) -> str:
    """The identifier itself, if it can be one (a field, a parent's field, an object); ValueError otherwise: nothing else gets into a query."""
    if not _NAME.fullmatch(identifier):
        raise ValueError("not a name of a field or object")
    return identifier


def select(fields: Iterable[str], object_name: str, where: str = "", *, order: str = "", limit: int = 0) -> str:
    """`SELECT … FROM … WHERE … ORDER BY … LIMIT …`; field names each once, without regard to case, in the order given."""
    columns: dict[str, str] = {}
    for field in fields:
        columns.setdefault(name(field).lower(), field)
    parts = [f"SELECT {', '.join(columns.values())} FROM {name(object_name)}"]  # noqa: S608 (names are checked, values are literals)
    parts += [f"WHERE {where}"] if where else []
    parts += [f"ORDER BY {order}"] if order else []
    parts += [f"LIMIT {limit}"] if limit else []
    return " ".join(parts)


OLDEST_FIRST: Final = "CreatedDate ASC, Id ASC"
"""Records of one collection share their CreatedDate, which comes in whole seconds."""


def chunks(
    values: Iterable[str], *, overhead: int = 1_000, characters: int = QUERY_CHARACTERS, count: int = LIST_VALUES
) -> Iterator[list[str]]:
    """Values cut into lists for one query each, in order: at most `count` values, `overhead` + list at most `characters`.

    ValueError where one value alone does not fit.
    """
    return groups(values, lambda value: (value,), overhead=overhead, characters=characters, count=count)


def groups(
    items: Iterable[T],
    texts: Callable[[T], Iterable[str]],
    *,
    overhead: int = 1_000,
    characters: int = QUERY_CHARACTERS,
    count: int = LIST_VALUES,
) -> Iterator[list[T]]:
    """As `chunks`, for items of which each puts several texts into the query's lists."""
    group: list[T] = []
    used = overhead
    for item in items:
        size = sum(len(text(one)) + 1 for one in texts(item))
        if overhead + size > characters:
            raise ValueError("one value alone is longer than a query")
        if group and (used + size > characters or len(group) == count):
            yield group
            group, used = [], overhead
        group.append(item)
        used += size
    if group:
        yield group


def path_of_query(soql: str, *, deleted: bool = False) -> str:
    """The path below `/services/data/vXX.X/`, for a call or a part of a composite.

    Every reserved character is encoded: a bare `+` would be read as a space, and the person with the plus tag not found.
    """
    return f"{'queryAll' if deleted else 'query'}?q={quote(soql, safe='')}"


def holds_reference(value: str) -> bool:
    """Whether a composite would take part of the text for a reference (`@{…}`)."""
    return "@{" in value
