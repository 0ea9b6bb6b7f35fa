"""`S3SnapshotStorage` where the bucket matters: requests, crashes, races, archive classes, versions, other stores.

moto holds the objects; a relay in front of it records the requests, and fails or delays those that a test chooses.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import aiohttp
import pytest
from structlog.testing import capture_logs
from support.s3_server import Answer, Request, S3Server, ScriptedServer, forward, free_port, xml_error
from support.snapshots import BEGUN, OTHER_SAGA, SAGA, ids_of, make, number, replay, save_all
from support.tiers import NOW

from sagaz_tiering import InMemorySnapshotStorage, S3SnapshotStorage, SagaSnapshot, transfer_snapshots
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.codec.value import encode, to_value
from sagaz_tiering.errors import (
    BucketUnusable,
    ColdTierUnavailable,
    ConfigError,
    CorruptRecord,
    ObjectStoreError,
    SnapshotArchived,
)
from sagaz_tiering.storage.s3 import reading as s3_reading
from sagaz_tiering.storage.s3 import storage as s3_storage
from sagaz_tiering.storage.s3.keys import SavedEntry, data_key

PREFIX = "snapshots"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

Meddle = Callable[[Request], Awaitable[Answer | None]]


def storage_at(endpoint: str, bucket: str, **changes: Any) -> S3SnapshotStorage:
    options: dict[str, Any] = {
        "endpoint_url": endpoint,
        "access_key_id": "testing",
        "secret_access_key": "testing-secret",
        "clock": VirtualClock(NOW),
    }
    return S3SnapshotStorage(bucket, **{**options, **changes})


@pytest.fixture
async def bucket(s3_server: S3Server) -> str:
    return await s3_server.make_bucket()


@pytest.fixture
async def storage(s3_server: S3Server, bucket: str) -> AsyncIterator[S3SnapshotStorage]:
    async with storage_at(s3_server.endpoint, bucket) as opened:
        yield opened


class Relay:
    """Storages that reach moto through a server which records requests, and may answer in moto's place."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server
        self.meddle: Meddle | None = None

    @property
    def endpoint(self) -> str:
        return self._server.endpoint

    async def requests(self, work: Awaitable[object]) -> list[str]:
        """What `work` asked for: `GET key` or `LIST prefix`, keys and prefixes without the storage's own."""
        before = len(self._server.requests)
        await work
        return sorted(_named(request) for request in self._server.requests[before:])


def _named(request: Request) -> str:
    parts, query = urlsplit(request.target), parse_qs(urlsplit(request.target).query, keep_blank_values=True)
    if "list-type" in query:
        return "LIST " + query["prefix"][0].removeprefix(f"{PREFIX}/")
    if "delete" in query:
        return "DELETE-MANY"
    return f"{request.method} " + parts.path.partition(f"/{PREFIX}/")[2]


@pytest.fixture
async def relay(s3_server: S3Server) -> AsyncIterator[Relay]:
    async def script(request: Request) -> Answer:
        answer = None if made.meddle is None else await made.meddle(request)
        return answer or await forward(request, s3_server.endpoint)

    async with ScriptedServer(script) as server:
        made = Relay(server)
        yield made


def is_body(request: Request, method: str = "PUT") -> bool:
    return request.method == method and f"/{PREFIX}/data/" in request.target


async def keys(server: S3Server, bucket: str, prefix: str = "") -> list[str]:
    """Every key under the storage's prefix."""
    async with server.admin() as client:
        page = await client.list_objects_v2(Bucket=bucket, Prefix=f"{PREFIX}/{prefix}")
        return [entry["Key"].removeprefix(f"{PREFIX}/") for entry in page.get("Contents", [])]


async def head(server: S3Server, bucket: str, key: str) -> dict[str, Any]:
    async with server.admin() as client:
        found: dict[str, Any] = await client.head_object(Bucket=bucket, Key=f"{PREFIX}/{key}")
        return found


async def plant(server: S3Server, bucket: str, snapshots: Iterable[SagaSnapshot]) -> None:
    """Put what saves would put, with a tenth of the requests' cost."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=8)) as session:

        async def put(key: str, data: bytes, mark: str) -> None:
            url = f"{server.endpoint}/{bucket}/{PREFIX}/{key}"
            async with session.put(url, data=data, headers={"x-amz-meta-mark": mark}) as response:
                response.raise_for_status()

        work = []
        for at, snapshot in enumerate(snapshots):
            record = encode(snapshot, saved_us=1)
            entry = SavedEntry.of(record.meta, f"{at:016x}")
            work += [put(key, b"", "") for key in entry.keys]
            work.append(put(data_key(snapshot.snapshot_id), to_value(record, level=None), entry.key))
        await asyncio.gather(*work)


# ---- constructor


def test_constructor_refuses_what_cannot_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with a hint, before anything is asked."""
    monkeypatch.delenv("SAGAZ_TIERING_S3_BUCKET", raising=False)
    wrong: list[dict[str, Any]] = [
        {"bucket_name": None},
        {"bucket_name": "b", "storage_class": "FROZEN"},
        {"bucket_name": "b", "compression_level": 0},
        {"bucket_name": "b", "compression_level": 23},
        {"bucket_name": "b", "prefix": "a//b"},
        {"bucket_name": "b", "enable_encryption": False, "kms_key_id": "key"},
        {"bucket_name": "b", "access_key_id": "half"},
        {"bucket_name": "b", "max_connections": 0},
    ]
    for options in wrong:
        with pytest.raises(ConfigError) as caught:
            S3SnapshotStorage(**options)
        assert "tiers.cold" not in str(caught.value) + caught.value.hint


