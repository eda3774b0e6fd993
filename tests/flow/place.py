"""One workspace of a test's own, with its org: tells the product what happens there, and waits for what becomes of it."""

import asyncio
import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import aiohttp

from tests.flow import livestorm
from tests.flow.house import House
from tests.flow.livestorm import new_id
from tests.flow.salesforce import Org
from tests.flow.watching import Heard, Topics, eventually

FINAL_SECONDS: Final = 40.0


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """A session as Livestorm knows it."""

    id: str
    event: str
    title: str
    attributes: Mapping[str, Any]


@dataclasses.dataclass(slots=True)
class Place:
    """`told` counts the webhooks about people, each of which has one final outcome."""

    house: House
    org: Org
    workspace: str
    organization: str
    secret: str
    topics: Topics
    http: aiohttp.ClientSession
    told: int = 0
    people: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    # What happens at Livestorm

    async def session(self, title: str = "Roadmap preview", *, event_changes: Mapping[str, Any] | None = None, **changes: Any) -> Session:
        """An event with one session, both told."""
        session = self.unknown_session(title, **changes)
        await self.tell_event(session, **(event_changes or {}))
        await self.tell_session(session, "session.created")
        return session

    def unknown_session(self, title: str = "Roadmap preview", **changes: Any) -> Session:
        """A session that nobody has told of yet."""
        event = changes.pop("event", new_id())
        return Session(new_id(), event, title, livestorm.session(event, **changes))

    async def tell_event(self, session: Session, **changes: Any) -> None:
        await self.post("event.published", "events", session.event, livestorm.event(session.title, **changes))

    async def tell_session(self, session: Session, trigger: str, **changes: Any) -> None:
        await self.post(trigger, "sessions", session.id, {**session.attributes, **changes})

    async def started(self, session: Session) -> None:
        now = int(time.time())
        await self.tell_session(session, "session.started", status="live", started_at=now - 1, updated_at=now - 1)

    async def ended(self, session: Session, ended_at: int = 0) -> None:
        at = ended_at or int(time.time())
        await self.tell_session(session, "session.ended", status="past", started_at=at - 3600, ended_at=at, updated_at=at)

    async def registered(self, session: Session, email: object, **told: Any) -> None:
        await self.person("people.registered", session, email, **told)

    async def attended(self, session: Session, email: object, **told: Any) -> None:
        was_there: dict[str, Any] = {"attended": True, "attendance_rate": 80, "attendance_duration": 2880}
        await self.person("people.attended", session, email, **was_there | told)

    async def not_attended(self, session: Session, email: object, **told: Any) -> None:
        await self.person("people.not_attended", session, email, **told)

    async def watched(self, session: Session, email: object, **told: Any) -> None:
        seen: dict[str, Any] = {"has_viewed_replay": True, "replay_view_detail": {"watched_at": int(time.time()) - 1}}
        await self.person("people.watched_replay", session, email, **seen | told)

    async def person(self, trigger: str, session: Session, email: object, *, id: str = "", **told: Any) -> None:
        await self.post(*self.about(trigger, session, email, id=id, **told))

    def about(self, trigger: str, session: Session, email: object, *, id: str = "", **told: Any) -> tuple[str, str, str, dict[str, Any]]:
        """The webhook about a person: trigger, type, id, attributes. One and the same person has one id at one session."""
        person = id or self.people.setdefault((session.id, str(email).strip().lower()), new_id())
        return trigger, "people", person, livestorm.person(session.id, session.event, email, **told)

    async def crowd(self, webhooks: Iterable[tuple[str, str, str, dict[str, Any]]], at_once: int = 50) -> None:
        """Many webhooks, so many of them at the same time."""
        gate = asyncio.Semaphore(at_once)

        async def post(webhook: tuple[str, str, str, dict[str, Any]]) -> None:
            async with gate:
                await self.post(*webhook)

        await asyncio.gather(*(post(webhook) for webhook in webhooks))

    async def post(self, trigger: str, type: str, id: str, attributes: Mapping[str, Any] | None) -> None:
        await self.deliver(livestorm.encode(livestorm.body(self.organization, trigger, type, id, attributes)), final=type == "people")

    async def deliver(self, body: bytes, *, final: bool = True) -> None:
        """Any body, rightly signed and taken. `final`: one final outcome follows from it."""
        status, answer, _ = await self.send(body)
        assert (status, answer) == (202, {"accepted": 1}), (status, answer)
        self.told += final

    async def send(
        self, body: bytes, *, signature: str | None = None, signed_over: bytes | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Any request: status, document and headers of the answer."""
        header = livestorm.sign(self.secret, body if signed_over is None else signed_over) if signature is None else signature
        headers = {livestorm.HEADER: header, "Content-Type": "application/json"}
        async with self.http.post(f"{self.house.ingress}/livestorm/{self.workspace}", data=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None), dict(answer.headers)

    # What becomes of it

    def outcomes(self) -> list[Heard]:
        """Final outcomes of what was told of people (and of what could not be read), the latest last."""
        return [one for one in self.topics.of("synced", self.workspace) if one.value["kind"] in ("registration", "unknown")]

    def dead_letters(self) -> list[dict[str, Any]]:
        return [one.value for one in self.topics.of("dead-letters", self.workspace)]

    async def settled(self, seconds: float = FINAL_SECONDS) -> None:
        """Until everything that was told of people has its final outcome, and each rejected one its dead letter."""

        async def look() -> None:
            assert len(self.outcomes()) >= self.told
            rejected = [one for one in self.topics.of("synced", self.workspace) if one.value["outcome"] == "rejected"]
            assert len(self.dead_letters()) >= len(rejected)

        try:
            await eventually(look, seconds)
        except AssertionError:
            # Asked once and not at each look: it costs the product more than what is waited for.
            raise AssertionError(f"{len(self.outcomes())} of {self.told} have an outcome; {await self.waiting()}") from None

    async def followed(self, session: Session, outcome: str = "campaign_", seconds: float = FINAL_SECONDS, count: int = 1) -> None:
        """Until so many messages about that session have ended with a reason that begins so."""

        async def look() -> None:
            told = [
                one.value
                for one in self.topics.of("synced", self.workspace)
                if one.value["session"] == session.id and one.value["kind"] == "session"
            ]
            assert len([one for one in told if one["reason"].startswith(outcome)]) >= count, told

        await eventually(look, seconds)

    async def synced(self, seconds: float = FINAL_SECONDS) -> None:
        """Until everything is settled, and nobody was rejected."""
        await self.settled(seconds)
        assert self.dead_letters() == [], self.dead_letters()

    async def at_zero(self) -> None:
        """Until lag tells of no lane of this org: a stage takes one back some seconds after its messages are done."""

        async def look() -> None:
            assert await self.waiting() == []

        await eventually(look)

    async def waiting(self) -> Sequence[Mapping[str, Any]]:
        """Lanes of this org that lag tells of."""
        told = await self.lag()
        return [lane for lane in told["lanes"] if lane["lane"].split("/")[0] == f"org:{self.org.id}"]

    async def lag(self) -> dict[str, Any]:
        async with self.http.get(f"{self.house.console}/api/lag") as answer:
            assert answer.status == 200, await answer.text()
            document: dict[str, Any] = await answer.json()
            return document
