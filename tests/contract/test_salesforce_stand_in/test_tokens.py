"""The token endpoint: four flows, their errors, sessions that end, refresh tokens that rotate."""

import asyncio
import base64
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from stages.sandbox.salesforce import oauth
from tests.contract.test_salesforce_stand_in.client import Caller

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
REFRESH = {"grant_type": "refresh_token", "client_id": "any", "client_secret": "sandbox"}


def assertion(**changed: Any) -> dict[str, str]:
    claims = {"iss": "consumer", "sub": "sandbox@example.com", "aud": "https://login.salesforce.com", "exp": int(time.time()) + 180}
    return {"grant_type": BEARER, "assertion": jwt.encode(claims | changed, KEY, algorithm="RS256")}


def password(**changed: str) -> dict[str, str]:
    form = {
        "grant_type": "password",
        "client_id": "any",
        "client_secret": "sandbox",
        "username": "sandbox@example.com",
        "password": "sandbox",
    }
    return form | changed


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(assertion, id="jwt bearer, signed with any key"),
        pytest.param(lambda: {"grant_type": "client_credentials", "client_id": "any", "client_secret": "sandbox"}, id="client credentials"),
        pytest.param(lambda: REFRESH | {"refresh_token": "sandbox"}, id="refresh token"),
        pytest.param(password, id="password"),
    ],
)
async def test_each_flow_opens_a_session_of_the_integration_user(acme: Caller, form: Callable[[], dict[str, str]]) -> None:
    reply = await acme.log_in(**form())
    assert reply.status == 200
    assert reply.body["access_token"].startswith(acme.org.id[:15] + "!")
    assert reply.body["instance_url"] == acme.org.base_url
    assert (reply.body["token_type"], "expires_in" in reply.body, "refresh_token" in reply.body) == ("Bearer", False, False)
    info = await acme.ask("GET", "/services/oauth2/userinfo")
    assert (info.body["preferred_username"], info.body["organization_id"]) == ("sandbox@example.com", acme.org.id)
    assert reply.body["id"].endswith(f"/{acme.org.id}/{info.body['user_id']}")


async def test_client_credentials_also_come_as_http_basic(acme: Caller) -> None:
    basic = base64.b64encode(b"any:sandbox").decode()
    url, headers = f"{acme.org.base_url}/services/oauth2/token", {"Authorization": f"Basic {basic}"}
    async with acme.http.post(url, headers=headers, data={"grant_type": "client_credentials"}) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("form", "error", "description"),
    [
        (
            {"grant_type": "client_credentials", "client_id": "any", "client_secret": "wrong"},
            "invalid_client",
            "invalid client credentials",
        ),
        ({"grant_type": "client_credentials", "client_secret": "sandbox"}, "invalid_client_id", "client identifier invalid"),
        ({"grant_type": "authorization_code"}, "unsupported_grant_type", "grant type not supported"),
        ({"client_id": "any"}, "invalid_request", "grant_type is required"),
        (REFRESH | {"refresh_token": "gone"}, "invalid_grant", "expired access/refresh token"),
        (password(password="wrong"), "invalid_grant", "authentication failure"),
        (password(username="nobody@example.com"), "invalid_grant", "authentication failure"),
        ({"grant_type": BEARER, "assertion": "no.jwt.atall"}, "invalid_grant", "invalid assertion"),
    ],
)
async def test_what_is_wrong_is_told_in_an_object(acme: Caller, form: dict[str, str], error: str, description: str) -> None:
    reply = await acme.log_in(**form)
    assert (reply.status, reply.body) == (400, {"error": error, "error_description": description})


@pytest.mark.parametrize(
    ("claims", "description"),
    [
        ({"sub": "nobody@example.com"}, "user hasn't approved this consumer"),
        ({"aud": "https://example.com"}, "audience is invalid"),
        ({"exp": 1}, "invalid assertion"),
    ],
)
async def test_what_is_wrong_in_an_assertion_is_told(acme: Caller, claims: dict[str, Any], description: str) -> None:
    reply = await acme.log_in(**assertion(**claims))
    assert (reply.status, reply.body) == (400, {"error": "invalid_grant", "error_description": description})


async def test_the_orgs_own_address_is_an_audience(acme: Caller) -> None:
    assert (await acme.log_in(**assertion(aud=acme.org.base_url + "/"))).status == 200


async def test_other_software_has_a_session_of_its_own(acme: Caller) -> None:
    await acme.log_in(**password(username="other@example.com"))
    await acme.create("Lead", LastName="B", Company="C")
    (lead,) = await acme.records("Lead")
    assert lead["history"][0]["by"] == "other@example.com"


async def test_a_refresh_token_stays_unless_rotation_is_asked_for(acme: Caller) -> None:
    for _ in range(2):
        assert (await acme.log_in(**REFRESH, refresh_token="sandbox")).status == 200


async def test_with_rotation_the_reply_holds_a_new_refresh_token_and_the_old_one_dies(acme: Caller) -> None:
    await acme.rule("rotate-refresh-tokens")
    new = (await acme.log_in(**REFRESH, refresh_token="sandbox")).body["refresh_token"]
    assert (await acme.log_in(**REFRESH, refresh_token="sandbox")).body["error_description"] == "expired access/refresh token"
    assert (await acme.log_in(**REFRESH, refresh_token=new)).status == 200


async def test_of_two_refreshes_at_once_one_is_refused(acme: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth, "REFRESH_MS", 1000)
    replies = await asyncio.gather(*(acme.log_in(**REFRESH, refresh_token="sandbox") for _ in range(2)))
    refused = [reply.body for reply in replies if reply.status == 400]
    assert refused == [{"error": "invalid_grant", "error_description": "token request is already being processed"}]


async def test_an_expired_session_is_a_401_with_an_array_and_a_new_one_works(acme: Caller) -> None:
    await acme.switch("POST", "/tokens/expire")
    reply = await acme.ask("GET", "/limits")
    assert (reply.status, reply.body) == (401, [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}])
    await acme.log_in()
    assert (await acme.ask("GET", "/limits")).status == 200


async def test_versions_are_told_without_a_token(acme: Caller) -> None:
    acme.token = ""
    versions = (await acme.ask("GET", "/services/data")).body
    assert {"label": "Winter '25", "url": "/services/data/v62.0", "version": "62.0"} in versions
    assert (versions[0]["version"], versions[-1]["version"]) == ("31.0", "68.0")
