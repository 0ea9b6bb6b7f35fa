"""When a job starts next, the end of a run whose window closes, and whether the clock is good enough to remove by it.

A clock that is a year ahead must not cost a year of retention: the catalog server's clock counts (`server_clock`). It
must be known for sure, and not contradicted by the others that can be asked: Redis, and the object store where it has
one of its own. A clock that was given to us stands for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sagaz_tiering.catalog.history import JobRun
from sagaz_tiering.config.schedule import JobTimes, Schedule
from sagaz_tiering.drivers.server_clock import AGREEING, ServerClock
from sagaz_tiering.errors import ClockDisagreement, ConfigError, ObjectStoreError, TierUnavailable
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.logs import Logger

WINDOW_CLOSED: Final = "window_closed"
"""Counted where a run stopped since its window closed."""
_LATE_BY: Final = timedelta(minutes=1)
_LOOK_EVERY_S: Final = 1.0
_STARTS_LOOKED_AT: Final = 300
_LOOKED_AHEAD: Final = timedelta(days=8)
_log = Logger(__name__)
MOST_APART = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRun:
    """When a job starts next, by its `times` (as text) and its last run."""

    job: str
    times: str
    at: datetime
    """At the earliest."""
    latest: datetime
    """With all of its jitter."""
    is_open: bool
    """Whether one of its windows is open now; without windows always."""


def next_runs(schedule: Schedule, last_runs: Iterable[JobRun], now: datetime) -> list[NextRun]:
    """Of every job of the schedule, as a daemon that runs will start them."""
    last = {run.job: run for run in last_runs}
    found = []
    for job in type(schedule).model_fields:
        times = schedule.of(job)
        at = next_start(times, last.get(job), now)
        latest = times.jittered(at, 1.0)
        found.append(NextRun(job=job, times=times.text, at=at, latest=latest, is_open=times.is_open(now)))
    return found


def are_kept(schedule: Schedule, last_runs: Iterable[JobRun], leased: Iterable[str], now: datetime) -> bool:
    """Whether some process keeps to the schedule, as the last runs and the leases that are held tell.

    Those that start most often run on time, and no more than half of all are late: what was run by hand is not enough.
    Of what waits for its time of day nothing can be told.
    """
    last, held = {run.job: run for run in last_runs}, {name.partition("/")[0] for name in leased}
    every: dict[str, timedelta] = {}
    late = set()
    for job in type(schedule).model_fields:
        times = schedule.of(job)
        if times.every is None or not times.is_open(now):
            continue
        every[job] = times.every
        if job not in held and _is_late(times, last.get(job), now):
            late.add(job)
    most_often = {job for job, interval in every.items() if interval == min(every.values())}
    return not late & most_often and 2 * len(late) <= len(every)


def _is_late(times: JobTimes, last: JobRun | None, now: datetime) -> bool:
    if last is None:
        return True
    since = last.finished_at if last.is_over and last.finished_at is not None else last.started_at
    return times.jittered(times.next_after(since), 1.0) + _LATE_BY < now


def next_start(times: JobTimes, last: JobRun | None, now: datetime) -> datetime:
    """`now` for what is late, unless no window is open.

    By cron it is late if its last run began before a time that has passed; what never ran waits for its time. What its
    window ended goes on as one opens.
    """
    if last is None:
        return times.opens(now) if times.every is not None else times.next_after(now)
    if last.is_over and (last.summary or {}).get(WINDOW_CLOSED):
        return times.opens(now)
    ended = last.finished_at if last.is_over and times.every is not None else None
    since = ended or last.started_at
    # A last run in the future (a clock that was wrong) must not put the next one off for longer than one from now.
    return times.opens(max(now, min(times.next_after(since), times.next_after(now))))


def longest_wait(times: JobTimes, now: datetime) -> timedelta:
    """The longest time between two starts that the schedule asks for, looked for in the time after `now`."""
    longest, at = timedelta(), now
    for _ in range(_STARTS_LOOKED_AT if times.by_calendar else 1):
        after = times.next_after(at)
        longest, at = max(longest, after - at), after
        if at > now + _LOOKED_AHEAD:
            break
    return longest


@asynccontextmanager
async def within_window(context: JobContext, times: JobTimes, closed: Callable[[], None]) -> AsyncIterator[JobContext]:
    """For the length of the block the context of a run that is to stop when no window of `times` is open any more.

    `closed` is called then.
    """
    if not times.windows or context.any_time:
        yield context
        return
    stopping = asyncio.Event()

    async def watch() -> None:
        while times.is_open(context.now):
            with suppress(TimeoutError):
                await asyncio.wait_for(context.stopping.wait(), _LOOK_EVERY_S)
                break
        else:
            closed()
        stopping.set()

    watching = asyncio.create_task(watch(), name="window")
    try:
        yield replace(context, stopping=stopping)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def with_sure_clock(context: JobContext, tally: Tally) -> JobContext | None:
    """The context to remove with, whose clock is not corrected any more; None, and a note, if nothing may be removed.

    Raises ClockDisagreement if every other clock that can be asked is too far from the catalog's.
    """
    clock = context.clock
    if not isinstance(clock, ServerClock):
        return context
    if not await clock.confirm():
        _nothing_removed(
            tally, f"the time of PostgreSQL's server is not known for sure before {AGREEING} answers agree"
        )
        return None
    fixed = replace(context, clock=clock.fixed())
    ahead = await _ahead(fixed)
    if not ahead:
        _nothing_removed(tally, "neither Redis nor the object store tells its time, to compare PostgreSQL's with")
        return None
    apart = {who: by for who, by in ahead.items() if abs(by) > MOST_APART}
    text = " and ".join(f"{who} is {_shown(by)} PostgreSQL" for who, by in apart.items())
    if len(apart) == len(ahead):
        raise ClockDisagreement(f"the clocks are too far apart to remove anything: {text}; nothing was removed")
    if apart:
        tally.note(f"clocks differ: {text}; its clock is wrong")
        _log.warning("clock.differs", which=list(apart), clocks=text)
    return fixed


async def _ahead(context: JobContext) -> dict[str, timedelta]:
    """By how much each of the others that tell their time is ahead."""

    async def redis() -> datetime | None:
        return (await context.hot.connection.time()).at

    found: dict[str, timedelta] = {}
    for who, ask in (("Redis", redis), ("the object store", context.objects.server_time)):
        try:
            at = await ask()
        except (TierUnavailable, ObjectStoreError, ConfigError) as exc:
            _log.warning("clock.not_compared", which=who, error=str(exc))
            continue
        if at is not None:
            found[who] = at - context.now
    return found


def _nothing_removed(tally: Tally, why: str) -> None:
    tally.add("clock_unsure", note=f"nothing was removed: {why}")
    _log.warning("clock.unsure", why=why)


def _shown(by: timedelta) -> str:
    return f"{abs(by).total_seconds():,.0f} s {'ahead of' if by > timedelta(0) else 'behind'}"
