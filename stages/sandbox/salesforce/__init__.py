"""The stand-in Salesforce. `server` opens with what it does and what it does not do."""

from stages.sandbox.salesforce.seed import SeedError
from stages.sandbox.salesforce.server import SandboxOrgs, serve

__all__ = ["SandboxOrgs", "SeedError", "serve"]
