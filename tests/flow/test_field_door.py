"""What others met in the field: the door for webhooks (F28–F31), and what must never pass it."""

import asyncio
import base64
import dataclasses
import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests import brokers
from tests.flow import house as houses
from tests.flow import livestorm, processes, watching
from tests.flow.conftest import Estate, Open
from tests.flow.place import Place
from tests.flow.tenants import moved_in
from tests.flow.test_rules_sessions import metric
from tests.flow.watching import eventually
from tests.kafka.apache import ApacheKafka


async def test_f28_the_signature_is_over_the_raw_bytes(place: Place) -> None:
    """Letters beyond ASCII, an emoji, an escape and two blanks after a colon; one byte changed is refused."""
    session = await place.session()
    told = livestorm.body(
        place.organization, *place.about("people.registered", session, "nina@harbour.example", first_name="Niña", last_name="Ticket 🎟")
    )
    raw = livestorm.encode(told).replace(b'"Harbour Ltd"', b'  "Caf\\u00e9"')
    assert "ñ".encode() in raw
    assert "🎟".encode() in raw
    assert b"\\u00e9" in raw
    for at in (0, len(raw) // 2, len(raw) - 1):
        changed = bytearray(raw)
        changed[at] ^= 1
        assert (await place.send(bytes(changed), signed_over=raw))[0] == 401
    await place.deliver(raw)
    await place.synced()
    lead = await place.org.one("Lead", "nina@harbour.example")
    assert (lead["FirstName"], lead["LastName"], lead["Company"]) == ("Niña", "Ticket 🎟", "Café")


async def test_f28_half_a_character_costs_that_character_alone(place: Place) -> None:
    """JavaScript sends a text that it cut inside an emoji with one half of it, escaped."""
    session = await place.session()
    told = livestorm.body(place.organization, *place.about("people.registered", session, "nina@harbour.example", first_name="Nina HALF"))
    await place.deliver(livestorm.encode(told).replace(b"HALF", rb"\ud83d"))
    await place.synced()
    assert (await place.org.one("Lead", "nina@harbour.example"))["FirstName"] == "Nina \ufffd"


async def test_f29_bytes_that_are_not_utf8_are_taken_and_told(place: Place) -> None:
    """Rightly signed: 202; a dead letter names the position; and the next one is served."""
    session = await place.session()
    told = livestorm.body(place.organization, *place.about("people.registered", session, "jorg@harbour.example", first_name="J?rgen"))
    raw = livestorm.encode(told).replace(b"J?rgen", b"J\xfcrgen")
    await place.deliver(raw)
    await place.settled()
    [letter] = place.dead_letters()
    assert letter["causes"][0]["code"] == "not_utf8"
    assert str(raw.index(b"\xfc")) in letter["causes"][0]["message"]
    await place.registered(session, "next@harbour.example")
    await place.settled()
    await place.org.one("Lead", "next@harbour.example")
    assert await metric(place, "turnout_webhooks_total", workspace=place.workspace, outcome="dead_letter") == 1


async def test_f29_whatever_is_rightly_signed_is_taken(place: Place) -> None:
    """A refusal would in the end disable the subscription: each is a dead letter with a cause."""
    bodies = (b"", b"{", b"[]", b"null", b'"x"', b'{"data":null}', b"[" * 5000, b'{"data":{"id":"1"}}', b"\xff\xfe", b"1e999")
    for body in bodies:
        await place.deliver(body)
    await place.settled()
    letters = place.dead_letters()
    assert {base64.b64decode(letter.get("message", "")) for letter in letters} == set(bodies)
    assert all(letter["causes"][0]["message"] and letter["stage"] == "ingress" for letter in letters)


async def test_what_still_cannot_be_read_when_it_is_retried_stays_in_the_list(place: Place) -> None:
    """It would be refused again under the same id; the command says so, and the try counts."""
    await place.deliver(b"{nope")
    await place.settled()
    [letter] = place.dead_letters()
    ended = processes.command(["dead-letters", "retry", letter["id"]], place.house.environment)
    assert (ended.returncode, ended.stdout) == (1, "0 dead letters are on their way again.\n")
    assert letter["id"] in ended.stderr
    [listed] = place.house.document("dead-letters", "list", "--workspace", place.workspace)["dead_letters"]
    assert (listed["id"], listed["tries"]) == (letter["id"], 2)


async def test_f31_too_old_is_told_apart_from_wrong_and_the_tolerance_is_a_setting(place: Place, opened: Open) -> None:
    """A retry with its old header after 22 minutes passes by default; a narrower setting refuses it, and counts it as what it is."""
    narrow = await opened(livestorm={"signature_tolerance_seconds": 600})
    now = int(time.time())
    for age in (30, 90, 240, 600, 22 * 60):
        session = await place.session()
        raw = livestorm.encode(livestorm.body(place.organization, *place.about("people.registered", session, f"late{age}@harbour.example")))
        assert (await place.send(raw, signature=livestorm.sign(place.secret, raw, now - age)))[0] == 202
        place.told += 1
    await place.synced()
    raw = livestorm.encode(
        livestorm.body(narrow.organization, *narrow.about("people.registered", await narrow.session(), "late@harbour.example"))
    )
    refused = {
        "too_old": livestorm.sign(narrow.secret, raw, now - 22 * 60),
        "bad_signature": livestorm.sign("wrong", raw),
        "ahead": livestorm.sign(narrow.secret, raw, now + 400),
        "missing_signature": "",
    }
    for outcome, signature in refused.items():
        before = await metric(narrow, "turnout_webhooks_total", workspace=narrow.workspace, outcome=outcome)
        status, told, _ = await narrow.send(raw, signature=signature)
        assert (status, bool(told["error"])) == (401, True), outcome
        assert await metric(narrow, "turnout_webhooks_total", workspace=narrow.workspace, outcome=outcome) == before + 1
    assert (await narrow.send(raw, signature=livestorm.sign(narrow.secret, raw, now + 250)))[0] == 202


async def test_the_door_refuses_only_what_it_must(place: Place) -> None:
    """404 unknown workspace; 413 too large; another workspace's body is a dead letter; an unknown event is taken and dropped."""
    stranger = Place(place.house, place.org, "nobody-here", place.organization, place.secret, place.topics, place.http)
    assert (await stranger.send(b"{}"))[0] == 404
    assert (await place.send(b'{"x":"' + b"y" * (256 * 1024) + b'"}'))[0] == 413
    session = await place.session()
    foreign = livestorm.body("another-organization", *place.about("people.registered", session, "foreign@harbour.example"))
    await place.deliver(livestorm.encode(foreign))
    await place.settled()
    assert [letter["causes"][0]["code"] for letter in place.dead_letters()] == ["other_workspace"]
    before = await metric(place, "turnout_webhooks_total", workspace=place.workspace, outcome="unknown_event")
    await place.post("people.danced", "people", "p1", {"whatever": 1})
    meta = {"webhook": {"event": "polls.closed", "organization_id": place.organization}}
    bare: tuple[dict[str, Any], ...] = ({"id": "p1"}, {"id": "p1", "attributes": None}, {"id": 5, "attributes": {}}, {"type": "polls"})
    for data in bare:
        await place.deliver(livestorm.encode({"data": {**data, "meta": meta}}))
    await place.settled()
    assert [one.value["reason"] for one in place.outcomes() if one.value["outcome"] == "dropped"] == ["unknown_event"] * 5
    assert await metric(place, "turnout_webhooks_total", workspace=place.workspace, outcome="unknown_event") == before + 5
    assert len(place.dead_letters()) == 1


async def test_the_secrets_of_the_room_never_reach_kafka(place: Place) -> None:
    """`password_key` and `connection_link` are dropped at the door, also from bodies that can't be read."""
    session = await place.session()
    names = ("received", "normalized", "matched", "resolved", "synced", "dead-letters")
    async with watching.listening(place.house.bootstrap, place.house.prefix, names) as heard:
        overheard = dataclasses.replace(place, topics=heard)
        await place.registered(session, "ada@harbour.example")
        raw = livestorm.encode(livestorm.body(place.organization, *place.about("people.registered", session, "cut@harbour.example")))
        await place.deliver(raw[: raw.index(b"is_highlighted")])
        await place.deliver(raw.replace(b'"first_name": "Ada"', b'"first_name": "J\xfcrgen"'))
        await place.settled()

        async def all_of_it() -> None:
            seen = {one.topic for one in heard.heard if one.headers.get("workspace") == place.workspace}
            assert seen == set(names)
            assert (len(overheard.outcomes()), len(overheard.dead_letters())) == (3, 2)

        await eventually(all_of_it)
        for one in heard.heard:
            if one.headers.get("workspace") == place.workspace:
                text = one.raw + (base64.b64decode(one.value["message"]) if one.topic == "dead-letters" else b"")
                assert b"open-sesame" not in text, one.topic
    assert len(place.dead_letters()) == 2


class StoppableBroker:
    """A broker of one test's own, which keeps its port and its data while it is down."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._apache = ApacheKafka(folder / "data") if brokers.kind() == brokers.APACHE else None
        self._child: processes.Child | None = None
        self._starts = 0
        self.bootstrap = ""

    async def start(self) -> None:
        if self._apache is not None:
            await self._apache.start()
            self.bootstrap = self._apache.bootstrap
            return
        self._starts += 1
        port = self.bootstrap.rpartition(":")[2] or "0"
        said = self._folder / f"broker-{self._starts}.log"
        arguments = ["sandbox", "broker", "--port", port, "--data-dir", str(self._folder / "data")]
        self._child = processes.Child(arguments, processes.environment(), said)
        self.bootstrap = (await asyncio.to_thread(self._child.says, r"broker ready at (\S+)")).group(1)

    def stop(self) -> None:
        if self._apache is not None:
            self._apache.stop()
        elif self._child is not None:
            self._child.stop()
            self._child = None


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[StoppableBroker]:
    broker = StoppableBroker(tmp_path)
    try:
        yield broker
    finally:
        broker.stop()


@pytest.mark.timeout(300)
async def test_f30_done_is_said_only_of_what_is_in_the_topic(
    own_broker: StoppableBroker, estate: Estate, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """While Kafka is down: 503 with Retry-After within a bound; afterwards 202, and every 202 is in the topic."""
    await own_broker.start()
    with houses.built(own_broker.bootstrap, tmp_path) as house:
        await asyncio.to_thread(house.start, ("ingress",))
        tenant = estate.take()
        await asyncio.to_thread(house.apply, {"org": [tenant.org_table()], "workspace": [tenant.workspace_table()]})
        async with watching.listening(house.bootstrap, house.prefix, ("received",)) as heard:
            place = await moved_in(house, tenant, heard, http)
            session = place.unknown_session()

            def webhook(email: str) -> bytes:
                return livestorm.encode(livestorm.body(place.organization, *place.about("people.registered", session, email)))

            await place.deliver(webhook("before@harbour.example"))
            await asyncio.to_thread(own_broker.stop)
            began = time.monotonic()
            answers = await asyncio.gather(*(place.send(webhook(f"down{number}@harbour.example")) for number in range(50)))
            assert time.monotonic() - began < 60
            assert {status for status, _, _ in answers} == {503}
            assert all(int(headers["Retry-After"]) > 0 for _, _, headers in answers)
            await own_broker.start()

            async def takes(email: str) -> None:
                status, _, _ = await place.send(webhook(email))
                assert status == 202

            # Each for itself: that one is taken says that its partition is back, and nothing of the others.
            emails = [f"up{number}@harbour.example" for number in range(50)]
            await asyncio.gather(*(eventually(functools.partial(takes, email), 60) for email in emails))

            async def all_there() -> None:
                keys = {one.key for one in heard.heard}
                wanted = {"before@harbour.example", *emails}
                assert wanted <= keys, wanted - keys

            await eventually(all_there)


def test_f28_our_signature_is_the_documented_one() -> None:
    """SHA-256 over timestamp, secret and body, as a fixed value."""
    header = livestorm.sign("s3cret", json.dumps({"a": 1}).encode(), 1_700_000_000)
    assert header == "1700000000,476bde692144547ac2da1e393fdd263f6009286b4e5ddd82b10ac6ba27a8e25b"
