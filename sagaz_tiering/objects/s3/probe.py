"""Requests that no store of ours sends, to learn what an S3-compatible store does with them.

Stores differ in what they take and in what they only pretend to (the protocols are safe without any of it): a
checksum header may be refused or never compared, `If-None-Match` ignored. Only an attempt tells.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from typing import Any

from sagaz_tiering.errors import BucketUnusable, ObjectExists, ObjectStoreError
from sagaz_tiering.objects.s3.calls import S3Calls
from sagaz_tiering.objects.s3.errors import error_code

_OTHER = hashlib.sha256(b"other bytes").digest()


class S3Probe:
    """Attempts under one key each; whoever asks removes the keys afterwards. Errors as `s3_errors`."""

    def __init__(self, calls: S3Calls) -> None:
        self._calls = calls

    async def honours_condition(self, key: str, data: bytes) -> bool | None:
        """Whether a second put with `If-None-Match: *` is refused; None where the store does not know the header."""
        await self._put(key, data)
        try:
            await self._put(key, data, IfNoneMatch="*")
        except ObjectExists:
            return True
        except ObjectStoreError as exc:
            if error_code(exc) == "NotImplemented":
                return None
            raise
        return False

    async def takes_checksum(self, key: str, data: bytes) -> bool:
        """Whether a put with the right SHA-256 in a header is accepted."""
        try:
            await self._put(key, data, ChecksumSHA256=_text(hashlib.sha256(data).digest()))
        except ObjectStoreError as exc:
            if isinstance(exc, BucketUnusable) or not error_code(exc):
                raise
            return False
        return True

    async def refuses_wrong_checksum(self, key: str, data: bytes) -> bool:
        """Whether a put is refused whose SHA-256 header is that of other bytes."""
        try:
            await self._put(key, data, ChecksumSHA256=_text(_OTHER))
        except ObjectStoreError as exc:
            if isinstance(exc, BucketUnusable) or not error_code(exc):
                raise
            return True
        return False

    async def _put(self, key: str, data: bytes, **arguments: Any) -> None:
        options = self._calls.options
        path = f"{options.prefix}/{key}" if options.prefix else key
        put = functools.partial(
            self._calls.client.put_object,
            Bucket=options.bucket,
            Key=path,
            **options.encryption_arguments(),
            **arguments,
        )

        async def attempt() -> object:
            return await put(Body=io.BytesIO(data))

        await self._calls.run("PutObject", attempt, key=path)


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
