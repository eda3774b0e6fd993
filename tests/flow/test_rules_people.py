"""Rules 1 to 6, 9 and 11: whom a registration finds in the org, whom it makes, and whom it leaves alone."""

import asyncio
import itertools

import pytest

from tests.flow.conftest import Open
from tests.flow.place import Place
from tests.flow.salesforce import US, changes, creator
from tests.flow.watching import eventually


async def test_rule_01_a_contact_wins_over_a_lead_which_is_left_alone(place: Place) -> None:
    """The Contact's mapped fields are updated and it is the member; nothing is written to the Lead of the same address."""
    email = "ada@harbour.example"
    await place.org.seed(
        Contact=[{"Email": email, "FirstName": "Ada", "LastName": "Berg", "Title": "Trainee", "MailingCity": "Old Town"}],
        Lead=[{"Email": email, "FirstName": "Ada", "LastName": "Berg", "Company": "Elsewhere", "Title": "Trainee", "CreatedDate": "2019-01-01T00:00:00.000+0000"}],
    )  # fmt: skip
    session = await place.session()
    await place.registered(session, email, job_title="Head of Ports", city="Hamburg", country="Germany", phone="+49 40 1")
    await place.synced()
    contact, lead = await place.org.one("Contact", email), await place.org.one("Lead", email)
    assert (contact["Title"], contact["MailingCity"], contact["MailingCountry"], contact["Phone"]) == (
        "Head of Ports",
        "Hamburg",
        "Germany",
        "+49 40 1",
    )
    assert changes(lead) == []
    members = await place.org.records("CampaignMember")
    assert [(member["ContactId"], member["LeadId"], member["Status"]) for member in members] == [(contact["Id"], None, "Registered")]
    assert "Lead" not in await place.org.written()


async def test_rule_02_without_a_contact_the_lead_is_updated_and_is_the_member(place: Place) -> None:
    """Mapped fields only: what the form did not tell stays."""
    email = "noor@dune.example"
    await place.org.seed(
        Lead=[{"Email": email, "FirstName": "Noor", "LastName": "Haddad", "Company": "Dune", "Title": "Trainee", "Industry": "Energy"}]
    )
    session = await place.session()
    await place.registered(session, email, first_name="Noor", last_name="Haddad", company="Dune Systems", job_title="CTO")
    await place.synced()
    lead = await place.org.one("Lead", email)
    assert changes(lead) == [{"Title": ["Trainee", "CTO"], "Company": ["Dune", "Dune Systems"]}]
    assert lead["Industry"] == "Energy"
    member = await place.org.member((await place.org.campaign(session.id))["Id"], lead)
    assert (member["LeadId"], member["ContactId"], member["Status"]) == (lead["Id"], None, "Registered")
    assert await place.org.records("Contact") == []


@pytest.mark.parametrize("object", ["Contact", "Lead"])
async def test_rule_03_of_several_the_oldest_wins_every_time(place: Place, object: str) -> None:
    """By CreatedDate, whatever order they were entered in and whoever was changed last; equal dates by Id."""
    company = {"Company": "Fjord"} if object == "Lead" else {}
    base = {"FirstName": "Ada", "LastName": "Berg", **company}
    same = "2020-06-01T12:00:00.000+0000"
    await place.org.seed(
        **{
            object: [
                {**base, "Email": "lee@fjord.example", "Title": "young", "CreatedDate": "2024-01-01T00:00:00.000+0000"},
                {**base, "Email": "lee@fjord.example", "Title": "old", "CreatedDate": "2018-01-01T00:00:00.000+0000"},
                {**base, "Email": "lee@fjord.example", "Title": "middle", "CreatedDate": "2021-01-01T00:00:00.000+0000"},
                {**base, "Email": "mei@fjord.example", "Title": "first", "CreatedDate": same},
                {**base, "Email": "mei@fjord.example", "Title": "second", "CreatedDate": same},
            ]
        }
    )
    before = {record["Title"]: record["Id"] for record in await place.org.records(object)}
    sessions = [await place.session(f"Part {number}") for number in range(3)]
    for session, email in itertools.product(sessions, ("lee@fjord.example", "mei@fjord.example")):
        await place.registered(session, email, company="Fjord", job_title="Captain")
        await place.synced()
    after = {record["Id"]: record["Title"] for record in await place.org.records(object)}
    assert {name: after[id] for name, id in before.items()} == {
        "young": "young", "old": "Captain", "middle": "middle", "first": "Captain", "second": "second",
    }  # fmt: skip
    members = await place.org.records("CampaignMember")
    key = f"{object}Id"
    assert sorted(member[key] for member in members) == sorted([before["old"], before["first"]] * 3)


