"""What others met in the field: who a person is, and who is none (F1–F5, F13, F14, F16)."""

import pytest

from tests.flow.place import Place
from tests.flow.salesforce import US, changes, creator


@pytest.mark.parametrize(
    "email",
    ["siobhan.o'keefe@harbour.example", "plus+tag@harbour.example", "at{ref}@harbour.example", "all!#$%&'*+/=?^_`{|}~-@harbour.example"],
)
async def test_f01_an_apostrophe_and_its_kind_find_the_lead_that_is_there(place: Place, email: str) -> None:
    """Characters that mean something in a query or an address of the web are only characters in an email."""
    await place.org.seed(Lead=[{"Email": email, "LastName": "Keefe", "Company": "Harbour Ltd"}])
    session = await place.session()
    await place.ended(session)
    await place.registered(session, email, last_name="Keefe")
    await place.synced()
    await place.attended(session, email, last_name="Keefe")
    await place.synced()
    lead = await place.org.one("Lead", email)
    assert creator(lead) == "seed"
    member = await place.org.member((await place.org.campaign(session.id))["Id"], lead)
    assert member["Status"] == "Attended"
    assert len(await place.org.records("Lead")) == len(await place.org.records("CampaignMember")) == 1
    assert "MALFORMED_QUERY" not in await place.org.errors()


async def test_f02_underscore_and_percent_are_no_wildcards(place: Place) -> None:
    """The newer Contact is found although an older one would fit a pattern; a percent sign makes a new Lead of its own."""
    await place.org.seed(
        Contact=[
            {"Email": "a_weber@mill.example", "LastName": "Weber", "CreatedDate": "2024-02-01T00:00:00.000+0000"},
            {"Email": "axweber@mill.example", "LastName": "Axweber", "CreatedDate": "2019-02-01T00:00:00.000+0000"},
        ],
        Lead=[{"Email": "100xyzoff@mill.example", "LastName": "Off", "Company": "Mill", "CreatedDate": "2019-02-01T00:00:00.000+0000"}],
    )
    session = await place.session()
    await place.registered(session, "a_weber@mill.example", last_name="Weber", job_title="Weaver")
    await place.registered(session, "100%off@mill.example")
    await place.synced()
    assert (await place.org.one("Contact", "a_weber@mill.example"))["Title"] == "Weaver"
    assert changes(await place.org.one("Contact", "axweber@mill.example")) == []
    assert changes(await place.org.one("Lead", "100xyzoff@mill.example")) == []
    assert creator(await place.org.one("Lead", "100%off@mill.example")) == US
    assert len(await place.org.records("Lead")) == 2


async def test_f03_case_makes_no_second_person_and_no_write(place: Place) -> None:
    """An address and values that differ from the Lead's in nothing, or the address in case alone."""
    email = "Marta.Kovac@Firma.Example"
    await place.org.seed(Lead=[{"Email": email, "FirstName": "Marta", "LastName": "Kovač", "Company": "Firma", "Title": "Designer"}])
    sessions = [await place.session(f"Part {number}") for number in range(3)]
    for session, spelled in zip(sessions, (email.lower(), email.upper(), f"  {email} "), strict=True):
        await place.registered(session, spelled, first_name="Marta", last_name="Kovač", company="Firma", job_title="Designer")
    await place.synced()
    lead = await place.org.one("Lead", email)
    assert changes(lead) == []
    assert len(await place.org.records("Lead")) == 1
    assert len(await place.org.records("CampaignMember")) == 3
    assert "Lead" not in await place.org.written()


async def test_f04_an_address_that_the_org_refuses_stops_nobody_behind_it(place: Place) -> None:
    """Seven in one batch: six synced, one dead letter that names address and code, and no second try of it."""
    bad = "jörg..weiss@fluss.example"
    session = await place.session()
    await place.followed(session)
    fault = await place.org.fault("INVALID_EMAIL_ADDRESS", object="Lead", email=bad, resource="collections")
    emails = [f"swimmer{number}@fluss.example" for number in range(6)]
    order = [*emails[:3], bad, *emails[3:]]
    await place.crowd([place.about("people.registered", session, email) for email in order])
    await place.settled()
    campaign = await place.org.campaign(session.id)
    for email in emails:
        await place.org.member(campaign["Id"], await place.org.one("Lead", email))
    [letter] = place.dead_letters()
    assert letter["email"] == bad
    assert [cause["code"] for cause in letter["causes"]] == ["INVALID_EMAIL_ADDRESS"]
    assert await place.org.hits(fault) == 1
    await place.at_zero()


async def test_f05_a_lead_that_was_converted_to_another_address_leads_to_its_contact(place: Place) -> None:
    """The Contact gets the title and the membership; nothing is written to the Lead, and no new one made."""
    await place.org.seed(
        Contact=[{"Id": "@kim", "Email": "kim@new-mail.example", "LastName": "Kim", "Title": "Old"}],
        Lead=[{"Email": "kim@old-mail.example", "LastName": "Kim", "Company": "Mail", "IsConverted": True, "ConvertedContactId": "@kim", "ConvertedDate": "2024-05-01"}],
    )  # fmt: skip
    session = await place.session()
    await place.registered(session, "kim@old-mail.example", last_name="Kim", job_title="New")
    await place.synced()
    contact = await place.org.one("Contact", "kim@new-mail.example")
    assert contact["Title"] == "New"
    assert changes(await place.org.one("Lead", "kim@old-mail.example")) == []
    members = await place.org.records("CampaignMember")
    assert [(member["ContactId"], member["LeadId"]) for member in members] == [(contact["Id"], None)]
    assert len(await place.org.records("Lead")) == 1


