"""What a pack says about itself: the values that its footer holds and a catalog repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from sagaz_tiering.codec.typed_json import Encoding
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage_class import StorageClass

KeysById = Mapping[bytes, FrameKey]
Known = Mapping[bytes, Dictionary]
"""Dictionaries by id."""


class PackedSnapshot(NamedTuple):
    """A snapshot in a frame. `expires_us` is the effective expiry when it was packed (None: never)."""

    meta: SnapshotMeta
    expires_us: int | None
    encoding: Encoding


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameEntry:
    """Where a frame is in its pack and what is in it, newest snapshot first.

    `offset` and `length` (bytes, frame header included) are one range GET; `raw_length` is the payload before
    compression; `checksum` is 16 bytes of blake2b over the payload as it is stored; `dictionary_id` is 8 bytes,
    `key_id` 16 (None: not encrypted). `sealed_attributes`: those of the snapshots of an encrypted one; their metas have
    them only where they were opened (`attributes.opened`).
    """

    saga_id: UUID
    saga_name: str
    offset: int
    length: int
    raw_length: int
    checksum: bytes
    codec: int
    dictionary_id: bytes | None
    key_id: bytes | None
    snapshots: tuple[PackedSnapshot, ...]
    sealed_attributes: bytes | None = None

    @property
    def key_uuid(self) -> UUID | None:
        """The id of its key as a catalog has it."""
        return None if self.key_id is None else UUID(bytes=self.key_id)


Frames = Sequence[FrameEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPack:
    """What the catalog knows of a pack; `footer_digest` None: published before there were any."""

    pack_uuid: UUID
    object_key: str
    storage_class: StorageClass
    byte_size: int
    snapshot_count: int
    footer_digest: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributedPack(PublishedPack):
    """The same of a pack whose attributes may be told apart: `attributes_digest` None: by its footer."""

    attributes_digest: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """Everything a catalog holds about a pack. `dictionaries` are sha256 digests of dictionary objects."""

    pack_id: UUID
    catalog_id: UUID
    created_us: int
    dictionaries: tuple[bytes, ...]
    frames: tuple[FrameEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltFrame:
    """A frame's bytes, ready to be appended to any pack; its entry has offset 0.

    `key` opens an encrypted one, so that a writer can read back what it wrote; without it only the checksum is.
    `dictionary` is the one that it is compressed with.
    """

    payload: bytes
    entry: FrameEntry
    key: FrameKey | None = field(default=None, repr=False, compare=False)
    dictionary: Dictionary | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPack:
    """A finished pack, parsed back from its own bytes. `sha256` is of `data`; `dictionaries` are what it needs."""

    data: bytes | bytearray
    footer: Footer
    sha256: bytes
    dictionaries: tuple[Dictionary, ...] = ()
