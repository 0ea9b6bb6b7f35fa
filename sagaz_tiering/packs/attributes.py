"""The attributes of a frame's snapshots as one text: in the catalog (`frames.attributes`) and in the footers of packs.

    token U+001F token ..., sorted; one that not all of the snapshots carry is followed by U+001E and the beginnings, in
    hex, of the ids of those that do, sorted, joined by commas; "" for none

So what goes singly takes its values along. Beginnings are four digits, or as many more as tell the snapshots apart. The
footer has the text of an encrypted frame sealed under the key of its saga, bound to the frame: it can be copied beside
the frame, as the frame can, by who has no key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeVar
from uuid import UUID

from sagaz_tiering.attributes import MAX_COLUMN_BYTES, SEPARATOR, tokens_of
from sagaz_tiering.codec.value import Record, text_bytes
from sagaz_tiering.errors import CorruptPack
from sagaz_tiering.keys.frame_key import FrameKey, decrypt, encrypt
from sagaz_tiering.packs.entries import BuiltFrame, FrameEntry, PackedSnapshot
from sagaz_tiering.packs.frame import frame_digest

Carrier = TypeVar("Carrier", Record, PackedSnapshot)
CARRIED_BY: Final = "\x1e"
_DIGITS: Final = 4
_PURPOSE: Final = b"sagaz-tiering attributes 1"

MOST_BYTES: Final = 8 * MAX_COLUMN_BYTES
"""Of the text of a frame, for each of its snapshots: the shortest tokens, with the beginnings of their ids."""


def united(snapshots: Sequence[tuple[UUID, str]]) -> str:
    """The text of these snapshots, each an id and its column."""
    carriers: dict[str, list[UUID]] = {}
    for snapshot_id, text in snapshots:
        for token in tokens_of(text):
            carriers.setdefault(token, []).append(snapshot_id)
    if not carriers:
        return ""
    digits = _digits([snapshot_id for snapshot_id, _ in snapshots])
    everybody = len(snapshots)
    return SEPARATOR.join(
        token if len(ids) == everybody else f"{token}{CARRIED_BY}{','.join(sorted(one.hex[:digits] for one in ids))}"
        for token, ids in sorted(carriers.items())
    )


def parted(text: str, ids: Sequence[UUID]) -> list[str]:
    """The column of each of these snapshots: all that `united` was given, or some of them."""
    if not text:
        return [""] * len(ids)
    found: list[list[str]] = [[] for _ in ids]
    for part in text.split(SEPARATOR):
        token, some, those = part.partition(CARRIED_BY)
        beginnings = tuple(those.split(",")) if some else ("",)
        for tokens, snapshot_id in zip(found, ids, strict=True):
            if snapshot_id.hex.startswith(beginnings):
                tokens.append(token)
    return list(map(SEPARATOR.join, found))


def text_of(snapshots: Sequence[PackedSnapshot]) -> str:
    """The text of what these carry."""
    return united([(each.meta.snapshot_id, each.meta.attributes) for each in snapshots])


def carrying(those: Sequence[Carrier], text: str) -> tuple[Carrier, ...]:
    """The same snapshots (or records of a frame, which does not hold attributes itself), each with its own of the text.

    And no others.
    """
    columns = parted(text, [each.meta.snapshot_id for each in those])
    return tuple(
        [
            each if each.meta.attributes == own else each._replace(meta=each.meta._replace(attributes=own))
            for each, own in zip(those, columns, strict=True)
        ]
    )


def read_text(data: bytes, snapshots: Sequence[PackedSnapshot]) -> tuple[PackedSnapshot, ...]:
    """These snapshots with what `data`, a text in UTF-8, says that they carry. Raises CorruptPack."""
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as exc:
        raise CorruptPack("pack footer: attributes are not UTF-8") from exc
    found = carrying(snapshots, text)
    if text_of(found) != text:
        raise CorruptPack("pack footer: attributes of snapshots that are not in their frame, or out of order")
    return found


def sealed(frame: BuiltFrame) -> FrameEntry:
    """The entry of a frame as a footer has it: of an encrypted one with its attributes under its key.

    Without the key they stay as they were sealed.
    """
    entry = frame.entry
    if frame.key is None:
        return entry
    data = text_bytes(text_of(entry.snapshots))
    return replace(entry, sealed_attributes=encrypt(frame.key, _bound_to(entry), data) if data else None)


def opened(entry: FrameEntry, key: FrameKey | None) -> FrameEntry:
    """The entry with what its snapshots carry also where that is sealed, if `key` opens it. Raises CorruptPack."""
    if entry.sealed_attributes is None or key is None:
        return entry
    return replace(entry, snapshots=read_text(decrypt(key, _bound_to(entry), entry.sealed_attributes), entry.snapshots))


def _bound_to(entry: FrameEntry) -> bytes:
    return _PURPOSE + frame_digest(entry)


def _digits(ids: Sequence[UUID]) -> int:
    """How long a beginning tells them apart."""
    digits = _DIGITS
    while len({one.hex[:digits] for one in ids}) < len(set(ids)):
        digits += 1
    return digits
