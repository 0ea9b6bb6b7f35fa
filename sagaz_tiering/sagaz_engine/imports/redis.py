"""What sagaz's `RedisSnapshotStorage` wrote: the values, by SCAN. Its sorted sets are not looked at.

sagaz writes value, expiry and index entry in three trips, and the index outlives the values or is gone before them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any, Final

from sagaz_tiering.clock import Clock
from sagaz_tiering.drivers.redis.client import RedisClient
from sagaz_tiering.drivers.redis.url import RedisOptions, parse_redis_url
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.sagaz_engine.imports.scanned import ScannedRecord, ScannedSource

_UUID: Final = rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_SOCKET_TIMEOUT: Final = timedelta(seconds=10)
_CONNECTIONS: Final = 16
_KEYS: Final = 1_000


class SagazRedisSource(ScannedSource):
    """Every snapshot and replay record that sagaz left in a Redis database under its `key_prefix`.

    What Redis has let go of by a TTL is gone; a snapshot that only a `default_ttl` would have ended has no retention
    of its own, and goes on without one.

    Raises HotTierUnavailable where Redis cannot be asked, ConfigError where it refuses us.
    """

    kind = "sagaz+redis"

    def __init__(
        self, redis_url: str = "redis://localhost:6379", key_prefix: str = "snapshot:", *, clock: Clock | None = None
    ) -> None:
        super().__init__(clock=clock)
        address = parse_redis_url(redis_url)
        if address.kind == "cluster":
            raise ConfigError(
                f"{address.shown_url} is a Cluster, to which sagaz cannot write", hint="write redis://HOST:6379/0"
            )
        self._redis = RedisClient(
            RedisOptions(address=address, max_connections=_CONNECTIONS, socket_timeout=_SOCKET_TIMEOUT)
        )
        self._prefix = key_prefix.encode()
        self._key = re.compile(re.escape(self._prefix) + rb"(replay:)?" + _UUID)

    async def _disconnect(self) -> None:
        await self._redis.close()

    async def _listed(self) -> AsyncIterator[list[tuple[ScannedRecord, int]]]:
        cursor, pattern, start = -1, _escaped(self._prefix) + b"*", len(self._prefix)
        while cursor != 0:
            async with self._redis.use() as client:
                cursor, keys = await client.scan(max(cursor, 0), match=pattern, count=_KEYS)
                keys = [key for key in keys if self._key.fullmatch(key)]
                pipe = client.pipeline(transaction=False)
                for key in keys:
                    pipe.strlen(key)
                sizes: list[Any] = await pipe.execute(raise_on_error=False)
            page = list[tuple[ScannedRecord, int]]()
            for key, size in zip(keys, sizes, strict=True):
                found = ScannedRecord(key, None, is_replay=key.startswith(b"replay:", start))
                if isinstance(size, Exception):  # of a key that holds no string
                    page.append((found._replace(problem=str(size)), 0))
                else:
                    page.append((found, size))
            yield page

    async def _loaded(self, listed: Sequence[ScannedRecord]) -> list[ScannedRecord]:
        async with self._redis.use() as client:
            values = await client.mget([stored.key for stored in listed])
        return [stored._replace(data=value) for stored, value in zip(listed, values, strict=True)]


def _escaped(prefix: bytes) -> bytes:
    """A pattern of SCAN that matches this text and nothing else."""
    return re.sub(rb"([\\*?\[\]])", rb"\\\1", prefix)
