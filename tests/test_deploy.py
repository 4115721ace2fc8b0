"""What lies in deploy/ for Prometheus and Grafana names only what the service exports."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from detectctl.processes import Process
from detectctl.serving import metrics
from detectctl.serving.request_stats import OK, Answered, RequestRecorder
from detectctl.wire import Detection
from scrape import samples
from served import BASE

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
RULES = yaml.safe_load((DEPLOY / "detectctl-alerts.yml").read_text())["groups"][0]["rules"]
OF_PROMETHEUS = {"instance", "job"}
"""Labels that the scrape adds."""


def _page() -> str:
    """Of a service to which everything has happened that is counted."""
    about = {
        "process": asdict(Process.of(os.getpid())),
        "replica": "a",
        "model": BASE.to_json(),
        "queue_limit": 64,
    }
    recorder = RequestRecorder(None, about)
    found = (Detection("person", (0, 0, 1, 1), 0.5, 0),)
    recorder.answered(Answered("/detect", OK, "body", False, 0.1, {"infer": 0.1}, (9, 9), found))
    return metrics.Metrics(recorder.tally).page("", (1, 1))[0].decode()


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """The labels of each metric."""
    labels: dict[str, set[str]] = defaultdict(set)
    for name, told in samples(_page()):
        labels[name] |= {label for label, _ in told} | OF_PROMETHEUS
    return labels


def _expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    return [*panels, *variables, *(rule["expr"] for rule in RULES)]


@pytest.mark.parametrize("expression", _expressions())
def test_an_expression_names_what_is_exported(exported: dict[str, set[str]], expression: str) -> None:
    """Every metric, and every label that it is chosen or summed by."""
    names = set(re.findall(r"detectctl_\w+", re.sub(r'"[^"]*"', '""', expression)))
    assert names <= exported.keys()
    has = set.union(*(exported[name] for name in names)) if names else OF_PROMETHEUS
    chosen = re.findall(r'(\w+)(?:=~|!~|!=|=)"', expression)
    summed = [label for by in re.findall(r"\bby \(([^)]*)\)", expression) for label in re.split(r",\s*", by)]
    assert {*chosen, *summed} <= has
    assert expression.count("(") == expression.count(")")


def test_what_an_alert_or_a_legend_tells_is_a_label(exported: dict[str, set[str]]) -> None:
    labels = set.union(*exported.values())
    legends = [target["legendFormat"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    told = [text for rule in RULES for text in rule["annotations"].values()]
    named = re.findall(r"\{\{\s*(?:\$labels\.)?([a-z]\w*)\s*\}\}", " ".join([*legends, *told]))
    assert len(named) > 10
    assert set(named) <= labels


def test_everything_that_is_exported_is_on_the_dashboard(exported: dict[str, set[str]]) -> None:
    shown = set(re.findall(r"detectctl_\w+", " ".join(_expressions())))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported if not name.endswith("_created")}
    assert {name for name in families if not any(each.startswith(name) for each in shown)} == set()


def test_the_documents_name_what_is_exported(exported: dict[str, set[str]]) -> None:
    """Each metric once, with its labels."""
    text = (DEPLOY.parent / "docs" / "operating.md").read_text()
    told = {
        name: set(re.findall(r"`(\w+)`", labels))
        for names, labels in re.findall(r"^\| (`detectctl_[^|]+)\|([^|]*)\|", text, re.MULTILINE)
        for name in re.findall(r"\w+", names)
    }
    has = {re.sub(r"_(bucket|sum|count)$", "", name): labels for name, labels in exported.items()}
    assert told == {
        name: labels - OF_PROMETHEUS - {"le"} for name, labels in has.items() if not name.endswith("_created")
    }


def test_the_dashboard_is_whole() -> None:
    """Panels have numbers of their own, do not lie upon each other, and ask the data source that is chosen."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    sources: list[dict[str, Any]] = [panel["datasource"] for panel in panels]
    assert {source["uid"] for source in sources} == {"${datasource}"}


def test_promtool_accepts_text_rules_and_configuration(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, of Prometheus, is not installed")
    (tmp_path / "detectctl-alerts.yml").write_text((DEPLOY / "detectctl-alerts.yml").read_text())
    (tmp_path / "prometheus.yml").write_text((DEPLOY / "prometheus.yml").read_text())
    for command, text in (
        (["check", "rules", "detectctl-alerts.yml"], None),
        (["check", "config", "--syntax-only", "prometheus.yml"], None),
        (["check", "metrics"], _page()),
    ):
        done = subprocess.run(
            [promtool, *command], input=text, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
