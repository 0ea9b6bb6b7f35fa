"""What the sources of sagaz's data share: opening late, and an account of what could not be taken as it is.

`Inventory` is what a walk over a store found, in any order, read back in order: on disk, however much it is.
"""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple, Self, TypeVar
from uuid import UUID

from sagaz_tiering.clock import Clock, SystemClock
from sagaz_tiering.drivers.scratch import Scratch
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.logs import Logger
from sagaz_tiering.sagaz_engine.imports.records import ReadRecord
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotSource

MESSAGES: Final = 20
"""How many messages a tally keeps; the log has them all."""

PAGE: Final = 250
BATCH_BYTES: Final = 2 * 1024 * 1024
BATCH_RECORDS: Final = 256
"""Records are asked for together up to this many, or up to this many bytes (a larger one alone)."""

_log = Logger(__name__)

_TABLES: Final = """
    CREATE TABLE found (
        saga_id BLOB, created_us INTEGER, step_index INTEGER, record_id BLOB,
        retention_us INTEGER, written INTEGER, size INTEGER, key BLOB
    );
    CREATE TABLE noted (kind TEXT, key BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID;
"""
# The index is made when everything is in: sorting once is many times faster than inserting random ids in order.
_NEWEST_ONLY: Final = """
    DELETE FROM found WHERE rowid IN (
        SELECT rowid FROM (
            SELECT rowid, row_number() OVER (
                PARTITION BY saga_id = x'', record_id ORDER BY written DESC, rowid DESC
            ) AS place FROM found
        ) WHERE place > 1
    )
"""
_ORDER: Final = "saga_id, created_us, step_index, record_id"


Stored = TypeVar("Stored")
Place = tuple[bytes, int, int, bytes]


class FoundRecord(NamedTuple):
    """Where one record is: a snapshot, or (of the saga b"", and all at 0) a replay record.

    `written`: of several records with one id the one with the highest counts. `size` in bytes, as JSON; `key` is what
    the source finds the record by.
    """

    saga_id: bytes
    created_us: int
    step_index: int
    record_id: bytes
    retention_us: int | None
    written: int
    size: int
    key: bytes

    @property
    def place(self) -> Place:
        """What the order is by."""
        return self[:4]


class Inventory(Scratch):
    """Add, `settle`, then read."""

    def __init__(self) -> None:
        super().__init__(_TABLES)

    async def add(self, found: Sequence[FoundRecord]) -> None:
        """Note what was found; the same record may come twice. Raises ConfigError where the disk is full."""

        def work(db: sqlite3.Connection) -> None:
            with db:
                db.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?, ?, ?, ?)", found)

        await self.run(work)

    async def settle(self, now_us: int) -> int:
        """Keep one record of each id, drop what has expired, sort the rest; how many had expired."""

        def work(db: sqlite3.Connection) -> int:
            with db:
                db.execute(_NEWEST_ONLY)
                expired = db.execute("DELETE FROM found WHERE retention_us <= ?", (now_us,)).rowcount
                db.execute(f"CREATE INDEX in_order ON found ({_ORDER}, retention_us)")
            return expired

        return await self.run(work)

    async def note(self, kind: str, key: bytes) -> bool:
        """Remember something about a record; whether it was not remembered before."""

        def work(db: sqlite3.Connection) -> bool:
            with db:
                return db.execute("INSERT OR IGNORE INTO noted VALUES (?, ?)", (kind, key)).rowcount > 0

        return await self.run(work)

    async def sagas(self, after: bytes, now_us: int, limit: int) -> list[UUID]:
        """Sagas behind `after` with a live snapshot, ascending."""
        query = """
            SELECT DISTINCT saga_id FROM found
            WHERE saga_id > ? AND (retention_us IS NULL OR retention_us > ?) ORDER BY saga_id LIMIT ?
        """
        return [UUID(bytes=saga) for (saga,) in await self._rows(query, (after, now_us, limit))]

    async def behind(self, place: Place, limit: int, *, in_saga: bool) -> list[FoundRecord]:
        """Records behind a place, in order; of all sagas, or of the one of the place."""
        later = f"({_ORDER}) > (?, ?, ?, ?)"
        if in_saga:
            later = "saga_id = ? AND (created_us, step_index, record_id) > (?, ?, ?)"
        query = f"SELECT * FROM found WHERE {later} ORDER BY {_ORDER} LIMIT ?"
        return [FoundRecord(*row) for row in await self._rows(query, (*place, limit))]

    async def _rows(self, query: str, values: tuple[object, ...]) -> list[Any]:
        return await self.run(lambda db: db.execute(query, values).fetchall())


