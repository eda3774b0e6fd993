"""The demonstration from its start to its report: brings up every process, plays the season, waits until all is synced, has the orgs audited.

Decides nothing about people: `season` says what happens, `audit` what must come of it.
"""

import asyncio
import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import anyio
import anyio.abc
import msgspec

from pipeline import topics
from pipeline.errors import TransportError
from pipeline.kafka import KafkaTransport
from pipeline.transport import Reader
from schemas.messages import Synced
from stages import connection, environment, flow, installation, lag, secrets
from stages.demo import audit, season
from stages.demo.audit import Difference, Tally
from stages.demo.player import Player
from stages.demo.season import Season
from stages.demo.switches import Switches
from stages.environment import NAMES, Address, Environment
from stages.supervisor import Sink, Supervisor

STALLED_SECONDS: Final = 180.0
"""Without a single new outcome for so long, the season is taken for as far as it gets."""
LOOK_SECONDS: Final = 0.5
SYNCED: Final = "synced"


class Progress(Protocol):
    """Whom the demonstration tells how far it is."""

    def say(self, what: str) -> None:
        """A step begins."""

    def total(self, webhooks: int, events: int) -> None:
        """How many webhooks will be posted, and how many distinct events about people they tell."""

    def taken(self, webhooks: int) -> None:
        """So many more were accepted."""

    def finished(self, events: int) -> None:
        """So many events in all have a final outcome."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What came of it; the document of `turnout demo --json`."""

    workspaces: int
    orgs: int
    sessions: int
    registrants: int
    events: int
    accepted: int
    synced: int
    dropped: Mapping[str, int]
    rejected: Mapping[str, int]
    salesforce_calls: int
    seconds: float
    events_per_second: float
    records: Mapping[str, Mapping[str, int]]
    differences: Sequence[Difference]
    ok: bool


@dataclasses.dataclass(frozen=True, slots=True)
class House:
    """Everything that runs for the demonstration."""

    environment: Environment
    variables: Mapping[str, str]
    orgs: Mapping[str, str]
    """Id to address."""
    metrics: Mapping[str, Address]
    """Part to where those listen that serve nothing else."""
    directory: Path

    @property
    def ingress(self) -> str:
        return f"http://{installation.reachable(self.environment.ingress)}"

    @property
    def console(self) -> str:
        return f"http://{installation.reachable(self.environment.console)}/"


