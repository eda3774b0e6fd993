"""What the platform does by itself with Campaigns, their member statuses and their members. Checks only what is theirs."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from stages.sandbox.salesforce.objects import Object
from stages.sandbox.salesforce.refusals import refuse
from stages.sandbox.salesforce.table import Record
from stages.sandbox.salesforce.transaction import Transaction
from stages.sandbox.salesforce.values import utc_text

if TYPE_CHECKING:
    from stages.sandbox.salesforce.org import Org

FIRST_STATUSES: tuple[dict[str, Any], ...] = (
    {"Label": "Sent", "SortOrder": 1, "IsDefault": True, "HasResponded": False},
    {"Label": "Responded", "SortOrder": 2, "IsDefault": False, "HasResponded": True},
)
MOST_STATUSES = 50


def statuses(org: "Org", campaign: str) -> Sequence[Record]:
    return org.table(org.schema["campaignmemberstatus"]).find("CampaignId", campaign)


def members(org: "Org", field: str, value: str) -> Sequence[Record]:
    return org.table(org.schema["campaignmember"]).find(field, value)


def before_create(tx: Transaction, object_: Object, new: dict[str, Any]) -> None:
    if object_.name == "CampaignMember":
        _before_member(tx, new)
    elif object_.name == "CampaignMemberStatus":
        _before_status(tx, new)


def after_create(tx: Transaction, object_: Object, record: Record) -> None:
    if object_.name == "Campaign":
        status_object = tx.org.schema["campaignmemberstatus"]
        for values in FIRST_STATUSES:
            tx.insert(status_object, {"CampaignId": record.id, **values})
    elif object_.name == "CampaignMemberStatus":
        _one_default(tx, record)


def before_update(tx: Transaction, object_: Object, record: Record, new: dict[str, Any]) -> None:
    if object_.name == "CampaignMember" and "Status" in new:
        _settle_status(tx, record.values["CampaignId"], new, record.values.get("FirstRespondedDate"))
    elif object_.name == "CampaignMemberStatus":
        _before_status_change(tx, record, new)


def after_update(tx: Transaction, object_: Object, record: Record, new: dict[str, Any]) -> None:
    if object_.name == "CampaignMemberStatus":
        _one_default(tx, record)
        if "HasResponded" in new:
            for member in _in_use(tx.org, record.values["CampaignId"], record.values["Label"]):
                tx.change(tx.org.schema["campaignmember"], member, {"HasResponded": new["HasResponded"]}, silent=True)


def before_delete(tx: Transaction, object_: Object, record: Record) -> None:
    if object_.name == "CampaignMemberStatus":
        campaign, label = record.values["CampaignId"], record.values["Label"]
        if record.values.get("IsDefault") or next(_in_use(tx.org, campaign, label), None) is not None:
            raise refuse("DELETE_FAILED", "You can't delete a member status that is the default or in use.", [])
        if record.values.get("HasResponded") and not _others_responded(tx.org, record):
            raise refuse("DELETE_FAILED", "A campaign needs at least one member status that counts as responded.", [])
    elif object_.name == "Campaign":
        delete_memberships(tx, "CampaignId", record.id)
        for status in statuses(tx.org, record.id):
            tx.delete(tx.org.schema["campaignmemberstatus"], status)
    elif object_.name in ("Lead", "Contact"):
        delete_memberships(tx, f"{object_.name}Id", record.id)


def delete_memberships(tx: Transaction, field: str, value: str) -> None:
    for member in members(tx.org, field, value):
        tx.delete(tx.org.schema["campaignmember"], member)


def move_memberships(tx: Transaction, field: str, from_id: str, to_id: str) -> None:
    """Where someone was converted or merged. A member that the other one has already in that campaign is dropped here.

    A converted Lead's member holds both LeadId and ContactId afterwards.
    """
    member_object = tx.org.schema["campaignmember"]
    target = "ContactId" if to_id.startswith("003") else "LeadId"
    taken = {member.values["CampaignId"] for member in members(tx.org, target, to_id)}
    for member in members(tx.org, field, from_id):
        if member.values["CampaignId"] in taken:
            tx.delete(member_object, member)
        else:
            tx.change(member_object, member, {target: to_id})


def counted(org: "Org", campaign: str, field: str) -> int:
    """NumberOfLeads, NumberOfContacts or NumberOfResponses."""
    every = members(org, "CampaignId", campaign)
    if field == "NumberOfResponses":
        return sum(1 for member in every if member.values.get("HasResponded"))
    contacts = sum(1 for member in every if "ContactId" in member.values)
    return contacts if field == "NumberOfContacts" else len(every) - contacts


def derived(org: "Org", member: Record, field: str) -> Any:
    """A field of a member that is read from its Contact or Lead."""
    contact_id, lead_id = member.values.get("ContactId"), member.values.get("LeadId")
    if field == "LeadOrContactId":
        return contact_id or lead_id
    if field == "Type":
        return "Contact" if contact_id else "Lead"
    person = org.find("Contact", contact_id) if contact_id else org.find("Lead", lead_id or "")
    if person is None:
        return None
    if field == "CompanyOrAccount":
        account = org.find("Account", person.values.get("AccountId", ""))
        return person.values.get("Company") or (account.values.get("Name") if account else None)
    return person.values.get(f"Mailing{field}" if contact_id and field in ("City", "Country") else field)


def _before_member(tx: Transaction, new: dict[str, Any]) -> None:
    campaign = new.get("CampaignId")
    if new.get("ContactId") is not None and not tx.seeding:
        new.pop("LeadId", None)
    who = "ContactId" if new.get("ContactId") is not None else "LeadId"
    person = new.get(who)
    if campaign is None:
        return
    if person is None:
        raise refuse("REQUIRED_FIELD_MISSING", "Required fields are missing: [LeadOrContactId]", ["LeadId", "ContactId"])
    if not tx.seeding:
        if who == "LeadId":
            lead = tx.org.find("Lead", person)
            if lead is not None and lead.values.get("IsConverted"):
                raise refuse("CANNOT_UPDATE_CONVERTED_LEAD", fields=["LeadId"])
        _refuse_second(tx, campaign, who, person)
    _settle_status(tx, campaign, new, new.get("FirstRespondedDate"))


def _refuse_second(tx: Transaction, campaign: str, who: str, person: str) -> None:
    for member in members(tx.org, who, person):
        if member.values["CampaignId"] != campaign:
            continue
        if member.id in tx.created:
            message = f"Attempted to add an entity '{person}' to a campaign '{campaign}' more than once."
            raise refuse("DUPLICATE_VALUE", message, [])
        raise refuse("DUPLICATE_VALUE", "Already a campaign member.", [])


def _settle_status(tx: Transaction, campaign: str, new: dict[str, Any], responded_on: str | None) -> None:
    """A status that the campaign hasn't becomes its default, silently; HasResponded and FirstRespondedDate follow."""
    wanted = (new.get("Status") or "").lower()
    default: Record | None = None
    found: Record | None = None
    for status in statuses(tx.org, campaign):
        if status.values["Label"].lower() == wanted:
            found = status
        if status.values.get("IsDefault"):
            default = status
    found = found or default
    if found is not None:
        new["Status"] = found.values["Label"]
    new["HasResponded"] = found is not None and bool(found.values.get("HasResponded"))
    if new["HasResponded"] and responded_on is None:
        new["FirstRespondedDate"] = utc_text(tx.org.now())[:10]


