"""Errors of the door to Salesforce.

SalesforceDoorError
├── UnknownOrg           no such org in the settings table
├── OrgUnavailable       the whole org can't be worked with now: down, out of calls, login refused, setup wrong: its lane waits
├── OutcomeUnknown       a write was sent and no answer came: look again before repeating
└── CallRefused          this one call was answered with an error (shape of the request, one query): `trouble` says whose fault
"""

from stages.salesforce.door import Trouble


class SalesforceDoorError(Exception):
    """Whatever the door raises on purpose. `str()` holds no personal data."""


class UnknownOrg(SalesforceDoorError):
    """No such org in the settings table."""


class OrgUnavailable(SalesforceDoorError):
    """The whole org can't be worked with now. `trouble.retry_after_seconds` is the shortest time to the next probe, or None."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(f"{trouble.cause.code}: {trouble.cause.message}")
        self.trouble = trouble


class OutcomeUnknown(SalesforceDoorError):
    """A write was sent and no answer came (timeout, cut connection, 5xx): it may have been done."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(f"{trouble.cause.code}: {trouble.cause.message}")
        self.trouble = trouble


class CallRefused(SalesforceDoorError):
    """This one call was answered with an error."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(f"{trouble.cause.code}: {trouble.cause.message}")
        self.trouble = trouble
