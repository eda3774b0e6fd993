"""Rules 7, 8, 10 and 12: the Campaign of a session, who counts as what on it, and what happens where there can be none."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.flow import house as houses
from tests.flow import processes, watching
from tests.flow.conftest import Estate, Open, opener
from tests.flow.livestorm import DAY
from tests.flow.place import Place
from tests.flow.salesforce import Record
from tests.flow.watching import eventually

RANKS = {None: -1, "Registered": 0, "Did not attend": 1, "Attended": 2}


def statuses(member: Record) -> list[str]:
    """The Status that a member had, one after the other."""
    return [entry["changes"]["Status"][1] for entry in member["history"] if "Status" in entry["changes"]]


async def test_rule_07_each_session_makes_one_campaign(place: Place) -> None:
    """Name with the local date and time, Type, dates, Status; its member statuses stand before the first member."""
    starts_at = 1_798_801_200  # 2027-01-01 11:00 UTC: already 2 January nowhere, still 20:00 in Tokyo
    session = await place.session("New Year tour", estimated_started_at=starts_at, timezone="Asia/Tokyo")
    await place.registered(session, "ada@harbour.example")
    await place.synced()
    campaign = await place.org.campaign(session.id)
    told = {name: campaign[name] for name in ("Name", "Type", "StartDate", "EndDate", "IsActive", "Status")}
    assert told == {
        "Name": "New Year tour - 2027-01-01 20:00 Asia/Tokyo", "Type": "Webinar", "StartDate": "2027-01-01", "EndDate": "2027-01-01",
        "IsActive": True, "Status": "Planned",
    }  # fmt: skip
    labels = {one["Label"]: one for one in await place.org.records("CampaignMemberStatus") if one["CampaignId"] == campaign["Id"]}
    ours = {label: (labels[label]["HasResponded"], labels[label]["IsDefault"]) for label in RANKS if label}
    assert ours == {"Registered": (False, True), "Attended": (True, False), "Did not attend": (False, False)}
    [member] = await place.org.records("CampaignMember")
    assert max(labels[label]["history"][0]["at"] for label in ours) <= member["history"][0]["at"]


async def test_rule_07_status_follows_started_and_ended(place: Place) -> None:
    """Planned, In Progress, Completed; telling the creation once more changes nothing, and there is one Campaign all the time."""
    session = await place.session()
    await place.followed(session, count=1)
    await place.started(session)
    await place.followed(session, count=2)
    assert (await place.org.campaign(session.id))["Status"] == "In Progress"
    await place.ended(session)
    await place.followed(session, count=3)
    assert (await place.org.campaign(session.id))["Status"] == "Completed"
    await place.tell_session(session, "session.created")
    await place.followed(session, count=4)
    campaign = await place.org.campaign(session.id)
    seen = [entry["changes"]["Status"][1] for entry in campaign["history"] if "Status" in entry["changes"]]
    assert seen == ["Planned", "In Progress", "Completed"]


async def test_rule_07_live_and_on_demand_sessions_make_campaigns_too(place: Place) -> None:
    """A live one is in progress from the start; one on demand is named so."""
    now = int(time.time())
    live = await place.session("Live now", status="live", started_at=now - 600, estimated_started_at=now - 600)
    on_demand = await place.session("The tour", status="on_demand", estimated_started_at=0)
    await place.followed(live)
    await place.followed(on_demand)
    assert (await place.org.campaign(live.id))["Status"] == "In Progress"
    assert (await place.org.campaign(on_demand.id))["Name"] == "The tour - On demand"


async def test_rule_07_a_long_title_is_cut_without_losing_the_date(place: Place) -> None:
    """A Campaign's name takes 80 characters."""
    session = await place.session("A very long title of a webinar " * 5, estimated_started_at=1_798_801_200, timezone="UTC")
    await place.followed(session)
    name = (await place.org.campaign(session.id))["Name"]
    assert len(name) <= 80
    assert name.startswith("A very long title of a webinar")
    assert name.endswith(" - 2027-01-01 11:00 UTC")


