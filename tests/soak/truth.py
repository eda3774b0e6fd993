"""What the orgs and the log must hold after a soak, and every difference: nothing lost, nothing twice, all in order. Pure."""

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.chaos.order import walk

Told = Mapping[str, Sequence[str]]
"""By address, the job titles in the order in which they were told."""


@dataclasses.dataclass(frozen=True, slots=True)
class Passed:
    """A registration in a topic of the log. `outcome` is "" where it has none yet."""

    workspace: str
    session: str
    email: str
    id: str
    outcome: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    where: str
    who: str
    what: str
    expected: Any = None
    found: Any = None


def of_log(taken: Mapping[str, int], received: Iterable[Passed], synced: Sequence[Passed], letters: int) -> list[Difference]:
    """`taken`: by workspace, how many registrations the ingress has taken. Nobody was killed: each is finished exactly once, in order."""
    found: list[Difference] = []
    came = _runs(received)
    ids: defaultdict[str, set[str]] = defaultdict(set)
    for (workspace, _, _), run in came.items():
        ids[workspace].update(run)
    for workspace, count in taken.items():
        if len(ids[workspace]) != count:
            found.append(Difference("received", workspace, "registrations", count, len(ids[workspace])))
    found += [Difference("synced", one.email, "outcome", "emitted", one.outcome) for one in synced if one.outcome != "emitted"]
    went = _runs(synced)
    for place in came.keys() | went.keys():
        how = walk(came[place], went[place])
        if how != "once":
            found.append(Difference("received to synced", " ".join(place), how, came[place], went[place]))
    if letters:
        found.append(Difference("dead-letters", "all", "dead letters", 0, letters))
    return found


def _runs(passed: Iterable[Passed]) -> defaultdict[tuple[str, str, str], list[str]]:
    runs: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for one in passed:
        runs[one.workspace, one.email, one.session].append(one.id)
    return runs


def of_org(org: str, told: Told, leads: Sequence[Mapping[str, Any]], members: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """An org with one session, empty before: one Lead and one member for each person, every job title once and in its order."""
    found: list[Difference] = []
    joined = Counter(member["LeadId"] for member in members)
    records: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for lead in leads:
        records[str(lead["Email"] or "").lower()].append(lead)
    for email, titles in told.items():
        mine = records.pop(email, [])
        if len(mine) != 1:
            found.append(Difference(org, email, "Leads", 1, len(mine)))
            continue
        had = _titles(mine[0])
        if not had or had[-1] != titles[-1] or not set(had) <= set(titles) or any(late <= early for early, late in itertools.pairwise(had)):
            found.append(Difference(org, email, "job titles, one after the other", list(titles), had))
        if joined[mine[0]["Id"]] != 1:
            found.append(Difference(org, email, "members", 1, joined[mine[0]["Id"]]))
    found += [Difference(org, email, "Leads that nobody asked for", 0, len(others)) for email, others in records.items()]
    if len(members) != len(told):
        found.append(Difference(org, "all", "members", len(told), len(members)))
    return found


def _titles(lead: Mapping[str, Any]) -> list[str]:
    """Every value that the title ever had."""
    return [entry["changes"]["Title"][1] for entry in lead["history"] if "Title" in entry["changes"]]
