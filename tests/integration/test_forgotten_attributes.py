"""After `forget` nothing shows what a saga was found by, but footers of archived packs, which the receipt names."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.attributes import found_by, in_frames, saga
from support.encrypted import POLICIES, aged, encrypted, key_file, save_all
from support.tiers import DAY, Places, Product, product

from sagaz_tiering.attributes import key_of
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.errors import CorruptPack
from sagaz_tiering.packs.reader import footer_part
from sagaz_tiering.snapshot import SagaSnapshot

CANARY = "CANARY-7731"
ATTRIBUTES = ({"name": "order_id", "path": "order.id"}, {"name": "email", "path": "email", "hashed": True})
GLACIER = [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "60d"}]
KEEP = [
    {"name": "frozen", "match": {"saga_name": "frozen"}, "move": GLACIER, "retain": "forever"},
    *({**policy, "retain": "forever"} for policy in POLICIES),
]


def settings(places: Places) -> TieringConfig:
    """Sagas `order-*` are encrypted, `frozen` ones go to GLACIER as they are."""
    return encrypted(places, policies=KEEP, attributes=ATTRIBUTES, attribute_hash_key="k" * 32)


@pytest.fixture
async def shop(places: Places, tmp_path: Path):
    """A product over a directory that keeps S3's law."""
    key_file(tmp_path)
    async with product(settings(places)) as opened:
        yield opened


def victim(shop: Product, name: str, start: int = 0) -> list[SagaSnapshot]:
    """A saga with the canary: three snapshots of it, from a step on."""
    contexts = [{"order": {"id": CANARY}, "email": CANARY, "step": step} for step in range(start + 3)]
    return saga(name, 1, shop.clock.now(), contexts)[start:]


def others(shop: Product, name: str) -> list[SagaSnapshot]:
    """A saga that stays."""
    return saga(name, 2, shop.clock.now(), [{"order": {"id": "OTHER"}, "email": "OTHER"}] * 3)


def needles(shop: Product) -> list[bytes]:
    """The canary, its hash, and what an index keeps of both."""
    attributes = shop.runtime.in_force.attributes
    tokens = [attributes.token("order_id", CANARY), attributes.token("email", CANARY)]
    hashed = tokens[1].partition("=")[2]
    return [CANARY.encode(), hashed.encode(), *(str(key_of(token)).encode() for token in tokens)]


async def tables(shop: Product) -> bytes:
    """Everything in every table, as text; bytea as it is too."""
    db, found = shop.runtime.db, []
    for table in await db.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'sagaz_tiering'"):
        for row in await db.fetch(f"SELECT t::text AS row, t.* FROM sagaz_tiering.{table['tablename']} t"):
            found += [row["row"].encode(), *(value for value in row.values() if isinstance(value, bytes))]
    return b"\n".join(found)


async def redis_bytes(shop: Product) -> bytes:
    """Every key of Redis with what it holds."""
    found: list[bytes] = []
    async with shop.runtime.hot.connection.pool() as client:
        async for key in client.scan_iter():
            kind = await client.type(key)
            value: Any = b""
            if kind == b"string":
                value = await client.get(key)
            elif kind == b"zset":
                value = await client.zrange(key, 0, -1)
            elif kind == b"hash":
                value = await client.hgetall(key)
            found += [key, value if isinstance(value, bytes) else repr(value).encode()]
    return b"\n".join(found)


def objects(folder: Path) -> dict[str, bytes]:
    """Every object, as it is stored, and its footer as anybody can read it."""
    found = {}
    for path in (folder / "cold").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found[str(path)] = data + footer_of(data)
    return found


def footer_of(data: bytes) -> bytes:
    try:
        return zstandard.decompress(footer_part(data)[:-28])
    except (CorruptPack, zstandard.ZstdError):
        return b""


def showing(found: dict[str, bytes], wanted: list[bytes]) -> set[str]:
    return {name for name, data in found.items() if any(needle in data for needle in wanted)}


async def nothing_shows(shop: Product, caplog: pytest.LogCaptureFixture) -> None:
    """Not in PostgreSQL, Redis and logs."""
    for place in (await tables(shop), await redis_bytes(shop), caplog.text.encode()):
        assert [needle for needle in needles(shop) if needle in place] == []
    assert await found_by(shop, f"order_id={CANARY}") == set()


