"""What is told of replays: an end only once a row says so."""

import itertools
from collections.abc import Mapping, Sequence

import msgspec

from pipeline.dispatch import Dispatcher
from pipeline.ledger import Ledger
from pipeline.lines import Entry
from pipeline.memory import MemoryBroker
from pipeline.outcomes import Batch, Outcome
from pipeline.partition import Partition
from pipeline.records import Ack
from pipeline.replays import CONTROLS, LANES, Replays, row_key
from pipeline.stage import SilentObserver, Stage
from pipeline.tables import Tables
from schemas.tables import LaneRow, ReplayRow

ROW = ReplayRow(id="again", stage="work", ranges={"0": (0, 10)}, at=1)
KEY = row_key("work", 0, ROW.id)


async def _no_step(batch: Batch) -> Sequence[Outcome]:
    raise AssertionError("nothing is worked on here")


async def test_a_replay_that_ends_while_its_progress_is_written_ends_with_a_row_and_is_not_begun_again() -> None:
    transport = MemoryBroker().transport()
    tables = Tables(transport, (LANES, CONTROLS))
    stage = Stage(name="work", reads="in", step=_no_step, shared_lanes=lambda message: ("org:o",))
    ledger: Ledger[Entry] = Ledger(10)
    partition = Partition(0, stage, ledger, held_since_ms=0, hold_creates_until_ms=0, replay_until=0)
    dispatcher = Dispatcher(stage, tables, transport.writer(), SilentObserver(), clock=lambda: 1.0, lease_seconds=lambda: 1.0)
    offsets = itertools.count()

    async def write_rows(rows: Mapping[str, bytes | None]) -> None:
        for key, value in rows.items():
            tables[LANES].written(key, value, Ack(0, next(offsets)))
        for replay in partition.replays.values():
            replay.ledger.skip_to(replay.end)

    replays = Replays(
        stage, tables, transport, dispatcher, lambda: [partition], write_rows, live_is_busy=lambda: False, clock=lambda: 1.0
    )  # fmt: skip
    tables[CONTROLS].written(ROW.id, msgspec.json.encode(ROW), Ack(0, 0))
    replays._start()
    assert list(partition.replays) == [ROW.id]

    def state() -> str:
        return msgspec.json.decode(tables[LANES].get(KEY) or b"", type=LaneRow).state

    await replays.tell()
    assert (state(), list(partition.replays)) == ("replay", [ROW.id]), "it ended after its row was made"
    await replays.tell()
    assert (state(), partition.replays) == ("done", {})
    replays._start()
    assert partition.replays == {}
