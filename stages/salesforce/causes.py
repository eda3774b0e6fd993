"""What each error of Salesforce means, as one table; reads the shapes in which errors come. Pure: asks nothing, logs nothing.

Messages follow the language of the user, so the code decides; the words do only where the table says so.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from schemas.messages import Cause
from stages.salesforce.door import Trouble
from stages.salesforce.ids import full_id, is_id

RECORD: Final = "record"
ORG: Final = "org"
TRANSIENT: Final = "transient"
LOOK: Final = "look"

DAILY_PROBE_SECONDS: Final = 900.0
"""An org that is out of calls is asked again every 15 minutes."""

SESSION_ENDED: Final = "INVALID_SESSION_ID"

UNREADABLE: Final = "unreadable_reply"
"""Our code for a body that is not Salesforce's: a page from the edge, nothing at all."""

_OURS: Final = "A mistake of Turnout's own: please report it with this code"


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table. `words` (lower case) must stand in the message, `object` must be the record's object, "" fits all."""

    kind: str
    hint: str
    retry_after_seconds: float | None = None
    words: str = ""
    object: str = ""
    leave_out: bool = False
    """The fields that the org names can be left out and the rest written."""
    org_rule: bool = False


CODES: Final[Mapping[str, tuple[Rule, ...]]] = {
    # The session and the allowance.
    SESSION_ENDED: (Rule(TRANSIENT, "The session has ended: Turnout gets a new one by itself", 1.0),),
    "REQUEST_LIMIT_EXCEEDED": (
        Rule(TRANSIENT, "Too many calls at once: Turnout waits a moment and makes fewer at once", 3.0, words="concurrent"),
        Rule(ORG, "The org's daily API calls are used up: wait, buy more, or find out in Setup > API usage who uses them", DAILY_PROBE_SECONDS),
    ),
    "API_DISABLED_FOR_ORG": (Rule(ORG, "This edition of Salesforce has no API, or the API is switched off: ask Salesforce to enable it"),),
    "API_CURRENTLY_DISABLED": (Rule(ORG, "Give Turnout's user the permission 'API Enabled'"),),
    # Salesforce itself.
    "SERVER_UNAVAILABLE": (Rule(TRANSIENT, "Salesforce is busy or in maintenance: see status.salesforce.com", 5.0),),
    "UNKNOWN_EXCEPTION": (Rule(TRANSIENT, "Salesforce failed inside: if it lasts, give its error number to Salesforce's support", 2.0),),
    "UNABLE_TO_LOCK_ROW": (Rule(TRANSIENT, "Other software is writing the same records: Turnout tries again", 2.0),),
    "QUERY_TIMEOUT": (Rule(TRANSIENT, "The query took over two minutes: Turnout asks for fewer at once; an index on the field helps", 1.0),),
    "REQUEST_RUNNING_TOO_LONG": (Rule(TRANSIENT, "The call took too long: Turnout sends fewer at once; slow triggers are a usual cause", 1.0),),
    "QUERY_TOO_COMPLICATED": (Rule(TRANSIENT, "The query has too many values: Turnout asks for fewer at once", 1.0),),
    "ENTITY_IS_LOCKED": (Rule(TRANSIENT, "The record is locked by an approval: unlock it, or finish the approval", 30.0),),
    # Somebody was faster.
    "DUPLICATE_VALUE": (
        Rule(LOOK, "Already a member of the Campaign: its status is compared", object="CampaignMember"),
        Rule(LOOK, "A record with this key is there already: Turnout reads it and updates it"),
    ),
    "INVALID_CROSS_REFERENCE_KEY": (Rule(LOOK, "A record that this one refers to is gone or hidden from Turnout's user: Turnout looks again"),),
    "ENTITY_IS_DELETED": (Rule(LOOK, "The record was deleted or merged meanwhile: Turnout matches again"),),
    "CANNOT_UPDATE_CONVERTED_LEAD": (Rule(LOOK, "The Lead was converted meanwhile: Turnout takes its Contact"),),
    "NOT_FOUND": (
        *(
            Rule(ORG, "Turnout's user can't see it: tick 'Marketing User' on the user and give rights on Campaigns",
                 words="requested resource does not exist", object=name)
            for name in ("Campaign", "CampaignMember", "CampaignMemberStatus")
        ),
        Rule(ORG, "The object does not exist in this org, or Turnout's user can't see it, or the API version is not one of the org's",
             words="requested resource does not exist"),
        Rule(LOOK, "The record is gone: Turnout matches again"),
    ),
    "PROCESSING_HALTED": (Rule(LOOK, "A part of the call that this one needs had failed: Turnout looks again"),),
    "ALL_OR_NONE_OPERATION_ROLLED_BACK": (Rule(LOOK, "Undone because another record of the same call failed: Turnout looks again"),),
    # This record.
    "DUPLICATES_DETECTED": (
        Rule(RECORD, "A duplicate rule blocks this record: mend the rule or the record that it names; rules that only alert "
             'are passed with duplicate_rules = "save"', org_rule=True),
    ),
    "REQUIRED_FIELD_MISSING": (
        Rule(RECORD, "Map an attribute to the field, ask for it on the registration form, or make the field not required", org_rule=True),
    ),
    "FIELD_CUSTOM_VALIDATION_EXCEPTION": (Rule(RECORD, "A validation rule of the org refuses this record: change the rule or the mapping", org_rule=True),),
    "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST": (
        Rule(RECORD, "The picklist takes listed values only: add the value to it, or take the field out of the mapping", leave_out=True),
    ),
    "STRING_TOO_LONG": (Rule(RECORD, "The value is longer than the field", leave_out=True),),
    "INVALID_EMAIL_ADDRESS": (Rule(RECORD, "Salesforce does not take this address: correct it in Livestorm", leave_out=True),),
    "FIELD_INTEGRITY_EXCEPTION": (
        Rule(RECORD, "The org does not know this country or state (State and Country Picklists), or the value does not fit the field: "
             "add it in Setup, or take the field out of the mapping", leave_out=True),
    ),
    "NUMBER_OUTSIDE_VALID_RANGE": (Rule(RECORD, "The number does not fit the field", leave_out=True),),
    "INVALID_TYPE_ON_FIELD_IN_RECORD": (Rule(RECORD, "The value has another type than the field: map it to a text field", leave_out=True),),
    "INVALID_ARGUMENT_TYPE": (Rule(RECORD, "The value has another type than the field: map it to a text field", leave_out=True),),
    "JSON_PARSER_ERROR": (Rule(RECORD, "The value has another type than the field: map it to a text field", leave_out=True),),
    "ALREADY_IN_PROCESS": (Rule(RECORD, "The record is in an approval process: finish it"),),
    # The org's setup. Where the code can hit one record alone, it is the record's until it hits nearly all.
    "DUPLICATE_EXTERNAL_ID": (Rule(ORG, "Several records have the same key: make the key field Unique, and mend the doubles"),),
    "INVALID_FIELD": (
        Rule(ORG, "The field does not exist, or field-level security hides it from Turnout's user: mend it there or take it out of the mapping",
             leave_out=True),
    ),
    "INVALID_FIELD_FOR_INSERT_UPDATE": (
        Rule(ORG, "Turnout's user may not write the field: give edit rights in field-level security, or take it out of the mapping",
             leave_out=True),
    ),
    "INVALID_TYPE": (
        Rule(ORG, "Turnout's user can't see Campaigns: tick 'Marketing User' on the user and give rights on Campaigns", object="Campaign"),
        Rule(ORG, "Turnout's user can't see Campaign Members: tick 'Marketing User' on the user and give rights on Campaigns", object="CampaignMember"),
        Rule(ORG, "Turnout's user can't see member statuses: tick 'Marketing User' on the user", object="CampaignMemberStatus"),
        Rule(ORG, "The object does not exist in this org, or Turnout's user has no rights on it"),
    ),
    "INSUFFICIENT_ACCESS_OR_READONLY": (
        Rule(RECORD, "Turnout's user may not write Campaigns: tick 'Marketing User' on the user and give create and edit on Campaigns",
             object="Campaign", org_rule=True),
        Rule(RECORD, "Turnout's user may not write this record: give rights on the object, or share the record with the user", org_rule=True),
    ),
    "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY": (
        Rule(RECORD, "Turnout's user has no right on the Account, Campaign or owner that the record refers to: share it with the user", org_rule=True),
    ),
    "INACTIVE_OWNER_OR_USER": (Rule(RECORD, "The owner is an inactive user: give the record, or the assignment rule, an active owner", org_rule=True),),
    "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY": (
        Rule(TRANSIENT, "A trigger met a locked record: Turnout tries again", 2.0, words="unable_to_lock_row"),
        Rule(RECORD, "A trigger of the org failed, or Turnout's user may not write the object: the org's developer can mend it", org_rule=True),
    ),
    "CANNOT_EXECUTE_FLOW_TRIGGER": (
        Rule(TRANSIENT, "A flow met a locked record: Turnout tries again", 2.0, words="unable_to_lock_row"),
        Rule(RECORD, "A flow of the org failed: its admin has an email about it", org_rule=True),
    ),
    "APEX_ERROR": (Rule(RECORD, "The org's own code failed: its developer can mend it", org_rule=True),),
    "APEX_DATA_ACCESS_RESTRICTION": (Rule(RECORD, "The org's own code has no right to the data: its developer can mend it", org_rule=True),),
    "TXN_SECURITY_RUNTIME_EXCEPTION": (Rule(RECORD, "A transaction security policy refuses this: let Turnout's user pass", org_rule=True),),
    "TXN_SECURITY_APEX_ERROR": (Rule(RECORD, "A transaction security policy failed: the org's developer can mend it", org_rule=True),),
    "STORAGE_LIMIT_EXCEEDED": (Rule(ORG, "The org's data storage is full: delete data or buy storage", DAILY_PROBE_SECONDS),),
    # Ours.
    "MALFORMED_ID": (Rule(RECORD, _OURS),),
    "MALFORMED_QUERY": (Rule(RECORD, _OURS),),
    "LIMIT_EXCEEDED": (Rule(RECORD, _OURS),),
    "EXCEEDED_ID_LIMIT": (Rule(RECORD, _OURS),),
    "MISSING_ARGUMENT": (Rule(RECORD, _OURS),),
    "METHOD_NOT_ALLOWED": (Rule(RECORD, _OURS),),
    "BAD_REQUEST": (Rule(RECORD, _OURS),),
    UNREADABLE: (Rule(TRANSIENT, "The answer was not Salesforce's: see status.salesforce.com, and whether login_url or a proxy leads elsewhere", 5.0),),
}  # fmt: skip

