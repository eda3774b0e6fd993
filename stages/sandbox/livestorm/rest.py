"""The stand-in's REST API under /v1: token, limits, pages, filters and errors as Livestorm's are. Reads the world, and keeps the subscriptions."""

import math
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from stages.sandbox.livestorm.deliveries import Deliveries
from stages.sandbox.livestorm.world import Kind, Resource, World

MEDIA_TYPE: Final = "application/vnd.api+json"
PAGE_SIZE, LARGEST_PAGE = 20, 50
MONTHLY_CALLS: Final = 10_000


class RestError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail


class Limits:
    """Calls in the last second and in the last thirty days."""

    def __init__(self, calls_per_second: int, calls_per_month: int, clock: Callable[[], float]) -> None:
        self._per_second, self._per_month, self._clock = calls_per_second, calls_per_month, clock
        self._recent: deque[float] = deque()
        self.calls = 0

    def spend(self) -> dict[str, str]:
        """Counts one call: the headers of its answer. Raises RestError (429) over a limit; such a call counts too."""
        now = self._clock()
        while self._recent and now - self._recent[0] >= 1.0:
            self._recent.popleft()
        over = len(self._recent) >= self._per_second or self.calls >= self._per_month
        self._recent.append(now)
        self.calls += 1
        if over:
            raise RestError(429, "Too Many Requests", "The limit of calls is reached")
        return {
            "RateLimit-Interval-Limit": str(self._per_second),
            "RateLimit-Interval-Remaining": str(self._per_second - len(self._recent)),
            "RateLimit-Monthly-Limit": str(self._per_month),
            "RateLimit-Monthly-Remaining": str(self._per_month - self.calls),
            "RateLimit-Reset": "1",
        }


