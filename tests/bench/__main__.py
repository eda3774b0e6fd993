"""`python -m tests.bench [BENCH…]`: every bench as a process of its own, one after the other, each within its time; a table, or one document."""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from tests.bench.figures import INTERRUPTED, Document, show, tell


class Bench(NamedTuple):
    longest_seconds: float
    quick: tuple[str, ...] = ()
    """Arguments that make it small: it shows that it works, its figures are of no use."""


BENCHES: Final = {
    "hop": Bench(400.0, ("--messages", "5000", "--runs", "1")),
    "throughput": Bench(600.0, ("--people", "200", "--rounds", "1", "--stage-people", "1000")),
    "calls": Bench(300.0, ("--people", "100", "--rounds", "1", "--single", "3")),
    "memory": Bench(900.0, ("--messages", "5000", "--down-seconds", "2", "--back-seconds", "2")),
    "isolation": Bench(900.0, ("--healthy", "3", "--down", "2", "--crowd", "500", "--turn-seconds", "4", "--rounds", "1")),
    "catchup": Bench(900.0, ("--people", "200", "--rounds", "1", "--down-seconds", "1")),
    # On Apache Kafka: needs Java 17 and Maven.
    "rebalance": Bench(1_500.0, ("--samples", "1")),
    "table_rows": Bench(120.0, ("--rows", "20000")),
}
STOP_SECONDS: Final = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("benches", nargs="*", metavar="BENCH", help=f"{', '.join(BENCHES)}; none: all of them")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--quick", action="store_true", help="all of it small, to see that it works")
    options = parser.parse_args()
    unknown = [name for name in options.benches if name not in BENCHES]
    if unknown:
        parser.error(f"there is no bench {', '.join(unknown)}: choose from {', '.join(BENCHES)}")
    try:
        return _run(options.benches or list(BENCHES), as_json=options.json, quick=options.quick)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(names: Sequence[str], *, as_json: bool, quick: bool) -> int:
    documents, failed = [], []
    for name in names:
        started = time.monotonic()
        tell(f"{name} …")
        document = _measured(name, BENCHES[name], quick=quick)
        tell(f"{name}: {time.monotonic() - started:.0f} s")
        if document is None:
            failed.append(name)
        else:
            documents.append(document)
    if as_json:
        sys.stdout.write(msgspec.json.encode({"benches": documents, "failed": failed}).decode() + "\n")
    else:
        show(documents)
    if failed:
        sys.stderr.write(f"these benches did not come to an end: {', '.join(failed)}; see what they said above\n")
    return 1 if failed else 0


def _measured(name: str, bench: Bench, *, quick: bool) -> Document | None:
    """Runs one bench; None where it failed or took too long. It ends what it has started, also then."""
    arguments = [sys.executable, "-m", f"tests.bench.{name}", "--json", *(bench.quick if quick else ())]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = process.communicate(timeout=bench.longest_seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # What it has started ends with it.
            process.kill()
            process.wait()
        if isinstance(error, KeyboardInterrupt):
            raise
        return None
    return msgspec.json.decode(said, type=Document) if process.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
