"""How long another machine takes to answer, and its clock beside ours."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from sagaz_tiering.clock import Clock
from sagaz_tiering.doctor.finding import Finding, error, ok, warning

SLOW = timedelta(milliseconds=20)
"""A save and a common read are one round trip; from here on applications notice."""
_PINGS = 5
DOUBTFUL = timedelta(seconds=2)
WRONG = timedelta(minutes=1)
"""Time comes from PostgreSQL's server; nothing is removed while it is far from Redis and the object store."""


def compared(subject: str, who: str, theirs: datetime, asked: datetime, took: timedelta) -> Finding:
    """`theirs` was read within `took` after `asked` by our clock; the answer's way may have taken any part of it."""
    ahead = theirs - (asked + took / 2)
    surely = max(timedelta(0), abs(ahead) - took / 2)
    way = "ahead of" if ahead > timedelta(0) else "behind"
    text = f"{who} is {abs(ahead).total_seconds():,.3f} s {way} this host"
    hint = "set both clocks by NTP: expiry follows PostgreSQL's, and stops while it is minutes from the others"
    if surely > WRONG:
        return error(subject, text, hint)
    if surely > DOUBTFUL:
        return warning(subject, text, hint)
    return ok(subject, text)


async def clock_of(subject: str, who: str, clock: Clock, ask: Callable[[], Awaitable[datetime]]) -> Finding:
    """What `ask` tells of another machine's clock."""
    asked, began = clock.now(), time.monotonic()
    theirs = await ask()
    return compared(subject, who, theirs, asked, timedelta(seconds=time.monotonic() - began))


async def round_trip_of(subject: str, where: str, ask: Callable[[], Awaitable[object]], hint: str) -> Finding:
    """The best of some: what else this machine does only adds to it."""
    took = []
    for _ in range(_PINGS):
        began = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - began)
    text = f"{where} answers in {min(took) * 1000:.1f} ms"
    return ok(subject, text) if timedelta(seconds=min(took)) < SLOW else warning(subject, text, hint)
