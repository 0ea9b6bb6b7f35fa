"""What S3 and its SDK say becomes ours: what headers tell of an object, errors, and that a store lacks a feature.

Only a code that one request alone is answered with is judged beside that request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, TypeAlias

import aiohttp
from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError

from sagaz_tiering.config.tiers import Encryption
from sagaz_tiering.drivers.aws import NoIdentity, tls_fault
from sagaz_tiering.errors import (
    AccessRefused,
    BucketUnusable,
    ColdTierUnavailable,
    CorruptPack,
    CredentialsUnavailable,
    ObjectArchived,
    ObjectExists,
    ObjectNotFound,
    ObjectStoreError,
    SagazTieringError,
)
from sagaz_tiering.objects.base import ObjectInfo, RestoreState
from sagaz_tiering.objects.s3.options import S3Options
from sagaz_tiering.storage_class import StorageClass

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import GetObjectOutputTypeDef, HeadObjectOutputTypeDef

SHA256_METADATA = "sha256"
MARK_METADATA = "mark"

DRIVER_ERRORS = (sdk.ClientError, sdk.BotoCoreError, ResponseParserError, aiohttp.ClientError, OSError)
"""All that the SDK raises. A body that is cut short surfaces as a plain aiohttp or parser error."""

_NOT_FOUND = {"NoSuchKey", "NoSuchVersion", "NoSuchUpload", "NotFound", "404"}
_ARCHIVED = {"InvalidObjectState", "ObjectNotInActiveTierError"}
_EXISTS = {"PreconditionFailed", "412"}
_BUSY = {"RequestTimeout", "ConditionalRequestConflict", "OperationAborted", "SlowDown", "InternalError"}
_REGION = {
    *("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
    *("301", "307"),
}
_WRITES = {"PutObject", "CompleteMultipartUpload", "CopyObject"}
"""Where 409 says that something else changes the key or the bucket just now, whatever code a store has for it: send it
again (`If-None-Match` in https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html)."""
_FULL_HINT: Final = "bucket {bucket} or its account is full: raise the quota; what waits is kept where it is"
_FEATURE_HINT: Final = "the store lacks a feature: try encryption: none, checksums: when_required or another class"

_Means: TypeAlias = tuple[tuple[set[str], type[SagazTieringError], str], ...]
_MEANS: Final[_Means] = (
    # A 503 that lasts hours.
    ({"GlacierExpeditedRetrievalNotAvailable"}, ObjectStoreError, "ask again with the tier Standard"),
    (
        {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"},
        CredentialsUnavailable,
        "renew the session's credentials for bucket {bucket}",
    ),
    (
        {"InvalidAccessKeyId", "SignatureDoesNotMatch"},
        BucketUnusable,
        "check the access key and secret used for bucket {bucket}",
    ),
    ({"InsufficientStorage", "InsufficientCapacity", "XMinioStorageFull", "StorageFull"}, BucketUnusable, _FULL_HINT),
    ({"NotImplemented", "MissingContentMD5", "MissingContentLength"}, ObjectStoreError, _FEATURE_HINT),
)
"""Codes that mean one thing whatever the status: our error, and its hint."""
_MEANS_UNLESS_BUSY: Final[_Means] = (
    ({"RequestTimeTooSkewed"}, BucketUnusable, "set this machine's clock (NTP); S3 refuses requests 15 minutes off"),
    (
        {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"},
        ObjectStoreError,
        "bytes changed on the way, or the store hashes wrongly: try checksums",
    ),
)
"""The same, but where the status says that asking again may help."""

_PERMISSIONS = {
    "HeadBucket": "s3:ListBucket",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration",
    "ListObjectsV2": "s3:ListBucket",
    "ListObjectVersions": "s3:ListBucketVersions",
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "HeadObject": "s3:GetObject and s3:ListBucket",
    "GetObject": "s3:GetObject and s3:ListBucket",
    "CopyObject": "s3:GetObject and s3:PutObject",
    "RestoreObject": "s3:RestoreObject",
    "DeleteObjects": "s3:DeleteObject and s3:DeleteObjectVersion",
    "DeleteObject": "s3:DeleteObject and s3:DeleteObjectVersion",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
}


_OF_OBJECTS = {
    *("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:RestoreObject"),
    "s3:AbortMultipartUpload",
}
"""What IAM grants on objects; the other actions are of the bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundObject:
    """An object as it was found: `mark` as it was put with ("" for none); `etag` and `version_id` name this put."""

    info: ObjectInfo
    mark: str
    etag: str
    version_id: str | None

    @classmethod
    def of(cls, key: str, answer: HeadObjectOutputTypeDef | GetObjectOutputTypeDef) -> FoundObject:
        mark, etag = answer["Metadata"].get(MARK_METADATA, ""), answer.get("ETag", "")
        return cls(info=object_info(key, answer), mark=mark, etag=etag, version_id=answer.get("VersionId"))


