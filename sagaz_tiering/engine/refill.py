"""Refill: what was saved while Redis was down is put into Redis, so that readers may trust Redis alone again."""

from __future__ import annotations

from uuid import UUID

import structlog

from sagaz_tiering.codec import read_meta
from sagaz_tiering.engine.job import JobContext
from sagaz_tiering.errors import CorruptRecord

_log = structlog.get_logger(__name__)
_BATCH = 200


async def refill(context: JobContext) -> int:
    """Copy every spilled row to Redis (a newer save there wins), then end the spill; how many rows.

    A crash in between repeats copies, which changes nothing. A row that Redis refuses since the snapshot was deleted is
    about to go, or was to go by a delete that failed: it stays spilled, so that readers ask for it, until Redis has
    forgotten the delete.
    """
    durable, after, copied = context.catalog.durable, UUID(int=0), 0
    while True:
        async with durable.spilled(after, _BATCH) as batch:
            if not batch.rows:
                break
            for snapshot_id, saved_at, value in batch.rows:
                try:
                    meta = read_meta(value)
                except CorruptRecord as exc:
                    _log.error("snapshot.unreadable", snapshot_id=str(snapshot_id), tier="durable", error=str(exc))
                    continue
                decision = context.policies.decide(meta, context.now_us)
                times = {"due_us": decision.due_us, "expires_us": decision.expires_us}
                refused = await context.hot.save(meta, value, **times)
                if refused is None or not refused.deleted:
                    batch.done.append((snapshot_id, saved_at))
        copied += len(batch.done)
        after = batch.rows[-1][0]
    await durable.end_spill()
    return copied
