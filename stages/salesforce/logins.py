"""What is sent to a token endpoint for each of the four flows, and what its answers mean. Pure: sends nothing, keeps nothing."""

import dataclasses
import ipaddress
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import jwt

from schemas.messages import Cause
from schemas.settings import Org
from stages.salesforce.causes import ORG, TRANSIENT, UNREADABLE, errors_of
from stages.salesforce.door import Trouble
from stages.salesforce.errors import OrgUnavailable
from stages.salesforce.ids import full_id

LOGIN_HOST: Final = "https://login.salesforce.com"
SANDBOX_HOST: Final = "https://test.salesforce.com"
JWT_SECONDS: Final = 180
BUSY: Final = "token_request_is_already_being_processed"
EXPIRED: Final = "refresh_token_expired"
REFUSED: Final = "authentication_failure"


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """One access token. There is no expiry in it: it lives until a call answers 401."""

    access_token: str = dataclasses.field(repr=False)
    instance_url: str
    organization_id: str
    """18 characters, as `user_id`."""
    user_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class LoginRule:
    """One row of the table of token errors. `words` (lower case) must stand in the description; "" fits all."""

    errors: tuple[str, ...]
    words: str
    code: str
    kind: str
    hint: str
    retry_after_seconds: float | None = None


LOGIN_ERRORS: Final = (
    LoginRule(("invalid_grant",), "already being processed", BUSY, TRANSIENT, "Another login with this token is under way", 1.0),
    LoginRule(("invalid_grant",), "expired access/refresh token", EXPIRED, ORG,
              "Access was withdrawn or has run out: connect the org again and apply the new refresh token"),
    LoginRule(("invalid_grant",), "approved this consumer", "user_has_not_approved", ORG,
              "Pre-authorize the user for the app (Setup > Connected Apps > Manage > Permitted Users and its profiles or permission sets)"),
    LoginRule(("invalid_grant",), "audience", "wrong_audience", ORG,
              "Production and sandbox are mixed up: login_url is https://login.salesforce.com, or https://test.salesforce.com for a sandbox"),
    LoginRule(("invalid_grant",), "authentication failure", REFUSED, ORG,
              "User name, password or security token is wrong, the user is locked or inactive, or its IP range leaves Turnout out"),
    LoginRule(("invalid_grant",), "no client credentials user", "no_run_as_user", ORG, "Set a 'Run As' user for the client credentials flow of the app"),
    LoginRule(("invalid_grant",), "not admin approved", "user_not_admin_approved", ORG, "Allow the app for the user's profile or a permission set of its own"),
    LoginRule(("invalid_grant",), "not supported on this domain", "my_domain_needed", ORG,
              "client-credentials works at the org's My Domain only: login_url = \"https://NAME.my.salesforce.com\""),
    LoginRule(("invalid_grant",), "", "invalid_grant", ORG, "Salesforce refuses the login: see Setup > Login History of the user"),
    LoginRule(("invalid_client", "invalid_client_id", "invalid_client_credentials"), "", "invalid_client", ORG,
              "client_id or client_secret is wrong or was rotated: copy both from the app"),
    LoginRule(("app_not_found",), "", "app_not_found", ORG, "Install the app in this org, or correct login_url"),
    LoginRule(("inactive_user",), "", "inactive_user", ORG, "Activate Turnout's user"),
    LoginRule(("inactive_org",), "", "inactive_org", ORG, "The org is locked or closed: ask Salesforce"),
    LoginRule(("rate_limit_exceeded",), "", "rate_limit_exceeded", TRANSIENT, "Too many logins: Turnout waits some minutes", 180.0),
    LoginRule(("unsupported_grant_type", "invalid_request", "invalid_scope"), "", "", ORG,
              "The app does not allow this flow: enable it in the app, and compare the org's settings with what the flow needs"),
)  # fmt: skip


def login_url_problem(login_url: str, flow: str = "") -> Cause | None:
    """What is wrong with the address, with the right form named; None if it can be one."""
    parts = urlsplit(login_url)
    host = (parts.hostname or "").lower()
    if host.endswith(".lightning.force.com"):
        right = host.removesuffix(".lightning.force.com") + ".my.salesforce.com"
        return _address("The address of the browser's pages is not that of the API", f'login_url = "https://{right}"')
    if parts.scheme not in ("https", "http") or not host:
        return _address("login_url is not a web address", f'login_url = "{LOGIN_HOST}", or the org\'s My Domain')
    if parts.path.strip("/") or parts.query or parts.username:
        return _address("login_url is more than a host", f'login_url = "{parts.scheme}://{host}"')
    if parts.scheme == "http" and not _is_local(host):
        return _address("http:// is for sandbox orgs on this machine or its network only", f'login_url = "https://{host}"')
    if flow == "client-credentials" and f"https://{host}" in (LOGIN_HOST, SANDBOX_HOST):
        return _address("client-credentials works at the org's My Domain only", 'login_url = "https://NAME.my.salesforce.com"')
    return None


