"""The operators' documents against the code: variables, metrics, incidents, rights and commands that they speak of are there."""

import re

import click
import pytest

from stages import environment, flow
from stages.cli import turnout
from tests import compose
from tests.compose import ROOT

OPERATIONS = (ROOT / "docs/operations.md").read_text()
RIGHTS = (ROOT / "docs/kafka-rights.md").read_text()
SOURCES = [path.read_text() for package in ("pipeline", "stages") for path in (ROOT / package).rglob("*.py")]


def test_every_variable_that_the_documents_name_is_read() -> None:
    of_compose = {name for name, _ in compose.VARIABLE.findall(compose.FILE.read_text())}
    named = set(re.findall(r"\bTURNOUT_[A-Z_]*[A-Z]\b", OPERATIONS + RIGHTS))
    assert len(named) > 10
    assert named <= environment.NAMES | of_compose


def test_every_incident_that_the_code_tells_is_explained() -> None:
    told = {kind for source in SOURCES for kind in re.findall(r'\.incident\(\s*self\.\w+\.name, "(\w+)"', source)}
    assert len(told) > 5
    explained = OPERATIONS.split("\n## Incidents\n")[1].split("\n## ")[0]
    assert {kind for row in re.findall(r"^\| (`.+?) \|", explained, re.MULTILINE) for kind in re.findall(r"`(\w+)`", row)} == told


def test_every_command_that_is_named_exists() -> None:
    named = {tuple(found.split()) for found in re.findall(r"`turnout ([a-z][a-z-]*(?: (?:[a-z][a-z-]*))?)", OPERATIONS + RIGHTS)}
    assert len(named) > 8
    for words in named:
        found = turnout.get_command(click.Context(turnout), words[0])
        assert found is not None, words
        if isinstance(found, click.Group) and len(words) > 1:
            assert found.get_command(click.Context(found), words[1]) is not None, words


def rows(heading: str) -> dict[str, list[set[str]]]:
    """A table of the rights: the first column, and the names in the others."""
    section = RIGHTS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\|(.*)\|$", section, re.MULTILINE)[2:]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return {first: [set(re.split(r",\s*", cell)) - {""} for cell in rest] for first, *rest in cells}


@pytest.mark.parametrize("stage", flow.STAGES)
def test_a_stage_may_read_what_the_flow_says_that_it_reads(stage: str) -> None:
    topic, tables = flow.STAGES[stage]
    reads, _, group = rows("Parts")[stage]
    assert reads == {topic, *tables}
    assert group == {stage}


def test_every_part_and_topic_has_its_place_among_the_rights() -> None:
    told = rows("Parts")
    assert set(told) == set(flow.PARTS)
    topics = {spec.name for spec in flow.topics(partitions=1, replication=1, retention_hours=1)}
    assert {name for cells in (*told.values(), *rows("Commands").values()) for name in set.union(*cells[:2])} == topics
