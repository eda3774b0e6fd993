"""What others met in the field: times, loose types, and labels of statuses (F10–F12, F15)."""

import time
from typing import Any

import pytest

from tests.flow import livestorm
from tests.flow.conftest import Open
from tests.flow.place import Place


async def test_f10_a_date_on_the_other_side_of_the_clock_change(place: Place) -> None:
    """The offset is the one of the session's own date, not of the day on which it was told."""
    session = await place.session(
        "Autumn tour",
        estimated_started_at=1_793_507_400,
        timezone="America/Los_Angeles",
        created_at=1_785_000_000,
        updated_at=1_785_000_000,
    )
    winter = await place.session("Winter tour", estimated_started_at=1_793_511_000 + 86_400, timezone="America/Los_Angeles")
    await place.followed(session)
    await place.followed(winter)
    campaign = await place.org.campaign(session.id)
    assert campaign["Name"] == "Autumn tour - 2026-10-31 21:30 America/Los_Angeles"
    assert campaign["StartDate"] == campaign["EndDate"] == "2026-10-31"
    campaign = await place.org.campaign(winter.id)
    assert campaign["Name"] == "Winter tour - 2026-11-01 21:30 America/Los_Angeles"
    assert campaign["StartDate"] == campaign["EndDate"] == "2026-11-01"


MAPPING = {
    "lead": {"Vip__c": "vip", "Team_Size__c": "team_size", "Topics__c": "topics"},
    "campaign_member": {"Minutes__c": "attendance_minutes", "Rate__c": "attendance_rate"},
}


async def test_f11_values_of_loose_types_are_understood(opened: Open) -> None:
    """Numbers as text, times as floats, answers that are no text, an empty replay view, unknown keys at every level."""
    place = await opened(mapping=MAPPING)
    for field in ("Vip__c", "Team_Size__c", "Topics__c"):
        await place.org.text_field("Lead", field)
    for field in ("Minutes__c", "Rate__c"):
        await place.org.rule("custom-field", object="CampaignMember", field=field, type="double")
    session = await place.session()
    await place.ended(session)
    trigger, type, id, attributes = place.about(
        "people.attended", session, "loose@harbour.example", vip=True, team_size=12, topics=["ships", "ports"], nothing=None, attendance_duration="1800",
        attendance_rate="87.5", replay_view_detail={},
    )  # fmt: skip
    attributes["created_at"] = 1793507400.0
    attributes["brand_new"] = {"deep": [1, None]}
    attributes["registrant_detail"]["brand_new"] = [[]]
    attributes["registrant_detail"]["fields"][0]["brand_new"] = {"a": 1}
    attributes["messages_count"] = "null"
    body = livestorm.body(place.organization, trigger, type, id, attributes)
    body["brand_new"] = 1
    body["data"]["brand_new"] = {"x": "y"}
    body["data"]["meta"]["brand_new"] = 2
    body["data"]["meta"]["webhook"]["brand_new"] = 3
    await place.deliver(livestorm.encode(body))
    await place.synced()
    lead = await place.org.one("Lead", "loose@harbour.example")
    assert (lead["Vip__c"], lead["Team_Size__c"]) == ("true", "12")
    assert [part.strip() for part in lead["Topics__c"].replace(",", ";").split(";")] == ["ships", "ports"]
    member = await place.org.member((await place.org.campaign(session.id))["Id"], lead)
    assert (member["Minutes__c"], member["Rate__c"], member["Status"]) == (30, 87.5, "Attended")


ANYTHING: tuple[Any, ...] = (None, [], {}, "", True, 5, "x", {"webhook": {}})
ODD: tuple[tuple[str, Any], ...] = (
    *(
        (place, value)
        for place in (
            "meta", "data.meta", "data.type", "data.relationships", "data.attributes.created_at", "data.attributes.updated_at",
            "data.attributes.registrant_detail.created_at", "data.attributes.registrant_detail.updated_at",
            "data.attributes.registrant_detail.event_id",
        )
        for value in ANYTHING
    ),
    ("data.attributes.created_at", "2026-11-01T04:30:00Z"), ("data.attributes.messages_count", {"no": "number"}),
    ("data.attributes.timezone", ["Europe/Paris"]), ("data.attributes.avatar_link", 5), ("data.attributes.role", None),
    ("data.attributes.first_name", {"x": 1}), ("data.attributes.registrant_detail.attendance_rate", "a lot"),
    ("data.attributes.registrant_detail.utm_source", [1, 2]), ("data.attributes.registrant_detail.attended", "perhaps"),
    ("data.attributes.registrant_detail.fields", "none"), ("data.attributes.registrant_detail.fields", [None, 5, {"id": 7, "value": 1}]),
    ("data.attributes.replay_view_detail", "yes"),
)  # fmt: skip
"""Places in a webhook that no person hangs on, and values that nobody expects there."""


def put(body: dict[str, Any], path: str, value: Any) -> None:
    """Sets one value of a webhook."""
    *way, name = path.split(".")
    for step in way:
        body = body[step]
    body[name] = value


async def test_f11_a_person_whose_only_fault_is_an_extra_value_is_synced(place: Place) -> None:
    """A value that can't be read is left out, and the person isn't."""
    session = await place.session()
    for number, (path, value) in enumerate(ODD):
        body = livestorm.body(place.organization, *place.about("people.registered", session, f"odd{number}@harbour.example"))
        body["meta"] = body["data"]["meta"]
        put(body, path, value)
        await place.deliver(livestorm.encode(body))
    await place.synced()
    campaign = await place.org.campaign(session.id)
    for number in range(len(ODD)):
        await place.org.member(campaign["Id"], await place.org.one("Lead", f"odd{number}@harbour.example"))


