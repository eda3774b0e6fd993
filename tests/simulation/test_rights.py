"""A right that is missing in Kafka ends the worker with a line that names it; what may mend itself does not."""

import pytest

from pipeline.errors import NotAllowed, TransportError, WriteError
from pipeline.memory import Operation
from pipeline.stage import Limits
from stages.errors import innermost
from tests.engine.place import told
from tests.simulation.room import Room, each, passed_on, simulated

RIGHT = "Read on the topic p.in"
PLACES: list[tuple[Operation, str | None]] = [
    ("fetch", "in"),
    ("fetch", "lanes"),
    ("commit", None),
    ("send", "out"),
    ("offsets", "in"),
]


@pytest.mark.parametrize(("operation", "topic"), PLACES)
def test_a_missing_right_ends_the_worker_whatever_it_was_doing(operation: Operation, topic: str | None) -> None:
    async def test(room: Room) -> None:
        running = await room.enter(each(passed_on), Limits())
        room.broker.faults.fail(operation, NotAllowed("working", RIGHT), topic=topic, times=1_000_000)
        room.send([told(n) for n in range(5)])
        await room.until(running.task.done)
        error = innermost(running.task.exception() or AssertionError("it ended by itself"))
        assert isinstance(error, NotAllowed)
        assert error.right == RIGHT

    simulated(test)


@pytest.mark.parametrize(("operation", "topic"), PLACES)
def test_what_may_mend_itself_is_tried_again(operation: Operation, topic: str | None) -> None:
    async def test(room: Room) -> None:
        running = await room.enter(each(passed_on), Limits())
        error = WriteError("away") if operation == "send" else TransportError("away")
        room.broker.faults.fail(operation, error, topic=topic, times=3)
        room.send([told(n) for n in range(5)])
        await room.until(lambda: room.committed() == 5)
        assert not running.task.done()

    simulated(test)
