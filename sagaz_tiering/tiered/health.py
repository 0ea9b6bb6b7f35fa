"""How every tier is, and what is in it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from sagaz_tiering.catalog import Catalog
from sagaz_tiering.clock import Clock
from sagaz_tiering.errors import TierUnavailable
from sagaz_tiering.hot.tier import HotTier
from sagaz_tiering.keys.keyring import Keyring
from sagaz_tiering.storage.base import Health


async def check_health(hot: HotTier, catalog: Catalog, keys: Keyring, clock: Clock) -> Health:
    """Ask every tier; counts snapshots by walking Redis.

    degraded: a tier cannot be asked, Redis lost something, or encrypted snapshots cannot be read: the `warnings` in
    `details["hot"]` and `details["cold"]` say what to do.
    """
    began, details, down = time.monotonic(), dict[str, Any](), 0
    count = size = 0
    parts: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
        "hot": lambda: _hot(hot),
        "durable": lambda: _durable(catalog, clock),
        "cold": lambda: _cold(catalog),
    }
    for name, ask in parts.items():
        try:
            details[name] = await ask()
            count, size = count + details[name]["snapshots"], size + details[name]["bytes"]
        except TierUnavailable as exc:
            down += 1
            details[name] = {"error": str(exc)}
    status = "healthy" if not down else "degraded" if down < len(parts) else "unhealthy"
    if "error" not in details["durable"]:
        for name, warnings in (("hot", (await catalog.hot_tier.state()).warnings()), ("cold", await keys.warnings())):
            if warnings:
                details[name]["warnings"] = warnings
                status = "degraded"
    return Health(
        status=status,
        latency_ms=(time.monotonic() - began) * 1000,
        snapshot_count=count,
        total_size_bytes=size,
        details=details,
    )


async def _hot(hot: HotTier) -> dict[str, Any]:
    snapshots = size = 0
    async for _saga, _snapshot, length in hot.snapshots():
        snapshots, size = snapshots + 1, size + length
    return {"snapshots": snapshots, "bytes": size}


async def _durable(catalog: Catalog, clock: Clock) -> dict[str, Any]:
    """Rows that Redis has too are counted there."""
    totals = await catalog.durable.totals(clock.now())
    return {"snapshots": totals["spilled"], "bytes": 0, "rows": totals["snapshots"], "row_bytes": totals["bytes"]}


async def _cold(catalog: Catalog) -> dict[str, Any]:
    totals = [t for t in await catalog.packs.totals() if t.state == "ACTIVE"]
    return {
        "snapshots": sum(t.snapshots for t in totals),
        "bytes": sum(t.bytes for t in totals),
        "packs": sum(t.packs for t in totals),
    }
