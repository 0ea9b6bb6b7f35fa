"""Archived snapshots come back on request: once per pack, pinned, and through a crash at any step."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.commands import cli
from support.listening import listening
from support.payload import snapshots
from support.processes import redis_do
from support.s3_server import S3Server
from support.tiers import DAY, NOW, Places, Product, config, product

from sagaz_tiering.catalog.restores import Wanted
from sagaz_tiering.clock import SystemClock
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.errors import ConfigError, SnapshotArchived
from sagaz_tiering.snapshot import SagaSnapshot, Tier

POLICIES: list[dict[str, Any]] = [
    {"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "90d"}]}
]
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
PACK = {"pack": {"target": "64KiB", "max_frame": "64KiB"}}


class Counting:
    """Counts what is asked of the object store it stands in front of."""

    def __init__(self, objects: Any) -> None:
        self.restored: list[str] = []
        self._objects = objects

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    async def restore(self, key: str, *, days: int, tier: str) -> Any:
        self.restored.append(key)
        return await self._objects.restore(key, days=days, tier=tier)


async def frozen(shop: Product, sagas: int) -> list[SagaSnapshot]:
    """Sagas in packs in GLACIER, three months later."""
    saved = list(snapshots(sagas, created_at=shop.clock.now()))
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(10 * DAY)
    await shop.run("age")
    shop.clock.advance(90 * DAY)
    await shop.run("transition")
    assert await shop.hot_count() == 0
    return saved


@pytest.fixture
async def shop(places: Places):
    """A product over a directory that keeps S3's law, with small packs."""
    async with product(config(**places, **PACK, policies=POLICIES)) as opened:
        context = opened.runtime.job_context()
        counting: Any = Counting(opened.runtime.objects)
        context.objects = counting
        yield opened


def asked(shop: Product) -> list[str]:
    """Keys that a restore was asked for, in order."""
    return shop.runtime.job_context().objects.restored  # type: ignore[attr-defined, no-any-return]


async def until_ready(shop: Product, restore_id: Any, step: timedelta = timedelta(hours=1)) -> None:
    """Hours pass and the job runs."""
    for _ in range(48):
        await shop.run("restore")
        found = await shop.storage.restore_status(restore_id)
        if found is not None and found.state != "RESTORING":
            assert found.state == "READY", found
            return
        shop.clock.advance(step)
    raise AssertionError("never ready")


async def test_restored_saga_is_hot_and_pinned_then_ages_once(shop: Product) -> None:
    """One request per pack; the age job leaves it alone until the pin ends, then evicts without packing anew."""
    saved = await frozen(shop, 20)
    saga_id, mine = saved[0].saga_id, saved[:5]
    with pytest.raises(SnapshotArchived) as archived:
        await shop.storage.list_snapshots(saga_id)
    assert f"--snapshot {mine[-1].snapshot_id}" in archived.value.how_to_restore
    request = await shop.storage.restore(saga_id, days=3, who="auditor")
    assert request is not None
    assert request.snapshot_count == 5
    assert timedelta(hours=3) <= request.eta_at - shop.clock.now() <= timedelta(hours=12)
    assert request.cost_usd > 0
    await until_ready(shop, request.restore_id)
    assert len(asked(shop)) == len(set(asked(shop))) == 1
    assert await shop.storage.list_snapshots(saga_id) == mine[::-1]
    assert {ref.tier for ref in await shop.storage.timeline(saga_id)} == {Tier.HOT}
    found = await shop.storage.explain(mine[0].snapshot_id)
    assert (found.next_move, found.saga.shares[0].to) == (None, None), "its pack is where it goes; the copy only ends"
    pinned = (await shop.runtime.catalog.restores.pinned([mine[0].snapshot_id], shop.clock.now())).values()
    assert found.saga.shares[0].in_redis_until in pinned
    with pytest.raises(SnapshotArchived):
        await shop.storage.get_snapshot(saved[-1].snapshot_id)

    for _ in range(2):
        assert "evicted" not in (await shop.run("age")).counts
        shop.clock.advance(DAY)
    assert await shop.hot_count() == 5
    shop.clock.advance(2 * DAY)
    await shop.run("restore")
    report = await shop.run("age")
    assert (report.counts["evicted"], report.counts.get("packs")) == (5, None)
    assert (await shop.storage.restore_status(request.restore_id)).state == "DONE"
    assert {ref.tier for ref in await shop.storage.timeline(saga_id)} == {Tier.COLD}


