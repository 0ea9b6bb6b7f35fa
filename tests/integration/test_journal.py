"""The journal in the bucket: what others put there is named and left out, and what is ours counts (G7, G13)."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from support.encrypted import aged, encrypted, key_file
from support.payload import snapshots
from support.servers import fresh_database
from support.tiers import Places, Product, product, rebuilt_from_bucket

from sagaz_tiering.catalog.journal import JournalEntry
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.jobs.journal import MOST_BYTES, build, object_key, parse
from sagaz_tiering.keys.master import WrappedKey
from sagaz_tiering.operations.rebuild import Wish, proposed_id, rebuild
from sagaz_tiering.storage_class import StorageClass

AT = "2026-06-01T00:00:00+00:00"
HOLD = {"hold_id": str(UUID(int=1)), "saga_id": None, "match": {"saga_name": "x"}, "reason": "r", "placed_by": "p"}


def entry(kind: str, body: Any, **fields: Any) -> dict[str, Any]:
    return {"number": 10**6, "at": AT, "kind": kind, "body": body, **fields}


BROKEN: dict[str, Any] = {
    "a number": 5,
    "no body": {"number": 1, "at": AT, "kind": "delete"},
    "no time": entry("delete", {"snapshot_ids": []}, at="yesterday"),
    "no zone": entry("delete", {"snapshot_ids": []}, at="2026-01-01T00:00:00"),
    "in the future": entry(
        "forget", {"saga_id": str(UUID(int=1)), "who": "w", "reason": "r"}, at="2099-01-01T00:00:00+00:00"
    ),
    "no ids": entry("delete", {"snapshot_ids": ["zz"]}),
    "ids a number": entry("delete", {"snapshot_ids": 5}),
    "hold without fields": entry("hold", {"hold_id": "x"}),
    "hold with a wrong match": entry("hold", {**HOLD, "match": {"zz": 1}, "placed_at": AT}),
    "hold without a zone": entry("hold", {**HOLD, "placed_at": "2026-01-01T00:00:00"}),
    "kind a list": entry([], {}),  # type: ignore[arg-type]
}
OBJECTS: dict[str, bytes] = {
    "not json": b"zz",
    "a list": b"[]",
    "null": b"null",
    "another format": orjson.dumps({"format": 9, "entries": []}),
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "large": bytes(MOST_BYTES + 1),
    "entries a dict": orjson.dumps({"format": 1, "catalog_id": str(UUID(int=1)), "entries": {}}),
}


async def put(shop: Product, key: str, data: bytes) -> None:
    sha256 = hashlib.sha256(data).digest()
    await shop.runtime.objects.put(key, data, storage_class=StorageClass.STANDARD, sha256=sha256)


def journal(catalog_id: object, *entries: Any) -> bytes:
    """As whoever may write to the bucket can make it."""
    return orjson.dumps({"format": 2, "catalog_id": str(catalog_id), "entries": orjson.dumps(entries).decode()})


@pytest.mark.guarantee("G7")
async def test_broken_and_foreign_entries_are_named_and_the_rest_counts(
    places: Places, postgres_server: PostgresServer
) -> None:
    """Each is in the quarantine; good entries beside them, of the code before too, are applied."""
    settings = {"policies": [{"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}]}]}
    async with product(encrypted(places, encryption=None, **settings)) as shop:
        saved = list(snapshots(3, created_at=shop.clock.now()))
        await aged(shop, saved)
        await shop.storage.hold(saved[0].saga_id, "case 1")
        whose = await shop.runtime.catalog.identity()
        for at, each in enumerate(BROKEN.values()):
            good = entry("delete", {"snapshot_ids": [str(saved[5].snapshot_id)]}, at=shop.clock.now().isoformat())
            await put(shop, f"journal/{at:020d}-b.json", journal(whose, each, good))
        for at, data in enumerate(OBJECTS.values()):
            await put(shop, f"journal/{at:020d}-o.json", data)
        forged = entry(
            "forget", {"saga_id": str(saved[5].saga_id), "who": "w", "reason": "r"}, at=shop.clock.now().isoformat()
        )
        await put(shop, f"journal/{0:020d}-f.json", journal(uuid4(), forged))
        old = {
            "id": 3,
            "at": shop.clock.now(),
            "kind": "forget",
            "body": {"saga_id": saved[10].saga_id, "who": "w", "reason": "r"},
        }
        document = {"format": 1, "catalog_id": str(whose), "entries": [old]}
        await put(shop, f"journal/{3:020d}-{uuid4()}.json", orjson.dumps(document, default=str))
        now = shop.clock.now()
    async with (
        fresh_database(postgres_server) as other,
        product(encrypted({**places, "database": other}, encryption=None, **settings), now=now) as shop,
    ):
        tally = Tally(None)
        await rebuilt_from_bucket(shop, tally)
        assert tally.counts["journal_left_out"] == len(BROKEN) + len(OBJECTS) + 1, tally.notes
        assert len(await shop.runtime.catalog.quarantine.items(100)) == len(BROKEN) + len(OBJECTS) + 1
        assert [hold.reason for hold in await shop.runtime.catalog.holds.in_force()] == ["case 1"]
        assert await shop.storage.get_snapshot(saved[5].snapshot_id) is None
        assert await shop.storage.list_snapshots(saved[5].saga_id) == saved[9:5:-1]
        assert await shop.storage.list_snapshots(saved[10].saga_id) == []
        assert [each.saga_id for each in await shop.runtime.catalog.erasures.newest(9)] == [saved[10].saga_id]


@pytest.mark.guarantee("G13")
async def test_forged_entries_are_left_out_where_a_master_key_signs(
    places: Places, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """Altered ones never count; those that nobody signed only if the operator says so."""
    key_file(tmp_path)
    async with product(encrypted(places)) as shop:
        saved = list(snapshots(3, created_at=shop.clock.now()))
        await aged(shop, saved)
        await shop.storage.forget(saved[0].saga_id)
        whose, now = await shop.runtime.catalog.identity(), shop.clock.now()
        [key] = [
            each for each in await shop.object_keys("journal/") if b"forget" in await shop.runtime.objects.get(each)
        ]
        genuine = orjson.loads(await shop.runtime.objects.get(key))
        bad = entry("forget", {"saga_id": str(saved[5].saga_id), "who": "w", "reason": "r"}, at=now.isoformat())
        altered = {**genuine, "entries": orjson.dumps([bad]).decode()}
        await put(shop, f"journal/{7:020d}-{uuid4()}.json", orjson.dumps(altered))
        unsigned = entry("forget", {"saga_id": str(saved[10].saga_id), "who": "w", "reason": "r"}, at=now.isoformat())
        await put(shop, f"journal/{8:020d}-{uuid4()}.json", journal(whose, unsigned))
    for wish, gone in ((Wish(take_over=True), [0]), (Wish(take_over=True, unsigned=True), [0, 10])):
        async with (
            fresh_database(postgres_server) as other,
            product(encrypted({**places, "database": other}), now=now) as shop,
        ):
            context, tally = shop.runtime.job_context(), Tally(None)
            proposed = await proposed_id(context)
            assert proposed == whose
            await rebuild(context, tally, whose, wish)
            assert tally.counts["journal_left_out"] == 3 - len(gone)
            left = [at for at in (0, 5, 10) if await shop.storage.timeline(saved[at].saga_id)]
            assert left == [at for at in (0, 5, 10) if at not in gone]


def test_signature_covers_entries_and_catalog() -> None:
    """Entries of one object in another, or of another catalog, are not signed by it."""
    mine, secret = uuid4(), bytes(32)
    key = WrappedKey(key_id=uuid4(), saga_id=mine, wrapped=b"w", master_id="file:a")
    told = [JournalEntry(number=1, at=datetime(2026, 1, 1, tzinfo=UTC), kind="release", body={"hold_id": str(uuid4())})]
    data = build(mine, told, (key, secret))
    assert parse(data).is_signed_with(secret)
    assert not parse(data).is_signed_with(bytes(31) + b"\x01")
    other = orjson.loads(data)
    assert not parse(orjson.dumps({**other, "catalog_id": str(uuid4())})).is_signed_with(secret)
    assert not parse(orjson.dumps({**other, "entries": "[]"})).is_signed_with(secret)
    assert object_key(1, UUID(int=0)) < object_key(2, UUID(int=0)) < object_key(10, UUID(int=0))
