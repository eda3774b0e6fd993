"""Rules 13 to 16: refusals stay with their record, an org's trouble stays its own, and what is right does not change."""

import base64
import json
import time

from aiokafka import AIOKafkaProducer

from schemas.messages import Registration, Session
from tests.flow import trouble
from tests.flow.conftest import Open
from tests.flow.livestorm import new_id
from tests.flow.place import Place
from tests.flow.processes import done
from tests.flow.salesforce import Org, changes
from tests.flow.watching import Heard, eventually, listening, record_at, send_again


async def test_rule_13_one_refused_record_leaves_its_batch_mates_alone(place: Place) -> None:
    """A dead letter holds the untouched message, all the causes in the org's words and a hint; everybody else is written."""
    await place.org.rule("validation", object="Lead", message="No pirates", when={"Company": "^Pirate"}, field="Company")
    await place.org.rule("validation", object="Lead", message="Captains are typed by hand", when={"Title": "^Captain"})
    session = await place.session()
    await place.followed(session)
    mates = [f"mate{number}@ship.example" for number in range(9)]
    bad = place.about("people.registered", session, "hook@ship.example", company="Pirate Ltd", job_title="Captain")
    await place.crowd([*(place.about("people.registered", session, mate) for mate in mates[:5]), bad, *(place.about("people.registered", session, mate) for mate in mates[5:])])  # fmt: skip
    await place.settled()
    campaign = await place.org.campaign(session.id)
    for mate in mates:
        await place.org.member(campaign["Id"], await place.org.one("Lead", mate))
    leads = await place.org.records("Lead")
    assert sorted(lead["Email"] for lead in leads) == sorted(mates)
    [letter] = place.dead_letters()
    assert (letter["stage"], letter["email"], letter["workspace"], letter["org"]) == (
        "create",
        "hook@ship.example",
        place.workspace,
        place.org.id,
    )
    assert sorted(cause["message"] for cause in letter["causes"]) == ["Captains are typed by hand", "No pirates"]
    assert all(cause["code"] == "FIELD_CUSTOM_VALIDATION_EXCEPTION" for cause in letter["causes"])
    assert any(cause.get("hint") for cause in letter["causes"])
    topic = f"{place.house.prefix}.{letter['topic']}"
    untouched = await record_at(place.house.bootstrap, topic, letter["partition"], letter["offset"])
    assert base64.b64decode(letter["message"]) == untouched


async def test_rule_13_a_dead_letter_can_be_looked_at_and_tried_again(place: Place) -> None:
    """`turnout dead-letters list`, `show` and `retry`: once the rule is gone, the person arrives."""
    rule = await place.org.rule("validation", object="Lead", message="No pirates", when={"Company": "^Pirate"})
    session = await place.session()
    await place.registered(session, "hook@ship.example", company="Pirate Ltd")
    await place.registered(session, "mate@ship.example")
    await place.settled()
    [letter] = place.house.document("dead-letters", "list", "--workspace", place.workspace)["dead_letters"]
    assert letter["causes"][0]["message"] == "No pirates"
    shown = place.house.document("dead-letters", "show", letter["id"])
    assert shown["message"]["email"] == "hook@ship.example"
    assert base64.b64decode(shown["message_base64"])
    await place.org.drop_rule(rule)
    done(["dead-letters", "retry", letter["id"]], place.house.environment)
    assert place.house.document("dead-letters", "list", "--workspace", place.workspace)["dead_letters"] == []

    async def arrives() -> None:
        await place.org.member((await place.org.campaign(session.id))["Id"], await place.org.one("Lead", "hook@ship.example"))

    await eventually(arrives)


async def test_rule_14_an_org_that_is_down_is_not_noticed_by_others_and_catches_up_in_order(place: Place, opened: Open) -> None:
    """Lag says whose lane waits and why."""
    await trouble.catches_up(place, await opened(), "down")


async def everything(org: Org) -> dict[str, list[dict[str, object]]]:
    return {
        name: await org.records(name, deleted=True)
        for name in ("Lead", "Contact", "Account", "Campaign", "CampaignMemberStatus", "CampaignMember")
    }


