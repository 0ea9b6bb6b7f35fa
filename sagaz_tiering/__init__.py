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
    from sagaz_tiering.tiered.find import Page, SagaSummary
    from sagaz_tiering.transfer import transfer_snapshots

_MODULES = {
    "app.tiered": ["TieredSnapshotStorage"],
    "codec.typed_json": ["StoredObject", "register_enum", "register_type"],
    "errors": ["errors"],
    "sagaz_engine.capture": ["capture", "saga_uuid"],
    "snapshot": ["ReplayConfig", "ReplayResult", "ReplayStatus", "SagaSnapshot", "SnapshotRef", "SnapshotStrategy"],
    "storage.base": ["SnapshotSource", "SnapshotStorage"],
    "storage.filesystem.storage": ["FilesystemSnapshotStorage"],
    "storage.memory": ["InMemorySnapshotStorage"],
    "storage.postgresql.storage": ["PostgreSQLSnapshotStorage"],
    "storage.redis.storage": ["RedisSnapshotStorage"],
    "storage.s3.storage": ["S3SnapshotStorage"],
    "tiered.find": ["Page", "SagaSummary"],
    "transfer": ["transfer_snapshots"],
}
_HOMES = {name: f"sagaz_tiering.{module}" for module, names in _MODULES.items() for name in names}

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
