"""Bad input gets a clear error and loses nothing: settings, topics that are missing, ports, and records that can't be read."""

import asyncio
import collections
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from tests.flow import house as houses
from tests.flow import processes, watching
from tests.flow.conftest import Estate, opener
from tests.flow.house import House
from tests.flow.place import Place
from tests.flow.watching import eventually


def ended(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Exit code and lines on stderr, log lines left out."""
    done = processes.command(arguments, environment or processes.environment())
    assert done.stdout == ""
    return done.returncode, [line for line in done.stderr.splitlines() if not line.startswith("{")]


def test_settings_with_mistakes_name_all_of_them_and_change_nothing(house: House, tmp_path: Path) -> None:
    """Each with its line and key."""
    path = tmp_path / "bad.toml"
    path.write_text(
        '[[org]]\nid = "a b"\nlogin_url = "ftp://x"\nflow = "magic"\n\n'
        '[[workspace]]\nid = "bad-one"\norg = "nobody"\nplam = "enterprise"\n[workspace.objects]\ncreate = "robot"\n'
    )
    before = house.document("settings", "show")
    code, lines = ended("settings", "apply", str(path), environment=house.environment)
    assert code == 2
    text = "\n".join(lines)
    for line, key in (
        (2, "id"),
        (3, "login_url"),
        (4, "flow"),
        (8, 'workspace[1].org: no org "nobody"'),
        (9, "plam"),
        (11, "create"),
        (6, "organization_id"),
        (6, "webhook_secret"),
    ):
        assert any(f"line {line}" in one and key in one for one in lines), (line, key, text)
    assert house.document("settings", "show") == before
    path.write_text('[[workspace]]\nid = "w"\norg = "nobody"\nlivestorm.organization_id = "o"\nlivestorm.webhook_secret = "s"\n')
    code, lines = ended("settings", "apply", str(path), environment=house.environment)
    assert code == 2
    assert any("line 3" in line and "nobody" in line for line in lines), lines
    assert house.document("settings", "show") == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("workspace", "show", "nope"),
        ("workspace", "pause", "nope"),
        ("workspace", "resume", "nope"),
        ("dead-letters", "list", "--workspace", "nope"),
        ("dead-letters", "retry", "--stage", "nope"),
        ("replay", "--stage", "match", "--from", "2026-01-01", "--workspace", "nope"),
    ],
    ids=" ".join,
)
def test_a_name_that_nothing_has_is_wrong_usage(house: House, arguments: tuple[str, ...]) -> None:
    code, [line] = ended(*arguments, environment=house.environment)
    assert code == 2
    assert "'nope'; known are: " in line


def test_somebody_unknown_and_topics_unlike_the_plan_are_told_on_stderr_beside_the_document(house: House) -> None:
    unknown = processes.command(["trace", "nobody@example.com", "--json"], house.environment)
    assert (unknown.returncode, json.loads(unknown.stdout)["events"]) == (1, [])
    assert unknown.stderr == "turnout: nothing is known of nobody@example.com: no event within the topics' retention\n"
    other = processes.command(["topics", "show", "--json"], house.environment | {"TURNOUT_PARTITIONS": "7"})
    assert (other.returncode, len(json.loads(other.stdout)["topics"])) == (1, 14)
    [error] = [line for line in other.stderr.splitlines() if line.startswith("error: ")]
    assert "TURNOUT_PARTITIONS" in error


async def test_a_replay_tells_its_progress_to_terminals_alone(place: Place) -> None:
    await place.registered(await place.session(), "ada@harbour.example")
    await place.settled()
    told = ["replay", "--stage", "match", "--from", "2026-01-01", "--workspace", place.workspace]
    ran = await asyncio.to_thread(processes.command, told, place.house.environment)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("Replay ")
    assert ran.stdout.endswith(" messages looked at; done.\n")


def test_missing_topics_name_the_command_that_makes_them(bootstrap: str) -> None:
    """Every part says so at its start."""
    code, lines = ended("run", "match", environment=processes.environment(KAFKA_BOOTSTRAP=bootstrap, TOPIC_PREFIX="nothing-here"))
    assert (code, len(lines)) == (1, 1), lines
    assert "turnout topics apply" in lines[0]


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("part", "variable"), [("ingress", "TURNOUT_INGRESS"), ("console", "TURNOUT_CONSOLE"), ("match", "TURNOUT_METRICS")]
)
def test_a_port_in_use_is_one_clear_line(house: House, taken: str, part: str, variable: str) -> None:
    """It names the address and the variable that sets it."""
    code, lines = ended("run", part, environment=house.environment | {variable: taken})
    assert (code, len(lines)) == (1, 1), lines
    assert taken in lines[0]
    assert variable in lines[0]


@pytest.fixture(scope="module")
def spoilt(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house of this module's own, whose topics are filled with what can't be read."""
    with houses.built(bootstrap, tmp_path_factory.mktemp("spoilt")) as built:
        built.start(houses.ALL)
        yield built


@pytest_asyncio.fixture
async def place(spoilt: House, estate: Estate, http: aiohttp.ClientSession) -> AsyncIterator[Place]:
    async with watching.listening(spoilt.bootstrap, spoilt.prefix, ("synced", "dead-letters")) as heard:
        yield await opener(spoilt, estate, heard, http)()


GARBAGE = (b"", b"\xff\xfe", b"{", b"[]", b'{"kind":"registration"}', b'{"kind":"dance"}', b"null")


async def test_unreadable_records_in_any_topic_are_dead_letters_and_stop_nobody(place: Place) -> None:
    """Without headers, with odd headers, with a body that is none: each is a dead letter at its stage, and the flow goes on."""
    topics = ("received", "normalized", "matched", "resolved")
    session = await place.session()
    await place.followed(session)
    ours = [
        ("id", b"x"),
        ("workspace", place.workspace.encode()),
        ("org", place.org.id.encode()),
        ("kind", b"registration"),
        ("session", session.id.encode()),
    ]
    heads: tuple[list[tuple[str, bytes]], ...] = ([], ours, [*ours, ("happened-at", b"never")], [*ours, ("org", b"\xff")])
    sent = 0
    async with AIOKafkaProducer(bootstrap_servers=place.house.bootstrap) as producer:
        for topic in topics:
            for number, value in enumerate(GARBAGE):
                for headers in heads:
                    key = None if number == 0 else b"\xff" if number == 1 else f"junk{number}@harbour.example".encode()
                    await producer.send_and_wait(f"{place.house.prefix}.{topic}", value, key=key, headers=headers)
                    sent += 1

    def told() -> list[Any]:
        return [one.value for one in place.topics.heard if one.topic == "dead-letters"]

    async def all_told() -> None:
        assert len(told()) >= sent

    try:
        await eventually(all_told, 60)
    except AssertionError:
        # Asked once and not at each look: it costs the product more than what is waited for.
        by_topic = collections.Counter(letter.get("topic") for letter in told())
        raise AssertionError(f"{len(told())} of {sent}: {by_topic}; {(await place.lag())['lanes']}") from None
    assert all(letter["causes"] and letter["causes"][0]["message"] for letter in told())
    await place.registered(session, "fine@harbour.example")

    async def arrives() -> None:
        await place.org.member((await place.org.campaign(session.id))["Id"], await place.org.one("Lead", "fine@harbour.example"))

    await eventually(arrives)
    listed = await asyncio.to_thread(place.house.document, "dead-letters", "list", "--workspace", place.workspace)
    assert listed["dead_letters"]


async def test_unreadable_rows_of_any_table_stop_only_what_needs_them(place: Place) -> None:
    """Rows with keys and values that can't be read: others go on, and a row that is told anew heals what waited for it."""
    session, other = await place.session("Broken"), await place.session("Fine")
    await place.followed(session)
    await place.followed(other)
    async with AIOKafkaProducer(bootstrap_servers=place.house.bootstrap) as producer:
        for table in ("orgs", "workspaces", "events", "sessions", "campaigns", "accounts", "lanes", "controls"):
            await producer.send_and_wait(f"{place.house.prefix}.{table}", b"\xff{", key=b"junk")
            await producer.send_and_wait(f"{place.house.prefix}.{table}", b"{}", key=b"\xff\xfe")
        await producer.send_and_wait(f"{place.house.prefix}.sessions", b"\xff{", key=session.id.encode())
        await producer.send_and_wait(f"{place.house.prefix}.campaigns", b"[]", key=f"{place.org.id}|{session.id}".encode())
    await place.registered(session, "waits@harbour.example")
    await place.registered(other, "fine@harbour.example")

    async def arrives() -> None:
        await place.org.member((await place.org.campaign(other.id))["Id"], await place.org.one("Lead", "fine@harbour.example"))

    await eventually(arrives)
    await place.tell_session(session, "session.created")
    await place.synced()
    await place.org.member((await place.org.campaign(session.id))["Id"], await place.org.one("Lead", "waits@harbour.example"))
    assert (await asyncio.to_thread(place.house.document, "lag"))["stages"]
