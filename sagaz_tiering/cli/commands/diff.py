"""`diff`: how one snapshot of a saga became another, or differs from one of another saga."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.changes import change_lines
from sagaz_tiering.cli.failures import UsageError
from sagaz_tiering.cli.options import parse_id
from sagaz_tiering.cli.session import Answer, Call, command
from sagaz_tiering.terminal import show_time

if TYPE_CHECKING:
    from sagaz_tiering.snapshot import SagaSnapshot
    from sagaz_tiering.tiered import SnapshotDiff


@command()
async def diff(
    call: Call,
    saga_id: Annotated[str, typer.Argument(metavar="SAGA_ID")],
    a: Annotated[
        str | None,
        typer.Argument(
            metavar="A", help="A step (its newest; charge#2 is its second), an instant, or a snapshot's id."
        ),
    ] = None,
    b: Annotated[
        str | None, typer.Argument(metavar="B", help="What it is compared with. Default: the newest; with --with: A.")
    ] = None,
    other: Annotated[
        str | None, typer.Option("--with", metavar="SAGA_ID", help="B is of this saga. Without A: the newest of both.")
    ] = None,
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
    yield from change_lines(found.changes)
    counts = {kind: sum(each.kind == kind for each in found.changes) for kind in ("added", "removed", "changed")}
    yield ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing differs"


def _heading(name: str, snapshot: SagaSnapshot, width: int) -> str:
    return (
        f"{name}: {snapshot.step_name:<{width}}  {show_time(snapshot.created_at)}  snapshot {snapshot.snapshot_id}"
        f"  saga {snapshot.saga_id} ({snapshot.saga_name})"
    )
