"""What is counted, in a registry of our own: an application that embeds the facade decides where it shows.

    from sagaz_tiering import metrics
    metrics.SAVE_FAILURES.labels(reason=type(exc).__name__).inc()

The daemon serves `exposition()` at /metrics; an application can register `REGISTRY` with its own exporter.
Labels are small closed sets, never ids. Gauges of the store as a whole are the same in every daemon: aggregate them by
`max`, all others by `sum`. docs/reference/metrics.md is `python -m sagaz_tiering.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
REGISTRY: Final = CollectorRegistry()

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_SLOW = (0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)

SAVES: Final = Counter(
    "sagaz_tiering_saves",
    "Snapshots saved, by the durability they were acknowledged with",
    ["durability"],
    registry=REGISTRY,
)
SAVES_IN_PLACE: Final = Counter(
    "sagaz_tiering_saves_in_place",
    "Snapshots that PostgreSQL took in place of a Redis that could not",
    registry=REGISTRY,
)
SAVE_FAILURES: Final = Counter(
    "sagaz_tiering_save_failures",
    "Saves that raised, by error class (the saga engine swallows the error itself)",
    ["reason"],
    registry=REGISTRY,
)
SAVE_SECONDS: Final = Histogram(
    "sagaz_tiering_save_seconds", "Time of a save until it was acknowledged", buckets=_FAST, registry=REGISTRY
)
ATTRIBUTES_LEFT_OUT: Final = Counter(
    "sagaz_tiering_attributes_left_out",
    "Saves of snapshots that are not found by all values of an attribute, since those were too long or too many",
    ["attribute", "reason"],
    registry=REGISTRY,
)
SAGAS_OF_MANY_VALUES: Final = Gauge(
    "sagaz_tiering_sagas_of_many_values",
    "Sagas that are not found by all values of an attribute, since they have more of them than a saga is found by",
    ["attribute"],
    registry=REGISTRY,
)
STORED_AS_TEXT: Final = Counter(
    "sagaz_tiering_values_stored_as_text",
    "Values in contexts that were replaced by their text, where `on_unsupported` says so, by storage",
    ["storage"],
    registry=REGISTRY,
)
READS: Final = Counter(
    "sagaz_tiering_reads",
    "Snapshots read, by the tier that had them",
    ["tier"],
    registry=REGISTRY,
)
READ_FAILURES: Final = Counter(
    "sagaz_tiering_read_failures", "Reads that raised, by error class", ["reason"], registry=REGISTRY
)
READ_SECONDS: Final = Histogram("sagaz_tiering_read_seconds", "Time of a read", buckets=_FAST, registry=REGISTRY)
HOT_TIER_CHANGES: Final = Counter(
    "sagaz_tiering_hot_tier_changes",
    "Times that this process found Redis to be another one, or to have gone back",
    registry=REGISTRY,
)
HOT_SAVES_LOST: Final = Counter(
    "sagaz_tiering_hot_saves_lost",
    "Snapshots that Redis alone had acknowledged and that a job here found lost",
    registry=REGISTRY,
)
HOT_SAVES_UNNOTED: Final = Counter(
    "sagaz_tiering_hot_saves_unnoted",
    "Snapshots that Redis alone acknowledged and that the catalog could not be told of",
    registry=REGISTRY,
)
HOT_TIER_TRUSTED: Final = Gauge(
    "sagaz_tiering_hot_tier_trusted",
    "1 while Redis is trusted alone, 0 until `reconcile` is through",
    registry=REGISTRY,
)
HOT_SAVES_MISSING: Final = Gauge(
    "sagaz_tiering_hot_saves_missing", "Snapshots that are known to be lost, and not accepted", registry=REGISTRY
)
DATA_KEYS_LOCKED: Final = Gauge(
    "sagaz_tiering_data_keys_locked",
    "Data keys whose master key does not open them: what they encrypt cannot be read",
    registry=REGISTRY,
)
JOB_RUNS: Final = Counter(
    "sagaz_tiering_job_runs",
    "Runs of a job: done, failed, budget (used up), closed (its window, before the end), cut_short, outside (of its "
    "windows, so it did nothing) or skipped (another process held the lease)",
    ["job", "outcome"],
    registry=REGISTRY,
)
JOB_ERRORS: Final = Counter(
    "sagaz_tiering_job_errors", "Runs of a job that raised, by error class", ["job", "reason"], registry=REGISTRY
)
JOB_SECONDS: Final = Histogram(
    "sagaz_tiering_job_seconds", "Time of a job's run", ["job"], buckets=_SLOW, registry=REGISTRY
)
JOB_ITEMS: Final = Counter(
    "sagaz_tiering_job_items",
    "What jobs did, by kind of count (see the job's report)",
    ["job", "kind"],
    registry=REGISTRY,
)
JOB_LAST_SUCCESS: Final = Gauge(
    "sagaz_tiering_job_last_success_timestamp_seconds",
    "When a run of the job last ended well",
    ["job"],
    registry=REGISTRY,
)
JOB_LONGEST_WAIT: Final = Gauge(
    "sagaz_tiering_job_longest_wait_seconds",
    "Longest time between two starts of the job that its schedule asks for",
    ["job"],
    registry=REGISTRY,
)
JOB_RUNNING: Final = Gauge("sagaz_tiering_job_running", "1 while the job runs here", ["job"], registry=REGISTRY)
SPENT_REQUESTS: Final = Counter(
    "sagaz_tiering_spent_requests", "Requests to the object store by the jobs here", ["kind"], registry=REGISTRY
)
SPENT_USD: Final = Counter(
    "sagaz_tiering_spent_usd",
    "What the jobs here spent on the object store, by list prices",
    ["kind"],
    registry=REGISTRY,
)
READY: Final = Gauge("sagaz_tiering_ready", "1 while the daemon is ready", registry=REGISTRY)
SERVER_UP: Final = Gauge(
    "sagaz_tiering_server_up", "1 if the last ping of the server was answered", ["server"], registry=REGISTRY
)
CLOCK_SURE: Final = Gauge(
    "sagaz_tiering_clock_sure",
    "1 while the clock of the catalog's server is known, so that things may expire",
    registry=REGISTRY,
)
CLOCK_HOST_AHEAD: Final = Gauge(
    "sagaz_tiering_clock_host_ahead_seconds",
    "How far this host's clock is ahead of that of the catalog's server",
    registry=REGISTRY,
)
CONFIG_RELOADS: Final = Counter(
    "sagaz_tiering_config_reloads", "Reloads on SIGHUP: accepted or rejected", ["outcome"], registry=REGISTRY
)

# -- what this process does -------------------------------------------------------------------------------------------

JOB_RETRIES: Final = Counter(
    "sagaz_tiering_job_retries", "Runs brought forward because the last one failed", ["job"], registry=REGISTRY
)
S3_SECONDS: Final = Histogram(
    "sagaz_tiering_s3_request_seconds",
    "Requests to S3: their time and, in `_count`, their number; outcome is ok, cut_short or the error class, the "
    "storage class is that of the object where request or answer tell it",
    ["operation", "outcome", "storage_class"],
    buckets=(0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0),
    registry=REGISTRY,
)
S3_RETRIES: Final = Counter(
    "sagaz_tiering_s3_retries", "Requests to S3 that were asked again", ["operation"], registry=REGISTRY
)
LEASES_HELD: Final = Gauge(
    "sagaz_tiering_leases_held", "Leases that this process holds, by job", ["job"], registry=REGISTRY
)
DICTIONARY_LOOKUPS: Final = Counter(
    "sagaz_tiering_dictionary_lookups",
    "Dictionaries asked for, by use (read, write) and outcome: hit (in memory), loaded, missing; none where new data "
    "of a saga name have none",
    ["use", "outcome"],
    registry=REGISTRY,
)
POOL_IN_USE: Final = Gauge(
    "sagaz_tiering_pool_in_use", "Connections of this process in use, by server", ["server"], registry=REGISTRY
)
POOL_LIMIT: Final = Gauge(
    "sagaz_tiering_pool_limit", "Connections that this process may open, by server", ["server"], registry=REGISTRY
)

# -- the store as a whole: every daemon says the same ------------------------------------------------------------------


def _of_the_store(name: str, says: str, *labels: str) -> Gauge:
    return Gauge(f"sagaz_tiering_{name}", says, labels, registry=REGISTRY)


_PLACE = ("tier", "storage_class")
STORED_SNAPSHOTS: Final = _of_the_store(
    "stored_snapshots", "Snapshots by tier (durable, cold, retiring) and storage class; Redis does not tell", *_PLACE
)
STORED_PACKS: Final = _of_the_store("stored_packs", "Packs by tier (cold, retiring) and storage class", *_PLACE)
STORED_BYTES: Final = _of_the_store(
    "stored_bytes", "Bytes by tier (hot: the memory of Redis) and storage class", *_PLACE
)
STORED_USD: Final = _of_the_store(
    "stored_usd_per_month", "What storing the packs costs a month, by list prices", *_PLACE
)
LAG_SECONDS: Final = _of_the_store(
    "lag_seconds", "Age of the oldest that is due to be archived and is not, 0 for none, by tier (hot, durable)", "tier"
)
QUEUE_LENGTH: Final = _of_the_store(
    "queue_length",
    "What waits: hot_due, hot_waiting (sagas in Redis), hot_untold (saves that the catalog is not told of), "
    "durable_due (copies, at most 100,000), journal (entries not in the bucket), erasure_packs, changed_sagas",
    "queue",
)
LAST_ARCHIVED: Final = _of_the_store(
    "last_archived_timestamp_seconds", "When the newest pack that is still there was begun; 0 where there is none"
)
QUARANTINED: Final = _of_the_store(
    "quarantined", "What failed, by kind and state: failing (tried again) or quarantined (left alone)", "kind", "state"
)
RESTORES: Final = _of_the_store("restores", "Restore requests that are remembered, by state", "state")
RESTORE_OLDEST: Final = _of_the_store(
    "restore_oldest_open_seconds", "Since when the oldest restore is under way, 0 for none"
)
RESTORE_LATE: Final = _of_the_store(
    "restore_late_seconds", "By how much the latest restore is past the time it was promised for, 0 for none"
)
HOLDS: Final = _of_the_store("holds", "Legal holds in force")
PACK_FILL: Final = _of_the_store("pack_fill_ratio", "Mean size of packs, as a share of the target", "storage_class")
PACK_LIVE: Final = _of_the_store(
    "pack_live_ratio", "Share of the snapshots in packs that are live still", "storage_class"
)
PACKS_UNDERSIZED: Final = _of_the_store("packs_undersized", "Packs that are too small", "storage_class")
SPENT_TODAY_USD: Final = _of_the_store("spent_today_usd", "What jobs spent on the object store since midnight, UTC")
SPENT_TODAY_REQUESTS: Final = _of_the_store("spent_today_requests", "Requests that jobs made since midnight, UTC")
BUDGET_USD: Final = _of_the_store("budget_usd_per_day", "What jobs may spend a day; +Inf: no limit")
BUDGET_REQUESTS: Final = _of_the_store("budget_requests_per_day", "Requests that jobs may make a day; +Inf: no limit")
HOT_MEMORY: Final = _of_the_store("hot_memory_bytes", "Memory that Redis uses")
HOT_MEMORY_LIMIT: Final = _of_the_store("hot_memory_limit_bytes", "Redis' maxmemory; +Inf: none is set")
TOTALS_AT: Final = _of_the_store(
    "totals_timestamp_seconds", "When this daemon last looked at what is said of the store; it does each half minute"
)

OWNER: Final = Gauge(
    "sagaz_tiering_owner",
    "How this catalog stands to the bucket, 1 for what it is: owner, behind (a copy, or an older dump), …",
    ["standing"],
    registry=REGISTRY,
)
_told: set[str] = set()


def tell_standing(standing: str) -> None:
    """How the catalog stands to the bucket now."""
    _told.add(standing)
    for each in _told:
        OWNER.labels(standing=each).set(each == standing)


def spend(kind: str, requests: float, usd: float) -> None:
    """Count what a job here spent on the object store."""
    SPENT_REQUESTS.labels(kind=kind).inc(requests)
    SPENT_USD.labels(kind=kind).inc(usd)


def spent() -> dict[str, tuple[float, float]]:
    """Requests and USD so far, by kind."""
    requests, usd = (
        {
            each.labels["kind"]: each.value
            for found in counter.collect()
            for each in found.samples
            if "_total" in each.name
        }
        for counter in (SPENT_REQUESTS, SPENT_USD)
    )
    return {kind: (number, usd[kind]) for kind, number in requests.items()}


def exposition() -> bytes:
    """Every metric in the Prometheus text format (`CONTENT_TYPE`)."""
    return generate_latest(REGISTRY)


_AGGREGATES: Final = {
    f"sagaz_tiering_{name}": aggregate
    for aggregate, names in {
        "sum": ("job_running", "leases_held", "pool_in_use", "pool_limit"),
        "min": ("ready", "server_up", "clock_sure", "hot_tier_trusted"),
    }.items()
    for name in names
}
"""How gauges are taken together over replicas that are not the same in each of them (by `max`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A metric for documents: its name as it is asked for, what to take it together by over replicas, what it says."""

    name: str
    kind: str
    labels: tuple[str, ...]
    says: str
    aggregate: str


def described() -> list[Described]:
    """Every metric, by name."""
    # prometheus-client has no public way to labels and texts of a metric without samples.
    found = []
    for metric in {each for each in REGISTRY._names_to_collectors.values() if isinstance(each, MetricWrapperBase)}:
        name, kind = metric._name, metric._type
        assert kind is not None
        found.append(
            Described(
                name=f"{name}_total" if kind == "counter" else name,
                kind=kind,
                labels=tuple(metric._labelnames),
                says=metric._documentation,
                aggregate=_AGGREGATES.get(name, "max") if kind == "gauge" else "sum",
            )
        )
    return sorted(found, key=lambda each: each.name)


def reference() -> str:
    """docs/reference/metrics.md."""
    rows = [
        f"| `{each.name}` | {each.kind} | {', '.join(f'`{label}`' for label in each.labels)} | {each.aggregate} "
        f"| {each.says} |"
        for each in described()
    ]
    return "\n".join([_REFERENCE, *rows, ""])


_REFERENCE: Final = """<!-- written by: python -m sagaz_tiering.metrics -->
# Metrics

The daemon answers `/metrics` on its port; an application registers `sagaz_tiering.metrics.REGISTRY` with its own
exporter.
No label holds an id. A histogram `NAME` has `NAME_bucket`, `NAME_sum` and `NAME_count`.

**Over replicas**: what is said of the store as a whole is the same from each daemon, so take `max`:
`max by (tier, storage_class) (sagaz_tiering_stored_bytes)`. What a process did is added up:
`sum by (job) (rate(sagaz_tiering_job_errors_total[5m]))`. Of what must be 1 everywhere, take `min`.

A scrape asks no server: each daemon looks at the store every half minute, by a fixed number of sums
(`sagaz_tiering_totals_timestamp_seconds` says when).

| metric | kind | labels | over replicas | what it says |
|---|---|---|---|---|"""

if __name__ == "__main__":
    print(reference(), end="")
