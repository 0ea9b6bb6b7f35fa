"""Snapshots, objects, bytes and dollars per tier: the table that each stage ends with."""

from __future__ import annotations

from dataclasses import dataclass

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.clock import Clock
from sagaz_tiering.storage_class import StorageClass

PROJECTED_SNAPSHOTS = 100_000_000
PROJECTED_PACK_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class TierLine:
    """One tier now, and what its class would cost a month for a hundred million such snapshots.

    Dollars are None where S3 does not bill: Redis and PostgreSQL run on one's own machines.
    """

    tier: str
    snapshots: int
    objects: int
    bytes: int
    usd_per_month: float | None = None
    projected_usd: float | None = None


async def survey(runtime: Runtime, clock: Clock) -> list[TierLine]:
    """Every tier that holds something; packs that wait for their deletion are a line of their own."""
    count = size = 0
    async for _saga, _snapshot, length in runtime.hot.snapshots():
        count, size = count + 1, size + length
    lines = [TierLine(tier="Redis (hot)", snapshots=count, objects=count, bytes=size)]
    durable = await runtime.catalog.durable.totals(clock.now())
    rows = durable["snapshots"]
    lines.append(TierLine(tier="PostgreSQL (durable)", snapshots=rows, objects=rows, bytes=durable["bytes"]))
    for total in await runtime.catalog.packs.totals():
        active = total.state == "ACTIVE"
        lines.append(
            TierLine(
                tier=f"S3 {total.storage_class}" + ("" if active else f" ({total.state.lower()})"),
                snapshots=total.snapshots,
                objects=total.packs,
                bytes=total.bytes,
                usd_per_month=runtime.prices.monthly_usd(
                    total.storage_class, object_count=total.packs, total_bytes=total.bytes
                ),
                projected_usd=_projected(runtime, total.storage_class, total.bytes, total.packed) if active else None,
            )
        )
    return lines


def _projected(runtime: Runtime, storage_class: StorageClass, size: int, snapshots: int) -> float:
    total = size * PROJECTED_SNAPSHOTS // max(1, snapshots)
    packs = -(-total // PROJECTED_PACK_BYTES)
    return runtime.prices.monthly_usd(storage_class, object_count=packs, total_bytes=total)


def unpacked_usd(runtime: Runtime, storage_class: StorageClass, bytes_each: int) -> float:
    """A month of a hundred million snapshots as one object each, the way most engines archive."""
    total = bytes_each * PROJECTED_SNAPSHOTS
    return runtime.prices.monthly_usd(storage_class, object_count=PROJECTED_SNAPSHOTS, total_bytes=total)
