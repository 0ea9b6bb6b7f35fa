"""A catalog from the bucket: a new one (`catalog rebuild`, guarantee G7), or one that is behind it (`catalog adopt`).

Order: the catalog takes the identity that the bucket's mark names, if it is new; it catches up with the journal and
the packs (`catch_up`); at the end it takes the mark, and only then do jobs run. A crash leaves what was done so far;
the next run goes on with the rest.

What never reached the bucket cannot be had from it: durable copies that were not packed yet, replay logs, restore
requests, policy history, the last journal entries before the loss, and data keys: footers are not encrypted, so the
catalog is rebuilt without them, but contexts are readable only after `keys import`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sagaz_tiering.catalog.mark import OWNER_KEY, Mark, MarkLook, MarkStanding
from sagaz_tiering.errors import CatalogBehind, ConfigError, ForeignCatalog, LeaseLost
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.jobs.journal import publish_journal
from sagaz_tiering.jobs.ownership import BEAT, BEATS, look, missing_packs, refuse, secure
from sagaz_tiering.logs import Logger
from sagaz_tiering.operations.catch_up import catch_up, packs_in

_log = Logger(__name__)
_LEASE = "rebuild"
_ADOPTED = "this catalog was put back from a dump, or moved: it may know nothing of what was saved since"

LOST = (
    "durable copies that were not packed yet (`reconcile` takes them from Redis, unless it lost them too)",
    "replay logs and restore requests",
    "holds, releases and deletions that were not in the bucket's journal yet",
    "data keys of encrypted sagas, without which their snapshots stay unreadable: `sagaz-tiering keys import FILE`",
)


@dataclass(slots=True, kw_only=True)
class RebuildCost:
    """What a rebuild has to read; cost in USD."""

    packs: int = 0
    archived: int = 0
    bytes: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the operator allows. `take_over`: although somebody moved the mark in the last two minutes.

    `new_bucket`: a prefix without this catalog's packs is right; `unsigned`: journal entries that nobody signed count
    although a master key is configured.
    """

    take_over: bool = False
    new_bucket: bool = False
    unsigned: bool = False


NOTHING_ELSE = Wish()


async def measure(context: JobContext) -> RebuildCost:
    """Count the packs and what reading their footers costs: one LIST a thousand, two small GETs a pack."""
    extent = RebuildCost()
    async for info in packs_in(context):
        extent.packs += 1
        extent.bytes += info.size
        extent.archived += info.storage_class.is_archive
        readable = "STANDARD" if info.storage_class.is_archive else info.storage_class.value
        extent.cost_usd += context.prices.get_usd(type(info.storage_class)(readable), 2, total_bytes=64 * 1024)
    return extent


async def proposed_id(context: JobContext) -> UUID | None:
    """The catalog that the bucket's mark names: to be confirmed by whoever knows it. None without a mark."""
    mark = (await look(context)).mark
    return None if mark is None else mark.catalog_id


async def rebuild(context: JobContext, tally: Tally, catalog_id: UUID, wish: Wish = NOTHING_ELSE) -> None:
    """Fill a new catalog from the bucket, as the catalog `catalog_id`.

    Raises ConfigError for a catalog that has packs of its own, or a bucket that names another one.
    """
    seen = await look(context)
    if seen.mark is not None and seen.mark.catalog_id != catalog_id:
        raise ConfigError(
            f"{context.objects.url} belongs to catalog {seen.mark.catalog_id}, not to {catalog_id}",
            hint="give the id of the catalog whose bucket this is; its owner.json names it, if nobody changed that",
        )
    if not await context.catalog.take_identity(catalog_id):
        raise ConfigError(
            "this catalog has packs of another identity; a rebuild needs an empty one",
            hint="make a new database, run `sagaz-tiering catalog migrate`, and point catalog.url at it; one of the "
            "same identity catches up with: sagaz-tiering catalog adopt",
        )
    await adopt(context, tally, wish)


async def adopt(context: JobContext, tally: Tally, wish: Wish = NOTHING_ELSE) -> None:
    """Catch up with the bucket, and take its mark. Raises ForeignCatalog where it is another's, or its owner lives."""
    async with context.catalog.leases.hold(_LEASE, context.owner, context.settings.jobs.lease_ttl) as lease:
        if lease is None:
            raise LeaseLost("another process is rebuilding this catalog")
        seen = await look(context)
        await _refuse(context, seen, wish)
        alone = seen.standing is not MarkStanding.OWNER
        told = seen.mark.journal if alone and seen.mark is not None else 0
        if alone:
            await context.catalog.hot_tier.doubt_all(_ADOPTED, context.now)
        newest = await catch_up(context, lease, tally, unsigned=wish.unsigned, alone=alone, told=told)
        if context.stopping.is_set():
            tally.note("stopped before the end: run it again, it goes on where it stood")
            return
        await _take(context, seen, newest)
    await publish_journal(context)
    _log.warning("catalog.adopted", catalog_id=str(seen.row.catalog_id), was=seen.standing.value)


async def _refuse(context: JobContext, seen: MarkLook, wish: Wish) -> None:
    """Raise where nothing may be taken: another's bucket, an empty one, one whose owner lives."""
    if seen.standing is MarkStanding.FOREIGN:
        await refuse(context, seen)
    if seen.standing is MarkStanding.WRONG_BUCKET and not wish.new_bucket and await missing_packs(context):
        await refuse(context, seen)
    moved = None if seen.mark is None or wish.take_over else seen.mark.moved_at
    behind = seen.standing in (MarkStanding.BEHIND, MarkStanding.UNPROVEN)
    if behind and moved is not None and seen.row.now - moved < BEATS * BEAT:
        ago = max(seen.row.now - moved, timedelta()).total_seconds()
        raise CatalogBehind(
            f"{OWNER_KEY} was moved {ago:.0f} s ago: the catalog that owns the bucket lives",
            hint="stop its daemons, wait two minutes and run this again; if they are gone for good: --take-over",
        )


async def _take(context: JobContext, before: MarkLook, newest: int) -> None:
    """The mark becomes ours, if nobody moved it while we caught up."""
    seen = await look(context)
    mark, was = seen.mark, before.mark
    if before.standing is not MarkStanding.OWNER and _nonce(mark) != _nonce(was):
        raise CatalogBehind(
            f"{OWNER_KEY} was moved while this catalog caught up: the one that owns the bucket lives",
            hint="stop its daemons, then run this again",
        )
    ownership = context.catalog.ownership
    if seen.standing is not MarkStanding.OWNER:
        counter, journal = (0, newest) if mark is None else (mark.counter, max(mark.journal, newest))
        await ownership.take_mark(counter, _nonce(mark), journal)
    if seen.standing in (MarkStanding.WRONG_BUCKET, MarkStanding.UNCLAIMED):
        await context.catalog.catching_up.tell_again(context.now)
    try:
        await secure(context, move=True, forgive=(MarkStanding.UNPROVEN, MarkStanding.WRONG_BUCKET))
    except ForeignCatalog as exc:
        raise CatalogBehind(f"another process took the bucket meanwhile: {exc}") from exc


def _nonce(mark: Mark | None) -> UUID | None:
    return None if mark is None else mark.nonce
