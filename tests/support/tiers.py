"""A whole product on real servers for a test: configuration, runtime with a clock that the test moves, jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sagaz_tiering.app.runtime import Runtime, open_runtime
from sagaz_tiering.app.tiered import TieredSnapshotStorage
from sagaz_tiering.catalog.migrations import current_version, migrate, migrations
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.jobs import JobReport, run_job
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.operations.rebuild import Wish, proposed_id, rebuild

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)

Places = dict[str, Any]
"""Where a product has its data: arguments of `config`, and of `yaml_config.write_config`."""


def rule(
    name: str, saga_name: str | list[str] = "*", move: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    """A policy for sagas of this name, or for all; `move`: after how long to which class."""
    moves = [{"to": to, "after": when} for to, when in (move or {}).items()]
    return {"name": name, "match": {} if saga_name == "*" else {"saga_name": saga_name}, "move": moves, **more}


DEFAULT_POLICIES: Sequence[dict[str, Any]] = (
    rule("payments", "payment-*", {"STANDARD_IA": "7d", "GLACIER": "90d"}, retain="400d"),
    rule("fast", "fast-*", {"STANDARD_IA": "7d"}, durability="hot"),
    rule("default", "*", {"STANDARD_IA": "7d"}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """An open runtime and its facade."""

    runtime: Runtime
    storage: TieredSnapshotStorage
    clock: VirtualClock

    async def run(self, job: str, *, dry_run: bool = False) -> JobReport:
        """Run a job once."""
        return await run_job(job, self.runtime.job_context(), dry_run=dry_run)

    async def hot_count(self) -> int:
        """Snapshots whose values are in Redis."""
        return sum([1 async for _ in self.runtime.hot.snapshots()])

    async def object_keys(self, prefix: str = "packs/") -> list[str]:
        """Keys in the object store."""
        return [info.key async for info in self.runtime.objects.list(prefix)]


def adjust(context: JobContext, **changes: Any) -> None:
    """Put other settings in force, unchecked: `jobs__batch_sagas=2` is `jobs.batch_sagas`."""
    for name, value in changes.items():
        *path, last = name.split("__")
        sections: list[BaseModel] = [context.settings]
        for part in path:
            sections.append(getattr(sections[-1], part))
        for section in reversed(sections):
            value = section.model_copy(update={last: value})
            last = path.pop() if path else ""
        context.in_force.settings = value


async def rebuilt_from_bucket(shop: Product, tally: Tally | None = None) -> None:
    """`catalog rebuild` as whose bucket it is by its mark, at once: its owner is gone."""
    context = shop.runtime.job_context()
    whose = await proposed_id(context)
    assert whose is not None
    await rebuild(context, Tally(None) if tally is None else tally, whose, Wish(take_over=True))


def insistent(policies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with `even_if_costlier: true`, unless they say: the packs of tests are too small to be worth moving."""
    return [{"even_if_costlier": True, **policy} for policy in policies]


def cold_of(cold: str | Path | dict[str, Any], pack: dict[str, Any] | None) -> dict[str, Any]:
    """The section of the cold tier."""
    section = cold if isinstance(cold, dict) else {"url": f"file://{cold}"}
    return section if pack is None else {**section, "pack": pack}


def config(
    *,
    database: str,
    redis_url: str,
    cold: str | Path | dict[str, Any],
    pack: dict[str, Any] | None = None,
    policies: Sequence[dict[str, Any]] = DEFAULT_POLICIES,
    **sections: Any,
) -> TieringConfig:
    """A configuration; `cold` is a directory or the whole section, `pack` what this has of packs."""
    return TieringConfig(
        tiers={"hot": {"url": redis_url}, "cold": cold_of(cold, pack)},
        catalog={"url": database},
        policies=insistent(policies),
        **sections,
    )


@asynccontextmanager
async def product(settings: TieringConfig, *, now: datetime = NOW, schema: bool = True) -> AsyncIterator[Product]:
    """Open everything; the catalog is migrated unless `schema` is False."""
    clock = VirtualClock(now)
    async with open_runtime(settings, clock=clock) as runtime:
        if schema and await current_version(runtime.db) != migrations()[-1].version:
            await migrate(runtime.db)
        yield Product(runtime=runtime, storage=runtime.storage(), clock=clock)