def _before_status(tx: Transaction, new: dict[str, Any]) -> None:
    campaign = new.get("CampaignId")
    if campaign is None:
        return
    standing = statuses(tx.org, campaign)
    if new.get("SortOrder") is None:
        new["SortOrder"] = 1 + max((status.values["SortOrder"] for status in standing), default=0)
    if len(standing) >= MOST_STATUSES:
        raise refuse("LIMIT_EXCEEDED", f"A campaign can have at most {MOST_STATUSES} member statuses.", [])
    _refuse_twin_status(standing, None, new)


def _before_status_change(tx: Transaction, record: Record, new: dict[str, Any]) -> None:
    standing = statuses(tx.org, record.values["CampaignId"])
    _refuse_twin_status(standing, record, new)
    if new.get("IsDefault") is False and record.values.get("IsDefault"):
        raise refuse("FIELD_INTEGRITY_EXCEPTION", "A campaign needs a default member status.", ["IsDefault"])
    if new.get("HasResponded") is False and record.values.get("HasResponded") and not _others_responded(tx.org, record):
        raise refuse("FIELD_INTEGRITY_EXCEPTION", "A campaign needs at least one member status that counts as responded.", ["HasResponded"])
    if new.get("Label") is not None:
        for member in _in_use(tx.org, record.values["CampaignId"], record.values["Label"]):
            tx.change(tx.org.schema["campaignmember"], member, {"Status": new["Label"]}, silent=True)


def _refuse_twin_status(standing: Sequence[Record], record: Record | None, new: dict[str, Any]) -> None:
    for other in standing:
        if other is record:
            continue
        for field in ("Label", "SortOrder"):
            value, theirs = new.get(field), other.values[field]
            if value is not None and str(value).lower() == str(theirs).lower():
                message = f"duplicate value found: {field} duplicates value on record with id: {other.id[:15]}"
                raise refuse("DUPLICATE_VALUE", message, [])


def _one_default(tx: Transaction, record: Record) -> None:
    """A new default takes the flag from the old one."""
    if not record.values.get("IsDefault"):
        return
    for other in statuses(tx.org, record.values["CampaignId"]):
        if other is not record and other.values.get("IsDefault"):
            tx.change(tx.org.schema["campaignmemberstatus"], other, {"IsDefault": False})


def _others_responded(org: "Org", record: Record) -> bool:
    return any(other is not record and other.values.get("HasResponded") for other in statuses(org, record.values["CampaignId"]))


def _in_use(org: "Org", campaign: str, label: str) -> Iterator[Record]:
    wanted = label.lower()
    return (member for member in members(org, "CampaignId", campaign) if (member.values.get("Status") or "").lower() == wanted)
