"""The console while a server is down, page by page: what cannot be shown is said, and nothing unknown looks empty."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from support.console import OPEN, OPERATOR, Browser, asked, console, with_tokens
from support.payload import saga
from support.s3_server import S3Server
from support.tiers import DAY, NOW, Product, config, product

from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.console.views import VIEWS

CLAIMS = (
    *("Nobody asked for one", "Nothing is held", "Nothing was forgotten", "Nothing is in quarantine", "Nobody changed"),
    *("Nothing to do", "No saga is known", "Nothing differs", ">None.<", ">Empty.<", ">0<", ">0 B<", "$0.00"),
    *("No more", "had not begun", "has expired or was deleted", "never expires", "no further move"),
)
"""What a page says where it knows that there is nothing."""

SAID = {
    "/": "case-7-pack",
    "/sagas": "payment-card",
    "/restores": "/restores/",
    "/restores/{restore_id}": "RESTORING",
    "/holds": "case 7",
    "/erasures": "/erasures/",
    "/erasures/{erasure_id}": "art. 17",
    "/quarantine": "case-7-pack",
    "/packs": "/packs/1",
    "/packs/{pack_id}": "next expiry",
    "/audit": "hold",
}
"""What each page shows of the catalog alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A store with something to show on each page, and its servers."""

    settings: TieringConfig
    postgres: Any
    redis: Any
    hot: UUID
    cold: UUID
    names: dict[str, Any]

    def paths(self, saga_id: UUID) -> dict[str, str]:
        """Of each view where it is, of that saga."""
        return {view.path: view.path.format(**self.names, saga_id=saga_id) for view in VIEWS}

    def elsewhere(self, **changes: Any) -> TieringConfig:
        """The same with other settings of the cold tier."""
        tiers = self.settings.tiers
        cold = tiers.cold.model_copy(update=changes)
        return self.settings.model_copy(update={"tiers": tiers.model_copy(update={"cold": cold})})


@pytest.fixture
async def shop(own_postgres: Any, own_redis: Any, s3_server: S3Server) -> Shop:
    postgres, redis = await own_postgres(durable=True), await own_redis(durable=True)
    cold = {
        "url": f"s3://{await s3_server.make_bucket()}/store",
        "endpoint_url": s3_server.endpoint,
        "region": "us-east-1",
        "access_key_id": "testing",
        "secret_access_key": "testing-secret",
    }
    settings = config(database=postgres.url, redis_url=redis.url, cold=cold)
    async with product(settings) as found:
        return Shop(settings=settings, postgres=postgres, redis=redis, **await filled(found))


async def filled(shop: Product) -> dict[str, Any]:
    """A saga in Redis, one in a pack, a restore, an erasure, a hold, an audit, something in quarantine."""
    frozen, gone = saga(1, begun=NOW, saga_name="payment-card"), saga(2, begun=NOW, saga_name="payment-card")
    for each in (*frozen, *gone):
        await shop.storage.save_snapshot(each)
    shop.clock.advance(100 * DAY)
    cold = saga(3, begun=shop.clock.now(), saga_name="fast-order")
    for each in cold:
        await shop.storage.save_snapshot(each)
    for _ in range(2):
        shop.clock.advance(10 * DAY)
        for job in ("age", "transition"):
            await shop.run(job)
    restore = await shop.storage.restore(saga_id=frozen[0].saga_id)
    receipt = await shop.storage.forget(gone[0].saga_id, reason="art. 17")
    hot = saga(4, begun=shop.clock.now(), saga_name="fast-order")
    for each in hot:
        await shop.storage.save_snapshot(each)
    await shop.storage.note_hot_saves()
    await shop.runtime.catalog.quarantine.record("object", "case-7-pack", "it is not there", shop.clock.now())
    async with console(shop, with_tokens()) as address:
        held = f"/sagas/{frozen[0].saga_id}/hold"
        assert (await asked(address, held, OPERATOR, reason="case 7"))[0] == 200
    names = {"erasure_id": receipt.erasure_id, "restore_id": restore.restore_id, "pack_id": 1}
    return {"hot": hot[0].saga_id, "cold": cold[0].saga_id, "names": names}


@asynccontextmanager
async def browsed(settings: TieringConfig) -> AsyncIterator[Browser]:
    """The console of another daemon, which has read none of it before."""
    async with (
        product(settings, now=NOW + 120 * DAY, schema=False) as found,
        console(found, OPEN) as address,
        Browser(address) as browser,
    ):
        yield browser


async def test_all_is_shown_while_every_server_is_up(shop: Shop) -> None:
    """What the tests below miss is there otherwise: each view has something to show, and nothing cannot be."""
    async with browsed(shop.settings) as browser:
        for saga_id in (shop.hot, shop.cold):
            for view, path in shop.paths(saga_id).items():
                page = await browser.get(path)
                assert browser.status == 200, path
                assert "cannot be shown" not in page, path
                assert SAID.get(view, "") in page, path


async def test_without_postgresql_every_page_says_what_it_cannot_show(shop: Shop) -> None:
    """The policies, which are in memory, are shown; of the rest nothing is called empty."""
    async with browsed(shop.settings) as browser:
        await shop.postgres.stop()
        for saga_id in (shop.hot, shop.cold):
            for view, path in shop.paths(saga_id).items():
                page = await browser.get(path)
                assert browser.status in (200, 503), (path, browser.status)
                assert [claim for claim in CLAIMS if claim in page and view != "/policies"] == [], path
                if view not in ("/policies", "/plan", "/sagas/{saga_id}/state"):
                    assert "cannot be shown" in page, path
                    assert "PostgreSQL" in page, path
        await shop.postgres.start()
        assert "case 7" in await browser.get("/holds")


async def test_without_redis_the_catalog_is_shown_and_the_rest_is_unknown(shop: Shop) -> None:
    """Lists are those of the catalog; the saga that only Redis has is not said to be gone."""
    async with browsed(shop.settings) as browser:
        await shop.redis.stop()
        page = await browser.get("/")
        assert "Redis does not answer: what it holds is unknown" in page
        for view, said in SAID.items():
            assert said in await browser.get(shop.paths(shop.cold)[view]), view
            assert browser.status == 200, view
        for view, path in shop.paths(shop.hot).items():
            if "saga_id" in view:
                page = await browser.get(path)
                assert (browser.status, "cannot be shown" in page, "Redis" in page) == (503, True, True), path
                assert [claim for claim in CLAIMS if claim in page] == [], path


async def test_without_s3_only_the_bytes_are_missing(shop: Shop) -> None:
    """A saga's timeline is shown, and which part of it is not, and why."""
    nowhere = {"endpoint_url": "http://127.0.0.1:1", "request_timeout": DAY / 24 / 3600}
    async with browsed(shop.elsewhere(**nowhere)) as browser:
        for view, path in shop.paths(shop.cold).items():
            page = await browser.get(path)
            assert browser.status == 200, path
            needs_bytes = view in ("/sagas/{saga_id}/state", "/sagas/{saga_id}/changes")
            assert ("cannot be shown" in page) == needs_bytes, path
            assert [claim for claim in ("has expired or was deleted", "Nothing differs") if claim in page] == [], path
            assert SAID.get(view, "") in page, path
