"""Fills topics without the parts before them: records cloned from one person's that went the whole way. Decides nothing about their shape."""

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from pipeline.records import Outgoing
from stages import flow
from tests.bench.ground import Ground
from tests.bench.stand import Stand
from tests.flow import watching
from tests.flow.watching import Heard

TOPICS: Final = (flow.RECEIVED, flow.NORMALIZED, flow.MATCHED, flow.RESOLVED)
EMAIL: Final = "clone-original@ws-000.example"
"""Whom the clones are made from: a name of its own, as long as theirs, so that it can be replaced wherever it stands."""
DONE_SECONDS: Final = 60.0
CHUNK: Final = 5_000


@dataclasses.dataclass(frozen=True, slots=True)
class Original:
    """One person's record in each topic of the chain."""

    records: Mapping[str, Heard]

    def clones(self, topic: str, emails: Iterable[str], *, fill_bytes: int = 0) -> Iterator[Outgoing]:
        """A record for each address, as if its webhook had come now; a name is drawn out until the value has `fill_bytes`."""
        record = self.records[topic]
        now = str(int(time.time() * 1000)).encode()
        original = record.headers["id"].encode()
        value = record.raw.replace(record.headers["received-at"].encode(), now)
        wanting = fill_bytes - len(value)
        if wanting > 0:
            value = value.replace(b"Harbour Ltd", b"Harbour Ltd" + b"." * wanting, 1)
        fixed = {name: text.encode() for name, text in record.headers.items()} | {"received-at": now}
        for number, email in enumerate(emails):
            id = f"{number:0{len(original)}d}".encode()[: len(original)]
            told = value.replace(EMAIL.encode(), email.encode()).replace(original, id)
            yield Outgoing(topic, email.encode(), told, tuple((fixed | {"id": id}).items()))


async def original(place: Ground, stand: Stand) -> Original:
    """Sends one person of this workspace through the whole chain."""
    known = len(place.outcomes.of[stand.workspace].at_ms)
    async with watching.listening(place.house.bootstrap, place.house.prefix, TOPICS) as topics:
        await stand.post(stand.registration(EMAIL))
        await place.outcomes.people(stand.workspace, known + 1, DONE_SECONDS)

        async def look() -> dict[str, Heard]:
            found = {one.topic: one for one in topics.heard if one.key == EMAIL}
            assert set(found) == set(TOPICS), found.keys()
            return found

        return Original(await watching.eventually(look))


async def fill(place: Ground, records: Iterator[Outgoing]) -> int:
    """Writes them all; returns how many bytes of values that was."""
    writer = place.transport.writer()
    await writer.start()
    size = 0
    try:
        while chunk := list(itertools.islice(records, CHUNK)):
            size += sum(len(record.value or b"") for record in chunk)
            await writer.send(chunk)
    finally:
        await writer.stop()
    return size


def addresses(stand: Stand, count: int) -> list[str]:
    """Of people that nobody knows yet."""
    first, stand.told = stand.told, stand.told + count
    return [f"clone-{number:08}@{stand.workspace}.example" for number in range(first, first + count)]
