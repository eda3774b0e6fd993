"""The truth of a chaos run: what the orgs and the topics must hold when everything was brought back, and every difference. Pure."""

import dataclasses
import datetime
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from tests.chaos.order import walk
from tests.chaos.story import CAMPAIGN_KEY, EVENT_TIME, PERSON_KEY, Deed, Org, Session, Story
from tests.flow.watching import Heard

Record = Mapping[str, Any]
Records = Mapping[str, Mapping[str, Sequence[Record]]]
"""By org and object: every record with its history, deleted ones too."""

OBJECTS: Final = ("Contact", "Lead", "Account", "Campaign", "CampaignMember", "CampaignMemberStatus")
CHAIN: Final = ("received", "normalized", "matched", "resolved", "synced")
RANKS: Final = {"Registered": 0, "Did not attend": 1, "Attended": 2}
STATUS: Final = {"people.registered": "Registered", "people.not_attended": "Did not attend", "people.attended": "Attended"}
REPLAY: Final = "Livestorm_Replay_Status__c"
WATCHED: Final = "Watched"


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """`where`: an org, or a topic; `who`: an address, a session."""

    where: str
    who: str
    what: str
    expected: Any = None
    found: Any = None


@dataclasses.dataclass(slots=True)
class Verdict:
    """`checked` and `noted` count; what is noted is allowed, and worth to be known."""

    differences: list[Difference] = dataclasses.field(default_factory=list)
    checked: Counter[str] = dataclasses.field(default_factory=Counter)
    noted: Counter[str] = dataclasses.field(default_factory=Counter)

    def wrong(self, where: str, who: str, what: str, expected: Any = None, found: Any = None) -> None:
        self.differences.append(Difference(where, who, what, expected, found))


def judge(story: Story, records: Records, log: Mapping[str, Sequence[Heard]]) -> Verdict:
    """`log`: by topic (those of the chain, and `dead-letters`), what it holds, in the order of each partition."""
    verdict = Verdict()
    ids = _ids(story, log["received"])
    _taken(story, ids, verdict)
    _finished(ids, log["synced"], verdict)
    _refused(ids, log["dead-letters"], verdict)
    _ordered(story, log, verdict)
    last = _told_last(story, log["matched"], ids)
    for org in story.orgs:
        _org(story, org, records[org.id], last, verdict)
    return verdict


# What the topics hold


def _ids(story: Story, received: Iterable[Heard]) -> dict[str, Deed]:
    """The product's id of each message about a person to what happened."""
    deeds = {(deed.trigger, deed.person, story.base + deed.at): deed for deed in story.deeds}
    ids: dict[str, Deed] = {}
    for heard in received:
        if heard.headers["kind"] == "registration":
            data = heard.value["body"]["data"]
            ids[heard.headers["id"]] = deeds[heard.value["trigger"], data["id"], data["attributes"]["updated_at"]]
    return ids


def _taken(story: Story, ids: Mapping[str, Deed], verdict: Verdict) -> None:
    known = set(ids.values())
    for deed in story.deeds:
        verdict.checked["events in `received`"] += 1
        if deed not in known:
            verdict.wrong("received", deed.email, "lost at the door", deed.trigger)


def _finished(ids: Mapping[str, Deed], synced: Iterable[Heard], verdict: Verdict) -> None:
    """Everyone has the outcome that the rules give, and no other."""
    outcomes: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for heard in synced:
        if heard.value["kind"] == "registration":
            causes = [cause["code"] for cause in heard.value.get("causes", [])]
            outcomes[heard.value["id"]].add((heard.value["outcome"], heard.value.get("reason") or ",".join(causes)))
    expected = {"synced": ("emitted", "synced"), "staff": ("dropped", "staff"), "no_email": ("rejected", "no_email")}
    for id, deed in ids.items():
        verdict.checked["outcomes in `synced`"] += 1
        if outcomes[id] != {expected[deed.fate]}:
            verdict.wrong("synced", deed.email, f"outcome of {deed.trigger}", expected[deed.fate], sorted(outcomes[id]))


def _refused(ids: Mapping[str, Deed], letters: Iterable[Heard], verdict: Verdict) -> None:
    for heard in letters:
        verdict.checked["dead letters"] += 1
        deed = ids.get(heard.value.get("headers", {}).get("id", ""))
        if deed is None or deed.fate != "no_email":
            causes = [(cause["code"], cause["message"]) for cause in heard.value.get("causes", [])]
            verdict.wrong("dead-letters", heard.value.get("email", ""), f"refused by {heard.value['stage']}", None, causes)


Place = tuple[str, ...]


