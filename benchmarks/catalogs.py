"""Generated catalogs: as many archived snapshots as wanted, pack by pack with COPY, as the product leaves them.

Five snapshots a saga in one frame, random ids, packs of 60,000 snapshots (about 30 MB), five policies, two years.
The indexes are there from the start, so that they are as full as random ids leave them. The bucket is a directory
with a sparse file for each pack: everything that compares sizes and classes works, only bytes are not there.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sagaz_tiering.clock import to_micros
from sagaz_tiering.drivers.postgresql.pool import Connection, Database
from sagaz_tiering.jobs.age.frames import expiry_bucket
from sagaz_tiering.jobs.pack_objects import pack_key
from sagaz_tiering.objects.local.tree import ObjectRecord, ObjectTree
from sagaz_tiering.storage_class import StorageClass

PER_SAGA = 5
PER_PACK = 60_000
FRAME_BYTES = 2_500
RETAIN = timedelta(days=2555)
SPAN = timedelta(days=730)
YOUNGEST = timedelta(days=8)
MOVES = [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "90d"}]
POLICIES: list[dict[str, Any]] = [
    {"name": f"shop-{n}", "match": {"saga_name": f"shop-{n}-*"}, "move": MOVES, "retain": "2555d"} for n in range(5)
]
STEPS = ("check_order", "reserve_stock", "take_payment", "book_transport", "tell_customer")
LAST = ("completed", "completed", "completed", "completed", "failed", "rolled_back", "compensated", "completed")

_PG_EPOCH_US = to_micros(datetime(2000, 1, 1, tzinfo=UTC))
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END = struct.pack(">h", -1)
_FRAME = struct.Struct(">hi16siiiiiiiii16s")
_PLACE = struct.Struct(">hiqiqiiiiiii16s")
_AS_UUID4 = bytes(byte & 0x0F | 0x40 for byte in range(256))
_AS_VARIANT = bytes(byte & 0x3F | 0x80 for byte in range(256))
_CHUNK = 1 << 18

_PACK = """
INSERT INTO sagaz_tiering.packs
    (pack_uuid, object_key, state, storage_class, policy, retention_revision, byte_size, snapshot_count, live_count,
     sha256, min_created_at, max_created_at, max_clock_at, next_expiry_at, lease_name, lease_epoch, created_at,
     class_since, evicted_at, scrubbed_at, footer_digest)