def test_bucket_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the constructor names none."""
    monkeypatch.setenv("SAGAZ_TIERING_S3_BUCKET", "from-environment")
    assert S3SnapshotStorage(enable_compression=True).get_storage_info()["bucket_name"] == "from-environment"
    assert S3SnapshotStorage("mine").get_storage_info()["bucket_name"] == "mine"


def test_storage_info_has_the_options_and_no_secret() -> None:
    """What it is made of, for people."""
    storage = storage_at("http://127.0.0.1:1", "bucket", storage_class="GLACIER_DEEP_ARCHIVE", kms_key_id="key")
    info = storage.get_storage_info()
    assert info["storage_type"] == "s3"
    assert (info["prefix"], info["storage_class"], info["encryption"]) == ("snapshots", "DEEP_ARCHIVE", "sse-kms")
    assert "testing" not in str(info) + repr(storage)


# ---- requests


async def test_each_call_asks_only_for_what_it_needs(relay: Relay, bucket: str) -> None:
    """No read lists more than its saga, by id is one GET, the latest one LIST and one GET."""
    async with storage_at(relay.endpoint, bucket) as storage:
        saved = await save_all(storage, [make(at) for at in range(3)])
        await storage.save_snapshot(make(9, saga_id=OTHER_SAGA))
        saga = f"LIST sagas/{SAGA}/"
        bodies = [f"GET {data_key(number(at))}" for at in range(3)]
        asked = relay.requests
        assert await asked(storage.get_snapshot(number(1))) == [bodies[1]]
        assert await asked(storage.get_snapshot(number(77))) == [f"GET {data_key(number(77))}"]
        assert await asked(storage.get_latest_snapshot(SAGA)) == [bodies[2], saga]
        assert await asked(storage.get_latest_snapshot(SAGA, before_step="step_0")) == [bodies[0], saga]
        assert await asked(storage.get_latest_snapshot(SAGA, before_step="no step")) == [saga]
        assert await asked(storage.get_snapshot_at_time(SAGA, saved[1].created_at)) == [bodies[1], saga]
        assert await asked(storage.list_snapshots(SAGA)) == [*bodies, saga]
        assert await asked(storage.list_snapshots(SAGA, 0)) == []
        assert await asked(storage.list_replays(SAGA)) == [f"LIST replayed/{SAGA}/"]
        assert await asked(storage.delete_expired_snapshots()) == ["LIST expiry/"]
        assert await asked(storage.cleanup_saga(number(5))) == [f"LIST sagas/{number(5)}/"]


async def test_no_call_lists_the_whole_bucket(relay: Relay, bucket: str) -> None:
    """Every LIST has a prefix of a part of the storage, whatever is called."""
    async with storage_at(relay.endpoint, bucket) as storage:

        async def everything() -> None:
            await save_all(storage, [make(at, retention_until=NOW + at * HOUR) for at in range(3)])
            await storage.save_replay_log(replay())
            await storage.list_snapshots(SAGA)
            await storage.list_replays(SAGA)
            assert [each async for each in storage.saga_ids()] == [SAGA]
            assert len([each async for each in storage.iter_snapshots()]) == 2
            assert len([each async for each in storage.iter_replay_logs()]) == 1
            await storage.delete_expired_snapshots()
            await storage.delete_snapshot(number(1))
            await storage.cleanup_saga(SAGA)
            await storage.health_check()

        lists = {each for each in await relay.requests(everything()) if each.startswith("LIST")}
    saga = f"LIST sagas/{SAGA}/"
    assert lists == {saga, f"LIST replayed/{SAGA}/", "LIST sagas/", "LIST replays/", "LIST expiry/", "LIST data/"}


async def test_expired_and_other_steps_are_passed_over_without_reading(relay: Relay, bucket: str) -> None:
    """The key of an entry tells them."""
    clock = VirtualClock(NOW)
    async with storage_at(relay.endpoint, bucket, clock=clock) as storage:
        await save_all(storage, [make(0), *(make(at, retention_until=NOW + HOUR) for at in range(1, 30))])
        clock.advance(HOUR)
        asked = await relay.requests(storage.list_snapshots(SAGA, 5))
        assert [each for each in asked if each.startswith("GET")] == [f"GET {data_key(number(0))}"]


async def test_health_counts_no_more_than_it_may(storage: S3SnapshotStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact while few, then a lower bound that says so."""
    await save_all(storage, [make(at) for at in range(4)])
    health = await storage.health_check()
    assert (health.status, health.snapshot_count, health.details["counts"]) == ("healthy", 4, "exact")
    assert health.total_size_bytes > 400
    monkeypatch.setattr(s3_storage, "COUNTED", 3)
    health = await storage.health_check()
    assert (health.status, health.snapshot_count, health.details["counts"]) == ("healthy", 3, "lower bound")


async def test_saga_of_more_than_a_page_is_listed_whole(relay: Relay, s3_server: S3Server, bucket: str) -> None:
    """All of it from a server with pages of 5, newest first; its far end by time and by step; no saga beside it lost.

    (A page of S3's own size: `test_list_and_delete_go_past_a_thousand`.)
    """
    many = [make(at, created_at=BEGUN + timedelta(milliseconds=at), step_name=f"s{at // 2}") for at in range(23)]
    await plant(s3_server, bucket, [*many, make(5_000, saga_id=OTHER_SAGA), make(5_001, saga_id=number(1))])

    async def small_pages(request: Request) -> Answer | None:
        if "list-type=2" not in request.target or "max-keys" in request.target:
            return None
        return await forward(replace(request, target=f"{request.target}&max-keys=5"), s3_server.endpoint)

    relay.meddle = small_pages
    async with storage_at(relay.endpoint, bucket) as storage:
        asked = await relay.requests(storage.list_snapshots(SAGA, 2**31))
        assert sum(name.startswith("LIST") for name in asked) == 5
        listed = [each.snapshot_id for each in await storage.list_snapshots(SAGA, 2**31)]
        assert listed == [each.snapshot_id for each in reversed(many)]
        assert await storage.get_latest_snapshot(SAGA) == many[-1]
        assert await storage.get_snapshot_at_time(SAGA, many[1].created_at + timedelta(microseconds=999)) == many[1]
        assert await storage.get_latest_snapshot(SAGA, before_step="s0") == many[1]
        assert [each async for each in storage.saga_ids()] == [number(1), OTHER_SAGA, SAGA]


