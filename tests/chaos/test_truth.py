"""The judge of a chaos run finds each kind of difference, and none in a world that is right."""

import copy
import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos import sabotage, story, truth
from tests.chaos.story import Deed, Story
from tests.flow.watching import Heard

BASE = 1_760_000_000
World = tuple[dict[str, dict[str, list[dict[str, Any]]]], dict[str, list[Heard]]]


@pytest.fixture(scope="module")
def told() -> Story:
    return story.make(3, 60, BASE)


@pytest.fixture
def world(told: Story) -> World:
    """What the orgs and the topics hold where all went well."""
    return {org.id: _held(told, org) for org in told.orgs}, _log(told)


def _held(told: Story, org: story.Org) -> dict[str, list[dict[str, Any]]]:
    held: dict[str, list[dict[str, Any]]] = {name: [] for name in truth.OBJECTS}
    places = {one.id for one in told.workspaces if one.org == org.id}
    for session in told.sessions:
        if session.workspace in places:
            values = {
                "Id": f"701{session.id}",
                "Description": f"Livestorm session {session.id}",
                "Status": "Completed",
                story.CAMPAIGN_KEY: session.id,
            }
            held["Campaign"].append(_record(values))
            held["CampaignMemberStatus"] += [
                _record({"Id": f"{session.id}{label}", "CampaignId": f"701{session.id}", "Label": label}) for label in truth.RANKS
            ]
    held["Account"].append(_record({"Id": "001", "Name": "Harbour Ltd"}))
    emails = {deed.email for deed in told.deeds if deed.org == org.id and deed.fate == "synced"}
    for email in sorted(emails | told.seeded[org.id].keys()):
        deeds = [deed for deed in told.deeds if (deed.org, deed.email, deed.fate) == (org.id, email, "synced")]
        held["Lead"].append(_person(email, deeds))
        for session_id in dict.fromkeys(deed.session for deed in deeds):
            held["CampaignMember"].append(_member(email, session_id, [deed for deed in deeds if deed.session == session_id]))
    return held


def _record(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "IsDeleted": False,
        **values,
        "history": [{"at": "0", "by": "us", "changes": {name: [None, value] for name, value in values.items()}}],
    }


def _change(record: dict[str, Any], **values: Any) -> None:
    record["history"].append({"at": "1", "by": "us", "changes": {name: [record.get(name), value] for name, value in values.items()}})
    record.update(values)


def _person(email: str, deeds: list[Deed]) -> dict[str, Any]:
    record = _record({"Id": f"00Q{email}", "Email": email, story.PERSON_KEY: email})
    for deed in deeds:
        at = time.strftime("%Y-%m-%dT%H:%M:%S.000+0000", time.gmtime(BASE + deed.at))
        _change(record, Title=deed.value, **{story.EVENT_TIME: at})
    return record


def _member(email: str, session: str, deeds: list[Deed]) -> dict[str, Any]:
    record = _record(
        {"Id": f"00v{email}{session}", "CampaignId": f"701{session}", "LeadId": f"00Q{email}", "ContactId": None, "Status": "Registered"}
    )
    for deed in deeds:
        if deed.trigger in ("people.attended", "people.not_attended"):
            _change(record, Status=truth.STATUS[deed.trigger])
        if deed.trigger == "people.watched_replay":
            _change(record, **({truth.REPLAY: truth.WATCHED} if truth.REPLAY not in record else {}))
    return record


def _log(told: Story) -> dict[str, list[Heard]]:
    log: dict[str, list[Heard]] = {name: [] for name in (*truth.CHAIN, "dead-letters")}
    outcomes = {"synced": ("emitted", "synced"), "staff": ("dropped", "staff"), "no_email": ("rejected", "")}
    for number, deed in enumerate(told.deeds):
        head = {"id": str(number), "kind": "registration", "workspace": deed.workspace, "session": deed.session}

        def put(topic: str, value: dict[str, Any], key: str = deed.email, head: dict[str, str] = head) -> None:
            log[topic].append(Heard(topic, 0, len(log[topic]), key or "person:1", head, value, b""))

        data = {"id": deed.person, "attributes": {"updated_at": BASE + deed.at}}
        put("received", {"trigger": deed.trigger, "body": {"data": data}})
        causes = [{"code": "no_email", "message": ""}] if deed.fate == "no_email" else []
        if deed.fate == "synced":
            for topic in ("normalized", "matched", "resolved"):
                put(topic, {})
        elif deed.fate == "no_email":
            put("dead-letters", {"headers": head, "stage": "normalize", "causes": causes})
        outcome, reason = outcomes[deed.fate]
        put("synced", {"id": str(number), "kind": "registration", "outcome": outcome, "reason": reason, "causes": causes})
    return log


def test_a_world_that_is_right_has_no_differences(told: Story, world: World) -> None:
    verdict = truth.judge(told, *world)
    assert verdict.differences == []
    assert verdict.checked["people"] > 20
    assert verdict.checked["memberships"] > verdict.checked["people"]
    assert verdict.checked["dead letters"] > 0


def _lost_person(held: Any, log: Any) -> None:
    held["Lead"] = [record for record in held["Lead"] if not record.get("Title")] + [
        record for record in held["Lead"] if record.get("Title")
    ][1:]


def _double(object: str) -> Callable[[Any, Any], None]:
    def act(held: Any, log: Any) -> None:
        record = copy.deepcopy(next(one for one in held[object] if object != "Lead" or one.get("Title")))
        held[object].append(record | {"Id": f"{record['Id']}2"})

    return act


def _lost_member(held: Any, log: Any) -> None:
    held["CampaignMember"].pop()