async def test_rule_04_a_converted_lead_leads_to_its_contact(place: Place) -> None:
    """Converted by hand between registration and attendance, and the Contact got another address: only the Lead leads to it.

    The Contact's membership advances, and nothing is written to the Lead.
    """
    email = "kim@mill.example"
    session = await place.session()
    await place.registered(session, email, job_title="Miller")
    await place.synced()
    lead = await place.org.one("Lead", email)
    await place.org.convert(lead["Id"])
    contact = await place.org.one("Contact", email)
    await place.org.edit("Contact", contact["Id"], Email="kim.miller@private.example")
    frozen = await place.org.one("Lead", email)
    await place.ended(session)
    await place.attended(session, email, job_title="Head Miller")
    await place.synced()
    members = await place.org.records("CampaignMember")
    assert [(member["ContactId"], member["Status"]) for member in members] == [(contact["Id"], "Attended")]
    assert await place.org.one("Lead", email) == frozen
    assert (len(await place.org.records("Lead")), len(await place.org.records("Contact"))) == (1, 1)


async def test_rule_05_nobody_makes_a_lead_and_fallbacks_are_for_creation_alone(place: Place) -> None:
    """Company and LastName fall back when the Lead is made, and never overwrite; a value told later replaces the fallback."""
    first, second = await place.session("One"), await place.session("Two")
    await place.org.seed(Lead=[{"Email": "old@pier.example", "FirstName": "Olga", "LastName": "Petrov", "Company": "Pier & Sons"}])
    await place.registered(first, "blank.name@pier.example", first_name="", last_name="  ", company=" ")
    await place.registered(first, "old@pier.example", first_name="Olga", last_name="", company="")
    await place.registered(first, "full@pier.example", first_name="Fay", last_name="Full", company="Pier", job_title="Mate", city="Kiel", country="Germany", phone="1", website="https://pier.example")  # fmt: skip
    await place.synced()
    made = await place.org.one("Lead", "blank.name@pier.example")
    assert (made["LastName"], made["Company"], made["FirstName"]) == ("blank.name", "[not provided]", None)
    assert creator(made) == US
    full = await place.org.one("Lead", "full@pier.example")
    told = {name: full[name] for name in ("FirstName", "LastName", "Company", "Title", "City", "Country", "Phone", "Website")}
    assert told == {
        "FirstName": "Fay", "LastName": "Full", "Company": "Pier", "Title": "Mate", "City": "Kiel", "Country": "Germany", "Phone": "1",
        "Website": "https://pier.example",
    }  # fmt: skip
    old = await place.org.one("Lead", "old@pier.example")
    assert (old["LastName"], old["Company"]) == ("Petrov", "Pier & Sons")
    assert changes(old) == []
    await place.registered(second, "blank.name@pier.example", first_name="Bo", last_name="Lank", company="Pier")
    await place.registered(second, "full@pier.example", first_name="", last_name="", company="")
    await place.synced()
    made = await place.org.one("Lead", "blank.name@pier.example")
    assert (made["FirstName"], made["LastName"], made["Company"]) == ("Bo", "Lank", "Pier")
    assert changes(await place.org.one("Lead", "full@pier.example")) == []


async def test_rule_06_create_contact_never_makes_a_lead(opened: Open) -> None:
    """The oldest Account of the name, case and number of blanks ignored; else a new one, by as much of the name as the org takes; none where
    the company is blank or was not asked."""
    place = await opened(objects={"create": "contact"})
    await place.org.seed(
        Account=[
            {"Name": "Harbour Works", "Id": "@young", "CreatedDate": "2024-05-01T00:00:00.000+0000"},
            {"Name": "HARBOUR WORKS", "Id": "@old", "CreatedDate": "2015-05-01T00:00:00.000+0000", "Industry": "oldest"},
            {"Name": "Harbour  Two", "Industry": "two blanks"},
        ]
    )
    session = await place.session()
    await place.registered(session, "known@harbour.example", company="harbour works")
    await place.registered(session, "new@harbour.example", company="Brand New Ltd")
    await place.registered(session, "spaced@harbour.example", company="Harbour  Two")
    await place.registered(session, "long@harbour.example", company="Endless " * 700)
    await place.registered(session, "blank@harbour.example", company="   ")
    await place.registered(session, "unasked@harbour.example", company=None)
    await place.synced()
    accounts = {account["Id"]: account for account in await place.org.records("Account")}
    assert len(accounts) == 5
    linked = {}
    for name in ("known", "new", "spaced", "long", "blank", "unasked"):
        contact = await place.org.one("Contact", f"{name}@harbour.example")
        assert creator(contact) == US
        linked[name] = contact["AccountId"]
        await place.org.member((await place.org.campaign(session.id))["Id"], contact)
    assert accounts[linked["known"]]["Industry"] == "oldest"
    assert accounts[linked["new"]]["Name"] == "Brand New Ltd"
    assert accounts[linked["spaced"]]["Industry"] == "two blanks"
    assert accounts[linked["long"]]["Name"] == ("Endless " * 32)[:255].rstrip()
    assert (linked["blank"], linked["unasked"]) == (None, None)
    assert await place.org.records("Lead") == []


