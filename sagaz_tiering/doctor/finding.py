"""What a check found, and how an error becomes a finding."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from asyncpg import InsufficientPrivilegeError

from sagaz_tiering.drivers.redis.refusals import is_missing_right
from sagaz_tiering.errors import AccessRefused, SagazTieringError
from sagaz_tiering.terminal import document

WRONG = 2
"""Exit code of an error that is no exception: something is set up wrongly."""


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


Check = Callable[[], AsyncGenerator[Finding, None]]
"""Yields what it finds; what it raises is a finding too (`from_error`)."""


def ok(subject: str, message: str, hint: str = "") -> Finding:
    """As it should be; a hint is something to know."""
    return Finding(level=Level.OK, subject=subject, message=message, hint=hint)


def warning(subject: str, message: str, hint: str) -> Finding:
    """It works, or may; somebody should look."""
    return Finding(level=Level.WARNING, subject=subject, message=message, hint=hint)


def error(subject: str, message: str, hint: str, *, exit_code: int = WRONG) -> Finding:
    """It does not work, or will lose something."""
    return Finding(level=Level.ERROR, subject=subject, message=message, hint=hint, exit_code=exit_code)


def from_error(subject: str, exc: Exception) -> Finding:
    """What stopped a check: a right that we lack is a warning, everything else an error."""
    if not isinstance(exc, SagazTieringError):
        text = f"unexpected {type(exc).__name__}: {exc}"
        return error(subject, text, "is this the right server? run it again with --debug", exit_code=1)
    if is_refusal(exc):
        return warning(subject, f"could not be checked: {exc}", exc.hint or "grant the right that it names")
    return error(subject, str(exc), exc.hint, exit_code=exc.exit_code)


async def guarded(subject: str, check: AsyncGenerator[Finding, None]) -> AsyncGenerator[Finding, None]:
    """What a check finds; an error of ours that stops it is a finding too."""
    try:
        async for found in check:
            yield found
    except SagazTieringError as exc:
        yield from_error(subject, exc)


def is_refusal(exc: BaseException) -> bool:
    """Whether a server answered that we have no right to ask that."""
    cause = exc.__cause__
    return isinstance(exc, AccessRefused) or isinstance(cause, InsufficientPrivilegeError) or is_missing_right(cause)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 without an error, else the highest code among the errors."""
    return max((found.exit_code for found in findings if found.level is Level.ERROR), default=0)
