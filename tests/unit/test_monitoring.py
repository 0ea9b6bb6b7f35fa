"""Metrics, alerts and dashboard agree with each other; Prometheus' own tool accepts them."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import yaml
from support.prometheus import needs_promtool, run_promtool

from tools.reference import described, metrics_reference

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
NAME = re.compile(r"\bsagaz_tiering_[a-z0-9_]+\b")


def series() -> dict[str, set[str]]:
    """What can be asked for, with the labels that it has."""
    found: dict[str, set[str]] = {}
    for each in described():
        parts = ("_bucket", "_sum", "_count") if each.kind == "histogram" else ("",)
        found |= {f"{each.name}{part}": set(each.labels) for part in parts}
    return found


def alerts() -> list[dict[str, str]]:
    """The rules, as they are written."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    rules: list[dict[str, str]] = group["rules"]
    return rules


def unknown(query: str) -> set[str]:
    """Names and labels in a query that no metric has; `job` is `exported_job` once it was scraped."""
    known = series()
    names = set(NAME.findall(query))
    labels = {label.strip() for text in re.findall(r"by \(([^)]*)\)", query) for label in text.split(",")}
    labels |= set(re.findall(r"[{,]\s*(\w+)\s*[=!]", query))
    theirs = {label for name in names & known.keys() for label in known[name]} | {"le", "instance"}
    theirs |= {f"exported_{label}" for label in theirs & {"job"}}
    return (names - known.keys()) | (labels - (theirs - {"job"}))


def test_reference_is_written_from_the_code() -> None:
    """docs/reference/metrics.md says what the registry has."""
    held = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert held == metrics_reference(), "python tools/reference.py metrics > docs/reference/metrics.md"


def test_no_metric_is_labelled_by_an_id() -> None:
    """Labels are small closed sets."""
    assert {label for labels in series().values() for label in labels if label.endswith("id")} == set()
    assert {label for labels in series().values() for label in labels} & {"saga", "saga_name", "pack", "key"} == set()


def test_every_alert_asks_for_what_exists_and_has_a_runbook() -> None:
    """Names and labels are those of metrics, and the link leads to a section with all four parts."""
    text = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    assert sections.keys() == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        assert unknown(rule["expr"]) == set(), rule["alert"]
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"  # type: ignore[index]
        for part in ("Means", "Look at", "Do", "Never"):
            assert f"**{part}**" in sections[rule["alert"]]


def test_every_alert_fires_in_its_test_and_is_silent_on_a_healthy_store() -> None:
    """The rule tests name each of them, once with nothing expected and once with an alert."""
    cases = yaml.safe_load((RULES.parent / "rules.test.yaml").read_text())["tests"]
    silent = {each["alertname"] for each in cases[0]["alert_rule_test"] if not each["exp_alerts"]}
    fires = {each["alertname"] for case in cases[1:] for each in case["alert_rule_test"] if each["exp_alerts"]}
    assert cases[0]["name"] == "healthy store"
    assert silent == fires == {rule["alert"] for rule in alerts()}


def test_dashboard_is_what_its_script_writes_and_asks_for_what_exists() -> None:
    """Every query of every panel has metrics and labels that there are."""
    made = runpy.run_path(str(DASHBOARD.with_name("make_dashboard.py")))["dashboard"]()
    assert json.loads(DASHBOARD.read_text(encoding="utf-8")) == made
    queries = [target["expr"] for panel in made["panels"] for target in panel.get("targets", ())]
    assert len(queries) > 30
    assert {query: unknown(query) for query in queries if unknown(query) or not NAME.findall(query)} == {}


@needs_promtool
def test_promtool_accepts_the_rules_and_their_tests() -> None:
    """`check rules` and `test rules`."""
    run_promtool("check", "rules", "rules.yaml", cwd=RULES.parent)
    run_promtool("test", "rules", "rules.test.yaml", cwd=RULES.parent)
