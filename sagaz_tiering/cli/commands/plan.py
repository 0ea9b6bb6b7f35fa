"""`plan`: what the jobs would do and what it costs, now or on another day, by these policies or by others.

`policy check`: is the configuration right, and what do its policies say?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.options import Text, argument, flag, locate_config, option
from sagaz_tiering.cli.parsing import parse_time
from sagaz_tiering.cli.session import NO_DAEMON, Answer, Call, command, show_next_run, table
from sagaz_tiering.terminal import counted, make_table, plain, show_bytes, show_time, show_usd

if TYPE_CHECKING:
    from sagaz_tiering.costs.lines import Change, Line
    from sagaz_tiering.costs.plan import Plan
    from sagaz_tiering.policy import Policy

_COMPARED = {"snapshots": "{:,}".format, "packs": "{:,}".format, "now_usd": show_usd, "month_after_usd": show_usd}
_SPARE = ("packs", "requests", "bytes", "of sagas", "pays after", "$ a month before", "from")


@command()
async def plan(
    call: Call,
    policy: Annotated[Path | None, option("FILE", "Compare with the policies of this configuration file.")] = None,
    as_of: Annotated[Text, option("TIME", "As if it were then: a time or a day.")] = None,
) -> Answer:
    """What the jobs would do, what it costs and what it saves. Also which class would be cheapest."""
    import asyncio

    from sagaz_tiering.config.load import load_config
    from sagaz_tiering.costs.lines import difference
    from sagaz_tiering.operations.status import upcoming
    from sagaz_tiering.operations.survey import planned
    from sagaz_tiering.policy import PolicySet

    others = None if policy is None else PolicySet(load_config(policy).policies)
    async with call.opened(up=True) as runtime:
        at = runtime.clock.now() if as_of is None else parse_time(as_of)
        wanted = [runtime.policies] if others is None else [runtime.policies, others]
        plans = await asyncio.gather(*(planned(runtime.job_context(), policies, at) for policies in wanted))
        now = runtime.clock.now()
        runs, seen = await upcoming(runtime.job_context(), "age", "transition", "expire", "compact")
    changes = difference(plans[0].lines, plans[1].lines) if others is not None else ()
    answer = {**plans[0].to_dict(), "next_runs": plain(runs), "daemon_seen": seen}
    if others is not None:
        answer |= {"other": plans[1], "difference": changes}
    following = [f"next run: {show_next_run(run, now)}" for run in runs]
    return Answer(answer, (*_lines(plans, changes), *following, *(() if seen else (NO_DAEMON,))))


def _lines(plans: Sequence[Plan], changes: Sequence[Change]) -> Iterator[Any]:
    for found, what in zip(plans, ("plan", "with the other policies"), strict=False):
        yield from _plan_lines(found, what)
    if len(plans) > 1:
        yield from _change_lines(changes, *plans)
    yield from (f"warning: {warning}" for warning in dict.fromkeys(each for found in plans for each in found.warnings))
    for estimate in dict.fromkeys(each for found in plans for each in found.estimates):
        yield f"estimate: {estimate}"


def _plan_lines(found: Plan, what: str) -> Iterator[Any]:
    title = f"{what} at {show_time(found.at)} (policies {found.revision}, prices {found.region} {found.prices_as_of})"
    columns = (
        *("do", "policy", "from", "to", "snapshots>", "of sagas", "packs>", "bytes>", "requests>", "$ now>"),
        *("$ a month before>", "after>", "pays after"),
    )
    yield from table(columns, map(_row, found.lines), title=title, nothing=f"{title}: nothing to do", spare=_SPARE)
    yield (
        f"in all: {counted(found.requests, 'request')} and {show_usd(found.now_usd)} now; the bill for storage goes "
        f"from {show_usd(found.month_before_usd)} to {show_usd(found.month_after_usd)} a month"
    )
    for line in found.lines:
        if line.state == "refused":
            yield f"refused: {line.action} {line.policy}: {line.why}"
    for each in found.advice:
        yield f"{each.policy} ({counted(each.packs, 'pack')}, {show_bytes(each.bytes)}): {each.why}"


def _row(line: Line) -> tuple[object, ...]:
    month = line.break_even_months
    return (
        *_what(line),
        f"{line.snapshots:,}",
        ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(line.outcomes.items()) if count) or None,
        f"{line.packs:,}",
        show_bytes(line.bytes),
        f"{line.requests:,}",
        show_usd(line.now_usd),
        show_usd(line.month_before_usd),
        show_usd(line.month_after_usd),
        "never" if month is None and line.state == "refused" else None if month is None else f"{month:.1f} months",
    )


def _what(line: Line) -> tuple[str | None, ...]:
    action = line.action if line.state == "planned" else f"{line.action} ({line.state})"
    return (action, line.policy, line.source, line.to)


def _change_lines(changes: Sequence[Change], found: Plan, other: Plan) -> Iterator[Any]:
    if not changes:
        yield "the other policies would do the same"
        return
    columns = ("differs", "policy", "from", "to", "snapshots", "packs", "$ now", "$ a month after")
    rows = [
        (*_what(change.line), *(_pair(change, name, show) for name, show in _COMPARED.items())) for change in changes
    ]
    yield make_table(columns, rows, title="difference (these policies -> the other ones)", spare=("packs", "from"))
    yield (
        f"now {show_usd(found.now_usd)} -> {show_usd(other.now_usd)}; a month afterwards "
        f"{show_usd(found.month_after_usd)} -> {show_usd(other.month_after_usd)}"
    )


def _pair(change: Change, name: str, show: Callable[[Any], str]) -> str:
    values = [None if line is None else getattr(line, name) for line in (change.before, change.after)]
    before, after = ("—" if value is None else show(value) for value in values)
    return f"{before} -> {after}" if before != after else str(after)


group = typer.Typer(name="policy", help="The policies.", rich_markup_mode=None)


@command(group, "check")
async def check(
    call: Call,
    file: Annotated[Path | None, argument("[FILE]", "File to check; default: --config.")] = None,
    strict: Annotated[bool, flag("--strict", "Warnings count as errors (exit 2).")] = False,
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
    return Answer(document, _checked(document, checked.policies), code)


def _checked(document: dict[str, Any], policies: Iterable[Policy]) -> Iterator[Any]:
    columns = ("policy", "matches", "acknowledged by", "ages from", "moves", "retain")
    yield make_table(columns, [_policy_row(policy) for policy in policies])
    yield from (f"warning: {warning['text']}" for warning in document["warnings"])
    yield from (f"note: {note}" for note in document["notes"])
    count = len(document["warnings"])
    if not document["ok"]:
        verdict = f"is not accepted: --strict, {counted(count, 'warning')}"
    else:
        verdict = "is valid" if not count else f"is valid, with {counted(count, 'warning')}"
    yield f"{document['file']} {verdict} (policies {document['revision']})"


def _policy_row(policy: Policy) -> tuple[object, ...]:
    from sagaz_tiering.config.units import format_duration
    from sagaz_tiering.policy import Durability

    moves = ", ".join(f"{move.to} after {format_duration(move.after)}" for move in policy.move)
    return (
        policy.name,
        policy.match.text,
        "PostgreSQL" if policy.durability is Durability.DURABLE else "Redis",
        policy.clock,
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
