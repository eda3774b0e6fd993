"""The composition root: builds the parts of one process from the environment, runs them until a signal, stops them in two phases."""

import asyncio
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import aiohttp
import anyio
import anyio.abc
import msgspec
import structlog

from pipeline import topics
from pipeline.delivery import deliver
from pipeline.kafka import KafkaTransport
from pipeline.lanes import org_lane, workspace_lane
from pipeline.outcomes import Step
from pipeline.records import Outgoing
from pipeline.tables import Table, Tables, readable
from pipeline.transport import Transport, Writer
from pipeline.worker import Worker
from schemas.settings import Org, Workspace
from stages import connection, console, flow, ingress, rows, secrets, signals
from stages.campaign_membership import CampaignMembership
from stages.create import Create
from stages.environment import Environment
from stages.errors import TurnoutError
from stages.gate import PausedWorkspaces
from stages.livestorm.client import Clients
from stages.match import Match
from stages.metrics import Metrics, application, routes, serving
from stages.normalize import Normalize
from stages.salesforce.causes import unknown_codes
from stages.salesforce.client import ANSWERED, Hooks
from stages.salesforce.orgs import Keep, OrgRegistry
from stages.settings import logins

log = structlog.get_logger()

_INGRESS_TABLES: Final = ("workspaces",)

_WRITING: Final = ("ingress", "match", "create", "campaign-membership")
"""Parts that write beside what a stage's worker writes: webhooks, and what a login has found out. A producer asks for rights."""


class TopicsNotReady(TurnoutError):
    """A topic is missing or unlike what it must be."""


async def run_parts(environment: Environment, parts: Sequence[str]) -> int:
    """Runs these parts until SIGTERM (returns 0) or SIGINT (returns 130).

    Raises TransportError, TopicsNotReady, PortInUse with a line that says how to mend it.
    """
    with Stopping() as stopping, stopping.startup:
        await _run_parts(environment, parts, stopping)
    return stopping.exit_code


async def _run_parts(environment: Environment, parts: Sequence[str], stopping: "Stopping") -> None:
    settings = connection.kafka(environment)
    problems = [problem for problem in await topics.check(settings, connection.topic_specs(environment)) if problem.severity == "error"]
    if problems:
        raise TopicsNotReady(f"the topics are not ready: {'; '.join(map(str, topics.grouped(problems)))}")
    transport = KafkaTransport(settings)
    await transport.start()
    try:
        await Process(environment, transport, parts).run(stopping)
    finally:
        with anyio.CancelScope(shield=True):
            await transport.stop()


