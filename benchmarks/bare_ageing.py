"""The bare loop that `ageing.py` measures against: what the work costs when nothing is looked at."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from uuid import UUID

import asyncpg
import redis.asyncio
import zstandard

from sagaz_tiering.codec.value import from_value
from sagaz_tiering.snapshot import SnapshotMeta

_BATCH = 320
_DICTIONARY_BYTES = 65_536
_COMPARE_AND_DELETE = """
for i, key in ipairs(KEYS) do
  if redis.call('STRLEN', key) == tonumber(ARGV[i]) then redis.call('DEL', key) end
end
"""
_TABLE = "CREATE TABLE IF NOT EXISTS bare (id uuid PRIMARY KEY, saga uuid, at bigint, size integer)"


class Bare:
    """Ages values that it put into Redis itself."""

    def __init__(self, client: redis.asyncio.Redis, pool: asyncpg.Pool, path: Path) -> None:
        self._client = client
        self._pool = pool
        self._path = path
        self._threads = ThreadPoolExecutor(2)
        self._dictionary: zstandard.ZstdCompressionDict | None = None

    async def rate(self, values: Sequence[tuple[SnapshotMeta, bytes]]) -> float:
        """Snapshots a second."""
        bodies = [(meta.saga_id, meta.snapshot_id, from_value(value).body) for meta, value in values]
        if self._dictionary is None:
            samples = [body for _, _, body in bodies[:1000]]
            self._dictionary = zstandard.train_dictionary(_DICTIONARY_BYTES, samples, k=1000, d=8)
        for start in range(0, len(bodies), _BATCH):
            named = {f"bare:{snapshot_id.hex}": body for _, snapshot_id, body in bodies[start : start + _BATCH]}
            await self._client.mset(named)
        await self._pool.execute(_TABLE)
        ids = [(saga_id, snapshot_id) for saga_id, snapshot_id, _ in bodies]
        del bodies
        began = time.perf_counter()
        await self._age(ids)
        return len(ids) / (time.perf_counter() - began)

    async def _age(self, ids: Sequence[tuple[UUID, UUID]]) -> None:
        loop, rows, offset = asyncio.get_running_loop(), [], 0
        script = await self._client.script_load(_COMPARE_AND_DELETE)
        with self._path.open("wb") as file:
            lengths: dict[str, int] = {}
            for start in range(0, len(ids), _BATCH * 2):
                batch = ids[start : start + _BATCH * 2]
                keys = [f"bare:{snapshot_id.hex}" for _, snapshot_id in batch]
                found = await self._client.mget(keys)
                lengths |= {key: len(value) for key, value in zip(keys, found, strict=True)}
                halves = [slice(0, _BATCH), slice(_BATCH, None)]
                built = await asyncio.gather(
                    *(loop.run_in_executor(self._threads, self._frames, batch[half], found[half]) for half in halves)
                )
                for frame, members in [each for half in built for each in half]:
                    file.write(frame)
                    rows += [(snapshot_id, saga_id, offset, len(frame)) for saga_id, snapshot_id in members]
                    offset += len(frame)
            file.flush()
            os.fsync(file.fileno())
        async with self._pool.acquire() as conn:
            await conn.copy_records_to_table("bare", records=rows)
        names = list(lengths)
        for start in range(0, len(names), _BATCH):
            keys = names[start : start + _BATCH]
            await self._client.evalsha(script, len(keys), *keys, *(lengths[key] for key in keys))

    def _frames(
        self, ids: Sequence[tuple[UUID, UUID]], values: Sequence[bytes]
    ) -> list[tuple[bytes, list[tuple[UUID, UUID]]]]:
        compress = zstandard.ZstdCompressor(level=1, dict_data=self._dictionary).compress
        pairs = groupby(zip(ids, values, strict=True), lambda pair: pair[0][0])
        frames = []
        for _, group in pairs:
            members = list(group)
            frames.append((compress(b"".join(value for _, value in members)), [each for each, _ in members]))
        return frames
