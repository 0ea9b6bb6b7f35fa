"""Data that sagaz's own storages wrote is read completely: in order, equal, and whatever their indexes lost."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis.asyncio
from structlog.testing import capture_logs
from support.s3_server import S3Server
from support.sagaz_stores import InFiles, InPostgreSQL, InRedis, InS3, SagazStore, their_replay, theirs
from support.servers import fresh_database
from support.snapshots import BEGUN, OTHER_SAGA, SAGA, make, number, replay
from support.tiers import DAY, NOW

from sagaz_tiering import FilesystemSnapshotStorage, PostgreSQLSnapshotStorage
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.errors import (
    BucketUnusable,
    CatalogUnavailable,
    ColdTierUnavailable,
    ConfigError,
    HotTierUnavailable,
    LocalStorageUnavailable,
    SagazTieringError,
)
from sagaz_tiering.sagaz_engine.imports import SagazSource
from sagaz_tiering.sagaz_engine.imports.source import BATCH_BYTES, MESSAGES, PAGE, FoundRecord, Inventory
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotSource

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # sagaz's own

KINDS = ("redis", "s3", "postgresql", "filesystem")
WITHOUT_ORDER = ("redis", "s3", "filesystem")
FAR = datetime(2200, 1, 1, tzinfo=UTC)
"""A retention that Redis, which goes by the real clock, does not see pass."""

MakeStore = Callable[[str], Awaitable[Any]]


@pytest.fixture
async def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeStore]:
    """`await make_store(kind)`: an empty place for that storage of sagaz."""
    async with AsyncExitStack() as stack:

        async def make_it(kind: str) -> SagazStore:
            if kind == "redis":
                url = request.getfixturevalue("redis_server").url
                async with redis.asyncio.Redis.from_url(url) as client:
                    await client.flushall()
                return InRedis(url)
            if kind == "s3":
                server: S3Server = request.getfixturevalue("s3_server")
                return InS3(server, await server.make_bucket())
            if kind == "postgresql":
                server = request.getfixturevalue("postgres_server")
                return InPostgreSQL(await stack.enter_async_context(fresh_database(server)))
            return InFiles(tmp_path / "saga-snapshots")

        yield make_it


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, make_store: MakeStore) -> SagazStore:
    """An empty place of each kind in turn."""
    return await make_store(request.param)


@pytest.fixture(params=WITHOUT_ORDER)
async def store_without_order(request: pytest.FixtureRequest, make_store: MakeStore) -> SagazStore:
    """An empty place of each kind that keeps whole JSON records."""
    return await make_store(request.param)


@pytest.fixture
def clock() -> VirtualClock:
    """The clock that sources judge expiry by."""
    return VirtualClock(NOW)


def in_order(snapshots: list[SagaSnapshot]) -> list[SagaSnapshot]:
    return sorted(snapshots, key=lambda s: (s.saga_id.int, s.created_at, s.step_index, s.snapshot_id.int))


def told(found: list[SagaSnapshot]) -> list[str]:
    """Snapshots as JSON, which is all that sagaz has of them: equal only with equal types, NaN and minus zero too."""
    return [json.dumps(snapshot.to_dict(), sort_keys=True) for snapshot in found]


async def everything(source: SagazSource) -> list[SagaSnapshot]:
    assert isinstance(source, SnapshotSource)
    return [snapshot async for snapshot in source.iter_snapshots()]


def various(kind: str) -> list[SagaSnapshot]:
    """Snapshots of four sagas with ties, odd texts and numbers; in an order that is not theirs."""
    context = {"ü 東京 🚚": [1, 1.5, 2**70, True, None, {"": []}], "deep": {"a": [[[{}]]]}, "text": 'a"\\\n'}
    refs = {}
    if kind != "postgresql":  # sagaz keeps none of these there
        context |= {"nul": "a\0b", "half": "\ud800", "nan": float("nan"), "inf": float("-inf"), "zero": -0.0}
        refs = {"receipt": "s3://bucket/key"}
    name = "U" * 200 if kind == "s3" else "Ü" * 200  # sagaz cannot save another than ASCII there
    ids = iter(range(1000))
    found = [
        make(next(ids), saga_id=saga, created_at=BEGUN + timedelta(microseconds=tie // 3), step_index=tie, **extra)
        for saga in (SAGA, OTHER_SAGA, number(7), UUID(int=0), UUID(int=2**128 - 1))
        for tie, extra in enumerate(
            [{}, {"context": context, "external_refs": refs}, {"status": "on fire"}, {"saga_name": name}]
        )
    ]
    found.append(make(next(ids), created_at=BEGUN, step_index=-1, retention_until=FAR))
    random.Random(3).shuffle(found)
    return found


async def test_source_yields_everything_in_order_and_equal(store: SagazStore, clock: VirtualClock) -> None:
    """All sagas ascending, in each by (created_at, step_index, id), with the very values, from behind any saga."""
    saved = various(store.kind)
    await store.save(saved)
    expected = in_order(saved)
    sagas = sorted({snapshot.saga_id for snapshot in saved})
    async with store.source(clock) as source:
        assert [saga async for saga in source.saga_ids()] == sagas
        assert told(await everything(source)) == told(expected)
        for at, saga in enumerate(sagas):
            assert [each async for each in source.saga_ids(after=saga)] == sagas[at + 1 :]
            behind = [snapshot async for snapshot in source.iter_snapshots(after=str(saga))]
            assert told(behind) == told([snapshot for snapshot in expected if snapshot.saga_id > saga])
            of_saga = [snapshot async for snapshot in source.iter_snapshots(str(saga))]
            assert told(of_saga) == told([snapshot for snapshot in expected if snapshot.saga_id == saga])
        assert [snapshot async for snapshot in source.iter_snapshots(number(99))] == []
        assert (source.problems.count, source.adjusted.count, source.expired) == (0, 0, 0)


async def test_source_reads_replay_logs_in_order(store: SagazStore, clock: VirtualClock) -> None:
    """Every replay record ascending by id, in the shape of `ReplayResult.to_dict`, from behind any id."""
    results = [
        replay(3, context_override={"price": 1.5, "who": "Ü"}, error_message="no", initiated_by="ops"),
        replay(1, completed_at=BEGUN + DAY),
        replay(2, original_saga_id=OTHER_SAGA),
    ]
    async with store.writer() as theirs_storage:
        for result in results:
            await theirs_storage.save_replay_log(their_replay(result))
    expected = sorted((result.to_dict() for result in results), key=lambda record: record["replay_id"])
    async with store.source(clock) as source:
        assert [record async for record in source.iter_replay_logs()] == expected
        assert [record async for record in source.iter_replay_logs(after=number(1))] == expected[1:]
        assert [record async for record in source.iter_replay_logs(after=number(3))] == []


async def test_source_reads_many_sagas_and_long_ones(store: SagazStore, clock: VirtualClock) -> None:
    """More sagas and more snapshots of one saga than fit a page, without what sagaz indexes them by."""
    rest, many = (12, 18) if store.kind == "s3" else (PAGE + 20, PAGE + 60)
    saved = [make(at, saga_id=number(5000 + at), context={"at": at}) for at in range(rest)]
    saved += [make(10_000 + at, context={"at": at}, completed_steps=[]) for at in range(many)]
    await store.save(saved)
    await store.drop_indexes()
    async with store.source(clock) as source:
        assert await everything(source) == in_order(saved)
        assert len([saga async for saga in source.saga_ids()]) == rest + 1
        assert [s.snapshot_id async for s in source.iter_snapshots(SAGA)] == [number(10_000 + n) for n in range(many)]


async def test_source_reads_large_snapshots(store: SagazStore, clock: VirtualClock) -> None:
    """Snapshots of which only a few are held at once, one of them larger than that, between small ones."""
    dice = random.Random(5)
    sizes = [10, BATCH_BYTES // 2, 10, BATCH_BYTES // 2, BATCH_BYTES // 2, 2 * BATCH_BYTES, 10]
    saved = [make(at, context={"noise": dice.randbytes(size // 2).hex()}) for at, size in enumerate(sizes)]
    await store.save(saved)
    async with store.source(clock) as source:
        assert await everything(source) == saved


async def test_source_leaves_out_what_has_expired_and_counts_it(store: SagazStore, clock: VirtualClock) -> None:
    """From the very instant of its retention on a snapshot is not there; each is counted once."""
    kept, soon = make(1, retention_until=FAR), make(2, retention_until=FAR - timedelta(microseconds=1))
    await store.save([kept, soon, make(3, saga_id=OTHER_SAGA, retention_until=BEGUN), make(4, retention_until=NOW)])
    async with store.source(clock) as source:
        assert [saga async for saga in source.saga_ids()] == [SAGA]
        assert await everything(source) == [kept, soon]
        assert source.expired == 2
        clock.advance(FAR - NOW - timedelta(microseconds=1))
        assert await everything(source) == [kept]
        assert await everything(source) == [kept]
        assert source.expired == 3
        clock.advance(timedelta(microseconds=1))
        assert await everything(source) == []
        assert [saga async for saga in source.saga_ids()] == []


async def test_unreadable_record_hides_no_other(store: SagazStore, clock: VirtualClock) -> None:
    """A spoiled record is left out, named in the log and counted once; all others are there."""
    saved = [make(at) for at in range(5)] + [make(9, saga_id=OTHER_SAGA)]
    await store.save(saved)
    await store.damage(number(2), SAGA)
    with capture_logs() as logs:
        async with store.source(clock) as source:
            for _ in range(2):
                assert await everything(source) == [saved[5], saved[0], saved[1], saved[3], saved[4]]
            assert source.problems.count == 1
    assert [str(number(2)) in message for message in source.problems.messages] == [True]
    events = [line for line in logs if line["event"] == "snapshot.unreadable"]
    assert [str(number(2)) in line["key"] for line in events] == [True]
    assert source.problems.count == 1, "the account outlives the source"


async def test_times_are_taken_generously(store_without_order: SagazStore, clock: VirtualClock) -> None:
    """Times without a zone are UTC and a retention beyond all times is none; both are counted, none is refused."""
    plain = make(1)
    async with store_without_order.writer() as storage:
        await storage.save_snapshot(theirs(plain))
        await storage.save_snapshot(theirs(make(2), created_at=BEGUN.replace(tzinfo=None) + timedelta(minutes=2)))
        for_ever = datetime(9999, 12, 31, tzinfo=UTC)
        await storage.save_snapshot(theirs(make(3), retention_until=for_ever))
    async with store_without_order.source(clock) as source:
        assert await everything(source) == [plain, make(2), make(3)]
        assert source.adjusted.count == 2
        assert source.problems.count == 0
        assert "taken as UTC" in "".join(source.adjusted.messages)


async def test_records_that_are_no_snapshots_are_told(store_without_order: SagazStore, clock: VirtualClock) -> None:
    """Whatever JSON is found where a snapshot should be, it is a problem with a reason, never an exception."""
    good = theirs(make(0)).to_dict()
    spoiled: list[Any] = [
        *[{name: value for name, value in good.items() if name != missing} for missing in good if missing[0] != "r"],
        *[{**good, name: value} for name, value in _WRONG],
        [],
        "text",
        None,
    ]
    del spoiled[list(good).index("external_refs")]  # may be missing
    async with store_without_order.writer() as storage:
        for at, fields in enumerate(spoiled):
            await storage.save_snapshot(_Odd(number(at), fields))
    async with store_without_order.source(clock) as source:
        assert await everything(source) == []
        assert source.problems.count == len(spoiled)
        assert len(source.problems.messages) == min(MESSAGES, len(spoiled))


_WRONG: list[tuple[str, Any]] = [
    ("snapshot_id", "x"),
    ("saga_id", 7),
    ("saga_name", None),
    ("step_index", 1.5),
    ("step_index", 2**40),
    ("status", []),
    ("context", []),
    ("completed_steps", "ab"),
    ("completed_steps", [1]),
    ("external_refs", {"a": 1}),
    ("external_refs", ["a"]),
    ("created_at", "yesterday"),
    ("created_at", 1.5),
    ("created_at", None),
    ("created_at", "9999-12-31T00:00:00+00:00"),
    ("created_at", "0001-01-01T00:00:00+23:00"),
    ("retention_until", "never"),
]


class _Odd:
    """Saved by sagaz as whatever JSON it is."""

    def __init__(self, snapshot_id: UUID, fields: Any) -> None:
        self.snapshot_id, self.fields = snapshot_id, fields
        self.saga_id, self.created_at, self.retention_until = SAGA, BEGUN, None
        self.saga_name = self.step_name = "odd"

    def to_dict(self) -> Any:
        return self.fields


async def test_reading_changes_nothing(store: SagazStore, clock: VirtualClock) -> None:
    """Not a key, object, file, row or table is written, removed or touched."""
    await store.save([make(1), make(2, retention_until=BEGUN)])
    before = await store.contents()
    async with store.source(clock) as source:
        assert await everything(source) == [make(1)]
        assert [record async for record in source.iter_replay_logs()] == []
    assert before == await store.contents()


async def test_first_use_by_many_is_one(store: SagazStore, clock: VirtualClock) -> None:
    """Callers that come at once share one reading; after `close` the next call reads anew."""
    await store.save([make(1)])
    source = store.source(clock)
    assert await asyncio.gather(*(everything(source) for _ in range(10))) == [[make(1)]] * 10
    await source.close()
    await store.save([make(2)])
    assert await everything(source) == [make(1), make(2)]
    await source.close()
    await source.close()


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("redis", HotTierUnavailable),
        ("postgresql", CatalogUnavailable),
        ("s3", ColdTierUnavailable),
        ("filesystem", ConfigError),
    ],
)
async def test_server_that_is_not_there_is_named(
    kind: str, error: type[SagazTieringError], make_store: MakeStore, clock: VirtualClock
) -> None:
    """An error of ours with a hint, without the password, from every way to read; never an empty store."""
    store = await make_store(kind)
    async with store.source_of_nobody(clock) as source:
        for read in (source.saga_ids, source.iter_replay_logs):
            with pytest.raises(error) as caught:
                await anext(read())
            assert caught.value.hint
            assert "secret" not in str(caught.value)


async def test_place_without_sagaz_data_is_refused(make_store: MakeStore, clock: VirtualClock) -> None:
    """A database without the tables and a bucket that does not exist are wrong places, not empty ones."""
    async with (await make_store("postgresql")).source(clock) as source:
        with pytest.raises(ConfigError, match="no tables of sagaz"):
            await everything(source)
    store = await make_store("s3")
    store.bucket = "no-such-bucket"
    async with store.source(clock) as source:
        with pytest.raises(BucketUnusable):
            await everything(source)


async def test_places_that_are_ours_by_now_are_not_misread(make_store: MakeStore, clock: VirtualClock) -> None:
    """What our own storages wrote beside sagaz's data is never taken for sagaz's plain JSON."""
    tables = await make_store("postgresql")
    await tables.save([make(1)])
    async with PostgreSQLSnapshotStorage(tables.url, clock=clock) as ours:
        await ours.save_snapshot(make(2, context={"when": NOW}))
        assert len(await ours.list_snapshots(SAGA)) == 2
    async with tables.source(clock) as source:
        with pytest.raises(ConfigError, match="taken over"):
            await everything(source)
    files = await make_store("filesystem")
    await files.save([make(1)])
    async with FilesystemSnapshotStorage(files.folder, clock=clock) as ours:
        await ours.save_snapshot(make(2, context={"when": NOW}))
    async with files.source(clock) as source:
        assert await everything(source) == [make(1)]
        assert source.problems.count == 1
        assert "written by sagaz-tiering" in source.problems.messages[0]


async def test_source_heals_when_its_server_comes_back(own_redis: Callable[..., Any], clock: VirtualClock) -> None:
    """A source that failed to read works on the next call, and half a reading is not taken for the whole."""
    server = await own_redis(durable=True)
    store = InRedis(server.url)
    await store.save([make(at) for at in range(3)])
    async with store.source(clock) as source:
        await server.stop()
        with pytest.raises(HotTierUnavailable) as caught:
            await everything(source)
        assert caught.value.__cause__ is not None
        await server.start()
        assert len(await everything(source)) == 3


async def test_record_removed_meanwhile_is_passed_over_and_a_lost_volume_is_not(
    make_store: MakeStore, clock: VirtualClock
) -> None:
    """A file deleted while the source reads is just gone; a folder that vanished must not look like an empty one."""
    store = await make_store("filesystem")
    await store.save([make(1), make(2)])
    async with store.source(clock) as source:
        assert await everything(source) == [make(1), make(2)]
        (store.folder / "snapshots" / str(SAGA) / f"{number(1)}.json").unlink()
        assert await everything(source) == [make(2)]
        assert source.problems.count == 0
        store.folder.rename(store.folder.with_name("unmounted"))
        with pytest.raises(LocalStorageUnavailable):
            await everything(source)


async def test_first_use_by_many_walks_once(make_store: MakeStore, clock: VirtualClock) -> None:
    """However many ask at once, the store is walked over once."""
    store = await make_store("redis")
    await store.save([make(1)])
    async with store.client() as client, store.source(clock) as source:
        await client.config_resetstat()
        await asyncio.gather(*(everything(source) for _ in range(10)))
        assert (await client.info("commandstats"))["cmdstat_scan"]["calls"] == 1


# --- what sagaz's indexes lose ---------------------------------------------------------------------------------


async def test_s3_snapshots_that_the_index_lost_are_read(make_store: MakeStore, clock: VirtualClock) -> None:
    """Concurrent saves overwrite each other's index entries: sagaz lists a part, the source yields all."""
    store = await make_store("s3")
    saved = [make(at) for at in range(50)]
    async with store.writer() as storage:
        await asyncio.gather(*(storage.save_snapshot(theirs(snapshot)) for snapshot in saved))
        listed = await storage.list_snapshots(SAGA, 1000)
    assert len(listed) < len(saved), "the loss was not provoked"
    async with store.source(clock) as source:
        assert told(await everything(source)) == told(saved)


