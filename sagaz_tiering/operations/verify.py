"""Verify: the catalog against itself and against the bucket, changing nothing; for people, after something happened.

Unlike `scrub` it repairs, reads and spends nothing but listings (or, with a sample, one HEAD a pack), and it may run
beside every job: what looks wrong is looked at once more before it counts, since a job may just have moved it. Memory
holds one page of each side and at most `MOST` findings of a kind.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

from sagaz_tiering.catalog.mark import OWNER_KEY
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.verification import Contradiction, Verification
from sagaz_tiering.errors import CatalogBehind, CatalogUnproven, WrongBucket
from sagaz_tiering.jobs.collect import pack_of
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.jobs.ownership import look, refuse
from sagaz_tiering.jobs.scrub import compare, side_by_side
from sagaz_tiering.objects.base import ObjectInfo, find_object
from sagaz_tiering.packs.reader import footer_key
from sagaz_tiering.terminal import document

MOST = 100
_PAGE = 500
_AT_ONCE = 8
_ATTEMPTS, _PAUSE_S = 20, 0.25
_FIRST = UUID(int=0)

Progress = Callable[[str, int], None]


@dataclass(slots=True, kw_only=True)
class VerifyReport:
    """What there is, what is wrong (`found` counts all, `findings` names the first of each kind), what is left over.

    Leftovers are no fault: strays wait for `collect`, empty frames for `expire`, foreign objects for their owner.
    """

    counts: Counter[str] = field(default_factory=Counter)
    leftovers: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    findings: list[Contradiction] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not self.found

    def add(self, each: Contradiction) -> None:
        """One thing that is wrong."""
        self.found[each.what] += 1
        if self.found[each.what] <= MOST:
            self.findings.append(each)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return document(self, "clean")


async def verify(
    context: JobContext, *, sample: int | None = None, progress: Progress = lambda kind, count: None
) -> VerifyReport:
    """Everything, or of the bucket only `sample` packs by chance. Raises ForeignCatalog for another's prefix."""
    verdict = VerifyReport()
    try:
        await refuse(context, await look(context))
    except (CatalogBehind, CatalogUnproven, WrongBucket) as exc:
        what = {CatalogBehind: "behind", CatalogUnproven: "unproven", WrongBucket: "wrong_bucket"}[type(exc)]
        verdict.add(Contradiction(what=what, item=OWNER_KEY, detail=str(exc)))
    await _rows(context, verdict, progress)
    if sample is None:
        await _bucket(context, verdict, progress)
        await _footers(context, verdict)
    else:
        await _sample(context, sample, verdict, progress)
    return verdict


async def _rows(context: JobContext, verdict: VerifyReport, progress: Progress) -> None:
    """The catalog against itself."""
    questions = Verification(context.catalog.db)
    async for span in questions.ranges():
        extent = await questions.extent(span)
        for kind in ("packs", "frames", "snapshots"):
            verdict.counts[kind] += getattr(extent, kind)
        if extent.empty_frames:
            verdict.leftovers["empty_frames"] += extent.empty_frames
        for each in await questions.contradictions(span, MOST):
            verdict.add(each)
        progress("snapshots", extent.snapshots)
    for each in await questions.dangling(MOST):
        verdict.add(each)


async def _bucket(context: JobContext, verdict: VerifyReport, progress: Progress) -> None:
    """Every pack has its object, of its size and class; what else is there."""
    unknown: list[ObjectInfo] = []
    moving: list[str] = []
    async for pack, info in side_by_side(context):
        verdict.counts["objects"] += info is not None
        verdict.counts["bytes"] += 0 if info is None else info.size
        progress("objects", 1)
        if pack is None and info is not None:
            unknown.append(info)
            if len(unknown) == _PAGE:
                await _without_pack(context, unknown, verdict)
                unknown = []
        elif pack is not None and compare(pack, info) is not None:
            _sort(await _judge(context, pack.object_key), moving, verdict)
    await _without_pack(context, unknown, verdict)
    await _moving(context, moving, verdict)


