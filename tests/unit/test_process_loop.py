"""Where something with connections belongs, and the helper loop that serves all other places."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from support.elsewhere import in_thread

from sagaz_tiering.drivers.process_loop import Helper, HomeLoop, Twin
from sagaz_tiering.errors import WrongEventLoop

pytestmark = pytest.mark.guarantee("G13")

_word: ContextVar[str] = ContextVar("word", default="")


class Owner:
    """Something with a connection."""

    def __init__(self) -> None:
        self.closed_on: list[asyncio.AbstractEventLoop] = []
        self.home = HomeLoop(self, Owner.close)

    async def close(self) -> None:
        self.closed_on.append(asyncio.get_running_loop())


async def thread_name() -> str:
    """The one that this runs on."""
    return threading.current_thread().name


async def test_first_use_decides_and_every_other_loop_is_refused() -> None:
    """With an error of ours that says what to do."""
    owner = Owner()
    owner.home.check()

    async def check() -> bool:
        with pytest.raises(WrongEventLoop, match="Owner belongs to another event loop") as caught:
            owner.home.check()
        assert caught.value.hint
        return owner.home.is_here()

    assert await in_thread(check) is False
    assert owner.home.is_here()


def test_end_of_a_loop_closes_what_belongs_to_it() -> None:
    """On that loop, once; from then on it belongs nowhere, until it is closed."""
    owner = Owner()

    async def use() -> asyncio.AbstractEventLoop:
        owner.home.check()
        return asyncio.get_running_loop()

    first = asyncio.run(use())
    assert owner.closed_on == [first]
    with pytest.raises(WrongEventLoop, match="has ended"):
        asyncio.run(use())
    asyncio.run(owner.home.close(owner.close))
    assert owner.closed_on == [first]
    second = asyncio.run(use())
    assert owner.closed_on == [first, second]


async def test_close_from_elsewhere_closes_at_home() -> None:
    """While that loop runs, and also once it was closed without a word."""
    owner, home = Owner(), asyncio.get_running_loop()
    owner.home.check()
    await in_thread(lambda: owner.home.close(owner.close))
    assert owner.closed_on == [home]

    def forgotten() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.call_soon(owner.home.check)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    await asyncio.to_thread(forgotten)
    await owner.home.close(owner.close)
    assert owner.closed_on == [home]
    owner.home.check()


async def test_close_of_what_is_on_a_loop_that_stands_still_waits_for_nothing() -> None:
    """It is closed there once that loop goes on."""
    owner, still = Owner(), asyncio.new_event_loop()

    async def use() -> None:
        owner.home.check()

    await asyncio.to_thread(still.run_until_complete, use())
    await owner.home.close(owner.close)
    assert owner.closed_on == []
    await asyncio.to_thread(still.run_until_complete, asyncio.sleep(0.01))
    assert owner.closed_on == [still]
    still.close()


async def test_helper_keeps_context_results_and_errors() -> None:
    """It runs in its own thread, and called from there runs at once, without waiting for itself."""
    helper = Helper.of_process()
    _word.set("of the caller")

    async def read() -> tuple[str, str]:
        return _word.get(), await helper.run(thread_name)

    async def fail() -> None:
        raise KeyError("mine")

    assert await helper.run(read) == ("of the caller", "sagaz-tiering")
    with pytest.raises(KeyError, match="mine"):
        await helper.run(fail)
    assert Helper.of_process() is helper


async def test_cancelled_call_has_ended_when_its_caller_goes_on() -> None:
    """As a call in the caller's own loop has: its cleaning up is over."""
    helper, begun, seen = Helper.of_process(), threading.Event(), list[str]()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            seen.append("cleaned up")

    task = asyncio.create_task(helper.run(wait))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cleaned up"]


class Place:
    """Counts how often it is open."""

    def __init__(self) -> None:
        self.opened = self.closed = 0
        self.fails = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Place]:
        await asyncio.sleep(0)
        if self.fails:
            raise OSError("away")
        self.opened += 1
        try:
            yield self
        finally:
            self.closed += 1


async def test_twin_is_opened_once_for_all_and_again_after_closing() -> None:
    """A failure is told to whoever waits, and the next call tries again."""
    place = Place()
    twin = Twin(place.open)

    async def name(of: Place) -> Any:
        assert of.opened == of.closed + 1
        return await thread_name()

    place.fails = True
    failed = await asyncio.gather(*(twin.use(name) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in failed] == [OSError] * 3
    place.fails = False
    threads = await asyncio.gather(twin.use(name), *(in_thread(lambda: twin.use(name)) for _ in range(4)))
    assert threads == ["sagaz-tiering"] * 5
    assert (place.opened, place.closed) == (1, 0)
    await asyncio.gather(twin.close(), in_thread(twin.close))
    assert (place.opened, place.closed) == (1, 1)
    await asyncio.gather(twin.use(name), twin.close(), twin.use(name), return_exceptions=True)
    await twin.close()
    assert place.opened == place.closed


_AT_EXIT = """
import asyncio
from contextlib import asynccontextmanager
from sagaz_tiering.drivers.process_loop import Twin

@asynccontextmanager
async def place():
    try:
        yield None
    finally:
        await asyncio.sleep(0.01)
        print("closed")

async def work(of):
    return 1

twin = Twin(place)
assert asyncio.run(twin.use(work)) == 1
"""


def test_interpreter_closes_what_is_open_on_the_helper_loop() -> None:
    """It does not hang, and nothing is destroyed while it is open."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", _AT_EXIT], capture_output=True, text=True, timeout=120, check=True
    )
    assert (ended.stdout, ended.stderr) == ("closed\n", "")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_process_belongs_nowhere_and_has_a_helper_of_its_own() -> None:
    """What it inherited is refused; its helper is another thread of its own."""
    owner = Owner()
    loop = asyncio.new_event_loop()

    async def use() -> None:
        owner.home.check()

    async def in_child() -> int:
        try:
            owner.home.check()
        except WrongEventLoop:
            await owner.home.close(owner.close)
            name = await Helper.of_process().run(thread_name)
            return 0 if name == "sagaz-tiering" and not owner.closed_on else 2
        return 1

    loop.run_until_complete(use())
    asyncio.run(Helper.of_process().run(thread_name))
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = asyncio.run(in_child())
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    loop.run_until_complete(use())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert owner.closed_on == [loop]
    loop.close()
