"""The contract of `ObjectStore`, held against every implementation: a directory and a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.s3_server import S3Server, s3_options, s3_server  # noqa: F401  # a fixture

from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.errors import (
    BucketUnusable,
    CorruptPack,
    InvalidKey,
    ObjectArchived,
    ObjectExists,
    ObjectNotFound,
    ObjectStoreError,
)
from sagaz_tiering.objects.base import ObjectStore, RestoreState
from sagaz_tiering.objects.local.store import LocalObjectStore
from sagaz_tiering.objects.s3.store import S3ObjectStore
from sagaz_tiering.storage_class import StorageClass

IA = StorageClass.STANDARD_IA
GLACIER = StorageClass.GLACIER
DATA = b"forty-two bytes of a pack, more or less ..\x00\xff"

HOSTILE_KEYS = [
    "",
    "/absolute",
    "../outside",
    "a/../../outside",
    "a/./b",
    ".",
    "..",
    "a//b",
    "folder/",
    "nul\x00byte",
    "line\nbreak",
    "escape\x1b[31m",
    "delete\x7f",
    "c1\x85control",
    "half\ud800pair",
    "not\uffffxml",
    "x" * 1025,
    "é" * 513,
]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(datetime(2026, 3, 1, 10, 30, tzinfo=UTC))


@pytest.fixture(params=["local", "s3"])
async def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    clock: VirtualClock,
    s3_server: S3Server,  # noqa: F811
) -> AsyncIterator[ObjectStore]:
    opened: LocalObjectStore | S3ObjectStore
    if request.param == "local":
        opened = await LocalObjectStore.open(tmp_path / "bucket", clock)
    else:
        opened = await S3ObjectStore.open(s3_options(s3_server.endpoint, await s3_server.make_bucket()))
    async with opened:
        yield opened


async def put(store: ObjectStore, key: str, data: bytes = DATA, storage_class: StorageClass = IA) -> None:
    await store.put(key, data, storage_class=storage_class, sha256=hashlib.sha256(data).digest())


async def keys(store: ObjectStore, prefix: str = "", start_after: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix, start_after=start_after)]


async def test_store_answers_check_without_writing(store: ObjectStore) -> None:
    """A store that lets us in passes the check, and the check leaves nothing behind."""
    await store.check()
    assert await keys(store) == []


@pytest.mark.guarantee("G11")
async def test_store_tells_its_own_time_or_none(store: ObjectStore) -> None:
    """By the server's answer, to the second; a directory has no clock but the host's."""
    told = await store.server_time()
    assert told is None or abs(told - datetime.now(UTC)) < timedelta(minutes=1)
    assert (told is None) == store.url.startswith("file:")


async def test_store_url_names_the_place_without_credentials(store: ObjectStore) -> None:
    """The URL is for people: scheme and place, no secret."""
    assert store.url.startswith(("file:///", "s3://test-"))
    assert "testing" not in store.url


async def test_put_gives_the_same_bytes_back(store: ObjectStore) -> None:
    """What was put is read back byte for byte, empty and large objects too."""
    for size in (0, 1, 1_500_000):
        data = (hashlib.sha256(b"seed").digest() * (size // 32 + 1))[:size]
        await put(store, f"packs/2026/01/{size}.pack", data)
        assert await store.get(f"packs/2026/01/{size}.pack") == data
        assert (await store.head(f"packs/2026/01/{size}.pack")).size == size


async def test_head_tells_size_class_time_and_checksum(store: ObjectStore, clock: VirtualClock) -> None:
    """HEAD answers everything about an object, in UTC, without its bytes."""
    await put(store, "a.pack")
    info = await store.head("a.pack")
    assert (info.key, info.size, info.storage_class) == ("a.pack", len(DATA), IA)
    assert info.sha256 == hashlib.sha256(DATA).digest()
    assert info.modified_at.utcoffset() == timedelta(0)
    assert info.restore is RestoreState.NONE
    assert info.readable_until is None


async def test_put_keeps_the_storage_class(store: ObjectStore) -> None:
    """An object is in the class it was put in, by HEAD and by LIST, and LIST tells size and time as HEAD does."""
    for storage_class in StorageClass:
        await put(store, storage_class.value, storage_class=storage_class)
        assert (await store.head(storage_class.value)).storage_class is storage_class
    listed = {info.key: info async for info in store.list()}
    assert {key: info.storage_class.value for key, info in listed.items()} == {c.value: c.value for c in StorageClass}
    head = await store.head("GLACIER")
    assert listed["GLACIER"] == replace(head, modified_at=listed["GLACIER"].modified_at, sha256=None)
    assert abs(listed["GLACIER"].modified_at - head.modified_at) < timedelta(seconds=1)


@pytest.mark.parametrize("data", [DATA, b"other bytes"])
async def test_put_twice_is_refused_and_the_first_stays(store: ObjectStore, data: bytes) -> None:
    """A key is written once: the second put fails, with equal bytes too, and the first object is untouched."""
    await put(store, "a.pack")
    before = await store.head("a.pack")
    with pytest.raises(ObjectExists):
        await put(store, "a.pack", data, StorageClass.STANDARD)
    assert await store.get("a.pack") == DATA
    assert await store.head("a.pack") == before


async def test_put_of_one_key_by_many_has_one_winner(store: ObjectStore) -> None:
    """Of concurrent puts of one key exactly one succeeds, and its bytes are what is read."""
    bodies = [f"writer {n}".encode() for n in range(8)]
    results = await asyncio.gather(*(put(store, "race.pack", body) for body in bodies), return_exceptions=True)
    won = [body for body, result in zip(bodies, results, strict=True) if result is None]
    assert [type(result) for result in results if result is not None] == [ObjectExists] * 7
    assert [await store.get("race.pack")] == won


async def test_put_with_a_wrong_sha256_is_refused(store: ObjectStore) -> None:
    """Data that is not what its hash says is not stored."""
    with pytest.raises(ObjectStoreError, match="sha256"):
        await store.put("a.pack", DATA, storage_class=IA, sha256=hashlib.sha256(b"else").digest())
    with pytest.raises(ObjectNotFound):
        await store.head("a.pack")


async def test_missing_object_is_not_found_by_every_call(store: ObjectStore) -> None:
    """Each call on a key that holds nothing says so."""
    await put(store, "near.pack")
    calls = [
        store.head("nea"),
        store.get("near.pack2"),
        store.get_range("near", 0, 1),
        store.change_class("none.pack", GLACIER),
        store.restore("none.pack", days=1, tier="Standard"),
    ]
    for call in calls:
        with pytest.raises(ObjectNotFound):
            await call


async def test_get_range_reads_exactly_those_bytes(store: ObjectStore) -> None:
    """A range within the object is exactly that slice of it."""
    await put(store, "a.pack")
    for offset, length in ((0, 1), (0, len(DATA)), (7, 10), (len(DATA) - 1, 1)):
        assert await store.get_range("a.pack", offset, length) == DATA[offset : offset + length]


async def test_get_range_beyond_the_end_is_a_corrupt_pack(store: ObjectStore) -> None:
    """An object shorter than its index says is never answered with fewer bytes."""
    await put(store, "a.pack")
    for offset, length in ((0, len(DATA) + 1), (len(DATA) - 1, 2), (len(DATA), 1), (10**9, 5)):
        with pytest.raises(CorruptPack):
            await store.get_range("a.pack", offset, length)


async def test_get_range_refuses_nonsense(store: ObjectStore) -> None:
    """A range that cannot exist is the caller's mistake, said at once."""
    for offset, length in ((-1, 5), (0, 0), (3, -2)):
        with pytest.raises(ValueError, match="range"):
            await store.get_range("a.pack", offset, length)


