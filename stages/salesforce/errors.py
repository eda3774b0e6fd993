"""Errors of the door to Salesforce.

SalesforceDoorError
├── UnknownOrg               no such org in the settings table
└── TroubledError            `trouble` says whose fault it is
    ├── OrgUnavailable       the whole org can't be worked with now: down, out of calls, login refused, setup wrong: its lane waits
    ├── OutcomeUnknown       a write was sent and no answer came: look again before repeating
    └── CallRefused          this one call was answered with an error (shape of the request, one query)
"""

from stages.salesforce.door import Trouble


class SalesforceDoorError(Exception):
    """Whatever the door raises on purpose. `str()` holds no personal data."""


class UnknownOrg(SalesforceDoorError):
    """No such org in the settings table."""


class TroubledError(SalesforceDoorError):
    """An error that says whose fault it is. `str()` is the code alone: the org's own words may quote people."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.cause.code)
        self.trouble = trouble


class OrgUnavailable(TroubledError):
    """The whole org can't be worked with now. `trouble.retry_after_seconds` is the shortest time to the next probe, or None."""


class OutcomeUnknown(TroubledError):
    """A write was sent and no answer came (timeout, cut connection, 5xx): it may have been done."""


class CallRefused(TroubledError):
    """This one call was answered with an error."""
