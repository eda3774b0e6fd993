"""One soak from its start to its verdict: the whole product, a worker of each stage, on a broker and sandbox orgs that are switched off and on."""

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import msgspec

from pipeline.records import Record
from schemas.messages import Synced
from tests.bench.ground import Ground, ground
from tests.bench.stand import Stand
from tests.bench.usage import cpu_seconds, machine_seconds, resident_mib
from tests.soak import gauge, plan, truth
from tests.soak.gauge import Row, Sample
from tests.soak.people import People
from tests.soak.plan import CAUGHT_UP, DOWN, Plan, Trouble, Window
from tests.soak.report import Report
from tests.soak.truth import Difference, Passed

SAMPLE_SECONDS: Final = 0.5
STEADY_SECONDS: Final = 3.0
"""Before anything counts, people come evenly, and no more than those of so many seconds are on their way …"""
LONGEST_RAMP_SECONDS: Final = 60.0
"""… or so long has gone by: a machine that is busy otherwise may not get there."""
WARMED_SECONDS: Final = 120.0
LOOK_SECONDS: Final = 1.0
STALLED_SECONDS: Final = 240.0
"""Longest time in which nobody more comes through before it is said that somebody never will: a probe's wait, and a backlog's batch."""
FETCH_RECORDS: Final = 5_000

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """What is asked for. `rate`: people a second, of all orgs together."""

    seed: int
    minutes: float
    broker: str
    folder: pathlib.Path
    orgs: int = 40
    rate: float = 30.0


async def play(call: Call, say: Say) -> Report:
    """The whole run. Raises ProcessError, ApacheError, BenchError where something could not be brought up at all."""
    async with ground(orgs=call.orgs, broker=call.broker, folder=call.folder) as place:
        stands = await place.open(call.orgs)
        await place.announce(stands)
        return await _Run(call, say, place, stands).whole()


