"""Options of drivers and jobs, from the sections of the configuration."""

from __future__ import annotations

import importlib.util
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

from sagaz_tiering.clock import Clock
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.config.tiers import HotSettings
from sagaz_tiering.config.urls import SecretUrl, bucket_and_prefix, secret_or_none
from sagaz_tiering.errors import ConfigError, MissingDependencyError
from sagaz_tiering.keys.master import MasterKeys, NoMasterKeys, Several
from sagaz_tiering.objects.base import ObjectStore

if TYPE_CHECKING:
    from sagaz_tiering.embedded.servers import Endpoints

_Section = TypeVar("_Section", CatalogSettings, HotSettings)


def catalog_settings(config: TieringConfig, endpoints: Endpoints | None) -> CatalogSettings:
    """The section, with the address of the embedded server where it says so."""
    return _resolved(config.catalog, endpoints.postgres_url if endpoints else None, "catalog.url")


def hot_settings(config: TieringConfig, endpoints: Endpoints | None) -> HotSettings:
    """The section, with the address of the embedded server where it says so."""
    return _resolved(config.tiers.hot, endpoints.redis_url if endpoints else None, "tiers.hot.url")


async def open_objects(
    config: TieringConfig, endpoints: Endpoints | None, clock: Clock, stack: AsyncExitStack
) -> ObjectStore:
    cold = config.tiers.cold
    if cold.is_directory:
        from sagaz_tiering.objects.local.store import LocalObjectStore

        local = await LocalObjectStore.open(cold.directory, clock, cold.request_timeout)
        return await stack.enter_async_context(local)
    from sagaz_tiering.objects.s3.options import S3Options
    from sagaz_tiering.objects.s3.store import S3ObjectStore

    if cold.is_embedded:
        endpoint = _running(endpoints.s3_endpoint if endpoints else None, "tiers.cold.endpoint_url")
        access, secret = (endpoints.s3_access_key_id, endpoints.s3_secret_access_key) if endpoints else (None, None)
        keys = {"access_key_id": secret_or_none(access), "secret_access_key": secret_or_none(secret)}
        cold = cold.model_copy(update={"endpoint_url": endpoint, **keys})
    bucket, prefix = bucket_and_prefix(cold.url)
    store = await S3ObjectStore.open(S3Options(bucket=bucket, prefix=prefix, settings=cold))
    return await stack.enter_async_context(store)


def master_keys(config: TieringConfig) -> MasterKeys:
    """What the configuration names; nothing is read or asked before a data key is needed."""
    section = config.encryption
    if section is None:
        return NoMasterKeys()
    if importlib.util.find_spec("cryptography") is None:
        raise MissingDependencyError("cryptography", "the section `encryption`")
    found: dict[str, MasterKeys] = {}
    if section.key_file is not None:
        from sagaz_tiering.keys import key_file

        found[key_file.SCHEME] = key_file.KeyFile(section.key_file)
    if section.kms_key_id is not None:
        from sagaz_tiering.keys import kms

        found[kms.SCHEME] = kms.Kms(section)
    return Several(list(found)[-1], found)


def _resolved(section: _Section, embedded: str | None, where: str) -> _Section:
    if not section.url.is_embedded:
        return section
    return section.model_copy(update={"url": SecretUrl(_running(embedded, where))})


def _running(address: str | None, where: str) -> str:
    if address is None:
        raise ConfigError(f"{where} is `embedded`, but that embedded server does not run", hint="see `embedded:`")
    return address
