"""What every job is given and may spend, what it gives back, and how it walks pages and batches."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, ParamSpec, Protocol, Self, TypeVar
from uuid import UUID

from sagaz_tiering import metrics
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.packs_anew import PackWork
from sagaz_tiering.clock import to_micros
from sagaz_tiering.costs.economics import THAW_DAYS, Cost, restore_cost
from sagaz_tiering.errors import BudgetSpent
from sagaz_tiering.objects.base import RestoreState
from sagaz_tiering.packs.format import finished
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import document
from sagaz_tiering.tiers import Tiers

P = ParamSpec("P")
T = TypeVar("T")
KeyT = TypeVar("KeyT")
PackT = TypeVar("PackT", Pack, PackWork)


LEAST_SHARE = 8 * 2**20
"""Smallest target of a pack, in bytes, that processes make of a larger one between them."""

INLINE_BYTES = LEAST_SHARE
"""Most that a process which is alone works on where it stands: a quarter of a second. Its event loop renews the lease
and hears Redis, whose answers are given up after two seconds."""


UPLOAD_BYTES = 40 * 2**20


def share_of(target: int, upload_bytes: int, processes: int) -> tuple[int, int]:
    """(target of a pack, bytes under way) of each of several processes."""
    return max(3 * target // (4 * processes), min(target, LEAST_SHARE)), upload_bytes // processes


class Workers(Protocol):
    """Processes that do a share of a large backlog beside this one."""

    @property
    def processes(self) -> int:
        """How many work then, this one included."""

    def share(
        self, job: str, stopping: asyncio.Event, tally: Tally, policies: PolicySet
    ) -> AbstractAsyncContextManager[None]:
        """They work on `job` by `policies` for the length of the block, or until `stopping`.

        What they do is added to `tally`.
        """


@dataclass(slots=True, kw_only=True)
class JobContext(Tiers):
    """The tiers, and what is in force. One per process; jobs keep no state of their own.

    `upload_bytes`: most of the packs that are sealed and not published yet. `owner` names this process in leases.
    `owned_at` is when the prefix was last seen to be ours (`uptime_s`). A job that sees `stopping` set finishes its
    running step and returns. A process that is `alone` with its job works on up to INLINE_BYTES where it stands:
    threads that all want Python's lock take it longer than one. Elsewhere the event loop has others to serve. With
    `any_time` the windows of the schedule do not count, with `all_packs` neither `scrub`'s cycle nor its budget.
    """

    owner: str
    upload_bytes: int = UPLOAD_BYTES
    progress: Callable[[str, int], None] | None = None
    allow_mass_delete: bool = False
    accept_lost: bool = False
    any_time: bool = False
    all_packs: bool = False
    thaw: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    catalog_id: UUID | None = None
    owned_at: float = -math.inf
    workers: Workers | None = None
    alone: bool = False

    def for_a_run(self) -> Self:
        """It keeps what is in force as it begins, also when that is reloaded meanwhile, and makes sure anew that the
        catalog owns the prefix: the database may have been replaced since the last run."""
        return replace(self, in_force=replace(self.in_force), catalog_id=None)

    def by(self, policies: PolicySet) -> Self:
        """The same by other policies."""
        return replace(self, in_force=replace(self.in_force, policies=policies))

    def shared_by(self, processes: int) -> Self:
        """For one of several processes that together take the memory of one: each fills smaller packs.

        A quarter of the memory for packs is left to the programs themselves (measured: 240 MiB for two).
        """
        if processes == 1:
            return self
        target, upload_bytes = share_of(self.settings.tiers.cold.pack.target, self.upload_bytes, processes)
        share = replace(self.in_force, settings=self.settings.with_settings({"tiers.cold.pack.target": target}))
        return replace(self, in_force=share, upload_bytes=upload_bytes)

    async def spend(self, kind: str, cost: Cost, *, must: bool = False) -> None:
        """Count `cost` before it is spent; raises BudgetSpent, with nothing counted, where today's budget has no room.

        `must`: what cannot wait (an erasure, bytes that are thawed and billed already) is counted and never refused.
        """
        budget, today, spending = self.settings.budget, self.now.date(), self.catalog.spending
        most, most_usd = (None, None) if must else (budget.requests_per_day, budget.usd_per_day)
        if not await spending.spend(today, kind, cost.requests, cost.usd, most_requests=most, most_usd=most_usd):
            spent = await spending.on(today)
            limits = [] if most is None else [f"{most:,} requests"]
            limits += [] if most_usd is None else [f"${most_usd:,.2f}"]
            raise BudgetSpent(
                f"today's budget is used up: {sum(s.requests for s in spent):,} requests and "
                f"${sum(s.usd for s in spent):.4f} spent, {' and '.join(limits)} allowed; the next step costs "
                f"{cost.requests:,} requests and ${cost.usd:.2g}"
            )
        metrics.spend(kind, cost.requests, cost.usd)

    async def spend_reads(
        self, kind: str, storage_class: StorageClass, *, requests: int = 1, size: int = 0, must: bool = False
    ) -> None:
        """The same of so many requests that read `size` bytes together."""
        usd = self.prices.get_usd(storage_class, requests, total_bytes=size)
        await self.spend(kind, Cost(requests=requests, usd=usd), must=must)

    async def thaw_pack(self, kind: str, pack: Pack, *, must: bool = False) -> RestoreState:
        """Ask for a readable copy of an archived pack (Bulk costs least), which a later run finds."""
        cost = restore_cost(self.prices, pack.storage_class, objects=1, total_bytes=pack.byte_size)
        await self.spend(kind, cost, must=must)
        return await self.objects.restore(pack.object_key, days=THAW_DAYS, tier="Bulk")

    @property
    def now(self) -> datetime:
        return self.clock.now()

    @property
    def now_us(self) -> int:
        return to_micros(self.clock.now())

    async def compute(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work`, which takes long for its `size` in bytes and waits for nothing."""
        if self.alone and size <= INLINE_BYTES:
            await asyncio.sleep(0)  # others get their turn
            return work(*args, **kwargs)
        return await asyncio.to_thread(work, *args, **kwargs)

    async def compute_in_steps(self, steps: Generator[None, None, T]) -> T:
        """What comes out of work that takes long, whatever its size, and yields now and then."""
        if not self.alone:
            return await asyncio.to_thread(finished, steps)
        while True:
            await asyncio.sleep(0)
            try:
                next(steps)
            except StopIteration as end:
                result: T = end.value
                return result


