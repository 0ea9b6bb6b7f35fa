"""`sagaz-tiering run` as systemd or Kubernetes would run it, on real servers."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which

import psutil
import pytest
from support.daemon_process import daemon
from support.payload import snapshots
from support.stores import until

from sagaz_tiering.app.tiered import TieredSnapshotStorage
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.config.sections import CatalogSettings, JobSettings
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.snapshot import SagaSnapshot

UNIT = Path(__file__).parents[2] / "systemd" / "sagaz-tiering.service"
OLD = datetime.now(UTC) - timedelta(days=2)
NEVER = "365d"
AT_ONCE = "1d"

ConfigOf = Callable[..., Path]


@pytest.fixture
def config_of(tmp_path: Path, redis_url: str) -> ConfigOf:
    """`config_of(postgres_url, after=…)` writes the file of a daemon that ages all the time."""

    def write(postgres_url: str, *, after: str = NEVER, more: str = "", port: int = 0) -> Path:
        path = tmp_path / "tiering.yaml"
        path.write_text(
            f"""
tiers:
  hot: {{url: "{redis_url}"}}
  cold: {{url: "file://{tmp_path}/cold", pack: {{target: 64KiB, max_frame: 64KiB}}}}
catalog: {{url: "{postgres_url}"}}
policies: [{{name: all, match: {{}}, move: [{{to: STANDARD_IA, after: {after}}}]}}]
schedule: {{age: {{every: 200ms}}}}
jobs: {{batch_sagas: 4}}
daemon: {{port: {port}, shutdown_grace: 5m}}
{more}
"""
        )
        return path

    return write


async def migrate_catalog(url: str) -> None:
    async with Database(CatalogSettings(url=url)) as db:
        await migrate(db)


async def save(config: Path, count_of_sagas: int) -> list[SagaSnapshot]:
    saved = list(snapshots(count_of_sagas, created_at=OLD))
    async with TieredSnapshotStorage.from_config(config) as storage:
        for snapshot in saved:
            await storage.save_snapshot(snapshot)
    return saved


async def assert_all_there(config: Path, saved: list[SagaSnapshot]) -> None:
    async with TieredSnapshotStorage.from_config(config) as storage:
        for snapshot in saved:
            found = await storage.get_snapshot(snapshot.snapshot_id)
            assert found is not None
            assert found.context == snapshot.context


async def test_daemon_waits_for_postgresql_and_then_becomes_ready(
    tmp_path: Path, config_of: ConfigOf, own_postgres: Callable[..., Awaitable[PostgresServer]]
) -> None:
    """With PostgreSQL down it lives, is not ready and names the server; when it comes up no restart is needed."""
    postgres = await own_postgres(durable=True)
    await migrate_catalog(postgres.url)
    await postgres.stop()
    async with daemon(tmp_path, config_of(postgres.url)) as process:
        await process.until(lambda: process.logged("daemon.not_ready"))
        await process.until(lambda: process.logged("server.unavailable"))
        assert (await process.get("/livez"))[0] == 200
        status, body = await process.get("/readyz")
        assert status == 503
        assert {"start", "postgresql"} == {reason["server"] for reason in json.loads(body)["reasons"]}
        assert "PostgreSQL" in process.logged("daemon.not_ready")[0]["error"]
        assert process.logged("daemon.not_ready")[0]["hint"]
        assert not process.notified("READY=1")
        await postgres.start()
        await process.ready()
        status, body = await process.get("/readyz")
        assert status == 200
        assert json.loads(body)["clock"]["source"] in ("catalog", "redis"), "it is measured again within seconds"
        assert 'sagaz_tiering_server_up{server="postgresql"} 1.0' in (await process.get("/metrics"))[1]
        await postgres.stop()
        await process.until(lambda: process.logged("job.failed"))
        assert process.logged("job.failed")[0]["kind"] == "CatalogUnavailable"
        assert await process.stop() == 0
        assert process.notified("STOPPING=1") == 1


async def test_daemon_becomes_ready_when_the_catalog_is_migrated(
    tmp_path: Path, config_of: ConfigOf, empty_database: str
) -> None:
    """Without a schema it waits and says the command; an interrupt ends it in order all the same."""
    async with daemon(tmp_path, config_of(empty_database)) as process:
        (waiting, *_) = await process.until(lambda: process.logged("daemon.not_ready"))
        assert "catalog migrate" in waiting["hint"]
        assert not process.notified("READY=1")
        await migrate_catalog(empty_database)
        await process.ready()
        assert psutil.Process(process.process.pid).nice() == max(JobSettings().nice, psutil.Process().nice())
        process.signal(signal.SIGINT)
        assert await process.exit_code() == 0


@pytest.mark.guarantee("G8")
async def test_daemon_of_a_catalog_that_is_behind_is_not_ready(
    tmp_path: Path, config_of: ConfigOf, database: str
) -> None:
    """A copy, or an older dump that was put back: it says so and what to do, and goes on once it is the owner again."""
    config = config_of(database)
    async with TieredSnapshotStorage.from_config(config) as storage:
        await storage.delete_expired_snapshots()
    async with Database(CatalogSettings(url=database)) as db:
        right = await db.fetchval("SELECT nonces FROM sagaz_tiering.owner")
        await db.execute("UPDATE sagaz_tiering.owner SET nonces = ARRAY[gen_random_uuid()]")
        async with daemon(tmp_path, config) as process:
            (waiting, *_) = await process.until(lambda: process.logged("daemon.not_ready"))
            assert (waiting["kind"], "catalog adopt" in waiting["hint"]) == ("CatalogBehind", True)
            status, body = await process.get("/readyz")
            assert (status, "behind" in body) == (503, True)
            assert 'sagaz_tiering_owner{standing="behind"} 1.0' in (await process.get("/metrics"))[1]
            await db.execute("UPDATE sagaz_tiering.owner SET nonces = $1", right)
            await process.until(lambda: process.notified("READY=1"), deadline_s=120)
            assert 'sagaz_tiering_owner{standing="owner"} 1.0' in (await process.get("/metrics"))[1]


async def test_job_by_hand_lets_others_go_first_too(database: str, config_of: ConfigOf) -> None:
    """As `jobs.nice` says."""
    command = (sys.executable, "-m", "sagaz_tiering", "job", "age", "--config", str(config_of(database)))
    job = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    try:
        wanted = max(JobSettings().nice, psutil.Process().nice())
        await until(lambda: psutil.Process(job.pid).nice() == wanted, "the job lets others go first")
    finally:
        job.kill()
        await job.wait()


async def test_daemon_reload_takes_a_good_file_and_refuses_a_bad_one(
    tmp_path: Path, config_of: ConfigOf, database: str
) -> None:
    """A bad file keeps the policy in force and is logged in full; a good one works at once; the watchdog is fed."""
    config = config_of(database)
    saved = await save(config, 3)
    async with daemon(tmp_path, config, WATCHDOG_USEC="400000") as process:
        await process.ready()
        await process.until(lambda: process.notified("WATCHDOG=1") >= 3)

        config_of(database, more="polices: []")
        process.signal(signal.SIGHUP)
        (rejected,) = await process.until(lambda: process.logged("config.rejected"))
        assert "polices" in rejected["error"]
        await process.until(lambda: process.notified("READY=1") == 2)
        assert process.notified("RELOADING=1") == 1

        runs = len(process.logged("job.finished"))
        await process.until(lambda: len(process.logged("job.finished")) > runs + 2)
        assert not any(line.get("archived") for line in process.logged("job.finished"))

        config_of(database, after=AT_ONCE, port=1)
        process.signal(signal.SIGHUP)
        await process.until(lambda: process.logged("config.reloaded"))
        assert process.logged("config.restart_needed")[0]["settings"] == ["daemon.port"]
        await process.until(lambda: list((tmp_path / "cold").rglob("*.pack*")))
        assert await process.stop() == 0
    config_of(database, after=AT_ONCE)
    await assert_all_there(config, saved)


async def test_daemon_stops_in_order_while_snapshots_are_packed(
    tmp_path: Path, config_of: ConfigOf, database: str
) -> None:
    """SIGTERM in the middle of an age run: the step ends, the process exits 0, and nothing is lost."""
    config = config_of(database, after=AT_ONCE)
    saved = await save(config, 100)
    async with daemon(tmp_path, config) as process:
        await process.until(lambda: list((tmp_path / "cold").rglob("*.pack*")))
        assert await process.stop() == 0
        assert process.notified("STOPPING=1") == 1
        (stopping,) = process.logged("daemon.stopping")
        assert "age" in stopping["running"]
        assert not process.logged("daemon.jobs_cut_short")
        assert not process.logged("job.failed")
    await assert_all_there(config, saved)


async def test_daemon_asked_twice_ends_at_once(
    tmp_path: Path, config_of: ConfigOf, own_postgres: Callable[..., Awaitable[PostgresServer]]
) -> None:
    """A step that hangs on a server is waited for; a second signal ends the wait, with code 1."""
    postgres = await own_postgres()
    await migrate_catalog(postgres.url)
    async with daemon(tmp_path, config_of(postgres.url)) as process:
        await process.ready()
        postgres.pause()
        try:
            await process.until_running("age")
            process.signal(signal.SIGTERM)
            (stopping,) = await process.until(lambda: process.logged("daemon.stopping"))
            assert "age" in stopping["running"]
            assert (await process.get("/readyz"))[0] == 503
            assert (await process.get("/livez"))[0] == 200
            process.signal(signal.SIGTERM)
            assert await process.exit_code() == 1
        finally:
            postgres.resume()


async def test_daemon_refuses_to_start_on_a_wrong_file_or_a_taken_port(
    tmp_path: Path, config_of: ConfigOf, database: str
) -> None:
    """Both end at once with code 2 and say what is wrong."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with daemon(tmp_path, config_of(database, port=port)) as process:
            assert await process.exit_code() == 2
            assert f"127.0.0.1:{port}" in process.logged("daemon.failed")[0]["error"]
    async with daemon(tmp_path, config_of(database, after="-1d")) as process:
        assert await process.exit_code() == 2
        assert "negative" in process.logged("config.rejected")[0]["error"]


@pytest.mark.skipif(which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_unit_is_accepted(tmp_path: Path) -> None:
    """systemd-analyze finds nothing to say about the unit (with a program that exists here)."""
    text = UNIT.read_text()
    program = "/opt/sagaz-tiering/bin/sagaz-tiering"
    assert program in text
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(program, "/bin/true"))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (result.returncode, result.stderr.strip()) == (0, "")
