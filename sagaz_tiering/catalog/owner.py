"""The one row that says who this catalog is, how far it moved the bucket's mark, and on which PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sagaz_tiering.catalog.rows import Repository, of_row
from sagaz_tiering.drivers.postgresql.queries import load

_SQL = load(__package__, "owner")
REMEMBERED = 16
"""So many of the catalog's own last nonces are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerRow:
    """Who this catalog is. `nonces`: its last ones, newest first (none: it never marked a bucket).

    `journal_number` is the newest that an entry of the journal was given, `journal_confirmed` the newest that the
    bucket's mark was seen to carry. `age_s`: seconds since the mark was moved. `system_identifier` and `database_oid`
    are of the PostgreSQL that moved it, `here_…` of the one that answers now ("" or None: not known).
    """

    catalog_id: UUID
    counter: int
    nonces: tuple[UUID, ...]
    moved_at: datetime | None
    age_s: float
    journal_number: int
    journal_confirmed: int
    system_identifier: str
    database_oid: int | None
    here_system: str
    here_oid: int
    has_packs: bool
    now: datetime

    @property
    def nonce(self) -> UUID | None:
        """The one that the mark should carry."""
        return self.nonces[0] if self.nonces else None

    @property
    def is_elsewhere(self) -> bool:
        """Whether the database is another one than the one that moved the mark last, as far as both are known."""
        if self.database_oid is None:
            return False
        if self.system_identifier and self.here_system and self.system_identifier != self.here_system:
            return True
        return self.database_oid != self.here_oid


class Ownership(Repository):
    """The table `owner`."""

    async def look(self) -> OwnerRow:
        """The row as it is now."""
        [row] = await self._db.fetch(_SQL["look"])  # the first migration makes it
        system = str(await self._db.fetchval(_SQL["system"])) if row["may_ask"] else ""
        return _owner_row(row, system)

    async def move(self, counter: int, limit: int) -> OwnerRow | None:
        """A step on from `counter`, under a new nonce; None where another process was first.

        Up to `limit` entries of the journal that have no number yet get the next ones.
        """
        system = (await self.look()).here_system
        async with self._db.transaction() as conn:
            row = await conn.fetchrow(_SQL["lock"], counter)
            if row is None:
                return None
            await conn.execute(_SQL["number"], limit)
            [moved] = await conn.fetch(_SQL["move"], uuid4(), REMEMBERED, system)  # it is locked
            return _owner_row(moved, system)

    async def confirm(self, row: OwnerRow) -> None:
        """The bucket's mark carries what `row` says."""
        if row.journal_number > row.journal_confirmed:
            await self._db.execute(_SQL["confirm"], row.journal_number)

    async def take_mark(self, counter: int, nonce: UUID | None, journal: int) -> None:
        """Take the bucket's mark for ours, so that the next move goes on from there.

        Entries of the journal that were not published get new numbers, as theirs may be others' by now.
        """
        async with self._db.transaction() as conn:
            await conn.execute(_SQL["take_mark"], counter, nonce, journal, REMEMBERED)
            await conn.execute(_SQL["renumber"])

    async def newest_packs(self, limit: int) -> list[str]:
        """Keys of the active packs that were made last."""
        return [row["object_key"] for row in await self._db.fetch(_SQL["newest_packs"], limit)]


def _owner_row(row: Any, system: str) -> OwnerRow:
    return of_row(OwnerRow, row, nonces=tuple(row["nonces"]), here_system=system)