async def test_rule_07_a_past_session_makes_none_and_its_registrants_are_counted(place: Place) -> None:
    """It ended before the workspace was connected: whatever comes of it is dropped, and told."""
    ended_at = int(time.time()) - 60 * DAY
    past = place.unknown_session(
        "Last year", status="past", estimated_started_at=ended_at - 3600, started_at=ended_at - 3600, ended_at=ended_at
    )
    await place.tell_event(past)
    await place.registered(past, "early@harbour.example")
    await place.tell_session(past, "session.ended")
    await place.attended(past, "late@harbour.example")
    await place.settled()
    assert [(one.value["outcome"], one.value["reason"]) for one in place.outcomes()] == [("dropped", "past_session")] * 2
    assert (await place.org.calls())["total"] == 0
    await counted(place, 2, outcome="dropped", reason="past_session")


@pytest.mark.parametrize("order", ["told in order", "told backwards"])
async def test_rule_07_an_org_that_was_down_over_the_end_still_gets_campaign_and_attendance(place: Place, order: str) -> None:
    """The session was told, held and ended while the org was away; in whatever order, the Campaign is made and attendance lands."""
    await place.org.fault("http-503")
    session = place.unknown_session("While you were away")
    await place.tell_event(session)
    acts: list[Callable[[], Awaitable[None]]] = [
        lambda: place.tell_session(session, "session.created"),
        lambda: place.registered(session, "ada@harbour.example"),
        lambda: place.started(session),
        lambda: place.ended(session),
        lambda: place.attended(session, "ada@harbour.example"),
    ]
    for act in acts if order == "told in order" else reversed(acts):
        await act()

    async def blocked() -> None:
        assert any(lane["state"] == "blocked" for lane in await place.waiting())

    await eventually(blocked)
    await place.org.heal()
    await place.synced()
    await place.followed(session, count=3)
    campaign = await place.org.campaign(session.id)
    assert campaign["Status"] == "Completed"
    member = await place.org.member(campaign["Id"], await place.org.one("Lead", "ada@harbour.example"))
    assert member["Status"] == "Attended"


async def test_rule_07_a_registration_waits_for_its_session(place: Place) -> None:
    """It comes first, waits without a call, and goes on by itself once the session and its event are told."""
    session = place.unknown_session("Nobody told")
    await place.registered(session, "ada@harbour.example")

    async def waits() -> None:
        lanes = await place.waiting()
        assert any(lane["stage"] == "normalize" and lane["state"] == "waiting" for lane in lanes), lanes

    await eventually(waits)
    assert place.outcomes() == []
    assert (await place.org.calls())["total"] == 0
    await place.tell_session(session, "session.created")
    await place.tell_event(session)
    await place.synced()
    await place.org.member((await place.org.campaign(session.id))["Id"], await place.org.one("Lead", "ada@harbour.example"))


@pytest_asyncio.fixture
async def hasty(bootstrap: str, estate: Estate, http: aiohttp.ClientSession, tmp_path: Path) -> AsyncIterator[Place]:
    """A place in a house of its own, where nobody waits for what nobody tells for longer than a second."""
    with houses.built(bootstrap, tmp_path, SESSION_WAIT_SECONDS="1") as house:
        await asyncio.to_thread(house.start, houses.ALL)
        async with watching.listening(house.bootstrap, house.prefix, ("synced", "dead-letters")) as heard:
            yield await opener(house, estate, heard, http)()


async def test_rule_07_a_session_whose_event_comes_after_the_longest_wait_has_its_campaign_and_says_why_not_before(hasty: Place) -> None:
    """Its people are told why they wait, and are members by themselves once the event is told."""
    place = hasty
    session = place.unknown_session("Told late")
    await place.tell_session(session, "session.created")
    await place.registered(session, "ada@harbour.example")

    async def waits() -> None:
        told = {lane["stage"]: lane["cause"] for lane in await place.waiting() if lane["state"] == "waiting"}
        assert told.keys() == {"campaign-membership"}
        assert all(session.event in cause for cause in told.values()), told

    async def has_waited_for_too_long() -> None:
        assert [letter["key"] for letter in place.dead_letters()] == [f"session:{session.id}"]

    await eventually(has_waited_for_too_long)
    await eventually(waits)
    shown = await asyncio.to_thread(place.house.document, "workspace", "show", place.workspace)
    assert (shown["health"]["state"], session.event in shown["health"]["reason"]) == ("waiting", True)
    [told] = shown["sessions"]
    assert told["problem"] == f"No campaign associated to the session: Livestorm has not told of its event {session.event} yet"
    await place.tell_event(session)
    await place.settled()
    await place.org.member((await place.org.campaign(session.id))["Id"], await place.org.one("Lead", "ada@harbour.example"))


