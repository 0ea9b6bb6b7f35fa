"""`sagaz-tiering transfer` between real servers: complete, killed and resumed, and what it says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
from support.commands import cli, start_command, write_config
from support.exact import exactly
from support.payload import snapshots
from support.s3_server import S3Server, free_port
from support.snapshots import SAGA, make, replay
from support.transfers import contents

from sagaz_tiering.app.storage_url import open_source, open_storage
from sagaz_tiering.storage.filesystem.storage import FilesystemSnapshotStorage

DEADLINE_S = 300.0


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals in the test's folder, credentials of the test server."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")


@pytest.fixture
async def filled(redis_url: str) -> str:
    """A Redis with 20 sagas and 10 replay records of every type."""
    url = f"{redis_url}?key_prefix=from:"
    await fill(url, sagas=20, logs=10)
    return url


async def fill(url: str, *, sagas: int, logs: int) -> None:
    """Save realistic snapshots, one with every type, and replay records."""
    async with open_storage(url) as storage:
        await asyncio.gather(*map(storage.save_snapshot, snapshots(sagas)))
        await storage.save_snapshot(make(0, context={"tuple": (1, 1.0, True), "set": {1, 2}, "bytes": b"\x00\xff"}))
        for at in range(logs):
            await storage.save_replay_log(replay(at, context_override={"at": (at, b"x")}))


async def whole(url: str) -> list[object]:
    """Everything at a place, to the type of every value."""
    async with open_source(url) as source:
        return await contents(source)


@pytest.fixture
async def places(
    filled: str, database: str, empty_database: str, redis_url: str, s3_server: S3Server, tmp_path: Path
) -> list[str]:
    """One URL of each kind on real servers, the first one filled."""
    bucket = await s3_server.make_bucket()
    (tmp_path / "tiers").mkdir()
    config = write_config(tmp_path / "tiers", database=database, redis_url=redis_url)
    s3 = f"s3://{bucket}/a/b?endpoint_url={s3_server.endpoint}"
    return [filled, s3, empty_database, f"file://{tmp_path}/files", str(config), f"{redis_url}?key_prefix=again:"]


async def test_transfer_moves_everything_from_kind_to_kind(places: list[str]) -> None:
    """Redis -> S3 -> PostgreSQL -> files -> tiers -> Redis: after each step all is there, equal to the last type."""
    wanted = await whole(places[0])
    for source, target in pairwise(places):
        answer = await cli("transfer", "--from", source, "--to", target, "--json")
        assert answer.code == 0, answer.err
        counts = answer.document["snapshots"]
        assert (counts["found"], counts["copied"], counts["verified"], counts["failed"]) == (101, 101, 101, 0)
        assert answer.document["replay_logs"]["copied"] == 10
        assert await whole(target) == wanted


async def test_transfer_again_copies_nothing(filled: str, empty_database: str) -> None:
    """The table says that all is there."""
    assert (await cli("transfer", "--from", filled, "--to", empty_database)).code == 0
    again = await cli("transfer", "--from", filled, "--to", empty_database)
    assert again.code == 0
    [row] = [line.split() for line in again.out.splitlines() if line.strip().startswith("snapshots")]
    assert row == ["snapshots", "101", "0", "101", "0", "0", "0", "0"]


async def _until_done(journal: Path, count: int) -> None:
    """Wait until a journal says that so many snapshots are done."""
    until = time.monotonic() + DEADLINE_S
    while _done(journal) < count:
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


def _done(journal: Path) -> int:
    return int(json.loads(journal.read_bytes())["snapshots"]["found"]) if journal.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_transfer_ended_in_the_middle_goes_on(
    redis_url: str, empty_database: str, tmp_path: Path, number: signal.Signals
) -> None:
    """Killed or stopped, the same command completes it: it begins at the journal's mark, and saves none twice."""
    source, journal = f"{redis_url}?key_prefix=from:", tmp_path / "journal.json"
    await fill(source, sagas=60, logs=20)
    command = ("transfer", "--from", source, "--to", empty_database, "--journal", journal, "--concurrency", 2)
    process = start_command(*command)
    await _until_done(journal, 10)
    assert process.pid is not None
    os.kill(process.pid, number)
    await asyncio.to_thread(process.join, DEADLINE_S)
    assert process.exitcode == {signal.SIGKILL: -9, signal.SIGTERM: 143}[number]
    async with open_source(empty_database) as target:
        before = {snapshot.snapshot_id async for snapshot in target.iter_snapshots()}
    assert 10 <= len(before) < 301
    answer = await cli(*command, "--json")
    assert answer.code == 0, answer.err
    report = answer.document
    assert report["resumed"]
    assert (report["snapshots"]["found"], report["snapshots"]["sagas"], report["failed"]) == (301, 61, 0)
    assert report["snapshots"]["copied"] + report["snapshots"]["already_there"] == 301
    assert report["run_seconds"] < report["seconds"]
    if number is not signal.SIGKILL:
        assert report["snapshots"]["copied"] + len(before) >= 301
    assert await whole(empty_database) == await whole(source)
    assert json.loads(journal.read_bytes())["phase"] == "finished"