@pytest.mark.parametrize("storage_class", [StorageClass.GLACIER, StorageClass.DEEP_ARCHIVE])
async def test_archived_bytes_are_refused_until_restored(
    store: ObjectStore, clock: VirtualClock, storage_class: StorageClass
) -> None:
    """An archive class refuses reads with its own error; after a restore the same bytes are readable."""
    await put(store, "a.pack", storage_class=storage_class)
    for refused in (store.get("a.pack"), store.get_range("a.pack", 0, 5), store.change_class("a.pack", IA)):
        with pytest.raises(ObjectArchived):
            await refused
    assert await store.restore("a.pack", days=2, tier="Standard") is RestoreState.IN_PROGRESS
    clock.advance(timedelta(hours=12))
    info = await store.head("a.pack")
    assert (info.restore, info.storage_class) == (RestoreState.READABLE, storage_class)
    assert info.readable_until is not None
    assert info.readable_until.utcoffset() == timedelta(0)
    assert await store.get("a.pack") == DATA
    assert await store.get_range("a.pack", 3, 4) == DATA[3:7]


async def test_restore_again_is_progress(store: ObjectStore, clock: VirtualClock) -> None:
    """A second request for a restore is answered with its state, never with an error."""
    await put(store, "a.pack", storage_class=GLACIER)
    await store.restore("a.pack", days=1, tier="Bulk")
    assert await store.restore("a.pack", days=1, tier="Bulk") in (RestoreState.IN_PROGRESS, RestoreState.READABLE)
    clock.advance(timedelta(hours=12))
    assert await store.restore("a.pack", days=5, tier="Bulk") is RestoreState.READABLE
    assert await store.get("a.pack") == DATA


