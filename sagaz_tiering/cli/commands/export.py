"""`export` and `export verify`: sagas as files that prove themselves, and the proof."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.asking import login_name
from sagaz_tiering.cli.failures import UsageError, say
from sagaz_tiering.cli.filters import begun, filtered
from sagaz_tiering.cli.options import parse_id
from sagaz_tiering.cli.progress import showing
from sagaz_tiering.cli.session import Answer, Call, command, fields, unless_subcommand
from sagaz_tiering.cli.stopping import stopped_by_signals
from sagaz_tiering.errors import TierUnavailable
from sagaz_tiering.terminal import counted, make_table, show_bytes, show_time

if TYPE_CHECKING:
    from sagaz_tiering.exports.report import ExportReport
    from sagaz_tiering.exports.verify import ExportVerification
    from sagaz_tiering.tiered import SagaFilters

MAX_SHOWN = 20
group = typer.Typer(name="export")


@group.callback(invoke_without_command=True)
@unless_subcommand
@command()
@filtered()
async def export(
    call: Call,
    out: Annotated[Path | None, typer.Option(metavar="PATH", help="A folder, or with zip a file.")] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORM",
            help="jsonl, parquet or zip.",
            autocompletion=lambda incomplete: begun(incomplete, forms()),
        ),
    ] = "jsonl",
    saga: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only this saga; repeatable.")] = None,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Sign with this private Ed25519 key (a PEM file).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there, once it is complete.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, whatever a run before left.")] = False,
    who: Annotated[str | None, typer.Option(metavar="NAME", help="Default: the login name.")] = None,
    *,
    filters: SagaFilters,
) -> Answer:
    """Write sagas into files that prove themselves. With timeline, replays and holds log; see `export verify`."""
    import asyncio

    if out is None:
        raise UsageError("say where to: --out PATH", hint="to look at one: sagaz-tiering export verify PATH")
    if saga and filters:
        raise UsageError("give either --saga or what sagas are found by")
    ids = [parse_id(each, "--saga") for each in saga] if saga else None
    stop, notice = asyncio.Event(), "stopping: what is being read is finished (a second signal ends it at once)"
    async with call.opened(migrated=True) as runtime, _going_on():
        with stopped_by_signals(stop, notice=notice) as stopping, showing(lambda told: told.total) as progress:
            report = await runtime.storage().export(
                out,
                form=form,
                saga_ids=ids,
                sign_with=sign,
                who=who or login_name(),
                overwrite=overwrite,
                restart=restart,
                progress=progress,
                stop=stop,
                **filters,
            )
    if report.stopped:
        say("stopped before the end", hint="the same command goes on from where it stands")
    code = stopping.exit_code if report.stopped else report.exit_code
    left_out = sum(report.counts.left_out.values())
    problem = (
        f"{left_out:,} snapshots are not in it",
        "its timeline and its manifest name each of them, and why",
    )
    problems = [problem] if left_out and not report.stopped and not call.as_json else []
    return Answer({**report.to_dict(), "exit_code": code}, _lines(report), code, problems)


@asynccontextmanager
async def _going_on() -> AsyncIterator[None]:
    """Say how to go on after an outage."""
    try:
        yield
    except TierUnavailable as exc:
        exc.hint = "; ".join(filter(None, (exc.hint, "the same command goes on from where it stands")))
        raise


@group.command()
@command(config=False)
async def verify(
    call: Call,  # as every command
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder or a ZIP file.")],
    key: Annotated[
        Path | None, typer.Option(metavar="PUBLIC", help="It must be signed by the key of this PEM file.")
    ] = None,
) -> Answer:
    """Look at every byte of an export. Is it as it was made, and who signed it? Needs no server, no configuration."""
    import asyncio

    from sagaz_tiering.exports.verify import verify_export

    found = await asyncio.to_thread(verify_export, path, key=key)
    problems = [(f"{path.name if each.part == '*' else each.part}: {each.problem}", "") for each in found.problems]
    return Answer(found.to_dict(), _verified(found), 0 if found.is_intact else 6, problems)


def forms() -> list[str]:
    """For the completion of a shell."""
    from sagaz_tiering.exports.report import FORMS

    return list(FORMS)


def _lines(report: ExportReport) -> Iterator[Any]:
    counts = report.counts
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in counts.left_out.items())
    rows = (
        ("export", f"{report.out} ({report.form}, {report.export_id})" if not report.stopped else "not complete"),
        ("sagas", f"{counts.sagas:,} of {counts.selected:,} chosen"),
        ("snapshots", f"{counts.exported:,} of {counts.found:,}, {show_bytes(counts.bytes)} of JSON"),
        ("left out", left_out or None),
        ("replays", f"{counts.replays:,}" + (f", {counts.replays_damaged:,} damaged" * bool(counts.replays_damaged))),
        ("holds log", f"{counted(counts.holds, 'entry', 'entries')}"),
        ("signed by", report.public_key),
        ("manifest", f"SHA-256 {report.manifest_sha256}" if report.manifest_sha256 else None),
    )
    yield from fields(rows, width=13)
    if not counts.selected and not report.stopped:
        yield "warning: no saga is meant, so the export is complete and has nothing in it; see: sagaz-tiering find"
    if report.manifest_sha256 and report.public_key is None:
        yield "it is not signed: keep the SHA-256 of the manifest elsewhere, to prove later that it is this one"
    for each in report.left_out[:MAX_SHOWN]:
        yield f"left out: {each.snapshot_id} of saga {each.saga_id}: {each.reason}: {each.why}"
    if len(report.left_out) > MAX_SHOWN:
        yield "left out: more; the timeline in the export names them all"


def _verified(found: ExportVerification) -> Iterator[Any]:
    manifest = found.manifest
    yield f"{found.path}: {'as it was made' if found.is_intact else 'NOT as it was made'}"
    if manifest is not None:
        counts, runs = manifest.counts, counted(manifest.runs, "run")
        rows = (
            ("export", f"{manifest.export_id}, by {manifest.who} with {manifest.made_by}"),
            (
                "made",
                f"{show_time(manifest.began_at)} to {show_time(manifest.finished_at)}, in {runs}",
            ),
            ("of", ", ".join(manifest.source.values())),
            ("policies", ", ".join(manifest.policy_revisions)),
            ("snapshots", f"{counts.exported:,} of {counts.found:,} in {counted(counts.sagas, 'saga')}"),
            ("manifest", f"SHA-256 {found.manifest_sha256}"),
            ("signed by", found.signed_by or "nobody"),
        )
        yield from fields(rows, width=13)
        if counts.left_out:
            yield make_table(("left out", "snapshots>"), list(counts.left_out.items()))
    for each in found.proven:
        yield f"- {each}"
