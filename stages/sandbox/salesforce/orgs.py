"""N stand-in orgs on N ports of one process: for a block of code, or until stopped. Leaves each org's HTTP to `server`."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import structlog

from stages.sandbox.salesforce import seed
from stages.sandbox.salesforce.org import Org
from stages.sandbox.salesforce.server import OrgServer

log = structlog.get_logger()


class PortInUseError(OSError):
    """One of the ports can't be listened on; the text says which, and why."""


class SandboxOrgs:
    """Orgs while the block runs: `async with SandboxOrgs(2) as orgs: orgs.urls[0]`. Port 0 takes free ports, else `port`, `port + 1`, …

    `seed_data` is one seed for all orgs, or a list of which each org takes its own. Raises SeedError, PortInUseError.
    """

    def __init__(
        self,
        orgs: int = 1,
        *,
        port: int = 0,
        seed_data: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        latency_ms: float = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self.host = host
        self.port = port
        seeds = seed.check_shape(seed_data if seed_data is not None else {})
        self.orgs = [Org(number, seeds[number % len(seeds)], latency_ms) for number in range(orgs)]
        self._servers = [OrgServer(org) for org in self.orgs]

    @property
    def urls(self) -> list[str]:
        """The base URL of each org."""
        return [org.base_url for org in self.orgs]

    async def __aenter__(self) -> Self:
        for org in self.orgs:
            seed.plant(org)
        for number, server in enumerate(self._servers):
            port = self.port + number if self.port else 0
            try:
                await server.start(self.host, port)
            except OSError as error:
                await self._stop()
                raise PortInUseError(f"can't listen on port {port}: {os.strerror(error.errno or 0)}") from None
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stop()

    async def _stop(self) -> None:
        await asyncio.gather(*(server.stop() for server in self._servers))


def read_seed(path: Path) -> Any:
    """A seed file's JSON. Raises SeedError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise seed.SeedError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise seed.SeedError(f"{path}: not JSON: {error}") from None


async def serve(port: int, orgs: int = 1, seed_file: Path | None = None, latency_ms: float = 0, host: str = "127.0.0.1") -> None:
    """Runs until cancelled; prints one line with every base URL once all are ready. Raises SeedError, PortInUseError."""
    seed_data = None if seed_file is None else read_seed(seed_file)
    try:
        async with SandboxOrgs(orgs, port=port, seed_data=seed_data, latency_ms=latency_ms, host=host) as running:
            click.echo(f"sandbox salesforce ready: {' '.join(running.urls)}")
            log.info("sandbox_salesforce_ready", orgs=orgs, urls=running.urls)
            await asyncio.Event().wait()
    except seed.SeedError as error:
        raise seed.SeedError(f"{seed_file}: {error}") from None
