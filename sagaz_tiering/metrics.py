"""What is counted, in a registry of our own: an application that embeds the facade decides where it shows.

    from sagaz_tiering import metrics
    metrics.SAVE_FAILURES.labels(reason=type(exc).__name__).inc()

The daemon serves `exposition()` at /metrics; an application can register `REGISTRY` with its own exporter.
Labels are small closed sets, never ids.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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
    "Runs of a job: done, failed, budget (used up), skipped (another process held the lease) or cut_short",
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