BROKEN: tuple[tuple[str, Any], ...] = (
    ("attributes", "text"), ("attributes", None), ("attributes.registrant_detail", 5), ("attributes.registrant_detail.session_id", 12), ("id", None),
)  # fmt: skip
"""Places in a webhook's data without which nobody knows what it is about."""


async def test_f11_what_cannot_be_understood_is_a_dead_letter_with_its_path(place: Place) -> None:
    """Taken, kept whole, told with the path of the value; and the product goes on."""
    session = await place.session()
    for path, value in BROKEN:
        body = livestorm.body(place.organization, *place.about("people.registered", session, "broken@harbour.example"))
        put(body["data"], path, value)
        await place.deliver(livestorm.encode(body))
        await place.settled()
        letter = place.dead_letters()[-1]
        assert path.rpartition(".")[2] in " ".join(letter["causes"][0]["fields"]), letter["causes"]
    await place.registered(session, "fine@harbour.example")
    await place.settled()
    assert len(place.dead_letters()) == len(BROKEN)


async def test_a_time_far_ahead_keeps_no_later_event_out(place: Place) -> None:
    """What is said to have happened after its webhook was signed happened when it was signed."""
    far = 9_999_999_999
    first, second = await place.session("One", updated_at=far), await place.session("Two")
    await place.registered(first, "ada@harbour.example", job_title="Mate", updated_at=far)
    await place.synced()
    await place.registered(second, "ada@harbour.example", job_title="Captain", updated_at=int(time.time()) + 2)
    await place.started(first)
    await place.synced()
    assert (await place.org.one("Lead", "ada@harbour.example"))["Title"] == "Captain"
    await place.followed(first, count=2)
    assert (await place.org.campaign(first.id))["Status"] == "In Progress"


async def test_f12_the_replay_view_may_be_absent_null_or_told(place: Place) -> None:
    """All are read."""
    session = await place.session()
    views: dict[str, Any] = {
        "absent@harbour.example": None,
        "null@harbour.example": None,
        "told@harbour.example": {"watched_at": 1_793_510_000},
    }
    for email, view in views.items():
        trigger, type, id, attributes = place.about("people.watched_replay", session, email, replay_view_detail=view)
        if email.startswith("absent"):
            del attributes["replay_view_detail"]
        await place.post(trigger, type, id, attributes)
    await place.synced()
    campaign = await place.org.campaign(session.id)
    for email in views:
        member = await place.org.member(campaign["Id"], await place.org.one("Lead", email))
        assert (member["Livestorm_Replay_Status__c"], member["Status"]) == ("Watched", "Registered")


async def test_f12_meta_stands_inside_data_or_at_the_top(place: Place) -> None:
    """In neither place it is a dead letter with its cause; it is rightly signed, so it is taken."""
    session = await place.session()
    for where in ("inside", "top", "both", "neither"):
        body = livestorm.body(place.organization, *place.about("people.registered", session, f"{where}@harbour.example"))
        if where in ("top", "both"):
            body["meta"] = body["data"]["meta"]
        if where in ("top", "neither"):
            del body["data"]["meta"]
        await place.deliver(livestorm.encode(body))
    await place.settled()
    assert [letter["causes"][0]["code"] for letter in place.dead_letters()] == ["no_event_named"]
    assert {lead["Email"] for lead in await place.org.records("Lead")} == {
        f"{where}@harbour.example" for where in ("inside", "top", "both")
    }


async def test_f12_a_registrant_without_details_is_told_and_stops_nothing(place: Place) -> None:
    """`registrant_detail` null: nobody knows which session it is about."""
    session = await place.session()
    trigger, type, id, attributes = place.about("people.registered", session, "bare@harbour.example")
    await place.post(trigger, type, id, attributes | {"registrant_detail": None})
    await place.registered(session, "fine@harbour.example")
    await place.settled()
    assert [letter["causes"][0]["code"] for letter in place.dead_letters()] == ["no_registration"]
    await place.org.one("Lead", "fine@harbour.example")


@pytest.mark.parametrize("attended", ["attended ", "RESPONDED"])
async def test_f15_each_status_is_there_once_also_after_a_lost_answer(opened: Open, attended: str) -> None:
    """Case and blanks make no second label; of ours only attended counts as responded; registered is the default; a second run changes nothing."""
    place = await opened(statuses={"attended": attended})
    await place.org.fault("drop-after-commit", object="CampaignMemberStatus", resource="collections", times=1)
    session = await place.session()
    await place.followed(session)
    await place.ended(session)
    await place.attended(session, "ada@harbour.example")
    await place.synced()
    campaign = await place.org.campaign(session.id)

    async def found() -> list[dict[str, Any]]:
        return [one for one in await place.org.records("CampaignMemberStatus") if one["CampaignId"] == campaign["Id"]]

    labels = [one["Label"].strip().lower() for one in await found()]
    assert len(labels) == len(set(labels))
    by_label = {one["Label"].strip().lower(): (one["HasResponded"], one["IsDefault"]) for one in await found()}
    wanted = {attended.strip().lower(): (True, False), "registered": (False, True), "did not attend": (False, False)}
    assert {label: by_label[label] for label in wanted} == wanted
    member = await place.org.member(campaign["Id"], await place.org.one("Lead", "ada@harbour.example"))
    assert (member["Status"].lower(), member["HasResponded"]) == (attended.strip().lower(), True)
    before = await found()
    at = int(time.time())
    await place.tell_session(session, "session.ended", status="past", started_at=at - 60, ended_at=at, updated_at=at + 1)
    await place.followed(session, count=3)
    assert await found() == before
