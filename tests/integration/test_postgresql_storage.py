"""What only PostgreSQLSnapshotStorage has: tables that sagaz made, SQL over them, poolers, servers that die."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from multiprocessing.synchronize import Barrier
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs
from support.exact import exactly
from support.forked import PROCESSES, start_process
from support.pooler import HOST, TransactionPooler
from support.sagaz_stores import InPostgreSQL, their_replay
from support.snapshots import BEGUN, SAGA, ids_of, make, number, replay, save_all
from support.tiers import DAY, NOW

from sagaz_tiering import PostgreSQLSnapshotStorage
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.errors import CatalogRefused, CatalogUnavailable, ConfigError, CorruptRecord, TierUnavailable

SEED_COLUMNS = {
    "saga_snapshots": "snapshot_id uuid, saga_id uuid, saga_name varchar, step_name varchar, step_index int4, "
    "status varchar, context jsonb, completed_steps jsonb, created_at timestamptz, retention_until timestamptz",
    "saga_replay_log": "replay_id uuid, original_saga_id uuid, new_saga_id uuid, checkpoint_step varchar, "
    "context_override jsonb, initiated_by varchar, replay_status varchar, error_message text, "
    "created_at timestamptz, completed_at timestamptz",
}
LONG = "ñ" * 10_000


def open_at(url: str | None, **options: Any) -> PostgreSQLSnapshotStorage:
    """A storage with few connections and the tests' clock."""
    return PostgreSQLSnapshotStorage(
        url, **{"pool_min_size": 1, "pool_max_size": 4, "clock": VirtualClock(NOW), **options}
    )


@pytest.fixture
async def storage(empty_database: str) -> AsyncIterator[PostgreSQLSnapshotStorage]:
    """An empty storage."""
    async with open_at(empty_database) as opened:
        yield opened


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[Any]:
    """A plain connection."""
    conn = await asyncpg.connect(url, timeout=120, command_timeout=120)
    try:
        yield conn
    finally:
        await conn.close()


async def columns(url: str, table: str) -> dict[str, str]:
    """Types of a table's columns; a length is shown."""
    async with connection(url) as conn:
        rows = await conn.fetch(
            "SELECT column_name, udt_name, character_maximum_length AS length "
            "FROM information_schema.columns WHERE table_name = $1 ORDER BY ordinal_position",
            table,
        )
    return {row["column_name"]: row["udt_name"] + (f"({row['length']})" if row["length"] else "") for row in rows}


def of_seeds(table: str) -> dict[str, str]:
    return dict(column.split(" ", 1) for column in SEED_COLUMNS[table].split(", "))


# Tables


@pytest.mark.parametrize("table", SEED_COLUMNS)
async def test_tables_are_the_documented_ones_and_more(
    storage: PostgreSQLSnapshotStorage, empty_database: str, table: str
) -> None:
    """Names, types and order of the documented columns come first; names have no length."""
    await storage.get_snapshot(number(0))
    found = await columns(empty_database, table)
    wanted = of_seeds(table)
    assert list(found.items())[: len(wanted)] == list(wanted.items())
    assert set(found) - set(wanted) == ({"external_refs", "body"} if table == "saga_snapshots" else {"body"})


async def test_tables_have_the_indexes_that_reads_need(storage: PostgreSQLSnapshotStorage, empty_database: str) -> None:
    """Order in a saga and retention are indexed, the primary key is the snapshot id alone."""
    await storage.get_snapshot(number(0))
    async with connection(empty_database) as conn:
        found = [
            row["indexdef"].partition(" USING ")[2]
            for row in await conn.fetch("SELECT indexdef FROM pg_indexes WHERE tablename = 'saga_snapshots'")
        ]
    assert sorted(found) == [
        "btree (retention_until) WHERE (retention_until IS NOT NULL)",
        "btree (saga_id, created_at DESC, step_index DESC, snapshot_id DESC)",
        "btree (snapshot_id)",
    ]


async def test_create_tables_sql_runs_as_documented_and_again(
    storage: PostgreSQLSnapshotStorage, empty_database: str
) -> None:
    """By hand before the first use and after it, without harm to what is there."""
    for _ in range(2):
        async with storage._get_pool().acquire() as conn:
            await conn.execute(PostgreSQLSnapshotStorage.CREATE_TABLES_SQL)
        await storage.save_snapshot(make(1))
    assert await ids_of(storage) == [number(1)]


