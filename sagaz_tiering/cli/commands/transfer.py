"""`transfer`: everything from one storage to another, resumable, with a report that adds up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.failures import UsageError, say
from sagaz_tiering.cli.options import parse_id
from sagaz_tiering.cli.progress import showing_progress
from sagaz_tiering.cli.session import Answer, Call, command
from sagaz_tiering.cli.stopping import stopped_by_signals
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.terminal import counted, make_table, show_bytes

if TYPE_CHECKING:
    from sagaz_tiering.transfer import Counts, Failure, TransferReport
    from sagaz_tiering.transfer.checkpoint import Identity

MAX_SHOWN = 20


@command(config=False)
async def transfer(
    call: Call,
    source: Annotated[
        str, typer.Option("--from", metavar="URL", help="Where to read: also sagaz+redis://… and so on.")
    ],
    target: Annotated[str, typer.Option("--to", metavar="URL", help="Where to write, such as s3://BUCKET/PREFIX.")],
    saga: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only this saga; repeatable.")] = None,
    no_replay_logs: Annotated[bool, typer.Option("--no-replay-logs", help="Leave the replay records.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Items in flight at the same time.")] = 8,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare only, and say what it would copy.")] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not read back what was written.")] = False,
    journal: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="How far it is. Default: in ~/.local/state/sagaz-tiering/transfers."),
    ] = None,
    patience: Annotated[
        str, typer.Option(metavar="DURATION", help="How long an item is tried while a server cannot be asked.")
    ] = "60s",
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, whatever the journal says.")] = False,
) -> Answer | int:
    """Copy snapshots and replays that the target does not have. It deletes nothing, and can be run again."""
    import asyncio

    from sagaz_tiering.app.storage_url import open_source, open_storage, parse_address
    from sagaz_tiering.transfer import transfer_snapshots
    from sagaz_tiering.transfer.checkpoint import Identity

    places = parse_address(source), parse_address(target)
    options: dict[str, Any] = {
        "saga_ids": sorted({parse_id(each, "--saga") for each in saga}) if saga else None,
        "replay_logs": not no_replay_logs,
        "verify": not no_verify,
    }
    wait = _duration(patience)
    identity = Identity(source=places[0].shown, target=places[1].shown, **options)
    path = None if dry_run else _journal_path(journal, identity, ends_with_us=places[1].is_memory)
    stop, notice = asyncio.Event(), "stopping: what is in flight is finished (a second signal ends it at once)"
    with stopped_by_signals(stop, notice=notice) as stopping:
        async with open_source(source) as reading, open_storage(target) as writing:
            try:
                async with showing_progress(None if saga else reading) as progress:
                    report = await transfer_snapshots(
                        reading,
                        writing,
                        **options,
                        concurrency=concurrency,
                        dry_run=dry_run,
                        journal=path,
                        restart=restart,
                        patience=wait,
                        progress=progress,
                        stop=stop,
                        source_name=identity.source,
                        target_name=identity.target,
                    )
            except asyncio.CancelledError:
                if not stopping.is_cancelled:
                    raise
                _say_how_to_go_on(path)
                return stopping.exit_code
            except SagazTieringError as exc:
                if path is not None and path.exists():
                    exc.hint = "; ".join(filter(None, (exc.hint, "the same command goes on from where it stands")))
                raise
    if report.stopped:
        _say_how_to_go_on(path)
    code = stopping.exit_code if report.stopped else report.exit_code
    document = {**report.to_dict(), "exit_code": code, "journal": None if path is None else str(path)}
    problem = (f"{report.failed:,} did not arrive", "run it again when the reason is gone: what is there is skipped")
    return Answer(document, _lines(report), code, [problem] if report.failed and not report.stopped else ())


def _journal_path(given: Path | None, identity: Identity, *, ends_with_us: bool) -> Path | None:
    """The file that says how far this transfer is; none where the target ends with this process."""
    if ends_with_us:
        if given is not None:
            raise UsageError("a target in memory ends with this process: there is nothing to go on from")
        return None
    if given is not None:
        return given
    return state_home() / "sagaz-tiering" / "transfers" / f"{identity.fingerprint}.json"


def _duration(text: str) -> timedelta:
    from sagaz_tiering.config.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as exc:
        raise UsageError(f"--patience: {exc}") from exc


def state_home() -> Path:
    """Where programs keep what should outlive a run: $XDG_STATE_HOME (if absolute), else ~/.local/state."""
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    if named.is_absolute():
        return named
    try:
        return Path.home() / ".local" / "state"
    except RuntimeError as exc:
        raise UsageError("there is no home folder to keep the journal in", hint="give --journal FILE") from exc


def _say_how_to_go_on(journal: Path | None) -> None:
    """Of a transfer that was stopped."""
    how = "begins anew, and finds there what is there" if journal is None else "goes on from where it stands"
    say("stopped before the end", hint=f"the same command {how}")


def _lines(report: TransferReport) -> Iterator[Any]:
    did = "would copy" if report.dry_run else "copied"
    columns = ("", "found>", f"{did}>", "already there>", "failed>", "archived>", "expired>", "verified>")
    kinds = (("snapshots", report.snapshots), ("replays", report.replay_logs))
    yield f"from  {report.source}"
    yield f"to    {report.target}"
    yield make_table(columns, [_row(name, counts) for name, counts in kinds])
    yield (
        f"{counted(report.snapshots.sagas, 'saga')}, {show_bytes(report.snapshots.bytes)} of JSON"
        f", {report.seconds:,.1f} s"
        + (f" in all runs, {report.run_seconds:,.1f} s in this one" if report.resumed else "")
        + f", {report.items_per_second:,.0f}/s"
    )
    for note in [*_notes(report.snapshots), *_notes(report.replay_logs), *_account(report)]:
        yield f"note: {note}"
    failures = [*report.snapshots.failures, *report.replay_logs.failures][:MAX_SHOWN]
    for failure in failures:
        yield f"did not arrive: {_described(failure)}"
    if report.failed > len(failures):
        yield f"did not arrive: {report.failed - len(failures):,} more; the log on stderr names them all"


def _row(name: str, counts: Counts) -> tuple[str, ...]:
    numbers = (
        *(counts.found, counts.copied, counts.already_there, counts.failed, counts.archived, counts.expired),
        counts.verified,
    )
    return (name, *(f"{number:,}" for number in numbers))


def _notes(counts: Counts) -> Iterator[str]:
    yield from counts.notes
    if counts.not_compared:
        yield f"{counts.not_compared:,} are at the target in an archive class: there, but not compared"
    if counts.sagas_missing:
        yield f"{counts.sagas_missing:,} of the sagas that were asked for are not at the source, or have expired"


def _account(report: TransferReport) -> Iterator[str]:
    for what, count, messages in (
        ("records that cannot be read and were left out", report.source_problem_count, report.source_problems),
        ("records taken differently from how they are written", report.source_adjusted_count, report.source_adjusted),
    ):
        if count:
            yield f"{count:,} {what}, such as: {'; '.join(messages[:3])}"
    if report.source_expired:
        yield f"{counted(report.source_expired, 'snapshot')} left out at the source: past their retention"


def _described(failure: Failure) -> str:
    item = failure.item_id or "the rest"
    saga = f" of saga {failure.saga_id}" if failure.saga_id else ""
    return f"{item}{saga}: {failure.error_type}: {failure.error}"