async def test_s3_snapshots_beyond_the_index_limit_are_read(make_store: MakeStore, clock: VirtualClock) -> None:
    """The index keeps the newest 1,000, also of what is gone, and drops the others: the source yields what is there."""
    store = await make_store("s3")
    saved = [make(at, context={"at": at}) for at in range(40)]
    gone = [make(at) for at in range(300, 1300)]
    async with store.writer() as storage, store.server.admin() as client:
        index = [
            {"snapshot_id": str(s.snapshot_id), "created_at": s.created_at.isoformat()} for s in [*gone, *saved[1:]]
        ]
        body = json.dumps({"saga_id": str(SAGA), "snapshots": index}).encode()
        await client.put_object(Bucket=store.bucket, Key=storage._saga_index_key(SAGA), Body=body)
        for start in range(1, 40, 20):
            puts = [
                client.put_object(
                    Bucket=store.bucket,
                    Key=storage._snapshot_key(snapshot.snapshot_id),
                    Body=storage._serialize(theirs(snapshot).to_dict()),
                )
                for snapshot in saved[start : start + 20]
            ]
            await asyncio.gather(*puts)
        await storage.save_snapshot(theirs(saved[0]))
        answer = await client.get_object(Bucket=store.bucket, Key=storage._saga_index_key(SAGA))
        kept = {entry["snapshot_id"] for entry in json.loads(await answer["Body"].read())["snapshots"]}
    assert len(kept) == 1000, "sagaz has another limit"
    assert str(saved[0].snapshot_id) not in kept, "the loss was not provoked"
    async with store.source(clock) as source:
        assert await everything(source) == saved


