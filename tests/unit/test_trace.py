"""A person's story is told in order of time, stage by stage, from the records of their address alone."""

import msgspec

from pipeline import messages
from pipeline.memory import MemoryBroker, MemoryTransport
from pipeline.records import Outgoing
from schemas.messages import Cause, Synced, Written
from stages.trace import trace

CHAIN = [("normalize", "received"), ("match", "normalized"), ("create", "matched"), ("campaign-membership", "resolved")]
ADA, BOB = b"ada@example.com", b"bob@example.com"


def headers(id: str, workspace: str = "w") -> tuple[tuple[str, bytes], ...]:
    return messages.headers(
        id=id, kind="registration", workspace=workspace, org="o", session="s", event="e", happened_at=5, received_at=6, schema=1
    )


def synced(id: str, at: int, **more: object) -> Synced:
    values = {
        "happened_at": 5,
        "stage": "campaign-membership",
        "workspace": "w",
        "org": "o",
        "session": "s",
        "event": "e",
        "outcome": "emitted",
    }
    return msgspec.convert({"id": id, "at": at, "kind": "registration"} | values | more, Synced)


async def told(records: list[Outgoing], workspace: str | None = None) -> list[dict[str, object]]:
    broker = MemoryBroker(now_ms=lambda: 9_000)
    for topic in ("received", "normalized", "matched", "resolved", "synced"):
        broker.create_topic(topic, 4)
    transport = MemoryTransport(broker)
    writer = transport.writer()
    await writer.start()
    await writer.send(records)
    document = await trace(transport, CHAIN, "ada@example.com", workspace)
    assert document["email"] == "ada@example.com"
    found: list[dict[str, object]] = document["events"]
    return found


async def test_every_stage_that_left_its_mark_is_told_and_the_last_has_the_outcome() -> None:
    trail = (
        Written(stage="create", at=1_000, salesforce={"Lead": "00Q"}, written={"Title": "CTO"}, left_out={"Website": "no such field"}),
        Written(stage="campaign-membership", at=2_000, salesforce={"CampaignMember": "00v"}),
    )
    record = Outgoing("synced", ADA, msgspec.json.encode(synced("a", 2_001, trail=msgspec.to_builtins(trail))), headers("a"))
    create, member = await told([record])
    assert (create["at"], create["stage"], create["outcome"]) == ("1970-01-01T00:00:01.000Z", "create", "emitted")
    assert (create["salesforce"], create["written"], create["left_out"]) == (
        {"Lead": "00Q"},
        {"Title": "CTO"},
        {"Website": "no such field"},
    )
    assert (member["stage"], member["outcome"], member["salesforce"]) == ("campaign-membership", "emitted", {"CampaignMember": "00v"})


async def test_a_drop_and_a_refusal_are_told_with_their_reason() -> None:
    cause = Cause("STRING_TOO_LONG", "City: too long", ("City",))
    dropped = synced("a", 1_000, stage="normalize", outcome="dropped", reason="staff")
    refused = synced("b", 2_000, stage="create", outcome="rejected", causes=[msgspec.to_builtins(cause)])
    first, second = await told([Outgoing("synced", ADA, msgspec.json.encode(one), headers(one.id)) for one in (refused, dropped)])
    assert (first["stage"], first["outcome"], first["reason"]) == ("normalize", "dropped", "staff")
    assert (second["stage"], second["outcome"]) == ("create", "rejected")
    assert second["causes"] == [msgspec.to_builtins(cause)]


async def test_what_has_no_outcome_yet_waits_for_the_stage_that_it_came_to_last() -> None:
    ways = [Outgoing(topic, ADA, b"{}", headers("a")) for topic in ("received", "normalized", "matched")]
    (waiting,) = await told(ways)
    assert (waiting["stage"], waiting["outcome"], waiting["at"]) == ("create", "waiting", "1970-01-01T00:00:09.000Z")


async def test_others_and_other_workspaces_are_left_out() -> None:
    records = [
        Outgoing("synced", ADA, msgspec.json.encode(synced("a", 1_000)), headers("a")),
        Outgoing("synced", BOB, msgspec.json.encode(synced("b", 1_000)), headers("b")),
        Outgoing("synced", ADA, msgspec.json.encode(synced("c", 1_000, workspace="v")), headers("c", "v")),
    ]
    assert len(await told(records)) == 2
    assert [event["workspace"] for event in await told(records, "v")] == ["v"]
