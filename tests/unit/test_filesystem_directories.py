"""`FilesystemSnapshotStorage` in directories that are not its alone: sagaz's, other processes', strangers'."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pytest
import sagaz.core.replay as theirs
from sagaz.core.storage.backends.filesystem_snapshot import FilesystemSnapshotStorage as TheirStorage
from support.snapshots import OTHER_SAGA, SAGA, ids_of, make, number, replay, save_all
from support.tiers import NOW

from sagaz_tiering import FilesystemSnapshotStorage
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.errors import LocalStorageUnavailable
from sagaz_tiering.snapshot import SagaSnapshot

TESTS = Path(__file__).parent.parent
DEADLINE_S = 300


def their(snapshot: SagaSnapshot) -> Any:
    """The snapshot as sagaz makes it."""
    return theirs.SagaSnapshot(**{name: getattr(snapshot, name) for name in theirs.SagaSnapshot.__dataclass_fields__})


def their_replay(at: int, **fields: Any) -> Any:
    values = {name: getattr(replay(at), name) for name in theirs.ReplayResult.__dataclass_fields__}
    return theirs.ReplayResult(**{**values, "replay_status": theirs.ReplayStatus.SUCCESS, **fields})


@pytest.fixture
def storage(tmp_path: Path) -> FilesystemSnapshotStorage:
    return FilesystemSnapshotStorage(tmp_path, clock=VirtualClock(NOW))


@pytest.fixture
def looked_into() -> Iterator[list[str]]:
    """Every directory that was listed, once it is emptied by the test."""
    seen: list[str] = []
    watching = True

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching and event in ("os.scandir", "os.listdir"):
            seen.append(f"{event} {args}")

    sys.addaudithook(hook)  # cannot be removed
    yield seen
    watching = False


def run(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A real process with the tests' modules at hand."""
    command = [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(TESTS)!r})\n{code}", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def ended(process: subprocess.Popen[str]) -> list[str]:
    """The lines that it printed behind a "= ", once it has ended well; the rest is its log."""
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return [line[2:] for line in out.splitlines() if line.startswith("= ")]


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("packed", [False, True])
async def test_a_directory_of_sagaz_is_read_in_place(tmp_path: Path, packed: bool, looked_into: list[str]) -> None:
    """All that the real package wrote, by every query; ids are searched for once."""
    saved = [make(each, external_refs={"a": "b"}) for each in range(5)]
    saved.append(
        make(9, saga_id=OTHER_SAGA, context={"~x": 1, "big": 2**70 + 1, "text": "東京\0"}, retention_until=NOW)
    )
    before = TheirStorage(str(tmp_path), enable_compression=packed, pretty_json=not packed)
    for snapshot in saved:
        await before.save_snapshot(their(snapshot))
    for each in (1, 2):
        await before.save_replay_log(their_replay(each, context_override={"n": each}))
    await before.save_replay_log(their_replay(3, original_saga_id=OTHER_SAGA))
    clock = VirtualClock(NOW - timedelta(seconds=1))
    async with FilesystemSnapshotStorage(tmp_path, clock=clock) as storage:
        assert await storage.get_snapshot(number(3)) == saved[3]
        looked_into.clear()
        assert await storage.get_snapshot(number(9)) == saved[5]
        assert await storage.get_snapshot(number(7)) is None
        assert looked_into == []
        assert await ids_of(storage) == [number(each) for each in range(5)]
        assert await storage.get_snapshot_at_time(SAGA, saved[2].created_at) == saved[2]
        assert [each["context_override"] for each in await storage.list_replays(SAGA)] == [{"n": 2}, {"n": 1}]
        assert await storage.get_replay_log(number(3)) == replay(3, original_saga_id=OTHER_SAGA).to_dict()
        assert storage.get_storage_info()["total_snapshots"] == 6
        clock.advance(timedelta(seconds=1))
        assert await storage.delete_expired_snapshots() == 1
        await storage.save_snapshot(make(2, saga_id=OTHER_SAGA, status="new"))
        assert await storage.delete_snapshot(number(1)) is True
        assert await ids_of(storage) == [number(0), number(3), number(4)]
        assert await ids_of(storage, OTHER_SAGA) == [number(2)]
        assert await storage.cleanup_saga(SAGA) == 3


