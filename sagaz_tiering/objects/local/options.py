"""How a `LocalObjectStore` behaves where S3 leaves a choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from sagaz_tiering.storage_class import StorageClass

RESTORE_DELAYS: Mapping[tuple[StorageClass, str], timedelta] = {
    (StorageClass.GLACIER, "Expedited"): timedelta(minutes=5),
    (StorageClass.GLACIER, "Standard"): timedelta(hours=5),
    (StorageClass.GLACIER, "Bulk"): timedelta(hours=12),
    (StorageClass.DEEP_ARCHIVE, "Standard"): timedelta(hours=12),
    (StorageClass.DEEP_ARCHIVE, "Bulk"): timedelta(hours=48),
}
"""The upper end of what S3 promises (S3 user guide, "Archive retrieval options")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """`create`: make the directory on opening; False where it is a mount that may be missing.

    `request_timeout` is the deadline of each request; None: no limit.
    """

    restore_delays: Mapping[tuple[StorageClass, str], timedelta] = field(default_factory=lambda: dict(RESTORE_DELAYS))
    request_timeout: timedelta | None = None
    create: bool = True
