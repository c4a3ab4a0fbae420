"""Guards infra/grafana: queries that parse, names and labels that are exported, panels that fit.

Ray's own names are looked up in the source of the Ray that is installed.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import ray
import yaml

from pipeline.metrics.definitions import METRICS, MetricKind

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "infra" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "lvspec.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
DOCS = (ROOT / "docs" / "metrics.md").read_text()
WIDTH = 24
"""Columns of a dashboard."""

RAYS_OWN = {
    "ray_node_cpu_utilization": {"instance"},
    "ray_node_gpus_utilization": {"instance"},
    "ray_node_gram_used": {"instance"},
    "ray_object_store_memory": {"instance"},
    "ray_resources": {"instance", "Name"},
    "ray_serve_autoscaling_desired_replicas": {"application", "deployment"},
    "ray_serve_autoscaling_target_replicas": {"application", "deployment"},
    "ray_serve_deployment_replica_healthy": {"application", "deployment"},
    "ray_serve_num_http_requests_total": {"status_code"},
}
"""Labels that queries may use; Prometheus adds ``instance``."""


def exported() -> dict[str, set[str]]:
    """Series of Ray's agents that are ours, and their labels."""
    series = {}
    for metric in METRICS:
        labels = set(metric.label_names)
        if metric.kind is MetricKind.HISTOGRAM:
            series[f"ray_{metric.name}_bucket"] = labels | {"le"}
            series[f"ray_{metric.name}_sum"] = labels
            series[f"ray_{metric.name}_count"] = labels
        else:
            series[f"ray_{metric.name}"] = labels
    return series


SERIES = exported() | RAYS_OWN


def queries() -> dict[str, str]:
    """By panel and letter, as Grafana would send them."""
    return {
        f"{panel['title']}: {target['refId']}": as_sent(target["expr"])
        for panel in PANELS
        for target in panel.get("targets", [])
    }


def as_sent(query: str) -> str:
    return query.replace("$__rate_interval", "5m").replace("$model", "any")


def nodes(query: str) -> list[Any]:
    """Of the parsed query, all of them. Raises ValueError if it does not parse."""
    seen: list[Any] = []
    promql_parser.walk(promql_parser.parse(query), seen.append)
    return seen


def selectors(query: str) -> Iterator[Any]:
    for node in nodes(query):
        if isinstance(node, promql_parser.VectorSelector):
            yield node
        elif isinstance(node, promql_parser.MatrixSelector):
            yield node.vector_selector


def problems(query: str) -> list[str]:
    """Names that nobody exports, and labels that they do not have."""
    found = []
    known: set[str] = set()
    for selector in selectors(query):
        if selector.name not in SERIES:
            found.append(f"{selector.name} is not exported")
            continue
        labels = SERIES[selector.name]
        known |= labels
        matched = {matcher.name for matcher in selector.matchers.matchers}
        found += [f"{selector.name} has no {label}" for label in sorted(matched - labels)]
    for node in nodes(query):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            found += [f"no {label}" for label in node.modifier.labels if label not in known]
    return found


# --- the dashboard -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", queries())
def test_a_query_parses_and_asks_for_what_is_exported(name: str) -> None:
    query = queries()[name]
    assert list(selectors(query)), "a panel without a series"
    assert problems(query) == []


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("ray_lvspec_promt_tokens_total", "ray_lvspec_promt_tokens_total is not exported"),
        ("sum(rate(lvspec_prompt_tokens_total[5m]))", "lvspec_prompt_tokens_total is not exported"),
        (
            'ray_lvspec_failures_total{reason="x"}',
            "ray_lvspec_failures_total has no reason",
        ),
        ("sum by (cause) (rate(ray_lvspec_failures_total[5m]))", "no cause"),
    ],
)
def test_a_wrong_query_is_found(query: str, problem: str) -> None:
    """The check above would be worth nothing if it let anything through."""
    assert problem in problems(query)


def test_a_query_that_does_not_parse_is_found() -> None:
    with pytest.raises(ValueError, match=r"\w"):
        nodes("sum(rate(ray_lvspec_failures_total[5m])")


@pytest.mark.parametrize("name", queries())
def test_counters_are_rates_and_gauges_are_not(name: str) -> None:
    """A counter itself says how long a process lives; the rate of a gauge says nothing."""
    query = queries()[name]
    in_range = {
        node.vector_selector.name
        for node in nodes(query)
        if isinstance(node, promql_parser.MatrixSelector)
    }
    for selector in selectors(query):
        is_cumulative = selector.name.endswith(("_total", "_bucket", "_sum", "_count"))
        assert (selector.name in in_range) == is_cumulative, selector.name


@pytest.mark.parametrize("name", queries())
def test_quantiles_keep_the_buckets_apart(name: str) -> None:
    """Without ``le`` a quantile of sums is silently no number."""
    query = queries()[name]
    if "histogram_quantile" in query:
        assert "by (le)" in query
        assert all(selector.name.endswith("_bucket") for selector in selectors(query))


