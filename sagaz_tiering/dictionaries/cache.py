"""The dictionaries that this process knows: by id for readers, by saga name for writers.

A dictionary is in the bucket, then in the catalog, then in Redis before anything is written with it, and it is never
deleted. Readers therefore find every one that a value or frame names, nearest place first; writers are told of a new
one by the catalog once a minute and do without where they know none yet. What only Redis knows is read, never used.

In the bucket one is the object `dictionaries/<sha256>`, written once.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Final, Protocol

from sagaz_tiering import errors, metrics
from sagaz_tiering.codec.zstd import DICTIONARY_ID_BYTES, NO_DICTIONARIES, Dictionary
from sagaz_tiering.drivers.process_loop import HomeLoop
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import ObjectInfo, ObjectStore
from sagaz_tiering.storage_class import StorageClass

_log = Logger(__name__)

MOST_KEPT: Final = 256
"""Dictionaries in memory at once: 16 MiB at 64 KiB each."""

REFRESH_SECONDS: Final = 60.0

_READ_HIT, _READ_LOADED, _READ_MISSING = (
    metrics.DICTIONARY_LOOKUPS.labels(use="read", outcome=outcome) for outcome in ("hit", "loaded", "missing")
)
_WRITE_HIT, _WRITE_MISSING, _WRITE_NONE = (
    metrics.DICTIONARY_LOOKUPS.labels(use="write", outcome=outcome) for outcome in ("hit", "missing", "none")
)
PREFIX = "dictionaries/"
MOST_BYTES = 16 * 2**20
"""Many times what is ever trained: anyone who may write to the bucket could put gigabytes there."""


class Source(Protocol):
    """A place that keeps dictionaries."""

    @property
    def place(self) -> str:
        """What it is, for people."""

    async def fetch(self, dictionary_id: bytes) -> bytes | None:
        """The content, not verified; None where this place does not have it. Raises TierUnavailable."""


class Register(Protocol):
    """A place that knows which dictionary new data are compressed with."""

    async def current(self) -> Mapping[str, bytes]:
        """Dictionary ids by saga name; empty where it knows of none. Raises TierUnavailable."""


class Dictionaries(Mapping[bytes, Dictionary]):
    """One per process and event loop. As a mapping: those in memory, by id; `need` puts them there.

    `sources` and `registers` are asked in their order. With `enabled` False nothing new is compressed with any.
    """

    def __init__(
        self, sources: Sequence[Source] = (), registers: Sequence[Register] = (), *, enabled: bool = True
    ) -> None:
        self.enabled = enabled
        self._sources = sources
        self._registers = registers
        self._kept: OrderedDict[bytes, Dictionary] = OrderedDict()
        self._current: dict[str, bytes] = {}
        self._loading: dict[bytes, asyncio.Task[Dictionary | None]] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._refresh_at = 0.0
        self._home = HomeLoop(self)

    def __getitem__(self, dictionary_id: bytes) -> Dictionary:
        found = self._kept[dictionary_id]
        self._kept.move_to_end(dictionary_id)
        return found

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def at_hand(self, dictionary_id: bytes | None) -> Mapping[bytes, Dictionary] | None:
        """What `need` answers, without waiting; None where it must be loaded first."""
        if dictionary_id is None:
            return NO_DICTIONARIES
        if dictionary_id not in self._kept:
            return None
        _READ_HIT.inc()
        return {dictionary_id: self[dictionary_id]}

    async def close(self) -> None:
        """End what is under way in the background."""
        tasks = [task for task in (*self._loading.values(), self._refreshing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def need(self, *dictionary_ids: bytes | None) -> Mapping[bytes, Dictionary]:
        """Those that these ids name, loaded where they are not known yet; None among the ids stands for none.

        One that no place has is left out and logged: reading what is compressed with it raises CorruptRecord or
        CorruptPack, the rest can be read. Raises TierUnavailable if a place that may have it cannot be asked.
        """
        wanted = {dictionary_id for dictionary_id in dictionary_ids if dictionary_id is not None}
        found = {dictionary_id: self[dictionary_id] for dictionary_id in wanted & self._kept.keys()}
        _READ_HIT.inc(len(found))
        for dictionary_id in wanted - found.keys():
            # A caller that gives up must not take the load from the others who wait for it.
            loaded = await asyncio.shield(self._load_once(dictionary_id))
            (_READ_MISSING if loaded is None else _READ_LOADED).inc()
            if loaded is not None:
                found[dictionary_id] = loaded
        return found

    def for_writing(self, saga_name: str) -> Dictionary | None:
        """What new data of that name are compressed with, if it is known by now. Waits for nothing.

        Once a minute, and for a dictionary that is not in memory yet, it starts to look in the background.
        """
        if not self.enabled:
            return None
        if time.monotonic() >= self._refresh_at:
            self._refresh_soon()
        dictionary_id = self._current.get(saga_name)
        if dictionary_id is None:
            _WRITE_NONE.inc()
            return None
        if dictionary_id not in self._kept:
            _WRITE_MISSING.inc()
            self._load_once(dictionary_id)
            return None
        _WRITE_HIT.inc()
        return self[dictionary_id]

    def chosen(self) -> Mapping[str, Dictionary]:
        """What new data are compressed with by now, by saga name, as it stands."""
        if not self.enabled:
            return {}
        return {name: self._kept[found] for name, found in self._current.items() if found in self._kept}

    async def refresh(self) -> None:
        """Learn which dictionaries are current, and load them. What fails is logged; what was known stays."""
        self._refresh_at = time.monotonic() + REFRESH_SECONDS
        try:
            self._current = dict(await self._ask_registers())
            await self.need(*list(self._current.values())[:MOST_KEPT])
        except errors.SagazTieringError as exc:
            _log.warning("dictionaries.not_refreshed", error=str(exc), hint=exc.hint)

    async def freshen(self) -> None:
        """`refresh`, unless that was done within the last minute."""
        if self.enabled and time.monotonic() >= self._refresh_at:
            await self.refresh()

    async def _ask_registers(self) -> Mapping[str, bytes]:
        failure: errors.TierUnavailable | None = None
        for register in self._registers:
            try:
                if found := await register.current():
                    return found
            except errors.TierUnavailable as exc:
                failure = exc
        if failure is not None:
            raise failure
        return {}

    def _refresh_soon(self) -> None:
        self._home.check()
        if self._refreshing is None or self._refreshing.done():
            self._refresh_at = time.monotonic() + REFRESH_SECONDS
            self._refreshing = asyncio.get_running_loop().create_task(self.refresh())

    def _load_once(self, dictionary_id: bytes) -> asyncio.Task[Dictionary | None]:
        self._home.check()
        if dictionary_id not in self._loading:
            task = self._loading[dictionary_id] = asyncio.get_running_loop().create_task(self._load(dictionary_id))
            task.add_done_callback(lambda done: self._loaded(dictionary_id, done))
        return self._loading[dictionary_id]

    def _loaded(self, dictionary_id: bytes, task: asyncio.Task[Dictionary | None]) -> None:
        del self._loading[dictionary_id]
        if task.cancelled():
            return
        failure = task.exception()
        if failure is not None:
            _log.warning("dictionary.not_loaded", dictionary_id=dictionary_id.hex(), error=str(failure))
        found = None if failure is not None else task.result()
        if found is None:  # not with every save: the next refresh tries again
            self._current = {name: each for name, each in self._current.items() if each != dictionary_id}
            return
        self._kept[dictionary_id] = found
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    async def _load(self, dictionary_id: bytes) -> Dictionary | None:
        """From the first place that has it as it was written."""
        altered: list[str] = []
        failure: errors.TierUnavailable | None = None
        for source in self._sources:
            try:
                data = await source.fetch(dictionary_id)
            except errors.TierUnavailable as exc:
                failure = exc
                continue
            if data is not None and sha256(data).digest()[:DICTIONARY_ID_BYTES] == dictionary_id:
                return Dictionary(data)
            if data is not None:
                altered.append(source.place)
        if failure is not None:
            raise failure
        _log.error("dictionary.lost", dictionary_id=dictionary_id.hex(), altered_in=altered)
        return None


def dictionary_key(digest: bytes) -> str:
    """Where the dictionary with this sha256 is."""
    return f"{PREFIX}{digest.hex()}"


def digest_in(key: str) -> bytes | None:
    """The sha256 that a key names; None for a foreign one."""
    name = key.removeprefix(PREFIX)
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        return None
    return digest if digest.hex() == name and len(digest) == sha256().digest_size else None


class BucketDictionaries:
    """The bucket as a source of the dictionary cache: the last one, which needs neither Redis nor the catalog."""

    place = "the bucket"

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def fetch(self, dictionary_id: bytes) -> bytes | None:
        """The content of one, found by the beginning of its name; None where there is none."""
        async for info in self._objects.list(f"{PREFIX}{dictionary_id.hex()}"):
            if (digest := digest_in(info.key)) is not None:
                # Anyone could have put it there; `scrub` names it.
                with suppress(errors.CorruptData, errors.ObjectNotFound):
                    return (await self.get(digest)).data
        return None

    async def has(self, dictionary: Dictionary) -> bool:
        """Whether an object of its name and size is there."""
        try:
            return (await self._objects.head(dictionary_key(dictionary.digest))).size == len(dictionary.data)
        except errors.ObjectNotFound:
            return False

    async def replace(self, dictionary: Dictionary) -> None:
        """Put one in the place of an object that has its name and other bytes. Raises as `put`."""
        for failure in await self._objects.delete([dictionary_key(dictionary.digest)]):
            raise errors.ColdTierUnavailable(f"{failure.key}: cannot be replaced: {failure.reason}")
        await self.put(dictionary)

    async def put(self, dictionary: Dictionary) -> None:
        """Store one, unless it is there, and make sure that it reads back. Raises CorruptData if it does not."""
        key = dictionary_key(dictionary.digest)
        with suppress(errors.ObjectExists):
            await self._objects.put(key, dictionary.data, storage_class=StorageClass.STANDARD, sha256=dictionary.digest)
        try:
            await self.get(dictionary.digest)
        except errors.ObjectNotFound as exc:
            raise errors.ColdTierUnavailable(f"{key}: written, but not there: {exc}") from exc

    async def get(self, digest: bytes) -> Dictionary:
        """One, verified; what is too large to be one is not read. Raises CorruptData, ObjectNotFound."""
        key = dictionary_key(digest)
        data = await self._objects.get(key, most=MOST_BYTES)
        if sha256(data).digest() != digest:
            raise errors.CorruptData(f"{key}: its bytes are not those that its name says")
        return Dictionary(data)

    def all(self) -> AsyncIterator[ObjectInfo]:
        """Every object under the prefix, foreign ones too."""
        return self._objects.list(PREFIX)