async def test_what_the_indexes_of_sagaz_lost_is_there(tmp_path: Path, storage: FilesystemSnapshotStorage) -> None:
    """Its lists miss what two of its processes saved at once: the files are what counts."""
    before, beside = TheirStorage(str(tmp_path)), TheirStorage(str(tmp_path))
    await before.save_snapshot(their(make(0)))
    index = (tmp_path / "indexes" / f"{SAGA}.json").read_bytes()
    await beside.save_snapshot(their(make(1)))
    (tmp_path / "indexes" / f"{SAGA}.json").write_bytes(index)
    assert len(await before.list_snapshots(SAGA)) == 1
    assert await ids_of(storage) == [number(0), number(1)]


async def test_sagaz_goes_on_reading_and_writing(tmp_path: Path, storage: FilesystemSnapshotStorage) -> None:
    """Its storage reads what ours wrote; what it adds beside ours is in all lists, and by id from then on."""
    peer = TheirStorage(str(tmp_path))
    await storage.save_snapshot(make(0))
    assert (await peer.list_snapshots(SAGA))[0].to_dict() == make(0).to_dict()
    await peer.save_snapshot(their(make(1)))
    assert await storage.get_latest_snapshot(SAGA) == make(1)
    assert await storage.get_snapshot(number(1)) == make(1)
    assert [each.snapshot_id for each in await peer.list_snapshots(SAGA)] == [number(1), number(0)]
    await peer.save_snapshot(their(make(1, status="again")))  # in place, and twice in its index
    assert await ids_of(storage) == [number(0), number(1)]
    assert await storage.get_latest_snapshot(SAGA) == make(1, status="again")


async def test_odd_documents_of_sagaz_are_read_as_it_would(tmp_path: Path, storage: FilesystemSnapshotStorage) -> None:
    """NaN, values that it made text of, times without a zone (its own are UTC), both suffixes of one snapshot."""
    odd = their(make(0, context={"nan": float("nan"), "at": NOW}))
    odd.created_at = odd.created_at.replace(tzinfo=None)
    await TheirStorage(str(tmp_path)).save_snapshot(odd)
    found = await storage.get_snapshot(number(0))
    assert found is not None
    assert math.isnan(found.context["nan"])
    assert found.context["at"] == str(NOW)
    assert found.created_at == make(0).created_at
    packed = TheirStorage(str(tmp_path), enable_compression=True)
    (tmp_path / "indexes" / f"{SAGA}.json").unlink()
    await packed.save_snapshot(their(make(0, status="newer")))
    assert await storage.list_snapshots(SAGA) == [make(0, status="newer")]
    assert await storage.get_snapshot(number(0)) == make(0, status="newer")
    await storage.save_snapshot(make(0, status="newest"))
    assert os.listdir(tmp_path / "snapshots" / str(SAGA)) == [f"{number(0)}.json"]


async def test_an_id_is_found_without_listing_directories(
    storage: FilesystemSnapshotStorage, looked_into: list[str]
) -> None:
    """However many sagas there are: hit, miss, re-save and delete look at known names only."""
    await save_all(storage, [make(each, saga_id=UUID(int=each + 1)) for each in range(30)])
    looked_into.clear()
    assert await storage.get_snapshot(number(17)) is not None
    assert await storage.get_snapshot(number(40)) is None
    assert await storage.delete_snapshot(number(40)) is False
    assert looked_into == []
    await storage.delete_snapshot(number(3))
    await storage.save_snapshot(make(5, saga_id=UUID(int=8)))
    assert all(event.startswith("os.scandir") for event in looked_into)
    assert len(looked_into) < 6  # of the sagas concerned, for their indexes


