"""`LocalObjectStore` beyond the common contract: S3's hours by its clock, crashes, full disks, other processes."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.processes import assert_private

from sagaz_tiering.app.parts import open_parts
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.errors import (
    AccessRefused,
    BucketUnusable,
    ColdTierUnavailable,
    CorruptData,
    InvalidKey,
    ObjectArchived,
    ObjectExists,
    ObjectNotFound,
    ObjectStoreError,
    SagazTieringError,
)
from sagaz_tiering.objects.base import ObjectStore, RestoreState
from sagaz_tiering.objects.local.store import LocalObjectStore, translated
from sagaz_tiering.storage_class import StorageClass

IA = StorageClass.STANDARD_IA
GLACIER = StorageClass.GLACIER
DEEP_ARCHIVE = StorageClass.DEEP_ARCHIVE
DATA = b"the bytes of a pack"
START = datetime(2026, 3, 1, 10, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(START)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.fixture
async def store(root: Path, clock: VirtualClock) -> AsyncIterator[LocalObjectStore]:
    async with await LocalObjectStore.open(root, clock) as opened:
        yield opened


async def put(store: ObjectStore, key: str, data: bytes = DATA, storage_class: StorageClass = IA) -> None:
    await store.put(key, data, storage_class=storage_class, sha256=hashlib.sha256(data).digest())


async def keys(store: ObjectStore) -> list[str]:
    return [info.key async for info in store.list()]


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- the clock


@pytest.mark.parametrize(
    ("storage_class", "tier", "delay"),
    [
        (GLACIER, "Expedited", timedelta(minutes=5)),
        (GLACIER, "Standard", timedelta(hours=5)),
        (GLACIER, "Bulk", timedelta(hours=12)),
        (DEEP_ARCHIVE, "Standard", timedelta(hours=12)),
        (DEEP_ARCHIVE, "Bulk", timedelta(hours=48)),
    ],
)
async def test_restore_takes_as_long_as_on_s3(
    store: LocalObjectStore, clock: VirtualClock, storage_class: StorageClass, tier: str, delay: timedelta
) -> None:
    """Until the tier's hours have passed the bytes are refused; from that instant they are readable."""
    await put(store, "a.pack", storage_class=storage_class)
    assert await store.restore("a.pack", days=1, tier=tier) is RestoreState.IN_PROGRESS
    clock.advance(delay - MINUTE)
    assert await store.restore("a.pack", days=1, tier="Bulk") is RestoreState.IN_PROGRESS
    info = await store.head("a.pack")
    assert (info.restore, info.readable_until) == (RestoreState.IN_PROGRESS, None)
    with pytest.raises(ObjectArchived):
        await store.get("a.pack")
    clock.advance(MINUTE)
    assert (await store.head("a.pack")).restore is RestoreState.READABLE
    assert await store.get("a.pack") == DATA


async def test_restored_copy_ends_at_the_midnight_after_its_days(store: LocalObjectStore, clock: VirtualClock) -> None:
    """As on S3 the days are rounded up to midnight UTC; then the bytes are archived again, and restorable again."""
    await put(store, "a.pack", storage_class=GLACIER)
    await store.restore("a.pack", days=3, tier="Standard")
    clock.advance(timedelta(hours=5))
    assert (await store.head("a.pack")).readable_until == datetime(2026, 3, 5, tzinfo=UTC)
    clock.advance(datetime(2026, 3, 5, tzinfo=UTC) - clock.now() - MINUTE)
    assert await store.get("a.pack") == DATA
    clock.advance(MINUTE)
    info = await store.head("a.pack")
    assert (info.restore, info.readable_until, info.storage_class) == (RestoreState.NONE, None, GLACIER)
    for refused in (store.get("a.pack"), store.get_range("a.pack", 0, 1), store.change_class("a.pack", IA)):
        with pytest.raises(ObjectArchived):
            await refused
    assert await store.restore("a.pack", days=1, tier="Expedited") is RestoreState.IN_PROGRESS


async def test_restore_of_a_readable_copy_prolongs_it(store: LocalObjectStore, clock: VirtualClock) -> None:
    """Asking again while the copy is readable counts the days from now, without waiting again."""
    await put(store, "a.pack", storage_class=GLACIER)
    await store.restore("a.pack", days=1, tier="Standard")
    clock.advance(timedelta(hours=6))
    assert await store.restore("a.pack", days=10, tier="Bulk") is RestoreState.READABLE
    assert (await store.head("a.pack")).readable_until == datetime(2026, 3, 12, tzinfo=UTC)


