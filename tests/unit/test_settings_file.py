"""The settings file: what it gives, and every mistake at once with its line and key."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from schemas.settings import FieldRule, Statuses
from stages import ranking
from stages.salesforce import check
from stages.settings import defaults
from stages.settings.file import OLDEST_VERSION, Reference, Settings, SettingsError, load_file
from stages.settings.places import places, spelled

ORG = """\
[[org]]
id = "acme-prod"
login_url = "https://acme.my.salesforce.com"
flow = "client-credentials"
client_id = "id"
client_secret = "secret"
"""
WORKSPACE = """\
[[workspace]]
id = "acme-emea"
org = "acme-prod"
[workspace.livestorm]
organization_id = "0a1b"
webhook_secret = "whsec"
"""


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return load_file(path, environ)


def mistakes(tmp_path: Path, text: str, **environ: str) -> list[tuple[int, str, str]]:
    with pytest.raises(SettingsError) as raised:
        load(tmp_path, text, **environ)
    return [(mistake.line, mistake.key, mistake.message) for mistake in raised.value.mistakes]


def only(tmp_path: Path, text: str) -> tuple[int, str, str]:
    (mistake,) = mistakes(tmp_path, text)
    return mistake


def test_the_smallest_file_gets_every_default(tmp_path: Path) -> None:
    settings = load(tmp_path, ORG + WORKSPACE)
    (org,), (workspace,) = settings.orgs, settings.workspaces
    assert (org.api_version, org.daily_call_reserve, org.duplicate_rules, org.assignment_rules) == ("62.0", 0.2, "respect", False)
    assert (workspace.name, workspace.plan, workspace.salesforce_addon, workspace.enabled) == ("acme-emea", "enterprise", True, True)
    assert workspace.livestorm.base_url == "https://api.livestorm.co/v1"
    assert workspace.livestorm.signature_tolerance_seconds == 3600
    assert workspace.objects.fallback_company == "[not provided]"
    assert workspace.mapping.lead["Company"] == FieldRule(source="company")
    assert workspace.mapping.contact["MailingCity"] == FieldRule(source="city")
    assert workspace.mapping.campaign_member == {}


def test_the_files_entries_go_over_the_default_mapping(tmp_path: Path) -> None:
    text = """
[workspace.mapping.lead]
Region__c = "region"
Website = false
title = { from = "role", write = "if-empty" }
[workspace.mapping.campaign_member]
Minutes__c = "attendance_minutes"
"""
    mapping = load(tmp_path, ORG + WORKSPACE + text).workspaces[0].mapping
    assert mapping.lead["Region__c"] == FieldRule(source="region")
    assert mapping.lead["title"] == FieldRule(source="role", write="if-empty")
    assert not {"Title", "Website"} & mapping.lead.keys()
    assert mapping.lead["FirstName"] == FieldRule(source="first_name")
    assert mapping.campaign_member == {"Minutes__c": FieldRule(source="attendance_minutes")}
    assert "Website" in defaults.LEAD


def test_secrets_come_from_the_environment_and_from_files_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("tok\n")
    text = (ORG + WORKSPACE + 'api_token = "file:token"\n').replace('"whsec"', '"env:HOOK"')
    livestorm = load(tmp_path, text, HOOK="from the environment").workspaces[0].livestorm
    assert (livestorm.webhook_secret, livestorm.api_token) == ("from the environment", "tok")


def test_a_reference_that_leads_nowhere_names_itself(tmp_path: Path) -> None:
    text = (ORG + WORKSPACE + 'api_token = "file:nowhere"\n').replace('"whsec"', '"env:HOOK"').replace('"secret"', '"env:"')
    found = mistakes(tmp_path, text)
    assert [(line, key) for line, key, _ in found] == [
        (6, "org[1].client_secret"),
        (12, "workspace[1].livestorm.webhook_secret"),
        (13, "workspace[1].livestorm.api_token"),
    ]
    assert "HOOK" in found[1][2]
    assert "nowhere" in found[2][2]


def test_an_empty_reference_is_a_mistake(tmp_path: Path) -> None:
    assert (
        mistakes(tmp_path, (ORG + WORKSPACE).replace('"whsec"', '"env:HOOK"'), HOOK="\n")[0][1] == "workspace[1].livestorm.webhook_secret"
    )


def test_every_mistake_is_told_at_once_with_its_line_and_key(tmp_path: Path) -> None:
    text = """\
[[org]]
id = "acme prod"
login_url = "http://login.salesforce.com"
flow = "jwt-baerer"
daily_call_reserve = 2
api_version = 62
colour = "blue"

[[workspace]]
id = "w"
org = "o"
paused = true
[workspace.livestorm]
webhook_secret = ""
[workspace.objects]
create = "leed"
[workspace.mapping.lead]
Region__c = "region"
REGION__C = "x"
Websit = false
Title = { from = "job_title", wrte = "if-empty" }
Count__c = 5
Email = "email"
[workspace.mapping.campaign_member]
Status = "x"
livestorm_replay_status__c = "y"
[workspace.statuses]
attended = " registered"

