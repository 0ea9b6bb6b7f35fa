"""Requests that no store of ours sends, to learn what an S3-compatible store does with them.

Stores differ in what they take and in what they only pretend to (the protocols are safe without any of it): a
checksum header may be refused or never compared, `If-None-Match` ignored. Only an attempt tells, each under a key
that whoever asks removes afterwards. Errors as `s3.errors`.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from sagaz_tiering.errors import BucketUnusable, ObjectExists, ObjectStoreError
from sagaz_tiering.objects.s3.calls import S3Calls
from sagaz_tiering.objects.s3.errors import error_code


async def honours_condition(calls: S3Calls, key: str, data: bytes) -> bool | None:
    """Whether a second put with `If-None-Match: *` is refused; None where the store does not know the header."""
    await _put(calls, key, data)
    try:
        await _put(calls, key, data, IfNoneMatch="*")
    except ObjectExists:
        return True
    except ObjectStoreError as exc:
        if error_code(exc) == "NotImplemented":
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
