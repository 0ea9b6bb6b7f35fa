"""What the pages show and the API answers: documents of JSON values, made of parts that stand for themselves.

A part that cannot be had (a server is down, still starting, or too slow) says why instead of looking empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.catalog import Catalog
from sagaz_tiering.catalog.migrations import check_schema
from sagaz_tiering.catalog.surveys import Holding
from sagaz_tiering.daemon.health import DaemonState
from sagaz_tiering.errors import SagazTieringError, SnapshotArchived, TierUnavailable
from sagaz_tiering.operations.status import StoreTotals, history, spent_of, take_stock
from sagaz_tiering.operations.survey import planned
from sagaz_tiering.snapshot import SnapshotRef, Tier
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import plain
from sagaz_tiering.tiered.storage import TieredStorage

PART_WITHIN_S: Final = 10.0
PLAN_WITHIN_S: Final = 60.0
"""It goes through the catalog, behind the first paint of its page."""
_PLAN_FOR_S: Final = 30.0
_TOTALS_FOR_S: Final = 5.0
_SHOWN: Final = 10
MOST_SNAPSHOTS: Final = 1_000
"""Of one saga so many are shown on a page."""
MOST_HOLDS: Final = 50
"""On one saga so many are shown."""
_UNDER_WAY: Final = ("RESTORING", "READY")

Part = dict[str, Any]
"""`value`, or where that cannot be shown (None) the `problem` and a `hint`."""


class Documents:
    """Asks the daemon's parts; changes nothing."""

    def __init__(self, state: DaemonState, monotonic: Callable[[], float]) -> None:
        self.state = state
        self._monotonic = monotonic
        self._totals: tuple[float, StoreTotals] | None = None
        self._looking = asyncio.Lock()
        self._plan: tuple[float, str, dict[str, Any]] | None = None
        self._planning = asyncio.Lock()

    def runtime(self) -> Runtime:
        """The open parts. Raises TierUnavailable while the daemon is still opening them."""
        found = self.state.runtime()
        if found is None:
            raise TierUnavailable(
                "the daemon has not reached its servers yet", hint="it goes on trying; see the reasons on the overview"
            )
        return found

    @property
    def storage(self) -> TieredStorage:
        """What applications call. Raises as `runtime` does."""
        return self.runtime().storage()

    @property
    def catalog(self) -> Catalog:
        """The tables. Raises as `runtime` does."""
        return self.runtime().catalog

    def now(self) -> datetime:
        """The time of the catalog's server, as far as it is known."""
        return self.runtime().clock.now()

    async def part(
        self, ask: Callable[[], Awaitable[Any]], *, is_plain: bool = False, within_s: float = PART_WITHIN_S
    ) -> Part:
        """What `ask` gives, or why it cannot be shown. `is_plain`: that is JSON values already, perhaps very many."""
        try:
            async with asyncio.timeout(within_s):
                value = await ask()
                return {"value": value if is_plain else plain(value), "problem": None}
        except SagazTieringError as exc:
            return problem_of(exc)
        except TimeoutError:
            return _unknown(f"no answer within {within_s:.0f} s", "the servers are slow or away")

    async def overview(self) -> dict[str, Any]:
        """Tiers, jobs, restores under way, quarantine, health, the last thirty days."""
        parts = {
            "tiers": self._tiers,
            "jobs": self._jobs,
            "restores": self._restores,
            "quarantine": lambda: self.catalog.quarantine.items(_SHOWN),
            "history": self.history,
        }
        found = await asyncio.gather(*(self.part(ask) for ask in parts.values()))
        return {"health": self.health(), **dict(zip(parts, found, strict=True))}

    def health(self) -> dict[str, Any]:
        """Whether the daemon is ready, why not, and what somebody should know."""
        health = self.state.health
        problems = health.problems()
        return {"ready": not problems, "reasons": plain(problems), "degraded": plain(health.notes())}

    async def history(self, days: int = 30) -> dict[str, Any]:
        """What was where, what came and what it cost."""
        now = self.now()
        return await history(self.catalog, now - timedelta(days=days), now)

    async def _tiers(self) -> dict[str, Any]:
        totals = await self._look()
        waiting = totals.hot.sagas_due if totals.hot else None
        return {
            "at": plain(totals.at),
            "hot": None if totals.hot is None else plain(totals.hot),
            "holdings": plain(sorted(totals.holdings, key=_warmest_first)),
            "due": {"hot_sagas": waiting, "durable_snapshots": totals.durable.due},
            "open_work": plain(list(totals.open_work)),
            "spent_today": spent_of(self.runtime().settings.budget, totals.spent_today),
        }

    async def _look(self) -> StoreTotals:
        """At most one look in a few seconds, however many people look."""
        async with self._looking:
            if self._totals is None or self._monotonic() - self._totals[0] > _TOTALS_FOR_S:
                await check_schema(self.runtime().db)
                self._totals = self._monotonic(), await take_stock(self.runtime().job_context())
            return self._totals[1]

    async def plan(self) -> Part:
        """What the jobs would do; made at most once in half a minute for the same policies, however many look."""

        async def made() -> dict[str, Any]:
            async with self._planning:
                known, context = self._plan, self.runtime().job_context()
                policies = context.policies
                if known is None or known[1] != policies.revision or self._monotonic() - known[0] > _PLAN_FOR_S:
                    plan = await planned(context, policies, self.now())
                    known = self._plan = self._monotonic(), policies.revision, plan.to_dict()
                return known[2]

        return await self.part(made, within_s=PLAN_WITHIN_S)

    async def _jobs(self) -> list[dict[str, Any]]:
        last = {run.job: run for run in await self.catalog.history.last_runs()}
        due_in, running, now = self.state.schedule.due_in(), set(self.state.schedule.running), self.now()
        return [
            {
                "job": name,
                "running": name in running,
                "last": plain(last.get(name)),
                "next_at": plain(now + due_in[name]) if name in due_in else None,
            }
            for name in sorted({*last, *due_in})
        ]

    async def _restores(self) -> list[dict[str, Any]]:
        found = await self.catalog.restores.newest(_SHOWN)
        return [one.to_dict() for one in found if one.state in _UNDER_WAY]

    async def saga(self, saga_id: UUID, refs: Sequence[SnapshotRef], number: int) -> dict[str, Any]:
        """The page of a saga's timeline with that number, what happens to the saga, its holds."""
        storage = self.storage
        whole = await storage.explain_saga(saga_id)
        return {
            "saga_id": str(saga_id),
            "saga_name": next((ref.saga_name for ref in refs if ref.unreadable is None), ""),
            "saga": plain(whole),
            **timeline_page(refs, number),
            "_has_cold": any(ref.tier is Tier.COLD for ref in refs),
            "holds": await self.part(lambda: self.catalog.holds.in_force(saga_id, MOST_HOLDS)),
            "replays": await self.part(lambda: storage.list_replays(saga_id)),
        }

    async def refs(self, saga_id: UUID) -> list[SnapshotRef]:
        """All of a saga's timeline, oldest first."""
        return sorted(await self.storage.timeline(saga_id), key=lambda ref: ref.order_key)


