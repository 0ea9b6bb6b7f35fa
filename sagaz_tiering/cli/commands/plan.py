"""`plan`: what the jobs would do and what it costs, now or on another day, by these policies or by others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.failures import UsageError
from sagaz_tiering.cli.options import ConfigOption, DebugOption, JsonOption, parse_time
from sagaz_tiering.cli.session import execute, opened
from sagaz_tiering.terminal import make_console, make_table, print_json, safe, show_bytes, show_time, show_usd

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.costs import Advice, Change, Line, Plan
    from sagaz_tiering.policy import PolicySet


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(plan)


def plan(
    policy: Annotated[
        Path | None,
        typer.Option("--policy", metavar="FILE", help="Compare with the policies of this configuration file."),
    ] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="DATE", help="As if it were then (2027-01-31, or a time).")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """What would move, expire and be written anew, what that costs and saves, and which class would be cheapest."""

    async def work() -> None:
        others = None if policy is None else _policies_of(policy)
        async with opened(config) as runtime:
            from sagaz_tiering.catalog.migrations import check_schema

            await check_schema(runtime.db)
            now = runtime.clock.now() if as_of is None else parse_day(as_of)
            wanted = [runtime.policies] if others is None else [runtime.policies, others]
            found, *more = await asyncio.gather(*(_planned(runtime, policies, now) for policies in wanted))
            directory = runtime.config.tiers.cold.is_directory
        _answer(found, more[0] if more else None, directory=directory, as_json=as_json)

    execute(work, as_json=as_json, debug=debug)


def parse_day(text: str) -> datetime:
    """A date (its first instant in UTC) or a time with a zone; raises UsageError."""
    with suppress(ValueError):  # no date alone
        text = datetime.combine(date.fromisoformat(text), time(), UTC).isoformat()
    try:
        return parse_time(text)
    except UsageError as exc:
        raise UsageError(str(exc), hint="write it like 2027-01-31 or 2027-01-31T12:00:00Z") from exc


def _policies_of(path: Path) -> PolicySet:
    from sagaz_tiering.config.load import load_config
    from sagaz_tiering.policy import PolicySet

    return PolicySet(load_config(path).policies)


async def _planned(runtime: Runtime, policies: PolicySet, now: datetime) -> Plan:
    from sagaz_tiering.costs import plan as make_plan
    from sagaz_tiering.operations.survey import survey

    inputs = await survey(runtime.job_context(), policies, now)
    return make_plan(inputs, policies, runtime.prices, now, in_force=runtime.policies)


def _answer(found: Plan, other: Plan | None, *, directory: bool, as_json: bool) -> None:
    from sagaz_tiering.costs import difference

    changes = () if other is None else difference(found, other)
    notes = ["the cold tier is a directory, which bills nothing: the figures are those of S3"] if directory else []
    if as_json:
        document = {**found.to_dict(), "warnings": [*found.warnings, *notes]}
        if other is not None:
            document |= {"other": other.to_dict(), "difference": [change.to_dict() for change in changes]}
        print_json(document)
        return
    _print_plan(found, "plan")
    if other is not None:
        _print_plan(other, "with the other policies")
        _print_changes(changes, found, other)
    console = make_console()
    for warning in [*dict.fromkeys([*found.warnings, *(other.warnings if other else ())]), *notes]:
        console.print(f"warning: {safe(warning, limit=2000)}", soft_wrap=True)
    for estimate in dict.fromkeys([*found.estimates, *(other.estimates if other else ())]):
        console.print(f"estimate: {safe(estimate, limit=2000)}", soft_wrap=True)


def _print_plan(found: Plan, what: str) -> None:
    console = make_console()
    title = f"{what} at {show_time(found.at)} (policies {found.revision}, prices {found.region} {found.prices_as_of})"
    columns = (
        *("do", "policy", "from", "to", "snapshots>", "packs>", "bytes>", "requests>", "$ now>"),
        *("$ a month before>", "after>", "pays after"),
    )
    if found.lines:
        console.print(make_table(columns, [_row(line) for line in found.lines], title=title))
    else:
        console.print(f"{title}: nothing to do", soft_wrap=True)
    console.print(
        f"in all: {found.requests:,} requests and {show_usd(found.now_usd)} now; the bill for storage goes from "
        f"{show_usd(found.month_before_usd)} to {show_usd(found.month_after_usd)} a month",
        soft_wrap=True,
    )
    for line in found.lines:
        if line.state == "refused":
            text = f"refused: {line.action} {line.policy}: {line.why}"
            console.print(safe(text, limit=2000), soft_wrap=True)
    for advice in found.advice:
        console.print(safe(_advice(advice), limit=2000), soft_wrap=True)


def _row(line: Line) -> tuple[object, ...]:
    month = line.break_even_months
    return (
        line.action if line.state == "planned" else f"{line.action} ({line.state})",
        line.policy,
        line.source,
        line.to,
        f"{line.snapshots:,}",
        f"{line.packs:,}",
        show_bytes(line.bytes),
        f"{line.requests:,}",
        show_usd(line.now_usd),
        show_usd(line.month_before_usd),
        show_usd(line.month_after_usd),
        "never" if month is None and line.state == "refused" else None if month is None else f"{month:.1f} months",
    )


def _advice(advice: Advice) -> str:
    packs = "1 pack" if advice.packs == 1 else f"{advice.packs:,} packs"
    return f"{advice.policy} ({packs}, {show_bytes(advice.bytes)}): {advice.why}"


def _print_changes(changes: Sequence[Change], found: Plan, other: Plan) -> None:
    console = make_console()
    if not changes:
        console.print("the other policies would do the same")
        return
    columns = ("differs", "policy", "from", "to", "snapshots", "packs", "$ now", "$ a month after")
    rows = [
        (
            change.line.action if change.line.state == "planned" else f"{change.line.action} ({change.line.state})",
            change.line.policy,
            change.line.source,
            change.line.to,
            _pair(change, "snapshots", lambda n: f"{n:,}"),
            _pair(change, "packs", lambda n: f"{n:,}"),
            _pair(change, "now_usd", show_usd),
            _pair(change, "month_after_usd", show_usd),
        )
        for change in changes
    ]
    console.print(make_table(columns, rows, title="difference (these policies -> the other ones)"))
    console.print(
        f"now {show_usd(found.now_usd)} -> {show_usd(other.now_usd)}; a month afterwards "
        f"{show_usd(found.month_after_usd)} -> {show_usd(other.month_after_usd)}",
        soft_wrap=True,
    )


def _pair(change: Change, name: str, show: Any) -> str:
    values = [None if line is None else getattr(line, name) for line in (change.before, change.after)]
    before, after = ("—" if value is None else show(value) for value in values)
    return f"{before} -> {after}" if before != after else str(after)