async def test_rule_07_a_session_that_nobody_tells_is_asked_for_where_a_token_is_set(opened: Open, tmp_path: Path) -> None:
    """A hundred registrations of a session that no webhook told of: Livestorm's API tells the session and its event."""
    arguments = ["sandbox", "livestorm", "--port", "0", "--organization", "org", "--token", "token"]
    with processes.running(arguments, processes.environment(), tmp_path / "livestorm.log", r"(http://127\.0\.0\.1:\d+)") as (_, ready):
        livestorm = ready.group(1)
        place = await opened(livestorm={"api_token": "token", "base_url": f"{livestorm}/v1"})
        session = place.unknown_session("Only the API knows", estimated_started_at=1_798_801_200, timezone="UTC")
        for kind, told in (
            ("events", {"id": session.event, "title": session.title}),
            ("sessions", {"id": session.id, **session.attributes}),
        ):
            async with place.http.post(f"{livestorm}/sandbox/{kind}", json=told) as answer:
                assert answer.status == 200, await answer.text()
        await place.crowd([place.about("people.registered", session, f"guest{number}@asked.example") for number in range(100)])
        await place.synced(seconds=100)
    campaign = await place.org.campaign(session.id)
    assert campaign["Name"] == "Only the API knows - 2027-01-01 11:00 UTC"
    assert len(await place.org.records("CampaignMember")) == 100


async def test_rule_08_status_only_goes_up_whatever_order_things_arrive_in(place: Place) -> None:
    """Every order of registered, not attended and attended, all at once and one by one: never a step back, and the highest stays."""
    session = await place.session()
    await place.ended(session)
    does = {"registered": place.registered, "not_attended": place.not_attended, "attended": place.attended}
    ways = [way for size in (2, 3) for way in itertools.permutations(does, size)]
    emails = {way: f"{'.'.join(way).replace('_', '')}@steps.example" for way in ways}
    for step in range(3):
        for way, email in emails.items():
            if step < len(way):
                await does[way[step]](session, email)
        if step < 2:
            await place.settled()
    await place.synced()
    campaign = await place.org.campaign(session.id)
    for way, email in emails.items():
        member = await place.org.member(campaign["Id"], await place.org.one("Lead", email))
        seen = statuses(member)
        assert [RANKS[status] for status in seen] == sorted(RANKS[status] for status in seen), (way, seen)
        assert seen[-1] == ("Attended" if "attended" in way else "Did not attend"), (way, seen)
        assert member["HasResponded"] == ("attended" in way)


@pytest.mark.parametrize("before", ["attended", "not_attended", "registered"])
async def test_rule_08_a_replay_view_sets_the_replay_field_and_leaves_status_alone(place: Place, before: str) -> None:
    """Whatever the status was; and attendance that comes after the replay still counts."""
    session = await place.session()
    await place.ended(session)
    await getattr(place, before)(session, "ada@harbour.example")
    await place.synced()
    await place.watched(session, "ada@harbour.example")
    await place.synced()
    campaign = await place.org.campaign(session.id)
    member = await place.org.member(campaign["Id"], await place.org.one("Lead", "ada@harbour.example"))
    expected = {"attended": "Attended", "not_attended": "Did not attend", "registered": "Registered"}[before]
    assert (member["Livestorm_Replay_Status__c"], statuses(member)) == ("Watched", [expected])
    await place.attended(session, "ada@harbour.example")
    await place.synced()
    member = await place.org.member(campaign["Id"], await place.org.one("Lead", "ada@harbour.example"))
    assert (member["Livestorm_Replay_Status__c"], member["Status"]) == ("Watched", "Attended")


async def test_rule_08_a_status_that_people_made_is_respected(place: Place) -> None:
    """One that counts as responded is left alone; one that doesn't ranks as Registered."""
    session = await place.session()
    await place.ended(session)
    emails = ("won@harbour.example", "sent@harbour.example")
    for email in emails:
        await place.registered(session, email)
    await place.synced()
    campaign = await place.org.campaign(session.id)
    for email, status in zip(emails, ("Responded", "Sent"), strict=True):
        member = await place.org.member(campaign["Id"], await place.org.one("Lead", email))
        await place.org.edit("CampaignMember", member["Id"], Status=status)
    for email in emails:
        await place.not_attended(session, email)
    await place.synced()
    found = {email: await place.org.member(campaign["Id"], await place.org.one("Lead", email)) for email in emails}
    assert [found[email]["Status"] for email in emails] == ["Responded", "Did not attend"]