UNKNOWN_RULE: Final = Rule(RECORD, "Turnout does not know this error: the words are Salesforce's own")

MANDATORY: Final = frozenset({"id", "email", "personemail", "lastname", "company", "name", "campaignid", "leadid", "contactid"})
"""Never left out: without them the record is not what was meant, or is refused again."""

unknown_codes: Counter[str] = Counter()
"""How often each code that the table lacks was seen in this process; at most 1,000 of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Error:
    """One error as it came."""

    code: str
    message: str
    fields: tuple[str, ...] = ()


def errors_of(body: Any) -> tuple[Error, ...]:
    """The errors in a reply's body, whichever shape it has; empty for a body that tells of none.

    Shapes: the array of a REST call or a composite's part (`errorCode`), one result of a collection (`errors` with `statusCode`),
    the object of the token endpoint (`error`, `error_description`), and text or HTML from the edge, which becomes `unreadable_reply`.
    """
    if isinstance(body, str | bytes):
        return (Error(UNREADABLE, _gist(body)),)
    if isinstance(body, Mapping):
        if isinstance(body.get("errors"), list):
            return tuple(_error(row) for row in body["errors"] if isinstance(row, Mapping))
        return (_error(body),) if any(name in body for name in ("errorCode", "statusCode", "error")) else ()
    if isinstance(body, Sequence):
        return tuple(_error(row) for row in body if isinstance(row, Mapping) and ("errorCode" in row or "statusCode" in row))
    return ()


def classify(code: str, message: str, fields: Sequence[str] = (), *, object_name: str = "", http_status: int = 0) -> Trouble:
    """What one error means for us. An unknown code is the record's fault, unless the HTTP status says that Salesforce failed."""
    rules = CODES.get(code)
    if rules is None and (http_status >= 500 or http_status == 429):
        rules = CODES["SERVER_UNAVAILABLE"]
    if rules is None:
        _count(code)
    rule = _fitting(rules or (UNKNOWN_RULE,), message.lower(), object_name)
    named = tuple(fields) or fields_in(code, message)
    return Trouble(
        kind=rule.kind,
        cause=Cause(code=code, message=message, fields=named, hint=rule.hint),
        retry_after_seconds=rule.retry_after_seconds,
        leave_out=_optional(named) if rule.leave_out else (),
        org_rule=rule.org_rule,
        known=rules is not None,
    )


