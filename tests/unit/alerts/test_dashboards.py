"""The dashboards are whole: every panel has a title, a unit, a source and queries that Prometheus can read, about metrics that exist."""

import json
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from deploy.local.stack import SERVICES
from shared.observability import metrics
from shared.observability.sampled import SampledGauge
from tests.support.environment import ROOT
from tests.support.programs import INSTALLED_WITHIN_S
from tests.unit.alerts.known_metrics import exposed, metrics_in, unknown_metrics
from tests.unit.alerts.promtool import run

pytestmark = pytest.mark.timeout(INSTALLED_WITHIN_S)
GRAFANA: Final = ROOT / "deploy/grafana"
DASHBOARDS: Final = sorted((GRAFANA / "dashboards").glob("*.json"))
UNITS: Final = {"s", "short", "ops", "bytes", "percentunit", "bool_yes_no"}

SOURCE: Final = {"const": {"type": "prometheus", "uid": "prometheus"}}
TEXT: Final = {"type": "string", "minLength": 1}
PLACE: Final = {
    "type": "object",
    "required": ["h", "w", "x", "y"],
    "properties": {"w": {"type": "integer", "minimum": 1, "maximum": 24}, "x": {"type": "integer", "maximum": 23}},
}
PANEL: Final = {
    "type": "object",
    "required": ["id", "type", "title", "datasource", "gridPos", "fieldConfig", "targets"],
    "properties": {
        "type": {"enum": ["stat", "timeseries"]},
        "title": TEXT,
        "datasource": SOURCE,
        "gridPos": PLACE,
        "fieldConfig": {
            "type": "object",
            "required": ["defaults"],
            "properties": {
                "defaults": {
                    "type": "object",
                    "required": ["unit", "thresholds"],
                    "properties": {"unit": {"enum": sorted(UNITS)}},
                }
            },
        },
        "targets": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["refId", "datasource", "expr", "legendFormat"],
                "properties": {"datasource": SOURCE, "expr": TEXT, "legendFormat": TEXT},
            },
        },
    },
}
ROW: Final = {"type": "object", "required": ["id", "title", "gridPos"], "properties": {"type": {"const": "row"}}}
DASHBOARD: Final = {
    "type": "object",
    "required": ["uid", "title", "description", "schemaVersion", "panels", "time", "refresh"],
    "properties": {
        "uid": {"type": "string", "pattern": "^remit-[a-z-]{1,34}$"},
        "title": TEXT,
        "description": TEXT,
        "panels": {
            "type": "array",
            "minItems": 10,
            "items": {"if": {"properties": {"type": {"const": "row"}}}, "then": ROW, "else": PANEL},
        },
    },
}


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def test_there_is_one_for_money_and_one_for_each_service() -> None:
    assert {path.stem for path in DASHBOARDS} == {"money", *SERVICES}
    assert len({read(path)["uid"] for path in DASHBOARDS}) == len(DASHBOARDS)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_is_whole(path: Path) -> None:
    dashboard = read(path)
    jsonschema.validate(dashboard, DASHBOARD)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells)), "panels lie on each other"
    assert all(x < 24 for x, _ in cells)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_names_metrics_that_exist(path: Path) -> None:
    for query in queries(read(path)):
        assert metrics_in(query), query
        assert not unknown_metrics(query), query


def test_an_invented_metric_is_found() -> None:
    assert unknown_metrics("sum(rate(remit_invented_total[5m]))") == {"remit_invented_total"}
    assert unknown_metrics('max by (queue) (rabbitmq_invented{queue="a"})') == {"rabbitmq_invented"}


def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    """Each is taken as what a rule records, since promtool checks rules."""
    rules = [
        {"record": f"query:{number}", "expr": query}
        for number, query in enumerate(query for path in DASHBOARDS for query in queries(read(path)))
    ]
    file = tmp_path / "queries.json"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(rules)} rules found" in run("check", "rules", str(file))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_what_every_instance_shows_is_never_summed_over_instances(path: Path) -> None:
    of_stores = {metric.name for metric in vars(metrics).values() if isinstance(metric, SampledGauge)} - {
        "remit_gateway_pace"
    }
    for query in queries(read(path)):
        if metrics_in(query) & of_stores:
            assert "max" in query or "min" in query, f"{path.stem}: several instances show the same: {query}"


def test_every_metric_is_on_a_dashboard() -> None:
    """Apart from those of which only the sum or the buckets are drawn."""
    drawn = {name for path in DASHBOARDS for query in queries(read(path)) for name in metrics_in(query)}
    families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in drawn}
    missing = {
        name
        for name in exposed()
        if name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") not in families
    }
    assert not missing


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    source = (GRAFANA / "provisioning/datasources/prometheus.yaml").read_text()
    assert f"uid: {read(DASHBOARDS[0])['panels'][1]['datasource']['uid']} " in source
    assert "path: /var/lib/grafana/dashboards" in (GRAFANA / "provisioning/dashboards/remit.yaml").read_text()
