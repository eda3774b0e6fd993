"""`python -m tests.soak`: orgs that fail for ever beside healthy ones, then an outage of all. 0 where every limit is kept and nothing differs, else 1."""

import argparse
import asyncio
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time

from tests import brokers
from tests.bench.figures import INTERRUPTED
from tests.soak.play import Call, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="how long people come (60); from 50 on the outage has its full ten minutes"
    )
    parser.add_argument("--seed", type=int, default=1, help="of who comes, who fails, and who is back when (1)")
    parser.add_argument("--orgs", type=int, default=40, help="sandbox orgs (40); one in twenty fails for ever")
    parser.add_argument("--rate", type=float, default=30.0, help="people a second, of all orgs together (30)")
    parser.add_argument("--broker", choices=(brokers.APACHE, brokers.EMBEDDED), default=brokers.APACHE)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--keep", action="store_true", help="keep logs and topics; they always stay where the soak fails")
    given = parser.parse_args()
    if given.orgs < 2 or given.minutes <= 0 or given.rate <= 0:
        parser.error("a soak takes two orgs at least, and some time and people")
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"turnout-soak-{given.seed}-"))
    began = time.monotonic()

    def say(what: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:7.1f} s  {what}\n")

    # Ended from outside, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
    try:
        report = asyncio.run(play(Call(given.seed, given.minutes, given.broker, folder, given.orgs, given.rate), say))
    except KeyboardInterrupt:
        return INTERRUPTED
    document = json.dumps(report.document(), indent=2, default=str, ensure_ascii=False)
    if given.json:
        sys.stdout.write(document + "\n")
    else:
        report.show()
    if report.ok and not given.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        (folder / "report.json").write_text(document)
        say(f"logs and topics are in {folder}")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
