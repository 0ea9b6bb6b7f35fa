"""What S3 says about an object, as our types."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from sagaz_tiering.objects.base import RestoreState
from sagaz_tiering.storage_class import StorageClass


def parse_storage_class(name: str | None) -> StorageClass:
    """S3 leaves STANDARD out; classes that others put foreign objects in are read like STANDARD."""
    return StorageClass.__members__.get(name or "", StorageClass.STANDARD)


def parse_sha256(text: str) -> bytes | None:
    return bytes.fromhex(text) if re.fullmatch("[0-9a-f]{64}", text) else None


def parse_restore(header: str) -> tuple[RestoreState, datetime | None]:
    """`x-amz-restore`: `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`."""
    fields = dict(re.findall(r'([a-z-]+)="([^"]*)"', header))
    if fields.get("ongoing-request") == "true":
        return RestoreState.IN_PROGRESS, None
    if fields.get("ongoing-request") != "false":
        return RestoreState.NONE, None
    try:
        until = parsedate_to_datetime(fields["expiry-date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return RestoreState.READABLE, None
    return RestoreState.READABLE, until