async def test_saga_of_many_pages_is_walked_oldest_first(
    relay: Relay, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the order in which S3 lists, a page in memory; ids alone cost one look at a large saga's newest."""
    monkeypatch.setattr(s3_reading, "_PAGE", 5)
    sagas = {number(1): 5, OTHER_SAGA: 6, SAGA: 23, UUID(int=2**128 - 1): 10}
    snapshots = [make(100 * n + at, saga_id=saga) for n, saga in enumerate(sagas) for at in range(sagas[saga])]
    await plant(s3_server, bucket, snapshots)
    async with storage_at(relay.endpoint, bucket) as storage:
        assert [each async for each in storage.iter_snapshots()] == snapshots
        assert [each async for each in storage.iter_snapshots(after=OTHER_SAGA)] == snapshots[11:]
        assert [each async for each in storage.iter_snapshots(SAGA)] == snapshots[11:34]
        found: list[UUID] = []

        async def ids() -> None:
            found.extend([each async for each in storage.saga_ids()])

        asked = await relay.requests(ids())
        assert found == list(sagas)
        assert len([each for each in asked if each.startswith("HEAD")]) == 4
        assert asked.count("LIST sagas/") == 4  # begun anew behind each saga that is larger than a page
        assert [each async for each in storage.saga_ids(after=OTHER_SAGA)] == list(sagas)[2:]


# ---- crashes


class Crash(Exception):
    """The process died here."""


@pytest.mark.parametrize("walked", ["saga_ids", "iter_snapshots", "iter_replay_logs"])
async def test_walk_that_is_left_early_leaves_nothing_open(storage: S3SnapshotStorage, walked: str) -> None:
    """The listings that it goes through are closed with it, not some time later by the event loop."""
    await save_all(storage, [make(at, saga_id=number(at)) for at in range(3)])
    for at in range(3):
        await storage.save_replay_log(replay(at))
    hooks, left = sys.get_asyncgen_hooks(), list[Any]()
    sys.set_asyncgen_hooks(finalizer=left.append)
    try:
        walking = getattr(storage, walked)()
        await anext(walking)
        await walking.aclose()
    finally:
        sys.set_asyncgen_hooks(*hooks)
    for each in left:
        await each.aclose()
    assert left == []


async def crashing_after(relay: Relay, count: int, work: Awaitable[object]) -> None:
    """Let the first `count` writes through and refuse all later ones."""
    done = 0

    async def meddle(request: Request) -> Answer | None:
        nonlocal done
        if request.method in ("PUT", "POST", "DELETE"):
            done += 1
            if done > count:
                return xml_error(403, "AccessDenied")
        return None

    relay.meddle = meddle
    try:
        await work
    except BucketUnusable as exc:
        raise Crash from exc
    finally:
        relay.meddle = None


async def test_save_that_ends_anywhere_leaves_nothing_unlisted(relay: Relay, bucket: str) -> None:
    """After each of its writes: a new snapshot is there and listed, or not at all; a known one is old or new."""
    old = make(0, retention_until=NOW + HOUR)
    new = make(0, saga_id=OTHER_SAGA, created_at=BEGUN + HOUR, retention_until=NOW + 2 * HOUR)
    async with storage_at(relay.endpoint, bucket) as storage:
        for writes in range(4):
            fresh = make(10 + writes, saga_id=number(1), retention_until=NOW + HOUR)
            for snapshot in (fresh, new):
                try:
                    await storage.save_snapshot(old)
                    await crashing_after(relay, writes, storage.save_snapshot(snapshot))
                except Crash:
                    assert writes < 3
                else:
                    assert writes == 3
                known = await storage.get_snapshot(snapshot.snapshot_id)
                assert known == (snapshot if writes == 3 else old if snapshot is new else None)
                for saga in (SAGA, OTHER_SAGA, number(1)):
                    listed = await ids_of(storage, saga)
                    assert (snapshot.snapshot_id in listed) == (known is not None and known.saga_id == saga)


@pytest.mark.parametrize("call", ["delete", "cleanup", "expire"])
async def test_removal_that_ends_anywhere_leaves_nothing_unlisted(relay: Relay, bucket: str, call: str) -> None:
    """After each of its writes what can be got is listed and the reverse; doing it again finishes."""
    clock = VirtualClock(NOW)
    async with storage_at(relay.endpoint, bucket, clock=clock) as storage:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "delete": lambda: storage.delete_snapshot(number(0)),
            "cleanup": lambda: storage.cleanup_saga(SAGA),
            "expire": storage.delete_expired_snapshots,
        }
        for writes in range(3):
            await save_all(storage, [make(at, retention_until=clock.now() + HOUR) for at in range(2)])
            if call == "expire":
                clock.advance(HOUR)
            try:
                await crashing_after(relay, writes, calls[call]())
            except Crash:
                assert writes < 3
            else:
                assert writes == 2
                assert call == "delete"
            there = {at for at in (0, 1) if await storage.get_snapshot(number(at)) is not None}
            assert {number(at) for at in there} == set(await ids_of(storage))
            await calls[call]()
            assert await storage.get_snapshot(number(0)) is None
            assert await storage.delete_snapshot(number(0)) is False
            await storage.cleanup_saga(SAGA)


async def test_entries_are_written_before_their_body(relay: Relay, bucket: str) -> None:
    """In this order no body is ever unlisted; the replaced body's entries go last."""
    order: list[str] = []

    async def meddle(request: Request) -> None:
        if request.method == "PUT":
            order.append(request.target.partition(f"/{PREFIX}/")[2].partition("/")[0])

    relay.meddle = meddle
    async with storage_at(relay.endpoint, bucket) as storage:
        await storage.save_snapshot(make(0, retention_until=NOW + HOUR))
    assert sorted(order[:2]) == ["expiry", "sagas"]
    assert order[2:] == ["data"]


# ---- races


async def test_late_body_of_an_earlier_writer_is_listed(relay: Relay, bucket: str) -> None:
    """Two save one snapshot at different places, and the first one's body lands last: it is the truth, and listed."""
    first, second = make(0, saga_id=SAGA), make(0, saga_id=OTHER_SAGA)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def meddle(request: Request) -> None:
        if is_body(request) and not arrived.is_set():
            arrived.set()
            await go_on.wait()

    relay.meddle = meddle
    async with storage_at(relay.endpoint, bucket) as one, storage_at(relay.endpoint, bucket) as two:
        slow = asyncio.create_task(one.save_snapshot(first))
        await arrived.wait()
        await two.save_snapshot(second)
        assert await ids_of(one, OTHER_SAGA) == [number(0)]
        assert await ids_of(one, SAGA) == []
        go_on.set()
        await slow
        assert await two.get_snapshot(number(0)) == first
        assert await ids_of(two, SAGA) == [number(0)]
        assert await ids_of(two, OTHER_SAGA) == []


