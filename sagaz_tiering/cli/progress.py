"""How far a command is, on stderr.

Of a job: counters with their rates, on a terminal. Of a transfer or an export: a bar, elsewhere a line now and then.
Where the total is known there is the time that is left.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.terminal import make_console, safe, show_counts, show_span

if TYPE_CHECKING:
    from sagaz_tiering.exports.report import ExportProgress
    from sagaz_tiering.storage.base import SnapshotSource
    from sagaz_tiering.transfer import TransferProgress

    HowFar = TransferProgress | ExportProgress

LINE_EVERY_S = 10.0
_SILENT_S = 1.0
"""What takes less shows no counters."""
NOTHING_KNOWN: Mapping[str, int] = MappingProxyType({})


@contextmanager
def progress(name: str, totals: Mapping[str, int] = NOTHING_KNOWN) -> Iterator[Callable[[str, int], None]]:
    """Counters that move on stderr, in one line, once the job runs for a second; nothing where that is no terminal.

    `totals`: how many there will be, by kind, as far as that is known.
    """
    if not sys.stderr.isatty():
        yield lambda kind, more: None
        return
    import time

    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    class OneLine(Progress):
        def get_renderables(self) -> Iterator[Any]:
            if time.monotonic() - began >= _SILENT_S:
                yield from super().get_renderables()

    began, done = time.monotonic(), dict[str, int]()
    text = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    columns = (SpinnerColumn(), TimeElapsedColumn(), text)
    with OneLine(*columns, console=make_console(stderr=True), transient=True, expand=True) as bars:
        line = bars.add_task(safe(name), total=None)

        def advance(kind: str, more: int) -> None:
            done[kind] = done.get(kind, 0) + more
            bars.update(line, description=counters(name, done, totals, time.monotonic() - began))

        yield advance


def counters(name: str, done: Mapping[str, int], totals: Mapping[str, int], seconds: float) -> str:
    """`age: sagas 1,200 of about 5,000, 830/s, 4 s left; packs 2, raw bytes 49.5 KiB`."""
    main = next((kind for kind in done if kind in totals), None)
    rest = {kind: count for kind, count in done.items() if kind != main}
    parts = [show_counts(rest)] if rest else []
    if main is not None:
        rate = done[main] / seconds if seconds > 0 else 0.0
        parts.insert(0, f"{main} {how_far(done[main], totals[main], rate)}")
    return safe(f"{name}: {'; '.join(parts)}")


def how_far(done: int, total: int | None, rate: float) -> str:
    """`12,000 of about 50,000, 830/s, 46 s left`."""
    parts = [f"{done:,}" + ("" if total is None else f" of about {max(total, done):,}"), f"{rate:,.0f}/s"]
    if total is not None and rate > 0:
        parts.append(f"{show_span(timedelta(seconds=max(total - done, 0) / rate))} left")
    return ", ".join(parts)


@asynccontextmanager
async def showing_progress(source: SnapshotSource | None) -> AsyncIterator[Callable[[TransferProgress], None]]:
    """The callback to give to the transfer; `source` is asked for the total (None: the total is not known), as far as
    it can say without reading all: it may take a while."""
    import asyncio

    snapshots: int | None = None

    async def ask() -> None:
        nonlocal snapshots
        if source is not None and hasattr(source, "health_check"):
            with suppress(SagazTieringError):
                snapshots = (await source.health_check()).snapshot_count or None

    def total(progress: TransferProgress) -> int | None:
        return None if snapshots is None or progress.phase != "snapshots" else max(snapshots, progress.found)

    counting = asyncio.create_task(ask())
    try:
        with showing(total) as show:
            yield show
    finally:
        counting.cancel()
        await asyncio.wait([counting])


@contextmanager
def showing(total_of: Callable[[Any], int | None]) -> Iterator[Callable[[Any], None]]:
    """A bar on a terminal, elsewhere lines; `total_of` tells of it how much there is (None: not known)."""
    with _bar(total_of) if sys.stderr.isatty() else nullcontext(_lines(total_of)) as show:
        yield show


def _lines(total_of: Callable[[Any], int | None]) -> Callable[[HowFar], None]:
    """A line now and then, for logs."""
    phase, seconds = "", 0.0

    def show(progress: HowFar) -> None:
        nonlocal phase, seconds
        if progress.seconds >= LINE_EVERY_S + (seconds if phase == progress.phase else 0):
            phase, seconds = progress.phase, progress.seconds
            print(describe(progress, total_of(progress)), file=sys.stderr, flush=True)

    return show


def describe(progress: HowFar, total: int | None) -> str:
    """`snapshots: 12,000 of about 50,000, 830/s, 46 s left, 2 failed`."""
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    rate = (progress.found - progress.before) / progress.seconds if progress.seconds > 0 else 0.0
    return f"{progress.phase}: {how_far(progress.found, total, rate)}{failed}"


@contextmanager
def _bar(total_of: Callable[[Any], int | None]) -> Iterator[Callable[[HowFar], None]]:
    from rich import progress as rich

    text, rest = rich.TextColumn("{task.description}"), rich.TextColumn("{task.fields[rest]}")
    columns = (rich.SpinnerColumn(), text, rich.BarColumn(), rich.MofNCompleteColumn(), rest, rich.TimeElapsedColumn())
    with rich.Progress(*columns, console=make_console(stderr=True), transient=True) as bars:
        tasks: dict[str, rich.TaskID] = {}

        def show(progress: HowFar) -> None:
            total = total_of(progress)
            if progress.phase not in tasks:
                tasks[progress.phase] = bars.add_task(progress.phase, total=None, rest="")
            rest = describe(progress, total).split(", ", 1)[1]
            bars.update(tasks[progress.phase], completed=progress.found, total=total, rest=rest)

        yield show
