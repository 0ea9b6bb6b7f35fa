"""What the object store does with objects, tried under a prefix of our own that is removed again.

Keys are `doctor/<uuid>/…`; what a killed probe left there is removed by the next one after an hour.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from uuid import uuid4

from sagaz_tiering.clock import Clock
from sagaz_tiering.doctor.finding import Findings, is_refusal
from sagaz_tiering.errors import CorruptPack, ObjectArchived, ObjectExists, ObjectStoreError
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

    def __init__(self, store: ObjectStore, used: Sequence[StorageClass], clock: Clock, found: Findings) -> None:
        self._store, self._used, self._clock, self._found = store, used, clock, found
        self._under = f"{PREFIX}{uuid4()}/"
        self._keys: list[str] = []

    async def run(self) -> None:
        """Every finding; each check by itself, the removal at the end in any case."""
        found = self._found
        try:
            # First: where checksums are refused, so is every write with one.
            with found.guarded("object_store.checksums"):
                await self._checksums()
            can_write = False
            with found.guarded("object_store.write"):
                can_write = await self._write()
            checks: dict[str, Callable[[], Awaitable[None]]] = {
                "conditional_write": self._condition,
                "range": self._range,
                **{f"class.{each}": partial(self._class, each) for each in self._classes()},
                "move": self._move,
                "archive": self._archive,
                "abort": self._abort,
            }
            for what, check in checks.items() if can_write else ():
                with found.guarded(f"object_store.{what}"):
                    await check()
        finally:
            await self._remove()

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

    async def _write(self) -> bool:
        asked = self._clock.now()
        key = await self._put("object")
        if await self._store.get(key) != _DATA:
            self._found.error("object_store.write", "other bytes came back than were written", "do not use this store")
            return False
        if key not in [info.key async for info in self._store.list(self._under)]:
            text = "an object that was just written is not listed"
            self._found.warning(
                "object_store.list", text, "scrub and collect count on listings; wait before you trust them"
            )
        self._found.ok("object_store.write", "written, read back equal")
        if isinstance(self._store, S3ObjectStore):
            modified = (await self._store.head(key)).modified_at
            took = self._clock.now() - asked + timedelta(seconds=1)  # S3 tells whole seconds
            self._found.compared("object_store.clock", "the object store", modified, asked - timedelta(seconds=1), took)
        return True

    async def _condition(self) -> None:
        subject = "object_store.conditional_write"
        honoured = await self._honours_condition()
        if honoured:
            self._found.ok(subject, "If-None-Match is honoured: nothing is ever overwritten")
        else:
            how = "is ignored" if honoured is False else "is not known"
            text = f"If-None-Match {how}; fresh keys alone keep writers apart, which is safe"
            self._found.warning(subject, text, "let no other program write under this prefix")

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

    async def _checksums(self) -> None:
        subject = "object_store.checksums"
        if not isinstance(self._store, S3ObjectStore):
            self._found.ok(subject, "a directory: hashed before every write")
            return
        calls, options = self._store.calls, self._store.calls.options
        if not await takes_checksum(calls, self._key("checksum"), _DATA, of=_DATA):
            if options.sends_checksums:
                hint = "set tiers.cold.checksums: when_required"
                self._found.error(subject, "checksum headers are refused, but every upload has one", hint)
            else:
                self._found.ok(
                    subject, "checksum headers are refused; none are sent, the signature covers the body instead"
                )
        elif not await takes_checksum(calls, self._key("wrong-checksum"), _DATA, of=b"other bytes"):
            advice = "" if options.sends_checksums else "tiers.cold.checksums: when_supported would use them"
            self._found.ok(subject, "a wrong checksum is refused", advice)
        else:
            text = "a wrong checksum is accepted: damage on the way shows only when a pack is read back"
            self._found.warning(subject, text, "packs are read back before they count; keep the job scrub on")

    async def _range(self) -> None:
        offset, length = _RANGE
        try:
            data = await self._store.get_range(self._under + "object", offset, length)
        except CorruptPack as exc:
            self._found.error(
                "object_store.range", f"range reads fail: {exc}", "do not use this store: packs are read so"
            )
            return
        if data == _DATA[offset : offset + length]:
            self._found.ok("object_store.range", f"{length} bytes from {offset} came back")
        else:
            self._found.error("object_store.range", "a range read gave other bytes", "do not use this store")

    async def _class(self, storage_class: StorageClass) -> None:
        subject = f"object_store.class.{storage_class}"
        try:
            found = (await self._store.head(await self._put(storage_class.value, storage_class))).storage_class
        except ObjectStoreError as exc:
            if is_refusal(exc):
                raise
            text = f"{storage_class} is refused: {exc}"
        else:
            if found is storage_class:
                self._found.ok(subject, f"written as {storage_class}, comes back as such")
                return
            text = f"written as {storage_class}, comes back as {found}"
        if storage_class in self._used:
            self._found.error(subject, text, "a policy moves to this class: plan no moves to it on this store")
        else:
            self._found.warning(subject, text, "plan no moves to this class on this store")

    async def _move(self) -> None:
        if not self._used:
            return
        key, to = await self._put("moved"), self._classes()[0]
        await self._store.change_class(key, to)
        self._found.ok("object_store.move", f"moved in place from STANDARD to {to}")

    async def _archive(self) -> None:
        archived = [each for each in self._classes() if each.is_archive]
        if not archived:
            self._found.ok("object_store.archive", "no policy archives")
            return
        key, subject = self._under + archived[0].value, "object_store.archive"
        if (await self._store.head(key)).storage_class is not archived[0]:
            return  # told already
        try:
            await self._store.get(key)
        except ObjectArchived:
            state = await self._store.restore(key, days=1, tier="Bulk")
            self._found.ok(subject, f"{archived[0]} is not readable before a restore, which can be asked for ({state})")
        else:
            text = f"{archived[0]} can be read without a restore: this store does not archive"
            self._found.warning(subject, text, "costs and waits of archive classes do not hold here")

    async def _abort(self) -> None:
        if isinstance(self._store, S3ObjectStore):
            await aborts_upload(self._store.calls, self._key("unfinished"))
            self._found.ok("object_store.abort", "an upload that was begun can be aborted")

    async def _remove(self) -> None:
        subject = "object_store.delete"
        with self._found.guarded(subject):
            failures = await self._store.delete([*dict.fromkeys(self._keys), *await self._leftovers()])
            left = [info.key async for info in self._store.list(self._under)]
            if failures or left:
                why = failures[0].reason if failures else "still listed"
                text = f"{len(failures) or len(left)} objects of the probe stay under {self._under}: {why}"
                hint = "grant s3:DeleteObject and s3:DeleteObjectVersion: nothing can expire without"
                self._found.warning(subject, text, hint)
            else:
                self._found.ok(subject, "everything that the probe wrote is removed again")

    async def _leftovers(self) -> list[str]:
        before = self._clock.now() - LEFTOVER
        return [info.key async for info in self._store.list(PREFIX) if info.modified_at < before]
