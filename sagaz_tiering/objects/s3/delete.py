"""Removing objects from S3 for good: in batches, per-key errors read, every version of a versioned bucket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

from sagaz_tiering.drivers.together import together
from sagaz_tiering.errors import ObjectExists, ObjectNotFound, ObjectStoreError
from sagaz_tiering.objects.base import DeleteFailure
from sagaz_tiering.objects.s3.answers import error_code, lacks_feature
from sagaz_tiering.objects.s3.calls import S3Calls

BATCH = 1000
"""S3's limit on the keys of one DeleteObjects, and on the entries of one listing page."""

_GONE = {"NoSuchKey", "NoSuchVersion"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a key, or the key itself where `version_id` is None; a GET sees the `current` one."""

    key: str
    version_id: str | None = None
    current: bool = True


async def delete(calls: S3Calls, keys: Sequence[str]) -> list[DeleteFailure]:
    """Remove `keys` with all their versions; the failures, per key. See `ObjectStore.delete`."""
    failures: list[DeleteFailure] = []
    for batch in _batches(dict.fromkeys(keys), BATCH):
        if await _is_versioned(calls):
            failures += await _delete_all_versions(calls, batch)
            continue
        failed, marked = await _delete_batch(calls, [Version(key=key) for key in batch])
        failures += failed
        if marked:  # a delete marker: the bucket keeps versions after all, and now hides them
            calls.keeps_versions = True
            failures += await _delete_all_versions(calls, marked)
    return failures


async def delete_unchanged(calls: S3Calls, key: str, *, etag: str, version_id: str | None) -> bool:
    """Remove `key` with all its versions if this put of it is still the current one; whether it was removed."""
    if version_id is not None:
        versions = await _versions_of(calls, key)
        if not any(version.current and version.version_id == version_id for version in versions):
            return False
        # By their ids: a version that is put meanwhile is not among them.
        await _drop(calls, versions)
        return True
    # Some stores pass over `If-Match` here without a word.
    if not await _is_still(calls, key, etag):
        return False
    try:
        await _delete_one(calls, Version(key=key), if_match=etag)
    except ObjectNotFound:
        return False
    except ObjectExists:
        if not await _is_still(calls, key, etag):
            return False
        # Some stores compare the unquoted ETag: nothing matches there.
        await _delete_one(calls, Version(key=key))
    except ObjectStoreError as exc:
        if not lacks_feature(exc):
            raise
        await _delete_one(calls, Version(key=key))
    return True


async def drop_replaced(calls: S3Calls, key: str, *, old: str | None, now: str | None) -> None:
    """Remove the version `old` of which `now` took the place ("" or None: the bucket told of none).

    A missing one counts as removed. Raises ObjectStoreError if it stays.
    """
    if old and not now:
        await drop_old_versions(calls, key)
    # With versioning suspended both are "null", and deleting "null" would delete the object itself.
    elif old and old != now:
        await _drop(calls, [Version(key=key, version_id=old)])


async def drop_old_versions(calls: S3Calls, key: str) -> None:
    """Remove what lies under the current version of `key`. Raises ObjectStoreError if anything stays."""
    await _drop(calls, [version for version in await _versions_of(calls, key) if not version.current])


async def _drop(calls: S3Calls, versions: list[Version]) -> None:
    for batch in _batches(versions, BATCH):
        failures, _ = await _delete_batch(calls, batch)
        if failures:
            raise ObjectStoreError(
                f"an old version of {failures[0].key} stays and is billed: {failures[0].reason}",
                hint=f"grant s3:DeleteObjectVersion on arn:aws:s3:::{calls.options.bucket}/*, then run again",
            )


async def _is_versioned(calls: S3Calls) -> bool:
    """Whether the bucket keeps (or has kept) versions, asked once; assumed not where we may not ask."""
    if calls.keeps_versions is None:
        try:
            answer = await calls.ask("GetBucketVersioning")
        except ObjectStoreError as exc:
            if error_code(exc) == "NoSuchBucket":
                raise
            answer = {}
        calls.keeps_versions = "Status" in answer
    return calls.keeps_versions


async def _delete_all_versions(calls: S3Calls, keys: Sequence[str]) -> list[DeleteFailure]:
    failures: list[DeleteFailure] = []
    for some in _batches(keys, calls.options.max_connections):
        found = await together(*(_versions_of(calls, key) for key in some))
        for batch in _batches(chain.from_iterable(found), BATCH):
            failures += (await _delete_batch(calls, batch))[0]
    return list({failure.key: failure for failure in failures}.values())


async def _versions_of(calls: S3Calls, key: str) -> list[Version]:
    """Every version and delete marker of exactly `key`."""
    versions: list[Version] = []
    behind: dict[str, Any] = {}
    while True:
        page = await calls.ask("ListObjectVersions", Prefix=key, **behind)
        versions += [
            Version(key=key, version_id=entry["VersionId"], current=entry["IsLatest"])
            for entry in (*page.get("Versions", []), *page.get("DeleteMarkers", []))
            if entry["Key"] == key
        ]
        # Longer keys with this beginning sort after it: once the listing is among them, it is done.
        if not page.get("IsTruncated") or page.get("NextKeyMarker") != key:
            return versions
        behind = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}


async def _delete_batch(calls: S3Calls, versions: Sequence[Version]) -> tuple[list[DeleteFailure], list[str]]:
    """The failures, and the keys that only got a delete marker."""
    objects = [{"Key": each.key} | ({"VersionId": each.version_id} if each.version_id else {}) for each in versions]
    try:
        answer = await calls.ask("DeleteObjects", Delete={"Objects": objects})
    except ObjectStoreError as exc:
        if not lacks_feature(exc) and error_code(exc) != "MissingContentMD5":
            raise
        return await _delete_singly(calls, versions)
    failures = [
        DeleteFailure(key=error.get("Key", ""), reason=f"{error.get('Code', '')} {error.get('Message', '')}".strip())
        for error in answer.get("Errors", [])
        if error.get("Code") not in _GONE
    ]
    plain = {version.key for version in versions if version.version_id is None}
    deleted = answer.get("Deleted", [])
    return failures, [one["Key"] for one in deleted if one.get("DeleteMarker") and one["Key"] in plain]


async def _delete_singly(calls: S3Calls, versions: Sequence[Version]) -> tuple[list[DeleteFailure], list[str]]:
    """For stores that have no DeleteObjects, or want a Content-MD5 that the SDK no longer sends."""
    failures: list[DeleteFailure] = []
    marked: list[str] = []
    for version in versions:
        try:
            if await _delete_one(calls, version) and version.version_id is None:
                marked.append(version.key)
        except ObjectNotFound:
            continue
        except ObjectStoreError as exc:
            failures.append(DeleteFailure(key=version.key, reason=str(exc)))
    return failures, marked


async def _delete_one(calls: S3Calls, version: Version, *, if_match: str = "") -> bool:
    """Whether that only set a delete marker."""
    given: dict[str, Any] = {"VersionId": version.version_id, "IfMatch": if_match}
    arguments = {name: value for name, value in given.items() if value}
    answer = await calls.ask("DeleteObject", key=version.key, **arguments)
    return bool(answer.get("DeleteMarker"))


async def _is_still(calls: S3Calls, key: str, etag: str) -> bool:
    try:
        answer = await calls.ask("HeadObject", key=key)
    except ObjectNotFound:
        return False
    return bool(answer["ETag"] == etag)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
