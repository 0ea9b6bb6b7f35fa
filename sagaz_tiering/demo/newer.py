"""Sagas of the last months, so that who looks around afterwards finds something in every tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.demo.check import Recorder
from sagaz_tiering.demo.sagas import kinds, run_sagas
from sagaz_tiering.jobs import run_job
from sagaz_tiering.operations.status import note_hour, take_stock
from sagaz_tiering.snapshot import SagaSnapshot

GAPS_DAYS: Final = (60, 40, 25, *(3,) * 9, 1, 0)
"""So many days after each handful of sagas the next one begins; the last days have a point each in the history."""
SLOWER: Final = 3_000
"""The engine runs a saga in milliseconds; here its steps lie minutes apart."""


async def run_newer(
    runtime: Runtime, clock: VirtualClock, sagas: int, first: int, *, gaps_days: Sequence[int] = GAPS_DAYS
) -> Recorder:
    """Let time pass with `sagas` sagas in it, numbered from `first`, and the jobs at their work."""
    each, storage = max(1, sagas // len(gaps_days)), _Slower(runtime.storage(), clock)
    recorder = Recorder(storage)
    for days in gaps_days:
        storage.begin()
        await run_sagas(kinds(), each, recorder, first=first)
        first += each
        clock.advance(timedelta(days=days))
        for name in ("age", "transition", "expire"):
            await run_job(name, runtime.job_context())
        await note_hour(runtime.job_context(), await take_stock(runtime.job_context()))
    return recorder


class _Slower:
    """The storage, told that the machine's moments are those of the demonstration's time, and longer."""

    def __init__(self, storage: Any, clock: VirtualClock) -> None:
        self._storage, self._clock = storage, clock
        self.begin()

    def begin(self) -> None:
        """The machine's moment now is one of some hours ago in the demonstration's time."""
        self._began, self._base = datetime.now(UTC), self._clock.now() - timedelta(hours=6)

    async def save_snapshot(self, snapshot: Any) -> None:
        """Save it as one of then."""
        found = SagaSnapshot.of(snapshot)
        created_at = self._base + (found.created_at - self._began) * SLOWER
        kept = None if found.retention_until is None else found.retention_until - found.created_at + created_at
        await self._storage.save_snapshot(replace(found, created_at=created_at, retention_until=kept))
