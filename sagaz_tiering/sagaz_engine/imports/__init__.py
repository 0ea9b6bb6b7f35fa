"""Sources that read what sagaz's own storages wrote, also what their indexes lost. Nothing is written there."""

from sagaz_tiering.sagaz_engine.imports.filesystem import SagazFilesystemSource
from sagaz_tiering.sagaz_engine.imports.postgresql import SagazPostgreSQLSource
from sagaz_tiering.sagaz_engine.imports.redis import SagazRedisSource
from sagaz_tiering.sagaz_engine.imports.s3 import SagazS3Source
from sagaz_tiering.sagaz_engine.imports.source import SagazSource

__all__ = ["SagazFilesystemSource", "SagazPostgreSQLSource", "SagazRedisSource", "SagazS3Source", "SagazSource"]
