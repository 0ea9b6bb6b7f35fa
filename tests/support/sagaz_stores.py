"""The storages of the real sagaz package on real servers, and our sources over the same data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import redis.asyncio
from sagaz.core import replay as engine  # sagaz ships no types
from sagaz.core.storage.backends.filesystem_snapshot import FilesystemSnapshotStorage
from sagaz.core.storage.backends.postgresql.snapshot import PostgreSQLSnapshotStorage
from sagaz.core.storage.backends.redis.snapshot import RedisSnapshotStorage
from sagaz.core.storage.backends.s3.snapshot import S3SnapshotStorage

from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.sagaz_engine.imports import (
    SagazFilesystemSource,
    SagazPostgreSQLSource,
    SagazRedisSource,
    SagazS3Source,
    SagazSource,
)
from sagaz_tiering.snapshot import ReplayResult, SagaSnapshot
from support.s3_server import S3Server

CREDENTIALS = {"access_key_id": "testing", "secret_access_key": "testing-secret"}


def theirs(snapshot: SagaSnapshot, **fields: Any) -> Any:
    """The same snapshot as an object of sagaz's own class; `fields` may be what ours refuses."""
    names = engine.SagaSnapshot.__dataclass_fields__
    return engine.SagaSnapshot(**{**{name: getattr(snapshot, name) for name in names}, **fields})


def their_replay(result: ReplayResult) -> Any:
    """The same replay result as an object of sagaz's own class."""
    fields = {name: getattr(result, name) for name in engine.ReplayResult.__dataclass_fields__}
    return engine.ReplayResult(**{**fields, "replay_status": engine.ReplayStatus(result.replay_status.value)})


class SagazStore(ABC):
    """One place where sagaz keeps snapshots: `writer` is its own storage, `source` is ours."""

    kind: str

    @abstractmethod
    def writer(self, **options: Any) -> Any:
        """sagaz's storage, not opened."""

    @abstractmethod
    def source(self, clock: VirtualClock, **options: Any) -> SagazSource:
        """Our source over its data."""

    @abstractmethod
    def source_of_nobody(self, clock: VirtualClock) -> SagazSource:
        """A source whose server is not there."""

    @abstractmethod
    async def damage(self, snapshot_id: UUID, saga_id: UUID) -> None:
        """Spoil a stored snapshot."""

    @abstractmethod
    async def drop_indexes(self) -> None:
        """Lose what tells sagaz which snapshots a saga has, where there is such a thing."""

    @abstractmethod
    async def contents(self) -> Any:
        """All that is stored; equal where nothing was written."""

    async def save(self, snapshots: Iterable[SagaSnapshot], **options: Any) -> None:
        """Have sagaz save these, one after the other."""
        async with self.writer(**options) as storage:
            for snapshot in snapshots:
                await storage.save_snapshot(theirs(snapshot))


class InRedis(SagazStore):
    kind = "redis"

    def __init__(self, url: str) -> None:
        self.url = url

    def writer(self, **options: Any) -> Any:
        return RedisSnapshotStorage(self.url, **options)

    def source(self, clock: VirtualClock, **options: Any) -> SagazSource:
        return SagazRedisSource(self.url, **options, clock=clock)

    def source_of_nobody(self, clock: VirtualClock) -> SagazSource:
        return SagazRedisSource("redis://:secret@127.0.0.1:1/0", clock=clock)

    def client(self) -> redis.asyncio.Redis:
        """A plain client."""
        return redis.asyncio.Redis.from_url(self.url)

    async def damage(self, snapshot_id: UUID, saga_id: UUID) -> None:
        async with self.client() as client:
            await client.setrange(f"snapshot:{snapshot_id}", 9, b"\x00\x00\x00\x00")

    async def drop_indexes(self) -> None:
        async with self.client() as client:
            indexes = [key async for key in client.scan_iter(match="snapshot:saga:*")]
            assert indexes
            await client.delete(*indexes)

    async def contents(self) -> Any:
        async with self.client() as client:
            return {key: await client.dump(key) async for key in client.scan_iter()}


