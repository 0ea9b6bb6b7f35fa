"""`transfer_snapshots`: the whole protocol.

    sagas, ascending by id ── N at a time ──> their snapshots, a page each ── N in flight ──> target: compare, save,
                                                                                              read back
    then the replay records, ascending by id, in the same way.

Everything up to the journal's mark is done and counted. A kill leaves the items behind the mark copied or not, and
their counts unwritten: the next run does them again, finds the copied ones there, and the sums are right. Failed
items are counted, named and passed; a run after the end begins from the start, where what is there costs one read.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from sagaz_tiering.clock import Clock, SystemClock
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import as_uuid
from sagaz_tiering.storage.base import SnapshotSource, SnapshotStorage
from sagaz_tiering.transfer.checkpoint import FINISHED, REPLAY_LOGS, SNAPSHOTS, Checkpoint, Identity, Standing
from sagaz_tiering.transfer.phases import Phases
from sagaz_tiering.transfer.report import Counts, TransferProgress, TransferReport
from sagaz_tiering.transfer.retry import RetryBudget, Stopped
from sagaz_tiering.transfer.source import SourceReader
from sagaz_tiering.transfer.target import Writer

_log = Logger(__name__)

DEFAULT_RETRY_BUDGET: Final = timedelta(seconds=60)
_JOURNAL_EVERY_S: Final = 0.5
_PROGRESS_EVERY_S: Final = 0.1


async def transfer_snapshots(
    source: SnapshotSource,
    target: SnapshotStorage,
    *,
    saga_ids: Iterable[UUID | str] | None = None,
    replay_logs: bool = True,
    concurrency: int = 8,
    verify: bool = True,
    dry_run: bool = False,
    journal: Path | None = None,
    restart: bool = False,
    progress: Callable[[TransferProgress], None] | None = None,
    stop: asyncio.Event | None = None,
    source_name: str | None = None,
    target_name: str | None = None,
    patience: timedelta = DEFAULT_RETRY_BUDGET,
    clock: Clock | None = None,
) -> TransferReport:
    """Copy every snapshot (or those of `saga_ids`) and replay record that `target` does not have; deletes nothing.

    What is there and equal, to the type of every value, is left alone; what is there and differs is replaced. Each
    copy is read back and compared (`verify`). `dry_run` reads both sides and writes nothing. At most `concurrency`
    items are in flight, whatever the number and size of sagas. An item whose server cannot be asked is tried again
    for `patience`, then it counts as failed and the rest goes on; see `TransferReport.exit_code`.

    With a `journal` (a file) a run that was killed or stopped goes on from where it stood, and the report counts
    from the beginning; `restart` begins anew. `progress` is called from time to time. When `stop` is set, what is
    in flight is finished and the report says `stopped`. `source_name` and `target_name` are for report and journal
    (default: from `get_storage_info`).

    Raises ValueError for a concurrency below 1, InvalidSnapshot for a bad saga id, ConfigError for a journal of
    another transfer or a source that is the target, LeaseLost if another process uses the journal, and what ends
    every item: a wrong configuration, or TierUnavailable when many items in a row met a server that cannot be asked.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1: {concurrency}")
    identity = Identity(
        source=await asyncio.to_thread(_name_of, source) if source_name is None else source_name,
        target=await asyncio.to_thread(_name_of, target) if target_name is None else target_name,
        saga_ids=None if saga_ids is None else sorted({as_uuid(each, "saga_ids") for each in saga_ids}),
        replay_logs=replay_logs,
        verify=verify,
    )
    if source is target or identity.source == identity.target:
        raise ConfigError(f"source and target are the same: {identity.source}", hint="give two places")
    stop = stop or asyncio.Event()
    waits = RetryBudget(patience, stop)
    run = _Run(
        identity=identity,
        reader=SourceReader(source, waits),
        writer=Writer(target=target, retry_budget=waits, clock=clock or SystemClock(), verify=verify, dry_run=dry_run),
        journal=None if journal is None or dry_run else Checkpoint(journal, identity),
        progress=progress,
    )
    try:
        await run.begin(restart=restart)
        done = await run.work(concurrency, stop)
    finally:
        await run.end()
    return run.report(source, dry_run=dry_run, stopped=not done)