class _Run:
    def __init__(self, call: Call, say: Say, place: Ground, stands: Sequence[Stand]) -> None:
        self._call, self._say, self._place = call, say, place
        self._plan: Plan = plan.make(call.seed, call.minutes, call.orgs)
        self._people = [People(stand, call.seed) for stand in stands]
        self._well = [people for number, people in enumerate(self._people) if number not in self._plan.failing_orgs]
        self._samples: list[Sample] = []
        self._differences: list[Difference] = []
        self._down: dict[int, str] = {}
        """By number of an org: the fault of the outage of all."""
        self._forever: dict[int, str] = {}
        self._gone: set[str] = set()

    async def whole(self) -> Report:
        await self._warmed()
        ends: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        async with self._sampled(), asyncio.TaskGroup() as tasks:
            every = self._call.orgs / self._call.rate
            coming = [
                tasks.create_task(people.come(every, lambda: not ends.done() or time.monotonic() < ends.result()))
                for people in self._people
            ]
            await self._steady()
            began, start = time.monotonic(), time.time()
            ends.set_result(began + self._plan.seconds)
            await asyncio.gather(self._switched(began), self._watched(began), *coming)
            await self._caught_up(self._well, "the orgs that are well again")
            caught_up = time.monotonic() - began
            hits = await self._failed_for_ever()
            await self._mended()
            await self._caught_up(self._people, "all orgs")
        windows = [*self._plan.windows(), Window(CAUGHT_UP, 0, self._plan.seconds, max(caught_up, self._plan.seconds + 2 * SAMPLE_SECONDS))]
        rows = self._rows(windows, start)
        await self._judge()
        return self._report(rows, hits, round(time.monotonic() - began, 1))

    # Before

    async def _warmed(self) -> None:
        """One person in each org first: every worker logs in to each and asks what its objects are like, once for all that follow."""
        for people in self._people:
            await people.one()
        for people in self._people:
            await self._place.outcomes.people(people.stand.workspace, 1, WARMED_SECONDS)
        self._say(f"{len(self._people)} orgs are known to every worker")

    async def _steady(self) -> None:
        began = time.monotonic()
        await asyncio.sleep(STEADY_SECONDS)
        while _taken(self._people) - self._through(self._people) > STEADY_SECONDS * self._call.rate:
            if time.monotonic() - began > LONGEST_RAMP_SECONDS:
                self._say("the product does not keep up yet: throughput will tell more of the machine than of it")
                return
            await asyncio.sleep(LOOK_SECONDS)

    # While it goes on

    async def _switched(self, began: float) -> None:
        """Turns the orgs off and on as planned."""
        plan, orgs = self._plan, [people.stand.org for people in self._people]
        await _until(began + plan.fails_at)
        for number, trouble in plan.failing_orgs.items():
            self._forever[number] = await self._fail(number, trouble)
        self._say(f"for ever: {', '.join(f'{orgs[number].id} {trouble.name}' for number, trouble in plan.failing_orgs.items())}")
        await _until(began + plan.down_at)
        faults = await asyncio.gather(*(self._fail(number, DOWN) for number in range(len(orgs))))
        self._down = dict(enumerate(faults))
        self._say("all orgs are down")
        for number, at in sorted(plan.back_at.items(), key=lambda item: item[1]):
            await _until(began + at)
            await orgs[number].drop_fault(self._down.pop(number))
        for number, fault in self._down.items():
            await orgs[number].drop_fault(fault)
        self._say("all orgs are back, but for those that fail for ever")

    async def _fail(self, number: int, trouble: Trouble) -> str:
        org = self._people[number].stand.org
        fault = await org.fault(trouble.fault, message=trouble.message, resource=trouble.resource)
        if trouble.expires_tokens:
            await org.expire_tokens()
        return fault

    async def _watched(self, began: float) -> None:
        """Progress, window by window."""
        for window in self._plan.windows():
            await _until(began + window.end)
            latest = self._samples[-1].mib if self._samples else {}
            memory = ", ".join(f"{part} {mib:.0f}" for part, mib in latest.items())
            self._say(
                f"{window.stretch}, {window.number + 1}: {self._through(self._people):,} of {_taken(self._people):,} came through; MiB: {memory}"
            )

    @contextlib.asynccontextmanager
    async def _sampled(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._sample())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _sample(self) -> None:
        while True:
            alive = {part: child for part, child in self._place.children.items() if child.code is None}
            for part in self._place.children.keys() - alive.keys() - self._gone:
                self._gone.add(part)
                self._differences.append(Difference("process", part, "ended by itself", None, self._place.children[part].code))
            if not self._gone:
                pids = {part: child.pid for part, child in alive.items()}
                mib, cpu = ({part: read(pid) for part, pid in pids.items()} for read in (resident_mib, cpu_seconds))
                self._samples.append(Sample(time.time(), mib, cpu, *machine_seconds()))
            await asyncio.sleep(SAMPLE_SECONDS)

    # After

    async def _caught_up(self, people: Sequence[People], who: str) -> None:
        """Until everyone of these is through; says so where it does not come to that."""
        wanted, began = _taken(people), time.monotonic()
        known, moved = -1, began
        while (through := self._through(people)) < wanted:
            if through != known:
                known, moved = through, time.monotonic()
            if time.monotonic() - moved > STALLED_SECONDS:
                lag = await asyncio.to_thread(self._place.house.document, "lag")
                self._differences.append(Difference("run", who, "do not come through", wanted, [through, json.dumps(lag)[:3000]]))
                return
            await asyncio.sleep(LOOK_SECONDS)
        self._say(f"{wanted:,} people of {who} are through after {time.monotonic() - began:.0f} s more")

    async def _failed_for_ever(self) -> dict[str, int]:
        """By org and trouble: how many calls it struck. Nobody may have come through there since."""
        hits = {}
        for number, trouble in self._plan.failing_orgs.items():
            people = self._people[number]
            struck = await people.stand.org.hits(self._forever[number])
            hits[f"{people.stand.org.id} {trouble.name}"] = struck
            if not struck or self._through([people]) == _taken([people]):
                self._differences.append(Difference(people.stand.org.id, "all", "the org did not fail", trouble.name, struck))
        return hits

    async def _mended(self) -> None:
        """Also the others, in the end, as an admin does it: what waited for them must not have suffered."""
        for number in self._plan.failing_orgs:
            org = self._people[number].stand.org
            await org.heal()
            await asyncio.to_thread(self._place.house.document, "check", org.id)

    def _through(self, people: Sequence[People]) -> int:
        return sum(len(self._place.outcomes.of[one.stand.workspace].at_ms) for one in people)

    def _rows(self, windows: Sequence[Window], start: float) -> list[Row]:
        came = [at for people in self._well for at in people.taken_ms]
        found = (self._place.outcomes.of[people.stand.workspace] for people in self._well)
        done = [pair for one in found for pair in zip(one.at_ms, one.delays(), strict=True)]
        return [gauge.row(window, start, came, done, self._samples) for window in windows]

    async def _judge(self) -> None:
        taken = {people.stand.workspace: len(people.taken_ms) for people in self._people}
        received = [_passed(record) for record in await self._log("received") if _is_person(record)]
        synced = [_passed(record, finished=True) for record in await self._log("synced") if _is_person(record)]
        self._differences += truth.of_log(taken, received, synced, len(await self._log("dead-letters")))
        for people in self._people:
            org = people.stand.org
            self._differences += truth.of_org(org.id, people.told, await org.records("Lead"), await org.records("CampaignMember"))
        self._say(f"{len(received):,} people in the log and {len(self._people)} orgs were looked at")

    async def _log(self, topic: str) -> list[Record]:
        """What a topic holds, in the order of each partition."""
        bounds = await self._place.transport.cluster.offsets(topic)
        reader = self._place.transport.reader()
        await reader.start()
        try:
            reader.assign({(topic, number): first for number, (first, _) in bounds.items()})
            found: list[Record] = []
            while any(reader.position(topic, number) < end for number, (_, end) in bounds.items()):
                found += await reader.fetch(0.5, FETCH_RECORDS)
        finally:
            await reader.stop()
        return found

    def _report(self, rows: list[Row], hits: dict[str, int], seconds: float) -> Report:
        return Report(
            seed=self._call.seed,
            minutes=self._call.minutes,
            broker=self._call.broker,
            seconds=seconds,
            orgs=len(self._people),
            people=sum(len(people.told) for people in self._people),
            registrations=_taken(self._people),
            posted_again=sum(people.repeated for people in self._people),
            failing=hits,
            rows=rows,
            limits=list(gauge.limits(rows)),
            differences=self._differences,
        )


def _taken(people: Sequence[People]) -> int:
    return sum(len(one.taken_ms) for one in people)


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


_decoder = msgspec.json.Decoder(Synced)


def _is_person(record: Record) -> bool:
    return dict(record.headers)["kind"] == b"registration"


def _passed(record: Record, *, finished: bool = False) -> Passed:
    told = {name: value.decode() for name, value in record.headers}
    outcome = _decoder.decode(record.value or b"").outcome if finished else ""
    return Passed(told["workspace"], told["session"], (record.key or b"").decode(), told["id"], outcome)
