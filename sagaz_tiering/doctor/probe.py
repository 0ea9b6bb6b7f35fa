"""What the object store does with objects, tried under a prefix of our own that is removed again.

Keys are `doctor/<uuid>/…`; what a killed probe left there is removed by the next one after an hour.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

from sagaz_tiering.clock import Clock
from sagaz_tiering.doctor.finding import Finding, Level, error, from_error, guarded, is_refusal, ok, warning
from sagaz_tiering.doctor.timing import compared
from sagaz_tiering.errors import CorruptPack, ObjectArchived, ObjectExists, ObjectStoreError, SagazTieringError
from sagaz_tiering.objects.base import ObjectStore
from sagaz_tiering.objects.s3.bucket import aborts_upload, honours_condition, takes_checksum
from sagaz_tiering.objects.s3.store import S3ObjectStore
from sagaz_tiering.storage_class import StorageClass

PREFIX = "doctor/"
LEFTOVER = timedelta(hours=1)
_DATA = os.urandom(1024)
_RANGE = (100, 50)


class Probe:
    """One run against one store. `used` are the classes that policies move to."""

    def __init__(self, store: ObjectStore, used: Sequence[StorageClass], clock: Clock) -> None:
        self._store = store
        self._used = used
        self._clock = clock
        self._under = f"{PREFIX}{uuid4()}/"
        self._keys: list[str] = []

    async def run(self) -> AsyncGenerator[Finding, None]:
        """Every finding; each check by itself, the removal at the end in any case."""
        try:
            # First: where checksums are refused, so is every write with one.
            async for found in guarded("object_store.checksums", self._checksums()):
                yield found
            async for found in guarded("object_store.write", self._write()):
                yield found
                if found.subject == "object_store.write" and found.level is not Level.OK:
                    return
            for subject, check in (
                ("object_store.conditional_write", self._condition()),
                ("object_store.range", self._range()),
                *((f"object_store.class.{each}", self._class(each)) for each in self._classes()),
                ("object_store.move", self._move()),
                ("object_store.archive", self._archive()),
                ("object_store.abort", self._abort()),
            ):
                async for found in guarded(subject, check):
                    yield found
        finally:
            removal = await self._remove()
        yield removal

    def _classes(self) -> list[StorageClass]:
        return sorted({StorageClass.STANDARD_IA, *self._used}, key=lambda each: each.coldness)

    async def _put(self, name: str, storage_class: StorageClass = StorageClass.STANDARD) -> str:
        key = self._key(name)
        await self._store.put(key, _DATA, storage_class=storage_class, sha256=hashlib.sha256(_DATA).digest())
        return key

    def _key(self, name: str) -> str:
        """Noted before it is written: after an error the object may be there all the same."""
        self._keys.append(self._under + name)
        return self._keys[-1]

    async def _write(self) -> AsyncGenerator[Finding, None]:
        asked = self._clock.now()
        key = await self._put("object")
        if await self._store.get(key) != _DATA:
            yield error("object_store.write", "other bytes came back than were written", "do not use this store")
            return
        if key not in [info.key async for info in self._store.list(self._under)]:
            text = "an object that was just written is not listed"
            yield warning("object_store.list", text, "scrub and collect count on listings; wait before you trust them")
        yield ok("object_store.write", "written, read back equal")
        if isinstance(self._store, S3ObjectStore):
            modified = (await self._store.head(key)).modified_at
            yield _clock(modified, asked, self._clock.now())

    async def _condition(self) -> AsyncGenerator[Finding, None]:
        subject = "object_store.conditional_write"
        honoured = await self._honours_condition()
        if honoured:
            yield ok(subject, "If-None-Match is honoured: nothing is ever overwritten")
        else:
            how = "is ignored" if honoured is False else "is not known"
            text = f"If-None-Match {how}; fresh keys alone keep writers apart, which is safe"
            yield warning(subject, text, "let no other program write under this prefix")

    async def _honours_condition(self) -> bool | None:
        key = self._key("condition")
        if isinstance(self._store, S3ObjectStore):
            return await honours_condition(self._store.calls, key, _DATA)
        await self._put("condition")
        try:
            await self._put("condition")
        except ObjectExists:
            return True
        return False

    async def _checksums(self) -> AsyncGenerator[Finding, None]:
        subject = "object_store.checksums"
        if not isinstance(self._store, S3ObjectStore):
            yield ok(subject, "a directory: hashed before every write")
            return
        calls, options = self._store.calls, self._store.calls.options
        if not await takes_checksum(calls, self._key("checksum"), _DATA, of=_DATA):
            if options.sends_checksums:
                hint = "set tiers.cold.checksums: when_required"
                yield error(subject, "checksum headers are refused, but every upload has one", hint)
            else:
                yield ok(subject, "checksum headers are refused; none are sent, the signature covers the body instead")
        elif not await takes_checksum(calls, self._key("wrong-checksum"), _DATA, of=b"other bytes"):
            advice = "" if options.sends_checksums else "tiers.cold.checksums: when_supported would use them"
            yield ok(subject, "a wrong checksum is refused", advice)
        else:
            text = "a wrong checksum is accepted: damage on the way shows only when a pack is read back"
            yield warning(subject, text, "packs are read back before they count; keep the job scrub on")

    async def _range(self) -> AsyncGenerator[Finding, None]:
        offset, length = _RANGE
        try:
            data = await self._store.get_range(self._under + "object", offset, length)
        except CorruptPack as exc:
            yield error("object_store.range", f"range reads fail: {exc}", "do not use this store: packs are read so")
            return
        if data == _DATA[offset : offset + length]:
            yield ok("object_store.range", f"{length} bytes from {offset} came back")
        else:
            yield error("object_store.range", "a range read gave other bytes", "do not use this store")

    async def _class(self, storage_class: StorageClass) -> AsyncGenerator[Finding, None]:
        subject = f"object_store.class.{storage_class}"
        try:
            found = (await self._store.head(await self._put(storage_class.value, storage_class))).storage_class
        except ObjectStoreError as exc:
            if is_refusal(exc):
                raise
            yield self._classless(subject, f"{storage_class} is refused: {exc}", needed=storage_class in self._used)
            return
        if found is storage_class:
            yield ok(subject, f"written as {storage_class}, comes back as such")
        else:
            text = f"written as {storage_class}, comes back as {found}"
            yield self._classless(subject, text, needed=storage_class in self._used)

    def _classless(self, subject: str, text: str, *, needed: bool) -> Finding:
        if needed:
            return error(subject, text, "a policy moves to this class: plan no moves to it on this store")
        return warning(subject, text, "plan no moves to this class on this store")

    async def _move(self) -> AsyncGenerator[Finding, None]:
        if not self._used:
            return
        key, to = await self._put("moved"), self._classes()[0]
        await self._store.change_class(key, to)
        yield ok("object_store.move", f"moved in place from STANDARD to {to}")

    async def _archive(self) -> AsyncGenerator[Finding, None]:
        archived = [each for each in self._classes() if each.is_archive]
        if not archived:
            yield ok("object_store.archive", "no policy archives")
            return
        key, subject = self._under + archived[0].value, "object_store.archive"
        if (await self._store.head(key)).storage_class is not archived[0]:
            return  # told already
        try:
            await self._store.get(key)
        except ObjectArchived:
            state = await self._store.restore(key, days=1, tier="Bulk")
            yield ok(subject, f"{archived[0]} is not readable before a restore, which can be asked for ({state})")
        else:
            text = f"{archived[0]} can be read without a restore: this store does not archive"
            yield warning(subject, text, "costs and waits of archive classes do not hold here")

    async def _abort(self) -> AsyncGenerator[Finding, None]:
        if isinstance(self._store, S3ObjectStore):
            await aborts_upload(self._store.calls, self._key("unfinished"))
            yield ok("object_store.abort", "an upload that was begun can be aborted")

    async def _remove(self) -> Finding:
        subject = "object_store.delete"
        try:
            failures = await self._store.delete([*dict.fromkeys(self._keys), *await self._leftovers()])
            left = [info.key async for info in self._store.list(self._under)]
        except SagazTieringError as exc:
            return from_error(subject, exc)
        if failures or left:
            why = failures[0].reason if failures else "still listed"
            text = f"{len(failures) or len(left)} objects of the probe stay under {self._under}: {why}"
            return warning(
                subject, text, "grant s3:DeleteObject and s3:DeleteObjectVersion: nothing can expire without"
            )
        return ok(subject, "everything that the probe wrote is removed again")

    async def _leftovers(self) -> list[str]:
        before = self._clock.now() - LEFTOVER
        return [info.key async for info in self._store.list(PREFIX) if info.modified_at < before]


def _clock(modified: datetime, asked: datetime, answered: datetime) -> Finding:
    """S3 tells whole seconds."""
    took = answered - asked + timedelta(seconds=1)
    return compared("object_store.clock", "the object store", modified, asked - timedelta(seconds=1), took)