async def test_restore_that_the_class_does_not_offer_is_refused(store: LocalObjectStore) -> None:
    """DEEP_ARCHIVE has no Expedited restore."""
    await put(store, "a.pack", storage_class=DEEP_ARCHIVE)
    with pytest.raises(ObjectStoreError, match="no Expedited"):
        await store.restore("a.pack", days=1, tier="Expedited")


async def test_modified_at_is_the_clocks(store: LocalObjectStore, clock: VirtualClock) -> None:
    """The age of an object is told by the given clock, from its put or its last change of class."""
    await put(store, "a.pack")
    clock.advance(timedelta(days=400))
    assert (await store.head("a.pack")).modified_at == START
    assert [info.modified_at async for info in store.list()] == [START]
    await store.change_class("a.pack", GLACIER)
    assert (await store.head("a.pack")).modified_at == START + timedelta(days=400)


# ---- durability


CRASHING_PUT = """
import builtins, hashlib, os, sys
from pathlib import Path
from sagaz_tiering.objects.local.tree import ObjectTree, ObjectRecord
from sagaz_tiering.storage_class import StorageClass

action, base = sys.argv[1], Path(sys.argv[2])
NAMES = ("open", "mkdir", "rename", "fsync", "unlink", "rmdir", "close")
sha256 = hashlib.sha256(b"DATA").hexdigest()
record = ObjectRecord(size=4, sha256=sha256, storage_class=StorageClass.STANDARD_IA, modified_at=0)


def crash_at(point):
    left = [point]
    for module, name in [(builtins, "open"), *((os, name) for name in NAMES)]:
        def dying(*args, _call=getattr(module, name), **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return _call(*args, **kwargs)
        setattr(module, name, dying)


for point in range(200):
    tree = ObjectTree(base / str(point))
    tree.open()
    if action != "put":
        tree.write("packs/01/a.pack", b"DATA", record)
    child = os.fork()
    if child == 0:
        own = ObjectTree(base / str(point))
        own.open()
        crash_at(point)
        if action == "put":
            own.write("packs/01/a.pack", b"DATA", record)
        elif action == "remove":
            own.remove("packs/01/a.pack")
        else:
            own.update("packs/01/a.pack", lambda old: ObjectRecord(
                size=4, sha256=old.sha256, storage_class=StorageClass.GLACIER_IR, modified_at=7))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    tree.close()
    if os.waitstatus_to_exitcode(status) == 0:
        break
print(point)
"""


@pytest.mark.parametrize("action", ["put", "remove", "update"])
async def test_crash_at_any_system_call_leaves_an_object_whole_or_not_there(
    action: str, tmp_path: Path, clock: VirtualClock
) -> None:
    """The process dies before its n-th system call, for every n: no half object is ever seen, nothing is left over."""
    command = [sys.executable, "-c", CRASHING_PUT, action, str(tmp_path)]
    ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=True)
    points = int(ran.stdout)
    assert points >= 4
    before: set[int] = set()
    after: set[int] = set()
    for point in range(points + 1):
        root = tmp_path / str(point)
        async with await LocalObjectStore.open(root, clock) as store:
            assert len(list((root / "staging").iterdir())) == 1, "the dead process's leftovers are swept"
            present = await keys(store)
            (before if not present else after).add(point)
            if present:
                assert await store.get("packs/01/a.pack") == b"DATA"
                info = await store.head("packs/01/a.pack")
                assert info.sha256 == hashlib.sha256(b"DATA").digest()
                assert info.storage_class in (IA, StorageClass.GLACIER_IR)
                assert await store.delete(["packs/01/a.pack"]) == []
            await put(store, "packs/01/a.pack")
            assert await store.get("packs/01/a.pack") == DATA
    if action == "put":
        assert max(before) < min(after)
    if action == "remove":
        assert max(after) < min(before)


