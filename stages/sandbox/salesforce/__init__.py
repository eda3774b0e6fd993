"""A stand-in Salesforce: N orgs on N ports of one process, for tests, demos and measurements. Shipped beside the door to the real one.

It does: the token endpoint (JWT bearer, client credentials, refresh token, password), `query` and `queryAll` with paging, single records,
upsert by external id, sObject Collections, composite with references, describe, limits, userinfo; Accounts, Contacts, Leads, Campaigns with
their member statuses and members, person accounts, conversion, merges; partial success, row locks, duplicate and validation rules, field and
object rights, daily limits; faults on demand; and a history of every record, which no real org gives so readily.

It does not: SOAP, Bulk, composite/batch, /graph and /tree, search, relationship subqueries, semi-joins, GROUP BY and date literals in SOQL,
record types, sharing, triggers, flows, Opportunities, formula fields, field history, compressed replies, or anything over https. It keeps
everything in memory and forgets it at the end. Signatures of JWTs are not checked.
"""

from stages.sandbox.salesforce.orgs import PortInUseError, SandboxOrgs, serve
from stages.sandbox.salesforce.seed import SeedError

__all__ = ["PortInUseError", "SandboxOrgs", "SeedError", "serve"]
