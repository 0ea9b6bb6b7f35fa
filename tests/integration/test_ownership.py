"""Copies of the catalog, older dumps of it, and buckets that are not the one it wrote to do no harm (G8, G14)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.commands import cli
from support.encrypted import copy_database
from support.payload import snapshots
from support.tiers import DAY, NOW, Product, config, product, rule
from support.yaml_config import write_config

from sagaz_tiering.catalog.mark import OWNER_KEY, Mark, parse
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.errors import CatalogBehind, CatalogUnproven, CorruptPack, ForeignCatalog, WrongBucket
from sagaz_tiering.jobs import JOBS
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.jobs.ownership import BEAT, BEATS, Beat, look, secure
from sagaz_tiering.operations.rebuild import Wish, adopt
from sagaz_tiering.operations.verify import verify
from sagaz_tiering.snapshot import SagaSnapshot

POLICIES: list[dict[str, Any]] = [
    rule("short", "short*", {"STANDARD_IA": "7d"}, retain="40d"),
    rule("hot", "hot*", {"STANDARD_IA": "7d"}, durability="hot"),
    rule("rest", "*", {"STANDARD_IA": "7d"}),
]
OPTIONS = {"retire_grace": "1d", "expire_max_share": "1.0", "collect_min_age": "1h"}
TAKE_OVER = Wish(take_over=True)


@dataclass(slots=True)
class World:
    """A catalog, its bucket, and copies of the catalog as a dump of this moment would be."""

    server: PostgresServer
    database: str
    redis_url: str
    folder: Path
    now: Any = NOW

    @asynccontextmanager
    async def opened(self, database: str = "", cold: str = "cold", **sections: Any) -> AsyncIterator[Product]:
        """The product over the catalog or a copy of it, at the world's time."""
        settings = config(
            database=database or self.database,
            redis_url=self.redis_url,
            cold=self.folder / cold,
            policies=POLICIES,
            jobs=OPTIONS,
            **sections,
        )
        async with product(settings, now=self.now) as shop:
            yield shop
            self.now = shop.clock.now()

    async def copy(self) -> str:
        """The URL of a copy. Nobody may be connected to the catalog."""
        return await copy_database(self.database, self.server.url, f"copy_{secrets.token_hex(5)}")

    def bucket(self, cold: str = "cold") -> dict[str, bytes]:
        """Every object but the mark."""
        found = (self.folder / cold / "objects").rglob("*.object/data*")
        return {str(f.parent): hashlib.sha256(f.read_bytes()).digest() for f in found if "owner.json" not in str(f)}


@pytest.fixture
async def world(database: str, postgres_server: PostgresServer, redis_url: str, tmp_path: Path) -> World:
    """Nothing in it yet."""
    return World(server=postgres_server, database=database, redis_url=redis_url, folder=tmp_path)


async def put(shop: Product, start: int, count: int = 2, name: str = "orders") -> list[SagaSnapshot]:
    """Saved now, and due for the move a week later."""
    saved = list(snapshots(count, start=start, created_at=shop.clock.now(), saga_name=name))
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)
    return saved


async def packed(world: World, **opened: Any) -> list[SagaSnapshot]:
    """Some in packs, some that have expired but are still there."""
    async with world.opened(**opened) as shop:
        saved = await put(shop, 0) + await put(shop, 100, name="short")
        shop.clock.advance(9 * DAY)
        await shop.run("age")
        assert await shop.object_keys()
        shop.clock.advance(32 * DAY)
    return saved


async def mark_of(shop: Product) -> Mark:
    mark = parse(await shop.runtime.objects.get(OWNER_KEY))
    assert mark is not None
    return mark


async def refused(shop: Product, error: type[ForeignCatalog]) -> None:
    """Every job stops before it does anything."""
    for job in JOBS:
        with pytest.raises(error):
            await shop.run(job)


# ---- copies