async def test_right_tables_are_not_touched(storage: PostgreSQLSnapshotStorage, empty_database: str) -> None:
    """A second storage opens them while somebody holds a lock that any change to them would wait for."""
    await storage.save_snapshot(make(1))
    async with connection(empty_database) as conn, conn.transaction():
        await conn.execute("LOCK TABLE saga_snapshots, saga_replay_log IN ROW EXCLUSIVE MODE")
        async with open_at(empty_database) as second, asyncio.timeout(300):
            assert await second.get_snapshot(number(1)) == make(1)


def _save_together(url: str, which: int, begin: Barrier) -> None:
    """What each of some processes does, all at the same moment."""

    async def save() -> None:
        async with PostgreSQLSnapshotStorage(url, 1, 4) as storage:
            begin.wait(300)
            await asyncio.gather(*(storage.save_snapshot(make(which * 10 + at)) for at in range(10)))

    asyncio.run(save())


async def test_first_use_by_processes(empty_database: str) -> None:
    """Four processes make the tables at once and see what each other saved."""
    begin = PROCESSES.Barrier(4)
    processes = [start_process(_save_together, empty_database, which, begin) for which in range(4)]
    for process in processes:
        await asyncio.to_thread(process.join, 300)
    assert [process.exitcode for process in processes] == [0] * 4
    async with open_at(empty_database) as storage:
        assert await ids_of(storage) == [number(at) for at in range(40)]


async def test_dropped_tables_come_back(storage: PostgreSQLSnapshotStorage, empty_database: str) -> None:
    """The call that finds them gone says so, the next one makes them."""
    await storage.save_snapshot(make(1))
    async with connection(empty_database) as conn:
        await conn.execute("DROP TABLE saga_snapshots")
    with pytest.raises(CatalogUnavailable, match="changed"):
        await storage.save_snapshot(make(1))
    await storage.save_snapshot(make(1))
    assert await ids_of(storage) == [number(1)]


async def test_tables_of_somebody_else_are_refused(storage: PostgreSQLSnapshotStorage, empty_database: str) -> None:
    """A table that only has the name is left alone."""
    async with connection(empty_database) as conn:
        await conn.execute("CREATE TABLE saga_snapshots (snapshot_id BIGINT PRIMARY KEY, title TEXT)")
    with pytest.raises(ConfigError, match="not a table of snapshots: snapshot_id is bigint, not uuid"):
        await storage.save_snapshot(make(1))
    assert await columns(empty_database, "saga_snapshots") == {"snapshot_id": "int8", "title": "text"}
    assert (await storage.health_check()).status == "unhealthy"


async def test_tables_are_made_and_found_in_the_default_schema(empty_database: str) -> None:
    """`search_path` in the URL says where."""
    async with connection(empty_database) as conn:
        await conn.execute("CREATE SCHEMA sagas")
    async with open_at(f"{empty_database}?options=-csearch_path%3Dsagas") as storage:
        await storage.save_snapshot(make(1))
    async with connection(empty_database) as conn:
        assert await conn.fetchval("SELECT count(*) FROM sagas.saga_snapshots") == 1


async def test_a_user_without_rights_is_told_what_to_do(
    storage: PostgreSQLSnapshotStorage, empty_database: str
) -> None:
    """Who may not make tables is told so; once the owner made them, no more is needed than to read and write."""
    async with connection(empty_database) as conn:
        await conn.execute("DROP ROLE IF EXISTS clerk")
        await conn.execute("CREATE ROLE clerk LOGIN PASSWORD 'c1erk'")
    parts = urlsplit(empty_database)
    url = parts._replace(netloc=f"clerk:c1erk@{HOST}:{parts.port}").geturl()
    try:
        async with open_at(url) as clerk:
            with pytest.raises(ConfigError) as caught:
                await clerk.save_snapshot(make(1))
            assert "CREATE_TABLES_SQL" in caught.value.hint
            assert "c1erk" not in f"{caught.value}{clerk.get_storage_info()}"
            await storage.get_snapshot(number(1))
            async with connection(empty_database) as conn:
                await conn.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON saga_snapshots, saga_replay_log TO clerk")
            await clerk.save_snapshot(make(1))
            await clerk.save_snapshot(make(1, context={"again": True}))
            assert await ids_of(clerk) == [number(1)]
    finally:
        async with connection(empty_database) as conn:
            await conn.execute("DROP OWNED BY clerk; DROP ROLE clerk")