VALUES ($1, $2, 'ACTIVE', $3, $4, $5, $6, $7, $7, $8, $9, $10, $10, $11, 'age/0', 1, $12, $13, $12, $14, $8)
RETURNING pack_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to generate. `retain`: how long everything is kept; `youngest`: how old the newest snapshot is."""

    snapshots: int
    now: datetime
    retain: timedelta = RETAIN
    span: timedelta = SPAN
    youngest: timedelta = YOUNGEST
    per_pack: int = PER_PACK
    seed: int = 7


async def fill(
    db: Database, root: Path | None, wanted: Wanted, revision: str, tell: Callable[[str], None] | None = print
) -> list[float]:
    """Add the rows to a migrated catalog, and a sparse object for each pack under `root` (None: without).

    Returns the snapshots a second of each pack's transaction. `revision`: the policies' `retention_revision`; with
    another one everything would be dated anew.
    """
    chance, began, done = random.Random(wanted.seed), time.monotonic(), 0
    packs, rates = -(-wanted.snapshots // wanted.per_pack), list[float]()
    steps = await _steps(db)
    for number in range(packs):
        count = min(wanted.per_pack, wanted.snapshots - done)
        pack = _Pack(wanted, number, packs, count, revision, chance)
        pack_began = time.monotonic()
        async with db.transaction() as conn:
            pack_id = int(await conn.fetchval(_PACK, *pack.row()))
            await _copy(conn, "frames", _FRAME_COLUMNS, pack.frames(pack_id))
            await _copy(conn, "snapshots", _PLACE_COLUMNS, pack.places(pack_id, steps[number % 5]))
        rates.append(count / (time.monotonic() - pack_began))
        if root is not None:
            pack.make_object(root)
        done += count
        if tell is not None and (number % 20 == 19 or done == wanted.snapshots):
            tell(f"  {done:,} snapshots in {number + 1} packs after {time.monotonic() - began:.0f} s")
    for table in ("packs", "frames", "snapshots", "steps"):
        await db.execute(f"VACUUM (ANALYZE) sagaz_tiering.{table}")
    return rates


_FRAME_COLUMNS = ("saga_id", "pack_id", "frame_no", "byte_offset", "byte_length", "digest")
_PLACE_COLUMNS = ("created_at", "expires_at", "pack_id", "frame_no", "step_id", "snapshot_id")


class _Pack:
    def __init__(
        self, wanted: Wanted, number: int, packs: int, count: int, revision: str, chance: random.Random
    ) -> None:
        self.number, self.count, self.revision = number, count, revision
        self._chance = chance
        self._now = wanted.now
        self.begins = wanted.now - wanted.youngest - wanted.span * ((packs - number) / packs)
        self.ends = self.begins + wanted.span / packs
        self._retain = wanted.retain
        self.uuid = UUID(bytes=ids(chance, 1))
        aged = self.ends + timedelta(days=7)
        self.written = min(aged, wanted.now)
        frozen = self.ends + timedelta(days=90) <= wanted.now
        self.storage_class = StorageClass.GLACIER if frozen else StorageClass.STANDARD_IA
        self.class_since = self.ends + timedelta(days=90) if frozen else self.written
        bucket = expiry_bucket(to_micros(self.begins + wanted.retain))
        self.key = pack_key(self.written, bucket, self.uuid)
        self.size = FRAME_BYTES * -(-count // PER_SAGA)

    def row(self) -> tuple[Any, ...]:
        """Values of `_PACK`."""
        head = (self.uuid, self.key, self.storage_class.value, f"shop-{self.number % 5}", self.revision, self.size)
        times = (self.begins, self.ends, self.begins + self._retain, self.written, self.class_since, self._now)
        return (*head, self.count, bytes(32), *times)

    def frames(self, pack_id: int) -> Iterator[bytes]:
        """Rows of `frames`, in COPY's binary form."""
        sagas = -(-self.count // PER_SAGA)
        saga_ids = ids(self._chance, sagas)
        for n in range(sagas):
            saga = saga_ids[16 * n : 16 * n + 16]
            yield _FRAME.pack(6, 16, saga, 4, pack_id, 4, n, 4, n * FRAME_BYTES, 4, FRAME_BYTES, 16, saga)

    def places(self, pack_id: int, steps: list[list[int]]) -> Iterator[bytes]:
        """Rows of `snapshots`, newest first in each frame, in COPY's binary form."""
        sagas = -(-self.count // PER_SAGA)
        first = to_micros(self.begins) - _PG_EPOCH_US
        apart = max(1, to_micros(self.ends) - to_micros(self.begins)) // sagas
        retain = int(self._retain.total_seconds()) * 1_000_000
        snapshot_ids = ids(self._chance, self.count)
        for at in range(self.count):
            saga, step = divmod(at, PER_SAGA)
            step = PER_SAGA - 1 - step
            created = first + apart * saga + 300_000 * step
            step_id = steps[step][saga % len(steps[step])]
            name = snapshot_ids[16 * at : 16 * at + 16]
            yield _PLACE.pack(6, 8, created, 8, created + retain, 4, pack_id, 4, saga, 4, step_id, 16, name)

    def make_object(self, root: Path) -> None:
        """An object of the right size and class, without bytes."""
        folder = ObjectTree(root).path(self.key)
        folder.mkdir(parents=True)
        with (folder / "data").open("wb") as file:
            file.truncate(self.size)
        record = ObjectRecord(
            size=self.size,
            sha256=bytes(32).hex(),
            storage_class=self.storage_class,
            modified_at=to_micros(self.written),
        )
        (folder / "record.json").write_bytes(record.to_bytes())


def ids(chance: random.Random, count: int) -> bytes:
    """Random version 4 UUIDs, 16 bytes each."""
    raw = bytearray(chance.randbytes(16 * count))
    raw[6::16] = raw[6::16].translate(_AS_UUID4)
    raw[8::16] = raw[8::16].translate(_AS_VARIANT)
    return bytes(raw)


async def _steps(db: Database) -> list[list[list[int]]]:
    """For each policy and step the ids of its rows in `steps`, one for each status."""
    found = []
    for shop in range(5):
        names = []
        for index, step in enumerate(STEPS):
            statuses = LAST if index == PER_SAGA - 1 else ("executing",)
            made = {
                status: await db.fetchval(
                    "INSERT INTO sagaz_tiering.steps (digest, saga_name, step_name, step_index, status)"
                    " VALUES (sha256(convert_to($1 || $2 || $4, 'UTF8')), $1, $2, $3, $4)"
                    " ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest RETURNING step_id",
                    *(f"shop-{shop}-order", step, index, status),
                )
                for status in dict.fromkeys(statuses)
            }
            names.append([made[status] for status in statuses])
        found.append(names)
    return found


async def _copy(conn: Connection, table: str, columns: tuple[str, ...], rows: Iterator[bytes]) -> None:
    async def source() -> AsyncIterator[bytes]:
        chunk = bytearray(_HEADER)
        for row in rows:
            chunk += row
            if len(chunk) >= _CHUNK:
                yield bytes(chunk)
                chunk.clear()
        yield bytes(chunk) + _END

    await conn.copy_to_table(
        table, schema_name="sagaz_tiering", columns=columns, source=source(), format="binary", timeout=600
    )
