"""`LocalObjectStore`: a directory that keeps S3's law, for `file:///…`, demos and tests of years in seconds.

Storage classes, the refusal of archived bytes, restores that take their hours and expire, conditional puts: all as
on S3, by the clock it is given. `tree` tells how it looks on disk and why a crash leaves nothing half.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final, Self, TypeVar

from sagaz_tiering import errors
from sagaz_tiering.clock import Clock, from_micros, to_micros
from sagaz_tiering.objects import arguments
from sagaz_tiering.objects.base import DeleteFailure, ObjectInfo, RestoreState
from sagaz_tiering.objects.local.tree import ObjectRecord, ObjectTree
from sagaz_tiering.storage_class import StorageClass

T = TypeVar("T")

LIST_PAGE = 1000

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISSING = {errno.ENOENT, errno.ENOTDIR}

_RESTORE_DELAYS: Final[Mapping[tuple[StorageClass, str], timedelta]] = {
    (StorageClass.GLACIER, "Expedited"): timedelta(minutes=5),
    (StorageClass.GLACIER, "Standard"): timedelta(hours=5),
    (StorageClass.GLACIER, "Bulk"): timedelta(hours=12),
    (StorageClass.DEEP_ARCHIVE, "Standard"): timedelta(hours=12),
    (StorageClass.DEEP_ARCHIVE, "Bulk"): timedelta(hours=48),
}
"""The upper end of what S3 promises (S3 user guide, "Archive retrieval options")."""


class LocalObjectStore:
    """Objects under one directory: `await LocalObjectStore.open(root, clock)`, then `close()` or `async with`."""

    def __init__(self, root: Path, clock: Clock, request_timeout: timedelta | None = None) -> None:
        self._root = root.absolute()
        self._clock = clock
        self._timeout_s = None if request_timeout is None else request_timeout.total_seconds()
        self._tree = ObjectTree(self._root)

    @classmethod
    async def open(cls, root: Path, clock: Clock, request_timeout: timedelta | None = None) -> Self:
        """An open store, each of whose requests has that deadline (None: no limit); makes the directory.

        Raises BucketUnusable or ColdTierUnavailable where it cannot be used.
        """
        store = cls(root, clock, request_timeout)
        await store._run("", store._open_tree)
        return store

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Release the staging directory."""
        try:
            await asyncio.to_thread(self._tree.close)
        except RuntimeError:  # at the end of the interpreter no thread is given work any more
            self._tree.close()

    @property
    def url(self) -> str:
        """`file:///path`."""
        return self._root.as_uri()

    async def check(self) -> None:
        """See `ObjectStore.check`."""
        await self._run("", self._check_tree)

    async def server_time(self) -> datetime | None:
        """See `ObjectStore.server_time`."""
        return None

    async def put(self, key: str, data: bytes | bytearray, *, storage_class: StorageClass, sha256: bytes) -> None:
        """See `ObjectStore.put`."""
        arguments.check_key(key)
        record = self._new_record(data, sha256, storage_class)

        def write() -> None:
            arguments.check_data(key, data, sha256)
            self._tree.write(key, data, record)

        await self._run(key, write)

    async def head(self, key: str) -> ObjectInfo:
        """See `ObjectStore.head`."""
        record = await self._run(arguments.check_key(key), lambda: self._record(key))
        state = self._restore_state(record)
        until = record.readable_until if state is RestoreState.READABLE else None
        return replace(
            _info(key, record),
            sha256=bytes.fromhex(record.sha256),
            restore=state,
            readable_until=None if until is None else from_micros(until),
        )

    async def get(self, key: str, *, most: int | None = None) -> bytes:
        """See `ObjectStore.get`."""
        data = await self._run(arguments.check_key(key), lambda: self._read(key, 0, None if most is None else most + 1))
        if most is not None:
            arguments.check_size(key, len(data), most)
        return data

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `ObjectStore.get_range`."""
        arguments.check_range(offset, length)
        data = await self._run(arguments.check_key(key), lambda: self._read(key, offset, length))
        return arguments.check_length(key, data, offset, length)

    async def get_tagged(self, key: str, *, most: int) -> tuple[bytes, str]:
        """See `ObjectStore.get_tagged`."""
        data = await self.get(key, most=most)
        return data, hashlib.sha256(data).hexdigest()

    async def swap(self, key: str, data: bytes, tag: str) -> bool:
        """See `ObjectStore.swap`."""
        record = self._new_record(data, hashlib.sha256(data).digest(), StorageClass.STANDARD)
        if not await self._run(arguments.check_key(key), lambda: self._tree.swap(key, data, record, tag)):
            return False
        return await self.get(key, most=max(len(data), arguments.MOST_READ_BACK)) == data

    async def change_class(self, key: str, storage_class: StorageClass) -> None:
        """See `ObjectStore.change_class`. Like S3's copy in place it is a new object: restored copies end."""

        def moved(record: ObjectRecord) -> ObjectRecord:
            if record.storage_class is storage_class:
                return record
            self._refuse_archived(key, record)
            now = to_micros(self._clock.now())
            return replace(record, storage_class=storage_class, modified_at=now, ready_at=None, readable_until=None)

        await self._run(arguments.check_key(key), lambda: self._tree.update(key, moved))

    async def restore(self, key: str, *, days: int, tier: str) -> RestoreState:
        """See `ObjectStore.restore`. The copy is readable after the tier's delay, until a midnight (UTC)."""
        arguments.check_restore(days, tier)

        def restored(record: ObjectRecord) -> ObjectRecord:
            state = self._restore_state(record)
            if not record.storage_class.is_archive or state is RestoreState.IN_PROGRESS:
                return record
            now = self._clock.now()
            if state is RestoreState.READABLE:
                return replace(record, readable_until=to_micros(_midnight_after(now, days)))
            delay = _RESTORE_DELAYS.get((record.storage_class, tier))
            if delay is None:
                said = f"{record.storage_class} has no {tier} restore"
                raise errors.ObjectStoreError(said, hint="use the tier Standard or Bulk")
            return replace(
                record, ready_at=to_micros(now + delay), readable_until=to_micros(_midnight_after(now + delay, days))
            )

        record = await self._run(arguments.check_key(key), lambda: self._tree.update(key, restored))
        return self._restore_state(record) if record.storage_class.is_archive else RestoreState.READABLE

    async def delete(self, keys: Sequence[str]) -> list[DeleteFailure]:
        """See `ObjectStore.delete`."""
        wanted = list(dict.fromkeys(keys))
        for key in wanted:
            self._tree.path(arguments.check_key(key))
        failures: list[DeleteFailure] = []
        for key in wanted:
            try:
                await self._run(key, functools.partial(self._tree.remove, key))
            except errors.ObjectNotFound:
                continue
            except errors.ObjectStoreError as exc:
                failures.append(DeleteFailure(key=key, reason=str(exc)))
        return failures

    async def list(self, prefix: str = "", *, start_after: str = "") -> AsyncIterator[ObjectInfo]:
        """See `ObjectStore.list`."""
        keys = self._tree.walk(arguments.check_list_prefix(prefix), start_after)
        page: list[ObjectInfo | None] = [None] * LIST_PAGE
        while len(page) == LIST_PAGE:
            page = await self._run("", lambda: [self._listed(key) for key in islice(keys, LIST_PAGE)])
            for info in filter(None, page):
                yield info

    def _new_record(self, data: bytes | bytearray, sha256: bytes, storage_class: StorageClass) -> ObjectRecord:
        now_us = to_micros(self._clock.now())
        return ObjectRecord(size=len(data), sha256=sha256.hex(), storage_class=storage_class, modified_at=now_us)

    def _open_tree(self) -> None:
        try:
            self._tree.open()
        except (FileNotFoundError, FileExistsError, NotADirectoryError) as exc:
            raise errors.BucketUnusable(
                f"{self._root.as_uri()} is not the directory of a store",
                hint=f"create {self._root}, mount its volume, or correct the path",
            ) from exc

    def _check_tree(self) -> None:
        if not self._tree.is_present():
            raise _gone(self._root)
        if not self._tree.is_writable():
            raise PermissionError(errno.EACCES, "not readable and writable")

    def _listed(self, key: str) -> ObjectInfo | None:
        with suppress(FileNotFoundError):  # it is gone by now
            return _info(key, self._record(key))
        return None

    def _record(self, key: str) -> ObjectRecord:
        with self._tree.opened(key) as found:
            return found.record()

    def _read(self, key: str, offset: int, length: int | None) -> bytes:
        with self._tree.opened(key) as found:
            self._refuse_archived(key, found.record())
            return found.data(offset, length)

    def _refuse_archived(self, key: str, record: ObjectRecord) -> None:
        archived = record.storage_class.is_archive
        if archived and self._restore_state(record) is not RestoreState.READABLE:
            raise errors.ObjectArchived(f"{key} is in {record.storage_class}", hint="restore the object first")

    def _restore_state(self, record: ObjectRecord) -> RestoreState:
        if record.ready_at is None or record.readable_until is None:
            return RestoreState.NONE
        now = to_micros(self._clock.now())
        if now < record.ready_at:
            return RestoreState.IN_PROGRESS
        return RestoreState.READABLE if now < record.readable_until else RestoreState.NONE

    async def _run(self, key: str, step: Callable[[], T]) -> T:
        """Run blocking `step` in a thread, within the deadline, with the system's errors made ours."""

        def guarded() -> T:
            try:
                return step()
            except OSError as exc:
                raise translated(exc, key, self._root, present=self._tree.is_present()) from exc

        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.to_thread(guarded)
        except TimeoutError as exc:
            raise errors.ColdTierUnavailable(
                f"{self._root.as_uri()}/{key} was not answered within {self._timeout_s:g} s",
                hint=f"the disk or network mount behind {self._root} hangs",
            ) from exc