async def test_rule_15_what_is_right_is_not_written_again(place: Place) -> None:
    """Equal values of a known person, and the same webhooks twice: not one record is sent to be written."""
    await place.org.seed(
        Lead=[{"Email": "same@harbour.example", "FirstName": "Ada", "LastName": "Berg", "Company": "Harbour Ltd", "Title": "Mate"}]
    )
    session = await place.session()
    await place.ended(session)
    webhooks = [
        place.about("people.registered", session, "same@harbour.example", job_title="Mate"),
        place.about("people.registered", session, "new@harbour.example", job_title="Cook"),
        place.about("people.attended", session, "new@harbour.example", job_title="Cook"),
        place.about("people.watched_replay", session, "new@harbour.example", job_title="Cook", replay_view_detail={"watched_at": int(time.time())}),
    ]  # fmt: skip
    for webhook in webhooks:
        await place.post(*webhook)
        await place.synced()
        if webhook is webhooks[0]:
            assert "Lead" not in await place.org.written(), "an org is not asked to write what it holds"
    assert changes(await place.org.one("Lead", "same@harbour.example")) == []
    await place.followed(session, count=2)
    before = await everything(place.org)
    await place.org.forget_calls()
    for webhook in webhooks:
        await place.post(*webhook)
    await place.synced()
    assert await everything(place.org) == before
    assert await place.org.written() == {}


async def test_rule_15_a_whole_topic_again_changes_nothing(place: Place) -> None:
    """Every record of `received`, then of `matched` and of `resolved`, once more: the org's records keep their histories."""
    now = int(time.time())
    await place.org.seed(Contact=[{"Email": "con@harbour.example", "LastName": "Tact", "Title": "Trainee"}])
    session, other = await place.session("One"), await place.session("Two")
    await place.ended(session)
    for number in range(8):
        email = f"guest{number}@harbour.example"
        await place.registered(session, email, job_title="Mate", updated_at=now - 600)
        await place.registered(other, email, job_title="First Mate", city="Kiel", updated_at=now - 300)
        await place.attended(session, email, job_title="First Mate", city="Kiel")
    await place.registered(session, "con@harbour.example", job_title="Captain")
    await place.synced()
    await place.followed(session, count=2)
    await place.followed(other)
    before = await everything(place.org)
    for topic in ("received", "matched", "resolved"):
        count = await send_again(place.house.bootstrap, f"{place.house.prefix}.{topic}", place.workspace)
        assert count >= 25
        place.told += count
        await place.synced(seconds=60)
        assert await everything(place.org) == before, topic


async def test_rule_15_a_value_that_was_set_since_does_not_go_back(place: Place) -> None:
    """By a later event, or by hand: an older event told again, or told late, only fills what is empty."""
    now = int(time.time())
    session, other = await place.session("One"), await place.session("Two")
    old = place.about("people.registered", session, "ada@harbour.example", job_title="Mate", updated_at=now - 3000)
    await place.post(*old)
    await place.synced()
    await place.registered(other, "ada@harbour.example", job_title="Captain", updated_at=now - 2000)
    await place.synced()
    await place.post(*old)
    await place.synced()
    lead = await place.org.one("Lead", "ada@harbour.example")
    assert lead["Title"] == "Captain"
    await place.org.edit("Lead", lead["Id"], Title="Admiral")
    await place.post(*old)
    await place.registered(await place.session("Three"), "ada@harbour.example", job_title="Cook", city="Kiel", updated_at=now - 1000)
    await place.synced()
    lead = await place.org.one("Lead", "ada@harbour.example")
    assert (lead["Title"], lead["City"]) == ("Admiral", "Kiel")
    await place.registered(await place.session("Four"), "ada@harbour.example", job_title="Retired", updated_at=int(time.time()) + 2)
    await place.synced()
    assert (await place.org.one("Lead", "ada@harbour.example"))["Title"] == "Retired"


async def test_rule_15_with_an_event_time_field_only_later_events_overwrite(opened: Open) -> None:
    """Where the org has the field, the time of the event that set the values decides, in whatever order events come."""
    place = await opened(org_settings={"event_time_field": "Event_Time__c"})
    for object in ("Lead", "Contact"):
        await place.org.rule("custom-field", object=object, field="Event_Time__c", type="datetime")
    now = int(time.time())
    sessions = [await place.session(f"Part {number}") for number in range(3)]
    for session, title, age in zip(sessions, ("second", "third", "first"), (2000, 1000, 3000), strict=True):
        await place.registered(session, "ada@harbour.example", job_title=title, updated_at=now - age)
        await place.synced()
    lead = await place.org.one("Lead", "ada@harbour.example")
    assert lead["Title"] == "third"
    written = [entry["changes"]["Title"][1] for entry in lead["history"] if "Title" in entry["changes"]]
    assert written == ["second", "third"]
    assert lead["Event_Time__c"].startswith(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now - 1000)))


