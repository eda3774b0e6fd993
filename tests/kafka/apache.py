"""Apache Kafka from its jars in KRaft mode, one node or a cluster, to be killed, stopped and started again. Fails where Java or Maven is missing; never skips."""

import asyncio
import base64
import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pipeline.errors import TransportError
from pipeline.kafka import KafkaSettings, KafkaTransport
from stages.sandbox.broker import die_with

HERE: Final = pathlib.Path(__file__).parent
POM: Final = HERE / "pom.xml"
BUILD: Final = HERE.parent.parent / "build" / "kafka"
HOST: Final = "127.0.0.1"
RESOLVE_SECONDS: Final = 600
FORMAT_SECONDS: Final = 60
READY_SECONDS: Final = 150.0
STOP_SECONDS: Final = 30.0
OLDEST_JAVA: Final = 17

JVM: Final = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")


class ApacheError(RuntimeError):
    """Kafka could not be resolved or started; the message says why and what to do."""


def jars() -> pathlib.Path:
    """The folder with Kafka's jars, resolved by Maven once for each state of the pom."""
    mark = BUILD / f"resolved-{hashlib.sha256(POM.read_bytes()).hexdigest()[:16]}"
    libs = BUILD / "libs"
    if mark.exists():
        return libs
    BUILD.mkdir(parents=True, exist_ok=True)
    with _alone(BUILD / "lock"):
        if not mark.exists():
            shutil.rmtree(libs, ignore_errors=True)
            _run(
                [_program("mvn"), "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={libs}"], RESOLVE_SECONDS
            )
            mark.touch()
    return libs


@dataclasses.dataclass(slots=True)
class ApacheKafka:
    """One broker with its data. `start` and `restart` keep port and data; signals reach the process itself."""

    data_dir: pathlib.Path
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Settings of the server beside the usual ones, and over them."""
    client: KafkaSettings = dataclasses.field(default_factory=KafkaSettings)
    """What a client needs to be let in; the address is filled in."""
    port: int = 0
    controller_port: int = 0
    cluster: str = dataclasses.field(default_factory=lambda: _identity())
    quorum: Sequence[str] = ("--standalone",)
    """How its storage is told who the first controllers are."""
    heap: str = "512m"
    _process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    def spawn(self) -> None:
        """Starts the process, on formatted storage, without waiting for it to answer."""
        if self._process is not None and self._process.poll() is None:
            raise ApacheError("the broker is running already")
        self.port = self.port or _free_port()
        self.controller_port = self.controller_port or _free_port()
        properties = self._formatted()
        with (self.data_dir / "broker.log").open("ab") as said:
            self._process = subprocess.Popen(
                [*_java(self.heap), "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )

    def _formatted(self) -> pathlib.Path:
        properties = self.data_dir / "server.properties"
        if not properties.exists():
            self.data_dir.mkdir(parents=True, exist_ok=True)
            properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
            _run(
                [*_java(), "kafka.tools.StorageTool", "format", f"--cluster-id={self.cluster}", "-c", str(properties), *self.quorum],
                FORMAT_SECONDS,
            )
        return properties

    async def ready(self) -> None:
        """Until it answers the protocol."""
        process = self._running()
        loop = asyncio.get_running_loop()
        ends = loop.time() + READY_SECONDS
        while True:
            transport = KafkaTransport(dataclasses.replace(self.client, bootstrap=self.bootstrap, connect_timeout_seconds=5.0))
            try:
                await transport.start()
            except TransportError as error:
                if process.poll() is not None or loop.time() > ends:
                    raise ApacheError(f"Kafka did not come up (status {process.poll()}): {self.last_words()}") from error
            else:
                await transport.stop()
                return

    async def start(self) -> None:
        # Not in another thread: the broker dies with the thread that made it.
        self.spawn()
        await self.ready()

    async def restart(self) -> None:
        """After `kill` or `stop`: the same data, the same port."""
        await self.start()

    def kill(self) -> None:
        """kill -9, and gone."""
        self._signal(signal.SIGKILL)
        self._running().wait(STOP_SECONDS)

    def suspend(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it, cleanly if it can; also one that is suspended or gone."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)

    def last_words(self) -> str:
        return (self.data_dir / "broker.log").read_text(errors="replace")[-2000:]

    def tool(self, main: str, *arguments: str) -> str:
        """Runs one of Kafka's own tools (`org.apache.kafka.tools…`) with this broker as its bootstrap server; what it printed."""
        return _run([*_java(), main, "--bootstrap-server", self.bootstrap, *arguments], FORMAT_SECONDS)

    def _signal(self, number: int) -> None:
        self._running().send_signal(number)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ApacheError("the broker is not started")
        return self._process

    def _properties(self) -> dict[str, str]:
        usual = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"{HOST}:{self.controller_port}",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controller_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.data_dir / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "auto.create.topics.enable": "false",
            # A broker that was killed is let back in only when its old session has ended.
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "500",
            # Deleting and compacting within the patience of a test.
            "log.retention.check.interval.ms": "1000",
            "log.cleaner.backoff.ms": "500",
        }
        return usual | dict(self.extra)


