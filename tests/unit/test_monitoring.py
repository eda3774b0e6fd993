"""Prometheus and Grafana ask for what is there: each part is found, and each metric and label of alerts and dashboard is exported."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stages.metrics import Metrics
from tests import compose
from tests.compose import ROOT

HERE = ROOT / "docs/monitoring"
DASHBOARD = json.loads((HERE / "grafana/dashboards/turnout.json").read_text())
PROMETHEUS = compose.yaml(HERE / "prometheus.yml")
ALERTS = [rule for group in compose.yaml(HERE / "alerts.yml")["groups"] for rule in group["rules"]]
TARGET = {"part", "instance", "job"}
"""Labels that Prometheus itself gives."""
WORDS = {
    "sum", "max", "min", "by", "rate", "increase", "topk", "bottomk", "histogram_quantile", "quantile", "absent", "scalar", "unless", "or",
    "and", "offset", "on", "without", "count", "min_over_time",
}  # fmt: skip


def exported() -> dict[str, set[str]]:
    """The labels of every sample that a part can export, made by calling everything that its metrics offer."""
    metrics = Metrics({"BRAND_NEW_CODE": 1})
    metrics.webhook("acme", "accepted")
    metrics.outcome("create", "acme", "emitted", "")
    metrics.delivered(1.0)
    metrics.lag("create", {"acme": 1}, {"acme": 1.0})
    metrics.unread("create", 1)
    metrics.lanes("create", {("blocked", "SERVER_UNAVAILABLE"): 1})
    metrics.committed("create", 1)
    metrics.rebalanced("create", 1)
    metrics.retention("create", 0.5)
    metrics.incident("create", "foreign_commit")
    metrics.salesforce_call("acme", "query", "ok")
    metrics.salesforce_calls_left("acme", 1.0)
    families = text_string_to_metric_families(metrics.text().decode())
    samples: dict[str, set[str]] = {"up": set()}
    for sample in (sample for family in families for sample in family.samples):
        samples.setdefault(sample.name, set()).update(sample.labels)
    return samples


SAMPLES = exported()


def expressions() -> Iterator[tuple[str, str, set[str]]]:
    """Where it stands, the expression, and the labels that texts beside it speak of."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    for rule in ALERTS:
        texts = " ".join(rule["annotations"].values())
        yield rule["alert"], rule["expr"], set(re.findall(r"\$labels\.(\w+)", texts))


def metrics_of(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric that an expression selects, with the labels that it selects by."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\b(?:by|without|on) \([^)]*\)", "", bare)
    bare = re.sub(r"\[[^\]]*\]|\boffset \w+", "", bare)
    for name, selectors in re.findall(r"([a-zA-Z_]\w*)(?:{([^}]*)})?", bare):
        if name not in WORDS:
            yield name, set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)", selectors))


CASES = list(expressions())


@pytest.mark.parametrize(("where", "expression", "told"), CASES, ids=[where for where, _, _ in CASES])
def test_every_metric_and_label_is_exported(where: str, expression: str, told: set[str]) -> None:
    selected = list(metrics_of(expression))
    assert selected
    for name, labels in selected:
        assert name in SAMPLES, f"{where}: no part exports {name}"
        assert labels <= SAMPLES[name] | TARGET, f"{where}: {name} has no label {labels - SAMPLES[name] - TARGET}"
    known = set.union(*(SAMPLES[name] for name, _ in selected)) | TARGET
    kept = [set(re.split(r",\s*", group)) for group in re.findall(r"\bby \(([^)]*)\)", expression)]
    for group in kept:
        assert group <= known, f"{where}: grouped by {group - known}"
    left = set.union(*kept) if kept else known
    if "absent(" in expression:
        left |= {label for _, labels in selected for label in labels}
    assert told <= left, f"{where}: speaks of {told - left}, which the expression does not keep"


def test_a_metric_that_is_not_exported_is_found_out() -> None:
    found = dict(metrics_of('sum by (stage) (rate(turnout_nonsense_total{stage=~"$stage"}[5m])) > 0'))
    assert found == {"turnout_nonsense_total": {"stage"}}
    assert "turnout_nonsense_total" not in SAMPLES


def test_every_metric_of_the_product_is_shown() -> None:
    shown = {name for _, expression, _ in CASES for name, _ in metrics_of(expression)}
    derived = re.compile(r"_(created|count|sum)$")
    assert {name for name in SAMPLES if name.startswith("turnout_") and not derived.search(name)} <= shown


def test_variables_of_the_dashboard_are_labels() -> None:
    for variable in DASHBOARD["templating"]["list"]:
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert found is not None
        assert found[2] in SAMPLES[found[1]]
    used = {name for _, expression, _ in CASES for name in re.findall(r"\$(\w+)", expression)} - {"__rate_interval"}
    assert used == {variable["name"] for variable in DASHBOARD["templating"]["list"]}


def test_the_dashboard_asks_the_source_that_is_provisioned() -> None:
    sources = compose.yaml(HERE / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    prometheus = compose.services()["prometheus"]
    assert [source["url"] for source in sources] == [f"http://prometheus:{prometheus['ports'][0].rpartition(':')[2]}"]
    asked = {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())}
    assert asked == {source["uid"] for source in sources}


def test_grafana_finds_the_dashboard() -> None:
    provider = compose.yaml(HERE / "grafana/provisioning/dashboards/turnout.yml")["providers"][0]
    mounts = dict(volume.split(":")[:2] for volume in compose.services()["grafana"]["volumes"])
    assert mounts["./docs/monitoring/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./docs/monitoring/grafana/provisioning"] == "/etc/grafana/provisioning"
    home = compose.environment(compose.services()["grafana"])["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == provider["options"]["path"] + "/turnout.json"


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(x < 24 for x, _ in cells)


def test_prometheus_finds_every_copy_of_every_part() -> None:
    """A name of a service gives the addresses of all its copies; each is asked where that part listens."""
    found = {
        name: sd["port"]
        for job in PROMETHEUS["scrape_configs"]
        for sd in job["dns_sd_configs"]
        if sd["type"] == "A"
        for name in sd["names"]
    }
    assert found == {part: compose.port(service) for part, service in compose.part_services().items()}
    assert all(
        job["relabel_configs"] == [{"source_labels": ["__meta_dns_name"], "target_label": "part"}] for job in PROMETHEUS["scrape_configs"]
    )


def test_prometheus_reads_the_alerts() -> None:
    mounts = dict(volume.split(":")[:2] for volume in compose.services()["prometheus"]["volumes"])
    assert mounts["./docs/monitoring/alerts.yml"] == "/etc/prometheus/" + PROMETHEUS["rule_files"][0]
