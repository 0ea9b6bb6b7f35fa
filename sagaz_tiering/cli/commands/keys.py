"""`keys`: master keys and data keys of encrypted policies."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.options import Text, argument, flag, option
from sagaz_tiering.cli.progress import progress
from sagaz_tiering.cli.session import Answer, Call, command
from sagaz_tiering.cli.stderr import UsageError
from sagaz_tiering.errors import CorruptData, MasterKeyUnavailable, SagazTieringError
from sagaz_tiering.terminal import counted, document, make_table, safe

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime

_KEYLESS_EXIT = 6
"""As `doctor` says it of the same."""

group = typer.Typer(name="keys", help="Keys of policies with `encryption: per-saga`.", no_args_is_help=True)


@command(group, "status")
async def status(call: Call) -> Answer:
    """Which master key is current and whether it works. Also what each wraps, and what has lost its key."""
    async with call.opened() as runtime:
        totals = await runtime.catalog.saga_keys.totals()
        current = error = None
        try:
            current = await runtime.keys.check()
        except MasterKeyUnavailable as exc:
            error = exc
        locked = await runtime.keys.locked()
        warnings = await runtime.keys.warnings(locked, totals)
        journal, left_out, unread = await _journal(runtime, works=error is None)
    warnings += left_out
    needed = bool(totals.by_master) or runtime.settings.encryption is not None
    failed = [each.error for each in locked] + ([error] if error is not None and needed else []) + unread
    document = {
        "current": current,
        "error": None if error is None else {"message": str(error), "hint": error.hint},
        "data_keys": totals.by_master,
        "encrypted_frames": totals.frames,
        "frames_without_key": totals.keyless_frames,
        "journal_entries": journal,
        "status": "degraded" if failed or warnings else "healthy",
        "warnings": warnings,
    }
    code = max((each.exit_code for each in failed), default=_KEYLESS_EXIT if totals.keyless_frames or left_out else 0)
    return Answer(document, _status_lines(document, error), code)


@command(group, "generate")
async def generate(
    call: Call,
    file: Annotated[Path | None, argument("[FILE]", "Default: encryption.key_file.")] = None,
    name: Annotated[Text, option("", "Default: today and four hex digits.")] = None,
) -> Answer:
    """Make a master key and put it first in its file. The keys that are there stay behind it."""
    import secrets

    from sagaz_tiering.keys import key_file

    path = file if file is not None else _configured_file(call)
    chosen = name or f"{datetime.now(UTC):%Y-%m-%d}-{secrets.token_hex(2)}"
    key_file.generate(path, chosen)
    lines = [
        f"{safe(path)}: the current master key is {safe(chosen)}; it is nowhere else, so keep a copy apart",
        "next, if other keys were there: sagaz-tiering keys rotate",
    ]
    return Answer({"file": str(path), "current": key_file.SCHEME + chosen}, lines)


@command(group, "rotate")
async def rotate(call: Call) -> Answer:
    """Wrap data keys and sign the journal with the current master key. May be stopped and repeated.

    Packs stay as they are. Until it has ended, and keys status shows nothing under it, the old master key must stay.
    """
    from sagaz_tiering.jobs.context import Tally
    from sagaz_tiering.operations.keys import sign_journal_anew

    async with call.opened() as runtime:
        current, done = await runtime.keys.check(), 0
        with progress("rotate") as show:
            async for count in runtime.keys.rotate():
                done += count
                show("keys", count)
            tally = Tally(show)
            await sign_journal_anew(runtime.job_context(), tally)
        totals = await runtime.catalog.saga_keys.totals()
    left = sum(count for master, count in totals.by_master.items() if master != current)
    signed, unsigned = tally.counts["journal_signed"], tally.counts["journal_left"]
    document = {"current": current, "rotated": done, "under_other_master_keys": left, "notes": tally.notes}
    lines = [
        f"{done:,} data keys are now under {safe(current)}, {left:,} under others",
        f"{counted(signed, 'entry', 'entries')} of the bucket's journal signed anew, {unsigned:,} left as before",
        *(f"note: {note}" for note in tally.notes),
    ]
    document |= {"journal_signed": signed, "journal_left": unsigned}
    return Answer(document, lines, CorruptData.exit_code if unsigned else 0)


@command(group, "export")
async def export(
    call: Call,
    file: Annotated[Path, argument("FILE", "Takes the place of an earlier backup of the same catalog.")],
    force: Annotated[bool, flag("--force", "Whatever FILE is, or has that the catalog lacks.")] = False,
) -> Answer:
    """Back up the data keys (wrapped: useless without the master key). The bucket does not have them."""
    from sagaz_tiering.operations.keys import write_backup

    async with call.opened() as runtime:
        count = await write_backup(runtime.job_context(), file, force=force)
    return Answer({"file": str(file), "keys": count}, [f"{safe(file)}: {count:,} data keys"])


@command(group, "import")
async def import_(call: Call, file: Annotated[Path, argument("FILE", "What `keys export` wrote.")]) -> Answer:
    """Put data keys back from a backup, after `catalog rebuild`. What was erased stays erased."""
    from sagaz_tiering.drivers.files import refusing
    from sagaz_tiering.operations.keys import import_keys

    with refusing(f"{file} cannot be read"):
        stored = file.read_bytes().splitlines()
    async with call.opened() as runtime:
        done = await import_keys(runtime.job_context(), stored)
        locked = await runtime.keys.locked()
    replaced = f", {done.replaced:,} replaced that no master key opened" if done.replaced else ""
    lines = [
        f"{done.added:,} added{replaced}, {done.already_there:,} already there, {done.destroyed:,} destroyed since",
        *(f"warning: {each.warning()}; or import a later backup, which takes their place" for each in locked),
    ]
    told = {**document(done), "warnings": [each.warning() for each in locked]}
    return Answer(told, lines, max((each.error.exit_code for each in locked), default=0))


async def _journal(
    runtime: Runtime, *, works: bool
) -> tuple[dict[str, int] | None, list[str], list[SagazTieringError]]:
    """Entries of the bucket's journal by who signed them, warnings of what does not count, and why it is not known."""
    from sagaz_tiering.operations.keys import UNSIGNED, entries_by_master

    if not runtime.keys.signs() or not works:
        return None, [], []
    try:
        signed, left_out = await entries_by_master(runtime.job_context())
    except SagazTieringError as exc:
        return None, [f"who signed the bucket's journal is not known: {exc}"], [exc]
    warnings = [
        f"a rebuild would leave out {counted(count, 'entry', 'entries')} of the bucket's journal, and with them "
        f"holds and erasures: {'nobody signed them' if by == UNSIGNED else f'{by} signed them and does not open'}; "
        "sagaz-tiering keys rotate signs what the catalog knows of them"
        for by, count in left_out.items()
    ]
    return signed, warnings, []


def _configured_file(call: Call) -> Path:
    section = call.loaded().encryption
    if section is None or section.key_file is None:
        raise UsageError("the configuration names no encryption.key_file", hint="sagaz-tiering keys generate FILE")
    return section.key_file


def _status_lines(document: dict[str, Any], error: MasterKeyUnavailable | None) -> Iterator[Any]:
    if error is None:
        yield f"current master key: {safe(document['current'])}, it works"
    else:
        yield f"no master key: {error}"
        yield f"  {error.hint}"
    keys, journal = document["data_keys"], document["journal_entries"] or {}
    if keys or journal:
        rows = [(name, keys.get(name, 0), journal.get(name, 0)) for name in sorted({*keys, *journal})]
        yield make_table(("master key", "data keys>", "journal entries>"), rows)
    yield f"encrypted frames: {document['encrypted_frames']:,}"
    yield from (f"warning: {warning}" for warning in document["warnings"])
    yield document["status"]
