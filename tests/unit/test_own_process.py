"""Who goes first on a machine that the daemon shares with applications."""

from __future__ import annotations

import json
import os
import sys
from subprocess import check_output

import pytest

BEFORE = os.getpriority(os.PRIO_PROCESS, 0)
SCRIPT = """
import json, os, sys, threading
from subprocess import check_output
from sagaz_tiering.own_process import yield_to_others

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
