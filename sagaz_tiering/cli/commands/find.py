"""`find`: sagas by name, status, step, time, tier and attributes; and its options, for the commands that take them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sagaz_tiering.cli.options import Bundle, Text, Texts, flag, locate_config, option
from sagaz_tiering.cli.parsing import parse_id, parse_time, warn_of_expressions, warn_of_statuses
from sagaz_tiering.cli.session import Answer, Call, command
from sagaz_tiering.cli.stderr import NotFound, UsageError
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.terminal import make_table, safe, show_time

if TYPE_CHECKING:
    from uuid import UUID

    from sagaz_tiering.tiered.find import Page, SagaFilters, SagaSummary
    from sagaz_tiering.tiered.storage import TieredStorage

MOST_ON_A_PAGE: Final = 1_000
MOST_MEANT: Final = 10_000
"""Sagas that one command takes by filters at most; a match means any number."""
_NAMED: Final = 20


def _names_of_attributes(ctx: typer.Context) -> list[str]:
    """With the sign behind them; none where no configuration can be read."""
    from sagaz_tiering.config.load import load_config

    given = ctx.params.get("config")
    with suppress(SagazTieringError):
        return [f"{each.name}=" for each in load_config(locate_config(given and Path(given))).attributes]
    return []


def _statuses() -> list[str]:
    from sagaz_tiering.config.lint import OUTCOMES
    from sagaz_tiering.config.patterns import RUNNING, UNDER_WAY

    return sorted({*UNDER_WAY, *OUTCOMES} - {RUNNING})


def _tiers() -> list[str]:
    from sagaz_tiering.snapshot import Tier
    from sagaz_tiering.storage_class import StorageClass

    return [*Tier, *StorageClass]


_ATTRIBUTE: Final = "Has this value (repeatable; of one NAME any of its values)."
_TIER: Final = "Something of it is there: hot, durable, cold or a storage class."
_FROM: Final = "Began at or after: 2023, 2023-01, a day or a time."
_OPTIONS: Final[dict[str, Any]] = {
    "attribute": Annotated[
        Texts, option("NAME=VALUE", _ATTRIBUTE, "--attribute", "-a", completes=_names_of_attributes)
    ],
    "name": Annotated[Texts, option("PATTERN", "Name of the saga, such as 'payment-*'.", "--name")],
    "status": Annotated[Texts, option("PATTERN", "Status of its newest snapshot.", "--status", completes=_statuses)],
    "step": Annotated[Texts, option("PATTERN", "Step of its newest snapshot.", "--step")],
    "begun_from": Annotated[Text, option("TIME", _FROM, "--from")],
    "begun_until": Annotated[Text, option("TIME", "Began before.", "--until")],
    "tier": Annotated[Text, option("", _TIER, "--tier", completes=_tiers)],
    "held": Annotated[bool | None, flag("--held/--not-held", "Whether a legal hold is on it.")],
}
"""The options of `find`, by the names of their values in `_asked`."""


def _asked(options: Mapping[str, Any]) -> dict[str, Any]:
    """What these options ask of `TieredStorage.find`; empty where none is given. Raises UsageError."""
    name, status, step = (options[each] or [] for each in ("name", "status", "step"))
    created = (_moment(options["begun_from"]), _moment(options["begun_until"]))
    if patterns := [*name, *status, *step]:
        warn_of_expressions(patterns)
    warn_of_statuses(status)
    given = {
        "saga_name": name,
        "status": status,
        "step": step,
        "created": None if created == (None, None) else created,
        "attributes": _attributes(options["attribute"] or []),
        "tier": options.get("tier"),
        "held": options["held"],
    }
    return {key: value for key, value in given.items() if value is not None and value not in ([], {})}


def _options(*, but: str = "") -> Any:
    """For a parameter that has the arguments of `find` that its options make; `but` is left out where the command has
    an option of that name."""
    return Annotated[Any, Bundle({name: (kind, None) for name, kind in _OPTIONS.items() if name != but}, _asked)]


if TYPE_CHECKING:
    Filters = SagaFilters
    FiltersButTier = SagaFilters
else:
    Filters, FiltersButTier = _options(), _options(but="tier")


@command()
async def find(
    call: Call,
    *,
    filters: Filters,
    limit: Annotated[int, option("", "So many at most.", min=1, max=1000)] = 50,
    cursor: Annotated[Text, option("", "Go on behind the page that gave it.")] = None,
    count: Annotated[bool, flag("--count", "Say how many there are in all.")] = False,
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
    where = ", ".join(f"{place} {count}" for place, count in one.snapshots.items()) + ", held" * one.held
    return one.saga_id, show_time(one.first_at), one.saga_name, f"{one.status} at {one.last_step}", where


async def sagas_meant(storage: TieredStorage, filters: SagaFilters) -> list[SagaSummary]:
    """The sagas that these filters mean now, newest first. Raises NotFound where there is none, UsageError for many."""
    page = await storage.find(**filters, limit=MOST_ON_A_PAGE)
    found = [*page.items]
    while page.cursor is not None and len(found) <= MOST_MEANT:
        page = await storage.find(**filters, limit=MOST_ON_A_PAGE, cursor=page.cursor)
        found += page.items
    if len(found) > MOST_MEANT:
        hint = "narrow them by --from and --until, or take them by --match where the command has it"
        raise UsageError(f"more than {MOST_MEANT:,} sagas are meant, nothing was done", hint=hint)
    if not found:
        raise NotFound("no saga is what these options mean", hint="see: sagaz-tiering find")
    return found


async def one_meant(storage: TieredStorage, saga_id: str | None, filters: SagaFilters) -> UUID:
    """The saga that is given by its id, or the only one that the filters mean. Raises UsageError that names several."""
    check_one_way(saga_id, filters)
    if saga_id is not None:
        return parse_id(saga_id, "SAGA_ID")
    found = await sagas_meant(storage, filters)
    if len(found) > 1:
        raise UsageError(f"{len(found):,} sagas are meant; say which:\n{named(found)}", hint="give its SAGA_ID")
    return found[0].saga_id


def check_one_way(given: str | Sequence[str] | None, filters: SagaFilters) -> None:
    """Raise UsageError unless sagas are given by their ids or by filters; an empty id is none that was left out."""
    if "" in ([given] if isinstance(given, str) else given or []):
        raise UsageError("the SAGA_ID is empty", hint="nothing was done; is a variable of a script not set?")
    if (given is not None) == bool(filters):
        hint = "--attribute NAME=VALUE, --name PATTERN, --status …"
        raise UsageError("give either a SAGA_ID or what it is found by", hint=hint)


def named(found: Sequence[SagaSummary]) -> str:
    """The first of them, a line each."""
    lines = [
        safe(f"  {one.saga_id}  {one.saga_name}, began {show_time(one.first_at)}, {one.status} at {one.last_step}")
        for one in found[:_NAMED]
    ]
    if len(found) > _NAMED:
        lines.append(f"  and {len(found) - _NAMED:,} more")
    return "\n".join(lines)


def _attributes(pairs: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not name or not separator or not value:
            raise UsageError(f"--attribute {pair!r:.80} is not NAME=VALUE", hint="--attribute order_id=A-17")
        found.setdefault(name, []).append(value)
    return found


def _moment(text: str | None) -> datetime | None:
    """A year, a month or a day in UTC, where it begins; or a time with a zone."""
    if text is None:
        return None
    if re.fullmatch(r"\d{4}(-\d\d){0,2}", text):
        year, *others = map(int, text.split("-"))
        month, day = [*others, 1, 1][:2]
        try:
            return datetime(year, month, day, tzinfo=UTC)
        except ValueError as exc:
            hint = "write it like 2023, 2023-01 or 2023-01-31"
            raise UsageError(f"{text} is no day of any calendar", hint=hint) from exc
    return parse_time(text)
