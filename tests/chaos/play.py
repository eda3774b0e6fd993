"""One chaos run from its start to its verdict: brings everything up, plays the story while the plan is acted out, mends, waits, judges."""

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import random
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests import brokers
from tests.chaos import sabotage, story, truth
from tests.chaos.clock import Clock
from tests.chaos.parts import RUNNING, Part, free_address
from tests.chaos.report import Report
from tests.chaos.sabotage import Act, Spell
from tests.chaos.story import Story, Webhook, Workspace
from tests.flow import house as houses
from tests.flow import livestorm, processes, watching
from tests.flow.house import House
from tests.flow.salesforce import Org
from tests.flow.watching import Heard
from tests.kafka.apache import ApacheKafka

INGRESSES: Final = 2
PARTITIONS: Final = 6
POST_SECONDS: Final = 10.0
ASK_SECONDS: Final = 60.0
"""For orgs' switches and /readyz: a webhook without an answer is posted again, these are asked once."""
LONGEST_PAUSE_SECONDS: Final = 10.0
AT_ONCE: Final = 40
POSTED_SECONDS: Final = 180.0
"""The longest that a webhook is posted again after everything was brought back."""
LOOK_SECONDS: Final = 2.0
STALLED_SECONDS: Final = 240.0
"""Longest time without a step towards lag 0: a session timeout, the hold after a take-over and a probe's wait fit in it."""
SETTLED_SECONDS: Final = 1_200.0

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """What is asked for."""

    seed: int
    minutes: float
    broker: str
    folder: pathlib.Path
    orgs: int = 4
    workers: int = 2
    """Of each stage."""


async def play(call: Call, say: Say) -> Report:
    """The whole run. Raises ProcessError, ApacheError where something could not be brought up at all."""
    began = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        kafka, bootstrap = await _broker(call, stack)
        said = call.folder / "orgs.log"
        arguments = ["sandbox", "salesforce", "--port", "0", "--orgs", str(call.orgs), "--stop-with-stdin"]
        _, ready = stack.enter_context(processes.running(arguments, processes.environment(), said, r"sandbox salesforce ready: (.+)"))
        house = stack.enter_context(houses.built(bootstrap, call.folder, PARTITIONS=str(PARTITIONS)))
        posts = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=POST_SECONDS)))
        asks = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_SECONDS)))
        run = _Run(call, say, house, posts, asks, kafka, ready.group(1).split())
        return await run.whole(began)


async def _broker(call: Call, stack: contextlib.AsyncExitStack) -> tuple[ApacheKafka | None, str]:
    if call.broker == brokers.EMBEDDED:
        return None, stack.enter_context(brokers.embedded(call.folder / "kafka"))
    kafka = ApacheKafka(call.folder / "kafka")
    stack.callback(kafka.stop)
    await kafka.start()
    return kafka, kafka.bootstrap


