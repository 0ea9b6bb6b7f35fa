"""`doctor`: everything that a deployment needs, and how it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.options import ConfigOption, DebugOption, JsonOption, locate_config
from sagaz_tiering.cli.session import execute
from sagaz_tiering.terminal import make_console, print_json, safe

if TYPE_CHECKING:
    from sagaz_tiering.doctor import Finding

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", min=0.1, max=3600, help="Of the checks of each server.")
    ] = 30,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check everything that a deployment needs; try out the object store; say what to do."""

    async def work() -> int:
        from sagaz_tiering.doctor import examine
        from sagaz_tiering.doctor.finding import exit_code

        path = locate_config(config)
        findings = await examine(path, deadline=timedelta(seconds=deadline))
        code, counts = exit_code(findings), Counter(found.level.value for found in findings)
        if as_json:
            print_json(_document(findings, counts, code))
        else:
            _print(findings, counts)
        return code

    execute(work, as_json=as_json, debug=debug)


def _document(findings: Sequence[Finding], counts: Counter[str], code: int) -> dict[str, Any]:
    return {
        "ok": code == 0,
        "exit_code": code,
        "counts": {level: counts[level] for level in _STYLES},
        "findings": [found.to_dict() for found in findings],
    }


def _print(findings: Sequence[Finding], counts: Counter[str]) -> None:
    from rich.text import Text

    console = make_console()
    for found in findings:
        line = Text(f"{found.level.value:<8}", style=_STYLES[found.level.value])
        line.append(f" {safe(found.subject)}: {safe(found.message, limit=2000)}", style="default")
        console.print(line, soft_wrap=True)
        if found.hint:
            console.print(f"{'':<9}{safe(found.hint, limit=2000)}", soft_wrap=True)
    console.print(f"{counts['ok']} ok, {counts['warning']} warnings, {counts['error']} errors")
