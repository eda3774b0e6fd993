"""Gets access tokens, one login at a time per org, and keeps a rotated refresh token before it is used.

Never logs a secret, and never repeats a login that Salesforce counts against a user's password.
"""

import dataclasses
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import anyio
import structlog

from pipeline.errors import TransportError
from schemas.messages import Cause
from schemas.settings import Org
from stages.salesforce import wire
from stages.salesforce.causes import ORG, TRANSIENT
from stages.salesforce.door import Trouble
from stages.salesforce.errors import OrgUnavailable
from stages.salesforce.ids import full_id, is_id
from stages.salesforce.logins import BUSY, EXPIRED, REFUSED, Token, login_form, login_trouble, login_url_problem, token_of

log = structlog.get_logger()

NEVER: Final = float("inf")
OTHER_ORGANIZATION: Final = "other_organization"


@dataclasses.dataclass(frozen=True, slots=True)
class LoginTimes:
    """Seconds between logins that are refused, and bounds of one login."""

    probe: float = 60.0
    """After each of the first five refusals."""
    later_probe: float = 300.0
    busy: tuple[float, float] = (1.0, 5.0)
    """Wait while another login with the token is under way, random between the two."""
    tries: int = 4
    connect: float = 5.0
    read: float = 10.0
    total: float = 15.0


class OrgRow(Protocol):
    """The org's row in the table `orgs`, its secrets open. Neither write counts up the row's `revision`."""

    def read(self) -> Org:
        """As it is now; raises UnknownOrg."""

    async def store_refresh_token(self, refresh_token: str) -> None:
        """Returns once the new token is durable."""

    async def store_organization(self, organization_id: str) -> None:
        """Keeps the id of the org that the login led to at first."""


Run = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs blocking work in one of the process's threads for Salesforce."""
Post = Callable[[str, Mapping[str, str]], tuple[int, Any]]
"""Sends a form to a token endpoint: status, and the body as JSON or text. Raises one of wire.NETWORK_ERRORS."""


def post_form(times: LoginTimes) -> Post:
    """Posts over `requests`, without following redirects: a form full of secrets goes to the host that was named, or nowhere."""

    def post(url: str, form: Mapping[str, str]) -> tuple[int, Any]:
        bounds = wire.CallTimes(times.connect, times.read, times.total)
        with wire.session(1) as session, wire.flight(None, bounds):
            response = session.post(url, data=dict(form), timeout=wire.timeout(bounds), allow_redirects=False)
            try:
                return response.status_code, response.json()
            except ValueError:
                return response.status_code, response.text

    return post


@dataclasses.dataclass(frozen=True, slots=True)
class _Refusal:
    """A login that was refused: by whom it was tried, and when the next one may be."""

    trouble: Trouble
    credentials: tuple[str, ...]
    until: float
    count: int


