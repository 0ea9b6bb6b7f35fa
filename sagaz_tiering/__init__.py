"""Tiered storage for saga snapshots: Redis while hot, packs on S3 as they age, expired by policy.

Names are imported when they are first used, so that each storage needs only its own packages.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from sagaz_tiering import errors
    from sagaz_tiering.app.tiered import TieredSnapshotStorage
    from sagaz_tiering.codec.typed_json import StoredObject, register_enum, register_type
    from sagaz_tiering.sagaz_engine.capture import capture, saga_uuid
    from sagaz_tiering.snapshot import (
        ReplayConfig,
        ReplayResult,
        ReplayStatus,
        SagaSnapshot,
        SnapshotRef,
        SnapshotStrategy,
    )
    from sagaz_tiering.storage.base import SnapshotSource, SnapshotStorage
    from sagaz_tiering.storage.filesystem.storage import FilesystemSnapshotStorage
    from sagaz_tiering.storage.memory import InMemorySnapshotStorage
    from sagaz_tiering.storage.postgresql.storage import PostgreSQLSnapshotStorage
    from sagaz_tiering.storage.redis.storage import RedisSnapshotStorage
    from sagaz_tiering.storage.s3.storage import S3SnapshotStorage
    from sagaz_tiering.tiered.found import Page, SagaSummary
    from sagaz_tiering.transfer import transfer_snapshots

_HOMES = {
    "capture": "sagaz_tiering.sagaz_engine.capture",
    "errors": "sagaz_tiering.errors",
    "FilesystemSnapshotStorage": "sagaz_tiering.storage.filesystem.storage",
    "InMemorySnapshotStorage": "sagaz_tiering.storage.memory",
    "Page": "sagaz_tiering.tiered.found",
    "PostgreSQLSnapshotStorage": "sagaz_tiering.storage.postgresql.storage",
    "RedisSnapshotStorage": "sagaz_tiering.storage.redis.storage",
    "ReplayConfig": "sagaz_tiering.snapshot",
    "ReplayResult": "sagaz_tiering.snapshot",
    "ReplayStatus": "sagaz_tiering.snapshot",
    "S3SnapshotStorage": "sagaz_tiering.storage.s3.storage",
    "SagaSummary": "sagaz_tiering.tiered.found",
    "SagaSnapshot": "sagaz_tiering.snapshot",
    "SnapshotRef": "sagaz_tiering.snapshot",
    "SnapshotStrategy": "sagaz_tiering.snapshot",
    "SnapshotSource": "sagaz_tiering.storage.base",
    "SnapshotStorage": "sagaz_tiering.storage.base",
    "TieredSnapshotStorage": "sagaz_tiering.app.tiered",
    "StoredObject": "sagaz_tiering.codec.typed_json",
    "register_enum": "sagaz_tiering.codec.typed_json",
    "register_type": "sagaz_tiering.codec.typed_json",
    "saga_uuid": "sagaz_tiering.sagaz_engine.capture",
    "transfer_snapshots": "sagaz_tiering.transfer",
}

__all__ = [
    "FilesystemSnapshotStorage",
    "InMemorySnapshotStorage",
    "Page",
    "PostgreSQLSnapshotStorage",
    "RedisSnapshotStorage",
    "ReplayConfig",
    "ReplayResult",
    "ReplayStatus",
    "S3SnapshotStorage",
    "SagaSnapshot",
    "SagaSummary",
    "SnapshotRef",
    "SnapshotSource",
    "SnapshotStorage",
    "SnapshotStrategy",
    "StoredObject",
    "TieredSnapshotStorage",
    "__version__",
    "capture",
    "errors",
    "register_enum",
    "register_type",
    "saga_uuid",
    "transfer_snapshots",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sagaz-tiering")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_HOMES[name])
    return getattr(module, name, module)
