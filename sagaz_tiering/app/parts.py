"""What a configuration names, part by part: settings with the addresses of embedded servers, stores, master keys."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.clock import Clock, SystemClock
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.config.tiers import HotSettings
from sagaz_tiering.config.urls import SecretUrl, bucket_and_prefix, secret_or_none
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.errors import ConfigError, MissingDependencyError
from sagaz_tiering.keys.master import MasterKeys, Several
from sagaz_tiering.objects.base import ObjectStore

if TYPE_CHECKING:
    from sagaz_tiering.embedded.servers import Endpoints

_Section = TypeVar("_Section", CatalogSettings, HotSettings)


class Parts:
    """Each part is opened by itself: one that cannot be opened stops no other."""

    def __init__(self, config: TieringConfig, clock: Clock, endpoints: Endpoints | None = None) -> None:
        self.config, self.clock, self._endpoints = config, clock, endpoints

    def database(self) -> Database:
        """The catalog's database, not open yet."""
        at = self._endpoints.postgres_url if self._endpoints else None
        return Database(_resolved(self.config.catalog, at, "catalog.url"))

    async def migrate_embedded(self, db: Database) -> None:
        """Nobody else would, where the server is one of ours."""
        if self._endpoints is not None and self.config.catalog.url.is_embedded:
            await migrate(db)

    def hot_settings(self) -> HotSettings:
        """Where Redis is, and how it is used."""
        at = self._endpoints.redis_url if self._endpoints else None
        return _resolved(self.config.tiers.hot, at, "tiers.hot.url")

    async def objects(self, clock: Clock | None = None) -> AbstractAsyncContextManager[ObjectStore]:
        """The object store, for an `async with` block; a directory of ours counts by `clock`."""
        cold, at = self.config.tiers.cold, self._endpoints
        if cold.is_directory:
            from sagaz_tiering.objects.local.store import LocalObjectStore

            return await LocalObjectStore.open(cold.directory, clock or self.clock, cold.request_timeout)
        from sagaz_tiering.objects.s3.options import S3Options
        from sagaz_tiering.objects.s3.store import S3ObjectStore

        if cold.is_embedded:
            given = {
                "endpoint_url": _running(at.s3_endpoint if at else None, "tiers.cold.endpoint_url"),
                "access_key_id": secret_or_none(at.s3_access_key_id if at else None),
                "secret_access_key": secret_or_none(at.s3_secret_access_key if at else None),
            }
            cold = cold.model_copy(update=given)
        bucket, prefix = bucket_and_prefix(cold.url)
        return await S3ObjectStore.open(S3Options(bucket=bucket, prefix=prefix, settings=cold))

    def master_keys(self) -> Several:
        """What the configuration names; whoever asks closes it. Nothing is read before a data key is needed."""
        section = self.config.encryption
        if section is None:
            return Several({})
        if importlib.util.find_spec("cryptography") is None:
            raise MissingDependencyError("cryptography", "the section `encryption`")
        found: dict[str, MasterKeys] = {}
        if section.key_file is not None:
            from sagaz_tiering.keys import key_file

            found[key_file.SCHEME] = key_file.KeyFile(section.key_file)
        if section.kms_key_id is not None:
            from sagaz_tiering.keys import kms

            found[kms.SCHEME] = kms.Kms(section)
        return Several(found)


@asynccontextmanager
async def open_parts(config: TieringConfig, *, clock: Clock | None = None) -> AsyncIterator[Parts]:
    """The parts of `config` one by one; embedded servers run meanwhile, as with `open_runtime`."""
    async with AsyncExitStack() as stack:
        parts = await parts_of(config, clock, stack)
        if config.catalog.url.is_embedded:
            async with parts.database() as db:
                await parts.migrate_embedded(db)
        yield parts


@asynccontextmanager
async def open_database(config: TieringConfig) -> AsyncIterator[Database]:
    """Only the catalog's database, for `catalog migrate`."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context((await parts_of(config, None, stack)).database())


async def parts_of(config: TieringConfig, clock: Clock | None, stack: AsyncExitStack) -> Parts:
    """The same for as long as `stack` is open, nothing migrated."""
    embedded, cold, clock = config.embedded, config.tiers.cold, clock or SystemClock()
    if embedded is None:
        return Parts(config, clock)
    from sagaz_tiering.embedded.servers import EmbeddedServers, endpoints_of_running

    endpoints = endpoints_of_running(embedded.data_dir)
    if endpoints is None:
        bucket = None if cold.is_directory else bucket_and_prefix(cold.url)[0]
        wanted = {"postgres": embedded.postgres, "redis": embedded.redis, "s3": embedded.s3}
        servers = EmbeddedServers.start(embedded.data_dir, **wanted, bucket=bucket)
        endpoints = (await stack.enter_async_context(servers)).endpoints
    return Parts(config, clock, endpoints)


def _resolved(section: _Section, embedded: str | None, where: str) -> _Section:
    """The section, with the address of the embedded server where it says so."""
    if not section.url.is_embedded:
        return section
    return section.model_copy(update={"url": SecretUrl(_running(embedded, where))})


def _running(address: str | None, where: str) -> str:
    if address is None:
        raise ConfigError(f"{where} is `embedded`, but that embedded server does not run", hint="see `embedded:`")
    return address