async def test_rule_16_every_outcome_names_the_record_of_that_very_person(place: Place) -> None:
    """New and known, Leads and Contacts, refused ones between them, and lost answers: no id is somebody else's."""
    known = {f"known{number}@ids.example": ("Contact" if number % 2 else "Lead") for number in range(20)}
    await place.org.seed(
        Contact=[{"Email": email, "LastName": "Known", "Title": "old"} for email, object in known.items() if object == "Contact"],
        Lead=[
            {"Email": email, "LastName": "Known", "Company": "Ids", "Title": "old"} for email, object in known.items() if object == "Lead"
        ],
    )
    await place.org.rule("validation", object="Lead", message="No", when={"Company": "^Refused"})
    session = await place.session()
    await place.followed(session)
    await place.org.fault("drop-after-commit", resource="composite", object="Lead", times=1)
    people = [*known, *(f"new{number}@ids.example" for number in range(30))]
    refused = [f"refused{number}@ids.example" for number in range(10)]
    crowd = [*((email, "Ids") for email in people), *((email, "Refused Ltd") for email in refused)]
    crowd.sort(key=lambda one: hash((one, new_id())))
    await place.crowd([place.about("people.registered", session, email, company=company, job_title="new") for email, company in crowd])
    await place.settled(seconds=90)
    owners = {
        record["Id"]: (object, record["Email"])
        for object in ("Lead", "Contact")
        for record in await place.org.records(object)
    }  # fmt: skip
    members = {member["Id"]: member["LeadId"] or member["ContactId"] for member in await place.org.records("CampaignMember")}
    assert sorted(letter["email"] for letter in place.dead_letters()) == sorted(refused)
    emitted = [one.value for one in place.outcomes() if one.value["outcome"] == "emitted"]
    assert sorted(one["email"] for one in emitted) == sorted(people)
    for one in emitted:
        named: dict[str, str] = {}
        for step in one["trail"]:
            named |= step.get("salesforce", {})
        [object] = [name for name in ("Lead", "Contact") if name in named]
        assert owners[named[object]] == (object, one["email"])
        assert members[named["CampaignMember"]] == named[object]
    assert len(await place.org.records("Lead")) == 10 + 30


async def test_what_a_later_version_adds_to_a_message_passes_every_stage_and_its_neighbours_stay_as_they_are(place: Place) -> None:
    """Old and new workers run side by side during an upgrade, and on the way back."""
    added = {"consent": {"given": True, "texts": ["t1"]}, "score": 7}
    async with listening(place.house.bootstrap, place.house.prefix, ("received", "normalized", "matched", "resolved")) as told:
        session = await place.session()
        await place.registered(session, "old@harbour.example")
        await place.synced()
        await place.followed(session)

        async def both_kinds() -> list[Heard]:
            found = [one for one in told.of("received", place.workspace) if one.headers["kind"] in ("session", "registration")]
            assert {one.headers["kind"] for one in found} == {"session", "registration"}
            return found

        async with AIOKafkaProducer(bootstrap_servers=place.house.bootstrap) as producer:
            for one in await eventually(both_kinds):
                value = {**json.loads(one.raw.replace(b"old@harbour", b"new@harbour")), **added, "id": f"later-{one.value['id']}"}
                head = {**one.headers, "id": value["id"], "schema": "2"}
                await producer.send_and_wait(
                    f"{place.house.prefix}.received", json.dumps(value).encode(), key=one.key.replace("old@", "new@").encode(),
                    headers=[(name, text.encode()) for name, text in head.items()],
                )  # fmt: skip
        place.told += 1
        await place.synced()
        await place.followed(session, count=2)
        known = {
            "registration": {"kind", *Registration.__struct_fields__},
            "session": {"kind", *Session.__struct_fields__},
        }

        async def passed(topic: str, kind: str) -> None:
            """The topic has messages of this kind of both versions, each with what its own version has."""
            found = [one for one in told.of(topic, place.workspace) if one.headers["kind"] == kind]
            unknown = [(one.headers["schema"], {name: one.value[name] for name in one.value.keys() - known[kind]}) for one in found]
            assert ("1", {}) in unknown
            assert ("2", added) in unknown
            assert all(each in (("1", {}), ("2", added)) for each in unknown), unknown

        for topic in ("normalized", "matched", "resolved"):
            await eventually(lambda topic=topic: passed(topic, "registration"))  # type: ignore[misc]
        for topic in ("normalized", "matched"):
            await eventually(lambda topic=topic: passed(topic, "session"))  # type: ignore[misc]
    campaign = await place.org.campaign(session.id)
    for email in ("old@harbour.example", "new@harbour.example"):
        await place.org.member(campaign["Id"], await place.org.one("Lead", email))
