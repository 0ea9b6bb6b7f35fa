"""`transfer`, `export` and `export verify`: everything from one storage to another, or sagas as files that prove
themselves; resumable, with a report that adds up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.commands.find import Filters
from sagaz_tiering.cli.options import Texts, WhoOption, argument, flag, option, words_of
from sagaz_tiering.cli.parsing import parse_id
from sagaz_tiering.cli.progress import showing, showing_progress
from sagaz_tiering.cli.session import Answer, Call, command, fields, stopped_by_signals
from sagaz_tiering.cli.stderr import UsageError, login_name, say
from sagaz_tiering.errors import SagazTieringError, TierUnavailable
from sagaz_tiering.terminal import counted, make_table, show_bytes, show_time

if TYPE_CHECKING:
    from sagaz_tiering.exports.report import ExportReport
    from sagaz_tiering.exports.verify import ExportVerification
    from sagaz_tiering.transfer import Counts, Failure, TransferReport
    from sagaz_tiering.transfer.checkpoint import Identity

MAX_SHOWN = 20
_STOPS = "is finished (a second signal ends it at once)"
_GOES_ON = "the same command goes on from where it stands"
_JOURNAL = "How far it is. Default: in ~/.local/state/sagaz-tiering/transfers."


@command(config=False)
async def transfer(
    call: Call,
    source: Annotated[str, option("URL", "Where to read: also sagaz+redis://… and so on.", "--from")],
    target: Annotated[str, option("URL", "Where to write, such as s3://BUCKET/PREFIX.", "--to")],
    saga: Annotated[Texts, option("ID", "Only this saga; repeatable.")] = None,
    no_replay_logs: Annotated[bool, flag("--no-replay-logs", "Leave the replay records.")] = False,
    concurrency: Annotated[int, option("", "Items in flight at the same time.", min=1, max=1000)] = 8,
    dry_run: Annotated[bool, flag("--dry-run", "Compare only, and say what it would copy.")] = False,
    no_verify: Annotated[bool, flag("--no-verify", "Do not read back what was written.")] = False,
    journal: Annotated[Path | None, option("FILE", _JOURNAL)] = None,
    patience: Annotated[str, option("DURATION", "How long an item is tried while a server cannot be asked.")] = "60s",
    restart: Annotated[bool, flag("--restart", "Begin anew, whatever the journal says.")] = False,
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
    how: dict[str, Any] = {"concurrency": concurrency, "dry_run": dry_run, "journal": path, "restart": restart}
    how |= {"patience": wait, "source_name": identity.source, "target_name": identity.target}
    with stopped_by_signals(notice=f"stopping: what is in flight {_STOPS}") as stopping:
        async with open_source(source) as reading, open_storage(target) as writing:
            try:
                async with showing_progress(None if saga else reading) as progress:
                    how |= {"progress": progress, "stop": stopping.event}
                    with _going_on(SagazTieringError, lambda: path is not None and path.exists()):
                        report = await transfer_snapshots(reading, writing, **options, **how)
            except asyncio.CancelledError:
                if not stopping.is_cancelled:
                    raise
                _say_how_to_go_on(path)
                return stopping.exit_code
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
    anew = "the same command begins anew, and finds there what is there"
    say("stopped before the end", hint=anew if journal is None else _GOES_ON)


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
    yield from (f"note: {note}" for note in [*_notes(report.snapshots), *_notes(report.replay_logs), *_account(report)])
    failures = [*report.snapshots.failures, *report.replay_logs.failures][:MAX_SHOWN]
    yield from (f"did not arrive: {_described(failure)}" for failure in failures)
    if report.failed > len(failures):
        yield f"did not arrive: {report.failed - len(failures):,} more; the log on stderr names them all"


def _row(name: str, counts: Counts) -> tuple[str, ...]:
    names = ("found", "copied", "already_there", "failed", "archived", "expired", "verified")
    return (name, *(f"{getattr(counts, each):,}" for each in names))


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


group = typer.Typer(name="export")


@command(group)
async def export(
    call: Call,
    out: Annotated[Path | None, option("PATH", "A folder, or with zip a file.")] = None,
    form: Annotated[
        str, option("FORM", "jsonl, parquet or zip.", "--format", completes=words_of("exports.report", "FORMS"))
    ] = "jsonl",
    saga: Annotated[Texts, option("ID", "Only this saga; repeatable.")] = None,
    sign: Annotated[Path | None, option("KEY", "Sign with this private Ed25519 key (a PEM file).")] = None,
    overwrite: Annotated[bool, flag("--overwrite", "Replace what is there, once it is complete.")] = False,
    restart: Annotated[bool, flag("--restart", "Begin anew, whatever a run before left.")] = False,
    who: WhoOption = None,
    *,
    filters: Filters,
) -> Answer:
    """Write sagas into files that prove themselves. With timeline, replays and holds log; see `export verify`."""
    if out is None:
        raise UsageError("say where to: --out PATH", hint="to look at one: sagaz-tiering export verify PATH")
    if saga and filters:
        raise UsageError("give either --saga or what sagas are found by")
    ids = [parse_id(each, "--saga") for each in saga] if saga else None
    made: dict[str, Any] = {"form": form, "saga_ids": ids, "sign_with": sign, "who": who or login_name()}
    made |= {"overwrite": overwrite, "restart": restart}
    notice, shown = f"stopping: what is being read {_STOPS}", showing(lambda told: told.total)
    async with call.opened(migrated=True) as runtime:
        with _going_on(TierUnavailable), stopped_by_signals(notice=notice) as stopping, shown as progress:
            made |= {"progress": progress, "stop": stopping.event}
            report = await runtime.storage().export(out, **made, **filters)
    if report.stopped:
        say("stopped before the end", hint=_GOES_ON)
    code = stopping.exit_code if report.stopped else report.exit_code
    left_out = sum(report.counts.left_out.values())
    problem = (f"{left_out:,} snapshots are not in it", "its timeline and its manifest name each of them, and why")
    problems = [problem] if left_out and not report.stopped and not call.as_json else []
    return Answer({**report.to_dict(), "exit_code": code}, _written(report), code, problems)


@contextmanager
def _going_on(outage: type[SagazTieringError], can: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Say after an outage how to go on, if that can be."""
    try:
        yield
    except outage as exc:
        exc.hint = "; ".join(filter(None, (exc.hint, _GOES_ON if can() else "")))
        raise


