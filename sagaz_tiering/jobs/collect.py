"""Collect: uploads that nobody finished are given up, and objects that no live pack names go.

An object is removed only when it was seen without a live pack twice, in two runs, and is older than
`collect_min_age` (an upload under way, or one that appears late, is younger), at most `collect_max_deletes` a
run. What is not named like one of our packs or footers is foreign, and a pack that the catalog never knew may be
newer than a catalog that was restored from a dump: both are reported and never touched.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from uuid import UUID

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.jobs.context import JobContext, Tally, each_pack
from sagaz_tiering.jobs.ownership import still_owner
from sagaz_tiering.jobs.times import with_sure_clock
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import ObjectInfo, in_pages

_log = Logger(__name__)
_PAGE = 500
_LEFT_ALONE = {
    "foreign": "not named like an object of ours",
    "unknown": "this catalog never knew it: is it an old dump? `sagaz-tiering catalog adopt` reads it in",
}
_OURS = re.compile(
    r"(?:packs/\d{4}/\d{2}/(?:never|\d{4}-\d{2})/(?P<pack>[0-9a-f-]{36})\.pack|"
    r"footers/(?P<footer>[0-9a-f-]{36})\.(?:footer|attributes))"
)


_Verdict = tuple[str, ObjectInfo]
"""What to do about an object: `keep`, `watch`, `remove`, `unknown` or `foreign`."""


def pack_of(key: str) -> UUID | None:
    """The pack that an object key names; None for a foreign one."""
    match = _OURS.fullmatch(key)
    if match is None:
        return None
    try:
        return UUID(match["pack"] or match["footer"])
    except ValueError:
        return None


async def preview(context: JobContext, tally: Tally) -> None:
    """Count uploads to give up, and objects to watch or remove."""
    sure = await with_sure_clock(context, tally)
    if sure is None:
        return
    given_up = {pack.pack_uuid async for pack in _dead_uploads(sure)}
    tally.add("uploads_abandoned", len(given_up))
    async for action, info in _planned(sure, given_up):
        tally.add({"watch": "strays_seen", "remove": "strays_removed"}.get(action, action))
        tally.note(f"{action}: {info.key} ({info.size} bytes)")


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Give up dead uploads, then remove the strays that are ripe. Nothing where the clock is not sure."""
    sure = await with_sure_clock(context, tally)
    if sure is None:
        return
    context = sure
    async for pack in _dead_uploads(context):
        if await context.catalog.packs.abandon(pack.pack_id, lease):
            tally.add("uploads_abandoned")
            _log.warning("upload.abandoned", pack_id=pack.pack_id, object_key=pack.object_key)
    ripe: list[str] = []
    async for action, info in _planned(context):
        if context.stopping.is_set():
            return
        if action in _LEFT_ALONE:
            tally.add(action, note=f"{action} object, left alone: {info.key}: {_LEFT_ALONE[action]}")
            reason = f"{action}: {_LEFT_ALONE[action]}"
            await context.catalog.quarantine.record("object", info.key, reason, context.now, budget=1)
        elif action == "watch":
            await context.catalog.packs.see_stray(info.key, info.size, context.now)
            tally.add("strays_seen")
        else:
            ripe.append(info.key)
    await _remove(context, ripe, tally)
    await context.catalog.packs.abandoned_gone(context.now - context.settings.jobs.collect_min_age, lease, context.now)
    kept = max(context.settings.jobs.tombstones, 2 * context.settings.jobs.upload_deadline)
    await context.catalog.locations.prune_tombstones(context.now - kept)
    await context.catalog.find.drop_unused_names(context.now)


async def _remove(context: JobContext, keys: list[str], tally: Tally) -> None:
    if not keys:
        return
    await still_owner(context)
    failures = await context.objects.delete(keys)
    for failure in failures:
        tally.failed(failure.key, failure.reason)
    gone = sorted(set(keys) - {failure.key for failure in failures})
    await context.catalog.packs.forget_strays(gone)
    tally.add("strays_removed", len(gone))
    for key in gone:
        _log.info("stray.removed", object_key=key)


def _dead_uploads(context: JobContext) -> AsyncIterator[Pack]:
    """Packs whose upload nobody finished in time."""
    deadline = context.now - context.settings.jobs.upload_deadline
    return each_pack(lambda last: context.catalog.packs.unfinished(deadline, last, _PAGE))


async def _planned(context: JobContext, given_up: Collection[UUID] = ()) -> AsyncIterator[_Verdict]:
    """What a run does about objects: those that stay are left out, also where it may remove no more of them.

    Of what is `given_up` in a run nothing is alive any more.
    """
    room = context.settings.jobs.collect_max_deletes
    for prefix in ("packs/", "footers/"):
        async for page in in_pages(context.objects.list(prefix), _PAGE):
            for action, info in await _judged(context, page, given_up):
                room -= action == "remove"
                if action != "keep" and (action != "remove" or room >= 0):
                    yield action, info


async def _judged(context: JobContext, page: list[ObjectInfo], given_up: Collection[UUID]) -> list[_Verdict]:
    """Every upload has a row before it begins, and rows stay: an object of ours without any is newer than this catalog,
    which must have been restored from an old dump."""
    packs, oldest = context.catalog.packs, context.now - context.settings.jobs.collect_min_age
    named = {info.key: pack_uuid for info in page if (pack_uuid := pack_of(info.key)) is not None}
    alive = await packs.live_keys(list(named.values())) - set(given_up)
    known = await packs.known(list(named.values()))
    verdicts = []
    for info in page:
        pack_uuid = named.get(info.key)
        if pack_uuid is None:
            action = "foreign"
        elif pack_uuid not in known:
            action = "unknown"
        elif pack_uuid in alive:
            action = "keep"
        else:
            first_seen = await packs.stray_since(info.key)
            # Younger objects may still belong to an upload.
            is_ripe = first_seen is not None and first_seen < context.now and info.modified_at <= oldest
            action = "remove" if is_ripe else "watch"
        verdicts.append((action, info))
    return verdicts
