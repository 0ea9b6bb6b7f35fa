"""How the demonstration talks: headings, plain sentences, tables; nothing at all where only JSON is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from textwrap import indent, wrap
from typing import Any

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.clock import Clock
from sagaz_tiering.demo.check import FateTally
from sagaz_tiering.snapshot import SnapshotRef
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import (
    Grid,
    make_console,
    make_table,
    print_table,
    safe,
    show_bytes,
    show_time,
    show_usd,
    show_when,
)

PROJECTED_SNAPSHOTS = 100_000_000
PROJECTED_PACK_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class TierLine:
    """One tier now, and what its class would cost a month for a hundred million such snapshots.

    Dollars are None where S3 does not bill: Redis and PostgreSQL run on one's own machines.
    """

    tier: str
    snapshots: int
    objects: int
    bytes: int
    usd_per_month: float | None = None
    projected_usd: float | None = None


async def survey(runtime: Runtime, clock: Clock) -> list[TierLine]:
    """Every tier that holds something; packs that wait for their deletion are a line of their own."""
    count = size = 0
    async for _saga, _snapshot, length in runtime.hot.snapshots():
        count, size = count + 1, size + length
    lines = [TierLine(tier="Redis (hot)", snapshots=count, objects=count, bytes=size)]
    durable = await runtime.catalog.durable.totals(clock.now())
    rows = durable["snapshots"]
    lines.append(TierLine(tier="PostgreSQL (durable)", snapshots=rows, objects=rows, bytes=durable["bytes"]))
    for total in await runtime.catalog.packs.totals():
        active = total.state == "ACTIVE"
        lines.append(
            TierLine(
                tier=f"S3 {total.storage_class}" + ("" if active else f" ({total.state.lower()})"),
                snapshots=total.snapshots,
                objects=total.packs,
                bytes=total.bytes,
                usd_per_month=runtime.prices.monthly_usd(
                    total.storage_class, object_count=total.packs, total_bytes=total.bytes
                ),
                projected_usd=_projected(runtime, total.storage_class, total.bytes, total.packed) if active else None,
            )
        )
    return lines


def _projected(runtime: Runtime, storage_class: StorageClass, size: int, snapshots: int) -> float:
    total = size * PROJECTED_SNAPSHOTS // max(1, snapshots)
    packs = -(-total // PROJECTED_PACK_BYTES)
    return runtime.prices.monthly_usd(storage_class, object_count=packs, total_bytes=total)


def unpacked_usd(runtime: Runtime, storage_class: StorageClass, bytes_each: int) -> float:
    """A month of a hundred million snapshots as one object each, the way most engines archive."""
    total = bytes_each * PROJECTED_SNAPSHOTS
    return runtime.prices.monthly_usd(storage_class, object_count=PROJECTED_SNAPSHOTS, total_bytes=total)


WIDTH = 100
MAX_WRONG_SHOWN = 20


class Story:
    """Prints as the demonstration goes along."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = make_console()
        self._quiet = quiet

    def heading(self, title: str) -> None:
        """A new stage."""
        self._print()
        self._print(f"── {title} " + "─" * max(3, WIDTH - len(title) - 4), style="bold cyan")

    def say(self, text: str) -> None:
        """A paragraph."""
        self._print("\n".join(wrap(text, WIDTH)))

    def line(self, text: str) -> None:
        """Indented lines, as long as they are."""
        self._print(indent(text.rstrip("\n"), "  "))

    def tiers(self, lines: Sequence[TierLine]) -> None:
        """The table of tiers."""
        columns = ("tier", "snapshots>", "objects>", "bytes>", "$/month>", f"$/month for {PROJECTED_SNAPSHOTS:,}>")
        rows = [
            (
                line.tier,
                f"{line.snapshots:,}",
                f"{line.objects:,}",
                show_bytes(line.bytes),
                None if line.usd_per_month is None else show_usd(line.usd_per_month),
                None if line.projected_usd is None else show_usd(line.projected_usd),
            )
            for line in lines
        ]
        self._print(make_table(columns, rows))

    def timeline(self, refs: Sequence[SnapshotRef], now: datetime) -> None:
        """One saga's snapshots."""
        columns = ("step", "name", "status", "created at", "tier", "expires")
        rows = [
            (
                ref.step_index,
                ref.step_name,
                ref.status,
                show_time(ref.created_at),
                f"{ref.tier} {ref.storage_class}" if ref.storage_class else ref.tier,
                show_when(ref.expires_at, now) or "never",
            )
            for ref in refs
        ]
        title = f"timeline of {safe(refs[0].saga_name)} {refs[0].saga_id}" if refs else None
        self._print(make_table(columns, rows, title=title))

    def reads(self, rows: Sequence[tuple[str, str, str, float]]) -> None:
        """What was asked of whom, what came back, in how many milliseconds."""
        shown = [(who, how, answer, f"{ms:.1f} ms") for who, how, answer, ms in rows]
        self._print(make_table(("saga", "read", "answer", "took>"), shown))

    def jobs(self, reports: Sequence[Any]) -> None:
        """What each job did, one line each."""
        for report in reports:
            counts = ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in report.counts.items() if count)
            self.line(f"job {report.job:<10} {report.seconds:5.2f} s  {counts or 'nothing to do'}")

    def verdict(self, tally: FateTally) -> None:
        """The check of every snapshot."""
        rows = [(name, fate, f"{count:,}") for (name, fate), count in sorted(tally.fates.items())]
        self._print(make_table(("saga", "fate (as the policies say)", "snapshots>"), rows))
        if not tally.wrong:
            self.line(f"✓ all {tally.checked:,} acknowledged snapshots are where the policies say, contents equal")
            return
        self.line(f"✗ {len(tally.wrong):,} of {tally.checked:,} snapshots are NOT where the policies say:")
        for wrong in tally.wrong[:MAX_WRONG_SHOWN]:
            self.line(f"  {safe(wrong, limit=500)}")
        if len(tally.wrong) > MAX_WRONG_SHOWN:
            self.line(f"  … and {len(tally.wrong) - MAX_WRONG_SHOWN:,} more")

    def _print(self, what: Any = "", style: str | None = None) -> None:
        if isinstance(what, Grid) and not self._quiet:
            print_table(self._console, what)
        elif not self._quiet:
            self._console.print(what, style=style, soft_wrap=isinstance(what, str))