@pytest.mark.guarantee("G8")
@pytest.mark.parametrize("first", ["owner", "copy"])
async def test_copy_of_the_database_beside_its_owner_writes_nothing(first: str, world: World) -> None:
    """Whoever is first to move: the copy's jobs and its daemon stop, the owner goes on."""
    await packed(world)
    copy = await world.copy()
    before, seconds = world.bucket(), [0.0]
    async with world.opened() as owner, world.opened(copy) as other:
        beat = Beat(other.runtime.job_context(), seconds=lambda: seconds[0])
        if first == "copy":
            await refused(other, CatalogUnproven)
            with pytest.raises(CatalogUnproven):
                await beat()
        await secure(owner.runtime.job_context(), move=True)
        seconds[0] = (BEATS * BEAT).total_seconds() * 2
        with pytest.raises(CatalogBehind):
            await beat()
        await refused(other, CatalogBehind)
        assert world.bucket() == before
        verdict = await verify(other.runtime.job_context())
        assert verdict.found["behind"] == 1
        assert (await owner.run("expire")).counts["archived"] > 0
        assert (await verify(owner.runtime.job_context())).clean


@pytest.mark.guarantee("G8")
async def test_database_that_was_moved_waits_for_two_beats_and_goes_on(world: World) -> None:
    """A restore elsewhere, or an upgrade, whose owner is gone: nobody moves the mark, so it is ours."""
    await packed(world)
    copy, seconds = await world.copy(), [100.0]
    async with world.opened(copy) as shop:
        beat = Beat(shop.runtime.job_context(), seconds=lambda: seconds[0])
        for _ in range(3):
            with pytest.raises(CatalogUnproven) as caught:
                await beat()
            seconds[0] += (BEATS * BEAT).total_seconds() / 2
        assert not caught.value.permanent
        seconds[0] += 1
        await beat()
        assert (await shop.run("expire")).counts["archived"] > 0
    async with world.opened() as before:
        await refused(before, CatalogBehind)


