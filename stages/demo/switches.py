"""The switches of a sandbox org that a demonstration uses, over HTTP. No real org has them."""

import dataclasses
from typing import Any, Final

import aiohttp
import anyio

from stages.errors import TurnoutError

OBJECTS: Final = ("Lead", "Contact", "Account", "Campaign", "CampaignMember")
READY_SECONDS: Final = 60.0


class SandboxError(TurnoutError):
    """A sandbox org did not do what was asked."""


@dataclasses.dataclass(frozen=True, slots=True)
class Switches:
    """One sandbox org's."""

    session: aiohttp.ClientSession
    url: str

    async def ready(self) -> None:
        """Returns once the org answers. Raises SandboxError after a minute."""
        with anyio.move_on_after(READY_SECONDS):
            while True:
                try:
                    await self._ask("GET", "/sandbox")
                    return
                except (aiohttp.ClientError, TimeoutError, SandboxError):
                    await anyio.sleep(0.1)
        raise SandboxError(f"the sandbox org at {self.url} does not answer")

    async def rule(self, rule: dict[str, Any]) -> None:
        await self._ask("POST", "/sandbox/rules", rule)

    async def go_down(self) -> None:
        """Every call answers 503 from now on."""
        await self._ask("POST", "/sandbox/faults", {"match": {"resource": "*"}, "fault": "http-503", "times": None})

    async def come_back(self) -> None:
        await self._ask("DELETE", "/sandbox/faults")

    async def edit(self, object: str, id: str, values: dict[str, Any]) -> None:
        """As a person does in Salesforce's pages."""
        await self._ask("POST", "/sandbox/edit", {"object": object, "id": id, "values": values})

    async def records(self) -> dict[str, list[dict[str, Any]]]:
        """All records by object, deleted ones too."""
        return {name: (await self._ask("GET", f"/sandbox/records/{name}"))["records"] for name in OBJECTS}

    async def calls(self) -> int:
        """How many calls were made to the org."""
        return int((await self._ask("GET", "/sandbox/calls"))["total"])

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        async with self.session.request(method, self.url + path, json=body) as answer:
            if answer.status >= 300:
                raise SandboxError(f"{method} {self.url}{path}: {answer.status} {(await answer.text())[:300]}")
            return await answer.json(content_type=None) if answer.status != 204 else None
