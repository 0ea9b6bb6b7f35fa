"""The only place that picks concrete backends: a configuration becomes open parts, closed in reverse order."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from sagaz_tiering.app.options import catalog_settings, hot_settings, master_keys, open_objects
from sagaz_tiering.app.workers import WorkerPool
from sagaz_tiering.catalog import Catalog
from sagaz_tiering.catalog.migrations import check_schema, migrate
from sagaz_tiering.clock import Clock, SystemClock
from sagaz_tiering.config.load import load_config
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.tiers import HotSettings
from sagaz_tiering.config.urls import bucket_and_prefix
from sagaz_tiering.costs import PriceList
from sagaz_tiering.dictionaries.bucket import BucketDictionaries
from sagaz_tiering.dictionaries.cache import Dictionaries
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.drivers.process_loop import HomeLoop
from sagaz_tiering.drivers.server_clock import ServerClock
from sagaz_tiering.hot.dictionaries import HotDictionaries
from sagaz_tiering.hot.incarnation import Incarnation
from sagaz_tiering.hot.tier import HotTier
from sagaz_tiering.jobs import JobContext, run_job
from sagaz_tiering.jobs.journal import try_to_publish
from sagaz_tiering.jobs.ownership import secure
from sagaz_tiering.keys.keyring import Keyring
from sagaz_tiering.keys.master import MasterKeys
from sagaz_tiering.objects.base import ObjectStore
from sagaz_tiering.tiers import InForce, Tiers

if TYPE_CHECKING:
    from sagaz_tiering.embedded.servers import Endpoints
    from sagaz_tiering.tiered.storage import TieredStorage


@dataclass(kw_only=True, eq=False)
class Runtime(Tiers):
    """The open parts of one process. `open_runtime` makes and closes it."""

    facade: type[TieredStorage] | None
    again: Callable[[], AbstractAsyncContextManager[Runtime]]

    def __post_init__(self) -> None:
        self._storage: TieredStorage | None = None
        opened_with = self.settings
        self._jobs = JobContext(
            **{each.name: getattr(self, each.name) for each in fields(Tiers)},
            owner=f"{socket.gethostname()}/{os.getpid()}/{uuid4().hex[:8]}",
            # Worker processes measure for themselves; a clock that was given to us is not theirs.
            workers=WorkerPool(opened_with) if isinstance(self.clock, ServerClock) else None,
        )

    @property
    def db(self) -> Database:
        """The catalog's database."""
        return self.catalog.db

    def storage(self) -> TieredStorage:
        """The facade over these parts, always the same one; made when it is first asked for, which jobs never do."""
        if self._storage is None:
            publish = partial(try_to_publish, self._jobs)
            facade = self.facade or _tiered()
            self._storage = facade(self, expire=self._expire, publish=publish, open_again=self._open_again)
        return self._storage

    async def retire(self) -> None:
        """The parts are about to be closed: the facade is of no more use."""
        if self._storage is not None:
            await self._storage.retire()

    def job_context(self) -> JobContext:
        """What jobs run with; one per process."""
        return self._jobs

    async def check(self) -> None:
        """Raise the first thing that keeps this process from working, naming the server and what to check."""
        await self.hot.connection.ping()
        await check_schema(self.db)
        await self.objects.check()
        await secure(self._jobs)

    async def reload(self, config: TieringConfig) -> None:
        """Put the policies and job limits of `config` in force; servers stay the ones that are open."""
        self.in_force.adopt(config)
        self.dictionaries.enabled = config.dictionaries.enabled
        if self._storage is not None:
            self._storage.adopt(self.policies)

    @asynccontextmanager
    async def _open_again(self) -> AsyncIterator[TieredStorage]:
        """The same storage for another event loop; embedded servers are those that run."""
        async with self.again() as runtime:
            yield runtime.storage()

    async def _expire(self) -> int:
        counts = (await run_job("expire", self._jobs)).counts
        return counts.get("hot", 0) + counts.get("durable", 0) + counts.get("archived", 0)


def _tiered() -> type[TieredStorage]:
    from sagaz_tiering.tiered.storage import TieredStorage

    return TieredStorage


