"""S3-compatible stores that answer less than AWS, or oddly about one object: the jobs end their work all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from support.payload import snapshots
from support.s3_server import Answer, Request, S3Server, ScriptedServer, forward, xml_error
from support.tiers import DAY, Product, config, product

from sagaz_tiering.errors import ObjectStoreError
from sagaz_tiering.snapshot import SagaSnapshot

POLICIES: list[dict[str, Any]] = [
    {"name": name, "match": {"saga_name": f"{name}*"}, "move": [{"to": to, "after": after} for to, after in moves]}
    for name, moves in (
        (name, (("STANDARD_IA", "7d"), ("GLACIER", "90d"))) for name in ("first", "second", "third", "fourth")
    )
]


@dataclass(slots=True)
class Lesser:
    """A store whose archive classes are names only: what is in them reads, and nothing can be restored."""

    upstream: str
    refuses: Callable[[str], bool] = lambda key: False
    archived: set[str] = field(default_factory=set)

    async def __call__(self, request: Request) -> Answer:
        key = request.target.split("?")[0]
        if "x-amz-copy-source" in request.headers and self.refuses(key):
            return xml_error(400, "OddAnswer", "not today")
        if request.headers.get("x-amz-storage-class") == "GLACIER":
            self.archived.add(key)
            headers = {**request.headers, "x-amz-storage-class": "STANDARD_IA"}
            return await forward(replace(request, headers=headers), self.upstream)
        if "?restore" in request.target:
            return xml_error(501, "NotImplemented")
        answer = await forward(request, self.upstream)
        if request.method == "HEAD" and key in self.archived and answer.status == 200:
            return replace(answer, headers={**answer.headers, "x-amz-storage-class": "GLACIER"})
        return answer


@asynccontextmanager
async def shop_at(lesser: Lesser, bucket: str, database: str, redis_url: str) -> AsyncIterator[Product]:
    async with ScriptedServer(lesser) as front:
        cold = {
            "url": f"s3://{bucket}/store",
            "endpoint_url": front.endpoint,
            "region": "us-east-1",
            "access_key_id": "testing",
            "secret_access_key": "testing-secret",
        }
        settings = config(
            database=database,
            redis_url=redis_url,
            cold=cold,
            policies=POLICIES,
            jobs={"retire_grace": "1d", "collect_min_age": "1h"},
        )
        async with product(settings) as shop:
            yield shop


async def in_packs(shop: Product, *names: str) -> list[SagaSnapshot]:
    """One saga of each name, those of each policy in a pack of its own, due for GLACIER."""
    saved = []
    for number, name in enumerate(names):
        saved += list(snapshots(2, start=100 * number, created_at=shop.clock.now(), saga_name=name))
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(10 * DAY)
    await shop.run("age")
    assert len(await shop.object_keys()) == len({name.split("-")[0] for name in names})
    shop.clock.advance(90 * DAY)
    return saved


async def test_odd_answer_about_one_pack_stops_no_other(s3_server: S3Server, database: str, redis_url: str) -> None:
    """The pack is named, counted and tried again; the others move in the same run. Odd answers about all end it."""
    lesser = Lesser(s3_server.endpoint)
    bucket = await s3_server.make_bucket()
    async with shop_at(lesser, bucket, database, redis_url) as shop:
        await in_packs(shop, "first", "second", "third", "fourth")
        keys = await shop.object_keys()
        bad = keys[0]
        lesser.refuses = lambda key: key.endswith(bad)
        report = await shop.run("transition")
        assert (report.counts["packs"], report.counts["failed"]) == (3, 1)
        [item] = await shop.runtime.catalog.quarantine.items(10)
        assert (item.item, item.state) == (bad, "FAILING")
        assert "OddAnswer" in item.reason
        lesser.refuses = lambda key: False
        assert (await shop.run("transition")).counts["packs"] == 1


async def test_odd_answers_about_every_pack_end_the_run(s3_server: S3Server, database: str, redis_url: str) -> None:
    """A store that refuses pack after pack is not asked about all of them, and the job fails."""
    lesser = Lesser(s3_server.endpoint, refuses=lambda key: True)
    bucket = await s3_server.make_bucket()
    async with shop_at(lesser, bucket, database, redis_url) as shop:
        await in_packs(shop, "first", "second", "third", "fourth")
        with pytest.raises(ObjectStoreError, match="OddAnswer"):
            await shop.run("transition")
        assert len(await shop.runtime.catalog.quarantine.items(10)) == 3


async def test_store_without_restores_ends_restores_and_erasures(
    s3_server: S3Server, database: str, redis_url: str
) -> None:
    """RestoreObject is answered 501 while the bytes read: restores are ready at once, and an erasure completes."""
    bucket = await s3_server.make_bucket()
    async with shop_at(Lesser(s3_server.endpoint), bucket, database, redis_url) as shop:
        saved = await in_packs(shop, "first", "first-too")
        assert (await shop.run("transition")).counts["packs"] == 1
        asked = await shop.storage.restore(saved[0].saga_id)
        await shop.run("restore")
        found = await shop.storage.restore_status(asked.restore_id)
        assert found is not None
        assert (found.state, found.packs) == ("READY", {"DONE": 1})
        assert await shop.storage.get_snapshot(saved[0].snapshot_id) == saved[0]
        receipt = await shop.storage.forget(saved[0].saga_id)
        assert not receipt.complete
        for _ in range(3):
            await shop.run("compact")
            shop.clock.advance(DAY + timedelta(minutes=1))
            await shop.run("expire")
        assert (await shop.runtime.catalog.erasures.receipt(receipt.erasure_id)).complete
        assert await shop.storage.get_snapshot(saved[-1].snapshot_id) == saved[-1]