AGAIN: dict[str, tuple[dict[str, Any], list[int]]] = {
    "identical": ({}, [3, 2, 1, 0]),
    "other status": ({"status": "done"}, [3, 2, 1, 0]),
    "other step": ({"step_name": "renamed"}, [3, 2, 1, 0]),
    "younger": ({"created_at": BEGUN + HOUR}, [3, 2, 1, 0]),
    "older": ({"created_at": BEGUN + timedelta(seconds=90)}, [2, 3, 1, 0]),
    "other saga": ({"saga_id": OTHER_SAGA}, [2, 1, 0]),
}
"""What is saved anew of the newest of four, their order in lists after that."""


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize("how", list(AGAIN))
async def test_snapshot_that_is_saved_again_while_it_is_read_is_in_every_answer(
    relay: Relay, bucket: str, how: str
) -> None:
    """After its saga was listed, before its body is read: as it is now, where it belongs, and no older one instead."""
    changes, order = AGAIN[how]
    snapshots = [make(at) for at in range(4)]
    now = {**{one.snapshot_id: one for one in snapshots}, number(3): replace(snapshots[3], **changes)}

    async with storage_at(relay.endpoint, bucket) as reader, storage_at(relay.endpoint, bucket) as writer:

        async def saved_between(call: Callable[[], Awaitable[Any]]) -> Any:
            await save_all(writer, snapshots)

            async def meddle(request: Request) -> None:
                if is_body(request, "GET"):
                    relay.meddle = None
                    await writer.save_snapshot(now[number(3)])

            relay.meddle = meddle
            answer = await call()
            assert relay.meddle is None
            return answer

        wanted = [now[number(at)] for at in order]
        assert await saved_between(lambda: reader.get_latest_snapshot(SAGA)) == wanted[0]
        for limit in (2, 100):
            assert await saved_between(lambda limit=limit: reader.list_snapshots(SAGA, limit)) == wanted[:limit]


@pytest.mark.guarantee("G2")
async def test_walk_tells_of_snapshots_that_are_saved_again_meanwhile(relay: Relay, bucket: str) -> None:
    """With another status, once listed and before the body is looked at: each once, by id and by value."""
    async with storage_at(relay.endpoint, bucket) as reader, storage_at(relay.endpoint, bucket) as writer:
        await save_all(writer, (make(at) for at in range(4)))
        again = [make(at, status="done") for at in range(4)]

        async def meddle(request: Request) -> None:
            if is_body(request, "GET") or is_body(request, "HEAD"):
                relay.meddle = None
                await save_all(writer, again)

        relay.meddle = meddle
        assert [each async for each in reader.snapshot_ids(SAGA)] == [each.snapshot_id for each in again]
        assert relay.meddle is None
        await save_all(writer, (make(at) for at in range(4)))
        relay.meddle = meddle
        assert [each.snapshot_id async for each in reader.iter_snapshots(SAGA)] == [each.snapshot_id for each in again]
        assert [each async for each in reader.iter_snapshots(SAGA)] == again
        assert [each async for each in reader.saga_ids()] == [SAGA]


@pytest.mark.parametrize("versioning", [None, "Enabled"])
async def test_expiry_spares_what_was_saved_anew_meanwhile(
    relay: Relay, s3_server: S3Server, versioning: str | None
) -> None:
    """A retention that is prolonged between the look and the delete keeps the snapshot."""
    bucket, clock, prolonged = await s3_server.make_bucket(versioning), VirtualClock(NOW), make(0, retention_until=None)

    async def meddle(request: Request) -> None:
        if is_body(request, "DELETE") or "versions" in request.target:
            relay.meddle = None
            await other.save_snapshot(prolonged)

    async with (
        storage_at(relay.endpoint, bucket, clock=clock) as storage,
        storage_at(s3_server.endpoint, bucket, clock=clock) as other,
    ):
        await storage.save_snapshot(make(0, retention_until=NOW + HOUR))
        clock.advance(HOUR)
        relay.meddle = meddle
        assert await storage.delete_expired_snapshots() == 0
        assert relay.meddle is None
        assert await storage.get_snapshot(number(0)) == prolonged
        assert await ids_of(storage) == [number(0)]


@pytest.mark.guarantee("G1")
@pytest.mark.parametrize("call", ["expire", "delete", "cleanup"])
async def test_removal_spares_what_was_saved_anew_where_if_match_is_passed_over(
    relay: Relay, s3_server: S3Server, bucket: str, call: str
) -> None:
    """The store deletes whatever it is told to: it is asked right before whether that is still what was looked at."""
    clock, anew, asked = VirtualClock(NOW), make(0, retention_until=None), list[str]()

    async def meddle(request: Request) -> None:
        if is_body(request, "DELETE") or is_body(request, "HEAD") or is_body(request, "GET"):
            request.headers.pop("if-match", None)
            asked.append(request.method)
            if len(asked) == 2:
                await other.save_snapshot(anew)

    async with (
        storage_at(relay.endpoint, bucket, clock=clock) as storage,
        storage_at(s3_server.endpoint, bucket, clock=clock) as other,
    ):
        await storage.save_snapshot(make(0, retention_until=NOW + HOUR))
        clock.advance(HOUR)
        relay.meddle = meddle
        if call == "expire":
            assert await storage.delete_expired_snapshots() == 0
        elif call == "delete":
            await storage.delete_snapshot(number(0))
        else:
            assert await storage.cleanup_saga(SAGA) == 0
        relay.meddle = None
        assert len(asked) >= 2
        assert await storage.get_snapshot(number(0)) == anew
        assert await ids_of(storage) == [number(0)]


