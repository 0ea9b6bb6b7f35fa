"""`doctor`: everything that a deployment needs, and how it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.options import locate_config
from sagaz_tiering.cli.session import Answer, Call, command
from sagaz_tiering.terminal import counted, safe

if TYPE_CHECKING:
    from sagaz_tiering.doctor import Finding

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


@command()
async def doctor(
    call: Call,
    deadline: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=3600, help="Of the checks of each server.")
    ] = 30,
) -> Answer:
    """Check everything that a deployment needs. Try out the object store; say what to do."""
    from sagaz_tiering.doctor import examine
    from sagaz_tiering.doctor.finding import exit_code

    findings = await examine(locate_config(call.config), deadline=timedelta(seconds=deadline))
    code, counts = exit_code(findings), Counter(found.level.value for found in findings)
    document = {
        "ok": code == 0,
        "exit_code": code,
        "counts": {level: counts[level] for level in _STYLES},
        "findings": findings,
    }
    return Answer(document, _lines(findings, counts), code)


def _lines(findings: Sequence[Finding], counts: Counter[str]) -> Iterator[Any]:
    from rich.text import Text

    for found in findings:
        line = Text(f"{found.level.value:<8}", style=_STYLES[found.level.value])
        yield line.append(f" {safe(found.subject)}: {safe(found.message, limit=2000)}", style="default")
        if found.hint:
            yield f"{'':<9}{safe(found.hint, limit=2000)}"
    yield f"{counts['ok']} ok, {counted(counts['warning'], 'warning')}, {counted(counts['error'], 'error')}"
