"""Long lists a page at a time: `--limit` of them, and `--cursor` for those behind the page before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from typing import Annotated, Any, TypeVar

import typer

from sagaz_tiering.cli.failures import UsageError
from sagaz_tiering.cli.options import MOST
from sagaz_tiering.cli.session import Answer

T = TypeVar("T")
_HINT = "pass on what the page before said, as it is: `next` of its JSON"

LimitOption = Annotated[int, typer.Option("--limit", "-l", min=1, max=MOST, help="So many at most.")]
CursorOption = Annotated[
    str | None, typer.Option("--cursor", metavar="TEXT", help="Go on behind the page that said this.")
]


def cut(rows: Sequence[T], limit: int, key: Callable[[T], object]) -> tuple[list[T], str | None]:
    """The first `limit` rows, and the cursor of those behind them; None where nothing is."""
    page = list(rows[:limit])
    return page, str(key(page[-1])) if len(rows) > limit else None


def page_of(
    rows: Sequence[T], limit: int, cursor: str | None, key: Callable[[T], object]
) -> tuple[list[T], str | None]:
    """The page of `rows` behind the row that `cursor` is the key of. Raises UsageError where there is none."""
    start = 0
    if cursor is not None:
        start = next((at for at, row in enumerate(rows, 1) if str(key(row)) == cursor), 0)
        if not start:
            raise _not_here(cursor)
    return cut(rows[start:], limit, key)


def at_time(moment: datetime, item: object) -> str:
    """The cursor of a list that goes by time: `read_time` reads it."""
    return f"{moment.isoformat()}/{item}"


def read_time(cursor: str | None, item: Callable[[str], T]) -> tuple[datetime, T] | None:
    """The time and the item of a cursor; `item` makes the latter of its text. Raises UsageError."""
    if cursor is None:
        return None
    moment, _, name = cursor.partition("/")
    try:
        return datetime.fromisoformat(moment), item(name)
    except ValueError as exc:
        raise _not_here(cursor) from exc


def read_number(cursor: str | None) -> int | None:
    """The cursor of a list that goes by numbers. Raises UsageError."""
    if cursor is not None and not cursor.isdecimal():
        raise _not_here(cursor)
    return None if cursor is None else int(cursor)


def listed(name: str, page: Sequence[Any], next_page: str | None, lines: Iterable[Any]) -> Answer:
    """A page of a list, `name` in the document."""
    return Answer({name: page, "next": next_page}, chain(lines, more(next_page)))


def more(next_page: str | None) -> Iterator[Any]:
    """The line below a page that is not the last."""
    if next_page is not None:
        yield f"more: --cursor {next_page}"


def _not_here(cursor: str) -> UsageError:
    return UsageError(f"{cursor!r:.80} is no cursor of this list", hint=_HINT)