@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (405, "MethodNotAllowed"), (412, "PreconditionFailed")]
)
async def test_expiry_works_on_stores_without_conditional_deletes(
    relay: Relay, bucket: str, status: int, code: str
) -> None:
    """Those that do not know `If-Match`, and those that compare it with an unquoted ETag."""

    async def meddle(request: Request) -> Answer | None:
        return xml_error(status, code) if "if-match" in request.headers else None

    clock = VirtualClock(NOW)
    async with storage_at(relay.endpoint, bucket, clock=clock) as storage:
        await storage.save_snapshot(make(0, retention_until=NOW + HOUR))
        clock.advance(HOUR)
        relay.meddle = meddle
        assert await storage.delete_expired_snapshots() == 1
        assert await storage.delete_snapshot(number(0)) is False


# ---- entries of earlier saves


async def test_old_place_goes_with_the_next_save_of_another_day(s3_server: S3Server, bucket: str) -> None:
    """The same snapshot elsewhere: one entry is left; on the same day both are, and one is passed over."""
    clock = VirtualClock(datetime.now(UTC))
    async with storage_at(s3_server.endpoint, bucket, clock=clock) as storage:
        await storage.save_snapshot(make(0, retention_until=clock.now() + 9 * DAY))
        await storage.save_snapshot(make(0, saga_id=OTHER_SAGA))
        assert len(await keys(s3_server, bucket, "sagas/")) == 2
        assert await ids_of(storage, SAGA) == []
        clock.advance(DAY + HOUR)
        await storage.save_snapshot(make(0, saga_id=number(3)))
        assert len(await keys(s3_server, bucket, f"sagas/{OTHER_SAGA}/")) == 0
        assert await ids_of(storage, number(3)) == [number(0)]


async def test_reads_remove_entries_of_earlier_saves_after_a_day(s3_server: S3Server, bucket: str) -> None:
    """Not before: their save may still be under way. An entry whose body is missing stays for a month."""
    clock = VirtualClock(datetime.now(UTC))
    async with storage_at(s3_server.endpoint, bucket, clock=clock) as storage:
        await storage.save_snapshot(make(0, created_at=BEGUN))
        await storage.save_snapshot(make(0, created_at=BEGUN + HOUR))
        await storage.save_snapshot(make(1))
        async with s3_server.admin() as client:
            await client.delete_object(Bucket=bucket, Key=f"{PREFIX}/{data_key(number(1))}")
        for wait, left in ((timedelta(0), 3), (DAY + HOUR, 2), (27 * DAY, 2), (3 * DAY, 1)):
            clock.advance(wait)
            assert await ids_of(storage) == [number(0)]
            assert len(await keys(s3_server, bucket, "sagas/")) == left


async def test_expiry_entry_of_an_earlier_save_removes_nothing(storage: S3SnapshotStorage, bucket: str) -> None:
    """A snapshot saved again with a later end, or none, outlives the first end."""
    clock = storage._clock
    assert isinstance(clock, VirtualClock)
    for at, until in enumerate([None, NOW + 5 * HOUR]):
        await storage.save_snapshot(make(at, retention_until=NOW + HOUR))
        await storage.save_snapshot(make(at, retention_until=until))
    clock.advance(2 * HOUR)
    assert await storage.delete_expired_snapshots() == 0
    assert await ids_of(storage) == [number(0), number(1)]
    clock.advance(5 * HOUR)
    assert await storage.delete_expired_snapshots() == 1
    assert await ids_of(storage) == [number(0)]


async def test_objects_without_their_marks_are_still_ours(s3_server: S3Server, bucket: str) -> None:
    """Copied by tools that drop metadata, everything works: listing, expiring, cleaning up, deleting."""
    clock = VirtualClock(NOW)
    async with storage_at(s3_server.endpoint, bucket, clock=clock) as storage, s3_server.admin() as client:
        saved = [make(at, retention_until=NOW + HOUR if at == 0 else None) for at in range(4)]
        await save_all(storage, [make(1, created_at=BEGUN + DAY), *saved])
        for at in range(4):
            key = f"{PREFIX}/{data_key(number(at))}"
            body = await (await client.get_object(Bucket=bucket, Key=key))["Body"].read()
            await client.put_object(Bucket=bucket, Key=key, Body=body)
        assert await ids_of(storage) == [number(at) for at in range(4)]
        clock.advance(HOUR)
        assert await storage.delete_expired_snapshots() == 1
        assert await storage.delete_snapshot(number(2)) is True
        assert await ids_of(storage) == [number(1), number(3)]
        assert await storage.cleanup_saga(SAGA) == 2
        assert [key for key in await keys(s3_server, bucket) if key.startswith("data/")] == []


async def test_foreign_objects_in_the_prefix_are_passed_over(
    storage: S3SnapshotStorage, s3_server: S3Server, bucket: str
) -> None:
    """Folders of consoles, notes of people: no list stumbles over them."""
    await storage.save_snapshot(make(0, retention_until=NOW + HOUR))
    await storage.save_replay_log(replay(0))
    async with s3_server.admin() as client:
        for key in (
            "",
            "sagas/",
            f"sagas/{SAGA}/",
            f"sagas/{SAGA}/a.txt",
            "expiry/0",
            "replays/x",
            f"replayed/{SAGA}/y",
        ):
            await client.put_object(Bucket=bucket, Key=f"{PREFIX}/{key}", Body=b"")
    assert await ids_of(storage) == [number(0)]
    assert len(await storage.list_replays(SAGA)) == 1
    assert len([each async for each in storage.iter_replay_logs()]) == 1
    assert await storage.delete_expired_snapshots() == 0


# ---- archive classes


