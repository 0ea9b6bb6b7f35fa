"""A server that failed is left alone until it answers again, so that an outage costs callers its deadline once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from sagaz_tiering.errors import SagazTieringError

PAUSE_S: Final = 1.0


class Pause:
    """`begin` when it failed; it `is_on` until `look`, asked in the background PAUSE_S later and after, raises nothing.

    Nobody waits for a look. After the first one they are only taken while somebody asks, PAUSE_S apart.
    """

    def __init__(self, look: Callable[[], Awaitable[object]]) -> None:
        self._look = look
        self._on = False
        self._looked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def is_on(self) -> bool:
        """Whether to leave it alone."""
        if self._on and self._timer is None and self._looking is None and self._is_due():
            self._start()
        return self._on

    def begin(self, seconds: float = PAUSE_S) -> None:
        """It failed."""
        self._on = True
        if self._timer is None and self._looking is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._start)

    def end(self) -> None:
        """It answered."""
        self._on = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_due(self) -> bool:
        return asyncio.get_running_loop().time() - self._looked_at >= PAUSE_S

    def _start(self) -> None:
        self._timer = None
        self._looking = asyncio.create_task(self._ask())
        self._looking.add_done_callback(self._asked)

    async def _ask(self) -> None:
        try:
            await self._look()
        except SagazTieringError:
            self._looked_at = asyncio.get_running_loop().time()
            return  # whoever asks next has it looked at again
        self.end()

    def _asked(self, look: asyncio.Task[None]) -> None:
        self._looking = None
        if not look.cancelled():
            look.exception()  # the driver's own: those who ask are told
