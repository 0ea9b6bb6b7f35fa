"""Expiry buckets, and when the last snapshot of a pack stops existing."""

from __future__ import annotations

from datetime import UTC, datetime

from sagaz_tiering.policy import Policy

NEVER = "never"


def bucket_of(object_key: str) -> str:
    """The expiry bucket in a pack's key: `never` or `yyyy-mm`."""
    return object_key.split("/")[-2]


def bucket_end(bucket: str) -> datetime | None:
    """The first instant after the bucket's month; None for `never`."""
    if bucket == NEVER:
        return None
    year, month = map(int, bucket.split("-"))
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)


def ends_at(
    policy: Policy | None, bucket: str, max_clock_at: datetime, next_expiry_at: datetime | None
) -> datetime | None:
    """When a pack's last snapshot expires, as far as its row tells; None: never.

    `policy` is the pack's (None where it is not configured any more). A policy's `retain` counts from the youngest
    snapshot; without one the month in the pack's key bounds what its snapshots say themselves.
    """
    if policy is not None and policy.lifetime is not None:
        by_policy = max_clock_at + policy.lifetime
        return by_policy if next_expiry_at is None else max(by_policy, next_expiry_at)
    if next_expiry_at is None:
        return None
    end = bucket_end(bucket)
    return next_expiry_at if end is None else max(end, next_expiry_at)