def classify_all(errors: Sequence[Error], *, object_name: str = "", http_status: int = 0) -> tuple[Trouble, ...]:
    """Each error of one record or call."""
    return tuple(classify(e.code, e.message, e.fields, object_name=object_name, http_status=http_status) for e in errors)


def fields_in(code: str, message: str) -> tuple[str, ...]:
    """Field names that only the message tells: `[LastName, Region__c]`, `fields: A__c, B__c.`, `column 'C__c'`, `found: Key__c duplicates`."""
    if code == "REQUIRED_FIELD_MISSING" and (found := re.search(r"\[([\w, ]+)\]", message)):
        return tuple(name.strip() for name in found[1].split(","))
    if code == "INVALID_FIELD_FOR_INSERT_UPDATE" and (found := re.search(r":\s*(\w+(?:,\s*\w+)*)\s*\.", message)):
        return tuple(name.strip() for name in found[1].split(","))
    if code == "INVALID_FIELD" and (found := re.search(r"(?:column|field) '(\w+)'", message)):
        return (found[1],)
    if code == "DUPLICATE_VALUE" and (found := re.search(r"found: (\w+) duplicates", message)):
        return (found[1],)
    return ()


def existing_id(message: str) -> str | None:
    """The record that a DUPLICATE_VALUE names (`… on record with id: 001U000001c83gK`), 18 characters; None where it names none."""
    found = re.search(r"\bid: ?(\w{15,18})\b", message)
    return full_id(found[1]) if found and is_id(found[1]) else None


