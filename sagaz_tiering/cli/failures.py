"""How errors reach people and programs: one line and a hint, an exit code, never a traceback unless asked for."""

from __future__ import annotations

import sys
import traceback

from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.terminal import print_json, safe

MAX_MESSAGE = 20_000


class UsageError(SagazTieringError):
    """The command line is wrong; nothing was done."""

    exit_code = 2


class NotFound(SagazTieringError):
    """What was asked for does not exist, has expired, or covers nothing."""

    exit_code = 8


def report(exc: BaseException, *, as_json: bool, debug: bool) -> int:
    """Say what went wrong on stderr (and as a JSON document on stdout); returns the exit code."""
    if isinstance(exc, SagazTieringError):
        message, hint, code = str(exc), exc.hint, exc.exit_code
    else:
        reason = str(exc) or "no message"
        message, hint, code = f"unexpected {type(exc).__name__}: {reason}", "run it again with --debug", 1
    if debug:
        traceback.print_exception(exc, file=sys.stderr)
    say(message, hint)
    if as_json:
        print_json({"error": message, "type": type(exc).__name__, "hint": hint, "exit_code": code})
    return code


def say(message: str, hint: str = "") -> None:
    """`error:` and `hint:` on stderr. Several problems of one file stay on lines of their own."""
    lines = [safe(line, limit=MAX_MESSAGE) for line in message.split("\n")]
    print("error: " + "\n".join(lines), file=sys.stderr)
    if hint:
        print(f"hint: {safe(hint, limit=MAX_MESSAGE)}", file=sys.stderr, flush=True)
