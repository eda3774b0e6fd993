"""What a row of a table costs in memory, beside its own bytes: the table as the engine keeps it, filled with records as a reader gives them."""

import argparse
import sys
import tracemalloc
import uuid
from collections.abc import Callable, Iterator, Sequence

import msgspec

from pipeline.records import Record
from pipeline.tables import Table
from schemas.tables import CampaignRow, SessionRow
from stages.rows import campaign_key
from tests.bench.figures import Figure, at_most, main

AIM_BYTES = 200


async def measure(options: argparse.Namespace) -> Sequence[Figure]:
    figures = []
    for name, row in (("campaigns", _campaign), ("sessions", _session)):
        cost, payload = _cost(name, row, options.rows)
        figures.append(Figure(f"{name}: a row in all", cost, "bytes", note=f"{options.rows:,} rows of {payload:.0f} bytes with their key"))
        figures.append(at_most(f"{name}: a row beside its own bytes", cost - payload, "bytes", AIM_BYTES))
    return figures


def _cost(name: str, row: Callable[[int], tuple[str, msgspec.Struct]], rows: int) -> tuple[float, float]:
    """Bytes of memory a row, and bytes of its key and value."""
    tracemalloc.start()
    try:
        table = Table(name)
        payload = 0
        before, _ = tracemalloc.get_traced_memory()
        for record in _records(name, row, rows):
            payload += len(record.key or b"") + len(record.value or b"")
            table.read(record)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table) == rows
    return (after - before) / rows, payload / rows


def _records(name: str, row: Callable[[int], tuple[str, msgspec.Struct]], rows: int) -> Iterator[Record]:
    for number in range(rows):
        key, value = row(number)
        yield Record(name, number % 12, number // 12, 1_790_000_000_000 + number, key.encode(), msgspec.json.encode(value), ())


def _campaign(number: int) -> tuple[str, CampaignRow]:
    row = CampaignRow(
        campaign=f"701{number:012d}AAA", statuses=("Registered", "Attended", "Did not attend"), workspace=f"workspace-{number % 10_000}",
        at=1_790_000_000_000 + number, title=f"{number:016x}", status="Planned",
    )  # fmt: skip
    return campaign_key(f"org-{number % 5_000}", str(uuid.UUID(int=number))), row


def _session(number: int) -> tuple[str, SessionRow]:
    id, at = str(uuid.UUID(int=number)), 1_790_000_000 + number
    org, workspace = f"org-{number % 5_000}", f"workspace-{number % 10_000}"
    row = SessionRow(
        id=id, workspace=workspace, event=str(uuid.UUID(int=number << 64)), status="upcoming", timezone="Europe/Paris",
        estimated_started_at=at, updated_at=at, orgs=(org,),
    )  # fmt: skip
    return id, row


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=200_000)


if __name__ == "__main__":
    sys.exit(main("table_rows", __doc__, measure, arguments))
