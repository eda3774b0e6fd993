"""What a bench found: figures with their aims, as a table for people or one JSON document. Measures nothing."""

import argparse
import asyncio
import dataclasses
import os
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec
import rich.console
import rich.table


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """`met` says whether `aim` is met; None where there is none, or where only people can judge it."""

    name: str
    value: float
    unit: str
    aim: str = ""
    met: bool | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """What one bench prints with --json."""

    bench: str
    seconds: float
    figures: tuple[Figure, ...]


def at_most(name: str, value: float, unit: str, most: float, note: str = "") -> Figure:
    return Figure(name, value, unit, f"at most {most:g}", value <= most, note)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def show(documents: Sequence[Document]) -> None:
    """For people, on stdout."""
    table = rich.table.Table("bench", "figure", "value", "aim", "met", "note", box=None, pad_edge=False)
    for document in documents:
        for figure in document.figures:
            met = "" if figure.met is None else ("yes" if figure.met else "NO")
            table.add_row(document.bench, figure.name, f"{_number(figure.value)} {figure.unit}", figure.aim, met, figure.note)
    rich.console.Console(width=None if sys.stdout.isatty() else 200).print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


Measure = Callable[[argparse.Namespace], Awaitable[Sequence[Figure]]]


def main(bench: str, about: str | None, measure: Measure, arguments: Callable[[argparse.ArgumentParser], Any] = lambda parser: None) -> int:
    """The command of one bench: `--json` and its own arguments."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench.{bench}", description=about)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments(parser)
    options = parser.parse_args()
    # Ended from outside, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
    started = time.monotonic()
    try:
        figures = tuple(asyncio.run(_measured(measure, options)))
    except KeyboardInterrupt:
        return INTERRUPTED
    document = Document(bench, round(time.monotonic() - started, 1), figures)
    if options.json:
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    else:
        show([document])
    return 0


INTERRUPTED: Final = 130


async def _measured(measure: Measure, options: argparse.Namespace) -> Sequence[Figure]:
    return await measure(options)


def tell(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()
