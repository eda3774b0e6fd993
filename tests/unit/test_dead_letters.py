"""What was refused is found, sent on its way again whole and in order, or laid aside; and what was decided is remembered in the log alone."""

import msgspec
import pytest

from pipeline.delivery import DEAD_LETTERS
from pipeline.memory import MemoryBroker, MemoryTransport
from pipeline.records import Outgoing, Record
from schemas.messages import Cause, DeadLetter
from schemas.settings import Livestorm, Workspace
from stages import dead_letters, ingress
from stages.dead_letters import Choice
from stages.errors import UsageError
from stages.trace import read

NOW = 1_780_000_000_000
WORKSPACE = Workspace(id="w", org="o", livestorm=Livestorm(organization_id="x", webhook_secret="s"))
BODY = b'{"untouched": "\\u00e9",  "spaces": 1}'


def letter(
    offset: int, *, workspace: str = "w", stage: str = "create", cause: str = "STRING_TOO_LONG", key: str = "ada@example.com"
) -> DeadLetter:
    return DeadLetter(
        id=f"matched-0-{offset}", at=NOW + offset, stage=stage, workspace=workspace, org="o", email=key, causes=(Cause(cause, "too long"),),
        topic="matched", partition=0, offset=offset, key=key, headers={"id": f"i{offset}", "org": "o"}, message=BODY,
    )  # fmt: skip


@pytest.fixture
def transport() -> MemoryTransport:
    broker = MemoryBroker()
    for topic in (DEAD_LETTERS, "matched", "received", "synced"):
        broker.create_topic(topic, 1)
    return MemoryTransport(broker)


async def write(transport: MemoryTransport, *letters: DeadLetter) -> None:
    writer = transport.writer()
    await writer.start()
    await writer.send([Outgoing(DEAD_LETTERS, one.key.encode(), msgspec.json.encode(one)) for one in letters])
    await writer.stop()


async def everything(transport: MemoryTransport, topic: str) -> list[Record]:
    return await read(transport, topic, await transport.cluster.offsets(topic), lambda record: True)


async def test_letters_come_in_the_order_of_their_messages_and_a_repeat_is_one(transport: MemoryTransport) -> None:
    await write(transport, letter(7), letter(3), letter(7))
    assert [one.offset for one in await dead_letters.load(transport)] == [3, 7]


async def test_retried_messages_are_untouched_in_order_and_open_no_longer(transport: MemoryTransport) -> None:
    await write(transport, letter(9), letter(4), letter(5, cause="OTHER"))
    writer = transport.writer()
    await writer.start()
    chosen = dead_letters.chosen(await dead_letters.load(transport), Choice(cause="STRING_TOO_LONG"))
    await dead_letters.retry(writer, chosen, {}, NOW)
    sent = await everything(transport, "matched")
    assert [dict(record.headers)["id"] for record in sent] == [b"i4", b"i9"]
    assert {(record.key, record.value) for record in sent} == {(b"ada@example.com", BODY)}
    assert [one.offset for one in await dead_letters.load(transport)] == [5]


def test_what_is_retried_carries_the_mark_of_its_first_refusal() -> None:
    """Without it a value that a later event has set meanwhile would go back. A mark that was there before stays, a replay's too."""
    (sent,) = dead_letters.again(letter(4), {}, NOW + 99)
    assert dict(sent.headers) == {"id": b"i4", "org": b"o", "replay": f"retry:{NOW + 4}:{NOW + 99}:1".encode()}
    for mark, then in ((f"retry:{NOW - 5}:{NOW}:2", f"retry:{NOW - 5}:{NOW + 99}:3"), ("some-replay", "some-replay")):
        marked = msgspec.structs.replace(letter(4), headers={"id": "i4", "replay": mark})
        (sent,) = dead_letters.again(marked, {}, NOW + 99)
        assert dict(sent.headers)["replay"] == then.encode()


@pytest.mark.parametrize(("mark", "tries"), [("some-replay", 3), (f"retry:{NOW}:{NOW}", 4), (f"retry:{NOW}:{NOW}:5", 8)])
def test_tries_before_a_retry_count(mark: str, tries: int) -> None:
    """A mark of an earlier version did not tell how many they were: one at least."""
    refused_again = msgspec.structs.replace(letter(4), tries=3, headers={"replay": mark})
    assert dead_letters.summary(refused_again)["tries"] == tries