async def test_redis_snapshots_without_their_index_are_read(make_store: MakeStore, clock: VirtualClock) -> None:
    """An index that expired, entries never written (a save that broke off) and stale ones change nothing."""
    store = await make_store("redis")
    saved = [make(at) for at in range(6)] + [make(10 + at, saga_id=OTHER_SAGA) for at in range(6)]
    await store.save(saved)
    async with store.client() as client:
        await client.expireat(f"snapshot:saga:{SAGA}:index", 1)
        await client.zrem(f"snapshot:saga:{OTHER_SAGA}:index", *(str(number(10 + at)) for at in range(3)))
        await client.zadd(f"snapshot:saga:{OTHER_SAGA}:index", {str(number(77)): 1})
        await client.delete(f"snapshot:{number(15)}")
    async with store.writer() as storage:
        assert await storage.list_snapshots(SAGA) == []
        assert len(await storage.list_snapshots(OTHER_SAGA)) == 2
    async with store.source(clock) as source:
        assert await everything(source) == in_order(saved[:-1])
        assert source.problems.count == 0


async def test_redis_keys_of_others_are_left_alone(make_store: MakeStore, clock: VirtualClock) -> None:
    """A prefix is taken to the letter; what is not a string under a snapshot's key is told, what is no key is not."""
    store = await make_store("redis")
    await store.save([make(1)], key_prefix="app[1]*?\\:")
    await store.save([make(2)], key_prefix="app1x:")
    async with store.client() as client:
        await client.hset(f"app[1]*?\\:{number(3)}", "a", "b")
        await client.set("app[1]*?\\:other", "text")
    async with store.source(clock, key_prefix="app[1]*?\\:") as source:
        assert await everything(source) == [make(1)]
        assert source.problems.count == 1
        assert "WRONGTYPE" in source.problems.messages[0]
    async with store.source(clock) as source:
        assert await everything(source) == []