@pytest.mark.parametrize(
    ("name", "stored"), [("GLACIER", "GLACIER"), ("GLACIER_DEEP_ARCHIVE", "DEEP_ARCHIVE"), ("DEEP_ARCHIVE",) * 2]
)
async def test_archived_snapshots_are_a_promise(s3_server: S3Server, bucket: str, name: str, stored: str) -> None:
    """Every read says which, in what class and how to restore, by id as in lists; entries stay in STANDARD."""
    async with storage_at(s3_server.endpoint, bucket, storage_class=name) as storage:
        await save_all(storage, [make(at) for at in range(3)])
        assert (await head(s3_server, bucket, data_key(number(1))))["StorageClass"] == stored
        for key in await keys(s3_server, bucket, "sagas/"):
            assert (await head(s3_server, bucket, key)).get("StorageClass", "STANDARD") == "STANDARD"
        reads: list[tuple[Awaitable[object], tuple[int, ...]]] = [
            (storage.get_snapshot(number(1)), (1,)),
            (storage.get_latest_snapshot(SAGA), (2,)),
            (storage.get_latest_snapshot(SAGA, before_step="step_0"), (0,)),
            (storage.get_snapshot_at_time(SAGA, make(1).created_at), (1,)),
            (storage.list_snapshots(SAGA), (2, 1, 0)),
            (storage.list_snapshots(SAGA, 2), (2, 1)),
        ]
        for read, ids in reads:
            with pytest.raises(SnapshotArchived) as caught:
                await read
            assert caught.value.storage_class == stored
            assert caught.value.snapshot_ids == tuple(number(at) for at in ids)
            assert caught.value.options[0].tier == "Standard"
            assert f"--bucket {bucket} --key {PREFIX}/{data_key(number(ids[0]))}" in caught.value.how_to_restore
        with pytest.raises(SnapshotArchived):
            [each async for each in storage.iter_snapshots()]
        assert await storage.get_snapshot(number(7)) is None
        assert await storage.get_latest_snapshot(OTHER_SAGA) is None
        assert [each async for each in storage.saga_ids()] == [SAGA]
        assert (await storage.health_check()).snapshot_count == 3


async def test_restored_snapshot_reads_as_ever(s3_server: S3Server, bucket: str) -> None:
    """By id, and in lists once all of a list are back."""
    async with storage_at(s3_server.endpoint, bucket, storage_class="GLACIER") as storage, s3_server.admin() as client:
        await save_all(storage, [make(0), make(1)])
        for at in (0, 1):
            request: Any = {"Days": 1, "GlacierJobParameters": {"Tier": "Standard"}}
            await client.restore_object(Bucket=bucket, Key=f"{PREFIX}/{data_key(number(at))}", RestoreRequest=request)
            assert await storage.get_snapshot(number(at)) == make(at)
            if at == 0:
                with pytest.raises(SnapshotArchived) as caught:
                    await storage.list_snapshots(SAGA)
                assert caught.value.snapshot_ids == (number(1),)
        assert await ids_of(storage) == [number(0), number(1)]


async def test_archived_and_readable_ones_side_by_side(s3_server: S3Server, bucket: str) -> None:
    """Archived by the bucket's own rules: the readable ones are got, a list that needs an archived one says which."""
    async with storage_at(s3_server.endpoint, bucket) as storage, s3_server.admin() as client:
        await save_all(storage, [make(at) for at in range(3)])
        key = f"{PREFIX}/{data_key(number(1))}"
        source = {"Bucket": bucket, "Key": key}
        await client.copy_object(Bucket=bucket, Key=key, CopySource=source, StorageClass="GLACIER")
        assert await storage.get_latest_snapshot(SAGA) == make(2)
        assert await storage.list_snapshots(SAGA, 1) == [make(2)]
        with pytest.raises(SnapshotArchived) as caught:
            await storage.list_snapshots(SAGA)
        assert caught.value.snapshot_ids == (number(1),)
        assert caught.value.readable == (make(2), make(0))
        walk = storage.iter_snapshots(SAGA)
        assert await anext(walk) == make(0)
        with pytest.raises(SnapshotArchived):
            await anext(walk)


async def test_transfer_copies_what_is_not_archived(s3_server: S3Server, bucket: str) -> None:
    """A saga archived in part: the readable ones move, older and newer; of the others it is told how to get them."""
    async with storage_at(s3_server.endpoint, bucket) as source, s3_server.admin() as client:
        await save_all(source, [make(at) for at in range(5)])
        key = f"{PREFIX}/{data_key(number(2))}"
        copy = {"Bucket": bucket, "Key": key}
        await client.copy_object(Bucket=bucket, Key=key, CopySource=copy, StorageClass="GLACIER")
        target = InMemorySnapshotStorage()
        report = await transfer_snapshots(source, target)
        assert (report.snapshots.found, report.snapshots.copied, report.snapshots.archived) == (5, 4, 1)
        assert await ids_of(target) == [number(at) for at in (0, 1, 3, 4)]


async def test_archived_snapshot_is_found_by_its_newest_place_only(s3_server: S3Server, bucket: str) -> None:
    """An entry of an earlier save of an archived snapshot counts no more than one of a readable snapshot."""
    async with storage_at(s3_server.endpoint, bucket, storage_class="GLACIER") as storage:
        await storage.save_snapshot(make(5, created_at=BEGUN + DAY))
        await storage.save_snapshot(make(5, created_at=BEGUN))
        await storage.save_snapshot(make(1))
        with pytest.raises(SnapshotArchived) as caught:
            await storage.get_latest_snapshot(SAGA)
        assert caught.value.snapshot_ids == (number(1),)
        with pytest.raises(SnapshotArchived) as caught:
            await storage.list_snapshots(SAGA)
        assert caught.value.snapshot_ids == (number(1), number(5))


async def test_archived_snapshots_expire_and_are_deleted(s3_server: S3Server, bucket: str) -> None:
    """Without being read."""
    clock = VirtualClock(NOW)
    async with storage_at(s3_server.endpoint, bucket, storage_class="GLACIER", clock=clock) as storage:
        await save_all(storage, [make(0, retention_until=NOW + HOUR), make(1), make(2)])
        clock.advance(HOUR)
        assert await storage.get_snapshot(number(0)) is None
        with pytest.raises(SnapshotArchived) as caught:
            await storage.list_snapshots(SAGA)
        assert caught.value.snapshot_ids == (number(2), number(1))
        assert await storage.delete_expired_snapshots() == 1
        assert await storage.delete_snapshot(number(1)) is True
        assert await storage.cleanup_saga(SAGA) == 1
        assert await keys(s3_server, bucket) == []


# ---- how objects are written


