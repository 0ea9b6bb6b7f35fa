"""`PostgreSQLSnapshotStorage`: snapshots in two tables, exact to read and open to SQL."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final
from uuid import UUID

from sagaz_tiering.clock import Clock, to_micros
from sagaz_tiering.codec.unsupported import OnUnsupported, texts_for
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.config.urls import SecretUrl
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.drivers.server_clock import ServerClock
from sagaz_tiering.errors import ConfigError, CorruptRecord, SagazTieringError
from sagaz_tiering.snapshot import MAX_STEP_INDEX, ReplayResult, SagaSnapshot, as_utc, as_uuid
from sagaz_tiering.storage.answers import check_answer, checked_replay, text_ids_find_nothing
from sagaz_tiering.storage.any_loop import AnyLoop
from sagaz_tiering.storage.base import Health, as_duration, checked_limit
from sagaz_tiering.storage.postgresql.pool import SnapshotPool
from sagaz_tiering.storage.postgresql.rows import Row, replay_of, replay_row_of, row_of, snapshot_of, step_as_stored
from sagaz_tiering.storage.postgresql.url import checked_options, shown_url
from sagaz_tiering.storage.reporting import Gaps, measured_read, reported_save

_SQL: Final = load(__package__, "standalone")
_KIND: Final = "postgresql"

_PAGE: Final = 200
_PAGE_BYTES: Final = 8 * 1024 * 1024
_IDS_PAGE: Final = 500
_DELETE_BATCH: Final = 1000
_AT_ONCE: Final = 16
"""Small rows decoded before the event loop gets its turn."""
_COUNTED_BYTES: Final = 256 * 1024 * 1024
"""Up to this size of the table proper (about a million rows) the health check counts, beyond it estimates."""

_FIRST: Final = (datetime(1, 1, 1, tzinfo=UTC), -MAX_STEP_INDEX - 1, UUID(int=0))
_LAST: Final = (datetime(9999, 12, 31, tzinfo=UTC), MAX_STEP_INDEX, UUID(int=2**128 - 1))
_MICROSECOND: Final = timedelta(microseconds=1)

_Place = tuple[datetime, int, UUID]


@text_ids_find_nothing
class PostgreSQLSnapshotStorage(AnyLoop):
    """Snapshots in the tables `saga_snapshots` and `saga_replay_log` of the connection's default schema.

    `connection_string` is a PostgreSQL URL; without one, libpq's environment (PGHOST, PGDATABASE, …) says where.
    The first call connects and makes the tables, or upgrades those of sagaz 1.5.0, if need be. More callers than
    `pool_max_size` wait for a connection, `command_timeout` at most. Behind pgbouncer in transaction mode use
    `statement_cache_size=0`.

    Every method raises CatalogUnavailable while the server cannot be asked and ConfigError where it refuses.
    """

    CREATE_TABLES_SQL: ClassVar[str] = load(__package__, "standalone_schema")["create_tables"]
    """Makes or upgrades the tables; may be run any number of times."""

    def __init__(
        self,
        connection_string: str | None = None,
        pool_min_size: int = 5,
        pool_max_size: int = 20,
        *,
        clock: Clock | None = None,
        command_timeout: timedelta | float | None = None,
        statement_cache_size: int = 100,
        on_unsupported: OnUnsupported = "refuse",
        **pool_kwargs: Any,
    ) -> None:
        """Connects to nothing yet. `command_timeout`: 30 seconds by default; a number is seconds. `pool_kwargs` are
        options of `asyncpg.create_pool` (password, ssl, server_settings, …), which go before what the URL says.

        Raises ConfigError.
        """
        super().__init__()
        if not 0 <= pool_min_size <= pool_max_size or pool_max_size < 1:
            raise ConfigError(f"pool_min_size {pool_min_size} and pool_max_size {pool_max_size} are no sizes of a pool")
        self.connection_string, self.pool_kwargs = connection_string, pool_kwargs
        self.pool_min_size, self.pool_max_size = pool_min_size, pool_max_size
        self._clock = clock
        self._texts = texts_for(on_unsupported, _KIND)
        deadline = timedelta(seconds=30) if command_timeout is None else command_timeout
        self._shown_url = shown_url(connection_string, os.environ, pool_kwargs)
        self._driver_options = {"statement_cache_size": statement_cache_size, **checked_options(pool_kwargs)}
        if connection_string is None and os.environ.get("PGTARGETSESSIONATTRS"):
            self._driver_options.setdefault("target_session_attrs", None)  # the driver asks the environment
        self._settings = CatalogSettings.model_construct(
            url=SecretUrl(connection_string or "postgresql://"),
            pool_min=pool_min_size,
            pool_max=pool_max_size,
            command_timeout=as_duration(deadline, "command_timeout"),
        )
        self._renew()

    def _renew(self) -> None:
        database = Database(
            self._settings,
            setting="connection_string",
            shown_url=self._shown_url,
            driver_options=self._driver_options,
        )
        self._pool = SnapshotPool(database, self.CREATE_TABLES_SQL)
        self._server_clock = ServerClock(self._pool.time)

    async def _disconnect(self) -> None:
        await self._pool.close()

    def _get_pool(self) -> SnapshotPool:
        """For statements of your own: `async with storage._get_pool().acquire() as conn` (an asyncpg connection).

        May be awaited, as in sagaz: that connects, and makes the tables.
        """
        return self._pool

    async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
        """Store a snapshot (ours or any object with sagaz's attributes); an id saved before is replaced.

        Returns when it is committed. Raises InvalidSnapshot where it would not come back equal.
        """
        with reported_save(snapshot, _KIND):
            row = await row_of(SagaSnapshot.of(snapshot), to_micros(await self._now()), self._texts)
            await self._pool.execute(_SQL["save_snapshot"], *row)

    async def get_snapshot(self, snapshot_id: UUID | str) -> SagaSnapshot | None:
        """One snapshot by id. Raises CorruptRecord, as every read that has one snapshot for an answer."""
        key = as_uuid(snapshot_id, "snapshot_id")
        with measured_read(_KIND):
            row = await self._pool.fetchrow(_SQL["by_id"], key, await self._now())
            if row is None:
                return None
            found = await snapshot_of(row)
            check_answer(found, snapshot_id=key)
            return found

    async def get_latest_snapshot(self, saga_id: UUID | str, before_step: str | None = None) -> SagaSnapshot | None:
        """The newest snapshot of a saga; with `before_step`, the newest whose `step_name` equals it."""
        return await self._newest(as_uuid(saga_id, "saga_id"), _LAST, before_step)

    async def get_snapshot_at_time(self, saga_id: UUID | str, timestamp: datetime) -> SagaSnapshot | None:
        """The newest live snapshot created at or before `timestamp` (aware; raises NaiveTimestamp)."""
        after = as_utc(timestamp, "timestamp") + _MICROSECOND
        return await self._newest(as_uuid(saga_id, "saga_id"), (after, *_FIRST[1:]))

    async def list_snapshots(self, saga_id: UUID | str, limit: int = 100) -> list[SagaSnapshot]:
        """The newest `limit` snapshots of a saga, newest first. Raises ValueError for a negative limit.

        Raises CorruptRecord if any of them cannot be read; its `readable` has the others.
        """
        wanted, found, gaps = checked_limit(limit), list[SagaSnapshot](), Gaps(_KIND)
        saga = as_uuid(saga_id, "saga_id")
        if wanted == 0:
            return found
        with measured_read(_KIND):
            seen = 0
            async for page in self._pages("newest", saga, _LAST, min(wanted, _PAGE), None, None):
                async for snapshot in self._readable(page[: wanted - seen], saga, gaps):
                    found.append(snapshot)
                seen += len(page)
                if seen >= wanted:
                    break
            gaps.check(found)
        return found

    async def delete_snapshot(self, snapshot_id: UUID | str) -> bool:
        """Remove one, expired or unreadable ones too; False if there was none."""
        return await self._pool.execute(_SQL["delete_snapshot"], as_uuid(snapshot_id, "snapshot_id")) == 1

    async def cleanup_saga(self, saga_id: UUID | str) -> int:
        """Remove every snapshot of a saga; how many there were."""
        return await self._delete_batches("delete_saga", as_uuid(saga_id, "saga_id"))

    async def delete_expired_snapshots(self) -> int:
        """Remove what is past its retention; how many."""
        return await self._delete_batches("delete_expired", await self._now())

    async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        """Every saga that has a live snapshot, ascending by id, from behind `after` on."""
        start = _behind(after)
        while start is not None:
            rows = await self._pool.fetch(_SQL["sagas"], start, await self._now(), _IDS_PAGE)
            found = [UUID(bytes=row["saga_id"].bytes) for row in rows]
            for saga_id in found:
                yield saga_id
            start = _behind(found[-1]) if len(found) == _IDS_PAGE else None

    async def iter_snapshots(
        self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
    ) -> AsyncIterator[SagaSnapshot]:
        """Every live snapshot of one saga, oldest first; without `saga_id` of every saga behind `after`, by id.

        Raises CorruptRecord at its end for what it could not read.
        """
        gaps = Gaps(_KIND)
        if saga_id is not None:
            async for snapshot in self._walk(as_uuid(saga_id, "saga_id"), gaps):
                yield snapshot
        else:
            async for each in self.saga_ids(after=after):
                async for snapshot in self._walk(each, gaps):
                    yield snapshot
        gaps.check()

    async def save_replay_log(self, replay_result: ReplayResult) -> None:
        """Insert or replace the record of a replay (ours or sagaz's). Raises InvalidSnapshot, NotSerializable."""
        await self._pool.execute(_SQL["save_replay"], *replay_row_of(replay_result))

    async def get_replay_log(self, replay_id: UUID | str) -> dict[str, Any] | None:
        """The record of a replay in the shape of `ReplayResult.to_dict`, or None. Raises CorruptRecord."""
        key = as_uuid(replay_id, "replay_id")
        row = await self._pool.fetchrow(_SQL["replay"], key)
        return None if row is None else checked_replay(replay_of(row), replay_id=key)

    async def list_replays(self, original_saga_id: UUID | str, limit: int = 100) -> list[dict[str, Any]]:
        """Records of replays of a saga, newest first. Raises ValueError for a negative limit."""
        wanted, found, gaps, seen = checked_limit(limit), list[dict[str, Any]](), Gaps(_KIND), 0
        saga, (moment, _, last) = as_uuid(original_saga_id, "original_saga_id"), _LAST
        while (size := min(wanted - seen, _IDS_PAGE)) > 0:
            rows = await self._pool.fetch(_SQL["replays_of_saga"], saga, moment, last, size)
            found += _readable_replays(rows, gaps, saga)
            seen += len(rows)
            if len(rows) < size:
                break
            moment, last = rows[-1]["created_at"], rows[-1]["replay_id"]
        gaps.check(found)
        return found

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record, ascending by replay id, from behind `after` on. Raises where one cannot be read."""
        start, gaps = _behind(after), Gaps(_KIND)
        while start is not None:
            rows = await self._pool.fetch(_SQL["replays_from"], start, _IDS_PAGE)
            for row in rows:
                for record in _readable_replays([row], gaps):
                    yield record
                gaps.check()
            start = _behind(rows[-1]["replay_id"]) if len(rows) == _IDS_PAGE else None

    async def health_check(self) -> Health:
        """Whether PostgreSQL answers, how fast, and how much there is (expired snapshots not yet removed too).

        `total_size_bytes` are the stored bytes of the snapshots, without rows' and indexes' own (`table_bytes` in
        the details has all). A large table is not counted: both figures are the server's estimates, and the
        details say `estimated`.
        """
        began = time.monotonic()
        try:
            row = await self._pool.fetchrow(_SQL["sizes"])
            latency_ms = (time.monotonic() - began) * 1000
            count, size, details = await self._counted(row or {})
        except SagazTieringError as exc:
            elapsed_ms = (time.monotonic() - began) * 1000
            return Health(
                status="unhealthy",
                latency_ms=elapsed_ms,
                snapshot_count=0,
                total_size_bytes=0,
                details={"error": str(exc), "hint": exc.hint},
            )
        return Health(
            status="healthy", latency_ms=latency_ms, snapshot_count=count, total_size_bytes=size, details=details
        )

    def get_storage_info(self) -> dict[str, Any]:
        """Where this storage is, without the password, and its options."""
        return {
            "storage_type": _KIND,
            "connection_string": self._shown_url,
            "pool_min_size": self._settings.pool_min,
            "pool_max_size": self._settings.pool_max,
            "statement_cache_size": self._driver_options["statement_cache_size"],
            "command_timeout_seconds": self._settings.command_timeout.total_seconds(),
        }

    async def _counted(self, sizes: Row) -> tuple[int, int, dict[str, Any]]:
        """Snapshots, their bytes and details."""
        whole = int(sizes.get("table_bytes", 0))
        if sizes.get("heap_bytes", 0) > _COUNTED_BYTES:
            return int(sizes["rows"]), whole, {"estimated": True, "table_bytes": whole}
        row = await self._pool.fetchrow(_SQL["count"])
        count, size = (0, 0) if row is None else (row["rows"], row["bytes"])
        return count, size, {"estimated": False, "table_bytes": whole}

    async def _now(self) -> datetime:
        """By the server's clock, unless one was given."""
        return await self._server_clock.read() if self._clock is None else self._clock.now()

    async def _newest(self, saga_id: UUID, before: _Place, step_name: str | None = None) -> SagaSnapshot | None:
        """The newest live snapshot before a place in the order, of a step."""
        step = (None, None) if step_name is None else step_as_stored(step_name)
        with measured_read(_KIND):
            now = await self._now()
            row = await self._pool.fetchrow(_SQL["newest"], saga_id, now, *before, 1, _PAGE_BYTES, *step)
            if row is None:
                return None
            found = await snapshot_of(row)
            not_after_us = to_micros(before[0]) - 1 if before is not _LAST else None
            check_answer(found, saga_id=saga_id, step_name=step_name, not_after_us=not_after_us)
            return found

    async def _pages(self, query: str, saga_id: UUID, place: _Place, size: int, *rest: Any) -> AsyncIterator[list[Row]]:
        """Rows of `newest` or `oldest` from a place on, at most `size` and some `_PAGE_BYTES` at a time."""
        while True:
            now = await self._now()
            rows = await self._pool.fetch(_SQL[query], saga_id, now, *place, size, _PAGE_BYTES, *rest)
            if not rows:
                return
            yield rows
            if len(rows) == rows[0]["found"] < size:
                return
            last = rows[-1]
            place = (last["created_at"], last["step_index"], last["snapshot_id"])

    async def _walk(self, saga_id: UUID, gaps: Gaps) -> AsyncIterator[SagaSnapshot]:
        async for page in self._pages("oldest", saga_id, _FIRST, _PAGE):
            async for snapshot in self._readable(page, saga_id, gaps):
                yield snapshot

    async def _readable(self, page: list[Row], saga_id: UUID, gaps: Gaps) -> AsyncIterator[SagaSnapshot]:
        """The snapshots in these rows of a saga that can be read."""
        for at, row in enumerate(page):
            if at % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            try:
                snapshot = await snapshot_of(row)
                check_answer(snapshot, saga_id=saga_id)
            except CorruptRecord as exc:
                gaps.add(UUID(bytes=row["snapshot_id"].bytes), exc)
            else:
                yield snapshot

    async def _delete_batches(self, query: str, of: UUID | datetime) -> int:
        """Run a deleting query until nothing is left; each batch is a transaction."""
        deleted = batch = await self._pool.execute(_SQL[query], of, _DELETE_BATCH)
        while batch == _DELETE_BATCH:
            batch = await self._pool.execute(_SQL[query], of, _DELETE_BATCH)
            deleted += batch
        return deleted


def _behind(last: UUID | str | None) -> UUID | None:
    """The first id after `last`, None if there is none; without `last` the first of all."""
    following = 0 if last is None else as_uuid(last, "after").int + 1
    return UUID(int=following) if following < 2**128 else None


def _readable_replays(rows: list[Row], gaps: Gaps, saga_id: UUID | None = None) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        try:
            found.append(checked_replay(replay_of(row), saga_id=saga_id))
        except CorruptRecord as exc:
            gaps.add(UUID(bytes=row["replay_id"].bytes), exc)
    return found
