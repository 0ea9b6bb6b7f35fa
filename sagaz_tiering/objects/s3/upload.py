"""Writing one object to S3: in one request, or in parts above a size."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sagaz_tiering.errors import ColdTierUnavailable, ObjectExists, ObjectNotFound, ObjectStoreError
from sagaz_tiering.objects.s3.calls import S3Calls
from sagaz_tiering.objects.s3.errors import error_code
from sagaz_tiering.storage_class import StorageClass

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import HeadObjectOutputTypeDef

SHA256_METADATA = "sha256"
PUT_METADATA = "put"
MARK_METADATA = "mark"


class S3Uploads:
    """Puts objects: under fresh keys and never over another one (with `If-None-Match`, where honoured), or over it."""

    def __init__(self, calls: S3Calls) -> None:
        self._calls = calls
        self._conditional = True

    async def put(self, key: str, data: bytes | bytearray, *, storage_class: StorageClass, sha256: bytes) -> None:
        """Store `data` under the full key `key`; see `ObjectStore.put`.

        Each call marks its object with a token of its own: a request whose answer was lost is sent again (by
        us, and by the HTTP client on a connection that the server had closed) and then meets its own object,
        which is success, while somebody else's, even with the same bytes, is ObjectExists.
        """
        await self._send(key, data, storage_class, sha256, {}, fresh=True)

    async def replace(
        self, key: str, data: bytes | bytearray, *, storage_class: StorageClass, sha256: bytes, mark: str
    ) -> None:
        """Store `data` under the full key `key`, in place of what may be there, with `mark` in its metadata."""
        await self._send(key, data, storage_class, sha256, {MARK_METADATA: mark} if mark else {}, fresh=False)

    async def swap(self, key: str, data: bytes, *, sha256: bytes, etag: str) -> None:
        """Store `data` in place of the put that `etag` names; raises ObjectExists where another one is there.

        On a store without `If-Match`, or one that compares it with something else, the last look decides.
        """
        standard = StorageClass.STANDARD
        try:
            await self._send(key, data, standard, sha256, {}, fresh=False, etag=etag)
        except ObjectStoreError as exc:
            if not isinstance(exc, ObjectExists) and error_code(exc) != "NotImplemented":
                raise
            if await self._etag_of(key) != etag:
                raise ObjectExists(f"PutObject of {key}: it was replaced meanwhile; nothing was overwritten") from exc
            await self._send(key, data, standard, sha256, {}, fresh=False)

    async def _send(
        self,
        key: str,
        data: bytes | bytearray,
        storage_class: StorageClass,
        sha256: bytes,
        metadata: dict[str, str],
        *,
        fresh: bool,
        etag: str = "",
    ) -> None:
        token = uuid4().hex
        arguments = {
            "Bucket": self._calls.options.bucket,
            "Key": key,
            "StorageClass": storage_class.value,
            "Metadata": {SHA256_METADATA: sha256.hex(), PUT_METADATA: token, **metadata},
            **self._calls.options.encryption_arguments(),
        }
        try:
            if len(data) > self._calls.options.settings.multipart_threshold:
                await self._in_parts(key, data, arguments, fresh=fresh)
            else:
                await self._at_once(key, data, sha256, arguments, fresh=fresh, etag=etag)
        except (ObjectExists, ObjectNotFound):  # not found: an upload that a lost answer had completed
            if await self._token_of(key) != token:
                raise

    async def _at_once(
        self, key: str, data: bytes | bytearray, sha256: bytes, arguments: dict[str, Any], *, fresh: bool, etag: str
    ) -> None:
        if self._calls.options.sends_checksums:
            arguments = {**arguments, "ChecksumSHA256": base64.b64encode(sha256).decode()}

        async def send(condition: dict[str, Any]) -> None:
            async def attempt() -> object:
                # A file-like body makes the SDK wait for "100 Continue": a store that refuses gets no bytes.
                body = io.BytesIO(data)
                return await self._calls.client.put_object(**arguments, **condition, Body=body)

            await self._calls.run("PutObject", attempt, key=key)

        await (self._conditionally(key, send) if fresh else send({"IfMatch": etag} if etag else {}))

    async def _in_parts(self, key: str, data: bytes | bytearray, arguments: dict[str, Any], *, fresh: bool) -> None:
        """Create, send the parts one after another, complete; abort on any failure, also on cancellation.

        Creating is not repeated: an upload whose id was never learnt cannot be aborted (it holds no bytes;
        the bucket's rule for incomplete uploads removes it).
        """
        client = self._calls.client
        if self._calls.options.sends_checksums:
            arguments = {**arguments, "ChecksumAlgorithm": "SHA256"}
        created = await self._calls.run(
            "CreateMultipartUpload", lambda: client.create_multipart_upload(**arguments), key=key, attempts=1
        )
        upload: dict[str, Any] = {k: arguments[k] for k in ("Bucket", "Key")} | {"UploadId": created["UploadId"]}
        completed = False
        try:
            size = self._calls.options.part_size(len(data))
            parts = [
                await self._send_part(number, data[offset : offset + size], upload)
                for number, offset in enumerate(range(0, len(data), size), start=1)
            ]

            async def complete(condition: dict[str, Any]) -> None:
                whole = {**upload, **condition, "MultipartUpload": {"Parts": parts}}
                await self._calls.run(
                    "CompleteMultipartUpload", lambda: client.complete_multipart_upload(**whole), key=key
                )

            await (self._conditionally(key, complete) if fresh else complete({}))
            completed = True
        finally:
            if not completed:
                await self._abort(upload)

    async def _send_part(self, number: int, data: bytes | bytearray, upload: dict[str, Any]) -> dict[str, Any]:
        checksum: dict[str, Any] = {}
        if self._calls.options.sends_checksums:
            digest = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
            checksum = {"ChecksumSHA256": base64.b64encode(digest).decode()}

        async def attempt() -> str:
            body = io.BytesIO(data)
            answer = await self._calls.client.upload_part(**upload, **checksum, PartNumber=number, Body=body)
            return answer["ETag"]

        etag = await self._calls.run("UploadPart", attempt, key=upload["Key"])
        return {"PartNumber": number, "ETag": etag, **checksum}

    async def _abort(self, upload: dict[str, Any]) -> None:
        client = self._calls.client
        # The failure that led here is the one to report; the bucket's rule for incomplete uploads is the net.
        with contextlib.suppress(ObjectStoreError, ColdTierUnavailable):
            await self._calls.run(
                "AbortMultipartUpload", lambda: client.abort_multipart_upload(**upload), key=upload["Key"]
            )

    async def _conditionally(self, key: str, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Send with `If-None-Match: *`, or on a store without it after a look whether the key is free."""
        if self._conditional:
            try:
                return await send({"IfNoneMatch": "*"})
            except ObjectStoreError as exc:
                if error_code(exc) != "NotImplemented":
                    raise
        # Two writers could still pass the look together; fresh keys make that a theoretical case.
        if await self._token_of(key) is not None:
            raise ObjectExists(f"PutObject of {key}: the key is taken; nothing was overwritten")
        await send({})
        self._conditional = False
        return None

    async def _token_of(self, key: str) -> str | None:
        """The token of the object under `key` ("" for one that has none), or None without an object."""
        try:
            return (await self._head(key))["Metadata"].get(PUT_METADATA, "")
        except ObjectNotFound:
            return None

    async def _etag_of(self, key: str) -> str:
        return (await self._head(key)).get("ETag", "")

    async def _head(self, key: str) -> HeadObjectOutputTypeDef:
        client, bucket = self._calls.client, self._calls.options.bucket
        return await self._calls.run("HeadObject", lambda: client.head_object(Bucket=bucket, Key=key), key=key)