def test_legends_name_labels_that_the_query_keeps() -> None:
    for panel in PANELS:
        for target in panel.get("targets", []):
            kept = {
                label
                for node in nodes(as_sent(target["expr"]))
                if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None
                for label in node.modifier.labels
            }
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert named <= kept, (panel["title"], named - kept)


def test_every_metric_is_looked_at() -> None:
    """What no panel shows is exported for nobody."""
    asked = {selector.name for query in queries().values() for selector in selectors(query)}
    for metric in METRICS:
        assert {f"ray_{metric.name}", f"ray_{metric.name}_bucket"} & asked, metric.name


@cache
def rays_source() -> str:
    package = Path(ray.__file__).parent
    folders = (package / "serve" / "_private", package / "dashboard" / "modules")
    return "\n".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))


@pytest.mark.parametrize("name", RAYS_OWN)
def test_rays_own_names_are_in_ray(name: str) -> None:
    """Ray's source has counters without ``_total``, and HTTP's with the protocol left out."""
    source = rays_source()
    bare = name.removeprefix("ray_").removesuffix("_total")
    by_protocol = bare.replace("_http_", "_{protocol_name}_")
    assert any(f'"{each}"' in source for each in (bare, by_protocol)) or name in source
    for label in RAYS_OWN[name] - {"instance"}:
        assert f'"{label}"' in source or f"{label}=" in source


def test_panel_ids_are_unique() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert len(set(titles)) == len(titles) >= 4


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    place = panel["gridPos"]
    columns = range(place["x"], place["x"] + place["w"])
    return set(product(columns, range(place["y"], place["y"] + place["h"])))


def test_panels_do_not_overlap_and_fit_the_width() -> None:
    for panel in PANELS:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= WIDTH, panel["title"]
        assert panel["gridPos"]["h"] > 0
    for one, other in combinations(PANELS, 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


def test_panels_say_what_they_show_and_take_the_chosen_source() -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["model"]["multi"] is True
    for panel in PANELS:
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        for source in (panel["datasource"], *(each["datasource"] for each in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${datasource}"}
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)


def test_our_queries_go_by_the_chosen_model() -> None:
    for panel in PANELS:
        for target in panel.get("targets", []):
            names = re.findall(r"ray_lvspec_\w+", target["expr"])
            assert target["expr"].count('model_name=~"$model"') == len(names), panel["title"]


def test_the_models_to_choose_from_come_of_a_metric_of_ours() -> None:
    (variable,) = (v for v in DASHBOARD["templating"]["list"] if v["name"] == "model")
    name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
    assert label in SERIES[name]


def test_the_promise_is_a_dashed_line() -> None:
    (panel,) = (panel for panel in PANELS if panel["title"] == "Facts kept")
    letters = {target["legendFormat"]: target["refId"] for target in panel["targets"]}
    (override,) = panel["fieldConfig"]["overrides"]
    assert override["matcher"]["options"] == letters["promise"]
    styles = {each["id"]: each["value"] for each in override["properties"]}
    assert styles["custom.lineStyle"]["fill"] == "dash"


# --- scraping, and the docs ----------------------------------------------------------------------


def test_an_endpoint_of_one_process_gets_the_dashboards_names() -> None:
    config = yaml.safe_load((GRAFANA / "prometheus.yaml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    (rule,) = jobs["lvspec-endpoint"]["metric_relabel_configs"]
    assert (rule["source_labels"], rule["target_label"]) == (["__name__"], "__name__")
    for metric in METRICS:
        replacement = rule["replacement"].replace("$", "\\")
        assert re.sub(f"^(?:{rule['regex']})$", replacement, metric.name) == f"ray_{metric.name}"


def test_prometheus_finds_the_nodes_where_ray_writes_them() -> None:
    config = yaml.safe_load((GRAFANA / "prometheus.yaml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    (files,) = jobs["ray"]["file_sd_configs"]
    (path,) = files["files"]
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    assert path == f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"
    assert path in DOCS


def test_the_pod_monitor_selects_kuberays_pods_by_the_ports_that_it_names() -> None:
    monitor = yaml.safe_load((GRAFANA / "podmonitor.yaml").read_text())
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
    ports = [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]]
    assert ports == ["metrics", "as-metrics", "dash-metrics"]


def test_the_docs_queries_parse_and_ask_for_what_is_exported() -> None:
    (block,) = re.findall(r"```promql\n(.*?)```", DOCS, re.DOTALL)
    lines = [line for line in block.splitlines() if line and not line.startswith("#")]
    assert len(lines) >= 4
    for line in lines:
        assert problems(line) == [], line


def test_the_docs_say_what_was_not_run() -> None:
    assert "Not run here: Prometheus, Grafana" in DOCS
