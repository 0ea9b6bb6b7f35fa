"""Master keys in AWS KMS (a real KMS API over HTTP), backups of data keys, and the commands around them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import aioboto3  # type: ignore[import-untyped]  # ships no types
import pytest
from support.commands import cli
from support.encrypted import POLICIES, aged, bucket, encrypted, frames_of, key_file, save_all, unharmed
from support.payload import snapshots
from support.s3_server import Answer, Request, S3Server, ScriptedServer, forward, free_port
from support.servers import fresh_database
from support.tiers import DAY, Places, product, rebuilt_from_bucket
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import open_runtime
from sagaz_tiering.catalog import saga_keys
from sagaz_tiering.clock import SystemClock
from sagaz_tiering.config.sections import EncryptionSettings
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.errors import ConfigError, ErasedData, MasterKeyUnavailable, MissingDependencyError
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.keys.kms import Kms
from sagaz_tiering.operations.keys import export_keys, import_keys, read_backup, write_backup


@pytest.fixture
async def kms(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch):
    """A client of the KMS of the moto server."""
    for name, value in {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret"}.items():
        monkeypatch.setenv(name, value)
    session = aioboto3.Session(region_name="us-east-1")
    async with session.client("kms", endpoint_url=s3_server.endpoint) as client:
        yield client


async def kms_section(kms: Any) -> dict[str, str]:
    """A configuration section with a new KMS key."""
    key = (await kms.create_key(Description="test"))["KeyMetadata"]["KeyId"]
    return {"kms_key_id": key, "kms_region": "us-east-1", "kms_endpoint_url": kms.meta.endpoint_url}


async def test_data_keys_wrapped_by_kms(kms: Any, places: Places, tmp_path: Path) -> None:
    """Saved, packed, read in a process that has nothing in memory, forgotten."""
    section = await kms_section(kms)
    settings = encrypted(places, encryption=section)
    async with product(settings) as shop:
        saved = list(snapshots(3, created_at=shop.clock.now()))
        await aged(shop, saved)
        [(frame, _)] = frames_of(*bucket(tmp_path).values(), saved[0].saga_id)
        assert frame.key_id is not None
        totals = await shop.runtime.catalog.saga_keys.totals()
        assert list(totals.by_master) == [await shop.runtime.keys.check()]
        assert totals.by_master.popitem()[0].startswith("kms:arn:aws:kms:us-east-1:")
        assert (await shop.storage.forget(saved[0].saga_id)).complete
        now = shop.clock.now()
    async with product(settings, now=now) as shop:
        await unharmed(shop, saved[5:])


async def test_disabled_kms_key_stops_ageing_and_no_save(kms: Any, places: Places) -> None:
    """Someone disables the key, then enables it (a server in front of moto, which would not mind, says so)."""
    section, disabled = await kms_section(kms), []

    async def answer(request: Request) -> Answer:
        if disabled:
            return Answer(status=400, body=b'{"__type": "DisabledException", "message": "the key is disabled"}')
        return await forward(request, kms.meta.endpoint_url)

    async with ScriptedServer(answer) as front:
        section["kms_endpoint_url"] = front.endpoint
        async with product(encrypted(places, encryption=section)) as shop:
            saved = list(snapshots(2, created_at=shop.clock.now()))
            await aged(shop, saved)
            disabled.append(True)
            later = list(snapshots(1, start=9, created_at=shop.clock.now()))
            await save_all(shop, later)
            shop.runtime.keys._opened.clear()
            with pytest.raises(MasterKeyUnavailable, match="DisabledException") as refused:
                await shop.storage.get_snapshot(saved[5].snapshot_id)
            assert "enable it" in refused.value.hint
            shop.clock.advance(9 * DAY)
            with pytest.raises(MasterKeyUnavailable, match="were not aged"):
                await shop.run("age")
            assert await shop.hot_count() == 5
            disabled.clear()
            shop.clock.advance(DAY)
            await shop.run("age")
            assert await shop.hot_count() == 0
            await unharmed(shop, saved + later)


async def test_sagas_move_from_a_key_file_to_kms(kms: Any, places: Places, tmp_path: Path) -> None:
    """Both are configured, `rotate` re-wraps, then the file can go; packs stay as they are."""
    key_file(tmp_path)
    section = await kms_section(kms)
    async with product(encrypted(places)) as shop:
        saved = list(snapshots(3, created_at=shop.clock.now()))
        await aged(shop, saved)
        now = shop.clock.now()
    before = bucket(tmp_path)
    async with product(encrypted(places, encryption=section), now=now) as shop:
        with pytest.raises(MasterKeyUnavailable, match="file:first, which is not configured"):
            await shop.storage.get_snapshot(saved[0].snapshot_id)
    both = {**section, "key_file": tmp_path / "master.keys"}
    async with product(encrypted(places, encryption=both), now=now) as shop:
        await unharmed(shop, saved)
        assert sum([count async for count in shop.runtime.keys.rotate()]) == 3
    async with product(encrypted(places, encryption=section), now=now) as shop:
        await unharmed(shop, saved)
    assert bucket(tmp_path) == before


async def test_kms_binds_a_wrapping_to_its_saga(kms: Any) -> None:
    """A wrapped key put into another saga's row does not open."""
    section = await kms_section(kms)
    master = Kms(
        EncryptionSettings(
            kms_key_id=section["kms_key_id"], kms_region="us-east-1", kms_endpoint_url=kms.meta.endpoint_url
        )
    )
    try:
        wrapped = await master.wrap(b"s" * 32, uuid4(), uuid4())
        assert await master.unwrap(wrapped) == b"s" * 32
        moved = type(wrapped)(
            key_id=wrapped.key_id, saga_id=uuid4(), wrapped=wrapped.wrapped, master_id=wrapped.master_id
        )
        with pytest.raises(MasterKeyUnavailable, match="InvalidCiphertext"):
            await master.unwrap(moved)
    finally:
        await master.close()


