"""Facts about tokens: one login at a time, nothing rotated is lost, nobody is locked out."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import msgspec
import pytest
import requests

from pipeline.errors import WriteError
from schemas.settings import Flow, Org
from stages.salesforce.errors import OrgUnavailable
from stages.salesforce.tokens import LoginTimes, TokenDoor

ORGANIZATION = "00D000000000001EAA"
EXPIRED = (400, {"error": "invalid_grant", "error_description": "expired access/refresh token"})
BUSY = (400, {"error": "invalid_grant", "error_description": "token request is already being processed"})
WRONG = (400, {"error": "invalid_grant", "error_description": "authentication failure"})
QUICK = LoginTimes(busy=(0.0, 0.0))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Row:
    """The org's row as two workers share it; `writes` are the durable ones."""

    def __init__(self, flow: Flow = "client-credentials", organization_id: str = ORGANIZATION) -> None:
        self.org = Org(
            id="acme", login_url="https://acme.my.salesforce.com", flow=flow, client_id="key", client_secret="secret",
            username="u", password="p", refresh_token="r1", organization_id=organization_id,
        )  # fmt: skip
        self.writes: list[str] = []
        self.durable = True

    def read(self) -> Org:
        return self.org

    async def store_refresh_token(self, refresh_token: str) -> None:
        if not self.durable:
            raise WriteError("not acknowledged")
        self.writes.append(refresh_token)
        self.org = msgspec.structs.replace(self.org, refresh_token=refresh_token)

    async def store_organization(self, organization_id: str) -> None:
        self.writes.append(organization_id)
        self.org = msgspec.structs.replace(self.org, organization_id=organization_id)


class Endpoint:
    """A token endpoint. `rotates`: it takes each refresh token once, as an org with rotation does. `answers` come before that."""

    def __init__(self, *, rotates: bool = False, organization: str = ORGANIZATION) -> None:
        self.answers: list[tuple[int, Any] | Exception] = []
        self.forms: list[Mapping[str, str]] = []
        self.rotates, self.organization = rotates, organization
        self.live = "r1"
        self.given = 0

    def __call__(self, url: str, form: Mapping[str, str]) -> tuple[int, Any]:
        assert url == "https://acme.my.salesforce.com/services/oauth2/token"
        self.forms.append(form)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if self.rotates and form["refresh_token"] != self.live:
            return EXPIRED
        self.given += 1
        body = {
            "access_token": f"00D!{self.given}",
            "instance_url": "https://acme.my.salesforce.com",
            "id": f"https://login.salesforce.com/id/{self.organization}/005000000000001AAA",
        }
        if self.rotates:
            self.live = body["refresh_token"] = f"r{self.given + 1}"
        return 200, body


def door(row: Row, endpoint: Endpoint, clock: Clock | None = None) -> TokenDoor:
    async def run(work: Callable[[], Any]) -> Any:
        await anyio.lowlevel.checkpoint()
        return work()

    return TokenDoor(row, run, post=endpoint, times=QUICK, clock=clock or Clock())


async def test_those_who_need_a_token_together_share_one_login() -> None:
    endpoint = Endpoint()
    tokens = door(Row(), endpoint)
    got: list[str] = []

    async def get() -> None:
        got.append((await tokens.current()).access_token)

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(get)
    assert got == ["00D!1"] * 10


async def test_a_dead_token_is_renewed_once_for_all_who_met_it() -> None:
    tokens = door(Row(), Endpoint())
    dead = await tokens.current()
    first = await tokens.renew(dead)
    assert first.access_token == "00D!2"
    assert await tokens.renew(dead) is first


async def test_a_failed_login_is_shared_by_those_who_waited_for_it() -> None:
    endpoint = Endpoint()
    endpoint.answers = [requests.ConnectionError("down")]
    tokens = door(Row(), endpoint)
    failures: list[str] = []

    async def get() -> None:
        try:
            await tokens.current()
        except OrgUnavailable as error:
            failures.append(error.trouble.cause.code)

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(get)
    assert failures == ["login_host_unreachable"] * 10
    assert len(endpoint.forms) == 1


async def test_a_rotated_refresh_token_is_durable_before_it_is_used() -> None:
    row, endpoint = Row("refresh-token"), Endpoint(rotates=True)
    tokens = door(row, endpoint)
    row.durable = False
    with pytest.raises(OrgUnavailable) as raised:
        await tokens.current()
    assert raised.value.trouble.cause.code == "settings_not_durable"
    row.durable = True
    await tokens.current()
    assert row.writes == ["r2", "r3"]
    assert [form["refresh_token"] for form in endpoint.forms] == ["r1", "r2"]


async def test_a_restart_between_two_renewals_goes_on_with_the_stored_token() -> None:
    row, endpoint = Row("refresh-token"), Endpoint(rotates=True)
    for _ in range(3):
        await door(row, endpoint).current()
    assert row.writes == ["r2", "r3", "r4"]


