"""What sagaz's `PostgreSQLSnapshotStorage` wrote: the rows of its two tables, in the order that PostgreSQL has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from sagaz_tiering.clock import Clock
from sagaz_tiering.errors import CatalogUnavailable, ConfigError, CorruptData, CorruptRecord
from sagaz_tiering.from_sagaz import records
from sagaz_tiering.from_sagaz.inventory import Inventory
from sagaz_tiering.from_sagaz.source import PAGE, SagazSource, batches_of, require
from sagaz_tiering.snapshot import MAX_TIME, MIN_TIME, SagaSnapshot, as_uuid
from sagaz_tiering.urls import redacted

if TYPE_CHECKING:
    from sagaz_tiering.db.database import Database

Decoded = TypeVar("Decoded", records.Snapshot, records.Replay)

_NIL: Final = UUID(int=0)

# A time that Python has no value for (infinity, year 20000) would fail the whole answer in the driver: such a row
# gets MAX_TIME ($5), which no readable one has, and with it a place in the order.
_TIME: Final = "CASE WHEN {0} >= {1} AND {0} < {2} THEN {0} ELSE {2} END"

_SAGAS: Final = """
    WITH RECURSIVE saga AS (
        (SELECT saga_id FROM saga_snapshots
         WHERE saga_id >= $1 AND (retention_until IS NULL OR retention_until > $2) ORDER BY saga_id LIMIT 1)
        UNION ALL
        SELECT (SELECT next.saga_id FROM saga_snapshots AS next
                WHERE next.saga_id > saga.saga_id AND (retention_until IS NULL OR retention_until > $2)
                ORDER BY next.saga_id LIMIT 1)
        FROM saga WHERE saga.saga_id IS NOT NULL
    )
    SELECT saga_id FROM saga WHERE saga_id IS NOT NULL LIMIT $3
"""
_PLACES: Final = f"""
    SELECT * FROM (
        SELECT {_TIME.format("created_at", "$4::timestamptz", "$5::timestamptz")} AS place, step_index, snapshot_id,
               pg_column_size(context) + pg_column_size(completed_steps) AS size
        FROM saga_snapshots
        WHERE saga_id = $1 AND (retention_until IS NULL OR retention_until > $2)
    ) AS row
    WHERE (place, step_index, snapshot_id) > ($6::timestamptz, $7::bigint, $8::uuid)
    ORDER BY place, step_index, snapshot_id LIMIT $3
"""
_SNAPSHOTS: Final = f"""
    SELECT snapshot_id, saga_id, saga_name, step_name, step_index, status,
           context::text AS context, completed_steps::text AS completed_steps,
           {_TIME.format("created_at", "$2::timestamptz", "$3::timestamptz")} AS created_at,
           CASE WHEN retention_until >= $3 THEN $3 ELSE retention_until END AS retention_until
    FROM saga_snapshots WHERE snapshot_id = ANY($1::uuid[])
"""
_REPLAY_PLACES: Final = """
    SELECT replay_id, coalesce(pg_column_size(context_override), 0) AS size
    FROM saga_replay_log WHERE replay_id >= $1 ORDER BY replay_id LIMIT $2
"""
_REPLAYS: Final = f"""
    SELECT replay_id, original_saga_id, new_saga_id, checkpoint_step, replay_status, initiated_by, error_message,
           context_override::text AS context_override,
           {_TIME.format("created_at", "$2::timestamptz", "$3::timestamptz")} AS created_at,
           CASE WHEN completed_at IS NOT NULL
                THEN {_TIME.format("completed_at", "$2::timestamptz", "$3::timestamptz")} END AS completed_at
    FROM saga_replay_log WHERE replay_id = ANY($1::uuid[])
"""
_UPGRADED: Final = """
    SELECT 1 FROM pg_attribute
    WHERE attrelid = to_regclass('saga_snapshots') AND attname = 'body' AND NOT attisdropped
