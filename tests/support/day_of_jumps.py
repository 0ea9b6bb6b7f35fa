"""A day of a daemon's schedule in virtual time while the wall clock jumps, and what ran when.

As a program under libfaketime it is the process' own clock that jumps; it prints the day as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from types import SimpleNamespace
from unittest.mock import patch

from sagaz_tiering.catalog.history import JobRun
from sagaz_tiering.config.schedule import Schedule
from sagaz_tiering.daemon.health import Problem, Readiness
from sagaz_tiering.daemon.schedule import JobSchedule, first_delays
from sagaz_tiering.jobs import JOBS, JobReport
from support.virtual_time import VirtualTimeLoop

DAY_S = 24 * 3600.0
BEGAN = datetime(2026, 3, 28, 12, tzinfo=UTC)
SUMMER, WINTER = datetime(2026, 3, 29, 0, 59, tzinfo=UTC), datetime(2026, 10, 25, 0, 59, tzinfo=UTC)
"""A minute before clocks in Berlin go forward, and back."""
MINUTE, HOUR, YEAR = timedelta(minutes=1), timedelta(hours=1), timedelta(days=365)
JUMPS = (5 * MINUTE, -5 * MINUTE, HOUR, -3 * HOUR, YEAR, -YEAR, SUMMER, -2 * YEAR, 3 * YEAR, -HOUR, WINTER, 40 * HOUR)
JUMP_EVERY_S = 1130.0
RESTART_EVERY_S = 5.3 * 3600
STOPPED_EVERY_S, STOPPED_S = 7.1 * 3600, 600.0
"""The whole process stands still, as under SIGSTOP: then jobs are overdue."""
LOOK_EVERY_S = 20.0


@dataclass(slots=True)
class Day:
    """What happened, in seconds since it began."""

    starts: dict[str, list[float]] = field(default_factory=lambda: {job: [] for job in JOBS})
    ends: dict[str, list[float]] = field(default_factory=lambda: {job: [] for job in JOBS})
    doubled: int = 0
    jumps: int = 0
    restarts: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    looks: int = 0
    told_overdue: list[float] = field(default_factory=list)
    """When /readyz named the schedule."""
    wall_span_s: float = 0.0
    """From the earliest to the latest that the wall clock showed."""


class Wall:
    """The wall clock of the daemon and its catalog; here one of the test's own."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._ahead = timedelta()
        self.shown = {BEGAN}
        loop.on_pass = self.set

    def true(self) -> datetime:
        """What it would be without a jump, and since the last one is."""
        return BEGAN + timedelta(seconds=self._loop.time()) + self._ahead

    def set(self) -> None:
        """Where the clock must be told."""

    def now(self) -> datetime:
        """As the daemon sees it."""
        return self.true()

    def shown_to_scheduler(self) -> AbstractContextManager[object]:
        """APScheduler asks `datetime` itself what time it is."""

        def now(zone: tzinfo) -> datetime:
            return self.now().astimezone(zone)

        return patch("apscheduler.schedulers.base.datetime", SimpleNamespace(now=now))

    def jump(self, to: datetime | timedelta) -> None:
        """By so much, or to there."""
        self._ahead += to if isinstance(to, timedelta) else to - self.true()
        self.set()
        self.shown.add(self.now())


class ProcessWall(Wall):
    """The process' own clock, by libfaketime; `BOOTED` in the environment is the true time less the monotonic one."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._booted = float(os.environ["BOOTED"])
        super().__init__(loop)
        self.set()

    def set(self) -> None:
        """libfaketime reads the environment at each call."""
        os.environ["FAKETIME"] = f"{self.true().timestamp() - self._booted - time.monotonic():+.6f}"

    def shown_to_scheduler(self) -> AbstractContextManager[object]:
        """As to everybody."""
        return nullcontext()

    def now(self) -> datetime:
        """What everybody in this process sees."""
        shown = datetime.now(UTC)
        assert abs(shown - self.true()) < MINUTE, "libfaketime does not move the clock"
        return shown


async def _day(make_wall: Callable[[VirtualTimeLoop], Wall], seed: int) -> Day:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    wall = make_wall(loop)
    with wall.shown_to_scheduler():
        return await _live(loop, wall, random.Random(seed))


async def _live(loop: VirtualTimeLoop, wall: Wall, chance: random.Random) -> Day:
    day = Day()
    times = {job: Schedule().of(job) for job in JOBS}
    running: set[str] = set()
    last: dict[str, JobRun] = {}

    async def run_job(name: str) -> JobReport:
        day.doubled += name in running
        running.add(name)
        day.starts[name].append(loop.time())
        began = wall.now()
        await asyncio.sleep(min(chance.expovariate(1 / 20), 2 * (times[name].every or HOUR).total_seconds()))
        last[name] = JobRun(job=name, started_at=began, finished_at=wall.now(), error=None, summary=None)
        day.ends[name].append(loop.time())
        running.discard(name)
        return JobReport(job=name, dry_run=False, started_at=began)

    def start() -> tuple[JobSchedule, Readiness]:
        schedule = JobSchedule(run_job, uptime=loop.time)
        schedule.start(times, first_delays(times, last.values(), wall.now()), wall)
        late = [Problem(server="schedule", error="late")]
        health = Readiness(loop.time, lambda: late if schedule.overdue() else [])
        health.check_passed()
        return schedule, health

    schedule, health = start()
    due = {"jump": JUMP_EVERY_S, "restart": RESTART_EVERY_S, "stop": STOPPED_EVERY_S}
    while loop.time() < DAY_S:
        await asyncio.sleep(LOOK_EVERY_S)
        if loop.time() >= due["stop"]:
            due["stop"] += STOPPED_EVERY_S
            loop.pass_time(STOPPED_S)
            day.stops.append(loop.time())
        day.looks += 1
        if health.problems():
            day.told_overdue.append(loop.time())
        if loop.time() >= due["jump"]:
            due["jump"] += JUMP_EVERY_S
            wall.jump(JUMPS[day.jumps % len(JUMPS)])
            day.jumps += 1
        if loop.time() >= due["restart"]:
            due["restart"] += RESTART_EVERY_S
            await schedule.stop(HOUR)
            day.restarts.append(loop.time())
            schedule, health = start()
    await schedule.stop(HOUR)
    day.wall_span_s = (max(wall.shown) - min(wall.shown)).total_seconds()
    return day


def day_of_jumps(seed: int, make_wall: Callable[[VirtualTimeLoop], Wall] = Wall) -> Day:
    """Live through it; takes seconds."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_day(make_wall, seed))


if __name__ == "__main__":
    print(json.dumps(asdict(day_of_jumps(int(sys.argv[1]), ProcessWall))))
