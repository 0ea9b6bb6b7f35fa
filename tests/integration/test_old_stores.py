"""Stores that were made by earlier code (`tests/data/record.py`), put back and used by this one."""

from __future__ import annotations

import base64
import gzip
import json
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import pytest
import redis.asyncio
from data import contents
from support.attributes import in_frames
from support.exact import exactly
from support.tiers import Product

from sagaz_tiering import FilesystemSnapshotStorage, PostgreSQLSnapshotStorage, RedisSnapshotStorage
from sagaz_tiering.app.runtime import Runtime, open_runtime
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.clock import VirtualClock, to_micros
from sagaz_tiering.codec.value import encode, to_value
from sagaz_tiering.config.load import load_config
from sagaz_tiering.errors import LegalHold
from sagaz_tiering.jobs import JOBS, run_job
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.operations.rebuild import Wish, adopt
from sagaz_tiering.snapshot import SagaSnapshot

DATA = Path(contents.__file__).parent
STORES = sorted(path.name for path in DATA.glob("store-*"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """A store that was put back."""

    folder: Path
    database: str
    redis_url: str
    expected: dict[str, Any]

    @property
    def config(self) -> Path:
        """The configuration file of then, with where the servers are now."""
        return self.folder / "tiering.yaml"

    @property
    def now(self) -> datetime:
        """When it was recorded."""
        return datetime.fromisoformat(self.expected["now"])


@pytest.fixture(params=STORES)
async def old(request: pytest.FixtureRequest, empty_database: str, redis_url: str, tmp_path: Path) -> Old:
    """A recorded store on the servers of the test."""
    store = DATA / request.param
    with tarfile.open(store / "files.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    text = (store / "tiering.yaml").read_text()
    for then, here in (("DATABASE", empty_database), ("REDIS", redis_url), ("/FOLDER", str(tmp_path))):
        text = text.replace(then, here)
    (tmp_path / "tiering.yaml").write_text(text)
    connection = await asyncpg.connect(empty_database)
    await connection.execute(gzip.decompress((store / "postgresql.sql.gz").read_bytes()).decode())
    await connection.close()
    client = redis.asyncio.Redis.from_url(redis_url)
    for key, (lives_ms, dumped) in json.loads(gzip.decompress((store / "redis.json.gz").read_bytes())).items():
        await client.restore(base64.b64decode(key), lives_ms, base64.b64decode(dumped))
    await client.aclose()
    expected = json.loads((store / "expected.json").read_text())
    return Old(folder=tmp_path, database=empty_database, redis_url=redis_url, expected=expected)


@pytest.fixture
async def runtime(old: Old) -> AsyncIterator[Runtime]:
    """This code over the old store: migrated, and taken over, since the database is another one than it was."""
    async with open_runtime(load_config(old.config), clock=VirtualClock(old.now)) as opened:
        await migrate(opened.db)
        await adopt(opened.job_context(), Tally(None), Wish(take_over=True))
        await opened.check()
        yield opened


async def everything_reads(storage: Any, names: tuple[str, ...]) -> None:
    """Every read call gives what was saved."""
    for name in names:
        saved = [each for each in contents.kept() if each.saga_id == contents.saga_id(name)]
        newest = saved[::-1]
        assert exactly_all(await storage.list_snapshots(contents.saga_id(name))) == exactly_all(newest)
        if not saved:
            assert await storage.get_latest_snapshot(contents.saga_id(name)) is None
            continue
        one = [
            await storage.get_latest_snapshot(contents.saga_id(name)),
            await storage.get_latest_snapshot(contents.saga_id(name), before_step=saved[0].step_name),
            await storage.get_snapshot_at_time(contents.saga_id(name), saved[0].created_at),
        ]
        assert exactly_all(one) == exactly_all([newest[0], saved[0], saved[0]])
        assert exactly_all([await storage.get_snapshot(each.snapshot_id) for each in saved]) == exactly_all(saved)
    replay = contents.replay()
    record = await storage.get_replay_log(replay.replay_id)
    assert record is not None
    assert record["new_saga_id"] == str(replay.new_saga_id)
    assert await storage.list_replays(replay.original_saga_id) == [record]


def exactly_all(snapshots: list[SagaSnapshot]) -> list[Any]:
    """So that types and signs of zero count, too."""
    return [exactly(each.to_dict()) for each in snapshots]


@pytest.mark.guarantee("G1")
async def test_store_of_earlier_code_reads_whole_and_ages_on(old: Old, runtime: Runtime) -> None:
    """Everything that earlier code saved, packed, encrypted and held is read; every job goes on from there."""
    storage, clock = runtime.storage(), runtime.clock
    assert isinstance(clock, VirtualClock)
    names = (*contents.EARLY, *contents.LATE)
    clock.advance(timedelta(hours=6))  # the restore that was asked for
    await run_job("restore", runtime.job_context())
    await everything_reads(storage, names)
    for each in contents.kept():
        tiers = {ref.tier.value for ref in await storage.locate(each.snapshot_id)}
        assert tiers >= set(old.expected["tiers"][str(each.snapshot_id)])
    assert await storage.get_snapshot(contents.DELETED) is None
    saga_ids = {contents.saga_id(name) for name in names if name != contents.ERASED}
    assert {each async for each in storage.saga_ids()} == saga_ids
    read = {each.snapshot_id: each async for each in storage.iter_snapshots()}
    saved = {each.snapshot_id: each for each in contents.kept()}
    assert set(read) == set(saved)
    assert exactly_all([read[each] for each in saved]) == exactly_all(list(saved.values()))
    with pytest.raises(LegalHold):
        await storage.cleanup_saga(contents.saga_id(contents.HELD))
    clock.advance(timedelta(days=9))
    for name in JOBS:
        await run_job(name, runtime.job_context())
    for name in contents.LATE:
        if name != "brief-9":
            refs = await storage.timeline(contents.saga_id(name))
            assert {ref.tier.value for ref in refs} == {"cold"}, name
    await everything_reads(storage, tuple(set(names) - {contents.HELD, contents.RESTORED}))
    clock.advance(timedelta(days=20))
    await run_job("expire", runtime.job_context())
    assert await storage.list_snapshots(contents.saga_id("brief-9")) == []


async def test_attributes_that_earlier_code_packed_are_found_and_age_on(old: Old, runtime: Runtime) -> None:
    """By their definitions of then, hashed ones too, and after every job; earlier stores have none."""
    shop, of = (
        Product(runtime=runtime, storage=runtime.storage(), clock=VirtualClock(old.now)),
        runtime.in_force.attributes,
    )
    told = {each.snapshot_id: of.of(each.saga_name, each.context).column for each in contents.kept()}
    packed = await in_frames(shop)
    assert packed
    assert packed == {one: told[one] for one in packed}
    assert isinstance(runtime.clock, VirtualClock)
    runtime.clock.advance(timedelta(days=9))
    for name in ("restore", "age", "compact"):
        await run_job(name, runtime.job_context())
    later = await in_frames(shop)
    assert len(later) > len(packed)
    assert later == {one: told[one] for one in later}


class EarlierApplication:
    """Saves as the code before the table of sagas did: by the same SQL and the same keys, and nothing for sagas."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.saved: dict[UUID, SagaSnapshot] = {}

    async def save(self, name: str, step: int, *, days: int) -> None:
        """A late step of the saga of this name; `days`: kept so long after its own time, by the rules of then."""
        runtime, now = self._runtime, self._runtime.clock.now()
        late = replace(
            contents.snapshots(name)[-1],
            snapshot_id=uuid5(contents.NAMESPACE, f"{name}/late {step}"),
            step_name="undo",
            step_index=3 + step,
            status="rolled_back",
            created_at=now,
        )
        record = encode(late, saved_us=to_micros(now))
        value, expires_us = to_value(record, level=None), to_micros(now + timedelta(days=days))
        times = {"due_us": to_micros(now + timedelta(days=7)), "expires_us": expires_us}
        assert await runtime.hot.save(record.meta, value, **times) is None
        if name.startswith("fast"):
            await runtime.catalog.hot_saves.note([record.meta], [None])
        else:
            await runtime.catalog.durable.put(record.meta, value, **times, fallback=False)
        self.saved[late.saga_id] = late

    async def check(self, names: tuple[str, ...]) -> None:
        """Each of these sagas is whole, ends with its last step, and has the expiry that follows from that."""
        storage, ends = self._runtime.storage(), self._runtime.catalog.sagas
        for name in names:
            saga_id = contents.saga_id(name)
            late = self.saved[saga_id]
            refs = await storage.timeline(saga_id)
            assert [ref.step_index for ref in refs][:3] == [0, 1, 2]
            assert refs[-1].snapshot_id == late.snapshot_id
            retain = {"payment": 2555, "brief": 20}.get(late.saga_name)
            expires_at = None if retain is None else late.created_at + timedelta(days=retain)
            assert {ref.expires_at for ref in refs} == {expires_at}, name
            assert (await ends.ends([saga_id]))[saga_id].snapshot_id == late.snapshot_id
            assert exactly_all([(await storage.list_snapshots(saga_id))[0]]) == exactly_all([late])


@pytest.mark.guarantee("G1")
async def test_applications_of_earlier_code_go_on_after_the_migration(old: Old, runtime: Runtime) -> None:
    """While sagas are taken in step by step, and after: what they save ends its saga, also for what is packed."""
    clock, names = runtime.clock, ("payment-9", "secret-1", "fast-9", "brief-9", "bulk-3", "bulk-90")
    assert isinstance(clock, VirtualClock)
    app = EarlierApplication(runtime)
    clock.advance(timedelta(hours=1))
    for step, name in enumerate(names):
        await app.save(name, step, days=2555 if name == "payment-9" else 20)
        await runtime.db.fetchval("SELECT sagaz_tiering.fill_sagas(7)")
        await app.check(names[: step + 1])
    clock.advance(timedelta(days=19))
    for job in ("expire", "age", "expire"):
        await run_job(job, runtime.job_context())
        await app.check(names)
    assert await runtime.db.fetchval("SELECT up_to IS NULL FROM sagaz_tiering.sagas_filled")
    await app.save("brief-9", 9, days=20)
    clock.advance(timedelta(days=2))
    for job in ("expire", "age", "expire"):
        await run_job(job, runtime.job_context())
    await app.check(names)
    clock.advance(timedelta(days=18))
    await run_job("expire", runtime.job_context())
    assert await runtime.storage().timeline(contents.saga_id("brief-9")) == []


async def test_catalog_of_earlier_code_is_migrated_when_told_to(old: Old) -> None:
    """Until then everything that needs the catalog says so; afterwards nothing does."""
    async with open_runtime(load_config(old.config), clock=VirtualClock(old.now)) as opened:
        applied = await migrate(opened.db)
        if applied:
            assert min(each.version for each in applied) > 1
        assert await migrate(opened.db) == []


@pytest.mark.guarantee("G1")
async def test_standalone_storages_of_earlier_code_read_whole(old: Old) -> None:
    """Directories, Redis and PostgreSQL without tiers: everything reads as it was saved."""
    clock = VirtualClock(old.now)
    for storage in (
        FilesystemSnapshotStorage(old.folder / "files", clock=clock),
        FilesystemSnapshotStorage(old.folder / "files-zipped", enable_compression=True, clock=clock),
        RedisSnapshotStorage(old.redis_url, key_prefix=contents.HASH_PREFIX, clock=clock),
        PostgreSQLSnapshotStorage(old.database, pool_min_size=1, pool_max_size=2, clock=clock),
    ):
        await everything_reads(storage, contents.LATE)
        assert len([each async for each in storage.iter_snapshots()]) == 3 * len(contents.LATE)
        await storage.close()
