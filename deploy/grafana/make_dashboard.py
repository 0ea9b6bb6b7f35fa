"""Writes the dashboard: python deploy/grafana/make_dashboard.py > deploy/grafana/dashboard.json

Grafana 9 and later take it by Dashboards > Import. What is said of the whole store is taken by `max` over replicas,
what processes did is added up (docs/reference/metrics.md).
"""

from __future__ import annotations

import json
from typing import Any

S = "sagaz_tiering_"
PLACE = "{{tier}} {{storage_class}}"
WIDTH, HEIGHT = 8, 8

# Row: [(title, unit, [(query, legend), …]), …]; stacked where the unit ends with +.
ROWS: dict[str, list[tuple[str, str, list[tuple[str, str]]]]] = {
    "Is it well?": [
        ("Ready daemons", "short", [(f"sum({S}ready)", "ready"), (f"count({S}ready)", "all")]),
        ("Servers that answer", "short", [(f"min by (server) ({S}server_up)", "{{server}}")]),
        (
            "Lag: age of what is due",
            "s",
            [(f"max by (tier) ({S}lag_seconds)", "{{tier}}"), (f"max({S}restore_late_seconds)", "restore late")],
        ),
    ],
    "What is where, and what it costs": [
        ("Bytes", "bytes+", [(f"max by (tier, storage_class) ({S}stored_bytes)", PLACE)]),
        ("Snapshots", "short+", [(f"max by (tier, storage_class) ({S}stored_snapshots)", PLACE)]),
        (
            "Storage, dollars a month",
            "currencyUSD+",
            [(f"max by (tier, storage_class) ({S}stored_usd_per_month)", PLACE)],
        ),
        (
            "Spent today against the budget",
            "currencyUSD",
            [(f"max({S}spent_today_usd)", "spent"), (f"max({S}budget_usd_per_day) < +Inf", "budget")],
        ),
        ("Packs", "short+", [(f"max by (tier, storage_class) ({S}stored_packs)", PLACE)]),
        (
            "Packs: fill, live share",
            "percentunit",
            [
                (f"max by (storage_class) ({S}pack_fill_ratio)", "fill {{storage_class}}"),
                (f"max by (storage_class) ({S}pack_live_ratio)", "live {{storage_class}}"),
            ],
        ),
        ("Undersized packs", "short", [(f"max by (storage_class) ({S}packs_undersized)", "{{storage_class}}")]),
        (
            "Spent by jobs, a day",
            "currencyUSD+",
            [(f"sum by (kind) (increase({S}spent_usd_total[1d])) or vector(0)", "{{kind}}")],
        ),
        (
            "Redis: memory and its limit",
            "bytes",
            [(f"max({S}hot_memory_bytes)", "used"), (f"max({S}hot_memory_limit_bytes) < +Inf", "limit")],
        ),
    ],
    "Applications": [
        ("Saves a second", "ops+", [(f"sum by (durability) (rate({S}saves_total[5m]))", "{{durability}}")]),
        (
            "Time of a save",
            "s",
            [
                (f"histogram_quantile({q}, sum by (le) (rate({S}save_seconds_bucket[5m])))", f"p{round(q * 100)}")
                for q in (0.5, 0.99)
            ],
        ),
        (
            "Saves that failed, or went to PostgreSQL instead",
            "short",
            [
                (f"sum by (reason) (increase({S}save_failures_total[10m]))", "{{reason}}"),
                (f"sum(increase({S}saves_in_place_total[10m]))", "in place"),
            ],
        ),
        ("Reads a second", "ops+", [(f"sum by (tier) (rate({S}reads_total[5m]))", "{{tier}}")]),
        (
            "Time of a read",
            "s",
            [
                (f"histogram_quantile({q}, sum by (le) (rate({S}read_seconds_bucket[5m])))", f"p{round(q * 100)}")
                for q in (0.5, 0.99)
            ],
        ),
        (
            "Connections in use",
            "percentunit",
            [(f"sum by (server) ({S}pool_in_use) / sum by (server) ({S}pool_limit)", "{{server}}")],
        ),
        (
            "Dictionaries asked for",
            "ops",
            [(f"sum by (use, outcome) (rate({S}dictionary_lookups_total[5m])) or vector(0)", "{{use}} {{outcome}}")],
        ),
    ],
    "Jobs": [
        (
            "Runs",
            "short+",
            [(f"sum by (exported_job, outcome) (increase({S}job_runs_total[10m]))", "{{exported_job}} {{outcome}}")],
        ),
        (
            "Time of runs",
            "s",
            [
                (
                    f"sum by (exported_job) (rate({S}job_seconds_sum[10m])) "
                    f"/ sum by (exported_job) (rate({S}job_seconds_count[10m]))",
                    "{{exported_job}}",
                )
            ],
        ),
        (
            "Failures and retries",
            "short",
            [
                (
                    f"sum by (exported_job, reason) (increase({S}job_errors_total[10m])) or vector(0)",
                    "{{exported_job}} {{reason}}",
                ),
                (f"sum by (exported_job) (increase({S}job_retries_total[10m]))", "{{exported_job}} retried"),
            ],
        ),
        ("Queues", "short", [(f"max by (queue) ({S}queue_length)", "{{queue}}")]),
        ("Quarantine", "short+", [(f"max by (kind, state) ({S}quarantined) or vector(0)", "{{kind}} {{state}}")]),
        (
            "Restores and holds",
            "short",
            [(f"max by (state) ({S}restores)", "restores {{state}}"), (f"max({S}holds)", "holds")],
        ),
        (
            "Leases held",
            "short",
            [(f"sum by (exported_job, instance) ({S}leases_held) or vector(0)", "{{exported_job}} {{instance}}")],
        ),
    ],
    "Object store": [
        (
            "Requests a second",
            "ops+",
            [
                (
                    f"sum by (operation, storage_class) (rate({S}s3_request_seconds_count[5m])) or vector(0)",
                    "{{operation}} {{storage_class}}",
                )
            ],
        ),
        (
            "Time of requests, p99",
            "s",
            [
                (
                    f"histogram_quantile(0.99, sum by (le, operation) (rate({S}s3_request_seconds_bucket[5m]))) "
                    "or vector(0)",
                    "{{operation}}",
                )
            ],
        ),
        (
            "Errors and retries",
            "ops",
            [
                (
                    f'sum by (operation, outcome) (rate({S}s3_request_seconds_count{{outcome!="ok"}}[5m])) '
                    "or vector(0)",
                    "{{operation}} {{outcome}}",
                ),
                (f"sum by (operation) (rate({S}s3_retries_total[5m]))", "{{operation}} retried"),
            ],
        ),
    ],
}
SOURCE = {"type": "prometheus", "uid": "${source}"}


def panel(number: int, title: str, unit: str, queries: list[tuple[str, str]], x: int, y: int) -> dict[str, Any]:
    """One time series panel."""
    custom = {"fillOpacity": 15, "stacking": {"mode": "normal"}} if unit.endswith("+") else {}
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit.rstrip("+"), "min": 0, "custom": custom}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for place, (query, legend) in enumerate(queries)
        ],
    }


def dashboard() -> dict[str, Any]:
    """The whole, row by row, three panels beside each other."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        place = {"x": 0, "y": y, "w": 3 * WIDTH, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place, "panels": []})
        y += 1
        for column, (name, unit, queries) in enumerate(row):
            x = column % 3 * WIDTH
            panels.append(panel(len(panels) + 1, name, unit, queries, x, y + column // 3 * HEIGHT))
        y += -(-len(row) // 3) * HEIGHT
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": "sagaz-tiering",
        "title": "sagaz-tiering",
        "tags": ["sagaz-tiering"],
        "schemaVersion": 38,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
