"""Moving an object of S3 to another storage class, in place, and leaving no old version that is billed for ever."""

from __future__ import annotations

from dataclasses import dataclass

from botocore.exceptions import ClientError

from sagaz_tiering.errors import ObjectStoreError
from sagaz_tiering.objects.s3.answers import parse_storage_class
from sagaz_tiering.objects.s3.calls import S3Calls
from sagaz_tiering.objects.s3.delete import drop_old_versions, drop_replaced
from sagaz_tiering.storage_class import StorageClass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Present:
    """What HEAD says. A version id is there only where the bucket keeps versions, or has kept them."""

    storage_class: StorageClass
    version_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leftover:
    """What a move may leave on a versioned bucket: the version that was copied, or some that must be looked for."""

    version_id: str | None = None
    unknown: bool = False


async def change_class(calls: S3Calls, key: str, storage_class: StorageClass) -> None:
    """See `ObjectStore.change_class`; `key` is the full one.

    The object is copied onto itself (metadata and so the sha256 stay), the new class is read back, and only
    then does a versioned bucket lose the old version. A crash in between leaves the object whole in one of the
    two classes; calling again finishes, old versions included.
    """
    leftover = await calls.run("CopyObject", lambda: _copy_in_place(calls, key, storage_class), key=key)
    now = await calls.run("HeadObject", lambda: _head(calls, key), key=key)
    if now.storage_class is not storage_class:
        raise ObjectStoreError(
            f"{key} stayed in {now.storage_class} when asked to move to {storage_class}",
            hint="this store ignores storage classes; plan no moves on it",
        )
    if leftover.unknown:
        await drop_old_versions(calls, key)
    else:
        await drop_replaced(calls, key, old=leftover.version_id, now=now.version_id)


async def _copy_in_place(calls: S3Calls, key: str, storage_class: StorageClass) -> _Leftover:
    """Copy unless the class is right already; in any case say what is to be cleaned up.

    A copy may happen twice: an answer is lost and we repeat, or the HTTP client does, which sends a PUT again on
    its own when a kept connection breaks. The second then finds its object archived by the first, or names the
    first's result as the old version. Hence HEAD before every copy, and HEAD again where the copy is refused.
    """
    before = await _head(calls, key)
    if before.storage_class is storage_class:
        return _Leftover(unknown=before.version_id is not None)
    bucket = calls.options.bucket
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
        after = await _head(calls, key)
        if after.storage_class is storage_class:
            return _Leftover(unknown=after.version_id is not None)
        raise
    # Some stores do not tell here what was copied.
    old = answer.get("CopySourceVersionId", before.version_id)
    return _Leftover(version_id=old) if old == before.version_id else _Leftover(unknown=True)


async def _head(calls: S3Calls, key: str) -> _Present:
    answer = await calls.client.head_object(Bucket=calls.options.bucket, Key=key)
    return _Present(storage_class=parse_storage_class(answer.get("StorageClass")), version_id=answer.get("VersionId"))
