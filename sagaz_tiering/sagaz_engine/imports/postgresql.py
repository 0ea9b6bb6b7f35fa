"""What sagaz's `PostgreSQLSnapshotStorage` wrote: the rows of its two tables, in the order that PostgreSQL has."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from sagaz_tiering.clock import Clock
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.config.urls import SecretUrl, redacted
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.errors import CatalogUnavailable, ConfigError, CorruptData, CorruptRecord
from sagaz_tiering.sagaz_engine.imports.records import ReadRecord, replay_from, snapshot_from
from sagaz_tiering.sagaz_engine.imports.source import BATCH_BYTES, PAGE, Inventory, SagazSource
from sagaz_tiering.snapshot import MAX_TIME, MIN_TIME, SagaSnapshot, as_uuid

_SQL: Final = load(__package__, "from_sagaz")
_NIL: Final = UUID(int=0)
_START: Final = {"created_at": MIN_TIME, "step_index": -(2**32), "snapshot_id": _NIL}
_ONE_BY_ONE: Final = 16
"""Rows looked at when one of them is damaged."""


class _Queries(NamedTuple):
    """How rows of a table are read: by the page, and where that fails by their places and ids."""

    page: str
    places: str
    one: str
    id_column: str


_SNAPSHOTS: Final = _Queries("snapshots_of_saga", "places_of_saga", "snapshot", "snapshot_id")
_REPLAYS: Final = _Queries("replays", "places_of_replays", "replay", "replay_id")


class SagazPostgreSQLSource(SagazSource):
    """Every snapshot and replay record in the tables `saga_snapshots` and `saga_replay_log` of a database.

    Nothing is made or changed there, also no table. sagaz kept no `external_refs` in PostgreSQL: they are gone.

    Raises CatalogUnavailable where PostgreSQL cannot be asked, ConfigError where it refuses
    us, has no such tables, or has tables that are our PostgreSQLSnapshotStorage's meanwhile.
    """

    kind = "sagaz+postgresql"

    def __init__(self, connection_string: str, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._url = connection_string
        self._database: Database | None = None
        self._since: datetime = self._clock.now()

    async def _connect(self) -> None:
        # Without a cache of statements it works behind any pooler.
        settings = CatalogSettings.model_construct(url=SecretUrl(self._url), statement_cache=False)
        self._database = Database(settings, setting="connection_string")
        await self._database.open()

    async def _disconnect(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            await database.close()

    async def _take_stock(self, inventory: Inventory) -> None:
        if await self._fetch("is_upgraded"):
            raise ConfigError(
                f"the tables at {redacted(self._url)} were taken over by sagaz-tiering, and hold its rows too",
                hint="read them by PostgreSQLSnapshotStorage (postgresql://…), which reads sagaz's rows as well",
            )
        self._since = self._clock.now()
        self.expired = (await self._fetch("expired", self._since))[0]["count"]

    async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        """Every saga that has a live snapshot, ascending by id, from behind `after` on."""
        await self._opened()
        start = _NIL if after is None else _next(as_uuid(after, "after"))
        while start and (page := await self._fetch("saga_ids", start, self._clock.now(), PAGE)):
            for row in page:
                yield row["saga_id"]
            start = _next(page[-1]["saga_id"])

    async def iter_snapshots(
        self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
    ) -> AsyncIterator[SagaSnapshot]:
        """Every live snapshot of one saga, oldest first; without `saga_id` of every saga behind `after`, by id."""
        if saga_id is None:
            async for each in self.saga_ids(after=after):
                async for snapshot in self.iter_snapshots(each):
                    yield snapshot
            return
        inventory, saga = await self._opened(), as_uuid(saga_id, "saga_id")
        last: Any = _START
        while last is not None:
            rows, last = await self._rows_of_saga(inventory, saga, last)
            by_key = {_key(row["snapshot_id"]): row for row in rows}
            for key, record in (await self._read(inventory, by_key, _snapshot)).items():
                if await self._is_live(inventory, key, record.value):
                    yield record.value

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record in the shape of `ReplayResult.to_dict`, ascending by id, from behind `after` on."""
        inventory = await self._opened()
        start = _NIL if after is None else _next(as_uuid(after, "after"))
        while start is not None:
            rows, last = await self._rows(inventory, _REPLAYS, start, MIN_TIME, MAX_TIME)
            by_key = {_key(row["replay_id"]): row for row in rows}
            for record in (await self._read(inventory, by_key, _replay)).values():
                yield record.value
            start = None if last is None else _next(last["replay_id"])

    async def _rows_of_saga(self, inventory: Inventory, saga: UUID, last: Any) -> tuple[list[Any], Any]:
        """See `_rows`; a saga whose rows PostgreSQL cannot even put in order is left out as a whole."""
        place = (last["created_at"], last["step_index"], last["snapshot_id"])
        try:
            return await self._rows(inventory, _SNAPSHOTS, saga, MIN_TIME, MAX_TIME, self._since, *place)
        except CorruptData as exc:
            await self._leave_out(inventory, f"saga {saga}".encode(), exc)
            return [], None

    async def _rows(self, inventory: Inventory, queries: _Queries, *where: object) -> tuple[list[Any], Any]:
        """The next rows in order, and the last one that was looked at (None if nothing follows).

        Where PostgreSQL cannot read one of them, the others; the one is accounted for.
        """
        try:
            rows = await self._fetch(queries.page, *where, PAGE, BATCH_BYTES)
            is_end = not rows or len(rows) == rows[0]["found"] < PAGE
            return rows, None if is_end else rows[-1]
        except CorruptData:
            places = await self._fetch(queries.places, *where, _ONE_BY_ONE)
        rows = []
        for row_id in [place[queries.id_column] for place in places]:
            try:
                rows += await self._fetch(queries.one, row_id, MIN_TIME, MAX_TIME)
            except CorruptData as exc:
                await self._leave_out(inventory, _key(row_id), exc)
        return rows, places[-1] if places else None

    async def _fetch(self, query: str, *values: object) -> list[Any]:
        if self._database is None:
            raise CatalogUnavailable(
                f"PostgreSQL at {redacted(self._url)}: the source was closed while it was read",
                hint="close it at the end",
            )
        with _translated(redacted(self._url)):
            return await self._database.fetch(_SQL[query], *values)


@contextmanager
def _translated(shown_url: str) -> Iterator[None]:
    """What `db` leaves of the driver's errors as ours."""
    try:
        yield
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as exc:
        raise ConfigError(
            f"PostgreSQL at {shown_url} has no tables of sagaz: {exc}",
            hint="name the database (and the schema, with ?options=-csearch_path%3DNAME) that sagaz wrote to",
        ) from exc
    except asyncpg.PostgresError as exc:
        raise CorruptData(f"PostgreSQL at {shown_url} cannot read what it has: {exc}") from exc


def _next(last: UUID) -> UUID | None:
    """The smallest id behind this one."""
    return UUID(int=last.int + 1) if last.int < 2**128 - 1 else None


def _snapshot(row: Any) -> ReadRecord:
    return snapshot_from({**row, "context": _json(row["context"]), "completed_steps": _json(row["completed_steps"])})


def _replay(row: Any) -> ReadRecord:
    override = row["context_override"]
    return replay_from({**row, "context_override": None if override is None else _json(override)})


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise CorruptRecord(f"a JSON column that cannot be read: {exc}") from exc


def _key(row_id: UUID) -> bytes:
    return str(row_id).encode()
