"""The default mapping from Livestorm's attributes to Salesforce's fields, and how a file's entries are merged into it. Pure.

Lead: as Livestorm's own integration documents it. Contact: first and last name as documented, the rest Turnout's choice; a company
goes to the Account. Email is not in it: it is always written.
"""

from collections.abc import Mapping
from typing import Final

from schemas.settings import FieldRule

LEAD: Final = {
    "FirstName": "first_name",
    "LastName": "last_name",
    "Company": "company",
    "Title": "job_title",
    "City": "city",
    "Country": "country",
    "Phone": "phone",
    "Website": "website",
}
CONTACT: Final = {
    "FirstName": "first_name",
    "LastName": "last_name",
    "Title": "job_title",
    "Phone": "phone",
    "MailingCity": "city",
    "MailingCountry": "country",
}
CAMPAIGN_MEMBER: Final[dict[str, str]] = {}

BY_OBJECT: Final[dict[str, dict[str, str]]] = {"lead": LEAD, "contact": CONTACT, "campaign_member": CAMPAIGN_MEMBER}

Entry = FieldRule | None
"""What a file says of one field: a rule, or None to take it away."""


def merged(defaults: Mapping[str, str], entries: Mapping[str, Entry]) -> dict[str, FieldRule]:
    """Defaults with the entries over them. A field's name is one whatever its case; the file's spelling is kept."""
    rules = {field: FieldRule(source=attribute) for field, attribute in defaults.items()}
    for field, entry in entries.items():
        for known in [known for known in rules if known.lower() == field.lower()]:
            del rules[known]
        if entry is not None:
            rules[field] = entry
    return rules