def _ordered(story: Story, log: Mapping[str, Sequence[Heard]], verdict: Verdict) -> None:
    """Each stage hands on what it takes in its order: in all of a workspace, or in each session where the session is a lane."""
    for before, after in itertools.pairwise(CHAIN):
        by_session = after in ("normalized", "synced")
        taken, given = _runs(log[before], by_session=by_session), _runs(log[after], by_session=by_session)
        for place in taken.keys() | given.keys():
            verdict.checked[f"orders from `{before}` to `{after}`"] += 1
            found = walk(taken[place], given[place])
            if found == "broken":
                verdict.wrong(f"{before} to {after}", " ".join(place), "order, or something left out", taken[place], given[place])
            elif found != "once":
                verdict.noted[f"repeats from `{before}` to `{after}`: {found}"] += 1


def _runs(heard: Iterable[Heard], *, by_session: bool) -> defaultdict[Place, list[str]]:
    """Ids of the registrations of people that go all the way, by workspace, address and, where asked, session."""
    runs: defaultdict[Place, list[str]] = defaultdict(list)
    for one in heard:
        told = one.headers
        kept = told["kind"] == "registration" and "@" in one.key and not one.key.startswith("staff@")
        if kept:
            runs[(told["workspace"], one.key, *((told["session"],) if by_session else ()))].append(told["id"])
    return runs


def _told_last(story: Story, matched: Iterable[Heard], ids: Mapping[str, Deed]) -> dict[tuple[str, str], set[int]]:
    """By org and address, what may stand in the org where only the log's order decides.

    A worker knows which event is newest of those that it has seen; one that has just begun has seen what came last: so it is the newest of
    an end of the log, however long, of each workspace.
    """
    order: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for heard in matched:
        deed = ids.get(heard.headers["id"])
        if deed is not None:
            order[deed.org, deed.email, deed.workspace].append(deed.sequence)
    found: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for (org, email, _), sequences in order.items():
        found[org, email] |= set(itertools.accumulate(reversed(sequences), max))
    return found


# What an org holds


def _org(story: Story, org: Org, held: Mapping[str, Sequence[Record]], last: Mapping[tuple[str, str], set[int]], verdict: Verdict) -> None:
    campaigns = _campaigns(story, org, held, verdict)
    people = _people(story, org, held, verdict)
    wanted: defaultdict[str, list[Deed]] = defaultdict(list)
    for deed in story.deeds:
        if deed.org == org.id and deed.fate == "synced":
            wanted[deed.email].append(deed)
    for email, deeds in wanted.items():
        verdict.checked["people"] += 1
        records = people.pop(email, [])
        if len(records) != 1:
            verdict.wrong(org.id, email, "missing" if not records else "twice", 1, [_seen(record) for record in records])
            continue
        _values(story, org, email, records[0], deeds, last.get((org.id, email), set()), verdict)
        _members(org, email, records[0], deeds, campaigns, held["CampaignMember"], verdict)
    for email, records in people.items():
        if email not in story.seeded[org.id] or len(records) != 1:
            verdict.wrong(org.id, email, "nobody asked for", 0, [_seen(record) for record in records])
    _no_other_members(org, wanted, held, verdict)
    _accounts(org, held, verdict)


def _live(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if not record["IsDeleted"]]


def _people(story: Story, org: Org, held: Mapping[str, Sequence[Record]], verdict: Verdict) -> dict[str, list[Record]]:
    people: dict[str, list[Record]] = {}
    for record in (*_live(held["Contact"]), *_live(held["Lead"])):
        people.setdefault((record["Email"] or "").strip().lower(), []).append(record)
        for entry in record["history"][1:]:
            verdict.checked["changes of people"] += 1
            if "Email" in entry["changes"]:
                verdict.wrong(org.id, record["Email"], "address changed", None, entry["changes"]["Email"])
    return people


def _seen(record: Record) -> dict[str, Any]:
    return {"id": record["Id"], "created": record["history"][0]["at"], "title": record.get("Title")}


def _changes(record: Record, field: str) -> Iterator[tuple[Any, str]]:
    """Every value that a field ever had, with the time."""
    for entry in record["history"]:
        if field in entry["changes"]:
            yield entry["changes"][field][1], entry["at"]


def _values(story: Story, org: Org, email: str, record: Record, deeds: Sequence[Deed], last: set[int], verdict: Verdict) -> None:
    newest = max(deeds, key=lambda deed: deed.sequence)
    had = [(int(value[1:]), at) for value, at in _changes(record, "Title") if value]
    verdict.checked["values in histories"] += len(had)
    back = [(before, after) for before, after in itertools.pairwise(had) if after[0] <= before[0]]
    found = had[-1][0] if had else 0
    if org.timed:
        if back:
            verdict.wrong(org.id, email, "a value went back", None, [value for value, _ in had])
        if found != newest.sequence:
            verdict.wrong(org.id, email, "value", newest.sequence, [value for value, _ in had])
        expected = story.base + newest.at
        if _unix(record.get(EVENT_TIME)) != expected:
            verdict.wrong(org.id, email, "time of the event", expected, record.get(EVENT_TIME))
    else:
        # Without a field for the event's time a repeat that no worker remembers counts by its place in the log.
        verdict.noted["values that went back for a repeat, in orgs without a time field"] += len(back)
        verdict.noted["values decided by the log's order, in orgs without a time field"] += found != newest.sequence
        if found not in last | {newest.sequence}:
            verdict.wrong(org.id, email, "value", sorted(last | {newest.sequence}), [value for value, _ in had])
    if org.keyed and (record.get(PERSON_KEY) or "") != email:
        verdict.wrong(org.id, email, "key", email, record.get(PERSON_KEY))