async def test_rule_06_with_create_contact_a_lead_that_is_there_is_still_used(opened: Open) -> None:
    """`create` says what is made for nobody; who is a Lead already stays one."""
    place = await opened(objects={"create": "contact"})
    await place.org.seed(Lead=[{"Email": "lea@harbour.example", "LastName": "Berg", "Company": "Harbour Ltd"}])
    session = await place.session()
    await place.registered(session, "lea@harbour.example", job_title="Pilot")
    await place.synced()
    lead = await place.org.one("Lead", "lea@harbour.example")
    assert lead["Title"] == "Pilot"
    await place.org.member((await place.org.campaign(session.id))["Id"], lead)
    assert await place.org.records("Contact") == []


async def test_rule_09_six_sessions_in_two_workspaces_within_20_ms_are_one_lead(opened: Open) -> None:
    """One writer for an address in an org, whichever workspace it comes from; a member for each session."""
    east = await opened()
    west = await opened(org=east.org)
    sessions = [(place, await place.session(f"Session {number}")) for place in (east, west) for number in range(3)]
    emails = [f"guest{number}@busy.example" for number in range(10)]
    posts = [place.registered(session, email.upper() if place is west else email) for email in emails for place, session in sessions]
    await asyncio.gather(*posts)
    await asyncio.gather(east.synced(), west.synced())
    campaigns = {(await east.org.campaign(session.id))["Id"] for _, session in sessions}
    assert len(campaigns) == 6
    for email in emails:
        lead = await east.org.one("Lead", email)
        members = [member for member in await east.org.records("CampaignMember") if member["LeadId"] == lead["Id"]]
        assert sorted(member["CampaignId"] for member in members) == sorted(campaigns)
    assert await east.org.records("Contact") == []


async def test_rule_11_staff_invented_addresses_and_breakout_rooms_never_reach_salesforce(place: Place) -> None:
    """Each is dropped with its reason, told in `synced`; nobody is written and no Campaign is made for the room."""
    session = await place.session()
    await place.followed(session)
    room = place.unknown_session("Break-out", breakout_room_parent_session_id=session.id)
    await place.tell_event(room)
    await place.tell_session(room, "session.created")
    await place.registered(session, "boss@acme.example", role="team_member")
    await place.attended(session, "speaker@acme.example", role="team_member")
    await place.registered(session, "abc123@unknown.livestorm.co")
    await place.attended(session, "ABC123@Unknown.Livestorm.CO ")
    await place.attended(room, "guest@acme.example")
    await place.settled()
    await place.followed(room, outcome="breakout_room")
    reasons = sorted(one.value["reason"] for one in place.outcomes())
    assert reasons == ["breakout_room", "invented_address", "invented_address", "staff", "staff"]
    assert {one.value["outcome"] for one in place.outcomes()} == {"dropped"}
    assert [await place.org.records(name) for name in ("Lead", "Contact", "CampaignMember")] == [[], [], []]
    assert len(await place.org.records("Campaign")) == 1


async def test_rule_11_no_email_is_a_dead_letter_with_its_cause(place: Place) -> None:
    """It never reaches the org; `turnout dead-letters` shows it with its cause and a hint."""
    session = await place.session()
    await place.followed(session)
    await place.org.forget_calls()
    await place.registered(session, None)
    await place.settled()

    async def look() -> None:
        [letter] = place.dead_letters()
        assert [cause["code"] for cause in letter["causes"]] == ["no_email"]
        assert letter["causes"][0]["hint"]

    await eventually(look)
    assert (await place.org.calls())["total"] == 0
    shown = place.house.document("dead-letters", "list", "--workspace", place.workspace)["dead_letters"]
    assert [(letter["stage"], letter["causes"][0]["code"]) for letter in shown] == [("normalize", "no_email")]
