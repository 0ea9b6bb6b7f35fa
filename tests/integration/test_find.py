"""`find`: each filter, pages that stay in order, what is not found any more, and how it is looked up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.snapshots import BEGUN, OTHER_SAGA, SAGA, make, number
from support.tiers import DAY, NOW, Places, Product, config, product, rule

from sagaz_tiering import SagaSummary
from sagaz_tiering.catalog.find import MOST_NAMES, PAGES, Question
from sagaz_tiering.config.patterns import Match, matcher
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.errors import CatalogUnavailable, ConfigError, NaiveTimestamp
from sagaz_tiering.snapshot import SagaSnapshot

ATTRIBUTES = [
    {"name": "order_id", "path": "order_id"},
    {"name": "tag", "path": "tags"},
    {"name": "card", "path": "card", "hashed": True},
]
POLICIES = [rule("all", "*", {"STANDARD_IA": "7d", "GLACIER": "90d"}, retain="400d")]

FAR = datetime(2254, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


@pytest.fixture
def opened(places: Places) -> Any:
    """Opens the product with attributes."""

    @asynccontextmanager
    async def open_product(durability: str = "durable", **sections: Any) -> AsyncIterator[Product]:
        settings = config(
            **places,
            policies=[{**each, "durability": durability} for each in POLICIES],
            attributes=ATTRIBUTES,
            attribute_hash_key="k" * 40,
            **sections,
        )
        async with product(settings) as shop:
            yield shop

    return open_product


def saga(at: int) -> UUID:
    """A saga's id; they sort by `at`."""
    return UUID(int=0xB0000000_0000_4000_8000_000000000000 + at)


def of(at: int, **fields: Any) -> SagaSnapshot:
    """The only snapshot of saga `at`."""
    return make(0, **{"snapshot_id": number(1000 + at), "saga_id": saga(at), **fields})


async def found(shop: Product, **asked: Any) -> list[UUID]:
    """The sagas of all pages."""
    ids, cursor = list[UUID](), None
    while True:
        page = await shop.storage.find(**asked, cursor=cursor)
        ids += [each.saga_id for each in page]
        cursor = page.cursor
        if cursor is None:
            return ids


async def save(shop: Product, *snapshots: SagaSnapshot) -> None:
    """Save these, and have the catalog know them."""
    for snapshot in snapshots:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(timedelta(seconds=3))
    await shop.storage.note_hot_saves()


@pytest.mark.guarantee("G12")
@pytest.mark.parametrize("durability", ["durable", "hot"])
async def test_saga_is_found_by_all_that_is_known_of_it(opened: Any, durability: str) -> None:
    """By name, status and step of its end, time of its beginning, attributes, tier and hold; by others it is not."""
    async with opened(durability) as shop:
        context = {"order_id": "A-17", "tags": ["new", "big"], "card": "4111"}
        await save(shop, make(0, context=context), make(1, status="failed", context={"order_id": 18}))
        await save(shop, make(5, saga_id=OTHER_SAGA, saga_name="payment-eu", context={"order_id": "A-17"}))
        matching: list[dict[str, Any]] = [
            {"saga_name": "order"},
            {"saga_name": ["or*", "none"]},
            {"status": "failed"},
            {"status": ["completed", "fail*"]},
            {"step": "step_1"},
            {"created": (BEGUN, BEGUN + timedelta(microseconds=1))},
            {"attributes": {"order_id": "A-17", "tag": "big"}},
            {"attributes": {"order_id": 18}},
            {"attributes": {"order_id": [18, "none"], "card": "4111"}},
            {"attributes": {"tag": ["new", "old"]}},
            {"saga_name": "order", "status": "failed", "step": "step_1", "attributes": {"card": "4111"}},
        ]
        for asked in matching:
            assert await found(shop, **asked) == [SAGA], asked
        for asked in (
            {"saga_name": "Order"},
            {"status": "executing", "saga_name": "order"},
            {"step": "step_0"},
            {"created": (None, BEGUN)},
            {"attributes": {"tag": "bi"}},
            {"attributes": {"order_id": "A-17", "tag": "none"}},
            {"attributes": {"card": "4112"}},
            {"tier": "cold"},
            {"tier": "GLACIER"},
            {"held": True},
        ):
            assert await found(shop, **asked) == [], asked
        assert await found(shop) == await found(shop, attributes={"order_id": "A-17"}) == [OTHER_SAGA, SAGA]
        await shop.storage.hold(SAGA, "case 1")
        assert await found(shop, held=True) == [SAGA]
        assert await found(shop, held=False) == [OTHER_SAGA]
        assert await found(shop, tier="hot") == [OTHER_SAGA, SAGA]