class ApacheCluster:
    """Nodes that are brokers and controllers; each log is on all of them, and is written to where all but one have it."""

    def __init__(self, data_dir: pathlib.Path, size: int = 3) -> None:
        cluster = _identity()
        ports = {number: _free_port() for number in range(1, size + 1)}
        voters = ",".join(f"{number}@{HOST}:{port}:{_identity()}" for number, port in ports.items())
        common = {
            "controller.quorum.bootstrap.servers": ",".join(f"{HOST}:{port}" for port in ports.values()),
            "offsets.topic.replication.factor": str(size),
            "transaction.state.log.replication.factor": str(size),
            "transaction.state.log.min.isr": str(size - 1),
            "share.coordinator.state.topic.replication.factor": str(size),
            "share.coordinator.state.topic.min.isr": str(size - 1),
            "min.insync.replicas": str(size - 1),
            # Leaders stay where they went.
            "auto.leader.rebalance.enable": "false",
        }
        self.nodes: Final = {
            number: ApacheKafka(
                data_dir / f"node-{number}",
                common | {"node.id": str(number)},
                controller_port=port,
                cluster=cluster,
                quorum=("--initial-controllers", voters),
                heap="256m",
            )
            for number, port in ports.items()
        }
        """By the number that the cluster knows them by."""

    @property
    def bootstrap(self) -> str:
        return ",".join(node.bootstrap for node in self.nodes.values())

    async def start(self) -> None:
        for node in self.nodes.values():
            node.spawn()
        for node in self.nodes.values():
            await node.ready()

    def stop(self) -> None:
        """By kill -9: the last to end cleanly would wait for a quorum that is gone."""
        for node in self.nodes.values():
            with contextlib.suppress(ApacheError):
                node.kill()


@contextlib.contextmanager
def running(data_dir: pathlib.Path, extra: Mapping[str, str] | None = None) -> Iterator[ApacheKafka]:
    """A broker that answers, for code without an event loop, such as a fixture of the session."""
    broker = ApacheKafka(data_dir, extra or {})
    try:
        asyncio.run(broker.start())
        yield broker
    finally:
        broker.stop()


def _java(heap: str = "512m") -> list[str]:
    home = os.environ.get("JAVA_HOME")
    java = str(pathlib.Path(home) / "bin" / "java") if home else _program("java")
    return [java, f"-Xmx{heap}", *JVM, "-cp", f"{jars()}/*"]


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        wanted = f"Java {OLDEST_JAVA} or newer" if name == "java" else "Maven"
        raise ApacheError(f"tests on Apache Kafka need {wanted}: `{name}` is not on PATH")
    return found


def _run(command: list[str], seconds: int) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise ApacheError(f"{' '.join(command[:1] + command[-4:])} failed ({done.returncode}): {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def _identity() -> str:
    """Of a cluster or a folder of data, as Kafka writes it."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        number: int = probe.getsockname()[1]
        return number


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[None]:
    """One process at a time, also of several test runs."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
