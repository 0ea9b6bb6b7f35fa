"""Where each saga ends: what the rules that hold for a saga as a whole look at (see `policy.SagaEnd`).

Triggers keep the table `sagas`, with every save that PostgreSQL learns of and everything that goes; publishing a pack
adds what that promises. Sagas of an earlier version are filled in by the jobs;
until then they are looked up in the other tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sagaz_tiering.catalog.durable import naming
from sagaz_tiering.catalog.leases import Lease, fenced
from sagaz_tiering.catalog.rows import Repository, micros, moment
from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.drivers.postgresql.pool import Connection
from sagaz_tiering.drivers.postgresql.queries import from_column, load, to_column
from sagaz_tiering.policy import NOT_PROMISED, PolicySet, SagaEnd, latest
from sagaz_tiering.snapshot import SnapshotMeta

_SQL = load(__package__, "sagas")
_FOR_EVER: Final = 2**63 - 1
_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """A snapshot in a pack: its recorded expiry (None: never), and the retention revision and policy it is `dated` by.

    `meta`: as far as the catalog knows it, see `packed`.
    """

    meta: SnapshotMeta
    pack_id: int
    recorded_us: int | None
    dated: tuple[str, str]

    def expires_us(self, policies: PolicySet, saga: SagaEnd) -> int | None:
        """When it expires, of a saga that ends there."""
        return policies.expires_at_least_us(self.meta, saga, self.recorded_us, self.dated)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDates:
    """What is decided anew of sagas that ended as `seen`: until when each is `kept`, when what is archived expires."""

    seen: Mapping[UUID, SagaEnd]
    kept: Mapping[UUID, int | None]
    expiries: Sequence[tuple[Archived, int | None]]


class Sagas(Repository):
    """The table `sagas`."""

    async def ends(self, saga_ids: Iterable[UUID]) -> dict[UUID, SagaEnd]:
        """Where these sagas end, as far as PostgreSQL knows any snapshot of them."""
        ids = list(set(saga_ids))
        return {row["saga_id"]: end_of(row) for row in await self._db.fetch(_SQL["ends"], ids)} if ids else {}

    async def note(self, ends: Mapping[UUID, SagaEnd]) -> None:
        """Redis has these newest snapshots; nothing changes where the catalog knows newer ones, or nothing of it."""
        await self._db.execute(_SQL["note"], *_columns(ends))

    async def changed(self, after: UUID, limit: int) -> dict[UUID, SagaEnd]:
        """Sagas that went on after part of them was archived, by id, after an id."""
        return {row["saga_id"]: end_of(row) for row in await self._db.fetch(_SQL["changed"], after, limit)}

    async def losing(self, pack_id: int, now: datetime, after: UUID, limit: int) -> dict[UUID, SagaEnd | None]:
        """Sagas of which something in a pack has expired that no hold keeps, by id, after an id; changed ones left out.

        Each with its end; None: it is not in the table yet.
        """
        rows = await self._db.fetch(_SQL["losing"], pack_id, now, after, limit)
        return {row["saga_id"]: None if row["kept_us"] is None else end_of(row) for row in rows}

    async def take_in(self, saga_ids: Iterable[UUID]) -> None:
        """Have these in the table, of which something is archived."""
        await self._db.execute(_SQL["take_in"], list(saga_ids))

    async def archived(self, saga_ids: Iterable[UUID]) -> list[Archived]:
        """All that is archived of these sagas."""
        return [
            Archived(
                meta=packed(naming(row), to_micros(row["created_at"]), to_micros(row["max_clock_at"])),
                pack_id=row["pack_id"],
                dated=(row["retention_revision"], row["policy"]),
                recorded_us=micros(row["expires_at"]),
            )
            for row in await self._db.fetch(_SQL["archived_of"], list(saga_ids))
        ]

    async def date_anew(self, new: NewDates, lease: Lease) -> None:
        """Set these dates; what went on since it was `seen` is to be decided anew once more."""
        seen = _columns(new.seen)
        kept_us = [_kept_column(new.kept[one]) for one in new.seen]
        before_us = [_kept_column(end.kept_us) for end in new.seen.values()]
        other = [(one, expires_us) for one, expires_us in new.expiries if expires_us != one.recorded_us]
        ids, packs = [one.meta.snapshot_id for one, _ in other], [one.pack_id for one, _ in other]
        async with fenced(self._db, lease) as conn:
            if ids:
                await conn.execute(_SQL["date_snapshots"], ids, packs, [moment(us) for _, us in other])
                await conn.execute(_SQL["date_packs"], sorted(set(packs)))
            await conn.execute(_SQL["decided"], *seen, kept_us, before_us)

    async def fill(self) -> bool:
        """Take in the next sagas that an earlier version left; whether all are there."""
        return bool(await self._db.fetchval(_SQL["fill"], _AT_ONCE))


async def note_archived(conn: Connection, snapshots: Iterable[tuple[SnapshotMeta, int | None]]) -> None:
    """In the transaction that publishes these, each with the expiry that is recorded of it (None: never)."""
    ends: dict[UUID, SagaEnd] = {}
    for meta, expires_us in snapshots:
        known = ends.get(meta.saga_id)
        end = SagaEnd.of(meta) if known is None or meta.order_key > known.order_key else known
        kept_us = NOT_PROMISED if known is None else known.kept_us
        ends[meta.saga_id] = end._replace(kept_us=latest(kept_us, promised_us(meta, expires_us)))
    kept = [_kept_column(end.kept_us) for end in ends.values()]
    ended_at, *others = _columns(ends)
    await conn.execute(_SQL["archived"], ended_at, kept, *others)


async def promise_anew(conn: Connection, pack_id: int, kept_us: Mapping[UUID, int | None]) -> None:
    """In the transaction that dates a pack by other rules: until when its sagas are kept by those."""
    await conn.execute(_SQL["promise_anew"], pack_id, list(kept_us), list(map(_kept_column, kept_us.values())))


def promised_us(meta: SnapshotMeta, expires_us: int | None) -> int | None:
    """What a recorded expiry says of the saga as a whole: nothing where it is the snapshot's own date."""
    return NOT_PROMISED if expires_us is not None and expires_us == meta.retention_us else expires_us


def packed(names: Mapping[str, Any], created_us: int, clock_us: int) -> SnapshotMeta:
    """A snapshot in a pack as far as the catalog knows it: saved at the youngest clock time of the pack at the latest,
    its own date as far as it was recorded."""
    return SnapshotMeta(**names, created_us=created_us, saved_us=clock_us, retention_us=None, body_crc=0)


def _kept_column(kept_us: int | None) -> int:
    return _FOR_EVER if kept_us is None else kept_us


def end_of(row: Any, status: str = "status", attributes: str = "attributes") -> SagaEnd:
    """What a row says of its saga's end, in columns of these names its status and attributes."""
    kept_us = row["kept_us"]
    return SagaEnd(
        to_micros(row["ended_at"]),
        row["end_step"],
        row["end_id"],
        from_column(row[status]),
        NOT_PROMISED if kept_us is None else None if kept_us == _FOR_EVER else kept_us,
        from_column(row[attributes] or ""),
    )


def _columns(ends: Mapping[UUID, SagaEnd]) -> tuple[Sequence[Any], ...]:
    return (
        [from_micros(end.created_us) for end in ends.values()],
        [end.step_index for end in ends.values()],
        list(ends),
        [end.snapshot_id for end in ends.values()],
        [to_column(end.status) for end in ends.values()],
        [to_column(end.attributes) or None for end in ends.values()],
    )
