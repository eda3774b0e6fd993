"""`turnout up`: the broker where it is wanted, the topics, then every part as a child; until a signal. Does no part's work."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import aiohttp
import anyio
import platformdirs
import structlog

from pipeline import topics
from stages import connection, flow, installation, signals
from stages.environment import Address, Environment
from stages.errors import UsageError
from stages.supervisor import Sink, Supervisor

log = structlog.get_logger()

_LOCAL: Final = ("127.0.0.1", "localhost", "[::1]")


async def run(environment: Environment, sink: Sink, embedded: bool, data_dir: Path | None) -> int:
    """Returns the exit code: 0 after SIGTERM, 130 after Ctrl-C. Raises TurnoutError, TransportError with how to mend it."""
    environment, metrics = _settled(environment)
    installation.clash(environment)
    code = 0
    async with Supervisor(sink) as supervisor, anyio.create_task_group() as tasks:

        async def stop_on_signal() -> None:
            nonlocal code
            code = await _signalled()
            log.info("stopping every part")
            tasks.cancel_scope.cancel()

        tasks.start_soon(stop_on_signal)
        tasks.start_soon(supervisor.failed)
        await _start(environment, metrics, supervisor, embedded, data_dir)
    return code


def _settled(given: Environment) -> tuple[Environment, Mapping[str, Address]]:
    """The environment with ports that are known before any part takes them, and where each part tells its metrics.

    That is a free port whatever is set: one port can be had by one part only, which no setting of `up` can mean.
    """
    fixed = {given.ingress.port, given.console.port}
    ports = (port for port in installation.free_ports(len(fixed) + 2 + len(flow.PARTS)) if port not in fixed)
    settled = dataclasses.replace(given, ingress=given.ingress.at(next(ports)), console=given.console.at(next(ports)))
    return settled, {name: installation.local(next(ports)) for name in flow.PARTS}


async def _start(
    environment: Environment, metrics: Mapping[str, Address], supervisor: Supervisor, embedded: bool, data_dir: Path | None
) -> None:
    if embedded:
        await supervisor.start(
            installation.broker(_broker_port(environment), data_dir or platformdirs.user_data_path("turnout") / "broker")
        )
    settings = connection.kafka(environment)
    for change in await topics.apply(installation.patient(settings) if embedded else settings, connection.topic_specs(environment)):
        log.info("topic", change=str(change))
    stem = installation.instance(environment.instance)
    chosen = {"TURNOUT_INGRESS": str(environment.ingress), "TURNOUT_CONSOLE": str(environment.console)}
    await supervisor.start(*(installation.part(name, stem, metrics[name], chosen) for name in flow.PARTS))
    addresses = {**metrics, "ingress": environment.ingress, "console": environment.console}
    async with aiohttp.ClientSession() as session:
        await installation.ready(session, addresses)
    log.info(
        "up",
        ingress=f"http://{installation.reachable(environment.ingress)}/livestorm/WORKSPACE",
        console=f"http://{installation.reachable(environment.console)}/",
    )


def _broker_port(environment: Environment) -> int:
    """The embedded broker listens where the parts look for one."""
    host, _, port = environment.kafka_bootstrap[0].rpartition(":")
    if len(environment.kafka_bootstrap) > 1 or host not in _LOCAL:
        raise UsageError(
            f"--embedded starts a broker on this machine, and TURNOUT_KAFKA_BOOTSTRAP is {','.join(environment.kafka_bootstrap)}: "
            "unset it, set it to 127.0.0.1:PORT, or leave --embedded out"
        )
    return int(port)


async def _signalled() -> int:
    with anyio.open_signal_receiver(*signals.STOPPING) as received:
        async for number in received:
            return signals.exit_code(number)
    raise AssertionError("the stream of signals never ends")


def prefixed(form: str) -> Sink:
    """Where lines of the children go: to stderr, behind the child's name; JSON lines name their part themselves and stay whole."""

    def text(name: str, line: str) -> None:
        sys.stderr.write(f"{name:<19} | {line}\n")
        sys.stderr.flush()

    def json(name: str, line: str) -> None:
        if line.startswith("{"):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        else:
            log.info("output", child=name, line=line)

    choices: dict[str, Callable[[str, str], None]] = {"text": text, "json": json}
    return choices[form]
