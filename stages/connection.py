"""A connection to the log for commands that look or write once: opened, used, closed. Joins no group."""

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio

from pipeline.kafka import KafkaTransport, KafkaWriter
from stages import lag, parts, secrets
from stages.environment import Environment
from stages.rows import ORGS, WORKSPACES
from stages.settings import changes, file


@contextlib.asynccontextmanager
async def connected(environment: Environment) -> AsyncIterator[KafkaTransport]:
    """Raises TransportError with one clear line where no broker answers."""
    transport = KafkaTransport(parts.kafka(environment))
    await transport.start()
    try:
        yield transport
    finally:
        with anyio.CancelScope(shield=True):
            await transport.stop()


@contextlib.asynccontextmanager
async def writing(transport: KafkaTransport) -> AsyncIterator[KafkaWriter]:
    """A writer that is flushed and closed in the end."""
    writer = transport.writer()
    await writer.start()
    try:
        yield writer
    finally:
        with anyio.CancelScope(shield=True):
            await writer.stop()


async def apply_settings(environment: Environment, path: Path, *, dry_run: bool = False, prune: bool = False) -> list[changes.Change]:
    """Reads the file, and writes what differs. Raises SettingsError before anything is changed, TransportError."""
    settings = file.load_file(path)
    cipher = secrets.load(environment.secret_keys_file)
    async with connected(environment) as transport:
        orgs, workspaces = await lag.snapshot(transport, ORGS), await lag.snapshot(transport, WORKSPACES)
        async with writing(transport) as writer:
            return await changes.apply(settings, orgs, workspaces, cipher, writer, now=int(time.time()), prune=prune, dry_run=dry_run)
