"""What the catalog vouches for of a pack, compared with what the bucket has; and digests for packs that have none.

Packs that were published before the catalog kept digests get them once the whole object was compared with the sha256
that the catalog has of it: by `scrub`, and before a job writes anything that is made of them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.scrubbing import FrameRow
from sagaz_tiering.errors import CorruptPack
from sagaz_tiering.jobs.budget import spend_reads
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.packs.entries import Footer
from sagaz_tiering.packs.frame import frame_digest
from sagaz_tiering.packs.reader import PackReader, footer_digest, footer_part


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Rows of a pack's frames beside its footer: `wrong` ones as they should be, and `right`: all as they should be."""

    wrong: Sequence[FrameRow]
    right: Sequence[FrameRow]
    has_all_digests: bool


def compare_frames(pack: Pack, rows: Sequence[FrameRow], footer: Footer) -> Comparison:
    """Pure. Raises CorruptPack where the catalog knows a frame that the footer does not have."""
    wrong, right = [], []
    for row in rows:
        if row.frame_no >= len(footer.frames):
            raise CorruptPack(f"{pack.object_key}: has {len(footer.frames)} frames, the catalog knows {row.frame_no}")
        entry = footer.frames[row.frame_no]
        said = FrameRow(
            frame_no=row.frame_no,
            saga_id=entry.saga_id,
            byte_offset=entry.offset,
            byte_length=entry.length,
            key_id=None if entry.key_id is None else UUID(bytes=entry.key_id),
            digest=frame_digest(entry),
        )
        right.append(said)
        if row != (said if row.digest is not None else replace(said, digest=None)):
            wrong.append(said)
    return Comparison(wrong=wrong, right=right, has_all_digests=all(row.digest is not None for row in rows))


async def whole(context: JobContext, pack: Pack) -> bytes:
    """The object of a pack, as it was written. Raises CorruptPack, ObjectArchived, ObjectNotFound."""
    data = await context.objects.get(pack.object_key, most=pack.byte_size)
    if pack.sha256 and await asyncio.to_thread(lambda: hashlib.sha256(data).digest()) != pack.sha256:
        raise CorruptPack(f"{pack.object_key}: its bytes are not those that were written")
    return data


async def vouched(context: JobContext, lease: Lease, pack: Pack, job: str) -> Pack:
    """The same, with digests in the catalog; `job` pays for the look at the whole object that they may need.

    Raises CorruptPack where object and catalog do not fit: nothing must be made of it.
    """
    if pack.footer_digest is not None:
        return pack
    await spend_reads(context, job, pack.storage_class, size=pack.byte_size, must=True)
    data = footer_part(await whole(context, pack))
    footer = await PackReader(context.objects).vouched_footer(pack, data)
    compared = compare_frames(pack, await context.catalog.scrubbing.frames(pack.pack_id), footer)
    if compared.wrong:
        raise CorruptPack(
            f"{pack.object_key}: {len(compared.wrong)} frames are not where the catalog says",
            hint="run `sagaz-tiering job scrub`, which names what is wrong",
        )
    digest = footer_digest(data)
    await context.catalog.scrubbing.vouch(pack.pack_id, digest, compared.right, lease)
    return replace(pack, footer_digest=digest)