@pytest.mark.parametrize(
    ("options", "algorithm", "key_id"),
    [
        ({}, "AES256", None),
        ({"kms_key_id": "arn:aws:kms:us-east-1:123456789012:key/mine"}, "aws:kms", "mine"),
        ({"enable_encryption": False}, None, None),
    ],
)
async def test_objects_are_encrypted_as_asked(
    relay: Relay, bucket: str, options: dict[str, Any], algorithm: str | None, key_id: str | None
) -> None:
    """Bodies, entries and replay records alike: SSE-S3, SSE-KMS with the key, or none."""
    headers: list[dict[str, str]] = []

    async def meddle(request: Request) -> None:
        if request.method == "PUT":
            headers.append(request.headers)

    relay.meddle = meddle
    async with storage_at(relay.endpoint, bucket, **options) as storage:
        await storage.save_snapshot(make(0, retention_until=NOW + HOUR))
        await storage.save_replay_log(replay())
        assert await storage.get_snapshot(number(0)) == make(0, retention_until=NOW + HOUR)
    assert len(headers) == 5
    assert {each.get("x-amz-server-side-encryption") for each in headers} == {algorithm}
    named = {each.get("x-amz-server-side-encryption-aws-kms-key-id") for each in headers}
    assert {name and name.rpartition("/")[2] for name in named} == {key_id}


@pytest.mark.parametrize(
    "name", ["支払い/../..", "nul\x00half\ud800", "line\r\nx-amz-meta-evil: 1", "%00?#&", "ü" * 9_000]
)
async def test_names_are_in_no_header_and_no_key(relay: Relay, s3_server: S3Server, bucket: str, name: str) -> None:
    """Whatever a saga, a step or a status is called, it is stored and filtered by."""
    odd = make(0, saga_name=name, step_name=name, status=name)
    async with storage_at(relay.endpoint, bucket) as storage:
        await save_all(storage, [odd, make(1)])
        assert await storage.get_latest_snapshot(SAGA, before_step=name) == odd
        assert await storage.get_snapshot(number(0)) == odd
    for key in await keys(s3_server, bucket):
        assert key.isascii()
        assert set((await head(s3_server, bucket, key))["Metadata"]) <= {"mark", "put", "sha256"}


async def test_large_snapshot_is_sent_in_parts(s3_server: S3Server, bucket: str) -> None:
    """Above the threshold; it replaces and is replaced like any other, and no upload is left."""
    async with storage_at(s3_server.endpoint, bucket, multipart_threshold=10_000, enable_compression=False) as storage:
        for context in ({"blob": "x" * 20_000}, {"small": 1}, {"blob": "y" * 30_000}):
            await storage.save_snapshot(make(0, context=context))
            assert await storage.get_snapshot(number(0)) == make(0, context=context)
            in_parts = "-" in (await head(s3_server, bucket, data_key(number(0))))["ETag"]
            assert in_parts == ("blob" in context)
        assert await ids_of(storage) == [number(0)]
    assert await s3_server.uploads(bucket) == []


async def test_store_that_refuses_the_sdks_checksums_works(relay: Relay, bucket: str) -> None:
    """Many S3-compatibles do: nothing of the kind is sent to an endpoint that is not AWS."""

    async def meddle(request: Request) -> Answer | None:
        if request.target.endswith("?delete"):
            return xml_error(400, "MissingContentMD5")
        refused = [
            name for name in request.headers if "checksum" in name or name in ("x-amz-trailer", "content-encoding")
        ]
        return xml_error(411, "MissingContentLength", str(refused)) if refused else None

    relay.meddle = meddle
    clock = VirtualClock(NOW)
    async with storage_at(relay.endpoint, bucket, clock=clock, multipart_threshold=5_000) as storage:
        big = make(1, context={"x": list(range(5_000))}, retention_until=NOW + HOUR)
        await save_all(storage, [make(0), big, make(2)])
        await storage.save_replay_log(replay())
        assert await ids_of(storage) == [number(0), number(1), number(2)]
        clock.advance(HOUR)
        assert await storage.delete_expired_snapshots() == 1
        assert await storage.delete_snapshot(number(0)) is True
        assert await storage.cleanup_saga(SAGA) == 1


@pytest.mark.parametrize("versioning", ["Enabled", "Suspended"])
async def test_versioned_bucket_keeps_nothing_of_what_was_removed(s3_server: S3Server, versioning: str) -> None:
    """Deleted, cleaned up or expired: old versions go too; a re-save is read like any."""
    bucket, clock = await s3_server.make_bucket(versioning), VirtualClock(NOW)
    async with storage_at(s3_server.endpoint, bucket, clock=clock) as storage:
        for turn in range(2):
            for at in range(3):
                until = NOW + HOUR if at == 0 else None
                await storage.save_snapshot(make(at, context={"turn": turn}, retention_until=until))
        assert (await storage.get_snapshot(number(1))).context == {"turn": 1}  # type: ignore[union-attr]
        clock.advance(HOUR)
        assert await storage.delete_expired_snapshots() == 1
        assert await storage.delete_snapshot(number(1)) is True
        assert await storage.delete_snapshot(number(1)) is False
        assert await storage.cleanup_saga(SAGA) == 1
        assert [each["Key"] for each in await s3_server.versions(bucket) if "/data/" in each["Key"]] == []


# ---- replay records


async def test_replay_record_that_changed_its_saga_is_listed_there_only(storage: S3SnapshotStorage) -> None:
    """The record has the last word on where it belongs."""
    await storage.save_replay_log(replay(0))
    await storage.save_replay_log(replay(1))
    moved = replay(0, original_saga_id=OTHER_SAGA)
    await storage.save_replay_log(moved)
    assert [each["replay_id"] for each in await storage.list_replays(SAGA)] == [str(number(1))]
    assert await storage.list_replays(OTHER_SAGA) == [moved.to_dict()]
    assert [each["replay_id"] async for each in storage.iter_replay_logs()] == [str(number(0)), str(number(1))]


