"""What others met in the field: batches, lost answers and shared companies (F17, F18, F20, F27, and rule 6's crowd)."""

import asyncio
from typing import Any

import pytest

from tests.flow.conftest import Open
from tests.flow.place import Place
from tests.flow.watching import eventually


async def test_f17_one_person_twice_in_a_burst_is_one_member(place: Place) -> None:
    """Registered, cancelled and registered again under another id, and attended, all at once, with thirty others."""
    session = await place.session()
    await place.ended(session)
    email = "sam@grove.example"
    others = [f"tree{number}@grove.example" for number in range(30)]
    webhooks = [place.about("people.registered", session, other) for other in others]
    webhooks[10:10] = [place.about("people.registered", session, email, id="p1")]
    webhooks[20:20] = [place.about("people.registered", session, email, id="p2")]
    webhooks[25:25] = [place.about("people.attended", session, email, id="p2", attended=True)]
    await place.crowd(webhooks)
    await place.synced()
    campaign = await place.org.campaign(session.id)
    member = await place.org.member(campaign["Id"], await place.org.one("Lead", email))
    assert member["Status"] == "Attended"
    assert "DUPLICATE_VALUE" not in await place.org.errors()
    assert len(await place.org.records("CampaignMember")) == len(await place.org.records("Lead")) == 31


async def test_f18_a_part_that_failed_inside_a_good_answer_is_not_done(place: Place) -> None:
    """Four synced; the second a dead letter with the code and the field's name, and nowhere told as synced."""
    await place.org.text_field("Lead", "Region__c")
    await place.org.rule("required-field", object="Lead", field="Region__c", when={"Company": "^X"})
    session = await place.session()
    await place.followed(session)
    companies = {"one@parts.example": "Alpha", "two@parts.example": "Xylo", "three@parts.example": "Beta", "four@parts.example": "Gamma", "five@parts.example": "Delta"}  # fmt: skip
    await place.crowd([place.about("people.registered", session, email, company=company) for email, company in companies.items()])
    await place.settled()
    [letter] = place.dead_letters()
    assert letter["email"] == "two@parts.example"
    assert [(cause["code"], "Region__c" in " ".join([*cause["fields"], cause["message"]])) for cause in letter["causes"]] == [
        ("REQUIRED_FIELD_MISSING", True)
    ]
    outcomes = {one.value["email"]: one.value["outcome"] for one in place.outcomes()}
    assert outcomes == {email: "rejected" if company == "Xylo" else "emitted" for email, company in companies.items()}
    assert len(await place.org.records("Lead")) == len(await place.org.records("CampaignMember")) == 4


@pytest.mark.parametrize("key", ["", "Turnout_Key__c"])
@pytest.mark.parametrize("lost", ["Lead", "CampaignMember", "Campaign"])
async def test_f20_a_lost_answer_makes_no_twin(opened: Open, lost: str, key: str) -> None:
    """The write was done, its answer was cut off: 20 Leads, one Campaign, 20 members; the trace shows the lost answer."""
    place = await opened(org_settings={"person_key_field": key} if key else {})
    if key:
        for object in ("Lead", "Contact"):
            await place.org.rule("custom-field", object=object, field=key, type="string", unique=True, external_id=True)
    if lost == "Campaign":
        fault = await place.org.fault("drop-after-commit", resource="collections", object="Campaign", times=1)
    session = await place.session()
    if lost != "Campaign":
        await place.followed(session)
        fault = await place.org.fault("drop-after-commit", resource="collections", object=lost, times=1)
    emails = [f"twin{number}@mill.example" for number in range(20)]
    await place.crowd([place.about("people.registered", session, email) for email in emails])
    await place.synced(seconds=60)
    assert await place.org.hits(fault) == 1
    campaign = await place.org.campaign(session.id)
    for email in emails:
        await place.org.member(campaign["Id"], await place.org.one("Lead", email))
    counts = [len(await place.org.records(name)) for name in ("Lead", "Campaign", "CampaignMember")]
    assert counts == [20, 1, 20]
    if lost == "Lead":
        told = [one.value["email"] for one in place.outcomes() if any(step.get("causes") for step in one.value["trail"])]
        assert told, place.outcomes()[0].value
        traced = await asyncio.to_thread(place.house.document, "trace", told[0], "--workspace", place.workspace)
        causes = {cause["code"] for event in traced["events"] for cause in event["causes"]}
        assert causes == {"connection_failed"}, traced


async def test_f20_a_lost_answer_of_an_account_makes_no_twin(opened: Open) -> None:
    """The same for the Account of a company."""
    place = await opened(objects={"create": "contact"})
    fault = await place.org.fault("drop-after-commit", resource="collections", object="Account", times=1)
    session = await place.session()
    await place.crowd([place.about("people.registered", session, f"twin{number}@mill.example", company="Mill Ltd") for number in range(5)])
    await place.synced(seconds=60)
    assert await place.org.hits(fault) == 1
    [account] = await place.org.records("Account")
    assert {contact["AccountId"] for contact in await place.org.records("Contact")} == {account["Id"]}