async def test_strangers_are_ignored(tmp_path: Path, storage: FilesystemSnapshotStorage) -> None:
    """Links, pipes, directories and files of other names: none is read, followed, listed, counted or removed."""
    saved = await save_all(storage, [make(0), make(1)])
    saga, outside = tmp_path / "snapshots" / str(SAGA), tmp_path / "outside"
    outside.mkdir()
    (outside / f"{number(5)}.json").write_bytes((saga / f"{number(1)}.json").read_bytes())
    (saga / f"{number(5)}.json").symlink_to(outside / f"{number(5)}.json")
    (saga / f"{number(6)}.json").symlink_to("nowhere")
    (saga / f"{number(7)}.json").mkdir()
    os.mkfifo(saga / f"{number(8)}.json")
    for name in ("notes.txt", f"{number(9)}.json.bak", f"{str(number(10)).upper()}.json", ".tmp", "..tmp"):
        (saga / name).write_text("mine")
    (saga.parent / str(OTHER_SAGA)).symlink_to(outside)
    (saga.parent / "lost+found").mkdir()
    (saga.parent / str(number(1))).write_text("a file")
    (saga.parent / str(number(2)).upper()).mkdir()
    (tmp_path / "replays" / f"{number(1)}.json").symlink_to("/etc/passwd")
    (tmp_path / "ids" / "moves" / str(number(0))).write_text('{"old": ["../..", "x"], "new": 3}')
    before = names_below(tmp_path)
    assert await ids_of(storage) == [number(0), number(1)]
    assert [each async for each in storage.saga_ids()] == [SAGA]
    assert [each async for each in storage.iter_snapshots()] == saved
    assert [each async for each in storage.iter_replay_logs()] == []
    for each in range(5, 9):
        assert await storage.get_snapshot(number(each)) is None
        assert await storage.delete_snapshot(number(each)) is False
    assert await storage.list_snapshots(OTHER_SAGA) == []
    assert await storage.delete_expired_snapshots() == 0
    assert storage.get_storage_info()["total_snapshots"] == 2
    assert (await storage.health_check()).snapshot_count == 2
    with pytest.raises(LocalStorageUnavailable):
        await storage.save_snapshot(make(9, saga_id=OTHER_SAGA))
    assert os.listdir(outside) == [f"{number(5)}.json"]
    assert await storage.cleanup_saga(SAGA) == 2
    gone = before - names_below(tmp_path)
    assert {name for name in gone if not name.startswith("ids/")} == {
        *(f"snapshots/{SAGA}/{number(each)}.json" for each in (0, 1)),
        f"indexes/{SAGA}.json",
    }


SAVING = """
import asyncio
from support.snapshots import OTHER_SAGA, SAGA, make, number
from sagaz_tiering import FilesystemSnapshotStorage

async def main(base, worker):
    async with FilesystemSnapshotStorage(base, enable_compression=worker % 2 == 1) as storage:
        print("ready", flush=True)
        sys.stdin.readline()
        for turn in range(15):
            place = (SAGA, OTHER_SAGA)[(turn + worker) % 2]
            await asyncio.gather(
                storage.save_snapshot(make(1000 * worker + turn)),
                *(storage.save_snapshot(make(each, saga_id=place)) for each in range(3)),
                storage.get_snapshot(number(turn % 3)),
                storage.list_snapshots(OTHER_SAGA),
            )
            if turn % 5 == 4:
                await storage.delete_snapshot(number(1000 * worker + turn))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_processes_share_a_directory(tmp_path: Path, storage: FilesystemSnapshotStorage) -> None:
    """Four of them add to one saga, and move the same three snapshots about: nothing is lost, double or left over."""
    workers = [run(SAVING, tmp_path, worker, stdin=subprocess.PIPE) for worker in range(1, 5)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        await asyncio.to_thread(ended, worker)
    own = {number(1000 * worker + turn) for worker in range(1, 5) for turn in range(15) if turn % 5 != 4}
    listed = json.loads((tmp_path / "indexes" / f"{SAGA}.json").read_text())["snapshots"]
    assert own <= {UUID(each["snapshot_id"]) for each in listed}  # before anyone has read, and put right, anything
    here, there = await ids_of(storage), await ids_of(storage, OTHER_SAGA)
    assert set(here) - own | set(there) == {number(each) for each in range(3)}
    assert len(here) + len(there) == len(own) + 3
    for snapshot_id in (*here, *there):
        assert (await storage.get_snapshot(snapshot_id)) is not None
    files = sorted(path.name for path in (tmp_path / "snapshots").rglob("*") if path.is_file())
    assert [name[:36] for name in files] == sorted(map(str, (*here, *there)))
    assert os.listdir(tmp_path / "ids" / "moves") == []


LIMITED = """
import asyncio, resource
from support.snapshots import SAGA, make, number, replay
from sagaz_tiering import FilesystemSnapshotStorage
from sagaz_tiering.errors import LocalStorageUnavailable

