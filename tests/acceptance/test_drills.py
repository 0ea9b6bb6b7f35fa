"""The recovery drills of `docs/recovery.md`: something is lost, the page is followed, and everything is there."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.commands import Answer
from support.pages import Operator, operator, section
from support.payload import saga
from support.processes import redis_do, sql
from support.s3_server import S3Server, free_port
from support.servers import new_folder, run_apart, server_folder

from sagaz_tiering import TieredSnapshotStorage
from sagaz_tiering.embedded import PostgresServer, RedisServer
from sagaz_tiering.embedded.postgres import find_binaries
from sagaz_tiering.errors import CorruptPack
from sagaz_tiering.keys.key_file import generate
from sagaz_tiering.snapshot import SagaSnapshot

PAGE = Path(__file__).parents[2] / "docs" / "recovery.md"
BUCKET = "acme-saga-snapshots"
OLD = datetime.now(UTC) - timedelta(days=20)
YOUNG = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture(scope="module")
def postgres(postgres_template: Path) -> Iterator[PostgresServer]:
    """One that flushes, with databases that come and go."""
    with server_folder() as folder:
        server = PostgresServer(new_folder(folder, "postgres"), durable=True, template=postgres_template)
        run_apart(server.start)
        yield server
        run_apart(server.stop)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """One that writes down what it acknowledges."""
    with server_folder() as folder:
        server = RedisServer(new_folder(folder, "redis"), durable=True)
        run_apart(server.start)
        yield server
        run_apart(server.stop)


@dataclass(slots=True)
class World:
    """A store in operation, and who looks after it."""

    who: Operator
    config: Path
    postgres: PostgresServer
    redis_url: str
    s3: S3Server
    kept: list[SagaSnapshot] = field(default_factory=list)

    def storage(self) -> TieredSnapshotStorage:
        """As an application opens it."""
        return TieredSnapshotStorage.from_config(self.config)

    async def save(self, saved: list[SagaSnapshot], *, kept: bool = True) -> list[SagaSnapshot]:
        """By an application."""
        async with self.storage() as storage:
            for snapshot in saved:
                await storage.save_snapshot(snapshot)
        self.kept += saved if kept else []
        return saved

    async def all_is_there(self) -> None:
        """Every snapshot that must have survived comes back as it was, to an application that opens the store anew."""
        async with self.storage() as storage:
            for snapshot in self.kept:
                assert await storage.get_snapshot(snapshot.snapshot_id) == snapshot
        await self.who.type("sagaz-tiering catalog verify")

    async def lose_redis_too(self) -> None:
        """What was durable before the first loss is after it: it outlives the second."""
        await redis_do(self.redis_url, "FLUSHALL")
        await self.who.type("sagaz-tiering job reconcile --once")
        await self.who.type("sagaz-tiering status --json")
        assert json.loads(self.who.said[-1][1].out)["hot_tier"]["lost"] == 0
        await self.all_is_there()

    async def packs(self, bucket: str = BUCKET) -> list[str]:
        """Keys of packs."""
        async with self.s3.admin() as client:
            page = await client.list_objects_v2(Bucket=bucket, Prefix="production/packs/")
        return [each["Key"] for each in page.get("Contents", [])]


async def make_bucket(s3: S3Server, name: str) -> None:
    """Empty, with versions."""
    async with s3.admin() as client:
        await client.create_bucket(Bucket=name)
        await client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})


async def drop_bucket(s3: S3Server, name: str) -> None:
    """With all that is in it."""
    async with s3.admin() as client:
        for each in await s3.versions(name):
            await client.delete_object(Bucket=name, Key=each["Key"], VersionId=each["VersionId"])
        await client.delete_bucket(Bucket=name)


@pytest.fixture
async def world(
    postgres: PostgresServer,
    redis_server: RedisServer,
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[World]:
    """Sagas in packs, one of them encrypted, one in Redis and PostgreSQL; backed up as the page says."""
    address = urlsplit(postgres.url)
    environ = {
        "PGHOST": str(address.hostname),
        "PGPORT": str(address.port),
        "PGUSER": str(address.username),
        "PGPASSWORD": str(address.password),
        "PATH": f"{find_binaries(None)}:{os.environ['PATH']}",
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "SAGAZ_TIERING_CONFIG": str(tmp_path / "etc" / "tiering.yaml"),
        "SAGAZ_TIERING_CATALOG__URL": postgres.url_of("sagaz"),
        "SAGAZ_TIERING_TIERS__HOT__URL": redis_server.url,
        "SAGAZ_TIERING_TIERS__COLD__ENDPOINT_URL": s3_server.endpoint,
        "SAGAZ_TIERING_DAEMON__PORT": str(free_port()),
        "SAGAZ_TIERING_LOG__FORMAT": "json",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    await redis_do(redis_server.url, "FLUSHALL")
    await sql(postgres.url, "CREATE DATABASE sagaz")
    await make_bucket(s3_server, BUCKET)
    places = {name: str(new_folder(tmp_path, name.strip("/").partition("/")[0])) for name in ("/backup", "/safe")}
    async with operator(tmp_path, **environ) as who:
        who.words = {**places, "/etc/sagaz-tiering": str(new_folder(tmp_path, "etc"))}
        config = Path(environ["SAGAZ_TIERING_CONFIG"])
        found = World(who, config, postgres, redis_server.url, s3_server)
        await who.follow(PAGE.read_text(encoding="utf-8").partition("\n## ")[0])
        generate(config.with_name("master.keys"), "first")
        await who.type("sagaz-tiering catalog migrate")
        await found.save(saga(1, begun=OLD) + saga(2, begun=OLD, saga_name="payment-card"))
        await who.type("sagaz-tiering job age --once")
        await found.save(saga(3, begun=YOUNG))
        for _ in ("one day", "the next"):
            await who.follow(section(PAGE, "Before anything happens"))
        yield found
    for name in ("sagaz", "sagaz_before"):
        await sql(postgres.url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await drop_bucket(s3_server, BUCKET)


def answered(said: list[tuple[str, Answer]], command: str) -> list[str]:
    """What each line that begins so printed."""
    return [answer.out for line, answer in said if line.startswith(command)]


async def follow(world: World, title: str, **words: str) -> list[tuple[str, Answer]]:
    """The commands of that drill."""
    return await world.who.follow(section(PAGE, title), words)


async def test_redis_lost(world: World) -> None:
    """What PostgreSQL has is there; what Redis alone had is named, and no more once somebody knows."""
    fast = "policies:\n  - {name: fast, match: {saga_name: fast}, durability: hot}"
    world.config.write_text(world.config.read_text().replace("policies:", fast))
    (lost, *_) = await world.save(saga(4, begun=YOUNG, saga_name="fast"), kept=False)
    await redis_do(world.redis_url, "FLUSHALL")
    said = await follow(world, "Redis lost")
    assert str(lost.snapshot_id)[:8] in " ".join(answered(said, "sagaz-tiering status"))
    await world.all_is_there()
    async with world.storage() as storage:
        assert await storage.get_snapshot(lost.snapshot_id) is None


async def test_postgresql_lost(world: World) -> None:
    """The catalog is made of the bucket, with holds; encrypted snapshots are read by the keys that were backed up."""
    await world.who.type(f"sagaz-tiering hold {world.kept[0].saga_id} --reason case")
    await sql(world.postgres.url, "DROP DATABASE sagaz WITH (FORCE)")
    said = await follow(world, "PostgreSQL lost")
    assert answered(said, "sagaz-tiering catalog rebuild --dry-run")
    await world.all_is_there()
    await world.who.type("sagaz-tiering holds --json")
    assert str(world.kept[0].saga_id) in world.who.said[-1][1].out
    await world.lose_redis_too()


async def test_postgresql_put_back_from_an_older_dump(world: World) -> None:
    """What was packed, held and forgotten since the dump is so afterwards."""
    (later, forgotten) = (saga(5, begun=OLD), saga(6, begun=OLD))
    await world.save(saga(10, begun=OLD, saga_name="payment-later"))
    await world.save(later)
    await world.save(forgotten, kept=False)
    await world.who.type("sagaz-tiering job age --once")
    await world.save(saga(9, begun=YOUNG))
    await world.who.type(f"sagaz-tiering hold {later[0].saga_id} --reason case")
    await world.who.type(f"sagaz-tiering forget {forgotten[0].saga_id} --reason asked --yes")
    await follow(world, "PostgreSQL put back from an older dump")
    await world.all_is_there()
    async with world.storage() as storage:
        assert await storage.list_snapshots(forgotten[0].saga_id) == []
    await world.who.type("sagaz-tiering holds --json")
    assert str(later[0].saga_id) in world.who.said[-1][1].out
    await world.lose_redis_too()


@pytest.mark.parametrize("harm", ["altered", "deleted"])
async def test_bucket_damaged(world: World, harm: str) -> None:
    """The object is named and put back from its version."""
    await world.who.type("sagaz-tiering job scrub --once")  # which found all sound a moment ago
    key = (await world.packs())[0]
    async with world.s3.admin() as client:
        answer = await client.get_object(Bucket=BUCKET, Key=key)
        body, version = await answer["Body"].read(), answer["VersionId"]
        if harm == "altered":
            await client.put_object(Bucket=BUCKET, Key=key, Body=body[:20] + bytes([body[20] ^ 1]) + body[21:])
        else:
            await client.delete_object(Bucket=BUCKET, Key=key)
    async with world.storage() as storage:
        answers = [storage.get_snapshot(snapshot.snapshot_id) for snapshot in world.kept]
        found = await asyncio.gather(*answers, return_exceptions=True)
    short = key.removeprefix("production/")
    assert any(isinstance(each, CorruptPack) and short in str(each) for each in found)
    said = await follow(world, "Bucket damaged", KEY=short, VERSION=version)
    assert short in " ".join(answered(said, "sagaz-tiering quarantine list"))
    await world.all_is_there()


async def test_wrong_policy_applied(world: World) -> None:
    """Nothing goes, and the right file is in force again."""
    right = world.config.read_text()
    (world.who.folder / "backup" / "tiering.yaml").write_text(right)
    await world.who.type("systemctl start sagaz-tiering")
    world.config.write_text(right.replace("retain: forever", "retain: 10d"))
    await world.who.type("systemctl reload sagaz-tiering")
    text = section(PAGE, "Wrong policy applied")
    first, _, rest = text.partition("sagaz-tiering job expire --dry-run\n")
    await world.who.follow(f"{first}```\n")
    (hold,) = re.findall(r"[0-9a-f-]{36}", world.who.said[-1][1].out)[:1]
    said = await world.who.follow(f"```sh\nsagaz-tiering job expire --dry-run\n{rest}", {"HOLD": hold})
    assert world.config.read_text() == right
    assert "snapshots" not in answered(said, "sagaz-tiering job expire --once")[0]
    await world.all_is_there()


async def test_bucket_or_region_moved(world: World) -> None:
    """The copy is the store, in another bucket; the old one is written no more."""
    new = f"{BUCKET}-eu"
    await world.who.type("systemctl start sagaz-tiering")
    await make_bucket(world.s3, new)
    try:
        await follow(world, "Bucket or region moved")
        await world.all_is_there()
        before = await world.packs()
        await world.save(saga(7, begun=OLD))
        await world.who.type("sagaz-tiering job age --once")
        await world.all_is_there()
        assert await world.packs() == before
        assert len(await world.packs(new)) > len(before)
    finally:
        await world.who.type("systemctl stop sagaz-tiering")
        await drop_bucket(world.s3, new)


async def test_key_lost(world: World) -> None:
    """The copy of the master key is put back; what had to wait is packed; then another key takes its place."""
    world.config.with_name("master.keys").unlink()
    await world.save(saga(8, begun=OLD, saga_name="payment-late"))
    said = await follow(world, "Key lost")
    assert "put its copy back" in answered(said, "sagaz-tiering keys status")[0]
    assert "second" in answered(said, "sagaz-tiering keys status")[-1]
    assert "first" not in answered(said, "sagaz-tiering keys status")[-1]
    assert (world.who.folder / "safe" / "master.keys").read_bytes() == world.config.with_name(
        "master.keys"
    ).read_bytes()
    await world.all_is_there()


def test_every_drill_is_run() -> None:
    """A drill that is added must be added here; each says what is lost, how long it takes, what to do, what never."""
    titles = re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)[1:]
    names = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    for title in titles:
        assert re.sub(r"\W+", "_", title).lower() in names, title
        for part in ("What is lost", "How long", "Do", "Never"):
            assert f"**{part}**" in section(PAGE, title), (title, part)
