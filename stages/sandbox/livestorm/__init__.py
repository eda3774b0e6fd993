"""A stand-in Livestorm workspace: its REST API, and signed webhooks with their retries. In memory; `serve` runs one.

It does: ping, organization, events, sessions, people, people_attributes, webhooks; token, limits, pages, filters, errors; the
nine webhooks when things are created, started, ended, attended and watched, to those who subscribed, and none for a change that
Livestorm tells nobody of. It does not: OAuth, registration through the API, chat, recordings, anything of its web pages.
"""

from stages.sandbox.livestorm.server import Options, application, serve

__all__ = ["Options", "application", "serve"]