@dataclass(kw_only=True, eq=False)
class _Run:
    """One run of a transfer: where it stands, and what it tells the journal and the caller."""

    identity: Identity
    reader: SourceReader
    writer: Writer
    journal: Checkpoint | None
    progress: Callable[[TransferProgress], None] | None

    def __post_init__(self) -> None:
        self._standing = Standing()
        self._behind_mark: Callable[[], Counts] = Counts
        self._before = {SNAPSHOTS: 0, REPLAY_LOGS: 0}
        self._seconds_before = 0.0
        self._began = self._phase_began = self._told = self._written = time.monotonic()
        self._writing = asyncio.Lock()
        self._is_open = False

    async def begin(self, *, restart: bool) -> None:
        """Open the journal, and go on from where it stands if the target still has what it says."""
        if self.journal is None:
            return
        standing = await asyncio.to_thread(self.journal.open, restart=restart)
        if standing is not None and await self._holds(standing):
            self._standing = standing
            self._seconds_before = standing.seconds
            self._before = {SNAPSHOTS: standing.snapshots.found, REPLAY_LOGS: standing.replay_logs.found}
        self._is_open = True  # only now: what is written at the end must not be less than what was read

    async def _holds(self, standing: Standing) -> bool:
        """Whether the target still has what the journal says was there; else everything is looked at again."""
        try:
            if standing.probe is None or await self.writer.has_snapshot(standing.probe):
                return True
        except Stopped:
            return True
        _log.warning("transfer.begun_again", snapshot_id=str(standing.probe), reason="the target has it no more")
        return False

    async def work(self, concurrency: int, stop: asyncio.Event) -> bool:
        """Both phases, from where it stands; False if it was stopped before the end."""
        standing, identity = self._standing, self.identity
        phases = Phases(
            reader=self.reader,
            writer=self.writer,
            standing=standing,
            concurrency=concurrency,
            stop=stop,
            moved=self._moved,
            counted=self._counted,
        )
        self._behind_mark = phases.begun
        if standing.phase == SNAPSHOTS:
            if not await phases.snapshots(identity.saga_ids):
                return False
            self._tell()
            standing.phase, standing.mark = REPLAY_LOGS, None
        self._phase_began = time.monotonic()
        if identity.replay_logs and not await phases.replay_logs(identity.saga_ids):
            return False
        self._tell()
        standing.phase, standing.mark = FINISHED, None
        return True

    async def end(self) -> None:
        """Write the journal a last time, and let it go."""
        if self.journal is None:
            return
        try:
            if self._is_open:
                await self._write(self.journal)
        finally:
            self.journal.close()

    def report(self, source: Any, *, dry_run: bool, stopped: bool) -> TransferReport:
        """What was done, by this run and those that it goes on from.

        With what a reader of foreign data could not read, took differently, and left out as expired.
        """
        standing, before = self._standing, sum(self._before.values())
        if stopped:
            self._counts().add(self._behind_mark())
        report = TransferReport(
            source=self.identity.source,
            target=self.identity.target,
            dry_run=dry_run,
            snapshots=standing.snapshots,
            replay_logs=standing.replay_logs,
            seconds=self._seconds(),
            run_seconds=self._seconds() - self._seconds_before,
            run_items=standing.snapshots.found + standing.replay_logs.found - before,
            resumed=before > 0,
            stopped=stopped,
            source_expired=int(getattr(source, "expired", 0)),
        )
        if (problems := getattr(source, "problems", None)) is not None:
            report.source_problems, report.source_problem_count = list(problems.messages), problems.count
        if (adjusted := getattr(source, "adjusted", None)) is not None:
            report.source_adjusted, report.source_adjusted_count = list(adjusted.messages), adjusted.count
        return report

    def _counts(self) -> Counts:
        """Of the running phase, up to the mark."""
        return self._standing.snapshots if self._standing.phase == SNAPSHOTS else self._standing.replay_logs

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    async def _moved(self) -> None:
        """Now and then, bring the journal up to date."""
        due = time.monotonic() >= self._written + _JOURNAL_EVERY_S
        if self.journal is not None and due and not self._writing.locked():
            await self._write(self.journal)

    async def _write(self, journal: Checkpoint) -> None:
        async with self._writing:
            self._standing.seconds = self._seconds()
            await asyncio.to_thread(journal.write, journal.render(self._standing))
            self._written = time.monotonic()

    def _counted(self) -> None:
        if self.progress is not None and time.monotonic() >= self._told + _PROGRESS_EVERY_S:
            self._tell()

    def _tell(self) -> None:
        if self.progress is None:
            return
        self._told = time.monotonic()
        counts = Counts()
        counts.add(self._counts())
        counts.add(self._behind_mark())
        columns = ("found", "copied", "already_there", "failed", "skipped", "bytes")
        self.progress(
            TransferProgress(
                phase="snapshots" if self._standing.phase == SNAPSHOTS else "replay logs",
                before=self._before[self._standing.phase],
                seconds=self._told - self._phase_began,
                **{name: getattr(counts, name) for name in columns},
            )
        )


def _name_of(storage: Any) -> str:
    """What tells one storage from another: its kind and the texts among its options (no secrets are in there)."""
    describe = getattr(storage, "get_storage_info", None)
    info: dict[str, Any] = {} if describe is None else describe()
    texts = [f"{key}={value}" for key, value in sorted(info.items()) if isinstance(value, str)]
    if not texts or info.get("storage_type") == "memory":
        # Another process has another memory, so that what a journal says of this one does not hold there.
        texts = [type(storage).__name__, f"process={os.getpid()}", f"object={id(storage):x}"]
    return " ".join(texts)