@dataclass(slots=True)
class Remarks:
    """How many records, and what was said of the first ones. A record counts once, however often it is read."""

    count: int = 0
    messages: list[str] = field(default_factory=list)

    def add(self, message: str) -> None:
        """One more."""
        self.count += 1
        if len(self.messages) < MESSAGES:
            self.messages.append(message)


class SagazSource(SnapshotSource, ABC):
    """Data of a sagaz storage, read only. `async with`, or `close()` at the end.

    Connects when first used. Raises TierUnavailable or ConfigError where the store cannot be read; what is wrong
    with one record never ends a reading. The account covers what was read so far, and starts anew when the source
    is used again after `close()`:

    - `problems`: records that cannot be read and were left out, each logged as `snapshot.unreadable`;
    - `adjusted`: records that are there, but with a value taken differently from how it is written;
    - `expired`: snapshots left out since their retention has passed.
    """

    kind: ClassVar[str]

    def __init__(self, *, clock: Clock | None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._opening = asyncio.Lock()
        self._inventory: Inventory | None = None
        self._start_account()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Release what was opened; the account stays readable, the next call opens anew."""
        inventory, self._inventory = self._inventory, None
        if inventory is not None:
            await inventory.close()
        await self._disconnect()

    async def _connect(self) -> None:
        """Make the client, where it does not connect when it is first used."""

    async def _disconnect(self) -> None:
        """Close the client if there is one."""

    @abstractmethod
    async def _take_stock(self, inventory: Inventory) -> None:
        """What is to be known before anything is read: `expired`, and the order where the store has none."""

    async def _opened(self) -> Inventory:
        """The inventory, with everything ready behind it; callers that come meanwhile wait."""
        async with self._opening:
            if self._inventory is None:
                self._start_account()
                inventory = Inventory()
                await inventory.open()
                try:
                    await self._connect()
                    await self._take_stock(inventory)
                except BaseException:  # also when cancelled: nothing stays open
                    await inventory.close()
                    await self._disconnect()
                    raise
                self._inventory = inventory
            return self._inventory

    def _start_account(self) -> None:
        self.problems = Remarks()
        self.adjusted = Remarks()
        self.expired = 0

    async def _read(
        self, inventory: Inventory, stored: Mapping[bytes, Stored], decode: Callable[[Stored], ReadRecord]
    ) -> dict[bytes, ReadRecord]:
        """What can be read of these records, each given by its key; the rest is accounted for."""
        readable = dict[bytes, ReadRecord]()
        outcomes = await asyncio.to_thread(lambda: [_outcome(decode, each) for each in stored.values()])
        for key, outcome in zip(stored, outcomes, strict=True):
            if isinstance(outcome, CorruptRecord):
                await self._leave_out(inventory, key, outcome)
                continue
            if outcome.remarks and await inventory.note("adjusted", key):
                message = "; ".join(outcome.remarks)
                self.adjusted.add(f"{_shown(key)}: {message}")
                _log.warning("snapshot.adjusted", key=_shown(key), storage=self.kind, reason=message)
            readable[key] = outcome
        return readable

    async def _leave_out(self, inventory: Inventory, key: bytes, error: object) -> None:
        """Account for a record that cannot be read."""
        if await inventory.note("problem", key):
            shown = _shown(key)
            self.problems.add(f"{shown}: {error}")
            _log.error("snapshot.unreadable", key=shown, storage=self.kind, error=str(error))

    async def _is_live(self, inventory: Inventory, key: bytes, snapshot: SagaSnapshot) -> bool:
        """Whether a snapshot exists now; one that does not is accounted for."""
        if snapshot.retention_until is None or self._clock.now() < snapshot.retention_until:
            return True
        if await inventory.note("expired", key):
            self.expired += 1
        return False


def batches_of(sizes: Sequence[int]) -> list[slice]:
    """Consecutive records grouped so that each group stays within BATCH_RECORDS and BATCH_BYTES."""
    groups, start, total = list[slice](), 0, 0
    for at, size in enumerate(sizes):
        if at > start and (at - start == BATCH_RECORDS or total + size > BATCH_BYTES):
            groups.append(slice(start, at))
            start, total = at, 0
        total += size
    if start < len(sizes):
        groups.append(slice(start, len(sizes)))
    return groups


def _outcome(decode: Callable[[Stored], ReadRecord], stored: Stored) -> ReadRecord | CorruptRecord:
    try:
        return decode(stored)
    except CorruptRecord as exc:
        return exc


def _shown(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")
