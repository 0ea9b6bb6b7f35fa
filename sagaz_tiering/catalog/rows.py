"""What the repositories have in common: a database, and rows read into dataclasses by the names of their fields."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.drivers.postgresql.queries import from_column
from sagaz_tiering.storage_class import StorageClass

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


class Repository:
    """Asks one database, which it neither opens nor closes."""

    def __init__(self, db: Database) -> None:
        self._db = db


def of_row(kind: type[T], row: Any, *texts: str, **others: Any) -> T:
    """The value of a row; `texts`: columns that `to_column` made (or NULL), `others`: fields that no column has."""
    names = {field.name for field in fields(kind)} - others.keys()
    values = {name: row[name] for name in names if name in row} | others
    values |= {name: from_column(values[name]) for name in texts if values[name] is not None}
    if "storage_class" in values:
        values["storage_class"] = StorageClass(values["storage_class"])
    return kind(**values)