# Tables and rows of sagaz


async def test_tables_of_sagaz_are_upgraded_where_they_are(
    storage: PostgreSQLSnapshotStorage, empty_database: str
) -> None:
    """Rows that sagaz itself wrote are read equal, and what its schema could not hold can be saved beside them."""
    written = [make(at, status="completed", saga_name="a\\b", context={"at": at, "big": 2**80}) for at in range(4)]
    sagaz = InPostgreSQL(empty_database)
    await sagaz.save(written)
    async with sagaz.writer() as writer:
        await writer.save_replay_log(their_replay(replay(1, context_override={"amount": 2}, initiated_by="C:\\\\x")))
        await writer.save_replay_log(their_replay(replay(2)))
    assert (await columns(empty_database, "saga_snapshots"))["step_name"] == "varchar(255)"

    for at, snapshot in enumerate(written):
        found = await storage.get_snapshot(snapshot.snapshot_id)
        assert found == snapshot, at
    assert await storage.list_snapshots(SAGA) == written[::-1]
    assert await storage.get_latest_snapshot(SAGA, before_step="step_2") == written[2]
    assert (
        await storage.get_replay_log(number(1))
        == replay(1, context_override={"amount": 2}, initiated_by="C:\\\\x").to_dict()
    )
    assert [each async for each in storage.iter_replay_logs()] == [
        replay(1, context_override={"amount": 2}, initiated_by="C:\\\\x").to_dict(),
        replay(2).to_dict(),
    ]

    tie = make(9, created_at=written[3].created_at, step_name="step_3", status=LONG, saga_name=LONG)
    await storage.save_snapshot(tie)
    await storage.save_snapshot(written[0])
    assert await storage.list_snapshots(SAGA) == [tie, *written[::-1]]
    assert (await columns(empty_database, "saga_snapshots"))["step_name"] == "varchar"


async def test_names_of_sagaz_are_not_unescaped(storage: PostgreSQLSnapshotStorage, empty_database: str) -> None:
    """A backslash is an escape only in rows that we wrote; steps are found by name in both."""
    names = ["a\\\\b", "a\\b", "\\u0041", "a\\\\\\\\b"]
    theirs = [make(at, step_name=name, status="completed") for at, name in enumerate(names)]
    await InPostgreSQL(empty_database).save(theirs)
    ours = [make(at + 10, step_name=name) for at, name in enumerate([*names, "nul\x00", "lone\ud800"])]
    assert await storage.list_snapshots(SAGA) == theirs[::-1]
    for at, name in enumerate(names):
        assert await storage.get_latest_snapshot(SAGA, before_step=name) == theirs[at]
    await save_all(storage, ours)
    for snapshot in ours:
        assert await storage.get_latest_snapshot(SAGA, before_step=snapshot.step_name) == snapshot
    assert await storage.get_latest_snapshot(SAGA, before_step="nul\\u0000") is None


async def test_an_upgrade_that_a_view_forbids_is_explained(
    storage: PostgreSQLSnapshotStorage, empty_database: str
) -> None:
    """PostgreSQL does not widen a column that a view shows; nothing is changed until the view is gone."""
    await InPostgreSQL(empty_database).save([make(1, status="completed")])
    async with connection(empty_database) as conn:
        await conn.execute("CREATE VIEW steps AS SELECT step_name FROM saga_snapshots")
        with pytest.raises(ConfigError, match="view"):
            await storage.get_snapshot(number(1))
        assert "body" not in await columns(empty_database, "saga_snapshots")
        await conn.execute("DROP VIEW steps")
    assert await storage.get_snapshot(number(1)) == make(1, status="completed")


# SQL over the tables

EVERYTHING = {
    "z": 1,
    "amount": Decimal("99.50"),
    "price": 12.5,
    "order": {"b": [1, 2.0, -0.0, float("nan")], "a": None},
    "when": datetime(2026, 3, 1, 12, tzinfo=UTC),
    "day": date(2026, 3, 1),
    "id": UUID(int=7),
    "wait": timedelta(minutes=1),
    "data": b"\x00\xff",
    "tags": {"x"},
    "pair": (1, "y"),
    "big": 2**100,
    "huge": 2**5000,
    7: "seven",
    None: True,
    "nul\x00": "a\x00b",
    "lone": "\ud83d",
    "~set": [1],
}


