"""Who may write under the prefix, and which policies are in force.

The object `owner.json` names the catalog that a prefix belongs to (guarantee G8). Catalog and mark move on together, at
each run that finds the last move a minute old, and each minute by the daemon:

1. one transaction: counter and nonce of the catalog's row, numbers for entries of its journal
                                            -> the mark is one step behind, the next look writes it again
2. `owner.json`, only in place of the one that was read, and read back
                                            -> done

So a copy of the database, or one that went back to an older dump, meets a nonce that it does not know, and stops. One
whose PostgreSQL is another than before has to watch the mark stand still first (`Beat`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Final
from uuid import UUID

from sagaz_tiering import metrics
from sagaz_tiering.catalog.durable import FALLBACK_NOTICE
from sagaz_tiering.catalog.mark import (
    MOST_BYTES,
    OWNER_KEY,
    UNREADABLE,
    MarkLook,
    MarkStanding,
    OwnerRow,
    look_at_mark,
    mark_of,
)
from sagaz_tiering.drivers.server_clock import uptime_s
from sagaz_tiering.errors import (
    CatalogBehind,
    CatalogUnproven,
    ColdTierUnavailable,
    ForeignCatalog,
    ObjectExists,
    ObjectNotFound,
    WrongBucket,
)
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import find_object
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.storage_class import StorageClass

BEAT: Final = timedelta(minutes=1)
"""How often the mark moves while a daemon lives."""
BEATS: Final = 2
"""So many of them a database that is another one than before watches the mark."""
NUMBERED_AT_ONCE: Final = 10_000
TRUSTED_S: Final = 10.0
"""So long a look counts within a run."""
_SAMPLE = 3
_TRIES = 10
_FIRST_ID = UUID(int=0)
_BATCH = 10_000
_log = Logger(__name__)


async def claim_prefix(context: JobContext) -> UUID:
    """The catalog's id, once it is sure that the prefix is its own; marks a prefix that nobody owns.

    Raises ForeignCatalog, or what the catalog or the object store raise.
    """
    if context.catalog_id is None:
        context.catalog_id = (await secure(context)).catalog_id
    return context.catalog_id


async def still_owner(context: JobContext) -> None:
    """Before something is written or deleted in a long run: raise ForeignCatalog if the prefix is not ours any more."""
    if uptime_s() - context.owned_at >= TRUSTED_S:
        await secure(context)


async def secure(context: JobContext, *, move: bool = False, forgive: Collection[MarkStanding] = ()) -> OwnerRow:
    """The row of the catalog, once the bucket's mark agrees with it; what was cut off is completed.

    The mark moves on if it is a minute old, or with `move`. `forgive`: also if it stands so to the bucket, UNPROVEN or
    WRONG_BUCKET. Raises ForeignCatalog, ColdTierUnavailable where others keep changing the mark.
    """
    late = False
    mine: OwnerRow | None = None
    for _ in range(_TRIES):
        seen = await look(context)
        row = seen.row
        if seen.standing is MarkStanding.LATE and not late:
            late = True  # two looks apart tell a move between them from a mark that is late
            continue
        if seen.standing not in forgive:
            await refuse(context, seen)
        if mine is not None and _has_told(seen, mine):
            await context.catalog.ownership.confirm(mine)
            return _owned(context, mine)
        if seen.standing is MarkStanding.OWNER and not move and 0 <= row.age_s < BEAT.total_seconds():
            return _owned(context, row)
        moved: OwnerRow | None = row
        steps = row.nonce is None or seen.standing in (MarkStanding.OWNER, MarkStanding.UNPROVEN)
        if row.counter == 0:  # of the code before: what it told the bucket had neither number nor signature
            await context.catalog.catching_up.tell_again(context.now)
        if steps:
            moved = await context.catalog.ownership.move(row.counter, NUMBERED_AT_ONCE)
            mine = moved or mine
        if moved is not None and await _write(context, seen, moved):
            await context.catalog.ownership.confirm(moved)
            if mine is not None or not move:
                return _owned(context, moved)
    raise ColdTierUnavailable(f"{OWNER_KEY} under {context.objects.url} changed at each look", hint="try again")


async def look(context: JobContext) -> MarkLook:
    """How the catalog stands to the bucket's mark now."""
    return await look_at_mark(context.catalog.ownership, context.objects)