[[workspace]]
id = "w"

[worksapce]
"""
    found = mistakes(tmp_path, text)
    assert [(line, key) for line, key, _ in found] == [
        (2, "org[1].id"),
        (3, "org[1].login_url"),
        (4, "org[1].flow"),
        (5, "org[1].daily_call_reserve"),
        (6, "org[1].api_version"),
        (7, "org[1].colour"),
        (12, "workspace[1].paused"),
        (13, "workspace[1].livestorm.organization_id"),
        (14, "workspace[1].livestorm.webhook_secret"),
        (16, "workspace[1].objects.create"),
        (19, "workspace[1].mapping.lead.REGION__C"),
        (20, "workspace[1].mapping.lead.Websit"),
        (21, "workspace[1].mapping.lead.Title.wrte"),
        (22, "workspace[1].mapping.lead.Count__c"),
        (23, "workspace[1].mapping.lead.Email"),
        (25, "workspace[1].mapping.campaign_member.Status"),
        (26, "workspace[1].mapping.campaign_member.livestorm_replay_status__c"),
        (28, "workspace[1].statuses.attended"),
        (30, "workspace[2].livestorm.organization_id"),
        (30, "workspace[2].livestorm.webhook_secret"),
        (30, "workspace[2].org"),
        (31, "workspace[2].id"),
        (33, "worksapce"),
    ]
    told = {key: message for _, key, message in found}
    assert 'did you mean "jwt-bearer"' in told["org[1].flow"]
    assert 'did you mean "Website"' in told["workspace[1].mapping.lead.Websit"]
    assert 'did you mean "workspace"' in told["worksapce"]
    assert "line 9" in told["workspace[2].id"]


def test_an_org_that_the_file_does_not_hold_is_left_open_also_beside_mistakes(tmp_path: Path) -> None:
    """An org with a mistake is there all the same."""
    text = ORG.replace("client-credentials", "magic") + WORKSPACE + WORKSPACE.replace("acme-emea", "other").replace("acme-prod", "nope")
    with pytest.raises(SettingsError) as raised:
        load(tmp_path, text)
    assert [mistake.key for mistake in raised.value.mistakes] == ["org[1].flow"]
    assert raised.value.references == (Reference(15, "workspace[2].org", "nope"),)


@pytest.mark.parametrize(
    ("attended", "not_attended"), [("Did  not attend", "did not ATTEND"), ("Was\tthere", " was there "), ("Came", "came\u00a0")]
)
def test_labels_that_the_campaign_could_not_tell_apart_are_a_mistake(tmp_path: Path, attended: str, not_attended: str) -> None:
    text = ORG + WORKSPACE + "[workspace.statuses]\n" + f"attended = {json.dumps(attended)}\nnot_attended = {json.dumps(not_attended)}\n"
    assert len(ranking.labels(Statuses(attended=attended, not_attended=not_attended))) == 2
    line, key, message = only(tmp_path, text)
    assert (line, key) == (15, "workspace[1].statuses.not_attended")
    assert "the same label as attended" in message


def test_a_label_that_a_member_could_not_hold_whole_is_a_mistake(tmp_path: Path) -> None:
    """Cut, two labels could become one; the value of the replay field is no label."""
    long = "a" * 41
    text = ORG + WORKSPACE + f'[workspace.statuses]\nattended = "{long}"\nnot_attended = "{long}b"\nreplay = "{long}"\n'
    found = mistakes(tmp_path, text)
    assert [(line, key) for line, key, _ in found] == [(14, "workspace[1].statuses.attended"), (15, "workspace[1].statuses.not_attended")]
    assert all("40" in message for _, _, message in found)
    assert load(tmp_path, ORG + WORKSPACE + f'[workspace.statuses]\nattended = " {"a" * 20}  {"b" * 19} "\n').workspaces


@pytest.mark.parametrize(("version", "good"), [("20.0", False), ("30.0", False), ("51.0", False), ("52.0", True), ("100.0", True)])
def test_a_version_that_is_retired_or_knows_no_duplicate_rules_is_a_mistake(tmp_path: Path, version: str, good: bool) -> None:
    text = ORG + f'api_version = "{version}"\n'
    if good:
        assert load(tmp_path, text).orgs[0].api_version == version
        return
    line, key, message = only(tmp_path, text)
    assert (line, key) == (7, "org[1].api_version")
    assert "52.0" in message


def test_the_oldest_version_is_the_one_that_check_asks_for() -> None:
    assert OLDEST_VERSION == check.OLDEST_VERSION


@pytest.mark.parametrize("text", ['workspace = "x"\n', 'org = "x"\n', 'workspace = ["x"]\n', "org = [1]\n"])
def test_what_is_no_table_is_one_mistake(tmp_path: Path, text: str) -> None:
    assert only(tmp_path, text)[0] == 1


def test_a_syntax_error_has_its_line(tmp_path: Path) -> None:
    line, key, message = only(tmp_path, ORG + "[workspace\n")
    assert (line, key) == (7, "")
    assert "TOML" in message


@pytest.mark.parametrize("content", [b"\xff\xfe", b'id = "\xfc"'])
def test_what_is_not_utf_8_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="UTF-8"):
        load_file(path)


def test_no_file_and_an_empty_file_say_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read"):
        load_file(tmp_path / "none.toml")
    assert only(tmp_path, "")[2] == "no [[org]] and no [[workspace]]"


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff" + ORG).orgs[0].id == "acme-prod"


@pytest.mark.parametrize(
    ("flow", "given", "missing"),
    [
        ("client-credentials", "client_id", {"client_secret"}),
        ("jwt-bearer", "client_id", {"username", "private_key"}),
        ("refresh-token", "client_secret", {"client_id", "refresh_token"}),
        ("username-password", "username", {"client_id", "client_secret", "password"}),
    ],
)
def test_a_flow_names_all_that_it_needs(tmp_path: Path, flow: str, given: str, missing: set[str]) -> None:
    text = f'[[org]]\nid = "o"\nlogin_url = "https://a.my.salesforce.com"\nflow = "{flow}"\n{given} = "x"\n'
    assert {key.removeprefix("org[1].") for _, key, _ in mistakes(tmp_path, text)} == missing


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()  # fmt: skip


def test_a_private_key_must_be_one_and_rsa(tmp_path: Path) -> None:
    def text(key: str) -> str:
        return f'[[org]]\nid = "o"\nlogin_url = "https://login.salesforce.com"\nflow = "jwt-bearer"\nclient_id = "c"\nusername = "u"\nprivate_key = """{key}"""\n'

    good = pem(rsa.generate_private_key(65537, 2048))
    assert load(tmp_path, text(good)).orgs[0].private_key == good.rstrip("\n") + "\n"
    assert "PEM" in only(tmp_path, text("hello"))[2]
    assert "RSA" in only(tmp_path, text(pem(ec.generate_private_key(ec.SECP256R1()))))[2]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9000",
        "http://localhost:9000",
        "http://[::1]:9000",
        "http://sandbox-salesforce:9000",
        "https://a.my.salesforce.com",
    ],
)
def test_http_is_for_what_is_near(tmp_path: Path, url: str) -> None:
    assert load(tmp_path, ORG.replace("https://acme.my.salesforce.com", url)).orgs[0].login_url == url


@pytest.mark.parametrize(
    "url", ["http://acme.my.salesforce.com", "ftp://x", "acme", "https://", "https://user:pw@x.example", "https://x.example:port"]
)
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    assert mistakes(tmp_path, ORG.replace("https://acme.my.salesforce.com", url))[0][1] == "org[1].login_url"


def test_one_bracket_where_two_belong_is_explained(tmp_path: Path) -> None:
    assert "[[org]]" in only(tmp_path, ORG.replace("[[org]]", "[org]"))[2]


def test_no_secret_is_in_the_errors_or_the_repr(tmp_path: Path) -> None:
    assert "whsec" not in repr(load(tmp_path, ORG + WORKSPACE))
    with pytest.raises(SettingsError) as raised:
        load(tmp_path, ORG + WORKSPACE.replace("organization_id", "organisation"))
    assert "whsec" not in str(raised.value)


KEY = st.from_regex(r"[a-z]{1,8}", fullmatch=True)


@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(KEY, st.sampled_from(["1", '"a # b"', '"""\nx = 1\n[y]\n"""', "[\n 1,\n # c\n 2 ]", "'''\na'''", "{ a = 1 }"])),
        max_size=6,
        unique_by=lambda pair: pair[0],
    )
)
def test_each_key_is_found_on_its_line_whatever_stands_before_it(pairs: list[tuple[str, str]]) -> None:
    text, expected = "# first\n\n", {}
    for key, value in pairs:
        expected[key] = text.count("\n") + 1
        text += f"{key} = {value}  # behind\n"
    found = places(text)
    assert {key: found[key,] for key in expected} == expected


def test_entries_and_nested_tables_have_places() -> None:
    found = places('[[a]]\nx = 1\n[a.b]\n"y z" = 2\nc.d = 3\n[[a]]\n[a.b]\nx = { f = 1 }\n')
    assert found["a", 0] == 1
    assert found["a", 0, "b", "y z"] == 4
    assert found["a", 0, "b", "c", "d"] == 5
    assert found["a", 1, "b"] == 7
    assert found["a", 1, "b", "x", "f"] == 8
    assert spelled(("a", 1, "b", "x", "f")) == "a[2].b.x.f"
