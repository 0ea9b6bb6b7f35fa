"""What a process that is ours alone sets for itself: who goes first, and what asyncio need not tell of."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from subprocess import check_output

import asyncpg
import pytest
from support.listening import listening

from sagaz_tiering.app.process import ignore_abandoned_connects

BEFORE = os.getpriority(os.PRIO_PROCESS, 0)
SCRIPT = """
import json, os, sys, threading
from subprocess import check_output
from sagaz_tiering.app.process import yield_to_others

def niceness():
    return os.getpriority(os.PRIO_PROCESS, 0)

def waits():
    go.wait()
    found.append(niceness())

found, go = [], threading.Event()
thread = threading.Thread(target=waits)
thread.start()
for number in map(int, sys.argv[1:]):
    yield_to_others(number)
go.set()
thread.join()
print(json.dumps([niceness(), *found, int(check_output(["nice"]))]))
"""


def niceness_after(*asked: int) -> list[int]:
    """Of a process that yields so: its own, that of a thread that was there before, that of a process it starts."""
    found: list[int] = json.loads(check_output([sys.executable, "-c", SCRIPT, *map(str, asked)]))
    return found


@pytest.mark.skipif(BEFORE == 19, reason="these tests yield to everybody already")
def test_process_yields_with_all_its_threads_and_hands_it_on() -> None:
    """Threads of a pool that were there before do the heavy work; worker processes are started later."""
    assert niceness_after(19) == [19] * 3


def test_process_that_was_started_nicer_stays_so() -> None:
    """A service manager that asks for more than the configuration has its way."""
    assert niceness_after(19, 3) == [19] * 3
    assert niceness_after(0) == [BEFORE] * 3


async def test_a_connect_that_is_cancelled_leaves_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    """Wherever the driver stands when it is cancelled; what else asyncio has to tell is told."""
    ignore_abandoned_connects()
    gc.collect()
    gc.freeze()  # what other tests left need not be looked through twenty times

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with listening(say_nothing) as port:
        for passes in range(20):
            connect = asyncio.create_task(asyncpg.connect(f"postgresql://me:word@127.0.0.1:{port}/db", timeout=60))
            for _ in range(passes):
                await asyncio.sleep(0)
            connect.cancel()
            await asyncio.wait([connect])
            del connect
            await asyncio.sleep(0)  # the transport tells that it is closed
            gc.collect()
    assert not caplog.messages
    unread = asyncio.get_running_loop().create_future()
    unread.set_exception(ConnectionError("the server closed it"))
    del unread
    gc.collect()
    gc.unfreeze()
    (told,) = caplog.messages
    assert "never retrieved" in told
    assert "the server closed it" in told
