"""The only place that picks concrete backends: a configuration becomes open parts, closed in reverse order."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from pydantic import SecretStr

from sagaz_tiering.catalog import Catalog
from sagaz_tiering.clock import Clock, SystemClock
from sagaz_tiering.config_file import load_config
from sagaz_tiering.db.database import STATEMENT_CACHE_SIZE, Database, DatabaseOptions
from sagaz_tiering.db.migrations import check_schema, migrate
from sagaz_tiering.dictionaries.shelf import Dictionaries
from sagaz_tiering.engine import JobContext, JobOptions, run_job
from sagaz_tiering.engine.journal import try_to_publish
from sagaz_tiering.engine.notify import Notify
from sagaz_tiering.engine.ownership import secure
from sagaz_tiering.errors import ConfigError, MissingDependencyError
from sagaz_tiering.incarnation import Incarnation
from sagaz_tiering.keyring import Keyring
from sagaz_tiering.master_keys.base import MasterKeys, NoMasterKeys
from sagaz_tiering.master_keys.several import Several
from sagaz_tiering.objects.base import ObjectStore
from sagaz_tiering.pack.dictionary_objects import BucketDictionaries
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.prices import PriceList
from sagaz_tiering.process_loop import HomeLoop
from sagaz_tiering.server_clock import ServerClock
from sagaz_tiering.settings import TieringConfig
from sagaz_tiering.storage.hot import HotOptions, HotTier
from sagaz_tiering.storage.hot_dictionaries import HotDictionaries
from sagaz_tiering.tiered.storage import TieredSnapshotStorage, Tiers
from sagaz_tiering.urls import EMBEDDED, SecretUrl, bucket_and_prefix, file_path, redacted
from sagaz_tiering.workers import Workers

if TYPE_CHECKING:
    from sagaz_tiering.embedded.servers import Endpoints


class Runtime:
    """The open parts of one process. `open_runtime` makes and closes it."""

    def __init__(
        self,
        *,
        config: TieringConfig,
        clock: Clock,
        db: Database,
        hot: HotTier,
        objects: ObjectStore,
        masters: MasterKeys,
        again: Callable[[TieringConfig], AbstractAsyncContextManager[Runtime]],
    ) -> None:
        self.config = config
        self._again = again
        self.clock = clock
        self.policies = PolicySet(config.policies)
        self.db = db
        self.catalog, self.hot = Catalog(db), hot
        self.incarnation = Incarnation(self.catalog.hot_tier, hot, clock)
        self.objects = objects
        self.keys = Keyring(self.catalog.saga_keys, masters)
        self.dictionaries = _dictionaries(config, hot, self.catalog, objects)
        self.prices = PriceList.load(config.tiers.cold.region)
        self._jobs = JobContext(
            hot=hot,
            incarnation=self.incarnation,
            catalog=self.catalog,
            objects=objects,
            keys=self.keys,
            dictionaries=self.dictionaries,
            policies=self.policies,
            clock=clock,
            prices=self.prices,
            owner=f"{socket.gethostname()}/{os.getpid()}/{uuid4().hex[:8]}",
            options=_job_options(config),
            # Worker processes measure for themselves; a clock that was given to us is not theirs.
            workers=Workers(lambda: config) if isinstance(clock, ServerClock) else None,
        )
        self._storage = TieredSnapshotStorage(
            Tiers(
                hot=hot,
                incarnation=self.incarnation,
                catalog=self.catalog,
                objects=objects,
                keys=self.keys,
                dictionaries=self.dictionaries,
                policies=self.policies,
                prices=self.prices,
                clock=clock,
                compression_level=config.tiers.hot.compression_level,
                limits=config.limits,
                restore=config.restore,
            ),
            expire=self._expire,
            publish=partial(try_to_publish, self._jobs),
            open_again=self._open_again,
        )

    def storage(self) -> TieredSnapshotStorage:
        """The facade over these parts."""
        return self._storage

    def job_context(self) -> JobContext:
        """What jobs run with; one per process."""
        return self._jobs

    async def check(self) -> None:
        """Raise the first thing that keeps this process from working, naming the server and what to check."""
        await self.hot.ping()
        await check_schema(self.db)
        await self.objects.check()
        await secure(self._jobs)

    async def reload(self, config: TieringConfig) -> None:
        """Put the policies and job limits of `config` in force; servers stay the ones that are open."""
        self.config = config
        self.policies = PolicySet(config.policies)
        self._jobs.policies = self.policies
        self._jobs.options = _job_options(config)
        self.dictionaries.enabled = config.dictionaries.enabled
        self._storage.adopt(self.policies)

    @asynccontextmanager
    async def _open_again(self) -> AsyncIterator[TieredSnapshotStorage]:
        """The same storage for another event loop; embedded servers are those that run."""
        async with self._again(self.config) as runtime:
            yield runtime.storage()

    async def _expire(self) -> int:
        counts = (await run_job("expire", self._jobs)).counts
        return counts.get("hot", 0) + counts.get("durable", 0) + counts.get("archived", 0)


def open_runtime(
    config: TieringConfig, *, clock: Clock | None = None, host: Clock | None = None
) -> AbstractAsyncContextManager[Runtime]:
    """Open everything that `config` names. Embedded servers are started and their catalog migrated (or, where
    another process of ours runs them already, used); other servers need not be up.

    Time is that of the catalog's server, which is asked now and then. A `clock` that is given stands for it and for all
    others; `host` is used before any server told its time. Raises ConfigError or MissingDependencyError for what cannot
    work. The end of the block, on whatever event loop, closes what is open where it belongs, also if that is gone.
    """
    return _Opening(config, clock, host)


class _Opening(AbstractAsyncContextManager[Runtime]):
    """Not a generator: those are closed with their loop, all at once, while one of them waits for another."""

    def __init__(self, config: TieringConfig, clock: Clock | None, host: Clock | None) -> None:
        self._config, self._clock, self._host = config, clock, host
        self._home = HomeLoop(self, lambda opening: opening._resources.aclose())
        self._resources = AsyncExitStack()
        self._runtime: Runtime | None = None

    async def __aenter__(self) -> Runtime:
        async with AsyncExitStack() as stack:
            runtime = self._runtime = await self._open(stack)
            self._resources = stack.pop_all()
        self._home.check()
        return runtime

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._runtime and kind is not GeneratorExit:  # by which a loop's end is told to generators
            await self._runtime.storage().retire()
        await self._home.close(self._resources.aclose)

    async def _open(self, stack: AsyncExitStack) -> Runtime:
        config, clock = self._config, self._clock
        endpoints = await _endpoints(config, stack)
        db = await stack.enter_async_context(Database(_database_options(config, endpoints)))
        hot = await stack.enter_async_context(HotTier(_hot_options(config, endpoints)))
        if clock is None:
            clock = await stack.enter_async_context(ServerClock(db.time, hot.time, host=self._host))
        objects = await _objects(config, endpoints, clock, stack)
        if endpoints is not None and config.catalog.url.is_embedded:
            await migrate(db)
        masters = _master_keys(config)
        stack.push_async_callback(masters.close)
        again = partial(open_runtime, clock=self._clock, host=self._host)
        runtime = Runtime(config=config, clock=clock, db=db, hot=hot, objects=objects, masters=masters, again=again)
        stack.push_async_callback(runtime.dictionaries.close)
        return runtime


@asynccontextmanager
async def open_database(config: TieringConfig) -> AsyncIterator[Database]:
    """Only the catalog's database, for `catalog migrate`."""
    async with AsyncExitStack() as stack:
        endpoints = await _endpoints(config, stack)
        yield await stack.enter_async_context(Database(_database_options(config, endpoints)))