class Stopping:
    """SIGTERM and SIGINT from the first moment on: before the parts run they end the start, afterwards they are waited for."""

    def __init__(self) -> None:
        self.startup = anyio.CancelScope()
        self.exit_code = 0
        """What the process ends with; by the first signal, which a second one does not change."""
        self._asked = asyncio.Event()
        self._started = False

    async def asked(self) -> None:
        """The parts run: from here on a signal asks for the two-phase stop."""
        self._started = True
        await self._asked.wait()

    def __enter__(self) -> "Stopping":
        for number in signals.STOPPING:
            asyncio.get_running_loop().add_signal_handler(number, self._ask, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in signals.STOPPING:
            asyncio.get_running_loop().remove_signal_handler(number)

    def _ask(self, number: int) -> None:
        if not self._asked.is_set():
            self.exit_code = signals.exit_code(number)
        self._asked.set()
        if not self._started:
            self.startup.cancel()


class Process:
    """The parts of one process and what they share."""

    def __init__(self, environment: Environment, transport: Transport, parts: Sequence[str]) -> None:
        self._environment, self._transport, self._parts = environment, transport, parts
        self._metrics = Metrics(unknown_codes)
        self._secrets = secrets.load(environment.secret_keys_file)
        names = dict.fromkeys((*flow.tables_of(list(parts)), *(_INGRESS_TABLES if "ingress" in parts else ())))
        self._tables = Tables(transport, list(names))
        self._writer: Writer = transport.writer()
        self._workers: list[Worker] = []
        self._answers: Counter[str] = Counter()
        """By org, how many calls it has answered, whatever it said."""
        self._troubles: list[Callable[[], str | None]] = [self._tables.trouble]
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    async def run(self, stopping: "Stopping") -> None:
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            if any(part in _WRITING for part in self._parts):
                await self._writer.start()
                stack.push_async_callback(self._writer.stop)
            await tasks.start(self._tables.run)
            await self._start_servers(tasks, stack)
            await self._start_workers(tasks, stack)
            log.info("running", parts=list(self._parts))
            await stopping.asked()
            log.info("stopping: what is in flight is finished first")
            async with anyio.create_task_group() as stops:
                for worker in self._workers:
                    stops.start_soon(worker.stop)
            tasks.cancel_scope.cancel()

    def _trouble(self) -> str | None:
        return next((reason for trouble in self._troubles if (reason := trouble()) is not None), None)

    async def _start_servers(self, tasks: anyio.abc.TaskGroup, stack: AsyncExitStack) -> None:
        pages = routes(self._metrics, self._trouble)
        environment = self._environment
        if "ingress" in self._parts:
            door = ingress.Ingress(self._writer, self._tables["workspaces"], self._secrets.decrypt, self._metrics)
            self._troubles.append(door.trouble)
            where = await stack.enter_async_context(serving(ingress.application(door, pages), environment.ingress, "TURNOUT_INGRESS"))
            log.info("ingress listens", address=str(where))
        if "console" in self._parts:
            look = console.Look(self._transport, flow.STAGES["normalize"][0])
            self._troubles.append(look.trouble)
            tasks.start_soon(look.run)
            app = console.application(self._transport, list(flow.STAGES.items()), pages, environment.console_tokens)
            where = await stack.enter_async_context(serving(app, environment.console, "TURNOUT_CONSOLE"))
            log.info("console listens", address=f"http://{where}/")
        if any(part in flow.STAGES for part in self._parts):
            where = await stack.enter_async_context(serving(application(pages), environment.metrics, "TURNOUT_METRICS"))
            log.info("metrics, health and readiness are told", address=f"http://{where}/metrics")

    async def _start_workers(self, tasks: anyio.abc.TaskGroup, stack: AsyncExitStack) -> None:
        stages = [part for part in self._parts if part in flow.STAGES]
        if not stages:
            return
        gate = PausedWorkspaces(self._tables["workspaces"])
        orgs = OrgRegistry(
            self._tables["orgs"],
            self._secrets.decrypt,
            Keep(refresh_token=self._keep_refresh_token, organization=self._keep_organization),
            hooks=Hooks(observe=self._called, limits=self._metrics.salesforce_calls_left),
        )
        http = await stack.enter_async_context(aiohttp.ClientSession())
        steps = _Steps(self._environment, self._tables, orgs, Clients(http, self._secrets.decrypt), self._name)
        for name in stages:
            environment = self._environment
            stage = flow.stage(
                name, steps.step(name), gate, self._answers.__getitem__,
                batch_wait_ms=environment.batch_wait_ms, retention_hours=environment.retention_hours,
            )  # fmt: skip
            worker = Worker(stage, self._transport, self._tables, self._metrics, random=random.random)
            self._workers.append(worker)
            self._troubles.append(lambda worker=worker: None if (health := worker.health()).ready else health.reason)  # type: ignore[misc]
            await tasks.start(worker.run)
        self._tables["orgs"].subscribe(lambda org: self._mended(orgs, org, org_lane(org)))
        self._tables["workspaces"].subscribe(self._workspace_changed)

    def _mended(self, orgs: OrgRegistry, org: str, lane: str) -> None:
        """Settings changed: what waits for the mend is tried at once."""
        orgs.forgive(org)
        for worker in self._workers:
            worker.nudge(lane)

    def _workspace_changed(self, key: str) -> None:
        workspace = readable("workspaces", key, self._tables["workspaces"].get(key), Workspace)
        if workspace is not None:
            for worker in self._workers:
                worker.nudge(workspace_lane(workspace.org, workspace.id))

    def _called(self, org: str, resource: str, outcome: str, seconds: float) -> None:
        self._answers[org] += resource != "token" and outcome in ANSWERED
        self._metrics.salesforce_call(org, resource, outcome)

    async def _keep_refresh_token(self, org: str, token: str) -> None:
        await self._change_org(org, lambda row: logins.rotated(row, token, self._secrets))

    async def _keep_organization(self, org: str, organization: str) -> None:
        await self._change_org(org, lambda row: msgspec.structs.replace(row, organization_id=organization))

    async def _change_org(self, org: str, change: Callable[[Org], Org]) -> None:
        """Durable when it returns."""
        table: Table = self._tables["orgs"]
        known = readable("orgs", org, table.get(org), Org)
        if known is None:
            return
        row = msgspec.json.encode(change(known))
        records = [Outgoing("orgs", org.encode(), row)]
        written = await deliver(self._writer, records, too_large=lambda index: (), random=random.random, replaced=lambda: None)
        for _, ack in written:
            table.written(org, row, ack)


class _Steps:
    """Makes the steps of the flow."""

    def __init__(self, environment: Environment, tables: Tables, orgs: OrgRegistry, livestorm: Clients, name: str) -> None:
        self._environment, self._tables, self._orgs, self._livestorm, self._name = environment, tables, orgs, livestorm, name

    def step(self, stage: str) -> Step:
        if stage == "normalize":
            tables = self._tables
            return Normalize(
                tables["workspaces"],
                tables["events"],
                tables["sessions"],
                ask=self._livestorm,
                session_wait_seconds=self._environment.session_wait_seconds,
            )
        typed = rows.tables({name: self._tables[name] for name in flow.STAGES[stage][1]})
        if stage == "match":
            return Match(self._orgs, typed, time.time, self._name)
        if stage == "create":
            return Create(self._orgs, typed, time.time, self._name, self._environment.session_wait_seconds)
        return CampaignMembership(self._orgs, typed, time.time)
