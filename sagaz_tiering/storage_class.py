"""S3 storage classes, as one type that policies, packs and object stores share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class StorageClass(StrEnum):
    """S3 storage classes, coldest last."""

    STANDARD = "STANDARD"
    STANDARD_IA = "STANDARD_IA"
    ONEZONE_IA = "ONEZONE_IA"
    GLACIER_IR = "GLACIER_IR"
    GLACIER = "GLACIER"
    DEEP_ARCHIVE = "DEEP_ARCHIVE"

    @property
    def is_archive(self) -> bool:
        """True where bytes must be restored before they can be read."""
        return self in (StorageClass.GLACIER, StorageClass.DEEP_ARCHIVE)

    @property
    def coldness(self) -> int:
        """Position in the only order in which objects may move."""
        return _COLDNESS[self]


_COLDNESS = {each: position for position, each in enumerate(StorageClass)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOption:
    """One way to make archived bytes readable: how long it takes and what it costs (USD)."""

    tier: str
    eta: timedelta
    cost_usd: float

    def __str__(self) -> str:
        """For people, like `Standard: up to 12 h, $0.0100`."""
        minutes = int(self.eta.total_seconds() // 60)
        wait = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
        return f"{self.tier}: up to {wait}, ${self.cost_usd:.4f}"
