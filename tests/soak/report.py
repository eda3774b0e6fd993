"""The outcome of a soak: as a document, and as text for a terminal. Judges nothing."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import rich.console
import rich.table

from tests.bench.figures import Document, Figure, show
from tests.soak.gauge import Row
from tests.soak.truth import Difference

SHOWN: Final = 40
WIDTH: Final = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """`failing`: by org and trouble, how many calls it struck. `posted_again`: webhooks that were not answered 202 at first."""

    seed: int
    minutes: float
    broker: str
    seconds: float
    orgs: int
    people: int
    registrations: int
    posted_again: int
    failing: Mapping[str, int]
    rows: Sequence[Row]
    limits: Sequence[Figure]
    differences: Sequence[Difference]

    @property
    def ok(self) -> bool:
        return not self.differences and all(limit.met for limit in self.limits)

    def document(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"ok": self.ok}

    def show(self) -> None:
        """On stdout."""
        console = rich.console.Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
        console.print(f"seed {self.seed}, {self.minutes:g} minutes on {self.broker}, {self.seconds:.0f} s in all")
        console.print(
            f"{self.orgs} orgs, {self.people:,} people, {self.registrations:,} registrations ({self.posted_again:,} posted more than once); "
            f"failing for ever, by calls hit: {', '.join(f'{name} {count:,}' for name, count in self.failing.items())}"
        )
        console.print(self._table())
        show([Document("soak", self.seconds, tuple(self.limits))])
        console.print(f"differences: {len(self.differences) or 'none'}")
        for one in self.differences[:SHOWN]:
            console.print(
                f"  {one.where} {one.who}: {one.what}: expected {_short(one.expected)}, found {_short(one.found)}",
                markup=False,
                soft_wrap=True,
            )
        if len(self.differences) > SHOWN:
            console.print(f"  … and {len(self.differences) - SHOWN} more")

    def _table(self) -> rich.table.Table:
        """Of healthy orgs all but the memory."""
        parts = list(self.rows[0].mib)
        table = rich.table.Table(
            "stretch",
            "",
            "s",
            "came/s",
            "through/s",
            "p50 s",
            "CPU ms",
            "busy",
            *(f"{part} MiB" for part in parts),
            box=None,
            pad_edge=False,
        )
        for row in self.rows:
            table.add_row(
                row.stretch, str(row.number + 1), f"{row.seconds:g}", f"{row.came:.1f}", f"{row.synced:.1f}", _number(row.delay_seconds),
                _number(row.cpu_ms), "" if row.machine is None else f"{row.machine:.0%}", *(f"{row.mib[part]:.0f}" if part in row.mib else "" for part in parts),
            )  # fmt: skip
        return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _short(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:1000]
