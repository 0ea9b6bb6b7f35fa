"""Fill packs and publish them: the second half of `age`.

The write order, and what a crash after each step leaves:

1. a row `UPLOADING` in the catalog            -> `collect` abandons it after the upload deadline
2. the object under a fresh key                -> the same, and the object is collected
3. HEAD and footer read back and compared      -> the same
4. one transaction: pack `ACTIVE`, places of its snapshots, durable rows gone
                                               -> readable from both; the next run evicts without packing again
5. the hot copies, by compare-and-delete       -> as after 4
6. `evicted_at` on the row                     -> nothing is left to do
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from sagaz_tiering.catalog.durable import Postponement
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import NewPack, PlacedFrame
from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.engine.job import JobContext, Tally
from sagaz_tiering.engine.ownership import claim_prefix, retention_revision
from sagaz_tiering.engine.turns import Turn, settle
from sagaz_tiering.errors import ColdTierUnavailable, CorruptPack
from sagaz_tiering.objects.base import ObjectInfo
from sagaz_tiering.pack.entries import BuiltFrame, SealedPack
from sagaz_tiering.pack.format import PackWriter
from sagaz_tiering.pack.reader import PackReader
from sagaz_tiering.policy import Policy
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.units import micros

LOOKS_PER_LINGER = 24
"""A pack that is not full is filled anew so many times until its oldest snapshot has waited long enough."""

MAX_OPEN_BYTES = 4
"""Times the target size: the most that all unfinished packs together hold in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A built frame on its way into a pack: whose turn it belongs to, and when it was due."""

    policy: Policy
    bucket: str
    frame: BuiltFrame
    turn: Turn
    oldest_due_us: int
    max_clock_us: int


@dataclass(slots=True)
class _OpenPack:
    policy: Policy
    bucket: str
    parts: list[Part] = field(default_factory=list)
    size: int = 0


class Packer:
    """Collects frames by policy and expiry bucket, and publishes each pack that is full or has waited enough."""

    def __init__(self, context: JobContext, lease: Lease, tally: Tally) -> None:
        self._context = context
        self._lease = lease
        self._tally = tally
        self._open: dict[tuple[str, str], _OpenPack] = {}
        self._held: set[UUID] = set()

    def holds(self, snapshot_id: UUID) -> bool:
        """Whether a snapshot waits in an open pack of this run (its claim may have run out meanwhile)."""
        return snapshot_id in self._held

    async def add(self, part: Part) -> None:
        """Take a frame; publishes the pack it fills."""
        key = (part.policy.name, part.bucket)
        pack = self._open.setdefault(key, _OpenPack(part.policy, part.bucket))
        pack.parts.append(part)
        self._held |= _ids(part)
        pack.size += len(part.frame.payload)
        part.turn.open_parts += 1
        target = self._context.options.pack_target
        if pack.size >= target:
            await self._publish(self._open.pop(key))
        elif sum(p.size for p in self._open.values()) > MAX_OPEN_BYTES * target:
            fullest = max(self._open, key=lambda k: self._open[k].size)
            await self._publish(self._open.pop(fullest))

    async def finish(self) -> None:
        """Publish what has waited long enough; let the rest wait for company."""
        for key in list(self._open):
            pack = self._open.pop(key)
            deadline_us = min(part.oldest_due_us for part in pack.parts) + micros(pack.policy.linger)
            if deadline_us <= self._context.now_us:
                await self._publish(pack)
            else:
                await self._postpone(pack, deadline_us)

    async def _postpone(self, pack: _OpenPack, deadline_us: int) -> None:
        look_again = min(deadline_us, self._context.now_us + micros(pack.policy.linger) // LOOKS_PER_LINGER)
        self._tally.add("waiting", sum(len(part.frame.entry.snapshots) for part in pack.parts))
        turns = {id(part.turn): part.turn for part in pack.parts}
        for part in pack.parts:
            self._held -= _ids(part)
            part.turn.open_parts -= 1
            part.turn.look_at(look_again)
        await self._context.catalog.durable.postpone(
            [
                Postponement(
                    snapshot_id=entry.meta.snapshot_id,
                    saved_us=entry.meta.saved_us,
                    due_us=look_again,
                    expires_us=entry.expires_us,
                )
                for part in pack.parts
                for entry in part.frame.entry.snapshots
            ]
        )
        await settle(self._context, turns.values())

    async def _publish(self, pack: _OpenPack) -> None:
        context = self._context
        sealed, new = await self._seal(pack)
        pack_id = await context.catalog.packs.start(new, self._lease, context.now)
        async with asyncio.timeout(context.options.upload_deadline.total_seconds()):
            await context.objects.put(
                new.object_key, sealed.data, storage_class=new.storage_class, sha256=sealed.sha256
            )
            await self._verify(new, sealed)
        frames = [
            PlacedFrame(
                saga_id=frame.saga_id,
                offset=frame.offset,
                length=frame.length,
                snapshots=tuple((s.meta, s.expires_us) for s in frame.snapshots),
            )
            for frame in sealed.footer.frames
        ]
        published = await context.catalog.packs.activate(pack_id, frames, self._lease, context.now)
        self._tally.add("packs")
        self._tally.add("archived", published)
        self._tally.add("bytes", len(sealed.data))
        await self._evict(pack, pack_id)

    async def _seal(self, pack: _OpenPack) -> tuple[SealedPack, NewPack]:
        context = self._context
        now = context.now
        writer = PackWriter(uuid4(), await claim_prefix(context), to_micros(now))
        for part in pack.parts:
            writer.add(part.frame)
        sealed = await asyncio.to_thread(writer.seal)
        entries = [entry for frame in sealed.footer.frames for entry in frame.snapshots]
        expiries = [entry.expires_us for entry in entries if entry.expires_us is not None]
        created = [entry.meta.created_us for entry in entries]
        pack_uuid: UUID = sealed.footer.pack_id
        return sealed, NewPack(
            pack_uuid=pack_uuid,
            object_key=f"packs/{now:%Y}/{now:%m}/{pack.bucket}/{pack_uuid}.pack",
            storage_class=pack.policy.move[0].to,
            policy=pack.policy.name,
            retention_revision=retention_revision(context.policies),
            byte_size=len(sealed.data),
            snapshot_count=len(entries),
            sha256=sealed.sha256,
            min_created_us=min(created),
            max_created_us=max(created),
            max_clock_us=max(part.max_clock_us for part in pack.parts),
            next_expiry_us=min(expiries, default=None),
        )

    async def _verify(self, new: NewPack, sealed: SealedPack) -> None:
        """The store has what we sent: size, class, checksum where it keeps one, and the footer's very bytes."""
        info = await self._context.objects.head(new.object_key)
        _compare(info, new)
        if not new.storage_class.is_archive:
            footer = await PackReader(self._context.objects).footer(new.object_key, new.byte_size)
            if footer != sealed.footer:
                raise CorruptPack(f"{new.object_key}: the footer that was read back is not the one that was written")

    async def _evict(self, pack: _OpenPack, pack_id: int) -> None:
        context = self._context
        metas = [entry.meta for part in pack.parts for entry in part.frame.entry.snapshots]
        self._tally.add("evicted", await context.hot.evict(metas))
        await context.catalog.packs.evicted(pack_id, context.now)
        turns: dict[int, Turn] = {}
        for part in pack.parts:
            self._held -= _ids(part)
            part.turn.open_parts -= 1
            part.turn.left -= len(part.frame.entry.snapshots)
            turns[id(part.turn)] = part.turn
        await settle(context, turns.values())


def _ids(part: Part) -> set[UUID]:
    return {entry.meta.snapshot_id for entry in part.frame.entry.snapshots}


def _compare(info: ObjectInfo, new: NewPack) -> None:
    if info.size != new.byte_size or info.sha256 not in (None, new.sha256):
        raise ColdTierUnavailable(
            f"{new.object_key}: the store has {info.size} bytes of the {new.byte_size} that were sent, or other ones",
            hint="the pack is not published and its snapshots stay where they are; check the store",
        )
    if info.storage_class is not new.storage_class and new.storage_class is not StorageClass.STANDARD:
        raise ColdTierUnavailable(
            f"{new.object_key}: asked for {new.storage_class}, the store made it {info.storage_class}",
            hint="this store has no such storage class; change `to:` in the policy",
        )


def expiry_bucket(expires_us: int | None) -> str:
    """Snapshots that expire in the same month share packs, so that packs die whole."""
    return "never" if expires_us is None else f"{from_micros(expires_us):%Y-%m}"