"""
_EXPIRED: Final = "SELECT count(*) FROM saga_snapshots WHERE retention_until <= $1"


class SagazPostgreSQLSource(SagazSource):
    """Every snapshot and replay record in the tables `saga_snapshots` and `saga_replay_log` of a database.

    Nothing is made or changed there, also no table. sagaz kept no `external_refs` in PostgreSQL: they are gone.

    Raises MissingDependencyError; CatalogUnavailable where PostgreSQL cannot be asked, ConfigError where it refuses
    us, has no such tables, or has tables that are our PostgreSQLSnapshotStorage's meanwhile.
    """

    kind = "sagaz+postgresql"

    def __init__(self, connection_string: str, *, clock: Clock | None = None) -> None:
        require("asyncpg", "asyncpg", "reading sagaz's PostgreSQL snapshots")
        super().__init__(clock=clock)
        self._url = connection_string
        self._database: Database | None = None
        self._since: datetime = self._clock.now()

    async def _connect(self) -> None:
        from sagaz_tiering.db.database import Database, DatabaseOptions

        options = DatabaseOptions(
            url=self._url,
            shown_url=redacted(self._url),
            setting="the connection string",
            pool_max=4,
            statement_cache_size=0,  # works behind any pooler
        )
        self._database = Database(options)
        await self._database.open()

    async def _disconnect(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            await database.close()

    async def _take_stock(self, inventory: Inventory) -> None:
        if await self._fetch(_UPGRADED):
            raise ConfigError(
                f"the tables at {redacted(self._url)} were taken over by sagaz-tiering, and hold its rows too",
                hint="read them by PostgreSQLSnapshotStorage (postgresql://…), which reads sagaz's rows as well",
            )
        self._since = self._clock.now()
        self.expired = (await self._fetch(_EXPIRED, self._since))[0]["count"]

    async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        """Every saga that has a live snapshot, ascending by id, from behind `after` on."""
        await self._opened()
        start = _NIL if after is None else _next(as_uuid(after, "after"))
        while start and (page := await self._fetch(_SAGAS, start, self._clock.now(), PAGE)):
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
        inventory, saga, last = await self._opened(), as_uuid(saga_id, "saga_id"), None
        while page := await self._places(inventory, saga, last):
            for batch in batches_of([row["size"] for row in page]):
                ids = [row["snapshot_id"] for row in page[batch]]
                async for snapshot in self._snapshots(inventory, saga, ids):
                    yield snapshot
            last = page[-1]

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record in the shape of `ReplayResult.to_dict`, ascending by id, from behind `after` on."""
        inventory = await self._opened()
        start = _NIL if after is None else _next(as_uuid(after, "after"))
        while start and (page := await self._fetch(_REPLAY_PLACES, start, PAGE)):
            for batch in batches_of([row["size"] for row in page]):
                ids = [row["replay_id"] for row in page[batch]]
                for replay in await self._read(inventory, _REPLAYS, ids, "replay_id", _replay):
                    yield replay.value
            start = _next(page[-1]["replay_id"])

    async def _snapshots(self, inventory: Inventory, saga: UUID, ids: Sequence[UUID]) -> AsyncIterator[SagaSnapshot]:
        for readable in await self._read(inventory, _SNAPSHOTS, ids, "snapshot_id", _snapshot):
            snapshot = readable.value
            # One that was saved again meanwhile, under another saga, has no place here any more.
            if snapshot.saga_id == saga and await self._is_live(inventory, _key(snapshot.snapshot_id), snapshot):
                yield snapshot

    async def _places(self, inventory: Inventory, saga: UUID, last: Any) -> list[Any]:
        """The next snapshots of a saga in order; none where PostgreSQL cannot read them, which is accounted for."""
        place = (MIN_TIME, -(2**32), _NIL) if last is None else (last["place"], last["step_index"], last["snapshot_id"])
        try:
            return await self._fetch(_PLACES, saga, self._since, PAGE, MIN_TIME, MAX_TIME, *place)
        except CorruptData as exc:  # a damaged page: other sagas are on others
            await self._leave_out(inventory, f"saga {saga}".encode(), exc)
            return []

    async def _read(
        self, inventory: Inventory, query: str, ids: Sequence[UUID], id_column: str, decode: Callable[[Any], Decoded]
    ) -> list[Decoded]:
        """What can be read of these rows, in the order of `ids`; the rest is accounted for."""
        rows = {row[id_column]: row for row in await self._rows(inventory, query, ids)}

        def decoded() -> list[tuple[UUID, Decoded | CorruptRecord]]:
            return [(each, _outcome(decode, rows[each])) for each in ids if each in rows]

        readable = list[Decoded]()
        for row_id, outcome in await asyncio.to_thread(decoded):
            if isinstance(outcome, CorruptRecord):
                await self._leave_out(inventory, _key(row_id), outcome)
            else:
                await self._remark(inventory, _key(row_id), outcome.remarks)
                readable.append(outcome)
        return readable

    async def _rows(self, inventory: Inventory, query: str, ids: Sequence[UUID]) -> list[Any]:
        """These rows; where PostgreSQL cannot read one of them, the others."""
        try:
            return await self._fetch(query, ids, MIN_TIME, MAX_TIME)
        except CorruptData as exc:
            if len(ids) == 1:
                await self._leave_out(inventory, _key(ids[0]), exc)
                return []
            return [row for each in ids for row in await self._rows(inventory, query, [each])]

    async def _fetch(self, query: str, *values: object) -> list[Any]:
        if self._database is None:
            raise CatalogUnavailable(
                f"PostgreSQL at {redacted(self._url)}: the source was closed while it was read",
                hint="close it at the end",
            )
        with _translated(redacted(self._url)):
            return await self._database.fetch(query, *values)


@contextmanager
def _translated(shown_url: str) -> Iterator[None]:
    """What `db` leaves of the driver's errors as ours."""
    import asyncpg

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


def _outcome(decode: Callable[[Any], Decoded], row: Any) -> Decoded | CorruptRecord:
    try:
        return decode(row)
    except CorruptRecord as exc:
        return exc


def _snapshot(row: Any) -> records.Snapshot:
    fields = {**row, "context": _json(row["context"]), "completed_steps": _json(row["completed_steps"])}
    return records.snapshot_from(fields)


def _replay(row: Any) -> records.Replay:
    override = row["context_override"]
    return records.replay_from({**row, "context_override": None if override is None else _json(override)})


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise CorruptRecord(f"a JSON column that cannot be read: {exc}") from exc


def _key(row_id: UUID) -> bytes:
    return str(row_id).encode()
