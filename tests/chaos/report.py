"""The outcome of a chaos run: as a document, and as text for a terminal. Judges nothing."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

SHOWN: Final = 40


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """`blows`: by kind and part. `troubles`: of orgs, by kind, how many calls each hit. `noted` is allowed, and worth to be known."""

    seed: int
    minutes: float
    broker: str
    seconds: float
    orgs: int
    workspaces: int
    sessions: int
    people: int
    events: int
    webhooks: Mapping[str, int]
    blows: Mapping[str, int]
    troubles: Mapping[str, int]
    checked: Mapping[str, int]
    noted: Mapping[str, int]
    differences: Sequence[Mapping[str, Any]]

    @property
    def ok(self) -> bool:
        return not self.differences

    def document(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"ok": self.ok}

    def text(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"seed {self.seed}, {self.minutes:g} minutes on {self.broker}, {self.seconds:.0f} s in all"
        yield (
            f"{self.orgs} orgs, {self.workspaces} workspaces, {self.sessions} sessions, "
            f"{self.people} people in them, {self.events} events about people"
        )
        for title, counts in (
            ("webhooks", self.webhooks), ("blows", self.blows), ("troubles of orgs, by calls hit", self.troubles),
            ("checked", self.checked), ("noted, as allowed", self.noted),
        ):  # fmt: skip
            yield f"{title}:"
            yield from (f"  {number:>7,}  {name}" for name, number in counts.items())
        yield f"differences: {len(self.differences) or 'none'}"
        for one in self.differences[:SHOWN]:
            yield f"  {one['where']} {one['who']}: {one['what']}: expected {_short(one['expected'])}, found {_short(one['found'])}"
        if len(self.differences) > SHOWN:
            yield f"  … and {len(self.differences) - SHOWN} more"


def _short(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:1000]