async def test_file_snapshots_that_the_index_lost_are_read(make_store: MakeStore, clock: VirtualClock) -> None:
    """Two writers of one folder overwrite each other's index: sagaz lists a part, the source yields all."""
    store = await make_store("filesystem")
    saved = [make(at) for at in range(40)]
    writers = [store.writer(), store.writer()]
    losses = 0
    for at in range(0, len(saved), 2):
        saves = (w.save_snapshot(theirs(s)) for w, s in zip(writers, saved[at : at + 2], strict=True))
        losses += sum(isinstance(e, Exception) for e in await asyncio.gather(*saves, return_exceptions=True))
    try:
        listed = await writers[0].list_snapshots(SAGA, 1000)
    except json.JSONDecodeError:
        listed = []
    assert losses or len(listed) < len(saved), "the loss was not provoked"
    async with store.source(clock) as source:
        assert await everything(source) == saved


@pytest.mark.parametrize("kind", WITHOUT_ORDER)
async def test_compression_may_have_changed_over_time(kind: str, make_store: MakeStore, clock: VirtualClock) -> None:
    """Compressed and plain records side by side are read; of two of one id, the one written last."""
    store = await make_store(kind)
    first, second = make(1), make(2)
    await store.save([first, make(3, context={"version": "old"})], enable_compression=False)
    newest = make(3, context={"version": "new"})
    if kind == "s3":  # its clock shows whole seconds
        await asyncio.sleep(1.0 - datetime.now(UTC).microsecond / 1e6 + 0.01)
    if kind == "filesystem":
        await store.drop_indexes()  # sagaz itself fails over the ones it wrote before
    await store.save([second, newest], enable_compression=True)
    async with store.writer(enable_compression=True) as storage:
        await storage.save_replay_log(their_replay(replay(1)))
    async with store.source(clock) as source:
        assert await everything(source) == [first, second, newest]
        assert [record async for record in source.iter_replay_logs()] == [replay(1).to_dict()]


