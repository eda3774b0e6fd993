"""The metrics have the names that dashboards rely on, and every part answers its three pages."""

import socket
from collections import Counter

import aiohttp
import pytest

from pipeline.stage import Observer
from stages.environment import Address
from stages.metrics import Metrics, PortInUse, application, routes, serving


def lines(metrics: Metrics) -> set[str]:
    return {line for line in metrics.text().decode().splitlines() if line.startswith("turnout_") and "_created" not in line}


def test_every_metric_has_the_name_and_labels_of_the_interface() -> None:
    metrics = Metrics()
    observer: Observer = metrics
    metrics.webhook("w", "accepted")
    observer.outcome("create", "o", "rejected", "STRING_TOO_LONG", 3)
    observer.lag("create", {"o": 7}, {"o": 1.5})
    observer.unread("create", 9)
    observer.lanes("create", {("blocked", "http_503"): 2})
    observer.delivered(0.2)
    metrics.salesforce_call("o", "composite", "ok")
    metrics.salesforce_calls_left("o", 14_000)
    assert {
        'turnout_webhooks_total{outcome="accepted",workspace="w"} 1.0',
        'turnout_outcomes_total{org="o",outcome="rejected",reason="STRING_TOO_LONG",stage="create"} 3.0',
        'turnout_lag_messages{org="o",stage="create"} 7.0',
        'turnout_lag_seconds{org="o",stage="create"} 1.5',
        'turnout_unread_messages{stage="create"} 9.0',
        'turnout_lanes{cause="http_503",stage="create",state="blocked"} 2.0',
        'turnout_delivery_seconds_bucket{le="0.25"} 1.0',
        'turnout_salesforce_calls_total{org="o",outcome="ok",resource="composite"} 1.0',
        'turnout_salesforce_calls_left{org="o"} 14000.0',
    } <= lines(metrics)


def test_what_is_over_is_no_longer_told() -> None:
    """A lane that is free again must not stand in a dashboard for ever; another stage's lanes stay."""
    metrics = Metrics()
    metrics.lanes("create", {("blocked", "x"): 1, ("busy", ""): 2})
    metrics.lanes("match", {("blocked", "x"): 1})
    metrics.lanes("create", {("busy", ""): 1})
    metrics.lag("create", {"a": 1, "b": 2}, {"a": 1.0, "b": 2.0})
    metrics.lag("create", {"b": 1}, {"b": 1.0})
    told = {line for line in lines(metrics) if line.startswith(("turnout_lanes", "turnout_lag_messages"))}
    assert told == {
        'turnout_lanes{cause="",stage="create",state="busy"} 1.0',
        'turnout_lanes{cause="x",stage="match",state="blocked"} 1.0',
        'turnout_lag_messages{org="b",stage="create"} 1.0',
    }


def test_errors_that_nobody_knows_are_told_as_they_are_counted() -> None:
    counted = Counter[str]()
    metrics = Metrics(counted)
    assert not [line for line in lines(metrics) if "unknown_codes" in line]
    counted["BRAND_NEW_CODE"] += 2
    assert 'turnout_salesforce_unknown_codes_total{code="BRAND_NEW_CODE"} 2.0' in lines(metrics)


async def test_every_part_answers_health_readiness_and_metrics() -> None:
    trouble: list[str] = []
    app = application(routes(Metrics(), lambda: trouble[0] if trouble else None))
    async with serving(app, Address("127.0.0.1", 0), "TURNOUT_METRICS") as where, aiohttp.ClientSession() as session:

        async def asked(path: str) -> tuple[int, str]:
            async with session.get(f"http://{where}{path}") as answer:
                return answer.status, await answer.text()

        assert await asked("/healthz") == (200, '{"ok": true}')
        assert await asked("/readyz") == (200, '{"ready": true}')
        trouble.append("no progress for 120 s")
        assert await asked("/readyz") == (503, '{"ready": false, "reason": "no progress for 120 s"}')
        assert (await asked("/healthz"))[0] == 200
        status, text = await asked("/metrics")
        assert status == 200
        assert "process_resident_memory_bytes" in text


async def test_a_port_in_use_names_the_variable_to_set() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(PortInUse, match=f"can't listen on {address}: .*; set TURNOUT_METRICS"):
            async with serving(application([]), address, "TURNOUT_METRICS"):
                pass