def _unix(text: object) -> int | None:

    return None if not isinstance(text, str) else int(datetime.datetime.fromisoformat(text).timestamp())


def _members(
    org: Org, email: str, record: Record, deeds: Sequence[Deed], campaigns: Mapping[str, str], members: Sequence[Record], verdict: Verdict
) -> None:
    mine: defaultdict[str, list[Record]] = defaultdict(list)
    for member in _live(members):
        if record["Id"] in (member["ContactId"], member["LeadId"]):
            mine[member["CampaignId"]].append(member)
    sessions: defaultdict[str, list[Deed]] = defaultdict(list)
    for deed in deeds:
        sessions[deed.session].append(deed)
    for session, did in sessions.items():
        verdict.checked["memberships"] += 1
        found = mine.pop(campaigns.get(session, ""), [])
        if len(found) != 1:
            verdict.wrong(org.id, email, f"{'missing from' if not found else 'twice in'} session {session}", 1, len(found))
            continue
        _member(org, email, found[0], did, verdict)
    for campaign in mine:
        verdict.wrong(org.id, email, "member of what nobody asked for", None, campaign)


def _member(org: Org, email: str, member: Record, did: Sequence[Deed], verdict: Verdict) -> None:
    expected = max((STATUS.get(deed.trigger, "Registered") for deed in did), key=RANKS.__getitem__)
    had = [value for value, _ in _changes(member, "Status")]
    verdict.checked["statuses in histories"] += len(had)
    ranks = [RANKS.get(value, -1) for value in had]
    if any(after <= before for before, after in itertools.pairwise(ranks)):
        verdict.wrong(org.id, email, "a status went back", None, had)
    if member["Status"] != expected:
        verdict.wrong(org.id, email, "status", expected, had)
    watched = WATCHED if any(deed.trigger == "people.watched_replay" for deed in did) else None
    replays = [value for value, _ in _changes(member, REPLAY) if value is not None]
    verdict.checked["replay fields"] += 1
    if (member.get(REPLAY) or None) != watched or replays != ([watched] if watched else []):
        verdict.wrong(org.id, email, "replay", watched, replays)


def _no_other_members(org: Org, wanted: Mapping[str, Sequence[Deed]], held: Mapping[str, Sequence[Record]], verdict: Verdict) -> None:
    expected = sum(len({deed.session for deed in deeds}) for deeds in wanted.values())
    found = len(_live(held["CampaignMember"]))
    if found != expected:
        verdict.wrong(org.id, "all", "number of members", expected, found)


def _campaigns(story: Story, org: Org, held: Mapping[str, Sequence[Record]], verdict: Verdict) -> dict[str, str]:
    """Session to Campaign; each session of the org's has one, with each status once."""
    found: defaultdict[str, list[Record]] = defaultdict(list)
    for record in _live(held["Campaign"]):
        found[str(record["Description"] or "").rpartition(" ")[2]].append(record)
    labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for status in _live(held["CampaignMemberStatus"]):
        labels[status["CampaignId"]][status["Label"]] += 1
    places = {workspace.id for workspace in story.workspaces if workspace.org == org.id}
    campaigns: dict[str, str] = {}
    for session in (session for session in story.sessions if session.workspace in places):
        verdict.checked["Campaigns"] += 1
        records = found.pop(session.id, [])
        if len(records) != 1:
            verdict.wrong(org.id, session.title, "Campaigns", 1, [_seen(record) for record in records])
            continue
        campaigns[session.id] = records[0]["Id"]
        _campaign(org, session, records[0], labels[records[0]["Id"]], verdict)
    for id, records in found.items():
        verdict.wrong(org.id, id, "a Campaign that nobody asked for", 0, len(records))
    return campaigns


def _campaign(org: Org, session: Session, record: Record, labels: Counter[str], verdict: Verdict) -> None:
    if any(labels[label] != 1 for label in RANKS):
        verdict.wrong(org.id, session.title, "member statuses", dict.fromkeys(RANKS, 1), dict(labels))
    if org.keyed and record.get(CAMPAIGN_KEY) != session.id:
        verdict.wrong(org.id, session.title, "key", session.id, record.get(CAMPAIGN_KEY))
    if record["Status"] != "Completed":
        verdict.wrong(org.id, session.title, "Campaign's status", "Completed", record["Status"])


def _accounts(org: Org, held: Mapping[str, Sequence[Record]], verdict: Verdict) -> None:
    names = Counter(" ".join(str(record["Name"]).split()).lower() for record in _live(held["Account"]))
    verdict.checked["Accounts"] += len(names)
    for name, count in names.items():
        if count > 1:
            verdict.wrong(org.id, name, "Account twice", 1, count)
