"""The mark `owner.json` of a prefix, and how a catalog stands to it.

Mark and catalog carry the same counter and nonce, which move on together, the catalog first. A copy of the database,
or one that went back to an older dump, meets a nonce that it never gave: it is behind, whatever the cause
(guarantee G8). The table `owner` has the one row that says who this catalog is, how far it moved the bucket's mark, and
on which PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

import orjson

from sagaz_tiering.catalog.rows import Repository, of_row
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.errors import CorruptData, ObjectNotFound
from sagaz_tiering.objects.base import ObjectStore

OWNER_KEY = "owner.json"
MOST_BYTES = 64 * 2**10
"""A mark has 300 bytes; a larger object is none."""
_SQL = load(__package__, "mark")
REMEMBERED = 16
"""So many of the catalog's own last nonces are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What `owner.json` says. `nonce` None: written before marks moved; `journal` is the newest number given."""

    catalog_id: UUID
    claimed_at: datetime
    counter: int = 0
    nonce: UUID | None = None
    journal: int = 0
    moved_at: datetime | None = None

    def to_bytes(self) -> bytes:
        """JSON."""
        return orjson.dumps({name: getattr(self, name) for name in self.__dataclass_fields__}, default=str)


def parse(data: bytes) -> Mark | None:
    """The mark in an object; None where it is none."""
    try:
        told = orjson.loads(data)
        nonce, moved = told.get("nonce"), told.get("moved_at")
        return Mark(
            catalog_id=UUID(told["catalog_id"]),
            claimed_at=_moment(told["claimed_at"]),
            counter=int(told.get("counter", 0)),
            nonce=None if nonce is None else UUID(nonce),
            journal=int(told.get("journal", 0)),
            moved_at=None if moved is None else _moment(moved),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None


UNREADABLE = "find out who wrote or answers there, and do not delete it: it may stand for another catalog's mark"
"""What to do about an object in the place of a mark."""


def told_instead(data: bytes) -> str:
    """What is in an object that is no mark, for people."""
    if data[:500].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return f"{OWNER_KEY} is an HTML page: a proxy, a login page or a web server answers in place of the store"
    return f"{OWNER_KEY} cannot be read: it begins with {data[:40]!r}"


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def mark_of(row: OwnerRow, claimed_at: datetime) -> Mark:
    """What the bucket must say by this row."""
    return Mark(
        catalog_id=row.catalog_id,
        claimed_at=claimed_at,
        counter=row.counter,
        nonce=row.nonce,
        journal=row.journal_number,
        moved_at=row.moved_at,
    )


class MarkStanding(StrEnum):
    """How a catalog stands to the prefix that is configured."""

    OWNER = "owner"
    """Mark and catalog agree."""
    UNCLAIMED = "unclaimed"
    """No mark, and nothing of this catalog can be missing."""
    UNFINISHED = "unfinished"
    """The mark is one step behind: a move of it was cut off, or it is of the code before. It is completed."""
    LATE = "late"
    """The mark is some steps behind: it was written late, or the bucket went back."""
    UNPROVEN = "unproven"
    """They agree, but the database is not the one that moved the mark last: a copy, or one that was moved."""
    BEHIND = "behind"
    """The mark was moved without this catalog."""
    WRONG_BUCKET = "wrong-bucket"
    """No mark where this catalog has packs."""
    FOREIGN = "foreign"
    """Another catalog's mark."""


def judge(row: OwnerRow, mark: Mark | None, *, present: bool) -> MarkStanding:
    """By the catalog's row and the bucket's mark (None where none can be read; `present`: there is an object)."""
    if not present:
        return MarkStanding.WRONG_BUCKET if row.has_packs else MarkStanding.UNCLAIMED
    if mark is None or mark.catalog_id != row.catalog_id:
        return MarkStanding.FOREIGN
    standing = _by_nonce(row.nonces, mark)
    if standing is MarkStanding.BEHIND or mark.journal > row.journal_number:
        return MarkStanding.BEHIND
    return MarkStanding.UNPROVEN if row.is_elsewhere else standing


def _by_nonce(nonces: Sequence[UUID], mark: Mark) -> MarkStanding:
    if mark.nonce is None:  # of the code before
        return MarkStanding.UNFINISHED if len(nonces) <= 1 else MarkStanding.BEHIND
    if mark.nonce not in nonces:
        return MarkStanding.BEHIND
    return (MarkStanding.OWNER, MarkStanding.UNFINISHED, MarkStanding.LATE)[min(nonces.index(mark.nonce), 2)]


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkLook:
    """The bucket's mark (None: there is none, or `instead` of one that can be read), the row, and how they stand."""

    row: OwnerRow
    mark: Mark | None
    tag: str
    standing: MarkStanding
    instead: str = ""


async def look_at_mark(ownership: Ownership, objects: ObjectStore) -> MarkLook:
    """Asks for the mark first: a move in between then looks unfinished, never foreign.

    Raises what the catalog and the object store raise.
    """
    present, mark, tag, instead = True, None, "", ""
    try:
        data, tag = await objects.get_tagged(OWNER_KEY, most=MOST_BYTES)
        mark = parse(data)
        instead = told_instead(data) if mark is None else ""
    except ObjectNotFound:
        present = False
    except CorruptData as exc:
        instead = str(exc)
    row = await ownership.look()
    return MarkLook(row=row, mark=mark, tag=tag, standing=judge(row, mark, present=present), instead=instead)


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
        return _owner_row(row, str(await self._db.fetchval(_SQL["system"])) if row["may_ask"] else "")

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
