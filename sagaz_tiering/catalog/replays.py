"""The replay audit log (the seeds' `saga_replay_log`): what was replayed, with which override, by whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson

from sagaz_tiering.catalog.rows import Repository
from sagaz_tiering.codec import typed_json
from sagaz_tiering.drivers.postgresql.queries import from_column, load, replay_of_row, replay_row, to_column
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import ReplayResult, replay_record

_SQL = load(__package__, "replays")
_ESCAPED = 16

Replay = dict[str, Any]


class Replays(Repository):
    """Save, get and list replay records."""

    async def save(self, result: ReplayResult) -> None:
        """Insert or replace by replay_id. Accepts sagaz's own ReplayResult too."""
        record = replay_record(result)
        encoding, override = None, None
        if record["context_override"] is not None:
            kind, data = typed_json.dumps(record["context_override"], path="context_override")
            encoding, override = _to_json(int(kind), data)
        await self._db.execute(_SQL["save"], *replay_row(record, override), encoding)

    async def get(self, replay_id: UUID) -> Replay | None:
        """One record in the shape of `ReplayResult.to_dict`, or None. Raises CorruptRecord."""
        row = await self._db.fetchrow(_SQL["get"], replay_id)
        return None if row is None else _record(row)

    async def of_saga(self, saga_id: UUID, limit: int) -> list[tuple[UUID, Replay | CorruptRecord]]:
        """A saga's records, newest first, each with its id; or why one cannot be read."""
        return [_found(row) for row in await self._db.fetch(_SQL["of_saga"], saga_id, limit)]

    async def of_sagas(self, saga_ids: Sequence[UUID]) -> list[tuple[UUID, Replay | CorruptRecord]]:
        """All records of these sagas, saga by saga, each with its saga's id; or why one cannot be read."""
        rows = await self._db.fetch(_SQL["of_sagas"], list(saga_ids))
        return [(row["original_saga_id"], _found(row)[1]) for row in rows]

    async def page(self, after: UUID | None, limit: int) -> list[tuple[UUID, Replay | CorruptRecord]]:
        """The next records behind `after`, ascending by replay_id, each with that; or why one cannot be read."""
        return [_found(row) for row in await self._db.fetch(_SQL["page"], after, limit)]


def _found(row: Any) -> tuple[UUID, Replay | CorruptRecord]:
    try:
        return row["replay_id"], _record(row)
    except CorruptRecord as exc:
        return row["replay_id"], exc


def _to_json(kind: int, data: bytes) -> tuple[int, str]:
    """As a json column can hold it: text with lone surrogates, which UTF-8 cannot, as one escaped JSON string."""
    text = data.decode("utf-8", "surrogatepass")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return kind + _ESCAPED, orjson.dumps(to_column(text)).decode()
    return kind, text


def _from_json(kind: int, column: str) -> Any:
    if kind >= _ESCAPED:
        kind, column = kind - _ESCAPED, from_column(orjson.loads(column))
    return typed_json.loads(typed_json.Encoding(kind), column.encode("utf-8", "surrogatepass"))


def _record(row: Any) -> Replay:
    """Raises CorruptRecord."""
    override = row["context_override"]
    if override is not None:
        try:
            override = _from_json(row["context_encoding"], override)
        except (TypeError, ValueError) as exc:
            raise CorruptRecord(f"replay {row['replay_id']}: {exc}") from exc
    return replay_of_row(row, override)
