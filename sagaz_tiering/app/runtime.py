"""A configuration becomes open tiers, a facade and what jobs run with, closed in reverse order."""

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

from sagaz_tiering.app.parts import parts_of
from sagaz_tiering.app.workers import WorkerPool
from sagaz_tiering.catalog import Catalog
from sagaz_tiering.catalog.migrations import check_schema
from sagaz_tiering.clock import Clock
from sagaz_tiering.config.load import load_config
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.dictionaries.cache import BucketDictionaries, Dictionaries
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
from sagaz_tiering.tiers import InForce, Tiers

if TYPE_CHECKING:
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
            from sagaz_tiering.tiered.storage import TieredStorage

            publish, facade = partial(try_to_publish, self._jobs), self.facade or TieredStorage
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
        parts = await parts_of(config, clock, stack)
        db = await stack.enter_async_context(parts.database())
        hot = await stack.enter_async_context(HotTier(parts.hot_settings()))
        if clock is None:
            clock = await stack.enter_async_context(ServerClock(db.time, hot.connection.time, host=self._host))
        objects = await stack.enter_async_context(await parts.objects(clock))
        await parts.migrate_embedded(db)
        masters = parts.master_keys()
        stack.push_async_callback(masters.close)
        catalog = Catalog(db)
        dictionaries = Dictionaries(
            # Readers ask the nearest place first; writers only the catalog: what Redis alone has may be gone tomorrow.
            sources=(HotDictionaries(hot), catalog.dictionaries, BucketDictionaries(objects)),
            registers=(catalog.dictionaries,),
            enabled=config.dictionaries.enabled,
        )
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


def read_config(config: str | Path | TieringConfig) -> TieringConfig:
    """A configuration from its file, or as it is."""
    return config if isinstance(config, TieringConfig) else load_config(config)