class Rest:
    """The API of one workspace."""

    def __init__(
        self,
        world: World,
        deliveries: Deliveries,
        *,
        organization: str,
        token: str,
        calls_per_second: int = 5,
        calls_per_month: int = MONTHLY_CALLS,
    ) -> None:
        self._world, self._deliveries = world, deliveries
        self._organization, self._token = organization, token
        self.limits = Limits(calls_per_second, calls_per_month, time.monotonic)

    def routes(self) -> list[web.RouteDef]:
        gets: dict[str, Callable[[web.Request], Awaitable[Any]]] = {
            "/ping": self._ping,
            "/organization": self._the_organization,
            "/events": self._events,
            "/events/{id}": self._one("events"),
            "/events/{id}/sessions": self._sessions_of_event,
            "/sessions": self._sessions,
            "/sessions/{id}": self._one("sessions"),
            "/sessions/{id}/people": self._people,
            "/people_attributes": self._people_attributes,
            "/webhooks": self._webhooks,
        }
        return [
            *(web.get(f"/v1{path}", self._guarded(handler)) for path, handler in gets.items()),
            web.post("/v1/webhooks", self._guarded(self._subscribe, 201)),
            web.delete("/v1/webhooks/{id}", self._guarded(self._unsubscribe, 204)),
            web.route("*", "/v1/{rest:.*}", self._guarded(self._nothing)),
        ]

    def _guarded(
        self, handler: Callable[[web.Request], Awaitable[Any]], status: int = 200
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Token and limits before, errors in Livestorm's shape after."""

        async def guarded(request: web.Request) -> web.Response:
            headers: dict[str, str] = {}
            try:
                if request.headers.get("Authorization") != self._token:
                    # `Bearer …` is taken for an OAuth token, and refused as one.
                    raise RestError(401, "Unauthorized", "The access token is invalid")
                headers = self.limits.spend()
                body = await handler(request)
            except RestError as error:
                if error.status == 429:
                    headers = {"Retry-After": "1", "RateLimit-Reset": "1"}
                # `status` is a word here on purpose: nobody may read it as a number.
                errors = [
                    {
                        "title": error.title,
                        "detail": error.detail,
                        "code": str(error.status),
                        "status": error.title.lower().replace(" ", "_"),
                    }
                ]
                return _response({"errors": errors}, error.status, headers)
            return web.Response(status=204, headers=headers) if status == 204 else _response(body, status, headers)

        return guarded

    async def _ping(self, _: web.Request) -> Any:
        return {}

    async def _the_organization(self, _: web.Request) -> Any:
        return {"data": {"id": self._organization, "type": "organizations", "attributes": {"name": "Sandbox"}}}

    def _one(self, kind: Kind) -> Callable[[web.Request], Awaitable[Any]]:
        async def one(request: web.Request) -> Any:
            return {"data": self._found(kind, request.match_info["id"])}

        return one

    async def _events(self, request: web.Request) -> Any:
        return _page(request, [event for event in self._world.of("events") if _in_window(request, event)])

    async def _sessions(self, request: web.Request) -> Any:
        return _page(request, _sessions(request, self._world.of("sessions")))

    async def _sessions_of_event(self, request: web.Request) -> Any:
        event = self._found("events", request.match_info["id"])
        return _page(request, _sessions(request, self._world.of("sessions", event_id=event["id"])))

    async def _people(self, request: web.Request) -> Any:
        session = self._found("sessions", request.match_info["id"])
        role, address = request.query.get("filter[role]"), request.query.get("filter[email]")
        people = [
            person
            for person in self._world.of("people", session_id=session["id"])
            if role in (None, person["attributes"]["role"])
            and (address is None or str(person["attributes"]["email"]).lower() == address.lower())
            and _in_window(request, person)
        ]
        return _page(request, people)

    async def _people_attributes(self, request: web.Request) -> Any:
        ids = dict.fromkeys(field["id"] for event in self._world.of("events") for field in event["attributes"]["fields"])
        return _page(request, [{"id": id, "type": "people_attributes", "attributes": {"slug": id, "type": "text"}} for id in ids])

    async def _webhooks(self, request: web.Request) -> Any:
        return _page(request, [subscription.resource() for subscription in self._deliveries.subscriptions.values()])

    async def _subscribe(self, request: web.Request) -> Any:
        try:
            attributes = msgspec.json.decode(await request.read())["data"]["attributes"]
            url, event = attributes["url"], attributes["event"]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            raise RestError(422, "Unprocessable Entity", "data.attributes needs url and event") from None
        return {"data": self._deliveries.subscribe(str(uuid.uuid4()), str(url), str(event)).resource()}

    async def _unsubscribe(self, request: web.Request) -> Any:
        if self._deliveries.subscriptions.pop(request.match_info["id"], None) is None:
            raise RestError(404, "Not Found", "There is no such webhook")

    async def _nothing(self, _: web.Request) -> Any:
        raise RestError(404, "Not Found", "There is no such resource")

    def _found(self, kind: Kind, id: str) -> Resource:
        resource = self._world.resources[kind].get(id)
        if resource is None:
            raise RestError(404, "Not Found", "There is no such resource")
        return resource


def _response(body: Any, status: int, headers: dict[str, str]) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, headers=headers, content_type=MEDIA_TYPE)


def _page(request: web.Request, items: Sequence[Resource]) -> Any:
    """One page; `meta.next_page` null on the last one, and 400 past it."""
    number, size = _number(request, "page[number]", 0), _number(request, "page[size]", PAGE_SIZE)
    pages = max(math.ceil(len(items) / size), 1) if 0 < size <= LARGEST_PAGE else 0
    if not 0 <= number < pages:
        raise RestError(400, "Bad Request", "There is no such page")
    meta = {
        "record_count": len(items),
        "page_count": pages,
        "items_per_page": size,
        "current_page": number,
        "previous_page": number - 1 if number else None,
        "next_page": number + 1 if number + 1 < pages else None,
    }
    return {"data": items[number * size : (number + 1) * size], "meta": meta}


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isascii() or not text.isdigit():
        raise RestError(400, "Bad Request", f"{name} is no number")
    return int(text)


def _in_window(request: web.Request, resource: Resource) -> bool:
    since, until = _number(request, "filter[updated_since]", 0), _number(request, "filter[updated_until]", 1 << 40)
    return since <= int(resource["attributes"]["updated_at"]) <= until


def _sessions(request: web.Request, sessions: Iterable[Resource]) -> list[Resource]:
    status = request.query.get("filter[status]")
    start, end = _number(request, "filter[date_from]", 0), _number(request, "filter[date_to]", 1 << 40)
    return [
        session
        for session in sessions
        if status in (None, session["attributes"]["status"])
        and start <= session["attributes"]["estimated_started_at"] <= end
        and _in_window(request, session)
    ]
