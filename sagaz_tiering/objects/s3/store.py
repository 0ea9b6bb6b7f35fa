"""`S3ObjectStore`: the object store contract on Amazon S3 and what speaks its protocol."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self

from botocore.exceptions import BotoCoreError, ProfileNotFound

from sagaz_tiering import errors, metrics
from sagaz_tiering.drivers.aws import NO_PROFILE_HINT, aws_session
from sagaz_tiering.objects import arguments
from sagaz_tiering.objects.base import DeleteFailure, ObjectInfo, RestoreState
from sagaz_tiering.objects.s3.answers import FoundObject, error_code, lacks_feature, object_info, storage_class_of
from sagaz_tiering.objects.s3.calls import S3Calls
from sagaz_tiering.objects.s3.delete import delete, delete_unchanged, drop_replaced
from sagaz_tiering.objects.s3.options import S3Options
from sagaz_tiering.objects.s3.upload import Upload, change_class, send, swap
from sagaz_tiering.storage_class import StorageClass

if TYPE_CHECKING:
    from aiobotocore.response import StreamingBody
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import GetObjectOutputTypeDef

_PIECE = 2**20
_HASHED_ASIDE = 2**20
PAGE = 1000
"""S3's limit on the keys of one listing page."""


class S3ObjectStore:
    """One prefix of one bucket: `await S3ObjectStore.open(options)`, then `close()` or `async with`."""

    def __init__(self, calls: S3Calls, resources: AsyncExitStack) -> None:
        self.calls = calls
        """The client and the rules of its use, for what the contract has no word for (`bucket`, `probe`)."""
        self._resources = resources
        self._base = f"{calls.options.prefix}/" if calls.options.prefix else ""

    @classmethod
    async def open(cls, options: S3Options) -> Self:
        """A store with its one client. Asks nobody, not even for credentials: `check()` tells whether we are let in.

        Raises ConfigError for an endpoint that is no URL, or an AWS profile that does not exist.
        """
        # The SDK wants a region for signing even where the store has none.
        region = options.settings.region or ("us-east-1" if options.settings.endpoint_url else None)
        async with AsyncExitStack() as opening:
            try:
                session = aws_session(region=region, **options.credentials())
                client: S3Client = await opening.enter_async_context(
                    session.client(
                        "s3",
                        endpoint_url=options.settings.endpoint_url,
                        verify=options.trusts,
                        config=options.client_config(),
                    )
                )
            except (BotoCoreError, ValueError) as exc:
                other = f"check {options.names.place} (endpoint_url, region), AWS_PROFILE and other AWS_… variables"
                raise errors.ConfigError(
                    f"no S3 client can be made for bucket {options.bucket}: {exc}",
                    hint=NO_PROFILE_HINT if isinstance(exc, ProfileNotFound) else other,
                ) from exc
            calls = S3Calls(client, options)
            calls.home.check()
            limit = metrics.POOL_LIMIT.labels(server="object_store")
            limit.inc(options.max_connections)
            opening.callback(limit.dec, options.max_connections)
            return cls(calls, opening.pop_all())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Release connections."""
        await self.calls.home.close(self._resources.aclose)

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        options = self.calls.options
        return f"s3://{options.bucket}/{options.prefix}".rstrip("/")

    async def check(self) -> None:
        """See `ObjectStore.check`. On AWS a bucket in another region than the configured is refused too."""
        options = self.calls.options
        answer = await self.calls.ask("HeadBucket")
        region, wanted = answer.get("BucketRegion"), options.settings.region
        if options.settings.endpoint_url is None and wanted and region and region != wanted:
            raise errors.BucketUnusable(
                f"bucket {options.bucket} is in {region}, not in {wanted}", hint=f"set {options.names.region}: {region}"
            )

    async def server_time(self) -> datetime | None:
        """See `ObjectStore.server_time`."""
        answer = await self.calls.ask("HeadBucket")
        told = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
        try:
            return parsedate_to_datetime(told).astimezone(UTC)
        except ValueError:
            return None

    async def put(self, key: str, data: bytes | bytearray, *, storage_class: StorageClass, sha256: bytes) -> None:
        """See `ObjectStore.put`."""
        path = self._path(key)
        await asyncio.to_thread(arguments.check_data, key, data, sha256)
        await send(self.calls, Upload(path, data, sha256, storage_class, fresh=True))

    async def head(self, key: str) -> ObjectInfo:
        """See `ObjectStore.head`."""
        try:
            answer = await self.calls.ask("HeadObject", key=self._path(key))
        except errors.ObjectNotFound:
            await self.check()  # HEAD answers 404 without a reason: BucketUnusable if it is the bucket that is missing
            raise
        return object_info(key, answer)

    async def get(self, key: str, *, most: int | None = None) -> bytes:
        """See `ObjectStore.get`."""
        return (await self._read(self._path(key), most=most))[1]

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `ObjectStore.get_range`."""
        arguments.check_range(offset, length)
        path = self._path(key)
        try:
            asked = f"bytes={offset}-{offset + length - 1}"
            answer, data = await self._read(path, room=offset + length, Range=asked)
        except errors.ObjectStoreError as exc:
            if error_code(exc) not in ("InvalidRange", "416"):
                raise
            raise errors.CorruptPack(f"{path} ends before byte {offset}") from exc
        # A store, or a proxy before it, that ignores Range sends everything.
        if answer["ResponseMetadata"]["HTTPStatusCode"] == 200:
            data = data[offset : offset + length]
        return arguments.check_length(path, data, offset, length)

    async def get_tagged(self, key: str, *, most: int) -> tuple[bytes, str]:
        """See `ObjectStore.get_tagged`."""
        answer, data = await self._read(self._path(key), most=most)
        return data, f"{answer.get('ETag', '')} {answer.get('VersionId', '')}"

    async def swap(self, key: str, data: bytes, tag: str) -> bool:
        """See `ObjectStore.swap`."""
        path, (etag, version) = self._path(key), tag.split(" ")
        try:
            await swap(self.calls, Upload(path, data, hashlib.sha256(data).digest(), StorageClass.STANDARD), etag)
        except errors.ObjectExists:
            return False
        answer, found = await self._read(self._path(key), most=max(len(data), arguments.MOST_READ_BACK))
        await drop_replaced(self.calls, path, old=version, now=answer.get("VersionId"))
        return found == data

    async def change_class(self, key: str, storage_class: StorageClass) -> None:
        """See `ObjectStore.change_class`."""
        path = self._path(key)
        try:
            await change_class(self.calls, path, storage_class)
        except errors.ObjectNotFound:
            await self.check()  # as in `head`
            raise

    async def restore(self, key: str, *, days: int, tier: str) -> RestoreState:
        """See `ObjectStore.restore`."""
        arguments.check_restore(days, tier)
        request = {"Days": days, "GlacierJobParameters": {"Tier": tier}}
        try:
            answer = await self.calls.ask("RestoreObject", key=self._path(key), RestoreRequest=request)
        except errors.ObjectArchived:  # S3 says "invalid object state" for a class that needs no restore
            if (await self.head(key)).storage_class.is_archive:
                raise
            return RestoreState.READABLE
        except errors.ObjectStoreError as exc:
            if error_code(exc) == "RestoreAlreadyInProgress":
                return RestoreState.IN_PROGRESS
            if lacks_feature(exc) and await self._reads(key):
                return RestoreState.READABLE
            raise
        # 202 accepts a restore; 200 prolongs a copy that is readable already.
        done = answer["ResponseMetadata"]["HTTPStatusCode"] == 200
        return RestoreState.READABLE if done else RestoreState.IN_PROGRESS

    async def delete(self, keys: Sequence[str]) -> list[DeleteFailure]:
        """See `ObjectStore.delete`."""
        failures = await delete(self.calls, [self._path(key) for key in keys])
        return [replace(failure, key=failure.key.removeprefix(self._base)) for failure in failures]

    async def list(
        self, prefix: str = "", *, start_after: str = "", first_page: int = PAGE
    ) -> AsyncGenerator[ObjectInfo, None]:
        """See `ObjectStore.list`. Each page starts after the last key seen, so a listing may take hours.

        The first request asks for `first_page` keys, later ones for as many as there may be.
        """
        under, after = self._base + arguments.check_list_prefix(prefix), self._base + start_after if start_after else ""
        size: dict[str, Any] = {"MaxKeys": max(1, first_page)} if first_page < PAGE else {}
        while True:
            start: dict[str, Any] = {"StartAfter": after} if after else {}
            page = await self.calls.ask("ListObjectsV2", Prefix=under, **size, **start)
            for entry in page.get("Contents", []):
                after = entry["Key"]
                if key := after.removeprefix(self._base):  # consoles create an empty object for a "folder"
                    yield ObjectInfo(
                        key=key,
                        size=entry["Size"],
                        modified_at=entry["LastModified"].astimezone(UTC),
                        storage_class=storage_class_of(entry.get("StorageClass")),
                    )
            if not page.get("IsTruncated") or not page.get("Contents"):
                return
            size = {}

    async def _reads(self, key: str) -> bool:
        """Whether the bytes can be read. A store that has archive classes by name only restores nothing."""
        try:
            await self.get_range(key, 0, 1)
        except errors.ObjectArchived:
            return False
        return True

    def _path(self, key: str) -> str:
        return self._base + arguments.check_key(key, room=arguments.MAX_KEY_BYTES - len(self._base.encode()))

    async def _read(
        self, path: str, *, most: int | None = None, room: int | None = None, **more: Any
    ) -> tuple[GetObjectOutputTypeDef, bytes]:
        """Answer and body, of a longer body the first `room` bytes; one that is cut short is asked for again.

        Raises CorruptPack for a body of more than `most` bytes.
        """
        room = room if most is None else most + 1

        async def attempt() -> tuple[GetObjectOutputTypeDef, bytes]:
            answer = await self.calls.client.get_object(Bucket=self.calls.options.bucket, Key=path, **more)
            async with answer["Body"]:
                told = answer.get("ContentLength")  # an answer in chunks does not tell
                if most is not None:
                    arguments.check_size(path, told or 0, most)
                body = await _bytes(answer["Body"], told, room)
            if most is not None:
                arguments.check_size(path, len(body), most)
            return answer, body

        return await self.calls.run("GetObject", attempt, key=path)


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
        except errors.ObjectNotFound:
            return None
        return FoundObject.of(key, answer)

    async def fetch(self, key: str, *, most: int) -> tuple[FoundObject, bytes]:
        """The whole object; raises ObjectNotFound, ObjectArchived.

        Raises CorruptPack where its checksum is wrong, or where it has more than `most` bytes, which are not read.
        """
        answer, data = await self._read(self._path(key), most=most)
        return FoundObject.of(key, answer), data

    async def delete_unchanged(self, found: FoundObject) -> bool:
        """Remove an object with its versions, unless it was replaced or removed since it was found; whether it was.

        It is looked at right before. Where the store knows neither versions nor `If-Match`, only a replacement between
        these two requests is removed too.
        """
        path = self._path(found.info.key)
        return await delete_unchanged(self.calls, path, etag=found.etag, version_id=found.version_id)


async def _bytes(body: StreamingBody, told: int | None, room: int | None) -> bytes:
    """All of a body of `told` bytes, or the first `room` bytes of one that is or may be longer."""
    if room is None or (told is not None and told <= room):
        return await body.read()
    found = bytearray()
    while piece := await body.read(min(_PIECE, room - len(found))):
        found += piece
        if len(found) == room:
            break
    return bytes(found)
