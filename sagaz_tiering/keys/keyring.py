"""Data keys in use: made for sagas that are packed, unwrapped for those that are read, re-wrapped by a rotation.

Unwrapped keys are remembered for a short time, so that a page of frames does not ask KMS for each. That is no window
for what was erased: a key is only ever unwrapped from its row, which the reader has fetched together with the place of
the frame, and the row is gone with the erasure.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from sagaz_tiering.errors import ErasedData, MasterKeyUnavailable
from sagaz_tiering.keys.frame_key import KEY_BYTES, FrameKey
from sagaz_tiering.keys.master import KeyTable, KeyTotals, Several, WrappedKey

CACHE_SIZE: Final = 4096
CACHE_SECONDS: Final = 30.0
ROTATION_BATCH: Final = 500
_AT_ONCE: Final = 16
_FIRST: Final = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """Data keys that their master key does not open now: reads of what they encrypt raise MasterKeyUnavailable."""

    master_id: str
    data_keys: int
    error: MasterKeyUnavailable

    def warning(self) -> str:
        """With what to do."""
        return (
            f"{self.data_keys:,} data keys under {self.master_id} cannot be opened, archived snapshots of their sagas "
            f"cannot be read: {self.error}; {self.error.hint}"
        )


class Keyring:
    """The data keys of a catalog, opened with its master keys. Every method may raise MasterKeyUnavailable."""

    def __init__(self, keys: KeyTable, masters: Several, *, seconds: Callable[[], float] = time.monotonic) -> None:
        self.masters = masters
        self._keys = keys
        self._seconds = seconds
        self._opened: OrderedDict[bytes, tuple[float, FrameKey]] = OrderedDict()
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._signing: tuple[WrappedKey, bytes] | None = None

    async def open(self, wrapped: WrappedKey) -> FrameKey:
        """The data key in a row of the catalog that the caller has just read."""
        known = self._opened.get(wrapped.wrapped)
        if known is not None and known[0] > self._seconds() and known[1].key_id == wrapped.key_id.bytes:
            self._opened.move_to_end(wrapped.wrapped)
            return known[1]
        async with self._gate:
            secret = await self.masters.unwrap(wrapped)
        if len(secret) != KEY_BYTES:
            raise MasterKeyUnavailable(f"the data key of saga {wrapped.saga_id} unwraps to {len(secret)} bytes")
        key = FrameKey(key_id=wrapped.key_id.bytes, secret=secret)
        self._opened[wrapped.wrapped] = (self._seconds() + CACHE_SECONDS, key)
        while len(self._opened) > CACHE_SIZE:
            self._opened.popitem(last=False)
        return key

    async def for_frame(self, *, encrypted: bool, wrapped: WrappedKey | None) -> FrameKey | None:
        """What opens the frame at a place; None if it is not encrypted. Raises ErasedData where the key is gone."""
        if not encrypted:
            return None
        if wrapped is None:
            raise ErasedData("the snapshot is encrypted, and the data key of its saga was destroyed or lost")
        return await self.open(wrapped)

    async def by_id(self, key_ids: Iterable[bytes | None]) -> dict[bytes, FrameKey]:
        """The keys of frames, by key id; those that are gone (and None) are left out."""
        wanted = {UUID(bytes=key_id) for key_id in key_ids if key_id is not None}
        if not wanted:
            return {}
        rows = list((await self._keys.by_id(wanted)).values())
        return {key.key_id: key for key in await asyncio.gather(*map(self.open, rows))}

    async def for_writing(self, saga_ids: Collection[UUID], now: datetime) -> dict[UUID, FrameKey]:
        """The keys that frames of these sagas are encrypted with; made where a saga has none.

        Ask after the snapshots were read: then an erasure in between cannot leave a later save under its old key.
        """
        found = await self._existing(saga_ids)
        missing = [saga_id for saga_id in saga_ids if saga_id not in found]
        if missing:
            await self._keys.add(await asyncio.gather(*map(self._new, missing)), now)
            # Another daemon may have been first: what counts is what is there.
            found |= await self._existing(missing)
        return found

    async def for_trial(self, saga_ids: Collection[UUID]) -> dict[UUID, FrameKey]:
        """The same for what nobody keeps: a saga that has no key yet gets one that is thrown away."""
        made = {saga_id: FrameKey(key_id=saga_id.bytes, secret=os.urandom(KEY_BYTES)) for saga_id in saga_ids}
        return made | await self._existing(saga_ids)

    async def rotate(self, *, batch: int = ROTATION_BATCH) -> AsyncIterator[int]:
        """Re-wrap every data key under the current master key; yields how many, batch by batch.

        Packs are not touched. It may be stopped at any time and goes on where it stopped; what is made meanwhile
        is under the current key already.
        """
        current, after = await self.masters.current_id(), _FIRST
        while rows := await self._keys.under_others(current, after, batch):
            changed = await asyncio.gather(*map(self._rewrapped, rows))
            yield await self._keys.rewrap(list(zip(rows, changed, strict=True)))
            after = rows[-1].key_id

    def signs(self) -> bool:
        """Whether what the bucket's journal says can be signed: the configuration names a master key."""
        return bool(self.masters.by_scheme)

    async def signing(self, catalog_id: UUID) -> tuple[WrappedKey, bytes] | None:
        """What this process signs its part of the journal with, and its secret; None without a master key.

        Under the current master key, also where a rotation made it that while the process ran.
        """
        if not self.signs():
            return None
        made = self._signing
        if made is None or (made[0].saga_id, made[0].master_id) != (catalog_id, await self.masters.current_id()):
            secret = os.urandom(KEY_BYTES)
            self._signing = (await self.masters.wrap(secret, uuid4(), catalog_id), secret)
        return self._signing

    async def check(self) -> str:
        """The current master key's id, after it was seen to wrap and to unwrap."""
        probe = await self._new(uuid4())
        await self.masters.unwrap(probe)
        return probe.master_id

    async def locked(self) -> list[Locked]:
        """Which of the catalog's data keys cannot be opened: one under each master key is tried.

        Walks all keys only where there are some.
        """
        found = []
        for row in await self._keys.one_of_each_master():
            try:
                async with self._gate:
                    await self.masters.unwrap(row)  # not `open`, which may remember it
            except MasterKeyUnavailable as exc:
                found.append((row.master_id, exc))
        counts = await self._keys.by_master() if found else {}
        return [Locked(master_id=name, data_keys=counts.get(name, 1), error=exc) for name, exc in found]

    async def warnings(self, locked: Sequence[Locked] | None = None, totals: KeyTotals | None = None) -> list[str]:
        """What keeps encrypted snapshots from being read, each with what to do; [] while nothing does.

        `locked` and `totals` are what was answered, where that was asked. Else a few thousand frames are looked at,
        other ones each time, however many there are.
        """
        found = [each.warning() for each in (await self.locked() if locked is None else locked)]
        frames, are_all = (totals, True) if totals is not None else await self._keys.sample()
        if frames.keyless_frames:
            of = f"{frames.frames:,} encrypted frames{'' if are_all else ' that were looked at'}"
            found.append(
                f"{frames.keyless_frames:,} of {of} have lost their data key, reads of what is in them raise "
                "ErasedData; sagaz-tiering keys import FILE"
            )
        return found

    async def close(self) -> None:
        """Forget every key."""
        self._opened.clear()
        self._signing = None
        await self.masters.close()

    async def _existing(self, saga_ids: Collection[UUID]) -> dict[UUID, FrameKey]:
        rows = await self._keys.writing(saga_ids)
        opened = await asyncio.gather(*map(self.open, rows.values()))
        return dict(zip(rows, opened, strict=True))

    async def _new(self, saga_id: UUID) -> WrappedKey:
        async with self._gate:
            return await self.masters.wrap(os.urandom(KEY_BYTES), uuid4(), saga_id)

    async def _rewrapped(self, row: WrappedKey) -> WrappedKey:
        async with self._gate:
            return await self.masters.wrap(await self.masters.unwrap(row), row.key_id, row.saga_id)
