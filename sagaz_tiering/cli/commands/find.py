"""`find`: sagas by name, status, step, time, tier and attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.filters import filtered
from sagaz_tiering.cli.session import Answer, Call, command
from sagaz_tiering.terminal import make_table, show_time

if TYPE_CHECKING:
    from sagaz_tiering.tiered import SagaFilters
    from sagaz_tiering.tiered.find import Page, SagaSummary


@command()
@filtered()
async def find(
    call: Call,
    *,
    filters: SagaFilters,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on behind the page that gave it.")] = None,
    count: Annotated[bool, typer.Option("--count", help="Say how many there are in all.")] = False,
) -> Answer:
    """Find sagas in every tier by all that is given. The one that began last comes first."""
    async with call.opened(migrated=True) as runtime:
        page = await runtime.storage().find(**filters, limit=limit, cursor=cursor, count=count)
        where = runtime.db.shown_url
    document: dict[str, Any] = {"sagas": list(page.items), "next": page.cursor}
    if count:
        document |= {"count": page.count, "count_is_exact": page.count_is_exact}
    return Answer(document, _lines(page, where))


def _lines(page: Page[SagaSummary], where: str) -> Iterator[Any]:
    if page.items:
        columns = ("saga", "began", "name", "status", "where")
        yield make_table(columns, map(_row, page), spare=("began", "where"))
    elif page.cursor is None:
        yield f"no such saga in the catalog at {where}"
    else:
        yield "no such saga among those looked at so far"
    if page.count is not None:
        yield f"in all: {page.count:,}" if page.count_is_exact else f"in all: about {page.count:,}"
    if page.cursor is not None:
        yield f"there may be more: --cursor {page.cursor}"


def _row(one: SagaSummary) -> tuple[object, ...]:
    where = ", ".join(f"{place} {count}" for place, count in one.snapshots.items())
    return (
        one.saga_id,
        show_time(one.first_at),
        one.saga_name,
        f"{one.status} at {one.last_step}",
        f"{where}, held" if one.held else where,
    )
