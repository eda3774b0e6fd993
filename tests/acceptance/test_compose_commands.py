"""What docker-compose.yml says, run for real without containers: the image's own files, every command, variable and health check of ours."""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from stages.installation import free_ports
from tests import compose
from tests.acceptance.conftest import ROOT
from tests.brokers import bootstrap

__all__ = ["bootstrap"]

READY_SECONDS: Final = 90.0
TOKEN: Final = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of what the Dockerfile puts into /opt/turnout, the pinned packages aside: what it copies, installed as it installs it."""
    folder = tmp_path_factory.mktemp("image")
    source, root = folder / "source", folder / "root"
    text = (ROOT / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        *names, target = line.split()
        for name in names:
            _copy(ROOT / name, source / target / (name if target == "./" else ""))
    install = next(line for line in re.findall(r"^RUN (pip install .*)$", text, re.MULTILINE) if line.endswith(" ."))
    # Else pip would first take away the one that is installed where the tests run.
    arguments = [*shlex.split(install)[1:], "--quiet", "--ignore-installed", "--prefix", str(root)]
    subprocess.run([sys.executable, "-m", "pip", *arguments], cwd=source, check=True, timeout=120)
    site = next(root.glob("lib/python*/site-packages"))
    # `pip --prefix` gives the script this interpreter, which does not look there.
    (root / "bin/python").write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(site))} exec {shlex.quote(sys.executable)} "$@"\n')
    (root / "bin/python").chmod(0o755)
    script = root / "bin/turnout"
    script.write_text(re.sub(r"\A#!.*", f"#!{root}/bin/python", script.read_text()))
    return root


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    else:
        shutil.copy(source, target)


@dataclasses.dataclass(slots=True)
class Host:
    """This machine in the place of the containers: paths, names and ports of the file become this machine's."""

    image: Path
    bootstrap: str
    folder: Path
    ports: dict[tuple[str, int], int] = dataclasses.field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = dataclasses.field(default_factory=dict)

    def port(self, service: str, inside: int) -> int:
        """Where that port of that service is found here."""
        if (service, inside) not in self.ports:
            self.ports[service, inside] = free_ports(1)[0]
        return self.ports[service, inside]

    def here(self, service: str, text: str) -> str:
        """One value or argument. The container's own addresses are loopback's."""
        if service == "salesforce":
            text = re.sub(r"(?:^|(?<=//))salesforce(?=$|:8091)", "localhost", text).replace("8091", str(self.port(service, 8091)))
        text = re.sub(r"(?:127\.0\.0\.1|0\.0\.0\.0):(\d+)", lambda found: f"127.0.0.1:{self.port(service, int(found[1]))}", text)
        text = text.replace("kafka:9092", self.bootstrap).replace(compose.SECRETS, f"{self.folder}/")
        return text.replace("/settings/", f"{self.folder}/")

    def environment(self, service: str) -> dict[str, str]:
        """Nothing but what the image and the file give, and what any process needs."""
        variables = {name: self.here(service, value) for name, value in compose.environment(compose.services()[service]).items()}
        return variables | {"PATH": f"{self.image}/bin:{os.environ['PATH']}", "HOME": str(self.folder), "PYTHONUNBUFFERED": "1"}

    def command(self, service: str) -> list[str]:
        entry, *rest = compose.command(compose.services()[service])
        return [entry, *(self.here(service, word) for word in rest)]

    def start(self, service: str) -> None:
        with (self.folder / f"{service}.log").open("wb") as said:
            self.running[service] = subprocess.Popen(
                self.command(service),
                env=self.environment(service),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def healthy(self, service: str) -> bool:
        """Runs the service's own health check."""
        kind, *test = compose.services()[service]["healthcheck"]["test"]
        assert kind == "CMD"
        words = [self.here(service, word) for word in test]
        try:
            ended = subprocess.run(words, env=self.environment(service), cwd=self.folder, capture_output=True, timeout=60, check=False)
        except subprocess.TimeoutExpired:
            return False
        return ended.returncode == 0

    def until_healthy(self, service: str) -> None:
        ends = time.monotonic() + READY_SECONDS
        while not self.healthy(service):
            assert self.running[service].poll() is None, f"{service} ended:\n{self.said(service)}"
            assert time.monotonic() < ends, f"{service} is not healthy:\n{self.said(service)}"
            time.sleep(1.0)

    def run(self, service: str, *words: str) -> subprocess.CompletedProcess[str]:
        """`docker compose run --rm SERVICE WORDS`, or the service's own command."""
        command = [*compose.entry_point(), *(self.here(service, word) for word in words)] if words else self.command(service)
        return subprocess.run(
            command, env=self.environment(service), cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )

    def said(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text(errors="replace")[-3_000:]

    def terminate(self, service: str) -> int:
        """As the engine stops a container: SIGTERM, and the service's own grace."""
        process = self.running.pop(service)
        process.terminate()
        return process.wait(compose.seconds(compose.services()[service].get("stop_grace_period", "10s")))


@pytest.fixture
def host(image: Path, bootstrap: str, tmp_path: Path) -> Iterator[Host]:
    made = Host(image, bootstrap, tmp_path)
    try:
        yield made
    finally:
        for process in made.running.values():
            process.kill()
            process.wait()


def ok(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode == 0, f"{ended.args}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def test_the_image_holds_the_whole_distribution(image: Path) -> None:
    """Also what is no Python file: the stand-in org's grammar, pages."""
    packaged = {path.relative_to(ROOT) for name in ("schemas", "pipeline", "stages") for path in (ROOT / name).rglob("*") if _belongs(path)}
    site = next(image.glob("lib/python*/site-packages"))
    assert not {path for path in packaged if not (site / path).is_file()}


def _belongs(path: Path) -> bool:
    return path.is_file() and path.suffix in (".py", ".lark", ".html", ".css", ".js") and "__pycache__" not in path.parts


@pytest.mark.timeout(600)
def test_every_command_variable_and_health_check_of_the_compose_file_works(host: Host) -> None:
    """From an empty Kafka to parts that are ready, a stand-in org that passes its check, and a clean stop of each within its grace."""
    (host.folder / "secret-keys").write_text(ok(host.run("topics", "keys", "new")))
    (host.folder / "console-tokens").write_text(f"look {TOKEN}\n")
    assert "turnout.received" in ok(host.run("topics"))
    assert "as it should be" in ok(host.run("topics")), "its second start changes nothing"
    assert "Usage: turnout" in ok(host.run("turnout"))

    parts = list(compose.part_services())
    served = [*parts, "salesforce"]
    assert not any(host.healthy(service) for service in ("create", "salesforce")), "nothing runs yet"
    for service in served:
        host.start(service)
    for service in served:
        host.until_healthy(service)

    url = f"http://localhost:{host.port('salesforce', 8091)}"
    (host.folder / "turnout.toml").write_text(SETTINGS.format(url=url))
    ok(host.run("turnout", "settings", "apply", "/settings/turnout.toml"))
    assert "FAILED" not in ok(host.run("turnout", "check")), "the org's tokens lead to where it is found"

    pages = f"http://127.0.0.1:{host.port('console', 8081)}/"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(pages, timeout=30)
    with urllib.request.urlopen(urllib.request.Request(pages, headers={"Authorization": f"Bearer {TOKEN}"}), timeout=30) as page:
        assert "Lag" in page.read().decode()

    scraped = {part: _metrics(host.port(part, port)) for part, port in _targets().items()}
    assert set(scraped) == set(parts)
    assert all("process_resident_memory_bytes" in text for text in scraped.values())
    assert 'turnout_partitions{stage="create"} 12.0' in scraped["create"]

    assert {service: host.terminate(service) for service in served} == dict.fromkeys(served, 0)


SETTINGS: Final = """
[[org]]
id = "acme"
login_url = "{url}"
flow = "client-credentials"
client_id = "turnout"
client_secret = "sandbox"

[[workspace]]
id = "acme-emea"
org = "acme"
[workspace.livestorm]
organization_id = "5e9fbe0c-2f0a-4b5e-9d6e-0d7f6a1c2b3d"
webhook_secret = "secret"
"""


def _targets() -> dict[str, int]:
    """What Prometheus scrapes: services and ports."""
    told: dict[str, Any] = compose.yaml(ROOT / "docs/monitoring/prometheus.yml")
    return {name: sd["port"] for job in told["scrape_configs"] for sd in job["dns_sd_configs"] for name in sd["names"]}


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
        return text