async def test_object_is_on_disk_before_put_returns(
    store: LocalObjectStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes, record, object and every folder above it are synced, the files before the object appears."""
    synced: list[tuple[str, bool]] = []
    target = root / "objects/packs/01/a.pack.object"

    def watched(fd: int, real: object = os.fsync) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        synced.append((Path(path).name, target.exists()))
        assert callable(real)
        real(fd)

    monkeypatch.setattr(os, "fsync", watched)
    await put(store, "packs/01/a.pack")
    assert [name for name, published in synced if not published][:2] == ["data", "record.json"]
    assert sum(not published for _, published in synced) == 3
    assert [name for name, published in synced if published] == ["01", "packs", "objects"]


WRITER = """
import asyncio, hashlib, sys
from datetime import UTC, datetime
from pathlib import Path
from sagaz_tiering.app.parts import open_parts
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.objects.local.store import LocalObjectStore
from sagaz_tiering.storage_class import StorageClass

async def main():
    store = await LocalObjectStore.open(Path(sys.argv[1]), VirtualClock(datetime(2026, 3, 1, tzinfo=UTC)))
    for n in range(1_000_000):
        data = str(n).encode() * 50_000
        await store.put(f"packs/{n:07d}", data, storage_class=StorageClass.STANDARD_IA,
                        sha256=hashlib.sha256(data).digest())
        print(n, flush=True)

asyncio.run(main())
"""


async def test_killed_writer_loses_nothing_it_was_told_is_stored(root: Path, clock: VirtualClock) -> None:
    """SIGKILL in the middle of puts: all that was acknowledged is there, whole, and the wreckage is cleared."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, str(root), stdout=subprocess.PIPE)
    assert process.stdout is not None
    acknowledged = -1
    for _ in range(20):
        acknowledged = int(await asyncio.wait_for(process.stdout.readline(), 30))
    process.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, (await process.stdout.read()).split())])
    await process.wait()
    async with await LocalObjectStore.open(root, clock) as store:
        present = await keys(store)
        assert present[: acknowledged + 1] == [f"packs/{n:07d}" for n in range(acknowledged + 1)]
        for key in present:
            data = await store.get(key)
            assert hashlib.sha256(data).digest() == (await store.head(key)).sha256
        assert files_below(root / "staging") == []


async def test_full_disk_is_unavailable_and_leaves_nothing(store: LocalObjectStore, root: Path) -> None:
    """A put that the system stops half-way fails as unavailable, says why, and leaves no file behind."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ColdTierUnavailable) as caught:
            await put(store, "packs/a.pack", b"x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(root) in caught.value.hint
    assert "nothing was stored" in str(caught.value)
    assert files_below(root) == []
    await put(store, "packs/a.pack", b"x" * 1_000_000)
    assert await keys(store) == ["packs/a.pack"]


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, ColdTierUnavailable),
        (errno.EDQUOT, ColdTierUnavailable),
        (errno.EIO, ColdTierUnavailable),
        (errno.ESTALE, ColdTierUnavailable),
        (errno.EMFILE, ColdTierUnavailable),
        (errno.EACCES, AccessRefused),
        (errno.EROFS, AccessRefused),
        (errno.ENOENT, ObjectNotFound),
        (errno.EEXIST, ObjectExists),
    ],
)
def test_system_errors_become_ours_with_a_hint(number: int, error: type[SagazTieringError], tmp_path: Path) -> None:
    """What the filesystem says is told apart as what S3 says is."""
    ours = translated(OSError(number, os.strerror(number)), "a.pack", tmp_path, present=True)
    assert type(ours) is error
    assert "a.pack" in str(ours)
    assert ours.hint or error in (ObjectNotFound, ObjectExists)


def release(fifo: Path) -> None:
    """Let whoever opens it go on: who waits for a writer meets one, and who comes later finds nothing there."""
    writer = os.open(fifo, os.O_RDWR)
    fifo.unlink()
    os.close(writer)


async def test_hanging_disk_is_unavailable_at_the_deadline(root: Path, clock: VirtualClock) -> None:
    """A read that the system never answers costs one deadline."""
    async with await LocalObjectStore.open(root, clock, timedelta(seconds=0.2)) as store:
        await put(store, "a.pack")
        data = root / "objects/a.pack.object/data"
        data.unlink()
        os.mkfifo(data)  # opening it blocks until somebody writes
        try:
            with pytest.raises(ColdTierUnavailable, match=r"0\.2 s"):
                await store.get("a.pack")
        finally:
            release(data)


async def test_deadline_of_a_directory_is_that_of_its_section(root: Path, clock: VirtualClock) -> None:
    """`tiers.cold.request_timeout` holds for a file:// tier as for a bucket."""
    cold = {"url": root.as_uri(), "request_timeout": "7s"}
    config = TieringConfig(tiers={"hot": {"url": "redis://h/0"}, "cold": cold}, catalog={"url": "postgresql://h/db"})
    async with open_parts(config, clock=clock) as parts, await parts.objects() as store:
        assert isinstance(store, LocalObjectStore)
        assert store._timeout_s == 7


