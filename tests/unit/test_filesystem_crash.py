"""`FilesystemSnapshotStorage` whose process is killed before each single change that it makes to the filesystem."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import filesystem_crash
from support.forked import start_process
from support.snapshots import OTHER_SAGA, SAGA, ids_of, make, number, replay

from sagaz_tiering import FilesystemSnapshotStorage
from sagaz_tiering.snapshot import SagaSnapshot

THIRD = number(0xFFFF)
BEFORE = {number(each): make(each) for each in range(1, 4)} | {number(5): make(5, saga_id=THIRD)}

CHANGES: dict[str, tuple[Any, SagaSnapshot | None]] = {
    "first": (number(0), make(0, saga_id=OTHER_SAGA)),
    "replace": (number(1), make(1, status="new", created_at=make(9).created_at)),
    "replace.packed": (number(1), make(1, status="new", created_at=make(9).created_at)),
    "move": (number(1), make(1, status="new", saga_id=OTHER_SAGA)),
    "move.packed": (number(1), make(1, status="new", saga_id=OTHER_SAGA)),
    "move_the_last": (number(5), make(5, status="new")),
    "delete": (number(1), None),
    "delete_the_last": (number(5), None),
}


async def crashed(work: Path, scenario: str) -> list[Path]:
    """The directories of processes that died one change later each; the last one did not die."""
    process = start_process(filesystem_crash.main, work, scenario)
    await asyncio.to_thread(process.join, 300)
    assert process.exitcode == 0
    return [work / str(change) for change in range(1, len(os.listdir(work)))]


async def all_by_saga(storage: FilesystemSnapshotStorage) -> dict[Any, SagaSnapshot]:
    """Every snapshot, after checking that all queries agree and nothing is in two sagas."""
    found: dict[Any, SagaSnapshot] = {}
    for saga_id in (SAGA, OTHER_SAGA, THIRD):
        for snapshot_id in await ids_of(storage, saga_id):
            assert snapshot_id not in found
            snapshot = await storage.get_snapshot(snapshot_id)
            assert snapshot is not None
            assert snapshot.saga_id == saga_id
            found[snapshot_id] = snapshot
    return found


async def all_by_id(storage: FilesystemSnapshotStorage) -> dict[Any, SagaSnapshot]:
    found = {each: await storage.get_snapshot(number(each)) for each in range(9)}
    return {number(each): snapshot for each, snapshot in found.items() if snapshot is not None}


def files_below(base: Path) -> list[str]:
    """Of the snapshots, and what should not be left over."""
    found = [path for path in (base / "snapshots").rglob("*") if path.is_file()]
    return sorted(path.name for path in [*found, *(base / "ids" / "moves").iterdir()])


async def state_of(base: Path, queries: Sequence[Any]) -> Any:
    """What is there, asked in this order, with nothing left over afterwards."""
    async with filesystem_crash.storage_at(base) as storage:
        found = [await query(storage) for query in queries]
        assert found[0] == found[1], base
        assert [name[:36] for name in files_below(base)] == sorted(map(str, found[0])), base
        assert storage.get_storage_info()["total_snapshots"] == len(found[0])
        return found[0]


@pytest.mark.parametrize("scenario", [name for name in CHANGES if name != "move"])  # what "move.packed" does, too
async def test_a_crash_leaves_the_old_state_or_the_new_one(tmp_path: Path, scenario: str) -> None:
    """At every query, whichever comes first; and the same change can be made again."""
    changed, new = CHANGES[scenario]
    after = {each: snapshot for each, snapshot in {**BEFORE, changed: new}.items() if snapshot is not None}
    name, _, options = scenario.partition(".")
    places = await crashed(tmp_path / "work", scenario)
    assert len(places) > 4
    states = []
    for base in places:
        copy = shutil.copytree(base, tmp_path / "copy" / base.name)
        found = await state_of(base, [all_by_id, all_by_saga])
        assert found in (BEFORE, after), base
        assert await state_of(copy, [all_by_saga, all_by_id]) == found
        states.append(found == after)
        async with filesystem_crash.storage_at(base, options) as storage:
            await filesystem_crash.ACTS[name](storage)
            assert await all_by_saga(storage) == after
    assert states == sorted(states), "first the old state, then the new one"
    assert states[-1]


@pytest.mark.parametrize("scenario", ["replay", "replay_again"])
async def test_a_crash_leaves_replay_records_whole(tmp_path: Path, scenario: str) -> None:
    """The record is there or not, as it was or as it should be; in the list of its own saga only."""
    new = replay(1) if scenario == "replay" else replay(0, original_saga_id=OTHER_SAGA)
    for base in await crashed(tmp_path / "work", scenario):
        async with filesystem_crash.storage_at(base) as storage:
            found = [each async for each in storage.iter_replay_logs()]
            if scenario == "replay":
                assert found in ([replay(0).to_dict()], [replay(0).to_dict(), new.to_dict()])
            else:
                assert found in ([replay(0).to_dict()], [new.to_dict()])
            for saga_id in (SAGA, OTHER_SAGA):
                of_saga = [each for each in found if each["original_saga_id"] == str(saga_id)]
                assert sorted(await storage.list_replays(saga_id), key=lambda each: each["replay_id"]) == of_saga
            assert all(name.endswith(".json") for name in os.listdir(base / "replays"))


@pytest.mark.parametrize("scenario", ["first", "move"])
async def test_a_save_is_durable_before_it_returns(
    tmp_path: Path, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes before their name, the names before the answer, and no old file removed before the new one is safe."""
    await filesystem_crash.prepare(tmp_path)
    done: list[str] = []

    def name_of(fd: int) -> str:
        return os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path)

    def sync(fd: int, real: Any = os.fsync) -> None:
        done.append(f"sync {name_of(fd)}")
        real(fd)

    def rename(old: Any, new: Any, *, src_dir_fd: int, dst_dir_fd: int, real: Any = os.rename) -> None:
        done.append(f"rename {name_of(dst_dir_fd)}/{new}")
        real(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def unlink(name: Any, *, dir_fd: int, real: Any = os.unlink) -> None:
        done.append(f"unlink {name_of(dir_fd)}/{name}")
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "unlink", unlink)
    async with filesystem_crash.storage_at(tmp_path) as storage:
        await filesystem_crash.ACTS[scenario](storage)
    changed, new = CHANGES[scenario]
    assert new is not None
    folder = f"snapshots/{new.saga_id}"
    pointer = next(each for each in done if each.startswith("rename ids/") and "moves" not in each)
    shard = pointer.removeprefix("rename ").removesuffix(f"/{changed}")
    renamed = done.index(f"rename {folder}/{changed}.json")
    assert done.index("sync snapshots") < renamed  # the new saga's directory
    assert done.index(f"sync {folder}/.{changed}.tmp") < renamed
    assert f"sync {folder}" in done[renamed:]
    assert f"sync {shard}" in done
    if scenario == "first":
        assert done.index(f"sync {shard}") < renamed
    else:
        assert done.index("sync ids/moves") < renamed
        removed = done.index(f"unlink snapshots/{SAGA}/{changed}.json")
        assert max(done.index(f"sync {shard}"), renamed + done[renamed:].index(f"sync {folder}")) < removed
        assert removed < done.index(f"unlink ids/moves/{changed}")