class TokenDoor:
    """One org's tokens. Each method raises OrgUnavailable where there is none to be had."""

    def __init__(
        self,
        row: OrgRow,
        run: Run,
        *,
        post: Post | None = None,
        times: LoginTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        observe: Callable[[str, float], None] = lambda outcome, seconds: None,
    ) -> None:
        self._row, self._run, self._clock, self._now, self._observe = row, run, clock, now, observe
        self._times = times or LoginTimes()
        self._post = post or post_form(self._times)
        self._lock = anyio.Lock()
        self._token: Token | None = None
        self._refusal: _Refusal | None = None
        self._attempts = 0
        self._unstored: str | None = None

    async def current(self) -> Token:
        """The token in use, or a new one."""
        return self._token or await self.renew(None)

    async def renew(self, dead: Token | None) -> Token:
        """A token other than the dead one. Callers that come together share one login and its outcome."""
        seen = self._attempts
        async with self._lock:
            if self._token is not None and self._token is not dead:
                return self._token
            if seen != self._attempts and self._refusal is not None:
                raise OrgUnavailable(self._refusal.trouble)
            self._token = None
            self._hold_back()
            self._attempts += 1
            self._token = await self._log_in()
            self._refusal = None
            return self._token

    def forget(self, dead: Token) -> None:
        """The next call gets another token than this one."""
        if self._token is dead:
            self._token = None

    def forgive(self) -> None:
        """The next login may be tried at once: the settings were applied again, or a check has succeeded."""
        self._refusal = None

    def _hold_back(self) -> None:
        """Raises while a login would only be refused again; other credentials than the refused ones may be tried at once."""
        refusal = self._refusal
        if refusal is None or refusal.credentials != _credentials(self._row.read()):
            return
        wait = refusal.until - self._clock()
        if wait > 0:
            raise OrgUnavailable(dataclasses.replace(refusal.trouble, retry_after_seconds=_finite(wait)))

    async def _log_in(self) -> Token:
        await self._keep_rotated()
        used = self._row.read()
        for attempt in range(self._times.tries):
            outcome = await self._ask(used)
            if isinstance(outcome, Token):
                return await self._same_organization(outcome)
            newer = await self._newer(used, outcome) if attempt + 1 < self._times.tries else None
            if newer is None:
                raise self._refused(outcome, used)
            used = newer
        raise AssertionError("the last try returns or raises")

    async def _newer(self, used: Org, trouble: Trouble) -> Org | None:
        """With what to try again after a refusal; None where that makes no sense.

        Another worker may have used the refresh token a moment ago: its new one is then in the row, or about to be.
        """
        if trouble.cause.code not in (BUSY, EXPIRED):
            return None
        row = self._row.read()
        if row.refresh_token == used.refresh_token:
            await anyio.sleep(random.uniform(*self._times.busy))
            row = self._row.read()
        changed = row.refresh_token != used.refresh_token
        return row if changed or trouble.cause.code == BUSY else None

    async def _ask(self, org: Org) -> Token | Trouble:
        problem = login_url_problem(org.login_url, org.flow)
        if problem is not None:
            return Trouble(kind=ORG, cause=problem)
        form = login_form(org, self._now())
        url = f"{org.login_url.rstrip('/')}/services/oauth2/token"
        began = self._clock()
        try:
            status, body = await self._run(lambda: self._post(url, form))
        except wire.NETWORK_ERRORS as error:
            self._observe("unavailable", self._clock() - began)
            message = f"The login host does not answer ({type(error).__name__})"
            hint = "Salesforce is down, the network is, or login_url is wrong"
            return Trouble(kind=TRANSIENT, cause=Cause(code="login_host_unreachable", message=message, hint=hint))
        self._observe("ok" if status == 200 else "refused", self._clock() - began)
        if status != 200 or not isinstance(body, Mapping):
            return login_trouble(status, body)
        token = token_of(body, org)
        rotated = body.get("refresh_token")
        if org.flow == "refresh-token" and isinstance(rotated, str) and rotated not in ("", org.refresh_token):
            self._unstored = rotated
            await self._keep_rotated()
        return token

    async def _keep_rotated(self) -> None:
        """Makes a rotated refresh token durable. Until that has worked nothing is done with what came with it: the old one is dead."""
        if self._unstored is not None:
            await self._durable(self._row.store_refresh_token(self._unstored))
            self._unstored = None

    async def _durable(self, write: Awaitable[None]) -> None:
        try:
            await write
        except TransportError as error:
            message = "What the login brought could not be kept in the settings table"
            cause = Cause(code="settings_not_durable", message=message, hint="Kafka does not take writes: mend it, all goes on by itself")
            raise OrgUnavailable(Trouble(kind=TRANSIENT, cause=cause)) from error

    async def _same_organization(self, token: Token) -> Token:
        org = self._row.read()
        if not org.organization_id:
            await self._durable(self._row.store_organization(token.organization_id))
        elif not is_id(org.organization_id) or full_id(org.organization_id) != token.organization_id:
            cause = Cause(
                code=OTHER_ORGANIZATION,
                message=f"The login leads to organization {token.organization_id}; before it was {org.organization_id}",
                hint=f"Correct the org's settings; or, if this is the right org now, say so with `turnout check {org.id} --accept-organization`",
            )
            raise self._refused(Trouble(kind=ORG, cause=cause), org)
        return token

    def _refused(self, trouble: Trouble, used: Org) -> OrgUnavailable:
        """Remembers a refusal, so that a waiting org costs few logins and locks nobody out."""
        credentials = _credentials(used)
        before = self._refusal
        count = before.count + 1 if before is not None and before.credentials == credentials else 1
        wait = self._wait(trouble, used, count)
        self._refusal = _Refusal(trouble, credentials, self._clock() + wait, count)
        log.warning("salesforce_login_refused", org=used.id, code=trouble.cause.code, next_try_seconds=_finite(wait))
        return OrgUnavailable(dataclasses.replace(trouble, retry_after_seconds=_finite(wait)))

    def _wait(self, trouble: Trouble, used: Org, count: int) -> float:
        if trouble.kind == TRANSIENT:
            return trouble.retry_after_seconds or 0.0
        if used.flow == "username-password" and trouble.cause.code == REFUSED:
            return NEVER
        return self._times.probe if count <= 5 else self._times.later_probe


def _finite(seconds: float) -> float | None:
    return None if seconds == NEVER else seconds


def _credentials(org: Org) -> tuple[str, ...]:
    secrets = (org.client_id, org.client_secret, org.username, org.password, org.private_key, org.refresh_token)
    return (org.login_url, org.flow, org.organization_id, str(org.revision), *secrets)
