"""The contract of an object store: bytes under keys, with S3's law on storage classes and archives.

One contract suite (`tests/contracts/test_object_store.py`) runs against every implementation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol, TypeVar

from sagaz_tiering.errors import ObjectNotFound
from sagaz_tiering.storage_class import StorageClass

_Item = TypeVar("_Item")


class RestoreState(StrEnum):
    """Whether an archived object has a readable copy."""

    NONE = "none"
    IN_PROGRESS = "in_progress"
    READABLE = "readable"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What HEAD and LIST tell. `size` in bytes; `sha256` only where the store kept it.

    LIST fills only the first four. `modified_at` is when the object was put or last changed its class.
    """

    key: str
    size: int
    modified_at: datetime
    storage_class: StorageClass
    sha256: bytes | None = None
    restore: RestoreState = RestoreState.NONE
    readable_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteFailure:
    """One key that a delete call could not remove, and why."""

    key: str
    reason: str


class ObjectStore(Protocol):
    """Bytes under keys relative to one prefix.

    Keys are `/`-separated, without a leading slash, without `.` or `..` parts and without control characters
    (else InvalidKey). A key is written once and never overwritten, but by `swap`. Every call has a deadline. Errors are
    ObjectStoreError subclasses where the store answered, ColdTierUnavailable where it did not.
    """

    @property
    def url(self) -> str:
        """Where this is, for people; never with credentials."""

    async def check(self) -> None:
        """Raise BucketUnusable or ColdTierUnavailable unless the store answers and lets us in.

        Writes nothing.
        """

    async def server_time(self) -> datetime | None:
        """What the store's own clock says, to the second; None where it has none but this host's, or does not tell."""

    async def put(self, key: str, data: bytes | bytearray, *, storage_class: StorageClass, sha256: bytes) -> None:
        """Store `data` durably under a fresh key; `sha256` (32 bytes) is checked by the store where it can.

        Raises ObjectExists if the key is taken (where the store honours conditional writes), and
        ObjectStoreError, with nothing sent, if `data` does not hash to `sha256`. After any other error the
        object may or may not appear, even later.
        """

    async def head(self, key: str) -> ObjectInfo:
        """Size, class and restore state; raises ObjectNotFound."""

    async def get(self, key: str, *, most: int | None = None) -> bytes:
        """The whole object; raises ObjectNotFound or ObjectArchived.

        One of more than `most` bytes is CorruptPack, and is read no further than that.
        """

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Exactly `length` (at least 1) bytes from `offset`.

        Raises ObjectNotFound, ObjectArchived, or CorruptPack when the object is shorter than that.
        """

    async def get_tagged(self, key: str, *, most: int) -> tuple[bytes, str]:
        """The whole of a small object, and a tag that names this writing of it for `swap`.

        Raises as `get`.
        """

    async def swap(self, key: str, data: bytes, tag: str) -> bool:
        """Put a small object in the place of the one that `tag` names; whether `data` is what is read back then.

        All or nothing, in class STANDARD, and no old version stays. Where the store honours no condition
        (`If-Match`), two that swap at once may both be answered True: the later one is what stays. Raises
        ObjectNotFound where there is no object. After an error the new bytes may be there or not, even later.
        """

    async def change_class(self, key: str, storage_class: StorageClass) -> None:
        """Move the object in place to another class and leave no old version behind. Idempotent.

        Raises ObjectNotFound, or ObjectArchived where the bytes must be restored first.
        """

    async def restore(self, key: str, *, days: int, tier: str) -> RestoreState:
        """Ask for a readable copy for `days` (tier: Expedited, Standard or Bulk).

        Asking again is progress, not an error; an object of a readable class is READABLE already. Raises
        ObjectNotFound, or ObjectStoreError for a restore that the class does not offer.
        """

    async def delete(self, keys: Sequence[str]) -> list[DeleteFailure]:
        """Remove objects (all versions); a missing key counts as removed. Returns the failures, per key."""

    def list(self, prefix: str = "", *, start_after: str = "") -> AsyncIterator[ObjectInfo]:
        """Objects whose key starts with `prefix`, in key order, page by page."""

    async def close(self) -> None:
        """Release connections."""


async def find_object(objects: ObjectStore, key: str) -> ObjectInfo | None:
    """What `head` tells; None where there is no such object."""
    try:
        return await objects.head(key)
    except ObjectNotFound:
        return None


async def in_pages(items: AsyncIterator[_Item], size: int) -> AsyncIterator[list[_Item]]:
    """What comes one by one, such as a listing, `size` at a time; the last page may have fewer, but never none."""
    page: list[_Item] = []
    async for item in items:
        page.append(item)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page
