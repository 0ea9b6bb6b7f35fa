"""`FilesystemSnapshotStorage` beyond the contract of all storages: its files, its options, its errors."""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import json
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.exact import exactly
from support.processes import assert_private
from support.snapshots import OTHER_SAGA, SAGA, ids_of, make, number, replay, save_all
from support.tiers import NOW

from sagaz_tiering import FilesystemSnapshotStorage
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.errors import ConfigError, CorruptRecord, LocalStorageUnavailable, TierUnavailable
from sagaz_tiering.storage.base import SnapshotStorage
from sagaz_tiering.storage.filesystem.layout import stripe

SEED_KEYS = {
    *("storage_type", "base_path", "compression_enabled", "total_sagas", "total_snapshots", "total_replays"),
    *("total_size_bytes", "total_size_mb"),
}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture
def storage(tmp_path: Path, clock: VirtualClock) -> SnapshotStorage:
    return FilesystemSnapshotStorage(tmp_path, clock=clock)


def file_of(base: Path, snapshot_id: Any, saga_id: Any = SAGA) -> Path:
    return base / "snapshots" / str(saga_id) / f"{snapshot_id}.json"


def index_of(base: Path, saga_id: Any = SAGA) -> Any:
    return json.loads((base / "indexes" / f"{saga_id}.json").read_text())


def edited(path: Path, change: Any) -> None:
    """What a person does with an editor."""
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields, indent=2))


async def test_files_are_where_the_documents_say(storage: SnapshotStorage, tmp_path: Path) -> None:
    """One readable document for each snapshot and replay, one list for each saga."""
    first, second = await save_all(storage, [make(0), make(1, external_refs={"a": "s3://b/c"})])
    await storage.save_replay_log(replay(5, context_override={"a": 1}))
    text = file_of(tmp_path, second.snapshot_id).read_text()
    fields = json.loads(text)
    assert text.startswith('{\n  "snapshot_id": "a0000000-')
    assert fields.pop("encoding") == "plain"
    assert fields.pop("checksum").startswith("sha256:")
    assert fields == second.to_dict()
    index = index_of(tmp_path)
    assert index["saga_id"] == str(SAGA)
    assert [(each["snapshot_id"], each["created_at"]) for each in index["snapshots"]] == [
        (str(each.snapshot_id), each.created_at.isoformat()) for each in (second, first)
    ]
    kept = json.loads((tmp_path / "replays" / f"{number(5)}.json").read_text())
    assert {key: kept[key] for key in replay(5).to_dict()} == replay(5, context_override={"a": 1}).to_dict()
    assert sorted(os.listdir(tmp_path)) == ["ids", "indexes", "replays", "snapshots"]


async def test_options_choose_the_form(tmp_path: Path) -> None:
    """One line without `pretty_json`; gzip under the name .json.gz with `enable_compression`."""
    async with FilesystemSnapshotStorage(tmp_path, False, False) as plain:
        await plain.save_snapshot(make(0))
    assert file_of(tmp_path, number(0)).read_text().count("\n") == 1
    async with FilesystemSnapshotStorage(str(tmp_path), enable_compression=True) as packed:
        await packed.save_snapshot(make(1))
        path = file_of(tmp_path, number(1)).with_suffix(".json.gz")
        assert json.loads(gzip.decompress(path.read_bytes()))["step_name"] == "step_1"
        assert await ids_of(packed) == [number(0), number(1)]


