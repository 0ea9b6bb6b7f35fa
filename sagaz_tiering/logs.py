"""How log lines look and where they go: structlog events to stderr, one line each, times in ISO 8601 UTC.

A library must not decide this for its host, so only the CLI and the daemon call `configure`. Events are dotted
and past tense (`pack.sealed`); what they are about is in fields.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import orjson
import structlog

_HIDDEN = "***"
_SECRET_NAME = re.compile(r"password|passwd|secret|credential|access_key|authorization", re.IGNORECASE)
_URL_CREDENTIALS = re.compile(r"(?<=://)([^\s'\":@/]*:)?[^\s'\"]+@")
"""User and password in the URL of a server, up to the last @, since a password may hold any sign."""
_QUIET = ("apscheduler", "aiohttp", "aioboto3", "aiobotocore", "boto3", "botocore", "urllib3")
"""Libraries whose warnings repeat what we log ourselves, in words of their own."""
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog(3) priorities, which journald reads from the start of a line: <4>."""


def configure(*, level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:
    """Send the log to `stream` (stderr) from `level` on; may be called again when the configuration changes.

    `format` is `json`, `console`, or `auto`: console on a terminal, JSON elsewhere. Under systemd each line
    starts with its priority, so that `journalctl -p warning` works.
    """
    out = stream if stream is not None else sys.stderr
    as_json = format == "json" or (format == "auto" and not out.isatty())
    # A console renderer prints a traceback itself; JSON needs it as text.
    traces = [structlog.processors.format_exc_info] if as_json else []
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *traces,
        without_secrets,
    ]
    ending: list[Any] = [_as_json if as_json else structlog.dev.ConsoleRenderer(colors=out.isatty(), **_PLAIN)]
    if _is_journal(out):
        ending = [_Prioritised(ending[0])]
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    _configure_libraries(_LEVELS[level], out, shared, ending)


_PLAIN: dict[str, Any] = {"exception_formatter": structlog.dev.plain_traceback}


def without_secrets(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that hides values under secret names and credentials inside URLs."""
    for name, value in event.items():
        event[name] = _HIDDEN if _SECRET_NAME.search(name) else _cleaned(value)
    return event


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return _URL_CREDENTIALS.sub(lambda found: f"{found[1] or ''}{_HIDDEN}@", value)
    if isinstance(value, Mapping):
        return {k: _HIDDEN if _SECRET_NAME.search(str(k)) else _cleaned(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(v) for v in value]
    if isinstance(value, BaseException):
        return _cleaned(f"{type(value).__name__}: {value}")
    return value


def _as_json(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    # `event` and `level` first: people read JSON logs too.
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    try:
        return orjson.dumps(first | dict(event), default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:  # lone surrogates and integers over 64 bits: a log line is never refused
        return orjson.dumps({**first, "fields": ascii(dict(event))}).decode()


class _Prioritised:
    """Puts the syslog priority in front of what `renderer` makes."""

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer

    def __call__(self, logger: object, name: str, event: MutableMapping[str, Any]) -> str:
        priority = _PRIORITIES.get(str(event.get("level")), 6)
        # Every line of a traceback would be an entry of its own without one.
        lines: list[str] = str(self._renderer(logger, name, event)).splitlines()
        return "\n".join(f"<{priority}>{line}" for line in lines)


def _is_journal(out: TextIO) -> bool:
    """Whether `out` is the socket that systemd named in JOURNAL_STREAM (device:inode)."""
    try:
        status = os.fstat(out.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _configure_libraries(level: int, out: TextIO, shared: list[Any], ending: list[Any]) -> None:
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