@command(group, "verify", config=False)
async def verify(
    call: Call,  # as every command
    path: Annotated[Path, argument("PATH", "A folder or a ZIP file.")],
    key: Annotated[Path | None, option("PUBLIC", "It must be signed by the key of this PEM file.")] = None,
) -> Answer:
    """Look at every byte of an export. Is it as it was made, and who signed it? Needs no server, no configuration."""
    import asyncio

    from sagaz_tiering.exports.verify import verify_export

    found = await asyncio.to_thread(verify_export, path, key=key)
    problems = [(f"{path.name if each.part == '*' else each.part}: {each.problem}", "") for each in found.problems]
    return Answer(found.to_dict(), _verified(found), 0 if found.is_intact else 6, problems)


def _written(report: ExportReport) -> Iterator[Any]:
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
            ("made", f"{show_time(manifest.began_at)} to {show_time(manifest.finished_at)}, in {runs}"),
            ("of", ", ".join(manifest.source.values())),
            ("policies", ", ".join(manifest.policy_revisions)),
            ("snapshots", f"{counts.exported:,} of {counts.found:,} in {counted(counts.sagas, 'saga')}"),
            ("manifest", f"SHA-256 {found.manifest_sha256}"),
            ("signed by", found.signed_by or "nobody"),
        )
        yield from fields(rows, width=13)
        if counts.left_out:
            yield make_table(("left out", "snapshots>"), list(counts.left_out.items()))
    yield from (f"- {each}" for each in found.proven)