def open_runtime(
    config: TieringConfig,
    *,
    clock: Clock | None = None,
    host: Clock | None = None,
    facade: type[TieredStorage] | None = None,
) -> AbstractAsyncContextManager[Runtime]:
    """Open everything that `config` names. Embedded servers are started and their catalog migrated (or, where
    another process of ours runs them already, used); other servers need not be up.

    Time is that of the catalog's server, which is asked now and then. A `clock` that is given stands for it and for all
    others; `host` is used before any server told its time. Raises ConfigError or MissingDependencyError for what cannot
    work. The end of the block, on whatever event loop, closes what is open where it belongs, also if that is gone.
    """
    return _Opening(InForce.of(config), clock, host, facade)


class _Opening(AbstractAsyncContextManager[Runtime]):
    """Not a generator: those are closed with their loop, all at once, while one of them waits for another."""

    def __init__(
        self, in_force: InForce, clock: Clock | None, host: Clock | None, facade: type[TieredStorage] | None
    ) -> None:
        self._in_force, self._clock, self._host, self._facade = in_force, clock, host, facade
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
            await self._runtime.retire()
        await self._home.close(self._resources.aclose)

    async def _open(self, stack: AsyncExitStack) -> Runtime:
        config, clock = self._in_force.settings, self._clock
        endpoints = await _endpoints(config, stack)
        db = await stack.enter_async_context(Database(catalog_settings(config, endpoints)))
        hot = await stack.enter_async_context(HotTier(hot_settings(config, endpoints)))
        if clock is None:
            clock = await stack.enter_async_context(ServerClock(db.time, hot.connection.time, host=self._host))
        objects = await open_objects(config, endpoints, clock, stack)
        if endpoints is not None and config.catalog.url.is_embedded:
            await migrate(db)
        masters = master_keys(config)
        stack.push_async_callback(masters.close)
        catalog = Catalog(db)
        dictionaries = _dictionaries(config, hot, catalog, objects)
        stack.push_async_callback(dictionaries.close)
        return Runtime(
            hot=hot,
            incarnation=Incarnation(catalog.hot_tier, hot, clock, is_ours=config.tiers.hot.url.is_embedded),
            catalog=catalog,
            objects=objects,
            keys=Keyring(catalog.saga_keys, masters),
            dictionaries=dictionaries,
            prices=PriceList.load(config.tiers.cold.region),
            clock=clock,
            in_force=self._in_force,
            facade=self._facade,
            again=partial(_Opening, self._in_force, self._clock, self._host, self._facade),
        )


@asynccontextmanager
async def open_database(config: TieringConfig) -> AsyncIterator[Database]:
    """Only the catalog's database, for `catalog migrate`."""
    async with AsyncExitStack() as stack:
        endpoints = await _endpoints(config, stack)
        yield await stack.enter_async_context(Database(catalog_settings(config, endpoints)))


class Parts:
    """What a configuration names, each part opened by itself: one that cannot be opened stops no other."""

    def __init__(self, config: TieringConfig, endpoints: Endpoints | None, clock: Clock) -> None:
        self.config, self.clock = config, clock
        self._endpoints = endpoints

    def database(self) -> Database:
        """The catalog's database, not open yet."""
        return Database(catalog_settings(self.config, self._endpoints))

    def hot_settings(self) -> HotSettings:
        """Where Redis is, and how it is used."""
        return hot_settings(self.config, self._endpoints)

    @asynccontextmanager
    async def objects(self) -> AsyncIterator[ObjectStore]:
        """The object store, open."""
        async with AsyncExitStack() as stack:
            yield await open_objects(self.config, self._endpoints, self.clock, stack)

    def master_keys(self) -> MasterKeys:
        """The master keys; whoever asks closes them."""
        return master_keys(self.config)


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


def _dictionaries(config: TieringConfig, hot: HotTier, catalog: Catalog, objects: ObjectStore) -> Dictionaries:
    """Readers ask the nearest place first; writers only the catalog: what Redis alone has may be gone tomorrow."""
    return Dictionaries(
        sources=(HotDictionaries(hot), catalog.dictionaries, BucketDictionaries(objects)),
        registers=(catalog.dictionaries,),
        enabled=config.dictionaries.enabled,
    )