@pytest.mark.parametrize("now_packed", [True, False])
async def test_another_compression_leaves_one_file(tmp_path: Path, now_packed: bool) -> None:
    """A re-save under the other name removes the old one."""
    async with FilesystemSnapshotStorage(tmp_path, not now_packed) as before:
        await before.save_snapshot(make(0))
    async with FilesystemSnapshotStorage(tmp_path, now_packed) as after:
        await after.save_snapshot(make(0, status="new"))
        assert [path.suffix for path in (tmp_path / "snapshots" / str(SAGA)).iterdir()] == [
            ".gz" if now_packed else ".json"
        ]
        assert await after.get_snapshot(number(0)) == make(0, status="new")
        assert await ids_of(after) == [number(0)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("context", "encoding"),
    [
        ({"nul": "a\0b", "~tag": 1, "deep": [[{}]], "big": 2**63, "text": "東京 \u2028"}, "plain"),
        ({"nan": float("nan"), "zero": -0.0}, "typed"),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC), "set": {1, 2}, "bytes": b"\0\xff", "huge": 10**40}, "typed"),
        ({"lone": "\ud83d", "\udc00key": "x\ud800y"}, "typed"),
        ({"pair of lone ones": "\ud83d\ude00", "three": "\ud83d\ud83d\ude00"}, "typed"),
    ],
)
async def test_any_context_is_exact_and_says_how_it_is_written(
    tmp_path: Path, context: dict[str, Any], encoding: str, packed: bool
) -> None:
    """Plain JSON where that is exact, tagged JSON with its marker elsewhere."""
    async with FilesystemSnapshotStorage(tmp_path, packed) as storage:
        await storage.save_snapshot(make(0, context=context))
        found = await storage.get_snapshot(number(0))
    assert found is not None
    assert exactly(found.context) == exactly(context)
    [path] = (tmp_path / "snapshots" / str(SAGA)).iterdir()
    data = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    assert json.loads(data.decode("utf-8", "surrogatepass"))["encoding"] == encoding


@pytest.mark.parametrize("pretty", [True, False])
async def test_large_documents_are_lines_for_people_too(tmp_path: Path, pretty: bool) -> None:
    """From 256 KiB on too documents are exact and, if asked for, indented."""
    context = {"rows": [{"a": [1, [], {}], "}{": '\\"],[{\n'} for _ in range(8_000)], "e": {}, "x": "~" * 300_000}
    for typed in ({}, {"at": NOW, "lone": "\ud800"}):
        async with FilesystemSnapshotStorage(tmp_path, pretty_json=pretty) as storage:
            await storage.save_snapshot(make(0, context=context | typed))
            found = await storage.get_snapshot(number(0))
        assert found is not None
        assert exactly(found.context) == exactly(context | typed)
        lines = file_of(tmp_path, number(0)).read_text("utf-8").splitlines()
        assert len(lines) > 16_000 if pretty else len(lines) == 1
        assert max(map(len, lines)) < 400_000 or not pretty


async def test_edited_by_hand_is_said_so(storage: SnapshotStorage, tmp_path: Path) -> None:
    """Valid JSON with another checksum is told from damage; without its checksum line it is taken as it is."""
    await save_all(storage, [make(0), make(1)])
    path = file_of(tmp_path, number(1))
    edited(path, lambda fields: fields["context"].update(order="O-2"))
    for read in (storage.get_snapshot(number(1)), storage.get_latest_snapshot(SAGA)):
        with pytest.raises(CorruptRecord, match="edited by hand") as caught:
            await read
        assert str(path) in str(caught.value)
        assert 'remove the "checksum" line' in caught.value.hint
    with pytest.raises(CorruptRecord, match="edited by hand") as caught:
        await storage.list_snapshots(SAGA)
    assert caught.value.readable == (make(0),)
    edited(path, lambda fields: fields.pop("checksum"))
    found = await storage.get_latest_snapshot(SAGA)
    assert found is not None
    assert found.context["order"] == "O-2"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("share", [0, 0.3, 0.999])
async def test_truncated_is_said_so(tmp_path: Path, packed: bool, share: float) -> None:
    """And the rest of the saga is still there."""
    async with FilesystemSnapshotStorage(tmp_path, packed) as storage:
        await save_all(storage, [make(0), make(1)])
        path = file_of(tmp_path, number(1)).with_suffix(".json.gz" if packed else ".json")
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(CorruptRecord, match="truncated"):
            await storage.get_snapshot(number(1))
        with pytest.raises(CorruptRecord, match="truncated"):
            await storage.get_latest_snapshot(SAGA)  # the index remembers that it is the newest
        assert await storage.get_snapshot_at_time(SAGA, make(0).created_at) == make(0)
        with capture_logs() as logs, pytest.raises(CorruptRecord, match="truncated") as caught:
            await storage.list_snapshots(SAGA)
        assert caught.value.readable == (make(0),)
        assert [(line["event"], line["snapshot_id"]) for line in logs] == [("snapshot.unreadable", str(number(1)))]
        assert await storage.delete_snapshot(number(1)) is True


