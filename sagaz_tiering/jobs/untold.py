"""What Redis alone has, and the catalog was never told of, since it is another one than the one that was.

A catalog that was rebuilt from the bucket, or put back from a dump, knows nothing of it: nothing would find it before
it is packed or its saga is saved again, and nobody could tell that Redis lost it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.hot.keys import member
from sagaz_tiering.hot.values import check_indexed
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.jobs.packed import already_packed
from sagaz_tiering.policy import SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

_AT_ONCE = 1_000


async def tell_untold(context: JobContext, saves: Sequence[SnapshotMeta], *, dry: bool) -> int:
    """Of these saves in Redis, as pointers tell of them, note what PostgreSQL knows nothing of; how many they are."""
    unknown = await _unknown(context, saves)
    if unknown and not dry:
        await _tell(context, unknown)
    return len(unknown)


async def _unknown(context: JobContext, saves: Sequence[SnapshotMeta]) -> list[SnapshotMeta]:
    """Those that PostgreSQL knows nothing of."""
    catalog, ids = context.catalog, [save.snapshot_id for save in saves]
    known = {(row.snapshot_id, to_micros(row.saved_at)) for row in await catalog.durable.rows_of(ids)}
    left = [save for save in saves if (save.snapshot_id, save.saved_us) not in known]
    noted = await catalog.hot_saves.noted(left)
    left = [save for save in left if save.snapshot_id not in noted]
    packed = await already_packed(context, left)
    return [save for save in left if save.snapshot_id not in packed]


async def _tell(context: JobContext, saves: Sequence[SnapshotMeta]) -> None:
    """By what their headers say."""
    for start in range(0, len(saves), _AT_ONCE):
        page, some = saves[start : start + _AT_ONCE], list[SnapshotMeta]()
        for save, head in zip(page, await context.hot.identity.heads(page), strict=True):
            with suppress(CorruptRecord):  # whoever reads it is told
                meta = read_meta(head)
                check_indexed(meta, save.saga_id, member(save.step_index, save.snapshot_id), save.created_us)
                if meta.saved_us == save.saved_us:
                    some.append(meta)
        expiries_us = [context.policies.expires_us(meta, SagaEnd.of(meta)) for meta in some]
        await context.catalog.hot_saves.note_each(some, expiries_us)
