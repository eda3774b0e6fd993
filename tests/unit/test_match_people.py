"""Who has an address among the records that were read."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stages import people
from stages.people import _Seen

LONG_AGO, LATELY = "2019-01-01T00:00:00.000+0000", "2024-01-01T00:00:00.000+0000"
NO_KEYS: dict[str, str | None] = {"Contact": None, "Lead": None}


def contact(id: str, email: str | None, created: str = LATELY, **more: Any) -> dict[str, Any]:
    return {"Id": id, "Email": email, "CreatedDate": created, **more}


def lead(id: str, email: str | None, created: str = LATELY, to: str | None = None) -> dict[str, Any]:
    return {"Id": id, "Email": email, "CreatedDate": created, "IsConverted": to is not None, "ConvertedContactId": to}


def seen(*, contacts: Any = (), leads: Any = (), followed: Any = (), keys: Any = NO_KEYS) -> _Seen:
    return _Seen(contacts, leads, {row["Id"]: row for row in (*contacts, *followed)}, keys)


def chosen(found: _Seen, address: str = "a@b.example") -> str | None:
    sighting = people.choose(address, found)
    return sighting.id if sighting is not None else None


def test_a_contact_wins_over_an_older_lead() -> None:
    assert chosen(seen(contacts=[contact("003a", "A@B.example")], leads=[lead("00Qa", "a@b.example", LONG_AGO)])) == "003a"


def test_a_record_that_the_org_thought_equal_but_is_not_is_nobody() -> None:
    """An org compares by its user's locale; equality is decided here."""
    assert chosen(seen(contacts=[contact("003a", "aXb.example"), contact("003b", None)], leads=[lead("00Qa", "a@b.example.org")])) is None


@given(st.lists(st.tuples(st.sampled_from([LONG_AGO, LATELY]), st.integers(0, 99)), min_size=1, max_size=8, unique=True), st.randoms())
def test_the_oldest_wins_whatever_order_the_org_answers_in(rows: list[tuple[str, int]], random: Any) -> None:
    records = [contact(f"003{number:02d}", "a@b.example", created) for created, number in rows]
    shuffled = list(records)
    random.shuffle(shuffled)
    oldest = min(records, key=lambda row: (row["CreatedDate"], row["Id"]))
    assert chosen(seen(contacts=shuffled)) == chosen(seen(contacts=records)) == oldest["Id"]


def test_the_oldest_lead_decides_and_if_it_was_converted_its_contact_is_used() -> None:
    other = contact("003x", "new@b.example")
    leads = [lead("00Qyoung", "a@b.example", LATELY), lead("00Qold", "a@b.example", LONG_AGO, to="003x")]
    found = people.choose("a@b.example", seen(leads=leads, followed=[other]))
    assert found is not None
    assert (found.object, found.id, found.converted_from) == ("Contact", "003x", ("00Qold",))


def test_a_converted_lead_whose_contact_is_gone_counts_as_not_there() -> None:
    gone = contact("003x", "new@b.example", IsDeleted=True, MasterRecordId=None)
    leads = [lead("00Qold", "a@b.example", LONG_AGO, to="003x"), lead("00Qyoung", "a@b.example", LATELY)]
    assert chosen(seen(leads=leads, followed=[gone])) == "00Qyoung"
    assert chosen(seen(leads=leads[:1], followed=[gone])) is None


def test_merges_are_followed_to_the_survivor_but_not_in_circles() -> None:
    chain = [
        contact("003a", None, IsDeleted=True, MasterRecordId="003b"),
        contact("003b", None, IsDeleted=True, MasterRecordId="003c"),
        contact("003c", "c@b.example"),
    ]
    assert chosen(seen(leads=[lead("00Q", "a@b.example", to="003a")], followed=chain)) == "003c"
    circle = [contact("003a", None, IsDeleted=True, MasterRecordId="003b"), contact("003b", None, IsDeleted=True, MasterRecordId="003a")]
    assert chosen(seen(leads=[lead("00Q", "a@b.example", to="003a")], followed=circle)) is None


def test_leads_that_were_converted_to_the_chosen_contact_are_told() -> None:
    leads = [lead("00Qa", "a@b.example", to="003a"), lead("00Qb", "a@b.example", to="003other"), lead("00Qc", "a@b.example")]
    found = people.choose("a@b.example", seen(contacts=[contact("003a", "a@b.example")], leads=leads))
    assert found is not None
    assert found.converted_from == ("00Qa",)


def test_the_key_finds_a_record_whose_address_was_changed_only_if_no_address_fits() -> None:
    keys: dict[str, str | None] = {"Contact": "Key__c", "Lead": "Key__c"}
    moved = contact("003m", "new@b.example", Key__c="a@b.example")
    assert chosen(seen(contacts=[moved], keys=keys)) == "003m"
    assert chosen(seen(contacts=[moved], leads=[lead("00Qa", "a@b.example")], keys=keys)) == "00Qa"
    assert chosen(seen(contacts=[moved])) is None
