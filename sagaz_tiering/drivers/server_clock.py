"""One clock for every process: that of the catalog's server, whatever the clocks of the hosts say.

`now` costs nothing: the offset of the server's clock to this machine's uptime is measured when the clock starts and
every minute, and only grows in between. Of the last measurements the one with the shortest round trip counts.

Until PostgreSQL has answered once, Redis' clock stands in for it, or else the host's. While PostgreSQL is away, the
last offset goes on. An offset that is not known from it, or that has jumped, is not `sure` before three measurements
agree: nothing is removed until then. Small corrections hold the time still; it goes back only by a large one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple, Self

from sagaz_tiering import metrics
from sagaz_tiering.clock import Clock, SystemClock, from_micros, to_micros
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.logs import Logger

_log = Logger(__name__)

AGREEING: Final = 3
"""So many measurements in a row must agree before anything is removed by the clock."""
MEASURE_EVERY: Final = timedelta(seconds=60)
_MEASURE_AGAIN: Final = timedelta(seconds=2)
"""While it is not sure."""
_ASK_AGAIN: Final = timedelta(seconds=10)
"""While the catalog's server does not answer."""
_LONGEST_ANSWER: Final = timedelta(seconds=2)
HOST_OFF: Final = timedelta(seconds=5)
"""A host whose clock is so far off is told."""
_TOLERANCE_US: Final = 1_000_000
_DRIFT: Final = 100e-6
"""Of a machine's uptime against true time: seconds in each."""
_REMEMBERED: Final = 8
_HELD_US: Final = 10_000_000
"""A correction backwards of up to so much is waited for."""


class ClockSample(NamedTuple):
    """What a server's clock said, and by this machine's uptime when it was asked and when its answer came."""

    at: datetime
    asked_s: float
    answered_s: float


AskTime = Callable[[], Awaitable[ClockSample]]


class _Measured(NamedTuple):
    offset_us: int
    error_us: int
    at_s: float

    def doubt_us(self, now_s: float) -> float:
        """How far it may be off by now."""
        return self.error_us + (now_s - self.at_s) * _DRIFT * 1e6


uptime_s: Final[Callable[[], float]] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds that only grow, also while the machine sleeps where that is known."""


async def sampled(ask: Callable[[], Awaitable[Any]], read: Callable[[Any], datetime] = lambda at: at) -> ClockSample:
    """What a server's clock says, asked for in one round trip; `read` takes the time from the answer."""
    asked_s = uptime_s()
    answer = await ask()
    return ClockSample(read(answer), asked_s, uptime_s())


class FixedClock:
    """Goes on from an offset that is not corrected any more: for one run of a job."""

    def __init__(self, offset_us: int, uptime: Callable[[], float]) -> None:
        self._offset_us = offset_us
        self._uptime = uptime

    def now(self) -> datetime:
        return from_micros(self._offset_us + _micros(self._uptime()))


