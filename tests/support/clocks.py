"""Clocks of servers and hosts that a test sets wrong, each by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sagaz_tiering.drivers.server_clock import ClockSample, ServerClock
from sagaz_tiering.errors import CatalogUnavailable, HotTierUnavailable


class Ahead:
    """A host's clock that is wrong by that much."""

    def __init__(self, by: timedelta) -> None:
        self.by = by

    def now(self) -> datetime:
        """As hosts tell it."""
        return datetime.now(UTC) + self.by


class Uptime:
    """A machine's uptime in seconds, which only grows when told to."""

    def __init__(self) -> None:
        self.seconds = 5_000.0

    def __call__(self) -> float:
        return self.seconds


class Servers:
    """PostgreSQL, Redis and the host, each with a clock; `trip_s` is how long an answer takes."""

    def __init__(self, uptime: Uptime, start: datetime = datetime(2026, 6, 1, 12, tzinfo=UTC)) -> None:
        self._uptime = uptime
        self._began = start - timedelta(seconds=uptime())
        self.trip_s = 0.001
        self.catalog_ahead = self.redis_ahead = self.host_ahead = timedelta()
        self.catalog_away = self.redis_away = False

    def true(self) -> datetime:
        """What every clock should say."""
        return self._began + timedelta(seconds=self._uptime.seconds)

    def pass_time(self, by: timedelta) -> None:
        """For everyone."""
        self._uptime.seconds += by.total_seconds()

    def clock(self, host_ahead: timedelta = timedelta()) -> ServerClock:
        """A process on that host."""
        self.host_ahead = host_ahead
        return ServerClock(self._catalog, self._redis, host=self, uptime=self._uptime)

    def now(self) -> datetime:
        """The host's clock."""
        return self.true() + self.host_ahead

    async def _catalog(self) -> ClockSample:
        if self.catalog_away:
            raise CatalogUnavailable("away")
        return self._sample(self.catalog_ahead)

    async def _redis(self) -> ClockSample:
        if self.redis_away:
            raise HotTierUnavailable("away")
        return self._sample(self.redis_ahead)

    def _sample(self, ahead: timedelta) -> ClockSample:
        """The way back takes all of the time: the worst there is."""
        asked_s, at = self._uptime.seconds, self.true() + ahead
        self._uptime.seconds += self.trip_s
        return ClockSample(at, asked_s, self._uptime.seconds)
