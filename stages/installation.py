"""What `up` and `demo` run: the command lines of the parts, free ports for them, and how to tell that they are ready. Starts nothing itself."""

import contextlib
import dataclasses
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp
import anyio

from pipeline.kafka import KafkaSettings
from stages.environment import Address, Environment
from stages.errors import TurnoutError
from stages.supervisor import Child

HOST: Final = "127.0.0.1"
READY_SECONDS: Final = 90.0
LEASH: Final = "--stop-with-stdin"


class NotReady(TurnoutError):
    """A part does not come up."""


def broker(port: int, data_dir: Path) -> Child:
    """The embedded broker, which keeps its log in `data_dir`."""
    return Child("broker", ("sandbox", "broker", "--port", str(port), "--data-dir", str(data_dir), LEASH))


def sandbox_org(name: str, port: int, seed: Path) -> Child:
    """One stand-in org."""
    return Child(name, ("sandbox", "salesforce", "--port", str(port), "--seed", str(seed), LEASH))


def part(name: str, instance: str, metrics: Address | None, environment: Mapping[str, str]) -> Child:
    """One part in a process of its own.

    Its membership in its group is static, by a name that no other supervisor gives: a part that dies is replaced at once,
    and its partitions stay.
    """
    variables = {**environment, "TURNOUT_INSTANCE": f"{instance}-{name}"}
    if metrics is not None:
        variables["TURNOUT_METRICS"] = str(metrics)
    return Child(name, ("run", name, LEASH), variables)


def instance(given: str | None) -> str:
    """The stem of the parts' static names: the one that was given, else one of this start alone."""
    return given or f"up-{secrets.token_hex(4)}"


def patient(settings: KafkaSettings) -> KafkaSettings:
    """For a broker that was started a moment ago, on a machine that may be busy."""
    return dataclasses.replace(settings, connect_timeout_seconds=READY_SECONDS)


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on now; all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]


async def ready(session: aiohttp.ClientSession, addresses: Mapping[str, Address], seconds: float = READY_SECONDS) -> None:
    """Returns once /readyz of every address is good. Raises NotReady with the last words of those that are not."""
    last: dict[str, str] = {}
    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:
            for name, address in addresses.items():
                group.start_soon(_ready, session, name, address, last)
        return
    raise NotReady("; ".join(f"{name} is not ready: {reason}" for name, reason in sorted(last.items()) if reason))


async def _ready(session: aiohttp.ClientSession, name: str, address: Address, last: dict[str, str]) -> None:
    while True:
        last[name] = await _trouble(session, address)
        if not last[name]:
            return
        await anyio.sleep(0.1)


async def _trouble(session: aiohttp.ClientSession, address: Address) -> str:
    try:
        async with session.get(f"http://{reachable(address)}/readyz") as answer:
            return "" if answer.status == 200 else await answer.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__


def reachable(address: Address) -> Address:
    """Where something that listens on `address` is found from this machine."""
    return Address({"0.0.0.0": HOST, "::": "::1", "": HOST}.get(address.host, address.host), address.port)


def clash(environment: Environment) -> None:
    """Raises TurnoutError, with the variable to set, where somebody listens already where a part of this environment would (port 0: any)."""
    for variable, address in (("TURNOUT_INGRESS", environment.ingress), ("TURNOUT_CONSOLE", environment.console)):
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.host, address.port))
            except OSError as error:
                raise TurnoutError(
                    f"can't listen on {address}: {error.strerror}; stop what listens there, or set {variable} to a free host:port"
                ) from None


def local(port: int) -> Address:
    """That port on this machine."""
    return Address(HOST, port)
