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
from sagaz_tiering.sagaz_engine.imports.source import batches_of

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
        self,
        redis_url: str = "redis://localhost:6379",
        key_prefix: str = "snapshot:",
        *,
        clock: Clock | None = None,
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

    async def _scan(self) -> AsyncIterator[list[ScannedRecord]]:
        cursor, pattern = 0, _escaped(self._prefix) + b"*"
        while True:
            async with self._redis.use() as client:
                answer: tuple[int, list[Any]] = await client.scan(cursor, match=pattern, count=_KEYS)
            cursor, keys = answer[0], [key for key in answer[1] if self._key.fullmatch(key)]
            sizes = await self._sizes(keys)
            for batch in batches_of([size if isinstance(size, int) else 0 for size in sizes]):
                yield await self._values(keys[batch], sizes[batch])
            if cursor == 0:
                return

    async def _fetch(self, keys: Sequence[bytes]) -> list[ScannedRecord]:
        return await self._values(keys, await self._sizes(keys))

    async def _sizes(self, keys: Sequence[bytes]) -> list[Any]:
        """Bytes of each value; the error of Redis for a key that holds no string."""
        if not keys:
            return []
        async with self._redis.use() as client:
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.strlen(key)
            found: list[Any] = await pipe.execute(raise_on_error=False)
        return found

    async def _values(self, keys: Sequence[bytes], sizes: Sequence[Any]) -> list[ScannedRecord]:
        async with self._redis.use() as client:
            values: list[Any] = await client.mget(list(keys))
        start = len(self._prefix)
        return [
            ScannedRecord(
                key=key,
                data=value,
                problem=str(size) if isinstance(size, Exception) else "",
                is_replay=key.startswith(b"replay:", start),
            )
            for key, size, value in zip(keys, sizes, values, strict=True)
        ]


def _escaped(prefix: bytes) -> bytes:
    """A pattern of SCAN that matches this text and nothing else."""
    return re.sub(rb"([\\*?\[\]])", rb"\\\1", prefix)
