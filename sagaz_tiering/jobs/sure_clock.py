"""Whether the clock is good enough to remove by it: one that is a year ahead must not cost a year of retention.

The catalog server's clock counts (`server_clock`). It must be known for sure, and not contradicted by the others that
can be asked: Redis, and the object store where it has one of its own. A clock that was given to us stands for all.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from sagaz_tiering.drivers.server_clock import AGREEING, ServerClock
from sagaz_tiering.errors import ClockDisagreement, ConfigError, ObjectStoreError, TierUnavailable
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.logs import Logger

_log = Logger(__name__)

MOST_APART = timedelta(minutes=5)


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
    fixed = replace(context, tiers=replace(context.tiers, clock=clock.fixed()))
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
