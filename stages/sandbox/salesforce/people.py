"""What the platform does by itself with Leads, Contacts and Accounts: names, owners, countries, person accounts, conversion, merges."""

from collections.abc import Mapping
from typing import Any

from stages.sandbox.salesforce import campaigns
from stages.sandbox.salesforce.countries import COUNTRIES, COUNTRY_CODES, STATES
from stages.sandbox.salesforce.objects import CONVERTED_STATUS, Field, Object
from stages.sandbox.salesforce.refusals import refuse
from stages.sandbox.salesforce.rules import ADDRESSES, person_fields
from stages.sandbox.salesforce.table import Record
from stages.sandbox.salesforce.transaction import Transaction
from stages.sandbox.salesforce.values import utc_text

_NOT_ON_THE_LIST = (
    "There's a problem with this {kind}, even though it may appear correct. "
    "Please select a {single} from the list of valid {several}.: {label}"
)
_NAMED = frozenset({"Lead", "Contact"})


def before_create(tx: Transaction, object_: Object, new: dict[str, Any]) -> None:
    _assign(tx, object_, new)
    _settle_addresses(tx, object_, new, new)
    if _is_person(object_, new):
        new["IsPersonAccount"] = True
        new["Name"] = _full_name(new)
    elif object_.name == "Account" and not tx.seeding and new.get("Name") is None:
        # Nillable in an org with person accounts, but a company still needs its name.
        raise refuse("REQUIRED_FIELD_MISSING", "Required fields are missing: [Name]", ["Name"])
    if object_.name in _NAMED:
        new.setdefault("Name", _full_name(new))


def after_create(tx: Transaction, object_: Object, record: Record) -> None:
    if object_.name != "Account" or not record.values.get("IsPersonAccount"):
        return
    contact = tx.org.schema["contact"]
    named = record.values.get("PersonContactId")
    values = {target: record.values[source] for source, target in person_fields(contact).items() if source in record.values}
    values |= {"AccountId": record.id, "IsPersonAccount": True, "Name": record.values["Name"], "OwnerId": record.values["OwnerId"]}
    values |= {stamp: record.values[stamp] for stamp in ("CreatedDate",)}
    person = tx.insert(contact, values, named)
    tx.change(object_, record, {"PersonContactId": person.id}, silent=True)


def before_touch(tx: Transaction, object_: Object, record: Record) -> None:
    """A converted Lead can't be changed, whatever the change is."""
    if object_.name == "Lead" and record.values.get("IsConverted") and tx.bound and not tx.org.has("edit-converted-leads"):
        raise refuse("CANNOT_UPDATE_CONVERTED_LEAD", fields=[])


def before_update(tx: Transaction, object_: Object, record: Record, new: dict[str, Any]) -> None:
    whole = {**record.values, **new}
    _assign(tx, object_, new, creating=False)
    _settle_addresses(tx, object_, new, whole)
    if object_.name == "Contact" and record.values.get("IsPersonAccount"):
        names = [field for field in ("FirstName", "LastName", "Salutation", "AccountId") if field in new]
        if names:
            message = f"Unable to create/update fields: {', '.join(names)}. Write the person account of this contact instead."
            raise refuse("INVALID_FIELD_FOR_INSERT_UPDATE", message, names)
    if object_.name in _NAMED and ("FirstName" in new or "LastName" in new):
        new["Name"] = _full_name(whole)
    if object_.name == "Account" and record.values.get("IsPersonAccount"):
        if "Name" in new:
            message = "Unable to create/update fields: Name. The name of a person account follows the person's names."
            raise refuse("INVALID_FIELD_FOR_INSERT_UPDATE", message, ["Name"])
        if "LastName" in new and new["LastName"] is None:
            raise refuse("REQUIRED_FIELD_MISSING", "Required fields are missing: [LastName]", ["LastName"])
        if "FirstName" in new or "LastName" in new:
            new["Name"] = _full_name(whole)
    elif object_.name == "Account" and "Name" in new and new["Name"] is None:
        raise refuse("REQUIRED_FIELD_MISSING", "Required fields are missing: [Name]", ["Name"])


def after_update(tx: Transaction, object_: Object, record: Record, new: dict[str, Any]) -> None:
    """Keeps a person account and its Contact alike."""
    if not record.values.get("IsPersonAccount"):
        return
    contact = tx.org.schema["contact"]
    account = tx.org.schema["account"]
    pairs = person_fields(contact) | {"Name": "Name"}
    if object_.name == "Account":
        other = tx.org.table(contact).live.get(record.values["PersonContactId"])
        mirrored = {target: new[source] for source, target in pairs.items() if source in new}
        target_object = contact
    else:
        other = tx.org.table(account).live.get(record.values["AccountId"])
        mirrored = {source: new[target] for source, target in pairs.items() if target in new}
        target_object = account
    if other is not None and mirrored:
        tx.change(target_object, other, mirrored)


def before_delete(tx: Transaction, object_: Object, record: Record) -> None:
    if object_.name == "Account":
        contact = tx.org.schema["contact"]
        for child in tx.org.table(contact).find("AccountId", record.id):
            campaigns.delete_memberships(tx, "ContactId", child.id)
            tx.delete(contact, child)


