"""Tries an org as `turnout check` does: what Turnout needs there, what was found, how to mend it. Writes nothing.

The reading is a few calls; what they mean is plain functions from describe results to rows.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas.settings import FieldRule, Org, Workspace
from stages.salesforce import soql
from stages.salesforce.client import Door
from stages.salesforce.door import Describe, Field
from stages.salesforce.errors import CallRefused, TroubledError
from stages.salesforce.logins import login_url_problem

OBJECTS: Final = ("Lead", "Contact", "Account", "Campaign", "CampaignMember", "CampaignMemberStatus")
CAMPAIGN_TYPE: Final = "Webinar"
CAMPAIGN_STATUSES: Final = ("Planned", "In Progress", "Completed", "Aborted")
STATUS_CHARACTERS: Final = 40
"""Length of CampaignMember.Status, where the labels of CampaignMemberStatus land."""
OLDEST_VERSION: Final = 52.0
"""Before it the header that respects or passes duplicate rules does not exist."""


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `turnout check`."""

    subject: str
    """`org:ID` or `workspace:ID`."""
    check: str
    ok: bool
    found: str
    mend: str = ""
    """How to mend it; of a row that is ok: what would still be better."""


Describes = Mapping[str, Describe | None]
"""By object name; None: the user can't see it."""


async def check_org(door: Door, org: Org, workspaces: Sequence[Workspace]) -> list[CheckResult]:
    """Every check of one org and of what its workspaces need there. Stops after a login that fails, since nothing else can be told."""
    subject = f"org:{org.id}"
    problem = login_url_problem(org.login_url, org.flow)
    if problem is not None:
        return [CheckResult(subject=subject, check="login_url", ok=False, found=problem.message, mend=problem.hint)]
    try:
        user, organization = await door.user_id(), await door.organization_id()
    except TroubledError as error:
        return [_failed(subject, "login", error)]
    rows = [CheckResult(subject=subject, check="login", ok=True, found=f"user {user} of organization {organization}")]
    try:
        limits = await door.limits()
        seen = {name: await _described(door, name) for name in OBJECTS}
        rows += [_api_version(subject, org), _calls_left(subject, org, limits), await _marketing_user(door, subject, user)]
    except TroubledError as error:
        return [*rows, _failed(subject, "calls", error)]
    rows += org_rows(org, workspaces, seen)
    for workspace in workspaces:
        rows += workspace_rows(workspace, seen)
    return rows


def org_rows(org: Org, workspaces: Sequence[Workspace], seen: Describes) -> list[CheckResult]:
    """What belongs to the org whatever the workspace: objects, Email, keys, the event's time, the Campaign's picklists."""
    subject = f"org:{org.id}"
    rows = list(_objects(subject, workspaces, seen))
    rows += [_email(subject, name, seen) for name in ("Lead", "Contact")]
    rows += list(_keys(subject, org, seen))
    rows += list(_event_time(subject, org, seen))
    campaign = seen.get("Campaign")
    if campaign is not None:
        rows += list(_picklist(subject, campaign, "Type", (CAMPAIGN_TYPE,)))
        rows += list(_picklist(subject, campaign, "Status", CAMPAIGN_STATUSES))
    return rows


def workspace_rows(workspace: Workspace, seen: Describes) -> list[CheckResult]:
    """What one workspace's settings need: mapped fields, the replay field, fallbacks, labels, fields that the org requires."""
    subject = f"workspace:{workspace.id}"
    rows: list[CheckResult] = []
    for name, rules in _mappings(workspace).items():
        rows += list(_mapped(subject, name, rules, seen.get(name)))
        rows += list(_required(subject, name, rules, seen.get(name), workspace))
    rows += list(_replay(subject, workspace, seen.get("CampaignMember")))
    rows += list(_fallback_company(subject, workspace, seen))
    rows.append(_labels(subject, workspace))
    return rows


async def _described(door: Door, name: str) -> Describe | None:
    try:
        return await door.describe(name, fresh=True)
    except CallRefused:
        return None


