"""The demo's season is made from a seed, and its audit finds each kind of harm in an org that would otherwise be right."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.messages import Cause, Synced
from stages.demo import audit, season
from stages.demo.audit import Tally
from stages.demo.season import Season
from stages.settings import file

NOW = 1_780_000_000


@given(st.integers(1, 400), st.integers(1, 50))
@settings(max_examples=10)
def test_equal_arguments_give_an_equal_season_of_the_size_that_was_asked(registrants: int, seed: int) -> None:
    made = season.generate(registrants, NOW, seed)
    assert made == season.generate(registrants, NOW, seed)
    assert len(made.registrations) == registrants
    assert made.distinct() == audit.expected_tally(made).total


def test_another_moment_changes_no_person_and_no_record() -> None:
    """The orgs are filled before the workspaces are connected, and the season is played after: both must be of one season."""
    early, late = season.generate(300, NOW), season.generate(300, NOW + 77)
    assert [one.person for one in early.registrations] == [one.person for one in late.registrations]
    assert [one.session for one in early.registrations] == [one.session for one in late.registrations]
    for before, after in zip(early.orgs, late.orgs, strict=True):
        for name, rows in before.seed.items():
            assert [row["Description"] for row in rows] == [row["Description"] for row in after.seed[name]]


def test_a_season_has_everything_that_makes_one_hard() -> None:
    made = season.generate(500, NOW)
    orgs = Counter(workspace.org for workspace in made.workspaces)
    assert len(made.workspaces) >= 4
    assert len(orgs) >= 3
    assert max(orgs.values()) >= 2
    assert any(not workspace.entitled for workspace in made.workspaces)
    assert {session.kind for session in made.sessions} == {"upcoming", "live", "on_demand", "past", "breakout"}
    reasons = {audit.fate_of(made, one) for one in made.registrations}
    assert {reason for reason, _ in reasons} == {"", "staff", "invented_address", "past_session", "breakout_room", "not_entitled"}
    assert ("", "no_email") in reasons
    seeded = [row for org in made.orgs for row in org.seed["Lead"]]
    assert any(row.get("IsConverted") for row in seeded)
    assert max(Counter(row["Email"] for row in seeded).values()) == 2
    assert made.events() > made.distinct() + 100


def test_acts_hold_late_repeated_and_overtaking_deliveries() -> None:
    made = season.generate(500, NOW)
    everything = [delivery for act in made.acts for delivery in act]
    assert max(Counter(delivery.body for delivery in everything).values()) >= 2
    order = [json.loads(delivery.body)["data"] for delivery in everything]
    first = {(one["id"], one["meta"]["webhook"]["event"]): place for place, one in reversed(list(enumerate(order)))}
    told = [(id, place) for (id, trigger), place in first.items() if trigger == "people.attended"]
    assert any(first[id, "people.registered"] > place for id, place in told), "attendance before its registration"
    people = [(one["attributes"]["registrant_detail"]["session_id"], place) for place, one in enumerate(order) if one["type"] == "people"]
    assert any(place < first[session, "session.created"] for session, place in people), "a registration before its session"


def test_the_settings_of_a_season_are_right(tmp_path: Any) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(
        season.settings(
            season.workspaces(1), {"acme": "http://127.0.0.1:1", "globex": "http://127.0.0.1:2", "initech": "http://127.0.0.1:3"}
        )
    )
    read = file.load_file(path)
    assert [workspace.id for workspace in read.workspaces] == [row[0] for row in season.WORKSPACES]
    assert {org.id for org in read.orgs} == {row[1] for row in season.WORKSPACES}


# An org that is right, made by the season's own rules; and every way to spoil it.


class Books:
    """The records of all orgs as they should be after a season, to be spoilt."""

    def __init__(self, made: Season) -> None:
        self.season = made
        self._ids = 0
        self.records: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for org in made.orgs:
            held = self.records[org.id] = {"Lead": [], "Contact": [], "Account": [], "Campaign": [], "CampaignMember": []}
            names = {}
            for object, rows in org.seed.items():
                for row in rows:
                    record = self._made(row | {"Id": None}, "seed")
                    names[row.get("Id")] = record["Id"]
                    held[object].append(record)
        for session in made.sessions:
            workspace = made.workspace(session.workspace)
            if session.makes_campaign and workspace.entitled:
                status = audit.CAMPAIGN_STATUS.get(session.kind, "In Progress")
                values = {"Name": session.title, "Type": "Webinar", "Status": status, "Description": f"Livestorm session {session.id}"}
                self.records[workspace.org]["Campaign"].append(self._made(values, "sandbox@example.com"))
        for one in audit.people(made):
            self._settle(one)

    def _made(self, values: dict[str, Any], by: str) -> dict[str, Any]:
        self._ids += 1
        return {**values, "Id": f"id{self._ids:06d}", "IsDeleted": False, "history": [{"at": "", "by": by, "changes": {}}]}

    def _settle(self, one: audit.Wanted) -> None:
        held = self.records[one.org]
        if one.name is None:
            record = self._made({}, "sandbox@example.com")
            held[one.object].append(record)
        else:
            record = next(row for row in held[one.object] if row["Description"] == one.name)
            record["history"].append({"at": "", "by": "sandbox@example.com", "changes": {"Title": ["Trainee", "x"]}})
        record.update(one.values)
        if one.account:
            account = next((row for row in held["Account"] if row["Name"].lower() == one.account), None)
            if account is None:
                account = self._made({"Name": one.account.title()}, "sandbox@example.com")
                held["Account"].append(account)
            record["AccountId"] = account["Id"]
        for session, (status, replay) in one.members.items():
            campaign = next(row for row in held["Campaign"] if row["Description"].endswith(session))
            values = {f"{one.object}Id": record["Id"], "CampaignId": campaign["Id"], "Status": status, audit.REPLAY_FIELD: replay}
            held["CampaignMember"].append(self._made(values, "sandbox@example.com"))

    def differences(self, tally: Tally | None = None) -> list[audit.Difference]:
        return audit.differences(self.season, self.records, tally or audit.expected_tally(self.season))

    def first(
        self, object: str, wanted: Callable[[dict[str, Any]], bool] = lambda row: True
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        for held in self.records.values():
            for row in held[object]:
                if wanted(row):
                    return held[object], row
        raise LookupError(object)

    def named(self, end: str) -> dict[str, Any]:
        return next(
            row for held in self.records.values() for rows in held.values() for row in rows if str(row.get("Description", "")).endswith(end)
        )


@pytest.fixture
def books() -> Books:
    return Books(season.generate(200, NOW))


def test_orgs_that_hold_what_they_should_have_no_differences(books: Books) -> None:
    assert books.differences() == []


def remove_member(books: Books) -> None:
    rows, row = books.first("CampaignMember")
    rows.remove(row)


def add_member_twice(books: Books) -> None:
    rows, row = books.first("CampaignMember")
    rows.append(row | {"Id": "other"})


def lower_status(books: Books) -> None:
    books.first("CampaignMember", lambda row: bool(row["Status"] == "Attended"))[1]["Status"] = "Registered"


def forget_replay(books: Books) -> None:
    books.first("CampaignMember", lambda row: bool(row[audit.REPLAY_FIELD]))[1][audit.REPLAY_FIELD] = None


def make_lead_twice(books: Books) -> None:
    rows, row = books.first("Lead", lambda row: row["history"][0]["by"] != "seed")
    rows.append(row | {"Id": "other"})


def lose_a_lead(books: Books) -> None:
    books.first("Lead", lambda row: row["history"][0]["by"] != "seed")[1]["IsDeleted"] = True


def make_a_stranger(books: Books) -> None:
    rows, row = books.first("Lead", lambda row: row["history"][0]["by"] != "seed")
    rows.append(row | {"Id": "other", "Email": "nobody@nowhere.example"})


def write_to_a_younger_double(books: Books) -> None:
    books.named("-younger")["history"].append({"at": "", "by": "sandbox@example.com", "changes": {"Title": ["a", "b"]}})


def write_to_a_converted_lead(books: Books) -> None:
    books.named("-converted")["history"].append({"at": "", "by": "sandbox@example.com", "changes": {"Title": ["a", "b"]}})


def overwrite_what_was_set_by_hand(books: Books) -> None:
    edit = books.season.hand_edits[0]
    books.named(edit.name)["Title"] = "Analyst"


def blank_a_title(books: Books) -> None:
    books.first("Lead", lambda row: bool(row.get("Title")) and row["history"][0]["by"] != "seed")[1]["Title"] = None


def make_a_campaign_twice(books: Books) -> None:
    rows, row = books.first("Campaign")
    rows.append(row | {"Id": "other"})


def leave_a_campaign_planned(books: Books) -> None:
    books.first("Campaign", lambda row: bool(row["Status"] == "Completed"))[1]["Status"] = "Planned"


def make_an_account_twice(books: Books) -> None:
    rows, row = books.first("Account")
    rows.append(row | {"Id": "other"})


def hang_a_contact_on_another_account(books: Books) -> None:
    _, row = books.first("Contact", lambda row: bool(row.get("AccountId")))
    row["AccountId"] = books.first("Account", lambda account: bool(account["Id"] != row["AccountId"]))[1]["Id"]


@pytest.mark.parametrize(
    "spoil",
    [
        remove_member,
        add_member_twice,
        lower_status,
        forget_replay,
        make_lead_twice,
        lose_a_lead,
        make_a_stranger,
        write_to_a_younger_double,
        write_to_a_converted_lead,
        overwrite_what_was_set_by_hand,
        blank_a_title,
        make_a_campaign_twice,
        leave_a_campaign_planned,
        make_an_account_twice,
        hang_a_contact_on_another_account,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_each_harm_is_found(books: Books, spoil: Callable[[Books], None]) -> None:
    spoil(books)
    assert books.differences()


def test_events_without_an_outcome_are_found(books: Books) -> None:
    right = audit.expected_tally(books.season)
    assert books.differences(Tally(right.synced - 1, right.dropped, right.rejected))
    assert books.differences(Tally(right.synced, {**right.dropped, "staff": 0}, right.rejected))
    assert books.differences(Tally(right.synced, right.dropped, {}))


def test_an_event_counts_once_however_often_its_outcome_was_told() -> None:
    def told(id: str, outcome: str, reason: str = "", kind: str = "registration") -> Synced:
        causes = (Cause("no_email", "none"),) if outcome == "rejected" else ()
        return Synced(
            id=id, at=1, happened_at=1, stage="s", workspace="w", org="o", session="", event="", kind=kind,
            outcome=outcome, reason=reason, causes=causes,  # type: ignore[arg-type]  # one of the literals
        )  # fmt: skip

    outcomes = [
        told("a", "emitted"),
        told("a", "emitted"),
        told("b", "dropped", "staff"),
        told("c", "rejected"),
        told("s", "emitted", kind="session"),
    ]
    assert audit.tally(outcomes) == Tally(1, {"staff": 1}, {"no_email": 1})
