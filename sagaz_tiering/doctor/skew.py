"""Another machine's clock beside ours."""

from __future__ import annotations

from datetime import datetime, timedelta

from sagaz_tiering.doctor.finding import Finding, error, ok, warning

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