class ServerClock:
    """The catalog server's clock. `async with` measures before the block, and every minute within it.

    `catalog` and `fallback` ask the servers; an error of theirs means that they do not tell now. `host` is what is used
    before any did.
    """

    def __init__(
        self,
        catalog: AskTime,
        fallback: AskTime | None = None,
        *,
        host: Clock | None = None,
        uptime: Callable[[], float] = uptime_s,
        server: str = "PostgreSQL",
    ) -> None:
        self._catalog = catalog
        self._server = server
        self._fallback = fallback
        self._host = host or SystemClock()
        self._uptime = uptime
        self._source = "host"
        self._told_source = ""
        self._offset_us: int | None = None
        self._accepted: list[_Measured] = []
        self._doubted: list[_Measured] = []
        self._agreed = 0
        self._was_sure = False
        self._host_was_off = False
        self._latest_us = 0
        self._measure_at_s = float("-inf")
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        for _ in range(AGREEING):
            if not await self.measure():
                break
        self._keeping = asyncio.create_task(self._keep(), name="clock")
        self._tell()
        return self

    async def __aexit__(self, *_: object) -> None:
        keeping, self._keeping = self._keeping, None
        if keeping is not None and keeping.get_loop() is asyncio.get_running_loop():  # else it ended with its loop
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    def now(self) -> datetime:
        """The current instant, aware UTC."""
        offset_us = self._offset_us
        now_us = self._micros_now() if offset_us is None else offset_us + int(self._uptime() * 1e6)
        if 0 < self._latest_us - now_us <= _HELD_US:
            now_us = self._latest_us
        self._latest_us = now_us
        return from_micros(now_us)

    async def read(self) -> datetime:
        """`now`; measured first if that was a minute ago, for whoever does not use it in `async with`."""
        if self._uptime() >= self._measure_at_s:
            self._measure_at_s = self._uptime() + MEASURE_EVERY.total_seconds()
            await self.measure()
        return self.now()

    @property
    def sure(self) -> bool:
        """Whether anything may be removed by it."""
        return self._agreed >= AGREEING

    @property
    def host_ahead(self) -> timedelta:
        """How far the host's clock is ahead of this one."""
        return self._host.now() - from_micros(self._micros_now())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "source": self._source,
            "sure": self.sure,
            "now": from_micros(self._micros_now()).isoformat(),
            "host_ahead_s": round(self.host_ahead.total_seconds(), 3),
        }

    def fixed(self) -> Clock:
        """The same time, not corrected any more from now on."""
        return FixedClock(to_micros(self.now()) - _micros(self._uptime()), self._uptime)

    async def confirm(self) -> bool:
        """Measure now; whether the clock is sure."""
        await self.measure()
        return self.sure

    async def measure(self) -> bool:
        """Ask the catalog's server once; False if it does not tell."""
        sample = await _asked(self._catalog)
        if sample is None:
            await self._fall_back()
            return False
        self._take(_measured(sample))
        self._tell()
        return True

    async def _keep(self) -> None:
        answered = self._source == "catalog"
        while True:
            pause = MEASURE_EVERY if self.sure else _MEASURE_AGAIN if answered else _ASK_AGAIN
            await asyncio.sleep(pause.total_seconds())
            answered = await self.measure()

    def _micros_now(self) -> int:
        if self._offset_us is None:
            return to_micros(self._host.now())
        return self._offset_us + _micros(self._uptime())

    def _take(self, new: _Measured) -> None:
        if self._source != "catalog":
            self._source = "catalog"
            self._accept([new])
        elif self._agree(new, self._best()):
            self._doubted = []
            self._accept([*self._accepted, new])
        else:
            go_on = self._doubted and self._agree(new, self._doubted[-1])
            self._doubted = [*self._doubted, new] if go_on else [new]
            self._agreed = 0
            if len(self._doubted) >= AGREEING:
                self._accept(self._doubted)
                self._agreed, self._doubted = AGREEING, []

    def _accept(self, measured: list[_Measured]) -> None:
        self._accepted = measured[-_REMEMBERED:]
        self._agreed += 1
        self._offset_us = self._best().offset_us

    def _best(self) -> _Measured:
        now_s = self._uptime()
        return min(self._accepted, key=lambda each: each.doubt_us(now_s))

    def _agree(self, one: _Measured, other: _Measured) -> bool:
        now_s = self._uptime()
        doubt_us = one.doubt_us(now_s) + other.doubt_us(now_s)
        return abs(one.offset_us - other.offset_us) <= doubt_us + _TOLERANCE_US

    async def _fall_back(self) -> None:
        if self._source != "host":
            return
        sample = None if self._fallback is None else await _asked(self._fallback)
        if sample is not None:
            self._source, self._offset_us = "redis", _measured(sample).offset_us
        if self._told_source == self._source:
            return
        self._told_source = self._source
        _log.warning(
            "clock.not_measured",
            source=self._source,
            hint=f"{self._server} has not told its time yet: the tiered storage removes nothing before it did",
        )

    def _tell(self) -> None:
        """What has changed."""
        host_s = self.host_ahead.total_seconds()
        if self._keeping is not None:  # else it is one of several, each storage's own
            metrics.CLOCK_SURE.set(self.sure)
            metrics.CLOCK_HOST_AHEAD.set(host_s)
        if self._was_sure and not self.sure:
            by_s = (self._doubted[-1].offset_us - self._best().offset_us) / 1e6 if self._doubted else 0.0
            hint = f"nothing is removed until {AGREEING} measurements agree; is {self._server}'s clock right?"
            _log.error("clock.jumped", by_s=round(by_s, 3), hint=hint)
        elif self.sure and not self._was_sure:
            _log.info("clock.sure", host_ahead_s=round(host_s, 3))
        self._was_sure = self.sure
        is_off = abs(host_s) > HOST_OFF.total_seconds()
        if is_off and not self._host_was_off:
            _log.warning(
                "clock.host_off",
                ahead_s=round(host_s, 3),
                hint=f"{self._server}'s time is used; set this host's clock, and that of {self._server}'s host, by NTP",
            )
        elif self._host_was_off and not is_off:
            _log.info("clock.host_right", ahead_s=round(host_s, 3))
        self._host_was_off = is_off


async def _asked(ask: AskTime) -> ClockSample | None:
    try:
        async with asyncio.timeout(_LONGEST_ANSWER.total_seconds()):
            return await ask()
    except (SagazTieringError, TimeoutError, OSError):
        return None  # whoever needs the server is told why


def _measured(sample: ClockSample) -> _Measured:
    middle_s = (sample.asked_s + sample.answered_s) / 2
    trip_us = _micros(sample.answered_s - sample.asked_s)
    return _Measured(to_micros(sample.at) - _micros(middle_s), trip_us // 2, sample.answered_s)


def _micros(seconds: float) -> int:
    return int(seconds * 1e6)