@pytest.mark.guarantee("G8")
@pytest.mark.parametrize("step", ["catalog", "bucket", "read_back"])
async def test_move_of_the_mark_that_was_cut_off_is_completed(
    step: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash after the catalog's step, or one whose write came through unseen: the next run goes on."""

    class Crash(Exception):
        pass

    await packed(world)
    async with world.opened() as shop:
        context = shop.runtime.job_context()
        real = context.objects.swap

        async def cut(key: str, data: bytes, tag: str) -> bool:
            if step != "catalog":
                await real(key, data, tag)
            if step == "read_back":
                return False
            raise Crash

        with monkeypatch.context() as patch:
            patch.setattr(context.objects, "swap", cut)
            with pytest.raises(Crash) if step != "read_back" else nullcontext():
                await secure(context, move=True)
        row = await context.catalog.ownership.look()
        assert ((await mark_of(shop)).counter == row.counter) == (step != "catalog")
        assert (await shop.run("expire")).counts["archived"] > 0
        assert (await mark_of(shop)).nonce == (await context.catalog.ownership.look()).nonce


@pytest.mark.guarantee("G8")
async def test_daemons_of_one_catalog_move_the_mark_by_turns(world: World) -> None:
    """However they meet, none takes another for a copy, and mark and catalog agree in the end."""
    await packed(world)
    async with world.opened() as one, world.opened() as two, world.opened() as three:
        contexts = [shop.runtime.job_context() for shop in (one, two, three)]
        for _ in range(5):
            await asyncio.gather(*(secure(context, move=True) for context in contexts), return_exceptions=False)
        for context in contexts:
            seen = await look(context)
            assert seen.mark is not None
            assert seen.mark.nonce == seen.row.nonce


@pytest.mark.guarantee("G8")
async def test_move_that_another_process_completes_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time: once is enough, with the journal's numbers in the mark; also where the other has gone on since."""
    await packed(world)
    async with world.opened() as one, world.opened() as two:
        context, other = one.runtime.job_context(), two.runtime.job_context()
        real, goes_on = context.objects.swap, False

        async def late(key: str, data: bytes, tag: str) -> bool:
            await secure(other, move=goes_on)
            return await real(key, data, tag)

        monkeypatch.setattr(context.objects, "swap", late)
        for goes_on in (False, True):
            before = await context.catalog.ownership.look()
            await one.runtime.catalog.holds.place(uuid4(), reason="case", who="x", now=one.clock.now())
            moved = await secure(context, move=True)
            mark = await mark_of(two)
            assert moved.counter == before.counter + 1
            assert mark.counter == moved.counter + goes_on
            assert mark.journal == moved.journal_number == before.journal_number + 1
            assert (await look(context)).row.journal_confirmed == mark.journal


async def test_mark_of_the_code_before_is_moved_on(world: World) -> None:
    """`owner.json` with an id alone, and a catalog that never moved: the first run upgrades both."""
    await packed(world)
    async with world.opened() as shop:
        objects, old = shop.runtime.objects, await mark_of(shop)
        data = json.dumps({"catalog_id": str(old.catalog_id), "claimed_at": "2026-01-01T00:00:00+00:00"}).encode()
        assert await objects.swap(OWNER_KEY, data, (await objects.get_tagged(OWNER_KEY, most=1000))[1])
        await shop.runtime.db.execute(
            "UPDATE sagaz_tiering.owner SET counter = 0, nonces = '{}', database_oid = NULL, system_identifier = ''"
        )
        await shop.run("age")
        assert (await mark_of(shop)).counter == 1
        assert (await mark_of(shop)).claimed_at.year == 2026
        await shop.runtime.db.execute("UPDATE sagaz_tiering.owner SET counter = 0, nonces = '{}'")  # an older dump
        await refused(shop, CatalogBehind)


async def test_mark_that_came_late_is_no_reason_to_stop(world: World) -> None:
    """On a store without conditions an old write may arrive last: with the packs there, the mark is put right."""
    await packed(world)
    async with world.opened() as shop:
        context, objects = shop.runtime.job_context(), shop.runtime.objects
        old = await objects.get(OWNER_KEY)
        for _ in range(3):
            await secure(context, move=True)
        assert await objects.swap(OWNER_KEY, old, (await objects.get_tagged(OWNER_KEY, most=1000))[1])
        await shop.run("age")
        assert (await mark_of(shop)).nonce == (await context.catalog.ownership.look()).nonce


@pytest.mark.guarantee("G8")
async def test_mark_moves_though_the_clock_of_the_catalog_went_back(world: World) -> None:
    """Else it stood still until the clock came to where it was, and a copy that watches it took the bucket."""
    await packed(world)
    async with world.opened() as shop:
        before = await mark_of(shop)
        await shop.runtime.db.execute("UPDATE sagaz_tiering.owner SET moved_at = clock_timestamp() + interval '1 hour'")
        await secure(shop.runtime.job_context())
        assert (await mark_of(shop)).nonce != before.nonce


# ---- another bucket


@pytest.mark.guarantee("G8")
@pytest.mark.parametrize(
    ("instead", "said"),
    [(b"<!DOCTYPE html><title>Log in</title>", "HTML page"), (b"{}", "cannot be read"), (b"x" * 70_000, "more than")],
)
async def test_mark_that_cannot_be_read_is_told_as_that(instead: bytes, said: str, world: World) -> None:
    """It may stand for another catalog's mark: nothing is written, and nobody is told to delete it."""
    await packed(world)
    async with world.opened() as shop:
        _, tag = await shop.runtime.objects.get_tagged(OWNER_KEY, most=1000)
        assert await shop.runtime.objects.swap(OWNER_KEY, instead, tag)
        before = world.bucket()
        with pytest.raises(ForeignCatalog, match=said) as caught:
            await shop.runtime.check()
        assert "do not delete" in caught.value.hint
        await refused(shop, ForeignCatalog)
        assert world.bucket() == before


@pytest.mark.guarantee("G8")
@pytest.mark.parametrize("how", ["emptied", "typo", "foreign", "went_back"])
async def test_bucket_without_our_packs_is_refused(how: str, world: World) -> None:
    """Made anew and empty, a typo, another's prefix, an old copy: nothing is written, what is missing is named."""
    saved = await packed(world)
    cold, error = "cold" if how in ("emptied", "went_back") else "elsewhere", WrongBucket
    async with world.opened() as shop:
        old = await shop.runtime.objects.get(OWNER_KEY)
        for _ in range(3):
            await secure(shop.runtime.job_context(), move=True)
        keys = [info.key async for info in shop.runtime.objects.list()]
        if how == "emptied":
            await shop.runtime.objects.delete(keys)
        elif how == "went_back":
            _, tag = await shop.runtime.objects.get_tagged(OWNER_KEY, most=1000)
            assert await shop.runtime.objects.swap(OWNER_KEY, old, tag)
            await shop.runtime.objects.delete([key for key in keys if key.startswith("packs/")])
    if how == "foreign":
        error = ForeignCatalog  # type: ignore[assignment]  # its base
        stranger = await world.copy()
        async with world.opened(stranger) as shop:
            await shop.runtime.db.execute("DROP SCHEMA sagaz_tiering CASCADE")
        async with world.opened(stranger, cold=cold) as shop:
            await shop.run("age")
    async with world.opened(cold=cold) as shop:
        young = await put(shop, 300)
        shop.clock.advance(9 * DAY)
        before = world.bucket(cold)
        await refused(shop, error)
        assert world.bucket(cold) == before
        with pytest.raises(error, match=r"packs") as caught:
            await shop.runtime.check()
        assert caught.value.exit_code == 7
        if how != "foreign":
            assert "packs/" in str(caught.value)
            assert "adopt" in caught.value.hint
        for snapshot in young:
            assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
        if how != "went_back":  # the packs are not asked for
            health = await shop.storage.health_check()
            assert (health.status, len(health.details["cold"]["warnings"])) == ("degraded", 1)
        if how in ("emptied", "typo"):
            with pytest.raises(WrongBucket):
                await adopt(shop.runtime.job_context(), Tally(None))
            await shop.storage.hold(saved[0].saga_id, "case 1")
            tally = Tally(None)
            await adopt(shop.runtime.job_context(), tally, Wish(new_bucket=True))
            assert tally.counts["missing"] > 0
            await shop.run("age")
            assert await shop.object_keys("journal/")


@pytest.mark.guarantee("G8")
async def test_copied_bucket_is_taken_as_it_is(world: World) -> None:
    """All objects copied to a new prefix while nothing ran, and the URL changed: the mark came along."""
    saved = await packed(world)
    (world.folder / "cold").rename(world.folder / "moved")
    async with world.opened(cold="moved") as shop:
        assert (await shop.run("expire")).counts["archived"] > 0
        assert await shop.storage.get_snapshot(saved[0].snapshot_id) == saved[0]


# ---- a catalog that went back


async def answers(shop: Product, saved: Sequence[SagaSnapshot]) -> list[Any]:
    """What is read of each, by id and as its saga's timeline, with its holds."""
    storage = shop.storage

    async def told(call: Awaitable[Any]) -> Any:
        try:
            return await call
        except CorruptPack as exc:
            return str(exc)

    return [
        (
            await told(storage.get_snapshot(snapshot.snapshot_id)),
            [(ref.snapshot_id, ref.status, ref.held) for ref in await storage.timeline(snapshot.saga_id)],
        )
        for snapshot in saved
    ]


async def live_on(shop: Product, groups: dict[str, list[SagaSnapshot]]) -> None:
    """After the dump: hold, release, delete, forget, save anew, pack, compact, collect."""
    storage, clock = shop.storage, shop.clock
    for name in ("held packed", "held durable"):
        for snapshot in groups[name]:
            await storage.hold(snapshot.saga_id, "case 1", who="counsel")
    await storage.release(groups["released"][0].saga_id, "settled")
    for name in ("forgotten packed", "forgotten durable"):
        for saga_id in {snapshot.saga_id for snapshot in groups[name]}:
            await storage.forget(saga_id, reason="request 7")
    for name in ("deleted packed", "deleted durable"):
        for snapshot in groups[name]:
            await storage.delete_snapshot(snapshot.snapshot_id)
    again = [SagaSnapshot(**{**_fields(each), "status": "again"}) for each in groups["saved again"]]
    for snapshot in again:
        await storage.save_snapshot(snapshot)
    for days in (9, 2, 2):
        clock.advance(days * DAY)
        for job in ("age", "expire", "compact", "expire", "collect"):
            await shop.run(job)
    groups["young"] = await put(shop, 900)


def _fields(snapshot: SagaSnapshot) -> dict[str, Any]:
    return {name: getattr(snapshot, name) for name in snapshot.__dataclass_fields__}


@pytest.mark.guarantee("G14")
async def test_older_dump_that_was_put_back_is_as_before_after_adopt(world: World) -> None:
    """Nothing expires, is deleted or packed until then; then holds, erasures, deletions and packs are as they were."""
    groups: dict[str, list[SagaSnapshot]] = {}
    async with world.opened() as shop:
        for at, name in enumerate(("old", "forgotten packed", "deleted packed")):
            groups[name] = await put(shop, at * 20)
        for at, name in enumerate(("expiring", "held packed", "released")):
            groups[name] = await put(shop, 100 + at * 20, name="short")
        await shop.storage.hold(groups["released"][0].saga_id, "case 0")
        shop.clock.advance(9 * DAY)
        await shop.run("age")
        for at, name in enumerate(("after", "forgotten durable", "saved again", "deleted durable")):
            groups[name] = await put(shop, 200 + at * 20)
        groups["held durable"] = await put(shop, 400, name="short")
    dump = await world.copy()
    async with world.opened() as shop:
        await live_on(shop, groups)
        saved = [snapshot for group in groups.values() for snapshot in group if group is not groups["young"]]
        before = await answers(shop, saved)
        receipts = [(r.erasure_id, r.saga_id, r.requested_at) for r in await shop.runtime.catalog.erasures.newest(9)]
        held = [hold.to_dict() for hold in await shop.runtime.catalog.holds.in_force()]
        log = [(e["hold_id"], e["action"]) for e in await shop.runtime.catalog.holds.entries(99)]
        objects = world.bucket()
        gone = await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.packs WHERE state = 'DELETED'")
        assert gone > 0, "no pack was compacted away"
    async with world.opened(dump) as shop:
        assert await answers(shop, saved) != before
        await refused(shop, CatalogBehind)
        found = await verify(shop.runtime.job_context())
        assert found.found["behind"] == 1
        with pytest.raises(CatalogBehind, match="lives"):
            await adopt(shop.runtime.job_context(), Tally(None))
        assert world.bucket() == objects
        shop.runtime.job_context().stopping.set()
        await adopt(shop.runtime.job_context(), Tally(None), TAKE_OVER)  # interrupted
        shop.runtime.job_context().stopping.clear()
        await refused(shop, CatalogBehind)
        tally = Tally(None)
        await adopt(shop.runtime.job_context(), tally, TAKE_OVER)
        assert not tally.counts["missing"], tally.notes
        assert await answers(shop, saved) == before
        assert [
            (r.erasure_id, r.saga_id, r.requested_at) for r in await shop.runtime.catalog.erasures.newest(9)
        ] == receipts
        assert [hold.to_dict() for hold in await shop.runtime.catalog.holds.in_force()] == held
        assert sorted((e["hold_id"], e["action"]) for e in await shop.runtime.catalog.holds.entries(99)) == sorted(log)
        verdict = await verify(shop.runtime.job_context())
        assert verdict.clean, verdict.findings
        for job in JOBS:
            await shop.run(job)
        assert await answers(shop, saved) == before
        shop.clock.advance(40 * DAY)
        for _ in range(2):
            for job in JOBS:
                await shop.run(job)
            shop.clock.advance(2 * DAY)
        for name in ("held packed", "held durable", "old", "after"):
            assert None not in [answer[0] for answer in await answers(shop, groups[name])], name
        for name in ("expiring", "forgotten packed", "forgotten durable", "deleted packed", "deleted durable"):
            assert {answer[0] for answer in await answers(shop, groups[name])} == {None}, name
        assert (await verify(shop.runtime.job_context())).clean


@pytest.mark.guarantee("G14")
async def test_deletions_since_an_older_dump_are_not_taken_for_losses_of_redis(world: World) -> None:
    """The dump says of some that Redis alone has them; after adopt they are deleted, and Redis is missed nothing."""
    async with world.opened() as shop:
        kept, deleted, erased = [await put(shop, start, name="hot") for start in (0, 100, 200)]
        shop.clock.advance(DAY)
        await shop.storage.note_hot_saves()
        await shop.run("reconcile")
    dump = await world.copy()
    async with world.opened() as shop:
        for snapshot in deleted:
            assert await shop.storage.delete_snapshot(snapshot.snapshot_id)
        await shop.storage.forget(erased[0].saga_id, reason="asked")
        shop.clock.advance(DAY)
        for job in JOBS:
            await shop.run(job)
    async with world.opened(dump) as shop:
        await adopt(shop.runtime.job_context(), Tally(None), TAKE_OVER)
        for when in ("adopted", "reconciled"):
            for snapshot in (*deleted, *(each for each in erased if each.saga_id == erased[0].saga_id)):
                assert await shop.storage.get_snapshot(snapshot.snapshot_id) is None, when
                listed = await shop.storage.list_snapshots(snapshot.saga_id)
                assert snapshot.snapshot_id not in {each.snapshot_id for each in listed}, when
            for snapshot in kept:
                assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot, when
            await shop.run("reconcile")
        state = await shop.runtime.catalog.hot_tier.state()
        assert (state.trusted, state.lost, state.lost_ever) == (True, 0, 0)


@pytest.mark.guarantee("G8")
async def test_dump_from_before_the_last_packs_is_behind_though_the_mark_was_young(world: World) -> None:
    """Taken within the minute in which the mark need not move: its packs would be nobody's, and be collected."""
    async with world.opened() as shop:
        await put(shop, 0)
        shop.clock.advance(9 * DAY)
        await secure(shop.runtime.job_context(), move=True)
    dump = await world.copy()
    async with world.opened() as shop:
        await shop.run("age")
        assert await shop.object_keys()
    async with world.opened(dump) as shop:
        await refused(shop, CatalogBehind)


@pytest.mark.guarantee("G14")
@pytest.mark.parametrize("gone", [0, -1])
async def test_journal_that_lacks_entries_is_named_by_adopt(gone: int, world: World) -> None:
    """Somebody deleted an object of it, in the middle or at the end: its holds are not in force, and that is said."""
    async with world.opened() as shop:
        saved = await put(shop, 0) + await put(shop, 50)
        await shop.run("age")
    dump = await world.copy()
    async with world.opened() as shop:
        for saga_id in sorted({snapshot.saga_id for snapshot in saved}):
            await shop.storage.hold(saga_id, "case")
        await shop.runtime.objects.delete([(await shop.object_keys("journal/"))[gone]])
    async with world.opened(dump) as shop:
        tally = Tally(None)
        await adopt(shop.runtime.job_context(), tally, TAKE_OVER)
        assert tally.counts["journal_missing"] == 1
        assert "journal entries" in tally.notes[0]
        again = Tally(None)
        await adopt(shop.runtime.job_context(), again, TAKE_OVER)
        assert again.counts["journal_missing"] == 0


@pytest.mark.guarantee("G8")
async def test_command_line_says_behind_and_adopts(world: World) -> None:
    """`status`, `catalog verify`, a job and `hold` say it with their exit codes; `catalog adopt` ends it."""
    await packed(world)
    copy = await world.copy()
    async with world.opened() as shop:
        await secure(shop.runtime.job_context(), move=True)
    cold = {"url": f"file://{world.folder / 'cold'}"}
    names = {"redis_url": world.redis_url, "cold": cold, "policies": POLICIES}
    path = write_config(world.folder / "copy.yaml", database=copy, **names)
    saga = str(next(iter(snapshots(1))).saga_id)
    status = await cli("status", "--json", "--config", path)
    assert (status.code, status.document["owner"]["standing"]) == (7, "behind")
    assert (await cli("catalog", "verify", "--config", path)).code == 6
    job = await cli("job", "expire", "--once", "--config", path)
    assert (job.code, "adopt" in job.err) == (7, True)
    hold = await cli("hold", saga, "--reason", "case", "--json", "--config", path)
    assert hold.document["in_bucket"] is False
    alive = await cli("catalog", "adopt", "--yes", "--config", path)
    assert (alive.code, "lives" in alive.err) == (7, True)
    done = await cli("catalog", "adopt", "--yes", "--take-over", "--json", "--config", path)
    assert (done.code, done.document["was"]) == (0, "behind"), done.err
    hold = await cli("hold", saga, "--reason", "case 2", "--json", "--config", path)
    assert hold.document["in_bucket"] is True
    assert (await cli("status", "--json", "--config", path)).document["owner"]["standing"] == "owner"
    assert (await cli("catalog", "verify", "--config", path)).code == 0