async def _marketing_user(door: Door, subject: str, user: str) -> CheckResult:
    mend = "Tick 'Marketing User' on Turnout's user: without it Campaigns and their member statuses can't be written"
    query = soql.select(["UserPermissionsMarketingUser"], "User", f"Id = {soql.text(user)}")
    try:
        records = await door.query(query)
    except CallRefused as error:
        return CheckResult(
            subject=subject, check="marketing_user", ok=False, found=f"can't be read: {error.trouble.cause.message}", mend=mend
        )
    ticked = bool(records and records[0].get("UserPermissionsMarketingUser"))
    return CheckResult(subject=subject, check="marketing_user", ok=ticked, found="yes" if ticked else "no", mend="" if ticked else mend)


def _failed(subject: str, check: str, error: TroubledError) -> CheckResult:
    cause = error.trouble.cause
    found = f"{cause.code}: {cause.message}; nothing is known of the rest"
    return CheckResult(subject=subject, check=check, ok=False, found=found, mend=cause.hint)


def _api_version(subject: str, org: Org) -> CheckResult:
    known = re.fullmatch(r"\d\d\.0", org.api_version) is not None
    ok = known and float(org.api_version) >= OLDEST_VERSION
    mend = "" if ok else 'api_version = "62.0", or a later one that the org has; before 52.0 duplicate rules can\'t be respected'
    return CheckResult(subject=subject, check="api_version", ok=ok, found=org.api_version, mend=mend)


def _calls_left(subject: str, org: Org, limits: Mapping[str, Any]) -> CheckResult:
    daily = limits.get("DailyApiRequests")
    if not isinstance(daily, dict) or not isinstance(daily.get("Max"), int):
        return CheckResult(subject=subject, check="calls_left", ok=True, found="the org does not tell")
    total, left = daily["Max"], int(daily.get("Remaining", 0))
    ok = left > total * org.daily_call_reserve
    mend = "" if ok else "Wait, buy more calls, lower daily_call_reserve, or find out in Setup > API usage who uses them"
    found = f"{left} of {total} today, {org.daily_call_reserve:.0%} reserved for others"
    return CheckResult(subject=subject, check="calls_left", ok=ok, found=found, mend=mend)


def _objects(subject: str, workspaces: Sequence[Workspace], seen: Describes) -> Iterator[CheckResult]:
    for name in OBJECTS:
        describe = seen.get(name)
        wanted = _rights(name, workspaces)
        missing = [right for right in wanted if describe is None or not getattr(describe, right)]
        found = "not visible" if describe is None else f"not {', not '.join(missing)}" if missing else ", ".join(wanted) or "readable"
        ok = describe is not None and not missing
        yield CheckResult(subject=subject, check=f"object {name}", ok=ok, found=found, mend="" if ok else _object_mend(name))


def _rights(name: str, workspaces: Sequence[Workspace]) -> tuple[str, ...]:
    """What Turnout does with the object in this org; with no workspace yet, what it may come to do."""
    creates = {workspace.objects.create for workspace in workspaces} or {"lead", "contact"}
    match name:
        case "Lead" | "Contact":
            return ("createable", "updateable") if name.lower() in creates else ("updateable",)
        case "Account":
            return ("createable",) if "contact" in creates else ()
        case "CampaignMemberStatus":
            return ("createable",)
        case _:
            return ("createable", "updateable")


def _object_mend(name: str) -> str:
    if name.startswith("Campaign"):
        return f"Tick 'Marketing User' on Turnout's user, and give it create and edit on Campaigns ({name})"
    return f"Give Turnout's user read, create and edit on {name}"


