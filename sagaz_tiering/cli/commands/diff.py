"""`diff`: how one snapshot of a saga became another, or differs from one of another saga; and changes as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from sagaz_tiering.cli.options import SagaArgument, Text, argument, option
from sagaz_tiering.cli.parsing import parse_id
from sagaz_tiering.cli.session import Answer, Call, command
from sagaz_tiering.cli.stderr import UsageError
from sagaz_tiering.terminal import MAX_CELL, safe, show_time, show_value

if TYPE_CHECKING:
    from rich.text import Text as RichText

    from sagaz_tiering.codec.changes import ValueChange
    from sagaz_tiering.snapshot import SagaSnapshot
    from sagaz_tiering.tiered.compare import SnapshotDiff

_SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}
_BRIEF = 24
_A = "A step (its newest; charge#2 is its second), an instant, or a snapshot's id."


@command()
async def diff(
    call: Call,
    saga_id: SagaArgument,
    a: Annotated[Text, argument("A", _A)] = None,
    b: Annotated[Text, argument("B", "What it is compared with. Default: the newest; with --with: A.")] = None,
    other: Annotated[Text, option("SAGA_ID", "B is of this saga. Without A: the newest of both.", "--with")] = None,
) -> Answer:
    """How a saga's state changed from A to B. Values that were added, removed and changed, by their path.

    With --json an RFC 6902 patch, from what `show` prints of A to what it prints of B.
    """
    saga = parse_id(saga_id, "SAGA_ID")
    with_saga = None if other is None else parse_id(other, "--with")
    if a is None and with_saga is None:
        raise UsageError(
            "name the steps to compare",
            hint=f"for example: sagaz-tiering diff {saga} STEP STEP; what there is: sagaz-tiering timeline {saga}",
        )
    if with_saga is not None and b is None:
        b = a
    async with call.opened(migrated=True) as runtime:
        found = await runtime.storage().diff(saga, a, b, other=with_saga)
    return Answer(found.patch, _lines(found))


def _lines(found: SnapshotDiff) -> Iterator[Any]:
    width = max(len(found.before.step_name), len(found.after.step_name))
    yield from (_heading(name, each, width) for name, each in (("A", found.before), ("B", found.after)))
    yield ""
    yield from _change_lines(found.changes)
    counts = {kind: sum(each.kind == kind for each in found.changes) for kind in _SIGNS}
    yield ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing differs"


def _heading(name: str, snapshot: SagaSnapshot, width: int) -> str:
    return (
        f"{name}: {snapshot.step_name:<{width}}  {show_time(snapshot.created_at)}  snapshot {snapshot.snapshot_id}"
        f"  saga {snapshot.saga_id} ({snapshot.saga_name})"
    )


def _change_lines(changes: Sequence[ValueChange]) -> Iterator[RichText]:
    """A line for each, coloured on a terminal."""
    from rich.text import Text

    width = min(max((len(each.path) for each in changes), default=0), MAX_CELL // 2)
    for each in changes:
        sign, colour = _SIGNS[each.kind]
        values = " → ".join(map(show_value, _values(each)))
        yield Text(f"{sign} {safe(each.path):<{width}}  {values}", style=colour)


def changes_in_one_line(changes: Sequence[ValueChange], width: int) -> str:
    """`~order/total 10.00 → 12.50, +payment/id "P-1"`: values as far as there is room, and completed steps last."""
    ordered = sorted(changes, key=lambda each: each.path.startswith("/completed_steps"))
    short = [_SIGNS[each.kind][0] + safe(each.path.removeprefix("/context").removeprefix("/")) for each in ordered]
    if len(", ".join(short)) > width:
        kept = len(short)
        while kept > 1 and len(_cut(short, kept)) > width:
            kept -= 1
        return safe(_cut(short, kept), limit=width)
    pieces = list(short)
    for at, each in enumerate(ordered):
        pieces[at] += f" {' → '.join(map(_brief, _values(each)))}"
        if len(", ".join(pieces)) > width:
            pieces[at] = short[at]
    return ", ".join(pieces) or "nothing"


def _cut(pieces: Sequence[str], kept: int) -> str:
    return ", ".join(pieces[:kept]) + (f", and {len(pieces) - kept} more" if kept < len(pieces) else "")


def _values(change: ValueChange) -> list[Any]:
    """What a line shows of it."""
    return {"added": [change.new], "removed": [change.old], "changed": [change.old, change.new]}[change.kind]


def _brief(value: Any) -> str:
    """Without the type, where the text says enough."""
    if isinstance(value, dict) and len(value) == 1 and isinstance(text := next(iter(value.values())), str):
        tagged = next(iter(value)).startswith("~")
        return safe(text if tagged else show_value(value, _BRIEF), limit=_BRIEF)
    return show_value(value, _BRIEF)
