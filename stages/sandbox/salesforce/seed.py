"""Puts a seed into an org: records as if they had always been there. Binds itself to no right and no rule.

A seed is `{"Contact": [{field: value, …}, …], "Lead": […], …}`. Read-only fields may be set; "@name" as an Id names a record for others to
refer to, forward too. Beside the objects it may hold "rules": rules that belong to the org and outlast a reset.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stages.sandbox.salesforce import campaigns, ids, rules, saving
from stages.sandbox.salesforce.objects import Object
from stages.sandbox.salesforce.org import SEED_USER, Org
from stages.sandbox.salesforce.refusals import RecordRefusedError
from stages.sandbox.salesforce.transaction import Transaction

_ORDER = ("User", "Account", "Contact", "Lead", "Campaign", "CampaignMemberStatus", "CampaignMember")
"""Parents before their children."""


class SeedError(Exception):
    """The seed can't be taken; the text names all that is wrong with it."""


def check_shape(seed: Any) -> list[Mapping[str, Any]]:
    """One seed for all orgs, or a list with one for each. Raises SeedError."""
    seeds = seed if isinstance(seed, list) else [seed]
    for each in seeds:
        if not isinstance(each, dict) or not all(isinstance(value, list) for value in each.values()):
            raise SeedError('a seed is {"Contact": [{…}, …], …}, or a list of these, one for each org')
    return seeds or [{}]


def plant(org: Org) -> None:
    """Empties the org and fills it with its seed. Raises SeedError."""
    org.empty()
    mistakes: list[str] = []
    for spec in org.seed.get("rules", ()):
        try:
            rule = rules.read(org.name("rule-"), spec, list(org.rules.values()))
        except rules.RuleError as error:
            mistakes.append(f"rules: {error}")
            continue
        org.rules[rule.id] = rule
    org.rules_changed()
    rows = list(_rows(org, mistakes))
    names = _names(org, rows)
    tx = Transaction(org, SEED_USER, bound=False, seeding=True)
    for object_, row in rows:
        try:
            _plant_row(tx, object_, {field: _resolved(names, value) for field, value in row.items() if field != "@name"})
        except RecordRefusedError as error:
            mistakes.append(f"{object_.name} {row}: {error}")
    for rule in org.rules.values():
        try:
            rules.check_owner(rule, org.known_user_id)  # only now: the user may be the seed's
        except rules.RuleError as error:
            mistakes.append(f"rules: {error}")
    if mistakes:
        raise SeedError("\n".join(mistakes))


def _rows(org: Org, mistakes: list[str]) -> Iterator[tuple[Object, Mapping[str, Any]]]:
    given = {name.lower(): (name, rows) for name, rows in org.seed.items() if name != "rules"}
    order = [name.lower() for name in _ORDER]
    for key in sorted(given, key=lambda key: order.index(key) if key in order else len(order)):
        name, rows = given[key]
        object_ = org.plain_schema.get(key)
        if object_ is None:
            mistakes.append(f"no such object: {name}")
            continue
        for row in rows:
            if not isinstance(row, dict):
                mistakes.append(f"{name}: a record is a JSON object")
            elif not _has_good_id(row):
                mistakes.append(f"{name} {row}: Id is an id, or a name that begins with @")
            else:
                yield object_, _identified(org, object_, row)


def _has_good_id(row: Mapping[str, Any]) -> bool:
    given = row.get("Id")
    return given is None or (isinstance(given, str) and (given.startswith("@") or ids.canonical(given) is not None))


def _identified(org: Org, object_: Object, row: Mapping[str, Any]) -> dict[str, Any]:
    """With an id in the order of the seed, and its name beside it: before any record is made, so that others can refer forward."""
    given, username = row.get("Id"), row.get("Username")
    known = object_.name == "User" and isinstance(username, str) and org.has_user(username)
    own = org.user_id(str(username)) if known else org.new_id(object_)
    if isinstance(given, str) and given.startswith("@"):
        return {**row, "Id": own, "@name": given}
    return {**row, "Id": own if given is None else ids.canonical(given)}


def _names(org: Org, rows: Sequence[tuple[Object, Mapping[str, Any]]]) -> dict[str, str]:
    """ "@name" -> id. The Contact of a person account has no row of its own and is named where the Account says PersonContactId."""
    names = {row["@name"]: row["Id"] for _, row in rows if "@name" in row}
    for _, row in rows:
        person = row.get("PersonContactId")
        if isinstance(person, str) and person.startswith("@"):
            names.setdefault(person, org.new_id(org.plain_schema["contact"]))
    return names


def _resolved(names: Mapping[str, str], value: Any) -> Any:
    return names.get(value, value) if isinstance(value, str) else value


def _plant_row(tx: Transaction, object_: Object, row: dict[str, Any]) -> None:
    if object_.name == "User":
        username = str(row.get("Username", row.get("Name", "")))
        if not tx.org.has_user(username):
            tx.org.add_user(username, str(row.get("Name", username)), row.get("Id"))
        return
    twin = _status_twin(tx, object_, row)
    if twin is not None:
        saving.update(tx, object_, twin, {field: value for field, value in row.items() if field not in ("Id", "CampaignId")})
        return
    saving.create(tx, object_, row)


def _status_twin(tx: Transaction, object_: Object, row: Mapping[str, Any]) -> Any:
    """A member status that a Campaign came with: the seed sets it instead of adding a second of that label."""
    if object_.name != "CampaignMemberStatus":
        return None
    label = str(row.get("Label", "")).lower()
    for status in campaigns.statuses(tx.org, str(row.get("CampaignId", ""))):
        if status.values["Label"].lower() == label:
            return status
    return None
