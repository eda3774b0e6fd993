"""What every part tells of itself: Prometheus metrics, /metrics, /healthz and /readyz. Holds no personal data; decides nothing."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Final

import prometheus_client
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from stages.environment import Address
from stages.errors import TurnoutError

DELIVERY_BUCKETS_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 1_800, 3_600, 14_400, 86_400, 604_800)

Trouble = Callable[[], str | None]
"""Why a part can't do its work now; None: it can."""


class PortInUse(TurnoutError):
    """Somebody else listens there."""


class Metrics:
    """The metrics of one process, in a registry of its own. Every method is quick and never raises for the values it is given."""

    def __init__(self, unknown_codes: Mapping[str, int] | None = None) -> None:
        """`unknown_codes`: how often each error code that Turnout doesn't know was seen; read at each scrape."""
        registry = self.registry = CollectorRegistry()
        registry.register(_UnknownCodes({} if unknown_codes is None else unknown_codes))
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)
        self._webhooks = Counter("turnout_webhooks", "Requests at the ingress.", ["workspace", "outcome"], registry=registry)
        self._outcomes = Counter(
            "turnout_outcomes", "Final outcomes of messages.", ["stage", "org", "outcome", "reason"], registry=registry
        )
        self._lag_messages = _Snapshot(
            Gauge("turnout_lag_messages", "Unfinished messages known to this worker.", ["stage", "org"], registry=registry)
        )
        self._lag_seconds = _Snapshot(
            Gauge("turnout_lag_seconds", "Age of the oldest unfinished message.", ["stage", "org"], registry=registry)
        )
        self._unread = Gauge(
            "turnout_unread_messages", "Messages of this worker's partitions that it has not read yet.", ["stage"], registry=registry
        )
        self._lanes = _Snapshot(Gauge("turnout_lanes", "Lanes that lag or wait.", ["stage", "state", "cause"], registry=registry))
        self._calls = Counter("turnout_salesforce_calls", "Calls to Salesforce.", ["org", "resource", "outcome"], registry=registry)
        self._calls_left = Gauge("turnout_salesforce_calls_left", "Daily calls that the org has left.", ["org"], registry=registry)
        self._delivery = Histogram(
            "turnout_delivery_seconds", "From webhook to Campaign Member.", buckets=DELIVERY_BUCKETS_SECONDS, registry=registry
        )
        self._commits = Counter("turnout_commits", "Partitions committed.", ["stage"], registry=registry)
        self._partitions = Gauge("turnout_partitions", "Partitions that this worker holds.", ["stage"], registry=registry)
        self._rebalances = Counter("turnout_rebalances", "Times that partitions were given out anew.", ["stage"], registry=registry)
        self._retention = Gauge("turnout_retention_used", "Age of the oldest cursor over the retention.", ["stage"], registry=registry)
        self._incidents = Counter("turnout_incidents", "What someone must look at.", ["stage", "kind"], registry=registry)

    # The ingress

    def webhook(self, workspace: str, outcome: str) -> None:
        """One request; `workspace` is a known id or "unknown"."""
        self._webhooks.labels(workspace, outcome).inc()

    # The engine (pipeline.stage.Observer)

    def outcome(self, stage: str, org: str, outcome: str, reason: str, count: int = 1) -> None:
        self._outcomes.labels(stage, org, outcome, reason).inc(count)

    def delivered(self, seconds: float) -> None:
        """From the door to the end of the flow."""
        self._delivery.observe(max(0.0, seconds))

    def lag(self, stage: str, messages: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """By org. What is not named any more is no longer told."""
        self._lag_messages.show(stage, {(org,): number for org, number in messages.items()})
        self._lag_seconds.show(stage, {(org,): age for org, age in seconds.items()})

    def unread(self, stage: str, messages: int) -> None:
        """What lag by org can't hold: whose they are is known once they are read."""
        self._unread.labels(stage).set(messages)

    def lanes(self, stage: str, counts: Mapping[tuple[str, str], int]) -> None:
        """By (state, cause)."""
        self._lanes.show(stage, {(state, cause): count for (state, cause), count in counts.items()})

    def committed(self, stage: str, partitions: int) -> None:
        self._commits.labels(stage).inc(partitions)

    def rebalanced(self, stage: str, partitions: int) -> None:
        """`partitions`: how many this worker holds now."""
        self._rebalances.labels(stage).inc()
        self._partitions.labels(stage).set(partitions)

    def retention(self, stage: str, used: float) -> None:
        """`used`: age of the oldest cursor over the retention; at 0.8 its messages go to the dead letters."""
        self._retention.labels(stage).set(used)

    def incident(self, stage: str, kind: str, count: int = 1) -> None:
        self._incidents.labels(stage, kind).inc(count)

    # The door to Salesforce

    def salesforce_call(self, org: str, resource: str, outcome: str) -> None:
        """One call. `outcome`: ok, an error code of Salesforce, or the kind of failure."""
        self._calls.labels(org, resource, outcome).inc()

    def salesforce_calls_left(self, org: str, calls: float) -> None:
        self._calls_left.labels(org).set(calls)

    def text(self) -> bytes:
        """Prometheus's text format."""
        return prometheus_client.generate_latest(self.registry)


class _UnknownCodes(Collector):
    """A counter that is kept elsewhere."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        told = CounterMetricFamily("turnout_salesforce_unknown_codes", "Errors of Salesforce that Turnout does not know.", labels=["code"])
        for code, count in dict(self._counts).items():
            told.add_metric([code], count)
        return [told]


class _Snapshot:
    """A gauge whose series of one stage are replaced as a whole."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._shown: dict[str, set[tuple[str, ...]]] = {}

    def show(self, stage: str, values: Mapping[tuple[str, ...], float]) -> None:
        for labels in self._shown.get(stage, set()) - set(values):
            self._gauge.remove(stage, *labels)
        for labels, value in values.items():
            self._gauge.labels(stage, *labels).set(value)
        self._shown[stage] = set(values)


def routes(metrics: Metrics, trouble: Trouble) -> list[web.RouteDef]:
    """The pages that every part serves. `trouble` is asked at each /readyz."""

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def readyz(_: web.Request) -> web.Response:
        reason = trouble()
        return web.json_response({"ready": True}) if reason is None else web.json_response({"ready": False, "reason": reason}, status=503)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", exposition)]


def application(pages: Sequence[web.RouteDef]) -> web.Application:
    """A server of these pages alone."""
    app = web.Application()
    app.router.add_routes(pages)
    return app


@contextlib.asynccontextmanager
async def serving(app: web.Application, address: Address, variable: str) -> AsyncIterator[Address]:
    """Serves until the context ends; gives the address with the real port. `variable` names the setting in errors.

    Raises PortInUse where the address can't be taken.
    """
    # Bodies stay what was sent and signed, and as small as they came: nothing unpacks them.
    runner = web.AppRunner(app, access_log=None, handle_signals=False, auto_decompress=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, address.host, address.port)
        try:
            await site.start()
        except OSError as error:
            raise PortInUse(f"can't listen on {address}: {error.strerror or error}; set {variable} to a free host:port") from None
        yield Address(address.host, runner.addresses[0][1])
    finally:
        await runner.cleanup()
