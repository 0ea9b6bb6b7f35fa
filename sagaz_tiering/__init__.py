"""Tiered storage for saga snapshots: Redis while hot, packs on S3 as they age, expired by policy."""

from __future__ import annotations

from sagaz_tiering import errors
from sagaz_tiering.snapshot import (
    ReplayConfig,
    ReplayResult,
    ReplayStatus,
    SagaSnapshot,
    SnapshotRef,
    SnapshotStrategy,
)
from sagaz_tiering.storage.base import SnapshotStorage
from sagaz_tiering.tiered import TieredSnapshotStorage

__all__ = [
    "ReplayConfig",
    "ReplayResult",
    "ReplayStatus",
    "SagaSnapshot",
    "SnapshotRef",
    "SnapshotStorage",
    "SnapshotStrategy",
    "TieredSnapshotStorage",
    "errors",
]