async def test_restore_of_a_readable_class_is_readable(store: ObjectStore) -> None:
    """There is nothing to wait for where the bytes can be read as they are."""
    for storage_class in (StorageClass.STANDARD, IA, StorageClass.GLACIER_IR):
        await put(store, storage_class.value, storage_class=storage_class)
        assert await store.restore(storage_class.value, days=1, tier="Standard") is RestoreState.READABLE
        assert (await store.head(storage_class.value)).restore is RestoreState.NONE


async def test_restore_refuses_what_s3_does_not_offer(store: ObjectStore) -> None:
    """An unknown tier or no days is refused before anything is asked."""
    await put(store, "a.pack", storage_class=GLACIER)
    for days, tier in ((1, "Overnight"), (1, "standard"), (0, "Standard"), (-3, "Bulk")):
        with pytest.raises(ObjectStoreError):
            await store.restore("a.pack", days=days, tier=tier)
    assert (await store.head("a.pack")).restore is RestoreState.NONE


async def test_change_class_moves_through_all_classes_and_keeps_everything_else(store: ObjectStore) -> None:
    """Bytes, size and checksum survive every move; a later modification time is the move's."""
    await put(store, "a.pack", storage_class=StorageClass.STANDARD)
    put_at = (await store.head("a.pack")).modified_at
    for storage_class in (IA, StorageClass.ONEZONE_IA, StorageClass.GLACIER_IR):
        await store.change_class("a.pack", storage_class)
        info = await store.head("a.pack")
        assert (info.storage_class, info.size) == (storage_class, len(DATA))
        assert info.sha256 == hashlib.sha256(DATA).digest()
        assert info.modified_at >= put_at
        assert await store.get("a.pack") == DATA
    await store.change_class("a.pack", GLACIER)
    info = await store.head("a.pack")
    assert (info.storage_class, info.sha256) == (GLACIER, hashlib.sha256(DATA).digest())
    with pytest.raises(ObjectArchived):
        await store.get("a.pack")


async def test_change_class_is_idempotent(store: ObjectStore) -> None:
    """Asking again for the class that the object is in changes nothing, for archived objects too."""
    await put(store, "a.pack")
    await store.change_class("a.pack", GLACIER)
    before = await store.head("a.pack")
    await store.change_class("a.pack", GLACIER)
    assert await store.head("a.pack") == before