async def test_vanished_volume_is_not_an_empty_store(store: LocalObjectStore, root: Path) -> None:
    """When the directory goes away under an open store, no call says that the object does not exist."""
    await put(store, "a.pack")
    os.rename(root, root.with_name("unmounted"))
    calls = [
        store.check(),
        put(store, "b.pack"),
        store.head("a.pack"),
        store.get("a.pack"),
        store.get_range("a.pack", 0, 1),
        store.change_class("a.pack", GLACIER),
        store.restore("a.pack", days=1, tier="Standard"),
        store.delete(["a.pack"]),
        keys(store),
    ]
    for call in calls:
        with pytest.raises(ColdTierUnavailable) as caught:
            await call
        assert "mounted" in caught.value.hint
    os.rename(root.with_name("unmounted"), root)
    assert await keys(store) == ["a.pack"]


async def test_directory_that_may_not_be_used_is_unusable(root: Path, clock: VirtualClock) -> None:
    """A path that is a file, or below one, is said at opening."""
    os.mknod(root)
    with pytest.raises(BucketUnusable) as caught:
        await LocalObjectStore.open(root, clock)
    assert str(root) in caught.value.hint
    with pytest.raises(BucketUnusable):
        await LocalObjectStore.open(root / "below", clock)


# ---- several stores on one directory


async def test_two_stores_on_one_directory_share_objects(
    store: LocalObjectStore, root: Path, clock: VirtualClock
) -> None:
    """What one process writes the other sees, refuses to overwrite, moves and deletes."""
    async with await LocalObjectStore.open(root, clock) as other:
        await put(store, "a.pack")
        assert await other.get("a.pack") == DATA
        with pytest.raises(ObjectExists):
            await put(other, "a.pack")
        await other.change_class("a.pack", GLACIER)
        with pytest.raises(ObjectArchived):
            await store.get("a.pack")
        assert await other.delete(["a.pack"]) == []
        assert await keys(store) == []


async def test_opening_a_store_does_not_sweep_a_living_one(
    store: LocalObjectStore, root: Path, clock: VirtualClock
) -> None:
    """Only what a dead process left is cleared: a store that is open keeps its staging directory."""
    (own,) = (root / "staging").iterdir()
    (root / "staging/dead/half-written.object").mkdir(parents=True)
    (root / "staging/dead/half-written.object/data").write_bytes(b"half")
    async with await LocalObjectStore.open(root, clock):
        assert own.is_dir()
        assert not (root / "staging/dead").exists()
    await put(store, "a.pack")
    assert await store.get("a.pack") == DATA


async def test_changes_of_one_object_by_many_are_one_after_another(
    store: LocalObjectStore, root: Path, clock: VirtualClock
) -> None:
    """Restores and moves of one object from two stores at once lose neither record nor bytes."""
    async with await LocalObjectStore.open(root, clock) as other:
        await put(store, "a.pack", storage_class=GLACIER)
        calls = [s.restore("a.pack", days=d, tier="Bulk") for d in range(1, 9) for s in (store, other)]
        assert set(await asyncio.gather(*calls)) == {RestoreState.IN_PROGRESS}
        clock.advance(timedelta(hours=12))
        moves = [s.change_class("a.pack", StorageClass.STANDARD) for _ in range(8) for s in (store, other)]
        await asyncio.gather(*moves)
        assert await store.get("a.pack") == DATA
        assert files_below(root / "objects") == ["a.pack.object/data", "a.pack.object/record.json"]


async def test_delete_removes_empty_folders_and_puts_beside_it_never_fail(
    store: LocalObjectStore, root: Path, clock: VirtualClock
) -> None:
    """Folders go with their last object, and a put into a folder that is just being removed still succeeds."""
    async with await LocalObjectStore.open(root, clock) as other:

        async def churn(who: LocalObjectStore, name: str) -> None:
            for n in range(60):
                await put(who, f"deep/er/folder/{name}-{n}", b"x")
                assert await who.delete([f"deep/er/folder/{name}-{n}"]) == []

        await asyncio.gather(churn(store, "a"), churn(store, "b"), churn(other, "c"), churn(other, "d"))
    assert await keys(store) == []
    assert list((root / "objects").iterdir()) == []


