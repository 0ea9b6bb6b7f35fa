"""The frames of a pack that is written anew: what lives in the old ones, parts of a saga together where they fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sagaz_tiering.catalog.compaction import LiveFrame
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.codec.value import Record
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.jobs.age.frames import chunks
from sagaz_tiering.jobs.attributes import newest_footer
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.jobs.vouching import vouched
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.packs.attributes import attributed, carrying
from sagaz_tiering.packs.entries import BuiltFrame, FrameEntry
from sagaz_tiering.packs.frame import build_frame, open_frame
from sagaz_tiering.packs.reader import PackReader


@dataclass(frozen=True, slots=True, kw_only=True)
class _Supplies:
    """What frames are opened and written anew with; `current` are the keys that sagas are encrypted with by now."""

    keys: Mapping[bytes, FrameKey]
    current: Mapping[UUID, FrameKey]
    known: Mapping[bytes, Dictionary]
    dictionary: Dictionary | None
    level: int

    def key_of(self, entry: FrameEntry) -> FrameKey | None:
        """What opens a frame; None where it is not encrypted, or its key is gone."""
        return None if entry.key_id is None else self.keys.get(entry.key_id)

    def build(self, records: Sequence[tuple[Record, int | None]], key: FrameKey | None) -> BuiltFrame:
        """A new frame."""
        return build_frame(records, level=self.level, key=key, dictionary=self.dictionary)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OldFrame:
    """A frame of an old pack, and what lives of it with the expiry and the attributes that the catalog has by now."""

    object_key: str
    entry: FrameEntry
    live: LiveFrame

    @property
    def expiries(self) -> Mapping[UUID, int | None]:
        return self.live.expiries

    @property
    def newest(self) -> tuple[int, int, int]:
        return self.entry.snapshots[0].meta.order_key

    @property
    def is_whole(self) -> bool:
        return len(self.expiries) == len(self.entry.snapshots)

    def as_it_is(self, payload: bytes, supplies: _Supplies) -> BuiltFrame:
        """Byte for byte."""
        entry, dictionary_id = self.entry, self.entry.dictionary_id
        dated = [each._replace(expires_us=self.expiries[each.meta.snapshot_id]) for each in entry.snapshots]
        return BuiltFrame(
            payload=payload,
            entry=replace(entry, offset=0, snapshots=carrying(dated, self.live.attributes)),
            key=supplies.key_of(entry),
            dictionary=None if dictionary_id is None else supplies.known.get(dictionary_id),
        )

    def living(self, payload: bytes, supplies: _Supplies) -> list[tuple[Record, int | None]]:
        """Its records that live, each with its expiry and its attributes."""
        entry = self.entry
        records = open_frame(
            payload, key=supplies.key_of(entry), dictionaries=supplies.known, most=len(entry.snapshots)
        )
        found = [(record, record.meta.snapshot_id) for record in attributed(records, self.live.attributes)]
        return [(record, self.expiries[snapshot_id]) for record, snapshot_id in found if snapshot_id in self.expiries]


async def live_frames(context: JobContext, lease: Lease, packs: Sequence[Pack]) -> AsyncIterator[BuiltFrame]:
    """The frames of these packs without their dead snapshots, in order, each saga where its first frame was.

    Frames of a saga that together are no larger than a frame may be become one, if that saves bytes; the others stay
    byte for byte where all of a frame lives. Only what the catalog vouches for: the new pack's digests would vouch for
    whatever is written into it.
    """
    sagas: dict[tuple[UUID, str], list[_OldFrame]] = {}
    for pack in packs:
        for old in await _old_frames(context, lease, pack):
            sagas.setdefault((old.entry.saga_id, old.entry.saga_name), []).append(old)
    most = context.settings.tiers.cold.pack.max_frame
    for frames in sagas.values():
        frames.sort(key=lambda old: old.newest, reverse=True)
    groups = [some for frames in sagas.values() for some in chunks(frames, lambda old: old.entry.raw_length, most)]
    keys = await context.keys.by_id(old.entry.key_id for some in groups for old in some)
    merged = {some[0].entry.saga_id for some in groups if len(some) > 1 and any(o.entry.key_id for o in some)}
    current = await context.keys.for_writing(merged, context.now) if merged else {}
    reader = PackReader(context.objects)
    for some in groups:
        payloads = [await reader.frame_bytes(old.object_key, old.entry) for old in some]
        supplies = _Supplies(
            keys=keys,
            current=current,
            known=await context.dictionaries.need(*{old.entry.dictionary_id for old in some}),
            dictionary=context.dictionaries.for_writing(some[0].entry.saga_name),
            level=context.settings.tiers.cold.pack.level,
        )
        for frame in await asyncio.to_thread(_kept, some, payloads, supplies):
            yield frame


async def _old_frames(context: JobContext, lease: Lease, pack: Pack) -> list[_OldFrame]:
    pack = await vouched(context, lease, pack, "compact")
    live = await context.catalog.compaction.live(pack.pack_id)
    footer = await newest_footer(context, pack, thawed=True)
    return [
        _OldFrame(object_key=pack.object_key, entry=entry, live=live[number])
        for number, entry in enumerate(footer.frames)
        if number in live
    ]


def _kept(frames: Sequence[_OldFrame], payloads: Sequence[bytes], supplies: _Supplies) -> list[BuiltFrame]:
    """These frames of one saga in one, or each by itself where that is no larger."""
    pairs = list(zip(frames, payloads, strict=True))
    if len(frames) > 1 and all(old.entry.key_id is None or old.entry.key_id in supplies.keys for old in frames):
        records = [record for old, payload in pairs for record in old.living(payload, supplies)]
        together = supplies.build(records, supplies.current.get(frames[0].entry.saga_id))
        if len(together.payload) < sum(map(len, payloads)):
            return [together]
    return [
        old.as_it_is(payload, supplies)
        if old.is_whole
        else supplies.build(old.living(payload, supplies), supplies.key_of(old.entry))
        for old, payload in pairs
    ]
