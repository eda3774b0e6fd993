"""The broker that tests of Kafka run on: TURNOUT_TEST_BROKER is `embedded` (the default) or `apache`. Never skips where it cannot start."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from typing import Final

import pytest

from stages.sandbox.broker import die_with
from tests.kafka import apache
from tests.kafka.apache import ApacheKafka

EMBEDDED: Final = "embedded"
APACHE: Final = "apache"
SERVE: Final = "import asyncio, sys; from stages.sandbox.broker import serve; sys.exit(asyncio.run(serve(0, sys.argv[1])))"
STOP_SECONDS: Final = 45.0
SHARED: Final = pytest.StashKey[str]()


def kind() -> str:
    """Which broker these tests run on."""
    chosen = os.environ.get("TURNOUT_TEST_BROKER", EMBEDDED)
    if chosen not in (EMBEDDED, APACHE):
        raise pytest.UsageError(f"TURNOUT_TEST_BROKER is {chosen!r}: {EMBEDDED} or {APACHE}")
    return chosen


def shared(config: pytest.Config) -> str:
    """Address of an Apache Kafka for all processes of a parallel run, which ends with it: to start one for each takes longer."""
    if SHARED not in config.stash:
        stack = contextlib.ExitStack()
        config.add_cleanup(stack.close)
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnout-kafka-")))
        config.stash[SHARED] = stack.enter_context(apache.running(folder)).bootstrap
    return config.stash[SHARED]


@pytest.fixture(scope="session")
def bootstrap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a broker for the whole session; tests keep apart by their prefix."""
    data_dir = tmp_path_factory.mktemp("broker")
    if (address := getattr(request.config, "workerinput", {}).get("bootstrap")) is not None:
        yield address
    elif kind() == APACHE:
        with apache.running(data_dir) as broker:
            yield broker.bootstrap
    else:
        with embedded(data_dir) as address:
            yield address


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """An Apache Kafka that the tests of one file may kill and stop; each leaves it running."""
    with apache.running(tmp_path_factory.mktemp("broker")) as made:
        yield made


@pytest.fixture
def prefix() -> str:
    """A topic prefix of this test's own."""
    return f"test-{uuid.uuid4().hex[:12]}"


@contextlib.contextmanager
def embedded(data_dir: pathlib.Path) -> Iterator[str]:
    """The embedded broker as `turnout sandbox broker` runs it: a process of its own, free of the event loops of tests."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parent.parent,
        preexec_fn=die_with(os.getpid()),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("broker ready at "):
            raise RuntimeError(f"the embedded broker did not start (status {process.poll()}): {line!r}")
        yield line.split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS)
        if process.stdout is not None:
            process.stdout.close()