class InS3(SagazStore):
    kind = "s3"

    def __init__(self, server: S3Server, bucket: str) -> None:
        self.server, self.bucket = server, bucket

    def writer(self, **options: Any) -> Any:
        return S3SnapshotStorage(
            bucket_name=self.bucket,
            endpoint_url=self.server.endpoint,
            aws_access_key_id="testing",
            aws_secret_access_key="testing-secret",
            **options,
        )

    def source(self, clock: VirtualClock, **options: Any) -> SagazSource:
        return SagazS3Source(self.bucket, **options, **CREDENTIALS, endpoint_url=self.server.endpoint, clock=clock)

    def source_of_nobody(self, clock: VirtualClock) -> SagazSource:
        return SagazS3Source(self.bucket, **CREDENTIALS, endpoint_url="http://127.0.0.1:1", clock=clock)

    async def damage(self, snapshot_id: UUID, saga_id: UUID) -> None:
        async with self.server.admin() as client:
            await client.put_object(Bucket=self.bucket, Key=f"snapshots/snapshot/{snapshot_id}.json.zst", Body=b"{")

    async def drop_indexes(self) -> None:
        async with self.server.admin() as client:
            page = await client.list_objects_v2(Bucket=self.bucket, Prefix="snapshots/index/")
            assert page["Contents"]
            for entry in page["Contents"]:
                await client.delete_object(Bucket=self.bucket, Key=entry["Key"])

    async def contents(self) -> Any:
        return await self.server.versions(self.bucket)


class InFiles(SagazStore):
    kind = "filesystem"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def writer(self, **options: Any) -> Any:
        return FilesystemSnapshotStorage(self.folder, **options)

    def source(self, clock: VirtualClock, **options: Any) -> SagazSource:
        return SagazFilesystemSource(self.folder, **options, clock=clock)

    def source_of_nobody(self, clock: VirtualClock) -> SagazSource:
        return SagazFilesystemSource(self.folder / "elsewhere", clock=clock)

    async def damage(self, snapshot_id: UUID, saga_id: UUID) -> None:
        path = self.folder / "snapshots" / str(saga_id) / f"{snapshot_id}.json"
        path.write_bytes(path.read_bytes()[:40])

    async def drop_indexes(self) -> None:
        indexes = list((self.folder / "indexes").iterdir())
        assert indexes
        for path in indexes:
            path.unlink()

    async def contents(self) -> Any:
        return {
            path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in self.folder.rglob("*")
        }


class InPostgreSQL(SagazStore):
    kind = "postgresql"

    def __init__(self, url: str) -> None:
        self.url = url

    def writer(self, **options: Any) -> Any:
        return PostgreSQLSnapshotStorage(self.url, pool_min_size=1, pool_max_size=4, **options)

    def source(self, clock: VirtualClock, **options: Any) -> SagazSource:
        return SagazPostgreSQLSource(self.url, **options, clock=clock)

    def source_of_nobody(self, clock: VirtualClock) -> SagazSource:
        return SagazPostgreSQLSource("postgresql://user:secret@127.0.0.1:1/nobody", clock=clock)

    @asynccontextmanager
    async def client(self) -> Any:
        """A plain connection."""
        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()

    async def damage(self, snapshot_id: UUID, saga_id: UUID) -> None:
        async with self.client() as connection:
            await connection.execute("UPDATE saga_snapshots SET context = '[]' WHERE snapshot_id = $1", snapshot_id)

    async def drop_indexes(self) -> None:
        """sagaz keeps none of its own here."""

    async def contents(self) -> Any:
        async with self.client() as connection:
            tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            rows = await connection.fetch("SELECT saga_snapshots.*, xmin::text FROM saga_snapshots")
        return sorted(map(tuple, tables)), sorted(map(tuple, rows))
