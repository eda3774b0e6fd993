"""Lag, told from the log alone, on the log in memory."""

import pytest

from pipeline.memory import MemoryBroker
from pipeline.records import Commit, Outgoing
from stages.lag import lag


@pytest.mark.parametrize(
    ("metadata", "gist"), [("", "empty metadata"), ("mirror-maker", "metadata of another kind or version: 'mirror-m'")]
)
async def test_a_commit_that_is_not_ours_is_told_as_a_blocked_lane_of_its_whole_partition(metadata: str, gist: str) -> None:
    """What lies behind it is counted and its age told, as it is for the partition beside it, which has no commit and no such lane."""
    broker = MemoryBroker(now_ms=lambda: 1_000_000_000_000)
    broker.create_topic("received", 2)
    broker.create_topic("lanes", 1)
    for number in range(10):
        broker.append(Outgoing("received", b"key", b"%d" % number), number % 2)
    broker.reset_offsets("normalize", {("received", 1): Commit(2, metadata)})
    document = await lag(broker.transport(), {"normalize": "received"})
    [lane] = [lane for lane in document["lanes"] if not lane["cause"].startswith("no_worker")]
    assert (lane["stage"], lane["partition"], lane["lane"], lane["state"], lane["waiting"]) == ("normalize", 1, "partition", "blocked", 3)
    assert lane["cause"] == f"foreign_commit: {gist}"
    assert lane["oldest_at"] == "2001-09-09T01:46:40.000Z"
    beside, foreign = document["stages"][0]["partitions"]
    assert (beside["committed"], beside["unfinished"]) == (None, 5)
    assert (foreign["committed"], foreign["unfinished"]) == (2, 3)
    assert document["unfinished"] == 8
