"""docker-compose.yml, the Dockerfile and the front's file, as far as they can be judged without a container engine."""

import fnmatch
import json
import pathlib
import re
import tomllib
from importlib import resources

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest

from pipeline.kafka import KafkaSettings
from pipeline.stage import Limits
from stages import environment as environments
from stages import flow, leash
from tests import compose
from tests.compose import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
PARTS = compose.part_services()
OURS = compose.ours()


def test_compose_accepts_the_file() -> None:
    """Against the schema of the Compose specification."""
    schema = json.loads(resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(compose.document())


def test_each_part_is_a_service_of_its_own() -> None:
    assert set(PARTS) == set(flow.PARTS)
    assert all(compose.services()[part] is not None and service["command"] == ["run", part] for part, service in PARTS.items())


@pytest.mark.parametrize("part", flow.PARTS)
def test_nothing_keeps_a_part_from_being_multiplied(part: str) -> None:
    """A fixed name, address or port of the host could be had by one copy only; a static member's name as well."""
    service = PARTS[part]
    assert not {"container_name", "hostname", "ports", "network_mode", "deploy", "scale"} & set(service)
    assert "TURNOUT_INSTANCE" not in service["environment"]


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_known_and_right(name: str, tmp_path: pathlib.Path) -> None:
    told = compose.environment(OURS[name])
    secret = tmp_path / "secret"
    secret.write_text("look a-token-of-the-tests\n")
    granted = {compose.SECRETS + secret for secret in OURS[name].get("secrets", ())}
    for variable, value in told.items():
        assert variable in environments.NAMES
        if value.startswith(compose.SECRETS):
            assert value in granted
            told[variable] = str(secret)
        else:
            assert not variable.endswith("_FILE"), f"{variable} is no secret that the service is given"
    environments.read(told)


def test_all_parts_are_of_one_mind_about_the_topics() -> None:
    """Each checks them at its start."""
    names = ("TURNOUT_KAFKA_BOOTSTRAP", "TURNOUT_TOPIC_PREFIX", "TURNOUT_PARTITIONS", "TURNOUT_REPLICATION", "TURNOUT_RETENTION_HOURS")
    of_topics = compose.environment(OURS["topics"])
    for service in (*PARTS.values(), OURS["turnout"]):
        told = compose.environment(service)
        assert {name: told.get(name) for name in names} == {name: of_topics.get(name) for name in names}


@pytest.mark.parametrize("part", flow.PARTS)
def test_a_part_starts_after_the_topics_and_restarts_by_itself(part: str) -> None:
    assert PARTS[part]["depends_on"] == {
        "kafka": {"condition": "service_healthy"},
        "topics": {"condition": "service_completed_successfully"},
    }
    assert PARTS[part]["restart"] == "unless-stopped"


@pytest.mark.parametrize("part", flow.PARTS)
def test_a_part_has_time_for_a_stop_in_two_phases(part: str) -> None:
    grace = compose.seconds(PARTS[part]["stop_grace_period"])
    assert grace > Limits().stop_seconds + 2 * KafkaSettings().close_timeout_seconds
    assert grace > leash.GRACE_SECONDS


@pytest.mark.parametrize("part", flow.PARTS)
def test_a_part_is_asked_whether_it_is_ready_where_it_listens(part: str) -> None:
    test = PARTS[part]["healthcheck"]["test"]
    assert test[0] == "CMD"
    assert f"http://127.0.0.1:{compose.port(PARTS[part])}/readyz" in test[-1]


def test_every_long_running_service_has_a_health_check() -> None:
    once = {"topics", "turnout"}
    assert {name for name, service in compose.services().items() if "healthcheck" not in service} == once


def test_secrets_are_files_only() -> None:
    assert all(set(secret) == {"file"} for secret in compose.document()["secrets"].values())
    assert {"/secrets/", "/settings/"} <= set((ROOT / ".gitignore").read_text().splitlines())


@pytest.mark.parametrize("name", [name for name in OURS if name != "salesforce"])
def test_our_containers_have_no_rights_that_they_do_not_need(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert not service["user"].startswith(("0", "root"))


def test_files_that_are_mounted_are_there() -> None:
    mounted = [volume.split(":")[0] for service in compose.services().values() for volume in service.get("volumes", ())]
    ours = {path for path in mounted if path.startswith("./")} - {"./settings"}
    assert len(ours) >= 4
    assert all((ROOT / path).exists() for path in ours)


def test_named_volumes_and_profiles_are_those_that_are_meant() -> None:
    services = compose.services()
    named = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ()) if volume[0] not in "./"}
    assert named == set(compose.document()["volumes"])
    profiles = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
    assert profiles == {"turnout": ["tools"], "salesforce": ["sandbox"], "prometheus": ["monitoring"], "grafana": ["monitoring"]}


def test_other_peoples_images_have_a_version() -> None:
    images = {service["image"] for name, service in compose.services().items() if name not in OURS}
    assert "apache/kafka:4.3.1" in images
    assert all(re.search(r":v?\d+\.\d+", image) for image in images)


def test_only_the_doors_face_the_world() -> None:
    """All but the ingress are published on this machine alone."""
    published = [port for service in compose.services().values() for port in service.get("ports", ())]
    assert [port for port in published if not port.startswith("127.0.0.1:")] == ["8080:8080"]


def test_kafka_keeps_cursors_at_least_as_long_as_messages() -> None:
    kept = int(compose.environment(compose.services()["kafka"])["KAFKA_OFFSETS_RETENTION_MINUTES"])
    assert kept >= 60 * int(compose.environment(OURS["topics"])["TURNOUT_RETENTION_HOURS"])


def test_what_may_be_set_outside_is_told_in_the_file_with_its_default() -> None:
    text = compose.FILE.read_text()
    head, _, _ = text.partition("\nname:")
    for name, default in compose.VARIABLE.findall(text):
        assert re.search(rf"{name} {re.escape(default)}(\s|$)", head), f"{name} {default}"


def test_the_front_finds_all_copies_of_ingress_and_console() -> None:
    text = (ROOT / "docs/compose/haproxy.cfg").read_text()
    found = dict(re.findall(r"^\s+server-template \S+ \d+ (\S+):(\d+)$", text, re.MULTILINE))
    assert {name: int(port) for name, port in found.items()} == {name: compose.port(PARTS[name]) for name in ("ingress", "console")}
    bound = set(re.findall(r"^\s+bind :(\d+)$", text, re.MULTILINE))
    assert {published.rpartition(":")[2] for published in compose.services()["front"]["ports"]} == bound


def test_the_image_is_pinned_like_the_requirements() -> None:
    version = re.search(r"with Python (\d+\.\d+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert version is not None
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(bases) == {f"python:{version[1]}-slim-bookworm"}
    assert re.search(r"pip install .*--require-hashes -r requirements\.txt", DOCKERFILE)


def test_the_image_runs_as_nobody_in_particular() -> None:
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == [OURS["create"]["user"]]
    assert compose.entry_point() == ["turnout"]


def test_what_the_image_is_made_of_is_there_and_complete() -> None:
    """Each source of a COPY is in the tree and gets past .dockerignore; all packages of the distribution are among them."""
    sources = copied()
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= set(sources)


def copied() -> list[str]:
    """What the Dockerfile takes from the tree."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()]
