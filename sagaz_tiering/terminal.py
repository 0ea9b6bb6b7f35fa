"""What goes to the terminal: tables and JSON in which a hostile name stays plain text."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

if TYPE_CHECKING:
    from rich.console import Console

UNTERMINALED_WIDTH = 160
"""Columns of a table in a pipe or a log, where nothing has to fit a window."""

MAX_CELL = 120
_WORD = 24
"""Of a word that is longer so much stays together."""
_UNIT = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*)|\S+")
_EDGES = 2
"""Columns of the window that the sides of a table take."""
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


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of safe texts, and what of it may be left out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str | None = None
    spare: tuple[str, ...] = ()
    cut: str | None = None
    """The column that is cut where rows have to take a line each."""

    def without(self, gone: Collection[str]) -> Grid:
        """Fewer columns."""
        kept = [at for at, column in enumerate(self.columns) if column.rstrip(">") not in gone]
        rows = tuple(tuple(row[at] for at in kept) for row in self.rows)
        return replace(self, columns=tuple(self.columns[at] for at in kept), rows=rows)


def make_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    spare: Sequence[str] = (),
    cut: str | None = None,
) -> Grid:
    """A table; a column whose name ends with `>` is aligned right. Cells are made safe.

    `spare`: the columns that a narrow window may leave out, in the order in which they go. `cut`: each row takes one
    line, of which this column has what the others leave.
    """
    found = tuple(tuple("—" if cell is None else safe(cell) for cell in row) for row in rows)
    return Grid(tuple(columns), found, title, tuple(spare), cut)


def print_table(console: Console, table: Grid) -> None:
    """The table in the width of the console: words wrap, then spare columns drop out, then rows become blocks of lines.

    Ids, times and numbers stay whole. What is left out is said.
    """
    from rich.text import Text

    if table.title is not None:
        console.print(Text(table.title), style="bold")
    for count in range(len(table.spare) + 1):
        gone = table.spare[:count]
        fewer = table.without(gone)
        if (widths := _widths(fewer, console.width)) is not None:
            _print_columns(console, fewer, *widths)
            if gone:
                console.print(f"no room for: {', '.join(gone)}", soft_wrap=True)
            return
    _print_blocks(console, table)


def _widths(table: Grid, room: int) -> tuple[list[int], bool] | None:
    """Of each column its width, and whether gaps are small; None where there is no room for what stays together."""
    from rich.cells import cell_len

    columns = [(column, [row[at] for row in table.rows]) for at, column in enumerate(table.columns)]
    most = [max(map(cell_len, (column.rstrip(">"), *cells))) for column, cells in columns]
    least = [
        max([cell_len(each) for cell in cells for each in _units(cell, column)] + [_longest_word(column.rstrip(">"))])
        for column, cells in columns
    ]
    if table.cut is not None:
        least = [
            _longest_word(each) if each == table.cut else high for each, high in zip(table.columns, most, strict=True)
        ]
    gaps = len(columns) - 1
    if sum(most) + 3 * gaps + _EDGES <= room:
        return most, False
    room -= 2 * gaps + _EDGES
    if sum(least) > room:
        return None
    for level in range(max(most), 0, -1):
        widths = [max(low, min(high, level)) for low, high in zip(least, most, strict=True)]
        if (left := room - sum(widths)) >= 0:
            break
    for at, width in enumerate(widths):
        if most[at] - width <= left:
            left -= most[at] - width
            widths[at] = most[at]
    return widths, True


def _units(cell: str, column: str) -> list[str]:
    """What of a cell stays on one line: numbers and ids as they are, of a sentence its times and words."""
    if column.endswith(">") or (_ID.search(cell) and cell.count(" ") < _PROSE):
        return [cell]
    return [found[0] if found[1] else found[0][:_WORD] for found in _UNIT.finditer(cell)]


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _print_columns(console: Console, table: Grid, widths: Sequence[int], small_gaps: bool) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0) if small_gaps else (0, 1))
    for column, width in zip(table.columns, widths, strict=True):
        justify: Literal["left", "right"] = "right" if column.endswith(">") else "left"
        drawn.add_column(
            column.rstrip(">"),
            justify=justify,
            overflow="ellipsis" if table.cut else "fold",
            no_wrap=table.cut is not None,
            width=width,
        )
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    console.print(drawn)


def _print_blocks(console: Console, table: Grid) -> None:
    """Each row as `column: value` in lines of its own; words wrap, and none is broken."""
    from textwrap import wrap

    labels = [f"{column.rstrip('>')}:" for column in table.columns]
    indent = max(map(len, labels)) + 1
    for row in table.rows:
        console.print()
        for label, cell in zip(labels, row, strict=True):
            if cell == "—":
                continue
            begin, rest = f"{label:<{indent}}", " " * indent
            if _longest_word(cell) > console.width - indent:
                console.print(label, soft_wrap=True)
                begin = rest = "  "
            lines = wrap(
                cell, console.width, initial_indent=begin, subsequent_indent=rest,
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
            console.print("\n".join(lines), soft_wrap=True)
    console.print()


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


def show_moments(moments: Sequence[datetime]) -> list[str]:
    """All to the second, or to the millisecond where some would read the same else."""
    millis = need_millis(moments)
    return [str(show_time(moment, millis=millis)) for moment in moments]


_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")


def show_times(text: str) -> str:
    """`text` with its times of ISO 8601 as `show_time` has them."""
    return _ISO_TIME.sub(lambda found: str(show_time(datetime.fromisoformat(found[0]))), text)


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