async def test_change_class_out_of_an_archive_works_once_restored(store: ObjectStore, clock: VirtualClock) -> None:
    """A restored object may leave its archive class, and is then readable for good."""
    await put(store, "a.pack", storage_class=GLACIER)
    await store.restore("a.pack", days=1, tier="Standard")
    clock.advance(timedelta(hours=5))
    await store.change_class("a.pack", StorageClass.STANDARD)
    info = await store.head("a.pack")
    assert (info.storage_class, info.restore) == (StorageClass.STANDARD, RestoreState.NONE)
    clock.advance(timedelta(days=400))
    assert await store.get("a.pack") == DATA


async def test_delete_removes_and_counts_missing_keys_as_removed(store: ObjectStore) -> None:
    """Removed, never there, and asked for twice: all the same; other keys stay."""
    for key in ("x/a.pack", "x/a.pack.more", "x/b.pack", "frozen.pack"):
        await put(store, key, storage_class=GLACIER if key == "frozen.pack" else IA)
    assert await store.delete(["x/a.pack", "x/a.pack", "never/was.pack", "frozen.pack"]) == []
    assert await store.delete(["x/a.pack"]) == []
    assert await store.delete([]) == []
    assert await keys(store) == ["x/a.pack.more", "x/b.pack"]
    await put(store, "x/a.pack", b"new life")
    assert await store.get("x/a.pack") == b"new life"


async def test_list_and_delete_go_past_a_thousand(store: ObjectStore) -> None:
    """Neither listing nor deletion stops at S3's page of a thousand, from any starting point."""
    names = [f"packs/{n:05d}.pack" for n in range(1003)]
    gate = asyncio.Semaphore(16)

    async def put_one(key: str) -> None:
        async with gate:
            await put(store, key, b"x")

    await asyncio.gather(*(put_one(key) for key in names), put_one("zebra"))
    assert await keys(store, "packs/") == names
    assert await keys(store, start_after=names[1000]) == [*names[1001:], "zebra"]
    assert await keys(store, "packs/", start_after=names[-1]) == []
    missing = [f"missing/{n}" for n in range(30)]
    assert await store.delete([*missing, *names]) == []
    assert await keys(store) == ["zebra"]


async def test_list_is_in_key_order_under_a_prefix(store: ObjectStore) -> None:
    """Order is that of the keys' UTF-8 bytes; a prefix may end within a part; nothing else is listed."""
    names = [
        "a",
        "a!b",
        "a-b",
        "a/b",
        "a/b.c",
        "a/b/c",
        "a0",
        "ab",
        "packs/2026/01/p",
        "packs/2026/02/p",
        "z",
        "é",
        "😀",
    ]
    for name in reversed(names):
        await put(store, name)
    assert await keys(store) == names
    assert await keys(store, "a") == names[:8]
    assert await keys(store, "a/") == ["a/b", "a/b.c", "a/b/c"]
    assert await keys(store, "packs/2026/0") == ["packs/2026/01/p", "packs/2026/02/p"]
    assert await keys(store, "packs/2026/02") == ["packs/2026/02/p"]
    assert await keys(store, "nothing/here") == []
    for n, name in enumerate(names):
        assert await keys(store, start_after=name) == names[n + 1 :]
    assert await keys(store, "a/", start_after="a/b") == ["a/b.c", "a/b/c"]
    assert await keys(store, start_after="a/a") == names[3:]


async def test_unusual_keys_are_just_keys(store: ObjectStore) -> None:
    """Spaces, percent signs, quotes and dots are stored, listed and deleted as they are."""
    for key in ("ü ñ/+%41&=?#;@:,$'\"<>|*\\.pack", ".hidden/..x/...", "x" * 200 + "/" + "y" * 200):
        await put(store, key)
        assert await store.get(key) == DATA
        assert await keys(store) == [key]
        await store.change_class(key, StorageClass.GLACIER_IR)
        assert (await store.head(key)).storage_class is StorageClass.GLACIER_IR
        assert await store.delete([key]) == []
        assert await keys(store) == []


