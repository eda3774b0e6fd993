"""Errors as Salesforce words them: one refusal, the lists of them, and the HTTP status each code travels with. Never decides when to refuse."""

from collections.abc import Mapping, Sequence
from typing import Any

STATUS_OF_CODE: Mapping[str, int] = {
    "INVALID_SESSION_ID": 401,
    "INVALID_AUTH_HEADER": 401,
    "REQUEST_LIMIT_EXCEEDED": 403,
    "API_DISABLED_FOR_ORG": 403,
    "API_CURRENTLY_DISABLED": 403,
    "INSUFFICIENT_ACCESS": 403,
    "FUNCTIONALITY_NOT_ENABLED": 403,
    "NOT_FOUND": 404,
    "ENTITY_IS_DELETED": 404,
    "METHOD_NOT_ALLOWED": 405,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "UNKNOWN_EXCEPTION": 500,
    "SERVER_UNAVAILABLE": 503,
}
"""HTTP status of a whole refused request; every code that isn't here is a 400."""

MESSAGES: Mapping[str, str] = {
    "INVALID_SESSION_ID": "Session expired or invalid",
    "REQUEST_LIMIT_EXCEEDED": "TotalRequests Limit exceeded.",
    "API_DISABLED_FOR_ORG": "API is not enabled for this Organization or Partner",
    "API_CURRENTLY_DISABLED": "API is currently disabled for this user",
    "SERVER_UNAVAILABLE": "Server unavailable, please retry later",
    "UNKNOWN_EXCEPTION": "An unexpected error occurred. Please include this ErrorId if you contact support: 1234567890-12345 (-1234567890)",
    "UNABLE_TO_LOCK_ROW": "unable to obtain exclusive access to this record",
    "QUERY_TIMEOUT": "Your query request was running for too long.",
    "REQUEST_RUNNING_TOO_LONG": "Your request was running for too long, and has been stopped.",
    "DUPLICATES_DETECTED": "Use one of these records?",
    "ENTITY_IS_DELETED": "entity is deleted",
    "ENTITY_IS_LOCKED": "the entity is locked for editing",
    "CANNOT_UPDATE_CONVERTED_LEAD": "cannot reference converted lead",
    "INVALID_CROSS_REFERENCE_KEY": "invalid cross reference id",
    "INSUFFICIENT_ACCESS_OR_READONLY": "insufficient access rights on object id",
    "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY": "insufficient access rights on cross-reference id",
    "STORAGE_LIMIT_EXCEEDED": "storage limit exceeded",
    "NOT_FOUND": "The requested resource does not exist",
    "DUPLICATE_VALUE": "duplicate value found: <unknown> duplicates value on record with id: <unknown>",
    "INVALID_EMAIL_ADDRESS": "Email: invalid email address",
    "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY": "SandboxTrigger: execution of BeforeInsert caused by: System.NullPointerException",
    "CANNOT_EXECUTE_FLOW_TRIGGER": "We can't save this record because a flow failed.",
}
"""Texts of codes that a fault can ask for without a message of its own."""


class RefusalError(Exception):
    """One error of Salesforce. `fields` is None where the reply has no such key."""

    def __init__(self, code: str, message: str | None = None, fields: Sequence[str] | None = None, *, status: int | None = None) -> None:
        self.code = code
        self.message = MESSAGES.get(code, code) if message is None else message
        self.fields = fields
        self.status = STATUS_OF_CODE.get(code, 400) if status is None else status
        self.extra: dict[str, Any] = {}
        super().__init__(f"{self.code}: {self.message}")

    def as_rest(self) -> dict[str, Any]:
        """As an element of the array that REST replies with."""
        body: dict[str, Any] = {"message": self.message, "errorCode": self.code}
        if self.fields is not None:
            body["fields"] = list(self.fields)
        return body | self.extra

    def as_collection(self) -> dict[str, Any]:
        """As an element of `errors` in a collections result: `statusCode` instead of `errorCode`, and no extras."""
        return {"statusCode": self.code, "message": self.message, "fields": list(self.fields or ())}


class RecordRefusedError(Exception):
    """One record was refused, for one or several reasons that came together."""

    def __init__(self, refusals: Sequence[RefusalError]) -> None:
        self.refusals = list(refusals)
        super().__init__("; ".join(str(refusal) for refusal in refusals))

    @property
    def status(self) -> int:
        return self.refusals[0].status

    def as_rest(self) -> list[dict[str, Any]]:
        return [refusal.as_rest() for refusal in self.refusals]

    def as_collection(self) -> list[dict[str, Any]]:
        return [refusal.as_collection() for refusal in self.refusals]


def refuse(code: str, message: str | None = None, fields: Sequence[str] | None = None) -> RecordRefusedError:
    """A record refused for one reason."""
    return RecordRefusedError([RefusalError(code, message, fields)])
