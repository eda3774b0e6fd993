"""Facts about the registry: one door an org, made anew when its settings change."""

from collections.abc import Iterator

import msgspec
import pytest

from schemas.settings import Org
from stages.errors import TurnoutError
from stages.salesforce.allowance import Usage
from stages.salesforce.errors import OrgUnavailable, UnknownOrg
from stages.salesforce.orgs import Keep, OrgRegistry, TableRow


class Rows:
    """The table `orgs` in memory."""

    def __init__(self, *orgs: str) -> None:
        self.rows = {org: encoded(org) for org in orgs}

    def get(self, key: str) -> bytes | None:
        return self.rows.get(key)


def encoded(org: str, **changes: object) -> bytes:
    row = Org(id=org, login_url="http://127.0.0.1:1", flow="client-credentials", client_id="c", client_secret="sealed:word")
    return msgspec.json.encode(msgspec.structs.replace(row, **changes))


def opened(secret: str) -> str:
    return secret.removeprefix("sealed:")


async def unkept(org: str, value: str) -> None:
    raise AssertionError("nothing is stored here")


KEEP = Keep(unkept, unkept)


@pytest.fixture
def table() -> Rows:
    return Rows("a", "b", "c")


@pytest.fixture
def registry(table: Rows) -> Iterator[OrgRegistry]:
    made = OrgRegistry(table, opened, KEEP, doors=2)
    yield made
    made.close()


def test_an_org_that_no_row_tells_of_is_unknown(registry: OrgRegistry) -> None:
    with pytest.raises(UnknownOrg):
        registry.door("z")


def test_one_door_is_kept_while_the_settings_stay(registry: OrgRegistry) -> None:
    assert registry.door("a") is registry.door("a")


def test_changed_settings_make_a_new_door(registry: OrgRegistry, table: Rows) -> None:
    before = registry.door("a")
    table.rows["a"] = encoded("a", api_version="64.0", revision=2)
    assert registry.door("a") is not before
    assert registry.door("a").api_version == "64.0"


def test_what_a_login_stores_ends_no_session(registry: OrgRegistry, table: Rows) -> None:
    before = registry.door("a")
    table.rows["a"] = encoded("a", refresh_token="sealed:next", refresh_token_applied="sealed:first", organization_id="00D000000000001EAA")
    assert registry.door("a") is before


def test_the_doors_unused_longest_are_closed(registry: OrgRegistry) -> None:
    a, b = registry.door("a"), registry.door("b")
    assert registry.door("a") is a
    registry.door("c")
    assert registry.door("a") is a
    assert registry.door("b") is not b


def test_a_door_that_was_closed_for_others_opens_with_the_same_token(registry: OrgRegistry) -> None:
    tokens = registry.door("a").tokens
    registry.door("b")
    registry.door("c")
    assert registry.door("a").tokens is tokens


def test_what_is_known_of_an_orgs_health_outlives_its_door(registry: OrgRegistry, table: Rows) -> None:
    door = registry.door("a")
    door.health.gate.failed()
    door.health.allowance.tell(Usage(10, 100))
    table.rows["a"] = encoded("a", revision=2)
    assert registry.door("a").health.gate.doubt
    assert registry.calls_left("a") == 90
    assert registry.calls_left("b") is None


def test_changed_settings_let_the_next_call_out_past_the_reserve(registry: OrgRegistry, table: Rows) -> None:
    allowance = registry.door("a").health.allowance
    allowance.exhausted()
    table.rows["a"] = encoded("a", revision=2)
    registry.door("a")
    assert allowance.trouble(0.2) is None


def test_an_org_that_was_taken_out_has_no_door(registry: OrgRegistry, table: Rows) -> None:
    registry.door("a")
    del table.rows["a"]
    with pytest.raises(UnknownOrg):
        registry.door("a")


def test_secrets_are_opened_only_to_be_used(table: Rows) -> None:
    row = TableRow("a", table, opened, KEEP)
    assert row.raw().client_secret == "sealed:word"
    assert row.read().client_secret == "word"


def test_a_row_or_secret_that_can_not_be_read_is_the_orgs_trouble_and_no_crash(table: Rows) -> None:
    def no_key(secret: str) -> str:
        raise TurnoutError("no key fits")

    with pytest.raises(OrgUnavailable) as raised:
        TableRow("a", table, no_key, KEEP).read()
    assert raised.value.trouble.cause.code == "settings_unreadable"
    table.rows["a"] = b"{"
    with pytest.raises(OrgUnavailable):
        OrgRegistry(table, opened, KEEP).door("a")
