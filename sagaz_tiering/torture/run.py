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
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.jobs import JOBS, JobReport, run_job
from sagaz_tiering.torture import store as processes
from sagaz_tiering.torture.model import Difference, Model, ModelComparison, Scenario, Worker
from sagaz_tiering.torture.store import Store, open_store

SAVERS = 2
DAEMONS = 2
READERS = 3
_SAVES_S, _WORKS_S = 4.0, 2.5
"""Savers and daemons are killed within so long after they have begun to work;"""
_BLIND = 0.2
"""such a share of them after a random time, whether they work or not;"""
_AIMED, _AFTER_S = 0.6, 0.05
"""and such a share of daemons within so long after a pack was announced: around its upload and its publication."""
_TIMEOUT_S = 30.0
_REPORT_S = 2.0

Say = Callable[[str], None]


class Chaos:
    """One run; afterwards every process is dead, and the model knows what they saved. Raises Difference."""

    def __init__(self, store: Store, model: Model, comparison: ModelComparison, chance: Random, say: Say) -> None:
        self._store, self._model, self._comparison = store, model, comparison
        self._chance, self._say = chance, say
        self._lives = 0
        self._until = 0.0
        self.counts: Counter[str] = Counter()

    async def run(self, snapshots: int) -> None:
        """For the span of the model's script; about so many snapshots are saved."""
        seconds = self._model.script.span.total_seconds()
        pause = timedelta(seconds=seconds * SAVERS * processes.WORKERS / snapshots)
        self._until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(SAVERS):
                group.create_task(self._savers(pause))
            for number in range(DAEMONS):
                group.create_task(self._daemons(number))
            for _ in range(READERS):
                group.create_task(self._readers())
            group.create_task(self._removals())
            group.create_task(self._report())

    async def _savers(self, pause: timedelta) -> None:
        while time.monotonic() < self._until:
            life, self._lives = self._lives, self._lives + 1
            log = self._store.folder / f"saver-{life}.log"
            self._model.running.add(life)
            self._model.acknowledged |= {Worker(life, number): -1 for number in range(processes.WORKERS)}
            script, acks = self._model.script, self._acks(life)
            start = partial(
                processes.begin, processes.save, self._store.config, script, life, acks, pause.total_seconds(), log
            )
            await self._live_and_die(start, partial(self._saved, life), log, self._saves)
            self._hear(life)
            self._model.running.discard(life)
            self.counts["savers_killed"] += 1

    async def _daemons(self, number: int) -> None:
        lives = 0
        while time.monotonic() < self._until:
            log, lives = self._store.folder / f"daemon-{number}-{lives}.log", lives + 1
            start = partial(processes.begin, processes.run_daemon, self._store.config, log)
            pid = await self._live_and_die(start, partial(processes.is_ready, log), log, self._works)
            held = await self._store.runtime.catalog.leases.held()
            self.counts["daemons_killed"] += 1
            self.counts["daemons_killed_at_work"] += any(f"/{pid}/" in lease.owner for lease in held)

    def _saved(self, life: int) -> bool:
        """Whether each worker of a saver saves: a run in which nothing was acknowledged says nothing."""
        return min(processes.acknowledged(self._acks(life)).values()) >= 0

    async def _saves(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, _SAVES_S))

    async def _works(self) -> None:
        until = time.monotonic() + self._chance.uniform(0, _WORKS_S)
        if self._chance.random() < _AIMED:
            before = await self._uploading()
            while time.monotonic() < until and (now := await self._uploading()) <= before:
                before = now
            until = time.monotonic() + self._chance.uniform(0, _AFTER_S)
        await asyncio.sleep(max(0.0, until - time.monotonic()))

    async def _uploading(self) -> int:
        totals = await self._store.runtime.catalog.packs.totals()
        return sum(total.packs for total in totals if total.state == "UPLOADING")

    async def _live_and_die(
        self,
        start: Callable[[], BaseProcess],
        at_work: Callable[[], bool],
        log: Path,
        moment: Callable[[], Awaitable[None]],
    ) -> int:
        """Start a process and kill it at a random moment; its pid. One that ends by itself is a difference."""
        process = await asyncio.to_thread(start)
        try:
            if self._chance.random() > _BLIND:
                await self._wait(at_work, process)
            await moment()
            if process.exitcode is not None:
                raise Difference(f"a process ended by itself with {process.exitcode}: {processes.tail(log)}")
        finally:
            process.kill()
            await asyncio.to_thread(process.join)
        return process.pid or 0

    async def _wait(self, at_work: Callable[[], bool], process: BaseProcess) -> None:
        until = time.monotonic() + _TIMEOUT_S
        # It is another process: there is nothing to wait on but what it leaves.
        while not at_work() and process.exitcode is None and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def _acks(self, life: int) -> Path:
        return self._store.folder / f"acks-{life}"

    def _hear(self, life: int) -> None:
        """Take note of what a saver has noted."""
        for number, turn in processes.acknowledged(self._acks(life)).items():
            self._model.acknowledged[Worker(life, number)] = turn

    async def _readers(self) -> None:
        while time.monotonic() < self._until:
            for life in list(self._model.running):
                self._hear(life)
            sagas = list(self._model.sagas())
            if sagas:
                await self._comparison.look(self._chance.choice(sagas))
            await asyncio.sleep(0.005)

    async def _removals(self) -> None:
        """Now and then a snapshot is deleted, or a saga forgotten, that nobody saves to any more."""
        while time.monotonic() < self._until:
            await asyncio.sleep(self._chance.uniform(0.05, 0.3))
            sagas = [saga for saga in self._model.sagas() if self._model.is_complete(saga)]
            if not sagas:
                continue
            saga = self._chance.choice(sagas)
            ids, saga_id = self._model.ids(saga), self._model.script.saga_id(saga)
            self._model.changes[saga] += 1
            self._model.removing.add(saga)
            try:
                if self._chance.random() < 0.3:
                    await self._store.runtime.storage().forget(saga_id, reason="torture")
                else:
                    ids = ids[:1]
                    await self._store.runtime.storage().delete_snapshot(ids[0])
            except SagazTieringError as exc:
                raise Difference(f"saga {saga_id} cannot be removed: {type(exc).__name__}: {exc}") from exc
            self._model.removed |= set(ids)
            self._model.removing.discard(saga)

    async def _report(self) -> None:
        while (left := self._until - time.monotonic()) > 0:
            self._say(
                f"{left:3.0f} s left: {self._model.saves:,} saves acknowledged, "
                f"{self._comparison.counts['reads']:,} reads compared, {self.counts['savers_killed']} savers and "
                f"{self.counts['daemons_killed']} daemons killed ({self.counts['daemons_killed_at_work']} at work)"
            )
            await asyncio.sleep(min(_REPORT_S, left))


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
