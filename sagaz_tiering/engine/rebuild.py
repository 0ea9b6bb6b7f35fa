"""Rebuild: a new catalog from the bucket alone (design G7).

Order: the new catalog takes the identity that the bucket's owner mark names (only while it holds no packs);
dictionaries are entered; the journal is read (holds are placed again, deletions are remembered); then each pack's
footer (of archived ones the readable copy) becomes its row, frames and places, one transaction a pack. A crash leaves
the packs done so far; the next run goes on with the rest. Of a snapshot in several packs the newest save wins, and of
the same save the younger pack, as it was before; of packs that contradict each other neither is believed (`claims`).

What never reached the bucket cannot be rebuilt: durable copies that were not packed yet, replay logs, restore
requests, policy history, the last journal entries before the loss, and data keys: footers are not encrypted, so the
catalog is rebuilt without them, but contexts are readable only after `keys import`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import structlog

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import NewPack
from sagaz_tiering.clock import from_micros
from sagaz_tiering.engine.claims import dispute, settle
from sagaz_tiering.engine.collect import pack_of
from sagaz_tiering.engine.dictionary_places import learn
from sagaz_tiering.engine.job import JobContext, Tally
from sagaz_tiering.engine.journal import read_journal
from sagaz_tiering.engine.ownership import OWNER_KEY
from sagaz_tiering.engine.upload import placed_frames
from sagaz_tiering.errors import (
    ConfigError,
    CorruptPack,
    LeaseLost,
    ObjectArchived,
    ObjectNotFound,
)
from sagaz_tiering.objects.base import ObjectInfo, RestoreState
from sagaz_tiering.pack.dictionary_objects import dictionary_key
from sagaz_tiering.pack.entries import Footer
from sagaz_tiering.pack.reader import DISPUTED_FOOTER, PackReader, footer_digest, footer_key, read_footer
from sagaz_tiering.patterns import Match
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.snapshot import SnapshotMeta

_log = structlog.get_logger(__name__)
_AT_ONCE = 8
_REVISION = "rebuilt"
"""As the retention revision of a rebuilt pack: the next `expire` dates it by today's policies first."""

LOST = (
    "durable copies that were not packed yet (Redis still has them, unless it lost them too)",
    "replay logs and restore requests",
    "holds, releases and deletions of the last hours before the loss that no job had copied to the bucket",
    "data keys of encrypted sagas, without which their snapshots stay unreadable: `sagaz-tiering keys import FILE`",
)


@dataclass(slots=True, kw_only=True)
class Extent:
    """What a rebuild has to read; cost in USD."""

    packs: int = 0
    archived: int = 0
    bytes: int = 0
    cost_usd: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Past:
    """What the journal told."""

    deleted: dict[UUID, datetime] = field(default_factory=dict)
    erased: dict[UUID, datetime] = field(default_factory=dict)
    holds: dict[str, dict[str, Any]] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)


async def measure(context: JobContext, prices: Any) -> Extent:
    """Count the packs and what reading their footers costs: one LIST a thousand, two small GETs a pack."""
    extent = Extent()
    async for info in _packs(context):
        extent.packs += 1
        extent.bytes += info.size
        extent.archived += info.storage_class.is_archive
        readable = "STANDARD" if info.storage_class.is_archive else info.storage_class.value
        extent.cost_usd += prices.get_usd(type(info.storage_class)(readable), 2, total_bytes=64 * 1024)
    return extent


