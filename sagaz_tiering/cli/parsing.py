"""What the texts of options mean: ids, times, matches; and warnings of those that hardly mean what they say."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING
from uuid import UUID

from sagaz_tiering.cli.stderr import MAX_MESSAGE, UsageError
from sagaz_tiering.errors import InvalidSnapshot
from sagaz_tiering.terminal import counted, safe

if TYPE_CHECKING:
    from sagaz_tiering.config.patterns import Match

TIME_FORMS = "2026-03-01T12:00:00Z, or 2026-03-01 for its first instant in UTC"
MATCH_KEYS = ("saga_name", "step_name", "status", "outcome", "attributes.NAME")
"""What `--match KEY=PATTERN` takes; NAME is that of an attribute."""
_SHAPE_OF_ID = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
_LEAST_OF_ID = 9
"""So many characters of a UUID are taken for the beginning of one."""
_ALIKE = 0.5
"""So much of a key that there is not is enough to think of one that there is."""
_NEARLY = 0.8
STATUSES = (
    *("pending", "executing", "compensating", "forward_recovery", "completed"),
    *("failed", "rolled_back", "partially_committed"),
)
"""Of a snapshot that sagaz saves; other code may have its own."""


def parse_id(text: str, name: str) -> UUID:
    """`text` as a UUID; raises UsageError."""
    from sagaz_tiering.sagaz_engine.capture import hint_of_saga_id

    try:
        return UUID(text)
    except ValueError as exc:
        is_saga = name.startswith("SAGA_ID") or name == "--saga"
        hint = _hint_of_short_id(text) or (hint_of_saga_id(text) if is_saga else "")
        raise UsageError(f"{name} must be a UUID, not {text!r:.80}", hint=hint) from exc


def _hint_of_short_id(text: str) -> str:
    """For the beginning of a UUID, such as a table that was cut has it; else empty."""
    short = len(_SHAPE_OF_ID) - len(text)
    if short <= 0 or len(text) < _LEAST_OF_ID or not re.fullmatch("[0-9a-f-]+", text.lower()):
        return ""
    if any((given == "-") != (due == "-") for given, due in zip(text, _SHAPE_OF_ID, strict=False)):
        return ""
    return f"this id is {counted(short, 'character')} short"


def parse_time(text: str) -> datetime:
    """An ISO 8601 time with a zone, or a day (its first instant in UTC), as UTC; raises UsageError."""
    from sagaz_tiering.snapshot import as_utc

    with suppress(ValueError):  # no day alone
        text = datetime.combine(date.fromisoformat(text), time(), UTC).isoformat()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise UsageError(f"{text!r:.80} is not a time", hint=f"write it like {TIME_FORMS}") from exc
    if moment.utcoffset() is None:
        raise UsageError(f"{text!r:.80} has no time zone", hint=f"write it like {moment.isoformat()}Z for UTC")
    try:
        return as_utc(moment, "a time")
    except InvalidSnapshot as exc:
        raise UsageError(str(exc), hint="no snapshot can be from another time: is the year right?") from exc


def parse_match(pairs: list[str]) -> Match:
    """`KEY=PATTERN` options as a match; raises UsageError."""
    from pydantic import ValidationError

    from sagaz_tiering.attributes import NAME_PATTERN
    from sagaz_tiering.config.patterns import Match

    found: dict[str, list[str]] = {}
    attributes: dict[str, list[str]] = {}
    for pair in pairs:
        key, _, pattern = pair.partition("=")
        if not pattern:
            raise UsageError(f"--match {pair!r:.80} is not KEY=PATTERN", hint=f"keys: {', '.join(MATCH_KEYS)}")
        of_attribute = re.fullmatch(rf"attributes\.({NAME_PATTERN.strip('^$')})", key)
        if not of_attribute and key not in MATCH_KEYS[:-1]:
            raise UsageError(f"--match {pair!r:.80}: no key {key!r:.80}", hint=_nearest_keys(key))
        into, name = (attributes, of_attribute[1]) if of_attribute else (found, key)
        into.setdefault(name, []).append(pattern)
    try:
        match = Match.model_validate({**found, "attributes": attributes})
    except ValidationError as exc:
        raise UsageError(f"--match: {exc.errors()[0]['msg']}", hint="write it like saga_name=payment-*") from exc
    warn_of_expressions(match.patterns)
    return match


def warn_of_expressions(patterns: Sequence[str]) -> None:
    """Say on stderr which of these patterns look like regular expressions, which match hardly anything."""
    from sagaz_tiering.config.lint import expression_warnings

    for warning in expression_warnings(patterns):
        _warn(safe(warning, limit=MAX_MESSAGE))


def warn_of_statuses(given: Sequence[str]) -> None:
    """Say on stderr which of these are nearly a status, and so none that any saga has."""
    import difflib

    for status in given:
        near = difflib.get_close_matches(status, STATUSES, n=1, cutoff=_NEARLY)
        if near and status not in STATUSES and not set(status) & set("*?["):
            _warn(f"{safe(status)} is no status of sagaz; did you mean {near[0]}?")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _nearest_keys(key: str) -> str:
    import difflib

    near = difflib.get_close_matches(key.lower(), MATCH_KEYS, n=2, cutoff=_ALIKE)
    meant = " or ".join(each for each in MATCH_KEYS if each in near)
    return f"{f'did you mean {meant}? ' if meant else ''}keys: {', '.join(MATCH_KEYS)}"
