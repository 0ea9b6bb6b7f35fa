"""`export`: chosen sagas with all that is known of them, into files that prove themselves.

    sagas, chosen once, ascending ── a lot at a time ──> their timelines ── a portion at a time ──> the snapshots

Each saga is read as any read finds it at that moment. A lot's snapshots are fetched together, a pack's frame once and
neighbours in one request; a portion is small enough to keep memory the same whatever is exported. How a run goes on
after a kill says `exports.draft`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Final
from uuid import UUID, uuid4

from sagaz_tiering.codec.value import Record
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.exports.draft import Draft, DraftState, fingerprint
from sagaz_tiering.exports.finish import finish
from sagaz_tiering.exports.manifest import MAX_NAMED, LeftOut, LeftOutSnapshot, Manifest, RowKind
from sagaz_tiering.exports.parquet import check_installed
from sagaz_tiering.exports.report import ExportProgress, ExportReport, ExportWish, Telling
from sagaz_tiering.exports.rows import Entry, Row, SnapshotRow
from sagaz_tiering.exports.signing import Signer
from sagaz_tiering.objects.base import in_pages
from sagaz_tiering.tiered.exported import end_of_portion, exported
from sagaz_tiering.tiered.load import Loader
from sagaz_tiering.tiered.merge import Copy
from sagaz_tiering.tiered.read import Reader
from sagaz_tiering.tiered.sorted_ids import SortedIds
from sagaz_tiering.tiers import InForce, Tiers

LOT: Final = 200
"""Sagas whose timelines are in memory."""
ROUND_BYTES: Final = 64 * 1024 * 1024
"""Parts are completed when so much JSON is in them, which is what a kill makes a later run read again."""
_AT_ONCE: Final = 8
_PORTION_BYTES: Final = 6 * 1024 * 1024
_MOST_IN_PORTION, _FIRST_PORTION = 500, 50
"""Snapshots that are read together; how many, the size of those before them says."""
_PAGE: Final = 1_000


class Exporter:
    """Makes exports of one storage."""

    def __init__(self, tiers: Tiers, in_force: InForce, reader: Reader, loader: Loader) -> None:
        self.catalog = tiers.catalog
        self.clock = tiers.clock
        self.in_force = in_force
        self._reader = reader
        self._loader = loader
        self.lot, self.round_bytes = LOT, ROUND_BYTES

    async def export(
        self,
        wish: ExportWish,
        sagas: AsyncIterator[UUID],
        *,
        progress: Callable[[ExportProgress], None] | None = None,
        stop: asyncio.Event | None = None,
    ) -> ExportReport:
        """Export these sagas (in any order; they are asked for only once, by the first run).

        Raises ConfigError, LeaseLost, MissingDependencyError as `Draft.begin` does, and TierUnavailable; the same wish
        goes on from where it was.
        """
        if wish.form == "parquet":
            check_installed()
        signer = None if wish.sign_with is None else await asyncio.to_thread(Signer, wish.sign_with)
        draft = Draft(wish.out.absolute(), wish.form)
        new = DraftState(
            fingerprint=fingerprint(wish.asked_for, wish.source, wish.form),
            export_id=uuid4(),
            began_at=self.clock.now(),
        )
        begin = asyncio.to_thread(draft.begin, new, restart=wish.restart, overwrite=wish.overwrite)
        try:
            run = _Export(self, draft, await begin, wish, Telling(progress), stop or asyncio.Event())
            if not await run.choose(sagas) or not await run.read():
                return run.report()
            return await run.finish(signer)
        finally:
            await asyncio.to_thread(draft.close)

    async def timelines(self, sagas: Sequence[UUID]) -> list[list[Copy]]:
        """Of each saga, oldest first."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def timeline(saga_id: UUID) -> list[Copy]:
            async with gate:
                return (await self._reader.timeline(saga_id))[::-1]

        return await asyncio.gather(*map(timeline, sagas))

    async def entries(self, copies: Sequence[Copy]) -> list[tuple[Entry, Record | None]]:
        """What is read of each, or why it is left out."""
        found = await self._loader.records(copies)
        held = await self._reader.held([copy.ref for copy in copies])
        return exported(copies, found, held, self.clock.now())


