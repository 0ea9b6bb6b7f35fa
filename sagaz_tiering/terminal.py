"""What goes to the terminal: tables and JSON in which a hostile name stays plain text."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

UNTERMINALED_WIDTH = 160
"""Columns of a table in a pipe or a log, where nothing has to fit a window."""

MAX_CELL = 120
_WORD = 20
"""Of a word that is longer so much stays together."""
_ID = re.compile("[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_PROSE = 3
"""Blanks in a cell that make it a sentence, which may be broken although it names an id."""


def safe(value: object, *, limit: int = MAX_CELL) -> str:
    """`value` as one line of printable text: control, format and surrogate characters become escapes."""
    text = str(value)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def document(value: Any, *more: str, without: Collection[str] = ()) -> dict[str, Any]:
    """A dataclass as a JSON object: its fields but `without`, and the properties `more`."""
    names = [field.name for field in fields(value) if field.name not in without]
    return {name: plain(getattr(value, name)) for name in (*names, *more)}


def plain(value: Any) -> Any:
    """As JSON has it: ids and times as text, of an enum its value, a dataclass as its `to_dict` or `document`."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return document(value)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value


def print_json(answer: Any, *, compact: bool = False) -> None:
    """One JSON document on stdout, ASCII only. Dataclasses in it are written as `plain` has them."""
    print(json.dumps(answer, indent=None if compact else 2, default=_written), flush=True)


def _written(value: Any) -> Any:
    return plain(value) if is_dataclass(value) else str(value)


def pretty_json(answer: Any) -> str:
    """JSON for people: readable in any script, with everything unprintable escaped."""
    text = json.dumps(answer, indent=2, ensure_ascii=False)
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def make_console(*, stderr: bool = False) -> Console:
    """A console that takes no markup from text; colours only on a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else UNTERMINALED_WIDTH
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def make_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """A table; a column whose name ends with `>` is aligned right. Cells are made safe; ids stay on one line."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = [tuple("—" if cell is None else safe(cell) for cell in row) for row in rows]
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for at, column in enumerate(columns):
        justify: Literal["left", "right"] = "right" if column.endswith(">") else "left"
        has_ids = any(_ID.search(row[at]) and row[at].count(" ") < _PROSE for row in found)
        table.add_column(column.rstrip(">"), justify=justify, overflow="fold", no_wrap=has_ids)
    for row in found:
        table.add_row(*map(Text, row))
    return table


def print_table(console: Console, table: Table) -> None:
    """The table in the width of the console; where ids leave no room for all, the last columns without one drop out.

    What is left out is said.
    """
    left_out = []
    while any(column.no_wrap for column in table.columns) and _least_width(table) > console.width:
        at = next((at for at in reversed(range(len(table.columns))) if not table.columns[at].no_wrap), None)
        if at is None:
            break
        left_out.append(str(table.columns.pop(at).header))
    console.print(table)
    if left_out:
        console.print(f"no room for: {', '.join(reversed(left_out))}", soft_wrap=True)


def _least_width(table: Table) -> int:
    """What it takes at least: whole ids, of the rest the longest word, but no more than so much of it."""
    total = 0
    for column in table.columns:
        texts = [str(column.header), *map(str, column.cells)]
        words = texts if column.no_wrap else [word for text in texts for word in text.split()]
        longest = max(map(len, words), default=0)
        total += 3 + (longest if column.no_wrap else min(longest, _WORD))
    return total