async def test_transfer_keeps_its_journal_by_default(filled: str, empty_database: str, tmp_path: Path) -> None:
    """One for each transfer, where state belongs; a dry run keeps none."""
    await cli("transfer", "--from", filled, "--to", empty_database, "--dry-run")
    assert not (tmp_path / "state").exists()
    await cli("transfer", "--from", filled, "--to", empty_database)
    await cli("transfer", "--from", filled, "--to", empty_database, "--saga", SAGA)
    [*journals] = (tmp_path / "state/sagaz-tiering/transfers").glob("*.json")
    assert len(journals) == 2
    assert all("finished" in path.read_text() for path in journals)
    assert not any(secret in path.read_text() for path in journals for secret in _passwords(filled, empty_database))


def _passwords(*urls: str) -> list[str]:
    return [found for url in urls if (found := url.partition("@")[0].rpartition(":")[2])]


async def test_transfer_dry_run_says_what_it_would_do(filled: str, empty_database: str) -> None:
    """And does nothing."""
    answer = await cli("transfer", "--from", filled, "--to", empty_database, "--dry-run", "--json")
    assert (answer.code, answer.document["dry_run"], answer.document["snapshots"]["copied"]) == (0, True, 101)
    assert await whole(empty_database) == []


async def test_transfer_of_chosen_sagas(filled: str, empty_database: str) -> None:
    """With their replay records; one that is not there is exit code 8."""
    answer = await cli("transfer", "--from", filled, "--to", empty_database, "--saga", SAGA, "--json")
    assert (answer.code, answer.document["snapshots"]["copied"], answer.document["replay_logs"]["copied"]) == (0, 1, 10)
    missing = await cli(
        "transfer", "--from", filled, "--to", empty_database, "--saga", str(SAGA).replace("c0ffee", "dec0de")
    )
    assert missing.code == 8
    assert "not at the source" in missing.out


async def test_transfer_says_when_a_server_is_down(filled: str) -> None:
    """Exit code 4, and the URL without its password."""
    target = f"postgresql://user:geheim@127.0.0.1:{free_port()}/none"
    answer = await cli("transfer", "--from", filled, "--to", target, "--saga", SAGA, "--json", "--patience", "1s")
    assert answer.code == 4
    assert "geheim" not in answer.out + answer.err


async def test_transfer_into_tiers_without_a_catalog_says_what_to_run(
    redis_url: str, empty_database: str, tmp_path: Path
) -> None:
    """At once, not item by item."""
    config = write_config(tmp_path, database=empty_database, redis_url=redis_url)
    answer = await cli("transfer", "--from", "memory://", "--to", config)
    assert answer.code == 2
    assert "catalog migrate" in answer.err