def chunks(items: Sequence[T], size: Callable[[T], int], limit: int) -> list[list[T]]:
    """Consecutive runs of `items` of at most `limit` together (a larger one is alone)."""
    found: list[list[T]] = []
    total = 0
    for item in items:
        weight = size(item)
        if not found or total + weight > limit:
            found.append([])
            total = 0
        found[-1].append(item)
        total += weight
    return found


def batched(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Consecutive runs of so many items; the last may be shorter."""
    return (items[start : start + most] for start in range(0, len(items), most))


async def pages(
    fetch: Callable[[KeyT], Awaitable[Sequence[T]]],
    after: KeyT,
    key: Callable[[T], KeyT],
    stopping: asyncio.Event | None = None,
) -> AsyncIterator[Sequence[T]]:
    """All that `fetch` gives behind a key, from `after` on, page by page; no more of them once it is `stopping`."""
    while not (stopping is not None and stopping.is_set()) and (page := await fetch(after)):
        yield page
        after = key(page[-1])


async def each_pack(fetch: Callable[[int], Awaitable[Sequence[PackT]]]) -> AsyncIterator[PackT]:
    """All that `fetch` gives behind a pack's id, from the first on; holds one page."""
    async for page in pages(fetch, 0, lambda pack: pack.pack_id):
        for pack in page:
            yield pack


@dataclass(slots=True, kw_only=True)
class JobReport:
    """What a run did (or, dry, would do). `skipped`: another process holds the job's lease.

    `refused`: dry, why a run would stop and ask before it does any of it. `opens_at`: nothing was done, since no window
    of the job is open before.
    """

    job: str
    dry_run: bool
    started_at: datetime
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: bool = False
    refused: str | None = None
    opens_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**document(self), "seconds": round(self.seconds, 3)}


class Tally:
    """Counts what a run does, and tells the progress callback."""

    def __init__(self, progress: Callable[[str, int], None] | None) -> None:
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self.refused: str | None = None
        self._progress = progress

    def add(self, kind: str, number: int = 1, *, note: str = "") -> None:
        """`number` more of `kind`; `note`: what a person should know of it."""
        if note:
            self.note(note)
        if number:
            self.counts[kind] += number
            if self._progress is not None:
                self._progress(kind, number)

    def failed(self, what: str, why: object) -> None:
        """One of many could not be done; the rest goes on."""
        self.add("failed", note=f"{what}: {why}")

    def note(self, text: str) -> None:
        """Something a person should know; only the first hundred are kept."""
        if len(self.notes) < 100:
            self.notes.append(text)