async def refuse(context: JobContext, seen: MarkLook) -> None:
    """Raise the ForeignCatalog that says why nothing may be done under the prefix; none if it may."""
    row, mark, where, standing = seen.row, seen.mark, context.objects.url, seen.standing
    missing: list[str] = []
    if standing in (MarkStanding.LATE, MarkStanding.WRONG_BUCKET):
        missing = await missing_packs(context)
    if standing is MarkStanding.LATE and missing:
        metrics.tell_standing(MarkStanding.WRONG_BUCKET)
        raise WrongBucket(
            f"{where} is older than this catalog: {OWNER_KEY} is at a step that the catalog left, and newer packs, "
            f"such as {missing[0]}, are not there; nothing was written"
        )
    metrics.tell_standing(standing)
    if standing is MarkStanding.FOREIGN:
        if mark is None:
            raise ForeignCatalog(f"{where}: {seen.instead}; nothing was written", hint=UNREADABLE)
        packs = ", and this one's packs are somewhere else: was tiers.cold.url changed?" if row.has_packs else ""
        raise ForeignCatalog(
            f"{where} belongs to catalog {mark.catalog_id}, this one is {row.catalog_id}{packs}; nothing was written"
        )
    if standing is MarkStanding.WRONG_BUCKET:
        packs = (
            f"packs of this catalog are not there either, such as {missing[0]}" if missing else "its packs are there"
        )
        raise WrongBucket(f"{where} has no {OWNER_KEY}, which this catalog has put there; {packs}; nothing was written")
    if standing is MarkStanding.BEHIND:
        there = 0 if mark is None else mark.counter
        raise CatalogBehind(
            f"this catalog is behind: {OWNER_KEY} under {where} (step {there}) was moved on without it (step "
            f"{row.counter}); nothing is written, deleted or expired"
        )
    if standing is MarkStanding.UNPROVEN:
        raise CatalogUnproven(
            f"this database is not the one that moved {OWNER_KEY} under {where} last (system {row.here_system}, "
            f"oid {row.here_oid} instead of {row.system_identifier}, {row.database_oid}); nothing was written",
            nonce=None if mark is None else mark.nonce,
        )


async def missing_packs(context: JobContext) -> list[str]:
    """Of the packs that were made last, the ones that the bucket does not have."""
    keys = await context.catalog.ownership.newest_packs(_SAMPLE)
    return [key for key in keys if await find_object(context.objects, key) is None]


async def _write(context: JobContext, seen: MarkLook, row: OwnerRow) -> bool:
    """Whether the mark says now what the row says."""
    try:
        if seen.tag:
            claimed = context.now if seen.mark is None else seen.mark.claimed_at
            return await context.objects.swap(OWNER_KEY, mark_of(row, claimed).to_bytes(), seen.tag)
        data = mark_of(row, context.now).to_bytes()
        sha256 = hashlib.sha256(data).digest()
        await context.objects.put(OWNER_KEY, data, storage_class=StorageClass.STANDARD, sha256=sha256)
        return (await context.objects.get_tagged(OWNER_KEY, most=MOST_BYTES))[0] == data
    except (ObjectExists, ObjectNotFound):
        return False


def _has_told(seen: MarkLook, moved: OwnerRow) -> bool:
    """Whether the bucket's mark, which is ours, is at this step or a later one: another process completed it."""
    mark = seen.mark
    return mark is not None and mark.counter >= moved.counter and mark.journal >= moved.journal_number


def _owned(context: JobContext, row: OwnerRow) -> OwnerRow:
    context.owned_at = uptime_s()
    metrics.tell_standing(MarkStanding.OWNER)
    return row


class Beat:
    """What a daemon does each minute: move the mark, so that copies of its catalog fall behind.

    A database that is another one than before (a copy, a restore, an upgrade) watches the mark for two minutes first:
    whoever else lives from it has moved it by then, and then this one is behind.
    """

    def __init__(self, context: JobContext, *, every: timedelta = BEAT, seconds: Callable[[], float] = uptime_s):
        self._context = context
        self._every = every.total_seconds()
        self._seconds = seconds
        self._watched: UUID | None = None
        self._since: float | None = None

    async def __call__(self) -> None:
        """Call it more often than each minute. Raises ForeignCatalog, or what catalog and object store raise."""
        try:
            await secure(self._context)
        except CatalogUnproven as exc:
            now = self._seconds()
            if self._watched != exc.nonce or self._since is None:
                self._watched, self._since = exc.nonce, now
            if now - self._since <= BEATS * self._every:
                raise
            row = await secure(self._context, move=True, forgive=(MarkStanding.UNPROVEN,))
            _log.warning("owner.moved", system=row.here_system, oid=row.here_oid, hint="a restore, or an upgrade")
        self._since = None


async def are_in_force(context: JobContext) -> bool:
    """Whether the policies of `context` are those that were last put in force."""
    return await context.catalog.history.newest_revision() == context.policies.revision


async def put_policies_in_force(context: JobContext) -> None:
    """Note the policy revision before anything acts on it; if it is new, have everything looked at once more.

    That is every snapshot that is not in a pack, also those that nothing was due of. Readers learn the youngest age of
    a move within `FALLBACK_NOTICE`, so a new revision waits that long before its first move. A crash in between repeats
    the walk.
    """
    if await are_in_force(context):
        return
    await context.catalog.history.accept_first(context.policies.retention_text, context.now)
    async for saga_ids in context.hot.saga_ids():
        await context.hot.queue.requeue(saga_ids, expiring=False)
    after: UUID | None = _FIRST_ID
    while after is not None:
        after = await context.catalog.durable.reset_due(after, _BATCH)
    texts = json.dumps([policy.model_dump(mode="json") for policy in context.policies.policies])
    revision, first_after = context.policies.revision, context.policies.first_after
    await context.catalog.history.remember_revision(revision, texts, first_after, context.now)
    await asyncio.sleep(FALLBACK_NOTICE.total_seconds())


async def with_accepted(context: JobContext) -> JobContext:
    """The same, but nothing ends before the rules that `expire` accepted last let go of it."""
    accepted = await context.catalog.history.accepted_retention()
    before = None if accepted is None else PolicySet.of_retention_text(accepted[1])
    return context.by(context.policies.honouring(before))
