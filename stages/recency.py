"""Whether an event may overwrite what a record holds, or is too old for that; and what this worker did lately. Asks nobody."""

import dataclasses
import datetime
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from schemas.messages import Cause

REMEMBERED: Final = 20_000
"""Addresses of which a worker remembers the last event."""
SAME_EVENT_IDS: Final = 32
"""Ids of events of one moment that are told apart from repeats."""
CLOCKS_MS: Final = 5_000
"""By how much clocks of two machines may differ, Salesforce's whole seconds with it."""
_RETRIED: Final = "retry:"


def milliseconds(text: Any) -> int | None:
    """Unix ms of a Salesforce datetime (`2021-12-30T14:37:22.000+0000`); None for null and for what is none."""
    if not isinstance(text, str) or not text:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return round(moment.timestamp() * 1000)


def datetime_text(ms: int) -> str:
    """A moment as Salesforce takes it: UTC, in whole seconds, rounded down."""
    return datetime.datetime.fromtimestamp(ms // 1000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def retried(refused_at: int, now: int, tries: int = 1) -> str:
    """The replay mark of a dead letter that is sent on its way again at `now`: each retry has its own. Times are Unix ms.

    `refused_at`: when it left its place in the order; `tries`: how often it was tried until now.
    """
    return f"{_RETRIED}{refused_at}:{now}:{tries}"


def retried_again(replay: str, now: int, tries: int) -> str:
    """The mark of what was refused once more: a retry's tells of the first refusal for ever, and a replay's stays a replay's."""
    refused_at = _refused_at(replay)
    return replay if refused_at is None else retried(refused_at, now, tries)


def tries_before(replay: str) -> int:
    """How often a message with this mark was tried before its last retry; 0: it wasn't retried."""
    if not is_retry(replay):
        return 0
    told = replay.split(":")[3:]
    # An earlier version's mark doesn't tell: it is of one try at least.
    return int(told[0]) if told and told[0].isdecimal() else 1


def is_retry(replay: str) -> bool:
    """Whether a replay mark is that of a dead letter that was sent on its way again."""
    return _refused_at(replay) is not None


def _refused_at(replay: str) -> int | None:
    """When the message was refused; None: it is a replay of what was not."""
    time, _, _ = replay.removeprefix(_RETRIED).partition(":")
    return int(time) if replay.startswith(_RETRIED) and time.isdecimal() else None


def only_fills(
    *,
    happened_at: int,
    replay: str | None,
    remembered: bool,
    record: Mapping[str, Any],
    edited_at: int,
    event_time_field: str | None,
    overwrote_at: int = 0,
) -> bool:
    """Whether an event leaves what the record holds alone and only fills what is empty.

    `happened_at` in Unix ms. `replay`: the message's mark. `remembered`: this worker has applied the same event or a later one.
    `edited_at`: Unix ms of the record's last change by somebody else, 0 where none is known. `event_time_field`: the org's field for the
    time of the event that last set the values, None where it has none (only then does a mark count). `overwrote_at`: Unix ms, when this
    worker last set the values, by an event that isn't later; 0: it doesn't know of that.

    What was refused, and is retried, comes behind messages that were behind it: it overwrites only where nothing has changed the record
    since, but for letters before it, retried with it.
    """
    if remembered or happened_at < edited_at:
        return True
    if event_time_field is None:
        refused_at = None if replay is None else _refused_at(replay)
        if refused_at is None:
            return replay is not None
        changed_at = milliseconds(record.get("LastModifiedDate"))
        return changed_at is not None and changed_at + CLOCKS_MS >= refused_at and changed_at > overwrote_at + CLOCKS_MS
    set_at = milliseconds(record.get(event_time_field))
    return set_at is not None and happened_at // 1000 <= set_at // 1000


@dataclasses.dataclass(slots=True)
class _Memory:
    happened_at: int = 0
    ids: tuple[str, ...] = ()
    written_at: int = 0
    lost: Cause | None = None
    overwrote_at: int = 0
    edited_at: int = 0


class Recall:
    """What this worker did lately, by any key (an address or a record in an org). Bounded; what it forgot counts as written to."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        self._memory: OrderedDict[tuple[str, str], _Memory] = OrderedDict()
        self._forgotten_at = 0

    def is_past(self, key: tuple[str, str], happened_at: int, event_id: str) -> bool:
        """Whether a later event, or this very one, was applied."""
        memory = self._memory.get(key)
        return memory is not None and (happened_at < memory.happened_at or (happened_at == memory.happened_at and event_id in memory.ids))

    def applied(self, key: tuple[str, str], happened_at: int, event_id: str, *, overwrote_at: int = 0) -> None:
        """`overwrote_at`: Unix ms, when the values were set by it, or found to be its own; 0: it only filled what was empty."""
        memory = self._touch(key)
        memory.overwrote_at = overwrote_at
        if happened_at > memory.happened_at:
            memory.happened_at, memory.ids = happened_at, (event_id,)
        elif happened_at == memory.happened_at and event_id not in memory.ids:
            memory.ids = (*memory.ids, event_id)[-SAME_EVENT_IDS:]

    def overwrote_at(self, key: tuple[str, str]) -> int:
        """When the event that was applied last set the values, Unix ms; 0: it did not, or none is remembered."""
        memory = self._memory.get(key)
        return memory.overwrote_at if memory is not None else 0

    def edited_at(self, key: tuple[str, str], record: Mapping[str, Any], our_user: str) -> int:
        """When somebody else last changed the record, as far as this worker has seen, Unix ms; 0: never.

        The record itself tells only of its last change: an event that was too old for more than filling a field hides the one before.
        """
        memory = self._memory.get(key)
        known = memory.edited_at if memory is not None else 0
        seen = 0 if record.get("LastModifiedById") == our_user else milliseconds(record.get("LastModifiedDate")) or 0
        if seen > known:
            self._touch(key).edited_at = known = seen
        return known

    def writes(self, key: tuple[str, str], at: int) -> None:
        """A write has ended at `at`, Unix ms, however it ended."""
        self._touch(key).written_at = at

    def wrote_since(self, key: tuple[str, str], at: int) -> bool:
        """Whether a write may have ended at or after `at`: a read from then may have missed it."""
        memory = self._memory.get(key)
        return (memory.written_at if memory is not None else self._forgotten_at) >= at

    def lost(self, key: tuple[str, str], cause: Cause) -> None:
        """The answer to a write was lost: the trace tells it once the outcome is known."""
        self._touch(key).lost = cause

    def is_lost(self, key: tuple[str, str]) -> bool:
        """Whether a write was sent whose outcome is not known."""
        memory = self._memory.get(key)
        return memory is not None and memory.lost is not None

    def found(self, key: tuple[str, str]) -> tuple[Cause, ...]:
        """The outcome is known now: the cause of a lost answer before, if there was one."""
        memory = self._memory.get(key)
        if memory is None or memory.lost is None:
            return ()
        cause, memory.lost = memory.lost, None
        return (cause,)

    def _touch(self, key: tuple[str, str]) -> _Memory:
        memory = self._memory.get(key)
        if memory is None:
            memory = self._memory[key] = _Memory(written_at=self._forgotten_at)
            if len(self._memory) > self._size:
                _, oldest = self._memory.popitem(last=False)
                self._forgotten_at = max(self._forgotten_at, oldest.written_at)
        else:
            self._memory.move_to_end(key)
        return memory
