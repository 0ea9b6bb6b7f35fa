"""Tiered storage for saga snapshots: Redis while hot, packs on S3 as they age, expired by policy.

Names are imported when they are first used, so that each storage needs only its own packages.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sagaz_tiering import errors
    from sagaz_tiering.snapshot import (
        ReplayConfig,
        ReplayResult,
        ReplayStatus,
        SagaSnapshot,
        SnapshotRef,
        SnapshotStrategy,
    )
    from sagaz_tiering.storage.base import SnapshotSource, SnapshotStorage
    from sagaz_tiering.tiered import TieredSnapshotStorage

_HOMES = {
    "errors": "sagaz_tiering.errors",
    "ReplayConfig": "sagaz_tiering.snapshot",
    "ReplayResult": "sagaz_tiering.snapshot",
    "ReplayStatus": "sagaz_tiering.snapshot",
    "SagaSnapshot": "sagaz_tiering.snapshot",
    "SnapshotRef": "sagaz_tiering.snapshot",
    "SnapshotStrategy": "sagaz_tiering.snapshot",
    "SnapshotSource": "sagaz_tiering.storage.base",
    "SnapshotStorage": "sagaz_tiering.storage.base",
    "TieredSnapshotStorage": "sagaz_tiering.tiered",
}

__all__ = [
    "ReplayConfig",
    "ReplayResult",
    "ReplayStatus",
    "SagaSnapshot",
    "SnapshotRef",
    "SnapshotSource",
    "SnapshotStorage",
    "SnapshotStrategy",
    "TieredSnapshotStorage",
    "errors",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(home)
    return module if home.endswith(f".{name}") else getattr(module, name)
