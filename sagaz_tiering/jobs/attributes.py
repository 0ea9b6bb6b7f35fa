"""What footers say of attributes: opened as far as the keys are there, and put into the catalog."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.errors import CorruptPack, MasterKeyUnavailable
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.logs import Logger
from sagaz_tiering.packs.attributes import opened, parted, united
from sagaz_tiering.packs.entries import Footer, FrameEntry

_log = Logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A footer whose snapshots carry their attributes, but for the frames of these numbers: theirs stay `sealed`."""

    footer: Footer
    sealed: Collection[int] = ()


async def with_attributes(context: JobContext, footer: Footer, tally: Tally) -> Opened:
    """The footer with what is sealed in it opened, as far as the keys are there; what does not open is told."""
    numbers = {number for number, frame in enumerate(footer.frames) if frame.sealed_attributes is not None}
    return await _with_attributes(context, footer, numbers, tally)


async def _with_attributes(context: JobContext, footer: Footer, numbers: Collection[int], tally: Tally) -> Opened:
    if not numbers:
        return Opened(footer=footer)
    why = "their keys are not there"
    try:
        keys = await context.keys.by_id(footer.frames[number].key_id for number in numbers)
    except MasterKeyUnavailable as exc:
        keys, why = {}, str(exc)
    frames, sealed = await asyncio.to_thread(_open, footer, numbers, keys)
    if sealed:
        tally.add("attributes_sealed", len(sealed))
        tally.note(f"pack {footer.pack_id}: attributes of {len(sealed)} encrypted frames stay sealed: {why}")
    return Opened(footer=replace(footer, frames=frames), sealed=sealed)


def _open(
    footer: Footer, numbers: Collection[int], keys: Mapping[bytes, FrameKey]
) -> tuple[tuple[FrameEntry, ...], set[int]]:
    frames, sealed = list(footer.frames), set(numbers)
    for number in numbers:
        entry = frames[number]
        key = None if entry.key_id is None else keys.get(entry.key_id)
        if key is None:
            continue
        try:
            frames[number] = opened(entry, key)
        except CorruptPack as exc:
            _log.error("attributes.not_opened", pack=str(footer.pack_id), frame=number, error=str(exc))
        else:
            sealed.remove(number)
    return tuple(frames), sealed


async def mend(context: JobContext, lease: Lease, pack: Pack, footer: Footer, tally: Tally, *, sealed_too: bool) -> int:
    """Have in the catalog what the vouched footer of a pack says of what lives in it; how many frames were not so.

    What is sealed is looked at where the catalog has nothing, and else only if it is to be `sealed_too`.
    """
    live = await context.catalog.compaction.live(pack.pack_id)
    there = {number: footer.frames[number] for number in live if number < len(footer.frames)}
    numbers = {
        number
        for number, entry in there.items()
        if entry.sealed_attributes is not None and (sealed_too or not live[number].attributes)
    }
    told = await _with_attributes(context, footer, numbers, tally)
    right: dict[int, str] = {}
    for number, entry in there.items():
        if number in told.sealed or (entry.sealed_attributes is not None and number not in numbers):
            continue
        carried = {each.meta.snapshot_id: each.meta.attributes for each in told.footer.frames[number].snapshots}
        said = [(one, carried.get(one, "")) for one in live[number].expiries]
        if parted(live[number].attributes, [one for one, _ in said]) != [column for _, column in said]:
            right[number] = united(said)
    if right:
        await context.catalog.scrubbing.set_attributes(pack.pack_id, right, lease)
    return len(right)
