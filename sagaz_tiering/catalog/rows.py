"""What every repository of the catalog stands on: its database, and rows as values and values as columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from sagaz_tiering.catalog.leases import Lease, fenced
from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.drivers.postgresql.pool import Connection, Database, affected
from sagaz_tiering.drivers.postgresql.queries import from_column
from sagaz_tiering.storage_class import StorageClass

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


class Repository:
    """Asks one database, which it neither opens nor closes."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def _change(self, lease: Lease, query: str, *args: Any) -> int:
        """One statement while the lease is ours; how many rows it touched. Raises LeaseLost."""
        async with fenced(self._db, lease) as conn:
            return affected(await conn.execute(query, *args))

    async def _ids(self, query: str, *args: Any, conn: Connection | None = None) -> set[UUID]:
        """The snapshots that one statement tells."""
        return {row["snapshot_id"] for row in await (conn or self._db).fetch(query, *args)}


@cache
def _names_of(kind: type[T]) -> frozenset[str]:
    return frozenset(field.name for field in fields(kind))


def of_row(kind: type[T], row: Any, *texts: str, **others: Any) -> T:
    """The value of a row; `texts`: columns that `to_column` made (or NULL), `others`: fields that no column has."""
    values = {name: row[name] for name in _names_of(kind) if name not in others and name in row} | others
    values |= {name: from_column(values[name]) for name in texts if values[name] is not None}
    if values.get("storage_class") is not None:
        values["storage_class"] = StorageClass(values["storage_class"])
    return kind(**values)


def columns(count: int, rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows of so many values as parallel arrays."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(count)]


def moment(us: int | None) -> datetime | None:
    """Microseconds since 1970 as a column value."""
    return None if us is None else from_micros(us)


def micros(at: datetime | None) -> int | None:
    """What `moment` was given."""
    return None if at is None else to_micros(at)