async def test_delete_keeps_folders_in_use(store: LocalObjectStore, root: Path) -> None:
    """Only empty folders go."""
    await put(store, "packs/01/a")
    await put(store, "packs/02/b")
    await store.delete(["packs/01/a"])
    assert [path.name for path in (root / "objects/packs").iterdir()] == ["02"]


async def test_reader_keeps_the_object_it_opened(store: LocalObjectStore, root: Path) -> None:
    """Reads beside deletes and new puts see one object or none, never a mixture."""
    bodies = {bytes([n]) * 300_000 for n in range(4)}
    stop = threading.Event()

    async def write() -> None:
        for n in range(40):
            await put(store, "a.pack", bytes([n % 4]) * 300_000)
            await store.delete(["a.pack"])
        stop.set()

    async def read() -> int:
        seen = 0
        while not stop.is_set():
            try:
                assert await store.get("a.pack") in bodies
                seen += 1
            except ObjectNotFound:
                continue
        return seen

    _, seen = await asyncio.gather(write(), read())
    assert seen > 0


# ---- what else lies or is asked for in the directory


@pytest.mark.parametrize("key", ["é" * 125, "x" * 249, "folder" * 50 + "/a", "a.object/b", "/".join(["a"] * 513)])
async def test_keys_that_no_filesystem_holds_are_refused(store: LocalObjectStore, key: str) -> None:
    """Parts over the filesystem's limit, and folders that look like our objects, are InvalidKey in every call."""
    for call in (put(store, key), store.get(key), store.head(key), store.delete([key])):
        with pytest.raises(InvalidKey):
            await call
    assert await keys(store) == []


@pytest.mark.parametrize("key", ["x" * 248, "/".join(["a"] * 150), "data", "record.json", "a.object", ".object"])
async def test_keys_at_the_limit_and_our_own_names_are_just_keys(store: LocalObjectStore, key: str) -> None:
    """The longest parts, the deepest folders and the names we use ourselves work."""
    await put(store, key)
    assert await store.get(key) == DATA
    assert await keys(store) == [key]
    assert await store.delete([key]) == []


async def test_foreign_files_are_not_objects(store: LocalObjectStore, root: Path) -> None:
    """What somebody else put into the tree is neither listed nor followed."""
    await put(store, "packs/a")
    (root / "objects/packs/README").write_text("hello")
    (root / "objects/packs/half.object").mkdir()
    (root / "objects/elsewhere").symlink_to("/")
    assert await keys(store) == ["packs/a"]
    with pytest.raises(ObjectNotFound):
        await store.get("packs/half")


async def test_damaged_record_is_corrupt_data(store: LocalObjectStore, root: Path) -> None:
    """A record that is not one is named, not guessed."""
    await put(store, "a.pack")
    record = root / "objects/a.pack.object/record.json"
    for damage in (b"", b"{}", b"[]", b"\xff", json.dumps({"storage_class": "COLD"}).encode()):
        record.write_bytes(damage)
        with pytest.raises(CorruptData, match=r"a\.pack"):
            await store.head("a.pack")


async def test_closed_store_refuses_and_can_be_opened_again(root: Path, clock: VirtualClock) -> None:
    """After `close()` nothing is written; a new store continues where the old one was."""
    store = await LocalObjectStore.open(root, clock)
    await put(store, "a.pack")
    await store.close()
    await store.close()
    with pytest.raises(ColdTierUnavailable):
        await put(store, "b.pack")
    async with await LocalObjectStore.open(root, clock) as again:
        assert await keys(again) == ["a.pack"]


def test_local_store_and_its_objects_are_private_whatever_the_umask(tmp_path: Path) -> None:
    """Packs hold what snapshots hold."""
    before = os.umask(0)
    try:

        async def put() -> None:
            async with await LocalObjectStore.open(
                tmp_path / "cold", VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
            ) as store:
                await store.put(
                    "packs/a", b"x", storage_class=StorageClass.STANDARD, sha256=hashlib.sha256(b"x").digest()
                )

        asyncio.run(put())
    finally:
        os.umask(before)
    assert_private(tmp_path / "cold" / "objects")
