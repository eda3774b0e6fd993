"""What an arm of the comparison is told on its command line, and how it tells its speed. Runs in the other frameworks' environment."""

import json
import sys
from typing import NamedTuple

from tests.bench.job import Speeds


class Order(NamedTuple):
    """`reads` and `writes` are topics as the broker knows them; `messages`: how many `reads` holds."""

    bootstrap: str
    reads: str
    writes: str
    group: str
    messages: int


def taken() -> Order:
    return Order(**json.loads(sys.argv[1]))


def told(speeds: Speeds) -> None:
    sys.stdout.write(json.dumps(speeds._asdict()) + "\n")
