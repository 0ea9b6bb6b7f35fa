"""What checks find, how an error becomes a finding, and what two checks measure alike: round trips and clocks."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from asyncpg import InsufficientPrivilegeError

from sagaz_tiering.clock import Clock
from sagaz_tiering.drivers.redis.answers import is_missing_right
from sagaz_tiering.errors import AccessRefused, SagazTieringError
from sagaz_tiering.terminal import document

WRONG = 2
"""Exit code of an error that is no exception: something is set up wrongly."""
SLOW = timedelta(milliseconds=20)
"""A save and a common read are one round trip; from here on applications notice."""
_PINGS = 5
_DOUBTFUL = timedelta(seconds=2)
_FAR = timedelta(minutes=1)
"""Time comes from PostgreSQL's server; nothing is removed while it is far from Redis and the object store."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report: `subject` is SERVER.WHAT, `hint` says what to do, `exit_code` is that of an error."""

    level: Level
    subject: str
    message: str
    hint: str = ""
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return document(self, without=("exit_code",))


class Findings(list[Finding]):
    """What was found so far: checks tell it here, so that what one found stays when it is stopped."""

    def ok(self, subject: str, message: str, hint: str = "") -> None:
        """As it should be; a hint is something to know."""
        self.append(Finding(level=Level.OK, subject=subject, message=message, hint=hint))

    def warning(self, subject: str, message: str, hint: str) -> None:
        """It works, or may; somebody should look."""
        self.append(Finding(level=Level.WARNING, subject=subject, message=message, hint=hint))

    def error(self, subject: str, message: str, hint: str, *, exit_code: int = WRONG) -> None:
        """It does not work, or will lose something."""
        self.append(Finding(level=Level.ERROR, subject=subject, message=message, hint=hint, exit_code=exit_code))

    def failed(self, subject: str, exc: Exception) -> None:
        """What stopped a check: a right that we lack is a warning, everything else an error."""
        if not isinstance(exc, SagazTieringError):
            text = f"unexpected {type(exc).__name__}: {exc}"
            self.error(subject, text, "is this the right server? run it again with --debug", exit_code=1)
        elif is_refusal(exc):
            self.warning(subject, f"could not be checked: {exc}", exc.hint or "grant the right that it names")
        else:
            self.error(subject, str(exc), exc.hint, exit_code=exc.exit_code)

    @contextmanager
    def guarded(self, subject: str) -> Iterator[None]:
        """An error of ours that stops what is done within is a finding, too, and stops nothing else."""
        try:
            yield
        except SagazTieringError as exc:
            self.failed(subject, exc)

    def compared(self, subject: str, who: str, theirs: datetime, asked: datetime, took: timedelta) -> None:
        """`theirs` was read within `took` after `asked` by our clock; the answer's way may have taken any of it."""
        ahead = theirs - (asked + took / 2)
        surely = max(timedelta(0), abs(ahead) - took / 2)
        way = "ahead of" if ahead > timedelta(0) else "behind"
        text = f"{who} is {abs(ahead).total_seconds():,.3f} s {way} this host"
        hint = "set both clocks by NTP: expiry follows PostgreSQL's, and stops while it is minutes from the others"
        if surely > _FAR:
            self.error(subject, text, hint)
        elif surely > _DOUBTFUL:
            self.warning(subject, text, hint)
        else:
            self.ok(subject, text)

    async def clock(self, subject: str, who: str, clock: Clock, ask: Callable[[], Awaitable[datetime]]) -> None:
        """What `ask` tells of another machine's clock."""
        asked, began = clock.now(), time.monotonic()
        theirs = await ask()
        self.compared(subject, who, theirs, asked, timedelta(seconds=time.monotonic() - began))

    async def round_trip(self, subject: str, where: str, ask: Callable[[], Awaitable[object]], hint: str) -> None:
        """The best of some: what else this machine does only adds to it."""
        took = []
        for _ in range(_PINGS):
            began = time.perf_counter()
            await ask()
            took.append(time.perf_counter() - began)
        text = f"{where} answers in {min(took) * 1000:.1f} ms"
        if timedelta(seconds=min(took)) < SLOW:
            self.ok(subject, text)
        else:
            self.warning(subject, text, hint)


Check = Callable[[Findings], Awaitable[None]]
"""Tells what it finds; what it raises is a finding too (`Findings.failed`)."""


def is_refusal(exc: BaseException) -> bool:
    """Whether a server answered that we have no right to ask that."""
    cause = exc.__cause__
    return isinstance(exc, AccessRefused) or isinstance(cause, InsufficientPrivilegeError) or is_missing_right(cause)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 without an error, else the highest code among the errors."""
    return max((found.exit_code for found in findings if found.level is Level.ERROR), default=0)