async def test_context_is_queryable_by_sql(storage: PostgreSQLSnapshotStorage, empty_database: str) -> None:
    """JSONB has ordinary values as they are and every other as the text one looks for."""
    await storage.save_snapshot(make(1, context=EVERYTHING, external_refs={"invoice": "s3://a/b"}))
    expressions = {
        "context->>'amount'": "99.50",
        "(context->>'amount')::numeric > 99": True,
        "(context->'price')::float8": 12.5,
        "context->'order'->'b'->>1": "2.0",
        "context->'order'->'b'->>3": "nan",
        "(context->>'when')::timestamptz = '2026-03-01 12:00Z'": True,
        "context->>'day'": "2026-03-01",
        "context->>'id'": str(UUID(int=7)),
        "context->>'wait'": "60.0",
        "context->>'data'": "AP8=",
        'context @> \'{"tags": ["x"], "pair": [1, "y"], "~set": [1]}\'': True,
        "context->>'big'": str(2**100),
        "context->>'huge'": hex(2**5000),
        "context->>'7'": "seven",
        "context->>'null'": "true",
        "context->>'nul\\u0000'": "a\\u0000b",
        "context->>'lone'": "\\ud83d",
        "completed_steps->>0": "step_0",
        "external_refs->>'invoice'": "s3://a/b",
        "jsonb_typeof(context)": "object",
    }
    async with connection(empty_database) as conn:
        found = {each: await conn.fetchval(f"SELECT {each} FROM saga_snapshots") for each in expressions}
    assert found == expressions
    read = await storage.get_snapshot(number(1))
    assert read is not None
    assert exactly(read.context) == exactly(EVERYTHING)


@pytest.mark.parametrize(
    ("steps", "refs"),
    [
        ([], {}),
        (['],"external_refs":{', ',"completed_steps":['], {"a": "", "completed_steps": "[", "external_refs": "{}"}),
        (["a"], {"x": ',"completed_steps":["b"],"external_refs":{'}),
    ],
)
async def test_jsonb_columns_hold_their_own_part(
    storage: PostgreSQLSnapshotStorage, empty_database: str, steps: list[str], refs: dict[str, str]
) -> None:
    """Whatever names and texts look like."""
    context = {
        "a": 1,
        "completed_steps": [1],
        "external_refs": {"completed_steps": ["x"], "external_refs": {"y": [{}]}},
    }
    await storage.save_snapshot(make(1, context=context, completed_steps=steps, external_refs=refs))
    async with connection(empty_database) as conn:
        await conn.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=json.loads)
        row = await conn.fetchrow("SELECT context, completed_steps, external_refs FROM saga_snapshots")
    assert tuple(row) == (context, steps, refs)


async def test_a_context_changed_by_sql_is_what_reads_return(
    storage: PostgreSQLSnapshotStorage, empty_database: str
) -> None:
    """A redaction redacts: the exact form goes too, while names, times and other snapshots stay as they were."""
    both = await save_all(storage, [make(at, step_name="nul\x00\\", context={"b": 1, "ssn": at}) for at in (1, 2)])
    async with connection(empty_database) as conn:
        await conn.execute("UPDATE saga_snapshots SET context = context - 'ssn' WHERE snapshot_id = $1", number(1))
        assert await conn.fetchval("SELECT body FROM saga_snapshots WHERE snapshot_id = $1", number(1)) == b""
    first = make(1, step_name="nul\x00\\", context={"b": 1})
    assert await storage.list_snapshots(SAGA) == [both[1], first]
    assert await storage.get_latest_snapshot(SAGA, before_step="nul\x00\\") == both[1]
    await storage.save_snapshot(both[0])
    assert await storage.list_snapshots(SAGA) == both[::-1]


