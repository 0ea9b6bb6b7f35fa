"""The catalog rules the bucket, never the other way round (G13): forgeries by someone who can write to the bucket.

Each forgery fits together: sizes, checksums and names are right. Only the catalog knows better.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.encrypted import encrypted, key_file
from support.forgery import (
    footer_in,
    footer_like,
    forged_frame,
    given_to,
    overwrite,
    pack_like,
    with_footer,
    with_frame,
)
from support.servers import fresh_database
from support.snapshots import make
from support.tiers import DAY, Places, Product, adjust, config, product, rebuilt_from_bucket, rule

from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import encode
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.errors import CorruptPack
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.operations.catch_up import RivalClaim, contradict
from sagaz_tiering.packs.entries import Footer
from sagaz_tiering.packs.frame import build_frame
from sagaz_tiering.policy import Policy, PolicySet
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage_class import StorageClass

pytestmark = [pytest.mark.guarantee("G13")]

VICTIM, MALLORY = UUID(int=1 << 100), UUID(int=2 << 100)
NOISE = bytes(range(256)).hex()
POLICIES: list[dict[str, Any]] = [rule("all", "*", {"STANDARD_IA": "7d", "GLACIER": "60d"}, retain="400d")]


def of(saga_id: UUID, count: int = 2, **context: Any) -> list[SagaSnapshot]:
    """Snapshots of a saga."""
    return [
        make(
            number,
            saga_id=saga_id,
            snapshot_id=UUID(int=saga_id.int + number + 1),
            context={"to": "ALICE", "noise": NOISE[number:], **context},
        )
        for number in range(count)
    ]


async def aged(shop: Product, *sagas: list[SagaSnapshot]) -> str:
    """Into one pack; its key."""
    for snapshot in (each for saga in sagas for each in saga):
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    assert await shop.hot_count() == 0
    return (await shop.object_keys())[-1]


@pytest.fixture
async def shop(database: str, redis_url: str, tmp_path: Path):
    """A product over a directory."""
    cold = {"url": f"file://{tmp_path / 'cold'}"}
    async with product(config(database=database, redis_url=redis_url, cold=cold, policies=POLICIES)) as opened:
        yield opened


async def places(shop: Product) -> list[tuple[Any, ...]]:
    """What the catalog says of every frame and snapshot."""
    rows = await shop.runtime.db.fetch(
        "SELECT s.snapshot_id, s.expires_at, f.saga_id, f.byte_offset, f.byte_length, f.key_id, p.object_key"
        "  FROM sagaz_tiering.snapshots s JOIN sagaz_tiering.frames f USING (pack_id, frame_no)"
        "  JOIN sagaz_tiering.packs p USING (pack_id) ORDER BY 1"
    )
    return [tuple(row) for row in rows]


async def forget_digests(shop: Product) -> None:
    """As if everything was packed before the catalog kept any."""
    await shop.runtime.db.execute("UPDATE sagaz_tiering.packs SET footer_digest = NULL, scrubbed_at = NULL")
    await shop.runtime.db.execute("UPDATE sagaz_tiering.frames SET digest = NULL")


async def quarantined(shop: Product) -> dict[str, str]:
    """Reasons by item."""
    return {one.item: one.reason for one in await shop.runtime.catalog.quarantine.items(100)}


async def refuses_to_read(shop: Product, snapshot: SagaSnapshot) -> None:
    """By id and by saga; a restore into Redis brings nothing."""
    for ask in (
        lambda: shop.storage.get_snapshot(snapshot.snapshot_id),
        lambda: shop.storage.get_latest_snapshot(snapshot.saga_id),
        lambda: shop.storage.get_snapshot_at_time(snapshot.saga_id, snapshot.created_at),
    ):
        with pytest.raises(CorruptPack):
            await ask()


@pytest.mark.parametrize("has_digests", [True, False], ids=["", "packed before there were digests"])
async def test_plaintext_in_place_of_an_encrypted_frame_is_corrupt(
    places: Places, tmp_path: Path, has_digests: bool
) -> None:
    """Also where the catalog has no digest: it knows the key that is due."""
    key_file(tmp_path)
    async with product(encrypted(places)) as shop:
        real = [replace(each, saga_name="secret") for each in of(VICTIM)]
        key = await aged(shop, real)
        data = await shop.runtime.objects.get(key)
        entry = footer_in(data).frames[0]
        assert entry.key_id is not None
        evil = [replace(each, context={"to": "MALLORY"}) for each in real]
        await overwrite(shop, key, with_frame(data, entry, forged_frame(entry, evil)))
        if not has_digests:
            await forget_digests(shop)
        await refuses_to_read(shop, real[1])


async def test_another_frame_in_place_of_one_is_corrupt_for_every_reader(shop: Product) -> None:
    """By id, latest, at a time, by a restore, and nothing is written anew of it."""
    real, other = of(VICTIM), of(MALLORY)
    key = await aged(shop, real, other)
    data = await shop.runtime.objects.get(key)
    [entry] = [frame for frame in footer_in(data).frames if frame.saga_id == VICTIM]
    evil = [replace(each, context={"to": "MALLORY"}) for each in real]
    await overwrite(shop, key, with_frame(data, entry, forged_frame(entry, evil)))
    await refuses_to_read(shop, real[1])
    assert await shop.storage.get_snapshot(other[0].snapshot_id) == other[0]
    before = await places(shop)
    await shop.storage.restore(saga_id=VICTIM)
    await shop.run("restore")
    assert await shop.hot_count() == 0
    await shop.storage.delete_snapshot(other[0].snapshot_id)
    await shop.storage.forget(MALLORY)
    report = await shop.run("compact")
    assert report.counts["failed"] == 1, report
    assert await places(shop) == [row for row in before if row[2] == VICTIM]


async def test_packs_from_before_there_were_digests_get_them(shop: Product) -> None:
    """After the whole object was compared; from then on a forged frame is refused."""
    real = of(VICTIM)
    key = await aged(shop, real, of(MALLORY))
    await forget_digests(shop)
    assert await shop.storage.get_snapshot(real[0].snapshot_id) == real[0]
    report = await shop.run("scrub")
    assert report.counts["packs_vouched_for"] == 1, report
    query = "SELECT count(*) FROM sagaz_tiering.frames WHERE digest IS NULL"
    assert await shop.runtime.db.fetchval(query) == 0
    data = await shop.runtime.objects.get(key)
    entry = next(frame for frame in footer_in(data).frames if frame.saga_id == VICTIM)
    evil = [replace(each, context={"to": "MALLORY"}) for each in real]
    await overwrite(shop, key, with_frame(data, entry, forged_frame(entry, evil)))
    await refuses_to_read(shop, real[1])


async def test_packs_without_digests_wait_for_a_run_that_can_read_them_whole(shop: Product) -> None:
    """A sample would not tell; the next run has a budget of its own."""
    for saga_id in (VICTIM, MALLORY):
        await aged(shop, of(saga_id))
    assert len(await shop.object_keys()) == 2
    await forget_digests(shop)
    context = shop.runtime.job_context()
    size = await shop.runtime.db.fetchval("SELECT max(byte_size) FROM sagaz_tiering.packs")
    adjust(context, jobs__scrub_bytes=size)
    for _ in range(2):
        assert (await shop.run("scrub")).counts["packs_vouched_for"] == 1
    assert "packs_vouched_for" not in (await shop.run("scrub")).counts


async def test_archived_pack_without_digests_gets_them_when_it_is_written_anew(shop: Product) -> None:
    """Until then `scrub` says that only its copy was looked at; thawed for an erasure, it is compared whole."""
    real = of(VICTIM)
    key = await aged(shop, real, of(MALLORY))
    shop.clock.advance(60 * DAY)
    await shop.run("transition")
    await forget_digests(shop)
    report = await shop.run("scrub")
    assert (report.counts["packs_sound"], report.counts["footers_not_vouched_for"]) == (1, 1), report
    await shop.storage.forget(MALLORY)
    await shop.run("compact")
    shop.clock.advance(3 * DAY)
    report = await shop.run("compact")
    assert report.counts["snapshots"] == 2, report
    query = "SELECT count(*) FROM sagaz_tiering.packs WHERE state = 'ACTIVE' AND footer_digest IS NULL"
    assert await shop.runtime.db.fetchval(query) == 0
    assert await shop.object_keys() != [key]


@pytest.mark.parametrize("job", ["scrub", "transition", "compact", "expire"])
async def test_forged_pack_without_digests_gets_none(shop: Product, job: str) -> None:
    """Its sha256 says so; no job vouches for it or moves it on."""
    real = of(VICTIM)
    key = await aged(shop, real, of(MALLORY))
    await forget_digests(shop)
    data = await shop.runtime.objects.get(key)
    forged = with_footer(data, given_to(VICTIM, MALLORY))
    assert len(forged) == len(data)
    await overwrite(shop, key, forged)
    before = await places(shop)
    if job == "transition":
        shop.clock.advance(60 * DAY)
    if job == "expire":
        longer = Policy.model_validate({**POLICIES[0], "retain": "500d", "even_if_costlier": True})
        shop.runtime.in_force.policies = PolicySet([longer])
    if job == "compact":
        await shop.storage.forget(MALLORY)
        before = [row for row in before if row[2] == VICTIM]
    report = await shop.run(job)
    assert report.counts.get("failed", 0) + report.counts.get("altered", 0) == 1, report
    assert await places(shop) == before
    digests = "SELECT count(*) FROM sagaz_tiering.frames WHERE digest IS NOT NULL"
    assert await shop.runtime.db.fetchval(digests) == 0
    assert await shop.object_keys() == [key]


@pytest.mark.parametrize("scrub_bytes", ["10GiB", "1KiB"], ids=["whole", "sampled"])
async def test_forged_footer_of_a_pack_changes_nothing(shop: Product, scrub_bytes: str) -> None:
    """Named by scrub, whether it reads the whole object or a sample; nobody else believes it either."""
    real = of(VICTIM)
    key = await aged(shop, real, of(MALLORY))
    data = await shop.runtime.objects.get(key)
    await overwrite(shop, key, with_footer(data, given_to(VICTIM, MALLORY)))
    before = await places(shop)
    context = shop.runtime.job_context()
    adjust(context, jobs__scrub_bytes=2**40 if scrub_bytes == "10GiB" else 1024)
    report = await shop.run("scrub")
    assert report.counts["altered"] == 1, report
    assert list(await quarantined(shop)) == [key]
    assert await places(shop) == before
    assert await shop.storage.get_snapshot(real[0].snapshot_id) == real[0]


@pytest.mark.guarantee("G7")
@pytest.mark.parametrize("has_digests", [True, False], ids=["", "packed before there were digests"])
async def test_forged_footer_copy_changes_nothing(shop: Product, has_digests: bool) -> None:
    """It is named; a `forget` of the saga that was given the victim's frames removes nothing of the victim's."""
    await aged(shop, of(VICTIM), of(MALLORY))
    shop.clock.advance(60 * DAY)
    await shop.run("transition")
    [copy] = await shop.object_keys("footers/")
    await overwrite(shop, copy, footer_like(given_to(VICTIM, MALLORY)(footer_in(await shop.runtime.objects.get(copy)))))
    if not has_digests:
        await forget_digests(shop)
    before = await places(shop)
    shop.clock.advance(31 * DAY)
    report = await shop.run("scrub")
    assert report.counts["footer_altered"] == 1, report
    assert list(await quarantined(shop)) == [copy]
    assert await places(shop) == before
    receipt = await shop.storage.forget(MALLORY)
    assert receipt.archived == 2
    assert [row[2] for row in await places(shop)] == [VICTIM, VICTIM]
    assert len(await shop.storage.timeline(VICTIM)) == 2


@pytest.mark.guarantee("G7")
async def test_copy_that_was_there_before_the_transition_is_replaced(shop: Product) -> None:
    """Whoever puts a footer where the copy will be does not have it believed."""
    key = await aged(shop, of(VICTIM), of(MALLORY))
    data = await shop.runtime.objects.get(key)
    copy = f"footers/{footer_in(data).pack_id}.footer"
    await overwrite(shop, copy, footer_like(given_to(VICTIM, MALLORY)(footer_in(data))), StorageClass.STANDARD)
    shop.clock.advance(60 * DAY)
    await shop.run("transition")
    assert footer_in(await shop.runtime.objects.get(copy)) == footer_in(data)
    report = await shop.run("scrub")
    assert report.counts["packs_sound"] == 1, report


@pytest.mark.guarantee("G7")
async def test_altered_copy_of_a_thawed_pack_is_written_anew(shop: Product) -> None:
    """While the pack itself can be read, it tells."""
    key = await aged(shop, of(VICTIM))
    shop.clock.advance(60 * DAY)
    await shop.run("transition")
    [copy] = await shop.object_keys("footers/")
    true = await shop.runtime.objects.get(copy)
    await overwrite(shop, copy, footer_like(given_to(VICTIM, MALLORY)(footer_in(true))))
    await shop.runtime.objects.restore(key, days=40, tier="Standard")
    shop.clock.advance(31 * DAY)
    report = await shop.run("scrub")
    assert report.counts["packs_sound"] == 1, report
    assert await shop.runtime.objects.get(copy) == true


async def test_forged_dates_expire_nothing(shop: Product) -> None:
    """New retention rules are applied from footers: those that the catalog vouches for."""
    await aged(shop, of(VICTIM))
    shop.clock.advance(60 * DAY)
    await shop.run("transition")
    [copy] = await shop.object_keys("footers/")

    def older(footer: Any) -> Any:
        frame = footer.frames[0]
        long_ago = to_micros(shop.clock.now() - 3000 * DAY)
        metas = [s._replace(meta=s.meta._replace(created_us=long_ago - n)) for n, s in enumerate(frame.snapshots)]
        return replace(footer, frames=(replace(frame, snapshots=tuple(metas)),))

    await overwrite(shop, copy, footer_like(older(footer_in(await shop.runtime.objects.get(copy)))))
    before = await places(shop)
    longer = Policy.model_validate({**POLICIES[0], "retain": "500d", "even_if_costlier": True})
    shop.runtime.in_force.policies = PolicySet([longer])
    report = await shop.run("expire")
    assert report.counts.get("archived", 0) == 0
    assert report.counts["failed"] == 1, report
    assert await places(shop) == before


async def rebuilt(shop: Product) -> Tally:
    """The catalog of `shop` from its bucket."""
    tally = Tally(None)
    await rebuilt_from_bucket(shop, tally)
    return tally


def contradiction(forgery: str, real: list[SagaSnapshot], footer: Footer) -> tuple[str, bytes]:
    """Key and bytes of another pack of this catalog, which claims the victim's snapshots."""
    metas = {entry.meta.snapshot_id: entry.meta for frame in footer.frames for entry in frame.snapshots}
    saga_id = VICTIM if forgery == "other contents" else MALLORY
    later = 1 if forgery == "a later save for another saga" else 0
    evil = [replace(each, saga_id=saga_id, context={"to": "MALLORY"}) for each in real]
    records = [(encode(each, saved_us=metas[each.snapshot_id].saved_us + later), None) for each in evil]
    pack_id = uuid4()
    month = "0001/01" if forgery == "an earlier name" else "2999/06"
    return f"packs/{month}/2027-07/{pack_id}.pack", pack_like(footer, pack_id, [build_frame(records)])


