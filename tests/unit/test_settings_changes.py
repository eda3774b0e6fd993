"""What applying settings changes, and what it keeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.records import Ack, Outgoing
from schemas.settings import Org, Workspace
from stages.secrets import Secrets, new_key
from stages.settings import changes, logins
from stages.settings.file import Settings, SettingsError, load_file

CIPHER = Secrets([new_key()], "test")
NOW = 1_793_000_000
TEXT = """\
[[org]]
id = "acme-prod"
login_url = "https://acme.my.salesforce.com"
flow = "refresh-token"
client_id = "id"
refresh_token = "first"
[[workspace]]
id = "acme-emea"
org = "acme-prod"
[workspace.livestorm]
organization_id = "0a1b"
webhook_secret = "whsec"
"""


class Tables:
    """Both tables, and a Writer that fills them."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, bytes]] = {"orgs": {}, "workspaces": {}}
        self.sent = 0

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Ack]:
        self.sent += len(records)
        for record in records:
            key = (record.key or b"").decode()
            if record.value is None:
                del self.rows[record.topic][key]
            else:
                self.rows[record.topic][key] = record.value
        return [Ack(0, 0) for _ in records]

    def plan(self, settings: Settings, *, cipher: Secrets = CIPHER, now: int = NOW, **how: bool) -> changes.Plan:
        return changes.plan(settings, self.rows["orgs"], self.rows["workspaces"], cipher, now=now, **how)

    async def apply(self, settings: Settings, *, cipher: Secrets = CIPHER, now: int = NOW, **how: bool) -> list[changes.Change]:
        planned = self.plan(settings, cipher=cipher, now=now, **how)
        await changes.write(planned, self)
        return list(planned.changes)

    @property
    def org(self) -> Org:
        return msgspec.json.decode(self.rows["orgs"]["acme-prod"], type=Org)

    @property
    def workspace(self) -> Workspace:
        return msgspec.json.decode(self.rows["workspaces"]["acme-emea"], type=Workspace)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


@pytest.fixture
def tables() -> Tables:
    return Tables()


def parsed(path: Path, text: str = TEXT) -> Settings:
    path.write_text(text)
    return load_file(path, {})


def kinds(found: Sequence[changes.Change]) -> list[tuple[str, str, str]]:
    return [(change.subject, change.id, change.kind) for change in found]


async def test_the_first_time_everything_is_added_and_secrets_are_encrypted(path: Path, tables: Tables) -> None:
    found = await tables.apply(parsed(path))
    assert kinds(found) == [("org", "acme-prod", "added"), ("workspace", "acme-emea", "added")]
    written = b"".join(tables.rows["orgs"].values()) + b"".join(tables.rows["workspaces"].values())
    assert b"whsec" not in written
    assert b"first" not in written.replace(b"first_name", b"")
    assert CIPHER.decrypt(tables.workspace.livestorm.webhook_secret) == "whsec"
    assert CIPHER.decrypt(tables.org.refresh_token) == "first"
    assert tables.workspace.connected_at == NOW


async def test_applying_again_changes_nothing(path: Path, tables: Tables) -> None:
    await tables.apply(parsed(path))
    before = msgspec.json.encode(tables.rows["workspaces"]), tables.sent
    found = await tables.apply(parsed(path), now=NOW + 99)
    assert {change.kind for change in found} == {"unchanged"}
    assert (msgspec.json.encode(tables.rows["workspaces"]), tables.sent) == before


async def test_a_change_is_told_by_field_and_counted_and_the_first_connection_stays(path: Path, tables: Tables) -> None:
    await tables.apply(parsed(path))
    text = TEXT.replace('"whsec"', '"other"') + '[workspace.mapping.lead]\nRegion__c = "region"\nWebsite = false\n'
    _, change = await tables.apply(parsed(path, text), now=NOW + 99)
    assert change.kind == "changed"
    assert [(field.field, field.before, field.after) for field in change.fields] == [
        ("livestorm.webhook_secret", "***", "***"),
        ("mapping.lead.Region__c", None, {"from": "region"}),
        ("mapping.lead.Website", {"from": "website"}, None),
    ]
    assert (tables.workspace.revision, tables.workspace.connected_at) == (2, NOW)


