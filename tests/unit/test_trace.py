"""A person's story is told in order of time, stage by stage, from the records of their address alone."""

import msgspec

from pipeline import messages
from pipeline.kafka import partition_of
from pipeline.memory import MemoryBroker, MemoryTransport
from pipeline.records import Outgoing
from schemas.messages import Cause, Synced, Written
from schemas.tables import LaneRow
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
    for topic in ("received", "normalized", "matched", "resolved", "synced", "lanes"):
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
    assert second["causes"] == [{"code": "STRING_TOO_LONG", "message": "City: too long", "fields": ("City",), "hint": ""}]


async def test_what_earlier_stages_did_is_told_once_whatever_is_replayed_and_each_outcome_too() -> None:
    """The outcome of a replay of the last stage carries the marks of those before again."""
    cause = msgspec.to_builtins(Cause("STRING_TOO_LONG", "City: too long"))
    made = msgspec.to_builtins(Written(stage="create", at=1_000, written={"Title": "CTO"}))
    trails = [[made, {"stage": "campaign-membership", "at": at, "causes": [cause]}] for at in (2_000, 3_000)]
    outcomes = [synced("a", trail[-1]["at"], trail=trail, outcome="rejected", causes=[cause]) for trail in trails]
    events = await told([Outgoing("synced", ADA, msgspec.json.encode(one), headers("a")) for one in outcomes])
    assert [(event["stage"], event["outcome"]) for event in events] == [
        ("create", "emitted"),
        ("campaign-membership", "rejected"),
        ("campaign-membership", "rejected"),
    ]
    assert [event["causes"] for event in events[1:]] == [[cause | {"fields": (), "hint": ""}]] * 2


async def test_what_has_no_outcome_yet_waits_for_the_stage_that_it_came_to_last() -> None:
    ways = [Outgoing(topic, ADA, b"{}", headers("a")) for topic in ("received", "normalized", "matched")]
    (waiting,) = await told(ways)
    assert (waiting["stage"], waiting["outcome"], waiting["at"]) == ("create", "waiting", "1970-01-01T00:00:09.000Z")


def lane(stage: str, name: str, **more: object) -> Outgoing:
    """A row of a lane that waits, in the partition that Ada's messages lie in."""
    row = msgspec.convert({"lane": name, "state": "waiting", "since": 1, "oldest_at": 1} | more, LaneRow)
    return Outgoing("lanes", f"{stage}|{partition_of(ADA, 4)}|{name}".encode(), msgspec.json.encode(row))


async def test_what_is_tried_again_at_a_known_time_is_retrying_with_its_lanes_cause() -> None:
    ways = [Outgoing(topic, ADA, b"{}", headers("a")) for topic in ("received", "normalized", "matched")]
    down = lane("create", "org:o", state="blocked", cause="SERVER_UNAVAILABLE: down", next_try_at=20_000, mend="wait")
    (retrying,) = await told([*ways, down, lane("match", "org:o", cause="other: another stage's")])
    assert (retrying["outcome"], retrying["reason"]) == ("retrying", "SERVER_UNAVAILABLE")
    assert retrying["causes"] == [{"code": "SERVER_UNAVAILABLE", "message": "down", "fields": (), "hint": "wait"}]


async def test_what_waits_for_something_says_for_what_by_its_narrowest_lane() -> None:
    ways = [Outgoing(topic, ADA, b"{}", headers("a")) for topic in ("received", "normalized", "matched", "resolved")]
    rows = [
        lane("campaign-membership", "org:o", cause="busy: more came", next_try_at=20_000),
        lane("campaign-membership", "org:o/workspace:w/session:s", cause="no_campaign: not made yet"),
        lane("campaign-membership", "org:o/workspace:w/session:another", cause="other: another session's"),
    ]
    (waiting,) = await told([*ways, *rows])
    assert (waiting["outcome"], waiting["reason"]) == ("waiting", "no_campaign")


async def test_a_retried_dead_letter_is_under_way_until_its_own_outcome() -> None:
    """Refused, retried, refused, retried: the outcomes of the tries before are not taken for that of the last."""
    refused, refused_again = (
        Outgoing("synced", ADA, msgspec.json.encode(synced("a", at, stage="create", outcome="rejected")), headers("a")) for at in (1, 3)
    )
    first, second = ((*headers("a"), ("replay", mark)) for mark in (b"retry:1:2", b"retry:1:3"))
    again = Outgoing("matched", ADA, b"{}", first)
    records = [Outgoing("matched", ADA, b"{}", headers("a")), refused, again]
    assert [event["outcome"] for event in await told(records)] == ["rejected", "waiting"]
    records.append(msgspec.structs.replace(refused_again, headers=first))
    assert [event["outcome"] for event in await told(records)] == ["rejected", "rejected"]
    records.append(msgspec.structs.replace(again, headers=second))
    assert [event["outcome"] for event in await told(records)] == ["rejected", "rejected", "waiting"]


async def test_what_was_finished_as_a_replay_waits_no_longer() -> None:
    """Where the group's offsets were lost, the first run of a message is marked, and its record is not."""
    outcome = Outgoing("synced", ADA, msgspec.json.encode(synced("a", 1)), (*headers("a"), ("replay", b"offsets-lost")))
    assert [event["outcome"] for event in await told([Outgoing("matched", ADA, b"{}", headers("a")), outcome])] == ["emitted"]


async def test_an_event_has_the_fields_of_the_outer_interface_and_no_others() -> None:
    (event,) = await told([Outgoing("matched", ADA, b"{}", headers("a"))])
    assert list(event) == [
        "at", "happened_at", "stage", "workspace", "org", "session", "event", "outcome", "reason", "salesforce", "written", "left_out", "causes",
    ]  # fmt: skip


async def test_others_and_other_workspaces_are_left_out() -> None:
    records = [
        Outgoing("synced", ADA, msgspec.json.encode(synced("a", 1_000)), headers("a")),
        Outgoing("synced", BOB, msgspec.json.encode(synced("b", 1_000)), headers("b")),
        Outgoing("synced", ADA, msgspec.json.encode(synced("c", 1_000, workspace="v")), headers("c", "v")),
    ]
    assert len(await told(records)) == 2
    assert [event["workspace"] for event in await told(records, "v")] == ["v"]