def _address(message: str, hint: str) -> Cause:
    return Cause(code="wrong_login_url", message=message, fields=("login_url",), hint=hint)


def _is_local(host: str) -> bool:
    """A loopback address, or a name without a dot: a service beside this one, which no Salesforce org can be."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return "." not in host or host.endswith(".localhost")


def audience(login_url: str) -> str:
    """`aud` of a JWT: only these two are documented, so My Domains of sandboxes are told by their names."""
    host = (urlsplit(login_url).hostname or "").lower()
    return SANDBOX_HOST if host == "test.salesforce.com" or ".sandbox." in host else LOGIN_HOST


def login_form(org: Org, now: float) -> dict[str, str]:
    """The form of the org's flow; `now` is Unix seconds. Raises OrgUnavailable where a setting is missing or can't be used."""
    client = {"client_id": org.client_id, "client_secret": org.client_secret}
    match org.flow:
        case "jwt-bearer":
            _need(org, "client_id", "username", "private_key")
            claims = {"iss": org.client_id, "sub": org.username, "aud": audience(org.login_url), "exp": int(now) + JWT_SECONDS}
            try:
                assertion = jwt.encode(claims, org.private_key, algorithm="RS256")
            except (ValueError, TypeError, jwt.PyJWTError) as error:
                raise _setting("private_key", "is no RSA key in PEM form", "Give the whole file, from -----BEGIN to END-----") from error
            return {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
        case "client-credentials":
            _need(org, "client_id", "client_secret")
            return {"grant_type": "client_credentials", **client}
        case "refresh-token":
            _need(org, "client_id", "refresh_token")
            form = {"grant_type": "refresh_token", "refresh_token": org.refresh_token, **client}
            return {name: value for name, value in form.items() if value}
        case "username-password":
            _need(org, "client_id", "client_secret", "username", "password")
            return {"grant_type": "password", "username": org.username, "password": org.password, **client}


def _need(org: Org, *names: str) -> None:
    for name in names:
        if not getattr(org, name):
            raise _setting(name, f"is needed for the flow {org.flow}", f"Give {name} in the org's settings")


def _setting(name: str, message: str, hint: str) -> OrgUnavailable:
    return OrgUnavailable(Trouble(kind=ORG, cause=Cause(code="setting_missing", message=f"{name} {message}", fields=(name,), hint=hint)))


def token_of(body: Mapping[str, Any], org: Org) -> Token:
    """Reads a reply of the token endpoint. Raises OrgUnavailable where it is none, or would send the token in the clear."""
    try:
        organization_id, user_id = (full_id(part) for part in str(body["id"]).rstrip("/").rsplit("/", 2)[-2:])
        token = Token(str(body["access_token"]), str(body["instance_url"]).rstrip("/"), organization_id, user_id)
    except (KeyError, ValueError) as error:
        message = "The token endpoint's reply lacks access_token, instance_url or id"
        raise OrgUnavailable(Trouble(kind=TRANSIENT, cause=Cause(code=UNREADABLE, message=message, hint="Compare login_url"))) from error
    if urlsplit(token.instance_url).scheme != "https" and urlsplit(org.login_url).scheme == "https":
        message = "The token endpoint names an API address without https"
        raise OrgUnavailable(Trouble(kind=ORG, cause=_address(message, "Compare login_url with the org's My Domain")))
    return token


def login_trouble(status: int, body: Any) -> Trouble:
    """What a refused login means."""
    found = errors_of(body) if isinstance(body, Mapping) else ()
    if not found:
        message = f"The token endpoint answered {status}, and not as Salesforce does"
        hint = "Salesforce is busy or in maintenance, a proxy is in between, or login_url is wrong"
        return Trouble(kind=TRANSIENT, cause=Cause(code=UNREADABLE, message=message, hint=hint))
    error = found[0]
    for rule in LOGIN_ERRORS:
        if error.code in rule.errors and rule.words in error.message.lower():
            cause = Cause(code=rule.code or error.code, message=error.message or error.code, hint=rule.hint)
            return Trouble(kind=rule.kind, cause=cause, retry_after_seconds=rule.retry_after_seconds)
    kind = TRANSIENT if status >= 500 else ORG
    hint = "Salesforce refuses the login: see Setup > Login History of the user"
    return Trouble(kind=kind, cause=Cause(code=error.code, message=error.message or error.code, hint=hint), known=False)