def _email(subject: str, name: str, seen: Describes) -> CheckResult:
    field = _field(seen.get(name), "Email")
    check = f"field {name}.Email"
    if field is None:
        mend = f"Make {name}.Email visible to Turnout's user in field-level security"
        return CheckResult(subject=subject, check=check, ok=False, found="not visible", mend=mend)
    if not field.filterable:
        mend = "Encrypt it deterministically, or not at all: an address that can't be searched can't be matched"
        return CheckResult(subject=subject, check=check, ok=False, found="can't be searched (encrypted)", mend=mend)
    return CheckResult(subject=subject, check=check, ok=True, found="searchable")


def _keys(subject: str, org: Org, seen: Describes) -> Iterator[CheckResult]:
    keys = (
        ("person_key_field", org.person_key_field, ("Lead", "Contact"), 80),
        ("campaign_key_field", org.campaign_key_field, ("Campaign",), 36),
        ("account_key_field", org.account_key_field, ("Account",), 255),
    )
    for setting, name, objects, length in keys:
        if not name:
            better = f"Better with one: a text field, Unique and External ID, on {' and '.join(objects)}: it rules twins out"
            yield CheckResult(subject=subject, check=setting, ok=True, found="none", mend=better)
        for object_name in objects if name else ():
            yield _key(subject, setting, object_name, name, _field(seen.get(object_name), name), length)


def _key(subject: str, setting: str, object_name: str, name: str, field: Field | None, length: int) -> CheckResult:
    check = f"{setting} {object_name}.{name}"
    if field is None:
        mend = f"Make the field {name} on {object_name}: Text({length}), Unique, External ID, visible and editable for Turnout's user"
        return CheckResult(subject=subject, check=check, ok=False, found="not there or not visible", mend=mend)
    faults = {
        "not unique": not field.unique,
        "no external id": not field.external_id,
        "not editable": not (field.createable and field.updateable),
        f"only {field.length} characters": field.length < length,
    }
    wrong = [fault for fault, is_so in faults.items() if is_so]
    mend = f"Make it Text({length}), Unique, External ID and editable for Turnout's user" if wrong else ""
    return CheckResult(subject=subject, check=check, ok=not wrong, found=", ".join(wrong) or "unique external id", mend=mend)


def _event_time(subject: str, org: Org, seen: Describes) -> Iterator[CheckResult]:
    name = org.event_time_field
    if not name:
        better = "Better with one: a Date/Time field on Lead and Contact: the later event then always wins"
        yield CheckResult(subject=subject, check="event_time_field", ok=True, found="none", mend=better)
    for object_name in ("Lead", "Contact") if name else ():
        field = _field(seen.get(object_name), name)
        ok = field is not None and field.type == "datetime" and field.createable and field.updateable
        found = "not there or not visible" if field is None else f"{field.type}{'' if field.updateable else ', not editable'}"
        mend = "" if ok else f"Make {name} on {object_name} a Date/Time field that Turnout's user can edit"
        yield CheckResult(subject=subject, check=f"event_time_field {object_name}.{name}", ok=ok, found=found, mend=mend)


def _picklist(subject: str, describe: Describe, name: str, values: Iterable[str]) -> Iterator[CheckResult]:
    """A value that is not listed is taken all the same, unless the picklist is restricted."""
    check = f"field {describe.name}.{name}"
    field = _field(describe, name)
    if field is None or not field.createable:
        mend = f"Make {describe.name}.{name} visible and editable for Turnout's user"
        yield CheckResult(subject=subject, check=check, ok=False, found="not visible or not editable", mend=mend)
        return
    listed = {value.lower() for value in field.picklist_values}
    missing = [value for value in values if value.lower() not in listed]
    ok = not (missing and field.restricted_picklist)
    found = f"lacks {', '.join(missing)}" if missing else "all values"
    yield CheckResult(
        subject=subject, check=check, ok=ok, found=found, mend=f"Add to the picklist: {', '.join(missing)}" if missing else ""
    )


def _mappings(workspace: Workspace) -> Mapping[str, Mapping[str, FieldRule]]:
    mapping = workspace.mapping
    return {"Lead": mapping.lead, "Contact": mapping.contact, "CampaignMember": mapping.campaign_member}


