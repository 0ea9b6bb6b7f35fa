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
from datetime import datetime
from importlib.metadata import version
from typing import Any, Final
from uuid import UUID, uuid4

from sagaz_tiering.clock import from_micros
from sagaz_tiering.codec.value import Record
from sagaz_tiering.drivers.scratch import SortedIds
from sagaz_tiering.errors import CorruptRecord, ErasedData, SnapshotArchived, SnapshotLost, Unreadable
from sagaz_tiering.exports.draft import Draft, DraftState, fingerprint, finish
from sagaz_tiering.exports.manifest import MAX_NAMED, LeftOut, LeftOutSnapshot, Manifest, RowKind, Signer
from sagaz_tiering.exports.parts import Entry, Row, SnapshotRow, check_installed
from sagaz_tiering.exports.report import ExportProgress, ExportReport, ExportWish, Telling
from sagaz_tiering.objects.base import in_pages
from sagaz_tiering.snapshot import SnapshotRef, Tier
from sagaz_tiering.tiered.load import Loaded, Loader
from sagaz_tiering.tiered.merge import Copy
from sagaz_tiering.tiered.read import Reader

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

    def __init__(self, reader: Reader, loader: Loader) -> None:
        self.tiers, self._reader, self._loader = reader.tiers, reader, loader
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
            began_at=self.tiers.clock.now(),
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
        """What is read of each, None with why where it is left out."""
        found = await self._loader.records(copies)
        refs = [copy.ref for copy in copies]
        held = await self._reader.held(refs)
        now = self.tiers.clock.now()
        marked = [replace(ref, held=ref.snapshot_id in held) for ref in refs]
        return [_entry(ref, found.get(ref.snapshot_id), now) for ref in marked]


class _Export:
    """One run of one export."""

    def __init__(
        self, exporter: Exporter, draft: Draft, state: DraftState, wish: ExportWish, tell: Telling, stop: asyncio.Event
    ) -> None:
        self._exporter, self._draft, self._state, self._wish = exporter, draft, state, wish
        self._tell, self._stop = tell, stop
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
        revision = self._exporter.tiers.policies.revision
        if revision not in self._state.policy_revisions:
            self._state.policy_revisions.append(revision)
        timelines = await self._exporter.timelines(lot)
        copies = [copy for timeline in timelines for copy in timeline]
        self._state.counts.sagas += sum(bool(timeline) for timeline in timelines)
        self._state.counts.sagas_without += sum(not timeline for timeline in timelines)
        rows = list[Row]()
        for saga_id, record in await self._exporter.tiers.catalog.replays.of_sagas(lot):
            if isinstance(record, CorruptRecord):
                self._state.counts.replays_damaged += 1
            else:
                rows.append(Row(RowKind.REPLAYS, saga_id, record))
        self._state.counts.replays += len(rows)
        writing = asyncio.create_task(self._write(rows))
        start = 0
        while start < len(copies):
            some = copies[start : _end_of_portion(copies, start, self._portion)]
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
                reason, ref = entry.left_out, entry.ref
                counts.left_out[reason] = counts.left_out.get(reason, 0) + 1
                if len(self._state.left_out) < MAX_NAMED:
                    why = entry.why or ""
                    left_out = LeftOutSnapshot(snapshot_id=ref.snapshot_id, saga_id=ref.saga_id, reason=reason, why=why)
                    self._state.left_out.append(left_out)
            rows.append(Row(RowKind.TIMELINE, entry.ref.saga_id, entry))
        counts.bytes += size
        fitting = _PORTION_BYTES * len(entries) // max(1, size)
        self._portion = max(1, min(_MOST_IN_PORTION, fitting, 2 * self._portion))
        return rows

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
            finished_at=self._exporter.tiers.clock.now(),
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
        while page := await self._exporter.tiers.catalog.holds.entries_after(after, _PAGE, few):
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


def _end_of_portion(copies: Sequence[Copy], start: int, most: int) -> int:
    """Up to where to read from `start` on: no more than so many, and no saga or frame in parts, if it is not larger."""
    end = min(start + most, len(copies))
    whole = end
    while start < whole < len(copies) and _together(copies[whole - 1]) == _together(copies[whole]):
        whole -= 1
    return end if whole == start else whole


def _together(copy: Copy) -> tuple[object, ...]:
    return (copy.ref.saga_id, None if copy.located is None else copy.located.place)


def _entry(ref: SnapshotRef, loaded: Loaded | None, now: datetime) -> tuple[Entry, Record | None]:
    """What is exported of a snapshot, that was read at `now`: where it came from, or why it is left out."""
    if ref.expires_at is not None and ref.expires_at <= now and not ref.held:
        return Entry(ref=ref, left_out=LeftOut.EXPIRED, why="it expired while the export was made"), None
    if loaded is None:
        return Entry(ref=ref, left_out=LeftOut.GONE, why="it was deleted while the export was made"), None
    if isinstance(loaded.record, Unreadable):
        reason, why = _reason(ref, loaded.record)
        return Entry(ref=ref, left_out=reason, why=why, **_place(loaded)), None
    meta, located = loaded.record.meta, loaded.located
    tier, storage_class = (Tier.HOT, None) if located is None else (located.ref.tier, located.ref.storage_class)
    read = SnapshotRef.of(meta, expires_us=None, tier=tier, storage_class=storage_class)
    entry = Entry(
        ref=replace(read, expires_at=ref.expires_at, held=ref.held),
        saved_at=from_micros(meta.saved_us),
        body_crc32=f"{meta.body_crc:08x}",
        **_place(loaded),
    )
    return entry, loaded.record


def _place(loaded: Loaded) -> dict[str, Any]:
    place = None if loaded.located is None else loaded.located.place
    if place is None:
        return {}
    return {
        "pack": place.object_key,
        "frame_offset": place.offset,
        "frame_length": place.length,
        "frame_digest": None if place.digest is None else place.digest.hex(),
    }


def _reason(ref: SnapshotRef, error: Unreadable) -> tuple[LeftOut, str]:
    if isinstance(error, SnapshotArchived):
        restore = f"sagaz-tiering restore --snapshot {ref.snapshot_id}"
        return LeftOut.ARCHIVED, f"in {error.storage_class}, and not restored; first: {restore}"
    if isinstance(error, ErasedData):
        return LeftOut.ERASED, str(error)
    return LeftOut.LOST if isinstance(error, SnapshotLost) else LeftOut.DAMAGED, str(error)