class Performance:
    """One demonstration. `run` ends with the report; `stay` is awaited before everything is taken down."""

    def __init__(self, registrants: int, given: Environment, progress: Progress, sink: Sink, *, seed: int = 1) -> None:
        self._registrants, self._given, self._progress, self._sink, self._seed = registrants, given, progress, sink, seed

    async def run(self, stay: Callable[[Report, str], Any]) -> Report:
        """`stay` is awaited with the report and the console's address. Raises TurnoutError, TransportError."""
        async with (
            self._house() as (house, supervisor),
            aiohttp.ClientSession(timeout=_PATIENT) as session,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(supervisor.failed)
            report = await self._perform(house, supervisor, session)
            await stay(report, house.console)
            tasks.cancel_scope.cancel()
        return report

    @contextlib.asynccontextmanager
    async def _house(self) -> AsyncIterator[tuple[House, Supervisor]]:
        with tempfile.TemporaryDirectory(prefix="turnout-demo-", ignore_cleanup_errors=True) as name:
            house = _settle(self._given, Path(name))
            async with Supervisor(self._sink) as supervisor:
                yield house, supervisor

    async def _perform(self, house: House, supervisor: Supervisor, session: aiohttp.ClientSession) -> Report:
        orgs = {id: Switches(session, url) for id, url in house.orgs.items()}
        await self._open(house, supervisor, session, orgs)
        played = season.generate(self._registrants, int(time.time()) + 1, self._seed)
        self._progress.total(played.events(), played.distinct())
        began = time.monotonic()
        async with _outcomes(house.environment) as outcomes:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._report_outcomes, outcomes)
                player = Player(session, house.ingress, {one.id: one.secret for one in played.workspaces}, self._progress.taken)
                await self._play(played, player, orgs)
                await self._settled(house, outcomes, played.distinct())
                tasks.cancel_scope.cancel()
            seconds = time.monotonic() - began
            self._progress.say("checking the orgs, person by person")
            return await _report(played, player, orgs, audit.tally(outcomes.told), seconds)

    async def _open(self, house: House, supervisor: Supervisor, session: aiohttp.ClientSession, orgs: Mapping[str, Switches]) -> None:
        self._progress.say("starting the broker and the orgs")
        before = season.generate(self._registrants, int(time.time()), self._seed)
        children = [installation.broker(_port(house.environment.kafka_bootstrap[0]), house.directory / "broker")]
        for org in before.orgs:
            seed = house.directory / f"{org.id}.json"
            seed.write_bytes(msgspec.json.encode(org.seed))
            children.append(installation.sandbox_org(org.id, _port(house.orgs[org.id]), seed))
        await supervisor.start(*children)
        await topics.apply(installation.patient(connection.kafka(house.environment)), connection.topic_specs(house.environment))
        async with anyio.create_task_group() as group:
            for id, switches in orgs.items():
                group.start_soon(_furnish, switches, season.rules(id))
        file = house.directory / "settings.toml"
        file.write_text(season.settings(before.workspaces, house.orgs), encoding="utf-8")
        await connection.apply_settings(house.environment, file)
        self._progress.say("starting every part")
        await _start_parts(house, supervisor, session)

    async def _play(self, played: Season, player: Player, orgs: Mapping[str, Switches]) -> None:
        for edit in played.hand_edits:
            rows = (await orgs[edit.org].records())[edit.object]
            record = next(row for row in rows if row.get("Description") == edit.name)
            await orgs[edit.org].edit(edit.object, record["Id"], edit.values)
        opening, middle, end = played.acts
        self._progress.say("people register")
        await player.play(opening)
        self._progress.say(f"sessions go live and end; {played.failing_org} is down")
        await orgs[played.failing_org].go_down()
        await player.play(middle)
        await player.play(end[: len(end) // 2])
        self._progress.say(f"replays, late news and repeats; {played.failing_org} is back")
        await orgs[played.failing_org].come_back()
        await player.play(end[len(end) // 2 :])

    async def _report_outcomes(self, outcomes: "Outcomes") -> None:
        async for _ in outcomes.follow():
            self._progress.finished(len(outcomes.ids))

    async def _settled(self, house: House, outcomes: "Outcomes", events: int) -> None:
        """Returns when every event has its outcome and no stage has work left, or when nothing moves any more."""
        self._progress.say("waiting until everything is synced")
        moved, known = time.monotonic(), -1
        async with connection.connected(house.environment) as transport:
            while time.monotonic() - moved < STALLED_SECONDS:
                if len(outcomes.ids) != known:
                    moved, known = time.monotonic(), len(outcomes.ids)
                if known >= events and await _unfinished(transport) == 0:
                    await outcomes.caught_up(transport)
                    return
                await anyio.sleep(LOOK_SECONDS)


_PATIENT: Final = aiohttp.ClientTimeout(total=30, sock_connect=10)


def _settle(given: Environment, directory: Path) -> House:
    """Ports for all, and the environment that the children get; nothing of the caller's own Kafka."""
    ids = list(dict.fromkeys(org for _, org, _, _ in season.WORKSPACES))
    fixed, count = {given.ingress.port, given.console.port}, 3 + len(ids) + len(flow.PARTS)
    free = [port for port in installation.free_ports(len(fixed) + count) if port not in fixed]
    broker, ingress, console, *rest = free[:count]
    keys = directory / "secret-keys"
    keys.write_text(secrets.new_key() + "\n")
    keys.chmod(0o600)
    variables = dict.fromkeys(NAMES, "") | {
        "TURNOUT_KAFKA_BOOTSTRAP": f"{installation.HOST}:{broker}",
        "TURNOUT_SECRET_KEYS_FILE": str(keys),
        "TURNOUT_INGRESS": _chosen("TURNOUT_INGRESS", given.ingress, ingress),
        "TURNOUT_CONSOLE": _chosen("TURNOUT_CONSOLE", given.console, console),
        "TURNOUT_CONSOLE_TOKENS_FILE": os.environ.get("TURNOUT_CONSOLE_TOKENS_FILE", ""),
        "TURNOUT_LOG": given.log,
    }
    urls = {id: f"http://{installation.HOST}:{port}" for id, port in zip(ids, rest, strict=False)}
    metrics = {name: Address(installation.HOST, port) for name, port in zip(flow.PARTS, rest[len(ids) :], strict=True)}
    return House(environment.read(variables), variables, urls, metrics, directory)


def _chosen(variable: str, given: Address, free: int) -> str:
    """Where it is set to; on a free port where none is set, or any will do."""
    is_set = os.environ.get(variable, "").strip()
    return str(given.at(free) if is_set else installation.local(free))


async def _furnish(switches: Switches, rules: Sequence[dict[str, Any]]) -> None:
    await switches.ready()
    for rule in rules:
        await switches.rule(rule)


async def _start_parts(house: House, supervisor: Supervisor, session: aiohttp.ClientSession) -> None:
    stem = installation.instance(None)
    addresses = {**house.metrics, "ingress": house.environment.ingress, "console": house.environment.console}
    installation.clash(house.environment)
    await supervisor.start(*(installation.part(name, stem, house.metrics[name], house.variables) for name in flow.PARTS))
    await installation.ready(session, addresses)


class Outcomes:
    """Every final outcome so far, read from the topic `synced` without a group."""

    def __init__(self, reader: Reader, places: Sequence[tuple[str, int]]) -> None:
        self._reader, self._places = reader, places
        self.told: list[Synced] = []
        self.ids: set[str] = set()
        """Of registrations."""
        self._read = asyncio.Event()

    async def follow(self) -> AsyncIterator[int]:
        """Reads for ever; yields after each batch."""
        decoder = msgspec.json.Decoder(Synced)
        while True:
            for record in await self._reader.fetch(LOOK_SECONDS, 5_000):
                outcome = decoder.decode(record.value or b"")
                self.told.append(outcome)
                if outcome.kind == "registration":
                    self.ids.add(outcome.id)
            self._read.set()
            yield len(self.told)

    async def caught_up(self, transport: KafkaTransport) -> None:
        """Returns when all that the topic holds now was read."""
        ends = {partition: end for partition, (_, end) in (await transport.cluster.offsets(SYNCED)).items()}
        while any(self._reader.position(topic, partition) < ends[partition] for topic, partition in self._places):
            self._read.clear()
            await self._read.wait()


@contextlib.asynccontextmanager
async def _outcomes(given: Environment) -> AsyncIterator[Outcomes]:
    async with connection.connected(given) as transport:
        reader = transport.reader()
        await reader.start()
        try:
            places = [(SYNCED, partition) for partition in range(given.partitions)]
            reader.assign(dict.fromkeys(places, 0))
            yield Outcomes(reader, places)
        finally:
            with anyio.CancelScope(shield=True):
                await reader.stop()


async def _unfinished(transport: KafkaTransport) -> int:
    try:
        told = await lag.lag(transport, connection.STAGE_TOPICS)
    except TransportError:
        # The broker may have been killed and be on its way back.
        return 1
    return int(told["unfinished"])


async def _report(played: Season, player: Player, orgs: Mapping[str, Switches], tally: Tally, seconds: float) -> Report:
    records = {id: await switches.records() for id, switches in orgs.items()}
    calls = sum([await switches.calls() for switches in orgs.values()])
    found = audit.differences(played, records, tally)
    return Report(
        workspaces=len(played.workspaces),
        orgs=len(played.orgs),
        sessions=len(played.sessions),
        registrants=len(played.registrations),
        events=played.events(),
        accepted=player.accepted,
        synced=tally.synced,
        dropped=tally.dropped,
        rejected=tally.rejected,
        salesforce_calls=calls,
        seconds=round(seconds, 1),
        events_per_second=round(played.events() / seconds, 1),
        records=audit.counts(records),
        differences=found,
        ok=not found,
    )


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