async def test_columns_changed_by_sql_count(storage: PostgreSQLSnapshotStorage, empty_database: str) -> None:
    """A retention set or lifted by SQL, for ever by 'infinity', a status, a replay's override."""
    await save_all(storage, [make(1, retention_until=NOW + DAY), make(2), make(3, retention_until=NOW + DAY)])
    await storage.save_replay_log(replay(1, context_override={"pin": 1}))
    async with connection(empty_database) as conn:
        await conn.execute("UPDATE saga_snapshots SET retention_until = NULL, status = 'on hold' WHERE step_index = 1")
        await conn.execute("UPDATE saga_snapshots SET retention_until = $1 WHERE step_index = 2", NOW)
        await conn.execute("UPDATE saga_snapshots SET retention_until = 'infinity' WHERE step_index = 3")
        await conn.execute("UPDATE saga_replay_log SET context_override = '{}'")
    assert await storage.list_snapshots(SAGA) == [make(3), make(1, status="on hold")]
    assert await storage.delete_expired_snapshots() == 1
    assert await storage.get_replay_log(number(1)) == replay(1, context_override={}).to_dict()


HARM = {
    "body cut": "body = substr(body, 1, 60)",
    "body of nothing known": "body = '\\x00'",
    "body altered": "body = overlay(body placing '\\xffffffffff' from octet_length(body) - 8)",
    "context a list": "context = '[]'",
    "context a text": "context = '\"x\"'",
    "steps of numbers": "completed_steps = '[1]'",
    "refs of numbers": "external_refs = '{\"a\": 1}'",
    "before all times": "created_at = '0044-03-15 BC'",
    "retention of the year 3000": "retention_until = '3000-01-01', created_at = '1500-01-01'",
}


@pytest.mark.parametrize("harm", HARM)
async def test_a_damaged_row_hides_no_other(storage: PostgreSQLSnapshotStorage, empty_database: str, harm: str) -> None:
    """Lists and walks raise with the others, its own read raises, it can be deleted."""
    await save_all(storage, [make(at) for at in range(3)])
    async with connection(empty_database) as conn:
        await conn.execute(f"UPDATE saga_snapshots SET {HARM[harm]} WHERE snapshot_id = $1", number(1))
    walk = storage.iter_snapshots()
    with capture_logs() as logs:
        with pytest.raises(CorruptRecord) as caught:
            await storage.list_snapshots(SAGA, limit=3)
        assert (caught.value.readable, list(caught.value.unreadable)) == ((make(2), make(0)), [number(1)])
        assert [await anext(walk), await anext(walk)] == [make(0), make(2)]
        with pytest.raises(CorruptRecord):
            await anext(walk)
    assert {entry["snapshot_id"] for entry in logs if entry["event"] == "snapshot.unreadable"} == {str(number(1))}
    with pytest.raises(CorruptRecord):
        await storage.get_snapshot(number(1))
    assert await storage.delete_snapshot(number(1)) is True


async def test_damaged_replay_records_hide_no_other(storage: PostgreSQLSnapshotStorage, empty_database: str) -> None:
    """A list raises with the others; a walk raises where it comes to one, and goes on behind it when asked to."""
    for at in range(3):
        await storage.save_replay_log(replay(at, context_override={"at": at}))
    async with connection(empty_database) as conn:
        await conn.execute("UPDATE saga_replay_log SET body = '\\x0013' WHERE replay_id = $1", number(1))
        await conn.execute("UPDATE saga_replay_log SET body = '\\x7b7d' WHERE replay_id = $1", number(1))
    wanted = [replay(at, context_override={"at": at}).to_dict() for at in (0, 2)]
    with pytest.raises(CorruptRecord) as caught:
        await storage.list_replays(SAGA)
    assert caught.value.readable == tuple(wanted[::-1])
    walk = storage.iter_replay_logs()
    assert await anext(walk) == wanted[0]
    with pytest.raises(CorruptRecord) as caught:
        await anext(walk)
    assert list(caught.value.unreadable) == [number(1)]
    assert [each async for each in storage.iter_replay_logs(after=number(1))] == wanted[1:]
    with pytest.raises(CorruptRecord):
        await storage.get_replay_log(number(1))


# Reading


async def test_many_snapshots_come_in_pages(storage: PostgreSQLSnapshotStorage) -> None:
    """Exactly as many as there are at the borders of pages, and in pages of few bytes where they are large."""
    for count in (200, 1):
        await asyncio.gather(*(storage.save_snapshot(make(at)) for at in range(count, count + 200)))
        ids = await ids_of(storage)
        assert len(ids) == len(set(ids)) == (200 if count == 200 else 399)
    for at in range(400, 405):
        await storage.save_snapshot(make(at, context={"blob": os.urandom(3_000_000)}))
    assert await ids_of(storage) == [number(at) for at in range(1, 405)]
    assert len(await storage.list_snapshots(SAGA, limit=203)) == 203
    pages = [len(page) async for page in storage._pages("oldest", SAGA, (BEGUN, 0, UUID(int=0)), 200)]
    assert pages == [200, 200, 3, 1]