@pytest.mark.parametrize("fault", ["no key", "nobody listens"])
async def test_kms_that_cannot_be_asked_is_named(kms: Any, fault: str) -> None:
    """Typed, with the operation and a hint; nothing is retried for ever."""
    endpoint = kms.meta.endpoint_url if fault == "no key" else f"http://127.0.0.1:{free_port()}"
    master = Kms(EncryptionSettings(kms_key_id=str(uuid4()), kms_region="us-east-1", kms_endpoint_url=endpoint))
    try:
        with pytest.raises(MasterKeyUnavailable, match="KMS Encrypt") as refused:
            await master.wrap(b"s" * 32, uuid4(), uuid4())
        assert refused.value.hint
        with pytest.raises(MasterKeyUnavailable, match="KMS DescribeKey"):
            await master.current_id()
    finally:
        await master.close()


async def test_backup_of_data_keys_after_the_catalog_is_lost(
    places: Places, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """The rebuilt catalog knows every snapshot and reads none, until the keys are back; what was erased stays so."""
    key_file(tmp_path)
    async with product(encrypted(places)) as shop:
        saved = list(snapshots(4, created_at=shop.clock.now()))
        await aged(shop, saved)
        backup = [line async for line in export_keys(shop.runtime.job_context())]
        assert len(read_backup(backup)) == 4
        await shop.storage.forget(saved[0].saga_id)
        await shop.run("collect")  # takes the journal to the bucket
        assert (await import_keys(shop.runtime.job_context(), backup)).destroyed == 1
        now = shop.clock.now()
    async with (
        fresh_database(postgres_server) as other,
        product(encrypted({**places, "database": other}), now=now) as shop,
    ):
        context, tally = shop.runtime.job_context(), Tally(None)
        await rebuilt_from_bucket(shop, tally)
        assert tally.counts["encrypted_frames"] == 4
        assert not await shop.storage.timeline(saved[0].saga_id)
        assert len(await shop.storage.timeline(saved[5].saga_id)) == 5
        with pytest.raises(ErasedData) as lost:
            await shop.storage.get_snapshot(saved[5].snapshot_id)
        assert "keys import" in lost.value.hint
        assert (await shop.runtime.catalog.saga_keys.totals()).keyless_frames == 3
        fresh = [s for s in snapshots(2, start=1, created_at=shop.clock.now()) if s.saga_id == saved[5].saga_id]
        newer = [type(s)(**{**_fields(s), "snapshot_id": uuid4()}) for s in fresh]
        await aged(shop, newer)  # a new key for a saga whose old one is yet to come
        done = await import_keys(context, backup)
        assert (done.added, done.already_there, done.destroyed) == (3, 0, 1)
        await unharmed(shop, [*saved[5:10], *newer])
        await unharmed(shop, saved[10:])
        again = await import_keys(context, backup)
        assert (again.added, again.already_there, again.destroyed) == (0, 3, 1)
        receipt = await shop.storage.forget(saved[5].saga_id)
        assert receipt.complete
        left = await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.saga_keys")
        assert left == 2


async def test_export_takes_the_place_of_an_earlier_one_and_of_nothing_else(
    places: Places, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """What was forgotten may be missing; what the catalog lost, another catalog's and other files stay."""
    key_file(tmp_path)
    file = tmp_path / "sagaz.keys"
    async with product(encrypted(places)) as shop:
        saved = list(snapshots(3, created_at=shop.clock.now()))
        await aged(shop, saved)
        context = shop.runtime.job_context()
        assert await write_backup(context, file) == 3
        shop.clock.advance(DAY)
        await shop.storage.forget(saved[0].saga_id)
        assert await write_backup(context, file) == 2
        kept = file.read_bytes()
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.saga_keys")
        with pytest.raises(ConfigError, match="has 2 data keys that the catalog lacks") as refused:
            await write_backup(context, file)
        assert f"keys import {file}" in refused.value.hint
        assert file.read_bytes() == kept
        await import_keys(context, kept.splitlines())
        for other in (b"", b"\x00", b"a diary\n", kept[:-5]):
            file.write_bytes(other)
            with pytest.raises(ConfigError, match="is no whole key backup"):
                await write_backup(context, file)
            assert file.read_bytes() == other
        assert await write_backup(context, file, force=True) == 2
        link, pipe = tmp_path / "link", tmp_path / "pipe"
        link.symlink_to(file)
        file.write_bytes(kept)
        shop.clock.advance(DAY)
        assert await write_backup(shop.runtime.job_context(), link) == 2
        assert link.is_symlink()
        assert file.read_bytes() != kept  # the time of the export
        os.mkfifo(pipe)
        with pytest.raises(ConfigError, match="is no file"):
            await write_backup(context, pipe, force=True)
        assert pipe.is_fifo()
        now = shop.clock.now()
    async with (
        fresh_database(postgres_server) as elsewhere,
        product(encrypted({**places, "database": elsewhere}), now=now) as shop,
    ):
        with pytest.raises(ConfigError, match="of another catalog"):
            await write_backup(shop.runtime.job_context(), file)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


async def test_backups_imported_in_the_wrong_order(places: Places, tmp_path: Path) -> None:
    """The one from before a rotation, whose master key is gone, does not keep out the one from after it."""
    file = key_file(tmp_path)
    async with product(encrypted(places)) as shop:
        saved = list(snapshots(3, created_at=shop.clock.now()))
        await aged(shop, saved)
        context = shop.runtime.job_context()
        before = [line async for line in export_keys(context)]
        key_file(tmp_path, "second")
        assert sum([count async for count in shop.runtime.keys.rotate()]) == 3
        after = [line async for line in export_keys(context)]
        file.write_text(file.read_text().splitlines(keepends=True)[0])
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.saga_keys")
        shop.runtime.keys._opened.clear()
        assert (await import_keys(context, before)).added == 3
        assert [each.master_id for each in await shop.runtime.keys.locked()] == ["file:first"]
        done = await import_keys(context, after)
        assert (done.added, done.replaced, done.already_there) == (0, 3, 0)
        assert not await shop.runtime.keys.locked()
        await unharmed(shop, saved)
        done = await import_keys(context, before)
        assert (done.replaced, done.already_there) == (0, 3)
        await unharmed(shop, saved)


def _fields(snapshot: Any) -> dict[str, Any]:
    return {name: getattr(snapshot, name) for name in type(snapshot).__dataclass_fields__}


async def test_backup_that_is_not_whole_is_refused(places: Places, tmp_path: Path) -> None:
    """Cut off, changed, or no backup at all: nothing is imported, and the line is named."""
    key_file(tmp_path)
    async with product(encrypted(places)) as shop:
        await aged(shop, list(snapshots(3, created_at=shop.clock.now())))
        context = shop.runtime.job_context()
        backup = [line async for line in export_keys(context)]
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.saga_keys")
        damaged = {
            "cut off": backup[:-1],
            "line 1": backup[1:],
            "line 2": [backup[0], backup[1][:-9], *backup[2:]],
            "line 3": [*backup[:2], b'{"key_id": 7}\n', *backup[3:]],
            "line 6": [*backup, backup[1]],
        }
        for reason, lines in damaged.items():
            with pytest.raises(ConfigError, match=reason):
                await import_keys(context, lines)
        assert await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.saga_keys") == 0
        assert (await import_keys(context, backup)).added == 3


async def test_key_commands(places: Places, database: str, redis_url: str, tmp_path: Path) -> None:
    """generate, status, rotate, export, import and forget, as a person types them."""
    path = write_config(
        tmp_path / "tiering.yaml",
        database=database,
        redis_url=redis_url,
        cold=tmp_path / "cold",
        policies=POLICIES,
        encryption={"key_file": "master.keys"},
    )
    settings = encrypted(places)
    made = await cli("keys", "generate", "--name", "a", "--config", path)
    assert made.code == 0, made.err
    assert (tmp_path / "master.keys").stat().st_mode & 0o777 == 0o600
    async with product(settings, now=SystemClock().now() - 10 * DAY) as shop:
        saved = list(snapshots(3, created_at=shop.clock.now()))
        await aged(shop, saved)
    status = await cli("keys", "status", "--json", "--config", path)
    assert status.code == 0, status.err
    assert status.document == {
        "current": "file:a",
        "error": None,
        "data_keys": {"file:a": 3},
        "encrypted_frames": 3,
        "frames_without_key": 0,
        "journal_entries": {},
        "status": "healthy",
        "warnings": [],
    }
    assert (await cli("keys", "generate", "--name", "a", "--config", path)).code == 2
    assert (await cli("keys", "generate", "--json", "--config", path)).document["file"] == str(tmp_path / "master.keys")
    rotated = await cli("keys", "rotate", "--json", "--config", path)
    assert (rotated.document["rotated"], rotated.document["under_other_master_keys"]) == (3, 0)
    exported = await cli("keys", "export", tmp_path / "keys.jsonl", "--config", path)
    assert exported.code == 0, exported.err
    assert "3 data keys" in exported.out
    again = await cli("keys", "export", tmp_path / "keys.jsonl", "--config", path)  # as each day
    assert (again.code, "3 data keys" in again.out) == (0, True), again.err
    assert (tmp_path / "keys.jsonl").stat().st_mode & 0o777 == 0o600
    forgotten = await cli("forget", saved[0].saga_id, "--reason", "r", "--yes", "--config", path)
    assert "key destroyed" in forgotten.out
    assert "nobody can decrypt" in forgotten.out
    assert "yes, nothing readable is left" in forgotten.out
    imported = await cli("keys", "import", tmp_path / "keys.jsonl", "--json", "--config", path)
    assert imported.document == {"added": 0, "already_there": 2, "destroyed": 1, "replaced": 0, "warnings": []}
    shown = await cli("show", saved[5].snapshot_id, "--config", path)
    assert shown.code == 0, shown.err
    (tmp_path / "master.keys").chmod(0o644)
    broken = await cli("keys", "status", "--config", path)
    assert broken.code == 4
    assert "open to others" in broken.out
    assert (await cli("show", saved[5].snapshot_id, "--config", path)).code == 4
    job = await cli("job", "age", "--once", "--config", path)
    assert job.code == 4
    assert "chmod 600" in job.err


async def test_lost_keys_are_degraded_everywhere(
    places: Places, database: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost master key behind a current one that works, then lost data keys: each with what to do."""
    monkeypatch.setenv("NO_COLOR", "1")
    path = write_config(
        tmp_path / "tiering.yaml",
        database=database,
        redis_url=redis_url,
        cold=tmp_path / "cold",
        policies=POLICIES,
        encryption={"key_file": "master.keys"},
    )
    file = key_file(tmp_path)
    settings = encrypted(places)
    async with product(settings, now=SystemClock().now() - 10 * DAY) as shop:
        saved = list(snapshots(3, created_at=shop.clock.now()))
        await aged(shop, saved)
        assert (await shop.storage.health_check()).status == "healthy"
        file.unlink()
        key_file(tmp_path, "second")
        health = await shop.storage.health_check()
        [warning] = health.details["cold"]["warnings"]
        assert (health.status, "3 data keys under file:first cannot be opened" in warning) == ("degraded", True)
        [locked] = await shop.runtime.keys.locked()
        assert (locked.master_id, locked.data_keys, bool(locked.error.hint)) == ("file:first", 3, True)
    status = await cli("keys", "status", "--json", "--config", path)
    document = status.document
    assert (status.code, document["current"], document["error"]) == (4, "file:second", None)
    assert (document["status"], document["warnings"]) == ("degraded", [warning])
    assert (await cli("status", "--json", "--config", path)).document["encryption"] == {"warnings": [warning]}
    assert "warning: 3 data keys under file:first" in (await cli("status", "--config", path)).out
    async with open_runtime(settings) as runtime:
        await runtime.db.execute("DELETE FROM sagaz_tiering.saga_keys")
        health = await runtime.storage().health_check()
        monkeypatch.setattr(saga_keys, "MOST_FRAMES", 2)
        [some] = await runtime.keys.warnings()
    assert "2 of 2 encrypted frames that were looked at have lost" in some
    assert (health.status, "lost their data key" in health.details["cold"]["warnings"][0]) == ("degraded", True)
    status = await cli("keys", "status", "--config", path)
    assert (status.code, "keys import FILE" in status.out, "degraded" in status.out) == (6, True, True)


async def test_policy_needs_a_master_key_in_the_configuration(tmp_path: Path) -> None:
    """A file whose policies encrypt under nothing is refused with the line and the fix."""
    path = write_config(
        tmp_path / "tiering.yaml",
        database="postgresql://localhost/x",
        redis_url="redis://localhost:6379/0",
        cold=tmp_path / "cold",
        policies=POLICIES,
    )
    checked = await cli("policy", "check", path)
    assert checked.code == 2
    assert "needs a section encryption: {key_file: PATH}" in checked.out + checked.err


async def test_missing_library_is_named_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a section `encryption` and without `cryptography` nothing opens; without the section nothing needs it."""
    monkeypatch.setitem(sys.modules, "cryptography", None)
    places = {"database": "postgresql://127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0", "cold": tmp_path / "cold"}
    settings = encrypted(places)
    with pytest.raises(MissingDependencyError) as refused:
        async with open_runtime(settings):
            pass
    assert refused.value.package == "cryptography"
    clear = encrypted(places, encryption=None, policies=POLICIES[1:])
    async with open_runtime(clear):
        pass
