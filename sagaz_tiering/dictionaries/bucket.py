"""Compression dictionaries as objects: `dictionaries/<sha256>`, written once, never deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from hashlib import sha256

from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.errors import ColdTierUnavailable, CorruptData, ObjectExists, ObjectNotFound
from sagaz_tiering.objects.base import ObjectInfo, ObjectStore
from sagaz_tiering.storage_class import StorageClass

PREFIX = "dictionaries/"
MOST_BYTES = 16 * 2**20
"""Many times what is ever trained: anyone who may write to the bucket could put gigabytes there."""


def dictionary_key(digest: bytes) -> str:
    """Where the dictionary with this sha256 is."""
    return f"{PREFIX}{digest.hex()}"


def digest_in(key: str) -> bytes | None:
    """The sha256 that a key names; None for a foreign one."""
    name = key.removeprefix(PREFIX)
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        return None
    return digest if digest.hex() == name and len(digest) == sha256().digest_size else None


class BucketDictionaries:
    """The bucket as a source of the dictionary cache: the last one, which needs neither Redis nor the catalog."""

    place = "the bucket"

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def fetch(self, dictionary_id: bytes) -> bytes | None:
        """The content of one, found by the beginning of its name; None where there is none."""
        async for info in self._objects.list(f"{PREFIX}{dictionary_id.hex()}"):
            if (digest := digest_in(info.key)) is not None:
                with suppress(CorruptData, ObjectNotFound):  # anyone could have put it there; `scrub` names it
                    return (await self.get(digest)).data
        return None

    async def has(self, dictionary: Dictionary) -> bool:
        """Whether an object of its name and size is there."""
        try:
            return (await self._objects.head(dictionary_key(dictionary.digest))).size == len(dictionary.data)
        except ObjectNotFound:
            return False

    async def replace(self, dictionary: Dictionary) -> None:
        """Put one in the place of an object that has its name and other bytes. Raises as `put`."""
        for failure in await self._objects.delete([dictionary_key(dictionary.digest)]):
            raise ColdTierUnavailable(f"{failure.key}: cannot be replaced: {failure.reason}")
        await self.put(dictionary)

    async def put(self, dictionary: Dictionary) -> None:
        """Store one, unless it is there, and make sure that it reads back. Raises CorruptData if it does not."""
        key = dictionary_key(dictionary.digest)
        with suppress(ObjectExists):
            await self._objects.put(key, dictionary.data, storage_class=StorageClass.STANDARD, sha256=dictionary.digest)
        try:
            await self.get(dictionary.digest)
        except ObjectNotFound as exc:
            raise ColdTierUnavailable(f"{key}: written, but not there: {exc}") from exc

    async def get(self, digest: bytes) -> Dictionary:
        """One, verified; what is too large to be one is not read. Raises CorruptData, ObjectNotFound."""
        key = dictionary_key(digest)
        data = await self._objects.get(key, most=MOST_BYTES)
        if sha256(data).digest() != digest:
            raise CorruptData(f"{key}: its bytes are not those that its name says")
        return Dictionary(data)

    def all(self) -> AsyncIterator[ObjectInfo]:
        """Every object under the prefix, foreign ones too."""
        return self._objects.list(PREFIX)