async def _sample(context: JobContext, count: int, verdict: VerifyReport, progress: Progress) -> None:
    packs = iter(await Verification(context.catalog.db).sample(uuid4().hex, count))
    moving: list[str] = []
    while some := list(islice(packs, _AT_ONCE)):
        for found in await asyncio.gather(*(_judge(context, pack.object_key) for pack in some)):
            _sort(found, moving, verdict)
        verdict.counts["objects"] += len(some)
        progress("objects", len(some))
    await _moving(context, moving, verdict)


def _sort(found: Contradiction | None, moving: list[str], verdict: VerifyReport) -> None:
    """Another class may be a move under way; of so many that they are no longer held, it is not."""
    if found is not None and found.what == "class" and len(moving) < _PAGE:
        moving.append(found.item)
    elif found is not None:
        verdict.add(found)


async def _moving(context: JobContext, keys: Sequence[str], verdict: VerifyReport) -> None:
    """Packs in another class than their row says: `transition` writes the row after the move, a moment later."""
    found: list[Contradiction] = []
    for _ in range(_ATTEMPTS):
        before = await _is_transition_on(context)
        found = [each for key in keys if (each := await _judge(context, key)) is not None]
        if not found or not (before or await _is_transition_on(context)):
            break
        keys = [each.item for each in found]
        await asyncio.sleep(_PAUSE_S)
    for each in found:
        verdict.add(each)


async def _is_transition_on(context: JobContext) -> bool:
    return any(lease.name == "transition" for lease in await context.catalog.leases.held())


async def _judge(context: JobContext, key: str) -> Contradiction | None:
    """What is wrong with the row and the object as they are now; a pack that is no longer active may be gone."""
    info = await find_object(context.objects, key)
    pack = await context.catalog.scrubbing.by_key(key)
    if pack is None or pack.state != "ACTIVE":
        return None
    wrong = compare(pack, info)
    if wrong is not None:
        return Contradiction(what=wrong.what, item=key, detail=wrong.detail)
    if info is not None and info.sha256 is not None and info.sha256 != pack.sha256:
        return Contradiction(what="altered", item=key, detail="the store's checksum is not that of the pack")
    return None


async def _without_pack(context: JobContext, infos: Sequence[ObjectInfo], verdict: VerifyReport) -> None:
    """Objects that no active pack had when they were listed."""
    named = {info.key: pack_uuid for info in infos if (pack_uuid := pack_of(info.key)) is not None}
    known = await context.catalog.packs.known(list(named.values()))
    alive = await context.catalog.packs.live_keys(list(named.values()))
    for info in infos:
        pack_uuid = named.get(info.key)
        if pack_uuid is None:
            verdict.leftovers["foreign"] += 1
        elif pack_uuid not in known:
            detail = f"{info.size} bytes of a pack that this catalog never knew: is it an old dump?"
            verdict.add(Contradiction(what="unknown", item=info.key, detail=detail))
        elif pack_uuid not in alive:
            verdict.leftovers["strays"] += 1


async def _footers(context: JobContext, verdict: VerifyReport) -> None:
    """Every archived pack has the readable copy of its footer, without which a rebuild would have to thaw it."""
    listing = context.objects.list("footers/")
    info = await anext(listing, None)
    async for pack in _archived(context):
        wanted = footer_key(pack.pack_uuid)
        while info is not None and info.key < wanted:
            info = await anext(listing, None)
        if info is None or info.key != wanted:
            await _without_footer(context, pack, verdict)
        else:
            verdict.counts["footers"] += 1


async def _archived(context: JobContext) -> AsyncIterator[Pack]:
    questions, after = Verification(context.catalog.db), _FIRST
    while page := await questions.archived(after, _PAGE):
        for pack in page:
            yield pack
        after = page[-1].pack_uuid


async def _without_footer(context: JobContext, pack: Pack, verdict: VerifyReport) -> None:
    if await find_object(context.objects, footer_key(pack.pack_uuid)) is not None:
        return
    now = await context.catalog.scrubbing.by_key(pack.object_key)
    if now is not None and now.state == "ACTIVE" and now.storage_class.is_archive:
        detail = f"archived in {now.storage_class} without a readable copy of its footer"
        verdict.add(Contradiction(what="footer_missing", item=pack.object_key, detail=detail))
