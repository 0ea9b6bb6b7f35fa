"""Restores: durable requests to make archived snapshots readable, and the pins of what was brought back.

A request is one transaction, so it is there wholly or not at all; asking for the same again while it is under way
gives the one that is there. The job `restore` moves its packs WAITING -> ASKED -> READABLE -> DONE.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from sagaz_tiering.catalog.locations import FrameLocation, frame_location
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.patterns import expressions
from sagaz_tiering.catalog.rows import Repository, of_row
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.drivers.postgresql.pool import Connection, affected
from sagaz_tiering.drivers.postgresql.queries import from_column, load, to_column
from sagaz_tiering.errors import ConfigError, StatementRefused
from sagaz_tiering.snapshot import as_utc
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import document

_SQL = load(__package__, "restores")
RETRIEVALS = ("Standard", "Bulk", "Expedited")
MAX_DAYS = 3650
_LOST = "waits: Redis lost what had been brought back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to restore: everything archived that meets all that is given; at least one must be.

    Raises InvalidSnapshot for a time that no snapshot can have, NaiveTimestamp for one without a zone.
    """

    saga_ids: Sequence[UUID] | None = None
    snapshot_ids: Sequence[UUID] | None = None
    match: Match | None = None
    after: datetime | None = None
    before: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("after", "before"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_utc(getattr(self, name), name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """A request. `state`: RESTORING, READY (until `readable_until`), DONE, CANCELLED or FAILED; cost in USD.

    `packs` counts its packs by state, `errors` tells what went wrong with some.
    """

    restore_id: UUID
    state: str
    retrieval: str
    days: int
    into_hot: bool
    requested_by: str
    requested_at: datetime
    eta_at: datetime
    cost_usd: float
    snapshot_count: int
    ready_at: datetime | None
    readable_until: datetime | None
    ended_at: datetime | None
    packs: dict[str, int] = field(default_factory=dict)
    errors: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        shown = document(self, without=("retrieval", "into_hot", "snapshot_count"))
        into = "hot" if self.into_hot else "in-place"
        return {**shown, "tier": self.retrieval, "into": into, "snapshots": self.snapshot_count}


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedSnapshot:
    """A snapshot that was asked for, and the frame that it is in now. `attributes`: what the snapshots of the frame can
    be found by, see `packs.attributes`.
    """

    snapshot_id: UUID
    saga_id: UUID
    frame: FrameLocation
    attributes: str


class Restores(Repository):
    """The tables `restores`, `restore_packs`, `restore_items` and `pins`."""

    async def request(
        self, wanted: Wanted, *, retrieval: str, days: int, into_hot: bool, who: str, now: datetime, prices: PriceList
    ) -> Restore | None:
        """Ask; None where nothing archived is meant. Raises ConfigError for a tier that a class does not offer.

        The cost leaves out packs that another restore has asked for already.
        """
        _check(wanted, retrieval, days)
        restore_id, classes = uuid4(), [c.value for c in StorageClass if into_hot or c.is_archive]
        same: asyncpg.Record | None = None
        try:
            async with self._db.transaction() as conn:
                await conn.execute(_SQL["create"], restore_id, retrieval, days, into_hot, to_column(who), now)
                if affected(await _select(conn, restore_id, wanted, classes)) == 0:
                    raise _Nothing
                await conn.execute(_SQL["select_packs"], restore_id)
                (asked,) = await conn.fetch(_SQL["asked_for"], restore_id)
                same = await conn.fetchrow(_SQL["same"], asked["digest"], into_hot)
                if same is not None:
                    raise _Nothing
                volumes = await conn.fetch(_SQL["volumes"], restore_id, None)
                eta, cost = _estimate(volumes, retrieval, days, into_hot, prices)
                await conn.execute(_SQL["complete"], restore_id, asked["digest"], now + eta, cost, asked["snapshots"])
        except _Nothing:
            return None if same is None else await self.get(same["restore_id"])
        except StatementRefused as exc:
            if not isinstance(exc.__cause__, asyncpg.UniqueViolationError):
                raise
            # The same was asked for at the same moment; that one is committed now.
            return await self.request(
                wanted, retrieval=retrieval, days=days, into_hot=into_hot, who=who, now=now, prices=prices
            )
        return await self.get(restore_id)

    async def get(self, restore_id: UUID) -> Restore | None:
        """One request with its progress."""
        row = await self._db.fetchrow(_SQL["get"], restore_id)
        if row is None:
            return None
        counts = await self._db.fetch(_SQL["progress"], restore_id)
        errors = await self._db.fetch(_SQL["errors"], restore_id)
        packs = {count["state"]: count["packs"] for count in counts}
        told = tuple(f"{error['object_key']}: {from_column(error['error'])}" for error in errors)
        return of_row(Restore, row, "requested_by", packs=packs, errors=told)

    async def newest(self, limit: int, behind: tuple[datetime, UUID] | None = None) -> list[Restore]:
        """The newest requests, with their progress; `behind` the one that was made then and has that id."""
        rows = await self._db.fetch(_SQL["newest"], limit, *(behind or (None, None)))
        return [found for row in rows if (found := await self.get(row["restore_id"])) is not None]

    async def in_state(self, state: str) -> list[Restore]:
        """Requests in a state, oldest first, without their progress."""
        return [of_row(Restore, row, "requested_by") for row in await self._db.fetch(_SQL["in_state"], state)]

    async def packs(self, restore_id: UUID, state: str, after: int, limit: int) -> list[Pack]:
        """Packs of a request in a state."""
        return [of_row(Pack, row) for row in await self._db.fetch(_SQL["packs"], restore_id, state, after, limit)]

    async def set_pack(self, restore_id: UUID, pack_id: int, state: str, error: str | None = None) -> None:
        """A pack is in another state now."""
        text = None if error is None else to_column(error)
        await self._db.execute(_SQL["set_pack"], restore_id, pack_id, state, text)

    async def places(self, restore_id: UUID, pack_id: int) -> list[AskedSnapshot]:
        """Where the asked snapshots of a pack are, by frame; those deleted meanwhile are left out."""
        rows = await self._db.fetch(_SQL["places"], restore_id, pack_id)
        return [of_row(AskedSnapshot, row, "attributes", frame=frame_location(row)) for row in rows]

    @asynccontextmanager
    async def keeping(self, frame: FrameLocation, snapshot_ids: Sequence[UUID]) -> AsyncIterator[set[UUID]]:
        """Of these, those that are in that frame still; they stay in the catalog while this is open.

        A deletion waits for it, and removes from Redis afterwards what the caller put there. Keep it short.
        """
        async with self._db.transaction() as conn:
            args = (list(snapshot_ids), frame.object_key, frame.offset)
            yield {row["snapshot_id"] for row in await conn.fetch(_SQL["keep_places"], *args)}

    async def pin(self, snapshot_ids: Sequence[UUID], until: datetime) -> None:
        """Keep these in Redis until then, at least."""
        await self._db.execute(_SQL["pin"], list(snapshot_ids), until)

    async def pinned(self, snapshot_ids: Sequence[UUID], now: datetime) -> dict[UUID, datetime]:
        """Of these, the pinned ones and until when."""
        rows = await self._db.fetch(_SQL["pinned"], list(snapshot_ids), now) if snapshot_ids else []
        return {row["snapshot_id"]: row["until"] for row in rows}

    async def any_pins(self, now: datetime) -> bool:
        """Whether anything at all is pinned."""
        return bool(await self._db.fetchval(_SQL["any_pins"], now))

    async def unpin(self, now: datetime) -> int:
        """Forget pins that have ended."""
        return await self._db.execute(_SQL["unpin"], now)

    async def ready(self, restore_id: UUID, now: datetime, until: datetime, *, failed: bool) -> None:
        """Nothing is left to wait for."""
        await self._db.execute(_SQL["ready"], restore_id, "FAILED" if failed else "READY", now, until)

    async def done(self, restore_id: UUID, now: datetime) -> None:
        """Its time is over."""
        await self._db.execute(_SQL["ended"], restore_id, "DONE", now)

    async def brought_back(self, restore_id: UUID, after: UUID, now: datetime, limit: int) -> list[UUID]:
        """The next snapshots behind `after` that a request brought back to Redis and that live still."""
        return [row["snapshot_id"] for row in await self._db.fetch(_SQL["brought_back"], restore_id, after, now, limit)]

    async def reopen(self, restore_id: UUID, lost: Sequence[UUID], now: datetime, prices: PriceList) -> int:
        """Redis lost these: their packs are worked on anew, and the request is RESTORING again; how many packs.

        What that may cost is added to its cost. Nothing where it has ended by now.
        """
        async with self._db.transaction() as conn:
            row = await conn.fetchrow(_SQL["active"], restore_id)
            packs = await conn.fetch(_SQL["wait_again"], restore_id, list(lost), _LOST) if row else []
            if row is None or not packs:
                return 0
            try:
                volumes = await conn.fetch(_SQL["volumes"], restore_id, [pack["pack_id"] for pack in packs])
                eta, cost = _estimate(volumes, row["retrieval"], row["days"], True, prices)
            except ConfigError:  # its packs are in another class by now, which the job `restore` will say
                eta, cost = timedelta(0), 0.0
            await conn.execute(_SQL["reopen"], restore_id, now + eta, cost)
        return len(packs)

    async def cancel(self, restore_id: UUID, now: datetime) -> bool:
        """End it now; what it pinned ages again. False if it had ended. What S3 was asked for cannot be taken back."""
        async with self._db.transaction() as conn:
            if affected(await conn.execute(_SQL["ended"], restore_id, "CANCELLED", now)) == 0:
                return False
            await conn.execute(_SQL["unpin_cancelled"], restore_id)
        return True

    async def unnotified(self, attempts: int) -> list[Restore]:
        """Finished ones that nobody was told of, tried fewer than `attempts` times."""
        return [of_row(Restore, row, "requested_by") for row in await self._db.fetch(_SQL["unnotified"], attempts)]

    async def notified(self, restore_id: UUID, at: datetime | None) -> None:
        """One attempt more; `at` None: it failed."""
        await self._db.execute(_SQL["notified"], restore_id, at)


class _Nothing(Exception):
    """Rolls the request back."""


async def _select(conn: Connection, restore_id: UUID, wanted: Wanted, classes: list[str]) -> str:
    given = [None if ids is None else list(ids) for ids in (wanted.saga_ids, wanted.snapshot_ids)]
    names = expressions(wanted.match or Match())
    span = wanted.after, wanted.before, classes
    return str(await conn.execute(_SQL["select_items"], restore_id, *given, *names[:3], *span, *names[3:]))


def _check(wanted: Wanted, retrieval: str, days: int) -> None:
    if retrieval not in RETRIEVALS:
        raise ConfigError(f"no retrieval tier {retrieval!r}", hint=f"choose one of {', '.join(RETRIEVALS)}")
    if not 1 <= days <= MAX_DAYS:
        raise ConfigError(f"{days} days is not between 1 and {MAX_DAYS}")
    if wanted == Wanted():
        raise ConfigError("a restore of everything is not meant", hint="name sagas, snapshots, a match or a time span")


def _estimate(
    volumes: Sequence[Any], retrieval: str, days: int, into_hot: bool, prices: PriceList
) -> tuple[timedelta, float]:
    eta, cost = timedelta(0), 0.0
    for row in volumes:
        storage_class = StorageClass(row["storage_class"])
        count, size = row["new_packs"], row["new_bytes"]
        if not storage_class.is_archive:
            cost += prices.get_usd(storage_class, row["packs"], total_bytes=row["bytes"]) if into_hot else 0.0
            continue
        readable_days = HOT_DAYS if into_hot else days
        options = prices.restore_options(storage_class, size // max(count, 1), count, days=readable_days)
        chosen = next((option for option in options if option.tier == retrieval), None)
        if chosen is None:
            offered = ", ".join(option.tier for option in options)
            raise ConfigError(f"{storage_class} does not offer {retrieval}", hint=f"it offers: {offered}")
        eta, cost = max(eta, chosen.eta), cost + chosen.cost_usd
    return eta, cost


HOT_DAYS = 2
"""So long S3 keeps the readable copy of a pack whose snapshots go back to Redis: time enough to copy them."""