class _Run:
    def __init__(
        self,
        call: Call,
        say: Say,
        house: House,
        posts: aiohttp.ClientSession,
        asks: aiohttp.ClientSession,
        kafka: ApacheKafka | None,
        urls: list[str],
    ) -> None:
        self._call, self._say, self._house, self._asks, self._kafka = call, say, house, asks, kafka
        self._story = story.make(call.seed, call.minutes * 60, 0, call.orgs)
        self._orgs = {org.id: Org(org.id, url, asks) for org, url in zip(self._story.orgs, urls, strict=True)}
        self._addresses = [free_address() for _ in range(INGRESSES)]
        self._parts = {part.name: part for part in self._made()}
        self._plan = sabotage.make(call.seed, call.minutes * 60, list(self._parts), list(self._orgs), broker=kafka is not None)
        self._poster = _Poster(posts, self._addresses, {one.id: one for one in self._story.workspaces}, call.seed)
        self._broker = asyncio.Lock()
        self._acts: Counter[str] = Counter()
        self._hits: Counter[str] = Counter()
        self._unchecked: set[str] = set()
        self._wrong: list[str] = []

    def _made(self) -> Iterable[Part]:
        environment, folder = self._house.environment, self._house.folder
        for number, address in enumerate(self._addresses):
            yield Part(f"ingress-{number}", ("run", "ingress"), environment | {"TURNOUT_INGRESS": address}, folder)
        for stage in houses.STAGES:
            for number in range(self._call.workers):
                # Half of the workers have a stable name: static and dynamic members side by side.
                name = {"TURNOUT_INSTANCE": f"{stage}-{number}"} if number % 2 == 0 else {}
                yield Part(f"{stage}-{number}", ("run", stage), environment | name, folder)

    async def whole(self, began: float) -> Report:
        await self._furnish()
        async with self._running():
            self._say(f"{len(self._story.webhooks)} webhooks, {len(self._plan.acts)} blows, {len(self._plan.spells)} troubles to come")
            clock = Clock()
            async with asyncio.TaskGroup() as tasks:
                posting = tasks.create_task(self._poster.all(self._story.webhooks, clock))
                tasks.create_task(self._sabotaged(clock))
                tasks.create_task(self._watched(posting, clock))
            self._say("everything is brought back")
            await self._settled()
            log = await _log(self._house)
            records = {id: await _records(org) for id, org in self._orgs.items()}
            await self._ready()
        verdict = truth.judge(self._story, records, log)
        self._judge_processes(verdict)
        return self._report(verdict, time.monotonic() - began)

    # Before

    async def _furnish(self) -> None:
        """What is in the orgs, and the settings of everyone."""
        for org in self._story.orgs:
            await self._orgs[org.id].seed(**self._story.seed(org.id))
            await _fields(self._orgs[org.id], org)
        await asyncio.to_thread(self._house.apply, settings(self._story, {id: org.url for id, org in self._orgs.items()}))
        # From here on nothing lies before the moment at which the workspaces were connected.
        self._story = story.make(self._call.seed, self._call.minutes * 60, int(time.time()) + 1, self._call.orgs)

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        for part in self._parts.values():
            part.start()
        keepers = [asyncio.create_task(part.keep(), name=part.name) for part in self._parts.values()]
        try:
            for part in self._parts.values():
                await watching.eventually(lambda part=part: _says(part, RUNNING), processes.READY_SECONDS)  # type: ignore[misc]
            yield
        finally:
            await asyncio.gather(*(part.close() for part in self._parts.values()))
            await asyncio.gather(*keepers)

    # While it goes on

    async def _sabotaged(self, clock: Clock) -> None:
        async with asyncio.TaskGroup() as tasks:
            for act in self._plan.acts:
                tasks.create_task(self._act(act, clock))
            for spell in self._plan.spells:
                tasks.create_task(self._trouble(spell, clock))

    async def _act(self, act: Act, clock: Clock) -> None:
        await clock.until(act.at)
        if act.target == sabotage.BROKER:
            if self._broker.locked():
                self._acts[f"passed over: {act.kind} of the broker, which was down"] += 1
                return
            async with self._broker:
                await self._strike_broker(act, clock)
        else:
            part = self._parts[act.target]
            if not part.alive:
                self._acts[f"passed over: {act.kind} of {act.target.rpartition('-')[0]}, which was down"] += 1
                return
            self._say(f"{act.kind} {act.target}, {act.seconds:g} s")
            if act.kind == "kill":
                part.kill(act.seconds)
            elif act.kind == "stop":
                await part.stop(act.seconds)
            else:
                await part.restart(act.seconds)
        self._acts[f"{act.kind} {act.target.rpartition('-')[0] or act.target}"] += 1

    async def _strike_broker(self, act: Act, clock: Clock) -> None:
        kafka = self._kafka
        assert kafka is not None
        self._say(f"{act.kind} broker, {act.seconds:g} s")
        if act.kind == "stop":
            kafka.suspend()
            await asyncio.sleep(act.seconds)
            kafka.resume()
            return
        if act.kind == "kill":
            kafka.kill()
        else:
            await asyncio.to_thread(kafka.stop)
        await asyncio.sleep(act.seconds)
        with clock.standing():
            await kafka.restart()

    async def _trouble(self, spell: Spell, clock: Clock) -> None:
        await clock.until(spell.at)
        org, trouble = self._orgs[spell.org], spell.trouble
        match: dict[str, Any] = {"resource": trouble.resource} | ({"object": trouble.object} if trouble.object else {})
        self._say(f"{spell.org}: {trouble.name}, {spell.seconds:g} s")
        fault = await org.fault(trouble.fault, message=trouble.message, share=trouble.share, **match)
        if trouble.expires_tokens:
            await org.expire_tokens()
        await asyncio.sleep(spell.seconds)
        self._hits[trouble.name] += await org.hits(fault)
        await org.drop_fault(fault)
        if trouble.checked:
            await self._check(spell.org)

    async def _check(self, org: str) -> None:
        """As an admin does who has mended it. It may fail while Kafka is down, or the org in trouble again: then once more at the end."""
        told = await self._told("check", org)
        if told is None or not told["ok"]:
            self._say(
                f"`turnout check {org}` finds trouble still: {'' if told is None else [one for one in told['checks'] if not one['ok']]}"
            )
            self._unchecked.add(org)
        else:
            self._unchecked.discard(org)

    async def _told(self, *arguments: str) -> Any:
        """The document of a command; None where it fails or does not end, as it may while Kafka is down."""
        try:
            ended = await asyncio.to_thread(processes.command, [*arguments, "--json"], self._house.environment)
        except subprocess.TimeoutExpired:
            self._say(f"`turnout {arguments[0]}` does not end within {processes.COMMAND_SECONDS:g} s")
            return None
        if not ended.stdout:
            self._say(f"`turnout {arguments[0]}` fails: {ended.stderr[-300:]}")
            return None
        return json.loads(ended.stdout)

    async def _watched(self, posting: asyncio.Task[None], clock: Clock) -> None:
        """Progress; and an end to posting that never succeeds."""
        while not posting.done():
            await asyncio.wait({posting}, timeout=10)
            self._say(f"{self._poster.accepted} of {len(self._story.webhooks)} webhooks taken")
            if clock.now > self._story.webhooks[-1].at + POSTED_SECONDS:
                raise TimeoutError(f"the ingress did not take {len(self._story.webhooks) - self._poster.accepted} webhooks")

    # After

    async def _settled(self) -> None:
        """Until lag is 0, twice."""
        for org in self._orgs.values():
            await org.heal()
        for id in sorted({spell.org for spell in self._plan.spells if spell.trouble.checked}):
            await self._check(id)
        self._wrong += [f"`turnout check {org}` does not succeed after everything was mended" for org in sorted(self._unchecked)]
        began = moved = time.monotonic()
        before, zeros = -1, 0
        while zeros < 2:
            lag = await self._told("lag")
            if lag is not None:
                unfinished = lag["unfinished"]
                zeros = zeros + 1 if unfinished == 0 and not lag["lanes"] else 0
                if unfinished != before:
                    before, moved = unfinished, time.monotonic()
                    self._say(f"lag {unfinished}: {_lanes(lag)}")
            if time.monotonic() - moved > STALLED_SECONDS or time.monotonic() - began > SETTLED_SECONDS:
                self._wrong.append(f"lag does not go to 0: {json.dumps(lag)[:4000]}")
                return
            await asyncio.sleep(LOOK_SECONDS)
        self._say(f"lag is 0 after {time.monotonic() - began:.0f} s")

    async def _ready(self) -> None:
        """Each part says that it can do its work."""
        for part in self._parts.values():
            name = part.name
            try:
                await watching.eventually(lambda part=part: self._is_ready(part))  # type: ignore[misc]
            except AssertionError as error:
                self._wrong.append(f"{name} is not ready at the end: {error}")

    async def _is_ready(self, part: Part) -> None:
        address = part.told(r'"address": "http://([^/"]+)/metrics"') or part.told(r'"address": "([^"]+)", "event": "ingress listens"')
        assert part.alive, "it does not run"
        assert address is not None, "it does not say where it listens"
        async with self._asks.get(f"http://{address}/readyz") as answer:
            assert answer.status == 200, await answer.text()

    def _judge_processes(self, verdict: truth.Verdict) -> None:
        for what in self._wrong:
            verdict.wrong("run", "", what)
        for part in self._parts.values():
            for what in part.wrong:
                verdict.wrong("process", part.name, what)
            if part.gave_up:
                verdict.noted["starts given up while Kafka did not answer"] += part.gave_up
            for line in part.broken()[:3]:
                verdict.wrong("log", part.name, "tells of a mistake in the program", None, line)
            for line in part.mentions(story.DOMAIN)[:3]:
                verdict.wrong("log", part.name, "tells an address", None, line)
            verdict.checked["logs of processes"] += len(part.logs)
        for webhook in self._poster.given_up:
            verdict.wrong("ingress", webhook.workspace, "a webhook was not taken")

    def _report(self, verdict: truth.Verdict, seconds: float) -> Report:
        told = self._story
        return Report(
            seed=self._call.seed,
            minutes=self._call.minutes,
            broker=self._call.broker,
            seconds=round(seconds, 1),
            orgs=len(told.orgs),
            workspaces=len(told.workspaces),
            sessions=len(told.sessions),
            people=len({(deed.org, deed.email) for deed in told.deeds if deed.fate == "synced"}),
            events=len(told.deeds),
            webhooks=dict(sorted(self._webhooks().items())),
            blows=dict(sorted(self._acts.items())),
            troubles=dict(sorted(self._hits.items())),
            checked=dict(sorted(verdict.checked.items())),
            noted=dict(sorted(verdict.noted.items())),
            differences=[dataclasses.asdict(one) for one in verdict.differences],
        )

    def _webhooks(self) -> Counter[str]:
        sent = self._story.webhooks
        counts = Counter({"told": len(sent), "repeated": sum(one.repeat for one in sent), "late": sum(one.late for one in sent)})
        return counts + self._poster.answers


