"""The log of calls that an org got, for tests to read, and how many it got of its daily allowance. Decides nothing."""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

LARGEST_LOG_BYTES = 32 * 1024 * 1024
"""Beyond this, about, the oldest entries are dropped from the log; the totals stay right."""
_LINE_BYTES, _SUBREQUEST_BYTES = 2_000, 600
"""What an entry takes beside its url, about."""
_UNLOGGED = frozenset({"authorization", "cookie", "host", "content-length", "connection", "transfer-encoding"})


@dataclasses.dataclass(slots=True)
class Entry:
    """One call, or one subrequest of a composite. `objects` counts records sent or given, by object; `errors` codes in the answer."""

    method: str
    url: str
    headers: Mapping[str, str]
    resource: str
    at: str = ""
    user: str | None = None
    status: int | None = None
    objects: dict[str, int] = dataclasses.field(default_factory=dict)
    errors: dict[str, int] = dataclasses.field(default_factory=dict)
    subrequests: list["Entry"] = dataclasses.field(default_factory=list)
    totals: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Where its errors count too."""

    def count(self, object_name: str, records: int) -> None:
        if records:
            self.objects[object_name] = self.objects.get(object_name, 0) + records

    def count_error(self, code: str) -> None:
        self.errors[code] = self.errors.get(code, 0) + 1
        self.totals[code] += 1

    @property
    def size_bytes(self) -> int:
        return _LINE_BYTES + len(self.url) + sum(_SUBREQUEST_BYTES + len(each.url) for each in self.subrequests)

    def as_json(self) -> dict[str, Any]:
        objects, errors = collections.Counter(self.objects), collections.Counter(self.errors)
        for subrequest in self.subrequests:
            objects.update(subrequest.objects)
            errors.update(subrequest.errors)
        return {
            "at": self.at,
            "method": self.method,
            "resource": self.resource,
            "url": self.url,
            "user": self.user,
            "status": self.status,
            "records": sum(objects.values()),
            "objects": dict(objects),
            "errors": dict(errors),
            "headers": self.headers,
            "subrequests": [
                {
                    "method": each.method,
                    "url": each.url,
                    "resource": each.resource,
                    "status": each.status,
                    "objects": each.objects,
                    "errors": each.errors,
                    "headers": each.headers,
                }
                for each in self.subrequests
            ],
        }


class CallLog:
    """`total` is without token requests. A call is in the log from its arrival on; `status` is null while it is under way."""

    def __init__(self) -> None:
        self.total = 0
        self.by_resource: collections.Counter[str] = collections.Counter()
        self.errors: collections.Counter[str] = collections.Counter()
        self.dropped = 0
        self._entries: collections.deque[tuple[int, Entry]] = collections.deque()
        self._bytes = 0

    def add(self, entry: Entry) -> None:
        """With its subrequests, if it has some."""
        self.by_resource[entry.resource] += 1
        if entry.resource != "token":
            self.total += 1
        for each in (entry, *entry.subrequests):
            each.totals = self.errors
        size_bytes = entry.size_bytes
        self._entries.append((size_bytes, entry))
        self._bytes += size_bytes
        while self._bytes > LARGEST_LOG_BYTES and len(self._entries) > 1:
            self._bytes -= self._entries.popleft()[0]
            self.dropped += 1

    def as_json(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "by_resource": dict(self.by_resource),
            "errors": dict(self.errors),
            "dropped_from_log": self.dropped,
            "log": [entry.as_json() for _, entry in self._entries],
        }


def logged_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Without the token, and without what only concerns the connection."""
    return {name: value for name, value in headers.items() if name.lower() not in _UNLOGGED}
