"""Writing one object to S3: in one request, in parts above a size, or by a copy in place that changes its class."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from functools import partial
from typing import Any, NamedTuple
from uuid import uuid4

from botocore.exceptions import ClientError

from sagaz_tiering.errors import ColdTierUnavailable, ObjectExists, ObjectNotFound, ObjectStoreError
from sagaz_tiering.objects.s3.answers import MARK_METADATA, SHA256_METADATA, lacks_feature, storage_class_of
from sagaz_tiering.objects.s3.calls import S3Calls
from sagaz_tiering.objects.s3.delete import drop_old_versions, drop_replaced
from sagaz_tiering.storage_class import StorageClass

PUT_METADATA = "put"

Data = bytes | bytearray


class Upload(NamedTuple):
    """What is stored under which full key, in place of what may be there, with `mark` in its metadata.

    `fresh`: never over another object (with `If-None-Match`, where honoured).
    """

    key: str
    data: Data
    sha256: bytes
    storage_class: StorageClass
    mark: str = ""
    fresh: bool = False


async def swap(calls: S3Calls, upload: Upload, etag: str) -> None:
    """Store it in place of the put that `etag` names; raises ObjectExists where another one is there.

    On a store without `If-Match`, or one that compares it with something else, the last look decides.
    """
    try:
        await send(calls, upload, IfMatch=etag)
    except ObjectStoreError as exc:
        if not (isinstance(exc, ObjectExists) or lacks_feature(exc)):
            raise
        if (await calls.ask("HeadObject", key=upload.key)).get("ETag", "") != etag:
            said = f"PutObject of {upload.key}: it was replaced meanwhile; nothing was overwritten"
            raise ObjectExists(said) from exc
        await send(calls, upload)


async def send(calls: S3Calls, upload: Upload, **condition: Any) -> None:
    """Store it, all or nothing; of a fresh one see `ObjectStore.put`.

    Each call marks its object with a token of its own: a request whose answer was lost is sent again (by us, and by
    the HTTP client on a connection that the server had closed) and then meets its own object, which is success, while
    somebody else's, even with the same bytes, is ObjectExists.
    """
    token = uuid4().hex
    mark = {MARK_METADATA: upload.mark} if upload.mark else {}
    arguments: dict[str, Any] = {
        "StorageClass": upload.storage_class.value,
        "Metadata": {SHA256_METADATA: upload.sha256.hex(), PUT_METADATA: token, **mark},
        **calls.options.encryption_arguments(),
    }
    in_parts = len(upload.data) > calls.options.settings.multipart_threshold
    try:
        if in_parts:
            await _in_parts(calls, upload, arguments)
        else:
            checksum = _checksum(upload.sha256) if calls.options.sends_checksums else {}
            await _conditionally(
                calls, upload, "PutObject", body=upload.data, **arguments, **checksum, **(condition or {})
            )
    except (ObjectExists, ObjectNotFound) as exc:  # not found: an upload that a lost answer had completed
        if await _token_of(calls, upload.key) == token:
            return
        if in_parts and isinstance(exc, ObjectNotFound):
            raise ColdTierUnavailable(
                f"{upload.key}: the store gave up its upload in parts; nothing was stored",
                hint="something else changes that key, or ends uploads that are under way: try again",
            ) from exc
        raise


async def _in_parts(calls: S3Calls, upload: Upload, arguments: dict[str, Any]) -> None:
    """Create, send the parts one after another, complete; abort on any failure, also on cancellation.

    Creating is not repeated: an upload whose id was never learnt cannot be aborted (it holds no bytes;
    the bucket's rule for incomplete uploads removes it).
    """
    key, size = upload.key, calls.options.part_size(len(upload.data))
    if calls.options.sends_checksums:
        arguments = {**arguments, "ChecksumAlgorithm": "SHA256"}
    created = await calls.ask("CreateMultipartUpload", key=key, attempts=1, **arguments)
    upload_id, completed = created["UploadId"], False
    try:
        parts = [
            await _send_part(calls, key, upload_id, number, upload.data[offset : offset + size])
            for number, offset in enumerate(range(0, len(upload.data), size), start=1)
        ]
        whole = {"UploadId": upload_id, "MultipartUpload": {"Parts": parts}}
        await _conditionally(calls, upload, "CompleteMultipartUpload", **whole)
        completed = True
    finally:
        if not completed:
            # The failure that led here is the one to report; the bucket's rule for incomplete uploads is the net.
            with contextlib.suppress(ObjectStoreError, ColdTierUnavailable):
                await calls.ask("AbortMultipartUpload", key=key, UploadId=upload_id)


async def _send_part(calls: S3Calls, key: str, upload_id: str, number: int, data: Data) -> dict[str, Any]:
    checksum: dict[str, Any] = {}
    if calls.options.sends_checksums:
        checksum = _checksum(await asyncio.to_thread(lambda: hashlib.sha256(data).digest()))
    answer = await calls.ask("UploadPart", key=key, body=data, UploadId=upload_id, PartNumber=number, **checksum)
    return {"PartNumber": number, "ETag": answer["ETag"], **checksum}


async def _conditionally(calls: S3Calls, upload: Upload, operation: str, **arguments: Any) -> None:
    """Ask for a fresh key with `If-None-Match: *`, or on a store without it after a look whether the key is free."""
    ask = partial(calls.ask, operation, key=upload.key, **arguments)
    if not upload.fresh:
        await ask()
        return
    if calls.takes_conditions:
        try:
            await ask(IfNoneMatch="*")
            return
        except ObjectStoreError as exc:
            if not lacks_feature(exc):
                raise
    # Two writers could still pass the look together; fresh keys make that a theoretical case.
    if await _token_of(calls, upload.key) is not None:
        raise ObjectExists(f"PutObject of {upload.key}: the key is taken; nothing was overwritten")
    await ask()
    calls.takes_conditions = False


async def _token_of(calls: S3Calls, key: str) -> str | None:
    """The token of the object under `key` ("" for one that has none), or None without an object."""
    try:
        answer = await calls.ask("HeadObject", key=key)
    except ObjectNotFound:
        return None
    return str(answer["Metadata"].get(PUT_METADATA, ""))


def _checksum(sha256: bytes) -> dict[str, Any]:
    return {"ChecksumSHA256": base64.b64encode(sha256).decode()}


async def change_class(calls: S3Calls, key: str, storage_class: StorageClass) -> None:
    """See `ObjectStore.change_class`; `key` is the full one.

    The object is copied onto itself (metadata and so the sha256 stay), the new class is read back, and only
    then does a versioned bucket lose the old version. A crash in between leaves the object whole in one of the
    two classes; calling again finishes, old versions included.
    """
    old, several = await calls.run("CopyObject", partial(_copy_in_place, calls, key, storage_class), key=key)
    now = await calls.ask("HeadObject", key=key)
    if (stayed := storage_class_of(now.get("StorageClass"))) is not storage_class:
        raise ObjectStoreError(
            f"{key} stayed in {stayed} when asked to move to {storage_class}",
            hint="this store ignores storage classes; plan no moves on it",
        )
    if several:
        await drop_old_versions(calls, key)
    else:
        await drop_replaced(calls, key, old=old, now=now.get("VersionId"))


async def _copy_in_place(calls: S3Calls, key: str, storage_class: StorageClass) -> tuple[str | None, bool]:
    """Copy unless the class is right already. What is to be cleaned up: a version, or whether some must be looked for.

    A copy may happen twice: an answer is lost and we repeat, or the HTTP client does, which sends a PUT again on
    its own when a kept connection breaks. The second then finds its object archived by the first, or names the
    first's result as the old version. Hence HEAD before every copy, and HEAD again where the copy is refused.
    """
    bucket = calls.options.bucket
    before = await calls.client.head_object(Bucket=bucket, Key=key)
    if storage_class_of(before.get("StorageClass")) is storage_class:
        return None, "VersionId" in before  # which only buckets tell that keep versions, or have kept them
    try:
        answer = await calls.client.copy_object(
            Bucket=bucket,
            Key=key,
            CopySource={"Bucket": bucket, "Key": key},
            MetadataDirective="COPY",
            StorageClass=storage_class.value,
            **calls.options.encryption_arguments(),
        )
    except ClientError:
        after = await calls.client.head_object(Bucket=bucket, Key=key)
        if storage_class_of(after.get("StorageClass")) is storage_class:
            return None, "VersionId" in after
        raise
    # Some stores do not tell here what was copied.
    known = before.get("VersionId")
    return (known, False) if answer.get("CopySourceVersionId", known) == known else (None, True)
