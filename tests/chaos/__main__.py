"""`python -m tests.chaos`: one chaos run from a seed; its summary, and 0 where nothing differs, else 1."""

import argparse
import asyncio
import json
import pathlib
import shutil
import sys
import tempfile
import time

from tests import brokers
from tests.chaos.play import Call, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long the webinars and the blows last (5); settling comes after")
    parser.add_argument("--seed", type=int, default=1, help="of the story and of the plan (1)")
    parser.add_argument("--orgs", type=int, default=4, help="sandbox orgs (4); every other one has unique keys")
    parser.add_argument(
        "--broker", choices=(brokers.APACHE, brokers.EMBEDDED), default=brokers.APACHE, help="the embedded one is never hit"
    )
    parser.add_argument("--json", action="store_true", help="the summary as one JSON document on stdout")
    parser.add_argument("--keep", action="store_true", help="keep logs and topics; they always stay where something differs")
    given = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"turnout-chaos-{given.seed}-"))
    began = time.monotonic()

    def say(what: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:7.1f} s  {what}\n")

    report = asyncio.run(play(Call(given.seed, given.minutes, given.broker, folder, given.orgs), say))
    sys.stdout.write((json.dumps(report.document(), indent=2, default=str) if given.json else report.text()) + "\n")
    if report.ok and not given.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        (folder / "report.json").write_text(json.dumps(report.document(), indent=2, default=str))
        say(f"logs and topics are in {folder}")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