def _info(key: str, record: ObjectRecord) -> ObjectInfo:
    return ObjectInfo(
        key=key, size=record.size, modified_at=from_micros(record.modified_at), storage_class=record.storage_class
    )


def _midnight_after(moment: datetime, days: int) -> datetime:
    """S3 adds the days and rounds up to the next midnight UTC (API reference, RestoreObject)."""
    end = moment.astimezone(UTC) + timedelta(days=days)
    return (end + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)


def translated(exc: OSError, key: str, root: Path, *, present: bool) -> errors.SagazTieringError:
    """Our error for one of the system's; `present` tells whether the store's tree is still there."""
    where = f"{root.as_uri()}/{key}".rstrip("/")
    if exc.errno == errno.EEXIST:
        return errors.ObjectExists(f"{where}: the key is taken; nothing was overwritten")
    if exc.errno in _MISSING:
        # An unmounted volume must not look like an empty store.
        return errors.ObjectNotFound(f"{where}: no such object") if present else _gone(root)
    if exc.errno in _FULL:
        return errors.ColdTierUnavailable(
            f"{where} cannot be written: {exc.strerror}; nothing was stored",
            hint=f"make room on the filesystem of {root} (or raise its quota or file size limit)",
        )
    if exc.errno in _REFUSED:
        return errors.AccessRefused(f"{where}: {exc.strerror}", hint=f"let this user read and write below {root}")
    return errors.ColdTierUnavailable(f"{where}: {exc}", hint=f"check the filesystem of {root}")


def _gone(root: Path) -> errors.ColdTierUnavailable:
    """The error for a directory that was there when the store was opened."""
    said = f"{root.as_uri()} is not there any more"
    return errors.ColdTierUnavailable(said, hint=f"is the volume of {root} mounted?")