def _mapped(subject: str, object_name: str, rules: Mapping[str, FieldRule], describe: Describe | None) -> Iterator[CheckResult]:
    """Each mapped field must be there and take what is written; without the object its own row says enough."""
    if describe is None:
        return
    for name, rule in rules.items():
        field = describe.field(name)
        if field is None:
            fault = "not there or not visible"
        elif not field.createable or (rule.write != "on-create" and not field.updateable):
            fault = "read-only for Turnout's user"
        else:
            fault = ""
        mend = f"Make it visible and editable in field-level security, or set {name} = false in the mapping" if fault else ""
        yield CheckResult(subject=subject, check=f"mapping {object_name}.{name}", ok=not fault, found=fault or "writable", mend=mend)


def _required(
    subject: str, object_name: str, rules: Mapping[str, FieldRule], describe: Describe | None, workspace: Workspace
) -> Iterator[CheckResult]:
    """Fields of the org's own that a new record must have, and that nothing is mapped to."""
    if describe is None or (object_name in ("Lead", "Contact") and workspace.objects.create != object_name.lower()):
        return
    filled = {name.lower() for name in rules} | {workspace.objects.replay_status_field.lower()}
    for key, field in describe.fields.items():
        needed = (
            field.createable and not field.nillable and not field.defaulted_on_create and key.endswith("__c") and field.type != "boolean"
        )
        if needed and key not in filled:
            mend = f"Map an attribute to {field.name}, give the field a default, or make it not required"
            yield CheckResult(
                subject=subject, check=f"required {object_name}.{field.name}", ok=False, found="required, not mapped", mend=mend
            )


def _replay(subject: str, workspace: Workspace, describe: Describe | None) -> Iterator[CheckResult]:
    name = workspace.objects.replay_status_field
    if not name or describe is None:
        return
    check = f"replay_status_field CampaignMember.{name}"
    field = describe.field(name)
    value = workspace.statuses.replay
    if field is None or not (field.createable and field.updateable):
        fault = "not there or not visible" if field is None else "read-only for Turnout's user"
        mend = f'Make the field {name} on Campaign Member (text or picklist), visible and editable; or set replay_status_field = ""'
    elif field.restricted_picklist and value not in field.picklist_values:
        fault, mend = f"its picklist lacks {value}", f"Add {value} to the picklist, or set statuses.replay to one of its values"
    else:
        fault, mend = "", ""
    yield CheckResult(subject=subject, check=check, ok=not fault, found=fault or "writable", mend=mend)


def _fallback_company(subject: str, workspace: Workspace, seen: Describes) -> Iterator[CheckResult]:
    """A Lead without a Company is a person of its own where the org has person accounts, and refused elsewhere."""
    lead = seen.get("Lead")
    if workspace.objects.create != "lead" or workspace.objects.fallback_company or lead is None:
        return
    company = lead.field("Company")
    person_accounts = _field(seen.get("Account"), "IsPersonAccount") is not None
    ok = person_accounts or (company is not None and company.nillable)
    found = "empty, and the org has person accounts" if ok else "empty, and the org's Leads need a Company"
    mend = "" if ok else 'Set fallback_company, such as "[not provided]": registrants without a company are refused otherwise'
    yield CheckResult(subject=subject, check="fallback_company", ok=ok, found=found, mend=mend)


def _labels(subject: str, workspace: Workspace) -> CheckResult:
    labels = [label.strip() for label in (workspace.statuses.registered, workspace.statuses.attended, workspace.statuses.not_attended)]
    wrong = [label for label in labels if not label or len(label) > STATUS_CHARACTERS]
    twins = len({label.lower() for label in labels}) < len(labels)
    ok = not (wrong or twins)
    mend = "" if ok else f"Three different labels of at most {STATUS_CHARACTERS} characters"
    return CheckResult(subject=subject, check="statuses", ok=ok, found=", ".join(labels), mend=mend)


def _field(describe: Describe | None, name: str) -> Field | None:
    return describe.field(name) if describe is not None else None
