"""The torture and the reckoning.

    start servers -> save, move, expire, read and remove, with savers and daemons killed all the while
    -> let the jobs finish what the dead left -> compare everything -> months later, thawed: compare everything
    -> compare the bucket with the catalog

While processes of their own are at work the machine's clock counts; snapshots are born up to 200 days old, so that
every policy has something to do at once. After the last kill the clock is ours, and months pass in a moment.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.jobs import JOBS, JobReport, run_job
from sagaz_tiering.torture import processes
from sagaz_tiering.torture.chaos import Chaos, Say
from sagaz_tiering.torture.checks import Difference, ModelComparison
from sagaz_tiering.torture.model import Model, Scenario
from sagaz_tiering.torture.store import Store, open_store

_REST_S = 120.0
"""The jobs must have come to rest by then."""

Interference = Callable[[str, Runtime], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class TortureOutcome:
    """What happened; `difference` is the first thing that was not as it must be."""

    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    difference: str = ""
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 only if everything was as it must be."""
        return 1 if self.difference else 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "ok": not self.difference,
            "seed": self.seed,
            "difference": self.difference or None,
            "counts": dict(sorted(self.counts.items())),
            "seconds": round(self.seconds, 1),
        }


async def run_torture(
    *, seconds: float, seed: int, snapshots: int, say: Say, interfere: Interference | None = None
) -> TortureOutcome:
    """Chaos for `seconds`, saving about `snapshots`; then compare. `interfere` (tests) is called after each phase.

    Raises what the servers' start raises; every difference, whatever it is, is in the outcome.
    """
    began, outcome = time.monotonic(), TortureOutcome(seed=seed)
    await asyncio.to_thread(processes.prepare)
    async with open_store() as store:
        reckoning = _Reckoning(store, seed, timedelta(seconds=seconds), say)
        try:
            await reckoning.run(snapshots, interfere)
        except* Difference as differences:
            first: BaseException = differences
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            outcome.difference = str(first)
        outcome.counts = reckoning.counts()
    outcome.seconds = time.monotonic() - began
    return outcome


def default_seed() -> int:
    """Another one each time."""
    return int.from_bytes(os.urandom(4), "big")


class _Reckoning:
    def __init__(self, store: Store, seed: int, span: timedelta, say: Say) -> None:
        self._store, self._say, chance = store, say, Random(seed)
        self._script = Scenario(seed=seed, begun=store.clock.now(), span=span)
        self._model = Model(script=self._script)
        self._comparison = ModelComparison(self._model, store.runtime, store.clock, chance)
        self._chaos = Chaos(store, self._model, self._comparison, chance, say)

    async def run(self, snapshots: int, interfere: Interference | None) -> None:
        """All phases; raises the first Difference."""
        phases: dict[str, Callable[[], Awaitable[None]]] = {
            "killed": lambda: self._chaos.run(snapshots),
            "settled": self._settle,
            "compared": self._comparison.everything,
            "months later": self._months_later,
            "compared again": lambda: self._comparison.everything(thawed=True),
            "collected": self._collect,
            "bucket": self._comparison.bucket,
        }
        await self._job("expire")  # the first run of a job puts the policies in force
        for name, phase in phases.items():
            await phase()
            self._say(f"{name}: done")
            if interfere is not None:
                await interfere(name, self._store.runtime)

    def counts(self) -> Counter[str]:
        """What was done and seen."""
        own = Counter({"saves_acknowledged": self._model.saves, "removed": len(self._model.removed)})
        return own + self._chaos.counts + self._comparison.counts

    async def _settle(self) -> None:
        """Run every job until none has anything to do; leases and claims of the dead run out meanwhile."""
        deadline = time.monotonic() + _REST_S
        while not await self._rests():
            if time.monotonic() > deadline:
                raise Difference(f"the jobs did not come to rest within {_REST_S:.0f} s")
            await asyncio.sleep(0.25)

    async def _rests(self) -> bool:
        """One run of each; whether all ran, and nothing waits."""
        reports = [await self._job(name) for name in JOBS]
        now_us = self._store.runtime.job_context().now_us
        waiting = (await self._store.runtime.hot.queue.counts(now_us))["sagas_due"]
        waiting += (await self._store.runtime.catalog.durable.totals(self._store.clock.now()))["due"]
        return not waiting and not any(report.skipped for report in reports)

    async def _job(self, name: str) -> JobReport:
        try:
            report = await run_job(name, self._store.runtime.job_context())
        except SagazTieringError as exc:
            raise Difference(f"job {name}: {type(exc).__name__}: {exc}") from exc
        if report.counts.get("failed"):
            raise Difference(f"job {name}: {'; '.join(report.notes[:3])}")
        return report

    async def _months_later(self) -> None:
        """Everything is packed, what is brief is gone; what is archived is restored, to be read where it is."""
        self._store.clock.ahead += timedelta(days=120)
        await self._settle()
        for saga in self._model.sagas():
            if self._script.kind(saga).archives:
                await self._store.runtime.storage().restore(self._script.saga_id(saga), days=5, into="in-place")
        for _ in range(2):
            await self._job("restore")
            self._store.clock.ahead += timedelta(hours=6)

    async def _collect(self) -> None:
        """Dead packs and strays go, some days later."""
        for _ in range(3):
            self._store.clock.ahead += timedelta(days=2)
            await self._settle()
