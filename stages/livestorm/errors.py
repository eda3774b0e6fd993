"""Errors of the door to Livestorm.

LivestormError               `cause` for an admin; `retry_after_seconds` None: asking again won't help until somebody mends it
├── LivestormUnavailable     no answer, 5xx, or over its limits: later
├── TokenRefused             401: no such token
├── ScopeMissing             403: the token may not do this
├── NotFound                 404
└── CallRefused              any other refusal, or an answer that can't be read
"""

from schemas.messages import Cause


class LivestormError(Exception):
    """Whatever the door raises on purpose. `str()` holds no token and no personal data."""

    def __init__(self, cause: Cause, *, status: int = 0, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{cause.code}: {cause.message}")
        self.cause = cause
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class LivestormUnavailable(LivestormError):
    """No answer, 5xx, or over its limits."""


class TokenRefused(LivestormError):
    """401."""


class ScopeMissing(LivestormError):
    """403."""


class NotFound(LivestormError):
    """404."""


class CallRefused(LivestormError):
    """Any other refusal, or an answer that can't be read."""
