"""The demonstration: a made-up webinar season, played through signed webhooks, and checked against the orgs afterwards."""
