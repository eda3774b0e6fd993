"""match: says who has each registrant's address in the org. Only reads; sessions and companies pass."""

from collections.abc import Callable, Sequence

import msgspec

from pipeline.messages import Message
from pipeline.outcomes import Batch, Emit, Out, Outcome
from schemas.messages import Found, Registration
from schemas.settings import Org, Workspace
from stages import people, verdicts
from stages.rows import Tables
from stages.salesforce.door import Orgs
from stages.salesforce.errors import SalesforceDoorError
from stages.verdicts import Verdicts

OUT = "matched"


class Match:
    """The step. `clock` gives Unix seconds; `worker` names this process, so that create knows the reads of its own."""

    def __init__(self, orgs: Orgs, tables: Tables, clock: Callable[[], float], worker: str) -> None:
        self._orgs, self._tables, self._clock, self._worker = orgs, tables, clock, worker

    async def __call__(self, batch: Batch) -> Sequence[Outcome]:
        made = Verdicts(batch)
        org = verdicts.org_of(made, self._tables)
        if org is not None:
            await self._match(made, org)
        return made.outcomes()

    async def _match(self, made: Verdicts, org: Org) -> None:
        seekers: list[tuple[Message, Registration]] = []
        workspaces: dict[str, Workspace] = {}
        for message, subject in verdicts.read(made):
            if not isinstance(subject, Registration):
                made.give(message, Emit(outs=(Out(OUT, message.value),)))
                continue
            workspace = verdicts.workspace_of(made, message, subject.workspace, self._tables)
            if workspace is not None:
                workspaces[workspace.id] = workspace
                seekers.append((message, subject))
        if seekers:
            try:
                await self._seek(made, org, seekers, workspaces)
            except SalesforceDoorError as error:
                made.fail((message for message, _ in seekers), error)

    async def _seek(
        self, made: Verdicts, org: Org, seekers: Sequence[tuple[Message, Registration]], workspaces: dict[str, Workspace]
    ) -> None:
        read_at = int(self._clock() * 1000)
        addresses = {subject.email: () for _, subject in seekers}
        seen = await people.look(
            self._orgs.door_for(made.batch.org, made.batch.guard), org, addresses, people.wanted(org, workspaces.values())
        )
        for message, subject in seekers:
            subject.found = found(seen.get(subject.email), read_at, self._worker)
            made.give(message, Emit(outs=(Out(OUT, msgspec.json.encode(subject)),)))


def found(sighting: people.Sighting | None, read_at: int, worker: str) -> Found:
    """A sighting as it travels."""
    if sighting is None:
        return Found(read_at=read_at, worker=worker)
    return Found(read_at=read_at, worker=worker, object=sighting.object, record=sighting.record, converted_from=sighting.converted_from)