def _optional(fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(fields) if not any(name.lower() in MANDATORY for name in fields) else ()


def _fitting(rules: Sequence[Rule], message: str, object_name: str) -> Rule:
    return next((rule for rule in rules if rule.words in message and rule.object in ("", object_name)), rules[-1])


def _error(row: Mapping[str, Any]) -> Error:
    code = row.get("errorCode") or row.get("statusCode") or row.get("error") or UNREADABLE
    message = row.get("message") or row.get("error_description") or ""
    fields = row.get("fields") or ()
    names = tuple(str(name) for name in fields) if isinstance(fields, list | tuple) else ()
    return Error(str(code), str(message) + _duplicates(row.get("duplicateResult")), names)


def _duplicates(result: Any) -> str:
    """Rule and ids of a DUPLICATES_DETECTED, which only a plain call tells; "" elsewhere."""
    if not isinstance(result, Mapping):
        return ""
    matches = [match for found in _rows(result.get("matchResults")) for match in _rows(found.get("matchRecords"))]
    ids = [str(record["Id"]) for match in matches for record in _rows([match.get("record")]) if "Id" in record]
    return f" (rule {result.get('duplicateRule') or '?'}{', records ' + ', '.join(ids[:5]) if ids else ''})"


def _rows(value: Any) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _gist(body: str | bytes) -> str:
    """The start of what is no JSON, without tags: enough to recognise an outage page."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body
    return " ".join(re.sub(r"<[^>]*>", " ", text[:4000]).split())[:200]


def _count(code: str) -> None:
    if code in unknown_codes or len(unknown_codes) < 1000:
        unknown_codes[code] += 1