def _value_went_back(held: Any, log: Any) -> None:
    lead = next(one for one in held["Lead"] if len(one["history"]) > 3)
    newest = lead["Title"]
    _change(lead, Title="v00001")
    _change(lead, Title=newest)


def _status_went_back(held: Any, log: Any) -> None:
    member = next(one for one in held["CampaignMember"] if one["Status"] == "Attended")
    _change(member, Status="Registered")
    _change(member, Status="Attended")


def _old_value(held: Any, log: Any) -> None:
    lead = next(one for one in held["Lead"] if len(one["history"]) > 3)
    lead["history"].pop()


def _no_replay(held: Any, log: Any) -> None:
    member = next(one for one in held["CampaignMember"] if truth.REPLAY in one)
    member[truth.REPLAY] = None


def _no_outcome(held: Any, log: Any) -> None:
    log["synced"].pop(0)


def _lost_at_the_door(held: Any, log: Any) -> None:
    log["received"].pop(0)


def _out_of_order(held: Any, log: Any) -> None:
    """Two of one person at one session change places in `synced`."""
    seen: dict[tuple[str, str], int] = {}
    for place, one in enumerate(log["synced"]):
        earlier = seen.setdefault((one.key, one.headers["session"]), place)
        if earlier != place and not one.key.startswith("staff") and "@" in one.key:
            log["synced"][place], log["synced"][earlier] = log["synced"][earlier], log["synced"][place]
            return


def _refused(held: Any, log: Any) -> None:
    letter = dataclasses.replace(log["dead-letters"][0], value={"headers": {"id": "1"}, "stage": "create", "causes": []})
    log["dead-letters"].append(letter)


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (_lost_person, "missing"),
        (_double("Lead"), "twice"),
        (_double("CampaignMember"), "twice in session"),
        (_double("Campaign"), "Campaigns"),
        (_double("CampaignMemberStatus"), "member statuses"),
        (_double("Account"), "Account twice"),
        (_lost_member, "missing from session"),
        (_value_went_back, "a value went back"),
        (_old_value, "value"),
        (_status_went_back, "a status went back"),
        (_no_replay, "replay"),
        (_no_outcome, "outcome of people.registered"),
        (_lost_at_the_door, "lost at the door"),
        (_out_of_order, "order, or something left out"),
        (_refused, "refused by create"),
    ],
)
def test_each_kind_of_difference_is_found(told: Story, world: World, act: Callable[[Any, Any], None], what: str) -> None:
    records, log = world
    act(records["org-0"], log)
    assert any(one.what.startswith(what) for one in truth.judge(told, records, log).differences)


def test_without_a_time_field_a_value_may_go_back_for_a_repeat_and_is_noted(told: Story, world: World) -> None:
    records, log = world
    _value_went_back(records["org-1"], log)
    verdict = truth.judge(told, records, log)
    assert verdict.differences == []
    assert sum(verdict.noted.values()) == 1


def test_a_seed_tells_everything() -> None:
    """Story and plan are the same for the same seed, and others for another."""
    assert story.make(5, 60, BASE).deeds == story.make(5, 60, BASE).deeds
    assert [one.at for one in story.make(5, 60, BASE).webhooks] == [one.at for one in story.make(5, 60, BASE + 99).webhooks]
    assert story.make(5, 60, BASE).deeds != story.make(6, 60, BASE).deeds
    plans = [sabotage.make(seed, 600, ["a-0", "a-1"], ["o", "p"], broker=True) for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_a_plan_strikes_everything_in_every_way_and_nothing_that_is_down() -> None:
    plan = sabotage.make(1, 1_200, [f"{stage}-{number}" for stage in "abcde" for number in (0, 1)], ["o", "p"], broker=True)
    struck = {(act.kind, act.target) for act in plan.acts}
    assert len(struck) == 3 * (10 + 1)
    assert {spell.trouble.name for spell in plan.spells} == {trouble.name for trouble in sabotage.TROUBLES}
    for target in {act.target for act in plan.acts}:
        mine = [act for act in plan.acts if act.target == target]
        assert all(before.at + before.seconds < after.at for before, after in itertools.pairwise(mine))


def test_happenings_of_one_address_in_one_org_are_numbered_as_they_happened(told: Story) -> None:
    """Each in a second of its own, so that the org's field for the time tells them apart."""
    for org, email in {(deed.org, deed.email) for deed in told.deeds if deed.fate == "synced"}:
        mine = sorted((deed for deed in told.deeds if (deed.org, deed.email) == (org, email)), key=lambda deed: deed.sequence)
        assert [deed.sequence for deed in mine] == list(range(1, len(mine) + 1))
        assert len({deed.at for deed in mine}) == len(mine)
        assert [deed.at for deed in mine] == sorted(deed.at for deed in mine)


@pytest.mark.parametrize(("order", "may_stand"), [((1, 2, 3), {3}), ((1, 3, 2, 1), {1, 2, 3}), ((3, 1, 2), {2, 3}), ((2, 3, 1, 2), {2, 3})])
def test_where_the_logs_order_decides_the_newest_of_any_end_of_it_may_stand(
    told: Story, order: tuple[int, ...], may_stand: set[int]
) -> None:
    """Who has just begun knows what came last, and no more."""
    deed = told.deeds[0]
    ids = {str(sequence): dataclasses.replace(deed, sequence=sequence) for sequence in order}
    heard = [Heard("matched", 0, at, deed.email, {"id": str(sequence)}, None, b"") for at, sequence in enumerate(order)]
    assert truth._told_last(told, heard, ids) == {(deed.org, deed.email): may_stand}