async def test_a_lost_race_against_another_worker_is_no_revoked_token() -> None:
    row, endpoint = Row("refresh-token"), Endpoint(rotates=True)
    mine = door(row, endpoint)
    used = row.org

    class Late(Row):
        """This worker's table is a moment behind."""

        reads = 0

        def read(self) -> Org:
            Late.reads += 1
            return used if Late.reads <= 2 else row.org

    late = Late("refresh-token")
    late.store_refresh_token = row.store_refresh_token  # type: ignore[method-assign]
    await mine.current()
    assert (await door(late, endpoint).current()).access_token == "00D!2"
    assert endpoint.live == row.org.refresh_token


async def test_a_withdrawn_token_is_told_after_the_row_was_read_again() -> None:
    endpoint = Endpoint()
    endpoint.answers = [EXPIRED] * 10
    tokens = door(Row("refresh-token"), endpoint)
    with pytest.raises(OrgUnavailable) as raised:
        await tokens.current()
    assert raised.value.trouble.cause.code == "refresh_token_expired"
    assert len(endpoint.forms) == 1


async def test_a_login_that_is_under_way_elsewhere_is_waited_for() -> None:
    endpoint = Endpoint()
    endpoint.answers = [BUSY, BUSY]
    assert (await door(Row("refresh-token"), endpoint).current()).access_token == "00D!1"
    assert len(endpoint.forms) == 3


async def test_a_login_that_stays_under_way_ends_in_a_short_wait() -> None:
    endpoint = Endpoint()
    endpoint.answers = [BUSY] * 10
    with pytest.raises(OrgUnavailable) as raised:
        await door(Row("refresh-token"), endpoint).current()
    assert raised.value.trouble.kind == "transient"
    assert len(endpoint.forms) == QUICK.tries


async def test_a_refused_password_is_never_tried_again_by_itself() -> None:
    clock, row, endpoint = Clock(), Row("username-password"), Endpoint()
    endpoint.answers = [WRONG]
    tokens = door(row, endpoint, clock)
    for _ in range(5):
        with pytest.raises(OrgUnavailable) as raised:
            await tokens.current()
        assert raised.value.trouble.retry_after_seconds is None
        clock.now += 1e6
    assert len(endpoint.forms) == 1
    row.org = msgspec.structs.replace(row.org, revision=2)
    await tokens.current()


async def test_a_check_that_succeeded_lets_a_password_be_tried_again() -> None:
    endpoint = Endpoint()
    endpoint.answers = [WRONG]
    tokens = door(Row("username-password"), endpoint)
    with pytest.raises(OrgUnavailable):
        await tokens.current()
    tokens.forgive()
    await tokens.current()


async def test_other_flows_are_probed_each_minute_and_later_every_five() -> None:
    clock, endpoint = Clock(), Endpoint()
    endpoint.answers = [EXPIRED] * 7
    tokens = door(Row("refresh-token"), endpoint, clock)
    logins_at, start = [], clock.now
    for second in range(0, 1300, 10):
        clock.now = start + second
        before = len(endpoint.forms)
        with contextlib.suppress(OrgUnavailable):
            await tokens.current()
        if len(endpoint.forms) > before:
            logins_at.append(second)
    assert logins_at == [0, 60, 120, 180, 240, 300, 600, 900]


async def test_new_credentials_are_tried_at_once() -> None:
    row, endpoint = Row(), Endpoint()
    endpoint.answers = [(400, {"error": "invalid_client", "error_description": "invalid client credentials"})]
    tokens = door(row, endpoint)
    with pytest.raises(OrgUnavailable):
        await tokens.current()
    row.org = msgspec.structs.replace(row.org, client_secret="new")
    await tokens.current()


async def test_the_organization_of_the_first_login_is_kept() -> None:
    row = Row(organization_id="")
    await door(row, Endpoint()).current()
    assert row.writes == [ORGANIZATION]


async def test_another_organization_stops_the_org_until_someone_says_that_it_is_right() -> None:
    row, endpoint = Row(organization_id="00D000000000001"), Endpoint(organization="00D000000000002AAA")
    tokens = door(row, endpoint)
    for _ in range(3):
        with pytest.raises(OrgUnavailable) as raised:
            await tokens.current()
        assert (raised.value.trouble.cause.code, raised.value.trouble.kind) == ("other_organization", "org")
    assert len(endpoint.forms) == 1
    row.org = msgspec.structs.replace(row.org, organization_id="00D000000000002")
    await tokens.current()


async def test_the_address_of_the_browser_is_refused_without_a_login() -> None:
    row, endpoint = Row(), Endpoint()
    row.org = msgspec.structs.replace(row.org, login_url="https://acme.lightning.force.com/")
    with pytest.raises(OrgUnavailable) as raised:
        await door(row, endpoint).current()
    assert "https://acme.my.salesforce.com" in raised.value.trouble.cause.hint
    assert endpoint.forms == []


async def test_no_secret_is_in_what_is_raised() -> None:
    endpoint = Endpoint()
    endpoint.answers = [WRONG]
    with pytest.raises(OrgUnavailable) as raised:
        await door(Row("username-password"), endpoint).current()
    assert "secret" not in repr(raised.value.trouble)
