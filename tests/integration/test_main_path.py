"""Save, age, read from every tier, transition, expire: the main path on real servers."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from support.payload import saga, snapshots
from support.tiers import DAY, NOW, Places, Product, config, product

from sagaz_tiering.config.sections import LimitSettings, RestoreSettings
from sagaz_tiering.errors import MassDelete, SchemaMismatch, SnapshotArchived, SnapshotTooLarge
from sagaz_tiering.jobs import JOBS, run_job
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.snapshot import SagaSnapshot, Tier

SAVED = list(snapshots(12, created_at=NOW, saga_name="payment-order"))


@pytest.fixture
async def shop(places: Places):
    async with product(config(**places)) as opened:
        for snapshot in SAVED:
            await opened.storage.save_snapshot(snapshot)
        yield opened


async def check_reads(shop: Product, saved: list[SagaSnapshot]) -> None:
    """Every snapshot reads back equal by id, by latest, by step, by time and by list."""
    sagas: dict[object, list[SagaSnapshot]] = {}
    for snapshot in saved:
        assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
        sagas.setdefault(snapshot.saga_id, []).append(snapshot)
    for saga_id, of_saga in sagas.items():
        newest_first = sorted(of_saga, key=lambda s: s.created_at, reverse=True)
        assert await shop.storage.list_snapshots(saga_id) == newest_first
        assert await shop.storage.list_snapshots(str(saga_id), limit=2) == newest_first[:2]
        assert await shop.storage.get_latest_snapshot(saga_id) == newest_first[0]
        middle = newest_first[2]
        assert await shop.storage.get_latest_snapshot(saga_id, before_step=middle.step_name) == middle
        assert await shop.storage.get_snapshot_at_time(saga_id, middle.created_at) == middle
        before = middle.created_at - timedelta(microseconds=1)
        assert await shop.storage.get_snapshot_at_time(saga_id, before) == newest_first[3]


async def test_hot_snapshots_read_back_equal(shop: Product) -> None:
    """Before anything ages, every query answers from Redis."""
    await check_reads(shop, SAVED)
    assert {ref.tier for ref in await shop.storage.timeline(SAVED[0].saga_id)} == {Tier.HOT}
    assert await shop.storage.get_snapshot(uuid4()) is None
    assert await shop.storage.list_snapshots(uuid4()) == []


async def test_age_moves_everything_due_and_nothing_else(shop: Product) -> None:
    """After 7 days and the linger, all is in one pack; Redis and the durable copy are empty; reads are equal."""
    shop.clock.advance(9 * DAY)
    young = list(snapshots(1, start=500, created_at=shop.clock.now(), saga_name="payment-order"))
    for snapshot in young:
        await shop.storage.save_snapshot(snapshot)
    preview = await shop.run("age", dry_run=True)
    assert preview.counts["snapshots"] == len(SAVED)
    report = await shop.run("age")
    assert report.counts["archived"] == report.counts["evicted"] == len(SAVED)
    assert await shop.hot_count() == len(young)
    assert (await shop.runtime.catalog.durable.totals(shop.clock.now()))["snapshots"] == len(young)
    assert len(await shop.object_keys()) == report.counts["packs"] == 1
    await check_reads(shop, SAVED + young)
    refs = await shop.storage.timeline(SAVED[0].saga_id)
    assert [ref.step_name for ref in refs] == [s.step_name for s in SAVED[:5]]
    assert {(ref.tier, ref.storage_class) for ref in refs} == {(Tier.COLD, "STANDARD_IA")}
    assert "archived" not in (await shop.run("age")).counts


async def test_small_backlog_waits_for_company(shop: Product) -> None:
    """A pack that would be small is not sealed before its oldest snapshot has waited for the linger time."""
    shop.clock.advance(7 * DAY + timedelta(hours=1))
    report = await shop.run("age")
    assert report.counts.get("waiting") == len(SAVED)
    waits = "waits until 2026-06-09 12:00:03Z at the latest for its pack to fill up"
    assert report.notes == [f"policy payments: {waits} (`linger`)"]
    assert (await shop.storage.explain(SAVED[0].snapshot_id)).blockers == (f"it is due and {waits} (`linger: 1d`)",)
    assert await shop.object_keys() == []
    await check_reads(shop, SAVED)
    assert "waiting" not in (await shop.run("age")).counts, "looked at again at once"
    shop.clock.advance(timedelta(hours=24))
    assert (await shop.run("age")).counts["archived"] == len(SAVED)


async def test_glacier_reads_promise_and_retention_removes(shop: Product) -> None:
    """GLACIER reads raise SnapshotArchived, the timeline still answers, and retention removes rows and bytes."""
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    shop.clock.advance(90 * DAY)
    assert (await shop.run("transition")).counts["packs"] == 1
    [key] = await shop.object_keys()
    assert (await shop.runtime.objects.head(key)).storage_class == "GLACIER"
    assert len(await shop.object_keys("footers/")) == 1
    with pytest.raises(SnapshotArchived) as archived:
        await shop.storage.get_snapshot(SAVED[0].snapshot_id)
    assert archived.value.storage_class == "GLACIER"
    assert archived.value.snapshot_ids == (SAVED[0].snapshot_id,)
    assert archived.value.eta is not None
    with pytest.raises(SnapshotArchived) as several:
        await shop.storage.list_snapshots(SAVED[0].saga_id)
    assert len(several.value.snapshot_ids) == 5
    assert len(await shop.storage.timeline(SAVED[0].saga_id)) == 5

    victim = SAVED[0]
    end = max(snapshot.created_at for snapshot in SAVED if snapshot.saga_id == victim.saga_id)
    shop.clock.advance(end + 400 * DAY - shop.clock.now() - timedelta(microseconds=1))
    with pytest.raises(SnapshotArchived):
        await shop.storage.get_snapshot(victim.snapshot_id)
    assert len(await shop.storage.timeline(victim.saga_id)) == 5
    shop.clock.advance(timedelta(microseconds=1))
    assert await shop.storage.get_snapshot(victim.snapshot_id) is None, "visible past its retention"
    assert await shop.storage.timeline(victim.saga_id) == []

    shop.clock.advance(DAY)
    assert (await shop.run("expire", dry_run=True)).counts["archived"] == len(SAVED)
    report = await shop.run("expire")
    assert report.counts["archived"] == len(SAVED)
    assert report.counts["packs_retired"] == 1
    assert await shop.object_keys() == [key], "bytes went before the grace"
    shop.clock.advance(DAY)
    assert (await shop.run("expire")).counts["packs_deleted"] == 1
    assert await shop.object_keys() == await shop.object_keys("footers/") == []
    assert await shop.storage.list_snapshots(victim.saga_id) == []


async def test_random_sagas_agree_with_a_model(shop: Product) -> None:
    """Back-filled, tied and re-saved snapshots over both tiers come back in exact order."""
    chance, saga_id = random.Random(7), uuid4()
    model: dict[object, SagaSnapshot] = {}
    for turn in range(6):
        for _ in range(12):
            created = NOW + timedelta(hours=chance.randint(-400, 24 * 9 * turn), microseconds=chance.randint(0, 2))
            known = list(model)
            reuse = known and chance.random() < 0.15
            snapshot = SagaSnapshot(
                snapshot_id=chance.choice(known) if reuse else uuid4(),
                saga_id=saga_id,
                saga_name="payment-mixed",
                step_name=chance.choice("abc"),
                step_index=chance.randint(-1, 3),
                status="executing",
                context={"turn": turn, "n": chance.random()},
                completed_steps=[],
                created_at=min(created, shop.clock.now()),
            )
            model[snapshot.snapshot_id] = snapshot
            shop.clock.advance(timedelta(microseconds=1))
            await shop.storage.save_snapshot(snapshot)
        ordered = sorted(model.values(), key=lambda s: (s.created_at, s.step_index, s.snapshot_id.int), reverse=True)
        assert await shop.storage.list_snapshots(saga_id, limit=1000) == ordered
        for _ in range(10):
            moment = NOW + timedelta(hours=chance.randint(-410, 24 * 9 * turn))
            expected = next((s for s in ordered if s.created_at <= moment), None)
            assert await shop.storage.get_snapshot_at_time(saga_id, moment) == expected
        for step in "abc":
            expected = next((s for s in ordered if s.step_name == step), None)
            assert await shop.storage.get_latest_snapshot(saga_id, before_step=step) == expected
        shop.clock.advance(9 * DAY)
        await shop.run("age")


async def test_runs_close_together_leave_no_claims(shop: Product) -> None:
    """A run that only looked at sagas lets go of them: what becomes due right after is packed by the next run."""
    assert "archived" not in (await shop.run("age")).counts
    shop.clock.advance(9 * DAY)
    assert (await shop.run("age")).counts["archived"] == len(SAVED)


async def test_first_move_to_an_archive_class_keeps_the_footer_readable(places: Places) -> None:
    """A policy may go to GLACIER at once; what is in the pack stays known, and re-saves find it packed."""
    policy = {"name": "straight", "move": [{"to": "GLACIER", "after": "1d"}]}
    async with product(config(**places, policies=[policy])) as shop:
        for snapshot in SAVED[:5]:
            await shop.storage.save_snapshot(snapshot)
        shop.clock.advance(3 * DAY)
        assert (await shop.run("age")).counts["archived"] == 5
        assert len(await shop.object_keys("footers/")) == 1
        with pytest.raises(SnapshotArchived):
            await shop.storage.get_latest_snapshot(SAVED[0].saga_id)


async def test_new_retention_rules_apply_to_packs(places: Places) -> None:
    """Packs are dated anew from their footers before anything of them expires by the old rules."""

    def rules(days: int):
        policy = {"name": "all", "move": [{"to": "STANDARD_IA", "after": "7d"}], "retain": f"{days}d"}
        return config(**places, policies=[policy])

    async with product(rules(100)) as shop:
        for snapshot in SAVED[:5]:
            await shop.storage.save_snapshot(snapshot)
        shop.clock.advance(9 * DAY)
        await shop.run("age")
        running = shop.runtime.job_context().for_a_run()
        await shop.runtime.reload(rules(200))
        assert shop.runtime.job_context().policies is shop.runtime.policies
        assert running.policies.policies == PolicySet(rules(100).policies).policies  # a run keeps those it began with
        shop.clock.advance(120 * DAY)
        assert await shop.storage.list_snapshots(SAVED[0].saga_id) == SAVED[4::-1]
        assert (await shop.run("expire")).counts == {"packs_redated": 1}
        assert await shop.storage.list_snapshots(SAVED[0].saga_id) == SAVED[4::-1]
        await shop.runtime.reload(rules(50))
        with pytest.raises(MassDelete):
            await shop.run("expire")
        assert await shop.storage.list_snapshots(SAVED[0].saga_id) == SAVED[4::-1]
        context = replace(shop.runtime.job_context(), allow_mass_delete=True)
        assert (await run_job("expire", context)).counts["archived"] == 5
        assert await shop.storage.list_snapshots(SAVED[0].saga_id) == []


async def test_reload_puts_limits_and_the_usual_restore_in_force(shop: Product) -> None:
    """What is not set at start counts from a reload on, for the facade as for jobs."""
    changed = {"limits": LimitSettings(max_snapshot=1), "restore": RestoreSettings(days=3)}
    await shop.runtime.reload(shop.runtime.settings.model_copy(update=changed))
    assert shop.runtime.job_context().settings.restore.days == 3
    with pytest.raises(SnapshotTooLarge):
        await shop.storage.save_snapshot(SAVED[0])
    assert await shop.storage.get_snapshot(SAVED[0].snapshot_id) == SAVED[0]


async def test_saga_that_was_renamed_is_packed(shop: Product) -> None:
    """One saga id under two saga names (a renamed class) is archived and reads back in order."""
    renamed = SagaSnapshot.from_dict(
        SAVED[4].to_dict()
        | {"snapshot_id": str(uuid4()), "saga_name": "payment-renamed", "created_at": (NOW + DAY).isoformat()}
    )
    await shop.storage.save_snapshot(renamed)
    shop.clock.advance(10 * DAY)
    assert (await shop.run("age")).counts["archived"] == len(SAVED) + 1
    assert await shop.storage.list_snapshots(SAVED[0].saga_id) == [renamed, *SAVED[4::-1]]


@pytest.mark.parametrize("name", ["payment-order", "fast-order"])
async def test_archived_snapshot_saved_anew_under_another_saga_is_in_that_one_only(shop: Product, name: str) -> None:
    """By list, latest and timeline of both sagas, while the old copy is still in its pack; also with a limit."""
    saved = saga(501, begun=shop.clock.now(), saga_name=name)
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    moved = replace(saved[-1], saga_id=saga(502)[0].saga_id)
    await shop.storage.save_snapshot(moved)
    storage, old, new = shop.storage, saved[0].saga_id, moved.saga_id
    assert await storage.list_snapshots(old) == saved[-2::-1]
    assert await storage.list_snapshots(old, limit=1) == [saved[-2]]
    assert await storage.get_latest_snapshot(old) == saved[-2]
    assert await storage.list_snapshots(new) == [moved]
    assert len([s async for s in storage.iter_snapshots()]) == len(saved) + len(SAVED)
    await shop.run("age")
    assert await shop.hot_count() == 0
    assert await storage.list_snapshots(old) == saved[-2::-1]
    assert await storage.list_snapshots(new) == [moved]


@pytest.mark.parametrize("job", list(JOBS))
async def test_job_does_nothing_on_a_catalog_that_was_migrated_under_it(shop: Product, job: str) -> None:
    """A rolling deploy: the old daemon runs on while the new one's schema is in place already."""
    shop.clock.advance(8 * DAY)
    await shop.runtime.db.execute("INSERT INTO sagaz_tiering.schema_migrations (version, name) VALUES (9999, 'newer')")
    with pytest.raises(SchemaMismatch, match="knows only"):
        await shop.run(job)
    assert await shop.object_keys() == []
    assert await shop.runtime.catalog.history.last_runs() == []
