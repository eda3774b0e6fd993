"""SOQL text to a query that can be run: grammar, escapes, limits of length. Knows no objects and no records."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lark

from stages.sandbox.salesforce.refusals import RefusalError
from stages.sandbox.salesforce.values import datetime_text

LONGEST_QUERY = 100_000
LONGEST_STRING = 4_000
LARGEST_OFFSET = 2_000

_ESCAPES: Mapping[str, str] = {
    "\\": "\\",
    "'": "'",
    '"': '"',
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "b": "\b",
    "f": "\f",
    "N": "\n",
    "R": "\r",
    "T": "\t",
    "B": "\b",
    "F": "\f",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """`Account.Name` as ("Account", "Name"), and where it stands in the text."""

    parts: tuple[str, ...]
    start: int


@dataclasses.dataclass(frozen=True, slots=True)
class Literal:
    """`kind`: string, number, date, datetime, boolean, null. Datetimes are in Salesforce's form."""

    kind: str
    value: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    path: Name
    operator: str
    literal: Literal


@dataclasses.dataclass(frozen=True, slots=True)
class Like:
    path: Name
    pattern: re.Pattern[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Within:
    path: Name
    literals: Sequence[Literal]
    negated: bool


@dataclasses.dataclass(frozen=True, slots=True)
class AllOf:
    conditions: tuple["Condition", ...]


@dataclasses.dataclass(frozen=True, slots=True)
class AnyOf:
    conditions: tuple["Condition", ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Negation:
    condition: "Condition"


Condition = Comparison | Like | Within | AllOf | AnyOf | Negation


@dataclasses.dataclass(frozen=True, slots=True)
class Ordering:
    path: Name
    descending: bool
    nulls_first: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """`fields` is empty for count()."""

    text: str
    fields: tuple[Name, ...]
    object: Name
    where: Condition | None
    orderings: tuple[Ordering, ...]
    limit: int | None
    offset: int


def parse(text: str) -> Query:
    """Raises RefusalError: MALFORMED_QUERY."""
    if len(text) > LONGEST_QUERY:
        raise RefusalError("MALFORMED_QUERY", f"SOQL statements cannot be longer than {LONGEST_QUERY} characters.")
    try:
        return dataclasses.replace(cast(Query, _parser.parse(text)), text=text)
    except lark.exceptions.VisitError as error:
        if isinstance(error.orig_exc, RefusalError):
            raise error.orig_exc from None
        raise
    except lark.exceptions.UnexpectedToken as error:
        ended = error.token.type == "$END"
        at, shown = (len(text), "<EOF>") if ended else (error.token.start_pos or 0, str(error.token))
        raise malformed(text, at, f"unexpected token: '{shown[:20]}'") from None
    except lark.exceptions.UnexpectedCharacters as error:
        at = int(error.pos_in_stream)  # type: ignore[call-overload]
        raise malformed(text, at, f"unexpected token: '{text[at : at + 20]}'") from None


def malformed(text: str, at: int, message: str) -> RefusalError:
    return RefusalError("MALFORMED_QUERY", position(text, at) + message)


def position(text: str, at: int) -> str:
    """The lines with which Salesforce shows where in the query something is wrong."""
    row = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    shown = text[max(0, at - 40) : at + 40].replace("\n", " ")
    return f"\n{shown}\n{' ' * min(at, 40)}^\nERROR at Row:{row}:Column:{column}\n"


def unescape(quoted: str, *, like: bool = False) -> str:
    """The text of a quoted string. For LIKE, wildcards that were escaped keep their backslash. Raises RefusalError."""
    if len(quoted) - 2 > LONGEST_STRING:
        raise RefusalError("MALFORMED_QUERY", f"string literals cannot be longer than {LONGEST_STRING} characters")
    inner = quoted[1:-1]
    if "\\" not in inner:
        return inner

    def replace(match: re.Match[str]) -> str:
        escaped = match[0][1]
        if like and escaped in "%_\\":
            return match[0]
        if escaped not in _ESCAPES:
            raise RefusalError(
                "MALFORMED_QUERY", f"Invalid string literal '{quoted[1:-1]}'. Illegal character sequence '{match[0]}' in string literal"
            )
        return _ESCAPES[escaped]

    return re.sub(r"\\.", replace, inner, flags=re.DOTALL)


def like_pattern(quoted: str) -> re.Pattern[str]:
    """% is any text, _ any one character, \\% and \\_ are themselves; case doesn't count. Raises RefusalError."""
    parts = []
    for piece in re.findall(r"\\.|[^\\]", unescape(quoted, like=True), flags=re.DOTALL):
        if piece == "%":
            parts.append(".*")
        elif piece == "_":
            parts.append(".")
        else:
            parts.append(re.escape(piece[-1]))
    return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)


_STRING = re.compile(r"'[^'\\]*(?:\\.[^'\\]*)*'", re.DOTALL)


class _Builder(lark.Transformer[lark.Token, Any]):
    def query(self, children: list[Any]) -> Query:
        fields: tuple[Name, ...] = ()
        object_: Name | None = None
        rest: dict[str, Any] = {"where": None, "order": (), "limit": None, "offset": 0}
        for child in children:
            if isinstance(child, lark.Token) and child.type == "FIELD":
                object_ = _path(child)
            elif isinstance(child, tuple):
                name, value = child
                if name == "fields":
                    fields = value
                else:
                    rest[name] = value
        if object_ is None:
            raise RefusalError("MALFORMED_QUERY", "a query needs FROM")
        return Query("", fields, object_, rest["where"], rest["order"], rest["limit"], rest["offset"])

    def fields(self, children: list[lark.Token]) -> Any:
        return "fields", tuple(_path(child) for child in children)

    def where(self, children: list[Any]) -> Any:
        return "where", children[1]

    def all_of(self, children: list[Any]) -> AllOf:
        return AllOf(tuple(child for child in children if not isinstance(child, lark.Token)))

    def any_of(self, children: list[Any]) -> AnyOf:
        return AnyOf(tuple(child for child in children if not isinstance(child, lark.Token)))

    def negation(self, children: list[Any]) -> Negation:
        return Negation(children[1])

    def comparison(self, children: list[Any]) -> Comparison:
        operator = "!=" if children[1] == "<>" else str(children[1])
        return Comparison(_path(children[0]), operator, children[2])

    def like(self, children: list[lark.Token]) -> Like:
        return Like(_path(children[0]), like_pattern(children[2]))

    def within(self, children: list[Any]) -> Within:
        return Within(_path(children[0]), children[2], negated=False)

    def outside(self, children: list[Any]) -> Within:
        return Within(_path(children[0]), children[3], negated=True)

    def listing(self, children: list[Any]) -> Sequence[Literal]:
        first = children[0]
        if isinstance(first, lark.Token):
            return [Literal("string", unescape(quoted)) for quoted in _STRING.findall(first)]
        return children

    def literal(self, children: list[lark.Token]) -> Literal:
        token = children[0]
        if token.type == "STRING":
            return Literal("string", unescape(token))
        if token.type == "NUMBER":
            return Literal("number", float(token) if "." in token else int(token))
        if token.type == "DATE":
            return Literal("date", str(token))
        if token.type == "DATETIME":
            try:
                return Literal("datetime", datetime_text(str(token).upper()))
            except ValueError:
                raise RefusalError("MALFORMED_QUERY", f"line 1:{token.column} no viable alternative at character '{token}'") from None
        return Literal("null", None) if token.type == "NULL" else Literal("boolean", token.type == "TRUE")

    def order(self, children: list[Any]) -> Any:
        return "order", tuple(child for child in children if isinstance(child, Ordering))

    def ordering(self, children: list[lark.Token]) -> Ordering:
        words = {child.type for child in children[1:]}
        return Ordering(_path(children[0]), "DESC" in words, "LAST" not in words)

    def limit(self, children: list[lark.Token]) -> Any:
        return "limit", _whole(children[1])

    def offset(self, children: list[lark.Token]) -> Any:
        offset = _whole(children[1])
        if offset > LARGEST_OFFSET:
            raise RefusalError("NUMBER_OUTSIDE_VALID_RANGE", f"Maximum SOQL offset allowed is {LARGEST_OFFSET}")
        return "offset", offset


def _path(token: lark.Token) -> Name:
    return Name(tuple(token.split(".")), token.start_pos or 0)


def _whole(token: lark.Token) -> int:
    if not token.isdigit():
        raise RefusalError("MALFORMED_QUERY", f"unexpected token: '{token}'")
    return int(token)


_parser = lark.Lark(
    Path(__file__).with_suffix(".lark").read_text(encoding="utf-8"),
    start="query",
    parser="lalr",
    lexer="contextual",
    transformer=_Builder(),
    maybe_placeholders=False,
)