@pytest.mark.guarantee("G7")
@pytest.mark.parametrize(
    "forgery", ["another saga", "other contents", "an earlier name", "a later save for another saga"]
)
async def test_rebuild_believes_neither_of_two_packs_that_contradict_each_other(
    shop: Product, postgres_server: PostgresServer, redis_url: str, tmp_path: Path, forgery: str
) -> None:
    """What they claim raises, the rest is read, nothing is lost; without the forged one another rebuild has it all."""
    real, other = of(VICTIM), of(UUID(int=3 << 100))
    key = await aged(shop, real, other)
    forged_key, data = contradiction(forgery, real, footer_in(await shop.runtime.objects.get(key)))
    shop.clock.advance(DAY)
    await put(shop, forged_key, data, like=key)
    cold = {"url": f"file://{tmp_path / 'cold'}"}
    async with fresh_database(postgres_server) as second, fresh_database(postgres_server) as third:
        settings = config(database=second, redis_url=redis_url, cold=cold, policies=POLICIES)
        async with product(settings, now=shop.clock.now()) as again:
            tally = await rebuilt(again)
            assert tally.counts["contradictions"] == 2, tally.notes
            assert {key, forged_key} == set(await quarantined(again))
            assert await again.storage.get_snapshot(other[0].snapshot_id) == other[0]
            await again.storage.forget(MALLORY)
            for job in ("scrub", "compact", "transition", "expire"):
                again.clock.advance(3 * DAY)
                await again.run(job)
            for snapshot in real:
                with pytest.raises(CorruptPack, match="contradict"):
                    await again.storage.get_snapshot(snapshot.snapshot_id)
            assert {key, forged_key} <= set(await again.object_keys())
        await shop.runtime.objects.delete([forged_key])
        settings = config(database=third, redis_url=redis_url, cold=cold, policies=POLICIES)
        async with product(settings, now=shop.clock.now()) as again:
            assert not (await rebuilt(again)).counts["contradictions"]
            for snapshot in real + other:
                assert await again.storage.get_snapshot(snapshot.snapshot_id) == snapshot