@pytest.mark.parametrize("data", [b"", b"\x00{}", b'\x00{"replay_id": 1}', b'\x00{"replay_id": "x"}', b"\xff"])
async def test_unreadable_replay_record_hides_no_other(
    storage: S3SnapshotStorage, s3_server: S3Server, bucket: str, data: bytes
) -> None:
    """A list raises with the others, a walk where it comes to it; asked for by id it is an error."""
    await storage.save_replay_log(replay(0))
    await storage.save_replay_log(replay(1))
    async with s3_server.admin() as client:
        await client.put_object(Bucket=bucket, Key=f"{PREFIX}/replays/{number(1)}", Body=data)
    walk = storage.iter_replay_logs()
    with capture_logs() as logs:
        with pytest.raises(CorruptRecord) as caught:
            await storage.list_replays(SAGA)
        assert caught.value.readable == (replay(0).to_dict(),)
        assert await anext(walk) == replay(0).to_dict()
        with pytest.raises(CorruptRecord):
            await anext(walk)
    assert [each["event"] for each in logs] == ["snapshot.unreadable"], "once, though two met it"
    with pytest.raises(CorruptRecord):
        await storage.get_replay_log(number(1))


# ---- what can go wrong


async def test_missing_bucket_is_told_with_what_to_do(s3_server: S3Server) -> None:
    """By every call that can tell, in the words of this storage's options."""
    async with storage_at(s3_server.endpoint, "no-such-bucket") as storage:
        calls: list[Awaitable[object]] = [
            storage.save_snapshot(make()),
            storage.get_snapshot(number(0)),
            storage.get_latest_snapshot(SAGA),
            storage.list_snapshots(SAGA),
            storage.delete_snapshot(number(0)),
            storage.cleanup_saga(SAGA),
            storage.delete_expired_snapshots(),
            storage.save_replay_log(replay()),
            storage.get_replay_log(number(0)),
            storage.list_replays(SAGA),
        ]
        for call in calls:
            with pytest.raises(BucketUnusable) as caught:
                await call
            assert "create the bucket no-such-bucket, or correct bucket_name" in caught.value.hint
            assert caught.value.__cause__ is not None
        health = await storage.health_check()
        assert (health.status, health.snapshot_count) == ("unhealthy", 0)
        assert "no-such-bucket" in health.details["error"]
        assert "bucket_name" in health.details["hint"]


async def test_server_that_is_down_is_unavailable() -> None:
    """With where it is and no secret; health says so and does not raise."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    async with storage_at(endpoint, "bucket") as storage:
        with pytest.raises(ColdTierUnavailable) as caught:
            await storage.get_snapshot(number(0))
        assert endpoint in caught.value.hint
        assert "tiers.cold" not in caught.value.hint
        health = await storage.health_check()
        assert health.status == "unhealthy"
        assert "testing-secret" not in str(health.to_dict())


async def test_refused_deletes_are_read_per_key(relay: Relay, bucket: str) -> None:
    """S3 answers 200 to a batch of which single keys failed: that is an error, not success."""

    async def meddle(request: Request) -> Answer | None:
        if "delete=" not in request.target and not request.target.endswith("?delete"):
            return None
        body = b"<DeleteResult><Error><Key>snapshots/k</Key><Code>AccessDenied</Code></Error></DeleteResult>"
        return Answer(headers={"Content-Type": "application/xml"}, body=body)

    async with storage_at(relay.endpoint, bucket) as storage:
        await storage.save_snapshot(make(0))
        relay.meddle = meddle
        with pytest.raises(ObjectStoreError, match="AccessDenied") as caught:
            await storage.delete_snapshot(number(0))
        assert "s3:DeleteObject" in caught.value.hint


async def test_role_that_can_only_write_saves(relay: Relay, bucket: str) -> None:
    """The look at what is replaced is housekeeping: a save needs s3:PutObject alone."""

    async def meddle(request: Request) -> Answer | None:
        return None if request.method == "PUT" else xml_error(403, "AccessDenied")

    relay.meddle = meddle
    async with storage_at(relay.endpoint, bucket) as storage:
        await storage.save_snapshot(make(0))
        relay.meddle = None
        assert await ids_of(storage) == [number(0)]


async def test_role_that_can_only_read_reads(relay: Relay, bucket: str) -> None:
    """Entries that ought to be removed stay, and nothing else is different."""

    async def meddle(request: Request) -> Answer | None:
        return None if request.method in ("GET", "HEAD") else xml_error(403, "AccessDenied")

    clock = VirtualClock(datetime.now(UTC))
    async with storage_at(relay.endpoint, bucket, clock=clock) as storage:
        await storage.save_snapshot(make(0, created_at=BEGUN))
        await storage.save_snapshot(make(0, created_at=BEGUN + HOUR))
        clock.advance(2 * DAY)
        relay.meddle = meddle
        assert await ids_of(storage) == [number(0)]


async def test_snapshot_under_the_wrong_key_is_corrupt(
    storage: S3SnapshotStorage, s3_server: S3Server, bucket: str
) -> None:
    """One object copied over another is never returned as the other."""
    await save_all(storage, [make(0), make(1)])
    async with s3_server.admin() as client:
        source = {"Bucket": bucket, "Key": f"{PREFIX}/{data_key(number(0))}"}
        await client.copy_object(Bucket=bucket, Key=f"{PREFIX}/{data_key(number(1))}", CopySource=source)
    with pytest.raises(CorruptRecord):
        await storage.get_snapshot(number(1))
    with pytest.raises(CorruptRecord):
        await storage.get_latest_snapshot(SAGA)
    with pytest.raises(CorruptRecord) as caught:
        await storage.list_snapshots(SAGA)
    assert caught.value.readable == (make(0),)


async def test_prefixes_share_a_bucket(s3_server: S3Server, bucket: str) -> None:
    """Each sees and removes its own, with or without slashes, and none at all."""
    prefixes = ("", "production/snapshots/", "/archive")
    for at, prefix in enumerate(prefixes):
        async with storage_at(s3_server.endpoint, bucket, prefix=prefix) as storage:
            await storage.save_snapshot(make(at))
    for at, prefix in enumerate(prefixes):
        async with storage_at(s3_server.endpoint, bucket, prefix=prefix) as storage:
            assert await ids_of(storage) == [number(at)]
            assert await storage.cleanup_saga(SAGA) == 1
    assert await s3_server.versions(bucket) == []
