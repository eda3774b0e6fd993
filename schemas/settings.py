"""Orgs and workspaces as the settings file gives them and as the tables `orgs` and `workspaces` hold them (secrets encrypted there)."""

from typing import Literal

import msgspec

Flow = Literal["jwt-bearer", "client-credentials", "refresh-token", "username-password"]


class Org(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Table `orgs`, key: the org's id. Fields as in the settings file; secrets hold Fernet tokens in the table."""

    id: str
    login_url: str
    flow: Flow
    client_id: str = ""
    client_secret: str = ""
    username: str = ""
    password: str = ""
    private_key: str = ""
    refresh_token: str = ""
    api_version: str = "62.0"
    daily_call_reserve: float = 0.2
    person_key_field: str = ""
    campaign_key_field: str = ""
    account_key_field: str = ""
    event_time_field: str = ""
    duplicate_rules: Literal["respect", "save"] = "respect"
    assignment_rules: bool = False
    organization_id: str = ""
    """Salesforce's id of the org as first seen at login; not in the file."""
    refresh_token_applied: str = ""
    """The refresh token as the file gave it (a Fernet token): the org may have rotated it since; not in the file."""
    revision: int = 1
    """Counts the changes; not in the file."""


ORG_SECRETS = ("client_secret", "password", "private_key", "refresh_token")


class Livestorm(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How a workspace talks with Livestorm."""

    organization_id: str
    webhook_secret: str
    signature_tolerance_seconds: int = 3600
    api_token: str = ""
    base_url: str = "https://api.livestorm.co/v1"


class Objects(msgspec.Struct, kw_only=True, omit_defaults=True):
    create: Literal["lead", "contact"] = "lead"
    fallback_company: str = "[not provided]"
    replay_status_field: str = "Livestorm_Replay_Status__c"


class FieldRule(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """How one Salesforce field is filled."""

    source: str = msgspec.field(name="from")
    write: Literal["always", "if-empty", "on-create"] = "always"


class Mapping(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Salesforce field name to rule, whole: the defaults with the file's entries merged in. Email is not in it: it is always written."""

    lead: dict[str, FieldRule] = {}
    contact: dict[str, FieldRule] = {}
    campaign_member: dict[str, FieldRule] = {}


class Statuses(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Labels on the Campaign, and the value of the replay field."""

    registered: str = "Registered"
    attended: str = "Attended"
    not_attended: str = "Did not attend"
    replay: str = "Watched"


class Workspace(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Table `workspaces`, key: the workspace's id."""

    id: str
    org: str
    livestorm: Livestorm
    name: str = ""
    plan: str = "enterprise"
    salesforce_addon: bool = True
    enabled: bool = True
    paused: bool = False
    objects: Objects = msgspec.field(default_factory=Objects)
    mapping: Mapping = msgspec.field(default_factory=Mapping)
    statuses: Statuses = msgspec.field(default_factory=Statuses)
    connected_at: int = 0
    """Unix s: when its settings were first applied; not in the file."""
    revision: int = 1


WORKSPACE_SECRETS = ("webhook_secret", "api_token")
"""Of `Workspace.livestorm`."""