async def test_what_the_file_leaves_out_stays_unless_pruned(path: Path, tables: Tables) -> None:
    await tables.apply(parsed(path))
    other = TEXT.replace("acme-prod", "other").replace("acme-emea", "elsewhere")
    assert {change.id for change in await tables.apply(parsed(path, other))} == {"other", "elsewhere"}
    assert set(tables.rows["workspaces"]) == {"acme-emea", "elsewhere"}
    pruned = await tables.apply(parsed(path, other), prune=True)
    assert kinds(pruned)[2:] == [("workspace", "acme-emea", "removed"), ("org", "acme-prod", "removed")]
    assert (set(tables.rows["workspaces"]), set(tables.rows["orgs"])) == ({"elsewhere"}, {"other"})


async def test_the_org_may_have_been_applied_before_but_must_be_somewhere(path: Path, tables: Tables) -> None:
    alone = TEXT[TEXT.index("[[workspace]]") :]
    with pytest.raises(SettingsError) as raised:
        await tables.apply(parsed(path, alone))
    assert [(mistake.line, mistake.key) for mistake in raised.value.mistakes] == [(3, "workspace[1].org")]
    assert tables.sent == 0
    await tables.apply(parsed(path, TEXT))
    assert kinds(await tables.apply(parsed(path, alone))) == [("workspace", "acme-emea", "unchanged")]
    with pytest.raises(SettingsError, match='no org "acme-prod" in this file, and --prune removes all others'):
        await tables.apply(parsed(path, alone), prune=True)


async def test_a_rotated_refresh_token_survives_the_same_file(path: Path, tables: Tables) -> None:
    """The org has made the file's token invalid: writing it again would lock Turnout out."""
    await tables.apply(parsed(path))
    for token in ("second", "third"):
        await tables.send([Outgoing("orgs", b"acme-prod", msgspec.json.encode(logins.rotated(tables.org, token, CIPHER)))])
    assert kinds(await tables.apply(parsed(path)))[0] == ("org", "acme-prod", "unchanged")
    await tables.apply(parsed(path, TEXT.replace('client_id = "id"', 'client_id = "new"')))
    assert CIPHER.decrypt(tables.org.refresh_token) == "third"
    await tables.apply(parsed(path, TEXT.replace('"first"', '"given anew"')))
    assert CIPHER.decrypt(tables.org.refresh_token) == "given anew"


async def test_what_a_login_found_out_is_kept(path: Path, tables: Tables) -> None:
    await tables.apply(parsed(path))
    known = msgspec.structs.replace(tables.org, organization_id="00D000000000001AAA")
    await tables.send([Outgoing("orgs", b"acme-prod", msgspec.json.encode(known))])
    await tables.apply(parsed(path, TEXT.replace('client_id = "id"', 'client_id = "new"')))
    assert tables.org.organization_id == "00D000000000001AAA"


async def test_a_flow_that_locks_out_is_tried_again_when_its_settings_are_applied(path: Path, tables: Tables) -> None:
    text = TEXT.replace("refresh-token", "username-password").replace("refresh_token", "password")
    text = text.replace('client_id = "id"', 'client_id = "id"\nclient_secret = "s"\nusername = "u"')
    await tables.apply(parsed(path, text))
    found = await tables.apply(parsed(path, text))
    assert kinds(found)[0] == ("org", "acme-prod", "unchanged")
    assert tables.org.revision == 2


async def test_secrets_that_no_key_fits_are_written_anew(path: Path, tables: Tables) -> None:
    await tables.apply(parsed(path))
    lost = Secrets([new_key()], "other")
    assert {change.kind for change in await tables.apply(parsed(path), cipher=lost)} == {"changed"}
    assert lost.decrypt(tables.workspace.livestorm.webhook_secret) == "whsec"


