"""What a command says and asks beside its answer: errors with hints, questions, the name on record.

Errors reach people and programs as one line and a hint, with an exit code, and never as a traceback unless asked for. A
yes is asked for before what cannot be undone.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress

from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.terminal import print_json, safe

MAX_MESSAGE = 20_000
_YES_HINT = "--yes does it without asking"
_BYTES = 4096


class UsageError(SagazTieringError):
    """The command line is wrong; nothing was done."""

    exit_code = 2


class NotFound(SagazTieringError):
    """What was asked for does not exist, has expired, or covers nothing."""

    exit_code = 8


class Declined(SagazTieringError):
    """What was asked was not answered with yes; nothing was changed."""

    exit_code = 13
    hint = _YES_HINT


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


async def confirm(question: str, *, yes: bool, as_json: bool, about: str = "") -> None:
    """Return if `yes` (the option `--yes`) or the answer says so; to be called before anything is changed. `about`
    stands above the question.

    Raises Declined for any other answer and for none, UsageError where a program reads the output. Ctrl-C ends it at
    once and is told too: the event loop goes on while it waits.
    """
    import asyncio

    if yes:
        return
    if as_json:
        raise UsageError("nothing was changed: --json needs --yes, there is nobody to ask")
    if about:
        print(about, file=sys.stderr)
    typed = b""
    try:
        while True:
            print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
            line, typed = await _line(typed)
            if not line:
                print(file=sys.stderr)
                raise Declined("nothing was changed: no answer came, and there may be no terminal to give one")
            answer = line.strip().lower()
            if answer in (b"y", b"yes"):
                return
            if answer in (b"n", b"no", b""):
                raise Declined("nothing was changed: the answer was no")
    except asyncio.CancelledError:
        print(file=sys.stderr)
        say("nothing was changed: interrupted before the answer", _YES_HINT)
        raise


async def _line(typed: bytes) -> tuple[bytes, bytes]:
    """The next line (empty at the end of the input) and what was typed behind it."""
    while b"\n" not in typed and (more := await _read()):
        typed += more
    line, end, rest = typed.partition(b"\n")
    return line + end, rest


async def _read() -> bytes:
    """What comes next on stdin; nothing at its end, or where there is none."""
    from sagaz_tiering.app.process import readable

    if sys.stdin is None:
        return b""
    try:
        descriptor = sys.stdin.fileno()
        with suppress(PermissionError):  # a file or /dev/null, which never lets wait
            await readable(descriptor)
        return os.read(descriptor, _BYTES)
    except (OSError, ValueError):  # closed, or no file at all
        return b""


def login_name() -> str:
    """Who runs the command; in a container the user often has a number only."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return f"uid {os.getuid()}"
