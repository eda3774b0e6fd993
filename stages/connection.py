"""The way to the log as the environment tells it, and a connection for commands that look or write once: opened, used, closed.

Joins no group. Imports no step and no part: a command that only looks starts in half the time.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio
import structlog

from pipeline.errors import TransportError
from pipeline.kafka import KafkaSettings, KafkaTransport
from pipeline.tables import Table, Tables, readable
from pipeline.topics import TopicSpec
from pipeline.transport import Transport, Writer
from schemas.settings import Workspace
from stages import flow, secrets
from stages.environment import Environment
from stages.errors import UsageError
from stages.rows import ORGS, WORKSPACES
from stages.settings import changes, file

log = structlog.get_logger()

STAGE_TOPICS: Final = {name: topic for name, (topic, _) in flow.STAGES.items()}
"""Each stage with the topic that it reads, in the flow's order."""
ASIDE_SECONDS: Final = 5.0
"""How long Kafka is asked for what only adds to an answer that is known already."""


def kafka(environment: Environment) -> KafkaSettings:
    """How this process speaks with Kafka."""
    password = environment.kafka_sasl_password
    return KafkaSettings(
        bootstrap=",".join(environment.kafka_bootstrap),
        prefix=environment.topic_prefix,
        security_protocol=environment.kafka_security_protocol,
        sasl_mechanism=environment.kafka_sasl_mechanism,
        sasl_username=environment.kafka_sasl_username or None,
        sasl_password=None if password is None else password.reveal(),
        ssl_cafile=_text(environment.kafka_ssl_cafile),
        ssl_certfile=_text(environment.kafka_ssl_certfile),
        ssl_keyfile=_text(environment.kafka_ssl_keyfile),
        instance=environment.instance,
    )


def topic_specs(environment: Environment) -> list[TopicSpec]:
    """The topics as the environment wants them."""
    return flow.topics(partitions=environment.partitions, replication=environment.replication, retention_hours=environment.retention_hours)


def _text(path: object) -> str | None:
    return None if path is None else str(path)


@contextlib.asynccontextmanager
async def connected(environment: Environment) -> AsyncIterator[KafkaTransport]:
    """Raises TransportError with one clear line where no broker answers."""
    transport = KafkaTransport(kafka(environment))
    await transport.start()
    try:
        yield transport
    finally:
        with anyio.CancelScope(shield=True):
            await transport.stop()


@contextlib.asynccontextmanager
async def writing(transport: Transport) -> AsyncIterator[Writer]:
    """A writer that is flushed and closed in the end."""
    writer = transport.writer()
    await writer.start()
    try:
        yield writer
    finally:
        with anyio.CancelScope(shield=True):
            await writer.stop()


async def tables(transport: Transport, names: Sequence[str]) -> Mapping[str, Table]:
    """These tables whole, as they are now; they are not kept up to date."""
    read = Tables(transport, list(names))
    async with anyio.create_task_group() as tasks:
        await tasks.start(read.run)
        tasks.cancel_scope.cancel()
    return {name: read[name] for name in names}


def workspaces(table: Table) -> list[Workspace]:
    """Every workspace that can be read."""
    return [row for key, value in table.items() if (row := readable(WORKSPACES, key, value, Workspace)) is not None]


def workspace(table: Table, id: str) -> Workspace:
    """One workspace. Raises UsageError naming the known ones."""
    row = readable(WORKSPACES, id, table.get(id), Workspace)
    if row is None:
        known = ", ".join(sorted(key for key, _ in table.items())) or "none: apply settings first"
        raise UsageError(f"there is no workspace {id!r}; known are: {known}")
    return row


async def apply_settings(environment: Environment, path: Path, *, dry_run: bool = False, prune: bool = False) -> list[changes.Change]:
    """Reads the file, and writes what differs. Raises SettingsError with every mistake before anything is changed, TransportError."""
    try:
        settings = file.load_file(path)
    except file.SettingsError as error:
        raise await _with_unknown_orgs(environment, error, prune=prune) from None
    cipher = secrets.load(environment.secret_keys_file)
    async with connected(environment) as transport:
        known = await tables(transport, (ORGS, WORKSPACES))
        orgs, workspaces = dict(known[ORGS].items()), dict(known[WORKSPACES].items())
        planned = changes.plan(settings, orgs, workspaces, cipher, now=int(time.time()), prune=prune)
        if planned.records and not dry_run:
            async with writing(transport) as writer:
                await changes.write(planned, writer)
        return list(planned.changes)


async def _with_unknown_orgs(environment: Environment, error: file.SettingsError, *, prune: bool) -> file.SettingsError:
    """The file's mistakes, and beside them those that the tables can tell; without Kafka a wrong file is told to be wrong all the same."""
    applied: Container[str] | None = () if prune else None
    if applied is None and error.references:
        try:
            with anyio.move_on_after(ASIDE_SECONDS):
                async with connected(environment) as transport:
                    applied = dict((await tables(transport, (ORGS,)))[ORGS].items())
        except* (TransportError, UsageError) as unanswered:
            log.debug("whether its orgs were applied before can't be asked", error=repr(unanswered))
    if applied is None:
        return error
    return file.SettingsError(error.path, [*error.mistakes, *changes.unknown_orgs(error.references, applied, prune=prune)])
