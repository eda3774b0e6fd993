"""A workspace's health names the worst that stands in its way, and each session says its Campaign or why there is none."""

from typing import Any

import msgspec
import pytest

from schemas.messages import Cause
from schemas.settings import Livestorm, Workspace
from schemas.tables import CampaignRow, EventRow, SessionRow
from stages import workspaces


def workspace(**more: Any) -> Workspace:
    return Workspace(id="emea", org="acme", livestorm=Livestorm(organization_id="x", webhook_secret="gAAAA"), **more)


def lane(name: str, state: str = "blocked", waiting: int = 1) -> dict[str, Any]:
    return {"lane": name, "state": state, "waiting": waiting, "cause": f"cause of {name}"}


@pytest.mark.parametrize(
    ("name", "concerned"),
    [
        ("org:acme", True),
        ("org:acme/workspace:emea", True),
        ("org:acme/workspace:emea/session:1", True),
        ("org:acme/workspace:emea2", False),
        ("org:acme/workspace:apac", False),
        ("org:acme2", False),
        ("org:other/workspace:emea", False),
    ],
)
def test_a_workspace_suffers_from_lanes_above_and_below_it_and_no_others(name: str, concerned: bool) -> None:
    assert workspaces.concerns(name, workspace()) is concerned


def test_the_worst_lane_gives_the_state_and_all_count() -> None:
    lanes = [lane("org:acme", "busy", 5), lane("org:acme/workspace:emea/session:1", "blocked", 2), lane("org:other", "blocked", 100)]
    health = workspaces.health(workspace(), lanes)
    assert (health["state"], health["reason"], health["waiting"]) == ("blocked", "cause of org:acme/workspace:emea/session:1", 2)
    assert health["org_waiting"] == 5


def test_the_trouble_of_the_org_is_told_as_the_orgs_and_who_waits_for_it_is_nobodys_own() -> None:
    """Which of the org's workspaces they are of is not known; trouble that is as bad and its own says more."""
    health = workspaces.health(workspace(), [lane("org:acme", "blocked", 3)])
    assert (health["state"], health["reason"]) == ("blocked", "org acme: cause of org:acme")
    assert (health["waiting"], health["org_waiting"]) == (0, 3)
    own = lane("org:acme/workspace:emea")
    assert workspaces.health(workspace(), [lane("org:acme"), own])["reason"] == own["cause"]


def test_nothing_in_the_way_is_well_and_what_people_switched_off_is_said() -> None:
    assert workspaces.health(workspace(), [])["state"] == "ok"
    assert workspaces.health(workspace(paused=True), [])["state"] == "paused"
    assert workspaces.health(workspace(plan="business"), []) == {
        "state": "off",
        "reason": "not_entitled",
        "waiting": 0,
        "org_waiting": 0,
        "lanes": [],
    }


def sessions_of(made: CampaignRow | None) -> dict[str, Any]:
    session = SessionRow(
        id="s", workspace="emea", event="e", status="upcoming", timezone="Europe/Paris", estimated_started_at=1_780_000_000
    )
    other = SessionRow(id="t", workspace="apac", event="e", status="upcoming")
    rows = {"s": msgspec.json.encode(session), "t": msgspec.json.encode(other)}
    events = {"e": msgspec.json.encode(EventRow(id="e", title="Getting started"))}
    campaigns = {"acme|s": msgspec.json.encode(made)} if made else {}
    (shown,) = workspaces.sessions(workspace(), rows, events, campaigns)
    return shown


def test_a_session_is_told_with_its_campaign() -> None:
    assert sessions_of(CampaignRow(campaign="701000000000001AAA")) == {
        "id": "s",
        "title": "Getting started",
        "starts_at": "2026-05-28T20:26:40.000Z",
        "timezone": "Europe/Paris",
        "status": "upcoming",
        "campaign": "701000000000001AAA",
        "problem": None,
    }


def test_a_campaign_that_the_org_refused_is_told_in_its_own_words() -> None:
    shown = sessions_of(CampaignRow(why=Cause("FIELD_CUSTOM_VALIDATION_EXCEPTION", "Campaigns need a budget code")))
    assert shown["campaign"] is None
    assert shown["problem"] == "No campaign associated to the session: Campaigns need a budget code"


def test_a_campaign_that_the_org_does_not_let_follow_is_told_with_the_orgs_words() -> None:
    shown = sessions_of(
        CampaignRow(campaign="701000000000001AAA", why=Cause("FIELD_CUSTOM_VALIDATION_EXCEPTION", "Not in a closed quarter"))
    )
    assert (shown["campaign"], shown["problem"]) == ("701000000000001AAA", "The campaign is not up to date: Not in a closed quarter")


@pytest.mark.parametrize("code", ["past_session", "breakout_room"])
def test_a_session_that_needs_no_campaign_is_no_problem(code: str) -> None:
    shown = sessions_of(CampaignRow(why=Cause(code, "none is made")))
    assert (shown["campaign"], shown["problem"]) == (None, None)


def test_a_session_whose_campaign_is_under_way_is_no_problem() -> None:
    assert sessions_of(None)["problem"] is None


@pytest.mark.parametrize(("changes", "is_told"), [({}, True), ({"past": True}, False), ({"breakout": True}, False)])
def test_a_session_whose_event_nobody_told_of_says_so_where_it_needs_a_campaign(changes: dict[str, Any], is_told: bool) -> None:
    row = SessionRow(id="s", workspace="emea", event="e", status="upcoming", **changes)
    (shown,) = workspaces.sessions(workspace(), {"s": msgspec.json.encode(row)}, {}, {})
    told = "No campaign associated to the session: Livestorm has not told of its event e yet"
    assert shown["problem"] == (told if is_told else None)


def test_secrets_are_masked() -> None:
    shown = workspaces.detail(workspace(), [], {}, {}, {})
    assert shown["livestorm"]["webhook_secret"] == "***"
    assert "gAAAA" not in str(shown)
