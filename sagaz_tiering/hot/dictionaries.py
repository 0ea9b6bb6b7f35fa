"""Compression dictionaries in Redis: where most readers look first. Writers ask the catalog which one is current."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import redis.exceptions as driver

from sagaz_tiering.codec.value import text_bytes
from sagaz_tiering.hot.tier import HotTier
from sagaz_tiering.logs import Logger

if TYPE_CHECKING:
    from sagaz_tiering.codec.zstd import Dictionary

_log = Logger(__name__)


class HotDictionaries:
    """A source of the dictionary cache. No time to live: they are few, and values need them."""

    place = "Redis"

    def __init__(self, hot: HotTier) -> None:
        self._hot = hot
        self._names = hot.keys.dictionaries()
        self._redis = hot.connection.pool  # the same connections, and the same errors

    async def fetch(self, dictionary_id: bytes) -> bytes | None:
        """The content of one; None where Redis does not have it."""
        (found,) = await self._hot.connection.mget([self._hot.keys.dictionary(dictionary_id.hex())])
        return found if isinstance(found, bytes) else None

    async def current(self) -> Mapping[str, bytes]:
        """Dictionary ids by saga name; empty for a Redis that was emptied."""
        async with self._redis() as client:
            try:
                found: dict[Any, Any] = await client.hgetall(self._names)
            except driver.ResponseError as exc:
                if not _is_of_another_type(exc):
                    raise
                found = {}
        names = {name: _name(name) for name in found}
        return {text: found[name] for name, text in names.items() if text is not None}

    async def put(self, dictionary: Dictionary) -> None:
        """Store the content of one."""
        async with self._redis() as client:
            await client.set(self._hot.keys.dictionary(dictionary.id.hex()), dictionary.data)

    async def missing(self, dictionary_ids: Collection[bytes]) -> list[bytes]:
        """Of these, the ones that Redis does not have."""
        names = [self._hot.keys.dictionary(dictionary_id.hex()) for dictionary_id in dictionary_ids]
        there = await self._hot.connection.pipelined([("EXISTS", name) for name in names])
        return [dictionary_id for dictionary_id, has in zip(dictionary_ids, there, strict=True) if not has]

    async def name(self, current: Mapping[str, bytes]) -> None:
        """These are current from now on; their contents must be in Redis."""
        if current:
            names: Any = {text_bytes(name): id_ for name, id_ in current.items()}
            async with self._redis() as client:
                try:
                    await client.hset(self._names, mapping=names)
                except driver.ResponseError as exc:
                    if not _is_of_another_type(exc):
                        raise
                    aside = f"{self._names}:set-aside"
                    await client.rename(self._names, aside)
                    _log.error(
                        "value.foreign", kind="entry", item=aside, reason="it was in the place of the dictionaries"
                    )
                    await client.hset(self._names, mapping=names)


def _is_of_another_type(error: driver.ResponseError) -> bool:
    return str(error).startswith("WRONGTYPE")


def _name(raw: bytes) -> str | None:
    """A saga name; None for what something else wrote there."""
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