async def test_incident_asks_once_per_pack(shop: Product) -> None:
    """Half of the sagas by match and time span; a second request for some of them costs nothing more."""
    saved = await frozen(shop, 60)
    middle = saved[len(saved) // 2].created_at
    wanted = Wanted(match=Match(saga_name="order-*"), before=middle)
    restorer = shop.storage.restorer
    assert await restorer.request(Wanted(match=Match(outcome="failed")), who="ops") is None
    incident = await restorer.request(wanted, who="ops")
    assert incident is not None
    again = await restorer.request(wanted, who="somebody else")
    assert again is not None
    assert again.restore_id == incident.restore_id
    await shop.run("restore")
    one = await shop.storage.restore(saved[0].saga_id)
    assert one is not None
    assert one.cost_usd == 0
    packs = sum(incident.packs.values())
    assert packs > 1
    await until_ready(shop, incident.restore_id)
    await until_ready(shop, one.restore_id)
    assert len(asked(shop)) == len(set(asked(shop))) == packs
    for snapshot in saved:
        if snapshot.created_at <= middle:
            assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot


async def test_same_asked_for_at_once_is_one_restore(shop: Product) -> None:
    """Whoever comes second is given the first one's, though it was not there yet when it looked."""
    saved, db = await frozen(shop, 1), shop.runtime.db
    first = await shop.storage.restore(saved[0].saga_id)
    assert first is not None
    assert await shop.storage.cancel_restore(first.restore_id)
    async with db.transaction() as conn:
        again = "UPDATE sagaz_tiering.restores SET state = 'RESTORING' WHERE restore_id = $1"
        await conn.execute(again, first.restore_id)  # nobody sees it before this ends
        second = asyncio.create_task(shop.storage.restore(saved[0].saga_id))
        async with asyncio.timeout(120):
            while not second.done() and not await db.fetchval(WAITS):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    found = await second
    assert found is not None
    assert found.restore_id == first.restore_id


async def test_in_place_restore_reads_from_the_pack(shop: Product) -> None:
    """Redis stays empty, and what was readable is archived again when its days are over."""
    saved = await frozen(shop, 5)
    request = await shop.storage.restore(snapshot_ids=[str(saved[0].snapshot_id)], into="in-place", tier="Bulk", days=2)
    assert request is not None
    await until_ready(shop, request.restore_id)
    assert await shop.storage.get_snapshot(saved[0].snapshot_id) == saved[0]
    assert await shop.hot_count() == 0
    shop.clock.advance(3 * DAY)
    await shop.run("restore")
    assert (await shop.storage.restore_status(request.restore_id)).state == "DONE"
    with pytest.raises(SnapshotArchived):
        await shop.storage.get_snapshot(saved[0].snapshot_id)


async def test_cancelled_restore_ages_again(shop: Product) -> None:
    """What it brought back is unpinned; ended ones cannot be cancelled."""
    saved = await frozen(shop, 5)
    request = await shop.storage.restore(saved[0].saga_id)
    assert request is not None
    await until_ready(shop, request.restore_id)
    assert await shop.hot_count() == 5
    assert await shop.storage.cancel_restore(request.restore_id)
    assert not await shop.storage.cancel_restore(request.restore_id)
    shop.clock.advance(8 * DAY)
    await shop.run("age")
    assert await shop.hot_count() == 0


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize("goes_back", [False, True], ids=["emptied", "older-file"])
async def test_restore_that_redis_lost_is_under_way_again(
    own_redis: Any, database: str, tmp_path: Path, goes_back: bool
) -> None:
    """Nobody is told that it is ready; it is brought back once more, its cost and those who wait know of it."""
    server = await own_redis()
    cold = {"url": f"file://{tmp_path / 'cold'}", **PACK}
    async with product(config(database=database, redis_url=server.url, cold=cold, policies=POLICIES)) as shop:
        saved = await frozen(shop, 20)
        request = await shop.storage.restore(saved[0].saga_id, days=30)
        other = await shop.storage.restore(saved[-1].saga_id, days=2)
        assert request is not None
        assert other is not None
        if goes_back:
            await redis_do(server.url, "SAVE")
        await until_ready(shop, request.restore_id)
        await until_ready(shop, other.restore_id)
        shop.clock.advance(4 * DAY)
        await shop.run("restore")
        if goes_back:
            server.kill()
            await server.start()
        else:
            await redis_do(server.url, "FLUSHALL")
        assert (await shop.run("reconcile")).counts["restored_anew"] == 1
        again = await shop.storage.restore(saved[0].saga_id, days=30)
        assert again is not None
        assert (again.restore_id, again.state, again.ready_at) == (request.restore_id, "RESTORING", None)
        assert again.eta_at > shop.clock.now()
        assert again.cost_usd == pytest.approx(2 * request.cost_usd)
        assert "Redis lost" in again.errors[0]
        assert (await shop.storage.restore_status(other.restore_id)).state == "DONE"
        with pytest.raises(SnapshotArchived):
            await shop.storage.list_snapshots(saved[0].saga_id)
        await until_ready(shop, request.restore_id)
        assert await shop.storage.list_snapshots(saved[0].saga_id) == saved[4::-1]
        assert await shop.hot_count() == 5
        shop.clock.advance(29 * DAY)
        await shop.run("age")
        assert await shop.hot_count() == 5
        assert "restored_anew" not in (await shop.run("reconcile")).counts


async def test_wrong_requests_say_what_is_offered(shop: Product) -> None:
    """And nothing archived is nothing to restore."""
    saved = await frozen(shop, 1)
    with pytest.raises(ConfigError, match="Slow"):
        await shop.storage.restore(saved[0].saga_id, tier="Slow")
    with pytest.raises(ConfigError):
        await shop.storage.restore(saved[0].saga_id, into="nowhere")
    with pytest.raises(ConfigError):
        await shop.storage.restore()
    assert await shop.storage.restore(NEW.saga_id) is None
    assert await shop.storage.restorer.request(Wanted(after=NOW + 1000 * DAY), who="x") is None


NEW = next(iter(snapshots(1, start=999)))


async def test_read_may_ask_for_the_restore(places: Places) -> None:
    """With `on_archived: request` the promise names the restore, the same one each time."""
    async with product(config(**places, policies=POLICIES, restore={"on_archived": "request", "days": 2})) as shop:
        saved = await frozen(shop, 2)
        found = set()
        for _ in range(2):
            with pytest.raises(SnapshotArchived) as archived:
                await shop.storage.list_snapshots(saved[0].saga_id)
            found.add(archived.value.restore_id)
        (restore_id,) = found
        assert restore_id is not None
        await until_ready(shop, restore_id)
        assert await shop.storage.list_snapshots(saved[0].saga_id) == saved[4::-1]


class Crash(BaseException):
    """Stands for the end of the process at an exact point."""


@pytest.mark.parametrize("step", ["restore", "head", "set_pack", "pin", "save", "ready", "done"])
async def test_restore_crashing_at_each_step_ends_all_the_same(
    shop: Product, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash before and after each write; S3 is asked once per pack, everything is readable, pinned and aged."""
    saved = await frozen(shop, 10)
    request = await shop.storage.restore(saved[0].saga_id, days=2)
    assert request is not None
    context = shop.runtime.job_context()
    owner: Any = {"restore": context.objects, "head": context.objects, "save": context.hot}
    target = owner.get(step, context.catalog.restores)
    real = getattr(target, step)
    for after in (False, True):

        async def crashing(*args: Any, _after: bool = after, **kwargs: Any) -> Any:
            monkeypatch.setattr(target, step, real)
            raise Crash(await real(*args, **kwargs) if _after else None)

        monkeypatch.setattr(target, step, crashing)
        for _ in range(30):
            try:
                await shop.run("restore")
            except Crash:
                break
            shop.clock.advance(timedelta(hours=4))
            if step == "done":
                shop.clock.advance(2 * DAY)
        monkeypatch.setattr(target, step, real)
    for _ in range(20):
        await shop.run("restore")
        found = await shop.storage.restore_status(request.restore_id)
        if found.state != "RESTORING":
            break
        shop.clock.advance(timedelta(hours=4))
    assert found.state in ("READY", "DONE")
    assert len(asked(shop)) == len(set(asked(shop))) == 1
    if found.state == "READY":
        assert await shop.storage.list_snapshots(saved[0].saga_id) == saved[4::-1]
    shop.clock.advance(4 * DAY)
    await shop.run("restore")
    await shop.run("age")
    assert await shop.hot_count() == 0


async def test_webhook_and_command_are_told(places: Places, tmp_path: Path) -> None:
    """Once it is ready; a webhook that fails is tried again."""
    posted: list[bytes] = []
    answers = [b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 204 yes\r\n\r\n"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l"))
        posted.append(await reader.readexactly(length))
        writer.write(answers[min(len(posted), 2) - 1])
        await writer.drain()
        writer.close()

    told = tmp_path / "told.json"
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(listening(serve))
        settings = config(
            **places,
            policies=POLICIES,
            restore={"webhook": f"http://127.0.0.1:{port}/hook", "command": ["/bin/sh", "-c", f"cat >> {told}"]},
        )
        shop = await stack.enter_async_context(product(settings))
        saved = await frozen(shop, 1)
        request = await shop.storage.restore(saved[0].saga_id)
        await until_ready(shop, request.restore_id)
        await shop.run("restore")
        await shop.run("restore")
    assert len(posted) == 2
    assert str(request.restore_id).encode() in posted[1]
    assert told.read_text().count('"READY"') == 2


async def test_restore_on_a_real_s3_server(s3_server: S3Server, database: str, redis_url: str, tmp_path: Path) -> None:
    """By the command line: asked for, worked off, shown, cancelled."""
    from support.yaml_config import write_config

    bucket = await s3_server.make_bucket()
    cold = {
        "url": f"s3://{bucket}/store",
        "endpoint_url": s3_server.endpoint,
        "region": "us-east-1",
        "access_key_id": "testing",
        "secret_access_key": "testing-secret",
        **PACK,
    }
    places: dict[str, Any] = {"database": database, "redis_url": redis_url, "cold": cold, "policies": POLICIES}
    async with product(config(**places), now=SystemClock().now() - 100 * DAY) as shop:
        saved = await frozen(shop, 10)
    path = write_config(tmp_path / "tiering.yaml", **places)
    missing = await cli("restore", NEW.saga_id, "--config", path)
    assert missing.code == 8
    assert (await cli("restore", "--config", path)).code == 2
    asked_for = await cli("restore", saved[0].saga_id, "--tier", "Bulk", "--json", "--config", path)
    assert asked_for.code == 0, asked_for.err
    restore_id = asked_for.document["restore_id"]
    for _ in range(5):
        done = await cli("job", "restore", "--once", "--json", "--config", path)
        assert done.code == 0, done.err
        shown = await cli("restores", restore_id, "--json", "--config", path)
        if shown.document["state"] == "READY":
            break
    assert shown.document["state"] == "READY"
    assert "Bulk" in (await cli("restores", "--config", path)).out
    assert (await cli("show", saved[0].snapshot_id, "--config", path)).code == 0
    assert (await cli("cancel-restore", restore_id, "--config", path)).code == 0
    assert (await cli("cancel-restore", restore_id, "--config", path)).code == 8
