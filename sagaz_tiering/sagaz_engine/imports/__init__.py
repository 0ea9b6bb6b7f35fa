"""Sources that read what sagaz's own storages wrote, also what their indexes lost. Nothing is written there.

Each is imported when it is first used, so that it needs only its own packages.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sagaz_tiering.sagaz_engine.imports.filesystem import SagazFilesystemSource
    from sagaz_tiering.sagaz_engine.imports.postgresql import SagazPostgreSQLSource
    from sagaz_tiering.sagaz_engine.imports.redis import SagazRedisSource
    from sagaz_tiering.sagaz_engine.imports.s3 import SagazS3Source
    from sagaz_tiering.sagaz_engine.imports.source import SagazSource

_HOMES = {
    "SagazFilesystemSource": "sagaz_tiering.sagaz_engine.imports.filesystem",
    "SagazPostgreSQLSource": "sagaz_tiering.sagaz_engine.imports.postgresql",
    "SagazRedisSource": "sagaz_tiering.sagaz_engine.imports.redis",
    "SagazS3Source": "sagaz_tiering.sagaz_engine.imports.s3",
    "SagazSource": "sagaz_tiering.sagaz_engine.imports.source",
}

__all__ = [
    "SagazFilesystemSource",
    "SagazPostgreSQLSource",
    "SagazRedisSource",
    "SagazS3Source",
    "SagazSource",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_HOMES[name])
    return getattr(module, name, module)
