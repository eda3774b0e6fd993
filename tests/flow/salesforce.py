"""One sandbox org as a test sees it: its switches over HTTP, and its records and calls with what tests ask of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

Record = dict[str, Any]

US: Final = "sandbox@example.com"
"""The product's user in the org."""
LONG_AGO: Final = "2024-03-01T08:00:00.000+0000"
_SYSTEM: Final = frozenset(("LastModifiedDate", "LastModifiedById", "SystemModstamp"))


@dataclasses.dataclass(frozen=True, slots=True)
class Org:
    """`id` is the product's name for it."""

    id: str
    url: str
    http: aiohttp.ClientSession

    async def seed(self, **objects: list[Record]) -> None:
        """Empties the org and puts these records in, as if they had long been there."""
        rows = {
            name: [{"CreatedDate": LONG_AGO, "LastModifiedDate": LONG_AGO} | record for record in seeds] for name, seeds in objects.items()
        }
        await self._ask("POST", "/sandbox/reset", {"seed": rows})

    async def records(self, object: str, *, deleted: bool = False) -> list[Record]:
        told = await self._ask("GET", f"/sandbox/records/{object}")
        found: list[Record] = told["records"]
        return [record for record in found if deleted or not record["IsDeleted"]]

    async def one(self, object: str, email: str) -> Record:
        """The only record with that email."""
        found = [record for record in await self.records(object) if (record["Email"] or "").lower() == email.lower()]
        assert len(found) == 1, f"{len(found)} {object} records have the address"
        return found[0]

    async def member(self, campaign: str, record: Record) -> Record:
        """The only member of that Campaign that is this Lead or Contact."""
        found = [
            member
            for member in await self.records("CampaignMember")
            if member["CampaignId"] == campaign and record["Id"] in (member["LeadId"], member["ContactId"])
        ]
        assert len(found) == 1, f"{len(found)} members of {campaign} are {record['Id']}"
        return found[0]

    async def campaign(self, session: str) -> Record:
        """The only Campaign of that session."""
        found = [one for one in await self.records("Campaign") if (one["Description"] or "").endswith(f"Livestorm session {session}")]
        assert len(found) == 1, f"{len(found)} Campaigns are session {session}'s"
        return found[0]

    async def calls(self) -> dict[str, Any]:
        told: dict[str, Any] = await self._ask("GET", "/sandbox/calls")
        return told

    async def forget_calls(self) -> None:
        await self._ask("DELETE", "/sandbox/calls")

    async def requests(self) -> list[dict[str, Any]]:
        """Every request, those inside of composites each for itself."""
        told = await self.calls()
        return [one for call in told["log"] for one in (call["subrequests"] or [call])]

    async def errors(self) -> set[str]:
        """Every error code that the org answered with."""
        told = (await self.calls())["log"]
        return {code for call in told for code in call["errors"]}

    async def written(self) -> dict[str, int]:
        """Records that were sent to be written, by object."""
        counts: dict[str, int] = {}
        for one in await self.requests():
            for name, count in (one["objects"] or {}).items() if one["method"] != "GET" else ():
                counts[name] = counts.get(name, 0) + count
        return counts

    async def fault(self, fault: str, *, times: int | None = None, message: str = "", share: float | None = None, **match: str) -> str:
        """`match`: resource, object, email. Its id."""
        told: dict[str, Any] = {"match": {"resource": "*"} | match, "fault": fault, "times": times}
        if message:
            told["message"] = message
        if share is not None:
            told["share"] = share
        return str((await self._ask("POST", "/sandbox/faults", told))["id"])

    async def drop_fault(self, id: str) -> None:
        await self._ask("DELETE", f"/sandbox/faults/{id}")

    async def heal(self) -> None:
        """No faults any more."""
        await self._ask("DELETE", "/sandbox/faults")

    async def rule(self, kind: str, **rule: Any) -> str:
        return str((await self._ask("POST", "/sandbox/rules", {"kind": kind, **rule}))["id"])

    async def drop_rule(self, id: str) -> None:
        await self._ask("DELETE", f"/sandbox/rules/{id}")

    async def text_field(self, object: str, field: str, length: int = 255) -> None:
        await self.rule("custom-field", object=object, field=field, type="string", length=length)

    async def expire_tokens(self) -> None:
        await self._ask("POST", "/sandbox/tokens/expire")

    async def edit(self, object: str, id: str, **values: Any) -> None:
        """As a person does in Salesforce's pages."""
        await self._ask("POST", "/sandbox/edit", {"object": object, "id": id, "values": values})

    async def convert(self, lead: str) -> None:
        """As a person does in Salesforce's pages: a new Contact takes the Lead's place."""
        await self._ask("POST", "/sandbox/convert", {"lead": lead})

    async def merge(self, object: str, winner: str, *losers: str) -> None:
        """As a person does in Salesforce's pages."""
        await self._ask("POST", "/sandbox/merge", {"object": object, "winner": winner, "losers": losers})

    async def hits(self, fault: str) -> int:
        """How often a fault struck."""
        return int((await self._ask("GET", f"/sandbox/faults/{fault}"))["hits"])

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        async with self.http.request(method, self.url + path, json=body) as answer:
            text = await answer.text()
            assert answer.status < 300, f"{method} {path}: {answer.status} {text[:500]}"
            return await answer.json(content_type=None) if text else None


def changes(record: Record, *, by: str | None = None) -> list[dict[str, Any]]:
    """What became of a record since it is there: the changes of fields that people see, the creation left out."""
    told = [entry for entry in record["history"][1:] if by is None or entry["by"] == by]
    return [seen for entry in told if (seen := {name: change for name, change in entry["changes"].items() if name not in _SYSTEM})]


def creator(record: Record) -> str:
    """User name of who made it."""
    return str(record["history"][0]["by"])
