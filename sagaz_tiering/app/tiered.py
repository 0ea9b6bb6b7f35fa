"""The storage that an application opens by its configuration."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sagaz_tiering.app.runtime import open_runtime, read_config
from sagaz_tiering.clock import Clock
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.tiered.storage import TieredStorage


class TieredSnapshotStorage(TieredStorage):
    """Saga snapshots over Redis, PostgreSQL and packs on an object store. Plugs into `sagaz` as it is.

    `async with TieredSnapshotStorage.from_config("config/tiering.yaml") as storage: ...`

    `None` and `[]` mean "does not exist (or expired)". A read raises TierUnavailable where a tier that might
    hold the answer cannot be asked, SnapshotArchived where the bytes must be restored first, SnapshotLost or
    CorruptData where a server lost or altered something. Ids are accepted as UUID or text.
    """

    @staticmethod
    @asynccontextmanager
    async def from_config(
        config: str | Path | TieringConfig, *, clock: Clock | None = None
    ) -> AsyncIterator[TieredSnapshotStorage]:
        """Open the storage that a YAML file (or a loaded configuration) describes, for an `async with` block.

        Raises ConfigError for a wrong file. Servers may be down: they are connected to when first used.
        """
        async with open_runtime(read_config(config), clock=clock, facade=TieredSnapshotStorage) as runtime:
            storage = runtime.storage()
            assert isinstance(storage, TieredSnapshotStorage)
            yield storage