def object_info(key: str, answer: HeadObjectOutputTypeDef | GetObjectOutputTypeDef) -> ObjectInfo:
    """What the headers of an object's HEAD or GET tell."""
    state, until = _restore(answer.get("Restore", ""))
    if "ContentLength" not in answer or "LastModified" not in answer:
        raise ObjectStoreError(f"{key}: answered without length or time", hint="what answers there is not S3")
    sha256 = answer["Metadata"].get(SHA256_METADATA, "")
    return ObjectInfo(
        key=key,
        size=answer["ContentLength"],
        modified_at=answer["LastModified"].astimezone(UTC),
        storage_class=storage_class_of(answer.get("StorageClass")),
        sha256=bytes.fromhex(sha256) if re.fullmatch("[0-9a-f]{64}", sha256) else None,
        restore=state,
        readable_until=until,
    )


def storage_class_of(name: str | None) -> StorageClass:
    """S3 leaves STANDARD out; classes that others put foreign objects in are read like STANDARD."""
    return StorageClass.__members__.get(name or "", StorageClass.STANDARD)


def _restore(header: str) -> tuple[RestoreState, datetime | None]:
    """`x-amz-restore`: `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`."""
    fields = dict(re.findall(r'([a-z-]+)="([^"]*)"', header))
    if fields.get("ongoing-request") != "false":
        return RestoreState.IN_PROGRESS if fields.get("ongoing-request") == "true" else RestoreState.NONE, None
    try:
        return RestoreState.READABLE, parsedate_to_datetime(fields["expiry-date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return RestoreState.READABLE, None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked when it failed: the S3 operation, and the full key where one was meant."""

    operation: str
    key: str = ""

    def where(self, options: S3Options) -> str:
        """The operation and its target, for messages."""
        return f"{self.operation} of s3://{options.bucket}" + (f"/{self.key}" if self.key else "")


def error_code(error: BaseException | None) -> str:
    """S3's own code behind one of our errors, or "" where S3 did not answer."""
    cause = error.__cause__ if error is not None else None
    return str(cause.response["Error"].get("Code", "")) if isinstance(cause, sdk.ClientError) else ""


def lacks_feature(error: BaseException) -> bool:
    """Whether the store says of what was asked that it does not do such things at all."""
    cause = error.__cause__
    if not isinstance(cause, sdk.ClientError):
        return False
    status = cause.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    return status in (405, 501) or error_code(error) in ("NotImplemented", "MethodNotAllowed")


def translated(exc: BaseException, asked: Asked, options: S3Options) -> SagazTieringError:
    """Our error for one of DRIVER_ERRORS; transient exactly where asking again may help."""
    if isinstance(exc, sdk.ClientError):
        return _answered(exc, asked, options)
    where = asked.where(options)
    if isinstance(exc, NoIdentity):
        return CredentialsUnavailable(f"{where}: {exc}", hint=exc.hint)
    if isinstance(exc, sdk.FlexibleChecksumError):
        return CorruptPack(f"{where}: the bytes read do not have the checksum that S3 keeps for them ({exc})")
    if (fault := tls_fault(exc, options.settings.endpoint_url or "AWS S3")) is not None:
        kind = BucketUnusable if fault.permanent else ColdTierUnavailable
        return kind(f"{where}: {fault.what}", hint=fault.hint)
    if isinstance(exc, ResponseParserError):
        hint = f"what answers there is not S3, but a proxy, a login page or a web server say; {_reach_hint(options)}"
        return ColdTierUnavailable(f"{where} was answered with what is no answer of S3 ({exc})", hint=hint)
    unreached = (sdk.ConnectionError, sdk.HTTPClientError, sdk.IncompleteReadError, aiohttp.ClientError)
    if isinstance(exc, (*unreached, OSError)):
        return ColdTierUnavailable(f"{where} failed: {type(exc).__name__}: {exc}", hint=_reach_hint(options))
    return ObjectStoreError(
        f"{where} could not be asked: {exc}", hint=f"check {options.names.place} in the configuration"
    )


def late(asked: Asked, options: S3Options, last: SagazTieringError | None) -> ColdTierUnavailable:
    """The error for a passed deadline; `last` is what the attempt before it met."""
    seconds = options.settings.request_timeout.total_seconds()
    before = f" (before that: {last})" if last else ""
    return ColdTierUnavailable(
        f"{asked.where(options)} was not answered within {seconds:g} s{before}", hint=_reach_hint(options)
    )


def _answered(exc: sdk.ClientError, asked: Asked, options: S3Options) -> SagazTieringError:
    code = str(exc.response["Error"].get("Code", ""))
    where = asked.where(options)
    said = f"{where}: {code} {exc.response['Error'].get('Message', '')}".rstrip()
    if code == "NoSuchBucket" or (code in _NOT_FOUND and not asked.key):
        return BucketUnusable(said, hint=f"create the bucket {options.bucket}, or correct {options.names.bucket}")
    if code in _NOT_FOUND:
        return ObjectNotFound(f"{where}: no such object")
    if code in _EXISTS:
        return ObjectExists(f"{where}: the key is taken; nothing was overwritten")
    if code in _ARCHIVED:
        storage_class = exc.response["Error"].get("StorageClass") or "an archive class"
        return ObjectArchived(f"{where}: the bytes are in {storage_class}", hint="restore the object first")
    return _refused(exc, code, said, asked, options)


def _refused(exc: sdk.ClientError, code: str, said: str, asked: Asked, options: S3Options) -> SagazTieringError:
    status = int(exc.response["ResponseMetadata"].get("HTTPStatusCode", 0))
    if (known := _meant(_MEANS, code, said, options)) is not None:
        return known
    if "Quota" in code:
        return BucketUnusable(said, hint=_FULL_HINT.format(bucket=options.bucket))
    if code.startswith("KMS."):
        return _kms_failed(code, said, options)
    if status == 501:
        return ObjectStoreError(said, hint=_FEATURE_HINT)
    if status == 409 and asked.operation in _WRITES:
        return ColdTierUnavailable(f"{said} (HTTP 409)", hint="something else changes that key or bucket: try again")
    if status >= 500 or status == 429 or code in _BUSY or "Throttl" in code:
        return ColdTierUnavailable(f"{said} (HTTP {status})", hint=_reach_hint(options))
    if code in _REGION or status in (301, 307):
        return BucketUnusable(said, hint=_region_hint(exc, options))
    if (known := _meant(_MEANS_UNLESS_BUSY, code, said, options)) is not None:
        return known
    return (
        AccessRefused(said, hint=_permission_hint(asked, said, options))
        if status in (401, 403)
        else ObjectStoreError(said)
    )


def _meant(means: _Means, code: str, said: str, options: S3Options) -> SagazTieringError | None:
    for codes, kind, hint in means:
        if code in codes:
            return kind(said, hint=hint.format(bucket=options.bucket))
    return None


def _kms_failed(code: str, said: str, options: S3Options) -> SagazTieringError:
    """What KMS answered to S3, which encrypts with a key of it."""
    if "Throttl" in code or "Internal" in code or "Unavailable" in code or "Timeout" in code:
        return ColdTierUnavailable(said, hint="KMS is busy or down; asked again")
    named = options.settings.kms_key_id
    key = f"KMS key {named}" if named else "KMS key of the object or bucket"
    return BucketUnusable(
        said,
        hint=f"the {key} cannot be used: enable it, cancel its deletion, or correct {options.names.place}.kms_key_id; "
        "what it encrypted cannot be read meanwhile",
    )


def _region_hint(exc: sdk.ClientError, options: S3Options) -> str:
    """What to set when the bucket is in another region than the one asked."""
    headers = exc.response["ResponseMetadata"].get("HTTPHeaders", {})
    region, now = exc.response["Error"].get("Region") or headers.get("x-amz-bucket-region"), options.settings.region
    if not region:
        return f"set {options.names.region} to the region of bucket {options.bucket} (now {now})"
    return f"bucket {options.bucket} is in {region}: set {options.names.region}: {region} (now {now})"


def _permission_hint(asked: Asked, said: str, options: S3Options) -> str:
    if "requester" in said.lower():
        return f"bucket {options.bucket} is Requester Pays, which is not supported: use a bucket of your own account"
    if " kms:" in said or "kms key" in said.lower():
        return "grant kms:GenerateDataKey and kms:Decrypt on the KMS key, in this identity's policy and the key's own"
    needed = _PERMISSIONS.get(asked.operation, "s3:PutObject")
    by_kms = options.settings.encryption == Encryption.SSE_KMS
    kms = ", and kms:GenerateDataKey and kms:Decrypt on its key" if by_kms else ""
    return f"grant {' and '.join(_on_resource(each, options) for each in needed.split(' and '))}{kms}"


def _on_resource(action: str, options: S3Options) -> str:
    """The action with the ARN that a statement of IAM names for it."""
    bucket = f"arn:aws:s3:::{options.bucket}"
    under = f"{options.prefix}/*" if options.prefix else "*"
    return f"{action} on {bucket}/{under}" if action in _OF_OBJECTS else f"{action} on {bucket}"


def _reach_hint(options: S3Options) -> str:
    target = options.settings.endpoint_url or "AWS S3"
    plain = "; a port that speaks TLS needs https://" if target.startswith("http://") else ""
    return f"check that {target} is running and reachable ({options.names.place}), then try again{plain}"
