"""`S3RecordStore`: objects that are replaced under their key, each with a short mark that HEAD tells too."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sagaz_tiering.errors import ObjectNotFound
from sagaz_tiering.objects.base import ObjectInfo
from sagaz_tiering.objects.s3.delete import delete_unchanged
from sagaz_tiering.objects.s3.store import S3ObjectStore, object_info
from sagaz_tiering.objects.s3.upload import MARK_METADATA, Upload, send
from sagaz_tiering.storage_class import StorageClass

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import GetObjectOutputTypeDef, HeadObjectOutputTypeDef

_HASHED_ASIDE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundObject:
    """An object as it was found: `mark` as given to `replace` ("" for none); `etag` and `version_id` name this put."""

    info: ObjectInfo
    mark: str
    etag: str
    version_id: str | None


class S3RecordStore(S3ObjectStore):
    """One prefix of one bucket whose keys may be written again; of two puts at once S3 keeps the later."""

    async def replace(self, key: str, data: bytes, *, storage_class: StorageClass, mark: str = "") -> None:
        """Store `data` under `key`, all or nothing, in place of what may be there; `mark` is short ASCII.

        After an error the object may or may not appear, even later. In a bucket that keeps versions the one that was
        there stays below, until `delete` removes them all.
        """
        path = self._path(key)
        if len(data) < _HASHED_ASIDE:
            sha256 = hashlib.sha256(data).digest()
        else:
            sha256 = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
        await send(self.calls, Upload(path, data, sha256, storage_class, mark=mark))

    async def find(self, key: str) -> FoundObject | None:
        """The object without its bytes, also of an archived one; None without it (or without the bucket)."""
        try:
            answer = await self.calls.ask("HeadObject", key=self._path(key))
        except ObjectNotFound:
            return None
        return _found(key, answer)

    async def fetch(self, key: str, *, most: int) -> tuple[FoundObject, bytes]:
        """The whole object; raises ObjectNotFound, ObjectArchived.

        Raises CorruptPack where its checksum is wrong, or where it has more than `most` bytes, which are not read.
        """
        answer, data = await self._read(self._path(key), most=most)
        return _found(key, answer), data

    async def delete_unchanged(self, found: FoundObject) -> bool:
        """Remove an object with its versions, unless it was replaced or removed since it was found; whether it was.

        It is looked at right before. Where the store knows neither versions nor `If-Match`, only a replacement between
        these two requests is removed too.
        """
        path = self._path(found.info.key)
        return await delete_unchanged(self.calls, path, etag=found.etag, version_id=found.version_id)


def _found(key: str, answer: HeadObjectOutputTypeDef | GetObjectOutputTypeDef) -> FoundObject:
    return FoundObject(
        info=object_info(key, answer),
        mark=answer["Metadata"].get(MARK_METADATA, ""),
        etag=answer.get("ETag", ""),
        version_id=answer.get("VersionId"),
    )