def timeline_page(refs: Sequence[SnapshotRef], number: int) -> dict[str, Any]:
    """The MOST_SNAPSHOTS of a timeline that one is shown with, and how many there are before and behind them."""
    behind = (len(refs) - 1 - number) // MOST_SNAPSHOTS * MOST_SNAPSHOTS
    last = len(refs) - behind
    first = max(0, last - MOST_SNAPSHOTS)
    return {"snapshots": [ref.to_dict() for ref in refs[first:last]], "earlier": first, "newer": behind}


def problem_of(error: SagazTieringError) -> Part:
    """An error as a part; of what is archived also in which class, and what bringing it back takes."""
    found = _unknown(str(error), error.hint)
    if isinstance(error, SnapshotArchived):
        options = [{"tier": o.tier, "eta_s": o.eta.total_seconds(), "cost_usd": o.cost_usd} for o in error.options]
        found["archived"] = {"storage_class": error.storage_class, "options": options}
    return found


def _warmest_first(held: Holding) -> tuple[int, int]:
    """A class that is not known here, such as one of a later version, comes behind those that are."""
    classes = ["", *StorageClass]
    coldness = classes.index(held.storage_class) if held.storage_class in classes else len(classes)
    return ("hot", "durable", "cold", "retiring").index(held.tier), coldness


def _unknown(problem: str, hint: str) -> Part:
    return {"value": None, "problem": problem, "hint": hint}
