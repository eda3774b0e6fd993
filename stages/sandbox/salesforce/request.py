"""What a REST (sub)request is once read, what it will do, and what it answers. Does nothing by itself."""

import dataclasses
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stages.sandbox.salesforce.faults import Target
from stages.sandbox.salesforce.objects import Object
from stages.sandbox.salesforce.refusals import RefusalError
from stages.sandbox.salesforce.table import Record
from stages.sandbox.salesforce.transaction import Transaction

if TYPE_CHECKING:
    from stages.sandbox.salesforce.org import Org

OLDEST_VERSION, NEWEST_VERSION = 31, 68


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """`segments` is the path below `/services/data/vXX.X`, decoded; `parameters` the form-decoded query string; headers in lower case."""

    method: str
    version: str
    segments: tuple[str, ...]
    parameters: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    user: str
    transactions: list[Transaction] = dataclasses.field(default_factory=list)
    """Those of a composite's subrequests, first to last, for the way back."""

    def allow(self, *methods: str) -> None:
        """Raises RefusalError: METHOD_NOT_ALLOWED."""
        if self.method not in methods:
            message = f"HTTP Method '{self.method}' not allowed. Allowed are {','.join(methods)}"
            raise RefusalError("METHOD_NOT_ALLOWED", message)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """`objects` counts the records that were sent or given, by object. `body` None is a reply without one (204)."""

    status: int
    body: Any
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    objects: Mapping[str, int] = dataclasses.field(default_factory=dict)


Refused = Mapping[int, RefusalError]
"""Position of a record -> why a fault or a lock refuses it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """What one (sub)request will do. `rows` are the records that it writes; `targets` what faults can be about, rows first."""

    resource: str
    work: Callable[[Refused], Answer]
    targets: Sequence[Target] = ()
    locks: Sequence[frozenset[str]] = ()
    """For each row the rows of others that its write locks."""

    @property
    def writes(self) -> bool:
        return bool(self.locks)


def read_url(url: str) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Version, decoded path below it, parameters (form-decoded: `+` is a space). Raises RefusalError: NOT_FOUND."""
    path, _, query = url.partition("?")
    parts = path.split("/")
    if parts[:3] != ["", "services", "data"] or len(parts) < 4 or not parts[3].startswith("v"):
        raise RefusalError("NOT_FOUND")
    version = parts[3][1:]
    whole, _, fraction = version.partition(".")
    if not whole.isdigit() or fraction != "0" or not OLDEST_VERSION <= int(whole) <= NEWEST_VERSION:
        raise RefusalError("NOT_FOUND")
    segments = tuple(urllib.parse.unquote(part) for part in parts[4:])
    if segments and segments[-1] == "":
        segments = segments[:-1]
    return version, segments, dict(urllib.parse.parse_qsl(query, keep_blank_values=True))


def transaction(org: "Org", request: Request) -> Transaction:
    """The writes of one (sub)request, as its duplicate-rule and assignment headers want them."""
    header = request.headers.get("sforce-duplicate-rule-header", "")
    options = {name.strip().lower(): value.strip().lower() for name, _, value in (part.partition("=") for part in header.split(";"))}
    assign = request.headers.get("sforce-auto-assign", "true").strip().lower() != "false"
    made = Transaction(org, request.user, allow_save=options.get("allowsave") == "true", assign=assign)
    request.transactions.append(made)
    return made


def target(org: "Org", object_: Object, body: Mapping[str, Any], record: Record | None) -> Target:
    """What a fault can know of a row: the address in it, or on the record, or on the person that a member is."""
    named = {name.lower(): value for name, value in body.items()}
    email = named.get("email") or named.get("personemail")
    if email is None and record is not None:
        email = record.values.get("Email") or record.values.get("PersonEmail")
    if email is None and object_.name == "CampaignMember":
        held = record.values if record is not None else {}
        for field in ("ContactId", "LeadId"):
            wanted = named.get(field.lower()) or held.get(field)
            person = org.find(field.removesuffix("Id"), wanted) if isinstance(wanted, str) else None
            if person is not None:
                email = person.values.get("Email")
                break
    return Target(object_.name, email.strip().lower() if isinstance(email, str) else None)


def locks(object_: Object, body: Mapping[str, Any], record: Record | None) -> frozenset[str]:
    """A member's write locks its Campaign, a Contact's its Account."""
    parent = {"CampaignMember": "CampaignId", "Contact": "AccountId"}.get(object_.name)
    if parent is None:
        return frozenset()
    named = {name.lower(): value for name, value in body.items()}
    wanted: Iterable[Any] = (named.get(parent.lower()), record.values.get(parent) if record is not None else None)
    return frozenset(value[:15] for value in wanted if isinstance(value, str) and value)
