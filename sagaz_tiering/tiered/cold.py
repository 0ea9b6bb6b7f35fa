"""Snapshots out of packs: frames fetched once each, a few at a time, archived ones answered with the promise.

And the restore that such an answer names: asking for archived snapshots to come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TypeAlias
from uuid import UUID

from sagaz_tiering.catalog.locations import FrameLocation, SnapshotLocation
from sagaz_tiering.catalog.restores import Restore, Wanted
from sagaz_tiering.codec.value import Record
from sagaz_tiering.drivers import traces
from sagaz_tiering.errors import (
    ConfigError,
    CorruptData,
    CorruptPack,
    ErasedData,
    ObjectArchived,
    ObjectNotFound,
    ObjectStoreError,
    SnapshotArchived,
    Unreadable,
)
from sagaz_tiering.packs.reader import PackReader
from sagaz_tiering.snapshot import SnapshotRef
from sagaz_tiering.storage.answers import check_place
from sagaz_tiering.tiers import Tiers

_Frame: TypeAlias = list[Record] | CorruptData | None
"""What is in one, what is wrong with it, or None: it is archived."""
_AT_ONCE = 8
_GAP_BYTES = 64 * 1024
"""Bytes between two frames that are read along: in STANDARD_IA about 100 KB cost what another request does."""
_RUN_BYTES = 2 * 1024 * 1024
"""Frames that are read together are no more than this, as they are stored."""
_INTO = ("hot", "in-place")
_GONE = "someone deleted it behind our back; restore it from a bucket version or backup"
_DAMAGED = (
    "`sagaz-tiering job scrub --once --all` names every object that is damaged, in `sagaz-tiering quarantine list`; "
    "put it back under the same key, from a version or a replica; then: sagaz-tiering quarantine retry KEY"
)


class ColdTier:
    """Reads archived snapshots by their places."""

    def __init__(self, tiers: Tiers) -> None:
        self._prices, self._keys, self._locations = tiers.prices, tiers.keys, tiers.catalog.locations
        self._reader = PackReader(tiers.objects, tiers.dictionaries)

    async def read(self, located: Sequence[SnapshotLocation]) -> dict[UUID, Record | Unreadable]:
        """The records of these archived snapshots, by id, or why one cannot be read; one GET a frame or neighbours.

        That is SnapshotArchived naming all of these that are archived, CorruptData, and of encrypted ones ErasedData
        where the key is gone (archived or not). Raises ColdTierUnavailable, MasterKeyUnavailable.
        """
        wanted: dict[FrameLocation, list[SnapshotRef]] = {}
        for item in located:
            if item.place is not None:
                wanted.setdefault(item.place, []).append(item.ref)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def fetch(run: Sequence[FrameLocation]) -> dict[FrameLocation, _Frame]:
            pack_id, storage_class = run[0].object_key.rpartition("/")[2].removesuffix(".pack"), run[0].storage_class
            async with gate:
                with traces.span("pack.read", pack_id=pack_id, storage_class=storage_class.value, frames=len(run)):
                    return await self._frames(run)

        frames = dict[FrameLocation, _Frame]()
        for some in await asyncio.gather(*map(fetch, _neighbours(wanted))):
            frames |= some
        found: dict[UUID, Record | Unreadable] = {}
        for place, refs in wanted.items():
            found.update(_of_frame(refs, frames[place], place))
        archived = [place for place in wanted if frames[place] is None]
        if archived:
            ids = [ref.snapshot_id for place in archived for ref in wanted[place]]
            found.update(dict.fromkeys(ids, self._promise(archived, ids)))
        return found

    async def _frames(self, run: Sequence[FrameLocation]) -> dict[FrameLocation, _Frame]:
        """Those of a run, in one GET; what is wrong with one is no matter of the others."""
        data, first = None, run[0]
        if len(run) > 1:
            try:
                length = run[-1].offset + run[-1].length - first.offset
                data = await self._reader.neighbours(first.object_key, first.offset, length)
            except ObjectArchived:
                return dict.fromkeys(run)
            except (ObjectNotFound, CorruptPack):  # each by itself tells
                data = None
        found = dict[FrameLocation, _Frame]()
        for place in run:
            start = place.offset - first.offset
            found[place] = await self._frame(place, None if data is None else data[start : start + place.length])
        return found

    async def _frame(self, place: FrameLocation, payload: bytes | None) -> _Frame:
        try:
            return await self._reader.frame(
                place.object_key,
                place.offset,
                place.length,
                vouched=place.digest,
                most=place.most,
                frame_key=await self._keys.for_frame(encrypted=place.encrypted, wrapped=place.key),
                payload=payload,
            )
        except ObjectArchived:
            return None
        except ErasedData as exc:  # the object is as it should be
            return exc
        except CorruptData as exc:
            return _placed(exc, place)
        except ObjectNotFound as exc:
            gone = CorruptPack(f"the catalog names an object that the store does not have: {exc}", hint=_GONE)
            gone.__cause__ = exc
            return gone

    async def saved_us(self, snapshot_ids: Sequence[UUID]) -> dict[UUID, int]:
        """When the packed save of each of these was made, as the footers tell; archived bytes are not needed.

        What is in no pack, or in one whose footer cannot be read, is left out. Raises CatalogUnavailable,
        ColdTierUnavailable.
        """
        packed = await self._locations.packs_of(snapshot_ids) if snapshot_ids else {}
        found: dict[UUID, int] = {}
        for pack in {each.pack_id: each for each in packed.values()}.values():
            try:
                footer = await self._reader.footer(pack)
            except (ObjectStoreError, CorruptPack):
                continue
            for meta in (snapshot.meta for entry in footer.frames for snapshot in entry.snapshots):
                if meta.snapshot_id in packed and packed[meta.snapshot_id].pack_id == pack.pack_id:
                    found[meta.snapshot_id] = meta.saved_us
        return found

    def _promise(self, places: Sequence[FrameLocation], snapshot_ids: Sequence[UUID]) -> SnapshotArchived:
        storage_class = places[0].storage_class
        sizes = {place.object_key: place.object_size for place in places}
        keys, size = sorted(sizes), sum(sizes.values()) // len(sizes)
        return SnapshotArchived(
            storage_class=storage_class.value,
            snapshot_ids=snapshot_ids,
            object_keys=keys,
            options=self._prices.restore_options(storage_class, size, len(keys)),
            how_to_restore=_how_to_restore(snapshot_ids),
        )


class Restorer:
    """Requests restores with the configured defaults; `met` does so where a read meets archived bytes."""

    def __init__(self, tiers: Tiers) -> None:
        self._tiers = tiers

    async def request(
        self, wanted: Wanted, *, tier: str | None = None, days: int | None = None, into: str = "hot", who: str
    ) -> Restore | None:
        """The request (a new one, or the same that is under way); None where nothing is archived."""
        if into not in _INTO:
            raise ConfigError(f"into={into!r} is not a place to restore into", hint=f"one of {', '.join(_INTO)}")
        self._tiers.in_force.check_match(wanted.match)
        usual = self._tiers.settings.restore
        return await self._tiers.catalog.restores.request(
            wanted,
            retrieval=usual.tier if tier is None else tier,
            days=usual.days if days is None else days,
            into_hot=into == "hot",
            who=who,
            now=self._tiers.clock.now(),
            prices=self._tiers.prices,
        )

    async def met(self, archived: SnapshotArchived) -> None:
        """A read met this: with `on_archived: request` the restore is asked for, and the error tells its id."""
        if self._tiers.settings.restore.on_archived == "request":
            asked = await self.request(Wanted(snapshot_ids=archived.snapshot_ids), who="on_archived: request")
            archived.restore_id = None if asked is None else asked.restore_id


def _neighbours(places: Iterable[FrameLocation]) -> list[list[FrameLocation]]:
    """The places grouped so that those of a group are read in one GET."""
    runs: list[list[FrameLocation]] = []
    for place in sorted(places, key=lambda each: (each.object_key, each.offset)):
        if runs:
            first, last = runs[-1][0], runs[-1][-1]
            gap = place.offset - (last.offset + last.length)
            is_near = place.object_key == last.object_key and 0 <= gap <= _GAP_BYTES
            if is_near and place.offset + place.length - first.offset <= _RUN_BYTES:
                runs[-1].append(place)
                continue
        runs.append([place])
    return runs


def _placed(error: CorruptData, place: FrameLocation) -> CorruptData:
    """The same error, with the object and the frame that it was met in, and what to do about it."""
    where = f"{place.object_key}, the frame at byte {place.offset}"
    found = type(error)(f"{where}: {error}", hint=error.hint or _DAMAGED)
    found.__cause__ = error
    return found


def _of_frame(refs: Sequence[SnapshotRef], frame: _Frame, place: FrameLocation) -> dict[UUID, Record | Unreadable]:
    """What a frame has of these. It may hold an older save of a snapshot whose place is in another frame."""
    if not isinstance(frame, list):
        return {} if frame is None else dict.fromkeys([ref.snapshot_id for ref in refs], frame)
    records = {record.meta.snapshot_id: record for record in frame}
    found: dict[UUID, Record | Unreadable] = {}
    for ref in refs:
        record = records.get(ref.snapshot_id)
        if record is None:
            missing = CorruptPack(f"it does not hold snapshot {ref.snapshot_id}, which the catalog places in it")
            found[ref.snapshot_id] = _placed(missing, place)
            continue
        try:
            check_place(record.meta, ref)
            found[ref.snapshot_id] = record
        except CorruptData as exc:
            found[ref.snapshot_id] = _placed(exc, place)
    return found


def _how_to_restore(snapshot_ids: Sequence[UUID]) -> str:
    """A command that works as it is, for the first few."""
    named = " ".join(f"--snapshot {snapshot_id}" for snapshot_id in snapshot_ids[:3])
    more = f" (and {len(snapshot_ids) - 3} more; or name the saga)" if len(snapshot_ids) > 3 else ""
    return f"sagaz-tiering restore {named}{more}, or storage.restore(...); reads work once it is ready"
