"""Livestorm's REST API v1 over aiohttp: the calls that Turnout makes, within Livestorm's limits. Never logs a token, an address or a body.

Auth, limits, pages and errors as developers.livestorm.co and public code that calls the API have them.
"""

import asyncio
import dataclasses
import datetime
import email.utils
import random
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
import stamina

from schemas import livestorm
from schemas.messages import Cause
from schemas.settings import Workspace
from stages.livestorm import texts
from stages.livestorm.errors import CallRefused, LivestormError, LivestormUnavailable, NotFound, ScopeMissing, TokenRefused
from stages.secrets import SecretsError

A = TypeVar("A")

MEDIA_TYPE: Final = "application/vnd.api+json"
PAGE_SIZE: Final = 50
"""The most that Livestorm gives."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """What one token may cost, and how long a call may take."""

    calls_per_second: int = 5
    """Livestorm's limit."""
    attempts: int = 3
    call_seconds: float = 10.0
    patience_seconds: float = 20.0
    """All attempts of one call together; a longer wait is for the caller to make."""
    unavailable_seconds: float = 60.0
    """When to come again where Livestorm does not say."""


class Pace:
    """At most so many calls in any second of one token; in the order in which they ask."""

    def __init__(
        self, calls_per_second: int, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._last: deque[float] = deque(maxlen=calls_per_second)
        self._turn = asyncio.Lock()

    async def turn(self) -> None:
        """Returns when a call may go out."""
        async with self._turn:
            if len(self._last) == self._last.maxlen:
                wait = self._last[0] + 1.0 - self._clock()
                if wait > 0:
                    await self._sleep(wait)
            self._last.append(self._clock())


class Client:
    """One workspace's API by one token. Every method raises LivestormError."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str, token: str, pace: Pace, bounds: Bounds | None = None) -> None:
        self._http = http
        self._base = base_url.rstrip("/")
        # Raw, without `Bearer`: with it the token is taken for an OAuth token and refused.
        self._headers = {"Authorization": token, "Accept": MEDIA_TYPE}
        self._pace = pace
        self._bounds = bounds or Bounds()

    async def ping(self) -> None:
        """Whether the token is good: returns, or raises TokenRefused."""
        await self._get("/ping", {})

    async def organization(self) -> livestorm.Resource[livestorm.Organization]:
        """The Livestorm workspace that the token belongs to."""
        return await self._one("/organization", livestorm.One[livestorm.Organization])

    async def event(self, id: str) -> livestorm.Resource[livestorm.Event]:
        return await self._one(f"/events/{_part(id)}", livestorm.One[livestorm.Event])

    async def session(self, id: str) -> livestorm.Resource[livestorm.Session]:
        return await self._one(f"/sessions/{_part(id)}", livestorm.One[livestorm.Session])

    def events(self, *, updated_since: int | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every event, as raw resources; `updated_since` is Unix s."""
        return self._pages("/events", _window(updated_since, None))

    def sessions(self, *, updated_since: int | None = None, updated_until: int | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every session, as raw resources; the window is Unix s. It sees what no webhook tells: rescheduled, edited, canceled."""
        return self._pages("/sessions", _window(updated_since, updated_until))

    def sessions_of(self, event: str) -> AsyncIterator[dict[str, Any]]:
        return self._pages(f"/events/{_part(event)}/sessions", {})

    def people(
        self, session: str, *, updated_since: int | None = None, updated_until: int | None = None, address: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """The participants of a session, as raw resources, secrets of the room and all: hand them on only through `room.strip`."""
        query = {"filter[role]": "participant", **_window(updated_since, updated_until)}
        if address is not None:
            query["filter[email]"] = address
        return self._pages(f"/sessions/{_part(session)}/people", query)

    async def _one(self, path: str, shape: type[livestorm.One[A]]) -> livestorm.Resource[A]:
        body = await self._get(path, {})
        try:
            return msgspec.convert(body, shape, strict=False).data
        except msgspec.ValidationError as error:
            raise _unreadable(path, str(error)) from None

    async def _pages(self, path: str, query: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
        """All items of a list. Past the last page Livestorm answers 400, so the end is `meta.next_page` null."""
        number: int | None = 0
        while number is not None:
            body = await self._get(path, {**query, "page[number]": str(number), "page[size]": str(PAGE_SIZE)})
            try:
                page = msgspec.convert(body, _Page, strict=False)
            except msgspec.ValidationError as error:
                raise _unreadable(path, str(error)) from None
            for item in page.data:
                yield item
            following = page.meta.next_page if page.meta is not None else None
            if following is not None and following <= number:
                raise _unreadable(path, f"page {number} is followed by page {following}")
            number = following

    async def _get(self, path: str, query: Mapping[str, str]) -> Any:
        """One answer, tried again a few times where that may help soon."""
        bounds = self._bounds
        async for attempt in stamina.retry_context(
            on=self._worth_waiting, attempts=bounds.attempts, timeout=bounds.patience_seconds, wait_initial=0.5, wait_max=5.0
        ):
            with attempt:
                return await self._ask(path, query)
        raise AssertionError("the last attempt returns or raises")

    def _worth_waiting(self, error: Exception) -> bool | float:
        """Whether a call is tried again here, or after how many seconds: not where Livestorm wants longer than a caller can be kept."""
        if not isinstance(error, LivestormUnavailable):
            return False
        after = error.retry_after_seconds
        if error.status != 429 or after is None:
            return True
        return after + random.uniform(0, 0.25) if after < self._bounds.patience_seconds / 2 else False

    async def _ask(self, path: str, query: Mapping[str, str]) -> Any:
        await self._pace.turn()
        try:
            async with self._http.get(
                self._base + path,
                params=query,
                headers=self._headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self._bounds.call_seconds),
            ) as response:
                return await self._answer(path, response)
        except (aiohttp.ClientError, TimeoutError) as error:
            # The error's own text may hold the URL, and that an address: the kind is enough.
            message = f"Livestorm did not answer GET {_shape_of(path)}: {type(error).__name__}"
            cause = Cause("livestorm_unreachable", message, (), "Livestorm or the network is down, or livestorm.base_url is wrong.")
            raise LivestormUnavailable(cause, retry_after_seconds=self._bounds.unavailable_seconds) from None

    async def _answer(self, path: str, response: aiohttp.ClientResponse) -> Any:
        body = await response.read()
        if response.status == 204 or (response.status == 200 and not body.strip()):
            return None
        try:
            decoded, _ = texts.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decoded = None
            if response.status == 200:
                raise _unreadable(path, "not JSON") from None
        if response.status == 200:
            return decoded
        raise refusal(path, response.status, response.headers, decoded, time.time(), self._bounds.unavailable_seconds)


class Clients:
    """The API of every workspace that has a token; one pace a token. Implements `stages.normalize.Ask`.

    `decrypt` opens a row's secret. Clients long unused are forgotten; only their pace is lost with them.
    """

    def __init__(self, http: aiohttp.ClientSession, decrypt: Callable[[str], str], bounds: Bounds | None = None, keep: int = 1_000) -> None:
        self._http, self._decrypt, self._bounds, self._keep = http, decrypt, bounds or Bounds(), keep
        self._known: OrderedDict[tuple[str, str], Client] = OrderedDict()

    def client(self, workspace: Workspace) -> Client:
        """The client of a workspace with an api_token. Raises TokenRefused where no key opens it."""
        settings = workspace.livestorm
        key = (settings.base_url, settings.api_token)
        client = self._known.get(key)
        if client is None:
            try:
                token = self._decrypt(settings.api_token)
            except SecretsError as error:
                raise TokenRefused(Cause("secret_unreadable", str(error), ("livestorm.api_token",), _TOKEN_HINT)) from None
            client = self._known[key] = Client(self._http, settings.base_url, token, Pace(self._bounds.calls_per_second), self._bounds)
            if len(self._known) > self._keep:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return client

    async def session(self, workspace: Workspace, session: str) -> livestorm.Resource[livestorm.Session] | None:
        """None: Livestorm has no such session."""
        return await _if_found(self.client(workspace).session(session))

    async def event(self, workspace: Workspace, event: str) -> livestorm.Resource[livestorm.Event] | None:
        """None: Livestorm has no such event."""
        return await _if_found(self.client(workspace).event(event))


def refusal(path: str, status: int, headers: Mapping[str, str], body: Any, now: float, unavailable_seconds: float) -> LivestormError:
    """The error that an answer means. `now` is Unix s. `status` in the body can be a word and is never read."""
    words = _words(body)
    told = f"Livestorm answered {status} to GET {_shape_of(path)}" + (f": {words}" if words else "")
    if status == 401:
        return TokenRefused(Cause("livestorm_token_refused", told, ("livestorm.api_token",), _TOKEN_HINT), status=status)
    if status == 403:
        return ScopeMissing(Cause("livestorm_scope_missing", told, ("livestorm.api_token",), _SCOPE_HINT), status=status)
    if status == 404:
        return NotFound(Cause("livestorm_not_found", told, (), "It was deleted, or belongs to another workspace."), status=status)
    if status == 429 or status >= 500:
        after = retry_after_seconds(headers, now)
        cause = Cause("livestorm_limit" if status == 429 else "livestorm_unavailable", told, (), "It is asked again by itself.")
        return LivestormUnavailable(cause, status=status, retry_after_seconds=unavailable_seconds if after is None else after)
    return CallRefused(Cause("livestorm_refused", told, (), "Tell Turnout's makers: it should not have asked so."), status=status)


def retry_after_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by `Retry-After` (seconds or a date), else by `RateLimit-Reset`; None where neither says. At most a day."""
    for name in ("Retry-After", "RateLimit-Reset"):
        seconds = _wait(headers.get(name, "").strip(), now)
        if seconds is not None:
            return min(max(seconds, 0.0), 86_400.0)
    return None


def _wait(text: str, now: float) -> float | None:
    if text.isascii() and text.isdigit():
        number = float(text)
        # Beyond any wait it can only be a moment.
        return number - now if number > 1e9 else number
    try:
        moment = email.utils.parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp() - now


class _Following(msgspec.Struct):
    next_page: int | None = None


class _Page(msgspec.Struct):
    data: list[dict[str, Any]]
    meta: _Following | None = None


_TOKEN_HINT: Final = "Make a new private token in Livestorm's account settings, write it into livestorm.api_token, and apply the settings."
_SCOPE_HINT: Final = "Give the token the scopes events (read) and identity (read) in Livestorm's account settings."


async def _if_found(call: Awaitable[A]) -> A | None:
    try:
        return await call
    except NotFound:
        return None


def _unreadable(path: str, why: str) -> CallRefused:
    message = f"Livestorm's answer to GET {_shape_of(path)} can't be read: {why}"
    return CallRefused(Cause("livestorm_unreadable", message, (), "livestorm.base_url may lead elsewhere, or the API has changed."))


def _words(body: Any) -> str:
    errors = body.get("errors") if isinstance(body, Mapping) else None
    if not isinstance(errors, list):
        return ""
    told = (str(error.get("detail") or error.get("title") or "") for error in errors[:5] if isinstance(error, Mapping))
    return "; ".join(text for text in told if text)[:500]


def _window(since: int | None, until: int | None) -> dict[str, str]:
    window = {"filter[updated_since]": since, "filter[updated_until]": until}
    return {name: str(moment) for name, moment in window.items() if moment is not None}


def _part(id: str) -> str:
    """An id as one part of a path: it came from outside and must not lead elsewhere."""
    if not id or not all(character.isalnum() or character in "-_" for character in id):
        raise NotFound(Cause("livestorm_not_found", "The id is none that Livestorm gives", (), ""), status=404)
    return id


def _shape_of(path: str) -> str:
    """The path without ids."""
    parts = path.split("/")
    return "/".join(part if len(part) < 20 and part.isalpha() else "{id}" if part else part for part in parts)
