"""A server that failed is left alone until it answers a look that nobody waits for."""

from __future__ import annotations

import asyncio

import pytest

from sagaz_tiering.errors import HotTierUnavailable
from sagaz_tiering.tiered import freshness as module
from sagaz_tiering.tiered.freshness import Pause


class Server:
    """Answers each look with the next of `answers`, or not yet."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Exception | None] = asyncio.Queue()
        self.looks = 0
        self.asked = asyncio.Event()

    async def look(self) -> None:
        self.looks += 1
        self.asked.set()
        if (error := await self.answers.get()) is not None:
            raise error

    async def until_asked(self) -> None:
        async with asyncio.timeout(300):
            await self.asked.wait()
        self.asked.clear()


async def until(is_so: bool, pause: Pause) -> None:
    async with asyncio.timeout(300):
        while pause.is_on is not is_so:  # noqa: ASYNC110 - a pause has callers, nobody who waits
            await asyncio.sleep(0)


async def test_pause_lasts_until_a_look_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often callers ask meanwhile, there is one look at a time, and none of them waits for it."""
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    server = Server()
    pause = Pause(server.look)
    assert not pause.is_on
    pause.begin(0)
    await server.until_asked()
    for _ in range(100):
        assert pause.is_on
        pause.begin(0)
        await asyncio.sleep(0)
    assert server.looks == 1
    server.answers.put_nowait(HotTierUnavailable("still away"))
    async with asyncio.timeout(300):
        while not server.asked.is_set():
            assert pause.is_on
            await asyncio.sleep(0)
    server.answers.put_nowait(None)
    await until(False, pause)
    assert server.looks == 2


async def test_pause_ends_by_itself_where_nobody_asks() -> None:
    """A blip does not cost the next save its way, however much later that comes."""
    server = Server()
    pause = Pause(server.look)
    server.answers.put_nowait(None)
    pause.begin(0)
    await server.until_asked()
    await until(False, pause)
    assert server.looks == 1


async def test_pause_ends_with_an_answer_to_somebody_else() -> None:
    """Who asked it all the same and was answered needs no look."""
    server = Server()
    pause = Pause(server.look)
    pause.begin(3600)
    assert pause.is_on
    pause.end()
    assert not pause.is_on
    assert server.looks == 0