def convert(tx: Transaction, lead: Record, contact: Record | None) -> Record:
    """Turns the Lead into `contact`, or into a new Contact of the Account that its company names. Its memberships go along."""
    lead_object, contact_object = tx.org.schema["lead"], tx.org.schema["contact"]
    if lead.values.get("IsConverted"):
        raise refuse("CANNOT_UPDATE_CONVERTED_LEAD", "This lead is already converted", [])
    if contact is None:
        contact = tx.insert(contact_object, _contact_of(tx, lead))
    tx.change(
        lead_object,
        lead,
        {
            "IsConverted": True,
            "Status": CONVERTED_STATUS,
            "ConvertedDate": utc_text(tx.org.now())[:10],
            "ConvertedContactId": contact.id,
            "ConvertedAccountId": contact.values.get("AccountId"),
        },
    )
    campaigns.move_memberships(tx, "LeadId", lead.id, contact.id)
    return contact


def _contact_of(tx: Transaction, lead: Record) -> dict[str, Any]:
    names = {"Street": "MailingStreet", "City": "MailingCity", "State": "MailingState", "PostalCode": "MailingPostalCode"}
    names |= {"Country": "MailingCountry", "StateCode": "MailingStateCode", "CountryCode": "MailingCountryCode"}
    contact_object, account_object = tx.org.schema["contact"], tx.org.schema["account"]
    values = {}
    for field, value in lead.values.items():
        target = names.get(field, field)
        definition = contact_object.fields.get(target.lower())
        if definition is not None and (definition.createable or target == "Name"):
            values[target] = value
    company = lead.values.get("Company")
    if company is not None:
        found = tx.org.table(account_object).find("Name", company)
        account = found[0] if found else tx.insert(account_object, {"Name": company, "OwnerId": tx.org.user_id(tx.by)})
        values["AccountId"] = account.id
    return values


def merge(tx: Transaction, object_: Object, winner: Record, losers: list[Record]) -> None:
    """Deletes the losers with MasterRecordId set, and moves what hung on them to the winner."""
    for loser in losers:
        if object_.name == "Lead":
            campaigns.move_memberships(tx, "LeadId", loser.id, winner.id)
        elif object_.name == "Contact":
            campaigns.move_memberships(tx, "ContactId", loser.id, winner.id)
        elif object_.name == "Account":
            contact = tx.org.schema["contact"]
            for child in tx.org.table(contact).find("AccountId", loser.id):
                tx.change(contact, child, {"AccountId": winner.id})
        tx.delete(object_, loser, winner.id)


def _full_name(values: dict[str, Any]) -> str | None:
    return " ".join(values[part] for part in ("FirstName", "LastName") if values.get(part)) or None


def _is_person(object_: Object, new: dict[str, Any]) -> bool:
    named = new.get("LastName") is not None or bool(new.get("IsPersonAccount"))
    return object_.name == "Account" and "ispersonaccount" in object_.fields and named


def _assign(tx: Transaction, object_: Object, new: dict[str, Any], *, creating: bool = True) -> None:
    """The active assignment rule: for new Leads, and for changed ones too unless the header says FALSE."""
    rule = tx.org.last_rule("assignment")
    if rule is None or object_.name != "Lead" or not tx.assign or not tx.bound:
        return
    new["OwnerId"] = tx.org.user_id(rule.spec["owner"])


def _settle_addresses(tx: Transaction, object_: Object, new: dict[str, Any], whole: Mapping[str, Any]) -> None:
    """With country picklists on: labels and codes are made to agree, and what isn't on the lists is refused."""
    if not tx.org.has("country-picklists"):
        return
    for prefix in ADDRESSES.get(object_.name.lower(), ()):
        country, state = object_.fields.get(f"{prefix}country".lower()), object_.fields.get(f"{prefix}state".lower())
        if country is None or state is None:
            continue  # a rule has deleted it
        code = _settle(country, new, whole, COUNTRIES, COUNTRY_CODES, "country", "country/territory", "countries")
        if code is None and any(new.get(f"{state.name}{end}") is not None for end in ("", "Code")):
            message = f"A country/territory must be specified before specifying a state value for field: {state.label}"
            raise refuse("FIELD_INTEGRITY_EXCEPTION", message, [state.name])
        states = STATES.get(code or "", {})
        _settle(state, new, whole, states, {label.lower(): code for code, label in states.items()}, "state", "state", "states")


def _settle(
    field: Field,
    new: dict[str, Any],
    whole: Mapping[str, Any],
    labels: Mapping[str, str],
    codes: Mapping[str, str],
    *words: str,
) -> str | None:
    """The code that holds afterwards. A code that is given decides over a label. Raises RecordRefusedError."""
    code_name = f"{field.name}Code"
    if field.name not in new and code_name not in new:
        held: str | None = whole.get(code_name)
        return held
    given = new.get(code_name)
    label = new.get(field.name) if given is None else None
    code = given.upper() if given is not None else codes.get(label.lower()) if label is not None else None
    if (given is not None or label is not None) and code not in labels:
        kind, single, several = words
        message = _NOT_ON_THE_LIST.format(kind=kind, single=single, several=several, label=field.label)
        raise refuse("FIELD_INTEGRITY_EXCEPTION", message, [field.name])
    new[code_name] = code
    new[field.name] = None if code is None else labels[code]
    return code