class Parts:
    """What a configuration names, each part opened by itself: one that cannot be opened stops no other."""

    def __init__(self, config: TieringConfig, endpoints: Endpoints | None, clock: Clock) -> None:
        self.config, self.clock = config, clock
        self._endpoints = endpoints

    def database(self) -> Database:
        """The catalog's database, not open yet."""
        return Database(_database_options(self.config, self._endpoints))

    def hot_options(self) -> HotOptions:
        """Where Redis is, and how it is used."""
        return _hot_options(self.config, self._endpoints)

    @asynccontextmanager
    async def objects(self) -> AsyncIterator[ObjectStore]:
        """The object store, open."""
        async with AsyncExitStack() as stack:
            yield await _objects(self.config, self._endpoints, self.clock, stack)

    def master_keys(self) -> MasterKeys:
        """The master keys; whoever asks closes them."""
        return _master_keys(self.config)


@asynccontextmanager
async def open_parts(config: TieringConfig, *, clock: Clock | None = None) -> AsyncIterator[Parts]:
    """The parts of `config` one by one; embedded servers run meanwhile, as with `open_runtime`."""
    async with AsyncExitStack() as stack:
        endpoints = await _endpoints(config, stack)
        parts = Parts(config, endpoints, clock or SystemClock())
        if endpoints is not None and config.catalog.url.is_embedded:
            async with parts.database() as db:
                await migrate(db)
        yield parts


