"""`catalog migrate`, `rebuild` and `verify`: the tables, and whether what is in them is true."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.asking import confirm
from sagaz_tiering.cli.options import MOST, YesOption, locate_config, parse_id
from sagaz_tiering.cli.progress import progress
from sagaz_tiering.cli.session import Answer, Call, command
from sagaz_tiering.errors import ConfigError, CorruptData
from sagaz_tiering.terminal import counted, show_bytes, show_usd

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.jobs.context import Tally
    from sagaz_tiering.operations.verify import VerifyReport

group = typer.Typer(name="catalog", help="The catalog in PostgreSQL.", rich_markup_mode=None)


@group.command("migrate")
@command()
async def migrate(call: Call) -> Answer:
    """Apply the migrations that the database lacks. Repeating it does nothing."""
    path = locate_config(call.config)
    from sagaz_tiering.app.parts import open_database
    from sagaz_tiering.catalog import migrations
    from sagaz_tiering.config.load import load_config

    async with open_database(load_config(path)) as db:
        applied = await migrations.migrate(db)
        # A newer schema than this code's has nothing to apply, and is not fine.
        await migrations.check_schema(db)
        version = await migrations.current_version(db)
    return Answer(
        {"version": version, "applied": [{"version": m.version, "name": m.name} for m in applied]},
        [
            *([f"applied {counted(len(applied), 'step')}"] if applied else []),
            *(f"  {m.version:04d} {m.name}" for m in applied if call.debug),
            f"the catalog is at schema {version}" + ("" if applied else ", nothing to do"),
        ],
    )


TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Although the bucket's mark was moved in the last two minutes.")
]
Unsigned = Annotated[
    bool, typer.Option("--accept-unsigned", help="Count journal entries that no configured master key signed.")
]


@group.command("rebuild")
@command()
async def rebuild(
    call: Call,
    catalog_id: Annotated[
        str | None,
        typer.Option(metavar="UUID", help="Whose bucket it is. Default: as owner.json says."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is, and what it costs.")] = False,
    yes: YesOption = False,
    take_over: TakeOver = False,
    accept_unsigned: Unsigned = False,
) -> Answer:
    """Fill a new, empty catalog from the bucket alone. It can be repeated where it stopped."""
    from sagaz_tiering.operations.rebuild import LOST, Wish, proposed_id, rebuild

    wanted = None if catalog_id is None else parse_id(catalog_id, "--catalog-id")
    async with _opened(call) as runtime:
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
        with _tally("rebuild") as tally:
            await rebuild(context, tally, whose, Wish(take_over=take_over, unsigned=accept_unsigned))
    left_out = _left_out(tally)
    return Answer(
        {**document, "counts": dict(tally.counts), "notes": tally.notes, "cannot_know": list(LOST)},
        [*_counted(tally), "what the bucket cannot tell:", *(f"  - {lost}" for lost in LOST)],
        CorruptData.exit_code
        if left_out
        else int(any(tally.counts[kind] for kind in ("unreadable", "contradictions"))),
        left_out,
    )


@group.command("adopt")
@command()
async def adopt(
    call: Call,
    new_bucket: Annotated[
        bool, typer.Option("--new-bucket", help="The prefix is new on purpose: packs that are not there are lost.")
    ] = False,
    yes: YesOption = False,
    take_over: TakeOver = False,
    accept_unsigned: Unsigned = False,
) -> Answer:
    """Let this catalog catch up with the bucket and take it. After an older dump was put back, or a move."""
    from sagaz_tiering.jobs.ownership import look
    from sagaz_tiering.operations.rebuild import Wish, adopt

    async with _opened(call) as runtime:
        context = runtime.job_context()
        was = (await look(context)).standing
        if not (yes or call.as_json):
            print(f"to {context.objects.url} this catalog is: {was}")
            await _extent(runtime, as_json=False)
        await confirm("catch up with it and take it? No other daemon may live from it", yes=yes, as_json=call.as_json)
        with _tally("adopt") as tally:
            await adopt(context, tally, Wish(take_over=take_over, new_bucket=new_bucket, unsigned=accept_unsigned))
    end = "stopped before the end" if context.stopping.is_set() else "this catalog is the bucket's owner"
    return Answer(
        {"was": was.value, "counts": dict(tally.counts), "notes": tally.notes},
        [*_counted(tally), end],
        CorruptData.exit_code if any(tally.counts[kind] for kind in _ADOPTED_WITH_LOSS) else 0,
        _left_out(tally),
    )


@asynccontextmanager
async def _opened(call: Call) -> AsyncIterator[Runtime]:
    """With the right catalog, whose server answers."""
    from sagaz_tiering.catalog.migrations import check_schema

    async with call.opened() as runtime:
        await check_schema(runtime.db)
        yield runtime


@contextmanager
def _tally(name: str) -> Iterator[Tally]:
    """What counts, and shows it while it does."""
    from sagaz_tiering.jobs.context import Tally

    with progress(name) as show:
        yield Tally(show)


async def _extent(runtime: Runtime, *, as_json: bool) -> dict[str, Any]:
    """What there is to read."""
    from sagaz_tiering.operations.rebuild import measure

    extent = await measure(runtime.job_context())
    # Two round trips a pack, eight packs at a time.
    seconds = extent.packs * 2 * 0.03 / 8
    if not as_json:
        print(
            f"{runtime.objects.url}: {counted(extent.packs, 'pack')} ({extent.archived:,} archived), "
            f"{show_bytes(extent.bytes)}; reading their footers takes about {seconds:,.0f} s and "
            f"{show_usd(extent.cost_usd)}"
        )
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
    for kind, count in tally.counts.items():
        yield f"{kind.replace('_', ' ')}: {count:,}"
    for note in tally.notes:
        yield f"note: {note}"


@group.command("verify")
@command()
async def verify(
    call: Call,
    sample: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=MOST, help="Ask the bucket for N packs by chance; default: list all."),
    ] = None,
) -> Answer:
    """Check the catalog against itself and the bucket; changes nothing. Exit code 6 if anything is wrong."""
    from sagaz_tiering.operations.verify import verify

    async with _opened(call) as runtime:
        held = await runtime.catalog.packs.totals()
        known = {
            "snapshots": sum(each.snapshots for each in held),
            "objects": sample or sum(each.packs for each in held),
        }
        with progress("verify", known) as show:
            verdict = await verify(runtime.job_context(), sample=sample, progress=show)
    code = 0 if verdict.clean else CorruptData.exit_code
    return Answer({**verdict.to_dict(), "sample": sample}, _verified(verdict), code)


def _verified(verdict: VerifyReport) -> Iterator[str]:
    counts = {kind: count for kind, count in verdict.counts.items() if kind != "bytes"}
    yield f"looked at {', '.join(f'{count:,} {kind}' for kind, count in counts.items())}"
    for kind, count in verdict.leftovers.items():
        yield f"left over, no fault: {count:,} {kind.replace('_', ' ')}"
    for each in verdict.findings:
        yield f"{each.what.replace('_', ' ')}: {each.item}: {each.detail}"
    for what, count in verdict.found.items():
        yield f"{count:,} × {what.replace('_', ' ')}: {_ADVICE[what]}"
    yield "clean" if verdict.clean else "NOT clean"


_ADOPTED_WITH_LOSS = ("unreadable", "missing", "journal_left_out")
_SCRUB = "sagaz-tiering job scrub --once repairs what can be repaired, and names what it cannot"
_REBUILD = "the bucket knows it: sagaz-tiering catalog rebuild into a new database"
_ADVICE = {
    "missing": _SCRUB,
    "truncated": _SCRUB,
    "altered": _SCRUB,
    "class": _SCRUB,
    "frame_outside": _SCRUB,
    "footer_missing": "restore the pack, then write footers/ID.footer anew; until then a rebuild has to thaw it",
    "unknown": "sagaz-tiering catalog adopt reads it in",
    "behind": "a copy, or an older dump: after a restore, with every daemon stopped, sagaz-tiering catalog adopt",
    "unproven": "a copy, or moved: a daemon finds out within minutes",
    "wrong_bucket": "correct tiers.cold.url; on purpose: sagaz-tiering catalog adopt --new-bucket",
    "live_count": _REBUILD,
    "no_rows": _REBUILD,
    "dead_pack": _REBUILD,
    "misplaced": _REBUILD,
    "next_expiry": "its snapshots are hidden in time, but their bytes stay: " + _REBUILD,
    "key_missing": "sagaz-tiering keys import FILE",
    "dangling": "sagaz-tiering cancel-restore ID; an erasure without its pack is complete",
}
