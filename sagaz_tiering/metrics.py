"""What is counted, in a registry of our own: an application that embeds the facade decides where it shows.

    from sagaz_tiering import metrics
    metrics.SAVE_FAILURES.labels(reason=type(exc).__name__).inc()

The daemon serves `exposition()` at /metrics; an application can register `REGISTRY` with its own exporter.
Labels are small closed sets, never ids. Gauges of the store as a whole are the same in every daemon: aggregate them by
`max`, all others by `sum`. docs/reference/metrics.md is `python tools/reference.py metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
REGISTRY: Final = CollectorRegistry()

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_SLOW = (0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
_REQUEST = (0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0)


def _counter(name: str, says: str, *labels: str) -> Counter:
    return Counter(f"sagaz_tiering_{name}", says, labels, registry=REGISTRY)


def _gauge(name: str, says: str, *labels: str) -> Gauge:
    return Gauge(f"sagaz_tiering_{name}", says, labels, registry=REGISTRY)


def _histogram(name: str, says: str, *labels: str, buckets: Sequence[float] = _FAST) -> Histogram:
    return Histogram(f"sagaz_tiering_{name}", says, labels, buckets=buckets, registry=REGISTRY)


SAVES: Final = _counter("saves", "Snapshots saved, by the durability they were acknowledged with", "durability")
SAVES_IN_PLACE: Final = _counter("saves_in_place", "Snapshots that PostgreSQL took in place of a Redis that could not")
SAVE_FAILURES: Final = _counter(
    "save_failures", "Saves that raised, by error class (the saga engine swallows the error itself)", "reason"
)
SAVE_SECONDS: Final = _histogram("save_seconds", "Time of a save until it was acknowledged")
ATTRIBUTES_LEFT_OUT: Final = _counter(
    "attributes_left_out",
    "Saves of snapshots that are not found by all values of an attribute, since those were too long or too many",
    "attribute",
    "reason",
)
SAGAS_OF_MANY_VALUES: Final = _gauge(
    "sagas_of_many_values",
    "Sagas that are not found by all values of an attribute, since they have more of them than a saga is found by",
    "attribute",
)
STORED_AS_TEXT: Final = _counter(
    "values_stored_as_text",
    "Values in contexts that were replaced by their text, where `on_unsupported` says so, by storage",
    "storage",
)
READS: Final = _counter("reads", "Snapshots read, by the tier that had them", "tier")
READ_FAILURES: Final = _counter("read_failures", "Reads that raised, by error class", "reason")
READ_SECONDS: Final = _histogram("read_seconds", "Time of a read")
HOT_TIER_CHANGES: Final = _counter(
    "hot_tier_changes", "Times that this process found Redis to be another one, or to have gone back"
)
HOT_SAVES_LOST: Final = _counter(
    "hot_saves_lost", "Snapshots that Redis alone had acknowledged and that a job here found lost"
)
HOT_SAVES_UNNOTED: Final = _counter(
    "hot_saves_unnoted", "Snapshots that Redis alone acknowledged and that the catalog could not be told of"
)
HOT_TIER_TRUSTED: Final = _gauge("hot_tier_trusted", "1 while Redis is trusted alone, 0 until `reconcile` is through")
HOT_SAVES_MISSING: Final = _gauge("hot_saves_missing", "Snapshots that are known to be lost, and not accepted")
DATA_KEYS_LOCKED: Final = _gauge(
    "data_keys_locked", "Data keys whose master key does not open them: what they encrypt cannot be read"
)
JOB_RUNS: Final = _counter(
    "job_runs",
    "Runs of a job: done, failed, budget (used up), closed (its window, before the end), cut_short, outside (of its "
    "windows, so it did nothing) or skipped (another process held the lease)",
    "job",
    "outcome",
)
JOB_ERRORS: Final = _counter("job_errors", "Runs of a job that raised, by error class", "job", "reason")
JOB_SECONDS: Final = _histogram("job_seconds", "Time of a job's run", "job", buckets=_SLOW)
JOB_ITEMS: Final = _counter("job_items", "What jobs did, by kind of count (see the job's report)", "job", "kind")
JOB_LAST_SUCCESS: Final = _gauge("job_last_success_timestamp_seconds", "When a run of the job last ended well", "job")
JOB_LONGEST_WAIT: Final = _gauge(
    "job_longest_wait_seconds", "Longest time between two starts of the job that its schedule asks for", "job"
)
JOB_RUNNING: Final = _gauge("job_running", "1 while the job runs here", "job")
SPENT_REQUESTS: Final = _counter("spent_requests", "Requests to the object store by the jobs here", "kind")
SPENT_USD: Final = _counter("spent_usd", "What the jobs here spent on the object store, by list prices", "kind")
READY: Final = _gauge("ready", "1 while the daemon is ready")
SERVER_UP: Final = _gauge("server_up", "1 if the last ping of the server was answered", "server")
CLOCK_SURE: Final = _gauge(
    "clock_sure", "1 while the clock of the catalog's server is known, so that things may expire"
)
CLOCK_HOST_AHEAD: Final = _gauge(
    "clock_host_ahead_seconds", "How far this host's clock is ahead of that of the catalog's server"
)
CONFIG_RELOADS: Final = _counter("config_reloads", "Reloads on SIGHUP: accepted or rejected", "outcome")

# -- what this process does -------------------------------------------------------------------------------------------

JOB_RETRIES: Final = _counter("job_retries", "Runs brought forward because the last one failed", "job")
S3_SECONDS: Final = _histogram(
    "s3_request_seconds",
    "Requests to S3: their time and, in `_count`, their number; outcome is ok, cut_short or the error class, the "
    "storage class is that of the object where request or answer tell it",
    "operation",
    "outcome",
    "storage_class",
    buckets=_REQUEST,
)
S3_RETRIES: Final = _counter("s3_retries", "Requests to S3 that were asked again", "operation")
LEASES_HELD: Final = _gauge("leases_held", "Leases that this process holds, by job", "job")
DICTIONARY_LOOKUPS: Final = _counter(
    "dictionary_lookups",
    "Dictionaries asked for, by use (read, write) and outcome: hit (in memory), loaded, missing; none where new data "
    "of a saga name have none",
    "use",
    "outcome",
)
POOL_IN_USE: Final = _gauge("pool_in_use", "Connections of this process in use, by server", "server")
POOL_LIMIT: Final = _gauge("pool_limit", "Connections that this process may open, by server", "server")

# -- the store as a whole: every daemon says the same ------------------------------------------------------------------

_PLACE = ("tier", "storage_class")
STORED_SNAPSHOTS: Final = _gauge(
    "stored_snapshots", "Snapshots by tier (durable, cold, retiring) and storage class; Redis does not tell", *_PLACE
)
STORED_PACKS: Final = _gauge("stored_packs", "Packs by tier (cold, retiring) and storage class", *_PLACE)
STORED_BYTES: Final = _gauge("stored_bytes", "Bytes by tier (hot: the memory of Redis) and storage class", *_PLACE)
STORED_USD: Final = _gauge("stored_usd_per_month", "What storing the packs costs a month, by list prices", *_PLACE)
LAG_SECONDS: Final = _gauge(
    "lag_seconds", "Age of the oldest that is due to be archived and is not, 0 for none, by tier (hot, durable)", "tier"
)
QUEUE_LENGTH: Final = _gauge(
    "queue_length",
    "What waits: hot_due, hot_waiting (sagas in Redis), hot_untold (saves that the catalog is not told of), "
    "durable_due (copies, at most 100,000), journal (entries not in the bucket), erasure_packs, changed_sagas",
    "queue",
)
LAST_ARCHIVED: Final = _gauge(
    "last_archived_timestamp_seconds", "When the newest pack that is still there was begun; 0 where there is none"
)
QUARANTINED: Final = _gauge(
    "quarantined", "What failed, by kind and state: failing (tried again) or quarantined (left alone)", "kind", "state"
)
RESTORES: Final = _gauge("restores", "Restore requests that are remembered, by state", "state")
RESTORE_OLDEST: Final = _gauge("restore_oldest_open_seconds", "Since when the oldest restore is under way, 0 for none")
RESTORE_LATE: Final = _gauge(
    "restore_late_seconds", "By how much the latest restore is past the time it was promised for, 0 for none"
)
HOLDS: Final = _gauge("holds", "Legal holds in force")
PACK_FILL: Final = _gauge("pack_fill_ratio", "Mean size of packs, as a share of the target", "storage_class")
PACK_LIVE: Final = _gauge("pack_live_ratio", "Share of the snapshots in packs that are live still", "storage_class")
PACKS_UNDERSIZED: Final = _gauge("packs_undersized", "Packs that are too small", "storage_class")
SPENT_TODAY_USD: Final = _gauge("spent_today_usd", "What jobs spent on the object store since midnight, UTC")
SPENT_TODAY_REQUESTS: Final = _gauge("spent_today_requests", "Requests that jobs made since midnight, UTC")
BUDGET_USD: Final = _gauge("budget_usd_per_day", "What jobs may spend a day; +Inf: no limit")
BUDGET_REQUESTS: Final = _gauge("budget_requests_per_day", "Requests that jobs may make a day; +Inf: no limit")
HOT_MEMORY: Final = _gauge("hot_memory_bytes", "Memory that Redis uses")
HOT_MEMORY_LIMIT: Final = _gauge("hot_memory_limit_bytes", "Redis' maxmemory; +Inf: none is set")
TOTALS_AT: Final = _gauge(
    "totals_timestamp_seconds", "When this daemon last looked at what is said of the store; it does each half minute"
)

OWNER: Final = _gauge(
    "owner",
    "How this catalog stands to the bucket, 1 for what it is: owner, behind (a copy, or an older dump), …",
    "standing",
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
