"""The whole product running on this machine: its topics, its parts, its settings. Each house has a topic prefix of its own."""

import contextlib
import dataclasses
import json
import pathlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tests.flow import processes
from tests.flow.processes import Child

STAGES: Final = ("normalize", "match", "create", "campaign-membership")
ALL: Final = ("ingress", *STAGES, "console")
PARTITIONS: Final = "4"
"""Fewer than by default: each costs a test run time, and rules don't depend on their number."""


@dataclasses.dataclass(slots=True)
class House:
    """`folder` holds its files: keys, settings, logs."""

    bootstrap: str
    folder: pathlib.Path
    prefix: str
    environment: dict[str, str]
    ingress: str = ""
    console: str = ""
    children: list[Child] = dataclasses.field(default_factory=list)

    def start(self, parts: Sequence[str], **variables: str) -> Child:
        """Starts these parts as one process, and waits until it says that it runs."""
        return self.begun(self.begin(parts, **variables))

    def begin(self, parts: Sequence[str], **variables: str) -> Child:
        """Starts these parts as one process."""
        said = self.folder / f"{'+'.join(parts)[:60]}-{len([*self.folder.glob('*.log')])}.log"
        extra = {f"TURNOUT_{name}": value for name, value in variables.items()}
        child = Child(["run", *parts], self.environment | extra, said)
        self.children.append(child)
        return child

    def begun(self, child: Child) -> Child:
        """Waits until a process says that it runs, and where it listens."""
        parts = child.arguments
        child.says(r'"event": "running"')
        if "ingress" in parts:
            self.ingress = "http://" + child.says(r'"address": "([^"]+)", "event": "ingress listens"').group(1)
        if "console" in parts:
            self.console = child.says(r'"address": "([^"]+?)/?", "event": "console listens"').group(1)
        return child

    def stop(self) -> None:
        """Ends what it started, all at once; every part that ends by SIGTERM has to end well."""
        for child in self.children:
            child.ask_to_stop()
        codes = [(child, child.stop()) for child in self.children]
        self.children.clear()
        ill = [f"`turnout {' '.join(child.arguments)}` ended with {code}:\n{child.tail()}" for child, code in codes if code not in (0, -9)]
        assert not ill, "\n".join(ill)

    def apply(self, settings: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
        """`turnout settings apply`: what it printed."""
        path = self.folder / f"settings-{uuid.uuid4().hex[:8]}.toml"
        path.write_text(toml(settings))
        return processes.done(["settings", "apply", str(path)], self.environment)

    def document(self, *arguments: str) -> Any:
        """The document of a command with --json."""
        return processes.document(arguments, self.environment)


@contextlib.contextmanager
def built(bootstrap: str, folder: pathlib.Path, **variables: str) -> Iterator[House]:
    """A house with its topics, and no part running yet."""
    keys = folder / "keys"
    prefix = f"flow-{uuid.uuid4().hex[:8]}"
    usual = {"PARTITIONS": PARTITIONS, "INGRESS": "127.0.0.1:0", "CONSOLE": "127.0.0.1:0"}
    environment = processes.environment(KAFKA_BOOTSTRAP=bootstrap, TOPIC_PREFIX=prefix, **usual | variables)
    keys.touch(mode=0o600)
    keys.write_text(processes.done(["keys", "new"], environment))
    environment["TURNOUT_SECRET_KEYS_FILE"] = str(keys)
    processes.done(["topics", "apply"], environment)
    house = House(bootstrap, folder, prefix, environment)
    try:
        yield house
    finally:
        house.stop()


def toml(settings: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A settings file: arrays of tables by name. JSON's texts, numbers and flags are TOML's too."""
    return "\n".join(line for name, tables in settings.items() for table in tables for line in ("", f"[[{name}]]", *_table(name, table)))


def _table(path: str, table: Mapping[str, Any]) -> Iterator[str]:
    plain = {name: value for name, value in table.items() if not isinstance(value, Mapping)}
    yield from (f"{name} = {json.dumps(value)}" for name, value in plain.items())
    for name, value in table.items():
        if isinstance(value, Mapping):
            if set(value) == {"from", "write"}:
                yield f"{name} = {{ from = {json.dumps(value['from'])}, write = {json.dumps(value['write'])} }}"
                continue
            yield f"[{path}.{name}]"
            yield from _table(f"{path}.{name}", value)