async def test_held_sagas_are_found_at_once_however_many_began_since(opened: Any) -> None:
    """By their holds; where a hold is by match, sagas are looked through as ever."""
    async with opened() as shop:
        await save(
            shop,
            make(0),
            *(of(at, saga_name=f"n{at}", created_at=BEGUN + timedelta(seconds=at)) for at in range(1, 30)),
        )

        async def first_page(**asked: Any) -> list[UUID]:
            page = await shop.storage.finder.page({"held": True, **asked}, limit=10, cursor=None, look_at=3)
            return [one.saga_id for one in page]

        assert await first_page() == []
        for held in (SAGA, saga(7), uuid4()):
            await shop.storage.hold(held, "case 1")
        assert await first_page() == [saga(7), SAGA]
        assert await first_page(saga_name="n*") == [saga(7)]
        assert await first_page(saga_name="n8") == []
        assert await first_page(created=(BEGUN + timedelta(microseconds=1), None)) == [saga(7)]
        page = await shop.storage.find(held=True, limit=1, count=True)
        assert (page.count, page.count_is_exact, page.items[0].saga_id) == (2, True, saga(7))
        assert [one.saga_id for one in await shop.storage.find(held=True, cursor=page.cursor)] == [SAGA]
        match = Match(saga_name=("n2*",))
        await shop.runtime.catalog.holds.place(match, reason="case 2", who="x", now=shop.clock.now())
        assert await first_page() == [saga(29), saga(28), saga(27)]
        assert len(await found(shop, held=True)) == 13


@pytest.mark.guarantee("G12")
@pytest.mark.parametrize("durability", ["durable", "hot"])
async def test_summary_tells_how_a_saga_stands_in_every_tier(opened: Any, durability: str) -> None:
    """From its first snapshot to its end, where its snapshots are, what comes next; the same once it is archived."""
    async with opened(durability) as shop:
        await save(shop, make(0, context={"order_id": 1}), make(1, status="failed", context={"order_id": [1, 2]}))
        end = make(1).created_at
        hot = SagaSummary(
            saga_id=SAGA,
            saga_name="order",
            first_at=BEGUN,
            last_at=end,
            last_step="step_1",
            status="failed",
            outcome="failed",
            snapshots={"hot": 2},
            next_move=f"to STANDARD_IA at {(end + 7 * DAY).isoformat()}",
            expires_at=end + 400 * DAY,
            held=False,
            attributes={"order_id": ["1", "2"]},
        )
        assert list(await shop.storage.find()) == [hot]
        shop.clock.advance(8 * DAY)
        assert (await shop.run("age")).counts["archived"] == 2
        [cold] = await shop.storage.find(tier="STANDARD_IA")
        assert (cold.snapshots, cold.attributes) == ({"cold STANDARD_IA": 2}, {"order_id": ["1", "2"]})
        assert cold.next_move == f"to GLACIER at {(end + 90 * DAY).isoformat()}"
        assert (cold.first_at, cold.last_at, cold.expires_at) == (BEGUN, end, hot.expires_at)
        assert await found(shop, attributes={"order_id": 2}) == [SAGA]


