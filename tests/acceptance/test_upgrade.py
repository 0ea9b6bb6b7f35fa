"""A rolling upgrade: the catalog is migrated while daemons and applications of the version before still run."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from support.daemon_process import daemon
from support.payload import saga
from support.processes import sql
from support.yaml_config import write_config

from sagaz_tiering import SagaSnapshot, TieredSnapshotStorage

NEWER = (
    "ALTER TABLE sagaz_tiering.packs ADD COLUMN of_a_newer_version text DEFAULT ''",
    "INSERT INTO sagaz_tiering.schema_migrations (version, name) VALUES (9999, 'newer')",
)
"""What the next version's `catalog migrate` does."""
DUE = datetime.now(UTC) - timedelta(days=20)


async def test_old_daemon_waits_and_old_applications_go_on_when_a_newer_version_migrates(
    tmp_path: Path, database: str, redis_url: str
) -> None:
    """Nothing moves, /readyz names the schema; saves and reads go on, also of an application that starts then."""
    settings = {
        "database": database,
        "redis_url": redis_url,
        "cold": {"url": f"file://{tmp_path / 'cold'}"},
        "policies": [{"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}], "linger": "1s"}],
        "daemon": {"port": 0},
        "schedule": {"age": {"every": "200ms"}},
    }
    file = write_config(tmp_path / "tiering.yaml", **settings)
    async with TieredSnapshotStorage.from_config(file) as running, daemon(tmp_path, file) as process:
        await process.ready()
        first = await save(running, 1)
        await process.until(lambda: any(each.get("archived") for each in process.logged("job.finished")))
        for statement in NEWER:
            await sql(database, statement)
        await process.until(lambda: process.logged("server.unavailable"))
        status, body = await process.get("/readyz")
        assert status == 503
        (reason,) = [each for each in json.loads(body)["reasons"] if each["server"] == "postgresql"]
        assert "knows only" in reason["error"]
        assert "upgrade this one" in reason["hint"]
        second = await save(running, 2)
        async with TieredSnapshotStorage.from_config(file) as started:
            third = await save(started, 3)
            for snapshot in (*first, *second, *third):
                assert await started.get_snapshot(snapshot.snapshot_id) == snapshot
                assert await running.get_snapshot(snapshot.snapshot_id) == snapshot
            (ref, *_) = await started.timeline(second[0].saga_id)
            assert ref.tier == "hot", "it was due, and nobody moved it"
        assert (await process.get("/livez"))[0] == 200
        await sql(database, "DELETE FROM sagaz_tiering.schema_migrations WHERE version = 9999")
        await process.until(lambda: process.logged("server.recovered"))
        assert await process.stop() == 0


async def save(storage: TieredSnapshotStorage, number: int) -> list[SagaSnapshot]:
    """A saga that is due at once."""
    saved = saga(number, begun=DUE)
    for snapshot in saved:
        await storage.save_snapshot(snapshot)
    return saved