async def test_after_a_change_of_keys_every_row_is_encrypted_anew_once_and_the_old_key_can_go(path: Path, tables: Tables) -> None:
    """Rows that the file leaves out too, and a refresh token that the org has rotated: no secret may need the old key any more."""
    old, new = new_key(), new_key()
    before, both, after = Secrets([old], "old"), Secrets([new, old], "both"), Secrets([new], "new")
    other = TEXT.replace("acme-prod", "other").replace("acme-emea", "elsewhere")
    await tables.apply(parsed(path), cipher=before)
    await tables.apply(parsed(path, other), cipher=before)
    await tables.send([Outgoing("orgs", b"acme-prod", msgspec.json.encode(logins.rotated(tables.org, "second", before)))])
    revision, sent = tables.org.revision, tables.sent
    found = await tables.apply(parsed(path), cipher=both)
    assert {(change.id, change.kind, change.encrypted_anew) for change in found} == {
        (id, "unchanged", True) for id in ("acme-prod", "acme-emea", "other", "elsewhere")
    }
    assert tables.sent == sent + 4
    assert (tables.org.revision, after.decrypt(tables.org.refresh_token), after.decrypt(tables.org.refresh_token_applied)) == (
        revision,
        "second",
        "first",
    )
    for row in tables.rows["workspaces"].values():
        assert after.decrypt(msgspec.json.decode(row, type=Workspace).livestorm.webhook_secret) == "whsec"
    again = await tables.apply(parsed(path), cipher=both)
    assert (tables.sent, [change.encrypted_anew for change in again]) == (sent + 4, [False, False])


async def test_a_row_that_changes_keeps_no_secret_under_an_older_key(path: Path, tables: Tables) -> None:
    old, new = new_key(), new_key()
    before, both, after = Secrets([old], "old"), Secrets([new, old], "both"), Secrets([new], "new")
    await tables.apply(parsed(path), cipher=before)
    await tables.send([Outgoing("orgs", b"acme-prod", msgspec.json.encode(logins.rotated(tables.org, "second", before)))])
    org, _ = await tables.apply(parsed(path, TEXT.replace('client_id = "id"', 'client_id = "new"')), cipher=both)
    assert (org.kind, org.encrypted_anew) == ("changed", True)
    assert (after.decrypt(tables.org.refresh_token), after.decrypt(tables.org.refresh_token_applied)) == ("second", "first")


async def test_a_row_that_cannot_be_read_is_written_anew(path: Path, tables: Tables) -> None:
    await tables.apply(parsed(path))
    tables.rows["workspaces"]["acme-emea"] = b'{"id":5}'
    assert kinds(await tables.apply(parsed(path)))[1] == ("workspace", "acme-emea", "added")
    assert tables.workspace.id == "acme-emea"


async def test_pausing_is_a_field_that_applying_leaves_alone(path: Path, tables: Tables) -> None:
    await tables.apply(parsed(path))
    assert await changes.set_paused("acme-emea", True, tables.rows["workspaces"], tables) is True
    assert await changes.set_paused("acme-emea", True, tables.rows["workspaces"], tables) is False
    await tables.apply(parsed(path, TEXT.replace('"whsec"', '"other"')))
    assert tables.workspace.paused
    assert await changes.set_paused("acme-emea", False, tables.rows["workspaces"], tables) is True
    assert not tables.workspace.paused
    with pytest.raises(changes.UnknownWorkspaceError):
        await changes.set_paused("nobody", True, tables.rows["workspaces"], tables)


async def test_what_is_shown_has_every_setting_and_no_secret(path: Path, tables: Tables) -> None:
    await tables.apply(parsed(path))
    tables.rows["orgs"]["broken"] = b"not json"
    shown: dict[str, Any] = changes.show(tables.rows["orgs"], tables.rows["workspaces"])
    text = msgspec.json.encode(shown)
    assert b"gAAAA" not in text
    assert b"whsec" not in text
    org, broken = shown["orgs"]
    (workspace,) = shown["workspaces"]
    assert (org["refresh_token"], org["client_secret"], org["api_version"]) == ("***", "", "62.0")
    assert "problem" in broken
    assert workspace["livestorm"]["webhook_secret"] == "***"
    assert workspace["mapping"]["lead"]["LastName"] == {"from": "last_name", "write": "always"}