async def main(base):
    async with FilesystemSnapshotStorage(base) as storage:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        for work in (
            storage.save_snapshot(make(0, context={"x": "y" * 10_000})),
            storage.save_snapshot(make(5, context={"x": "y" * 10_000})),
            storage.save_replay_log(replay(0, context_override={"x": "y" * 10_000})),
        ):
            try:
                await work
            except LocalStorageUnavailable as exc:
                print("= refused", "make room" in exc.hint, "intact" in str(exc), exc.__cause__.errno)
        for each in range(1, 40):  # soon the index is too large, too
            await storage.save_snapshot(make(each))
        print("=", len(await storage.list_snapshots(SAGA)))
        print("=", len([each async for each in storage.iter_replay_logs()]))

asyncio.run(main(sys.argv[1]))
"""


async def test_a_full_disk_loses_nothing(tmp_path: Path, storage: FilesystemSnapshotStorage) -> None:
    """What does not fit is refused, the old version stays; an index that does not fit harms nobody."""
    await storage.save_snapshot(make(0))
    lines = await asyncio.to_thread(ended, run(LIMITED, tmp_path))
    assert lines == [*["refused True True 27"] * 3, "40", "0"]
    assert [name for name in names_below(tmp_path) if name.endswith(".tmp")] == []
    assert await ids_of(storage) == [number(each) for each in range(40)]
    assert len(json.loads((tmp_path / "indexes" / f"{SAGA}.json").read_text())["snapshots"]) == 40


UNPRIVILEGED = """
import asyncio, os
from support.snapshots import SAGA, make, number
from sagaz_tiering import FilesystemSnapshotStorage, errors
import sagaz_tiering.storage.filesystem.storage
import encodings.idna

async def main(base):
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    async with FilesystemSnapshotStorage(base) as storage:
        assert (await storage.get_snapshot(number(1))).step_index == 1
        assert (await storage.get_latest_snapshot(SAGA)).step_index == 2
        assert await storage.get_snapshot(number(9)) is None
        assert len(await storage.list_snapshots(SAGA)) == 3
        health = await storage.health_check()
        print("=", health.status, health.snapshot_count)
        for work in (storage.save_snapshot(make(1)), storage.delete_snapshot(number(1))):
            try:
                await work
            except errors.LocalStorageUnavailable as exc:
                print("=", exc.hint.split(",")[0])

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's."""
    with TemporaryDirectory(prefix="sagaz-tiering-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


@pytest.mark.parametrize("whose", ["ours", "theirs"])
async def test_a_directory_that_may_only_be_read_can_be_read(public_folder: Path, whose: str) -> None:
    """By all queries, even where sagaz wrote it and nothing can be noted; what writes says what is missing."""
    before: Any = (FilesystemSnapshotStorage if whose == "ours" else TheirStorage)(str(public_folder / "data"))
    for each in range(3):
        await before.save_snapshot(make(each) if whose == "ours" else their(make(each)))
    for name in ("data", *(f"data/{name}" for name in names_below(public_folder / "data"))):
        path = public_folder / name
        path.chmod(0o555 if path.is_dir() else 0o444)
    lines = await asyncio.to_thread(ended, run(UNPRIVILEGED, public_folder / "data"))
    assert lines == ["degraded 3", *["let this user read"] * 2]
