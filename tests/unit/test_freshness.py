"""When a reader looks at PostgreSQL before it trusts Redis: rarely, together, and mostly before it must."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from sagaz_tiering.catalog.hot_saves import KnownRedis
from sagaz_tiering.errors import CatalogUnavailable, HotTierUnavailable
from sagaz_tiering.tiered import freshness as module
from sagaz_tiering.tiered.freshness import Freshness, Pause


class Announcements:
    """What PostgreSQL says, when it answers."""

    def __init__(self) -> None:
        self.asked = 0
        self.fallback = False
        self.trusted = self.same = True
        self.changes = self.generation = self.looked_over = 0
        self.away = self.hot_away = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def look(self) -> KnownRedis:
        """See `Incarnation.look`."""
        self.asked += 1
        said = KnownRedis(
            nonce=None, number=0, run_id="", trusted=self.trusted, fallback=self.fallback, changes=self.changes
        )
        self.looked_over = self.generation
        await self.answers.wait()
        if self.away:
            raise CatalogUnavailable("away")
        if self.hot_away:
            raise HotTierUnavailable("away")
        return said

    async def accepted_retention(self, known: int | None = None) -> tuple[int, str] | None:
        """See `History.accepted_retention`."""
        return None

    async def is_same(self) -> bool:
        """See `Incarnation.is_same`."""
        self.looked_over = self.generation
        return self.same


async def complete_since(freshness: Freshness) -> int | None:
    """What a reader does, whom Redis answers at once."""
    return await freshness.complete_since_us(await freshness.known(), 0)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock that counts on while the machine sleeps, as `seconds.now`."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "uptime_s", lambda: clock.now)
    return clock


def made() -> tuple[Announcements, Freshness]:
    said = Announcements()
    history: Any = said
    return said, Freshness(said, history, timedelta(days=7), Pause(said.look))


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_readers_at_once_look_once(seconds: SimpleNamespace) -> None:
    """The first look is shared by all who wait for it, and holds for a while."""
    said, freshness = made()
    assert None not in await asyncio.gather(*(complete_since(freshness) for _ in range(64)))
    seconds.now += 0.3
    assert await complete_since(freshness) is not None
    await turns()
    assert said.asked == 1


async def test_next_look_begins_before_the_last_runs_out(seconds: SimpleNamespace) -> None:
    """In the background: the reader is answered by what is known, later ones by what was found."""
    said, freshness = made()
    await complete_since(freshness)
    said.answers.clear()
    said.fallback = True
    seconds.now += 0.5
    assert await asyncio.wait_for(complete_since(freshness), 300) is not None
    assert await asyncio.wait_for(complete_since(freshness), 300) is not None
    await turns()
    assert said.asked == 2
    said.answers.set()
    await turns()
    assert await complete_since(freshness) is None, "a spill was announced"
    assert said.asked == 2


async def test_knowledge_that_ran_out_is_never_used(seconds: SimpleNamespace) -> None:
    """A look that had begun before the reader came and took too long is not enough: another follows."""
    said, freshness = made()
    await complete_since(freshness)
    said.answers.clear()
    seconds.now += 0.5
    await complete_since(freshness)
    await turns()
    said.fallback = True
    seconds.now += 0.9
    reader = asyncio.create_task(complete_since(freshness))
    await turns()
    assert not reader.done()
    said.answers.set()
    assert await reader is None
    assert said.asked == 3


async def test_cancelled_reader_does_not_end_the_look_of_others(seconds: SimpleNamespace) -> None:
    """They wait for the same one."""
    said, freshness = made()
    said.answers.clear()
    readers = [asyncio.create_task(complete_since(freshness)) for _ in range(3)]
    await turns()
    readers[0].cancel()
    await turns()
    said.answers.set()
    assert None not in await asyncio.gather(*readers[1:])
    assert said.asked == 1


async def test_failed_look_is_told_to_who_must_know(seconds: SimpleNamespace) -> None:
    """Without any knowledge it raises; with some, that holds on while PostgreSQL is down: nobody can announce."""
    said, freshness = made()
    said.away = True
    found = await asyncio.gather(complete_since(freshness), complete_since(freshness), return_exceptions=True)
    assert [type(error) for error in found] == [CatalogUnavailable] * 2
    said.away = False
    assert await complete_since(freshness) is not None
    said.away = True
    seconds.now += 10
    assert await complete_since(freshness) is not None
    seconds.now += 0.9
    said.away, said.fallback = False, True
    assert await complete_since(freshness) is None


async def test_redis_that_failed_is_not_asked_again_by_the_same_read(seconds: SimpleNamespace) -> None:
    """Its second question, an instant later, is answered with the first one's error; a later one asks anew."""
    said, freshness = made()
    said.hot_away = True
    for _ in range(2):
        with pytest.raises(HotTierUnavailable):
            await freshness.known()
    assert said.asked == 1
    said.hot_away = False
    seconds.now += 0.2
    assert await complete_since(freshness) is not None
    assert said.asked == 2