@pytest.mark.guarantee("G7")
async def test_third_pack_that_agrees_with_a_forged_one_makes_it_no_truer(
    shop: Product, postgres_server: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    """Two forged packs that say the same, one on each side of the true one in the listing."""
    real = of(VICTIM)
    key = await aged(shop, real)
    footer = footer_in(await shop.runtime.objects.get(key))
    younger = replace(footer, created_us=footer.created_us + 1)
    for forgery, said in (("an earlier name", footer), ("another saga", younger)):
        forged_key, data = contradiction(forgery, real, said)
        await put(shop, forged_key, data, like=key)
    async with fresh_database(postgres_server) as second:
        settings = config(database=second, redis_url=redis_url, cold=tmp_path / "cold", policies=POLICIES)
        async with product(settings, now=shop.clock.now()) as again:
            await rebuilt(again)
            assert len(await quarantined(again)) == 3
            for snapshot in real:
                with pytest.raises(CorruptPack, match="contradict"):
                    await again.storage.get_snapshot(snapshot.snapshot_id)


def test_saves_that_explain_each_other_contradict_nothing() -> None:
    """The same save twice, a later one of the same saga, one that was encrypted later; not the other way round."""
    early, late = (encode(make(1), saved_us=at).meta for at in (10**15, 10**15 + 1))
    plain, same, later = RivalClaim(early, False, 1), RivalClaim(early, True, 2), RivalClaim(late, False, 3)
    assert not contradict(plain, same)
    assert not contradict(plain, later)
    assert not contradict(plain, RivalClaim(late, True, 3))
    assert contradict(same, later)
    assert contradict(later, same)
    assert max(plain, same, key=lambda claim: claim.rank) == same


@pytest.mark.guarantee("G7")
@pytest.mark.parametrize("thawed", [True, False])
async def test_rebuild_leaves_out_a_footer_copy_that_contradicts_its_pack(
    shop: Product, postgres_server: PostgresServer, redis_url: str, tmp_path: Path, thawed: bool
) -> None:
    """One whose frames do not fill the pack; and, while the pack can be read, any that is not its footer."""
    key = await aged(shop, of(VICTIM), of(MALLORY))
    shop.clock.advance(60 * DAY)
    await shop.run("transition")
    [copy] = await shop.object_keys("footers/")
    true = footer_in(await shop.runtime.objects.get(copy))
    if thawed:
        await shop.runtime.objects.restore(key, days=40, tier="Standard")
        shop.clock.advance(DAY)
        forged = footer_like(given_to(VICTIM, MALLORY)(true))
    else:
        forged = footer_like(replace(true, frames=true.frames[:1]))
    await overwrite(shop, copy, forged)
    cold = {"url": f"file://{tmp_path / 'cold'}"}
    async with fresh_database(postgres_server) as other:
        settings = config(database=other, redis_url=redis_url, cold=cold, policies=POLICIES)
        async with product(settings, now=shop.clock.now()) as again:
            tally = await rebuilt(again)
            assert tally.counts["unreadable"] == 1, tally.notes
            assert list(await quarantined(again)) == [key]
            assert await places(again) == []


@pytest.mark.guarantee("G7")
async def test_rebuilt_catalog_vouches_for_what_it_read(
    shop: Product, postgres_server: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    """Frames that do not fit their footer are refused from the first read on."""
    real = of(VICTIM)
    key = await aged(shop, real)
    data = await shop.runtime.objects.get(key)
    entry = footer_in(data).frames[0]
    evil = [replace(each, context={"to": "MALLORY"}) for each in real]
    await overwrite(shop, key, with_frame(data, entry, forged_frame(entry, evil)))
    cold = {"url": f"file://{tmp_path / 'cold'}"}
    async with fresh_database(postgres_server) as other:
        settings = config(database=other, redis_url=redis_url, cold=cold, policies=POLICIES)
        async with product(settings, now=shop.clock.now()) as again:
            await rebuilt(again)
            await refuses_to_read(again, real[1])


async def put(shop: Product, key: str, data: bytes, *, like: str) -> None:
    """A new object of the class of another."""
    info = await shop.runtime.objects.head(like)
    await overwrite(shop, key, data, info.storage_class)