async def test_file_under_two_sagas_is_read_where_it_was_written_last(
    make_store: MakeStore, clock: VirtualClock
) -> None:
    """A snapshot that was saved again under another saga left its first file behind; it is not yielded twice."""
    store = await make_store("filesystem")
    moved = make(1, saga_id=OTHER_SAGA)
    await store.save([make(1), make(2), moved])
    async with store.source(clock) as source:
        assert await everything(source) == in_order([moved, make(2)])


async def test_s3_prefix_is_taken_to_the_letter(make_store: MakeStore, clock: VirtualClock) -> None:
    """Data under a prefix without a slash, under none, and beside it."""
    store = await make_store("s3")
    for at, prefix in enumerate(["", "prod", "prod/", "snapshots/"]):
        await store.save([make(at)], prefix=prefix)
    for at, prefix in enumerate(["", "prod", "prod/", "snapshots/"]):
        async with store.source(clock, prefix=prefix) as source:
            assert await everything(source) == [make(at)]


async def test_archived_objects_are_told_and_the_rest_is_read(make_store: MakeStore, clock: VirtualClock) -> None:
    """What sagaz put into GLACIER must be restored first: a problem that says so, not the end of the reading."""
    store = await make_store("s3")
    await store.save([make(1), make(3)])
    await store.save([make(2)], storage_class="GLACIER")
    async with store.source(clock) as source:
        assert await everything(source) == [make(1), make(3)]
        assert source.problems.count == 1
        assert "restore" in source.problems.messages[0]


