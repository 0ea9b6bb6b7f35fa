"""Compression dictionaries in the catalog: their content, and which one is current for each saga name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.rows import Repository, of_row
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.drivers.postgresql.queries import load, to_column
from sagaz_tiering.terminal import document

_SQL = load(__package__, "dictionaries")


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentDictionary:
    """What new data of a saga name are compressed with.

    `sagas`: so many it was trained from; `saves`: the share of bytes that it saved, on others, over what was current
    before; both 0 where only the bucket knew it.
    """

    saga_name: str
    dictionary_id: bytes
    trained_at: datetime
    sagas: int
    saves: float
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        shown = document(self, without=("dictionary_id",))
        return {**shown, "dictionary": self.dictionary_id.hex(), "saves": round(self.saves, 3)}


class CatalogDictionaries(Repository):
    """The table `dictionaries`: a source of the dictionary cache, and the register that tells writers what to use."""

    place = "the catalog"

    async def fetch(self, dictionary_id: bytes) -> bytes | None:
        """The content of one; None for one that the catalog does not know."""
        data: bytes | None = await self._db.fetchval(_SQL["data"], dictionary_id)
        return data

    async def current(self) -> Mapping[str, bytes]:
        """Dictionary ids by saga name."""
        return {each.saga_name: each.dictionary_id for each in await self.list_current()}

    async def list_current(self) -> list[CurrentDictionary]:
        """The current one of each saga name."""
        return [of_row(CurrentDictionary, row, "saga_name") for row in await self._db.fetch(_SQL["current"])]

    async def digests(self) -> set[bytes]:
        """The sha256 of every one that the catalog has."""
        return {row["digest"] for row in await self._db.fetch(_SQL["digests"])}

    async def publish(
        self,
        dictionary: Dictionary,
        saga_name: str,
        lease: Lease,
        now: datetime,
        *,
        sagas: int,
        saves: float,
        at_most_every: timedelta,
    ) -> bool:
        """Make it the current one of its name; False if that got another less than `at_most_every` ago.

        It must be in the bucket. Raises LeaseLost.
        """
        values = (dictionary.id, dictionary.digest, to_column(saga_name), now, sagas, saves, now - at_most_every)
        return await self._change(lease, _SQL["publish"], *values, dictionary.data) == 1

    async def enter(self, dictionary: Dictionary, found_at: datetime) -> bool:
        """Know one that the bucket has, of which saga name is not known; False if it was known."""
        values = (dictionary.id, dictionary.digest, found_at, dictionary.data)
        return await self._db.execute(_SQL["enter"], *values) == 1

    async def altered(self) -> list[bytes]:
        """The sha256 of those whose content is not what it was."""
        return [row["digest"] for row in await self._db.fetch(_SQL["altered"])]

    async def repair(self, dictionary: Dictionary) -> None:
        """Write the content of one anew."""
        await self._db.execute(_SQL["repair"], dictionary.digest, dictionary.data)

    async def name_them(self, names: Mapping[bytes, str]) -> None:
        """Saga names of dictionaries, by id, as frames tell them; those that have one keep it."""
        if names:
            await self._db.execute(_SQL["name_them"], list(names), [to_column(name) for name in names.values()])

    async def durable_values(self, first: UUID, most: int, max_bytes: int) -> Sequence[tuple[UUID, bytes]]:
        """(saga, value) of at most `most` durable copies of at most `max_bytes`, by saga from `first` on."""
        rows = await self._db.fetch(_SQL["durable_values"], first, most, max_bytes)
        return [(row["saga_id"], row["value"]) for row in rows]
