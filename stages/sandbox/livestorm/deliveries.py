"""Sends the stand-in's webhooks: signed, tried again as Livestorm does, and with the faults that a test asks for. Remembers the last ones."""

import asyncio
import dataclasses
import itertools
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, Literal

import aiohttp
import msgspec

from stages.livestorm import signature
from stages.livestorm.webhook import HOOKS
from stages.sandbox.livestorm.world import Told

RETRY_WAITS_SECONDS: Final = (30.0, 60.0, 150.0, 360.0, 720.0)
"""After each failed try; after the last one the subscription is disabled."""
REMEMBERED: Final = 10_000
AT_ONCE: Final = 50
MOST_AMOUNT: Final = 100_000
_ANSWER_SECONDS: Final = 15.0

State = Literal["pending", "delivered", "failed", "unreachable", "lost"]


@dataclasses.dataclass(slots=True)
class Subscription:
    """Who wants to be told of one event."""

    id: str
    url: str
    event: str
    enabled: bool = True

    def resource(self) -> dict[str, Any]:
        status = "enabled" if self.enabled else "disabled"
        return {"id": self.id, "type": "webhooks", "attributes": {"url": self.url, "event": self.event, "status": status}}


@dataclasses.dataclass(slots=True)
class Delivery:
    """One webhook to one subscriber, and what became of it."""

    id: str
    event: str
    resource: str
    url: str
    body: bytes
    header: str
    state: State = "pending"
    tries: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def told(self) -> dict[str, Any]:
        return {"id": self.id, "event": self.event, "resource": self.resource, "url": self.url, "state": self.state, "tries": self.tries}


@dataclasses.dataclass(slots=True)
class Fault:
    """What happens to webhooks on their way: `lose`, `delay:<seconds>`, `repeat:<times>`, `reorder:<how many at once>`."""

    id: str
    kind: Literal["lose", "delay", "repeat", "reorder"]
    amount: float = 1.0
    event: str | None = None
    times: int | None = None
    held: list[tuple[Subscription, Delivery]] = dataclasses.field(default_factory=list)


class Deliveries:
    """Everything on its way. `time_scale` shortens the waits between tries."""

    def __init__(self, http: aiohttp.ClientSession, *, organization: str, secret: str, time_scale: float = 1.0) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self.faults: dict[str, Fault] = {}
        self._http, self._organization, self._secret, self._scale = http, organization, secret, time_scale
        self._known: OrderedDict[str, Delivery] = OrderedDict()
        self._numbers = itertools.count(1)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def subscribe(self, id: str, url: str, event: str) -> Subscription:
        subscription = self.subscriptions[id] = Subscription(id, url, event)
        return subscription

    def send(self, told: Sequence[Told]) -> None:
        """Sends each to everyone who subscribed to it, in this order, as far as no fault is in the way."""
        for one in told:
            for subscription in list(self.subscriptions.values()):
                if subscription.event == one.trigger and subscription.enabled:
                    self._hand_over(subscription, self._delivery(subscription, one))

    def told(self) -> list[dict[str, Any]]:
        return [delivery.told() for delivery in self._known.values()]

    def add_fault(self, kind: Any, event: Any, times: Any) -> Fault:
        """Raises ValueError for a fault that there is not."""
        name, _, amount = kind.partition(":") if isinstance(kind, str) else ("", "", "")
        if event is not None and event not in HOOKS:
            raise ValueError(f"event is one of: {', '.join(HOOKS)}")
        if times is not None and (not isinstance(times, int) or isinstance(times, bool) or times < 1):
            raise ValueError("times is a whole number from 1 on, or null for ever")
        if not 0 < float(amount or 1) <= MOST_AMOUNT:
            raise ValueError(f"what follows the colon is a number over 0 and up to {MOST_AMOUNT}")
        match name:
            case "lose" | "delay" | "repeat" | "reorder":
                fault = Fault(f"f{next(self._numbers)}", name, float(amount or 1), event, times)
            case _:
                raise ValueError(f"no such fault: {kind}; there are lose, delay:SECONDS, repeat:TIMES, reorder:HOW_MANY")
        self.faults[fault.id] = fault
        return fault

    def remove_fault(self, id: str) -> bool:
        """Whether there was one. What it held back goes out."""
        fault = self.faults.pop(id, None)
        for subscription, delivery in fault.held if fault else ():
            self._start(subscription, delivery)
        return fault is not None

    async def reset(self) -> None:
        """Forgets subscriptions, faults and what is on its way."""
        await self.stop()
        self.subscriptions.clear()
        self.faults.clear()
        self._known.clear()

    async def stop(self) -> None:
        """Gives up what is on its way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _delivery(self, subscription: Subscription, told: Told) -> Delivery:
        meta = {"webhook": {"event": told.trigger, "organization_id": self._organization}}
        body = msgspec.json.encode({"data": {**told.resource, "meta": meta}})
        delivery = Delivery(
            id=f"d{next(self._numbers)}",
            event=told.trigger,
            resource=told.resource["id"],
            url=subscription.url,
            body=body,
            header=signature.sign(self._secret, int(time.time()), body),
        )
        self._known[delivery.id] = delivery
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return delivery

    def _hand_over(self, subscription: Subscription, delivery: Delivery) -> None:
        fault = next((fault for fault in self.faults.values() if fault.event in (None, delivery.event)), None)
        if fault is None:
            self._start(subscription, delivery)
            return
        match fault.kind:
            case "lose":
                delivery.state = "lost"
            case "delay":
                self._start(subscription, delivery, after_seconds=fault.amount)
            case "repeat":
                for _ in range(1 + int(fault.amount)):
                    self._start(subscription, delivery)
            case "reorder":
                fault.held.append((subscription, delivery))
                if len(fault.held) >= fault.amount:
                    for held in reversed(fault.held):
                        self._start(*held)
                    fault.held.clear()
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.remove_fault(fault.id)

    def _start(self, subscription: Subscription, delivery: Delivery, after_seconds: float = 0.0) -> None:
        task = asyncio.create_task(self._deliver(subscription, delivery, after_seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, subscription: Subscription, delivery: Delivery, after_seconds: float) -> None:
        if after_seconds:
            await asyncio.sleep(after_seconds)
        for wait in (*RETRY_WAITS_SECONDS, None):
            async with self._slots:
                status = await self._post(delivery)
            delivery.tries.append({"at": time.time(), "status": status})
            if status is None:
                # A refused connection may never be tried again.
                delivery.state = "unreachable"
                return
            if status < 400:
                delivery.state = "delivered"
                return
            if wait is not None:
                await asyncio.sleep(wait * self._scale)
        delivery.state = "failed"
        subscription.enabled = False

    async def _post(self, delivery: Delivery) -> int | None:
        """The answer's status; None where there was none. The very same request each time: nobody knows whether a retry is signed anew."""
        headers = {signature.HEADER: delivery.header, "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        try:
            async with self._http.post(delivery.url, data=delivery.body, headers=headers, allow_redirects=False, timeout=timeout) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return None
