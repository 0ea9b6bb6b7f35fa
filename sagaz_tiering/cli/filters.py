"""Options that say which sagas are meant, for every command that looks for some."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from sagaz_tiering.cli.failures import UsageError
from sagaz_tiering.cli.options import parse_time

AttributeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--attribute", "-a", metavar="NAME=VALUE", help="Has this value (repeatable; of one NAME any of its values)."
    ),
]
NameOption = Annotated[
    list[str] | None, typer.Option("--name", metavar="PATTERN", help="Name of the saga, such as 'payment-*'.")
]
StatusOption = Annotated[
    list[str] | None, typer.Option("--status", metavar="PATTERN", help="Status of its newest snapshot.")
]
StepOption = Annotated[list[str] | None, typer.Option("--step", metavar="PATTERN", help="Step of its newest snapshot.")]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Began at or after: 2023, 2023-01, a day or a time.")
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Began before.")]
TierOption = Annotated[
    str | None, typer.Option("--tier", help="Something of it is there: hot, durable, cold or a storage class.")
]
HeldOption = Annotated[bool | None, typer.Option("--held/--not-held", help="Whether a legal hold is on it.")]


def asked(
    attribute: list[str] | None = None,
    name: list[str] | None = None,
    status: list[str] | None = None,
    step: list[str] | None = None,
    begun_from: str | None = None,
    begun_until: str | None = None,
    tier: str | None = None,
    held: bool | None = None,
) -> dict[str, Any]:
    """What these options ask of `TieredStorage.find`; empty where none is given. Raises UsageError."""
    created = (_moment(begun_from), _moment(begun_until))
    given = {
        "saga_name": name,
        "status": status,
        "step": step,
        "created": None if created == (None, None) else created,
        "attributes": _attributes(attribute or []),
        "tier": tier,
        "held": held,
    }
    return {key: value for key, value in given.items() if value is not None and value not in ([], {})}


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
