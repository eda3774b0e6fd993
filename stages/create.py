"""create: makes and updates what a message is about: a person's Contact or Lead, a session's Campaign, a company's Account."""

from collections.abc import Callable, Sequence

from pipeline.outcomes import Batch, Outcome
from schemas.messages import Company, Registration, Session
from stages import verdicts
from stages.accounts import Accounts
from stages.campaigns import Campaigns
from stages.registrants import Registrants
from stages.rows import Tables
from stages.salesforce.door import Orgs
from stages.verdicts import Verdicts

SESSION_WAIT_SECONDS = 86_400.0


class Create:
    """The step. `clock` gives Unix seconds; `worker` names this process, as in Match; `session_wait_seconds` as TURNOUT_SESSION_WAIT_SECONDS."""

    def __init__(
        self,
        orgs: Orgs,
        tables: Tables,
        clock: Callable[[], float],
        worker: str,
        session_wait_seconds: float | None = SESSION_WAIT_SECONDS,
    ) -> None:
        self._tables = tables
        self._campaigns = Campaigns(orgs, tables, clock, session_wait_seconds)
        self._accounts = Accounts(orgs, tables, clock)
        self._registrants = Registrants(orgs, tables, clock, worker)

    async def __call__(self, batch: Batch) -> Sequence[Outcome]:
        made = Verdicts(batch)
        org = verdicts.org_of(made, self._tables)
        if org is not None:
            subjects = verdicts.read(made)
            await self._campaigns(made, org, [(message, one) for message, one in subjects if isinstance(one, Session)])
            await self._accounts(made, org, [(message, one) for message, one in subjects if isinstance(one, Company)])
            await self._registrants(made, org, [(message, one) for message, one in subjects if isinstance(one, Registration)])
        return made.outcomes()
