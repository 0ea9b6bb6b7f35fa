"""Removing objects from S3 for good: in batches, per-key errors read, every version of a versioned bucket."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from sagaz_tiering.errors import ObjectExists, ObjectNotFound, ObjectStoreError
from sagaz_tiering.objects.base import DeleteFailure
from sagaz_tiering.objects.s3.calls import S3Calls
from sagaz_tiering.objects.s3.errors import error_code

BATCH = 1000
"""S3's limit on the keys of one DeleteObjects, and on the entries of one listing page."""

_GONE = {"NoSuchKey", "NoSuchVersion"}
_NO_BATCHES = {"NotImplemented", "MissingContentMD5"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a key, or the key itself where `version_id` is None; a GET sees the `current` one."""

    key: str
    version_id: str | None = None
    current: bool = True

    def identifier(self) -> dict[str, str]:
        """As the SDK wants it."""
        return {"Key": self.key} | ({"VersionId": self.version_id} if self.version_id is not None else {})


class S3Deletes:
    """Deletes by full key. Learns once whether the bucket keeps versions."""

    def __init__(self, calls: S3Calls) -> None:
        self._calls = calls
        self._versioned: bool | None = None

    async def delete(self, keys: Sequence[str]) -> list[DeleteFailure]:
        """Remove `keys` with all their versions; the failures, per key. See `ObjectStore.delete`."""
        failures: list[DeleteFailure] = []
        for batch in _batches(dict.fromkeys(keys), BATCH):
            if await self._is_versioned():
                failures += await self._delete_all_versions(batch)
                continue
            failed, marked = await self._delete_batch([Version(key=key) for key in batch])
            failures += failed
            if marked:  # a delete marker: the bucket keeps versions after all, and now hides them
                self._versioned = True
                failures += await self._delete_all_versions(marked)
        return failures

    async def delete_unchanged(self, key: str, *, etag: str, version_id: str | None) -> bool:
        """Remove `key` with all its versions if this put of it is still the current one; whether it was removed."""
        if version_id is not None:
            versions = await self._versions_of(key)
            if not any(version.current and version.version_id == version_id for version in versions):
                return False
            # By their ids: a version that is put meanwhile is not among them.
            await self._drop(versions)
            return True
        # Some stores pass over `If-Match` here without a word.
        if not await self._is_still(key, etag):
            return False
        try:
            await self._delete_one(Version(key=key), if_match=etag)
        except ObjectNotFound:
            return False
        except ObjectExists:
            if not await self._is_still(key, etag):
                return False
            # Some stores compare the unquoted ETag: nothing matches there.
            await self._delete_one(Version(key=key))
        except ObjectStoreError as exc:
            if error_code(exc) != "NotImplemented":
                raise
            await self._delete_one(Version(key=key))
        return True

    async def drop_version(self, key: str, version_id: str) -> None:
        """Remove one old version; a missing one counts as removed. Raises ObjectStoreError if it stays."""
        await self._drop([Version(key=key, version_id=version_id)])

    async def drop_old_versions(self, key: str) -> None:
        """Remove what lies under the current version of `key`. Raises ObjectStoreError if anything stays."""
        await self._drop([version for version in await self._versions_of(key) if not version.current])

    async def _drop(self, versions: list[Version]) -> None:
        for batch in _batches(versions, BATCH):
            failures, _ = await self._delete_batch(batch)
            if failures:
                bucket = self._calls.options.bucket
                raise ObjectStoreError(
                    f"an old version of {failures[0].key} stays and is billed: {failures[0].reason}",
                    hint=f"grant s3:DeleteObjectVersion on arn:aws:s3:::{bucket}/*, then run again",
                )

    async def _is_versioned(self) -> bool:
        """Whether the bucket keeps (or has kept) versions; assumed not where we may not ask."""
        if self._versioned is None:
            client, bucket = self._calls.client, self._calls.options.bucket
            try:
                answer = await self._calls.run(
                    "GetBucketVersioning", lambda: client.get_bucket_versioning(Bucket=bucket)
                )
            except ObjectStoreError as exc:
                if error_code(exc) == "NoSuchBucket":
                    raise
                self._versioned = False
            else:
                self._versioned = "Status" in answer
        return self._versioned

    async def _delete_all_versions(self, keys: Sequence[str]) -> list[DeleteFailure]:
        failures: list[DeleteFailure] = []
        for some in _batches(keys, self._calls.options.max_connections):
            found = await asyncio.gather(*(self._versions_of(key) for key in some), return_exceptions=True)
            versions: list[Version] = []
            for one in found:
                if isinstance(one, BaseException):
                    raise one
                versions += one
            for batch in _batches(versions, BATCH):
                failures += (await self._delete_batch(batch))[0]
        return list({failure.key: failure for failure in failures}.values())

    async def _versions_of(self, key: str) -> list[Version]:
        """Every version and delete marker of exactly `key`."""
        client = self._calls.client
        arguments: dict[str, Any] = {"Bucket": self._calls.options.bucket, "Prefix": key}
        versions: list[Version] = []
        while True:
            page = await self._calls.run(
                "ListObjectVersions", functools.partial(client.list_object_versions, **arguments), key=key
            )
            entries = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            versions += [
                Version(key=key, version_id=entry["VersionId"], current=entry["IsLatest"])
                for entry in entries
                if entry["Key"] == key
            ]
            # Longer keys with this beginning sort after it: once the listing is among them, it is done.
            if not page.get("IsTruncated") or page.get("NextKeyMarker") != key:
                return versions
            arguments = {
                **arguments,
                "KeyMarker": page["NextKeyMarker"],
                "VersionIdMarker": page["NextVersionIdMarker"],
            }

    async def _delete_batch(self, versions: Sequence[Version]) -> tuple[list[DeleteFailure], list[str]]:
        """The failures, and the keys that only got a delete marker."""
        client, bucket = self._calls.client, self._calls.options.bucket
        identifiers: Any = [version.identifier() for version in versions]
        try:
            answer = await self._calls.run(
                "DeleteObjects", lambda: client.delete_objects(Bucket=bucket, Delete={"Objects": identifiers})
            )
        except ObjectStoreError as exc:
            if error_code(exc) not in _NO_BATCHES:
                raise
            return await self._delete_singly(versions)
        failures = [
            DeleteFailure(
                key=error.get("Key", ""), reason=f"{error.get('Code', '')} {error.get('Message', '')}".strip()
            )
            for error in answer.get("Errors", [])
            if error.get("Code") not in _GONE
        ]
        plain = {version.key for version in versions if version.version_id is None}
        deleted = answer.get("Deleted", [])
        return failures, [one["Key"] for one in deleted if one.get("DeleteMarker") and one["Key"] in plain]

    async def _delete_singly(self, versions: Sequence[Version]) -> tuple[list[DeleteFailure], list[str]]:
        """For stores that have no DeleteObjects, or want a Content-MD5 that the SDK no longer sends."""
        failures: list[DeleteFailure] = []
        marked: list[str] = []
        for version in versions:
            try:
                got_marker = await self._delete_one(version)
            except ObjectNotFound:
                continue
            except ObjectStoreError as exc:
                failures.append(DeleteFailure(key=version.key, reason=str(exc)))
                continue
            if got_marker and version.version_id is None:
                marked.append(version.key)
        return failures, marked

    async def _delete_one(self, version: Version, *, if_match: str = "") -> bool:
        """Whether that only set a delete marker."""
        arguments: Any = version.identifier() | ({"IfMatch": if_match} if if_match else {})
        client, bucket = self._calls.client, self._calls.options.bucket
        answer = await self._calls.run(
            "DeleteObject", functools.partial(client.delete_object, Bucket=bucket, **arguments), key=version.key
        )
        return bool(answer.get("DeleteMarker"))

    async def _is_still(self, key: str, etag: str) -> bool:
        client, bucket = self._calls.client, self._calls.options.bucket
        try:
            answer = await self._calls.run("HeadObject", lambda: client.head_object(Bucket=bucket, Key=key), key=key)
        except ObjectNotFound:
            return False
        return answer["ETag"] == etag


def _batches(items: Sequence[T] | dict[T, None], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
