"""The embedded broker: noida-db's Kafka as a child process. For demonstrations and tests; `kill -9` of it loses acknowledged records.

Never restarts what died: that is the supervisor's matter.
"""

import asyncio
import contextlib
import ctypes
import os
import pathlib
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Callable
from importlib import resources
from types import TracebackType
from typing import Final, Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from pipeline.errors import TransportError
from pipeline.kafka import KafkaSettings, KafkaTransport
from pipeline.kafka.asking import answered
from stages import signals
from stages.sandbox import bereft

HOST: Final = "127.0.0.1"
READY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 5.0
PR_SET_PDEATHSIG: Final = 1
"""prctl(2): the signal that this process gets when its parent dies."""


class BrokerError(TransportError):
    """The embedded broker could not be started; the message says how to mend it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


class EmbeddedBroker:
    """`async with EmbeddedBroker() as broker:` gives a broker that answers at `broker.bootstrap`.

    `port` 0 picks a free one. Without `data_dir` the data goes with the broker. Its process dies with this one, however this one ends.
    """

    def __init__(self, port: int = 0, data_dir: str | os.PathLike[str] | None = None) -> None:
        self.port = port
        self._data_dir = None if data_dir is None else pathlib.Path(data_dir)
        self._temporary: pathlib.Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._said = bytearray()
        self._listening: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Raises BrokerError: the port is taken, noida-db is not installed, or the broker does not come up."""
        program = _program()
        self.port = _free_port(self.port)
        if self._data_dir is None:
            self._temporary = pathlib.Path(tempfile.mkdtemp(prefix="turnout-broker-"))
        data_dir = self._data_dir or self._temporary
        arguments = ["start", "--only", "kafka", "--host", HOST, "--kafka-port", str(self.port), "--data-dir", str(data_dir)]
        self._process = await asyncio.create_subprocess_exec(
            str(program),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),
        )
        self._listening = asyncio.create_task(self._listen(self._process))
        try:
            await self._answering()
        except BaseException:
            await self.stop()
            raise
        self._watching = asyncio.create_task(bereft.watch(self.bootstrap))

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
            self._watching = None
        process, self._process = self._process, None
        if process is not None:
            await _ended(process)
        if self._listening is not None:
            await self._listening
            self._listening = None
        if self._temporary is not None:
            await asyncio.to_thread(shutil.rmtree, self._temporary, ignore_errors=True)
            self._temporary = None

    async def wait(self) -> int:
        """Until the broker's process ends by itself: its exit status."""
        if self._process is None:
            raise BrokerError("the broker is not started")
        return await self._process.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Keeps the last of what it says, for an error to show; a full pipe would stop it."""
        if process.stdout is None:
            return
        while chunk := await process.stdout.read(4096):
            self._said = (self._said + chunk)[-4096:]

    async def _answering(self) -> None:
        process = self._process
        if process is None:
            raise BrokerError("the broker is not started")
        transport = KafkaTransport(KafkaSettings(bootstrap=self.bootstrap, connect_timeout_seconds=READY_SECONDS))
        asking = asyncio.create_task(transport.start())
        dying = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({asking, dying}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise BrokerError(f"the embedded broker ended at once (status {process.returncode}): {self._last_words()}")
            try:
                asking.result()
            except TransportError as error:
                raise BrokerError(f"the embedded broker did not answer within {READY_SECONDS:g} s: {self._last_words()}") from error
            await _set_up(transport.cluster.admin)
        finally:
            dying.cancel()
            asking.cancel()
            await asyncio.wait({asking, dying})
            await transport.stop()

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._said.decode(errors="replace").splitlines() if "GLIBC" not in line]
        return " ".join(line for line in lines if line)[-500:] or "it said nothing"


async def serve(port: int = 0, data_dir: str | os.PathLike[str] | None = None) -> int:
    """Runs the broker until SIGTERM (returns 0) or SIGINT (130), or until it ends by itself (1). Prints one line when ready."""
    stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if not stopped.done():
            stopped.set_result(signals.exit_code(number))

    for number in signals.STOPPING:
        loop.add_signal_handler(number, stop, number)
    try:
        async with EmbeddedBroker(port, data_dir) as broker:
            sys.stdout.write(f"broker ready at {broker.bootstrap}\n")
            sys.stdout.flush()
            return await _first(stopped, broker)
    finally:
        for number in signals.STOPPING:
            loop.remove_signal_handler(number)


async def _first(stopped: asyncio.Future[int], broker: EmbeddedBroker) -> int:
    died = asyncio.create_task(broker.wait())
    try:
        await asyncio.wait({stopped, died}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        died.cancel()
    if stopped.done():
        return stopped.result()
    sys.stderr.write("the broker ended by itself: start it again, its data directory is kept where one was given\n")
    return 1


async def _set_up(admin: AIOKafkaAdminClient) -> None:
    """As a broker in production should be; it has no configuration file, and forgets this when it ends."""
    cluster = await answered(admin.describe_cluster, READY_SECONDS, "description of the embedded broker")
    settings = {"auto.create.topics.enable": "false"}
    nodes = [ConfigResource(ConfigResourceType.BROKER, str(node["node_id"]), settings) for node in cluster["brokers"]]
    await answered(lambda: admin.alter_configs(nodes), READY_SECONDS, "settings of the embedded broker", "AlterConfigs")


def _program() -> pathlib.Path:
    """noida-db's own binary: its `noida-db` script is a wrapper that would die alone."""
    try:
        found = pathlib.Path(str(resources.files("noida_db").joinpath("noida-db")))
    except ModuleNotFoundError as error:
        raise BrokerError("the embedded broker is not installed: pip install 'turnout[embedded]'") from error
    if not found.is_file():
        raise BrokerError(f"noida-db has no binary for this system at {found}: set TURNOUT_KAFKA_BOOTSTRAP to a Kafka of your own")
    if not os.access(found, os.X_OK):
        # Wheels carry no execute bit for package data.
        found.chmod(found.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return found


def _free_port(port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the broker itself does: a port whose last connections still linger is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BrokerError(
                f"port {port} is in use: stop what listens there, or choose another with --port (0 picks a free one)"
            ) from error
        number: int = probe.getsockname()[1]
        return number


def die_with(parent: int) -> Callable[[], None] | None:
    """What the child does between fork and exec: it asks to be ended when its parent dies, and looks whether it died already."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask


async def _ended(process: asyncio.subprocess.Process) -> None:
    """The whole process group: SIGTERM, and SIGKILL where that is not enough."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
                return