@pytest.mark.guarantee("G12")
@pytest.mark.parametrize("asked", [{}, {"saga_name": "ord*"}, {"attributes": {"order_id": "A"}}])
async def test_pages_stay_in_order_while_sagas_go_on(opened: Any, asked: dict[str, Any]) -> None:
    """Each saga once, whatever is saved between two pages; of one instant they are in order of their ids."""
    async with opened() as shop:
        context = {"order_id": "A"}
        at_once = [of(at, created_at=BEGUN, context=context) for at in range(30)]
        later = [of(at, created_at=BEGUN + timedelta(seconds=at // 3), context=context) for at in range(30, 60)]
        await save(shop, *at_once, *later)
        seen, cursor = list[UUID](), None
        for step in range(100):
            page = await shop.storage.find(**asked, limit=7, cursor=cursor)
            seen += [each.saga_id for each in page]
            cursor = page.cursor
            if cursor is None:
                break
            for number_of, moved in enumerate((at_once[0], at_once[9], later[3])):
                again = make(step + 1, snapshot_id=number(5000 + 10 * step + number_of), saga_id=moved.saga_id)
                await shop.storage.save_snapshot(again)
        expected = [one.saga_id for one in sorted([*at_once, *later], key=lambda one: (one.created_at, one.saga_id))]
        assert seen == expected[::-1]


@pytest.mark.guarantee("G12")
async def test_what_is_sifted_is_looked_through_to_its_end(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few at a time, of which none is meant but the very oldest ones."""
    for name in ("_SIFTED_AT_ONCE", "MOST_AT_ONCE"):
        monkeypatch.setattr(f"sagaz_tiering.tiered.find.{name}", 5)
    async with opened() as shop:
        context = {"order_id": "A"}
        ended = {at: "failed" if at in (0, 2) else "completed" for at in range(42)}
        await save(shop, *(of(at, status=ended[at], created_at=BEGUN, context=context) for at in ended))
        for asked in ({}, {"saga_name": "ord*"}, {"attributes": {"order_id": "A"}}):
            assert await found(shop, status="failed", **asked) == [saga(2), saga(0)], asked


@pytest.mark.guarantee("G12")
@pytest.mark.parametrize("durability", ["durable", "hot"])
async def test_saga_that_expired_or_was_erased_is_not_found(opened: Any, durability: str) -> None:
    """From the very instant it expires, archived or not; and from its erasure on, by nothing that it was known by."""
    async with opened(durability) as shop:
        await save(shop, make(0, context={"order_id": "A"}), of(1, created_at=NOW - DAY, context={"order_id": "B"}))
        await save(shop, make(5, saga_id=OTHER_SAGA, context={"order_id": ["A", "B"]}))
        assert len(await found(shop, attributes={"order_id": ["A", "B"]})) == 3
        await shop.storage.forget(OTHER_SAGA)
        assert await found(shop, attributes={"order_id": ["A", "B"]}) == [SAGA, saga(1)]
        shop.clock.advance(8 * DAY)
        await shop.run("age")
        shop.clock.advance(NOW - DAY + 400 * DAY - shop.clock.now() - timedelta(microseconds=1))
        assert await found(shop, attributes={"order_id": "B"}) == [saga(1)]
        shop.clock.advance(timedelta(microseconds=1))
        assert await found(shop, attributes={"order_id": "B"}) == []
        assert await found(shop) == [SAGA]
        await shop.storage.hold(saga(1), "case 2")
        assert await found(shop, attributes={"order_id": "B"}) == [saga(1)]
        await shop.storage.release(saga(1))
        await shop.run("expire")
        await shop.storage.cleanup_saga(SAGA)
        assert await found(shop) == []
        for table in ("sagas", "saga_attributes"):
            assert await shop.runtime.db.fetchval(f"SELECT count(*) FROM sagaz_tiering.{table}") == 0


@pytest.mark.guarantee("G12")
async def test_values_follow_each_change_of_a_snapshot(opened: Any) -> None:
    """Saved anew, moved to another saga, deleted: what no snapshot has any more finds nothing, and no row is left."""
    async with opened() as shop:
        await save(shop, make(0, context={"order_id": "A"}), make(1, context={"order_id": "B"}))
        await save(shop, make(1, context={"order_id": "C"}))
        assert await found(shop, attributes={"order_id": "B"}) == []
        assert await found(shop, attributes={"order_id": "C"}) == [SAGA]
        await save(shop, make(1, saga_id=OTHER_SAGA, context={"order_id": "C"}))
        assert await found(shop, attributes={"order_id": "C"}) == [OTHER_SAGA]
        await save(shop, make(2, context={"order_id": "A"}, created_at=BEGUN - DAY))
        assert [each.first_at for each in await shop.storage.find(attributes={"order_id": "A"})] == [BEGUN - DAY]
        await shop.storage.delete_snapshot(number(2))
        assert [each.first_at for each in await shop.storage.find(attributes={"order_id": "A"})] == [BEGUN]
        await shop.storage.delete_snapshot(number(0))
        assert await found(shop, attributes={"order_id": "A"}) == []
        assert await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.saga_attributes") == 1


@pytest.mark.guarantee("G12")
async def test_newer_save_in_redis_alone_says_how_a_saga_stands(opened: Any) -> None:
    """Though PostgreSQL has an older one of that snapshot, of a later step, from when its policy was another."""
    async with opened("durable") as shop:
        await save(shop, make(0, step_index=9, step_name="step_9", status="failed"))
    async with opened("hot") as shop:
        shop.clock.advance(DAY)
        await save(shop, make(0, step_index=2, step_name="step_2", status="executing"))
        [found_one] = await shop.storage.find()
        assert (found_one.last_step, found_one.status) == ("step_2", "executing")
        assert await found(shop, status="failed") == await found(shop, step="step_9") == []
        assert await found(shop, status="executing", step="step_2") == [SAGA]


@pytest.mark.guarantee("G12")
async def test_expired_end_says_by_which_step_its_saga_is_found(opened: Any) -> None:
    """Also when the saga is looked at anew, since more of it is packed."""
    async with opened() as shop:
        await save(shop, make(0), make(1))
        shop.clock.advance(9 * DAY)
        await shop.run("age")
        async with shop.runtime.db.transaction() as conn:
            await conn.execute("SET LOCAL sagaz_tiering.expiring = 'on'")
            await conn.execute("DELETE FROM sagaz_tiering.snapshots WHERE snapshot_id = $1", number(1))
            await conn.execute("SELECT sagaz_tiering.place_sagas(ARRAY[$1::uuid], false)", SAGA)
        assert await found(shop, step="step_1") == [SAGA]
        assert await found(shop, step="step_0") == []


async def test_saga_keeps_sixteen_values_of_an_attribute(opened: Any) -> None:
    """The first ones; one that was beyond them follows where one of them goes."""
    async with opened() as shop:
        await save(shop, *(make(at, context={"order_id": at}) for at in range(18)))
        values = {at for at in range(18) if await found(shop, attributes={"order_id": at})}
        assert values == set(range(16))
        await shop.storage.delete_snapshot(number(3))
        values = {at for at in range(18) if await found(shop, attributes={"order_id": at})}
        assert values == {*range(17)} - {3}


async def test_more_names_than_are_looked_up_by_themselves(opened: Any) -> None:
    """A pattern that matches very many names finds all of their sagas, and a pattern of few only those."""
    async with opened() as shop:
        many = [of(at, saga_name=f"n{at:03}-eu") for at in range(MOST_NAMES + 5)]
        await asyncio.gather(*map(shop.storage.save_snapshot, many))
        await save(shop, of(900, saga_name="x" * 3000), of(901, saga_name="other", created_at=BEGUN + DAY))
        expected = [one.saga_id for one in reversed(many)]
        assert await found(shop, saga_name="n*", limit=60) == expected
        assert await found(shop, saga_name=[f"n{at:03}-*" for at in range(3)]) == expected[-3:]
        assert await found(shop, saga_name="x" * 999 + "*") == [saga(900)]


async def test_saves_that_are_told_together_count_each_for_its_saga(opened: Any) -> None:
    """In one statement, one is the newest of its saga, another is earlier than all that was known of its own."""
    async with opened("hot") as shop:
        await save(shop, make(3, saga_id=saga(1)), make(13, saga_id=saga(2)))
        await save(shop, make(4, saga_id=saga(1), status="failed"), make(10, saga_id=saga(2)))
        assert await found(shop, status="failed") == [saga(1)]
        for first, begun in ((3, saga(1)), (10, saga(2))):
            at = make(first).created_at
            assert await found(shop, created=(at, at + timedelta(microseconds=1))) == [begun]


async def test_names_that_no_saga_has_go(opened: Any) -> None:
    """An hour after that was noted, unless one has it again; the same name later is found as any."""
    async with opened() as shop:

        async def names() -> set[str]:
            return {row["saga_name"] for row in await shop.runtime.db.fetch("SELECT * FROM sagaz_tiering.saga_names")}

        await save(shop, *(of(at, saga_name=f"n{at}") for at in range(4)))
        await shop.run("collect")
        for at in range(3):
            await shop.storage.cleanup_saga(saga(at))
        await shop.run("collect")
        assert await names() == {"n0", "n1", "n2", "n3"}, "a save may be under way that has looked one up"
        shop.clock.advance(timedelta(minutes=59))
        await save(shop, of(9, saga_name="n1"))
        shop.clock.advance(timedelta(minutes=2))
        await shop.run("collect")
        assert await names() == {"n1", "n3"}
        await save(shop, of(10, saga_name="n2"))
        assert await found(shop, saga_name=["n[12]"]) == [saga(10), saga(9)]
        await shop.storage.cleanup_saga(saga(9))
        await shop.run("collect")
        assert await names() == {"n1", "n2", "n3"}, "it is unused since now"


async def test_patterns_look_at_the_names_that_begin_so(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in a name; of more than may be looked at all sagas are looked through, and the same is found."""
    top, far = "\U0010ffff", "é" * 70
    names = ["a", "a\x01", "ab", "a*", f"b{top}", f"b{top}c", "\ud7ff1", top, far, f"{far}é"]
    async with opened() as shop:
        await save(shop, *(of(at, saga_name=name) for at, name in enumerate(names)))
        asked = ["a", "a*", "a?", f"b{top}*", "\ud7ff*", f"{top}*", far, f"{far}*", "*", "[ab]*", "a[*]"]
        for looked in (10_000, 2):
            monkeypatch.setattr("sagaz_tiering.catalog.find._NAMES_AT_ONCE", looked)
            for pattern in asked:
                expected = [saga(at) for at, name in enumerate(names) if matcher([pattern])(name)]
                assert sorted(await found(shop, saga_name=pattern)) == expected, pattern


async def test_saga_of_very_many_snapshots_is_looked_at_in_few_rows(opened: Any) -> None:
    """All are counted, and a value of an old one finds it, yet no more than the newest are looked at one by one."""
    async with opened() as shop:
        await save(shop, make(0, context={"order_id": "first"}, saga_name="long"))
        await shop.runtime.db.execute(_LONG, SAGA, BEGUN)
        rows = await shop.runtime.db.fetch("SELECT * FROM sagaz_tiering.present_of($1, 200, '{}')", SAGA)
        assert sum(row["snapshots"] for row in rows) == 5001
        assert len(rows) < 220
        [one] = await shop.storage.find(attributes={"order_id": "first"})
        assert (one.saga_id, one.snapshots) == (SAGA, {"hot": 5001})
        assert one.attributes["order_id"] == ["first"]
        assert await found(shop, attributes={"order_id": "none"}) == []
        assert (one.first_at, one.last_at) == (BEGUN, BEGUN + timedelta(minutes=5000))


_LONG = """
INSERT INTO sagaz_tiering.saga_snapshots
    (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at, body_crc, value)
SELECT gen_random_uuid(), $1::uuid, 'long', 'step_' || n % 7, n, 'executing',
       $2::timestamptz + n * interval '1 minute', $2::timestamptz, 0, ''
  FROM generate_series(1, 5000) AS g (n)
"""


async def test_count_is_exact_or_says_that_it_is_none(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole search, whatever the page; beyond what is looked at by statistics."""
    async with opened() as shop:
        await save(shop, *(of(at, status="failed" if at % 2 else "completed") for at in range(40)))
        page = await shop.storage.find(status="failed", limit=3, count=True)
        assert (len(page), page.count, page.count_is_exact) == (3, 20, True)
        page = await shop.storage.find(status="failed", limit=3, count=True, cursor=page.cursor)
        assert (page.count, page.count_is_exact) == (20, True)
        await shop.runtime.db.execute("ANALYZE sagaz_tiering.sagas")
        monkeypatch.setattr("sagaz_tiering.tiered.find.MOST_LOOKED_AT", 20)
        page = await shop.storage.find(status="fail*", limit=30, count=True)
        assert (page.count, page.count_is_exact) == (20, False)
        assert len(page) == 10
        assert page.cursor is not None, "it has looked at no more than it may"
        rest = await shop.storage.find(status="fail*", limit=30, cursor=page.cursor)
        assert len(rest) == 10
        page = await shop.storage.find(status="failed", limit=30)
        assert len(page) == 20, "by a status alone no others are looked at"


@pytest.mark.guarantee("G12")
@pytest.mark.parametrize("durability", ["durable", "hot"])
async def test_sagas_of_any_year_are_found_in_order(opened: Any, durability: str) -> None:
    """Also those that began where a place has no bits for, by time and by all else; with the time at which they did."""
    years = (1700, 1750, 1826, 1828, 2026, 2111, 2113, 2200, 2254)
    async with opened(durability) as shop:
        begun = [datetime(year, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) for year in years]
        await save(shop, *(of(at, created_at=each, retention_until=FAR) for at, each in enumerate(begun)))
        rest = await found(shop)
        assert set(rest) == {saga(at) for at in range(len(years))}
        assert [each for each in rest if each in map(saga, range(3, 6))] == [saga(5), saga(4), saga(3)]
        assert set(rest[:3]) == {saga(6), saga(7), saga(8)}, "beyond 2112 they are together"
        assert {each.saga_id: each.first_at for each in await shop.storage.find()} == {
            saga(at): each for at, each in enumerate(begun)
        }
        for first in (None, *begun):
            for last in (None, *begun):
                if first is None or last is None or first < last:
                    meant = {saga(at) for at, each in enumerate(begun) if _is_from(each, first, last)}
                    assert set(await found(shop, created=(first, last), limit=4)) == meant, (first, last)
                    assert set(await found(shop, saga_name="order", created=(first, last), limit=1)) == meant


def _is_from(at: datetime, first: datetime | None, last: datetime | None) -> bool:
    return (first is None or at >= first) and (last is None or at < last)


async def test_what_cannot_be_asked_says_what_to_do(opened: Any) -> None:
    """Unknown attributes, values that are none, cursors of another search, limits, tiers and times."""
    async with opened() as shop:
        await save(shop, *(of(at) for at in range(3)))
        cursor = (await shop.storage.find(limit=1)).cursor
        assert cursor is not None
        damaged = cursor[:-3] + ("AAA" if cursor[-3:] != "AAA" else "BBB")
        for asked, hint in (
            ({"attributes": {"ordre_id": 1}}, "order_id, tag, card"),
            ({"attributes": {"order_id": None}}, "values are text"),
            ({"attributes": {"order_id": []}}, "from 1 to 100 values"),
            ({"cursor": cursor, "status": "failed"}, "same filters"),
            ({"cursor": damaged}, "same filters"),
            ({"cursor": "none"}, "as it is"),
            ({"limit": 0}, "take pages"),
            ({"limit": 1001}, "take pages"),
            ({"tier": "warm"}, "hot, durable, cold"),
            ({"status": []}, "a name or a pattern"),
            ({"created": (NOW, BEGUN)}, "the earlier time first"),
        ):
            with pytest.raises(ConfigError) as told:
                await shop.storage.find(**asked)
            assert hint in told.value.hint, asked
        with pytest.raises(NaiveTimestamp):
            await shop.storage.find(created=(datetime(2026, 1, 1), None))  # noqa: DTZ001  # what is refused
        half = UUID("80000000-0000-0000-0000-000000000000")
        await shop.runtime.db.execute("UPDATE sagaz_tiering.sagas_filled SET found_up_to = $1", half)
        with pytest.raises(CatalogUnavailable, match="being taken in, 50% so far"):
            await shop.storage.find()


@pytest.mark.guarantee("G2")
async def test_catalog_that_cannot_be_asked_gives_no_empty_page(
    own_postgres: Any, redis_url: str, tmp_path: Path
) -> None:
    """It raises instead, and answers again when PostgreSQL does."""
    server = await own_postgres()
    settings = config(database=server.url, redis_url=redis_url, cold=tmp_path / "cold", policies=POLICIES)
    async with product(settings) as shop:
        await save(shop, make(0))
        server.kill()
        with pytest.raises(CatalogUnavailable):
            await shop.storage.find()


async def test_sagas_of_an_earlier_version_are_found_once_they_are_taken_in(opened: Any) -> None:
    """As the jobs fill them in; what is saved meanwhile is in the right place at once."""
    async with opened() as shop:
        await save(shop, make(0, context={"order_id": "A"}), make(1, context={"order_id": "B"}), of(7))
        await shop.runtime.db.execute("UPDATE sagaz_tiering.sagas SET place = NULL, name_id = NULL, step_name = NULL")
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.saga_attributes")
        await shop.runtime.db.execute(
            "UPDATE sagaz_tiering.sagas_filled SET found_up_to = '00000000-0000-0000-0000-000000000000'"
        )
        await save(shop, make(2, context={"order_id": "C"}), of(8))
        with pytest.raises(CatalogUnavailable):
            await shop.storage.find()
        await shop.run("expire")
        assert await found(shop, created=(BEGUN, None)) == [saga(8), saga(7), SAGA]
        for value in "ABC":
            assert await found(shop, attributes={"order_id": value}) == [SAGA]
        assert await found(shop, step="step_2") == [SAGA]


@pytest.mark.guarantee("G12")
async def test_no_search_reads_a_table_from_end_to_end(opened: Any) -> None:
    """The planner takes an index of every table that grows, for every way in which sagas are looked up."""
    async with opened() as shop:
        await _fill(shop)
        sql, top = load("sagaz_tiering.catalog", "find") | PAGES, Question().top
        bounds, found = (*top, -(2**63), 50), (20, 200, ["order_id=1"])
        asked: dict[str, tuple[Any, ...]] = {
            "by_place": (*bounds, "^n1", "^failed$", None, *found),
            "by_names": (*bounds, None, "^failed$", None, *found, [1, 2, 3]),
            "by_statuses": (*bounds, None, "^failed$", None, *found, [1, 2, 3], ["failed"] * 3),
            "by_holds": (*bounds, "^n1", None, None, *found),
            "by_keys": (*bounds, None, None, None, *found, [1, 2], [0, 0, 1], [3, 4, 5], 2),
            "rarity": ([0, 1], [1, 2], 100),
            "names": (["n1", "m4"], ["n2", "m5"], 1000, "^(?:n1|m4)"),
            "unused_names": (0, 100, shop.clock.now(), shop.clock.now()),
        }
        for name, arguments in asked.items():
            assert await _scanned(shop, sql[name], arguments) == [], name
        plan = await shop.runtime.db.fetchval(f"EXPLAIN (FORMAT JSON) {sql['by_statuses']}", *asked["by_statuses"])
        of_sagas = [node for node in _nodes(json.loads(plan)[0]["Plan"]) if node.get("Relation Name") == "sagas"]
        assert [node.get("Index Name") for node in of_sagas] == ["sagas_status"]


@pytest.mark.guarantee("G12")
async def test_search_by_names_looks_through_those_alone(opened: Any) -> None:
    """Not through all sagas of that time, once for each name: also where they lie in the order in which they began."""
    async with opened() as shop:
        for statement in (
            """
            INSERT INTO sagaz_tiering.hot_saves
                (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at)
            SELECT gen_random_uuid(), gen_random_uuid(), 'm' || n % 8, 'step', 0, 'failed', now() - n * interval '1 s',
                   now()
              FROM generate_series(1, 20000) AS g (n)
            """,
            "CREATE INDEX in_order ON sagaz_tiering.sagas (place)",
            "CLUSTER sagaz_tiering.sagas USING in_order",
            "DROP INDEX sagaz_tiering.in_order",
            "VACUUM (ANALYZE) sagaz_tiering.sagas",
        ):
            await shop.runtime.db.execute(statement)
        names = await shop.runtime.db.fetchval(
            "SELECT array_agg(name_id) FROM sagaz_tiering.saga_names WHERE saga_name ~ '^m[0-3]$'"
        )
        query = f"EXPLAIN (ANALYZE, FORMAT JSON) {PAGES['by_names']}"
        arguments = (*Question().top, -(2**63), 10_000, None, "^completed$", None, 20, 200, [], names)
        plan = json.loads(await shop.runtime.db.fetchval(query, *arguments))[0]["Plan"]
        own = await shop.runtime.db.fetchval(
            "SELECT count(*) FROM sagaz_tiering.sagas WHERE name_id = ANY($1::integer[])", names
        )
        seen = sum(
            node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
            for node in _nodes(plan)
            if node.get("Relation Name") == "sagas"
        )
        assert own <= seen <= 2 * own + len(names)


@pytest.mark.guarantee("G12")
async def test_few_that_failed_are_found_at_once_behind_many_that_completed(opened: Any) -> None:
    """By exact statuses those sagas alone count as looked at, under every name; also one too long for an index."""
    long, statuses = "stuck " * 2_000, ("failed", "rolled_back")
    async with opened() as shop:
        await save(shop, of(0, saga_id=saga(1), status="failed"), of(1, saga_id=saga(2), status="rolled_back"))
        await save(
            shop, of(2, saga_id=saga(3), saga_name="refund", status=long), of(3, saga_id=saga(4), status="failed")
        )
        await shop.runtime.db.execute(
            """
            INSERT INTO sagaz_tiering.hot_saves
                (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at)
            SELECT gen_random_uuid(), gen_random_uuid(), 'order', 'step', 0, 'completed', $1, $1
              FROM generate_series(1, 12000)
            """,
            shop.clock.now(),
        )
        whole = [saga(4), saga(2), saga(1)]
        for names in ({}, {"saga_name": "or*"}):
            page = await shop.storage.find(**names, status=statuses, limit=2)
            assert [each.saga_id for each in page] == whole[:2]
            assert page.cursor is not None
            rest = await shop.storage.find(**names, status=statuses, cursor=page.cursor)
            assert [each.saga_id for each in rest] == whole[2:]
            assert rest.cursor is None
            counted = await shop.storage.find(**names, status=statuses, count=True)
            assert (counted.count, counted.count_is_exact) == (3, True)
        assert await found(shop, status="stuck *k ") == [saga(3)]
        assert await found(shop, saga_name="order", status="stuck *") == []
        assert await found(shop, status=["fail*"], created=(None, shop.clock.now())) == [saga(4), saga(1)]


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for each in node.get("Plans", ()):
        yield from _nodes(each)


async def _scanned(shop: Product, query: str, arguments: tuple[Any, ...]) -> list[str]:
    """Tables that grow of which the plan of a query reads all."""

    def walk(node: dict[str, Any]) -> list[str]:
        assert node["Node Type"] != "Function Scan" or node.get("Function Name") != "present_of", (
            "its plan is not shown"
        )
        own = [node["Relation Name"]] if node["Node Type"] == "Seq Scan" else []
        return own + [name for each in node.get("Plans", ()) for name in walk(each)]

    plan = json.loads(await shop.runtime.db.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *arguments))
    return [name for name in walk(plan[0]["Plan"]) if name not in ("sagas_filled", "holds")]


async def _fill(shop: Product) -> None:
    """Many rows in every table that grows."""
    await save(shop, *(of(at, saga_name=f"n{at}", context={"order_id": at}) for at in range(3)))
    async with shop.runtime.db.transaction() as conn:
        for statement in (*_MANY, "ANALYZE"):
            await conn.execute(statement, timeout=600)


_MANY = (
    """
    INSERT INTO sagaz_tiering.saga_names (digest, saga_name)
    SELECT sagaz_tiering.name_digest('m' || n), 'm' || n FROM generate_series(1, 5000) AS g (n)
    """,
    """
    INSERT INTO sagaz_tiering.hot_saves
        (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at, attributes)
    SELECT gen_random_uuid(), gen_random_uuid(), 'm' || n % 50, 'step', 0, 'failed', now() - n * interval '1 s',
           now(), 'order_id=' || n
      FROM generate_series(1, 4000) AS g (n)
    """,
    """
    INSERT INTO sagaz_tiering.saga_snapshots
        (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at, body_crc, value)
    SELECT gen_random_uuid(), gen_random_uuid(), 'm' || n % 50, 'step', 0, 'failed', now() - n * interval '1 s',
           now(), 0, '\\x00'
      FROM generate_series(1, 4000) AS g (n)
    """,
    """
    INSERT INTO sagaz_tiering.steps (digest, saga_name, step_name, step_index, status)
    SELECT sha256(n::text::bytea), 'm' || n % 50, 'step' || n, 0, 'failed' FROM generate_series(1, 5000) AS g (n)
    """,
    """
    INSERT INTO sagaz_tiering.packs
        (pack_uuid, object_key, state, storage_class, policy, retention_revision, byte_size, snapshot_count, live_count,
         sha256, min_created_at, max_created_at, max_clock_at, lease_name, lease_epoch, created_at, class_since)
    SELECT gen_random_uuid(), n, 'ACTIVE', 'STANDARD_IA', 'all', '', 1, 1, 1, '', now(), now(), now(), 'age', 1, now(),
           now()
      FROM generate_series(1, 5000) AS g (n)
    """,
    """
    INSERT INTO sagaz_tiering.frames (saga_id, pack_id, frame_no, byte_offset, byte_length, attributes)
    SELECT gen_random_uuid(), p.pack_id, n, 0, 1, 'order_id=' || n
      FROM sagaz_tiering.packs p, generate_series(0, 3) AS g (n)
    """,
    """
    INSERT INTO sagaz_tiering.snapshots (created_at, pack_id, frame_no, step_id, snapshot_id)
    SELECT now(), f.pack_id, f.frame_no, (SELECT min(step_id) FROM sagaz_tiering.steps), gen_random_uuid()
      FROM sagaz_tiering.frames f
    """,
)