async def test_reads_use_the_indexes(storage: PostgreSQLSnapshotStorage, empty_database: str) -> None:
    """Latest, at a time, list, pages and the ids of sagas read few rows of a large table."""
    await storage.get_snapshot(number(1))
    await storage.close()
    async with connection(empty_database) as conn:
        await conn.execute(
            "INSERT INTO saga_snapshots "
            "SELECT gen_random_uuid(), CASE WHEN n % 2 = 0 THEN $1 ELSE gen_random_uuid() END, 'order', 'step', n, "
            "'ok', '{}', '[]', now() + n * interval '1 second' FROM generate_series(1, 20000) n",
            SAGA,
        )
        await conn.execute("ANALYZE saga_snapshots")
    async with connection(empty_database) as conn:
        await conn.execute("SELECT pg_stat_reset()")
    await storage.get_latest_snapshot(SAGA)
    await storage.get_snapshot_at_time(SAGA, NOW + 400 * DAY)
    assert len(await storage.list_snapshots(SAGA, limit=10)) == 10
    walk = storage.iter_snapshots(SAGA)
    assert (await anext(walk)).step_index == 2
    sagas = storage.saga_ids()
    first = [await anext(sagas) for _ in range(3)]
    assert first == sorted(first)
    await storage.close()
    until = time.monotonic() + 300
    scans = 0
    while scans < 5:  # a server process tells what it did when it ends
        assert time.monotonic() < until
        async with connection(empty_database) as conn:
            row = await conn.fetchrow(
                "SELECT idx_scan, seq_scan, idx_tup_fetch AS rows FROM pg_stat_user_tables WHERE relname = $1",
                "saga_snapshots",
            )
        scans = row["idx_scan"]
    assert row["seq_scan"] == 0
    assert row["rows"] < 1_500


# Servers


async def test_a_killed_server_is_unavailable_and_comes_back(
    own_postgres: Callable[..., Awaitable[PostgresServer]],
) -> None:
    """Nothing acknowledged is lost; while it is away every call says so; the same storage goes on afterwards."""
    server = await own_postgres(durable=True)
    async with open_at(server.url, command_timeout=timedelta(seconds=10)) as storage:
        await storage.save_snapshot(make(1))
        saved = {number(1)}

        async def save(at: int) -> None:
            await storage.save_snapshot(make(at))
            saved.add(number(at))

        saves = [asyncio.create_task(save(at)) for at in range(2, 60)]
        await saves[0]
        server.kill()
        results = await asyncio.gather(*saves, return_exceptions=True)
        assert {type(each) for each in results} <= {type(None), CatalogUnavailable}
        with pytest.raises(CatalogUnavailable) as caught:
            await storage.get_snapshot(number(1))
        assert "connection_string" in caught.value.hint
        assert caught.value.__cause__ is not None
        assert (await storage.health_check()).status == "unhealthy"
        await server.start()
        await storage.save_snapshot(make(99))
        assert saved | {number(99)} <= set(await ids_of(storage))


