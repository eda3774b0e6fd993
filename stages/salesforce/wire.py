"""What lies below simple-salesforce: the session with its pool, the guard just before the bytes, the deadline of a whole call.

Knows no Salesforce and no asyncio; everything here runs in the worker thread that makes the call.
"""

import dataclasses
import functools
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Timeout
from urllib3.util.ssl_ import create_urllib3_context

CHUNK_BYTES: Final = 65536
NETWORK_ERRORS: Final = (requests.RequestException, HTTPError, OSError)
"""All that a call can meet on its way: `requests` lets some of urllib3's and the system's errors through as they are."""


@dataclasses.dataclass(frozen=True, slots=True)
class CallTimes:
    """Bounds of one call in seconds. Even with a slow start of the body the whole stays under the 30 s that the engine counts on."""

    connect: float = 5.0
    read: float = 20.0
    total: float = 25.0
    read_when_pressed: float = 5.0
    """For reads, while so many calls hang that places run out. A write is never given up early: its outcome would be unknown."""

    def pressed(self) -> "CallTimes":
        return dataclasses.replace(self, read=min(self.read, self.read_when_pressed))


@dataclasses.dataclass(slots=True)
class Flight:
    """One call on its way, seen from its own thread."""

    guard: Callable[[], None] | None
    deadline: float
    """By `time.monotonic`."""
    sent: bool = False
    """Bytes may have gone out: from here on a lost answer is an unknown outcome."""


class _Current(threading.local):
    flight: Flight | None = None


_current = _Current()


@contextmanager
def flight(guard: Callable[[], None] | None, times: CallTimes) -> Iterator[Flight]:
    """The calls made in this thread inside the block are guarded, and end by the deadline."""
    _current.flight = Flight(guard, time.monotonic() + times.total)
    try:
        yield _current.flight
    finally:
        _current.flight = None


def timeout(times: CallTimes) -> Any:
    """An urllib3 Timeout, which `requests` passes on though its types do not say so: `total` bounds connecting (to every address of the host) and waiting for the answer."""
    return Timeout(total=times.total, connect=times.connect, read=times.read)


def session(pool: int) -> requests.Session:
    """One org's session. Nothing on it is changed after this, since its calls run side by side."""
    made = requests.Session()
    made.auth = as_it_is
    made.headers["User-Agent"] = "turnout"
    adapter = _Adapter(pool_connections=1, pool_maxsize=pool, pool_block=True, max_retries=0)
    made.mount("https://", adapter)
    made.mount("http://", adapter)
    return made


def as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An `auth` that adds nothing; without one `requests` would put a password from .netrc in the place of our header."""
    return request


@functools.cache
def _tls(bundle: str) -> ssl.SSLContext:
    """One context for all orgs. `requests` makes one a connection, each with every root certificate in it: about 1 MB and 20 ms."""
    context = create_urllib3_context()
    if os.path.isdir(bundle):
        context.load_verify_locations(capath=bundle)
    else:
        context.load_verify_locations(cafile=bundle)
    return context


def _pass_guard(connection: HTTPConnection) -> None:
    """The last thing before the bytes: a lease that ended while connecting, or while the process was stopped, ends the call here."""
    if connection.sock is None:
        connection.connect()
    # A connection that is used again still has the little time that the call before had left.
    connection.sock.settimeout(connection.timeout if isinstance(connection.timeout, int | float) else None)
    current = _current.flight
    if current is not None:
        if current.guard is not None:
            current.guard()
        current.sent = True


class _Connection(HTTPConnection):
    def request(self, *args: Any, **kwargs: Any) -> None:
        _pass_guard(self)
        super().request(*args, **kwargs)


class _SecureConnection(HTTPSConnection):
    def request(self, *args: Any, **kwargs: Any) -> None:
        _pass_guard(self)
        super().request(*args, **kwargs)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS: Final = {"http": _Pool, "https": _SecurePool}


class _Adapter(HTTPAdapter):
    """Guarded connections; bodies read to a deadline, where `requests` only bounds the wait for each piece."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        if host["scheme"] == "https":
            bundle = pool.get("ca_certs") or pool.get("ca_cert_dir") or DEFAULT_CA_BUNDLE_PATH
            return host, {"ssl_context": _tls(bundle)}
        return host, pool

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing to add: the context knows the certificates, and always verifies."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        response = super().send(request, *args, **kwargs)
        if _current.flight is not None:
            _read_body(response, _current.flight.deadline)
        return response


def _read_body(response: requests.Response, deadline: float) -> None:
    """Reads the body into the response as `requests` itself would; ReadTimeout past the deadline."""
    pieces = []
    try:
        while piece := _next_piece(response, deadline):
            pieces.append(piece)
    except requests.RequestException:
        raise
    except ReadTimeoutError as error:
        raise requests.ReadTimeout(error, request=response.request) from error
    except (HTTPError, OSError) as error:
        raise requests.ConnectionError(error, request=response.request) from error
    response._content = b"".join(pieces)
    response._content_consumed = True  # type: ignore[attr-defined]


def _next_piece(response: requests.Response, deadline: float) -> bytes:
    """What has come, waiting for it no longer than the deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        response.close()
        raise requests.ReadTimeout("the answer took longer than the call may", request=response.request)
    sock = getattr(response.raw.connection, "sock", None)
    if sock is not None:
        sock.settimeout(left)
    piece: bytes = response.raw.read1(CHUNK_BYTES, decode_content=True)
    return piece