async def test_unreadable_and_unknown_is_no_miss(storage: SnapshotStorage, tmp_path: Path) -> None:
    """Where nothing tells which snapshot a damaged file was, it may be the one that is asked for."""
    await storage.save_snapshot(make(0))
    file_of(tmp_path, number(0)).write_text("{")
    (tmp_path / "indexes" / f"{SAGA}.json").unlink()
    with pytest.raises(CorruptRecord):
        await storage.get_latest_snapshot(SAGA)
    await storage.save_snapshot(make(1))
    assert await storage.get_latest_snapshot(SAGA) == make(1)
    assert await storage.cleanup_saga(SAGA) == 2


async def test_a_file_under_a_wrong_name_is_not_read_as_another(storage: SnapshotStorage, tmp_path: Path) -> None:
    """A copy under another id is no second snapshot, and does not hide the first."""
    await storage.save_snapshot(make(0))
    file_of(tmp_path, number(1)).write_bytes(file_of(tmp_path, number(0)).read_bytes())
    with pytest.raises(CorruptRecord, match="which its name does not say") as caught:
        await storage.list_snapshots(SAGA)
    assert caught.value.readable == (make(0),)
    assert await storage.get_latest_snapshot(SAGA) == make(0)
    await storage.delete_snapshot(number(0))
    with pytest.raises(CorruptRecord, match="which its name does not say"):
        await storage.get_latest_snapshot(SAGA)


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        lambda path: path.write_text("{"),
        lambda path: path.write_text('{"saga_id": "x", "snapshots": []}'),
        lambda path: path.write_text(path.read_text().replace("2026", "2027")),
        lambda path: path.write_bytes(gzip.compress(b"{}")),
        lambda path: (path.rename(path.parent / "it"), path.symlink_to("it")),
    ],
    ids=["gone", "torn", "foreign", "altered", "packed", "link"],
)
async def test_an_index_is_only_a_help(storage: SnapshotStorage, tmp_path: Path, harm: Any) -> None:
    """Whatever happens to it, the answers are the same, and it is written anew."""
    saved = await save_all(storage, [make(each) for each in range(4)])
    before = index_of(tmp_path)
    harm(tmp_path / "indexes" / f"{SAGA}.json")
    assert await storage.get_latest_snapshot(SAGA) == saved[-1]
    assert index_of(tmp_path) == before


async def test_an_old_index_hides_nothing(storage: SnapshotStorage, tmp_path: Path) -> None:
    """A backup of the index brings nothing back and takes nothing away."""
    await save_all(storage, [make(0), make(1)])
    path = tmp_path / "indexes" / f"{SAGA}.json"
    old = path.read_bytes()
    await storage.save_snapshot(make(1, created_at=make(0).created_at - timedelta(days=1)))
    await storage.save_snapshot(make(2))
    await storage.delete_snapshot(number(0))
    path.write_bytes(old)
    assert await ids_of(storage) == [number(1), number(2)]


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The name of every file that was opened, once it is emptied by the test."""
    seen: list[str] = []
    watching = True

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(args[0], str):
            seen.append(args[0])

    sys.addaudithook(hook)  # cannot be removed
    yield seen
    watching = False


async def test_queries_read_only_what_they_return(
    storage: SnapshotStorage, opened: list[str], clock: VirtualClock
) -> None:
    """No other snapshot's file is opened, nor is one to find what has expired."""
    until = NOW + timedelta(hours=1)
    saved = await save_all(storage, [make(each, retention_until=until if each == 4 else None) for each in range(5)])

    def read() -> list[int]:
        files = [name for name in opened if name.startswith("a0000000") and name.endswith(".json")]
        opened.clear()
        return [int(name[:36].replace("-", ""), 16) - number(0).int for name in files]

    read()
    assert await storage.get_snapshot_at_time(SAGA, saved[2].created_at) == saved[2]
    assert await storage.get_latest_snapshot(SAGA, before_step="step_1") == saved[1]
    assert read() == [2, 1]
    assert await storage.list_snapshots(SAGA, limit=2) == [saved[4], saved[3]]
    assert read() == [4, 3]
    clock.advance(timedelta(hours=1))
    assert [each async for each in storage.saga_ids()] == [SAGA]
    assert await storage.delete_expired_snapshots() == 1
    assert (await storage.health_check()).snapshot_count == 4
    await storage.save_snapshot(make(6))
    assert read() == []
    assert await storage.get_latest_snapshot(SAGA) == make(6)
    assert read() == [6]


