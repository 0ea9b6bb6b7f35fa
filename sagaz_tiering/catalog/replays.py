"""The replay audit log (the seeds' `saga_replay_log`): what was replayed, with which override, by whom."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sagaz_tiering import typed_json
from sagaz_tiering.db.database import Database
from sagaz_tiering.db.queries import load
from sagaz_tiering.db.text import from_column, to_column
from sagaz_tiering.snapshot import ReplayResult, replay_record

_SQL = load("replays")


class Replays:
    """Save, get and list replay records."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def save(self, result: ReplayResult) -> None:
        """Insert or replace by replay_id. Accepts sagaz's own ReplayResult too."""
        record = replay_record(result)
        encoding, override = None, None
        if record["context_override"] is not None:
            kind, data = typed_json.dumps(record["context_override"], path="context_override")
            encoding, override = int(kind), data.decode("utf-8")
        completed, error = record["completed_at"], record["error_message"]
        await self._db.execute(
            _SQL["save"],
            UUID(record["replay_id"]),
            UUID(record["original_saga_id"]),
            UUID(record["new_saga_id"]),
            to_column(record["checkpoint_step"]),
            override,
            encoding,
            to_column(record["initiated_by"]),
            record["replay_status"],
            None if error is None else to_column(error),
            datetime.fromisoformat(record["created_at"]),
            None if completed is None else datetime.fromisoformat(completed),
        )

    async def get(self, replay_id: UUID) -> dict[str, Any] | None:
        """One record in the shape of `ReplayResult.to_dict`, or None."""
        row = await self._db.fetchrow(_SQL["get"], replay_id)
        return None if row is None else _record(row)

    async def of_saga(self, saga_id: UUID, limit: int) -> list[dict[str, Any]]:
        """A saga's records, newest first."""
        return [_record(row) for row in await self._db.fetch(_SQL["of_saga"], saga_id, limit)]

    async def page(self, after: UUID | None, limit: int) -> list[dict[str, Any]]:
        """The next records behind `after`, ascending by replay_id."""
        return [_record(row) for row in await self._db.fetch(_SQL["page"], after, limit)]


def _record(row: Any) -> dict[str, Any]:
    override = row["context_override"]
    if override is not None:
        override = typed_json.loads(typed_json.Encoding(row["context_encoding"]), override.encode("utf-8"))
    error, completed = row["error_message"], row["completed_at"]
    return {
        "replay_id": str(row["replay_id"]),
        "original_saga_id": str(row["original_saga_id"]),
        "new_saga_id": str(row["new_saga_id"]),
        "checkpoint_step": from_column(row["checkpoint_step"]),
        "replay_status": row["replay_status"],
        "initiated_by": from_column(row["initiated_by"]),
        "context_override": override,
        "error_message": None if error is None else from_column(error),
        "created_at": row["created_at"].astimezone(UTC).isoformat(),
        "completed_at": completed.astimezone(UTC).isoformat() if completed else None,
    }
