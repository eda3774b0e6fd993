"""A caller of one stand-in org: REST as any client would speak it, and the switches. Remembers its token, checks nothing."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from stages.sandbox.salesforce.org import Org

VERSION = "62.0"


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """`body` is parsed JSON, or the text where it isn't JSON, or None."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        """The code of a refused request's only error."""
        (error,) = self.body
        return str(error["errorCode"])

    @property
    def message(self) -> str:
        return str(self.body[0]["message"])


@dataclasses.dataclass(slots=True)
class Caller:
    """One user's session with one org."""

    org: Org
    http: aiohttp.ClientSession
    token: str = ""

    async def log_in(self, **form: str) -> Reply:
        """By client credentials, unless told otherwise; keeps the token it gets."""
        form = form or {"grant_type": "client_credentials", "client_id": "any", "client_secret": "sandbox"}
        reply = await self._send("POST", "/services/oauth2/token", data=form)
        if reply.status == 200:
            self.token = reply.body["access_token"]
        return reply

    async def ask(self, method: str, path: str, body: Any = None, *, version: str = VERSION, **headers: str) -> Reply:
        """`path` below `/services/data/vXX.X`, or from the root where it starts with /services. `_` in names of headers is `-`."""
        url = path if path.startswith("/services") else f"/services/data/v{version}{path}"
        sent = {"Authorization": f"Bearer {self.token}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        return await self._send(method, url, headers=sent, json=body) if body is not None else await self._send(method, url, headers=sent)

    async def query(self, soql: str, *, resource: str = "query", **headers: str) -> Reply:
        return await self.ask("GET", f"/{resource}?q={quote(soql, safe='')}", **headers)

    async def rows(self, soql: str) -> list[dict[str, Any]]:
        reply = await self.query(soql)
        assert reply.status == 200, reply.body
        return [{name: value for name, value in record.items() if name != "attributes"} for record in reply.body["records"]]

    async def values(self, soql: str) -> list[Any]:
        """Of a query for one field."""
        return [value for row in await self.rows(soql) for value in row.values()]

    async def create(self, object_name: str, **fields: Any) -> str:
        """Its id."""
        reply = await self.ask("POST", f"/sobjects/{object_name}", fields)
        assert reply.status == 201, reply.body
        return str(reply.body["id"])

    async def try_create(self, object_name: str, **fields: Any) -> Reply:
        return await self.ask("POST", f"/sobjects/{object_name}", fields)

    async def create_all(self, *records: dict[str, Any], all_or_none: bool = False, **headers: str) -> Reply:
        return await self.ask("POST", "/composite/sobjects", {"allOrNone": all_or_none, "records": records}, **headers)

    async def composite(self, *parts: dict[str, Any], **options: Any) -> Reply:
        return await self.ask("POST", "/composite", {"compositeRequest": parts, **options})

    async def describe(self, object_name: str) -> dict[str, Any]:
        reply = await self.ask("GET", f"/sobjects/{object_name}/describe")
        assert reply.status == 200, reply.body
        return {**reply.body, "fields": {field["name"]: field for field in reply.body["fields"]}}

    async def switch(self, method: str, path: str, body: Any = None) -> Any:
        """`path` below /sandbox."""
        reply = await self._send(method, f"/sandbox{path}", json=body) if body is not None else await self._send(method, f"/sandbox{path}")
        assert reply.status == 200, reply.body
        return reply.body

    async def rule(self, kind: str, **spec: Any) -> str:
        return str((await self.switch("POST", "/rules", {"kind": kind, **spec}))["id"])

    async def fault(self, fault: str, times: int | None = 1, *, message: str | None = None, share: float = 1, **match: str) -> str:
        spec: dict[str, Any] = {"match": match, "fault": fault, "times": times, "share": share}
        return str((await self.switch("POST", "/faults", spec | ({"message": message} if message else {})))["id"])

    async def records(self, object_name: str) -> list[dict[str, Any]]:
        told = await self.switch("GET", f"/records/{object_name}")
        return list(told["records"])

    async def calls(self) -> dict[str, Any]:
        return dict(await self.switch("GET", "/calls"))

    async def _send(self, method: str, path: str, **what: Any) -> Reply:
        async with self.http.request(method, f"{self.org.base_url}{path}", **what) as response:
            text = await response.text()
            try:
                body = json.loads(text) if text else None
            except ValueError:
                body = text
            return Reply(response.status, body, dict(response.headers))


def part(method: str, url: str, reference: str, body: Any = None, **headers: str) -> dict[str, Any]:
    """One subrequest of a composite; `url` below `/services/data/vXX.X`."""
    made: dict[str, Any] = {"method": method, "url": f"/services/data/v{VERSION}{url}", "referenceId": reference}
    if body is not None:
        made["body"] = body
    return made | ({"httpHeaders": {name.replace("_", "-"): value for name, value in headers.items()}} if headers else {})


def record(object_name: str, **fields: Any) -> dict[str, Any]:
    """One record of a collection."""
    return {"attributes": {"type": object_name}, **fields}


def lead(**fields: Any) -> dict[str, Any]:
    """A Lead with what it must have."""
    return record("Lead", **({"LastName": "Weber", "Company": "Mill"} | fields))


def collected(*records: dict[str, Any], all_or_none: bool = False) -> dict[str, Any]:
    """The body of a collection."""
    return {"allOrNone": all_or_none, "records": list(records)}