async def test_forgotten_saga_leaves_no_attribute(
    shop: Product, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In no table, key and log at once; in no object once its pack was written anew, at once where it was encrypted."""
    caplog.set_level(logging.DEBUG)
    for name in ("parcel", "order-a"):
        await aged(shop, victim(shop, name) + others(shop, name))
        await save_all(shop, victim(shop, name, 3))  # hot, and durable
        saga_id = victim(shop, name)[0].saga_id
        restore = await shop.storage.restore(saga_id=saga_id, days=3)
        assert restore is not None
        await shop.run("restore")
        in_tables = await tables(shop)
        assert all(needle in in_tables for needle in needles(shop))
        in_redis = await redis_bytes(shop)
        assert any(needle in in_redis for needle in needles(shop))
        in_bucket = showing(objects(tmp_path), needles(shop))
        receipt = await shop.storage.forget(saga_id, reason="asked", who="officer")
        await nothing_shows(shop, caplog)
        if name == "order-a":
            assert in_bucket == set()
            assert receipt.packs == ()
            continue
        assert len(in_bucket) == len(receipt.packs) == 1
        shop.clock.advance(4 * DAY)
        for job in ("restore", "compact", "expire"):
            await shop.run(job)
        shop.clock.advance(2 * DAY)
        await shop.run("expire")
        assert showing(objects(tmp_path), needles(shop)) == set()
        await nothing_shows(shop, caplog)
        done = await shop.runtime.catalog.erasures.receipt(receipt.erasure_id)
        assert done is not None
        assert done.complete
        assert await found_by(shop, "order_id=OTHER") == {others(shop, name)[0].saga_id}


async def test_receipt_names_archived_packs_whose_footers_show_attributes(
    shop: Product, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With their class, and the date once they are gone: until then the footer is there, and its readable copy."""
    saga_id = victim(shop, "frozen")[0].saga_id
    await aged(shop, victim(shop, "frozen") + others(shop, "frozen"))
    shop.clock.advance(60 * DAY)
    await shop.run("transition")
    receipt = await shop.storage.forget(saga_id, reason="asked", who="officer")
    await nothing_shows(shop, caplog)
    [pack] = receipt.packs
    assert (pack.storage_class, pack.gone_at) == ("GLACIER", None)
    name = pack.object_key.rsplit("/", 1)[1].removesuffix(".pack")
    assert {name in path for path in showing(objects(tmp_path), needles(shop))} == {True}
    for _ in range(4):
        shop.clock.advance(2 * DAY)
        for job in ("compact", "expire"):
            await shop.run(job)
    done = await shop.runtime.catalog.erasures.receipt(receipt.erasure_id)
    assert done is not None
    assert done.complete
    assert done.packs[0].gone_at is not None
    assert showing(objects(tmp_path), needles(shop)) == set()
    await nothing_shows(shop, caplog)


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("parcel", "alone"),
        ("order-a", "alone"),
        ("parcel", "while it is reindexed"),
        ("order-a", "while it is reindexed"),
        ("parcel", "while its pack is written anew"),
    ],
)
async def test_deleted_snapshot_leaves_none_of_its_values_in_the_catalog(
    shop: Product, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, when: str
) -> None:
    """The only one of its saga, and of its frame, that had them; the others keep theirs."""
    caplog.set_level(logging.DEBUG)
    rest = {"order": {"id": "REST"}}
    first, secret, last = saga(name, 1, shop.clock.now(), [rest, {"order": {"id": CANARY}, "email": CANARY}, rest])
    await aged(shop, [first, secret, last, *others(shop, name)])
    in_tables = await tables(shop)
    assert all(needle in in_tables for needle in needles(shop))

    async def delete() -> None:
        assert await shop.storage.delete_snapshot(secret.snapshot_id)

    if when == "alone":
        await delete()
    elif when == "while it is reindexed":
        await shop.runtime.db.execute(
            "SELECT sagaz_tiering.set_frame_attributes(f.pack_id, array_agg(f.frame_no), array_agg(NULL::text))"
            " FROM sagaz_tiering.frames f GROUP BY f.pack_id"
        )
        before(monkeypatch, shop.runtime.catalog.reindexed, "set_pack", delete)
        assert (await shop.run("reindex")).counts["packs_changed"] == 1
    else:
        await shop.storage.forget(others(shop, name)[0].saga_id, reason="asked", who="officer")
        shop.clock.advance(2 * DAY)
        before(monkeypatch, shop.runtime.catalog.compaction, "replace", delete)
        assert (await shop.run("compact")).counts["packs"] == 1
    monkeypatch.undo()
    await nothing_shows(shop, caplog)
    assert {text for one, text in (await in_frames(shop)).items() if one in (first.snapshot_id, last.snapshot_id)} == {
        "order_id=REST"
    }
    assert await found_by(shop, "order_id=REST") == {first.saga_id}


def before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], Awaitable[None]]) -> None:
    """Have `act` done right before each call of a method."""
    whole = getattr(owner, name)

    async def after_it(*args: Any, **kwargs: Any) -> Any:
        await act()
        return await whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, after_it)