def counted(count: int, one: str, many: str = "") -> str:
    """`1 pack`, `2,000 packs`; `many` is for words that take more than an `s`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def show_bytes(count: int) -> str:
    """`812 B`, `3.1 KiB`, `2.0 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def show_counts(counts: Mapping[str, Any]) -> str:
    """What a run of a job did: `packs 2, bytes before 3.1 KiB`; "nothing to do" where all is 0."""
    done = (
        f"{name.replace('_', ' ')} {show_bytes(count) if 'bytes' in name.split('_') else count}"
        for name, count in counts.items()
        if count
    )
    return ", ".join(done) or "nothing to do"


def show_usd(amount: float) -> str:
    """`$12.30`, `-$12.30`; small amounts keep two significant digits."""
    sign, size = "-" if amount < 0 else "", abs(amount)
    if size == 0 or size >= 0.01:
        return f"{sign}${size:,.2f}"
    from decimal import Decimal

    return f"{sign}${Decimal(f'{size:.2g}'):f}"


def show_time(moment: datetime | None, *, millis: bool = False) -> str | None:
    """UTC to the second, or to the millisecond; None stays None."""
    if moment is None:
        return None
    exact = moment.astimezone(UTC)
    return f"{exact:%Y-%m-%d %H:%M:%S}{f'.{exact.microsecond // 1000:03}' if millis else ''}Z"


def need_millis(moments: Iterable[datetime]) -> bool:
    """Whether some of them would read the same to the second, but are not."""
    found = set(moments)
    return len({moment.replace(microsecond=0) for moment in found}) < len(found)


def show_span(span: timedelta) -> str:
    """A rough length of time: `7 y 1 d`, `3 d 4 h`, `12 min`, `8 s`."""
    seconds = int(abs(span).total_seconds())
    parts = []
    for unit, length in (("y", 365 * 86_400), ("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def show_when(moment: datetime | None, now: datetime, latest: datetime | None = None) -> str | None:
    """A time with its distance: `2026-03-01 12:00:00Z (in 3 d)`; `latest` is when it comes at the latest."""
    return None if moment is None else f"{show_time(moment)} ({show_distance(moment, now, latest)})"


def show_distance(moment: datetime, now: datetime, latest: datetime | None = None) -> str:
    """`3 d ago`, `in 3 d`, `in 3 d to 4 d`."""
    if latest is not None and latest > max(moment, now):
        return f"in {show_span(max(moment, now) - now)} to {show_span(latest - now)}"
    return f"in {show_span(moment - now)}" if moment > now else f"{show_span(now - moment)} ago"


_BRACKETS = {"~tuple": "()", "~set": "{}", "~frozenset": "{}"}


def show_value(value: Any, limit: int = MAX_CELL) -> str:
    """Tagged JSON as one line of at most `limit` characters: `"text"`, `Decimal 1.50`, `(1, 2)`, `{"a", "b"}`."""
    shown, length = [], 0
    for part in _parts(value, limit):
        shown.append(part)
        length += len(part)
        if length > limit:
            break
    return safe("".join(shown), limit=limit)


def _parts(value: Any, limit: int) -> Iterator[str]:
    """Never more of a long text, and never more of a list than is asked for."""
    if isinstance(value, str):
        yield json.dumps(value[:limit], ensure_ascii=False)
    elif isinstance(value, list):
        yield from _listed(value, "[]", limit)
    elif not isinstance(value, dict):
        yield json.dumps(value)
    elif len(value) == 1 and (tag := next(iter(value))).startswith("~"):
        yield from _tagged(tag, value[tag], limit)
    else:
        yield from _mapping(value.items(), limit)


def _tagged(tag: str, payload: Any, limit: int) -> Iterator[str]:
    if tag in _BRACKETS:
        yield from _listed(payload, _BRACKETS[tag], limit)
    elif tag == "~dict":
        yield from _mapping(payload, limit)
    elif tag == "~object":
        yield str(payload[0]).rpartition(".")[2]
        yield from _mapping(payload[1].items(), limit)
    elif tag == "~enum":
        yield f"{str(payload[0]).rpartition('.')[2]} "
        yield from _parts(payload[1], limit)
    else:
        yield f"{tag[1:]} {payload[:limit] if isinstance(payload, str) else json.dumps(payload)}"


def _listed(items: Iterable[Any], brackets: str, limit: int) -> Iterator[str]:
    yield brackets[0]
    for at, item in enumerate(items):
        yield ", " if at else ""
        yield from _parts(item, limit)
    yield brackets[1]


def _mapping(items: Iterable[Sequence[Any]], limit: int) -> Iterator[str]:
    yield "{"
    for at, (key, value) in enumerate(items):
        yield ", " if at else ""
        yield from chain(_parts(key, limit), (": ",), _parts(value, limit))
    yield "}"
