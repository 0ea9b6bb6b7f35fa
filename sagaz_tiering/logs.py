"""How log lines look and where they go: structlog events to stderr, one line each, times in ISO 8601 UTC.

A library must not decide this for its host, so only the CLI and the daemon call `configure`. Inside an application
events go where its own go: to structlog where the application has configured that, else to the standard library's
`logging`, under `sagaz_tiering`. Events are dotted and past tense (`pack.sealed`); what they are about is in fields.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TextIO

import orjson
import structlog

_HIDDEN = "***"
_SECRET_NAME = re.compile(r"password|passwd|secret|credential|access_key|authorization", re.IGNORECASE)
_URL_CREDENTIALS = re.compile(r"(?<=://)([^\s'\":@/]*:)?[^\s'\"]+@")
"""User and password in the URL of a server, up to the last @, since a password may hold any sign."""
_QUERY_SECRETS = re.compile(
    r"(?<=[?&;])([\w.-]*(?:password|passwd|secret|token|credential|access_key|signature)[\w.-]*=)[^\s&;'\"]+",
    re.IGNORECASE,
)
"""A secret among the parameters of a URL."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a terminal's cursor, colours it or turns its text around; not tab and newline."""
_QUIET = ("aiohttp", "aioboto3", "aiobotocore", "apscheduler", "boto3", "botocore", "urllib3")
"""Libraries whose warnings repeat what we log ourselves, in words of their own."""
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog(3) priorities, which journald reads from the start of a line: <4>."""


class Logger:
    """What modules log with: `Logger(__name__).warning("pack.sealed", snapshots=3)`."""

    __slots__ = ("_ours", "_theirs")

    def __init__(self, name: str) -> None:
        self._theirs = structlog.get_logger(name)
        self._ours = structlog.wrap_logger(
            logging.getLogger(name),
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                without_secrets,
                _as_message,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        )

    def debug(self, event: str, **fields: Any) -> None:
        """For who looks for a fault."""
        self._current.debug(event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        """Something went as it should."""
        self._current.info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Somebody should look at it some day."""
        self._current.warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        """Somebody should look at it now."""
        self._current.error(event, **fields)

    def exception(self, event: str, **fields: Any) -> None:
        """The same, with the traceback of the exception that is being handled."""
        self._current.exception(event, **fields)

    @property
    def _current(self) -> Any:
        return self._theirs if structlog.is_configured() else self._ours


def _as_message(_: object, __: str, event: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """`event key=value …` for a formatter of the standard library; the fields are on the record, too."""
    name, exc_info = event.pop("event"), event.pop("exc_info", None)
    text = " ".join([str(name), *(f"{key}={_shown(value)}" for key, value in event.items())])
    return (text,), {"exc_info": exc_info, "extra": {"event": name, "fields": dict(event)}}


def _shown(value: Any) -> str:
    """On one line, whatever it holds."""
    text = str(value)
    if not text.isprintable():
        return ascii(text)
    return text if text and " " not in text else repr(text)


class Repeated:
    """An event that would come with every call of an outage: told when it begins, once in a while, and how often.

    `tell` is given the fields and, from the second line on, `times`: how often it came since the line before. It is
    over once nothing has come for `quiet_s`, since calls that do not need the server that is away succeed meanwhile.
    """

    __slots__ = ("_every_s", "_last", "_monotonic", "_quiet_s", "_since", "_times")

    def __init__(
        self, *, every_s: float = 30.0, quiet_s: float = 5.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._every_s, self._quiet_s, self._monotonic = every_s, quiet_s, monotonic
        self._last = 0.0
        self._since: dict[object, float] = {}
        self._times: dict[object, int] = {}

    def due(self, kind: object) -> dict[str, int] | None:
        """It came again: None if it need not be told now, else `{}` or `{"times": …}` to tell with it."""
        now, before = self._monotonic(), self._since.get(kind)
        self._last = now
        if before is not None and now - before < self._every_s:
            self._times[kind] = self._times.get(kind, 0) + 1
            return None
        self._since[kind] = now
        missed = self._times.pop(kind, 0)
        return {"times": missed + 1} if missed else {}

    def over(self) -> dict[object, int]:
        """A call went well. If it is over: the kinds that had come, and how often each was not told."""
        if not self._since or self._monotonic() - self._last < self._quiet_s:
            return {}
        found = {kind: self._times.get(kind, 0) for kind in self._since}
        self._since.clear()
        self._times.clear()
        return found


def configure(*, level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:
    """Send the log to `stream` (stderr) from `level` on; may be called again when the configuration changes.

    `format` is `json`, `console`, or `auto`: console on a terminal, JSON elsewhere. Under systemd each line
    starts with its priority, so that `journalctl -p warning` works.
    """
    out = stream if stream is not None else sys.stderr
    as_json = format == "json" or (format == "auto" and not out.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,  # as text, so that secrets in it are found
        without_secrets,
        *([] if as_json else [_without_controls]),
    ]
    ending: list[Any] = [_as_json if as_json else structlog.dev.ConsoleRenderer(colors=out.isatty())]
    if _is_journal(out):
        ending = [_Prioritised(ending[0])]
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    _configure_libraries(_LEVELS[level], out, shared, ending)


def without_secrets(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that hides values under secret names and credentials inside URLs."""
    for name, value in event.items():
        event[name] = _HIDDEN if _SECRET_NAME.search(name) else _cleaned(value)
    return event


def _without_controls(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor for consoles: a name in a snapshot must not write to the terminal of who reads the log."""
    for name, value in event.items():
        text = value if isinstance(value, str) else str(value) if isinstance(value, BaseException) else None
        if text is not None and ((name not in ("exception", "event") and "\n" in text) or _CONTROLS.search(text)):
            shown = _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)
            event[name] = shown if name == "exception" else shown.replace("\n", "\\n")
    return event


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        hidden = _URL_CREDENTIALS.sub(lambda found: f"{found[1] or ''}{_HIDDEN}@", value)
        return _QUERY_SECRETS.sub(rf"\g<1>{_HIDDEN}", hidden)
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