async def test_works_behind_a_transaction_pooler(own_postgres: Callable[..., Awaitable[PostgresServer]]) -> None:
    """With `statement_cache_size=0`: also the first use by several, each statement on another server's session."""
    server = await own_postgres()
    (server.home / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 trust\n")
    async with connection(server.url) as conn:
        await conn.execute("SELECT pg_reload_conf()")
    async with TransactionPooler(server.port, "sagaz", "postgres", size=3) as pooler:
        url = f"postgresql://sagaz@{HOST}:{pooler.port}/postgres"
        storages = [open_at(url, statement_cache_size=0) for _ in range(3)]
        try:
            await asyncio.gather(*(each.save_snapshot(make(at)) for each in storages for at in range(20)))
            for each in storages:
                assert await ids_of(each) == [number(at) for at in range(20)]
                assert await each.delete_snapshot(number(30)) is False
            assert (await storages[0].health_check()).snapshot_count == 20
            assert pooler.switches > 20
        finally:
            await asyncio.gather(*(each.close() for each in storages))


@pytest.mark.parametrize(
    ("change", "word"),
    [({"password": "wrong"}, "password"), ({"path": "/nowhere"}, "does not exist"), ({"user": "nobody"}, "password")],
)
async def test_what_the_server_refuses_is_told_with_what_to_check(
    empty_database: str, change: dict[str, str], word: str
) -> None:
    """Wrong password, user or database: what to check, and no password in sight."""
    parts = urlsplit(empty_database)
    secret = change.get("password", parts.password)
    url = parts._replace(
        netloc=f"{change.get('user', parts.username)}:{secret}@{HOST}:{parts.port}", path=change.get("path", parts.path)
    ).geturl()
    async with open_at(url) as storage:
        with pytest.raises(CatalogRefused, match=word) as caught:
            await storage.save_snapshot(make(1))
        assert "connection_string" in caught.value.hint
        health = await storage.health_check()
        assert health.status == "unhealthy"
        assert f":{secret}@" not in f"{caught.value}{caught.value.hint}{health}{storage.get_storage_info()}"


# Options


async def test_options_are_the_documented_ones(empty_database: str) -> None:
    """By position and by name; info shows them without the password."""
    async with PostgreSQLSnapshotStorage(empty_database, 2, 3) as storage:
        info = storage.get_storage_info()
        assert (info["storage_type"], info["pool_min_size"], info["pool_max_size"]) == ("postgresql", 2, 3)
        password = urlsplit(empty_database).password
        assert password is not None
        assert password not in str(info)


async def test_environment_says_where_without_a_connection_string(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq's variables; without them it is said what to give."""
    for name in ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="connection_string is not given") as caught:
        PostgreSQLSnapshotStorage(pool_min_size=10, pool_max_size=50)
    assert "postgresql://" in caught.value.hint
    parts = urlsplit(empty_database)
    values = {
        "PGHOST": HOST,
        "PGPORT": str(parts.port),
        "PGUSER": parts.username or "",
        "PGPASSWORD": parts.password or "",
        "PGDATABASE": parts.path.strip("/"),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    async with PostgreSQLSnapshotStorage(pool_min_size=1, pool_max_size=2) as storage:
        await storage.save_snapshot(make(1))
        assert parts.path.strip("/") in storage.get_storage_info()["connection_string"]


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("mysql://h/db", {}),
        ("host=localhost dbname=x", {}),
        ("postgresql://u:pa/ss@h:5432/db", {}),
        ("postgresql://h/db?hostaddr=127.0.0.1", {}),
        ("postgresql://h/db", {"pool_max_size": 0, "pool_min_size": 0}),
        ("postgresql://h/db", {"pool_min_size": 5, "pool_max_size": 4}),
        ("postgresql://h/db", {"pool_min_size": -1}),
    ],
)
def test_wrong_options_are_refused(url: str, options: dict[str, int]) -> None:
    """Before anything is opened."""
    with pytest.raises(ConfigError):
        PostgreSQLSnapshotStorage(url, **options)


@pytest.mark.parametrize("url", ["postgresql://h/db?sslmode=perhaps"])
async def test_urls_that_the_driver_refuses_are_config_errors(url: str) -> None:
    """At first use, without the password."""
    async with PostgreSQLSnapshotStorage(url) as storage:
        with pytest.raises(ConfigError) as caught:
            await storage.get_snapshot(number(1))
        assert "sslmode" in str(caught.value)


def test_unavailable_is_a_tier_unavailable() -> None:
    """What callers of any storage catch."""
    assert issubclass(CatalogUnavailable, TierUnavailable)


async def test_health_counts_or_says_that_it_estimates(
    storage: PostgreSQLSnapshotStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact for an ordinary table, the server's own estimate for a large one."""
    assert (await storage.health_check()).snapshot_count == 0
    await save_all(storage, [make(at) for at in range(3)])
    health = await storage.health_check()
    assert (health.status, health.snapshot_count, health.details["estimated"]) == ("healthy", 3, False)
    assert 0 < health.total_size_bytes < health.details["table_bytes"]
    monkeypatch.setattr("sagaz_tiering.storage.postgresql.storage._COUNTED_BYTES", 0)
    async with storage._get_pool().acquire() as conn:
        await conn.execute("ANALYZE saga_snapshots")
    health = await storage.health_check()
    assert (health.snapshot_count, health.details["estimated"]) == (3, True)