async def test_transfer_says_when_policies_let_snapshots_expire_at_once(
    redis_url: str, database: str, tmp_path: Path
) -> None:
    """Old snapshots under a short retention: not a failure, but said and counted."""
    policies = "policies: [{name: short, match: {saga_name: order-processing}, retain: 1d}]\n"
    config = write_config(tmp_path, database=database, redis_url=redis_url, policies=policies)
    await fill(f"file://{tmp_path}/from", sagas=2, logs=0)
    answer = await cli("transfer", "--from", f"file://{tmp_path}/from", "--to", config)
    [row] = [line.split() for line in answer.out.splitlines() if line.strip().startswith("snapshots")]
    assert (answer.code, row) == (0, ["snapshots", "11", "1", "0", "0", "0", "10", "1"]), answer.err
    assert "retention rules" in answer.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "nonsense://x", "--to", "memory://"), "not the place of a storage"),
        (("--from", "memory://", "--to", "file:///tmp/x?colour=red"), "unknown option 'colour'"),
        (("--from", "memory://", "--to", "sagaz+file:///tmp/x"), "can only be read"),
        (("--from", "redis://h", "--to", "redis://h"), "the same"),
        (("--from", "file:///tmp/x", "--to", "memory://", "--journal", "x.json"), "in memory"),
        (("--from", "memory://", "--to", "file:///tmp/x", "--saga", "x"), "must be a UUID"),
        (("--from", "memory://"), "--to"),
    ],
)
async def test_transfer_refuses_a_wrong_command(arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2, nothing opened."""
    answer = await cli("transfer", *arguments)
    assert answer.code == 2
    assert said in answer.err


async def test_transfer_names_what_did_not_arrive(tmp_path: Path) -> None:
    """A damaged file of the source: exit code 6, its name in the report, and everything else at the target."""
    source = FilesystemSnapshotStorage(tmp_path / "from")
    async with source:
        for at in range(5):
            await source.save_snapshot(make(at))
    [path] = (tmp_path / "from").rglob(f"snapshots/**/{make(2).snapshot_id}.json")
    path.write_text(path.read_text()[:-40])
    answer = await cli("transfer", "--from", f"file://{tmp_path}/from", "--to", f"file://{tmp_path}/to")
    assert answer.code == 6
    assert str(make(2).snapshot_id) in answer.out
    assert "1 did not arrive" in answer.err
    assert len(await whole(f"file://{tmp_path}/to")) == 4


async def test_transfer_reads_what_sagaz_wrote(tmp_path: Path, empty_database: str) -> None:
    """Its own storage's files arrive, through the command line."""
    from sagaz.core.storage.backends.filesystem_snapshot import FilesystemSnapshotStorage as Theirs

    theirs = Theirs(str(tmp_path / "old"))
    wanted = [make(at, context={"order": at}, completed_steps=["a"]) for at in range(12)]
    for snapshot in wanted:
        await theirs.save_snapshot(snapshot)
    answer = await cli("transfer", "--from", f"sagaz+file://{tmp_path}/old", "--to", empty_database, "--json")
    assert (answer.code, answer.document["snapshots"]["copied"]) == (0, 12), answer.err
    async with open_source(empty_database) as target:
        found = [snapshot async for snapshot in target.iter_snapshots()]
    assert [exactly(s.to_dict()) for s in found] == [exactly(s.to_dict()) for s in wanted]


async def test_transfer_into_and_out_of_an_archive_class(tmp_path: Path, s3_server: S3Server) -> None:
    """What cannot be read back is there, but not compared; as a source it is left out, with how to restore it."""
    async with open_storage(f"file://{tmp_path}/from") as source:
        for at in range(3):
            await source.save_snapshot(make(at))
    bucket = await s3_server.make_bucket()
    s3 = f"s3://{bucket}/a?endpoint_url={s3_server.endpoint}&storage_class=GLACIER"
    for copied in (3, 0):
        answer = await cli("transfer", "--from", f"file://{tmp_path}/from", "--to", s3, "--json")
        counts = answer.document["snapshots"]
        assert (answer.code, counts["copied"], counts["not_compared"], counts["verified"]) == (0, copied, 3, 0)
    async with open_storage(f"s3://{bucket}/a?endpoint_url={s3_server.endpoint}") as readable:
        await readable.save_snapshot(make(9))
    answer = await cli("transfer", "--from", s3, "--to", f"file://{tmp_path}/to")
    assert answer.code == 5
    [row] = [line.split() for line in answer.out.splitlines() if line.strip().startswith("snapshots")]
    assert row == ["snapshots", "4", "1", "0", "0", "3", "0", "1"]
    assert "restore-object" in answer.out
