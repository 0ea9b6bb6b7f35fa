"""The storages that stand alone: memory, files, Redis, PostgreSQL, S3; `base` is what all of them are, `standalone`
what they do the same way.

Each is imported when it is first used, so that a process loads no others.
They never move a snapshot to another storage and know no policy: that is the tiered one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sagaz_tiering.storage.base import SnapshotSource, SnapshotStorage
    from sagaz_tiering.storage.filesystem.storage import FilesystemSnapshotStorage
    from sagaz_tiering.storage.memory import InMemorySnapshotStorage
    from sagaz_tiering.storage.postgresql.storage import PostgreSQLSnapshotStorage
    from sagaz_tiering.storage.redis.storage import RedisSnapshotStorage
    from sagaz_tiering.storage.s3.storage import S3SnapshotStorage

_HOMES = {
    **dict.fromkeys(("SnapshotSource", "SnapshotStorage"), "base"),
    "InMemorySnapshotStorage": "memory",
    **{f"{kind}SnapshotStorage": f"{kind.lower()}.storage" for kind in ("Filesystem", "PostgreSQL", "Redis", "S3")},
}

__all__ = [
    "FilesystemSnapshotStorage",
    "InMemorySnapshotStorage",
    "PostgreSQLSnapshotStorage",
    "RedisSnapshotStorage",
    "S3SnapshotStorage",
    "SnapshotSource",
    "SnapshotStorage",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