def read_config(config: str | Path | TieringConfig) -> TieringConfig:
    """A configuration from its file, or as it is."""
    return config if isinstance(config, TieringConfig) else load_config(config)


async def _endpoints(config: TieringConfig, stack: AsyncExitStack) -> Endpoints | None:
    embedded = config.embedded
    if embedded is None:
        return None
    from sagaz_tiering.embedded.servers import EmbeddedServers, endpoints_of_running

    running = endpoints_of_running(embedded.data_dir)
    if running is not None:
        return running
    cold = config.tiers.cold
    servers = await stack.enter_async_context(
        EmbeddedServers.start(
            embedded.data_dir,
            postgres=embedded.postgres,
            redis=embedded.redis,
            s3=embedded.s3,
            bucket=None if cold.is_directory else bucket_and_prefix(cold.url)[0],
        )
    )
    return servers.endpoints


def _database_options(config: TieringConfig, endpoints: Endpoints | None) -> DatabaseOptions:
    catalog = config.catalog
    url = _resolve(catalog.url.get_secret_value(), endpoints.postgres_url if endpoints else None, "catalog.url")
    return DatabaseOptions(
        url=url,
        shown_url=redacted(url),
        pool_min=catalog.pool_min,
        pool_max=catalog.pool_max,
        statement_cache_size=STATEMENT_CACHE_SIZE if catalog.statement_cache else 0,
        command_timeout=catalog.command_timeout,
    )


def _hot_options(config: TieringConfig, endpoints: Endpoints | None) -> HotOptions:
    hot = config.tiers.hot
    url = _resolve(hot.url.get_secret_value(), endpoints.redis_url if endpoints else None, "tiers.hot.url")
    return HotOptions(
        url=url,
        shown_url=redacted(url),
        key_prefix=hot.key_prefix,
        socket_timeout=hot.socket_timeout,
        max_connections=hot.max_connections,
    )