def settings(told: Story, urls: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The settings file of a story."""
    orgs: list[dict[str, Any]] = []
    for org in told.orgs:
        table = {"id": org.id, "login_url": urls[org.id], "flow": "client-credentials", "client_id": "turnout", "client_secret": "sandbox"}
        if org.keyed:
            table |= {
                "person_key_field": story.PERSON_KEY,
                "campaign_key_field": story.CAMPAIGN_KEY,
                "account_key_field": story.ACCOUNT_KEY,
            }
        if org.timed:
            table["event_time_field"] = story.EVENT_TIME
        orgs.append(table)
    workspaces = [
        {
            "id": one.id,
            "org": one.org,
            "objects": {"create": one.create},
            "livestorm": {"organization_id": one.organization, "webhook_secret": one.secret},
        }
        for one in told.workspaces
    ]
    return {"org": orgs, "workspace": workspaces}


async def _fields(org: Org, told: story.Org) -> None:
    if told.keyed:
        for object, field in (("Contact", story.PERSON_KEY), ("Lead", story.PERSON_KEY), ("Campaign", story.CAMPAIGN_KEY), ("Account", story.ACCOUNT_KEY)):  # fmt: skip
            await org.rule("custom-field", object=object, field=field, type="string", length=255, unique=True, external_id=True)
    if told.timed:
        for object in ("Contact", "Lead"):
            await org.rule("custom-field", object=object, field=story.EVENT_TIME, type="datetime")


class _Poster:
    """Livestorm, as far as deliveries go: what is not answered 202 is posted again, a little later, at any ingress."""

    def __init__(self, http: aiohttp.ClientSession, addresses: list[str], workspaces: dict[str, Workspace], seed: int) -> None:
        self._http, self._addresses, self._workspaces = http, addresses, workspaces
        self._random = random.Random(f"post {seed}")
        self._gate = asyncio.Semaphore(AT_ONCE)
        self.accepted = 0
        self.answers: Counter[str] = Counter()
        self.given_up: list[Webhook] = []

    async def all(self, webhooks: Iterable[Webhook], clock: Clock) -> None:
        async with asyncio.TaskGroup() as tasks:
            for webhook in webhooks:
                await clock.until(webhook.at)
                tasks.create_task(self._deliver(webhook))

    async def _deliver(self, webhook: Webhook) -> None:
        pause = 0.5
        while not await self._taken(webhook):
            await asyncio.sleep(pause * self._random.uniform(0.5, 1))
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
        self.accepted += 1

    async def _taken(self, webhook: Webhook) -> bool:
        workspace = self._workspaces[webhook.workspace]
        address = self._random.choice(self._addresses)
        headers = {livestorm.HEADER: livestorm.sign(workspace.secret, webhook.body), "Content-Type": "application/json"}
        async with self._gate:
            try:
                async with self._http.post(f"http://{address}/livestorm/{workspace.id}", data=webhook.body, headers=headers) as answer:
                    await answer.read()
                    status = str(answer.status)
            except (aiohttp.ClientError, TimeoutError) as error:
                status = "no answer in time" if isinstance(error, TimeoutError) else "connection refused or cut"
        self.answers[f"answered {status}" if status.isdigit() else status] += 1
        return status == "202"


async def _says(part: Part, pattern: str) -> None:
    assert part.told(pattern) is not None, f"{part.name} never said {pattern}"


def _lanes(lag: Any) -> str:
    told = Counter(f"{lane['stage']} {lane['state']} {(lane['cause'] or '')[:60]}" for lane in lag["lanes"])
    stages = " ".join(f"{stage['stage']}={stage['unfinished']}" for stage in lag["stages"])
    return f"{stages} {dict(told) if told else ''}"


async def _records(org: Org) -> dict[str, list[dict[str, Any]]]:
    return {name: await org.records(name, deleted=True) for name in truth.OBJECTS}


async def _log(house: House) -> dict[str, list[Heard]]:
    """What the topics hold, from their start to their present end."""
    names = (*truth.CHAIN, "dead-letters")
    log: dict[str, list[Heard]] = {name: [] for name in names}
    async with AIOKafkaConsumer(bootstrap_servers=house.bootstrap, enable_auto_commit=False, auto_offset_reset="none") as consumer:
        places = [TopicPartition(f"{house.prefix}.{name}", number) for name in names for number in range(PARTITIONS)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        for place in places:
            consumer.seek(place, 0)
        while any([await consumer.position(place) < ends[place] for place in places]):
            for place, found in (await consumer.getmany(timeout_ms=500)).items():
                log[place.topic.removeprefix(f"{house.prefix}.")] += [watching.heard(record, house.prefix) for record in found]
    return log