async def test_postgresql_rows_that_no_client_can_decode_hide_no_other(
    make_store: MakeStore, clock: VirtualClock
) -> None:
    """Times that are missing, infinite or beyond Python's do not fail the answer that they are in."""
    store = await make_store("postgresql")
    await store.save([make(at) for at in range(6)])
    async with store.client() as connection:
        change = "UPDATE saga_snapshots SET {} WHERE snapshot_id = $1"
        await connection.execute(change.format("created_at = NULL"), number(1))
        await connection.execute(change.format("created_at = 'infinity'"), number(2))
        await connection.execute(change.format("created_at = '20000-01-01Z'"), number(3))
        await connection.execute(change.format("retention_until = 'infinity'"), number(4))
    async with store.source(clock) as source:
        assert await everything(source) == [make(0), make(4), make(5)]
        assert source.problems.count == 3
        assert source.adjusted.count == 1


async def test_postgresql_row_with_damaged_storage_hides_no_other(make_store: MakeStore, clock: VirtualClock) -> None:
    """A row that PostgreSQL itself cannot read any more is a problem; its neighbours are read."""
    store = await make_store("postgresql")
    dice = random.Random(4)
    big = {"noise": [dice.random() for _ in range(2000)]}
    await store.save([make(0), make(1, context=big), make(2)])
    async with store.client() as connection:
        oid, name = await connection.fetchrow(
            "SELECT reltoastrelid, reltoastrelid::regclass::text FROM pg_class WHERE relname = 'saga_snapshots'"
        )
        await connection.execute("SET allow_system_table_mods = on")
        await connection.execute("UPDATE pg_class SET relkind = 'r' WHERE oid = $1", oid)
        await connection.execute(f"DELETE FROM {name} WHERE chunk_seq = 1")
        await connection.execute("UPDATE pg_class SET relkind = 't' WHERE oid = $1", oid)
    async with store.source(clock) as source:
        assert await everything(source) == [make(0), make(2)]
        assert source.problems.count == 1
        assert str(number(1)) in source.problems.messages[0]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_inventory_is_on_disk_without_a_name() -> None:
    """What the order is made with is neither held in memory nor left behind by a killed process."""

    async def fill() -> int:
        inventory = Inventory()
        await inventory.open()
        try:
            for page in range(40):
                ids = [number(page * 1000 + at).bytes for at in range(1000)]
                await inventory.add([FoundRecord(SAGA.bytes, 0, 0, each, None, 0, 10, b"key" * 10) for each in ids])
            return sum(path.stat().st_size for path in nameless_files())
        finally:
            await inventory.close()

    before = sum(path.stat().st_size for path in nameless_files())
    assert asyncio.run(fill()) - before > 1_000_000


def nameless_files() -> list[Path]:
    """What this process has open of regular files that were removed."""
    open_files = Path("/proc/self/fd").iterdir()
    return [path for path in open_files if path.is_file() and path.stat().st_nlink == 0]


async def test_file_that_is_no_record_is_not_read_whole(make_store: MakeStore, clock: VirtualClock) -> None:
    """One of terabytes (a hole), a pipe that nobody writes to: told or passed over, and all others are there."""
    store = await make_store("filesystem")
    await store.save([make(1), make(2)])
    assert isinstance(store, InFiles)
    [folder] = (store.folder / "snapshots").iterdir()
    large = folder / f"{number(7)}.json"
    large.touch()
    os.truncate(large, 2**41)
    os.mkfifo(folder / f"{number(8)}.json")
    async with store.source(clock) as source:
        assert await everything(source) == [make(1), make(2)]
        assert source.problems.count == 1
    assert "larger than" in source.problems.messages[0]
