"""DESIGN.md against the tests: every test that it names is there, and every rule of the flow has one named after it."""

import ast
import functools
import re
from collections.abc import Iterator

from tests.compose import ROOT

NAMED = re.compile(r"`(tests/[\w./-]+)?(?:::(test_\w+))?`")


def named() -> Iterator[tuple[str, str]]:
    """File or folder, and test ("": all of it), as DESIGN.md names them; a name without a file is of the file before it."""
    file = ""
    for path, test in NAMED.findall((ROOT / "DESIGN.md").read_text()):
        file = path or file
        if file and (path or test):
            yield file, test


@functools.cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_test_that_the_design_names_is_there() -> None:
    found = list(named())
    assert len(found) > 80
    missing = [f"{file}::{test}" for file, test in found if not (ROOT / file).exists() or (test and test not in names_in(file))]
    assert missing == []


def test_every_rule_of_the_flow_has_a_whole_flow_test_named_after_it() -> None:
    names = [name for path in (ROOT / "tests/flow").glob("test_*.py") for name in names_in(path.relative_to(ROOT).as_posix())]
    numbers = {int(number) for name in names for number in re.findall(r"rule_(\d\d)", name)}
    assert numbers == set(range(1, 17))
