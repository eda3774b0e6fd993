"""Person Accounts: a Contact that is a person's Account is written through that Account, under its names for the same fields. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from stages import mapping
from stages.mapping import Draft
from stages.salesforce.door import Describe

ACCOUNT: Final = "Account"

_SAME: Final = frozenset({"firstname", "lastname", "phone", "fax", "salutation", "description", "website"})
"""Fields that the Account calls as the Contact does."""


def is_person(record: Mapping[str, Any]) -> bool:
    """Whether a Contact, as read, is the person of an Account."""
    return record.get("IsPersonAccount") is True and bool(record.get("AccountId"))


def name_on_account(field: str) -> str:
    """`Title` is `PersonTitle` there, `Region__c` is `Region__pc`."""
    if field.lower().endswith("__c"):
        return f"{field[:-1]}pc"
    return field if field.lower() in _SAME else f"Person{field}"


def on_account(draft: Draft, account: Describe) -> Draft:
    """The Contact's draft as its Account takes it; what the Account lacks is left out and told."""
    told = Draft({}, dict(draft.left_out))
    for name, value in draft.values.items():
        field, why = account.field(name_on_account(name)), mapping.closed(account, name_on_account(name), creating=False)
        if field is None or why is not None:
            told.left_out[name] = why or mapping.NO_FIELD
        else:
            told.values[field.name] = value
    return told