async def test_f27_and_rule_06_one_new_company_for_150_people_is_one_account(opened: Open) -> None:
    """Over all partitions within a second: blanks and case are folded, a dot is another name; everyone is linked, nobody skipped."""
    place = await opened(objects={"create": "contact"})
    session = await place.session()
    spellings = ("Acme Ltd", " acme  ltd", "ACME LTD.")
    people = {f"maker{number}@acme.example": spellings[number % 3] for number in range(150)}
    await place.crowd([place.about("people.registered", session, email, company=company) for email, company in people.items()], at_once=150)
    await place.synced(seconds=90)
    accounts = {account["Id"]: account["Name"] for account in await place.org.records("Account")}
    folded = {" ".join(name.lower().split()) for name in accounts.values()}
    assert (len(accounts), folded) == (2, {"acme ltd", "acme ltd."})
    contacts = await place.org.records("Contact")
    assert len(contacts) == len(await place.org.records("CampaignMember")) == 150
    for contact in contacts:
        assert " ".join(accounts[contact["AccountId"]].lower().split()) == " ".join(people[contact["Email"]].lower().split())
    assert await place.org.records("Lead") == []


@pytest.mark.parametrize("text", ["@{leads[0].id} GmbH", "@{x}", "o'@{'n", "a\u2028b \U0001f39f"])
async def test_text_that_means_something_in_a_composite_is_only_text(place: Place, text: str) -> None:
    """Registrants type such things: nobody is lost, and batch mates are untouched."""
    session = await place.session()
    await place.followed(session)
    mates = [f"mate{number}@text.example" for number in range(3)]
    webhooks = [place.about("people.registered", session, mate) for mate in mates]
    webhooks.append(
        place.about("people.registered", session, "odd@text.example", company=text, job_title=text, last_name=text, first_name=text)
    )
    await place.crowd(webhooks)
    await place.synced()
    for email in [*mates, "odd@text.example"]:
        lead = await place.org.one("Lead", email)
        await place.org.member((await place.org.campaign(session.id))["Id"], lead)
    assert text.replace("@{", "")[:1] in lead["Company"]


async def test_rule_12_what_the_org_says_about_itself_ends_with_the_mend(place: Place) -> None:
    """A whole org that refuses to let Leads be made waits as one: no dead letter per person, and all arrive once it is mended."""
    rule = await place.org.rule("object-permission", object="Lead", create=False)
    session = await place.session()
    emails = [f"guest{number}@shut.example" for number in range(30)]
    await place.crowd([place.about("people.registered", session, email) for email in emails])

    async def waits() -> list[Any]:
        lanes = [lane for lane in await place.waiting() if lane["state"] == "blocked"]
        assert lanes
        return lanes

    lanes = await eventually(waits)
    assert all(lane["mend"] for lane in lanes), lanes
    assert place.dead_letters() == []
    await place.org.drop_rule(rule)
    await place.synced(seconds=90)
    assert len(await place.org.records("Lead")) == 30


async def test_an_org_that_fails_inside_loses_nobody(opened: Open) -> None:
    """UNKNOWN_EXCEPTION at one thing or at all, for as long as it lasts: people, their session and their company wait, and then arrive."""
    faults: tuple[dict[str, Any], ...] = ({}, {"resource": "query"}, {"resource": "collections", "object": "Account"})
    places = [await opened(objects={"create": "contact"}) for _ in faults]
    sessions, struck = [], []
    for place, match in zip(places, faults, strict=True):
        struck.append(await place.org.fault("UNKNOWN_EXCEPTION", **match))
        sessions.append(await place.session())
        for number in range(3):
            await place.registered(sessions[-1], f"guest{number}@inside.example", company="Inside Ltd")

    async def tried() -> None:
        assert min([await place.org.hits(fault) for place, fault in zip(places, struck, strict=True)]) >= 3
        for place in places:
            waiting = {lane["state"] for lane in await place.waiting() if "UNKNOWN_EXCEPTION" in (lane["cause"] or "")}
            assert waiting == {"blocked"}, "a lane's trouble, which is no try of anybody's"

    await eventually(tried)
    for place in places:
        assert place.dead_letters() == []
        await place.org.heal()
    for place, session in zip(places, sessions, strict=True):
        await place.synced()
        campaign = await place.org.campaign(session.id)
        contacts = await place.org.records("Contact")
        assert [(await place.org.member(campaign["Id"], contact))["Status"] for contact in contacts] == ["Registered"] * 3
        assert len(await place.org.records("Account")) == 1
