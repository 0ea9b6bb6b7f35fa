"""How every tier is, and what is in it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sagaz_tiering.catalog.mark import OWNER_KEY, MarkStanding, look_at_mark
from sagaz_tiering.errors import ColdTierUnavailable, ObjectStoreError, TierUnavailable
from sagaz_tiering.storage.base import Health
from sagaz_tiering.tiers import Tiers

_PATIENCE_S = 5
_REFUSED = {
    MarkStanding.FOREIGN: f"its {OWNER_KEY} is not this catalog's",
    MarkStanding.BEHIND: f"its {OWNER_KEY} was moved on without this catalog",
    MarkStanding.WRONG_BUCKET: f"it has no {OWNER_KEY}, and this catalog has packs in it",
}


async def check_health(tiers: Tiers) -> Health:
    """Ask every tier; counts snapshots by walking Redis.

    degraded: a tier cannot be asked, Redis lost something, the bucket is not the one with the packs, or encrypted
    snapshots cannot be read: the `warnings` in `details["hot"]` and `details["cold"]` say what to do.
    """
    began, details, down = time.monotonic(), dict[str, Any](), 0
    count = size = 0
    parts = {"hot": _hot, "durable": _durable, "cold": _cold}
    for name, ask in parts.items():
        try:
            details[name] = await ask(tiers)
            count, size = count + details[name]["snapshots"], size + details[name]["bytes"]
        except TierUnavailable as exc:
            down += 1
            details[name] = {"error": str(exc)}
    status = "healthy" if not down else "degraded" if down < len(parts) else "unhealthy"
    if "error" not in details["durable"]:
        of_redis = (await tiers.catalog.hot_tier.state()).warnings()
        for name, warnings in (("hot", of_redis), ("cold", await tiers.keys.warnings())):
            if warnings:
                details[name]["warnings"] = [*details[name].get("warnings", []), *warnings]
    if any("warnings" in each for each in details.values()):
        status = "degraded"
    return Health(
        status=status,
        latency_ms=(time.monotonic() - began) * 1000,
        snapshot_count=count,
        total_size_bytes=size,
        details=details,
    )


async def _hot(tiers: Tiers) -> dict[str, Any]:
    snapshots = size = 0
    async for _saga, _snapshot, length in tiers.hot.snapshots():
        snapshots, size = snapshots + 1, size + length
    return {"snapshots": snapshots, "bytes": size}


async def _durable(tiers: Tiers) -> dict[str, Any]:
    """Rows that Redis has too are counted there."""
    totals = await tiers.catalog.durable.totals(tiers.clock.now())
    return {"snapshots": totals["spilled"], "bytes": 0, "rows": totals["snapshots"], "row_bytes": totals["bytes"]}


async def _cold(tiers: Tiers) -> dict[str, Any]:
    totals = [t for t in await tiers.catalog.packs.totals() if t.state == "ACTIVE"]
    warnings = await _standing(tiers) if totals else []
    return {
        **({"warnings": warnings} if warnings else {}),
        "snapshots": sum(t.snapshots for t in totals),
        "bytes": sum(t.bytes for t in totals),
        "packs": sum(t.packs for t in totals),
    }


async def _standing(tiers: Tiers) -> list[str]:
    """Why jobs refuse the bucket, if they do."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            seen = await look_at_mark(tiers.catalog.ownership, tiers.objects)
    except (ColdTierUnavailable, ObjectStoreError) as exc:
        return [f"{OWNER_KEY} cannot be read: {exc}"]
    except TimeoutError:
        return [f"{tiers.objects.url} did not answer within {_PATIENCE_S} s"]
    why = seen.instead or _REFUSED.get(seen.standing)
    what = f"{tiers.objects.url}: {why}; nothing is packed, moved or expired: `sagaz-tiering doctor` says more"
    return [what] if why else []
