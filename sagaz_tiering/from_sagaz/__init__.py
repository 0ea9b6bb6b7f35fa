"""Sources that read what sagaz's own storages wrote, also what their indexes lost. Nothing is written there.

Each is imported when it is first used, so that it needs only its own packages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sagaz_tiering.lazy import lazily

if TYPE_CHECKING:
    from sagaz_tiering.from_sagaz.filesystem_source import SagazFilesystemSource
    from sagaz_tiering.from_sagaz.postgresql_source import SagazPostgreSQLSource
    from sagaz_tiering.from_sagaz.redis_source import SagazRedisSource
    from sagaz_tiering.from_sagaz.s3_source import SagazS3Source
    from sagaz_tiering.from_sagaz.source import SagazSource

_HOMES = {
    "SagazFilesystemSource": "sagaz_tiering.from_sagaz.filesystem_source",
    "SagazPostgreSQLSource": "sagaz_tiering.from_sagaz.postgresql_source",
    "SagazRedisSource": "sagaz_tiering.from_sagaz.redis_source",
    "SagazS3Source": "sagaz_tiering.from_sagaz.s3_source",
    "SagazSource": "sagaz_tiering.from_sagaz.source",
}

__all__ = [
    "SagazFilesystemSource",
    "SagazPostgreSQLSource",
    "SagazRedisSource",
    "SagazS3Source",
    "SagazSource",
]

__getattr__ = lazily(__name__, _HOMES)
