"""Fill packs and publish them: the second half of `age`.

`writes` has the order of writes, and what a crash after each step leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from sagaz_tiering.catalog.durable import Postponement
from sagaz_tiering.catalog.packs import NewPack
from sagaz_tiering.clock import from_micros
from sagaz_tiering.config.units import micros
from sagaz_tiering.costs.economics import bucket_end, first_class
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.jobs.age.frames import Part
from sagaz_tiering.jobs.age.writes import AgeWrites
from sagaz_tiering.jobs.claims import Claim
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.jobs.ownership import claim_prefix
from sagaz_tiering.jobs.pack_objects import new_pack
from sagaz_tiering.packs.entries import PackedSnapshot, SealedPack
from sagaz_tiering.packs.format import PackWriter
from sagaz_tiering.policy import Policy
from sagaz_tiering.terminal import show_time

LOOKS_PER_LINGER = 24
"""A pack that is not full is filled anew so many times until its oldest snapshot has waited long enough."""

MAX_OPEN_PACKS = 2
"""Times the target size: the most that all unfinished packs together hold in memory."""


MAX_UPLOADS = 4
"""Packs that are sealed, uploaded and published at once, as far as `JobContext.upload_bytes` allows; a larger pack goes
alone."""


@dataclass(slots=True)
class _OpenPack:
    policy: Policy
    bucket: str
    writer: PackWriter
    parts: list[tuple[Claim, tuple[PackedSnapshot, ...]]] = field(default_factory=list)
    oldest_due_us: int = 2**63 - 1
    max_clock_us: int = -(2**63)
    revisions: set[str | None] = field(default_factory=set)

    def take(self, part: Part) -> None:
        self.writer.add(part.frame)
        self.parts.append((part.claim, part.frame.entry.snapshots))
        self.oldest_due_us = min(self.oldest_due_us, part.oldest_due_us)
        self.max_clock_us = max(self.max_clock_us, part.max_clock_us)
        self.revisions.add(part.attributes_revision)


class Packer:
    """Collects frames by policy and expiry bucket, and publishes each pack that is full or has waited enough.

    Packs are published while the next one is filled: several small ones at once, or a large one; what is full beyond
    that waits. `async with` waits for what is under way, and raises what went wrong with it.
    """

    def __init__(self, context: JobContext, writes: AgeWrites, tally: Tally) -> None:
        self._context = context
        self._writes = writes
        self._tally = tally
        self._open: dict[tuple[str, str], _OpenPack] = {}
        self._waiting: set[int] = set()
        self._under_way: dict[asyncio.Task[None], int] = {}

    async def __aenter__(self) -> Packer:
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            await self._all_published()
        elif self._under_way:
            await asyncio.wait(self._under_way)
            for task in self._under_way:
                with suppress(SagazTieringError, asyncio.CancelledError):  # of two errors the first is told
                    task.result()

    def has(self, snapshot_id: UUID) -> bool:
        """Whether a snapshot waits in a pack of this run (its claim may have run out meanwhile)."""
        return snapshot_id.int in self._waiting

    async def add(self, part: Part) -> None:
        """Take a frame; begins to publish the pack it fills."""
        key, context = (part.policy.name, part.bucket), self._context
        if key in self._open and self._open[key].writer.has_any_of(part.frame):
            # One of them was saved again since, under another saga: each version goes into a pack of its own.
            await self._publish_soon(self._open.pop(key))
        if key not in self._open:
            owner = uuid4() if self._writes.dry else await claim_prefix(context)
            writer = PackWriter(uuid4(), owner, context.now_us)
            self._open[key] = _OpenPack(part.policy, part.bucket, writer)
        pack = self._open[key]
        pack.take(part)
        self._waiting |= {entry.meta.snapshot_id.int for entry in part.frame.entry.snapshots}
        part.claim.open_parts += 1
        target = context.settings.tiers.cold.pack.target
        if pack.writer.size >= target:
            await self._publish_soon(self._open.pop(key))
        elif sum(p.writer.size for p in self._open.values()) > MAX_OPEN_PACKS * target:
            fullest = max(self._open, key=lambda k: self._open[k].writer.size)
            await self._publish_soon(self._open.pop(fullest))

    async def _publish_soon(self, pack: _OpenPack) -> None:
        """Publish in the background, once there is room for it."""
        size = pack.writer.size
        most, under_way = self._context.upload_bytes, self._under_way
        while under_way and (len(under_way) >= MAX_UPLOADS or sum(under_way.values()) + size > most):
            await self._some_published()
        under_way[asyncio.create_task(self._publish(pack))] = size

    async def _some_published(self) -> None:
        """Wait for one of the packs under way. Raises what went wrong with it."""
        done, _ = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del self._under_way[task]
        for task in done:
            task.result()

    async def _all_published(self) -> None:
        while self._under_way:
            await self._some_published()

    async def finish(self) -> None:
        """Publish what has waited long enough; let the rest wait for company."""
        until_us: dict[str, int] = {}
        for key in list(self._open):
            pack = self._open.pop(key)
            deadline_us = pack.oldest_due_us + micros(pack.policy.linger)
            if deadline_us <= self._context.now_us:
                await self._publish_soon(pack)
            else:
                await self._postpone(pack, deadline_us)
                until_us[pack.policy.name] = max(until_us.get(pack.policy.name, 0), deadline_us)
        for name, last_us in until_us.items():
            until = show_time(from_micros(last_us))
            self._tally.note(f"policy {name}: waits until {until} at the latest for its pack to fill up (`linger`)")
        await self._all_published()

    async def _postpone(self, pack: _OpenPack, deadline_us: int) -> None:
        look_us = min(deadline_us, self._context.now_us + micros(pack.policy.linger) // LOOKS_PER_LINGER)
        self._tally.add("waiting", pack.writer.snapshot_count)
        for claim, _ in pack.parts:
            claim.look_at(look_us)
        await self._writes.postpone(
            [Postponement.of(each.meta, look_us, each.expires_us) for _, entries in pack.parts for each in entries]
        )
        await self._let_go(pack, evicted=False)

    async def _publish(self, pack: _OpenPack) -> None:
        writes = self._writes
        sealed, new = await self._seal(pack)
        pack_id = await writes.store(new, sealed)
        frames, size = sealed.footer.frames, len(sealed.data)
        del sealed  # tens of megabytes, and the next pack is being filled
        published = await writes.activate(pack_id, frames)
        self._tally.add("packs")
        self._tally.add("archived", published)
        self._tally.add("bytes", size)
        metas = [meta for frame in frames for meta, _, _ in frame.snapshots]
        tokens = {claim.saga.saga_id: claim.saga.token for claim, _ in pack.parts}
        gone, ended = await writes.evict(metas, tokens)
        self._tally.add("evicted", gone)
        await writes.evicted(pack_id)
        await self._let_go(pack, evicted=True, ended=ended)

    async def _seal(self, pack: _OpenPack) -> tuple[SealedPack, NewPack]:
        """In the policy's class, or the cheapest readable one where that costs less (guarantee G10)."""
        context, policy = self._context, pack.policy
        sealed = await context.compute_in_steps(pack.writer.seal_in_steps())
        size, clock_at, until = len(sealed.data), from_micros(pack.max_clock_us), bucket_end(pack.bucket)
        chosen = first_class(context.prices, policy, size=size, clock_at=clock_at, until=until, now=context.now)
        if chosen.why:
            self._tally.add("packs_kept_warmer")
            self._tally.note(f"policy {policy.name}: {chosen.why}; `compact` and `transition` move them later")
        return sealed, new_pack(
            sealed,
            now=context.now,
            bucket=pack.bucket,
            storage_class=chosen.storage_class,
            policy=policy.name,
            retention_revision=context.policies.retention_revision,
            max_clock_us=pack.max_clock_us,
            attributes_revisions=pack.revisions,
        )

    async def _let_go(self, pack: _OpenPack, *, evicted: bool, ended: Collection[UUID] = ()) -> None:
        """Its claims go on; those of sagas that have `ended` are over, nobody need acknowledge them."""
        open_claims = {id(claim): claim for claim, _ in pack.parts}
        for claim, entries in pack.parts:
            self._waiting -= {entry.meta.snapshot_id.int for entry in entries}
            claim.open_parts -= 1
            claim.left -= len(entries) if evicted else 0
        await self._writes.ack([claim for claim in open_claims.values() if claim.saga.saga_id not in ended])
