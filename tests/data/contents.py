"""What the recorded stores hold. Never change it: a store that was recorded must stay readable for ever."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import yaml
from golden.samples import EVERY_TYPE

from sagaz_tiering.snapshot import ReplayResult, ReplayStatus, SagaSnapshot

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
LATER = START + timedelta(days=100)
NAMESPACE = UUID("0ddba11a-0000-4000-8000-000000000001")
STEPS = ("check", "reserve", "pay")
HASH_PREFIX = "standing"

EARLY = ("payment-1", "payment-2", "secret-1", "secret-2", "secret-gone", "every-1", *(f"bulk-{n}" for n in range(22)))
"""Sagas that are in packs when the store is recorded; `secret-gone` is erased, one snapshot of `bulk-0` deleted."""
LATE = ("payment-9", "secret-9", "fast-9", "every-9", "brief-9", "bulk-90", "bulk-91")
"""Sagas that are in Redis and, but for `fast-9`, in PostgreSQL."""
ERASED, HELD, RESTORED, REPLAYED = "secret-gone", "payment-1", "payment-2", "bulk-1"


def saga_id(name: str) -> UUID:
    """The id of the saga of this name."""
    return uuid5(NAMESPACE, name)


def snapshots(name: str) -> list[SagaSnapshot]:
    """A saga of three steps, oldest first."""
    begun = START if name in EARLY else LATER
    context: dict[str, Any] = {
        "order": name,
        "customer": {"mail": f"{name}@example.com", "address": "Straße des 17. Juni 1, Berlin", "class": "regular"},
        "notes": f"deliver {name} to the neighbour, please ring twice, no paper invoice, gift wrap in blue " * 3,
    }
    if name.startswith("bulk"):
        context["terms"] = [f"clause {sha256(str(number).encode()).hexdigest()[:40]} holds" for number in range(40)]
    if name.startswith("every"):
        context["every"] = EVERY_TYPE
    return [
        SagaSnapshot(
            snapshot_id=uuid5(NAMESPACE, f"{name}/{step}"),
            saga_id=saga_id(name),
            saga_name=name.partition("-")[0],
            step_name=step,
            step_index=index,
            status="executing" if index < 2 else "completed",
            context={**context, "step": index},
            completed_steps=list(STEPS[:index]),
            created_at=begun + timedelta(seconds=index, microseconds=7),
            retention_until=datetime(2040, 1, 1, tzinfo=UTC) if name.startswith("every") else None,
            external_refs={"label": f"s3://labels/{name}.pdf"},
        )
        for index, step in enumerate(STEPS)
    ]


DELETED = snapshots("bulk-0")[1].snapshot_id


def kept() -> Iterator[SagaSnapshot]:
    """All that must be there."""
    for name in (*EARLY, *LATE):
        if name != ERASED:
            yield from (each for each in snapshots(name) if each.snapshot_id != DELETED)


def replay() -> ReplayResult:
    """The replay record of a saga."""
    return ReplayResult(
        replay_id=uuid5(NAMESPACE, "replay"),
        original_saga_id=saga_id(REPLAYED),
        new_saga_id=uuid5(NAMESPACE, "new saga"),
        checkpoint_step=STEPS[1],
        replay_status=ReplayStatus.SUCCESS,
        initiated_by="operator",
        context_override={"amount": 3},
        created_at=START,
        completed_at=START + timedelta(seconds=5),
    )


def configuration(*, database: str, redis_url: str, folder: Path) -> str:
    """The configuration file."""
    move = [{"to": "STANDARD_IA", "after": "7d"}]
    policies: list[dict[str, Any]] = [
        {
            "name": "payments",
            "match": {"saga_name": "payment"},
            "move": [*move, {"to": "GLACIER", "after": "60d"}],
            "retain": "2555d",
        },
        {"name": "secrets", "match": {"saga_name": "secret"}, "move": move, "encryption": "per-saga"},
        {"name": "fast", "match": {"saga_name": "fast"}, "durability": "hot", "move": move},
        {"name": "brief", "match": {"saga_name": "brief"}, "retain": "20d"},
        {"name": "default", "match": {}, "move": move},
    ]
    whole = {
        "tiers": {"hot": {"url": redis_url}, "cold": {"url": f"file://{folder}/cold"}},
        "catalog": {"url": database},
        "encryption": {"key_file": f"{folder}/master.keys"},
        "dictionaries": {"min_sagas": 20, "size": "4KiB"},
        "policies": [{"even_if_costlier": True, **each} for each in policies],
        "attributes": [
            {"name": "order", "path": "order"},
            {"name": "mail", "path": "customer.mail", "hashed": True},
            {"name": "step", "path": "step"},
        ],
        "attribute_hash_key": "a key for what is recorded, no secret",
    }
    return yaml.safe_dump(whole, sort_keys=False)
