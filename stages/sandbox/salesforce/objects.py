"""Objects and fields of a fresh org, with lengths and flags as describe shows them. Holds no records and checks nothing.

Lengths and flags: describes recorded from real orgs and the object reference of API 62.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping

TEXT_TYPES = frozenset({"string", "textarea", "email", "phone", "url", "picklist", "multipicklist", "combobox"})
NUMBER_TYPES = frozenset({"int", "double", "currency", "percent"})
LONG_TEXT_LENGTH = 255
"""A textarea longer than this can be neither filtered nor sorted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field. `derived` fields are worked out when read and never stored. `default` is what an empty one reads as."""

    name: str
    label: str
    type: str
    length: int = 0
    nillable: bool = True
    createable: bool = True
    updateable: bool = True
    defaulted: bool = False
    filterable: bool = True
    unique: bool = False
    external_id: bool = False
    id_lookup: bool = False
    case_sensitive: bool = False
    restricted: bool = False
    values: tuple[str, ...] = ()
    default_value: str | None = None
    reference_to: tuple[str, ...] = ()
    relationship: str | None = None
    derived: bool = False
    readable: bool = True

    @property
    def custom(self) -> bool:
        return self.name.endswith(("__c", "__pc"))

    @property
    def default(self) -> bool | None:
        return False if self.type == "boolean" else None

    @property
    def required(self) -> bool:
        return self.createable and not self.nillable and not self.defaulted and self.type != "boolean"


@dataclasses.dataclass(frozen=True, slots=True)
class Object:
    """One object. `fields` by lower-case name, in the order of describe."""

    name: str
    label: str
    key_prefix: str
    fields: Mapping[str, Field]
    createable: bool = True
    updateable: bool = True
    deletable: bool = True
    readable: bool = True

    def field(self, name: str) -> Field | None:
        """The field as this API's users see it: None if it isn't there or hidden from them."""
        found = self.fields.get(name.lower())
        return found if found is not None and found.readable else None

    def relation(self, name: str) -> Field | None:
        """The lookup whose parent is written `name` in SOQL."""
        wanted = name.lower()
        for field in self.fields.values():
            if field.relationship is not None and field.relationship.lower() == wanted and field.readable:
                return field
        return None


def _label(name: str) -> str:
    return "".join(f" {letter}" if letter.isupper() and at else letter for at, letter in enumerate(name))


def text(name: str, length: int, *, label: str | None = None, required: bool = False, type: str = "string") -> Field:
    return Field(name, label or _label(name), type, length, nillable=not required)


def long_text(name: str, length: int) -> Field:
    return Field(name, _label(name), "textarea", length, filterable=length <= LONG_TEXT_LENGTH)


def picklist(name: str, values: Iterable[str], *, default: str | None = None, length: int = 255, label: str | None = None) -> Field:
    return Field(
        name,
        label or _label(name),
        "picklist",
        length,
        nillable=default is None,
        defaulted=default is not None,
        values=tuple(values),
        default_value=default,
    )


def checkbox(name: str, *, createable: bool = True, updateable: bool = True) -> Field:
    return Field(name, _label(name), "boolean", nillable=False, defaulted=True, createable=createable, updateable=updateable)


def lookup(
    name: str,
    to: str,
    *,
    label: str | None = None,
    required: bool = False,
    createable: bool = True,
    updateable: bool = True,
    defaulted: bool = False,
) -> Field:
    return Field(
        name,
        label or f"{_label(name.removesuffix('Id'))} ID",
        "reference",
        18,
        nillable=not required and not defaulted,
        createable=createable,
        updateable=updateable,
        defaulted=defaulted,
        reference_to=(to,),
        relationship=name.removesuffix("Id"),
    )


def read_only(name: str, type: str, length: int = 0, *, derived: bool = False, nillable: bool = True) -> Field:
    return Field(
        name,
        _label(name),
        type,
        length,
        nillable=nillable,
        createable=False,
        updateable=False,
        derived=derived,
        defaulted=not nillable,
    )


def date(name: str) -> Field:
    return Field(name, _label(name), "date")


def _system_fields(owner: bool) -> list[Field]:
    fields = [
        dataclasses.replace(read_only("Id", "id", 18, nillable=False), id_lookup=True, label="Record ID"),
        read_only("IsDeleted", "boolean", nillable=False),
        read_only("CreatedDate", "datetime", nillable=False),
        lookup("CreatedById", "User", createable=False, updateable=False, defaulted=True),
        read_only("LastModifiedDate", "datetime", nillable=False),
        lookup("LastModifiedById", "User", createable=False, updateable=False, defaulted=True),
        read_only("SystemModstamp", "datetime", nillable=False),
    ]
    if owner:
        fields.append(lookup("OwnerId", "User", defaulted=True))
    return fields


def make(name: str, prefix: str, fields: Iterable[Field], *, owner: bool = False, writable: bool = True) -> Object:
    every = [*_system_fields(owner), *fields]
    return Object(
        name,
        _label(name),
        prefix,
        {field.name.lower(): field for field in every},
        createable=writable,
        updateable=writable,
        deletable=writable,
    )


LEAD_SOURCES = ("Web", "Phone Inquiry", "Partner Referral", "Purchased List", "Other")
INDUSTRIES = (
    "Agriculture",
    "Banking",
    "Biotechnology",
    "Consulting",
    "Education",
    "Energy",
    "Finance",
    "Healthcare",
    "Media",
    "Technology",
)
RATINGS = ("Hot", "Warm", "Cold")
LEAD_STATUSES = ("Open - Not Contacted", "Working - Contacted", "Closed - Converted", "Closed - Not Converted")
CONVERTED_STATUS = "Closed - Converted"
CAMPAIGN_TYPES = (
    "Conference",
    "Webinar",
    "Trade Show",
    "Public Relations",
    "Partners",
    "Referral Program",
    "Advertisement",
    "Banner Ads",
    "Direct Mail",
    "Email",
    "Telemarketing",
    "Other",
)
CAMPAIGN_STATUSES = ("Planned", "In Progress", "Completed", "Aborted")
REPLAY_FIELD = "Livestorm_Replay_Status__c"


def _phone(name: str) -> Field:
    return text(name, 40, type="phone")


def _email(name: str = "Email") -> Field:
    return dataclasses.replace(text(name, 80, type="email"), id_lookup=name == "Email")


def _address(prefix: str = "") -> list[Field]:
    return [
        text(f"{prefix}Street", 255, type="textarea"),
        text(f"{prefix}City", 40),
        text(f"{prefix}State", 80, label=f"{_label(prefix)} State/Province".strip()),
        text(f"{prefix}PostalCode", 20, label=f"{_label(prefix)} Zip/Postal Code".strip()),
        text(f"{prefix}Country", 80),
    ]


def _lead() -> Object:
    return make(
        "Lead",
        "00Q",
        [
            lookup("MasterRecordId", "Lead", createable=False, updateable=False),
            text("LastName", 80, required=True),
            text("FirstName", 40),
            text("Salutation", 40),
            read_only("Name", "string", 121),
            text("Title", 128),
            text("Company", 255, required=True),
            *_address(),
            _phone("Phone"),
            _phone("MobilePhone"),
            _phone("Fax"),
            _email(),
            text("Website", 255, type="url"),
            long_text("Description", 32000),
            picklist("LeadSource", LEAD_SOURCES),
            picklist("Status", LEAD_STATUSES, default=LEAD_STATUSES[0]),
            picklist("Industry", INDUSTRIES),
            picklist("Rating", RATINGS),
            Field("NumberOfEmployees", "Employees", "int"),
            checkbox("HasOptedOutOfEmail"),
            checkbox("DoNotCall"),
            checkbox("IsConverted", updateable=False),
            read_only("ConvertedDate", "date"),
            lookup("ConvertedAccountId", "Account", createable=False, updateable=False),
            lookup("ConvertedContactId", "Contact", createable=False, updateable=False),
            read_only("ConvertedOpportunityId", "string", 18),
        ],
        owner=True,
    )


def _contact() -> Object:
    return make(
        "Contact",
        "003",
        [
            lookup("MasterRecordId", "Contact", createable=False, updateable=False),
            lookup("AccountId", "Account", label="Account ID"),
            text("LastName", 80, required=True),
            text("FirstName", 40),
            text("Salutation", 40),
            read_only("Name", "string", 121),
            *_address("Mailing"),
            *_address("Other"),
            _phone("Phone"),
            _phone("Fax"),
            _phone("MobilePhone"),
            _phone("HomePhone"),
            _phone("OtherPhone"),
            _phone("AssistantPhone"),
            lookup("ReportsToId", "Contact"),
            _email(),
            text("Title", 128),
            text("Department", 80),
            text("AssistantName", 40),
            picklist("LeadSource", LEAD_SOURCES),
            date("Birthdate"),
            long_text("Description", 32000),
            checkbox("HasOptedOutOfEmail"),
            checkbox("DoNotCall"),
        ],
        owner=True,
    )


def _account() -> Object:
    return make(
        "Account",
        "001",
        [
            lookup("MasterRecordId", "Account", createable=False, updateable=False),
            text("Name", 255, label="Account Name", required=True),
            picklist("Type", ("Prospect", "Customer - Direct", "Customer - Channel", "Other"), label="Account Type"),
            lookup("ParentId", "Account"),
            *_address("Billing"),
            *_address("Shipping"),
            _phone("Phone"),
            _phone("Fax"),
            text("AccountNumber", 40),
            text("Website", 255, type="url"),
            picklist("Industry", INDUSTRIES),
            picklist("Rating", RATINGS),
            Field("AnnualRevenue", "Annual Revenue", "currency"),
            Field("NumberOfEmployees", "Employees", "int"),
            long_text("Description", 32000),
        ],
        owner=True,
    )


def _campaign() -> Object:
    return make(
        "Campaign",
        "701",
        [
            text("Name", 80, required=True),
            lookup("ParentId", "Campaign"),
            picklist("Type", CAMPAIGN_TYPES),
            picklist("Status", CAMPAIGN_STATUSES, default=CAMPAIGN_STATUSES[0]),
            date("StartDate"),
            date("EndDate"),
            Field("ExpectedRevenue", "Expected Revenue", "currency"),
            Field("BudgetedCost", "Budgeted Cost", "currency"),
            Field("ActualCost", "Actual Cost", "currency"),
            checkbox("IsActive"),
            long_text("Description", 32000),
            read_only("NumberOfLeads", "int", derived=True, nillable=False),
            read_only("NumberOfContacts", "int", derived=True, nillable=False),
            read_only("NumberOfResponses", "int", derived=True, nillable=False),
            Field("CampaignMemberRecordTypeId", "Record Type ID", "reference", 18),
        ],
        owner=True,
    )


def _campaign_member() -> Object:
    return make(
        "CampaignMember",
        "00v",
        [
            lookup("CampaignId", "Campaign", required=True, updateable=False),
            lookup("LeadId", "Lead", updateable=False),
            lookup("ContactId", "Contact", updateable=False),
            picklist("Status", (), length=40),
            read_only("HasResponded", "boolean", nillable=False),
            read_only("FirstRespondedDate", "date"),
            read_only("Name", "string", 255, derived=True),
            read_only("FirstName", "string", 40, derived=True),
            read_only("LastName", "string", 80, derived=True),
            read_only("Title", "string", 128, derived=True),
            read_only("City", "string", 40, derived=True),
            read_only("Country", "string", 80, derived=True),
            read_only("Email", "email", 80, derived=True),
            read_only("Phone", "phone", 40, derived=True),
            read_only("CompanyOrAccount", "string", 255, derived=True),
            dataclasses.replace(read_only("LeadOrContactId", "reference", 18, derived=True), reference_to=("Contact", "Lead")),
            read_only("Type", "string", 40, derived=True),
            Field(REPLAY_FIELD, "Livestorm Replay Status", "string", 255),
        ],
    )


def _campaign_member_status() -> Object:
    return make(
        "CampaignMemberStatus",
        "01Y",
        [
            lookup("CampaignId", "Campaign", required=True, updateable=False),
            text("Label", 765, required=True),
            Field("SortOrder", "Sort Order", "int", nillable=False, defaulted=True),
            checkbox("IsDefault"),
            checkbox("HasResponded"),
        ],
    )


def _user() -> Object:
    return make(
        "User",
        "005",
        [
            text("Username", 80),
            text("Name", 121),
            text("FirstName", 40),
            text("LastName", 80),
            text("Email", 128, type="email"),
            checkbox("IsActive"),
            checkbox("UserPermissionsMarketingUser"),
        ],
        writable=False,
    )


def _organization() -> Object:
    return make("Organization", "00D", [text("Name", 80), text("OrganizationType", 40), checkbox("IsSandbox")], writable=False)


@functools.cache
def fresh() -> Mapping[str, Object]:
    """The objects of an org that nobody has set up yet, by lower-case name; shared, since nothing in them changes."""
    every = [_account(), _contact(), _lead(), _campaign(), _campaign_member(), _campaign_member_status(), _user(), _organization()]
    return {each.name.lower(): each for each in every}


PERSON_FIELDS: Mapping[str, str] = {
    "FirstName": "FirstName",
    "LastName": "LastName",
    "Salutation": "Salutation",
    "PersonEmail": "Email",
    "PersonTitle": "Title",
    "PersonDepartment": "Department",
    "Phone": "Phone",
    "PersonMobilePhone": "MobilePhone",
    "PersonHomePhone": "HomePhone",
    "PersonMailingStreet": "MailingStreet",
    "PersonMailingCity": "MailingCity",
    "PersonMailingState": "MailingState",
    "PersonMailingPostalCode": "MailingPostalCode",
    "PersonMailingCountry": "MailingCountry",
    "PersonLeadSource": "LeadSource",
}
"""Field of a person account -> field of its Contact. Custom fields X__c of Contact are X__pc beside these."""
