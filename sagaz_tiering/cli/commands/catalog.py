"""`catalog migrate`, `rebuild` and `verify`: the tables, and whether what is in them is true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.options import MOST, Text, YesOption, flag, option
from sagaz_tiering.cli.parsing import parse_id
from sagaz_tiering.cli.progress import progress
from sagaz_tiering.cli.session import Answer, Call, command
from sagaz_tiering.cli.stderr import confirm
from sagaz_tiering.errors import ConfigError, CorruptData
from sagaz_tiering.terminal import counted, show_bytes, show_usd

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.jobs.context import Tally
    from sagaz_tiering.operations.verify import VerifyReport

group = typer.Typer(name="catalog", help="The catalog in PostgreSQL.", rich_markup_mode=None)


@command(group, "migrate")
async def migrate(call: Call) -> Answer:
    """Apply the migrations that the database lacks. Repeating it does nothing."""
    config = call.loaded()
    from sagaz_tiering.app.parts import open_database
    from sagaz_tiering.catalog import migrations

    async with open_database(config) as db:
        applied = await migrations.migrate(db)
        # A newer schema than this code's has nothing to apply, and is not fine.
        await migrations.check_schema(db)
        version = await migrations.current_version(db)
    lines = [
        *([f"applied {counted(len(applied), 'step')}"] if applied else []),
        *(f"  {m.version:04d} {m.name}" for m in applied if call.debug),
        f"the catalog is at schema {version}" + ("" if applied else ", nothing to do"),
    ]
    return Answer({"version": version, "applied": [{"version": m.version, "name": m.name} for m in applied]}, lines)


TakeOver = Annotated[bool, flag("--take-over", "Although the bucket's mark was moved in the last two minutes.")]
Unsigned = Annotated[bool, flag("--accept-unsigned", "Count journal entries that no configured master key signed.")]


@command(group, "rebuild")
async def rebuild(
    call: Call,
    catalog_id: Annotated[Text, option("UUID", "Whose bucket it is. Default: as owner.json says.")] = None,
    dry_run: Annotated[bool, flag("--dry-run", "Only say what there is, and what it costs.")] = False,
    yes: YesOption = False,
    take_over: TakeOver = False,
    accept_unsigned: Unsigned = False,
) -> Answer:
    """Fill a new, empty catalog from the bucket alone. It can be repeated where it stopped."""
    from sagaz_tiering.jobs.context import Tally
    from sagaz_tiering.operations.rebuild import LOST, Wish, proposed_id, rebuild

    wanted = None if catalog_id is None else parse_id(catalog_id, "--catalog-id")
    async with call.opened(up=True) as runtime:
        context = runtime.job_context()
        document = await _extent(runtime, as_json=call.as_json)
        proposed = await proposed_id(context)
        whose = wanted or proposed
        document |= {"dry_run": dry_run, "catalog_id": None if whose is None else str(whose)}
        if dry_run:
            return Answer(document)
        if whose is None:
            raise ConfigError(
                f"{context.objects.url} has no owner.json: no catalog ever wrote there, or it is lost",
                hint="check tiers.cold.url; or say whose bucket it is: --catalog-id UUID",
            )
        said = "you say" if wanted else "owner.json says, which whoever writes to the bucket can change"
        await confirm(f"rebuild it as catalog {whose} ({said})?", yes=yes, as_json=call.as_json)
        with progress("rebuild") as show:
            tally = Tally(show)
            await rebuild(context, tally, whose, Wish(take_over=take_over, unsigned=accept_unsigned))
    left_out, counts = _left_out(tally), tally.counts
    code = CorruptData.exit_code if left_out else int(bool(counts["unreadable"] or counts["contradictions"]))
    document |= {"counts": dict(counts), "notes": tally.notes, "cannot_know": list(LOST)}
    lines = [*_counted(tally), "what the bucket cannot tell:", *(f"  - {lost}" for lost in LOST)]
    return Answer(document, lines, code, left_out)


@command(group, "adopt")
async def adopt(
    call: Call,
    new_bucket: Annotated[
        bool, flag("--new-bucket", "The prefix is new on purpose: packs that are not there are lost.")
    ] = False,
    yes: YesOption = False,
    take_over: TakeOver = False,
    accept_unsigned: Unsigned = False,
) -> Answer:
    """Let this catalog catch up with the bucket and take it. After an older dump was put back, or a move."""
    from sagaz_tiering.jobs.context import Tally
    from sagaz_tiering.jobs.ownership import look
    from sagaz_tiering.operations.rebuild import Wish, adopt

    async with call.opened(up=True) as runtime:
        context = runtime.job_context()
        was = (await look(context)).standing
        if not (yes or call.as_json):
            print(f"to {context.objects.url} this catalog is: {was}")
            await _extent(runtime, as_json=False)
        await confirm("catch up with it and take it? No other daemon may live from it", yes=yes, as_json=call.as_json)
        with progress("adopt") as show:
            tally = Tally(show)
            await adopt(context, tally, Wish(take_over=take_over, new_bucket=new_bucket, unsigned=accept_unsigned))
    end = "stopped before the end" if context.stopping.is_set() else "this catalog is the bucket's owner"
    code = CorruptData.exit_code if any(tally.counts[kind] for kind in _ADOPTED_WITH_LOSS) else 0
    document = {"was": was.value, "counts": dict(tally.counts), "notes": tally.notes}
    return Answer(document, [*_counted(tally), end], code, _left_out(tally))


async def _extent(runtime: Runtime, *, as_json: bool) -> dict[str, Any]:
    """What there is to read."""
    from sagaz_tiering.operations.rebuild import measure

    extent = await measure(runtime.job_context())
    # Two round trips a pack, eight packs at a time.
    seconds = extent.packs * 2 * 0.03 / 8
    if not as_json:
        packs = f"{counted(extent.packs, 'pack')} ({extent.archived:,} archived), {show_bytes(extent.bytes)}"
        effort = f"takes about {seconds:,.0f} s and {show_usd(extent.cost_usd)}"
        print(f"{runtime.objects.url}: {packs}; reading their footers {effort}")
    return {"packs": extent.packs, "bytes": extent.bytes, "cost_usd": extent.cost_usd}


def _left_out(tally: Tally) -> list[tuple[str, str]]:
    """What it means that entries of the journal were left out."""
    count = tally.counts["journal_left_out"]
    if not count:
        return []
    return [
        (
            f"{counted(count, 'part')} of the bucket's journal left out, as the notes name: holds and erasures may be "
            "missing, so that what is held can expire, and what was erased is read again",
            "start no daemon and no application; where a note names a master key, put its line back behind the current "
            "one and rebuild into a new, empty database (or put the dump back once more); else order them again",
        )
    ]


def _counted(tally: Tally) -> Iterator[str]:
    yield from (f"{kind.replace('_', ' ')}: {count:,}" for kind, count in tally.counts.items())
    yield from (f"note: {note}" for note in tally.notes)


@command(group, "verify")
async def verify(
    call: Call,
    sample: Annotated[
        int | None, option("N", "Ask the bucket for N packs by chance; default: list all.", min=1, max=MOST)
    ] = None,
) -> Answer:
    """Check the catalog against itself and the bucket; changes nothing. Exit code 6 if anything is wrong."""
    from sagaz_tiering.operations.verify import verify

    async with call.opened(up=True) as runtime:
        held = await runtime.catalog.packs.totals()
        packs = sample or sum(each.packs for each in held)
        known = {"snapshots": sum(each.snapshots for each in held), "objects": packs}
        with progress("verify", known) as show:
            verdict = await verify(runtime.job_context(), sample=sample, progress=show)
    code = 0 if verdict.clean else CorruptData.exit_code
    return Answer({**verdict.to_dict(), "sample": sample}, _verified(verdict), code)


def _verified(verdict: VerifyReport) -> Iterator[str]:
    counts = {kind: count for kind, count in verdict.counts.items() if kind != "bytes"}
    yield f"looked at {', '.join(f'{count:,} {kind}' for kind, count in counts.items())}"
    yield from (f"left over, no fault: {count:,} {kind.replace('_', ' ')}" for kind, count in verdict.leftovers.items())
    yield from (f"{each.what.replace('_', ' ')}: {each.item}: {each.detail}" for each in verdict.findings)
    yield from (f"{count:,} × {what.replace('_', ' ')}: {_ADVICE[what]}" for what, count in verdict.found.items())
    yield "clean" if verdict.clean else "NOT clean"


_ADOPTED_WITH_LOSS = ("unreadable", "missing", "journal_left_out")
_SCRUB = "sagaz-tiering job scrub --once repairs what can be repaired, and names what it cannot"
_REBUILD = "the bucket knows it: sagaz-tiering catalog rebuild into a new database"
_ADVICE = {
    **dict.fromkeys(("missing", "truncated", "altered", "class", "frame_outside"), _SCRUB),
    "footer_missing": "restore the pack, then write footers/ID.footer anew; until then a rebuild has to thaw it",
    "unknown": "sagaz-tiering catalog adopt reads it in",
    "behind": "a copy, or an older dump: after a restore, with every daemon stopped, sagaz-tiering catalog adopt",
    "unproven": "a copy, or moved: a daemon finds out within minutes",
    "wrong_bucket": "correct tiers.cold.url; on purpose: sagaz-tiering catalog adopt --new-bucket",
    **dict.fromkeys(("live_count", "no_rows", "dead_pack", "misplaced"), _REBUILD),
    "next_expiry": "its snapshots are hidden in time, but their bytes stay: " + _REBUILD,
    "key_missing": "sagaz-tiering keys import FILE",
    "dangling": "sagaz-tiering cancel-restore ID; an erasure without its pack is complete",
}
