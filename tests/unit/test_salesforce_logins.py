"""Facts about the four ways to log in."""

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from schemas.settings import Flow, Org
from stages.salesforce import logins
from stages.salesforce.errors import OrgUnavailable
from stages.salesforce.logins import audience, login_form, login_trouble, login_url_problem, token_of

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def org(flow: Flow = "client-credentials", login_url: str = "https://acme.my.salesforce.com", **settings: str) -> Org:
    secrets = {
        "client_id": "key",
        "client_secret": "secret",
        "username": "sync@acme.example",
        "password": "word",
        "private_key": PEM,
        "refresh_token": "5Aep",
    }
    return msgspec.convert({"id": "acme", "login_url": login_url, "flow": flow} | secrets | settings, Org)


def test_the_jwt_says_who_for_whom_and_for_three_minutes() -> None:
    form = login_form(org("jwt-bearer"), now=1_780_000_000)
    claims = jwt.decode(
        form["assertion"], KEY.public_key(), algorithms=["RS256"], audience="https://login.salesforce.com", options={"verify_exp": False}
    )
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    assert claims == {"iss": "key", "sub": "sync@acme.example", "aud": "https://login.salesforce.com", "exp": 1_780_000_180}


@pytest.mark.parametrize(
    ("login_url", "aud"),
    [
        ("https://login.salesforce.com", "https://login.salesforce.com"),
        ("https://test.salesforce.com", "https://test.salesforce.com"),
        ("https://acme.my.salesforce.com", "https://login.salesforce.com"),
        ("https://acme--uat.sandbox.my.salesforce.com", "https://test.salesforce.com"),
    ],
)
def test_the_audience_is_production_or_sandbox(login_url: str, aud: str) -> None:
    assert audience(login_url) == aud


@pytest.mark.parametrize(
    ("flow", "form"),
    [
        ("client-credentials", {"grant_type": "client_credentials", "client_id": "key", "client_secret": "secret"}),
        ("refresh-token", {"grant_type": "refresh_token", "refresh_token": "5Aep", "client_id": "key", "client_secret": "secret"}),
        (
            "username-password",
            {"grant_type": "password", "username": "sync@acme.example", "password": "word", "client_id": "key", "client_secret": "secret"},
        ),
    ],
)
def test_each_flow_sends_its_fields(flow: Flow, form: dict[str, str]) -> None:
    assert login_form(org(flow), now=0) == form


@pytest.mark.parametrize(
    ("flow", "missing"),
    [
        ("jwt-bearer", "private_key"),
        ("client-credentials", "client_secret"),
        ("refresh-token", "refresh_token"),
        ("username-password", "password"),
    ],
)
def test_a_missing_setting_is_named(flow: Flow, missing: str) -> None:
    with pytest.raises(OrgUnavailable) as raised:
        login_form(org(flow, **{missing: ""}), now=0)
    assert raised.value.trouble.cause.fields == (missing,)


def test_a_private_key_that_is_none_is_named_and_not_shown() -> None:
    with pytest.raises(OrgUnavailable) as raised:
        login_form(org("jwt-bearer", private_key="not a key"), now=0)
    assert raised.value.trouble.cause.fields == ("private_key",)
    assert "not a key" not in raised.value.trouble.cause.message


@pytest.mark.parametrize(
    ("login_url", "right"),
    [
        ("https://acme.lightning.force.com/", "https://acme.my.salesforce.com"),
        ("https://acme--uat.sandbox.lightning.force.com", "https://acme--uat.sandbox.my.salesforce.com"),
        ("http://acme.my.salesforce.com", "https://acme.my.salesforce.com"),
        ("acme.my.salesforce.com", "https://login.salesforce.com"),
        ("https://acme.my.salesforce.com/setup/home", "https://acme.my.salesforce.com"),
        ("https://someone:word@acme.my.salesforce.com", "https://acme.my.salesforce.com"),
    ],
)
def test_an_address_that_can_not_be_one_is_refused_with_the_right_form(login_url: str, right: str) -> None:
    problem = login_url_problem(login_url)
    assert problem is not None
    assert right in problem.hint


