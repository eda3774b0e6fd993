"""docker-compose.yml as Compose sees it: anchors merged, variables filled in with their defaults. Starts nothing."""

import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Final

from ruamel.yaml import YAML

ROOT: Final = pathlib.Path(__file__).parent.parent
FILE: Final = ROOT / "docker-compose.yml"
VARIABLE: Final = re.compile(r"\$\{(\w+):-([^}]*)\}")
SECRETS: Final = "/run/secrets/"


def yaml(path: pathlib.Path) -> Any:
    """A YAML file, anchors and merges resolved."""
    return YAML(typ="safe", pure=True).load(path)


@functools.cache
def document() -> dict[str, Any]:
    """The file as it is interpolated with nothing set; not to be changed."""
    told = _filled(yaml(FILE))
    assert isinstance(told, dict)
    return told


def services() -> dict[str, dict[str, Any]]:
    """Every service, also those of profiles."""
    found: dict[str, dict[str, Any]] = document()["services"]
    return found


def ours() -> dict[str, dict[str, Any]]:
    """The services that run the project's own image."""
    return {name: service for name, service in services().items() if service["image"] == "turnout"}


def part_services() -> dict[str, dict[str, Any]]:
    """The services that are parts, by part."""
    return {service["command"][1]: service for service in ours().values() if service["command"][0] == "run"}


def environment(service: Mapping[str, Any]) -> dict[str, str]:
    """A service's environment as its process gets it."""
    return {name: str(value) for name, value in service.get("environment", {}).items()}


def port(service: Mapping[str, Any]) -> int:
    """Where a part tells of itself."""
    told = environment(service)
    address = next(told[name] for name in ("TURNOUT_METRICS", "TURNOUT_INGRESS", "TURNOUT_CONSOLE") if name in told)
    return int(address.rpartition(":")[2])


def seconds(duration: str) -> float:
    """Compose's `90s` or `2m`."""
    return float(duration[:-1]) * {"s": 1, "m": 60}[duration[-1]]


def entry_point() -> list[str]:
    """The image's, from the Dockerfile: ENTRYPOINT in its form as a list."""
    found = re.findall(r"^ENTRYPOINT \[(.*)\]$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert len(found) == 1
    return [word.strip().strip('"') for word in found[0].split(",")]


def command(service: Mapping[str, Any]) -> list[str]:
    """The whole command line."""
    return [*service.get("entrypoint", entry_point()), *service["command"]]


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one) for one in value]
    if isinstance(value, str):
        filled = VARIABLE.sub(lambda found: found[2], value)
        assert "$" not in filled, f"{value!r}: a variable without a default"
        return filled
    return value
