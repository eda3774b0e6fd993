"""What a refused record means: fields to leave out, a look again, one person's fault, or the org's own that hits all or nearly all. Pure."""

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pipeline.messages import Message
from pipeline.outcomes import Block, Outcome
from schemas.messages import Cause, Value
from stages import mapping, verdicts
from stages.salesforce.causes import LOOK, MANDATORY, ORG, RECORD, TRANSIENT
from stages.salesforce.door import Describe, Trouble

RUN: Final = 20
"""Records that make a run."""
NEARLY_ALL: Final = 0.9
RUNS: Final = 10_000
"""Most runs that are followed at once."""

_REQUIRED: Final = "REQUIRED_FIELD_MISSING"
_SETUP: Final = frozenset(
    {
        _REQUIRED,
        "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY",
        "INSUFFICIENT_ACCESS_OR_READONLY",
        "INVALID_FIELD",
        "INVALID_FIELD_FOR_INSERT_UPDATE",
    }
)
"""Codes behind which the org's setup may stand: describe knows."""

_PLACES: Final = re.compile(r"(?:country|state)(?:code)?$", re.IGNORECASE)

RunKey = tuple[str, str, bool]
"""Org (or lane), object, whether records were created."""


def leave_out(troubles: Sequence[Trouble], sent: Mapping[str, Value]) -> dict[str, str] | None:
    """Fields (as they were sent) to leave out, with the org's words, so that the rest can be written; None where that does not help."""
    chosen: dict[str, str] = {}
    names = {name.lower(): name for name in sent}
    for trouble in troubles:
        fields = [names[name.lower()] for name in trouble.leave_out if name.lower() in names]
        if not fields and trouble.cause.code == "FIELD_INTEGRITY_EXCEPTION" and not trouble.cause.fields:
            fields = [name for name in sent if _PLACES.search(name)]
        if not fields:
            return None
        chosen.update(dict.fromkeys(fields, f"{trouble.cause.code}: {trouble.cause.message}"))
        if any(_PLACES.search(name) for name in fields):
            chosen.update(dict.fromkeys(_siblings(fields, sent), "left out with the country or state that was refused"))
    return chosen or None


def is_left_out(name: str, refused: Mapping[str, str]) -> bool:
    """Whether the field is among those that the org refused, however either is spelled."""
    return name.lower() in {one.lower() for one in refused}


def kind(troubles: Sequence[Trouble]) -> str:
    """The one kind of all reasons of one record: what can't be mended by waiting comes first."""
    kinds = {trouble.kind for trouble in troubles}
    return next((one for one in (ORG, RECORD, TRANSIENT, LOOK) if one in kinds), RECORD)


def leading(troubles: Sequence[Trouble]) -> Trouble:
    """The reason that counts among all reasons of one record."""
    return next((one for one in troubles if one.kind == kind(troubles)), troubles[0])


def doubts_describe(troubles: Iterable[Trouble]) -> bool:
    """Whether what describe said of the object may be old."""
    return any(trouble.cause.code in _SETUP for trouble in troubles)


def is_shut(describe: Describe, troubles: Sequence[Trouble], results: Iterable[Sequence[Trouble]], *, creating: bool) -> bool:
    """Whether, as describe (read anew) tells, Turnout's user has no right on the object, or none on a field that each new record must have.

    The org's setup, which is no record's fault, however few came. `results`: those of the batch's run; where another record was saved,
    not every one must have the field.
    """
    if not doubts_describe(troubles):
        return False
    if not (describe.createable if creating else describe.updateable):
        return True
    needed = [name for trouble in troubles for name in trouble.cause.fields if trouble.cause.code == _REQUIRED or name.lower() in MANDATORY]
    return creating and all(results) and any(mapping.closed(describe, name, creating=True) for name in needed)


def outcome(troubles: Sequence[Trouble], message: Message, lane: str, *, hits_nearly_all: bool) -> Outcome | None:
    """What a refusal means that neither leaving out nor looking again mends; None: it is this record's own fault.

    `lane` waits where it hits nearly all, be it by a rule of the org's or a trouble that passes; a lock, or what else is never counted,
    is just tried again. A field that can't be written is the org's fault only where it hits nearly all.
    """
    trouble = leading(troubles)
    if trouble.kind == ORG and not doubts_describe(troubles):
        return verdicts.refused(trouble, message)
    if hits_nearly_all and trouble.cause.code not in verdicts.NEVER_THE_MESSAGE:
        return Block(lane, trouble.cause, trouble.retry_after_seconds)
    return verdicts.refused(trouble, message) if trouble.kind == TRANSIENT else None


def unsettled(last: Sequence[Trouble], message: Message) -> Outcome:
    """Where the rounds of a batch have run out; `last` is what the org said last, if it refused anything."""
    cause = Cause(code="unsettled", message="The record changed each time that Turnout looked at it", hint="Turnout tries again")
    return verdicts.again(leading(last) if last else Trouble(TRANSIENT, cause), message)


class Runs:
    """Which rule of an org's own refused the last records, so that a rule that hits nearly all stops the lane and not each person."""

    def __init__(self) -> None:
        self._runs: dict[RunKey, deque[tuple[str, ...]]] = {}

    def note(self, run: RunKey, results: Sequence[Sequence[Trouble]]) -> None:
        """The results of one batch in one run: the troubles of each record, empty for a record that was saved. Each record counts once."""
        if run not in self._runs and len(self._runs) >= RUNS:
            del self._runs[next(iter(self._runs))]
        window = self._runs.setdefault(run, deque(maxlen=RUN))
        window.extend(_cause(troubles) for troubles in results)

    def hits_nearly_all(self, run: RunKey, troubles: Sequence[Trouble], results: Sequence[Sequence[Trouble]]) -> bool:
        """Whether this cause of the org's own refused nearly all of the run, and of this batch too."""
        cause = _cause(troubles)
        if not cause or not all(trouble.org_rule for trouble in troubles if trouble.kind == RECORD):
            return False
        window = self._runs.get(run, deque())
        here = sum(_cause(one) == cause for one in results)
        return len(window) == RUN and window.count(cause) >= NEARLY_ALL * RUN and here >= NEARLY_ALL * len(results)


def _cause(troubles: Sequence[Trouble]) -> tuple[str, ...]:
    return tuple(sorted({",".join((trouble.cause.code, *sorted(trouble.cause.fields))) for trouble in troubles}))


def _siblings(fields: Sequence[str], sent: Mapping[str, Value]) -> list[str]:
    """A state is worth nothing without its country: `MailingState` goes with `MailingCountry`."""
    stems = {_PLACES.sub("", name).lower() for name in fields if re.search(r"country(?:code)?$", name, re.IGNORECASE)}
    return [
        name
        for name in sent
        if name not in fields and re.search(r"state(?:code)?$", name, re.IGNORECASE) and _PLACES.sub("", name).lower() in stems
    ]
