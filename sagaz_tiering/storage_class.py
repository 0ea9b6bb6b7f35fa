"""S3 storage classes, as one type that policies, packs and object stores share."""

from __future__ import annotations

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
        return list(StorageClass).index(self)
