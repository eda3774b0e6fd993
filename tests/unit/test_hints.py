"""What hints and documents name is there: commands with their options, environment variables, files. Walks every text of the code and the documents."""

import ast
import re
import shlex
from collections.abc import Iterator
from typing import Final, NamedTuple

import click
import pytest

from stages import cli
from stages import environment as environments
from tests.compose import ROOT

PACKAGES: Final = ("schemas", "pipeline", "stages")
DOCUMENTS: Final = tuple(
    sorted(path for pattern in ("*.md", "docs/**/*.md", "docs/**/*.yml", "docker-compose.yml", "Makefile") for path in ROOT.glob(pattern))
)
ANYTHING: Final = "\N{WHITE SQUARE}"
"""What an f-string's value is taken for."""
QUOTED: Final = re.compile(r"`(turnout [^`]+)`")
LINE: Final = re.compile(r"^(?:\$ )?(?:docker compose run [^\n]*? )?(turnout [a-z][^\n]*)$", re.MULTILINE)
VARIABLE: Final = re.compile(r"\bTURNOUT_[A-Z_]*[A-Z]\b")
DOCUMENT: Final = re.compile(r"\bdocs/[\w./-]+\.\w+")
OF_TESTS: Final = re.compile(r"TURNOUT_TEST(_|$)")
ENDS_OF_A_COMMAND: Final = frozenset((">", ">>", "|", "&&", "&", "#", "…"))


class Text(NamedTuple):
    """A text and where it stands."""

    where: str
    text: str


def spelled(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else ANYTHING for part in node.values)
    return None


def literals() -> Iterator[Text]:
    """Every string of the code, docstrings too, f-strings whole."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts: set[int] = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts |= {id(part) for part in node.values}
                if id(node) not in parts and (text := spelled(node)) is not None:
                    yield Text(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", text)


def documents() -> Iterator[Text]:
    for path in DOCUMENTS:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            yield Text(f"{path.relative_to(ROOT)}:{number}", line)


TEXTS: Final = (*literals(), *documents())


def commands(text: str) -> Iterator[str]:
    yield from (match.group(1) for match in QUOTED.finditer(text))
    yield from (match.group(1) for match in LINE.finditer(text))


def wrong(command: str) -> str | None:
    """What is not there of what the command line names; None: all is."""
    try:
        words = shlex.split(command, comments=True)[1:]
    except ValueError as error:
        return str(error)
    node: click.Command = cli.turnout
    context = click.Context(cli.turnout)
    for place, word in enumerate(words):
        if word in ENDS_OF_A_COMMAND:
            return None
        if word.startswith("-"):
            option = word.partition("=")[0]
            known = {name for parameter in node.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)}
            if option not in known:
                return f"`{' '.join(words[:place])}` has no {option}"
        elif isinstance(node, click.Group):
            # A document may name several at once: `settings apply / show`.
            found = node.get_command(context, word)
            if found is None and word.islower():
                return f"`turnout {' '.join(words[:place])}` has no command {word}"
            if found is None:
                return None
            node = found
    return None


def test_every_command_that_a_text_names_is_there_with_its_options() -> None:
    found = [(place, command) for place, text in TEXTS for command in commands(text)]
    assert len(found) > 50
    assert [(place, command, reason) for place, command in found if (reason := wrong(command)) is not None] == []


def test_every_variable_that_a_text_names_is_read() -> None:
    found = {(name, place) for place, text in TEXTS for name in VARIABLE.findall(text)}
    of_compose = set(re.findall(r"\$\{(TURNOUT_[A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    families = tuple(f"{name}_" for name in ("TURNOUT", "TURNOUT_KAFKA"))
    assert found
    unknown = [
        (name, place)
        for name, place in sorted(found)
        if name not in environments.NAMES | of_compose and f"{name}_" not in families and OF_TESTS.match(name) is None
    ]
    assert unknown == []


def test_every_document_that_a_text_names_is_there() -> None:
    found = {(name, place) for place, text in TEXTS for name in DOCUMENT.findall(text)}
    assert found
    assert [(name, place) for name, place in sorted(found) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("turnout check acme --accept-organization", None),
        ("turnout keys new >> FILE --no-option-of-it", None),
        ("turnout check --accept-organisation", "has no --accept-organisation"),
        ("turnout dead-letters reply", "has no command reply"),
        (f"turnout {ANYTHING} apply", None),
    ],
)
def test_a_command_that_is_not_there_would_be_found(command: str, reason: str | None) -> None:
    told = wrong(command)
    assert told is None if reason is None else told is not None and reason in told