class _Export:
    """One run of one export."""

    def __init__(
        self, exporter: Exporter, draft: Draft, state: DraftState, wish: ExportWish, tell: Telling, stop: asyncio.Event
    ) -> None:
        self._exporter = exporter
        self._draft = draft
        self._state = state
        self._wish = wish
        self._tell = tell
        self._stop = stop
        self._portion = _FIRST_PORTION

    async def choose(self, sagas: AsyncIterator[UUID]) -> bool:
        """Write down which sagas are exported, unless an earlier run did; False if it was asked to stop."""
        if self._draft.selected is None:
            await asyncio.to_thread(self._draft.select_anew)
            async with SortedIds() as chosen:
                async for page in in_pages(sagas, _PAGE):
                    await chosen.add(saga_id.bytes for saga_id in page)
                    self._state.counts.selected += len(page)
                    if len(page) == _PAGE:  # it may take a while
                        self._tell("choosing sagas", self._state.counts.selected, None)
                    if self._stop.is_set():
                        return False
                async for ids in in_pages(chosen.ids(), _PAGE):
                    await asyncio.to_thread(self._draft.select, ids)
                await asyncio.to_thread(self._draft.select_done)
        self._state.counts.selected = self._draft.selected or 0
        await asyncio.to_thread(self._draft.keep, self._state)
        return True

    async def read(self) -> bool:
        """Every saga behind the mark, into parts; False if it was asked to stop."""
        counts, position, read_before = self._state.counts, 0, self._state.counts.bytes
        while not self._stop.is_set():
            page, position = await asyncio.to_thread(self._draft.sagas, self._state.mark, position)
            for start in range(0, len(page), self._exporter.lot):
                lot = page[start : start + self._exporter.lot]
                await self._read_lot(lot)
                self._state.mark = lot[-1]
                failed = sum(counts.left_out.values())
                self._tell("sagas", counts.sagas + counts.sagas_without, counts.selected, failed=failed)
                if counts.bytes - read_before >= self._exporter.round_bytes or self._stop.is_set():
                    await asyncio.to_thread(self._draft.complete, self._state)
                    read_before = counts.bytes
                if self._stop.is_set():
                    return False
            if position >= counts.selected * 16:
                return True
        return False

    async def _read_lot(self, lot: Sequence[UUID]) -> None:
        """Write all of these sagas into the open parts."""
        revision = self._exporter.in_force.policies.revision
        if revision not in self._state.policy_revisions:
            self._state.policy_revisions.append(revision)
        timelines = await self._exporter.timelines(lot)
        copies = [copy for timeline in timelines for copy in timeline]
        self._state.counts.sagas += sum(bool(timeline) for timeline in timelines)
        self._state.counts.sagas_without += sum(not timeline for timeline in timelines)
        rows = [self._replay_row(*each) for each in await self._exporter.catalog.replays.of_sagas(lot)]
        writing = asyncio.create_task(self._write([row for row in rows if row is not None]))
        start = 0
        while start < len(copies):
            some = copies[start : end_of_portion(copies, start, self._portion)]
            start += len(some)
            entries = await self._exporter.entries(some)
            await writing
            writing = asyncio.create_task(self._write(self._rows(entries)))
        await writing

    async def _write(self, rows: Sequence[Row]) -> None:
        await asyncio.to_thread(self._draft.add, rows, self._state.rounds + 1)

    def _rows(self, entries: Sequence[tuple[Entry, Record | None]]) -> list[Row]:
        """The rows of these, counted; and how many are read next."""
        counts, rows, size = self._state.counts, list[Row](), 0
        for entry, record in entries:
            counts.found += 1
            if record is not None:
                rows.append(Row(RowKind.SNAPSHOTS, entry.ref.saga_id, SnapshotRow(record, entry)))
                counts.exported += 1
                size += len(record.body)
            elif entry.left_out is not None:
                self._leave_out(entry, entry.left_out)
            rows.append(Row(RowKind.TIMELINE, entry.ref.saga_id, entry))
        counts.bytes += size
        fitting = _PORTION_BYTES * len(entries) // max(1, size)
        self._portion = max(1, min(_MOST_IN_PORTION, fitting, 2 * self._portion))
        return rows

    def _leave_out(self, entry: Entry, reason: LeftOut) -> None:
        counts, ref = self._state.counts, entry.ref
        counts.left_out[reason] = counts.left_out.get(reason, 0) + 1
        if len(self._state.left_out) < MAX_NAMED:
            named = LeftOutSnapshot(
                snapshot_id=ref.snapshot_id, saga_id=ref.saga_id, reason=reason, why=entry.why or ""
            )
            self._state.left_out.append(named)

    def _replay_row(self, saga_id: UUID, record: dict[str, Any] | CorruptRecord) -> Row | None:
        if isinstance(record, CorruptRecord):
            self._state.counts.replays_damaged += 1
            return None
        self._state.counts.replays += 1
        return Row(RowKind.REPLAYS, saga_id, record)

    async def finish(self, signer: Signer | None) -> ExportReport:
        """The holds log, the manifest, and all of it to its place."""
        if RowKind.HOLDS not in {part.kind for part in self._state.parts}:
            await self._write_holds()
            await asyncio.to_thread(self._draft.complete, self._state)
        state, wish = self._state, self._wish
        manifest = Manifest(
            export_id=state.export_id,
            form=wish.form,
            made_by=f"sagaz-tiering {version('sagaz-tiering')}",
            who=wish.who,
            source=wish.source,
            asked_for=wish.asked_for,
            policy_revisions=state.policy_revisions,
            began_at=state.began_at,
            finished_at=self._exporter.clock.now(),
            runs=state.runs,
            counts=state.counts,
            left_out=state.left_out,
            parts=state.parts,
            public_key=None if signer is None else signer.public_key,
        )
        digest = await asyncio.to_thread(finish, self._draft, manifest, signer, overwrite=wish.overwrite)
        return replace(self.report(), stopped=False, manifest_sha256=digest, public_key=manifest.public_key)

    async def _write_holds(self) -> None:
        """What was ever held and released of the exported sagas, and by match, which may mean any."""
        after, few = 0, None
        if (self._draft.selected or 0) <= _PAGE:
            few, _ = await asyncio.to_thread(self._draft.sagas, None, 0)
        while page := await self._exporter.catalog.holds.entries_after(after, _PAGE, few):
            after = page[-1]["entry_id"]
            told = [entry["saga_id"] for entry in page if entry["saga_id"] is not None]
            chosen = await asyncio.to_thread(self._draft.chosen, told)
            rows = [Row(RowKind.HOLDS, None, e) for e in page if e["saga_id"] is None or e["saga_id"] in chosen]
            self._state.counts.holds += len(rows)
            await self._write(rows)

    def report(self) -> ExportReport:
        """How far it is."""
        return ExportReport(
            out=str(self._draft.out),
            form=self._wish.form,
            export_id=self._state.export_id,
            stopped=True,
            runs=self._state.runs,
            counts=self._state.counts,
            left_out=self._state.left_out,
        )
