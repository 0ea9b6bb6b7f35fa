"""Options that say which sagas are meant, for every command that looks for some."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sagaz_tiering.cli.failures import NotFound, UsageError
from sagaz_tiering.cli.options import locate_config, parse_id, parse_time, warn_of_expressions, warn_of_statuses
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.terminal import safe, show_time

if TYPE_CHECKING:
    from uuid import UUID

    from sagaz_tiering.tiered import SagaFilters, SagaSummary, TieredStorage

MOST_ON_A_PAGE: Final = 1_000
MOST_MEANT: Final = 10_000
"""Sagas that one command takes by filters at most; a match means any number."""
_NAMED: Final = 20


def begun(incomplete: str, words: Iterable[str]) -> list[str]:
    """Those that begin so, for the completion of a shell."""
    return [word for word in words if word.startswith(incomplete)]


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


_OPTIONS: Final[dict[str, Any]] = {
    "attribute": Annotated[
        list[str] | None,
        typer.Option(
            "--attribute",
            "-a",
            metavar="NAME=VALUE",
            help="Has this value (repeatable; of one NAME any of its values).",
            autocompletion=lambda ctx, incomplete: begun(incomplete, _names_of_attributes(ctx)),
        ),
    ],
    "name": Annotated[
        list[str] | None, typer.Option("--name", metavar="PATTERN", help="Name of the saga, such as 'payment-*'.")
    ],
    "status": Annotated[
        list[str] | None,
        typer.Option(
            "--status",
            metavar="PATTERN",
            help="Status of its newest snapshot.",
            autocompletion=lambda incomplete: begun(incomplete, _statuses()),
        ),
    ],
    "step": Annotated[list[str] | None, typer.Option("--step", metavar="PATTERN", help="Step of its newest snapshot.")],
    "begun_from": Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Began at or after: 2023, 2023-01, a day or a time.")
    ],
    "begun_until": Annotated[str | None, typer.Option("--until", metavar="TIME", help="Began before.")],
    "tier": Annotated[
        str | None,
        typer.Option(
            "--tier",
            help="Something of it is there: hot, durable, cold or a storage class.",
            autocompletion=lambda incomplete: begun(incomplete, _tiers()),
        ),
    ],
    "held": Annotated[bool | None, typer.Option("--held/--not-held", help="Whether a legal hold is on it.")],
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


def filtered(*, but: str = "") -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]:
    """For a command that takes sagas by `find`'s options: where its parameter `filters` stands, which has the arguments
    of `find` that they make.

    `but` is left out where the command has an option of that name.
    """
    options = {name: option for name, option in _OPTIONS.items() if name != but}

    def decorate(work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        # The annotation `SagaFilters` would take a facade to import.
        signature = inspect.signature(work, eval_str=True, locals={"SagaFilters": Any})

        @wraps(work)
        async def run(*args: Any, **given: Any) -> Any:
            filters = _asked({name: given.pop(name) for name in options})
            return await work(*args, **given, filters=filters)

        ours = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in options.items()
        ]
        own = list(signature.parameters.values())
        at = list(signature.parameters).index("filters")
        run.__signature__ = signature.replace(parameters=[*own[:at], *ours, *own[at + 1 :]])  # type: ignore[attr-defined]  # what `command` reads
        return run

    return decorate


async def sagas_meant(storage: TieredStorage, filters: SagaFilters) -> list[SagaSummary]:
    """The sagas that these filters mean now, newest first. Raises NotFound where there is none, UsageError for many."""
    found: list[SagaSummary] = []
    cursor = None
    while True:
        page = await storage.find(**filters, limit=MOST_ON_A_PAGE, cursor=cursor)
        found += page.items
        if len(found) > MOST_MEANT:
            raise UsageError(
                f"more than {MOST_MEANT:,} sagas are meant, nothing was done",
                hint="narrow them by --from and --until, or take them by --match where the command has it",
            )
        cursor = page.cursor
        if cursor is None:
            break
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
        raise UsageError(
            "give either a SAGA_ID or what it is found by", hint="--attribute NAME=VALUE, --name PATTERN, --status …"
        )


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
            raise UsageError(
                f"{text} is no day of any calendar", hint="write it like 2023, 2023-01 or 2023-01-31"
            ) from exc
    return parse_time(text)
