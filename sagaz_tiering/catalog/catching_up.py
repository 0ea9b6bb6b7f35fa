"""What the bucket says, put into the tables: what its journal tells of, and what a scrub finds otherwise.

The journal is for a catalog that does not know what it tells: a new one, or an old dump. Everything can be told twice
and in any order; what is known already stays as it is. Nothing of it is told to the bucket again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import orjson

from sagaz_tiering.catalog.durable import lock_rows
from sagaz_tiering.catalog.holds import HOLD_LOCK, Holds, match_text, subject_columns
from sagaz_tiering.catalog.hot_saves import drop_hot_saves, wait_for_notes
from sagaz_tiering.catalog.journal import JournalEntry, note
from sagaz_tiering.catalog.leases import Lease, fenced
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.rows import Repository, columns, of_row
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.drivers.postgresql.pool import Connection, affected
from sagaz_tiering.drivers.postgresql.queries import from_column, load, to_column
from sagaz_tiering.storage_class import StorageClass

_SQL = load(__package__, "catching_up")
_ROWS_OF_SAGA = load(__package__, "erasures")["rows_of_saga"]
_PAGE = 1000
_TOLD = ("hold", "release", "delete", "forget", "keys_created", "key_destroyed")
ERASURE_FIELDS = ("erasure_id", "saga_id", "hot", "durable", "archived", "replays", "snapshots")
"""What the journal tells of an erasure beside who ordered it, why and when."""
_SCRUB = load(__package__, "scrub")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPack:
    """What the catalog says of an object in the bucket."""

    pack_id: int
    state: str
    storage_class: StorageClass


class CatchingUp(Repository):
    """Changes that others made while this catalog did not look."""

    async def apply(self, entries: Sequence[JournalEntry], lease: Lease) -> None:
        """All of these, in one transaction; the fields of `body` are checked (`jobs.journal`)."""
        async with fenced(self._db, lease, archive_lock=True) as conn:
            await conn.execute("SELECT pg_advisory_xact_lock($1)", HOLD_LOCK)
            await _delete(conn, [entry for entry in entries if entry.kind == "delete"])
            for entry in entries:
                if entry.kind == "key_destroyed":
                    await conn.execute(_SQL["destroy_keys"], entry.body["key_ids"])
                elif entry.kind == "forget":
                    await _erase(conn, entry)
                elif entry.kind == "release":
                    await _release(conn, entry)
                elif entry.kind == "hold":
                    await _hold(conn, entry.body)

    async def tell_again(self, now: datetime, but_for: Collection[UUID] = ()) -> int:
        """Every hold in force and every erasure, `but_for` those with these ids, go to the journal once more, for a
        bucket that may lack them; how many."""
        after, count = UUID(int=0), 0
        async with self._db.transaction() as conn:
            cursor: str | None = ""
            while cursor is not None:
                holds, cursor = await Holds(self._db).page(_PAGE, cursor or None, conn)
                for hold in holds:
                    if hold.hold_id not in but_for:
                        await note(conn, "hold", hold.to_dict(), now)
                        count += 1
            while rows := await conn.fetch(_SQL["erasures"], after, _PAGE):
                for row in rows:
                    names = {"who": from_column(row["who"]), "reason": from_column(row["reason"])}
                    if row["erasure_id"] not in but_for:
                        body = {name: row[name] for name in ERASURE_FIELDS} | names
                        await note(conn, "forget", body, row["requested_at"])
                        count += 1
                after = rows[-1]["erasure_id"]
        return count

    async def doubtful(
        self, entries: Sequence[JournalEntry], now: datetime, in_redis: Collection[UUID]
    ) -> list[JournalEntry]:
        """Of these, those that this catalog, which is the bucket's owner, does not know so: told once more, they would
        change something, or say of somebody else that he did it. Their fields are checked (`jobs.journal`);
        `in_redis`: of the snapshots that they delete those that Redis had before this is asked."""
        of = {kind: [entry for entry in entries if entry.kind == kind] for kind in _TOLD}
        found = [entry for entry in entries if entry.at > now or entry.kind not in _TOLD]
        deleted = [(snapshot_id, entry) for entry in of["delete"] for snapshot_id in entry.body["snapshot_ids"]]
        saves = columns(2, ((each, entry.at) for each, entry in deleted))
        rows = await self._db.fetch(_SQL["still_there"], *saves, list(in_redis))
        there = {id(deleted[row["place"] - 1][1]) for row in rows}
        found += [entry for entry in of["delete"] if id(entry) in there]
        keys = [key_id for entry in of["key_destroyed"] for key_id in entry.body["key_ids"]]
        left = {row["key_id"] for row in await self._db.fetch(_SQL["keys_there"], keys)}
        found += [entry for entry in of["key_destroyed"] if not left.isdisjoint(entry.body["key_ids"])]
        erasures = (
            (e.body["erasure_id"], e.body["saga_id"], e.at, to_column(e.body["who"]), to_column(e.body["reason"]))
            for e in of["forget"]
        )
        known = {row["place"] for row in await self._db.fetch(_SQL["known_erasures"], *columns(5, erasures))}
        found += [entry for place, entry in enumerate(of["forget"], start=1) if place not in known]
        return found + await self._doubtful_holds([*of["hold"], *of["release"]])

    async def _doubtful_holds(self, entries: Sequence[JournalEntry]) -> list[JournalEntry]:
        """By the log, which is only ever appended to."""
        rows = await self._db.fetch(_SQL["logged"], [entry.body["hold_id"] for entry in entries])
        logged = {(row["hold_id"], row["action"]): row for row in rows}
        return [entry for entry in entries if not _is_logged(entry, logged.get((entry.body["hold_id"], entry.kind)))]

    async def known(self, pack_uuids: Sequence[UUID]) -> dict[UUID, KnownPack]:
        """Of these packs, those that have a row."""
        rows = await self._db.fetch(_SQL["states"], list(pack_uuids))
        return {row["pack_uuid"]: of_row(KnownPack, row) for row in rows}

    async def taken(self, pack_uuid: UUID, revision: str) -> Pack | None:
        """An active pack whose row says of its retention rules that it was taken from the bucket."""
        row = await self._db.fetchrow(_SQL["taken"], pack_uuid, revision)
        return None if row is None else of_row(Pack, row)

    async def object_is_gone(self, pack_id: int, lease: Lease, now: datetime) -> bool:
        """The row of a pack without its object ends, if nothing that lives is said to be in it; whether it did."""
        async with fenced(self._db, lease, archive_lock=True) as conn:
            await conn.execute(_SQL["drop_expired"], pack_id, now)
            return affected(await conn.execute(_SQL["drop_pack"], pack_id, now)) == 1


def _is_logged(entry: JournalEntry, row: Any) -> bool:
    """Whether the log says the same of a hold, or of its release; the code before told of a release without a name."""
    if row is None:
        return False
    body, said = entry.body, (from_column(row["who"]), from_column(row["reason"]))
    if entry.kind == "release":
        return bool(row["at"] == entry.at) and (body["who"], body["reason"]) in (said, ("", ""))
    on = row["saga_id"] or Match(**orjson.loads(row["match"]))
    return (row["at"], on, *said) == (body["placed_at"], body["on"], body["placed_by"], body["reason"])


async def _delete(conn: Connection, entries: Sequence[JournalEntry]) -> None:
    pairs = ((snapshot_id, entry.at) for entry in entries for snapshot_id in entry.body["snapshot_ids"])
    ids, times = columns(2, pairs)
    if ids:
        await wait_for_notes(conn, ids)
        await lock_rows(conn, ids)
        await drop_hot_saves(conn, ids, times)
        for query in ("bury", "delete_durable", "delete_places"):
            await conn.execute(_SQL[query], ids, times)


async def _erase(conn: Connection, entry: JournalEntry) -> None:
    body, at = entry.body, entry.at
    erasure_id, saga_id = body["erasure_id"], body["saga_id"]
    other = await conn.fetchval(_SQL["erased_as"], saga_id, at)
    if erasure_id is None:  # told by the code before, without its id
        if other is not None:
            return
        erasure_id = uuid5(saga_id, at.isoformat())
    counts = (body["hot"], body["durable"], body["archived"], body["replays"], body["snapshots"])
    names = (to_column(body["who"]), to_column(body["reason"]))
    if await conn.fetchval(_SQL["erase"], erasure_id, saga_id, at, *names, *counts) is None:
        return
    if other is not None:
        await conn.execute(_SQL["pass_on"], other, erasure_id)
        await conn.execute(_SQL["drop_erasure"], other)
    await lock_rows(conn, [row["snapshot_id"] for row in await conn.fetch(_ROWS_OF_SAGA, saga_id)])
    for query in ("erase_hot", "erase_durable", "erase_replays", "erase_places"):
        await conn.execute(_SQL[query], saga_id, at)
    await conn.execute(_SQL["erase_packs"], erasure_id, saga_id, at)


async def _release(conn: Connection, entry: JournalEntry) -> None:
    hold_id, body = entry.body["hold_id"], entry.body
    row = await conn.fetchrow(_SQL["release_hold"], hold_id)
    of: tuple[Any, ...] = (None, None) if row is None else (row["saga_id"], row["match"])
    names = (to_column(body["who"]), to_column(body["reason"]))
    await conn.execute(_SQL["log_hold"], hold_id, "release", entry.at, *names, *of)


async def _hold(conn: Connection, body: dict[str, Any]) -> None:
    on, hold_id, at = body["on"], body["hold_id"], body["placed_at"]
    who, reason = to_column(body["placed_by"]), to_column(body["reason"])
    saga_id, match = (on, None) if isinstance(on, UUID) else (None, match_text(on))
    await conn.execute(_SQL["log_hold"], hold_id, "hold", at, who, reason, saga_id, match)
    await conn.execute(_SQL["place_hold"], hold_id, *subject_columns(on), reason, who, at)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRow:
    """Where the catalog says that a frame is, and what vouches for it (None: packed before there were digests)."""

    frame_no: int
    saga_id: UUID
    byte_offset: int
    byte_length: int
    key_id: UUID | None
    digest: bytes | None


class Scrubbing(Repository):
    """Reads packs in key order and by age of their last look; corrects rows."""

    async def pages(self, after: str, limit: int) -> list[Pack]:
        """Packs whose objects must exist, in key order."""
        return [of_row(Pack, row) for row in await self._db.fetch(_SCRUB["pages"], after, limit)]

    async def oldest(self, before: datetime, limit: int) -> list[Pack]:
        """Active packs that were not looked into since `before`, the longest ago first."""
        return [of_row(Pack, row) for row in await self._db.fetch(_SCRUB["oldest"], before, limit)]

    async def due(self, before: datetime) -> tuple[int, int]:
        """How many active packs were not looked into since `before`, and how many were."""
        [row] = await self._db.fetch(_SCRUB["due"], before)
        return row["due"], row["done"]

    async def by_key(self, key: str) -> Pack | None:
        """The pack of an object."""
        row = await self._db.fetchrow(_SCRUB["by_key"], key)
        return None if row is None else of_row(Pack, row)

    async def scrubbed(self, pack_id: int, now: datetime) -> None:
        """It was looked into."""
        await self._db.execute(_SCRUB["scrubbed"], pack_id, now)

    async def set_class(self, pack_id: int, storage_class: StorageClass, now: datetime) -> None:
        """The bucket says that it is in this class."""
        await self._db.execute(_SCRUB["set_class"], pack_id, storage_class.value, now)

    async def frames(self, pack_id: int) -> list[FrameRow]:
        """The frames of a pack that still hold something, by number."""
        return [of_row(FrameRow, row) for row in await self._db.fetch(_SCRUB["frames"], pack_id)]

    async def vouch(self, pack_id: int, footer_digest: bytes, frames: Sequence[FrameRow], lease: Lease) -> None:
        """Write these rows, and the digest of the footer that says so: the caller has seen that it is the true one."""
        async with fenced(self._db, lease) as conn:
            await conn.execute(_SCRUB["set_footer_digest"], pack_id, footer_digest)
            rows = ((f.frame_no, f.saga_id, f.byte_offset, f.byte_length, f.key_id, f.digest) for f in frames)
            await conn.execute(_SCRUB["set_frames"], pack_id, *columns(6, rows))

    async def set_attributes(self, pack_id: int, texts: Mapping[int, str], lease: Lease) -> None:
        """What the snapshots of these frames carry, by frame number (see `packs.attributes`); `find` follows."""
        texts_or_null = [to_column(text) or None for text in texts.values()]
        await self._change(lease, _SCRUB["set_attributes"], pack_id, list(texts), texts_or_null)

    async def set_attributes_digest(self, pack_id: int, digest: bytes, lease: Lease) -> None:
        """The object of a pack's attributes has this digest."""
        await self._change(lease, _SCRUB["set_attributes_digest"], pack_id, digest)

    async def without_attributes(self, key_ids: Sequence[UUID], limit: int, after: int) -> list[Pack]:
        """Active packs, by id after an id, with a frame under one of these keys of which no attributes are known."""
        rows = await self._db.fetch(_SCRUB["without_attributes"], list(key_ids), after, limit)
        return [of_row(Pack, row) for row in rows]

    async def dispute(
        self, object_keys: Sequence[str], snapshot_ids: Sequence[UUID], lease: Lease, *, footer: bytes, frame: bytes
    ) -> None:
        """Digests that nothing has, for these packs and for the frames that these snapshots are in."""
        async with fenced(self._db, lease) as conn:
            await conn.execute(_SCRUB["dispute_packs"], list(object_keys), footer)
            await conn.execute(_SCRUB["dispute_frames"], list(snapshot_ids), UUID(bytes=frame))

    async def snapshot_ids(self, pack_id: int) -> list[UUID]:
        """Live snapshots of a pack."""
        return [row["snapshot_id"] for row in await self._db.fetch(_SCRUB["snapshot_ids"], pack_id)]

    async def durable_of(self, snapshot_ids: Sequence[UUID]) -> set[UUID]:
        """Of these, the ones with a durable copy."""
        return await self._ids(_SCRUB["durable_of"], list(snapshot_ids))

    async def let_go(self, pack_id: int, snapshot_ids: Sequence[UUID], lease: Lease) -> None:
        """Forget the places of these in a pack whose bytes are gone."""
        async with fenced(self._db, lease, archive_lock=True) as conn:
            await conn.execute(_SCRUB["let_go"], pack_id, list(snapshot_ids))
