"""What a bucket does with objects by itself, by its settings: versions, locks, lifecycle rules. And, by trying, what
an S3-compatible store does with requests that no store of ours sends.

Stores differ in what they take and in what they only pretend to (the protocols are safe without any of it): a
checksum header may be refused or never compared, `If-None-Match` ignored. Only an attempt tells, each under a key
that whoever asks removes afterwards. Errors as `s3.answers`.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sagaz_tiering.errors import BucketUnusable, ObjectExists, ObjectStoreError
from sagaz_tiering.objects.s3.answers import error_code, lacks_feature
from sagaz_tiering.objects.s3.calls import S3Calls

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import LifecycleRuleOutputTypeDef

_UNSET = {
    "GetBucketLifecycleConfiguration": ("NoSuchLifecycleConfiguration",),
    "GetObjectLockConfiguration": ("ObjectLockConfigurationNotFoundError", "InvalidRequest"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleRule:
    """A rule in force: whose keys start with `prefix` (of the bucket), if `tagged` only objects with some tag.

    `moves_to` are the classes that current objects are moved to.
    """

    name: str
    prefix: str
    tagged: bool
    expires: bool
    moves_to: tuple[str, ...]
    aborts_uploads: bool

    def touches(self, prefix: str) -> bool:
        """Whether objects under that prefix (of the bucket, ending with a slash, or empty) can fall under it."""
        return not self.tagged and (self.prefix.startswith(prefix) or prefix.startswith(self.prefix))


async def versioning(calls: S3Calls) -> str:
    """`Enabled`, `Suspended`, or "" where versions were never kept."""
    answer = await _setting(calls, "GetBucketVersioning")
    return str(answer.get("Status", ""))


async def lists_versions(calls: S3Calls) -> None:
    """Raise unless old versions may be listed, without which they cannot be removed."""
    await calls.ask("ListObjectVersions", Prefix=calls.options.prefix, MaxKeys=1)


async def default_lock(calls: S3Calls) -> str:
    """How long Object Lock keeps every new object, like `COMPLIANCE, 365 days`; "" where it does not."""
    answer = await _setting(calls, "GetObjectLockConfiguration")
    kept = answer.get("ObjectLockConfiguration", {}).get("Rule", {}).get("DefaultRetention", {})
    if not kept:
        return ""
    span = f"{kept['Years']} years" if kept.get("Years") else f"{kept.get('Days', 0)} days"
    return f"{kept.get('Mode', 'locked')}, {span}"


async def lifecycle_rules(calls: S3Calls) -> list[LifecycleRule]:
    """The lifecycle rules that are switched on."""
    answer = await _setting(calls, "GetBucketLifecycleConfiguration")
    return [_rule(each) for each in answer.get("Rules", []) if each.get("Status") == "Enabled"]


async def _setting(calls: S3Calls, operation: str) -> dict[str, Any]:
    """The answer; an empty one where the bucket or the store has no such setting."""
    try:
        answer: dict[str, Any] = await calls.ask(operation)
    except ObjectStoreError as exc:
        if lacks_feature(exc) or error_code(exc) in _UNSET.get(operation, ()):
            return {}
        raise
    return answer


def _rule(found: LifecycleRuleOutputTypeDef) -> LifecycleRule:
    which = found.get("Filter", {})
    both = which.get("And", {})
    prefix = found.get("Prefix") or which.get("Prefix") or both.get("Prefix") or ""
    expiration = found.get("Expiration", {})
    return LifecycleRule(
        name=found.get("ID", "without a name"),
        prefix=prefix,
        tagged=bool(which.get("Tag") or both.get("Tags")),
        expires="Days" in expiration or "Date" in expiration,
        moves_to=tuple(each["StorageClass"] for each in found.get("Transitions", []) if "StorageClass" in each),
        aborts_uploads="AbortIncompleteMultipartUpload" in found,
    )


async def honours_condition(calls: S3Calls, key: str, data: bytes) -> bool | None:
    """Whether a second put with `If-None-Match: *` is refused; None where the store does not know the header."""
    await _put(calls, key, data)
    try:
        await _put(calls, key, data, IfNoneMatch="*")
    except ObjectExists:
        return True
    except ObjectStoreError as exc:
        if lacks_feature(exc):
            return None
        raise
    return False


async def takes_checksum(calls: S3Calls, key: str, data: bytes, *, of: bytes) -> bool:
    """Whether a put is accepted with the SHA-256 of `of` in a header."""
    try:
        await _put(calls, key, data, ChecksumSHA256=base64.b64encode(hashlib.sha256(of).digest()).decode())
    except ObjectStoreError as exc:
        if isinstance(exc, BucketUnusable) or not error_code(exc):
            raise
        return False
    return True


async def aborts_upload(calls: S3Calls, key: str) -> None:
    """Begin an upload in parts and abort it, as an upload that fails does; raises what is refused."""
    path = f"{calls.options.prefix}/{key}".lstrip("/")
    created = await calls.ask("CreateMultipartUpload", key=path, attempts=1, **calls.options.encryption_arguments())
    await calls.ask("AbortMultipartUpload", key=path, UploadId=created["UploadId"])


async def _put(calls: S3Calls, key: str, data: bytes, **arguments: Any) -> None:
    path = f"{calls.options.prefix}/{key}".lstrip("/")
    await calls.ask("PutObject", key=path, body=data, **calls.options.encryption_arguments(), **arguments)