async def test_one_that_is_refused_again_after_its_retry_is_open_again(transport: MemoryTransport) -> None:
    await write(transport, letter(4))
    writer = transport.writer()
    await writer.start()
    await dead_letters.retry(writer, await dead_letters.load(transport), {}, NOW)
    await write(transport, letter(4))
    assert [one.offset for one in await dead_letters.load(transport)] == [4]


async def test_discarded_letters_are_open_no_longer_and_keep_their_reason(transport: MemoryTransport) -> None:
    await write(transport, letter(4), letter(5))
    writer = transport.writer()
    await writer.start()
    chosen = dead_letters.chosen(await dead_letters.load(transport), Choice(ids=("matched-0-4",)))
    await dead_letters.discard(writer, chosen, "entered by hand", NOW)
    assert [one.offset for one in await dead_letters.load(transport)] == [5]
    assert await everything(transport, "matched") == []
    note = msgspec.json.decode((await everything(transport, DEAD_LETTERS))[-1].value or b"", type=dead_letters.Resolution)
    assert (note.id, note.state, note.reason) == ("matched-0-4", "discarded", "entered by hand")


async def test_a_webhook_that_could_not_be_read_is_read_again_with_its_own_time(transport: MemoryTransport) -> None:
    """It never was in a topic: it goes through the same door again, and is refused again if it is as bad as before."""
    _, records = ingress.decide(WORKSPACE, b"not json", signed_at=NOW, received_at=NOW)
    refused = msgspec.json.decode(next(one.value for one in records if one.topic == DEAD_LETTERS) or b"", type=DeadLetter)
    sent = dead_letters.again(refused, {"w": WORKSPACE}, NOW + 99)
    assert [one.topic for one in sent] == [DEAD_LETTERS, "synced"]
    assert {dict(one.headers)["replay"] for one in sent} == {f"retry:{NOW}:{NOW + 99}:1".encode()}
    with pytest.raises(UsageError, match="has no settings"):
        dead_letters.again(refused, {}, NOW)


async def bad_webhook(transport: MemoryTransport, at: int, body: bytes = b"{nope", workspace: Workspace = WORKSPACE) -> None:
    """The same bytes to the same workspace are a letter of the same id, whenever they come."""
    _, records = ingress.decide(workspace, body, signed_at=NOW, received_at=at)
    writer = transport.writer()
    await writer.start()
    await writer.send(records)


async def test_a_webhook_that_still_cannot_be_read_stays_open_with_one_more_try(transport: MemoryTransport) -> None:
    """Its id is its own although the secrets of the room, masked in it, are part of what the id is made of."""
    await bad_webhook(transport, NOW, b'{"password_key": "open-sesame')
    (refused,) = await dead_letters.load(transport)
    writer = transport.writer()
    await writer.start()
    assert await dead_letters.retry(writer, [refused], {"w": WORKSPACE}, NOW + 99) == [refused]
    (again,) = await dead_letters.load(transport)
    assert again == msgspec.structs.replace(refused, at=NOW + 99, tries=2)


@pytest.mark.parametrize(
    "body",
    [
        b"{nope",
        b"\xff",
        b'{"data":{}}',
        b'{"data":{"id":"p1","attributes":{}}}',
        b'{"data":{"id":"p1","attributes":{},"meta":{"webhook":{"event":"people.registered","organization_id":"another"}}}}',
    ],
)
async def test_the_same_bad_body_is_a_letter_of_each_workspace_that_it_was_posted_to(transport: MemoryTransport, body: bytes) -> None:
    """A webhook that is sent to two workspaces by mistake is told in both; a repeat to one of them is not told twice."""
    other = Workspace(id="v", org="o", livestorm=Livestorm(organization_id="y", webhook_secret="s"))
    for at, workspace in enumerate((WORKSPACE, other, other)):
        await bad_webhook(transport, NOW + at, body, workspace)
    letters = await dead_letters.load(transport)
    assert [(one.workspace, one.at) for one in letters] == [("w", NOW), ("v", NOW + 2)]
    writer = transport.writer()
    await writer.start()
    await dead_letters.discard(writer, letters[:1], "it was for the other one", NOW + 3)
    assert [one.workspace for one in await dead_letters.load(transport)] == ["v"]