async def test_what_is_saved_anew_is_not_removed(tmp_path: Path, clock: VirtualClock) -> None:
    """A snapshot that was found expired, or in a saga, and saved otherwise before its turn to be removed, stays."""
    storage = FilesystemSnapshotStorage(tmp_path, clock=clock)
    await storage.save_snapshot(make(0, retention_until=NOW))
    expired = storage._files.of_views([str(SAGA)], storage._expired)
    assert [snapshot_id for snapshot_id, *_ in expired] == [number(0)]
    await storage.save_snapshot(make(0))
    assert storage._files.delete(expired) == 0
    assert await ids_of(storage) == [number(0)]
    await storage.save_snapshot(make(0, saga_id=OTHER_SAGA))
    assert storage._files.delete([(number(0), SAGA, None)]) == 0
    assert await ids_of(storage, OTHER_SAGA) == [number(0)]


async def test_info_is_what_the_documents_say(
    tmp_path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts and an absolute path, without an event loop, and nothing is touched before the first use."""
    monkeypatch.chdir(tmp_path)
    storage = FilesystemSnapshotStorage("./data", clock=clock)
    assert storage.get_storage_info()["total_snapshots"] == 0
    assert os.listdir(tmp_path) == []
    await save_all(storage, [make(0), make(1), make(2, saga_id=OTHER_SAGA)])
    await storage.save_replay_log(replay(1))
    info = storage.get_storage_info()
    assert set(info) >= SEED_KEYS
    assert info["base_path"] == str(tmp_path / "data")
    assert (info["storage_type"], info["compression_enabled"]) == ("filesystem", False)
    assert (info["total_sagas"], info["total_snapshots"], info["total_replays"]) == (2, 3, 1)
    size = sum(path.stat().st_size for path in (tmp_path / "data" / "snapshots").rglob("*.json"))
    assert (info["total_size_bytes"], info["total_size_mb"]) == (size, round(size / 2**20, 2))
    health = await storage.health_check()
    assert (health.status, health.snapshot_count, health.total_size_bytes) == ("healthy", 3, size)
    assert health.details["free_bytes"] > 0
    await storage.cleanup_saga(SAGA)
    assert storage.get_storage_info()["total_sagas"] == 1
    assert not (tmp_path / "data" / "snapshots" / str(SAGA)).exists()
    assert not (tmp_path / "data" / "indexes" / f"{SAGA}.json").exists()


@pytest.mark.parametrize("options", [{"base_path": ""}, {"base_path": 7}, {"max_concurrency": 0}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    """At once, with an error of ours."""
    with pytest.raises(ConfigError):
        FilesystemSnapshotStorage(**options)


async def test_a_directory_that_is_away_is_not_an_empty_one(storage: SnapshotStorage, tmp_path: Path) -> None:
    """While the volume is not mounted nothing is answered and nothing is written; then all is as before."""
    await storage.save_snapshot(make(0))
    snapshots, away = tmp_path / "snapshots", tmp_path / "away"
    snapshots.rename(away)
    for call in (
        storage.get_snapshot(number(0)),
        storage.get_snapshot(number(9)),
        storage.list_snapshots(SAGA),
        storage.get_latest_snapshot(OTHER_SAGA),
        storage.save_snapshot(make(1)),
        storage.delete_snapshot(number(0)),
        storage.delete_expired_snapshots(),
    ):
        with pytest.raises(LocalStorageUnavailable) as caught:
            await call
        assert "mount" in caught.value.hint
    assert (await storage.health_check()).status == "unhealthy"
    assert not snapshots.exists()
    away.rename(snapshots)
    assert await ids_of(storage) == [number(0)]


async def test_without_its_own_files_a_directory_is_complete(storage: SnapshotStorage, tmp_path: Path) -> None:
    """Indexes and ids are derived: removed while the storage is open, they are made anew."""
    await save_all(storage, [make(0), make(1)])
    for folder in ("ids", "indexes"):
        shutil.rmtree(tmp_path / folder)
    assert await storage.get_snapshot(number(0)) == make(0)
    await storage.save_snapshot(make(2))
    assert await ids_of(storage) == [number(0), number(1), number(2)]
    assert len(index_of(tmp_path)["snapshots"]) == 3


async def test_a_lock_that_is_held_for_ever_ends_in_an_error(tmp_path: Path) -> None:
    """A stopped process stops a save for no longer than the deadline; then it works again."""
    storage = FilesystemSnapshotStorage(tmp_path, io_timeout=timedelta(seconds=0.4))
    await storage.save_snapshot(make(0))
    with (tmp_path / "ids" / "locks" / f"record-{stripe(number(0))}").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TierUnavailable, match=r"was not free within 0\.2 s"):
            await storage.save_snapshot(make(0, status="new"))
        assert await ids_of(storage) == [number(0)]  # readers need no lock
    await storage.save_snapshot(make(0, status="new"))
    assert await storage.get_snapshot(number(0)) == make(0, status="new")


async def test_an_index_that_cannot_be_locked_costs_no_save(tmp_path: Path) -> None:
    """Indexes are written by one process at a time; one that is not written is said, and harms no answer."""
    storage = FilesystemSnapshotStorage(tmp_path, io_timeout=timedelta(seconds=0.4))
    await storage.save_snapshot(make(0))
    with (tmp_path / "ids" / "locks" / f"saga-{stripe(SAGA)}").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with capture_logs() as logs:
            await storage.save_snapshot(make(1))
        assert [line["event"] for line in logs] == ["saga_index.left_old"]
        assert await ids_of(storage) == [number(0), number(1)]
        assert len(index_of(tmp_path)["snapshots"]) == 1
    assert await ids_of(storage) == [number(0), number(1)]
    assert len(index_of(tmp_path)["snapshots"]) == 2


async def test_left_temporary_files_are_removed(storage: SnapshotStorage, tmp_path: Path) -> None:
    """Of dead writers; one whose writer lives has its lock, and stays."""
    await storage.save_snapshot(make(0))
    await storage.save_replay_log(replay(0))
    left = [file_of(tmp_path, number(0)).with_name(f".{number(each)}.tmp") for each in (1, 2)]
    left.append(tmp_path / "replays" / f".{number(1)}.tmp")
    for path in left:
        path.write_text("{")
    with (tmp_path / "ids" / "locks" / f"record-{stripe(number(2))}").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert await ids_of(storage) == [number(0)]
        assert [each async for each in storage.iter_replay_logs()] == [replay(0).to_dict()]
        assert [path.exists() for path in left] == [False, True, False]
    assert await ids_of(storage) == [number(0)]
    assert not left[1].exists()
    left = [tmp_path / "indexes" / f".{SAGA}.tmp", tmp_path / "ids" / stripe(number(0)) / f".{number(0)}.tmp"]
    for path in left:
        path.write_text("{")
    await storage.delete_expired_snapshots()
    assert [path.exists() for path in left] == [False, False]


def test_one_storage_serves_one_event_loop_after_the_other(tmp_path: Path) -> None:
    """As `asyncio.run` for each call gives it, also when calls wait for each other."""
    storage = FilesystemSnapshotStorage(tmp_path, max_concurrency=1)

    async def save(first: int) -> None:
        await asyncio.gather(*(storage.save_snapshot(make(first + each)) for each in range(5)))

    asyncio.run(save(0))
    asyncio.run(save(5))
    assert len(asyncio.run(storage.list_snapshots(SAGA))) == 10


async def test_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    """A context is nobody else's business; so are its index and its replays."""
    before = os.umask(0)
    try:
        async with FilesystemSnapshotStorage(tmp_path / "snapshots") as storage:
            await storage.save_snapshot(make(1))
            await storage.save_replay_log(replay(1))
    finally:
        os.umask(before)
    assert_private(tmp_path / "snapshots")
