"""An org in trouble beside one that is well: what both must look like meanwhile and afterwards."""

import asyncio
import time
from typing import Final, Literal

from tests.flow.place import Place, Session
from tests.flow.processes import command
from tests.flow.watching import eventually

Trouble = Literal["down", "token revoked"]

WORDS: Final[dict[Trouble, str]] = {"down": "503", "token revoked": "expired access/refresh token"}
"""What lag says of it, in the org's own words."""
EMAILS: Final = tuple(f"guest{number}@waiting.example" for number in range(25))


async def catches_up(place: Place, other: Place, trouble: Trouble) -> None:
    """The other org notices nothing; afterwards all arrives in order, without a command and without a dead letter."""
    here, there = await place.session(), await other.session()
    await place.followed(here)
    await _begin(place, trouble)
    await place.ended(here)
    now = int(time.time())
    for step, title in enumerate(("Junior", "Senior", "Chief")):
        await place.crowd([place.about("people.registered", here, email, job_title=title, updated_at=now - 60 + step) for email in EMAILS])
    await place.crowd([place.about("people.attended", here, email, job_title="Chief") for email in EMAILS])
    for number in range(5):
        await other.registered(there, f"free{number}@elsewhere.example")
    await other.synced()
    await other.followed(there)
    await _is_told(place, trouble)
    await other.at_zero()
    await place.org.heal()
    await place.synced(seconds=150)
    await _is_in_order(place, here)
    await place.at_zero()


async def _begin(place: Place, trouble: Trouble) -> None:
    if trouble == "down":
        await place.org.fault("http-503")
    else:
        await place.org.fault("invalid_grant", resource="token", message=WORDS[trouble])
        await place.org.expire_tokens()


async def _is_told(place: Place, trouble: Trouble) -> None:
    """One cause for the org in lag, console and check, whatever waits; no dead letters, and few token calls."""

    async def told() -> None:
        lanes = [lane for lane in await place.waiting() if lane["lane"] == f"org:{place.org.id}" and lane["state"] == "blocked"]
        assert lanes
        assert any(WORDS[trouble] in (lane["cause"] or "") for lane in lanes), lanes

    await eventually(told)
    assert place.outcomes() == []
    assert place.dead_letters() == []
    async with place.http.get(place.house.console) as page:
        assert WORDS[trouble] in await page.text()
    if trouble == "token revoked":
        assert (await place.org.calls())["by_resource"]["token"] <= 6
        checked = await asyncio.to_thread(command, ["check", place.org.id, "--json"], place.house.environment)
        assert checked.returncode == 1
        assert WORDS[trouble] in checked.stdout


async def _is_in_order(place: Place, session: Session) -> None:
    campaign = await place.org.campaign(session.id)
    for email in EMAILS:
        lead = await place.org.one("Lead", email)
        seen = [entry["changes"]["Title"][1] for entry in lead["history"] if "Title" in entry["changes"]]
        assert seen == ["Junior", "Senior", "Chief"]
        member = await place.org.member(campaign["Id"], lead)
        assert [entry["changes"]["Status"][1] for entry in member["history"] if "Status" in entry["changes"]] == ["Registered", "Attended"]