async def test_postgresql_that_hangs_holds_readers_up_once(
    seconds: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it has failed a look is given up soon, and what was known before holds on as if it had refused."""
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    said, freshness = made()
    assert await complete_since(freshness) is not None
    said.away = True
    seconds.now += 10
    assert await complete_since(freshness) is not None
    said.answers.clear()
    for _ in range(3):
        seconds.now += 10
        asked = said.asked
        assert await asyncio.wait_for(complete_since(freshness), 300) is not None
        assert said.asked <= asked + 2, "a look, and perhaps one whether it is back"
    said.away = False
    said.answers.set()


async def test_new_connection_is_looked_at_before_anything_is_believed(seconds: SimpleNamespace) -> None:
    """Whom it leads to nobody knows; what was answered before over it counts for nothing."""
    said, freshness = made()
    known = await freshness.known()
    assert await freshness.complete_since_us(known, 0) is not None
    said.generation += 1
    assert not freshness.believes(known)
    assert await freshness.complete_since_us(known, 0) is None
    assert await complete_since(freshness) is not None
    assert said.asked == 2


async def test_connection_made_while_a_look_ends_is_looked_at_too(seconds: SimpleNamespace) -> None:
    """Redis had answered, and PostgreSQL was still being told: what the new connection leads to nobody has seen."""
    said, freshness = made()
    said.answers.clear()
    reader = asyncio.create_task(freshness.known())
    await turns()
    said.generation += 1
    said.trusted = False
    said.answers.set()
    known = await reader
    assert said.asked == 2
    assert not freshness.believes(known)


async def test_redis_that_changed_while_it_answered_is_not_trusted(seconds: SimpleNamespace) -> None:
    """The answer took so long that another look is needed, and by then it is another one, reconciled already."""
    said, freshness = made()
    known = await freshness.known()
    seconds.now += 5
    assert await freshness.complete_since_us(known, 0) is not None
    known = await freshness.known()
    seconds.now += 5
    said.changes = 1
    assert await freshness.complete_since_us(known, 0) is None


async def test_redis_that_lost_its_past_is_believed_nothing(seconds: SimpleNamespace) -> None:
    """Also when PostgreSQL is away, and only Redis tells that it is another one."""
    said, freshness = made()
    assert await complete_since(freshness) is not None
    said.away = True
    seconds.now += 1
    assert await complete_since(freshness) is not None
    said.same = False
    seconds.now += 1
    assert await complete_since(freshness) is None
    said.away, said.same, said.trusted = False, True, False
    seconds.now += 1
    assert await complete_since(freshness) is None
    said.trusted = True
    seconds.now += 1
    assert await complete_since(freshness) is not None


async def test_only_the_first_saves_of_a_process_wait_for_a_look(seconds: SimpleNamespace) -> None:
    """And not for long, where PostgreSQL does not answer: Redis alone may acknowledge what comes after."""
    said, freshness = made()
    said.answers.clear()
    await asyncio.gather(freshness.first_look(0.01), freshness.first_look(600))
    await asyncio.wait_for(freshness.first_look(600), 300)
    assert said.asked == 1
    said.answers.set()
    await turns()
    assert await complete_since(freshness) is not None