async def test_hostile_keys_are_refused_by_every_call(store: ObjectStore) -> None:
    """A key that escapes the prefix or that some store cannot hold is refused before it is used."""
    for key in HOSTILE_KEYS:
        calls = [
            put(store, key),
            store.head(key),
            store.get(key),
            store.get_range(key, 0, 1),
            store.change_class(key, GLACIER),
            store.restore(key, days=1, tier="Standard"),
            store.delete(["fine", key]),
        ]
        for call in calls:
            with pytest.raises(InvalidKey):
                await call


async def test_hostile_prefixes_are_refused(store: ObjectStore) -> None:
    """Listing cannot look outside the store either."""
    for prefix in ("../", "/", "a/../b", "a//", "nul\x00", "half\ud800"):
        with pytest.raises(InvalidKey):
            await keys(store, prefix)


async def test_swap_replaces_only_what_was_read(store: ObjectStore) -> None:
    """Other bytes take the place of the ones that the tag names; once they are others, nothing is written."""
    await put(store, "mark", b"one", StorageClass.STANDARD)
    data, tag = await store.get_tagged("mark", most=100)
    assert data == b"one"
    assert await store.swap("mark", b"the second", tag)
    assert not await store.swap("mark", b"a third", tag)
    data, tag = await store.get_tagged("mark", most=100)
    assert data == await store.get("mark") == await store.get_range("mark", 0, 10) == b"the second"
    info = await store.head("mark")
    assert (info.size, info.storage_class) == (10, StorageClass.STANDARD)
    with pytest.raises(CorruptPack, match="more than the 9 bytes"):
        await store.get_tagged("mark", most=9)
    with pytest.raises(CorruptPack, match="more than the 9 bytes"):
        await store.get("mark", most=9)
    assert await store.get("mark", most=10) == b"the second"
    await store.delete(["mark"])
    with pytest.raises(ObjectNotFound):
        await store.get_tagged("mark", most=100)
    with pytest.raises(ObjectNotFound):
        await store.swap("mark", b"again", tag)


async def test_swap_by_many_at_once_has_one_winner(store: ObjectStore) -> None:
    """Of those that read the same, one succeeds, and readers see whole objects meanwhile."""
    await put(store, "mark", b"writer 0", StorageClass.STANDARD)
    _, tag = await store.get_tagged("mark", most=100)
    bodies = [f"writer {n}".encode() for n in range(1, 8)]
    swaps = asyncio.gather(*(store.swap("mark", body, tag) for body in bodies))
    while not swaps.done():
        assert (await store.get("mark")).startswith(b"writer ")
    assert [await store.get("mark")] == [body for body, won in zip(bodies, await swaps, strict=True) if won]


@pytest.mark.parametrize("kind", ["local", "s3"])
async def test_missing_bucket_is_unusable_for_every_call(
    kind: str,
    tmp_path: Path,
    clock: VirtualClock,
    s3_server: S3Server,  # noqa: F811
) -> None:
    """No bucket is never mistaken for no object: each call says which bucket is missing and what to do."""
    if kind == "local":
        (tmp_path / "absent").write_bytes(b"")
        with pytest.raises(BucketUnusable) as caught:
            await LocalObjectStore.open(tmp_path / "absent", clock)
        assert "absent" in caught.value.hint
        return
    async with await S3ObjectStore.open(s3_options(s3_server.endpoint, "no-such-bucket")) as store:
        calls = [
            store.check(),
            put(store, "a.pack"),
            store.head("a.pack"),
            store.get("a.pack"),
            store.get_range("a.pack", 0, 1),
            store.change_class("a.pack", GLACIER),
            store.restore("a.pack", days=1, tier="Standard"),
            store.delete(["a.pack"]),
            keys(store),
        ]
        for call in calls:
            with pytest.raises(BucketUnusable) as caught:
                await call
            assert "no-such-bucket" in caught.value.hint
