"""What answers before the org does: limits of size, connections that break, HTML pages. Knows no record."""

import contextlib
import http.client
from collections.abc import Sequence

from aiohttp import web

from stages.sandbox.salesforce import composite, rest
from stages.sandbox.salesforce.faults import Fault, Target
from stages.sandbox.salesforce.refusals import RefusalError
from stages.sandbox.salesforce.request import Request

LONGEST_URI_BYTES = 16_384
"""Of the URI alone (414), and of URI and headers together (431)."""


class EdgeError(Exception):
    """An HTML page instead of the org's answer."""

    def __init__(self, status: int, title: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title

    def page(self) -> str:
        return f"<html><head><title>{self.status} {self.title}</title></head><body><h1>{self.title}</h1></body></html>"


class SilenceError(Exception):
    """No answer, ever."""


def check_size(request: web.Request) -> None:
    """Raises EdgeError."""
    uri = len(request.raw_path.encode())
    if uri > LONGEST_URI_BYTES:
        raise EdgeError(414, "URI Too Long")
    if uri + sum(len(name) + len(value) + 4 for name, value in request.raw_headers) > LONGEST_URI_BYTES:
        raise EdgeError(431, "Request Header Fields Too Large")


def befall(call: rest.Call, request: Request) -> None:
    """Faults of the connection that match the call or a part of it: before anything is done, and as a whole. Raises like `strike`."""
    faults = call.org.faults
    standing = [fault for fault in faults.standing.values() if fault.of_connection]
    if not standing:
        return
    about = _parts(call, request)
    for fault in standing:
        if any(fault in faults.for_request(name, targets, inside=inside) for name, targets, inside in about) and faults.hit(fault):
            strike(call, fault)


def strike(call: rest.Call, fault: Fault) -> None:
    """Raises EdgeError or SilenceError, or has the connection cut after the work."""
    if fault.http_status is not None:
        raise EdgeError(fault.http_status, http.client.responses.get(fault.http_status, "Error"))
    if fault.kind == "timeout":
        raise SilenceError
    call.cut = True


def _parts(call: rest.Call, request: Request) -> list[tuple[str, Sequence[Target], bool]]:
    resource = call.entry.resource
    if resource == "composite":
        return [(resource, (), False), *((name, targets, True) for name, targets in composite.targets_of(call.org, request))]
    targets: Sequence[Target] = ()
    with contextlib.suppress(RefusalError):  # a request that can't be routed is still one of its resource
        targets = rest.route(call.org, request).targets
    return [(resource, targets, False)]
