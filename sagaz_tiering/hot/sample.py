"""A bounded look at which sagas are due some day: for estimates, never for work."""

from __future__ import annotations

from uuid import UUID

import redis.asyncio

from sagaz_tiering.hot.keys import SHARDS, HotKeys, saga_of


async def sample_due(
    client: redis.asyncio.Redis, keys: HotKeys, limit: int, *, expiring: bool
) -> tuple[list[UUID], int]:
    """About `limit` sagas of a due index, in no order (all, where there are few), and how many there are."""
    indexes = [keys.expiry(shard) if expiring else keys.due(shard) for shard in SHARDS]
    share = max(1, limit // len(SHARDS))
    pipe = client.pipeline(transaction=False)
    for index in indexes:
        pipe.zcard(index)
    sizes: list[int] = await pipe.execute()
    found: set[bytes] = set()
    for index, size in zip(indexes, sizes, strict=True):
        cursor, seen = 0, 0
        while size and seen < share:
            cursor, page = await client.zscan(index, cursor, count=share)
            found |= {saga for saga, _score in page if isinstance(saga, bytes)}
            seen += len(page)
            if cursor == 0:
                break
    return [saga for saga in map(saga_of, found) if saga is not None], sum(sizes)