async def rebuild(context: JobContext, tally: Tally) -> None:
    """Fill the catalog from the bucket. Raises ConfigError for a catalog that has packs of its own."""
    async with context.catalog.leases.hold("rebuild", context.owner, context.options.lease_ttl) as lease:
        if lease is None:
            raise LeaseLost("another process is rebuilding this catalog")
        await _take_identity(context)
        digests = await learn(context, tally)
        past = await _read_past(context, tally)
        await _place_holds(context, past)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def fetch(info: ObjectInfo) -> tuple[ObjectInfo, bytes | None]:
            async with gate:
                return info, await _stored_footer(context, info, tally)

        async for page in _pages(context):
            known = await context.catalog.packs.known([uuid for info in page if (uuid := pack_of(info.key))])
            todo = [info for info in page if pack_of(info.key) not in known]
            tally.add("already_there", len(page) - len(todo))
            for info, stored in await asyncio.gather(*(fetch(info) for info in todo)):
                if stored is not None:
                    footer = read_footer(stored, info.size)
                    await _adopt(context, lease, info, footer, footer_digest(stored), past, tally)
                    await _name_dictionaries(context, footer, digests, tally)
            if context.stopping.is_set():
                return


async def _take_identity(context: JobContext) -> None:
    """The catalog becomes the one that the prefix belongs to."""
    try:
        mark = await context.objects.get(OWNER_KEY)
    except ObjectNotFound as exc:
        raise ConfigError(
            f"{context.objects.url} has no {OWNER_KEY}: no catalog ever wrote there",
            hint="check tiers.cold.url",
        ) from exc
    try:
        owner = UUID(orjson.loads(mark)["catalog_id"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as exc:
        raise ConfigError(f"{OWNER_KEY} under {context.objects.url} cannot be read: {exc}") from exc
    if not await context.catalog.take_identity(owner):
        raise ConfigError(
            "this catalog has packs of another identity; a rebuild needs an empty one",
            hint="make a new database, run `sagaz-tiering catalog migrate`, and point catalog.url at it",
        )
    context.catalog_id = owner


async def _read_past(context: JobContext, tally: Tally) -> _Past:
    past = _Past()
    async for entry in read_journal(context):
        tally.add("journal_entries")
        body, at = entry["body"], datetime.fromisoformat(entry["at"])
        if entry["kind"] == "delete":
            for snapshot_id in map(UUID, body["snapshot_ids"]):
                past.deleted[snapshot_id] = max(at, past.deleted.get(snapshot_id, at))
        elif entry["kind"] == "forget":
            past.erased[UUID(body["saga_id"])] = at
        elif entry["kind"] == "hold":
            past.holds[body["hold_id"]] = body
        elif entry["kind"] == "release":
            past.released.add(body["hold_id"])
    return past


async def _place_holds(context: JobContext, past: _Past) -> None:
    there = {str(hold.hold_id) for hold in await context.catalog.holds.in_force()}
    for hold_id, body in past.holds.items():
        if hold_id in past.released or hold_id in there:
            continue
        on = UUID(body["saga_id"]) if body["saga_id"] else Match(**body["match"])
        await context.catalog.holds.place(
            on,
            reason=body["reason"],
            who=body["placed_by"],
            now=datetime.fromisoformat(body["placed_at"]),
            hold_id=UUID(hold_id),
        )


async def _stored_footer(context: JobContext, info: ObjectInfo, tally: Tally) -> bytes | None:
    """Footer and tail of a pack, as far as they can be seen to be its own; None for what is named and left out."""
    reader, pack_uuid = PackReader(context.objects), pack_of(info.key)
    try:
        if info.storage_class.is_archive and pack_uuid is not None:
            stored = await context.objects.get(footer_key(pack_uuid))
            if (await context.objects.head(info.key)).restore is RestoreState.READABLE:
                own = await reader.unvouched_footer_bytes(info.key, info.size)
                if own != stored:
                    raise CorruptPack(f"{footer_key(pack_uuid)} is not a copy of the footer of its pack")
        else:
            stored = await reader.unvouched_footer_bytes(info.key, info.size)
        read_footer(stored, info.size)
    except (CorruptPack, ObjectNotFound, ObjectArchived) as exc:
        tally.add("unreadable")
        tally.note(f"{info.key}: not in the new catalog: {exc}")
        _log.error("pack.not_rebuilt", object_key=info.key, error=str(exc))
        await context.catalog.quarantine.record("object", info.key, f"not rebuilt: {exc}", context.now, budget=1)
        return None
    return stored


async def _adopt(
    context: JobContext, lease: Lease, info: ObjectInfo, footer: Footer, digest: bytes, past: _Past, tally: Tally
) -> None:
    """One pack into the catalog, but for what was deleted and what a newer save elsewhere supersedes."""
    if f"/{footer.pack_id}.pack" not in info.key or footer.catalog_id != context.catalog_id:
        tally.add("foreign")
        tally.note(f"{info.key}: its footer is of pack {footer.pack_id} of catalog {footer.catalog_id}; left out")
        return
    settled = await settle(context, footer)
    if settled.contradicts:
        await dispute(context, lease, info, settled, tally)
        digest = DISPUTED_FOOTER
    metas = [entry.meta for frame in footer.frames for entry in frame.snapshots]
    stale = settled.elsewhere | {meta.snapshot_id for meta in metas if _is_gone(past, meta)}
    frames = [
        replace(frame, snapshots=[s for s in frame.snapshots if s[0].snapshot_id not in stale])
        for frame in placed_frames(footer)
    ]
    published = await context.catalog.packs.adopt(
        _new_pack(info, footer, digest, context.policies), frames, lease, context.now
    )
    await context.catalog.quarantine.resolve("object", info.key)
    tally.add("packs")
    tally.add("encrypted_frames", sum(frame.key_id is not None for frame in footer.frames))
    tally.add("snapshots", published)
    tally.add("superseded_or_deleted", len(stale))


async def _name_dictionaries(context: JobContext, footer: Footer, digests: set[bytes], tally: Tally) -> None:
    """Frames tell which saga names the dictionaries are of."""
    names = {frame.dictionary_id: frame.saga_name for frame in footer.frames if frame.dictionary_id is not None}
    await context.catalog.dictionaries.name_them(names)
    for digest in set(footer.dictionaries) - digests:
        tally.add("dictionaries_missing")
        tally.note(f"pack {footer.pack_id}: {dictionary_key(digest)}, which it needs, is not in the bucket")


def _is_gone(past: _Past, meta: SnapshotMeta) -> bool:
    """Deleted, or of an erased saga, after it was saved."""
    at = max(filter(None, (past.deleted.get(meta.snapshot_id), past.erased.get(meta.saga_id))), default=None)
    return at is not None and from_micros(meta.saved_us) <= at


def _new_pack(info: ObjectInfo, footer: Footer, digest: bytes, policies: PolicySet) -> NewPack:
    entries = [entry for frame in footer.frames for entry in frame.snapshots]
    metas = [entry.meta for entry in entries]
    expiries = [entry.expires_us for entry in entries if entry.expires_us is not None]
    created = [meta.created_us for meta in metas]
    policy = policies.for_meta(metas[0])
    return NewPack(
        pack_uuid=footer.pack_id,
        object_key=info.key,
        storage_class=info.storage_class,
        policy=policy.name,
        retention_revision=_REVISION,
        byte_size=info.size,
        snapshot_count=len(metas),
        sha256=info.sha256 or b"",
        footer_digest=digest,
        min_created_us=min(created),
        max_created_us=max(created),
        max_clock_us=max(policies.decide(meta, 0).clock_us for meta in metas),
        next_expiry_us=min(expiries, default=None),
    )


async def _packs(context: JobContext) -> AsyncIterator[ObjectInfo]:
    async for info in context.objects.list("packs/"):
        if pack_of(info.key) is not None:
            yield info


async def _pages(context: JobContext) -> AsyncIterator[list[ObjectInfo]]:
    page: list[ObjectInfo] = []
    async for info in _packs(context):
        page.append(info)
        if len(page) == _AT_ONCE * 4:
            yield page
            page = []
    if page:
        yield page
