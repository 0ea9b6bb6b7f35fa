"""When a reader looks at PostgreSQL before it trusts Redis: rarely, together, and mostly before it must."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from sagaz_tiering.errors import CatalogUnavailable
from sagaz_tiering.tiered import watch as module
from sagaz_tiering.tiered.watch import Watch


class Announcements:
    """What PostgreSQL says, when it answers."""

    def __init__(self) -> None:
        self.asked = 0
        self.spilled = False
        self.away = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def watch(self) -> tuple[bool, timedelta | None]:
        """See `History.watch`."""
        self.asked += 1
        said = self.spilled
        await self.answers.wait()
        if self.away:
            raise CatalogUnavailable("away")
        return said, None


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The monotonic clock, as `seconds.now`."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def made() -> tuple[Announcements, Watch]:
    said = Announcements()
    history: Any = said
    return said, Watch(history, timedelta(days=7))


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_readers_at_once_look_once(seconds: SimpleNamespace) -> None:
    """The first look is shared by all who wait for it, and holds for a while."""
    said, watch = made()
    assert None not in await asyncio.gather(*(watch.horizon_us(0) for _ in range(64)))
    seconds.now += 0.3
    assert await watch.horizon_us(0) is not None
    await turns()
    assert said.asked == 1


async def test_next_look_begins_before_the_last_runs_out(seconds: SimpleNamespace) -> None:
    """In the background: the reader is answered by what is known, later ones by what was found."""
    said, watch = made()
    await watch.horizon_us(0)
    said.answers.clear()
    said.spilled = True
    seconds.now += 0.5
    assert await asyncio.wait_for(watch.horizon_us(0), 5) is not None
    assert await asyncio.wait_for(watch.horizon_us(0), 5) is not None
    await turns()
    assert said.asked == 2
    said.answers.set()
    await turns()
    assert await watch.horizon_us(0) is None, "a spill was announced"
    assert said.asked == 2


async def test_knowledge_that_ran_out_is_never_used(seconds: SimpleNamespace) -> None:
    """A look that had begun before the reader came and took too long is not enough: another follows."""
    said, watch = made()
    await watch.horizon_us(0)
    said.answers.clear()
    seconds.now += 0.5
    await watch.horizon_us(0)
    await turns()
    said.spilled = True
    seconds.now += 0.9
    reader = asyncio.create_task(watch.horizon_us(0))
    await turns()
    assert not reader.done()
    said.answers.set()
    assert await reader is None
    assert said.asked == 3


async def test_cancelled_reader_does_not_end_the_look_of_others(seconds: SimpleNamespace) -> None:
    """They wait for the same one."""
    said, watch = made()
    said.answers.clear()
    readers = [asyncio.create_task(watch.horizon_us(0)) for _ in range(3)]
    await turns()
    readers[0].cancel()
    await turns()
    said.answers.set()
    assert None not in await asyncio.gather(*readers[1:])
    assert said.asked == 1


async def test_failed_look_is_told_to_who_must_know(seconds: SimpleNamespace) -> None:
    """Without any knowledge it raises; with some, that holds on while PostgreSQL is down: nobody can announce."""
    said, watch = made()
    said.away = True
    found = await asyncio.gather(watch.horizon_us(0), watch.horizon_us(0), return_exceptions=True)
    assert [type(error) for error in found] == [CatalogUnavailable] * 2
    said.away = False
    assert await watch.horizon_us(0) is not None
    said.away = True
    seconds.now += 10
    assert await watch.horizon_us(0) is not None
    seconds.now += 0.9
    said.away, said.spilled = False, True
    assert await watch.horizon_us(0) is None
