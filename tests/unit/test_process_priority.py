"""Who goes first on a machine that the daemon shares with applications."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from subprocess import check_output

from sagaz_tiering.process_memory import yield_to_others


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def in_thread_of_its_own(work: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """Niceness is a thread's on Linux, so that the test run keeps its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_process_that_yields_hands_that_on_to_what_it_starts() -> None:
    """The threads and the processes that are started from then on let others go first, too."""
    most = min(19, niceness() + 5)

    def work() -> tuple[int, ...]:
        yield_to_others(most)
        child = int(check_output(["nice"]))
        return niceness(), in_thread_of_its_own(lambda: (niceness(),))[0], child

    assert in_thread_of_its_own(work) == (most, most, most)
    assert niceness() < most


def test_process_that_was_started_nicer_stays_so() -> None:
    """A service manager that asks for more than the configuration has its way."""

    def work() -> tuple[int, ...]:
        yield_to_others(19)
        yield_to_others(3)
        return (niceness(),)

    assert in_thread_of_its_own(work) == (19,)