@pytest.mark.parametrize(
    "login_url", ["http://127.0.0.1:9000", "http://localhost:1", "http://sandbox:9000", "http://[::1]:5", "https://login.salesforce.com"]
)
def test_http_is_for_what_stands_beside_us(login_url: str) -> None:
    assert login_url_problem(login_url) is None


def test_client_credentials_needs_the_my_domain() -> None:
    assert login_url_problem("https://login.salesforce.com", "client-credentials") is not None
    assert login_url_problem("https://login.salesforce.com", "jwt-bearer") is None


@pytest.mark.parametrize(
    ("error", "description", "code", "kind"),
    [
        ("invalid_grant", "token request is already being processed", logins.BUSY, "transient"),
        ("invalid_grant", "expired access/refresh token", logins.EXPIRED, "org"),
        ("invalid_grant", "user hasn't approved this consumer", "user_has_not_approved", "org"),
        ("invalid_grant", "audience is invalid", "wrong_audience", "org"),
        ("invalid_grant", "Audience validation failed", "wrong_audience", "org"),
        ("invalid_grant", "authentication failure", logins.REFUSED, "org"),
        ("invalid_grant", "no client credentials user enabled", "no_run_as_user", "org"),
        ("invalid_grant", "user is not admin approved to access this app", "user_not_admin_approved", "org"),
        ("invalid_grant", "request not supported on this domain", "my_domain_needed", "org"),
        ("invalid_grant", None, "invalid_grant", "org"),
        ("invalid_client", "invalid client credentials", "invalid_client", "org"),
        ("invalid_client_id", "client identifier invalid", "invalid_client", "org"),
        ("app_not_found", "External client app is not installed in this org", "app_not_found", "org"),
        ("inactive_user", None, "inactive_user", "org"),
        ("rate_limit_exceeded", "login rate exceeded", "rate_limit_exceeded", "transient"),
        ("unsupported_grant_type", "grant type not supported", "unsupported_grant_type", "org"),
        ("brand_new", "?", "brand_new", "org"),
    ],
)
def test_each_refusal_of_the_token_endpoint_has_its_class(error: str, description: str | None, code: str, kind: str) -> None:
    body = {"error": error} | ({"error_description": description} if description else {})
    trouble = login_trouble(400, body)
    assert (trouble.cause.code, trouble.kind) == (code, kind)
    assert trouble.cause.hint


@given(st.text(max_size=50) | st.none() | st.lists(st.integers(), max_size=2))
def test_a_page_from_the_edge_is_no_verdict_on_the_settings(body: object) -> None:
    assert login_trouble(503, body).kind == "transient"


def test_a_token_would_not_be_sent_in_the_clear() -> None:
    body = {
        "access_token": "00D!x",
        "instance_url": "http://acme.my.salesforce.com",
        "id": "https://login.salesforce.com/id/00D000000000001/005000000000001",
    }
    with pytest.raises(OrgUnavailable):
        token_of(body, org())
    assert token_of(body, org(login_url="http://127.0.0.1:1")).instance_url == "http://acme.my.salesforce.com"


def test_a_token_does_not_show_itself() -> None:
    body = {
        "access_token": "00D!x",
        "instance_url": "https://acme.my.salesforce.com/",
        "id": "https://login.salesforce.com/id/00D000000000001/005000000000001",
    }
    token = token_of(body, org())
    assert "00D!x" not in repr(token)
    assert (token.organization_id, token.user_id) == ("00D000000000001EAA", "005000000000001AAA")


@pytest.mark.parametrize(
    "body", [{}, {"access_token": "x", "instance_url": "https://a"}, {"access_token": "x", "instance_url": "https://a", "id": "https://b"}]
)
def test_a_reply_that_lacks_something_is_no_token(body: dict[str, str]) -> None:
    with pytest.raises(OrgUnavailable):
        token_of(body, org())