async def _objects(
    config: TieringConfig, endpoints: Endpoints | None, clock: Clock, stack: AsyncExitStack
) -> ObjectStore:
    cold = config.tiers.cold
    if cold.is_directory:
        from sagaz_tiering.objects.local import LocalObjectStore

        return await stack.enter_async_context(await LocalObjectStore.open(file_path(cold.url), clock))
    from sagaz_tiering.objects.s3 import S3ObjectStore
    from sagaz_tiering.objects.s3_options import S3Options

    bucket, prefix = bucket_and_prefix(cold.url)
    endpoint, access, secret = cold.endpoint_url, _plain(cold.access_key_id), _plain(cold.secret_access_key)
    if endpoint == EMBEDDED:
        endpoint = _resolve(endpoint, endpoints.s3_endpoint if endpoints else None, "tiers.cold.endpoint_url")
        access, secret = (endpoints.s3_access_key_id, endpoints.s3_secret_access_key) if endpoints else (None, None)
    options = S3Options(
        bucket=bucket,
        prefix=prefix,
        region=cold.region,
        endpoint_url=endpoint,
        encryption=cold.encryption.value,
        kms_key_id=cold.kms_key_id,
        access_key_id=access,
        secret_access_key=secret,
        checksums=cold.checksums.value,
        connect_timeout=cold.connect_timeout,
        request_timeout=cold.request_timeout,
        multipart_threshold=cold.multipart_threshold,
    )
    return await stack.enter_async_context(await S3ObjectStore.open(options))


def _master_keys(config: TieringConfig) -> MasterKeys:
    """What the configuration names; nothing is read or asked before a data key is needed."""
    section = config.encryption
    if section is None:
        return NoMasterKeys()
    if importlib.util.find_spec("cryptography") is None:
        raise MissingDependencyError("cryptography", "the section `encryption`")
    found: dict[str, MasterKeys] = {}
    if section.key_file is not None:
        from sagaz_tiering.master_keys import key_file

        found[key_file.SCHEME] = key_file.KeyFile(section.key_file)
    if section.kms_key_id is not None:
        from sagaz_tiering.master_keys import kms

        found[kms.SCHEME] = kms.Kms(
            kms.KmsOptions(key_id=section.kms_key_id, region=section.kms_region, endpoint_url=section.kms_endpoint_url)
        )
    return Several(list(found)[-1], found)


def _dictionaries(config: TieringConfig, hot: HotTier, catalog: Catalog, objects: ObjectStore) -> Dictionaries:
    """Readers ask the nearest place first; writers only the catalog: what Redis alone has may be gone tomorrow."""
    return Dictionaries(
        sources=(HotDictionaries(hot), catalog.dictionaries, BucketDictionaries(objects)),
        registers=(catalog.dictionaries,),
        enabled=config.dictionaries.enabled,
    )


def _resolve(given: SecretUrl | str, embedded: str | None, where: str) -> str:
    url = given.get_secret_value() if isinstance(given, SecretUrl) else given
    if url != EMBEDDED:
        return url
    if embedded is None:
        raise ConfigError(f"{where} is `embedded`, but that embedded server does not run", hint="see `embedded:`")
    return embedded


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _job_options(config: TieringConfig) -> JobOptions:
    jobs, pack, budget = config.jobs, config.tiers.cold.pack, config.budget
    return JobOptions(
        lease_ttl=jobs.lease_ttl,
        claim_ttl=jobs.claim_ttl,
        batch_sagas=jobs.batch_sagas,
        upload_deadline=jobs.upload_deadline,
        retire_grace=jobs.retire_grace,
        tombstones=jobs.tombstones,
        collect_min_age=jobs.collect_min_age,
        collect_max_deletes=jobs.collect_max_deletes,
        scrub_cycle=jobs.scrub_cycle,
        scrub_requests=jobs.scrub_requests,
        scrub_bytes=jobs.scrub_bytes,
        compact_live_share=jobs.compact_live_share,
        compact_small_share=jobs.compact_small_share,
        expire_max_share=jobs.expire_max_share,
        notify=Notify(webhook=_plain(config.restore.webhook), command=config.restore.command),
        expire_free_count=jobs.expire_free_count,
        budget_requests=budget.requests_per_day,
        budget_usd=budget.usd_per_day,
        pack_target=pack.target,
        max_frame=pack.max_frame,
        level=pack.level,
        hot_level=config.tiers.hot.compression_level,
        dictionary_size=config.dictionaries.size,
        dictionary_sample=config.dictionaries.sample,
        dictionary_min_sagas=config.dictionaries.min_sagas,
    )
