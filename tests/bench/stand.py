"""One workspace on an org of its own, with one session to register for: its settings, its webhooks. Knows nothing of what becomes of them."""

import asyncio
import dataclasses
import time
from collections.abc import Iterable
from typing import Any, Final

import aiohttp

from tests.bench.outcomes import BenchError
from tests.flow import livestorm
from tests.flow.livestorm import new_id
from tests.flow.salesforce import Org

LOOK_SECONDS: Final = 0.05


@dataclasses.dataclass(slots=True)
class Stand:
    """`told` counts the people that have registered."""

    org: Org
    workspace: str
    ingress: str
    http: aiohttp.ClientSession
    organization: str = dataclasses.field(default_factory=new_id)
    secret: str = dataclasses.field(default_factory=new_id)
    event: str = dataclasses.field(default_factory=new_id)
    session: str = dataclasses.field(default_factory=new_id)
    told: int = 0

    def org_table(self) -> dict[str, Any]:
        return {
            "id": self.org.id, "login_url": self.org.url, "flow": "client-credentials", "client_id": "turnout", "client_secret": "sandbox",
            "daily_call_reserve": 0.0,
        }  # fmt: skip

    def workspace_table(self) -> dict[str, Any]:
        return {
            "id": self.workspace,
            "org": self.org.id,
            "livestorm": {"organization_id": self.organization, "webhook_secret": self.secret},
        }

    async def known(self, seconds: float) -> None:
        """Until the ingress has heard of the workspace."""
        ends = time.monotonic() + seconds
        while (status := await self._post(b"{}", signature="0,none")) != 401:
            if time.monotonic() > ends:
                raise BenchError(f"the ingress does not know {self.workspace}: {status}")
            await asyncio.sleep(LOOK_SECONDS)

    async def tell_session(self) -> None:
        """Its event and its session."""
        await self.post(self._body("event.published", "events", self.event, livestorm.event(f"Launch of {self.workspace}")))
        await self.post(self._body("session.created", "sessions", self.session, livestorm.session(self.event)))

    def registration(self, email: str) -> bytes:
        """The webhook of one person who registers."""
        return self._body("people.registered", "people", new_id(), livestorm.person(self.session, self.event, email))

    def next_people(self, count: int) -> list[bytes]:
        """Webhooks of people that nobody knows yet."""
        first, self.told = self.told, self.told + count
        return [self.registration(f"guest-{number:07}@{self.workspace}.example") for number in range(first, first + count)]

    async def register(self, bodies: Iterable[bytes], at_once: int = 32) -> None:
        """Posts them, so many at the same time."""
        queue = iter(bodies)

        async def some() -> None:
            for body in queue:
                await self.post(body)

        await asyncio.gather(*(some() for _ in range(at_once)))

    async def post(self, body: bytes) -> None:
        status = await self._post(body, livestorm.sign(self.secret, body))
        if status != 202:
            raise BenchError(f"the ingress answered {status}")

    async def _post(self, body: bytes, signature: str) -> int:
        headers = {livestorm.HEADER: signature, "Content-Type": "application/json"}
        async with self.http.post(f"{self.ingress}/livestorm/{self.workspace}", data=body, headers=headers) as answer:
            await answer.read()
            return answer.status

    def _body(self, trigger: str, type: str, id: str, attributes: dict[str, Any]) -> bytes:
        return livestorm.encode(livestorm.body(self.organization, trigger, type, id, attributes))
