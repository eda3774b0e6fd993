"""The token endpoint: four flows, their errors, refresh tokens that rotate. Checks no signature: a JWT of any key is taken."""

import asyncio
import base64
import binascii
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jwt

from stages.sandbox.salesforce.org import INTEGRATION_USER, OTHER_USER, SALES_USER, SECRET

if TYPE_CHECKING:
    from stages.sandbox.salesforce.org import Org

REFRESH_MS = 100
"""A refresh is under way at least this long, so that a second one for the same token meets it."""
LONGEST_ASSERTION_SECONDS = 600
AUDIENCES = ("https://login.salesforce.com", "https://test.salesforce.com")
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class TokenError(Exception):
    """No token, and why, in the words of the endpoint."""

    def __init__(self, error: str, description: str | None = None, status: int = 400) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.status = status

    def as_json(self) -> dict[str, Any]:
        return {"error": self.error} | ({"error_description": self.description} if self.description is not None else {})


async def grant(org: "Org", form: Mapping[str, str], basic: str | None, own_urls: frozenset[str]) -> tuple[str, dict[str, Any]]:
    """Username and reply. `basic` is the value of an Authorization header. Raises TokenError."""
    kind = form.get("grant_type", "")
    extra: dict[str, str] = {}
    if kind == JWT_BEARER:
        user = _jwt_user(form.get("assertion", ""), own_urls)
    elif kind == "client_credentials":
        _check_client(*_client(form, basic), needed=True)
        user = INTEGRATION_USER
    elif kind == "password":
        _check_client(*_client(form, basic), needed=True)
        user = _password_user(form)
    elif kind == "refresh_token":
        _check_client(*_client(form, basic), needed=False)
        user, extra = await _refresh(org, form.get("refresh_token", ""))
    elif not kind:
        raise TokenError("invalid_request", "grant_type is required")
    else:
        raise TokenError("unsupported_grant_type", "grant type not supported")
    return user, {**_reply(org, user), **extra}


def _reply(org: "Org", user: str) -> dict[str, Any]:
    return {
        "access_token": org.open_session(user),
        "instance_url": org.base_url,
        "id": f"{org.base_url}/id/{org.id}/{org.user_id(user)}",
        "token_type": "Bearer",
        "issued_at": str(int(time.time() * 1000)),
        "signature": base64.b64encode(org.id.encode()).decode(),
        "scope": "api",
    }


def _client(form: Mapping[str, str], basic: str | None) -> tuple[str | None, str | None]:
    if basic is not None and basic.lower().startswith("basic "):
        try:
            client, _, secret = base64.b64decode(basic[6:], validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise TokenError("invalid_client", "invalid client credentials", 401) from None
        return client, secret
    return form.get("client_id"), form.get("client_secret")


def _check_client(client: str | None, secret: str | None, *, needed: bool) -> None:
    if not client:
        raise TokenError("invalid_client_id", "client identifier invalid")
    if secret != SECRET and (needed or secret):
        raise TokenError("invalid_client", "invalid client credentials")


def _password_user(form: Mapping[str, str]) -> str:
    username = form.get("username", "").lower()
    if username not in (INTEGRATION_USER, OTHER_USER, SALES_USER) or form.get("password") != SECRET:
        raise TokenError("invalid_grant", "authentication failure")
    return username


def _jwt_user(assertion: str, own_urls: frozenset[str]) -> str:
    try:
        header = jwt.get_unverified_header(assertion)
        claims = jwt.decode(assertion, options={"verify_signature": False})
    except jwt.PyJWTError:
        raise TokenError("invalid_grant", "invalid assertion") from None
    if header.get("alg") != "RS256":
        raise TokenError("invalid_grant", "invalid assertion")
    if not claims.get("iss"):
        raise TokenError("invalid_client_id", "client identifier invalid")
    if str(claims.get("aud", "")).rstrip("/") not in own_urls.union(AUDIENCES):
        raise TokenError("invalid_grant", "audience is invalid")
    expires = claims.get("exp")
    if not isinstance(expires, int | float) or not time.time() < expires <= time.time() + LONGEST_ASSERTION_SECONDS:
        raise TokenError("invalid_grant", "invalid assertion")
    if str(claims.get("sub", "")).lower() != INTEGRATION_USER:
        raise TokenError("invalid_grant", "user hasn't approved this consumer")
    return INTEGRATION_USER


async def _refresh(org: "Org", token: str) -> tuple[str, dict[str, str]]:
    if token in org.refreshing:
        raise TokenError("invalid_grant", "token request is already being processed")
    if token not in org.refresh_tokens:
        raise TokenError("invalid_grant", "expired access/refresh token")
    org.refreshing.add(token)
    try:
        await asyncio.sleep(REFRESH_MS / 1000)
        user = org.refresh_tokens.get(token)
        if user is None:
            raise TokenError("invalid_grant", "expired access/refresh token")
        if org.has("rotate-refresh-tokens"):
            return user, {"refresh_token": org.new_refresh_token(token)}
        return user, {}
    finally:
        org.refreshing.discard(token)
