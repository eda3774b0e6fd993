"""The outcomes of one batch while they are made: one for each message, what the door's errors mean for those that have none yet."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from pipeline.lanes import org_lane
from pipeline.messages import Message
from pipeline.outcomes import Batch, Block, Outcome, Reject, Retry, Wait
from schemas.messages import Cause, Subject, Written
from schemas.settings import Org, Workspace
from stages.rows import Tables
from stages.salesforce.causes import LOOK, ORG, SESSION_ENDED
from stages.salesforce.door import Trouble
from stages.salesforce.errors import CallRefused, OrgUnavailable, OutcomeUnknown, SalesforceDoorError, UnknownOrg

LOOK_AGAIN_SECONDS: Final = 1.0
"""After a lost answer, or where the world changed: by then a call that was cut off has ended, or its lock is waited for."""
LOCKED_SECONDS: Final = 2.0
SETTINGS_WAIT_SECONDS: Final = 300.0
"""Longest wait for the row of an org or a workspace, which stood there when the door took the event."""

NEVER_THE_MESSAGE: Final = frozenset({SESSION_ENDED, "UNABLE_TO_LOCK_ROW", "REQUEST_LIMIT_EXCEEDED", "SERVER_UNAVAILABLE", "QUERY_TIMEOUT"})
"""Transient, and never the fault of the message that met it: such tries are not counted."""
PERSON: Final = "registration"
"""The kind of message that may end in the dead letters; sessions and companies are waited for."""

_subjects: Final = msgspec.json.Decoder(Subject)
_NO_ORG: Final = Cause(code="unreadable", message="The record names no org", hint="Other software wrote it: look at it, then discard it")


class Verdicts:
    """One outcome for each message of a batch; the first one given stands."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._outcomes: dict[int, Outcome] = {}
        self._places = {id(message): place for place, message in enumerate(batch.messages)}

    def give(self, message: Message, outcome: Outcome) -> None:
        self._outcomes.setdefault(self._places[id(message)], outcome)

    def has(self, message: Message) -> bool:
        return self._places[id(message)] in self._outcomes

    def open(self, messages: Iterable[Message]) -> list[Message]:
        return [message for message in messages if not self.has(message)]

    def outcomes(self) -> Sequence[Outcome]:
        """In the order of the batch. LookupError where a message was forgotten: a mistake of the step."""
        missing = [message.id for message in self.batch.messages if not self.has(message)]
        if missing:
            raise LookupError(f"{len(missing)} messages of a batch have no outcome")
        return [self._outcomes[place] for place in range(len(self.batch.messages))]

    def splits(self, error: CallRefused) -> bool:
        """Whether the engine shall find out whose fault it is. Not where somebody must rest first, as after a lost answer."""
        rests = any(isinstance(outcome, Retry) for outcome in self._outcomes.values())
        return error.trouble.kind != ORG and len(self.batch.messages) > 1 and not rests

    def fail(self, messages: Iterable[Message], error: SalesforceDoorError) -> None:
        """What an error of the door means for those of the messages that have no outcome yet.

        A call that was refused for many may be one message's fault: the error is raised, so that the engine finds out whose by splitting
        the batch.
        """
        if isinstance(error, CallRefused) and self.splits(error):
            raise error
        for message in self.open(messages):
            self.give(message, failed(error, message))


def failed(error: SalesforceDoorError, message: Message) -> Outcome:
    """What an error of the door means for a message that it hit."""
    if isinstance(error, UnknownOrg):
        return Block(org_lane(message.org), unknown_org(message.org))
    if isinstance(error, OrgUnavailable):
        return Block(org_lane(message.org), error.trouble.cause, error.trouble.retry_after_seconds)
    if isinstance(error, OutcomeUnknown):
        return lost(error.trouble)
    if isinstance(error, CallRefused):
        return refused(error.trouble, message)
    raise error


def refused(trouble: Trouble, message: Message) -> Outcome:
    """What the refusal of a whole call means."""
    if trouble.kind == ORG:
        return Block(org_lane(message.org), trouble.cause, trouble.retry_after_seconds)
    return again(trouble, message)


def again(trouble: Trouble, message: Message) -> Outcome:
    """Once more after the time that the org asks for, and later each time. A session or a company has no last try: its own lane is probed."""
    seconds = trouble.retry_after_seconds or (LOOK_AGAIN_SECONDS if trouble.kind == LOOK else LOCKED_SECONDS)
    free = trouble.cause.code in NEVER_THE_MESSAGE
    if message.kind != PERSON and not free:
        return Block(message.lanes[-1], trouble.cause, seconds)
    return Retry(seconds, trouble.cause, free)


def lost(trouble: Trouble) -> Retry:
    """Sent, and no answer: the step looks again at the next try. Not the message's fault."""
    return Retry(max(trouble.retry_after_seconds or 0.0, LOOK_AGAIN_SECONDS), trouble.cause, free=True)


def unknown_org(org: str) -> Cause:
    return Cause(code="unknown_org", message=f"The org {org} is not in the settings", hint="Add it with `turnout settings apply`")


def unreadable(error: Exception) -> Cause:
    """A message whose body is not of the shape that its headers tell."""
    return Cause(code="unreadable", message=f"The message can't be read: {error}"[:500], hint="Retry it with a newer version of Turnout")


def decode(message: Message) -> Subject:
    """The subject of a message. Raises msgspec.DecodeError or UnicodeDecodeError."""
    subject: Subject = _subjects.decode(message.value)
    return subject


def read(verdicts: Verdicts) -> list[tuple[Message, Subject]]:
    """Each message of the batch with its subject; those that can't be read are rejected."""
    subjects: list[tuple[Message, Subject]] = []
    for message in verdicts.batch.messages:
        try:
            subjects.append((message, decode(message)))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            verdicts.give(message, Reject((unreadable(error),)))
    return subjects


def org_of(verdicts: Verdicts, tables: Tables) -> Org | None:
    """The org's settings; where they are not there (yet), the whole batch waits for them."""
    org = verdicts.batch.org
    if not org:
        for message in verdicts.batch.messages:
            verdicts.give(message, Reject((_NO_ORG,)))
        return None
    row = tables.orgs.get(org)
    if row is None:
        raw = tables.orgs.raw(org)
        for message in verdicts.batch.messages:
            verdicts.give(message, _for_settings(tables.orgs.name, org, raw, unknown_org(org)))
    return row


def workspace_of(verdicts: Verdicts, message: Message, workspace: str, tables: Tables) -> Workspace | None:
    """The workspace's settings; where they are not there (yet), the message waits for them."""
    row = tables.workspaces.get(workspace)
    if row is None:
        hint = "Add it with `turnout settings apply`, then retry"
        cause = Cause(code="unknown_workspace", message=f"The workspace {workspace} is not in the settings", hint=hint)
        verdicts.give(message, _for_settings(tables.workspaces.name, workspace, tables.workspaces.raw(workspace), cause))
    return row


def _for_settings(table: str, key: str, raw: bytes | None, unknown: Cause) -> Wait:
    """A row that isn't there may be on its way; one that can't be read waits for whoever applies the settings anew."""
    if raw is None:
        return Wait(table, key, None, unknown, longest_seconds=SETTINGS_WAIT_SECONDS)
    hint = "Apply the settings again with this version of Turnout"
    return Wait(table, key, raw, Cause(code="unreadable_settings", message=f"The row {key} of {table} can't be read", hint=hint))


def rejected(troubles: Sequence[Trouble], trail: tuple[Written, ...] = ()) -> Reject:
    """To the dead letters, with all causes."""
    return Reject(tuple(trouble.cause for trouble in troubles), trail)