async def test_what_was_decided_about_a_letter_decides_nothing_about_one_that_came_under_its_id_meanwhile(
    transport: MemoryTransport,
) -> None:
    await bad_webhook(transport, NOW)
    seen = await dead_letters.load(transport)
    await bad_webhook(transport, NOW + 1)
    writer = transport.writer()
    await writer.start()
    await dead_letters.discard(writer, seen, "a mistake of theirs", NOW + 2)
    (left,) = await dead_letters.load(transport)
    assert left.at == NOW + 1
    await dead_letters.discard(writer, [left], "the same mistake", NOW + 3)
    assert await dead_letters.load(transport) == []


async def test_a_note_of_an_earlier_version_decides_about_whatever_has_its_id(transport: MemoryTransport) -> None:
    await write(transport, letter(4))
    writer = transport.writer()
    await writer.start()
    note = msgspec.json.encode({"id": "matched-0-4", "state": "retried", "at": NOW})
    await writer.send([Outgoing(DEAD_LETTERS, b"ada@example.com", note, ((dead_letters.RESOLUTION, b"retried"),))])
    assert await dead_letters.load(transport) == []


def test_a_choice_fits_by_every_word_that_is_given() -> None:
    letters = [letter(1), letter(2, workspace="v"), letter(3, stage="match"), letter(4, cause="OTHER")]
    assert [one.offset for one in dead_letters.chosen(letters, Choice(workspace="w", stage="create"))] == [1, 4]
    assert [one.offset for one in dead_letters.chosen(letters, Choice(cause="OTHER"))] == [4]
    assert dead_letters.chosen(letters, Choice()) == letters
    with pytest.raises(UsageError, match="matched-0-99"):
        dead_letters.chosen(letters, Choice(ids=("matched-0-1", "matched-0-99")))


def test_a_name_that_nothing_has_is_a_mistake_and_one_of_letters_alone_is_not() -> None:
    letters = [letter(1, workspace="gone"), letter(2, stage="of-before")]
    assert [one.offset for one in dead_letters.chosen(letters, Choice(workspace="gone"), ["w"])] == [1]
    assert [one.offset for one in dead_letters.chosen(letters, Choice(stage="of-before"), ["w"])] == [2]
    assert dead_letters.chosen([], Choice(workspace="w", stage="ingress"), ["w"]) == []
    with pytest.raises(UsageError, match=r"no workspace 'emea'; known are: apac, gone, w$"):
        dead_letters.chosen(letters, Choice(workspace="emea"), ["apac"])
    with pytest.raises(UsageError, match=r"no stage 'nope'; known are: .*ingress, match, normalize, of-before$"):
        dead_letters.chosen(letters, Choice(stage="nope"))


def test_a_letter_is_shown_decoded_where_it_can_be_and_always_with_its_bytes() -> None:
    shown = dead_letters.detail(letter(1))
    assert shown["message"] == {"untouched": "é", "spaces": 1}
    assert shown["message_base64"] == "eyJ1bnRvdWNoZWQiOiAiXHUwMGU5IiwgICJzcGFjZXMiOiAxfQ=="
    halved = msgspec.structs.replace(letter(1), message=b'\xef\xbb\xbf{"cut": "A\\ud83d"}')
    assert dead_letters.detail(halved)["message"] == {"cut": "A\ufffd"}
    deep = msgspec.structs.replace(letter(1), message=b"[" * 100_000)
    assert dead_letters.detail(deep)["message"] is None
    raw = msgspec.structs.replace(letter(1), message=b"\xff\x00")
    assert dead_letters.detail(raw)["message"] is None
    assert dead_letters.detail(raw)["message_base64"] == "/wA="
    assert set(dead_letters.summary(raw)) == {
        "id", "at", "stage", "workspace", "org", "email", "session", "event", "causes", "topic", "partition", "offset", "tries",
    }  # fmt: skip