@pytest.mark.parametrize("settings", [{"plan": "business"}, {"salesforce_addon": False}, {"enabled": False}])
async def test_rule_10_without_plan_or_addon_all_is_dropped_and_counted(opened: Open, settings: dict[str, object]) -> None:
    """No call to the org, not even a login."""
    place = await opened(**settings)
    session = await place.session()
    await place.registered(session, "ada@harbour.example")
    await place.attended(session, "ada@harbour.example")
    await place.watched(session, "ada@harbour.example")
    await place.settled()
    reason = "disabled" if "enabled" in settings else "not_entitled"
    assert [(one.value["outcome"], one.value["reason"]) for one in place.outcomes()] == [("dropped", reason)] * 3
    await place.followed(session, outcome=reason)
    assert (await place.org.calls())["by_resource"] == {}
    await counted(place, 3, outcome="dropped", reason=reason)


@pytest.mark.parametrize("refusal", ["permission", "validation rule"])
async def test_rule_12_a_campaign_that_cannot_be_made_holds_only_its_own_registrants(place: Place, refusal: str) -> None:
    """It is listed in the org's own words; Leads are written; sessions beside it go on; once mended all arrive by themselves, in order."""
    if refusal == "permission":
        good = await place.session("Good session")
        await place.followed(good)
        rule = await place.org.rule("object-permission", object="Campaign", create=False)
    else:
        rule = await place.org.rule("validation", object="Campaign", message="Campaigns need a budget code", when={"Name": "^Bad"})
        good = await place.session("Good session")
    bad = await place.session("Bad session")
    await place.ended(bad)
    emails = [f"guest{number}@held.example" for number in range(5)]
    for email in emails:
        await place.registered(bad, email, job_title="first")
    for email in emails:
        await place.attended(bad, email, job_title="second")
    await place.registered(good, "free@held.example")

    async def others_go_on() -> None:
        await place.org.member((await place.org.campaign(good.id))["Id"], await place.org.one("Lead", "free@held.example"))
        for email in emails:
            assert (await place.org.one("Lead", email))["Title"] == "second"
        assert len(place.outcomes()) == 1

    await eventually(others_go_on)
    assert place.dead_letters() == []

    async def is_told() -> None:
        shown = await asyncio.to_thread(place.house.document, "workspace", "show", place.workspace)
        [told] = [one for one in shown["sessions"] if one["id"] == bad.id]
        assert told["campaign"] is None
        assert told["problem"].startswith("No campaign associated to the session: ")
        words = "Campaigns need a budget code" if refusal == "validation rule" else "Campaign"
        assert words in told["problem"]
        [fine] = [one for one in shown["sessions"] if one["id"] == good.id]
        assert (fine["problem"], bool(fine["campaign"])) == (None, True)

    await eventually(is_told, 90)
    await place.org.drop_rule(rule)
    await place.synced(seconds=90)
    campaign = await place.org.campaign(bad.id)
    for email in emails:
        member = await place.org.member(campaign["Id"], await place.org.one("Lead", email))
        assert [RANKS[status] for status in statuses(member)] == sorted(RANKS[status] for status in statuses(member))
        assert member["Status"] == "Attended"
    told = [(one.key, one.value["id"]) for one in place.outcomes()]
    assert len(set(told)) == 11


async def counted(place: Place, least: int, **labels: str) -> None:
    """Until so many of the org's outcomes with these labels are counted: a stage tells all of a batch before it counts it."""

    async def look() -> None:
        assert await metric(place, "turnout_outcomes_total", org=place.org.id, **labels) >= least

    await eventually(look)


async def metric(place: Place, name: str, **labels: str) -> float:
    """Sum of a metric's samples with these labels, as the console's process tells them."""
    async with place.http.get(f"{place.house.console}/metrics") as answer:
        text = await answer.text()
    lines = [
        line
        for line in text.splitlines()
        if line.startswith(f"{name}{{") and all(f'{label}="{value}"' in line for label, value in labels.items())
    ]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
