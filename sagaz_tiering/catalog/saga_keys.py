"""Data keys of encrypted sagas, wrapped. With its row a saga's archived bytes are gone, wherever copies of them lie."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from sagaz_tiering.catalog.journal import note
from sagaz_tiering.catalog.rows import Repository, columns, of_row
from sagaz_tiering.drivers.postgresql.pool import Connection, affected
from sagaz_tiering.drivers.postgresql.queries import from_column, load, to_column
from sagaz_tiering.keys.master import KeyTotals, WrappedKey

_SQL = load(__package__, "saga_keys")
MOST_FRAMES: Final = 2_000
"""What `status` and health look at, however many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A key as a backup holds it."""

    key: WrappedKey = field(repr=False)
    created_at: datetime


class SagaKeys(Repository):
    """The table `saga_keys`."""

    async def writing(self, saga_ids: Collection[UUID]) -> dict[UUID, WrappedKey]:
        """The keys that these sagas are encrypted with from now on, of those that have one."""
        return {row["saga_id"]: _wrapped(row) for row in await self._db.fetch(_SQL["writing"], list(saga_ids))}

    async def add(self, keys: Sequence[WrappedKey], now: datetime) -> None:
        """Keep new keys, but for sagas that have got one meanwhile."""
        rows = ((key.key_id, key.saga_id, key.wrapped, to_column(key.master_id)) for key in keys)
        async with self._db.transaction() as conn:
            made = await conn.fetch(_SQL["add"], *columns(4, rows), now)
            if made:
                await note(conn, "keys_created", {"keys": [[row["saga_id"], row["key_id"]] for row in made]}, now)

    async def by_id(self, key_ids: Collection[UUID]) -> dict[UUID, WrappedKey]:
        """Those of these keys that are there."""
        return {row["key_id"]: _wrapped(row) for row in await self._db.fetch(_SQL["by_id"], list(key_ids))}

    async def totals(self) -> KeyTotals:
        """Walks all keys and frames: for people, not for every second."""
        [frames] = await self._db.fetch(_SQL["frames"])
        return KeyTotals(by_master=await self.by_master(), frames=frames["encrypted"], keyless_frames=frames["keyless"])

    async def sample(self) -> tuple[KeyTotals, bool]:
        """What `totals` says of frames, of at most MOST_FRAMES of them from a random saga on; whether these are all."""
        [row] = await self._db.fetch(_SQL["some_frames"], MOST_FRAMES, uuid4())
        found = KeyTotals(by_master={}, frames=row["encrypted"], keyless_frames=row["keyless"])
        return found, row["looked"] < MOST_FRAMES

    async def by_master(self) -> dict[str, int]:
        """How many keys each master key wraps; walks all keys."""
        return {from_column(row["master_id"]): row["keys"] for row in await self._db.fetch(_SQL["by_master"])}

    async def one_of_each_master(self) -> list[WrappedKey]:
        """A key under each master key, to see whether that still opens what it wrapped."""
        return [_wrapped(row) for row in await self._db.fetch(_SQL["one_of_each_master"])]

    async def under_others(self, master_id: str, after: UUID, limit: int) -> list[WrappedKey]:
        """The next keys behind `after` that another master key wraps."""
        query = _SQL["under_others"]
        return [_wrapped(row) for row in await self._db.fetch(query, to_column(master_id), after, limit)]

    async def rewrap(self, changes: Sequence[tuple[WrappedKey, WrappedKey]]) -> int:
        """(as read, new) wrappings; how many were still as read. What was destroyed meanwhile stays destroyed."""
        rows = ((new.key_id, old.wrapped, new.wrapped, to_column(new.master_id)) for old, new in changes)
        return await self._db.execute(_SQL["rewrap"], *columns(4, rows))

    async def page(self, after: UUID, limit: int) -> list[StoredKey]:
        """The next keys behind `after`, for a backup."""
        rows = await self._db.fetch(_SQL["page"], after, limit)
        return [StoredKey(key=_wrapped(row), created_at=row["created_at"]) for row in rows]

    async def lost(self, stored: Sequence[StoredKey]) -> int:
        """How many keys of a backup are not here, though no erasure destroyed them."""
        there = await self.by_id([one.key.key_id for one in stored])
        away = [one for one in stored if one.key.key_id not in there]
        rows = ((one.key.key_id, one.key.saga_id, one.created_at) for one in away)
        return len(away) - len(await self._db.fetch(_SQL["erased"], *columns(3, rows)))

    async def restore(self, stored: Sequence[StoredKey]) -> int:
        """Keys from a backup; how many were missing. Those of sagas erased since they were made are left out."""
        added = 0
        async with self._db.transaction() as conn:
            for one in stored:
                key = one.key
                values = (key.key_id, key.saga_id, key.wrapped, to_column(key.master_id), one.created_at)
                added += affected(await conn.execute(_SQL["import"], *values))
        return added


async def destroy(conn: Connection, saga_id: UUID, now: datetime) -> list[UUID]:
    """Destroy every key of a saga in the transaction of its erasure; their ids."""
    gone = [row["key_id"] for row in await conn.fetch(_SQL["destroy"], saga_id)]
    if gone:
        await note(conn, "key_destroyed", {"saga_id": saga_id, "key_ids": gone}, now)
    return gone


async def keys_there(conn: Connection, key_ids: Collection[UUID]) -> set[UUID]:
    """Of these keys, those that nobody destroyed."""
    return {row["key_id"] for row in await conn.fetch(_SQL["there"], list(key_ids))} if key_ids else set()


def wrapped_key(row: Any) -> WrappedKey | None:
    """The key of a row that was joined with `saga_keys`; None where it is not encrypted, or its key is gone."""
    return None if row["wrapped"] is None else _wrapped(row)


def _wrapped(row: Any) -> WrappedKey:
    return of_row(WrappedKey, row, "master_id")
