"""Ctrl-C and SIGTERM of a command that finishes its running step first."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

INTERRUPTED = 130
TERMINATED = 143


class Stopping:
    """What signals asked for: the first one sets `event`, the second one ends the command at once."""

    def __init__(self, event: asyncio.Event, notice: str) -> None:
        import asyncio

        self._event, self._notice = event, notice
        self.exit_code = 0
        self.is_cancelled = False
        self._task = asyncio.current_task()

    def ask(self, number: signal.Signals) -> None:
        """A signal came."""
        self.exit_code = TERMINATED if number == signal.SIGTERM else INTERRUPTED
        if not self._event.is_set():
            self._event.set()
            if self._notice:
                print(self._notice, file=sys.stderr)
        elif self._task is not None:
            self.is_cancelled = True
            self._task.cancel()


@contextmanager
def stopped_by_signals(event: asyncio.Event, *, notice: str = "") -> Iterator[Stopping]:
    """Within the block, signals ask for the stop of the task that it is in; the first is answered by `notice`."""
    import asyncio

    loop, stopping = asyncio.get_running_loop(), Stopping(event, notice)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.ask, number)
    try:
        yield stopping
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
