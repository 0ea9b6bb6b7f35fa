"""`policy check`: is the configuration right, and what do its policies say?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.options import locate_config
from sagaz_tiering.cli.session import Answer, Call, command
from sagaz_tiering.terminal import counted, make_table

if TYPE_CHECKING:
    from sagaz_tiering.policy import Policy

group = typer.Typer(name="policy", help="The policies.", rich_markup_mode=None)


@group.command("check")
@command()
async def check(
    call: Call,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="File to check; default: --config.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors (exit 2).")] = False,
) -> Answer:
    """Check a configuration without touching any server. Errors and warnings with their lines, and its policies."""
    from sagaz_tiering.config.lint import policy_notes
    from sagaz_tiering.config.load import load_with_warnings
    from sagaz_tiering.costs.prices import minimum_durations
    from sagaz_tiering.policy import PolicySet

    path = locate_config(file or call.config)
    checked, warnings = load_with_warnings(path, minimum_durations)
    code = 2 if strict and warnings else 0
    document = {
        "file": str(path),
        "ok": code == 0,
        "revision": PolicySet(checked.policies).revision,
        "policies": [policy.model_dump(mode="json") for policy in checked.policies],
        "warnings": [{"source": w.source, "message": w.message, "text": str(w)} for w in warnings],
        "notes": list(policy_notes(checked.policies)),
    }
    return Answer(document, _lines(document, checked.policies), code)


def _lines(document: dict[str, Any], policies: Iterable[Policy]) -> Iterator[Any]:
    columns = ("policy", "matches", "acknowledged by", "ages from", "moves", "retain")
    yield make_table(columns, [_row(policy) for policy in policies])
    for warning in document["warnings"]:
        yield f"warning: {warning['text']}"
    for note in document["notes"]:
        yield f"note: {note}"
    count = len(document["warnings"])
    if not document["ok"]:
        verdict = f"is not accepted: --strict, {counted(count, 'warning')}"
    else:
        verdict = "is valid" if not count else f"is valid, with {counted(count, 'warning')}"
    yield f"{document['file']} {verdict} (policies {document['revision']})"


def _row(policy: Policy) -> tuple[object, ...]:
    from sagaz_tiering.config.units import format_duration
    from sagaz_tiering.policy import Durability

    moves = ", ".join(f"{move.to} after {format_duration(move.after)}" for move in policy.move)
    return (
        policy.name,
        policy.match.text,
        "PostgreSQL" if policy.durability is Durability.DURABLE else "Redis",
        policy.clock.value,
        moves or "never",
        _retained(policy),
    )


def _retained(policy: Policy) -> str:
    from sagaz_tiering.config.units import format_duration

    if policy.is_for_ever:
        return "forever"
    if policy.lifetime is None:
        return "by retention_until"
    only = "" if policy.asks_snapshot else " (policy only)"
    return f"{format_duration(policy.lifetime)}{only}"
