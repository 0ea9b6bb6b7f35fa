"""What the tables of `standalone_schema.sql` must be like, compared with what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sagaz_tiering.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table: what makes it one of ours or of sagaz's (columns by type, key), and what an upgrade adds."""

    columns: Mapping[str, str]
    key: str
    added: frozenset[str]
    parts: frozenset[str]


TABLES: Final = {
    "saga_snapshots": Table(
        columns={
            "snapshot_id": "uuid",
            "saga_id": "uuid",
            "saga_name": "character varying",
            "step_name": "character varying",
            "step_index": "integer",
            "status": "character varying",
            "context": "jsonb",
            "completed_steps": "jsonb",
            "created_at": "timestamp with time zone",
            "retention_until": "timestamp with time zone",
        },
        key="PRIMARY KEY (snapshot_id)",
        added=frozenset({"external_refs jsonb", "body bytea"}),
        parts=frozenset({"idx_saga_snapshots_order", "idx_saga_snapshots_retention", "saga_snapshots_edited"}),
    ),
    "saga_replay_log": Table(
        columns={
            "replay_id": "uuid",
            "original_saga_id": "uuid",
            "new_saga_id": "uuid",
            "checkpoint_step": "character varying",
            "context_override": "jsonb",
            "initiated_by": "character varying",
            "replay_status": "character varying",
            "error_message": "text",
            "created_at": "timestamp with time zone",
            "completed_at": "timestamp with time zone",
        },
        key="PRIMARY KEY (replay_id)",
        added=frozenset({"body bytea"}),
        parts=frozenset({"idx_replay_log_order", "saga_replay_log_edited"}),
    ),
}
_UNWANTED: Final = "idx_saga_snapshots_saga_id_step"
"""sagaz's UNIQUE (saga_id, step_name, created_at), which forbids two snapshots of one instant."""


def missing(found: Sequence[Any]) -> list[str]:
    """What CREATE_TABLES_SQL has to add or change, by the rows of the query `found`; nothing if all is right.

    Raises ConfigError for tables of these names that are somebody else's.
    """
    rows = {row["name"]: row for row in found}
    left = []
    for name, table in TABLES.items():
        row = rows.get(name)
        if row is None:
            left.append(f"table {name}")
            continue
        _check_ours(row, table)
        wanted = {f"{column} {kind}" for column, kind in table.columns.items()} | table.added
        left += sorted(f"{name}.{column}" for column in wanted - set(row["columns"]))
        left += sorted(table.parts - set(row["parts"]))
        if _UNWANTED in row["parts"]:
            left.append(f"no constraint {_UNWANTED}")
    return left


def _check_ours(row: Any, table: Table) -> None:
    name = f"{row['schema']}.{row['name']}"
    if row["encoding"] != "UTF8":
        raise ConfigError(f"the database has the encoding {row['encoding']}", hint="use a database with encoding UTF8")
    kinds = dict(column.split(" ", 1) for column in row["columns"])
    for column, kind in table.columns.items():
        # A length, as in character varying(255), is what an upgrade takes away.
        if kinds.get(column, "nothing").partition("(")[0] not in (kind, kind.replace("character varying", "text")):
            raise ConfigError(
                f"{name} is not a table of snapshots: {column} is {kinds.get(column, 'missing')}, not {kind}",
                hint="use another database, or another schema by ?options=-csearch_path%3DSCHEMA in connection_string",
            )
    if table.key not in row["parts"]:
        raise ConfigError(
            f"{name} has no {table.key}", hint=f"ALTER TABLE {name} ADD {table.key}, dropping the one it has"
        )