async def test_f05_both_addresses_of_one_contact_are_one_member(place: Place) -> None:
    """Someone who registers with the old address and the new one is one member, with the higher status."""
    await place.org.seed(
        Contact=[{"Id": "@kim", "Email": "kim@new-mail.example", "LastName": "Kim"}],
        Lead=[{"Email": "kim@old-mail.example", "LastName": "Kim", "Company": "Mail", "IsConverted": True, "ConvertedContactId": "@kim", "ConvertedDate": "2024-05-01"}],
    )  # fmt: skip
    session = await place.session()
    await place.ended(session)
    await place.crowd(
        [
            place.about("people.registered", session, "kim@old-mail.example"),
            place.about("people.registered", session, "kim@new-mail.example"),
            place.about("people.attended", session, "kim@new-mail.example"),
            place.about("people.not_attended", session, "kim@old-mail.example"),
        ]
    )
    await place.synced()
    contact = await place.org.one("Contact", "kim@new-mail.example")
    member = await place.org.member((await place.org.campaign(session.id))["Id"], contact)
    assert member["Status"] == "Attended"


async def test_f13_without_an_address_nobody_reaches_salesforce(place: Place) -> None:
    """Absent, null, blank or no address at all: rejected with a cause, counted, and no call; others go on."""
    session = await place.session()
    await place.followed(session)
    await place.org.forget_calls()
    for email in (None, "", "   ", "n/a", "absent"):
        trigger, type, id, attributes = place.about("people.attended", session, email)
        attributes["registrant_detail"]["fields"] = [{"id": "email", "type": "text", "value": email, "required": True}]
        if email == "absent":
            del attributes["email"]
            attributes["registrant_detail"]["fields"] = []
        await place.post(trigger, type, id, attributes)
    await place.settled()
    assert [[cause["code"] for cause in letter["causes"]] for letter in place.dead_letters()] == [["no_email"]] * 5
    assert (await place.org.calls())["total"] == 0
    await place.registered(session, "ada@harbour.example")
    await place.settled()
    await place.org.one("Lead", "ada@harbour.example")
    assert len(await place.org.records("Lead")) == 1


async def test_f13_an_address_that_stands_in_the_form_alone_is_used(place: Place) -> None:
    """Absent from the attributes, told in `fields`."""
    session = await place.session()
    trigger, type, id, attributes = place.about("people.registered", session, "Form.Only@harbour.example")
    del attributes["email"]
    await place.post(trigger, type, id, attributes)
    await place.synced()
    await place.org.one("Lead", "form.only@harbour.example")


async def test_f14_nobody_came_and_a_walk_in(place: Place) -> None:
    """Three who did not attend, without a single attendee; then one who attended without a registration, with all values of the event."""
    session = await place.session()
    emails = [f"absent{number}@pier.example" for number in range(3)]
    for email in emails:
        await place.registered(session, email)
    await place.ended(session)
    for email in emails:
        await place.not_attended(session, email)
    await place.synced()
    campaign = await place.org.campaign(session.id)
    for email in emails:
        assert (await place.org.member(campaign["Id"], await place.org.one("Lead", email)))["Status"] == "Did not attend"
    await place.attended(
        session, "walkin@pier.example", first_name="Wal", last_name="Kin", company="Pier", job_title="Passer-by", city="Kiel"
    )
    await place.synced()
    lead = await place.org.one("Lead", "walkin@pier.example")
    told = {name: lead[name] for name in ("FirstName", "LastName", "Company", "Title", "City")}
    assert told == {"FirstName": "Wal", "LastName": "Kin", "Company": "Pier", "Title": "Passer-by", "City": "Kiel"}
    assert (await place.org.member(campaign["Id"], lead))["Status"] == "Attended"


async def test_f16_nothing_to_update_never_means_nothing_to_emit(place: Place) -> None:
    """One batch of a new person, an equal Lead, a different Lead, a Contact, and a Lead whose update the org refuses."""
    lead = {"FirstName": "Ada", "LastName": "Berg", "Company": "Harbour Ltd"}
    await place.org.seed(
        Lead=[
            {**lead, "Email": "equal@harbour.example", "Title": "Mate"},
            {**lead, "Email": "different@harbour.example", "Title": "Trainee"},
            {**lead, "Email": "refused@harbour.example", "Title": "Trainee", "Industry": "Locked"},
        ],
        Contact=[{"FirstName": "Ada", "LastName": "Berg", "Email": "contact@harbour.example", "Title": "Mate"}],
    )
    await place.org.rule("validation", object="Lead", message="This Lead is locked", when={"Industry": "Locked"})
    session = await place.session()
    await place.followed(session)
    names = ("new", "equal", "different", "contact", "refused")
    await place.crowd([place.about("people.registered", session, f"{name}@harbour.example", job_title="Mate") for name in names])
    await place.settled()
    campaign = await place.org.campaign(session.id)
    for name in names[:4]:
        record = await place.org.one("Contact" if name == "contact" else "Lead", f"{name}@harbour.example")
        await place.org.member(campaign["Id"], record)
    [letter] = place.dead_letters()
    assert (letter["email"], letter["causes"][0]["message"]) == ("refused@harbour.example", "This Lead is locked")
    refused = await place.org.one("Lead", "refused@harbour.example")
    assert len(await place.org.records("CampaignMember")) == 4, "whose update is refused becomes no member"
    assert refused["Id"] not in {member["LeadId"] for member in await place.org.records("CampaignMember")}
    assert changes(await place.org.one("Lead", "equal@harbour.example")) == []
    assert (await place.org.one("Lead", "different@harbour.example"))["Title"] == "Mate"
